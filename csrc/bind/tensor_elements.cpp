#include "tensor_elements.hpp"

#include <algorithm>

#include "bound_objects.hpp"
#include "tensor_layout.hpp"

namespace hookrun {

namespace {

dlpack::Tensor read(PyObject* item) {
  const Torch& torch = Torch::get();
  require(torch.is_plain(item), "a tensor is of a class of its own");
  dlpack::Tensor tensor{};
  if (torch.api->tensor_from_object(item, &tensor) != 0) {
    if (!PyErr_ExceptionMatches(PyExc_Exception)) throw py::error_already_set();
    PyErr_Clear();
    throw Mismatch{"a tensor has no plain memory"};
  }
  return tensor;
}

}  // namespace

dlpack::Device device_of(PyObject* item) { return read(item).device; }

TensorElements read_elements(PyObject* item, const dlpack::Device& device) {
  const dlpack::Tensor tensor = read(item);
  TensorElements elements;
  elements.address = static_cast<char*>(tensor.data) + tensor.byte_offset;
  elements.dtype = dtype_of(tensor.dtype);
  elements.item_size = static_cast<std::uint8_t>(tensor.dtype.bits / 8);
  elements.ndim = tensor.ndim;
  elements.numel = numel_of(tensor);
  require(
      tensor.device.type == device.type && tensor.device.index == device.index,
      device.type == dlpack::kCpu ? "a tensor is not on the CPU" : "a tensor is on another device");
  require(elements.dtype != cpu::DType::kOther, "a tensor holds no floats");
  require(tensor.ndim <= Torch::kMaxDims, "a tensor has more than 5 dimensions");
  require(is_dense(tensor) && !is_expanded(tensor), "a tensor has gaps between its elements");
  require(!Torch::get().is_lazy(item), "a tensor is a negated or conjugated view");
  require((elements.address != nullptr && !Torch::get().is_freed(item)) || elements.numel == 0,
          "a tensor has no memory");
  std::copy_n(tensor.shape, tensor.ndim, elements.shape.begin());
  std::copy_n(tensor.strides, tensor.ndim, elements.strides.begin());
  return elements;
}

}  // namespace hookrun
