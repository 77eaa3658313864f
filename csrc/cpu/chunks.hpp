// Cuts lists into chunks, and chunks into pieces: a kernel is given a part of one row.
#pragma once

#include "ops.hpp"
#include "simd.hpp"
#include "tensor_list.hpp"
#include "threads.hpp"

namespace hookrun::cpu::HOOKRUN_ISA {
namespace {

// Calls use(T{}) with the storage type for a dtype. The binding lets no other dtype through.
template <class Use>
inline void with_narrow_type(DType dtype, Use&& use) {
  switch (dtype) {
    case DType::kFloat16:
      return use(Half{});
    case DType::kBFloat16:
      return use(BFloat{});
    default:
      return use(float{});
  }
}

// The same with fp64.
template <class Use>
inline void with_type(DType dtype, Use&& use) {
  switch (dtype) {
    case DType::kFloat16:
      return use(Half{});
    case DType::kBFloat16:
      return use(BFloat{});
    case DType::kFloat64:
      return use(double{});
    default:
      return use(float{});
  }
}

// The last row that starts at or before `position`.
inline std::int64_t row_at(const TensorList& list, std::int64_t position) {
  std::int64_t low = 0;
  std::int64_t high = list.count;
  while (high - low > 1) {
    const std::int64_t middle = low + (high - low) / 2;
    (list.rows[middle].start <= position ? low : high) = middle;
  }
  return low;
}

// Calls piece(row index, first element, element count) for each part of a row that lies in the
// chunk, in order.
template <class Piece>
inline void for_each_piece(const TensorList& list, std::int64_t chunk, Piece&& piece) {
  const std::int64_t begin = chunk * kChunk;
  const std::int64_t end = begin + kChunk;
  for (std::int64_t r = row_at(list, begin); r < list.count && list.rows[r].start < end; ++r) {
    const Row& row = list.rows[r];
    const std::int64_t first = row.start < begin ? begin - row.start : 0;
    const std::int64_t last = row.numel < end - row.start ? row.numel : end - row.start;
    if (first < last) piece(r, first, last - first);
  }
}

// Prefetches the row after a piece while the last elements of the piece are worked on: in a list of
// small tensors the next one is elsewhere, where nothing has read ahead.
class NextRow {
 public:
  //   r, end  the row, and the end of its piece. In the middle of a row there is nothing to do.
  //   step    elements between two calls of `prefetch`.
  NextRow(const TensorList& list, std::int64_t r, std::int64_t end, std::int64_t step) {
    if (end < list.rows[r].numel || r + 1 == list.count) return;
    const Row& next = list.rows[r + 1];
    for (int column = 0; column < kColumns; ++column) {
      if (next.address[column] == nullptr) continue;
      lines_[count_] = static_cast<const char*>(next.address[column]);
      with_type(next.dtype[column],
                [&](auto type) { steps_[count_] = static_cast<std::size_t>(step) * sizeof(type); });
      ++count_;
    }
  }

  // How many elements at the end of the piece have the next row prefetched in their stead.
  std::int64_t tail() const { return count_ == 0 ? 0 : kAhead / sizeof(float); }
  // The next `step` elements.
  void prefetch() {
    for (int i = 0; i < count_; ++i) {
      prefetch_line(lines_[i]);
      lines_[i] += steps_[i];
    }
  }

 private:
  int count_ = 0;
  const char* lines_[kColumns];
  std::size_t steps_[kColumns];
};

// Calls work(chunk) for each chunk of the list, on several threads.
template <class Work>
inline void parallel_chunks(const TensorList& list, int threads, const Work& work) {
  run_chunks(
      list.chunks(), threads,
      [](const void* context, std::int64_t chunk) { (*static_cast<const Work*>(context))(chunk); },
      &work);
}

// The same, piece by piece.
template <class Piece>
inline void parallel_pieces(const TensorList& list, int threads, const Piece& piece) {
  parallel_chunks(list, threads, [&](std::int64_t chunk) { for_each_piece(list, chunk, piece); });
}

// Whether outputs that are only written go past the caches: up to this size they are likely to be
// in a cache, or wanted there soon.
inline bool streams(const TensorList& list, std::int64_t item_size) {
  constexpr std::int64_t kStreamAbove = 4 << 20;  // bytes
  return list.span * item_size > kStreamAbove;
}

// Calls use(Param{}, Grad{}, Copy{}, Ema{}) for a row of an optimizer's list. The state has the
// parameter's type. An fp32 parameter may be the master of any narrower one; others have gradients
// of their own type and no copy, and halves may have an average in fp32.
template <class Use>
inline void with_step_types(const Row& row, int copy_column, int ema_column, Use&& use) {
  with_type(row.dtype[kParam], [&](auto param) {
    using Param = decltype(param);
    if constexpr (sizeof(Param) == sizeof(float)) {
      with_narrow_type(row.dtype[kGrad], [&](auto grad) {
        with_narrow_type(row.dtype[copy_column],
                         [&](auto copy) { use(param, grad, copy, float{}); });
      });
    } else if (row.dtype[ema_column] == DType::kFloat32) {
      if constexpr (sizeof(Param) < sizeof(float)) use(param, param, param, float{});
    } else {
      use(param, param, param, param);
    }
  });
}

}  // namespace
}  // namespace hookrun::cpu::HOOKRUN_ISA
