// The CUDA side of the operators: memory, the current stream, and which kernels run. The arithmetic is in kernels.cu.

#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "../call.h"
#include "../ms_deform_attn.h"
#include "kernels.h"
#include "ladder.h"

namespace ddetr::cuda {
namespace {

// Samples that a deterministic pass sorts together, unless one picture has more: 16 bytes each, and the sort's own.
constexpr int64_t kSortedTogether = int64_t{1} << 24;

const Kernels& kernels_for(Element element) {
  switch (element) {
    case Element::Float64:
      return float64_kernels();
    case Element::Float16:
      return float16_kernels();
    case Element::BFloat16:
      return bfloat16_kernels();
    default:
      return float32_kernels();
  }
}

// Work is queued on the stream that the caller has made current, and nothing here waits for it.
cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Makes value's GPU the current one while it lives.
torch::stable::accelerator::DeviceGuard guard_for(const Tensor& value) {
  // Integer tensors may be on a GPU beside a value that is not: then this code has been called for their sake.
  STD_TORCH_CHECK(value.is_cuda(), "value is on the CPU, but another argument is on a GPU: move all to one device");
  return torch::stable::accelerator::DeviceGuard(value.get_device_index());
}

// The kernels' view of a call, and what must live until they are queued: the tensors that its pointers lie in.
struct Prepared {
  Prepared(Call checked, const Tensor& original, const Tensor& points_or_offsets, const Tensor& weights_or_logits,
           const Tensor* reference_points);  // null for ms_deform_attn

  Call call;
  torch::stable::accelerator::DeviceGuard guard;
  Shape shape{};
  Tensor value, points, weights, references, more_levels;
  Arguments arguments{};

