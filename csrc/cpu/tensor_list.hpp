// Lists of tensors as the kernels see them: addresses, dtypes and lengths.
//
// A row is one tensor of each list (a parameter, its gradient, its momentum ...), a column is one
// list. The elements of all rows are numbered consecutively, so that work can be cut into chunks of
// one size: several small tensors share a chunk, a large one has many.
//
// Nothing here owns memory. The caller keeps the tensors alive until the kernel returns, and has
// checked what the kernels rely on: the tensors of a row have the same shape and strides and no
// gaps, so that element i of each is at address + i * item size; a tensor that is written shares
// memory with no other tensor of the list. Addresses need no alignment, but aligned ones are
// faster.
#pragma once

#include <cstdint>

namespace hookrun::cpu {

// kNone: there is no tensor. kOther: any dtype that is none of the four, known by its size only.
enum class DType : std::uint8_t { kNone, kFloat16, kBFloat16, kFloat32, kFloat64, kOther };

inline constexpr int kColumns = 6;
inline constexpr std::int64_t kChunk = 16 * 1024;  // elements: 64 KiB per fp32 column

// Rows begin at multiples of this many elements in the numbering, so that a chunk that begins
// inside an aligned tensor begins at a cache line of it, whatever its dtype.
inline constexpr std::int64_t kRowAlignment = 64;
static_assert(kChunk % kRowAlignment == 0, "chunks begin at cache lines");

struct Row {
  void* address[kColumns] = {};  // of the first element, by column; null where there is no tensor
  DType dtype[kColumns] = {};
  std::uint8_t item_size = 0;  // bytes per element of column 0
  bool is_new = false;         // sgd only: the momentum buffer holds nothing yet
  std::int32_t group = 0;      // optimizers only: index into the groups
  std::int64_t numel = 0;      // elements of each tensor of the row; may be 0
  std::int64_t start = 0;      // number of the first element; filled in by number_rows

  // The address of an element of a column's tensor; null where there is no tensor.
  template <class T>
  T* at(int column, std::int64_t element) const {
    T* base = static_cast<T*>(address[column]);
    return base == nullptr ? nullptr : base + element;
  }
};

// Refers to the rows, which belong to the caller.
struct TensorList {
  const Row* rows = nullptr;
  std::int64_t count = 0;  // of rows
  std::int64_t span = 0;   // elements of all rows, and the unused numbers between them

  std::int64_t chunks() const { return (span + kChunk - 1) / kChunk; }
};

// Numbers the elements of the rows consecutively.
//   rows   in and out: `start` is filled in. The list refers to them, so they must outlive it.
//   count  of rows; may be 0.
TensorList number_rows(Row* rows, std::int64_t count);

}  // namespace hookrun::cpu
