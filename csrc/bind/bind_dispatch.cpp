#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "../core/hook_table.hpp"
#include "call_record.hpp"
#include "dispatcher.hpp"
#include "target.hpp"
#include "trigger.hpp"

namespace hookrun {
namespace {

using Table = HookTable<Target>;

struct Dispatcher {
  PyObject_HEAD vectorcallfunc vectorcall;
  Table* table;
  std::shared_ptr<RunState*>* runner;  // the runner owns the dispatcher, not the other way round
  PyObject* resolve;         // resolve(hook, event) -> None or (callable, trigger or None)
  PyObject* on_no_listener;  // on_no_listener(event): called for a custom event without listeners
  PyObject* event_ids;       // dict: event name -> id
  std::vector<py::object>* event_names;  // by id
  std::vector<bool>* resolved;           // by id: whether all hooks have been resolved for it
  Record* record;                        // of the calls' times; null while none are measured
};

PyTypeObject* dispatcher_type = nullptr;

Dispatcher* as_dispatcher(PyObject* self) { return reinterpret_cast<Dispatcher*>(self); }

std::optional<Table::Listener> resolve_listener(Dispatcher* self, py::handle hook,
                                                py::handle event_name) {
  const py::object found =
      steal(PyObject_CallFunctionObjArgs(self->resolve, hook.ptr(), event_name.ptr(), nullptr));
  if (found.is_none()) return std::nullopt;
  const auto pair = py::cast<py::tuple>(found);
  return Table::Listener{Target(pair[0]), to_trigger(pair[1])};
}

// Resolves all events that the entry does not have yet. That may run Python code which fires new
// custom events, so the number of events is read again each time.
void complete(Dispatcher* self, Table::Entry& entry) {
  while (entry.listeners.size() < self->event_names->size()) {
    const py::object name = (*self->event_names)[entry.listeners.size()];
    entry.listeners.push_back(resolve_listener(self, entry.hook.function, name));
  }
}

Table::Entry resolve_entry(Dispatcher* self, py::object hook, int priority) {
  Table::Entry entry{Target(std::move(hook)), priority, {}};
  complete(self, entry);
  return entry;
}

// Builds the call list of a custom event. Resolving can run Python code that changes the table, so
// the listeners are matched with the hooks that it has afterwards.
void resolve_for_all_hooks(Dispatcher* self, EventId id, const py::object& name) {
  std::vector<Target> hooks;
  for (std::size_t position = 0; position < self->table->size(); ++position) {
    hooks.push_back(self->table->entry(position).hook);
  }
  std::vector<std::optional<Table::Listener>> listeners;
  for (const Target& hook : hooks) {
    listeners.push_back(resolve_listener(self, hook.function, name));
  }
  for (std::size_t position = 0; position < self->table->size(); ++position) {
    Table::Entry& entry = self->table->entry(position);
    const auto found = std::find(hooks.begin(), hooks.end(), entry.hook);
    if (found == hooks.end()) continue;  // registered meanwhile, which resolved all its events
    if (entry.listeners.size() <= id) entry.listeners.resize(id + 1);
    // Swapped, not assigned: releasing the old listener can run code that changes the table.
    std::swap(entry.listeners[id], listeners[static_cast<std::size_t>(found - hooks.begin())]);
  }
  self->table->rebuild();
}

void resolve_custom_event(Dispatcher* self, EventId id) {
  const py::object name = (*self->event_names)[id];
  (*self->resolved)[id] = true;  // set first: resolving may fire the event
  try {
    resolve_for_all_hooks(self, id, name);
  } catch (...) {
    (*self->resolved)[id] = false;
    throw;
  }
  if (self->table->calls(id).empty()) {
    steal(PyObject_CallOneArg(self->on_no_listener, name.ptr()));
  }
}

// The id of a custom event; assigned when its name is first used.
EventId custom_event(Dispatcher* self, py::handle name) {
  if (!PyUnicode_Check(name.ptr())) {
    throw py::type_error("an event is named by a string, not by " +
                         py::cast<std::string>(py::repr(name)));
  }
  EventId id = self->event_names->size();
  if (const py::object known = find_item(self->event_ids, name.ptr())) {
    id = py::cast<EventId>(known);
  } else {
    py::reinterpret_borrow<py::dict>(self->event_ids)[name] = id;
    self->event_names->push_back(borrow(name.ptr()));
    self->resolved->push_back(false);
  }
  if (!(*self->resolved)[id]) resolve_custom_event(self, id);
  return id;
}

// Adds a note to the raised exception that names the hook, the event, the epoch and the iteration.
void add_note(Dispatcher* self, const RunState* runner, const Table::Call& call, EventId event) {
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  const Counters& counters = runner->counters;
  const PyTypeObject* hook_type = Py_TYPE(call.hook.function.ptr());
  PyObject* noted = PyObject_CallMethod(
      value, "add_note", "N",
      PyUnicode_FromFormat("raised by hook %s (priority %d) in %U, at epoch %lld, iteration %lld "
                           "(counted from 0)",
                           hook_type->tp_name, call.priority, (*self->event_names)[event].ptr(),
                           static_cast<long long>(counters.epoch),
                           static_cast<long long>(counters.iter)));
  if (noted == nullptr) PyErr_Clear();  // a failure to add the note must not hide the exception
  Py_XDECREF(noted);
  PyErr_Restore(type, value, traceback);
}

bool invoke(Dispatcher* self, RunState* runner, const Table::Call& call, EventId event) {
  const Target& target = call.listener.target;
  bool done;
  if (target.action) {
    done = target.action->run(runner);
  } else {
    ++runner->hook_calls;
    PyObject* result = target.call(reinterpret_cast<PyObject*>(runner));
    done = result != nullptr;
    Py_XDECREF(result);
  }
  if (!done) add_note(self, runner, call, event);
  return done;
}

bool invoke_timed(Dispatcher* self, RunState* runner, const Table::Call& call, EventId event) {
  const std::int64_t start = monotonic_time();
  const bool done = invoke(self, runner, call, event);
  const std::int64_t duration = monotonic_time() - start;
  if (self->record != nullptr) {  // the call may have ended the measurement
    self->record->add(call.serial, call.hook.function, event, start, duration);
  }
  return done;
}

template <auto how>
bool call_all(Dispatcher* self, RunState* runner, EventId event) {
  return self->table->fire(event, runner->counters,
                           [&](const Table::Call& call) { return how(self, runner, call, event); });
}

bool fire(Dispatcher* self, EventId event) {
  RunState* runner = **self->runner;
  if (runner == nullptr) {
    PyErr_SetString(PyExc_ReferenceError, "the runner of this dispatcher is gone");
    return false;
  }
  // Hooks may release all other references to the two.
  const py::object held_runner = borrow(reinterpret_cast<PyObject*>(runner));
  const py::object held = borrow(reinterpret_cast<PyObject*>(self));
  // While a custom event fires, `firing` stays at the lifecycle event around it.
  const EventId outer = runner->firing;
  if (event < kEventCount) runner->firing = event;
  // Decided once per event, so that a call costs nothing more while none is measured.
  const bool done = self->record == nullptr ? call_all<invoke>(self, runner, event)
                                            : call_all<invoke_timed>(self, runner, event);
  runner->firing = outer;
  return done;
}

bool fire_named(Dispatcher* self, PyObject* name) {
  PyObject* id = PyDict_GetItemWithError(self->event_ids, name);
  if (id == nullptr && PyErr_Occurred()) return false;
  if (id != nullptr && static_cast<EventId>(PyLong_AsSsize_t(id)) < kEventCount) {
    return fire(self, static_cast<EventId>(PyLong_AsSsize_t(id)));
  }
  return guarded<>(false, [&] { return fire(self, custom_event(self, name)); });
}

PyObject* dispatcher_vectorcall(PyObject* self, PyObject* const* args, size_t nargsf,
                                PyObject* kwnames) {
  if (PyVectorcall_NARGS(nargsf) != 1 || kwnames != nullptr) {
    PyErr_SetString(PyExc_TypeError, "a dispatcher is called with one argument, the event's name");
    return nullptr;
  }
  if (!fire_named(as_dispatcher(self), args[0])) return nullptr;
  Py_RETURN_NONE;
}

PyObject* dispatcher_new(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  static const char* keywords[] = {"runner", "resolve", "on_no_listener", nullptr};
  PyObject *runner, *resolve, *on_no_listener;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!OO:Dispatcher", const_cast<char**>(keywords),
                                   run_state_type, &runner, &resolve, &on_no_listener)) {
    return nullptr;
  }
  return guarded<>(static_cast<PyObject*>(nullptr), [&] {
    py::dict ids;
    auto names = std::make_unique<std::vector<py::object>>();
    for (EventId event = 0; event < kEventCount; ++event) {
      names->push_back(steal(PyUnicode_InternFromString(kEventNames[event].data())));
      ids[names->back()] = event;
    }
    auto resolved = std::make_unique<std::vector<bool>>(kEventCount, true);
    auto table = std::make_unique<Table>();
    table->rebuild();
    auto known_runner =
        std::make_unique<std::shared_ptr<RunState*>>(reinterpret_cast<RunState*>(runner)->self);
    PyObject* self = type->tp_alloc(type, 0);
    if (self == nullptr) throw py::error_already_set();
    Dispatcher* dispatcher = as_dispatcher(self);
    dispatcher->vectorcall = dispatcher_vectorcall;
    dispatcher->table = table.release();
    dispatcher->runner = known_runner.release();
    dispatcher->resolve = borrow(resolve).release().ptr();
    dispatcher->on_no_listener = borrow(on_no_listener).release().ptr();
    dispatcher->event_ids = ids.release().ptr();
    dispatcher->event_names = names.release();
    dispatcher->resolved = resolved.release();
    return self;
  });
}

