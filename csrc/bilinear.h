// Where one sample of deformable attention reads: the four cells around a location, and their bilinear weights.
//
// The arithmetic of every kernel, CPU and CUDA, so that what a sanitizer or a gradient check exercises on the CPU is
// what a GPU runs. A location (u, v) is in 0-1 of the padded map; a cell's centre sits half a cell inside it, hence
// x = u * W - 0.5. Cells outside the map read zero.

#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define DDETR_HOST_DEVICE __host__ __device__ __forceinline__
#define DDETR_HOST_DEVICE_STATIC static __host__ __device__ __forceinline__
#else
// Internal linkage: the CPU kernels are compiled once for each instruction set, and their copies must not be merged.
#define DDETR_HOST_DEVICE static inline
#define DDETR_HOST_DEVICE_STATIC static inline __attribute__((always_inline))
#endif

namespace ddetr {

// What the arithmetic needs of a number type besides + - * and comparisons. Here for single numbers; the CPU kernels
// add vectors of them, so that several samples are located at once by the same code.
template <typename Real>
struct Numbers {
  using Integer = int32_t;
  using Truth = bool;
  DDETR_HOST_DEVICE_STATIC Real real(Integer n) { return static_cast<Real>(n); }
  DDETR_HOST_DEVICE_STATIC Integer cut(Real x) { return static_cast<Integer>(x); }  // towards zero
  DDETR_HOST_DEVICE_STATIC Integer integer(Truth t) { return static_cast<Integer>(t); }
  template <typename T>
  DDETR_HOST_DEVICE_STATIC T choose(Truth t, T yes, T no) {
    return t ? yes : no;
  }
};

// The corners are numbered 0: top left, 1: top right, 2: bottom left, 3: bottom right.
template <typename Real>
struct Sample {
  typename Numbers<Real>::Integer cell[4];  // row-major inside the level; corners outside point at a cell inside it
  Real inside[4];                           // 1 where the corner is inside the map, else 0
  Real fraction_x;                          // of the way from the left to the right corners
  Real fraction_y;                          // of the way from the top to the bottom corners
};

// Returns false where no corner is inside: all weights are 0 then, and the cells some cell of the map. Locations that
// are not finite are outside too, and the caller's to treat. There are no branches: a vector's samples take one way
// together.
template <typename Real>
DDETR_HOST_DEVICE typename Numbers<Real>::Truth locate(Real u, Real v, typename Numbers<Real>::Integer height,
                                                       typename Numbers<Real>::Integer width, Sample<Real>& sample) {
  using N = Numbers<Real>;
  using Integer = typename N::Integer;
  using Truth = typename N::Truth;
  const Real wide = N::real(width), high = N::real(height);
  const Real zero = N::real(width - width), one = N::real(width - width + 1), half = one * 0.5f;
  const Real x = u * wide - half, y = v * high - half;
  // Written so that a NaN, which compares false with everything, is outside.
  const Truth touches = (x > -one) & (x < wide) & (y > -one) & (y < high);
  // The conversion to an integer is undefined for what does not fit, so that it sees 0 instead.
  const Real safe_x = N::choose(touches, x, zero), safe_y = N::choose(touches, y, zero);
  const Integer cut_x = N::cut(safe_x), cut_y = N::cut(safe_y);
  const Integer left = cut_x - N::integer(safe_x < N::real(cut_x)), top = cut_y - N::integer(safe_y < N::real(cut_y));
  const Integer right = left + 1, bottom = top + 1;
  sample.fraction_x = safe_x - N::real(left);
  sample.fraction_y = safe_y - N::real(top);
  const Truth left_in = left >= 0, right_in = right < width, top_in = top >= 0, bottom_in = bottom < height;
  const Real in = N::choose(touches, one, zero);
  const Integer l = N::choose(left_in, left, right), r = N::choose(right_in, right, left);
  const Integer t = N::choose(top_in, top, bottom), b = N::choose(bottom_in, bottom, top);
  sample.cell[0] = t * width + l;
  sample.cell[1] = t * width + r;
  sample.cell[2] = b * width + l;
  sample.cell[3] = b * width + r;
  sample.inside[0] = N::choose(top_in & left_in, in, zero);
  sample.inside[1] = N::choose(top_in & right_in, in, zero);
  sample.inside[2] = N::choose(bottom_in & left_in, in, zero);
  sample.inside[3] = N::choose(bottom_in & right_in, in, zero);
  return touches;
}

// The bilinear weight of each corner, 0 for corners outside the map.
template <typename Real>
DDETR_HOST_DEVICE void corner_weights(const Sample<Real>& sample, Real weight[4]) {
  const Real x1 = sample.fraction_x, y1 = sample.fraction_y, x0 = 1 - x1, y0 = 1 - y1;
  weight[0] = y0 * x0 * sample.inside[0];
  weight[1] = y0 * x1 * sample.inside[1];
  weight[2] = y1 * x0 * sample.inside[2];
  weight[3] = y1 * x1 * sample.inside[3];
}

// What the loss gains per unit of u and v, given each corner's gain per unit of weight.
template <typename Real>
DDETR_HOST_DEVICE void location_gradient(const Sample<Real>& sample, const Real gain[4],
                                         typename Numbers<Real>::Integer height, typename Numbers<Real>::Integer width,
                                         Real& grad_u, Real& grad_v) {
  const Real g0 = gain[0] * sample.inside[0], g1 = gain[1] * sample.inside[1];
  const Real g2 = gain[2] * sample.inside[2], g3 = gain[3] * sample.inside[3];
  const Real x1 = sample.fraction_x, y1 = sample.fraction_y;
  grad_u = Numbers<Real>::real(width) * ((1 - y1) * (g1 - g0) + y1 * (g3 - g2));
  grad_v = Numbers<Real>::real(height) * ((1 - x1) * (g2 - g0) + x1 * (g3 - g1));
}

}  // namespace ddetr
