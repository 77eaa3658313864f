#include "bound_versions.hpp"

#include "torch_tensors.hpp"

namespace hookrun {

BoundVersions::BoundVersions(const py::list& tensors) : tensors_(py::tuple(tensors)) {
  if (!Torch::get().finds_versions()) return;
  for (const py::handle tensor : tensors) {
    if (auto* version = Torch::get().version(tensor.ptr())) addresses_.push_back(version);
  }
}

void BoundVersions::bump() const {
  if (!tensors_) return;
  if (Torch::get().finds_versions()) {
    constexpr std::size_t kAhead = 16;
    for (std::size_t i = 0; i < addresses_.size(); ++i) {
      if (i + kAhead < addresses_.size()) __builtin_prefetch(addresses_[i + kAhead], 1);
      addresses_[i]->fetch_add(1, std::memory_order_relaxed);
    }
    return;
  }
  static PyObject* const increment = [] {
    const py::object c = py::module_::import("torch").attr("_C");
    return c.attr("_increment_version").cast<py::object>().release().ptr();
  }();
  steal(PyObject_CallOneArg(increment, tensors_.ptr()));
}

}  // namespace hookrun
