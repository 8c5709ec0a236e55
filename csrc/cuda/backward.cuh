// Deformable attention backward: the forward pass's groups, which also spread the result's gradient over the cells.
//
// Locations and weights have one writer each and their sums a fixed order. Only cells are shared between queries: their
// gradients are added atomically, in float32 whatever the value's dtype, four channels a request where the GPU can
// (sm_90 and later). Three blocks a processor leave the kernels their registers (`make cuda-compile` shows them), and
// their 24 warps have many loads in flight. With grad_value null, value's gradient is left to value_gradient.cuh, which
// has a fixed order too.

#pragma once

#include "staging.cuh"
#include "vectors.cuh"

namespace ddetr::cuda {

// The gradients of one sample from its corners' gains: the sums over channels of gradient * cell. It looks the sample
// up again, in the first-level cache: to keep fifteen registers for it would leave room for fewer warps.
template <typename Real, typename Source>
__device__ __forceinline__ void put_gradients(const Shape& shape, const Source& source, const Item& item,
                                              typename Source::Softmax& softmax, int index, const Quad<Real>& gain) {
  const auto looked = look<Real>(shape, source, item, softmax, index);
  Real grad_u = Real(0), grad_v = Real(0), grad_weight = Real(0);
  if (looked.touches) {
    const Level& level = shape.level(looked.level);
    Real weight[4];
    corner_weights(looked.sample, weight);
    location_gradient(looked.sample, gain.at, level.height, level.width, grad_u, grad_v);
    grad_u *= looked.point.attention;
    grad_v *= looked.point.attention;
    for (int corner = 0; corner < 4; ++corner)
      grad_weight += weight[corner] * gain.at[corner];
  } else if (looked.poisoned) {
    grad_u = grad_v = grad_weight = static_cast<Real>(NAN);
  }
  source.put(shape, item, softmax, index, looked.point.attention, grad_u, grad_v, grad_weight);
}

template <typename T, int kVector, typename Source>
__global__ void __launch_bounds__(kThreads, 3)
    backward_kernel(const __grid_constant__ Shape shape, const __grid_constant__ Source source,
                    const T* __restrict__ value, const T* __restrict__ grad_output,
                    typename RealOf<T>::type* __restrict__ grad_value, int lanes) {
  using Real = typename RealOf<T>::type;
  __shared__ Staging<Real> stagings[kThreads / kWarp];
  __shared__ Quad<Real> gains[kThreads];
  Staging<Real>& staging = stagings[threadIdx.x / kWarp];
  Quad<Real>* const gain_of = gains + threadIdx.x / kWarp * kWarp;
  const Group group(lanes);
  const int slot = group.first + group.lane;
  const int step = lanes * kVector;
  const int query = place_of(lanes);
  const int pairs = shape.batch * shape.heads;
  const int grad_stride = shape.heads * shape.channels;  // grad_value is contiguous
  for (int pair = blockIdx.y; pair < pairs; pair += gridDim.y) {
    const int picture = pair / shape.heads, head = pair - picture * shape.heads;
    const int64_t row = static_cast<int64_t>(picture) * shape.queries + query;
    const Item item{row, row * shape.heads + head, query < shape.queries};
    const T* maps = value + picture * shape.picture_stride + head * shape.head_stride;
    Real* grad_maps = nullptr;
    if (grad_value) {
      grad_maps = grad_value + static_cast<int64_t>(picture) * shape.tokens * grad_stride + head * shape.channels;
    }
    Real gradient[kVector] = {};
    if (item.there && group.lane * kVector < shape.channels)
      load<kVector>(grad_output + item.item * shape.channels + group.lane * kVector, gradient);
    auto softmax = source.open(shape, item, group);
    for (int first = 0; first < shape.samples; first += lanes) {
      const int count = min(lanes, shape.samples - first);
      __syncwarp();  // the gains before these have been read
      if (item.there && group.lane < count) {
        stage(shape, look<Real>(shape, source, item, softmax, first + group.lane), staging, slot);
      }
      __syncwarp();
      for (int s = 0; s < count; ++s) {
        Quad<int32_t> token{{kNothing, kNothing, kNothing, kNothing}};
        if (item.there)
          token = staging.token[group.first + s];
        Real gain[4] = {};
        if (token.at[0] != kNothing) {
          const Quad<Real> weight = staging.weight[group.first + s];
#pragma unroll 1  // it runs once for D <= 128 floats: unrolling would cost registers
          for (int channel = group.lane * kVector; channel < shape.channels; channel += step) {
            if (step < shape.channels) {  // else it is there already
              load<kVector>(grad_output + item.item * shape.channels + channel, gradient);
            }
#pragma unroll
            for (int c = 0; c < 4; ++c) {
              Real cell[kVector];
              load<kVector>(maps + token.at[c] * shape.token_stride + channel, cell);
#pragma unroll
              for (int i = 0; i < kVector; ++i)
                gain[c] += gradient[i] * cell[i];
            }
            // Corners outside the map have weight 0 and the address of one inside: they would only queue there.
            for (int c = 0; grad_maps && c < 4; ++c) {
              if (weight.at[c] == Real(0))
                continue;
              atomic_add<kVector>(weight.at[c], gradient,
                                  grad_maps + static_cast<int64_t>(token.at[c]) * grad_stride + channel);
            }
          }
        }
        const Real sum = group.corner_sum(gain);
        if (group.writes_corner())
          gain_of[group.first + s].at[group.corner()] = sum;
      }
      __syncwarp();
      if (item.there && group.lane < count) {
        put_gradients(shape, source, item, softmax, first + group.lane, gain_of[slot]);
      }
    }
    source.close(shape, item, softmax, group);
  }
}

}  // namespace ddetr::cuda
