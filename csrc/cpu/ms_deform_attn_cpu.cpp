// The CPU side of the operators: memory and threads. The arithmetic is in kernels.cpp, the checks in call.cpp.

#include <torch/csrc/stable/ops.h>

#include <cstdint>

#include "../call.h"
#include "../ms_deform_attn.h"
#include "kernels.h"
#include "thread_memory.h"

namespace ddetr::cpu {
namespace {

Maps maps_of(const Tensor& value) {
  return {value.const_data_ptr(), value.stride(0), value.stride(1), value.stride(2)};
}

// Runs `unit_range(scratch, begin, end)` over all units, each thread with memory of its own.
template <typename Function>
void run_units(int64_t units, int64_t bytes, const Function& unit_range) {
  torch::stable::parallel_for(0, units, 1, [&](int64_t begin, int64_t end) {
    const ThreadMemory memory(bytes);
    unit_range(memory.start(), begin, end);
  });
}

// What both forward operators share: `inputs` holds contiguous arrays.
Tensor run_forward(const Call& call, const Tensor& value, const Inputs& inputs) {
  const Problem& problem = call.problem;
  const Tensor reachable = with_neighbouring_channels(value);
  Tensor output = torch::stable::new_empty(value, {problem.batch, problem.queries, problem.heads * problem.channels});
  const Maps maps = maps_of(reachable);
  const Work work = plan_work(problem, torch::stable::get_num_threads());
  void* to = output.mutable_data_ptr();
  run_units(work.forward_units, scratch_bytes(problem, work, call.element, false),
            [&](void* scratch, int64_t begin, int64_t end) {
              best_kernels().forward(problem, call.element, work, maps, inputs, to, scratch, begin, end);
            });
  return output;
}

// What both backward operators share. Returns the gradient of value and fills those that `inputs` points to.
Tensor run_backward(const Call& call, const Tensor& value, const Inputs& inputs, const Tensor& grad_output) {
  const Problem& problem = call.problem;
  check_grad_output(call, value, grad_output);
  const Tensor reachable = with_neighbouring_channels(value);
  const Tensor gradient = plain(grad_output, value.scalar_type());
  Tensor grad_value = torch::stable::new_empty(value, value.sizes());
  const Maps maps = maps_of(reachable);
  const Work work = plan_work(problem, 1);
  const void* incoming = gradient.const_data_ptr();
  void* to = grad_value.mutable_data_ptr();
  run_units(problem.batch * problem.heads, scratch_bytes(problem, work, call.element, true),
            [&](void* scratch, int64_t begin, int64_t end) {
              best_kernels().backward(problem, call.element, work, maps, inputs, incoming, to, scratch, begin, end);
            });
  return grad_value;
}

}  // namespace

Tensor ms_deform_attn(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
                      const Tensor& sampling_locations, const Tensor& attention_weights) {
  const Call call = checked_call(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  const Tensor locations = plain(sampling_locations, call.real), weights = plain(attention_weights, call.real);
  Inputs inputs{};
  inputs.places = locations.const_data_ptr();
  inputs.weights = weights.const_data_ptr();
  return run_forward(call, value, inputs);
}

std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward(const Tensor& value, const Tensor& spatial_shapes,
                                                           const Tensor& level_start_index,
                                                           const Tensor& sampling_locations,
                                                           const Tensor& attention_weights, const Tensor& grad_output,
                                                           bool /*deterministic: it always is*/) {
  const Call call = checked_call(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  const Tensor locations = plain(sampling_locations, call.real), weights = plain(attention_weights, call.real);
  Tensor grad_locations = torch::stable::new_empty(locations, locations.sizes());
  Tensor grad_weights = torch::stable::new_empty(weights, weights.sizes());
  Inputs inputs{};
  inputs.places = locations.const_data_ptr();
  inputs.weights = weights.const_data_ptr();
  inputs.grad_places = grad_locations.mutable_data_ptr();
  inputs.grad_weights = grad_weights.mutable_data_ptr();
  Tensor grad_value = run_backward(call, value, inputs, grad_output);
  return {grad_value, in_dtype_of(sampling_locations, grad_locations), in_dtype_of(attention_weights, grad_weights)};
}

Tensor ms_deform_attn_fused(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
                            const Tensor& reference_points, const Tensor& sampling_offsets,
                            const Tensor& attention_logits) {
  const Call call = checked_fused_call(value, spatial_shapes, level_start_index, reference_points, sampling_offsets,
                                       attention_logits);
  const Tensor reference = plain(reference_points, call.real);
  const Tensor offsets = plain(sampling_offsets, call.real), logits = plain(attention_logits, call.real);
  Inputs inputs{};
  inputs.places = offsets.const_data_ptr();
  inputs.weights = logits.const_data_ptr();
  inputs.reference = reference.const_data_ptr();
  inputs.coordinates = reference.size(3);
  return run_forward(call, value, inputs);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> ms_deform_attn_fused_backward(
    const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index, const Tensor& reference_points,
    const Tensor& sampling_offsets, const Tensor& attention_logits, const Tensor& grad_output,
    bool /*deterministic: it always is*/) {
  const Call call = checked_fused_call(value, spatial_shapes, level_start_index, reference_points, sampling_offsets,
                                       attention_logits);
  const Problem& problem = call.problem;
  const Tensor reference = plain(reference_points, call.real);
  const Tensor offsets = plain(sampling_offsets, call.real), logits = plain(attention_logits, call.real);
  Tensor grad_offsets = torch::stable::new_empty(offsets, offsets.sizes());
  Tensor grad_logits = torch::stable::new_empty(logits, logits.sizes());
  // Each head writes its own share; they are summed head after head, whatever thread wrote them.
  Tensor shares = torch::stable::new_empty(
      reference, {problem.batch, problem.heads, problem.queries, problem.levels, reference.size(3)});
  Inputs inputs{};
  inputs.places = offsets.const_data_ptr();
  inputs.weights = logits.const_data_ptr();
  inputs.reference = reference.const_data_ptr();
  inputs.coordinates = reference.size(3);
  inputs.grad_places = grad_offsets.mutable_data_ptr();
  inputs.grad_weights = grad_logits.mutable_data_ptr();
  inputs.grad_reference = shares.mutable_data_ptr();
  Tensor grad_value = run_backward(call, value, inputs, grad_output);
  const int64_t head_axis = 1;
  return {grad_value, in_dtype_of(reference_points, torch::stable::sum(shares, head_axis)),
          in_dtype_of(sampling_offsets, grad_offsets), in_dtype_of(attention_logits, grad_logits)};
}

}  // namespace ddetr::cpu
