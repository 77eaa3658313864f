#include <algorithm>
#include <string>
#include <vector>

#include "../core/meter.hpp"
#include "log_buffer.hpp"

namespace hookrun {
namespace {

// Values kept per name, for averages of the latest n; loggers with a longer interval widen it.
constexpr std::size_t kDefaultWindow = 1024;

struct Slot {
  py::object name;
  Meter meter;
  bool deferred = false;  // values wait in Python: later ones must queue behind them
};

struct LogBuffer {
  PyObject_HEAD PyObject*
      output;  // dict of what the last average() gave, and of what hooks put there
  bool ready;
  std::size_t window;
  std::vector<Slot>* slots;  // in the order in which names first came
  std::size_t first;         // where the first name of the latest update stood
};

PyTypeObject* log_buffer_type = nullptr;

LogBuffer* as_buffer(PyObject* self) { return reinterpret_cast<LogBuffer*>(self); }

// `hint` is where the name is likely to stand.
Slot& slot_of(LogBuffer* self, PyObject* name, std::size_t hint) {
  std::vector<Slot>& slots = *self->slots;
  if (hint < slots.size() && slots[hint].name.ptr() == name) return slots[hint];
  for (Slot& slot : slots) {
    if (slot.name.ptr() == name) return slot;
  }
  if (!PyUnicode_Check(name)) {
    throw py::type_error("a logged value is named by a string, not by " +
                         py::cast<std::string>(py::repr(name)));
  }
  for (Slot& slot : slots) {
    if (PyUnicode_Compare(slot.name.ptr(), name) == 0) return slot;
  }
  slots.push_back({borrow(name), Meter(self->window)});
  return slots.back();
}

// Tensors and everything else that is no plain number: the subclass in hookrun.core decides.
void defer(LogBuffer* self, Slot& slot, PyObject* name, PyObject* value, double count) {
  slot.deferred = true;
  steal(
      PyObject_CallMethod(reinterpret_cast<PyObject*>(self), "_defer", "OOd", name, value, count));
}

std::size_t position_of(const LogBuffer* self, const Slot& slot) {
  return static_cast<std::size_t>(&slot - self->slots->data());
}

// Returns where the name stands.
std::size_t push(LogBuffer* self, PyObject* name, PyObject* value, double count, std::size_t hint) {
  Slot& slot = slot_of(self, name, hint);
  const std::size_t position = position_of(self, slot);
  if (slot.deferred) {
    defer(self, slot, name, value, count);
  } else if (PyFloat_CheckExact(value)) {
    slot.meter.push(PyFloat_AS_DOUBLE(value), count);
  } else if (PyLong_CheckExact(value)) {
    const double number = PyLong_AsDouble(value);
    if (number == -1.0 && PyErr_Occurred()) throw py::error_already_set();
    slot.meter.push(number, count);
  } else {
    defer(self, slot, name, value, count);
  }
  return position;
}

void update(LogBuffer* self, PyObject* values, double count) {
  if (!PyDict_Check(values)) {
    throw py::type_error("log_vars must be a dict of names and numbers, not " +
                         py::cast<std::string>(py::repr(py::type::of(values))));
  }
  PyObject *name, *value;
  Py_ssize_t position = 0;
  // Steps report the same names in the same order.
  std::size_t hint = self->first;
  bool is_first = true;
  while (PyDict_Next(values, &position, &name, &value)) {
    // push() may run Python code, so hold what the dict only lends.
    const py::object held_name = borrow(name), held_value = borrow(value);
    const std::size_t position_in_buffer = push(self, name, value, count, hint);
    if (std::exchange(is_first, false)) self->first = position_in_buffer;
    hint = position_in_buffer + 1;
  }
}

PyObject* buffer_new(PyTypeObject* type, PyObject*, PyObject*) {
  PyObject* output = PyDict_New();
  if (output == nullptr) return nullptr;
  PyObject* self = type->tp_alloc(type, 0);
  if (self == nullptr) {
    Py_DECREF(output);
    return nullptr;
  }
  LogBuffer* buffer = as_buffer(self);
  buffer->output = output;
  buffer->window = kDefaultWindow;
  buffer->slots = new std::vector<Slot>();
  return self;
}

int buffer_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(as_buffer(self)->output);
  return 0;  // slots hold strings
}

int buffer_clear(PyObject* self) {
  Py_CLEAR(as_buffer(self)->output);
  return 0;
}

void buffer_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  buffer_clear(self);
  delete as_buffer(self)->slots;
  type->tp_free(self);
  Py_DECREF(type);
}

