#include "tensor_list.hpp"

namespace hookrun::cpu {

TensorList number_rows(Row* rows, std::int64_t count) {
  TensorList list{rows, count, 0};
  for (std::int64_t i = 0; i < count; ++i) {
    rows[i].start = list.span;
    list.span += (rows[i].numel + kRowAlignment - 1) / kRowAlignment * kRowAlignment;
  }
  return list;
}

}  // namespace hookrun::cpu
