// What is done at each iteration to all parameters of an optimizer, as one call.
#include "bind_parameters.hpp"

#include "torch_tensors.hpp"

namespace hookrun {
namespace {

// A list or tuple is taken as it is; a copy of anything else.
py::object as_sequence(py::handle given) {
  return steal(PySequence_Fast(given.ptr(), "parameters come in a list"));
}

void clear_gradients(py::handle given) {
  static PyObject* const grad = PyUnicode_InternFromString("grad");
  const Torch& torch = Torch::get();
  const py::object params = as_sequence(given);
  // The list may change meanwhile: releasing a gradient can run any Python.
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(params.ptr()); ++i) {
    const py::object param = borrow(PySequence_Fast_GET_ITEM(params.ptr(), i));
    if (!torch.has_gradient(param.ptr())) continue;
    if (PyObject_SetAttr(param.ptr(), grad, Py_None) != 0) throw py::error_already_set();
  }
}

bool are_params_of(py::handle given, py::handle optimizers) {
  static PyObject* const param_groups = PyUnicode_InternFromString("param_groups");
  static PyObject* const group_params = PyUnicode_InternFromString("params");
  const py::object known = as_sequence(given);
  const auto count = [&] { return PySequence_Fast_GET_SIZE(known.ptr()); };
  Py_ssize_t at = 0;
  for (const py::handle optimizer : optimizers) {
    for (const py::handle group : steal(PyObject_GetAttr(optimizer.ptr(), param_groups))) {
      const py::object params = as_sequence(steal(PyObject_GetItem(group.ptr(), group_params)));
      for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(params.ptr()); ++i, ++at) {
        if (at >= count()) return false;
        PyObject* const param = PySequence_Fast_GET_ITEM(params.ptr(), i);
        if (param != PySequence_Fast_GET_ITEM(known.ptr(), at)) return false;
      }
    }
  }
  return at == count();
}

}  // namespace

void bind_parameters(py::module_& module) {
  using namespace py::literals;
  module.def("clear_gradients", &clear_gradients, "params"_a,
             "Set the `grad` of all parameters to None, as `Optimizer.zero_grad()` does.");
  module.def("are_params_of", &are_params_of, "params"_a, "optimizers"_a,
             "Whether the optimizers' groups have these very parameters, in this order.");
}

}  // namespace hookrun
