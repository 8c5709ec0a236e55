// Where the kernels get CUDA from: the toolkit, or the tests' emulation, which runs the same sources on the CPU.

#pragma once

#if defined(DDETR_EMULATED)
#include "cuda_emulation.h"
#else
#include <cuda_runtime.h>
#endif

// Whether atomicAdd takes float2 and float4: from sm_90, and in the emulation.
#if defined(DDETR_EMULATED) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900)
#define DDETR_VECTOR_ATOMICS
#endif

#include <stdexcept>
#include <string>

namespace ddetr::cuda {

constexpr int kWarp = 32;
// Eight warps a block: what shares cells in the first-level cache is large, and blocks still come in fine grains.
constexpr int kThreads = 256;
constexpr unsigned kWholeWarp = 0xffffffffu;

// Throws std::runtime_error with CUDA's words for it.
inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

#if defined(__CUDACC__) || defined(DDETR_EMULATED)
// Starts a kernel on a stream and checks that it could start. What fails while it runs is reported by the next call
// that waits for the stream.
template <typename... Parameters, typename... Given>
void launch([[maybe_unused]] const char* name, void (*kernel)(Parameters...), dim3 grid, int threads,
            [[maybe_unused]] cudaStream_t stream, const Given&... given) {
#if defined(DDETR_EMULATED)
  emulate(name, grid, threads, [&] { kernel(given...); });
#else
  // clang-format off
  kernel<<<grid, threads, 0, stream>>>(given...);
  // clang-format on
  check(cudaGetLastError(), name);
#endif
}
#endif

}  // namespace ddetr::cuda