PyObject* buffer_update(PyObject* self, PyObject* args, PyObject* kwargs) {
  static const char* keywords[] = {"vars", "count", nullptr};
  PyObject* values;
  double count = 1.0;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|d:update", const_cast<char**>(keywords),
                                   &values, &count)) {
    return nullptr;
  }
  if (!update_values(self, values, count)) return nullptr;
  Py_RETURN_NONE;
}

PyObject* buffer_average(PyObject* self, PyObject* args, PyObject* kwargs) {
  static const char* keywords[] = {"n", nullptr};
  Py_ssize_t n = 0;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|n:average", const_cast<char**>(keywords), &n)) {
    return nullptr;
  }
  return guarded<>(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
    if (n < 0) throw py::value_error("average(n): n must be at least 0 (0: all values)");
    LogBuffer* buffer = as_buffer(self);
    // Taken out first: making Python objects can run code that changes the buffer.
    std::vector<std::pair<py::object, double>> values;
    for (const Slot& slot : *buffer->slots) {
      if (slot.meter.empty()) continue;  // its only value was refused
      values.emplace_back(slot.name, slot.meter.average(static_cast<std::size_t>(n)));
    }
    py::dict averages;
    for (const auto& [name, value] : values) averages[name] = value;
    if (buffer->output == nullptr) throw py::attribute_error("the log buffer has no output");
    const py::object output = borrow(buffer->output);  // its update may give the buffer another one
    steal(PyObject_CallMethod(output.ptr(), "update", "O", averages.ptr()));
    buffer->ready = true;
    Py_RETURN_NONE;
  });
}

PyObject* buffer_clear_values(PyObject* self, PyObject*) {
  // Swapped out first: releasing a name cannot find a half-cleared list.
  std::vector<Slot> released;
  released.swap(*as_buffer(self)->slots);
  Py_RETURN_NONE;
}

PyObject* buffer_reserve(PyObject* self, PyObject* arg) {
  const Py_ssize_t window = PyLong_AsSsize_t(arg);
  if (window == -1 && PyErr_Occurred()) return nullptr;
  LogBuffer* buffer = as_buffer(self);
  if (window > static_cast<Py_ssize_t>(buffer->window)) {
    buffer->window = std::min(static_cast<std::size_t>(window), Meter::kMaxWindow);
    for (Slot& slot : *buffer->slots) slot.meter.widen(buffer->window);
  }
  Py_RETURN_NONE;
}

PyObject* buffer_push(PyObject* self, PyObject* args) {
  PyObject* name;
  double value, count;
  if (!PyArg_ParseTuple(args, "Odd:_push", &name, &value, &count)) return nullptr;
  return guarded<>(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
    slot_of(as_buffer(self), name, 0).meter.push(value, count);
    Py_RETURN_NONE;
  });
}

PyObject* buffer_settle(PyObject* self, PyObject*) {
  for (Slot& slot : *as_buffer(self)->slots) slot.deferred = false;
  Py_RETURN_NONE;
}

PyObject* buffer_push_totals(PyObject* self, PyObject* args) {
  PyObject* name;
  double weighted_sum, count;
  long long pushes;
  if (!PyArg_ParseTuple(args, "OddL:_push_totals", &name, &weighted_sum, &count, &pushes)) {
    return nullptr;
  }
  return guarded<>(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
    slot_of(as_buffer(self), name, 0).meter.add_totals(weighted_sum, count, pushes);
    Py_RETURN_NONE;
  });
}

PyObject* buffer_history(PyObject* self, PyObject*) {
  return guarded<>(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
    // Taken out first: making Python objects can run code that changes the buffer.
    std::vector<std::pair<py::object, std::vector<Meter::Sample>>> kept;
    for (const Slot& slot : *as_buffer(self)->slots) {
      kept.emplace_back(slot.name, slot.meter.history());
    }
    py::dict history;
    for (const auto& [name, samples] : kept) {
      py::list values, counts;
      for (const Meter::Sample& sample : samples) {
        values.append(sample.value);
        counts.append(sample.count);
      }
      history[name] = py::make_tuple(values, counts);
    }
    return history.release().ptr();
  });
}

