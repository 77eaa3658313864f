// norm: sum over all elements of x^2, in fp64.
//
// fp64 keeps the squares of every fp32 number, so the sum is finite exactly if all elements are:
// no separate flag is needed. Of fp64 elements, those from 1e154 on overflow, as torch's norm does.
// Chunks have a slot each and are added in order: the same bits for any number of threads.
#include "chunks.hpp"
#include "kernels.hpp"

namespace hookrun::cpu::HOOKRUN_ISA {
namespace {

inline double total(F64 x) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < kWidth / 2; ++i) sum += x[i];
  return sum;
}

template <class T>
double sum_piece(const T* x, std::int64_t count) {
  F64 low{};
  F64 high{};
  for_each_vector<float>(count, [&](std::int64_t i, auto lanes) {
    prefetch(x + i);
    const F64Pair wide = widen(load<float>(x + i, lanes));
    low += wide.low * wide.low;
    high += wide.high * wide.high;
  });
  return total(low) + total(high);
}

double sum_piece(const double* x, std::int64_t count) {
  F64 sum{};
  for_each_vector<double>(count, [&](std::int64_t i, auto lanes) {
    prefetch(x + i);
    const F64 value = load<double>(x + i, lanes);
    sum += value * value;
  });
  return total(sum);
}

}  // namespace

double sum_of_squares(const TensorList& list, double* partials, int threads) {
  parallel_chunks(list, threads, [&](std::int64_t chunk) {
    double sum = 0.0;
    for_each_piece(list, chunk, [&](std::int64_t r, std::int64_t first, std::int64_t count) {
      const Row& row = list.rows[r];
      with_type(row.dtype[0],
                [&](auto type) { sum += sum_piece(row.at<decltype(type)>(0, first), count); });
    });
    partials[chunk] = sum;
  });
  double sum = 0.0;
  for (std::int64_t chunk = 0; chunk < list.chunks(); ++chunk) sum += partials[chunk];
  return sum;
}

}  // namespace hookrun::cpu::HOOKRUN_ISA
