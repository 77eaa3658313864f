// Action: work of a shipped hook that never enters Python. The hook table calls it with the runner,
// instead of the hook's bound method.
#pragma once

#include "run_state.hpp"

namespace hookrun {

class Action {
 public:
  virtual ~Action() = default;
  // False: a Python error is set.
  virtual bool run(RunState* state) = 0;
  virtual int traverse(visitproc, void*) { return 0; }
  virtual void clear() {}
};

// A Python callable around the action.
py::object make_action(std::unique_ptr<Action> action);

// The action inside a Python callable made by make_action; nullptr for any other object.
Action* action_of(PyObject* object);

void bind_action(py::module_& module);

}  // namespace hookrun
