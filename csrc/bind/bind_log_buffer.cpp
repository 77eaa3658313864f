#include <string>
#include <utility>
#include <vector>

#include "log_buffer.hpp"
#include "log_values.hpp"

namespace hookrun {
namespace {

struct LogBuffer {
  PyObject_HEAD PyObject*
      output;  // dict: the averages of the last average(), and what hooks put there
  bool ready;
  bool averaged;  // whether average() has been called since `output` was cleared
  LogValues* values;
  std::size_t first;  // position of the slot of the latest update's first name
};

PyTypeObject* log_buffer_type = nullptr;

LogBuffer* as_buffer(PyObject* self) { return reinterpret_cast<LogBuffer*>(self); }

// Passes a value that is no plain number, such as a tensor, to the subclass in hookrun.core.
void defer(LogBuffer* self, LogValues::Slot& slot, PyObject* value, double count) {
  slot.deferred = true;
  const py::object key = slot.key;  // the call may clear the slots
  steal(PyObject_CallMethod(reinterpret_cast<PyObject*>(self), "_defer", "OOd", key.ptr(), value,
                            count));
}

// Returns the position of the name's slot.
std::size_t push(LogBuffer* self, PyObject* name, PyObject* value, double count, Source source,
                 std::size_t hint) {
  const std::size_t position = self->values->find_or_add(name, source, hint);
  LogValues::Slot& slot = self->values->slots()[position];
  if (slot.deferred) {
    defer(self, slot, value, count);
  } else if (PyFloat_CheckExact(value)) {
    slot.meter.push(PyFloat_AS_DOUBLE(value), count);
  } else if (PyLong_CheckExact(value)) {
    const double number = PyLong_AsDouble(value);
    if (number == -1.0 && PyErr_Occurred()) throw py::error_already_set();
    slot.meter.push(number, count);
  } else {
    defer(self, slot, value, count);
  }
  return position;
}

void update(LogBuffer* self, PyObject* values, double count, Source source) {
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
    // Owned, because push() may run Python code that changes the dict.
    const py::object held_name = borrow(name), held_value = borrow(value);
    const std::size_t position_in_buffer = push(self, name, value, count, source, hint);
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
  buffer->values = new LogValues();
  return self;
}

int buffer_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(as_buffer(self)->output);
  return 0;  // the values hold numbers and strings only: no cycles
}

int buffer_clear(PyObject* self) {
  Py_CLEAR(as_buffer(self)->output);
  return 0;
}

void buffer_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  buffer_clear(self);
  delete as_buffer(self)->values;
  type->tp_free(self);
  Py_DECREF(type);
}

PyObject* buffer_update(PyObject* self, PyObject* args, PyObject* kwargs) {
  static const char* keywords[] = {"vars", "count", nullptr};
  PyObject *values, *given_count = nullptr;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:update", const_cast<char**>(keywords),
                                   &values, &given_count)) {
    return nullptr;
  }
  const double count = given_count ? PyFloat_AsDouble(given_count) : 1.0;
  if (count == -1.0 && PyErr_Occurred()) return nullptr;
  return guarded<>(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
    update(as_buffer(self), values, count, given_count ? Source::kStep : Source::kHook);
    Py_RETURN_NONE;
  });
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
    const std::vector<py::object> names = buffer->values->output_names();
    for (std::size_t position = 0; position < names.size(); ++position) {
      const Meter& meter = buffer->values->slots()[position].meter;
      if (meter.empty()) continue;  // its only value was refused
      values.emplace_back(names[position], meter.average(static_cast<std::size_t>(n)));
    }
    py::dict averages;
    for (const auto& [name, value] : values) averages[name] = value;
    if (buffer->output == nullptr) throw py::attribute_error("the log buffer has no output");
    const py::object output = borrow(buffer->output);  // update() may replace buffer->output
    steal(PyObject_CallMethod(output.ptr(), "update", "O", averages.ptr()));
    buffer->ready = buffer->averaged = true;
    Py_RETURN_NONE;
  });
}

PyObject* buffer_clear_values(PyObject* self, PyObject*) {
  // Swapped out first: releasing a name cannot find a half-cleared list.
  std::vector<LogValues::Slot> released;
  released.swap(as_buffer(self)->values->slots());
  Py_RETURN_NONE;
}

PyObject* buffer_reserve(PyObject* self, PyObject* arg) {
  const Py_ssize_t window = PyLong_AsSsize_t(arg);
  if (window == -1 && PyErr_Occurred()) return nullptr;
  if (window > 0) as_buffer(self)->values->widen(static_cast<std::size_t>(window));
  Py_RETURN_NONE;
}

PyObject* buffer_swap_values(PyObject* self, PyObject* other) {
  if (!is_log_buffer(other)) {
    PyErr_SetString(PyExc_TypeError, "values are swapped with another log buffer");
    return nullptr;
  }
  LogBuffer *mine = as_buffer(self), *theirs = as_buffer(other);
  std::swap(mine->values, theirs->values);
  std::swap(mine->first, theirs->first);
  mine->values->widen(theirs->values->window());
  Py_RETURN_NONE;
}

PyObject* buffer_push(PyObject* self, PyObject* args) {
  PyObject* key;
  double value, count;
  if (!PyArg_ParseTuple(args, "Odd:_push", &key, &value, &count)) return nullptr;
  return guarded<>(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
    as_buffer(self)->values->at_key(key).meter.push(value, count);
    Py_RETURN_NONE;
  });
}

