// Which copy of the kernels this processor runs.

#include "kernels.h"

namespace ddetr {

const Kernels& best_kernels() {
#if defined(__x86_64__)
  static const Kernels& best = [&]() -> const Kernels& {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd")) {
      return avx512_kernels();
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) {
      return avx2_kernels();
    }
    return baseline_kernels();
  }();
  return best;
#else
  return baseline_kernels();  // on 64-bit Arm the baseline has NEON
#endif
}

}  // namespace ddetr
