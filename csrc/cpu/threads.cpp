#include "threads.hpp"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <thread>
#include <vector>

namespace hookrun::cpu {
namespace {

// Below so many chunks (a million elements, some 0.2 ms of work) a second thread is not worth its
// risks: where other processes keep the cores busy, waiting for it takes milliseconds.
constexpr std::int64_t kWorthThreads = 64;

// libgomp's entry for a parallel region; LLVM's and Intel's runtimes export it too.
using GompParallel = void (*)(void (*body)(void*), void* data, unsigned threads, unsigned flags);

std::atomic<bool> pool_used{false};
std::atomic<bool> pool_lost{false};

GompParallel find_pool() {
  pthread_atfork(nullptr, nullptr, [] { pool_lost = pool_used.load(); });
  return reinterpret_cast<GompParallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
}

struct Job {
  std::int64_t count;
  void (*body)(const void*, std::int64_t);
  const void* context;
  std::atomic<std::int64_t> next{0};

  void work() {
    for (std::int64_t chunk = next++; chunk < count; chunk = next++) body(context, chunk);
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
  Job job{count, body, context};
  if (threads > count) threads = static_cast<int>(count);
  if (threads <= 1 || count < kWorthThreads || pool_lost) {
    job.work();
  } else if (pool != nullptr) {
    pool_used = true;
    pool(work, &job, static_cast<unsigned>(threads), 0);
  } else {
    run_on_own_threads(&job, threads);
  }
}

}  // namespace hookrun::cpu
