// The operators' entry points for one device, on PyTorch's stable tensors.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include <tuple>

namespace ddetr {

using torch::stable::Tensor;

namespace cpu {

// value (B, S, M, D) -> (B, Q, M * D) of the same dtype.
Tensor ms_deform_attn(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
                      const Tensor& sampling_locations, const Tensor& attention_weights);

// The gradients of value, sampling_locations and attention_weights. Always deterministic on the CPU.
std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward(const Tensor& value, const Tensor& spatial_shapes,
                                                           const Tensor& level_start_index,
                                                           const Tensor& sampling_locations,
                                                           const Tensor& attention_weights, const Tensor& grad_output,
                                                           bool deterministic);

}  // namespace cpu
}  // namespace ddetr
