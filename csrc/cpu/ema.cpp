// ema: average = average + momentum * (parameter - average), as torch's lerp rounds it: in fp64 for
// fp64 averages, else in fp32.
#include "chunks.hpp"
#include "kernels.hpp"

namespace hookrun::cpu::HOOKRUN_ISA {
namespace {

template <class Average, class Parameter>
void ema_piece(Average* average, const Parameter* parameter, std::int64_t count, double weight) {
  using Real = Arithmetic<Average>;
  const Real momentum = static_cast<Real>(weight);
  for_each_vector<Real>(count, [&](std::int64_t i, auto lanes) {
    prefetch(average + i);
    prefetch(parameter + i);
    const Vector<Real> from = load<Real>(average + i, lanes);
    store(average + i, lerp(from, load<Real>(parameter + i, lanes), momentum), lanes);
  });
}

}  // namespace

void ema(const TensorList& list, double momentum, int threads) {
  parallel_pieces(list, threads, [&](std::int64_t r, std::int64_t first, std::int64_t count) {
    const Row& row = list.rows[r];
    with_type(row.dtype[0], [&](auto average) {
      with_type(row.dtype[1], [&](auto parameter) {
        ema_piece(row.at<decltype(average)>(0, first), row.at<decltype(parameter)>(1, first), count,
                  momentum);
      });
    });
  });
}

}  // namespace hookrun::cpu::HOOKRUN_ISA
