// The operators' entry points, the same for each device, on PyTorch's stable tensors.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include <tuple>

namespace ddetr {

using torch::stable::Tensor;

// ms_deform_attn: value (B, S, M, D) -> (B, Q, M * D) of the same dtype.
//
// ms_deform_attn_backward: the gradients of value, sampling_locations and attention_weights.
//
// ms_deform_attn_fused: the same from what a layer computes, so that locations and softmax never reach memory:
// reference_points (B, Q, L, 2) as (x, y), to which offsets count cells, or (B, Q, L, 4) as (cx, cy, w, h), to which
// offsets count half the box's sides over P; sampling_offsets (B, Q, M, L, P, 2); attention_logits (B, Q, M, L, P),
// whose softmax runs over L * P.
//
// ms_deform_attn_fused_backward: the gradients of value, reference_points, sampling_offsets and attention_logits.
//
// deterministic: the same bits in every run. On the CPU they always are.
#define DDETR_ENTRY_POINTS                                                                                        \
  Tensor ms_deform_attn(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,       \
                        const Tensor& sampling_locations, const Tensor& attention_weights);                       \
  std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward(                                                     \
      const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,                         \
      const Tensor& sampling_locations, const Tensor& attention_weights, const Tensor& grad_output,               \
      bool deterministic);                                                                                        \
  Tensor ms_deform_attn_fused(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index, \
                              const Tensor& reference_points, const Tensor& sampling_offsets,                     \
                              const Tensor& attention_logits);                                                    \
  std::tuple<Tensor, Tensor, Tensor, Tensor> ms_deform_attn_fused_backward(                                       \
      const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,                         \
      const Tensor& reference_points, const Tensor& sampling_offsets, const Tensor& attention_logits,             \
      const Tensor& grad_output, bool deterministic);

namespace cpu {
DDETR_ENTRY_POINTS
}  // namespace cpu

namespace cuda {
DDETR_ENTRY_POINTS

// The same by one thread for each output number (cuda/ladder.h): for measurements only.
Tensor ladder_ms_deform_attn(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
                             const Tensor& sampling_locations, const Tensor& attention_weights);
std::tuple<Tensor, Tensor, Tensor> ladder_ms_deform_attn_backward(const Tensor& value, const Tensor& spatial_shapes,
                                                                  const Tensor& level_start_index,
                                                                  const Tensor& sampling_locations,
                                                                  const Tensor& attention_weights,
                                                                  const Tensor& grad_output);
}  // namespace cuda

#undef DDETR_ENTRY_POINTS

}  // namespace ddetr
