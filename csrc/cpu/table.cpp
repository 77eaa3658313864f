#include "kernels.hpp"

#define HOOKRUN_TEXT_OF(name) #name
#define HOOKRUN_TEXT(name) HOOKRUN_TEXT_OF(name)

namespace hookrun::cpu::HOOKRUN_ISA {

const Ops kOps = {
    HOOKRUN_TEXT(HOOKRUN_ISA), sum_of_squares, unscale, ema, swap, convert, sgd, adam};

}  // namespace hookrun::cpu::HOOKRUN_ISA