PyMethodDef buffer_methods[] = {
    {"update", with_keywords(buffer_update), METH_VARARGS | METH_KEYWORDS,
     "update(vars, count=1)\n--\n\nAdd one value per name, each of the weight `count`."},
    {"average", with_keywords(buffer_average), METH_VARARGS | METH_KEYWORDS,
     "average(n=0)\n--\n\nPut the weighted averages of the latest n values (0: of all) in "
     "`output`."},
    {"reserve", buffer_reserve, METH_O,
     "reserve(n)\n--\n\nKeep at least the latest n values, so that average(n) is exact."},
    {"_clear_values", buffer_clear_values, METH_NOARGS, "Forget all values."},
    {"_push", buffer_push, METH_VARARGS, "_push(name, value, count)\n--\n\nAdd one number."},
    {"_settle", buffer_settle, METH_NOARGS, "Nothing waits any more: take numbers natively again."},
    {"_push_totals", buffer_push_totals, METH_VARARGS,
     "_push_totals(name, weighted_sum, count, pushes)\n--\n\nAdd values known by their sum only."},
    {"_history", buffer_history, METH_NOARGS, "The values kept: {name: (values, counts)}."},
    {nullptr, nullptr, 0, nullptr},
};

PyMemberDef buffer_members[] = {
    {"output", T_OBJECT_EX, offsetof(LogBuffer, output), 0, "What loggers read."},
    {"ready", T_BOOL, offsetof(LogBuffer, ready), 0, "Whether `output` waits for the loggers."},
    {nullptr, 0, 0, 0, nullptr},
};

PyType_Slot buffer_slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(buffer_new)},
    {Py_tp_traverse, reinterpret_cast<void*>(buffer_traverse)},
    {Py_tp_clear, reinterpret_cast<void*>(buffer_clear)},
    {Py_tp_dealloc, reinterpret_cast<void*>(buffer_dealloc)},
    {Py_tp_methods, buffer_methods},
    {Py_tp_members, buffer_members},
    {Py_tp_doc, const_cast<char*>("Running averages of numbers; the native base of LogBuffer.")},
    {0, nullptr},
};

PyType_Spec buffer_spec = {"hookrun._native.LogBuffer", sizeof(LogBuffer), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                           buffer_slots};

}  // namespace

bool is_log_buffer(PyObject* object) { return PyObject_TypeCheck(object, log_buffer_type); }

bool has_native_update(PyObject* object) {
  if (!is_log_buffer(object)) return false;
  static PyObject* native =
      PyObject_GetAttr(reinterpret_cast<PyObject*>(log_buffer_type), Names::get().update);
  PyObject* found =
      PyObject_GetAttr(reinterpret_cast<PyObject*>(Py_TYPE(object)), Names::get().update);
  PyErr_Clear();
  Py_XDECREF(found);
  if (found != native) return false;
  // A function set on the instance replaces the method too.
  PyObject* bound = PyObject_GetAttr(object, Names::get().update);
  PyErr_Clear();
  const bool is_native =
      bound != nullptr && PyCFunction_Check(bound) && PyCFunction_GET_SELF(bound) == object;
  Py_XDECREF(bound);
  return is_native;
}

const bool* ready_flag(PyObject* log_buffer) { return &as_buffer(log_buffer)->ready; }

bool push_value(PyObject* log_buffer, PyObject* name, double value, double count,
                std::size_t& position) {
  return guarded<>(false, [&] {
    const py::object held = borrow(log_buffer);  // what is deferred may give the run another one
    LogBuffer* self = as_buffer(log_buffer);
    Slot& slot = slot_of(self, name, position);
    position = position_of(self, slot);
    if (slot.deferred) {
      defer(self, slot, name, py::float_(value).ptr(), count);
    } else {
      slot.meter.push(value, count);
    }
    return true;
  });
}

bool update_values(PyObject* log_buffer, PyObject* values, double count) {
  return guarded<>(false, [&] {
    const py::object held = borrow(log_buffer), held_values = borrow(values);
    update(as_buffer(log_buffer), values, count);
    return true;
  });
}

void bind_log_buffer(py::module_& module) {
  log_buffer_type =
      reinterpret_cast<PyTypeObject*>(steal(PyType_FromSpec(&buffer_spec)).release().ptr());
  module.add_object("LogBuffer", reinterpret_cast<PyObject*>(log_buffer_type));
}

}  // namespace hookrun
