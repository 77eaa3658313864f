// swap: a, b = b, a, for any dtype: the bytes are exchanged.
#include "chunks.hpp"
#include "kernels.hpp"

namespace hookrun::cpu::HOOKRUN_ISA {
namespace {

constexpr std::int64_t kBytes = sizeof(F32);

void swap_piece(char* a, char* b, std::int64_t bytes) {
  std::int64_t i = 0;
  for (; i + kBytes <= bytes; i += kBytes) {
    prefetch(a + i);
    prefetch(b + i);
    const U32 from_a = read<U32>(a + i);
    const U32 from_b = read<U32>(b + i);
    __builtin_memcpy(a + i, &from_b, sizeof from_b);
    __builtin_memcpy(b + i, &from_a, sizeof from_a);
  }
  for (; i < bytes; ++i) {
    const char from_a = a[i];
    a[i] = b[i];
    b[i] = from_a;
  }
}

}  // namespace

void swap(const TensorList& list, int threads) {
  parallel_pieces(list, threads, [&](std::int64_t r, std::int64_t first, std::int64_t count) {
    const Row& row = list.rows[r];
    const std::int64_t size = row.item_size;
    swap_piece(row.at<char>(0, first * size), row.at<char>(1, first * size), count * size);
  });
}

}  // namespace hookrun::cpu::HOOKRUN_ISA
