// sgd, as torch.optim.SGD defines it, with the gradient scaled, a low-precision copy of the
// parameter written and its average updated on the way:
//
//   d   = grad_scale * grad (negated to maximize) + weight_decay * p
//   m   = momentum * m + (1 - dampening) * d        (m = d if there is no m yet)
//   d   = d + momentum * m with nesterov, else m    (if momentum is not 0)
//   p   = p - lr * d
//   ema = lerp(ema, p, ema_momentum)
#include "chunks.hpp"
#include "kernels.hpp"

namespace hookrun::cpu::HOOKRUN_ISA {
namespace {

template <class Grad, class Copy>
struct SgdPiece {
  float* param;
  const Grad* grad;
  float* momentum;
  Copy* copy;
  float* ema;

  void prefetch_at(std::int64_t i) const {
    prefetch<4>(param + i);
    prefetch<4>(grad + i);
    if (momentum != nullptr) prefetch<4>(momentum + i);
    if (ema != nullptr) prefetch<4>(ema + i);
  }
};

// The branches depend on nothing inside the loop: next to the memory traffic they are free.
template <class Grad, class Copy>
void sgd_piece(const SgdPiece<Grad, Copy>& at, std::int64_t count, const SgdGroup& group,
               bool fresh, const StepOptions& options) {
  const float grad_scale = group.maximize ? -options.grad_scale : options.grad_scale;
  const float undamped = 1.0f - group.dampening;
  for_each_vector(count, [&](std::int64_t i, auto lanes) {
    at.prefetch_at(i);
    F32 param = load(at.param + i, lanes);
    F32 d = load(at.grad + i, lanes) * grad_scale;
    if (group.weight_decay != 0.0f) d += param * group.weight_decay;
    if (at.momentum != nullptr) {
      F32 m = d;
      if (!fresh) m = load(at.momentum + i, lanes) * group.momentum + d * undamped;
      store(at.momentum + i, m, lanes);
      d = group.nesterov ? d + m * group.momentum : m;
    }
    param -= d * group.lr;
    store(at.param + i, param, lanes);
    if (at.copy != nullptr) store(at.copy + i, param, lanes);
    if (at.ema != nullptr) {
      store(at.ema + i, lerp(load(at.ema + i, lanes), param, options.ema_momentum), lanes);
    }
  });
}

}  // namespace

void sgd(const TensorList& list, const SgdGroup* groups, const StepOptions& options, int threads) {
  parallel_pieces(list, threads, [&](std::int64_t r, std::int64_t first, std::int64_t count) {
    const Row& row = list.rows[r];
    with_type(row.dtype[kSgdGrad], [&](auto grad) {
      with_type(row.dtype[kSgdCopy], [&](auto copy) {
        using Grad = decltype(grad);
        using Copy = decltype(copy);
        const SgdPiece<Grad, Copy> piece{
            row.at<float>(kSgdParam, first), row.at<Grad>(kSgdGrad, first),
            row.at<float>(kSgdMomentum, first), row.at<Copy>(kSgdCopy, first),
            row.at<float>(kSgdEma, first)};
        sgd_piece(piece, count, groups[row.group], row.fresh, options);
      });
    });
  });
}

}  // namespace hookrun::cpu::HOOKRUN_ISA
