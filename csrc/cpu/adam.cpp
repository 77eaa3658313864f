// adam, as torch.optim.Adam and AdamW define it, with the gradient scaled, a low-precision copy of
// the parameter written and its average updated on the way. At the parameter's step t:
//
//   p   = decay * p                                  (decay = 1 - lr * weight_decay if decoupled)
//   d   = grad_scale * grad (negated to maximize) + weight_decay * p    (0 if decoupled)
//   m   = lerp(m, d, 1 - beta1)
//   v   = beta2 * v + (1 - beta2) * d^2
//   p   = p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
//   ema = lerp(ema, p as it is stored, ema_momentum)
#include "chunks.hpp"
#include "kernels.hpp"

namespace hookrun::cpu::HOOKRUN_ISA {
namespace {

template <class Param, class Grad, class Copy, class Ema>
struct AdamPiece {
  Param* param;
  const Grad* grad;
  Param* mean;
  Param* square;
  Copy* copy;
  Ema* ema;

  void prefetch_at(std::int64_t i) const {
    prefetch(param + i);
    prefetch(grad + i);
    prefetch(mean + i);
    prefetch(square + i);
    if (ema != nullptr) prefetch(ema + i);
  }
};

template <class Param, class Grad, class Copy, class Ema>
void adam_piece(const AdamPiece<Param, Grad, Copy, Ema>& at, std::int64_t count,
                const AdamGroup& group, const AdamBiasCorrections& corrections,
                const StepOptions& options, bool streaming, NextRow next) {
  using Real = Arithmetic<Param>;
  const auto grad_scale =
      static_cast<Real>(group.maximize ? -options.grad_scale : options.grad_scale);
  const auto one_minus_beta1 = static_cast<Real>(group.one_minus_beta1);
  const auto beta2 = static_cast<Real>(group.beta2);
  const auto one_minus_beta2 = static_cast<Real>(group.one_minus_beta2);
  const auto eps = static_cast<Real>(group.eps);
  const auto decay = static_cast<Real>(group.decay);
  const auto weight_decay = static_cast<Real>(group.weight_decay);
  const auto step_size = static_cast<Real>(corrections.step_size);
  const auto root_correction = static_cast<Real>(corrections.root_correction);
  const auto ema_momentum = static_cast<Real>(options.ema_momentum);
  streaming = streaming && can_stream(at.copy);
  const auto here = [&](std::int64_t i) { at.prefetch_at(i); };
  const auto after = [&] { next.prefetch(); };
  for_each_vector<Real>(count, next.tail(), here, after, [&](std::int64_t i, auto lanes) {
    Vector<Real> param = load<Real>(at.param + i, lanes) * decay;
    Vector<Real> d = load<Real>(at.grad + i, lanes) * grad_scale;
    if (weight_decay != 0) d += param * weight_decay;
    const Vector<Real> mean = lerp(load<Real>(at.mean + i, lanes), d, one_minus_beta1);
    const Vector<Real> square = load<Real>(at.square + i, lanes) * beta2 + d * one_minus_beta2 * d;
    store(at.mean + i, mean, lanes);
    store(at.square + i, square, lanes);
    const Vector<Real> root = square_root(square) * root_correction + eps;
    param -= mean / root * step_size;
    store(at.param + i, param, lanes);
    if (at.copy != nullptr && streaming) stream(at.copy + i, param, lanes);
    if (at.copy != nullptr && !streaming) store(at.copy + i, param, lanes);
    if (at.ema != nullptr) {
      const Vector<Real> stored = stored_as(param, Param{});
      store(at.ema + i, lerp(load<Real>(at.ema + i, lanes), stored, ema_momentum), lanes);
    }
  });
  if (streaming) finish_streams();
}

}  // namespace

void adam(const TensorList& list, const AdamGroup* groups, const AdamBiasCorrections* corrections,
          const StepOptions& options, int threads) {
  parallel_pieces(list, threads, [&](std::int64_t r, std::int64_t first, std::int64_t count) {
    const Row& row = list.rows[r];
    with_step_types(row, kAdamCopy, kAdamEma, [&](auto param, auto grad, auto copy, auto ema) {
      using Param = decltype(param);
      using Grad = decltype(grad);
      using Copy = decltype(copy);
      using Ema = decltype(ema);
      const AdamPiece<Param, Grad, Copy, Ema> piece{
          row.at<Param>(kParam, first),    row.at<Grad>(kGrad, first),
          row.at<Param>(kAdamMean, first), row.at<Param>(kAdamSquare, first),
          row.at<Copy>(kAdamCopy, first),  row.at<Ema>(kAdamEma, first)};
      adam_piece(piece, count, groups[row.group], corrections[r], options,
                 streams(list, sizeof(Copy)),
                 NextRow(list, r, first + count, Lanes<Arithmetic<Param>>::count));
    });
  });
}

}  // namespace hookrun::cpu::HOOKRUN_ISA
