#include <optional>
#include <string>
#include <vector>

#include "../core/hook_table.hpp"
#include "action.hpp"
#include "dispatcher.hpp"

namespace hookrun {
namespace {

// What the table calls. A bound method is stored as its two parts, and an action as its C++ object:
// both save a Python call layer at each event.
struct Target {
  py::object function;
  py::object self;  // null unless `function` was a bound method
  Action* action = nullptr;

  explicit Target(py::object callable) : function(std::move(callable)) {
    action = action_of(function.ptr());
    if (PyMethod_Check(function.ptr())) {
      self = borrow(PyMethod_GET_SELF(function.ptr()));
      function = borrow(PyMethod_GET_FUNCTION(function.ptr()));
    }
  }

  bool operator==(const Target& other) const {
    return function.is(other.function) && self.is(other.self);
  }

  PyObject* call(PyObject* runner) const {
    PyObject* arguments[] = {nullptr, self.ptr(), runner};
    return self ? PyObject_Vectorcall(function.ptr(), arguments + 1,
                                      2 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr)
                : PyObject_Vectorcall(function.ptr(), arguments + 2,
                                      1 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr);
  }
};

using Table = HookTable<Target>;

struct Dispatcher {
  PyObject_HEAD vectorcallfunc vectorcall;
  Table* table;
  RunState* runner;
  PyObject* resolve;    // resolve(hook, event) -> None or (callable, trigger or None)
  PyObject* unheard;    // unheard(event): told of a custom event that has no listener
  PyObject* event_ids;  // dict: event name -> id
};

PyTypeObject* dispatcher_type = nullptr;

Dispatcher* as_dispatcher(PyObject* self) { return reinterpret_cast<Dispatcher*>(self); }

std::int64_t int_field(py::handle trigger, const char* name) {
  return py::cast<std::int64_t>(trigger.attr(name));
}

bool flag_field(py::handle trigger, const char* name) { return py::cast<bool>(trigger.attr(name)); }

Trigger to_trigger(py::handle spec) {
  Trigger trigger;
  if (spec.is_none()) return trigger;
  trigger.always = false;
  trigger.every_epochs = int_field(spec, "epochs");
  trigger.every_iters = int_field(spec, "iters");
  trigger.every_inner_iters = int_field(spec, "inner_iters");
  trigger.start = int_field(spec, "start");
  trigger.last_epoch = flag_field(spec, "last_epoch");
  trigger.last_iter = flag_field(spec, "last_iter");
  trigger.end_of_epoch = flag_field(spec, "end_of_epoch");
  trigger.log_ready = flag_field(spec, "log_ready");
  trigger.once = flag_field(spec, "once");
  return trigger;
}

std::optional<Table::Listener> resolve_listener(Dispatcher* self, py::handle hook,
                                                py::handle event_name) {
  const py::object found =
      steal(PyObject_CallFunctionObjArgs(self->resolve, hook.ptr(), event_name.ptr(), nullptr));
  if (found.is_none()) return std::nullopt;
  const auto pair = py::cast<py::tuple>(found);
  return Table::Listener{Target(pair[0]), to_trigger(pair[1])};
}

Table::Entry resolve_entry(Dispatcher* self, py::object hook, int priority) {
  std::vector<std::optional<Table::Listener>> listeners(
      static_cast<std::size_t>(PyDict_GET_SIZE(self->event_ids)));
  for (auto item : py::reinterpret_borrow<py::dict>(self->event_ids)) {
    listeners[py::cast<std::size_t>(item.second)] = resolve_listener(self, hook, item.first);
  }
  return {Target(std::move(hook)), priority, std::move(listeners)};
}

// A custom event gets its id, and its call list, when its name is first fired.
EventId add_custom_event(Dispatcher* self, py::handle name) {
  if (!PyUnicode_Check(name.ptr())) {
    throw py::type_error("an event is named by a string, not by " +
                         py::cast<std::string>(py::repr(name)));
  }
  const auto id = static_cast<EventId>(PyDict_GET_SIZE(self->event_ids));
  std::vector<std::optional<Table::Listener>> listeners;
  for (std::size_t position = 0; position < self->table->size(); ++position) {
    listeners.push_back(resolve_listener(self, self->table->entry(position).hook.function, name));
  }
  py::reinterpret_borrow<py::dict>(self->event_ids)[name] = id;
  for (std::size_t position = 0; position < listeners.size(); ++position) {
    auto& by_event = self->table->entry(position).listeners;
    by_event.resize(id + 1);
    by_event[id] = std::move(listeners[position]);
  }
  self->table->rebuild();
  if (self->table->calls(id).empty()) {
    steal(PyObject_CallOneArg(self->unheard, name.ptr()));
  }
  return id;
}

std::string event_name(Dispatcher* self, EventId event) {
  for (auto item : py::reinterpret_borrow<py::dict>(self->event_ids)) {
    if (py::cast<EventId>(item.second) == event) return py::cast<std::string>(item.first);
  }
  return "?";
}

// Says where the raised exception comes from. The exception itself stays as it is.
void add_note(Dispatcher* self, const Table::Call& call, EventId event) {
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  const Clock& clock = self->runner->clock;
  const std::string where = event_name(self, event);
  const PyTypeObject* hook_type = Py_TYPE(call.hook.function.ptr());
  PyObject* noted = PyObject_CallMethod(
      value, "add_note", "N",
      PyUnicode_FromFormat("raised by hook %s (priority %d) in %s, at epoch %lld, iteration %lld "
                           "(counted from 0)",
                           hook_type->tp_name, call.priority, where.c_str(),
                           static_cast<long long>(clock.epoch),
                           static_cast<long long>(clock.iter)));
  if (noted == nullptr) PyErr_Clear();  // the note is a courtesy; the error itself counts
  Py_XDECREF(noted);
  PyErr_Restore(type, value, traceback);
}

bool invoke(Dispatcher* self, const Table::Call& call, EventId event) {
  const Target& target = call.listener.target;
  bool done;
  if (target.action) {
    done = target.action->run(self->runner);
  } else {
    PyObject* result = target.call(reinterpret_cast<PyObject*>(self->runner));
    done = result != nullptr;
    Py_XDECREF(result);
  }
  if (!done) add_note(self, call, event);
  return done;
}

bool fire(Dispatcher* self, EventId event) {
  RunState* runner = self->runner;
  // A custom event happens within the lifecycle event at work, which goes on.
  const EventId outer = runner->firing;
  if (event < kEventCount) runner->firing = event;
  const bool done = self->table->fire(
      event, runner->clock, [&](const Table::Call& call) { return invoke(self, call, event); });
  runner->firing = outer;
  return done;
}

bool fire_named(Dispatcher* self, PyObject* name) {
  PyObject* id = PyDict_GetItemWithError(self->event_ids, name);
  if (id != nullptr) return fire(self, static_cast<EventId>(PyLong_AsSsize_t(id)));
  if (PyErr_Occurred()) return false;
  return guarded<>(false, [&] { return fire(self, add_custom_event(self, name)); });
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
  static const char* keywords[] = {"runner", "resolve", "unheard", nullptr};
  PyObject *runner, *resolve, *unheard;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!OO:Dispatcher", const_cast<char**>(keywords),
                                   run_state_type, &runner, &resolve, &unheard)) {
    return nullptr;
  }
  return guarded<>(static_cast<PyObject*>(nullptr), [&] {
    py::dict ids;
    for (EventId event = 0; event < kEventCount; ++event) {
      ids[steal(PyUnicode_InternFromString(kEventNames[event].data()))] = event;
    }
    auto table = std::make_unique<Table>();
    table->rebuild();
    PyObject* self = type->tp_alloc(type, 0);
    if (self == nullptr) throw py::error_already_set();
    Dispatcher* dispatcher = as_dispatcher(self);
    dispatcher->vectorcall = dispatcher_vectorcall;
    dispatcher->table = table.release();
    dispatcher->runner = reinterpret_cast<RunState*>(borrow(runner).release().ptr());
    dispatcher->resolve = borrow(resolve).release().ptr();
    dispatcher->unheard = borrow(unheard).release().ptr();
    dispatcher->event_ids = ids.release().ptr();
    return self;
  });
}

