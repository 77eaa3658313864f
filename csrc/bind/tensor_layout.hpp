// What a tensor that DLPack describes is like: its dtype, and how its elements lie in memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "../cpu/tensor_list.hpp"
#include "dlpack.hpp"

namespace hookrun {

inline cpu::DType dtype_of(const dlpack::DataType& type) {
  if (type.lanes != 1) return cpu::DType::kOther;
  if (type.code == dlpack::kBFloat && type.bits == 16) return cpu::DType::kBFloat16;
  if (type.code != dlpack::kFloat) return cpu::DType::kOther;
  switch (type.bits) {
    case 16:
      return cpu::DType::kFloat16;
    case 32:
      return cpu::DType::kFloat32;
    case 64:
      return cpu::DType::kFloat64;
    default:
      return cpu::DType::kOther;
  }
}

inline std::int64_t numel_of(const dlpack::Tensor& tensor) {
  std::int64_t numel = 1;
  for (int d = 0; d < tensor.ndim; ++d) numel *= tensor.shape[d];
  return numel;
}

inline bool same_shape(const dlpack::Tensor& a, const dlpack::Tensor& b) {
  return a.ndim == b.ndim && std::equal(a.shape, a.shape + a.ndim, b.shape);
}

// Dimensions of size 1 are never stepped along: their strides say nothing.
inline bool same_strides(const dlpack::Tensor& a, const dlpack::Tensor& b) {
  for (int d = 0; d < a.ndim; ++d) {
    if (a.shape[d] != 1 && a.strides[d] != b.strides[d]) return false;
  }
  return true;
}

inline bool is_contiguous(const dlpack::Tensor& tensor) {
  std::int64_t expected = 1;
  for (int d = tensor.ndim - 1; d >= 0; --d) {
    if (tensor.shape[d] == 1) continue;
    if (tensor.strides[d] != expected) return false;
    expected *= tensor.shape[d];
  }
  return true;
}

// Whether the elements fill one range of memory without gaps, in any order of the dimensions.
inline bool is_dense(const dlpack::Tensor& tensor) {
  if (is_contiguous(tensor) || numel_of(tensor) == 0) return true;
  std::vector<int> order(static_cast<std::size_t>(tensor.ndim));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](int a, int b) { return tensor.strides[a] < tensor.strides[b]; });
  std::int64_t expected = 1;
  for (const int d : order) {
    if (tensor.shape[d] == 1) continue;
    if (tensor.strides[d] != expected) return false;
    expected *= tensor.shape[d];
  }
  return true;
}

inline bool is_expanded(const dlpack::Tensor& tensor) {
  for (int d = 0; d < tensor.ndim; ++d) {
    if (tensor.strides[d] == 0 && tensor.shape[d] > 1) return true;
  }
  return false;
}

}  // namespace hookrun
