// RunState: the native base of the runners. It holds the counters that triggers and schedules read
// and the few references that every iteration touches, so that the loop never enters Python for
// them. Python sees each as an ordinary, writable attribute.
#pragma once

#include "../core/counters.hpp"
#include "../core/events.hpp"
#include "python.hpp"

namespace hookrun {

struct RunState {
  PyObject_HEAD Counters counters;
  EventId firing;  // the event being fired; kEventCount outside of events
  // From this count of iterations on, the loop calls the runner's _at_boundary after each step.
  std::int64_t check_at;
  std::uint64_t hook_calls;  // how often a hook's Python code was called
  // Owned references; nullptr reads as an AttributeError.
  PyObject* model;
  PyObject* optimizer;
  PyObject* mode;
  PyObject* data_loader;
  PyObject* data_batch;
  PyObject* outputs;
  PyObject* log_buffer;
  PyObject* dispatcher;
  // Shared with the dispatcher, which must not keep the runner alive; points to null once the
  // runner is gone.
  std::shared_ptr<RunState*> self;
};

extern PyTypeObject* run_state_type;

inline bool is_run_state(PyObject* object) { return PyObject_TypeCheck(object, run_state_type); }

// Fires one of the fixed events on the runner's dispatcher. False: a Python error is set.
bool fire_event(RunState* state, Event event);

void bind_run_state(py::module_& module);

}  // namespace hookrun
