// unscale: x = x * factor, and whether all x were finite before.
#include "chunks.hpp"
#include "kernels.hpp"

namespace hookrun::cpu::HOOKRUN_ISA {
namespace {

// Returns 0, or NaN if an element was not finite.
template <class T>
Arithmetic<T> unscale_piece(T* x, std::int64_t count, double inverse) {
  using Real = Arithmetic<T>;
  const Real factor = static_cast<Real>(inverse);
  Vector<Real> flag{};
  for_each_vector<Real>(count, [&](std::int64_t i, auto lanes) {
    prefetch(x + i);
    const Vector<Real> value = load<Real>(x + i, lanes);
    flag += value - value;
    store(x + i, value * factor, lanes);
  });
  Real sum = 0;
  for (std::int64_t i = 0; i < Lanes<Real>::count; ++i) sum += flag[i];
  return sum;
}

}  // namespace

bool unscale(const TensorList& list, double factor, int threads) {
  bool finite = true;
  parallel_pieces(list, threads, [&](std::int64_t r, std::int64_t first, std::int64_t count) {
    const Row& row = list.rows[r];
    with_type(row.dtype[0], [&](auto type) {
      const auto flag = unscale_piece(row.at<decltype(type)>(0, first), count, factor);
      if (flag != 0) __atomic_store_n(&finite, false, __ATOMIC_RELAXED);
    });
  });
  return finite;
}

}  // namespace hookrun::cpu::HOOKRUN_ISA
