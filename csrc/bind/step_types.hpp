// Which dtypes go together in an optimizer's row; the kernels have these and no others: see
// with_step_types in csrc/cpu/chunks.hpp.
#pragma once

#include <cstddef>

#include "../cpu/ops.hpp"
#include "tensor_table.hpp"

namespace hookrun {

// The dtypes, as bits, that a column's tensor may have beside a parameter of this dtype.
//   copy, ema  the columns of low-precision copies and of averages.
inline unsigned step_types(cpu::DType param, std::size_t column, std::size_t copy,
                           std::size_t ema) {
  using cpu::DType;
  const unsigned same = only(param);
  const bool is_float32 = param == DType::kFloat32;
  if (column == cpu::kGrad) return is_float32 ? kNarrow : same;
  if (column == copy) return is_float32 ? kNarrow : kNoTypes;
  if (column == ema) return param == DType::kFloat64 ? same : same | only(DType::kFloat32);
  return same;
}

}  // namespace hookrun
