// The values of a log buffer by name: who reports them, and their names in the output.
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
    py::object key;  // unique: the name, with underscores appended if another slot has it
    Meter meter;
    Source source;          // kAny: takes the values of both
    bool deferred = false;  // earlier values are pending in Python: later ones must queue there too
  };

  // The position of the slot for values of this name, which is added if missing; `hint` is where
  // it is likely to be.
  std::size_t find_or_add(PyObject* name, Source source, std::size_t hint);

  // The slot that has this key. Throws KeyError where there is none.
  Slot& at_key(PyObject* key);

  // For each slot, its name in the output. What a step reports under a reserved name gets
  // underscores appended.
  std::vector<py::object> output_names() const;

  // Keeps at least the latest `window` values of each name, now and later.
  void widen(std::size_t window);

  std::vector<Slot>& slots() { return slots_; }
  std::size_t window() const { return window_; }

 private:
  std::vector<Slot>::iterator find_key(PyObject* key);

  std::vector<Slot> slots_;  // in the order in which they were added
  // Values kept per name, for averages of the latest n; loggers with a longer interval widen it.
  std::size_t window_ = 1024;
};

}  // namespace hookrun
