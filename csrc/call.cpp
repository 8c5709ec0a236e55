// The checks of a call. Each message names the argument, what came, what was expected and what to do.

#include "call.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/Exception.h>

#include <limits>
#include <string>

namespace ddetr {

using torch::headeronly::DeviceType;

std::string shape_of(const Tensor& tensor) {
  std::string text = "(";
  for (int64_t axis = 0; axis < tensor.dim(); ++axis) {
    text += (axis ? ", " : "") + std::to_string(tensor.size(axis));
  }
  return text + ")";
}

std::string device_of(const Tensor& tensor) {
  const auto device = tensor.device();
  if (device.is_cpu())
    return "cpu";
  const std::string index = ":" + std::to_string(device.index());
  return device.is_cuda() ? "cuda" + index : "device type " + std::to_string(static_cast<int>(device.type())) + index;
}

namespace {

bool is_real(ScalarType type) {
  return type == ScalarType::Double || type == ScalarType::Float || type == ScalarType::Half ||
         type == ScalarType::BFloat16;
}

void check_real(const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(is_real(tensor.scalar_type()), name, " has dtype ", torch::headeronly::toString(tensor.scalar_type()),
                  ", expected float64, float32, float16 or bfloat16: convert it with .to(...)");
}

// A float tensor, beside `value`.
void check_beside(const char* name, const Tensor& tensor, const Tensor& value) {
  check_real(name, tensor);
  STD_TORCH_CHECK(tensor.device() == value.device(), name, " is on ", device_of(tensor), ", but value is on ",
                  device_of(value), ": move both to one device with .to(...)");
}

Element element_of(ScalarType type) {
  switch (type) {
    case ScalarType::Double:
      return Element::Float64;
    case ScalarType::Half:
      return Element::Float16;
    case ScalarType::BFloat16:
      return Element::BFloat16;
    default:
      return Element::Float32;  // check_real has refused what is not one of the four
  }
}

// An integer tensor's numbers, on the CPU.
Tensor numbers_of(const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Long || tensor.scalar_type() == ScalarType::Int, name,
                  " has dtype ", torch::headeronly::toString(tensor.scalar_type()),
                  ", expected int64: convert it with .long()");
  const bool here = tensor.is_cpu();
  return plain(here ? tensor : torch::stable::to(tensor, torch::stable::Device(DeviceType::CPU)), ScalarType::Long);
}

// `names` spells the factors out; kernels count elements in 64 bits, and bytes of up to 8 an element.
void check_product(const char* names, std::initializer_list<int64_t> factors) {
  constexpr int64_t kLimit = std::numeric_limits<int64_t>::max() / 16;
  int64_t product = 1;
  std::string numbers;
  bool fits = true, empty = false;
  for (const int64_t factor : factors) {
    numbers += (numbers.empty() ? "" : " * ") + std::to_string(factor);
    empty |= factor == 0;
    fits = fits && (factor == 0 || product <= kLimit / factor);
    if (fits && factor != 0)
      product *= factor;
  }
  STD_TORCH_CHECK(fits || empty, names, " = ", numbers,
                  " elements overflow a 64-bit size: split the call into smaller ones");
}

// Reads the maps' sizes into `call` and checks them against each other and against S.
void check_levels(Call& call, const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
                  int64_t levels) {
  STD_TORCH_CHECK(spatial_shapes.dim() == 2 && spatial_shapes.size(0) == levels && spatial_shapes.size(1) == 2,
                  "spatial_shapes is not (L, 2) with L = ", levels, ", it is ", shape_of(spatial_shapes),
                  ": give one (height, width) for each level that is sampled");
  STD_TORCH_CHECK(level_start_index.dim() == 1 && level_start_index.size(0) == levels,
                  "level_start_index is not (L,) with L = ", levels, ", it is ", shape_of(level_start_index),
                  ": give the first token of each level");
  const Tensor shapes = numbers_of("spatial_shapes", spatial_shapes);
  const Tensor starts = numbers_of("level_start_index", level_start_index);
  const int64_t* pairs = levels ? shapes.const_data_ptr<int64_t>() : nullptr;
  const int64_t* firsts = levels ? starts.const_data_ptr<int64_t>() : nullptr;
  int64_t total = 0;
  for (int64_t level = 0; level < levels; ++level) {
    const int64_t height = pairs[2 * level], width = pairs[2 * level + 1];
    STD_TORCH_CHECK(height > 0 && width > 0 && height <= std::numeric_limits<int32_t>::max() / width, "spatial_shapes[",
                    level, "] = (", height, ", ", width,
                    ") is no size of a map: both sides must be positive, and their product below 2^31");
    STD_TORCH_CHECK(firsts[level] == total, "level_start_index[", level, "] = ", firsts[level],
                    ", but the levels before it have ", total, " tokens: levels lie one after the other, without gaps");
    call.heights.push_back(height);
    call.widths.push_back(width);
    call.starts.push_back(total);
    total += height * width;
  }
  STD_TORCH_CHECK(total == value.size(1), "value has S = ", value.size(1), " tokens, but spatial_shapes add up to ",
                  total, ": the sum of height * width must be S");
}

// What both operators share. `points_name` names the (B, Q, M, L, P, 2) tensor, `weights_name` the (B, Q, M, L, P) one.
Call checked(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
             const char* points_name, const Tensor& points, const char* weights_name, const Tensor& weights) {
  STD_TORCH_CHECK(value.dim() == 4, "value has ", value.dim(), " dimensions, ", shape_of(value),
                  ", expected 4: (B, S, M, D); split the channels into heads with value.unflatten(-1, (M, D))");
  STD_TORCH_CHECK(points.dim() == 6 && points.size(5) == 2, points_name, " is not (B, Q, M, L, P, 2), it is ",
                  shape_of(points), ": its last axis holds x and y");
  STD_TORCH_CHECK(weights.dim() == 5, weights_name, " has ", weights.dim(), " dimensions, ", shape_of(weights),
                  ", expected 5: (B, Q, M, L, P); give one number a sampled point");
  for (int64_t axis = 0; axis < 5; ++axis) {
    STD_TORCH_CHECK(weights.size(axis) == points.size(axis), weights_name, " and ", points_name, " differ in axis ",
                    axis, ": ", weights.size(axis), " and ", points.size(axis),
                    ", expected the same (B, Q, M, L, P) in both");
  }
  STD_TORCH_CHECK(value.size(0) == points.size(0) && value.size(2) == points.size(2), "value has B = ", value.size(0),
                  ", M = ", value.size(2), ", but ", points_name, " has B = ", points.size(0), ", M = ", points.size(2),
                  ": both must agree");
  check_real("value", value);
  check_beside(points_name, points, value);
  check_beside(weights_name, weights, value);
  Call call;
  check_levels(call, value, spatial_shapes, level_start_index, points.size(3));
  call.problem = Problem{value.size(0),  value.size(1),  value.size(2),       value.size(3),      points.size(1),
                         points.size(3), points.size(4), call.heights.data(), call.widths.data(), call.starts.data()};
  const Problem& p = call.problem;
  check_product("B * S * M * D", {p.batch, p.tokens, p.heads, p.channels});
  check_product("B * Q * M * D", {p.batch, p.queries, p.heads, p.channels});
  check_product("B * Q * M * L * P * 2", {p.batch, p.queries, p.heads, p.levels, p.points, 2});
  call.element = element_of(value.scalar_type());
  call.real = call.element == Element::Float64 ? ScalarType::Double : ScalarType::Float;
  return call;
}

}  // namespace

