// Lists of tensors as the kernels see them: addresses, dtypes and lengths.
//
// A row is one tensor of each list (a parameter, its gradient, its momentum ...), a column is one
// list. The elements of all rows are numbered through, so that work can be cut into chunks of one
// size: several small tensors share a chunk, a large one has many.
#pragma once

#include <cstdint>

namespace hookrun::cpu {

enum class DType : std::uint8_t { kNone, kFloat16, kBFloat16, kFloat32, kFloat64, kOther };

inline constexpr int kColumns = 6;
inline constexpr std::int64_t kChunk = 16 * 1024;  // elements: 64 KiB per fp32 column

// Rows begin at multiples of this many elements in the numbering, so that a chunk that begins
// inside an aligned tensor begins at a cache line of it, whatever its dtype.
inline constexpr std::int64_t kRowAlignment = 64;
static_assert(kChunk % kRowAlignment == 0, "chunks begin at cache lines");

struct Row {
  void* address[kColumns] = {};
  DType dtype[kColumns] = {};
  std::uint8_t item_size = 0;  // bytes per element of column 0
  bool fresh = false;          // no state yet: sgd makes the momentum buffer from the gradient
  std::int32_t group = 0;      // index into the optimizer's groups
  std::int64_t numel = 0;
  std::int64_t start = 0;  // number of the first element; filled in by number_rows

  template <class T>
  T* at(int column, std::int64_t element) const {
    T* base = static_cast<T*>(address[column]);
    return base == nullptr ? nullptr : base + element;
  }
};

struct TensorList {
  const Row* rows = nullptr;
  std::int64_t count = 0;
  std::int64_t span = 0;  // elements and gaps of all rows

  std::int64_t chunks() const { return (span + kChunk - 1) / kChunk; }
};

// Numbers the elements of the rows through. The list refers to `rows`, which must outlive it.
TensorList number_rows(Row* rows, std::int64_t count);

}  // namespace hookrun::cpu