  const Problem& problem() const { return call.problem; }
};

// Kernels count in 32 bits what has one axis, and addresses in 64. A loop may step past its end by less than 2^17.
void check_32_bits(const char* name, int64_t number) {
  constexpr int64_t kMost = (int64_t{1} << 31) - (int64_t{1} << 17);
  STD_TORCH_CHECK(number <= kMost, name, " = ", number, " is more than the CUDA kernels count to, ", kMost,
                  ": split the call, or run it on the CPU");
}

// Copies the levels' sizes, and on to the GPU where they are too many for a kernel's parameters. It has been read
// when the call returns: the memory is not pinned.
void set_levels(Prepared& prepared) {
  const Problem& p = prepared.problem();
  std::vector<Level> levels;
  int64_t anchors = 0;
  for (int64_t level = 0; level < p.levels; ++level) {
    levels.push_back({static_cast<int32_t>(p.heights[level]), static_cast<int32_t>(p.widths[level]),
                      static_cast<int32_t>(p.starts[level]), static_cast<int32_t>(anchors)});
    anchors += (p.heights[level] + 1) * (p.widths[level] + 1);
    check_32_bits("the sum of (height + 1) * (width + 1)", anchors);
  }
  prepared.shape.anchors = static_cast<int32_t>(anchors);
  if (p.levels <= kInlineLevels) {
    std::copy(levels.begin(), levels.end(), prepared.shape.inline_levels);
    return;
  }
  const int64_t bytes = p.levels * static_cast<int64_t>(sizeof(Level));
  prepared.more_levels = torch::stable::new_empty(prepared.value, {bytes}, ScalarType::Byte);
  check(cudaMemcpyAsync(prepared.more_levels.mutable_data_ptr(), levels.data(), static_cast<size_t>(bytes),
                        cudaMemcpyHostToDevice, current_stream(prepared.value)),
        "copying the levels' sizes");
  prepared.shape.more_levels = static_cast<const Level*>(prepared.more_levels.const_data_ptr());
}

Prepared::Prepared(Call checked, const Tensor& original, const Tensor& points_or_offsets,
                   const Tensor& weights_or_logits, const Tensor* reference_points)
    : call(std::move(checked)), guard(guard_for(original)) {
  const Problem& p = problem();
  check_32_bits("S", p.tokens);
  check_32_bits("Q", p.queries);
  check_32_bits("M", p.heads);
  check_32_bits("D", p.channels);
  check_32_bits("B", p.batch);
  check_32_bits("B * M", p.batch * p.heads);
  check_32_bits("M * D", p.heads * p.channels);
  check_32_bits("L", p.levels);
  check_32_bits("P", p.points);
  check_32_bits("L * P", p.levels * p.points);
  value = with_neighbouring_channels(original);
  points = plain(points_or_offsets, call.real);
  weights = plain(weights_or_logits, call.real);
  shape.batch = static_cast<int32_t>(p.batch);
  shape.tokens = static_cast<int32_t>(p.tokens);
  shape.heads = static_cast<int32_t>(p.heads);
  shape.channels = static_cast<int32_t>(p.channels);
  shape.queries = static_cast<int32_t>(p.queries);
  shape.levels = static_cast<int32_t>(p.levels);
  shape.points = static_cast<int32_t>(p.points);
  shape.samples = static_cast<int32_t>(p.levels * p.points);
  shape.picture_stride = value.stride(0);
  shape.token_stride = value.stride(1);
  shape.head_stride = value.stride(2);
  set_levels(*this);
  arguments.value = value.const_data_ptr();
  arguments.points = points.const_data_ptr();
  arguments.weights = weights.const_data_ptr();
  if (reference_points) {
    references = plain(*reference_points, call.real);
    arguments.references = references.const_data_ptr();
    arguments.boxes = call.boxes;
  }
}

Tensor forward(Prepared& prepared) {
  const Problem& p = prepared.problem();
  Tensor output = torch::stable::new_empty(prepared.value, {p.batch, p.queries, p.heads * p.channels});
  if (output.numel() == 0)
    return output;
  prepared.arguments.output = output.mutable_data_ptr();
  kernels_for(prepared.call.element).forward(prepared.shape, prepared.arguments, current_stream(output));
  return output;
}

// The gradient of value by sorting: its memory is bounded by the samples that are sorted together.
Tensor sorted_value_gradient(Prepared& prepared, cudaStream_t stream) {
  const Problem& p = prepared.problem();
  const int64_t samples = p.queries * p.heads * prepared.shape.samples, keys = p.heads * prepared.shape.anchors;
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(
      samples <= kMost && keys < kMost, "one picture has Q * M * L * P = ", samples, " samples on ", keys,
      " anchors, of which the deterministic backward pass sorts at most 2^31 - 1: use fewer queries a call");
  const int64_t together =
      std::min(kSortedTogether / std::max<int64_t>(samples, 1), kMost / std::max<int64_t>(keys, 1));
  const int64_t pictures = std::clamp<int64_t>(together, 1, p.batch);
  const int64_t count = pictures * samples;
  const auto bytes = [&](int64_t size) { return torch::stable::new_empty(prepared.value, {size}, ScalarType::Byte); };
  const bool fused = prepared.arguments.references != nullptr;
  const int64_t softmax_bytes = fused ? 4 * static_cast<int64_t>(prepared.points.element_size()) : 1;
  Tensor grad_value = torch::stable::new_empty(prepared.value, prepared.value.sizes());
  const size_t sorting = sorting_bytes(count);
  const Tensor pairs = bytes(4 * count * 4), softmaxes = bytes(pictures * p.queries * p.heads * softmax_bytes);
  const Tensor scratch = bytes(static_cast<int64_t>(sorting));
  uint32_t* numbers = static_cast<uint32_t*>(pairs.mutable_data_ptr());
  prepared.arguments.grad_value = grad_value.mutable_data_ptr();
  kernels_for(prepared.call.element)
      .value_gradient(prepared.shape, prepared.arguments,
                      Scratch{static_cast<int32_t>(pictures), numbers, numbers + count, numbers + 2 * count,
                              numbers + 3 * count, softmaxes.mutable_data_ptr(), scratch.mutable_data_ptr(), sorting},
                      stream);
  return grad_value;
}

// The gradients of value, points and weights; that of references is written where the arguments say.
std::tuple<Tensor, Tensor, Tensor> backward(Prepared& prepared, const Tensor& value, const Tensor& grad_output,
                                            bool deterministic) {
  check_grad_output(prepared.call, value, grad_output);
  const Problem& p = prepared.problem();
  Tensor grad_points = torch::stable::new_empty(prepared.points, prepared.points.sizes());
  Tensor grad_weights = torch::stable::new_empty(prepared.weights, prepared.weights.sizes());
  const bool results = p.batch * p.queries * p.heads > 0;
  const Tensor gradient = plain(grad_output, value.scalar_type());
  Arguments& arguments = prepared.arguments;
  arguments.grad_output = gradient.const_data_ptr();
  arguments.grad_points = grad_points.mutable_data_ptr();
  arguments.grad_weights = grad_weights.mutable_data_ptr();
  const cudaStream_t stream = current_stream(value);
  const Kernels& kernels = kernels_for(prepared.call.element);
  Tensor grad_value;
  if (deterministic && results && value.numel() > 0) {
    kernels.backward(prepared.shape, arguments, stream);
    grad_value = sorted_value_gradient(prepared, stream);
  } else {
    grad_value = torch::stable::new_zeros(prepared.value, prepared.value.sizes(), prepared.call.real);
    arguments.grad_value = grad_value.mutable_data_ptr();
    if (results)
      kernels.backward(prepared.shape, arguments, stream);
  }
  return {in_dtype_of(value, grad_value), std::move(grad_points), std::move(grad_weights)};
}

}  // namespace

Tensor ms_deform_attn(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
                      const Tensor& sampling_locations, const Tensor& attention_weights) {
  Prepared prepared(checked_call(value, spatial_shapes, level_start_index, sampling_locations, attention_weights),
                    value, sampling_locations, attention_weights, nullptr);
  return forward(prepared);
}

std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward(const Tensor& value, const Tensor& spatial_shapes,
                                                           const Tensor& level_start_index,
                                                           const Tensor& sampling_locations,
                                                           const Tensor& attention_weights, const Tensor& grad_output,
                                                           bool deterministic) {
  Prepared prepared(checked_call(value, spatial_shapes, level_start_index, sampling_locations, attention_weights),
                    value, sampling_locations, attention_weights, nullptr);
  const auto [grad_value, grad_locations, grad_weights] = backward(prepared, value, grad_output, deterministic);
  return {grad_value, in_dtype_of(sampling_locations, grad_locations), in_dtype_of(attention_weights, grad_weights)};
}

Tensor ms_deform_attn_fused(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
                            const Tensor& reference_points, const Tensor& sampling_offsets,
                            const Tensor& attention_logits) {
  Prepared prepared(checked_fused_call(value, spatial_shapes, level_start_index, reference_points, sampling_offsets,
                                       attention_logits),
                    value, sampling_offsets, attention_logits, &reference_points);
  return forward(prepared);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> ms_deform_attn_fused_backward(
    const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index, const Tensor& reference_points,
    const Tensor& sampling_offsets, const Tensor& attention_logits, const Tensor& grad_output, bool deterministic) {
  Prepared prepared(checked_fused_call(value, spatial_shapes, level_start_index, reference_points, sampling_offsets,
                                       attention_logits),
                    value, sampling_offsets, attention_logits, &reference_points);
  // Zeros, for without heads no kernel runs.
  Tensor grad_references = torch::stable::new_zeros(prepared.references, prepared.references.sizes());
  prepared.arguments.grad_references = grad_references.mutable_data_ptr();
  const auto [grad_value, grad_offsets, grad_logits] = backward(prepared, value, grad_output, deterministic);
  return {grad_value, in_dtype_of(reference_points, grad_references), in_dtype_of(sampling_offsets, grad_offsets),
          in_dtype_of(attention_logits, grad_logits)};
}

namespace {

void check_ladder(const Tensor& value) {
  STD_TORCH_CHECK(value.scalar_type() == ScalarType::Float && value.is_contiguous(),
                  "the ladder's kernels take a contiguous float32 value: use ms_deform_attn for others");
}

}  // namespace

Tensor ladder_ms_deform_attn(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
                             const Tensor& sampling_locations, const Tensor& attention_weights) {
  check_ladder(value);
  Prepared prepared(checked_call(value, spatial_shapes, level_start_index, sampling_locations, attention_weights),
                    value, sampling_locations, attention_weights, nullptr);
  const Problem& p = prepared.problem();
  Tensor output = torch::stable::new_empty(value, {p.batch, p.queries, p.heads * p.channels});
  prepared.arguments.output = output.mutable_data_ptr();
  if (output.numel() > 0)
    ladder_forward(prepared.shape, prepared.arguments, current_stream(value));
  return output;
}

std::tuple<Tensor, Tensor, Tensor> ladder_ms_deform_attn_backward(const Tensor& value, const Tensor& spatial_shapes,
                                                                  const Tensor& level_start_index,
                                                                  const Tensor& sampling_locations,
                                                                  const Tensor& attention_weights,
                                                                  const Tensor& grad_output) {
  check_ladder(value);
  Prepared prepared(checked_call(value, spatial_shapes, level_start_index, sampling_locations, attention_weights),
                    value, sampling_locations, attention_weights, nullptr);
  check_grad_output(prepared.call, value, grad_output);
  const Tensor gradient = plain(grad_output, ScalarType::Float);
  Tensor grad_value = torch::stable::new_zeros(value, value.sizes());
  Tensor grad_locations = torch::stable::new_zeros(prepared.points, prepared.points.sizes());
  Tensor grad_weights = torch::stable::new_zeros(prepared.weights, prepared.weights.sizes());
  Arguments& arguments = prepared.arguments;
  arguments.grad_output = gradient.const_data_ptr();
  arguments.grad_value = grad_value.mutable_data_ptr();
  arguments.grad_points = grad_locations.mutable_data_ptr();
  arguments.grad_weights = grad_weights.mutable_data_ptr();
  if (gradient.numel() > 0)
    ladder_backward(prepared.shape, arguments, current_stream(value));
  return {grad_value, grad_locations, grad_weights};
}

}  // namespace ddetr::cuda
