#include "held_signals.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <iterator>

namespace hookrun {
namespace {

constexpr int kSignals = 65;  // Linux has 1 to 64

// State of the handler, which may run in any thread, and in a child forked meanwhile.
std::atomic<int> noted[kSignals];
struct sigaction before[kSignals];
std::atomic<pid_t> owner;
std::atomic<bool> second_acts;

// Lets the original handler run now.
void deliver(int signum) {
  struct sigaction note;
  sigset_t only, mask;
  sigaction(signum, &before[signum], &note);
  sigemptyset(&only);
  sigaddset(&only, signum);
  std::raise(signum);  // delivered where it is unblocked
  pthread_sigmask(SIG_UNBLOCK, &only, &mask);
  pthread_sigmask(SIG_SETMASK, &mask, nullptr);
  if (getpid() == owner) sigaction(signum, &note, nullptr);
}

void note_signal(int signum) {
  const int error = errno;
  if (getpid() != owner || (noted[signum].fetch_add(1) > 0 && second_acts)) {
    noted[signum] = 0;  // one delivery stands for both
    deliver(signum);
  }
  errno = error;
}

bool is_noting(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) == 0 && action.sa_handler == note_signal;
}

bool has_handler(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) != 0 ||
         (action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN);
}

bool may_be_held(int signum) {
  constexpr int kFaults[] = {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP};
  return std::find(std::begin(kFaults), std::end(kFaults), signum) == std::end(kFaults);
}

}  // namespace

HeldSignals::HeldSignals() {
  owner = getpid();
  second_acts = false;
  for (int signum = 1; signum < kSignals; ++signum) {
    if (!may_be_held(signum) || sigaction(signum, nullptr, &before[signum]) != 0) continue;
    if (!has_handler(before[signum]) || is_noting(before[signum])) continue;
    struct sigaction note = {};
    note.sa_handler = note_signal;
    note.sa_flags = SA_RESTART | (before[signum].sa_flags & SA_ONSTACK);
    sigemptyset(&note.sa_mask);
    noted[signum] = 0;
    if (sigaction(signum, &note, nullptr) == 0) held_.push_back(signum);
  }
}

HeldSignals::~HeldSignals() {
  for (const int signum : held_) {
    struct sigaction now;
    // A handler that the program has set meanwhile stays.
    if (sigaction(signum, nullptr, &now) == 0 && is_noting(now)) {
      sigaction(signum, &before[signum], nullptr);
    }
  }
  if (getpid() != owner) return;  // a forked child: the signals were sent to its parent
  for (const int signum : held_) {
    if (noted[signum] != 0) std::raise(signum);
  }
}

void HeldSignals::let_second_through(bool yes) { second_acts = yes; }

}  // namespace hookrun
