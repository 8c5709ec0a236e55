// The CPU side of the operators: checks, memory, and threads. The arithmetic is in kernels.cpp.

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "../ms_deform_attn.h"
#include "kernels.h"

namespace ddetr::cpu {
namespace {

using torch::headeronly::ScalarType;

Element element_of(ScalarType type) {
  switch (type) {
    case ScalarType::Double: return Element::Float64;
    case ScalarType::Float: return Element::Float32;
    case ScalarType::Half: return Element::Float16;
    case ScalarType::BFloat16: return Element::BFloat16;
    default: break;
  }
  STD_TORCH_CHECK(false, "value has a dtype that is not float64, float32, float16 or bfloat16");
  return Element::Float32;
}

// A call whose tensors have been checked against each other and laid out contiguously.
struct Call {
  Tensor value, locations, weights;
  std::vector<int64_t> heights, widths, starts;
  Problem problem;
  Element element;
  ScalarType real;  // of locations, weights and sums
};

Tensor plain(const Tensor& tensor, ScalarType type) {
  return torch::stable::contiguous(tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type));
}

Call checked(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
             const Tensor& locations, const Tensor& weights) {
  STD_TORCH_CHECK(value.dim() == 4, "value has ", value.dim(), " dimensions, expected 4: (B, S, M, D)");
  STD_TORCH_CHECK(locations.dim() == 6 && locations.size(5) == 2,
                  "sampling_locations is not (B, Q, M, L, P, 2)");
  STD_TORCH_CHECK(weights.dim() == 5, "attention_weights has ", weights.dim(),
                  " dimensions, expected 5: (B, Q, M, L, P)");
  for (int64_t axis = 0; axis < 5; ++axis) {
    STD_TORCH_CHECK(weights.size(axis) == locations.size(axis), "attention_weights and sampling_locations differ in axis ",
                    axis, ": ", weights.size(axis), " and ", locations.size(axis));
  }
  STD_TORCH_CHECK(value.size(0) == locations.size(0) && value.size(2) == locations.size(2), "value has B = ",
                  value.size(0), ", M = ", value.size(2), ", but sampling_locations has B = ", locations.size(0),
                  ", M = ", locations.size(2));
  STD_TORCH_CHECK(spatial_shapes.dim() == 2 && spatial_shapes.size(0) == locations.size(3) && spatial_shapes.size(1) == 2,
                  "spatial_shapes is not (L, 2) with L = ", locations.size(3));
  STD_TORCH_CHECK(level_start_index.dim() == 1 && level_start_index.size(0) == locations.size(3),
                  "level_start_index is not (L,) with L = ", locations.size(3));
  Call call{};
  call.element = element_of(value.scalar_type());
  call.real = call.element == Element::Float64 ? ScalarType::Double : ScalarType::Float;
  call.value = torch::stable::contiguous(value);
  call.locations = plain(locations, call.real);
  call.weights = plain(weights, call.real);
  const Tensor shapes = plain(spatial_shapes, ScalarType::Long);
  const Tensor starts = plain(level_start_index, ScalarType::Long);
  const int64_t levels = locations.size(3), tokens = value.size(1);
  const int64_t* pairs = shapes.const_data_ptr<int64_t>();
  int64_t total = 0;
  for (int64_t level = 0; level < levels; ++level) {
    const int64_t height = pairs[2 * level], width = pairs[2 * level + 1];
    STD_TORCH_CHECK(height > 0 && width > 0 && height <= std::numeric_limits<int32_t>::max() / width,
                    "spatial_shapes[", level, "] = (", height, ", ", width, ") is no size of a map");
    STD_TORCH_CHECK(starts.const_data_ptr<int64_t>()[level] == total, "level_start_index[", level, "] = ",
                    starts.const_data_ptr<int64_t>()[level], ", but the levels before it have ", total, " tokens");
    call.heights.push_back(height);
    call.widths.push_back(width);
    call.starts.push_back(total);
    total += height * width;
  }
  STD_TORCH_CHECK(total == tokens, "value has S = ", tokens, " tokens, but spatial_shapes add up to ", total);
  call.problem = Problem{value.size(0),      tokens,
                         value.size(2),      value.size(3),
                         locations.size(1),  levels,
                         locations.size(4),  call.heights.data(),
                         call.widths.data(), call.starts.data()};
  return call;
}

// Copies float gradients of a half-precision value into its dtype; others are in it already.
Tensor in_dtype_of(const Tensor& value, const Tensor& gradient) {
  return gradient.scalar_type() == value.scalar_type() ? gradient : torch::stable::to(gradient, value.scalar_type());
}

}  // namespace

Tensor ms_deform_attn(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
                      const Tensor& sampling_locations, const Tensor& attention_weights) {
  const Call call = checked(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  const Problem& problem = call.problem;
  Tensor output =
      torch::stable::new_empty(call.value, {problem.batch, problem.queries, problem.heads * problem.channels});
  const void* from = call.value.const_data_ptr();
  const void* locations = call.locations.const_data_ptr();
  const void* weights = call.weights.const_data_ptr();
  void* to = output.mutable_data_ptr();
  const Kernels& kernels = best_kernels();
  torch::stable::parallel_for(0, problem.batch * problem.queries, 32, [&](int64_t begin, int64_t end) {
    kernels.forward(problem, call.element, from, locations, weights, to, begin, end);
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward(const Tensor& value, const Tensor& spatial_shapes,
                                                           const Tensor& level_start_index,
                                                           const Tensor& sampling_locations,
                                                           const Tensor& attention_weights, const Tensor& grad_output,
                                                           bool /*deterministic: it always is*/) {
  const Call call = checked(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  const Problem& problem = call.problem;
  STD_TORCH_CHECK(grad_output.dim() == 3 && grad_output.size(0) == problem.batch &&
                      grad_output.size(1) == problem.queries &&
                      grad_output.size(2) == problem.heads * problem.channels,
                  "grad_output is not (B, Q, M * D) = (", problem.batch, ", ", problem.queries, ", ",
                  problem.heads * problem.channels, ")");
  const Tensor gradient = plain(grad_output, call.value.scalar_type());
  Tensor grad_value = torch::stable::new_zeros(call.value, call.value.sizes(), call.real);
  Tensor grad_locations = torch::stable::new_empty(call.locations, call.locations.sizes());
  Tensor grad_weights = torch::stable::new_empty(call.weights, call.weights.sizes());
  const void* from = call.value.const_data_ptr();
  const void* locations = call.locations.const_data_ptr();
  const void* weights = call.weights.const_data_ptr();
  const void* incoming = gradient.const_data_ptr();
  void* to_value = grad_value.mutable_data_ptr();
  void* to_locations = grad_locations.mutable_data_ptr();
  void* to_weights = grad_weights.mutable_data_ptr();
  const Kernels& kernels = best_kernels();
  torch::stable::parallel_for(0, problem.batch * problem.heads, 1, [&](int64_t begin, int64_t end) {
    kernels.backward(problem, call.element, from, locations, weights, incoming, to_value, to_locations, to_weights,
                     begin, end);
  });
  return {in_dtype_of(value, grad_value), in_dtype_of(sampling_locations, grad_locations),
          in_dtype_of(attention_weights, grad_weights)};
}

}  // namespace ddetr::cpu
