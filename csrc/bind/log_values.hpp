// The values of a log buffer by name: whose they are, and what they are called in its output.
#pragma once

#include <cstdint>
#include <vector>

#include "../core/meter.hpp"
#include "python.hpp"

namespace hookrun {

// Who reports a value. A step may use a name by which hooks measure something else (`time`): the
// two are kept apart.
enum class Source : std::uint8_t { kAny, kStep, kHook };

class LogValues {
 public:
  struct Slot {
    py::object name;
    py::object key;  // the name, where no other slot has it; unique
    Meter meter;
    Source source;          // kAny: values of both come here
    bool deferred = false;  // values wait in Python: later ones must queue behind them
  };

  // The position of the slot that values of this name go to; `hint` is where it is likely to be.
  std::size_t find_or_add(PyObject* name, Source source, std::size_t hint);

  // The slot that has this key. Throws KeyError where there is none.
  Slot& at_key(PyObject* key);

  // For each slot the name in the output. What a step reports under a name that the output has
  // for something else gets underscores behind it.
  std::vector<py::object> output_names() const;

  // Keeps at least the latest `window` values of each name, now and later.
  void widen(std::size_t window);

  std::vector<Slot>& slots() { return slots_; }
  std::size_t window() const { return window_; }

 private:
  std::vector<Slot>::iterator find_key(PyObject* key);

  std::vector<Slot> slots_;  // in the order in which names first came
  // Values kept per name, for averages of the latest n; loggers with a longer interval widen it.
  std::size_t window_ = 1024;
};

}  // namespace hookrun