int dispatcher_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  Dispatcher* dispatcher = as_dispatcher(self);
  Py_VISIT(dispatcher->resolve);
  Py_VISIT(dispatcher->on_no_listener);
  Py_VISIT(dispatcher->event_ids);
  if (const int code = traverse(dispatcher->record, visit, arg)) return code;
  return dispatcher->table->visit([&](const Target& target) {
    Py_VISIT(target.function.ptr());
    Py_VISIT(target.self.ptr());
    return 0;
  });
}

// Unset first: releasing the hooks can run code that uses the dispatcher.
void set_record(Dispatcher* self, std::unique_ptr<Record> record) {
  const std::unique_ptr<Record> before(std::exchange(self->record, record.release()));
}

int dispatcher_clear(PyObject* self) {
  Dispatcher* dispatcher = as_dispatcher(self);
  set_record(dispatcher, nullptr);
  dispatcher->table->replace({});
  return 0;
}

void dispatcher_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  Dispatcher* dispatcher = as_dispatcher(self);
  set_record(dispatcher, nullptr);
  delete dispatcher->table;
  delete dispatcher->runner;
  Py_XDECREF(dispatcher->resolve);
  Py_XDECREF(dispatcher->on_no_listener);
  Py_XDECREF(dispatcher->event_ids);
  delete dispatcher->event_names;
  delete dispatcher->resolved;
  type->tp_free(self);
  Py_DECREF(type);
}

