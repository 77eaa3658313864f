// Dispatcher: fires lifecycle events on the hooks of one runner.
#pragma once

#include "run_state.hpp"

namespace hookrun {

bool is_dispatcher(PyObject* object);

// Fire an event by id or by name on a Dispatcher. False: a Python error is set.
bool dispatch(PyObject* dispatcher, EventId event);
bool dispatch(PyObject* dispatcher, PyObject* event_name);

void bind_dispatch(py::module_& module);

}  // namespace hookrun
