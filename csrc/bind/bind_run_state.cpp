#include "dispatcher.hpp"
#include "log_buffer.hpp"
#include "run_state.hpp"

namespace hookrun {

PyTypeObject* run_state_type = nullptr;

namespace {

RunState* as_state(PyObject* self) { return reinterpret_cast<RunState*>(self); }

PyObject* state_new(PyTypeObject* type, PyObject*, PyObject*) {
  // object.__new__, which refuses abstract classes; the memory is zeroed.
  PyObject* no_arguments = PyTuple_New(0);
  if (no_arguments == nullptr) return nullptr;
  PyObject* self = PyBaseObject_Type.tp_new(type, no_arguments, nullptr);
  Py_DECREF(no_arguments);
  if (self == nullptr) return nullptr;
  RunState* state = as_state(self);
  new (&state->counters) Counters();
  new (&state->self) std::shared_ptr<RunState*>();
  try {
    state->self = std::make_shared<RunState*>(state);
  } catch (const std::bad_alloc&) {
    Py_DECREF(self);
    return PyErr_NoMemory();
  }
  state->firing = kEventCount;
  state->check_at = Counters::kMaxCount;
  for (PyObject** slot : {&state->model, &state->optimizer, &state->mode}) {
    Py_INCREF(Py_None);
    *slot = Py_None;
  }
  return self;
}

int state_init(PyObject*, PyObject*, PyObject*) { return 0; }

int state_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  RunState* state = as_state(self);
  Py_VISIT(state->model);
  Py_VISIT(state->optimizer);
  Py_VISIT(state->mode);
  Py_VISIT(state->data_loader);
  Py_VISIT(state->data_batch);
  Py_VISIT(state->outputs);
  Py_VISIT(state->log_buffer);
  Py_VISIT(state->dispatcher);
  return 0;
}

int state_clear(PyObject* self) {
  RunState* state = as_state(self);
  state->counters.log_ready = nullptr;
  Py_CLEAR(state->model);
  Py_CLEAR(state->optimizer);
  Py_CLEAR(state->mode);
  Py_CLEAR(state->data_loader);
  Py_CLEAR(state->data_batch);
  Py_CLEAR(state->outputs);
  Py_CLEAR(state->log_buffer);
  Py_CLEAR(state->dispatcher);
  return 0;
}

void state_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  std::shared_ptr<RunState*>& known_as = as_state(self)->self;
  if (known_as) *known_as = nullptr;
  known_as.~shared_ptr();
  state_clear(self);
  type->tp_free(self);
  Py_DECREF(type);
}

// An optional limit: None stands for "not known".
template <std::int64_t Counters::* field>
PyObject* get_limit(PyObject* self, void*) {
  const std::int64_t value = as_state(self)->counters.*field;
  if (value == Counters::kUnknown) Py_RETURN_NONE;
  return PyLong_FromLongLong(value);
}

template <std::int64_t Counters::* field>
int set_limit(PyObject* self, PyObject* value, void*) {
  std::int64_t limit = Counters::kUnknown;
  if (value == nullptr) {
    PyErr_SetString(PyExc_TypeError, "a limit of the run cannot be deleted; set it to None");
    return -1;
  }
  if (value != Py_None) {
    limit = PyLong_AsLongLong(value);
    if (limit == -1 && PyErr_Occurred()) return -1;
    if (limit < 0 || limit > Counters::kMaxCount) {
      PyErr_Format(PyExc_ValueError,
                   "a limit of the run must lie between 0 and 2**62 - 1, not at %R", value);
      return -1;
    }
  }
  as_state(self)->counters.*field = limit;
  return 0;
}

template <std::int64_t Counters::* field>
PyObject* get_counter(PyObject* self, void*) {
  return PyLong_FromLongLong(as_state(self)->counters.*field);
}

