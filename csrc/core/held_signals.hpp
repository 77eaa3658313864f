// Holding signals back while something must not be interrupted.
#pragma once

#include <sys/types.h>

#include <csignal>
#include <vector>

namespace hookrun {

// While it exists, the process's signal handlers wait: signals are noted, and raised again when it
// ends. Signals without a handler keep their default meaning, and those of faults in the program
// are never held. One may exist at a time.
class HeldSignals {
 public:
  HeldSignals();
  ~HeldSignals();
  HeldSignals(const HeldSignals&) = delete;
  HeldSignals& operator=(const HeldSignals&) = delete;

  // Whether the second signal of a kind reaches its handler at once; at first it does not.
  void let_second_through(bool yes);

 private:
  std::vector<int> held_;
};

}  // namespace hookrun
