// Where one sample of deformable attention reads: the four cells around a location, and their bilinear weights.
//
// The arithmetic of every kernel, CPU and CUDA, so that what a sanitizer or a gradient check exercises on the CPU is
// what a GPU runs. A location (u, v) is in 0-1 of the padded map; a cell's centre sits half a cell inside it, hence
// x = u * W - 0.5. Cells outside the map read zero.

#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define DDETR_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define DDETR_HOST_DEVICE inline
#endif

namespace ddetr {

// The corners are numbered 0: top left, 1: top right, 2: bottom left, 3: bottom right.
template <typename Real>
struct Sample {
  int32_t cell[4];   // row-major inside the level; corners outside the map point at a cell inside it
  Real inside[4];    // 1 where the corner is inside the map, else 0
  Real fraction_x;   // of the way from the left to the right corners
  Real fraction_y;   // of the way from the top to the bottom corners
};

// Returns false where no corner is inside, and for locations that are not finite, which the
// caller treats.
template <typename Real>
DDETR_HOST_DEVICE bool locate(Real u, Real v, int32_t height, int32_t width, Sample<Real>& sample) {
  const Real x = u * static_cast<Real>(width) - static_cast<Real>(0.5);
  const Real y = v * static_cast<Real>(height) - static_cast<Real>(0.5);
  // Written so that a NaN, which compares false with everything, is outside.
  const bool touches = x > Real(-1) && x < static_cast<Real>(width) && y > Real(-1) && y < static_cast<Real>(height);
  // The conversion to int is undefined for what does not fit, so that it sees 0 instead.
  const Real floor_x = std::floor(touches ? x : Real(0));
  const Real floor_y = std::floor(touches ? y : Real(0));
  sample.fraction_x = (touches ? x : Real(0)) - floor_x;
  sample.fraction_y = (touches ? y : Real(0)) - floor_y;
  const int32_t left = static_cast<int32_t>(floor_x), top = static_cast<int32_t>(floor_y);
  const int32_t right = left + 1, bottom = top + 1;
  const bool left_in = left >= 0, right_in = right < width, top_in = top >= 0, bottom_in = bottom < height;
  const int32_t l = left_in ? left : 0, r = right_in ? right : width - 1;
  const int32_t t = top_in ? top : 0, b = bottom_in ? bottom : height - 1;
  sample.cell[0] = t * width + l;
  sample.cell[1] = t * width + r;
  sample.cell[2] = b * width + l;
  sample.cell[3] = b * width + r;
  sample.inside[0] = Real(top_in && left_in);
  sample.inside[1] = Real(top_in && right_in);
  sample.inside[2] = Real(bottom_in && left_in);
  sample.inside[3] = Real(bottom_in && right_in);
  return touches;
}

// The bilinear weight of each corner, 0 for corners outside the map.
template <typename Real>
DDETR_HOST_DEVICE void corner_weights(const Sample<Real>& sample, Real weight[4]) {
  const Real x1 = sample.fraction_x, y1 = sample.fraction_y, x0 = Real(1) - x1, y0 = Real(1) - y1;
  weight[0] = y0 * x0 * sample.inside[0];
  weight[1] = y0 * x1 * sample.inside[1];
  weight[2] = y1 * x0 * sample.inside[2];
  weight[3] = y1 * x1 * sample.inside[3];
}

// What the loss gains per unit of u and v, given each corner's gain per unit of weight.
template <typename Real>
DDETR_HOST_DEVICE void location_gradient(
    const Sample<Real>& sample, const Real gain[4], int32_t height, int32_t width, Real& grad_u, Real& grad_v) {
  const Real g0 = gain[0] * sample.inside[0], g1 = gain[1] * sample.inside[1];
  const Real g2 = gain[2] * sample.inside[2], g3 = gain[3] * sample.inside[3];
  const Real x1 = sample.fraction_x, y1 = sample.fraction_y;
  grad_u = static_cast<Real>(width) * ((Real(1) - y1) * (g1 - g0) + y1 * (g3 - g2));
  grad_v = static_cast<Real>(height) * ((Real(1) - x1) * (g2 - g0) + x1 * (g3 - g1));
}

}  // namespace ddetr