PyObject* dispatcher_insert(PyObject* self, PyObject* args) {
  PyObject* hook;
  int priority;
  if (!PyArg_ParseTuple(args, "Oi:insert", &hook, &priority)) return nullptr;
  return guarded<>(static_cast<PyObject*>(nullptr), [&] {
    Dispatcher* dispatcher = as_dispatcher(self);
    Table::Entry entry = resolve_entry(dispatcher, borrow(hook), priority);
    return PyLong_FromSize_t(dispatcher->table->insert(std::move(entry)));
  });
}

PyObject* dispatcher_replace(PyObject* self, PyObject* hooks) {
  return guarded<>(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
    Dispatcher* dispatcher = as_dispatcher(self);
    std::vector<Table::Entry> entries;
    for (py::handle item : py::reinterpret_borrow<py::object>(hooks)) {
      const auto pair = py::cast<py::tuple>(item);
      entries.push_back(resolve_entry(dispatcher, pair[0], py::cast<int>(pair[1])));
    }
    for (Table::Entry& entry : entries) complete(dispatcher, entry);
    dispatcher->table->replace(std::move(entries));
    Py_RETURN_NONE;
  });
}

PyObject* dispatcher_listeners(PyObject* self, PyObject* name) {
  return guarded<>(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
    Dispatcher* dispatcher = as_dispatcher(self);
    py::list hooks;
    const EventId event = custom_event(dispatcher, name);
    for (const Table::Call& call : dispatcher->table->calls(event)) {
      hooks.append(call.hook.function);
    }
    return hooks.release().ptr();
  });
}

