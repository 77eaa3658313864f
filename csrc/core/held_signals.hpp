// Deferring signal handlers while something must not be interrupted.
#pragma once

#include <sys/types.h>

#include <csignal>
#include <vector>

namespace hookrun {

// While an object exists, signals that have a handler are only counted; its destructor raises them
// again. Signals without a handler keep their default action, and those of program faults (SIGSEGV
// and the like) are never deferred. Only one object may exist at a time.
class HeldSignals {
 public:
  HeldSignals();
  ~HeldSignals();
  HeldSignals(const HeldSignals&) = delete;
  HeldSignals& operator=(const HeldSignals&) = delete;

  // Whether a second signal of the same number reaches its handler at once; by default not.
  void let_second_through(bool yes);

 private:
  std::vector<int> held_;
};

}  // namespace hookrun
