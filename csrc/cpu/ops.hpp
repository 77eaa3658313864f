// The list operations of the CPU backend, once per instruction set.
//
// For all of them:
//   list     what the columns hold is said with each operation; what holds of every list, and who
//            owns the memory, in tensor_list.hpp. Columns are read, except where it says written.
//   threads  how many may work, at least 1. The result has the same bits for any number of them.
//
// fp16, bf16 and fp32 are computed in fp32, fp64 in fp64; results are rounded once, when they are
// stored, to nearest even. The formula is at the top of the operation's file.
#pragma once

#include "tensor_list.hpp"

namespace hookrun::cpu {

// What an optimizer step does besides its own arithmetic.
struct StepOptions {
  double grad_scale = 1.0;    // multiplies each gradient: clip coefficient / loss scale
  double ema_momentum = 0.0;  // weight of the new parameter in its average, from 0 to 1
};

// Options of a parameter group, named as torch.optim.SGD names them.
struct SgdGroup {
  double lr = 0.0;
  double momentum = 0.0;
  double dampening = 0.0;
  double weight_decay = 0.0;
  bool nesterov = false;
  bool maximize = false;
};

// Options of a parameter group of torch.optim.Adam or AdamW, prepared for the kernel.
struct AdamGroup {
  double one_minus_beta1 = 0.0;
  double beta2 = 0.0;
  double one_minus_beta2 = 0.0;
  double eps = 0.0;
  double decay = 1.0;         // multiplies the parameter: 1 - lr * weight decay if decoupled
  double weight_decay = 0.0;  // times the parameter, added to the gradient if not decoupled
  bool maximize = false;
};

// Adam's bias corrections of one parameter, which takes its t-th step.
struct AdamBiasCorrections {
  double step_size = 0.0;        // lr / (1 - beta1^t)
  double root_correction = 1.0;  // 1 / sqrt(1 - beta2^t)
};

// Columns of the optimizers' lists: parameter, gradient, state, low-precision copy, average. All
// but the gradient are written. A null address leaves that part out: SGD's momentum, the copy, the
// average. State has the parameter's dtype; which others go together: with_step_types, chunks.hpp.
enum StepColumn { kParam, kGrad };
enum SgdColumn { kSgdMomentum = 2, kSgdCopy, kSgdEma };
enum AdamColumn { kAdamMean = 2, kAdamSquare, kAdamCopy, kAdamEma };

struct Ops {
  const char* name;  // of the instruction set

  // The sum of the squares of column 0, in fp64; finite exactly if all elements are, unless squares
  // of fp64 elements overflow.
  //   list      one column of any float dtypes.
  //   partials  out: room for list.chunks() numbers, the caller's.
  double (*sum_of_squares)(const TensorList& list, double* partials, int threads);

  // Multiplies column 0 by a number; returns whether all its elements were finite before.
  //   list    one column of any float dtypes, written.
  //   factor  rounded to fp32 for elements that are not fp64.
  bool (*unscale)(const TensorList& list, double factor, int threads);

  // Moves averages towards parameters.
  //   list      column 0: averages, written; column 1: parameters; any float dtypes.
  //   momentum  weight of the parameters, from 0 to 1.
  void (*ema)(const TensorList& list, double momentum, int threads);

  // Exchanges columns 0 and 1, byte by byte.
  //   list  two columns, both written; one dtype in each row, of any kind.
  void (*swap)(const TensorList& list, int threads);

  // Copies column 1 into column 0, in the dtype of column 0.
  //   list  column 0: written; in each row both of float dtypes, or both of one dtype of any kind.
  void (*convert)(const TensorList& list, int threads);

  // Takes one step of torch.optim.SGD.
  //   list     see SgdColumn.
  //   groups   one for each index in Row::group; the caller's.
  //   options  the same for all rows.
  void (*sgd)(const TensorList& list, const SgdGroup* groups, const StepOptions& options,
              int threads);

  // Takes one step of torch.optim.Adam or AdamW.
  //   list         see AdamColumn.
  //   groups       one for each index in Row::group; the caller's.
  //   corrections  one for each row; the caller's, who has counted the step.
  //   options      the same for all rows.
  void (*adam)(const TensorList& list, const AdamGroup* groups,
               const AdamBiasCorrections* corrections, const StepOptions& options, int threads);
};

// The operations for the best instruction set of this machine, or the one chosen by `use_isa`. They
// live as long as the process.
const Ops& ops();

// Chooses the instruction set of later calls of `ops`, in all threads. For tests.
//   name  "avx512", "avx2" or "portable"; null for the best.
// Returns false, and changes nothing, where this machine or build lacks it.
bool use_isa(const char* name);

}  // namespace hookrun::cpu
