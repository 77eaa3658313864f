// Small helpers over the C API, shared by the hand-written types.
#pragma once

#include <pybind11/pybind11.h>
#include <structmember.h>

#include <memory>
#include <utility>

namespace hookrun {

namespace py = pybind11;

// Owns what a C API call returned as a new reference; throws the Python error for nullptr.
inline py::object steal(PyObject* new_reference) {
  if (new_reference == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(new_reference);
}

inline py::object borrow(PyObject* reference) {
  return py::reinterpret_borrow<py::object>(reference);
}

// The dict's value of the key, or a null object. An owned reference, unlike that of the C API: code
// that runs before the value is used, such as another key's __eq__, may remove it from the dict.
inline py::object find_item(PyObject* dict, PyObject* key) {
  PyObject* found = PyDict_GetItemWithError(dict, key);
  if (found == nullptr && PyErr_Occurred()) throw py::error_already_set();
  return borrow(found);
}

// Whether Python takes the object for true; asking may run any code.
inline bool is_true(const py::object& object) {
  const int truth = PyObject_IsTrue(object.ptr());
  if (truth < 0) throw py::error_already_set();
  return truth != 0;
}

// A method that takes keywords, cast to the type that method tables need.
inline PyCFunction with_keywords(PyCFunctionWithKeywords method) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(method));
}

// Runs `body` and turns C++ exceptions into Python errors. Every function that Python calls without
// pybind11 in between goes through this.
template <class Body, class Result>
Result guarded(Result on_error, Body&& body) noexcept {
  try {
    return body();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (py::builtin_exception& error) {
    error.set_error();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return on_error;
}

// Strings that the hot paths look up, interned once per process.
struct Names {
  PyObject* log_vars = PyUnicode_InternFromString("log_vars");
  PyObject* num_samples = PyUnicode_InternFromString("num_samples");
  PyObject* train_step = PyUnicode_InternFromString("train_step");
  PyObject* val_step = PyUnicode_InternFromString("val_step");
  PyObject* training = PyUnicode_InternFromString("training");
  PyObject* modules = PyUnicode_InternFromString("_modules");
  PyObject* train = PyUnicode_InternFromString("train");
  PyObject* val = PyUnicode_InternFromString("val");
  PyObject* epoch = PyUnicode_InternFromString("_epoch");
  PyObject* update = PyUnicode_InternFromString("update");
  PyObject* time = PyUnicode_InternFromString("time");
  PyObject* data_time = PyUnicode_InternFromString("data_time");

  static const Names& get() {
    static const Names names;
    return names;
  }
};

}  // namespace hookrun