PyObject* buffer_settle(PyObject* self, PyObject*) {
  for (LogValues::Slot& slot : as_buffer(self)->values->slots()) slot.deferred = false;
  Py_RETURN_NONE;
}

PyObject* buffer_push_totals(PyObject* self, PyObject* args) {
  PyObject* key;
  double weighted_sum, count;
  long long pushes;
  if (!PyArg_ParseTuple(args, "OddL:_push_totals", &key, &weighted_sum, &count, &pushes)) {
    return nullptr;
  }
  return guarded<>(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
    as_buffer(self)->values->at_key(key).meter.add_totals(weighted_sum, count, pushes);
    Py_RETURN_NONE;
  });
}

PyObject* buffer_totals(PyObject* self, PyObject* name) {
  if (!PyUnicode_Check(name)) {
    PyErr_Format(PyExc_TypeError, "a logged value is named by a string, not by %R", name);
    return nullptr;
  }
  return guarded<>(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
    LogValues& values = *as_buffer(self)->values;
    const std::vector<py::object> names = values.output_names();
    for (std::size_t position = 0; position < names.size(); ++position) {
      if (PyUnicode_Compare(names[position].ptr(), name) != 0) continue;
      const Meter& meter = values.slots()[position].meter;
      return py::make_tuple(meter.total(), meter.total_count()).release().ptr();
    }
    return py::make_tuple(0.0, 0.0).release().ptr();
  });
}

PyObject* buffer_renamed(PyObject* self, PyObject*) {
  return guarded<>(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
    LogValues& values = *as_buffer(self)->values;
    // Taken out first: making Python objects can run code that changes the buffer.
    std::vector<std::pair<py::object, py::object>> pairs;
    const std::vector<py::object> names = values.output_names();
    for (std::size_t position = 0; position < names.size(); ++position) {
      const py::object& name = values.slots()[position].name;
      if (!names[position].is(name)) pairs.emplace_back(name, names[position]);
    }
    py::dict renamed;
    for (const auto& [name, other] : pairs) renamed[name] = other;
    return renamed.release().ptr();
  });
}

PyObject* buffer_history(PyObject* self, PyObject*) {
  return guarded<>(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
    // Taken out first: making Python objects can run code that changes the buffer.
    std::vector<std::pair<py::object, std::vector<Meter::Sample>>> kept;
    LogValues& values = *as_buffer(self)->values;
    const std::vector<py::object> names = values.output_names();
    for (std::size_t position = 0; position < names.size(); ++position) {
      kept.emplace_back(names[position], values.slots()[position].meter.history());
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
     "update(vars, count=1)\n--\n\nAdd one value per name, each with the weight `count`. Steps "
     "give "
     "a count; `time` and `data_time` given without one are taken for a timer's."},
    {"average", with_keywords(buffer_average), METH_VARARGS | METH_KEYWORDS,
     "average(n=0)\n--\n\nPut the weighted averages of the latest n values (0: of all) in "
     "`output`."},
    {"reserve", buffer_reserve, METH_O,
     "reserve(n)\n--\n\nKeep at least the latest n values, so that average(n) is exact."},
    {"_clear_values", buffer_clear_values, METH_NOARGS, "Forget all values."},
    {"totals", buffer_totals, METH_O,
     "totals(name)\n--\n\nThe weighted sum of all values that `output` has under this name, and "
     "the sum of their weights."},
    {"_swap_values", buffer_swap_values, METH_O,
     "_swap_values(other)\n--\n\nExchange all values with another buffer."},
    {"renamed", buffer_renamed, METH_NOARGS,
     "renamed()\n--\n\nNames of values that have another name in `output`: {name: name there}."},
    {"_push", buffer_push, METH_VARARGS, "_push(key, value, count)\n--\n\nAdd one number."},
    {"_settle", buffer_settle, METH_NOARGS,
     "All deferred values have been pushed: take numbers natively again."},
    {"_push_totals", buffer_push_totals, METH_VARARGS,
     "_push_totals(key, weighted_sum, count, pushes)\n--\n\nAdd values known by their sum "
     "only."},
    {"_history", buffer_history, METH_NOARGS, "The values kept: {name: (values, counts)}."},
    {nullptr, nullptr, 0, nullptr},
};

PyMemberDef buffer_members[] = {
    {"output", T_OBJECT_EX, offsetof(LogBuffer, output), 0, "What loggers read."},
    {"ready", T_BOOL, offsetof(LogBuffer, ready), 0, "Whether loggers are to log `output`."},
    {"averaged", T_BOOL, offsetof(LogBuffer, averaged), 0,
     "Whether `output` has averages; False if it has only what hooks put there."},
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
    const py::object held = borrow(log_buffer);  // defer() may release the run's reference
    LogBuffer* self = as_buffer(log_buffer);
    position = self->values->find_or_add(name, Source::kHook, position);
    LogValues::Slot& slot = self->values->slots()[position];
    if (slot.deferred) {
      defer(self, slot, py::float_(value).ptr(), count);
    } else {
      slot.meter.push(value, count);
    }
    return true;
  });
}

bool update_values(PyObject* log_buffer, PyObject* values, double count) {
  return guarded<>(false, [&] {
    const py::object held = borrow(log_buffer), held_values = borrow(values);
    update(as_buffer(log_buffer), values, count, Source::kStep);
    return true;
  });
}

void bind_log_buffer(py::module_& module) {
  log_buffer_type =
      reinterpret_cast<PyTypeObject*>(steal(PyType_FromSpec(&buffer_spec)).release().ptr());
  module.add_object("LogBuffer", reinterpret_cast<PyObject*>(log_buffer_type));
}

}  // namespace hookrun
