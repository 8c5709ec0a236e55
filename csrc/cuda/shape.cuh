// The numbers of one call as kernels get them: by value, in constant memory, so that no copy to the GPU is waited for.

#pragma once

#include <cstdint>

#include "platform.cuh"

namespace ddetr::cuda {

struct Level {
  int32_t height, width;
  int32_t start;   // first token
  int32_t anchor;  // first of the level's (H + 1) * (W + 1) anchors: see value_gradient.cuh
};

// More levels than this lie in device memory.
constexpr int kInlineLevels = 32;

struct Shape {
  int32_t batch, tokens, heads, channels, queries, levels, points;
  int32_t samples;                                    // L * P
  int32_t anchors;                                    // of all levels
  int64_t picture_stride, token_stride, head_stride;  // of value, in elements; its channels lie side by side
  Level inline_levels[kInlineLevels];
  const Level* more_levels;

  __device__ __forceinline__ const Level& level(int index) const {
    return more_levels ? more_levels[index] : inline_levels[index];
  }
};

}  // namespace ddetr::cuda
