// What the hook table calls.
#pragma once

#include <utility>

#include "action.hpp"

namespace hookrun {

// A bound method is stored as its two parts, and an action as its C++ object:
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

}  // namespace hookrun
