// The rungs that lost, kept to be measured against: one thread for each output number, in float32 on contiguous
// tensors.

#pragma once

#include "kernels.h"

namespace ddetr::cuda {

// Every thread of a head works out the same locations, and reads four bytes at a time.
void ladder_forward(const Shape& shape, const Arguments& call, cudaStream_t stream);

// Every thread adds its channel's share of all three gradients atomically. They must start from zero.
void ladder_backward(const Shape& shape, const Arguments& call, cudaStream_t stream);

}  // namespace ddetr::cuda
