// The CPU kernels' interface: plain pointers, so that one source file can be compiled once for each instruction set.

#pragma once

#include <cstdint>

#include "../problem.h"

namespace ddetr {

constexpr int64_t kCacheLine = 64;  // bytes
constexpr int64_t kGroup = 4;       // queries or heads whose samples are located together

// A (B, S, M, D) tensor whose channels are neighbours; strides count elements.
struct Maps {
  const void* data;
  int64_t batch_stride, token_stride, head_stride;
};

// What places and weighs the samples; all contiguous. Without `reference`, `places` are locations (B, Q, M, L, P, 2)
// and `weights` (B, Q, M, L, P); with it, a (B, Q, L, 2 or 4) array, they are offsets and logits of the same shapes.
// The gradients are used by `backward` only.
struct Inputs {
  const void *places, *weights, *reference;
  int64_t coordinates;  // of a reference point: 2 or 4
  void *grad_places, *grad_weights;
  void* grad_reference;  // (B, M, Q, L, 2 or 4): head by head, to be summed
};

// The work is cut into units: one head of one picture, or in the forward pass a share of its queries; where maps are
// not packed, there a share of the queries with all heads. A unit writes what no other one writes, and nothing depends
// on which thread runs it or on how many there are.
struct Work {
  bool packed;    // first copy the head's map together: pays where cells are read more than once
  int64_t parts;  // forward: shares of the queries
  int64_t forward_units;
};

// Computes units [begin, end); scratch holds `scratch_bytes` for each caller at a time.
struct Kernels {
  // Units are (B, M, parts), or (B, parts) where maps are not packed. Writes output (B, Q, M, D).
  void (*forward)(const Problem&, Element, const Work&, const Maps& value, const Inputs&, void* output, void* scratch,
                  int64_t begin, int64_t end);

  // Units are (B, M). grad_output is (B, Q, M, D) and contiguous. Writes grad_value (B, S, M, D), and the gradients in
  // the inputs.
  void (*backward)(const Problem&, Element, const Work&, const Maps& value, const Inputs&, const void* grad_output,
                   void* grad_value, void* scratch, int64_t begin, int64_t end);
};

// Whether to copy heads' maps together, and into how many shares of queries to cut the forward pass.
Work plan_work(const Problem& problem, int64_t threads);

int64_t scratch_bytes(const Problem& problem, const Work& work, Element element, bool backward);

const Kernels& baseline_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#endif

// The fastest kernels that this processor runs, chosen once.
const Kernels& best_kernels();

}  // namespace ddetr
