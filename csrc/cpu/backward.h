// The backward pass of one head: each query's gradient is spread over the cells that it read, and multiplied with them
// to see what each read was worth.

#pragma once

#include "forward.h"

namespace ddetr {
namespace {

// Handles `vectors` vectors of channels of all located samples of a query.
template <int vectors, typename T, typename Real>
inline void spread_block(const HeadMap<T>& map, Real* grad_map, const Samples<Real>& samples, const Located& located,
                         int64_t channels, int64_t channel, const Real* gradient) {
  constexpr int kStep = kLanes<Real>;
  // Copies: the stores below could change what is reached through a reference, as far as the compiler knows.
  const T* const cells = map.data + channel;
  Real* const grad_cells = grad_map + channel;
  const int64_t stride = map.stride, count = located.count;
  const int32_t* const order = located.order;
  const int32_t* const tokens[4] = {samples.cell[0], samples.cell[1], samples.cell[2], samples.cell[3]};
  const Real* const weights[4] = {samples.weight[0], samples.weight[1], samples.weight[2], samples.weight[3]};
  Real* const gains[4] = {samples.gain[0], samples.gain[1], samples.gain[2], samples.gain[3]};
  Vector<Real> incoming[vectors];
  for (int v = 0; v < vectors; ++v)
    incoming[v] = load_vector(gradient + channel + v * kStep);
  for (int64_t i = 0; i < count; ++i) {
    Vector<Real> products[4];
#pragma GCC unroll 4
    for (int corner = 0; corner < 4; ++corner) {  // one after the other: at a border two corners are the same cell
      const T* cell = cells + tokens[corner][i] * stride;
      Real* to = grad_cells + tokens[corner][i] * channels;
      const Vector<Real> weight = weights[corner][i] - Vector<Real>{};
      products[corner] = incoming[0] * load_vector(cell);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        if (v > 0)
          products[corner] += incoming[v] * load_vector(cell + v * kStep);
        store_vector<Real>(load_vector(to + v * kStep) + weight * incoming[v], to + v * kStep);
      }
    }
    Real sums[4];
    LaneSums<Real, kLanes<Real>>::of(products[0], products[1], products[2], products[3], sums);
    for (int corner = 0; corner < 4; ++corner)
      gains[corner][order[i]] += sums[corner];
  }
}

template <typename T, typename Real>
inline void spread_gradient(const HeadMap<T>& map, Real* grad_map, const Samples<Real>& samples, const Located& located,
                            int64_t channels, const Real* gradient) {
  int64_t channel = 0;
  for (; channel + 4 * kLanes<Real> <= channels; channel += 4 * kLanes<Real>) {
    spread_block<4>(map, grad_map, samples, located, channels, channel, gradient);
  }
  for (; channel + 2 * kLanes<Real> <= channels; channel += 2 * kLanes<Real>) {
    spread_block<2>(map, grad_map, samples, located, channels, channel, gradient);
  }
  for (; channel + kLanes<Real> <= channels; channel += kLanes<Real>) {
    spread_block<1>(map, grad_map, samples, located, channels, channel, gradient);
  }
  for (; channel < channels; ++channel) {
    for (int64_t i = 0; i < located.count; ++i) {
      for (int corner = 0; corner < 4; ++corner) {
        const int64_t token = samples.cell[corner][i];
        samples.gain[corner][located.order[i]] += gradient[channel] * load(map.data[token * map.stride + channel]);
        grad_map[token * channels + channel] += samples.weight[corner][i] * gradient[channel];
      }
    }
  }
}

// Converts one query's gradient, and says whether it is finite.
template <typename Real, typename Out>
inline bool load_gradient(const Out* from, int64_t channels, Real* gradient) {
  Real difference = 0;  // x - x, 0 or NaN
  for (int64_t d = 0; d < channels; ++d)
    gradient[d] = load(from[d]);
  for (int64_t d = 0; d < channels; ++d)
    difference += gradient[d] - gradient[d];
  return difference == Real(0);
}

// All queries of a head. With a `far` map several at a time, as in the forward pass; near ones gain nothing by that.
template <template <typename> class Source, typename T, typename Real, typename Out>
inline void backward_queries(const Problem& problem, const Inputs& inputs, const HeadMap<T>& map, int64_t batch,
                             int64_t head, bool far, const Out* grad_output, Real* grad_map, Scratch scratch) {
  const int64_t channels = problem.channels;
  const Source<Real> source(problem, inputs, problem.heads);
  const SampleGroup<Real> group(problem, scratch);
  Real* gradients[kGroup];
  for (Real*& gradient : gradients)
    gradient = scratch.take<Real>(channels);
  Located located[kGroup];
  const int64_t together = far ? kGroup : 1;
  for (int64_t first = 0; first < problem.queries; first += together) {
    const int64_t count = problem.queries - first < together ? problem.queries - first : together;
    const auto item = [&](int64_t i) { return (batch * problem.queries + first + i) * problem.heads + head; };
    for (int64_t i = 0; i < count; ++i) {
      const Samples<Real>& samples = group.of[i];
      source.read(batch, first + i, head, item(i), samples);
      const Out* from = grad_output + item(i) * channels;
      fetch_ahead<false>(from, channels, problem.heads);
      const bool finite = load_gradient(from, channels, gradients[i]);
      located[i] = locate_samples(samples, map.finite && finite);
      if (far) {
        fetch_cells(map, samples, located[i].count);
        fetch_cells(HeadMap<Real>{grad_map, channels, false}, samples, located[i].count);
      }
      for (Real* gain : samples.gain) {
        for (int64_t sample = 0; sample < samples.count; ++sample)
          gain[sample] = 0;
      }
    }
    for (int64_t i = 0; i < count; ++i)
      spread_gradient(map, grad_map, group.of[i], located[i], channels, gradients[i]);
    for (int64_t i = 0; i < count; ++i) {
      differentiate_samples(group.of[i]);
      source.write(batch, first + i, head, item(i), group.of[i]);
    }
  }
}

// Writes a head's finished gradient to its place among the other heads'. `stream` says that it goes to memory directly:
// of a map that a few queries have touched, most is zeros that nobody will read soon, and lines that are overwritten
// whole need not be fetched first.
template <typename T, typename Real>
inline void unpack(const Problem& problem, const Real* from, T* to, bool stream) {
  const int64_t channels = problem.channels, token_stride = problem.heads * channels;
  if constexpr (sizeof(T) == sizeof(Real)) {
    const bool aligned = reinterpret_cast<uintptr_t>(to) % kVectorBytes == 0 && channels % kLanes<Real> == 0;
    if (stream && aligned) {
      for (int64_t token = 0; token < problem.tokens; ++token) {
        for (int64_t d = 0; d < channels; d += kLanes<Real>) {
          stream_vector<Real>(load_vector(from + token * channels + d), to + token * token_stride + d);
        }
      }
      finish_streams();
      return;
    }
  }
  for (int64_t token = 0; token < problem.tokens; ++token) {
    fetch_ahead<true>(to + token * token_stride, channels, problem.heads);
    for (int64_t d = 0; d < channels; ++d)
      store(from[token * channels + d], to[token * token_stride + d]);
  }
}

template <template <typename> class Source, typename T>
void backward_units(const Problem& problem, const Work& work, const Maps& value, const Inputs& inputs,
                    const void* grad_output, void* grad_value, void* memory, int64_t begin, int64_t end) {
  using Real = typename Accumulator<T>::type;
  const T* incoming = static_cast<const T*>(grad_output);
  Scratch scratch(memory);
  Real* packed = work.packed ? scratch.take<Real>(problem.tokens * problem.channels) : nullptr;
  Real* grad_map = scratch.take<Real>(problem.tokens * problem.channels);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t batch = unit / problem.heads, head = unit % problem.heads;
    const T* data = static_cast<const T*>(value.data) + batch * value.batch_stride + head * value.head_stride;
    for (int64_t i = 0; i < problem.tokens * problem.channels; ++i)
      grad_map[i] = 0;
    if (work.packed) {
      const HeadMap<Real> map = pack(problem, data, value.token_stride, packed);
      backward_queries<Source>(problem, inputs, map, batch, head, false, incoming, grad_map, scratch);
    } else {
      const HeadMap<T> map{data, value.token_stride, false};
      backward_queries<Source>(problem, inputs, map, batch, head, true, incoming, grad_map, scratch);
    }
    T* to = static_cast<T*>(grad_value) + (batch * problem.tokens * problem.heads + head) * problem.channels;
    unpack(problem, grad_map, to, !work.packed);
  }
}

}  // namespace
}  // namespace ddetr
