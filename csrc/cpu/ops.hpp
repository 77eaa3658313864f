// The list operations of the CPU backend, once per instruction set.
#pragma once

#include "tensor_list.hpp"

namespace hookrun::cpu {

// What pass 2 does besides the optimizer's own arithmetic.
struct StepOptions {
  double grad_scale = 1.0;  // multiplies each gradient: 1 / loss scale, times the clip coefficient
  double ema_momentum = 0.0;  // weight of the new parameter in its average
};

struct SgdGroup {
  double lr = 0.0;
  double momentum = 0.0;
  double dampening = 0.0;
  double weight_decay = 0.0;
  bool nesterov = false;
  bool maximize = false;
};

struct AdamGroup {
  double beta1_rest = 0.0;  // 1 - beta1
  double beta2 = 0.0;
  double beta2_rest = 0.0;  // 1 - beta2
  double eps = 0.0;
  double decay = 1.0;         // multiplies the parameter: 1 - lr * weight decay if decoupled
  double weight_decay = 0.0;  // added to the gradient if not decoupled
  bool maximize = false;
};

// What depends on how many steps a parameter has taken.
struct AdamRow {
  double step_size = 0.0;        // lr / (1 - beta1^t)
  double root_correction = 1.0;  // 1 / sqrt(1 - beta2^t)
};

// Columns of the optimizers' lists. A null address leaves that part out.
enum StepColumn { kParam, kGrad };
enum SgdColumn { kSgdMomentum = 2, kSgdCopy, kSgdEma };
enum AdamColumn { kAdamMean = 2, kAdamSquare, kAdamCopy, kAdamEma };

// Each function takes up to `threads` threads; its result does not depend on how many. The formula
// stands at the head of the op's file.
struct Ops {
  const char* name;

  // Sum of the squares of column 0, not finite exactly if an element is not.
  // `partials`: room for one number per chunk.
  double (*sum_of_squares)(const TensorList&, double* partials, int threads);

  // Multiplies column 0 by `factor`; returns whether all elements were finite before.
  bool (*unscale)(const TensorList&, double factor, int threads);

  // Moves column 0 towards column 1 by `momentum` of their difference.
  void (*ema)(const TensorList&, double momentum, int threads);

  // Exchanges columns 0 and 1, which have one dtype.
  void (*swap)(const TensorList&, int threads);

  // Column 0 = column 1, in column 0's dtype.
  void (*convert)(const TensorList&, int threads);

  void (*sgd)(const TensorList&, const SgdGroup* groups, const StepOptions&, int threads);
  void (*adam)(const TensorList&, const AdamGroup* groups, const AdamRow* rows, const StepOptions&,
               int threads);
};

// The operations for the best instruction set of this machine, or the one chosen by `use_isa`.
const Ops& ops();

// Chooses "avx512", "avx2" or "portable"; false where this machine or build lacks it. For tests.
bool use_isa(const char* name);

}  // namespace hookrun::cpu
