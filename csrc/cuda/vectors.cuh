// Several channels at once: one load, one store, one atomic addition of up to 16 bytes.

#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "platform.cuh"

namespace ddetr::cuda {

// Sums run in float32, for float64 values in float64.
template <typename T>
struct RealOf {
  using type = float;
};
template <>
struct RealOf<double> {
  using type = double;
};

template <typename T, int kVector>
struct alignas(sizeof(T) * kVector) Vector {
  T at[kVector];
};

template <int kVector, typename T, typename Real>
__device__ __forceinline__ void load(const T* from, Real to[kVector]) {
  const Vector<T, kVector> vector = *reinterpret_cast<const Vector<T, kVector>*>(from);
#pragma unroll
  for (int i = 0; i < kVector; ++i)
    to[i] = static_cast<Real>(vector.at[i]);
}

template <int kVector, typename T, typename Real>
__device__ __forceinline__ void store(const Real from[kVector], T* to) {
  Vector<T, kVector> vector;
#pragma unroll
  for (int i = 0; i < kVector; ++i)
    vector.at[i] = static_cast<T>(from[i]);
  *reinterpret_cast<Vector<T, kVector>*>(to) = vector;
}

// Adds scale * from to memory, in no fixed order with other threads.
template <int kVector, typename Real>
__device__ __forceinline__ void atomic_add(Real scale, const Real from[kVector], Real* to) {
  // One request for four channels: the second-level cache, where atomics are carried out, sees a quarter of them.
#if defined(DDETR_VECTOR_ATOMICS)
  constexpr int kTogether = sizeof(Real) == 8 ? 1 : kVector % 4 == 0 ? 4 : kVector % 2 == 0 ? 2 : 1;
#else
  constexpr int kTogether = 1;
#endif
#pragma unroll
  for (int i = 0; i < kVector; i += kTogether) {
    if constexpr (kTogether == 4) {
      atomicAdd(reinterpret_cast<float4*>(to + i),
                make_float4(scale * from[i], scale * from[i + 1], scale * from[i + 2], scale * from[i + 3]));
    } else if constexpr (kTogether == 2) {
      atomicAdd(reinterpret_cast<float2*>(to + i), make_float2(scale * from[i], scale * from[i + 1]));
    } else {
      atomicAdd(to + i, scale * from[i]);
    }
  }
}

}  // namespace ddetr::cuda