template <std::int64_t Counters::* field>
int set_counter(PyObject* self, PyObject* value, void*) {
  if (value == nullptr) {
    PyErr_SetString(PyExc_TypeError, "a counter of the run cannot be deleted");
    return -1;
  }
  const std::int64_t count = PyLong_AsLongLong(value);
  if (count == -1 && PyErr_Occurred()) return -1;
  if (count > Counters::kMaxCount || count < -Counters::kMaxCount) {
    PyErr_Format(PyExc_ValueError, "a counter of the run cannot be %R", value);
    return -1;
  }
  as_state(self)->counters.*field = count;
  return 0;
}

PyObject* get_schedule_step(PyObject* self, void*) {
  return PyLong_FromLongLong(as_state(self)->counters.schedule_step());
}

PyObject* get_schedule_total(PyObject* self, void*) {
  const std::int64_t total = as_state(self)->counters.schedule_total();
  if (total == Counters::kUnknown) Py_RETURN_NONE;
  return PyLong_FromLongLong(total);
}

PyObject* get_log_buffer(PyObject* self, void*) {
  PyObject* buffer = as_state(self)->log_buffer;
  if (buffer == nullptr) {
    PyErr_SetString(PyExc_AttributeError, "the runner has no log_buffer");
    return nullptr;
  }
  Py_INCREF(buffer);
  return buffer;
}

int set_log_buffer(PyObject* self, PyObject* value, void*) {
  RunState* state = as_state(self);
  // Triggers read the buffer's flag directly; a user's own buffer has no such flag.
  state->counters.log_ready = value && is_log_buffer(value) ? ready_flag(value) : nullptr;
  Py_XINCREF(value);
  Py_XSETREF(state->log_buffer, value);
  return 0;
}

PyObject* get_firing(PyObject* self, void*) {
  const EventId event = as_state(self)->firing;
  if (event >= kEventCount) Py_RETURN_NONE;
  return PyUnicode_FromStringAndSize(kEventNames[event].data(),
                                     static_cast<Py_ssize_t>(kEventNames[event].size()));
}

int set_firing(PyObject* self, PyObject* value, void*) {
  EventId event = kEventCount;
  if (value != nullptr && PyUnicode_Check(value)) {
    for (EventId id = 0; id < kEventCount; ++id) {
      if (PyUnicode_CompareWithASCIIString(value, kEventNames[id].data()) == 0) event = id;
    }
  }
  as_state(self)->firing = event;
  return 0;
}

PyObject* call_hook(PyObject* self, PyObject* const* args, Py_ssize_t by_position,
                    PyObject* names) {
  const Py_ssize_t by_name = names == nullptr ? 0 : PyTuple_GET_SIZE(names);
  if (by_position + by_name != 1 ||
      (by_name == 1 &&
       PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "fn_name") != 0)) {
    PyErr_SetString(PyExc_TypeError, "call_hook() takes one argument, fn_name: the event");
    return nullptr;
  }
  PyObject* event = args[0];
  PyObject* dispatcher = as_state(self)->dispatcher;
  if (dispatcher == nullptr) {
    PyErr_SetString(PyExc_RuntimeError,
                    "the runner has no dispatcher: was BaseRunner.__init__ called?");
    return nullptr;
  }
  if (is_dispatcher(dispatcher)) {
    if (!dispatch(dispatcher, event)) return nullptr;
    Py_RETURN_NONE;
  }
  return PyObject_CallOneArg(dispatcher, event);
}

#define HOOKRUN_REFERENCE(name) {#name, T_OBJECT_EX, offsetof(RunState, name), 0, nullptr}

PyMemberDef state_members[] = {
    HOOKRUN_REFERENCE(model),
    HOOKRUN_REFERENCE(optimizer),
    HOOKRUN_REFERENCE(mode),
    HOOKRUN_REFERENCE(data_loader),
    HOOKRUN_REFERENCE(data_batch),
    HOOKRUN_REFERENCE(outputs),
    {"_dispatcher", T_OBJECT_EX, offsetof(RunState, dispatcher), 0, nullptr},
    {"check_at", T_LONGLONG, offsetof(RunState, check_at), 0,
     "From this count of iterations on, _at_boundary is called after each step; writable."},
    {nullptr, 0, 0, 0, nullptr},
};

#undef HOOKRUN_REFERENCE

