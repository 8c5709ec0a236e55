// A call of the operators, checked once for all devices: after it, no kernel can read or write outside a tensor.

#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <string>
#include <vector>

#include "problem.h"

namespace ddetr {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// What a checked call comes to. Tensors stay as they were given: strides and dtypes are each device's to treat.
struct Call {
  Call() = default;
  Call(Call&&) = default;  // a copy's `problem` would point into the original
  Call& operator=(Call&&) = default;

  std::vector<int64_t> heights, widths, starts;
  Problem problem{};  // its pointers lie in the vectors above
  Element element{};
  ScalarType real{};   // of locations, weights and sums: float64 with float64 values, else float32
  bool boxes = false;  // fused operator only: reference_points are (cx, cy, w, h), not (x, y)
};

// Checks a call of ms_deform_attn. All tensors must be on value's device except spatial_shapes and level_start_index,
// whose numbers are needed here: on a GPU they are copied, and that copy waits for all work queued there.
//
// Throws std::runtime_error (a RuntimeError in Python) that names the argument, what came, what was expected and the
// remedy.
Call checked_call(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
                  const Tensor& sampling_locations, const Tensor& attention_weights);

// Checks a call of ms_deform_attn_fused in the same way.
Call checked_fused_call(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
                        const Tensor& reference_points, const Tensor& sampling_offsets, const Tensor& attention_logits);

// Checks the gradient of the result, (B, Q, M * D).
void check_grad_output(const Call& call, const Tensor& value, const Tensor& grad_output);

// A tensor's shape and device, for messages.
std::string shape_of(const Tensor& tensor);
std::string device_of(const Tensor& tensor);

// The tensor in a dtype and contiguous: itself where it already is.
Tensor plain(const Tensor& tensor, ScalarType type);

// The value with the channels of each cell side by side, itself where they are: kernels follow all other strides.
Tensor with_neighbouring_channels(const Tensor& value);

// A gradient that was summed in float32, in the dtype of what it belongs to.
Tensor in_dtype_of(const Tensor& original, const Tensor& gradient);

}  // namespace ddetr