int dispatcher_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  Dispatcher* dispatcher = as_dispatcher(self);
  Py_VISIT(reinterpret_cast<PyObject*>(dispatcher->runner));
  Py_VISIT(dispatcher->resolve);
  Py_VISIT(dispatcher->unheard);
  Py_VISIT(dispatcher->event_ids);
  return dispatcher->table->visit([&](const Target& target) {
    Py_VISIT(target.function.ptr());
    Py_VISIT(target.self.ptr());
    return 0;
  });
}

int dispatcher_clear(PyObject* self) {
  Dispatcher* dispatcher = as_dispatcher(self);
  dispatcher->table->replace({});
  return 0;
}

void dispatcher_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  Dispatcher* dispatcher = as_dispatcher(self);
  delete dispatcher->table;
  Py_XDECREF(reinterpret_cast<PyObject*>(dispatcher->runner));
  Py_XDECREF(dispatcher->resolve);
  Py_XDECREF(dispatcher->unheard);
  Py_XDECREF(dispatcher->event_ids);
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
    dispatcher->table->replace(std::move(entries));
    Py_RETURN_NONE;
  });
}

PyObject* dispatcher_listeners(PyObject* self, PyObject* name) {
  return guarded<>(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
    Dispatcher* dispatcher = as_dispatcher(self);
    py::list hooks;
    PyObject* id = PyDict_GetItemWithError(dispatcher->event_ids, name);
    if (id == nullptr && PyErr_Occurred()) throw py::error_already_set();
    const EventId event =
        id ? static_cast<EventId>(PyLong_AsSsize_t(id)) : add_custom_event(dispatcher, name);
    for (const Table::Call& call : dispatcher->table->calls(event)) {
      hooks.append(call.hook.function);
    }
    return hooks.release().ptr();
  });
}

PyMethodDef dispatcher_methods[] = {
    {"insert", dispatcher_insert, METH_VARARGS,
     "insert(hook, priority)\n--\n\nAdd a hook behind those of the same priority; return its "
     "position."},
    {"replace", dispatcher_replace, METH_O,
     "replace(hooks)\n--\n\nTake (hook, priority) pairs, in the order given, as the whole table."},
    {"listeners", dispatcher_listeners, METH_O,
     "listeners(event)\n--\n\nThe hooks that listen to the event, in the order of their calls."},
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
    {Py_tp_doc, const_cast<char*>("Dispatcher(runner, resolve, unheard)\n--\n\n"
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
