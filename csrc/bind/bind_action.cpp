#include "action.hpp"

namespace hookrun {
namespace {

struct ActionObject {
  PyObject_HEAD vectorcallfunc vectorcall;
  Action* action;
};

PyTypeObject* action_type = nullptr;

PyObject* action_call(PyObject* self, PyObject* const* args, size_t nargsf, PyObject* kwnames) {
  return guarded<>(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
    const Py_ssize_t count = PyVectorcall_NARGS(nargsf);
    if (count != 1 || (kwnames && PyTuple_GET_SIZE(kwnames) > 0) || !is_run_state(args[0])) {
      throw py::type_error("a native action takes one argument, the runner");
    }
    if (!reinterpret_cast<ActionObject*>(self)->action->run(reinterpret_cast<RunState*>(args[0]))) {
      return nullptr;
    }
    Py_RETURN_NONE;
  });
}

int action_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  return reinterpret_cast<ActionObject*>(self)->action->traverse(visit, arg);
}

int action_clear(PyObject* self) {
  reinterpret_cast<ActionObject*>(self)->action->clear();
  return 0;
}

void action_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  delete reinterpret_cast<ActionObject*>(self)->action;
  type->tp_free(self);
  Py_DECREF(type);
}

PyMemberDef action_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(ActionObject, vectorcall), READONLY, nullptr},
    {nullptr, 0, 0, 0, nullptr},
};

PyType_Slot action_slots[] = {
    {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
    {Py_tp_traverse, reinterpret_cast<void*>(action_traverse)},
    {Py_tp_clear, reinterpret_cast<void*>(action_clear)},
    {Py_tp_dealloc, reinterpret_cast<void*>(action_dealloc)},
    {Py_tp_members, action_members},
    {Py_tp_doc, const_cast<char*>("Native work of a shipped hook; called with the runner.")},
    {0, nullptr},
};

PyType_Spec action_spec = {"hookrun._native.Action", sizeof(ActionObject), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
                               Py_TPFLAGS_DISALLOW_INSTANTIATION,
                           action_slots};

}  // namespace

py::object make_action(std::unique_ptr<Action> action) {
  ActionObject* self = PyObject_GC_New(ActionObject, action_type);
  if (self == nullptr) throw py::error_already_set();
  self->vectorcall = action_call;
  self->action = action.release();
  PyObject_GC_Track(self);
  return py::reinterpret_steal<py::object>(reinterpret_cast<PyObject*>(self));
}

Action* action_of(PyObject* object) {
  return Py_IS_TYPE(object, action_type) ? reinterpret_cast<ActionObject*>(object)->action
                                         : nullptr;
}

void bind_action(py::module_& module) {
  action_type =
      reinterpret_cast<PyTypeObject*>(steal(PyType_FromSpec(&action_spec)).release().ptr());
  module.add_object("Action", reinterpret_cast<PyObject*>(action_type));
}

}  // namespace hookrun
