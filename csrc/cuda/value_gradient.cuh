// The gradient of value without atomics: samples are sorted by where they read, and each cell then sums its own.
//
// A sample reads four cells around its anchor, the gap between them. A level has (H + 1) * (W + 1) anchors, for samples
// may hang over every border. Sorting one anchor a sample, not four cells, moves a quarter of the keys; a cell then has
// four runs of sorted samples, one for each corner that it can be. The sort is stable, so that the order of every sum,
// and with it every bit of the result, depends on the call alone.

#pragma once

#include "staging.cuh"
#include "vectors.cuh"

namespace ddetr::cuda {

// The pictures that are sorted together, [first, first + count): what bounds the memory of a deterministic pass.
struct Round {
  int32_t first, count;
};

// Writes each sample's key, its number in the round, and its item's softmax if there is one. A key counts anchors of a
// (picture, head); samples that read nothing get the largest, which no cell looks for.
template <typename Real, typename Source>
__global__ void __launch_bounds__(kThreads, 3)
    anchor_kernel(const __grid_constant__ Shape shape, const __grid_constant__ Source source, Round round,
                  uint32_t* __restrict__ keys, uint32_t* __restrict__ numbers,
                  typename Source::Softmax* __restrict__ softmaxes, int lanes) {
  const Group group(lanes);
  const int query = place_of(lanes);
  const int pairs = round.count * shape.heads;
  for (int pair = blockIdx.y; pair < pairs; pair += gridDim.y) {
    const int picture = pair / shape.heads, head = pair - picture * shape.heads;
    const int64_t row = static_cast<int64_t>(round.first + picture) * shape.queries + query;
    const Item item{row, row * shape.heads + head, query < shape.queries};
    const auto softmax = source.open(shape, item, group);
    if (!item.there)
      continue;
    const int64_t place = (static_cast<int64_t>(picture) * shape.queries + query) * shape.heads + head;
    if (group.lane == 0)
      softmaxes[place] = softmax;
    for (int index = group.lane; index < shape.samples; index += lanes) {
      const auto looked = look<Real>(shape, source, item, softmax, index);
      const Level& level = shape.level(looked.level);
      const Real* inside = looked.sample.inside;
      // Row 0 and column 0 of the anchors lie before the map, where the top and left corners are outside.
      const int32_t row_of_cell = looked.sample.cell[0] / level.width;
      const int32_t column_of_cell = looked.sample.cell[0] - row_of_cell * level.width;
      const bool top_in = inside[0] != Real(0) || inside[1] != Real(0);
      const bool left_in = inside[0] != Real(0) || inside[2] != Real(0);
      const int32_t anchor =
          level.anchor + (top_in ? row_of_cell + 1 : 0) * (level.width + 1) + (left_in ? column_of_cell + 1 : 0);
      const int64_t key =
          static_cast<int64_t>(looked.touches ? pair : pairs) * shape.anchors + (looked.touches ? anchor : 0);
      const int64_t sample = place * shape.samples + index;
      keys[sample] = static_cast<uint32_t>(key);
      numbers[sample] = static_cast<uint32_t>(sample);
    }
  }
}

// The first place of `key` or a larger one in sorted keys.
__device__ __forceinline__ int64_t lower_bound(const uint32_t* keys, int64_t count, uint32_t key) {
  int64_t begin = 0, end = count;
  while (begin < end) {
    const int64_t middle = (begin + end) / 2;
    if (keys[middle] < key) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

// One group a cell: sums gradient * weight over the four runs and writes it once, in value's dtype.
template <typename T, int kVector, typename Source>
__global__ void __launch_bounds__(kThreads, 3)
    gather_kernel(const __grid_constant__ Shape shape, const __grid_constant__ Source source, Round round,
                  const uint32_t* __restrict__ keys, const uint32_t* __restrict__ numbers, int64_t count,
                  const typename Source::Softmax* __restrict__ softmaxes, const T* __restrict__ grad_output,
                  T* __restrict__ grad_value, int lanes) {
  using Real = typename RealOf<T>::type;
  const Group group(lanes, true);  // runs differ in length: groups go their own ways
  const int token = place_of(lanes);
  if (token >= shape.tokens)
    return;
  int index = shape.levels - 1;
  while (shape.level(index).start > token)
    --index;
  const Level& level = shape.level(index);
  const int32_t cell = token - level.start;
  const int32_t cell_row = cell / level.width, cell_column = cell - cell_row * level.width;
  const int pairs = round.count * shape.heads;
  for (int pair = blockIdx.y; pair < pairs; pair += gridDim.y) {
    const int picture = pair / shape.heads, head = pair - picture * shape.heads;
    // Lane c looks for the samples whose corner c this cell is: as their right corner it lies one to the right, ...
    const int corner = group.lane & 3;
    const int32_t anchor_row = cell_row + (corner & 2 ? 0 : 1), anchor_column = cell_column + (corner & 1 ? 0 : 1);
    const uint32_t key = static_cast<uint32_t>(static_cast<int64_t>(pair) * shape.anchors + level.anchor +
                                               anchor_row * (level.width + 1) + anchor_column);
    const int64_t run_begin = lower_bound(keys, count, key);
    const int64_t run_end = lower_bound(keys, count, key + 1);
    for (int first_channel = 0; first_channel < shape.channels; first_channel += lanes * kVector) {
      const int channel = first_channel + group.lane * kVector;
      Real sum[kVector] = {};
      for (int c = 0; c < 4; ++c) {
        const int64_t begin = group.from(run_begin, c), end = group.from(run_end, c);
        for (int64_t first = begin; first < end; first += lanes) {
          // Each lane works out one sample, then all add them one after the other.
          Real weight = Real(0);
          int64_t item_number = 0;
          if (first + group.lane < end) {
            const int64_t number = numbers[first + group.lane];
            const int64_t place = number / shape.samples;
            const int sample = static_cast<int>(number - place * shape.samples);
            const int64_t row = static_cast<int64_t>(round.first) * shape.queries + place / shape.heads;
            const Item item{row, row * shape.heads + head, true};
            const auto looked = look<Real>(shape, source, item, softmaxes[place], sample);
            Real weights[4];
            corner_weights(looked.sample, weights);
            // Chosen one by one: an index known only at run time would put the four into memory.
            weight = (c < 2 ? (c == 0 ? weights[0] : weights[1]) : (c == 2 ? weights[2] : weights[3])) *
                     looked.point.attention;
            item_number = item.item;
          }
          const int here = end - first < lanes ? static_cast<int>(end - first) : lanes;
          for (int s = 0; s < here; ++s) {
            const Real scale = group.from(weight, s);
            const int64_t from = group.from(item_number, s);
            if (channel >= shape.channels)
              continue;
            Real gradient[kVector];
            load<kVector>(grad_output + from * shape.channels + channel, gradient);
#pragma unroll
            for (int i = 0; i < kVector; ++i)
              sum[i] += scale * gradient[i];
          }
        }
      }
      if (channel < shape.channels) {
        const int64_t where = (static_cast<int64_t>(round.first + picture) * shape.tokens + token) * shape.heads + head;
        store<kVector>(sum, grad_value + where * shape.channels + channel);
      }
    }
  }
}

}  // namespace ddetr::cuda
