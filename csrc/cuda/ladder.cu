// The kernel that everyone writes first, forward and backward. Chapter 9 measures what the others gain on it.

#include "../bilinear.h"
#include "ladder.h"

namespace ddetr::cuda {
namespace {

// One (picture, query, head, channel), numbered as the output is.
struct Output {
  int64_t item, row, picture;
  int head, channel;
};

__device__ __forceinline__ Output output_of(const Shape& shape, int64_t i) {
  Output output;
  output.channel = static_cast<int>(i % shape.channels);
  output.item = i / shape.channels;
  output.head = static_cast<int>(output.item % shape.heads);
  output.row = output.item / shape.heads;
  output.picture = output.row / shape.queries;
  return output;
}

// Where a cell's number for this output lies in value.
__device__ __forceinline__ int64_t cell_of(const Shape& shape, const Output& output, int64_t token) {
  return ((output.picture * shape.tokens + token) * shape.heads + output.head) * shape.channels + output.channel;
}

__global__ void forward_kernel(const __grid_constant__ Shape shape, const float* value, const float* locations,
                               const float* weights, float* to, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count)
    return;
  const Output output = output_of(shape, i);
  float sum = 0;
  for (int index = 0; index < shape.samples; ++index) {
    const int64_t at = output.item * shape.samples + index;
    const Level& level = shape.level(index / shape.points);
    Sample<float> sample;
    if (!locate(locations[2 * at], locations[2 * at + 1], level.height, level.width, sample)) {
      const float zero = (locations[2 * at] - locations[2 * at]) + (locations[2 * at + 1] - locations[2 * at + 1]);
      sum += zero;  // NaN where the location is not finite
      continue;
    }
    float weight[4];
    corner_weights(sample, weight);
    for (int c = 0; c < 4; ++c) {
      sum += weights[at] * weight[c] * value[cell_of(shape, output, level.start + sample.cell[c])];
    }
  }
  to[i] = sum;
}

__global__ void backward_kernel(const __grid_constant__ Shape shape, const float* value, const float* locations,
                                const float* weights, const float* grad_output, float* grad_value,
                                float* grad_locations, float* grad_weights, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count)
    return;
  const Output output = output_of(shape, i);
  for (int index = 0; index < shape.samples; ++index) {
    const int64_t at = output.item * shape.samples + index;
    const Level& level = shape.level(index / shape.points);
    Sample<float> sample;
    if (!locate(locations[2 * at], locations[2 * at + 1], level.height, level.width, sample))
      continue;
    float weight[4], gain[4], grad_u, grad_v, grad_weight = 0;
    corner_weights(sample, weight);
    for (int c = 0; c < 4; ++c) {
      const int64_t cell = cell_of(shape, output, level.start + sample.cell[c]);
      gain[c] = grad_output[i] * value[cell];
      grad_weight += weight[c] * gain[c];
      atomicAdd(grad_value + cell, weights[at] * weight[c] * grad_output[i]);
    }
    location_gradient(sample, gain, level.height, level.width, grad_u, grad_v);
    atomicAdd(grad_locations + 2 * at, weights[at] * grad_u);
    atomicAdd(grad_locations + 2 * at + 1, weights[at] * grad_v);
    atomicAdd(grad_weights + at, grad_weight);
  }
}

int64_t outputs(const Shape& shape) {
  return int64_t{shape.batch} * shape.queries * shape.heads * shape.channels;
}

dim3 blocks_for(int64_t count) {
  return dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads));
}

}  // namespace

void ladder_forward(const Shape& shape, const Arguments& call, cudaStream_t stream) {
  const int64_t count = outputs(shape);
  launch("ladder_forward", &forward_kernel, blocks_for(count), kThreads, stream, shape,
         static_cast<const float*>(call.value), static_cast<const float*>(call.points),
         static_cast<const float*>(call.weights), static_cast<float*>(call.output), count);
}

void ladder_backward(const Shape& shape, const Arguments& call, cudaStream_t stream) {
  const int64_t count = outputs(shape);
  launch("ladder_backward", &backward_kernel, blocks_for(count), kThreads, stream, shape,
         static_cast<const float*>(call.value), static_cast<const float*>(call.points),
         static_cast<const float*>(call.weights), static_cast<const float*>(call.grad_output),
         static_cast<float*>(call.grad_value), static_cast<float*>(call.grad_points),
         static_cast<float*>(call.grad_weights), count);
}

}  // namespace ddetr::cuda
