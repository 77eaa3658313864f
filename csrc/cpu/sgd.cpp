// sgd, as torch.optim.SGD defines it, with the gradient scaled, a low-precision copy of the
// parameter written and its average updated on the way:
//
//   d   = grad_scale * grad (negated to maximize) + weight_decay * p
//   m   = momentum * m + (1 - dampening) * d        (m = d if the buffer holds nothing)
//   d   = d + momentum * m with nesterov, else m    (if momentum is not 0)
//   p   = p - lr * d
//   ema = lerp(ema, p as it is stored, ema_momentum)
#include "chunks.hpp"
#include "kernels.hpp"

namespace hookrun::cpu::HOOKRUN_ISA {
namespace {

template <class Param, class Grad, class Copy, class Ema>
struct SgdPiece {
  Param* param;
  const Grad* grad;
  Param* momentum;
  Copy* copy;
  Ema* ema;

  void prefetch_at(std::int64_t i) const {
    prefetch(param + i);
    prefetch(grad + i);
    if (momentum != nullptr) prefetch(momentum + i);
    if (ema != nullptr) prefetch(ema + i);
  }
};

// The branches depend on nothing inside the loop: next to the memory traffic they are free.
template <class Param, class Grad, class Copy, class Ema>
void sgd_piece(const SgdPiece<Param, Grad, Copy, Ema>& at, std::int64_t count,
               const SgdGroup& group, bool is_new, const StepOptions& options, bool streaming,
               NextRow next) {
  using Real = Arithmetic<Param>;
  const auto grad_scale =
      static_cast<Real>(group.maximize ? -options.grad_scale : options.grad_scale);
  const auto lr = static_cast<Real>(group.lr);
  const auto momentum = static_cast<Real>(group.momentum);
  const auto undamped = static_cast<Real>(1.0 - group.dampening);
  const auto weight_decay = static_cast<Real>(group.weight_decay);
  const auto ema_momentum = static_cast<Real>(options.ema_momentum);
  streaming = streaming && can_stream(at.copy);
  const auto here = [&](std::int64_t i) { at.prefetch_at(i); };
  const auto after = [&] { next.prefetch(); };
  for_each_vector<Real>(count, next.tail(), here, after, [&](std::int64_t i, auto lanes) {
    Vector<Real> param = load<Real>(at.param + i, lanes);
    Vector<Real> d = load<Real>(at.grad + i, lanes) * grad_scale;
    if (weight_decay != 0) d += param * weight_decay;
    if (at.momentum != nullptr) {
      Vector<Real> m = d;
      if (!is_new) m = load<Real>(at.momentum + i, lanes) * momentum + d * undamped;
      store(at.momentum + i, m, lanes);
      d = group.nesterov ? d + m * momentum : m;
    }
    param -= d * lr;
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

void sgd(const TensorList& list, const SgdGroup* groups, const StepOptions& options, int threads) {
  parallel_pieces(list, threads, [&](std::int64_t r, std::int64_t first, std::int64_t count) {
    const Row& row = list.rows[r];
    with_step_types(row, kSgdCopy, kSgdEma, [&](auto param, auto grad, auto copy, auto ema) {
      using Param = decltype(param);
      using Grad = decltype(grad);
      using Copy = decltype(copy);
      using Ema = decltype(ema);
      const SgdPiece<Param, Grad, Copy, Ema> piece{
          row.at<Param>(kParam, first), row.at<Grad>(kGrad, first),
          row.at<Param>(kSgdMomentum, first), row.at<Copy>(kSgdCopy, first),
          row.at<Ema>(kSgdEma, first)};
      sgd_piece(piece, count, groups[row.group], row.is_new, options, streams(list, sizeof(Copy)),
                NextRow(list, r, first + count, Lanes<Arithmetic<Param>>::count));
    });
  });
}

}  // namespace hookrun::cpu::HOOKRUN_ISA
