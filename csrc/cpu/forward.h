// The forward pass: each query's samples, summed over channels that stay in registers.

#pragma once

#include "sources.h"
#include "vectors.h"

namespace ddetr {
namespace {

// A head's map: the cell of token t is at data + t * stride.
template <typename T>
struct HeadMap {
  const T* data;
  int64_t stride;
  bool finite;  // all cells are known to be
};

// Copies one head of one picture together and converts it, so that a cell's neighbours are its neighbours in memory.
template <typename T, typename Real>
inline HeadMap<Real> pack(const Problem& problem, const T* from, int64_t token_stride, Real* to) {
  const int64_t channels = problem.channels;
  Vector<Real> difference = {};  // x - x, 0 or NaN
  Real last_difference = 0;
  for (int64_t token = 0; token < problem.tokens; ++token) {
    const T* cell = from + token * token_stride;
    Real* copy = to + token * channels;
    int64_t d = 0;
    for (; d + kLanes<Real> <= channels; d += kLanes<Real>) {
      const Vector<Real> x = load_vector(cell + d);
      store_vector<Real>(x, copy + d);
      difference += x - x;
    }
    for (; d < channels; ++d) {
      copy[d] = load(cell[d]);
      last_difference += copy[d] - copy[d];
    }
  }
  return {to, channels, all_of(difference == difference) && last_difference == Real(0)};
}

// Sums `vectors` vectors of channels over all located samples. The corners take turns at several sums, for one alone
// would wait for each addition.
template <int vectors, typename T, typename Real>
inline void sum_block(const HeadMap<T>& map, const Samples<Real>& samples, int64_t located, int64_t channel,
                      Real* result) {
  constexpr int kTurns = vectors >= 4 ? 2 : 4;
  Vector<Real> sums[kTurns][vectors] = {};
  const T* data = map.data + channel;
  for (int64_t i = 0; i < located; ++i) {
#pragma GCC unroll 4
    for (int corner = 0; corner < 4; ++corner) {
      const T* cell = data + samples.cell[corner][i] * map.stride;
      const Vector<Real> weight = samples.weight[corner][i] - Vector<Real>{};
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v)
        sums[corner % kTurns][v] += weight * load_vector(cell + v * kLanes<Real>);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) {
    Vector<Real> total = sums[0][v] + sums[1][v];
    if constexpr (kTurns == 4)
      total += sums[2][v] + sums[3][v];
    store_vector<Real>(total, result + channel + v * kLanes<Real>);
  }
}

template <typename T, typename Real>
inline void sum_samples(const HeadMap<T>& map, const Samples<Real>& samples, int64_t located, int64_t channels,
                        Real* result) {
  int64_t channel = 0;
  for (; channel + 4 * kLanes<Real> <= channels; channel += 4 * kLanes<Real>) {
    sum_block<4>(map, samples, located, channel, result);
  }
  for (; channel + 2 * kLanes<Real> <= channels; channel += 2 * kLanes<Real>) {
    sum_block<2>(map, samples, located, channel, result);
  }
  for (; channel + kLanes<Real> <= channels; channel += kLanes<Real>) {
    sum_block<1>(map, samples, located, channel, result);
  }
  for (; channel < channels; ++channel) {
    Real sum = 0;
    for (int64_t i = 0; i < located; ++i) {
      for (int corner = 0; corner < 4; ++corner) {
        sum += samples.weight[corner][i] * load(map.data[samples.cell[corner][i] * map.stride + channel]);
      }
    }
    result[channel] = sum;
  }
}

// A query that looks through a head.
template <typename T>
struct Reader {
  int64_t query, head;
  HeadMap<T> map;
};

// Asks for the first two lines of each cell that will soon be read: all of 32 floats. They go to the second cache; the
// first one can wait for few lines at a time, and reading needs those places.
template <typename T, typename Real>
inline void fetch_cells(const HeadMap<T>& map, const Samples<Real>& samples, int64_t located) {
  for (int64_t i = 0; i < located; ++i) {
    for (int corner = 0; corner < 4; ++corner) {
      const T* cell = map.data + samples.cell[corner][i] * map.stride;
      __builtin_prefetch(cell, 0, 2);
      __builtin_prefetch(reinterpret_cast<const char*>(cell) + kCacheLine, 0, 2);
    }
  }
}

// What up to kGroup readers read. All are located before any is summed: finding one's samples is a chain of operations
// that wait for each other, and the processor works on the next chain meanwhile. The cells of `far` maps, which no
// cache holds whole, are on their way by then.
template <typename Source, typename T, typename Real, typename Out>
inline void forward_group(const Problem& problem, const Source& source, const Reader<T>* readers, int64_t count,
                          bool far, const Samples<Real>* samples, int64_t batch, Real* result, Out* output) {
  const int64_t channels = problem.channels;
  Located located[kGroup];
  for (int64_t i = 0; i < count; ++i) {
    const int64_t query = readers[i].query, head = readers[i].head;
    source.read(batch, query, head, (batch * problem.queries + query) * problem.heads + head, samples[i]);
    located[i] = locate_samples(samples[i], readers[i].map.finite);
    if (far)
      fetch_cells(readers[i].map, samples[i], located[i].count);
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t item = (batch * problem.queries + readers[i].query) * problem.heads + readers[i].head;
    sum_samples(readers[i].map, samples[i], located[i].count, channels, result);
    const Real poison = located[i].finite ? Real(0) : static_cast<Real>(__builtin_nan(""));
    Out* to = output + item * channels;
    fetch_ahead<true>(to, channels, source.step);
    for (int64_t d = 0; d < channels; ++d)
      store(result[d] + poison, to[d]);
  }
}

// Calls `run(readers, count)` for all of `total` readers, the i-th of which is `reader(i)`, in groups.
template <typename T, typename MakeReader, typename Run>
inline void in_groups(int64_t total, const MakeReader& reader, const Run& run) {
  Reader<T> readers[kGroup];
  for (int64_t first = 0; first < total; first += kGroup) {
    const int64_t count = total - first < kGroup ? total - first : kGroup;
    for (int64_t i = 0; i < count; ++i)
      readers[i] = reader(first + i);
    run(readers, count);
  }
}

// Packed: query after query of one head, for its map is in the cache. Else head after head of one query: the heads look
// at the same part of the picture, whose cells hold all heads, so that a page of memory is looked up once for several.
template <template <typename> class Source, typename T>
void forward_units(const Problem& problem, const Work& work, const Maps& value, const Inputs& inputs, void* output,
                   void* memory, int64_t begin, int64_t end) {
  using Real = typename Accumulator<T>::type;
  Scratch scratch(memory);
  Real* packed = work.packed ? scratch.take<Real>(problem.tokens * problem.channels) : nullptr;
  const int64_t heads = problem.heads, sets = work.packed ? heads : 1;  // of heads, which units do one of
  const Source<Real> source(problem, inputs, sets);
  const SampleGroup<Real> samples(problem, scratch);
  Real* result = scratch.take<Real>(problem.channels);
  T* const out = static_cast<T*>(output);
  HeadMap<Real> map{};
  int64_t packed_head = -1;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t pair = unit / work.parts, part = unit % work.parts;
    const int64_t batch = pair / sets, head = pair % sets;
    const int64_t first = problem.queries * part / work.parts, last = problem.queries * (part + 1) / work.parts;
    const T* data = static_cast<const T*>(value.data) + batch * value.batch_stride + head * value.head_stride;
    const auto run = [&](const auto* readers, int64_t count) {
      forward_group(problem, source, readers, count, !work.packed, samples.of, batch, result, out);
    };
    if (work.packed) {
      if (packed_head != pair)
        map = pack(problem, data, value.token_stride, packed);
      packed_head = pair;
      in_groups<Real>(last - first, [&](int64_t i) { return Reader<Real>{first + i, head, map}; }, run);
    } else {
      in_groups<T>((last - first) * heads,
                   [&](int64_t i) {
                     const int64_t one = i % heads;
                     return Reader<T>{
                         first + i / heads, one, {data + one * value.head_stride, value.token_stride, false}};
                   },
                   run);
    }
  }
}

}  // namespace
}  // namespace ddetr
