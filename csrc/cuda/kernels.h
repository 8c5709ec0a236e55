// The CUDA kernels' interface: plain pointers, so that the files which nvcc compiles need no PyTorch tensors, and those
// which need tensors no nvcc.

#pragma once

#include <cstddef>
#include <cstdint>

#include "shape.cuh"

namespace ddetr::cuda {

// One call's memory on the GPU. All is contiguous but `value`, whose strides are in the shape.
struct Arguments {
  const void* value;        // (B, S, M, D)
  const void* points;       // (B, Q, M, L, P, 2): locations, or offsets if there are references
  const void* weights;      // (B, Q, M, L, P): attention weights, or logits if there are references
  const void* references;   // null, or (B, Q, L, 2 or 4)
  bool boxes;               // references are (cx, cy, w, h)
  const void* grad_output;  // (B, Q, M, D)
  void* output;             // (B, Q, M, D)
  void* grad_value;         // (B, S, M, D)
  void* grad_points;
  void* grad_weights;
  void* grad_references;
};

// What a deterministic pass sorts: for each round of pictures, room for its samples' keys and numbers.
struct Scratch {
  int32_t pictures;  // in a round
  uint32_t *keys, *sorted_keys, *numbers, *sorted_numbers;
  void* softmaxes;  // four numbers of the sums' type for each (picture of the round, query, head)
  void* sorting;    // of sorting_bytes
  size_t sorting_bytes;
};

struct Kernels {
  void (*forward)(const Shape&, const Arguments&, cudaStream_t);

  // Writes the gradients of points and weights, and adds that of value atomically to grad_value (float32, or float64),
  // unless it is null.
  void (*backward)(const Shape&, const Arguments&, cudaStream_t);

  // Writes the gradient of value, in its dtype, in a fixed order.
  void (*value_gradient)(const Shape&, const Arguments&, const Scratch&, cudaStream_t);
};

// One set for each dtype of value: kernels.cu is compiled once for each.
const Kernels& float64_kernels();
const Kernels& float32_kernels();
const Kernels& float16_kernels();
const Kernels& bfloat16_kernels();

// Sorts pairs by key, stably, by the `bits` lowest bits. Needs sorting_bytes(count) of scratch.
void sort_pairs(const Scratch& scratch, int64_t count, int bits, cudaStream_t stream);
size_t sorting_bytes(int64_t count);

}  // namespace ddetr::cuda
