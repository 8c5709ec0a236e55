// The CPU side of the operators: memory and threads. The arithmetic is in kernels.cpp, the checks in call.cpp.

#include <torch/csrc/stable/ops.h>

#include <cstdint>

#include "../call.h"
#include "../ms_deform_attn.h"
#include "kernels.h"

namespace ddetr::cpu {
Tensor ms_deform_attn(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
                      const Tensor& sampling_locations, const Tensor& attention_weights) {
  const Call call = checked_call(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  const Problem& problem = call.problem;
  const Tensor flat_value = torch::stable::contiguous(value);
  const Tensor flat_locations = plain(sampling_locations, call.real);
  const Tensor flat_weights = plain(attention_weights, call.real);
  Tensor output =
      torch::stable::new_empty(flat_value, {problem.batch, problem.queries, problem.heads * problem.channels});
  const void* from = flat_value.const_data_ptr();
  const void* locations = flat_locations.const_data_ptr();
  const void* weights = flat_weights.const_data_ptr();
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
  const Call call = checked_call(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  const Problem& problem = call.problem;
  check_grad_output(call, value, grad_output);
  const Tensor flat_value = torch::stable::contiguous(value);
  const Tensor flat_locations = plain(sampling_locations, call.real);
  const Tensor flat_weights = plain(attention_weights, call.real);
  const Tensor gradient = plain(grad_output, value.scalar_type());
  Tensor grad_value = torch::stable::new_zeros(flat_value, flat_value.sizes(), call.real);
  Tensor grad_locations = torch::stable::new_empty(flat_locations, flat_locations.sizes());
  Tensor grad_weights = torch::stable::new_empty(flat_weights, flat_weights.sizes());
  const void* from = flat_value.const_data_ptr();
  const void* locations = flat_locations.const_data_ptr();
  const void* weights = flat_weights.const_data_ptr();
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