PyObject* dispatcher_start_timing(PyObject* self, PyObject* max_spans) {
  return guarded<>(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
    const std::size_t count = PyLong_AsSize_t(max_spans);
    if (PyErr_Occurred()) throw py::error_already_set();
    set_record(as_dispatcher(self), std::make_unique<Record>(count));
    Py_RETURN_NONE;
  });
}

PyObject* dispatcher_stop_timing(PyObject* self, PyObject*) {
  set_record(as_dispatcher(self), nullptr);
  Py_RETURN_NONE;
}

template <auto report>  // of call_record.hpp
PyObject* dispatcher_report(PyObject* self, PyObject*) {
  const Dispatcher* dispatcher = as_dispatcher(self);
  return guarded<>(static_cast<PyObject*>(nullptr), [&] {
    return report(dispatcher->record, *dispatcher->event_names).release().ptr();
  });
}

PyMethodDef dispatcher_methods[] = {
    {"insert", dispatcher_insert, METH_VARARGS,
     "insert(hook, priority)\n--\n\nAdd a hook after those of the same priority; return its "
     "position."},
    {"replace", dispatcher_replace, METH_O,
     "replace(hooks)\n--\n\nReplace all hooks by these (hook, priority) pairs, in the order "
     "given."},
    {"listeners", dispatcher_listeners, METH_O,
     "listeners(event)\n--\n\nThe hooks that listen to the event, in the order of their calls."},
    {"start_timing", dispatcher_start_timing, METH_O,
     "start_timing(max_spans)\n--\n\nMeasure calls from the next event on, and keep so many of the "
     "latest."},
    {"stop_timing", dispatcher_stop_timing, METH_NOARGS,
     "stop_timing()\n--\n\nMeasure no more, and forget what was measured."},
    {"timings", dispatcher_report<timings_of>, METH_NOARGS,
     "timings()\n--\n\n(hook, event, calls, total, median, maximum) by hook and event, times in "
     "seconds; None if nothing is measured."},
    {"spans", dispatcher_report<spans_of>, METH_NOARGS,
     "spans()\n--\n\n(hook, event, start, duration) of the latest calls, in nanoseconds of the "
     "monotonic clock."},
    {nullptr, nullptr, 0, nullptr},
};

PyMemberDef dispatcher_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Dispatcher, vectorcall), READONLY, nullptr},
    {nullptr, 0, 0, 0, nullptr},
};

PyType_Slot dispatcher_slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(dispatcher_new)},
    {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
    {Py_tp_traverse, reinterpret_cast<void*>(dispatcher_traverse)},
    {Py_tp_clear, reinterpret_cast<void*>(dispatcher_clear)},
    {Py_tp_dealloc, reinterpret_cast<void*>(dispatcher_dealloc)},
    {Py_tp_methods, dispatcher_methods},
    {Py_tp_members, dispatcher_members},
    {Py_tp_doc, const_cast<char*>("Dispatcher(runner, resolve, on_no_listener)\n--\n\n"
                                  "Fires events on the hooks of one runner: dispatcher(event).")},
    {0, nullptr},
};

PyType_Spec dispatcher_spec = {"hookrun._native.Dispatcher", sizeof(Dispatcher), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
                               dispatcher_slots};

}  // namespace

bool is_dispatcher(PyObject* object) { return Py_IS_TYPE(object, dispatcher_type); }

bool dispatch(PyObject* dispatcher, EventId event) {
  return fire(as_dispatcher(dispatcher), event);
}

bool dispatch(PyObject* dispatcher, PyObject* event_name) {
  return fire_named(as_dispatcher(dispatcher), event_name);
}

void bind_dispatch(py::module_& module) {
  dispatcher_type =
      reinterpret_cast<PyTypeObject*>(steal(PyType_FromSpec(&dispatcher_spec)).release().ptr());
  module.add_object("Dispatcher", reinterpret_cast<PyObject*>(dispatcher_type));
  py::list names;
  for (const auto name : kEventNames) names.append(py::str(name.data(), name.size()));
  module.attr("EVENTS") = py::tuple(names);
}

}  // namespace hookrun
