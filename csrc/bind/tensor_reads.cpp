// What is read of tensors once torch_tensors.cpp has found out where it is.
#include "torch_tensors.hpp"

namespace hookrun {

std::atomic<std::uint32_t>* Torch::version(PyObject* item) const {
  if (version_word == 0) return nullptr;
  const void* counter = word(word(item, impl_word), version_word);
  if (counter == nullptr) return nullptr;  // a tensor of inference mode
  auto* number = static_cast<char*>(const_cast<void*>(counter)) + version_bytes;
  return reinterpret_cast<std::atomic<std::uint32_t>*>(number);
}

bool Torch::is_recorded(PyObject* item) const {
  if (autograd_word != 0 && word(word(item, impl_word), autograd_word) == nullptr) return false;
  return !borrow(item).attr("grad_fn").is_none();
}

bool Torch::records() {
  return py::module_::import("torch").attr("is_grad_enabled")().cast<bool>();
}

bool Torch::is_lazy(PyObject* item) const {
  if (lazy_word != 0) {
    const void* impl = word(item, impl_word);
    return (static_cast<const std::uint64_t*>(impl)[lazy_word] & lazy_flags) != 0;
  }
  const auto tensor = py::reinterpret_borrow<py::object>(item);
  return tensor.attr("is_neg")().cast<bool>() || tensor.attr("is_conj")().cast<bool>();
}

bool Torch::is_freed(PyObject* item) const {
  if (reads_gradients()) {
    const void* storage = word(word(item, impl_word), storage_word);
    return storage == nullptr || word(storage, data_word) == nullptr;
  }
  const py::object address = borrow(item).attr("untyped_storage")().attr("data_ptr")();
  return PyLong_AsVoidPtr(address.ptr()) == nullptr;
}

}  // namespace hookrun