#define HOOKRUN_COUNTER(name, field, doc) \
  {name, get_counter<&Counters::field>, set_counter<&Counters::field>, doc, nullptr}
#define HOOKRUN_LIMIT(name, field, doc) \
  {name, get_limit<&Counters::field>, set_limit<&Counters::field>, doc, nullptr}
#define HOOKRUN_READONLY_COUNTER(name, field, doc) \
  {name, get_counter<&Counters::field>, nullptr, doc, nullptr}
#define HOOKRUN_READONLY_LIMIT(name, field, doc) \
  {name, get_limit<&Counters::field>, nullptr, doc, nullptr}

PyGetSetDef state_getset[] = {
    HOOKRUN_COUNTER("_epoch", epoch, "Finished training epochs; writable."),
    HOOKRUN_COUNTER("_iter", iter, "Finished training iterations; writable."),
    HOOKRUN_COUNTER("_inner_iter", inner_iter, "Position in the epoch; writable."),
    HOOKRUN_LIMIT("_max_epochs", max_epochs, "Epochs to train, or None; writable."),
    HOOKRUN_LIMIT("_max_iters", max_iters, "Iterations to train, or None; writable."),
    HOOKRUN_LIMIT("epoch_length", epoch_length, "Batches in the current loader, or None."),
    HOOKRUN_COUNTER("schedule_shift", schedule_shift,
                    "What schedules over the whole run add to iter; see counters.hpp."),
    HOOKRUN_COUNTER("uncounted_iters", uncounted_iters,
                    "Trained iterations that iter does not count; see counters.hpp."),
    HOOKRUN_READONLY_COUNTER("epoch", epoch, "Finished training epochs."),
    HOOKRUN_READONLY_COUNTER("iter", iter, "Finished training iterations."),
    HOOKRUN_READONLY_COUNTER("inner_iter", inner_iter, "Position in the epoch, from 0."),
    HOOKRUN_READONLY_LIMIT("max_epochs", max_epochs, "Epochs to train, or None."),
    HOOKRUN_READONLY_LIMIT("max_iters", max_iters, "Iterations to train, or None."),
    {"schedule_step", get_schedule_step, nullptr,
     "Iterations done, as schedules over the whole run count them.", nullptr},
    {"schedule_total", get_schedule_total, nullptr,
     "Iterations of the run, as schedules over the whole run count them; or None.", nullptr},
    {"log_buffer", get_log_buffer, set_log_buffer, "What the loggers read.", nullptr},
    {"current_event", get_firing, set_firing, "The lifecycle event being fired, or None.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyMethodDef state_methods[] = {
    {"call_hook", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call_hook)),
     METH_FASTCALL | METH_KEYWORDS,
     "call_hook($self, fn_name)\n--\n\nCall every hook that listens to the event and is due, in "
     "order of priority."},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot state_slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(state_new)},
    {Py_tp_init, reinterpret_cast<void*>(state_init)},
    {Py_tp_traverse, reinterpret_cast<void*>(state_traverse)},
    {Py_tp_clear, reinterpret_cast<void*>(state_clear)},
    {Py_tp_dealloc, reinterpret_cast<void*>(state_dealloc)},
    {Py_tp_members, state_members},
    {Py_tp_getset, state_getset},
    {Py_tp_methods, state_methods},
    {Py_tp_doc, const_cast<char*>("Counters and references of a run; the runners' native base.")},
    {0, nullptr},
};

PyType_Spec state_spec = {"hookrun._native.RunState", sizeof(RunState), 0,
                          Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                          state_slots};

}  // namespace

bool fire_event(RunState* state, Event event) {
  if (state->dispatcher == nullptr || !is_dispatcher(state->dispatcher)) {
    PyErr_SetString(PyExc_TypeError, "the runner's dispatcher was replaced during the run");
    return false;
  }
  return dispatch(state->dispatcher, event);
}

void bind_run_state(py::module_& module) {
  run_state_type =
      reinterpret_cast<PyTypeObject*>(steal(PyType_FromSpec(&state_spec)).release().ptr());
  module.add_object("RunState", reinterpret_cast<PyObject*>(run_state_type));
}

}  // namespace hookrun
