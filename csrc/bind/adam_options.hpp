// From the options of torch.optim.Adam and AdamW to what the kernel takes. Not in csrc/cpu, whose
// headers are compiled once per instruction set.
#pragma once

#include <cmath>

#include "../cpu/ops.hpp"

namespace hookrun {

// A group of these options, prepared.
//   decoupled  whether weight decay acts on the parameter itself, as AdamW's does.
inline cpu::AdamGroup adam_group(double lr, double beta1, double beta2, double eps,
                                 double weight_decay, bool decoupled, bool maximize) {
  cpu::AdamGroup group;
  group.one_minus_beta1 = 1.0 - beta1;
  group.beta2 = beta2;
  group.one_minus_beta2 = 1.0 - beta2;
  group.eps = eps;
  group.decay = decoupled ? 1.0 - lr * weight_decay : 1.0;
  group.weight_decay = decoupled ? 0.0 : weight_decay;
  group.maximize = maximize;
  return group;
}

// The corrections of the step with this number, from 1.
inline cpu::AdamBiasCorrections adam_bias_corrections(double lr, double beta1, double beta2,
                                                      double step) {
  return {lr / (1.0 - std::pow(beta1, step)), 1.0 / std::sqrt(1.0 - std::pow(beta2, step))};
}

}  // namespace hookrun
