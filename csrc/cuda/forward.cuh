// Deformable attention forward: a group of lanes for each query and head, each lane with up to 16 bytes of channels.
//
// Why so: a corner of a head is then one coalesced request (D = 32 floats: 8 lanes, 128 bytes), and four of them are in
// flight in every lane before the first is used. Neighbouring groups have neighbouring queries of the same head, not
// the same query's other heads: their samples lie side by side, on coarse levels in the same cells, and the first-level
// cache can serve them.

#pragma once

#include "staging.cuh"
#include "vectors.cuh"

namespace ddetr::cuda {

template <typename T, int kVector, typename Source>
__global__ void __launch_bounds__(kThreads, Source::kForwardBlocks)
    forward_kernel(const __grid_constant__ Shape shape, const __grid_constant__ Source source,
                   const T* __restrict__ value, T* __restrict__ output, int lanes) {
  using Real = typename RealOf<T>::type;
  __shared__ Staging<Real> stagings[kThreads / kWarp];
  Staging<Real>& staging = stagings[threadIdx.x / kWarp];
  const Group group(lanes);
  const int query = place_of(lanes);
  const int pairs = shape.batch * shape.heads;
  for (int pair = blockIdx.y; pair < pairs; pair += gridDim.y) {
    const int picture = pair / shape.heads, head = pair - picture * shape.heads;
    const int64_t row = static_cast<int64_t>(picture) * shape.queries + query;
    const Item item{row, row * shape.heads + head, query < shape.queries};
    const T* maps = value + picture * shape.picture_stride + head * shape.head_stride;
    const auto softmax = source.open(shape, item, group);
    for (int first_channel = 0; first_channel < shape.channels; first_channel += lanes * kVector) {
      const int channel = first_channel + group.lane * kVector;
      const bool mine = item.there && channel < shape.channels;
      Real sum[kVector] = {};
      for (int first = 0; first < shape.samples; first += lanes) {
        const int count = min(lanes, shape.samples - first);
        __syncwarp();  // the samples before these have been read
        if (item.there && group.lane < count) {
          auto looked = look<Real>(shape, source, item, softmax, first + group.lane);
          if (looked.poisoned) {  // reads what is there, times NaN: a fault upstream must not become a plausible number
            looked.touches = true;
            looked.point.attention = static_cast<Real>(NAN);
          }
          stage(shape, looked, staging, group.first + group.lane);
        }
        __syncwarp();
        for (int s = 0; mine && s < count; ++s) {
          const Quad<int32_t> token = staging.token[group.first + s];
          if (token.at[0] == kNothing)
            continue;
          const Quad<Real> weight = staging.weight[group.first + s];
          Real corner[4][kVector];
#pragma unroll
          for (int c = 0; c < 4; ++c)
            load<kVector>(maps + token.at[c] * shape.token_stride + channel, corner[c]);
#pragma unroll
          for (int c = 0; c < 4; ++c) {
#pragma unroll
            for (int i = 0; i < kVector; ++i)
              sum[i] += weight.at[c] * corner[c][i];
          }
        }
      }
      if (mine)
        store<kVector>(sum, output + item.item * shape.channels + channel);
    }
  }
}

}  // namespace ddetr::cuda
