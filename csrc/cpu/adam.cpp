// adam, as torch.optim.Adam and AdamW define it, with the gradient scaled, a low-precision copy of
// the parameter written and its average updated on the way. At the parameter's step t:
//
//   p   = decay * p                                  (decay = 1 - lr * weight_decay if decoupled)
//   d   = grad_scale * grad (negated to maximize) + weight_decay * p    (0 if decoupled)
//   m   = lerp(m, d, 1 - beta1)
//   v   = beta2 * v + (1 - beta2) * d^2
//   p   = p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
//   ema = lerp(ema, p, ema_momentum)
#include "chunks.hpp"
#include "kernels.hpp"

namespace hookrun::cpu::HOOKRUN_ISA {
namespace {

template <class Grad, class Copy>
struct AdamPiece {
  float* param;
  const Grad* grad;
  float* mean;
  float* square;
  Copy* copy;
  float* ema;

  void prefetch_at(std::int64_t i) const {
    prefetch<4>(param + i);
    prefetch<4>(grad + i);
    prefetch<4>(mean + i);
    prefetch<4>(square + i);
    if (ema != nullptr) prefetch<4>(ema + i);
  }
};

template <class Grad, class Copy>
void adam_piece(const AdamPiece<Grad, Copy>& at, std::int64_t count, const AdamGroup& group,
                const AdamRow& scalars, const StepOptions& options) {
  const float grad_scale = group.maximize ? -options.grad_scale : options.grad_scale;
  for_each_vector(count, [&](std::int64_t i, auto lanes) {
    at.prefetch_at(i);
    F32 param = load(at.param + i, lanes) * group.decay;
    F32 d = load(at.grad + i, lanes) * grad_scale;
    if (group.weight_decay != 0.0f) d += param * group.weight_decay;
    const F32 mean = lerp(load(at.mean + i, lanes), d, group.beta1_rest);
    const F32 square = load(at.square + i, lanes) * group.beta2 + d * group.beta2_rest * d;
    store(at.mean + i, mean, lanes);
    store(at.square + i, square, lanes);
    const F32 root = square_root(square) * scalars.root_correction + group.eps;
    param -= mean / root * scalars.step_size;
    store(at.param + i, param, lanes);
    if (at.copy != nullptr) store(at.copy + i, param, lanes);
    if (at.ema != nullptr) {
      store(at.ema + i, lerp(load(at.ema + i, lanes), param, options.ema_momentum), lanes);
    }
  });
}

}  // namespace

void adam(const TensorList& list, const AdamGroup* groups, const AdamRow* rows,
          const StepOptions& options, int threads) {
  parallel_pieces(list, threads, [&](std::int64_t r, std::int64_t first, std::int64_t count) {
    const Row& row = list.rows[r];
    with_type(row.dtype[kAdamGrad], [&](auto grad) {
      with_type(row.dtype[kAdamCopy], [&](auto copy) {
        using Grad = decltype(grad);
        using Copy = decltype(copy);
        const AdamPiece<Grad, Copy> piece{
            row.at<float>(kAdamParam, first), row.at<Grad>(kAdamGrad, first),
            row.at<float>(kAdamMean, first),  row.at<float>(kAdamSquare, first),
            row.at<Copy>(kAdamCopy, first),   row.at<float>(kAdamEma, first)};
        adam_piece(piece, count, groups[row.group], rows[r], options);
      });
    });
  });
}

}  // namespace hookrun::cpu::HOOKRUN_ISA
