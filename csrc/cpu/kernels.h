// The CPU kernels' interface: plain pointers, so that one source file can be compiled once for each instruction set.

#pragma once

#include <cstdint>

#include "../problem.h"

namespace ddetr {

// All tensors are contiguous: value (B, S, M, D), locations (B, Q, M, L, P, 2), weights (B, Q, M, L, P), output and
// grad_output (B, Q, M, D). Gradients of value are accumulated in float (double for Float64) and start from zero.
struct Kernels {
  const char* name;

  // Computes output rows [begin, end) of B * Q.
  void (*forward)(const Problem&, Element, const void* value, const void* locations, const void* weights, void* output,
                  int64_t begin, int64_t end);

  // Computes the gradients of pairs [begin, end) of B * M. A pair owns its part of grad_value: no two threads meet in
  // it, and sums run in one order however many threads there are.
  void (*backward)(const Problem&, Element, const void* value, const void* locations, const void* weights,
                   const void* grad_output, void* grad_value, void* grad_locations, void* grad_weights, int64_t begin,
                   int64_t end);
};

const Kernels& baseline_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#endif

// The fastest kernels that this processor runs, chosen once.
const Kernels& best_kernels();

}  // namespace ddetr
