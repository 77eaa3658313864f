// LogBuffer: running averages of what a training step reports.
#pragma once

#include "python.hpp"

namespace hookrun {

bool is_log_buffer(PyObject* object);

// Whether the object is a LogBuffer whose `update` is the native one.
bool has_native_update(PyObject* object);

// The `ready` flag; valid as long as the buffer lives.
const bool* ready_flag(PyObject* log_buffer);

// Adds a value that a hook measures to a LogBuffer. False: a Python error is set. `position` is
// the slot that the name had last time, and is set to the one that it has now: a hint to find it.
bool push_value(PyObject* log_buffer, PyObject* name, double value, double count,
                std::size_t& position);

// Adds what a step reports, a dict of values, to a LogBuffer. False: a Python error is set.
bool update_values(PyObject* log_buffer, PyObject* values, double count);

void bind_log_buffer(py::module_& module);

}  // namespace hookrun
