// Work on the threads that torch uses already.
#pragma once

#include <cstdint>

namespace hookrun::cpu {

// Calls body(context, chunk) once for every chunk in [0, count), on up to `threads` threads, and
// returns when all are done. Threads take chunks as they get free, in no fixed order.
//
// The threads are those of the OpenMP runtime that torch loaded, found at run time: a pool of our
// own would compete with it, since its threads spin for a while after each torch operation. Where
// there is none, threads are started for the call. In a process forked from one that had used the
// pool (a DataLoader worker) the work runs on the calling thread: the pool's threads are gone.
void run_chunks(std::int64_t count, int threads,
                void (*body)(const void* context, std::int64_t chunk), const void* context);

}  // namespace hookrun::cpu
