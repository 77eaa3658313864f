// Declarations shared by the files that are compiled once per instruction set. What the functions
// do, and what their arguments are, is said in ops.hpp.
//
// HOOKRUN_ISA is the instruction set's name and a namespace of its own. Everything else in such a
// file lives in an unnamed namespace, and nothing of the standard library is instantiated: two
// copies of one inline function, compiled for different machines, would be merged by the linker.
#pragma once

#include "ops.hpp"

namespace hookrun::cpu::HOOKRUN_ISA {

double sum_of_squares(const TensorList& list, double* partials, int threads);
bool unscale(const TensorList& list, double factor, int threads);
void ema(const TensorList& list, double momentum, int threads);
void swap(const TensorList& list, int threads);
void convert(const TensorList& list, int threads);
void sgd(const TensorList& list, const SgdGroup* groups, const StepOptions& options, int threads);
void adam(const TensorList& list, const AdamGroup* groups, const AdamBiasCorrections* corrections,
          const StepOptions& options, int threads);

extern const Ops kOps;

}  // namespace hookrun::cpu::HOOKRUN_ISA
