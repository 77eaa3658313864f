#include "threads.hpp"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace hookrun::cpu {
namespace {

// Fewer chunks than this (a million elements, some 0.2 ms of work) are done on one thread: where
// other processes keep the cores busy, waiting for a second one takes milliseconds.
constexpr std::int64_t kMinParallelChunks = 64;

// The most chunks that a thread takes at once: a million elements.
constexpr std::int64_t kMaxChunks = 64;

// libgomp's entry for a parallel region; LLVM's and Intel's runtimes export it too.
using GompParallel = void (*)(void (*body)(void*), void* data, unsigned threads, unsigned flags);

std::atomic<bool> pool_used{false};
std::atomic<bool> pool_lost{false};

GompParallel find_pool() {
  pthread_atfork(nullptr, nullptr, [] { pool_lost = pool_used.load(); });
  return reinterpret_cast<GompParallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
}

// A thread takes several chunks that follow each other: the hardware reads ahead along them, and
// where two threads take turns at each chunk, memory gives them 10 to 25 % less. Towards the end it
// takes fewer, so that all threads end at about the same time.
struct Job {
  std::int64_t count;
  int threads;
  void (*body)(const void*, std::int64_t);
  const void* context;
  std::atomic<std::int64_t> next{0};

  void work() {
    std::int64_t begin = next.load();
    while (begin < count) {
      const std::int64_t end = begin + portion(count - begin);
      if (!next.compare_exchange_weak(begin, end)) continue;
      for (std::int64_t chunk = begin; chunk < end; ++chunk) body(context, chunk);
      begin = next.load();
    }
  }

  std::int64_t portion(std::int64_t left) const {
    return std::clamp<std::int64_t>(left / (4 * threads), 1, kMaxChunks);
  }
};

void work(void* job) { static_cast<Job*>(job)->work(); }

void run_on_own_threads(Job* job, int threads) {
  std::vector<std::thread> helpers;
  for (int i = 1; i < threads; ++i) helpers.emplace_back(work, job);
  job->work();
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace

void run_chunks(std::int64_t count, int threads, void (*body)(const void*, std::int64_t),
                const void* context) {
  static const GompParallel pool = find_pool();
  if (threads > count) threads = static_cast<int>(count);
  Job job{count, threads, body, context};
  if (threads <= 1 || count < kMinParallelChunks || pool_lost) {
    job.work();
  } else if (pool != nullptr) {
    pool_used = true;
    pool(work, &job, static_cast<unsigned>(threads), 0);
  } else {
    run_on_own_threads(&job, threads);
  }
}

}  // namespace hookrun::cpu
