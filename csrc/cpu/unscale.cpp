// unscale: x = x * factor, and whether all x were finite before.
#include "chunks.hpp"
#include "kernels.hpp"

namespace hookrun::cpu::HOOKRUN_ISA {
namespace {

// Returns 0, or NaN if an element was not finite.
template <class T>
float unscale_piece(T* x, std::int64_t count, float factor) {
  F32 flag{};
  for_each_vector(count, [&](std::int64_t i, auto lanes) {
    prefetch<1>(x + i);
    const F32 value = load(x + i, lanes);
    flag += value - value;
    store(x + i, value * factor, lanes);
  });
  float sum = 0.0f;
  for (std::int64_t i = 0; i < kWidth; ++i) sum += flag[i];
  return sum;
}

}  // namespace

bool unscale(const TensorList& list, float factor, int threads) {
  bool finite = true;
  parallel_pieces(list, threads, [&](std::int64_t r, std::int64_t first, std::int64_t count) {
    const Row& row = list.rows[r];
    with_type(row.dtype[0], [&](auto type) {
      const float flag = unscale_piece(row.at<decltype(type)>(0, first), count, factor);
      if (flag != 0.0f) __atomic_store_n(&finite, false, __ATOMIC_RELAXED);
    });
  });
  return finite;
}

}  // namespace hookrun::cpu::HOOKRUN_ISA
