// The numbers of one call, as every kernel gets them: plain types, so that kernels need no PyTorch header.

#pragma once

#include <cstdint>

namespace ddetr {

// The shapes of one call; B, S, M, D, Q, L, P as in the package's legend.
struct Problem {
  int64_t batch, tokens, heads, channels, queries, levels, points;
  const int64_t* heights;  // (L,)
  const int64_t* widths;   // (L,)
  const int64_t* starts;   // (L,) first token of each level
};

// Element types of `value`, `grad_output` and `output`. Locations, weights and their gradients are double for Float64,
// else float.
enum class Element : int { Float64, Float32, Float16, BFloat16 };

}  // namespace ddetr