Call checked_call(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
                  const Tensor& sampling_locations, const Tensor& attention_weights) {
  return checked(value, spatial_shapes, level_start_index, "sampling_locations", sampling_locations,
                 "attention_weights", attention_weights);
}

Call checked_fused_call(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
                        const Tensor& reference_points, const Tensor& sampling_offsets,
                        const Tensor& attention_logits) {
  Call call = checked(value, spatial_shapes, level_start_index, "sampling_offsets", sampling_offsets,
                      "attention_logits", attention_logits);
  const Problem& p = call.problem;
  STD_TORCH_CHECK(reference_points.dim() == 4 && (reference_points.size(3) == 2 || reference_points.size(3) == 4),
                  "reference_points is not (B, Q, L, 2) or (B, Q, L, 4), it is ", shape_of(reference_points),
                  ": its last axis holds (x, y) or (cx, cy, w, h)");
  STD_TORCH_CHECK(reference_points.size(0) == p.batch && reference_points.size(1) == p.queries &&
                      reference_points.size(2) == p.levels,
                  "reference_points is ", shape_of(reference_points), ", but sampling_offsets has B = ", p.batch,
                  ", Q = ", p.queries, ", L = ", p.levels, ": give each query one reference on every level");
  check_beside("reference_points", reference_points, value);
  call.boxes = reference_points.size(3) == 4;
  return call;
}

void check_grad_output(const Call& call, const Tensor& value, const Tensor& grad_output) {
  const Problem& p = call.problem;
  STD_TORCH_CHECK(grad_output.dim() == 3 && grad_output.size(0) == p.batch && grad_output.size(1) == p.queries &&
                      grad_output.size(2) == p.heads * p.channels,
                  "grad_output is not (B, Q, M * D) = (", p.batch, ", ", p.queries, ", ", p.heads * p.channels,
                  "), it is ", shape_of(grad_output), ": it must have the result's shape");
  check_beside("grad_output", grad_output, value);
}

Tensor plain(const Tensor& tensor, ScalarType type) {
  return torch::stable::contiguous(tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type));
}

Tensor with_neighbouring_channels(const Tensor& value) {
  return value.size(3) <= 1 || value.stride(3) == 1 ? value : torch::stable::contiguous(value);
}

Tensor in_dtype_of(const Tensor& original, const Tensor& gradient) {
  return gradient.scalar_type() == original.scalar_type() ? gradient
                                                          : torch::stable::to(gradient, original.scalar_type());
}

}  // namespace ddetr
