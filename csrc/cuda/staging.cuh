// What a group's lanes tell each other about their samples: each lane works out one sample, all lanes then read it.

#pragma once

#include <cstdint>

#include "../bilinear.h"
#include "samples.cuh"

namespace ddetr::cuda {

// Four numbers that one shared-memory instruction moves.
template <typename T>
struct alignas(16) Quad {
  T at[4];
};

// One warp's samples, in shared memory. Two reads bring a sample to every lane of its group; shuffles would take seven.
// Fields lie apart so that the lanes' 16-byte accesses meet no bank twice.
template <typename Real>
struct Staging {
  Quad<Real> weight[kWarp];    // bilinear weight times attention, for each corner
  Quad<int32_t> token[kWarp];  // the corners' tokens; the first is kNothing where nothing is read
};

constexpr int32_t kNothing = -1;

// One sample as the lane that worked it out keeps it.
template <typename Real>
struct Looked {
  Sample<Real> sample;
  Point<Real> point;
  int level;
  bool touches;   // reads at least one cell
  bool poisoned;  // its location is not finite
};

template <typename Real, typename Source>
__device__ __forceinline__ Looked<Real> look(const Shape& shape, const Source& source, const Item& item,
                                             const typename Source::Softmax& softmax, int index) {
  Looked<Real> looked;
  looked.level = index / shape.points;
  looked.point = source.at(shape, item, softmax, index, looked.level);
  const Level& level = shape.level(looked.level);
  looked.touches = locate(looked.point.u, looked.point.v, level.height, level.width, looked.sample);
  // NaN and infinity less themselves are NaN.
  const Real zero = (looked.point.u - looked.point.u) + (looked.point.v - looked.point.v);
  looked.poisoned = !(zero == Real(0));
  return looked;
}

// Puts a sample where its group finds it.
template <typename Real>
__device__ __forceinline__ void stage(const Shape& shape, const Looked<Real>& looked, Staging<Real>& staging,
                                      int slot) {
  const int32_t start = shape.level(looked.level).start;
  Quad<Real> weight;
  Quad<int32_t> token;
  corner_weights(looked.sample, weight.at);
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    weight.at[corner] *= looked.point.attention;
    token.at[corner] = start + looked.sample.cell[corner];
  }
  if (!looked.touches)
    token.at[0] = kNothing;
  staging.weight[slot] = weight;
  staging.token[slot] = token;
}

}  // namespace ddetr::cuda
