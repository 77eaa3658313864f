#include <atomic>
#include <cstring>

#include "ops.hpp"

namespace hookrun::cpu {

namespace portable {
extern const Ops kOps;
}
#ifdef HOOKRUN_X86_KERNELS
namespace avx2 {
extern const Ops kOps;
}
namespace avx512 {
extern const Ops kOps;
}
#endif

namespace {

// The operations of this name, or the best that this machine has if it is null.
const Ops* find(const char* name) {
  const auto matches = [name](const Ops& ops) {
    return name == nullptr || std::strcmp(name, ops.name) == 0;
  };
#ifdef HOOKRUN_X86_KERNELS
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                        __builtin_cpu_supports("f16c");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                          __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_avx512 && matches(avx512::kOps)) return &avx512::kOps;
  if (has_avx2 && matches(avx2::kOps)) return &avx2::kOps;
#endif
  return matches(portable::kOps) ? &portable::kOps : nullptr;
}

std::atomic<const Ops*>& chosen() {
  static std::atomic<const Ops*> ops{find(nullptr)};
  return ops;
}

}  // namespace

const Ops& ops() { return *chosen().load(std::memory_order_relaxed); }

bool use_isa(const char* name) {
  const Ops* found = find(name);
  if (found != nullptr) chosen() = found;
  return found != nullptr;
}

}  // namespace hookrun::cpu
