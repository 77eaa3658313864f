// What is kept of a tensor beyond the call that read it: where its elements lie, and in which
// order.
#pragma once

#include <array>
#include <cstdint>

#include "../cpu/tensor_list.hpp"
#include "dlpack.hpp"
#include "python.hpp"
#include "torch_tensors.hpp"

namespace hookrun {

struct TensorElements {
  void* address = nullptr;
  cpu::DType dtype = cpu::DType::kNone;
  std::uint8_t item_size = 0;  // bytes
  int ndim = 0;
  std::array<std::int64_t, Torch::kMaxDims> shape{}, strides{};
  std::int64_t numel = 0;

  // Whether element i of both has the same index.
  bool has_layout_of(const TensorElements& other) const {
    if (ndim != other.ndim || shape != other.shape) return false;
    for (std::size_t d = 0; d < static_cast<std::size_t>(ndim); ++d) {
      if (shape[d] != 1 && strides[d] != other.strides[d]) return false;
    }
    return true;
  }
};

// Throws Mismatch unless it is a plain tensor of floats, without gaps, on the device, and of at
// most Torch::kMaxDims dimensions. Torch must have its exchange table.
TensorElements read_elements(PyObject* item, const dlpack::Device& device = {dlpack::kCpu, 0});

// Where a plain tensor is. Throws Mismatch where DLPack cannot say.
dlpack::Device device_of(PyObject* item);

}  // namespace hookrun
