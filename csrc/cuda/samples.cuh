// Where a query and head look, and with what weight: given (ms_deform_attn), or made here from what a layer computes
// (ms_deform_attn_fused), so that locations and softmax never reach memory.

#pragma once

#include <cmath>

#include "group.cuh"
#include "shape.cuh"

namespace ddetr::cuda {

template <typename Real>
struct Point {
  Real u, v, attention;
};

// One query and head. `row` counts B * Q, `item` counts B * Q * M.
struct Item {
  int64_t row, item;
  bool there;  // false for groups past the last query
};

template <typename Real>
struct GivenSamples {
  const Real* locations;  // (B, Q, M, L, P, 2)
  const Real* weights;    // (B, Q, M, L, P)
  Real* grad_locations;
  Real* grad_weights;

  struct Softmax {};  // there is none

  // On one processor, without spilling a register.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  static constexpr int kForwardBlocks = 4;  // Turing holds no more threads
#else
  static constexpr int kForwardBlocks = 5;
#endif

  __device__ __forceinline__ Softmax open(const Shape&, const Item&, const Group&) const { return {}; }

  __device__ __forceinline__ Point<Real> at(const Shape& shape, const Item& item, const Softmax&, int index,
                                            int /*level*/) const {
    const int64_t sample = item.item * shape.samples + index;
    return {locations[2 * sample], locations[2 * sample + 1], weights[sample]};
  }

  // What the loss gains per unit of the sample's u, v and weight.
  __device__ __forceinline__ void put(const Shape& shape, const Item& item, Softmax&, int index, Real /*attention*/,
                                      Real grad_u, Real grad_v, Real grad_weight) const {
    const int64_t sample = item.item * shape.samples + index;
    grad_locations[2 * sample] = grad_u;
    grad_locations[2 * sample + 1] = grad_v;
    grad_weights[sample] = grad_weight;
  }

  __device__ __forceinline__ void close(const Shape&, const Item&, const Softmax&, const Group&) const {}
};

template <typename Real>
struct FusedSamples {
  const Real* references;  // (B, Q, L, 2) as (x, y), or (B, Q, L, 4) as (cx, cy, w, h)
  const Real* offsets;     // (B, Q, M, L, P, 2)
  const Real* logits;      // (B, Q, M, L, P)
  bool boxes;
  Real* grad_offsets;  // holds the locations' gradients until reference_gradient.cuh has summed them
  Real* grad_logits;

  static constexpr int kForwardBlocks = 4;

  struct Softmax {
    Real largest, inverse_sum;  // of the item's logits
    Real mean_gain;             // this lane's part of the sum of attention * gradient of attention
  };

  __device__ __forceinline__ Softmax open(const Shape& shape, const Item& item, const Group& group) const {
    const Real* mine = logits + item.item * shape.samples;
    const int count = item.there ? shape.samples : 0;
    Softmax softmax{-static_cast<Real>(INFINITY), Real(0), Real(0)};
    for (int i = group.lane; i < count; i += group.lanes) {
      softmax.largest = mine[i] > softmax.largest ? mine[i] : softmax.largest;
    }
    softmax.largest = group.max(softmax.largest);
    Real sum = Real(0);
    for (int i = group.lane; i < count; i += group.lanes)
      sum += std::exp(mine[i] - softmax.largest);
    softmax.inverse_sum = Real(1) / group.sum(sum);
    return softmax;
  }

  __device__ __forceinline__ Real attention(const Shape& shape, const Item& item, const Softmax& softmax,
                                            int index) const {
    return std::exp(logits[item.item * shape.samples + index] - softmax.largest) * softmax.inverse_sum;
  }

  __device__ __forceinline__ Point<Real> at(const Shape& shape, const Item& item, const Softmax& softmax, int index,
                                            int level) const {
    const Real* offset = offsets + 2 * (item.item * shape.samples + index);
    const Real* reference = references + (item.row * shape.levels + level) * (boxes ? 4 : 2);
    Point<Real> point;
    if (boxes) {
      const Real points = static_cast<Real>(shape.points);
      point.u = reference[0] + offset[0] / points * reference[2] * Real(0.5);
      point.v = reference[1] + offset[1] / points * reference[3] * Real(0.5);
    } else {
      point.u = reference[0] + offset[0] / static_cast<Real>(shape.level(level).width);
      point.v = reference[1] + offset[1] / static_cast<Real>(shape.level(level).height);
    }
    point.attention = attention(shape, item, softmax, index);
    return point;
  }

  __device__ __forceinline__ void put(const Shape& shape, const Item& item, Softmax& softmax, int index, Real attention,
                                      Real grad_u, Real grad_v, Real grad_weight) const {
    const int64_t sample = item.item * shape.samples + index;
    grad_offsets[2 * sample] = grad_u;
    grad_offsets[2 * sample + 1] = grad_v;
    grad_logits[sample] = grad_weight;
    softmax.mean_gain += attention * grad_weight;
  }

  // Turns the gradients of attention, which this lane has put, into those of the logits.
  __device__ __forceinline__ void close(const Shape& shape, const Item& item, const Softmax& softmax,
                                        const Group& group) const {
    const Real mean = group.sum(softmax.mean_gain);
    const int count = item.there ? shape.samples : 0;
    for (int i = group.lane; i < count; i += group.lanes) {
      Real& gradient = grad_logits[item.item * shape.samples + i];
      gradient = attention(shape, item, softmax, i) * (gradient - mean);
    }
  }
};

}  // namespace ddetr::cuda
