// The lanes of a warp that share one query and head, or one cell: each has some of its channels.

#pragma once

#include <cstdint>

#include "platform.cuh"

namespace ddetr::cuda {

struct Group {
  int lanes;      // a power of two from 4 to 32
  int lane;       // this thread's place in the group
  int first;      // the group's first lane in its warp
  unsigned mask;  // the lanes that take part in every exchange

  // With `apart`, groups of a warp may take different paths; else all exchange at once, which costs an instruction
  // less.
  __device__ __forceinline__ explicit Group(int lanes_of_group, bool apart = false)
      : lanes(lanes_of_group),
        lane(static_cast<int>(threadIdx.x) & (lanes_of_group - 1)),
        first((static_cast<int>(threadIdx.x) & (kWarp - 1)) - lane),
        mask(apart ? (kWholeWarp >> (kWarp - lanes_of_group)) << first : kWholeWarp) {}

  template <typename T>
  __device__ __forceinline__ T from(T x, int source) const {
    return __shfl_sync(mask, x, source, lanes);
  }

  // Every lane gets the same bits: at each step two lanes add the same two numbers.
  template <typename Real>
  __device__ __forceinline__ Real sum(Real x) const {
    for (int step = lanes / 2; step > 0; step /= 2)
      x += __shfl_xor_sync(mask, x, step);
    return x;
  }

  template <typename Real>
  __device__ __forceinline__ Real max(Real x) const {
    for (int step = lanes / 2; step > 0; step /= 2) {
      const Real other = __shfl_xor_sync(mask, x, step);
      x = other > x ? other : x;
    }
    return x;
  }

  // Sums four numbers over the lanes; each lane gets the sum of one of them, number `corner()`. Lanes halve the numbers
  // among them before they add, so that eight lanes exchange 4 times and not 12.
  template <typename Real>
  __device__ __forceinline__ Real corner_sum(const Real x[4]) const {
    const bool lower = lane & (lanes / 2), right = lane & (lanes / 4);
    const Real a = (lower ? x[2] : x[0]) + __shfl_xor_sync(mask, lower ? x[0] : x[2], lanes / 2);
    const Real b = (lower ? x[3] : x[1]) + __shfl_xor_sync(mask, lower ? x[1] : x[3], lanes / 2);
    Real total = (right ? b : a) + __shfl_xor_sync(mask, right ? a : b, lanes / 4);
    for (int step = lanes / 8; step > 0; step /= 2)
      total += __shfl_xor_sync(mask, total, step);
    return total;
  }

  __device__ __forceinline__ int corner() const {
    return ((lane & (lanes / 2)) ? 2 : 0) + ((lane & (lanes / 4)) ? 1 : 0);
  }

  // Several lanes hold the same corner's sum; this is the one that writes it.
  __device__ __forceinline__ bool writes_corner() const { return (lane & (lanes / 4 - 1)) == 0; }
};

// Which query, or cell, this thread's group has along x. Groups past the last come out as numbers that are too large:
// grids are at most one block wider than what they cover.
__device__ __forceinline__ int place_of(int lanes) {
  const int64_t group = static_cast<int64_t>(blockIdx.x) * (blockDim.x / lanes) + threadIdx.x / lanes;
  return group < INT32_MAX ? static_cast<int>(group) : INT32_MAX;
}

}  // namespace ddetr::cuda
