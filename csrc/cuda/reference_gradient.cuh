// The fused operator's last step backward: from gradients of locations to those of offsets and reference points.
//
// A reference point is shared by heads and points, which other blocks have worked on; summing here, in one order, needs
// neither atomics nor memory of its own. It reads and writes the offsets' gradients once.

#pragma once

#include "shape.cuh"

namespace ddetr::cuda {

// One thread for each of B * Q * L. `grad_offsets` comes in as the locations' gradients.
template <typename Real>
__global__ void __launch_bounds__(kThreads)
    reference_kernel(const __grid_constant__ Shape shape, bool boxes, const Real* __restrict__ references,
                     const Real* __restrict__ offsets, Real* __restrict__ grad_offsets,
                     Real* __restrict__ grad_references) {
  const int64_t count = static_cast<int64_t>(shape.batch) * shape.queries * shape.levels;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    const int64_t row = i / shape.levels;
    const int index = static_cast<int>(i - row * shape.levels);
    const Level& level = shape.level(index);
    const Real points = static_cast<Real>(shape.points);
    // What one unit of offset moves a location by.
    const Real scale_u = boxes ? references[4 * i + 2] * Real(0.5) / points : Real(1) / static_cast<Real>(level.width);
    const Real scale_v = boxes ? references[4 * i + 3] * Real(0.5) / points : Real(1) / static_cast<Real>(level.height);
    Real sum_u = Real(0), sum_v = Real(0), sum_w = Real(0), sum_h = Real(0);
    for (int head = 0; head < shape.heads; ++head) {
      const int64_t first = ((row * shape.heads + head) * shape.levels + index) * shape.points;
      for (int64_t sample = first; sample < first + shape.points; ++sample) {
        const Real grad_u = grad_offsets[2 * sample], grad_v = grad_offsets[2 * sample + 1];
        sum_u += grad_u;
        sum_v += grad_v;
        if (boxes) {
          sum_w += grad_u * (offsets[2 * sample] / points * Real(0.5));
          sum_h += grad_v * (offsets[2 * sample + 1] / points * Real(0.5));
        }
        grad_offsets[2 * sample] = grad_u * scale_u;
        grad_offsets[2 * sample + 1] = grad_v * scale_v;
      }
    }
    Real* to = grad_references + i * (boxes ? 4 : 2);
    to[0] = sum_u;
    to[1] = sum_v;
    if (boxes) {
      to[2] = sum_w;
      to[3] = sum_h;
    }
  }
}

}  // namespace ddetr::cuda
