// The backward pass of one head: each query's gradient is spread over the cells that it read, and multiplied with them
// to see what each read was worth.

#pragma once

#include "forward.h"

namespace ddetr {
namespace {

// Handles `vectors` vectors of channels of all located samples of a query.
template <int vectors, typename T, typename Real>
inline void spread_block(const HeadMap<T>& map, Real* grad_map, int64_t grad_stride, const Samples<Real>& samples,
                         const Located& located, int64_t channel, const Real* gradient) {
  constexpr int kStep = kLanes<Real>;
  Vector<Real> incoming[vectors];
  for (int v = 0; v < vectors; ++v)
    incoming[v] = load_vector(gradient + channel + v * kStep);
  for (int64_t i = 0; i < located.count; ++i) {
    Vector<Real> gains[4];
#pragma GCC unroll 4
    for (int corner = 0; corner < 4; ++corner) {  // one after the other: at a border two corners are the same cell
      const int64_t token = samples.cell[corner][i];
      const T* cell = map.data + channel + token * map.stride;
      Real* to = grad_map + channel + token * grad_stride;
      const Vector<Real> weight = samples.weight[corner][i] - Vector<Real>{};
      gains[corner] = incoming[0] * load_vector(cell);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        if (v > 0)
          gains[corner] += incoming[v] * load_vector(cell + v * kStep);
        store_vector<Real>(load_vector(to + v * kStep) + weight * incoming[v], to + v * kStep);
      }
    }
    Real sums[4];
    LaneSums<Real, kLanes<Real>>::of(gains[0], gains[1], gains[2], gains[3], sums);
    for (int corner = 0; corner < 4; ++corner)
      samples.gain[corner][located.order[i]] += sums[corner];
  }
}

template <typename T, typename Real>
inline void spread_gradient(const HeadMap<T>& map, Real* grad_map, int64_t grad_stride, const Samples<Real>& samples,
                            const Located& located, int64_t channels, const Real* gradient) {
  int64_t channel = 0;
  for (; channel + 4 * kLanes<Real> <= channels; channel += 4 * kLanes<Real>) {
    spread_block<4>(map, grad_map, grad_stride, samples, located, channel, gradient);
  }
  for (; channel + 2 * kLanes<Real> <= channels; channel += 2 * kLanes<Real>) {
    spread_block<2>(map, grad_map, grad_stride, samples, located, channel, gradient);
  }
  for (; channel + kLanes<Real> <= channels; channel += kLanes<Real>) {
    spread_block<1>(map, grad_map, grad_stride, samples, located, channel, gradient);
  }
  for (; channel < channels; ++channel) {
    for (int64_t i = 0; i < located.count; ++i) {
      for (int corner = 0; corner < 4; ++corner) {
        const int64_t token = samples.cell[corner][i];
        samples.gain[corner][located.order[i]] += gradient[channel] * load(map.data[token * map.stride + channel]);
        grad_map[token * grad_stride + channel] += samples.weight[corner][i] * gradient[channel];
      }
    }
  }
}

template <template <typename> class Source, typename T, typename Real, typename Out>
inline void backward_queries(const Problem& problem, const Inputs& inputs, const HeadMap<T>& map, int64_t batch,
                             int64_t head, const Out* grad_output, Real* grad_map, int64_t grad_stride,
                             Scratch scratch) {
  const Source<Real> source(problem, inputs);
  const Samples<Real> samples(problem, scratch);
  Real* gradient = scratch.take<Real>(problem.channels);
  for (int64_t query = 0; query < problem.queries; ++query) {
    const int64_t item = (batch * problem.queries + query) * problem.heads + head;
    source.read(batch, query, head, item, samples);
    const Out* from = grad_output + item * problem.channels;
    fetch_ahead<false>(from, problem.channels, problem.heads);
    Real difference = 0;  // x - x, 0 or NaN
    for (int64_t d = 0; d < problem.channels; ++d)
      gradient[d] = load(from[d]);
    for (int64_t d = 0; d < problem.channels; ++d)
      difference += gradient[d] - gradient[d];
    const Located located = locate_samples(samples, map.finite && difference == Real(0));
    for (Real* gain : samples.gain) {
      for (int64_t i = 0; i < samples.count; ++i)
        gain[i] = 0;
    }
    spread_gradient(map, grad_map, grad_stride, samples, located, problem.channels, gradient);
    differentiate_samples(samples);
    source.write(batch, query, head, item, samples);
  }
}

template <template <typename> class Source, typename T>
void backward_units(const Problem& problem, const Work& work, const Maps& value, const Inputs& inputs,
                    const void* grad_output, void* grad_value, void* memory, int64_t begin, int64_t end) {
  using Real = typename Accumulator<T>::type;
  const int64_t channels = problem.channels, token_stride = problem.heads * channels;
  const T* incoming = static_cast<const T*>(grad_output);
  Scratch scratch(memory);
  Real* packed = work.packed ? scratch.take<Real>(problem.tokens * channels) : nullptr;
  Real* packed_grad = scratch.take<Real>(problem.tokens * channels);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t batch = unit / problem.heads, head = unit % problem.heads;
    const T* data = static_cast<const T*>(value.data) + batch * value.batch_stride + head * value.head_stride;
    T* to = static_cast<T*>(grad_value) + (batch * problem.tokens * problem.heads + head) * channels;
    for (int64_t i = 0; i < problem.tokens * channels; ++i)
      packed_grad[i] = 0;
    if (work.packed) {
      const HeadMap<Real> map = pack(problem, data, value.token_stride, packed);
      backward_queries<Source>(problem, inputs, map, batch, head, incoming, packed_grad, channels, scratch);
    } else {
      backward_queries<Source>(problem, inputs, HeadMap<T>{data, value.token_stride, false}, batch, head, incoming,
                               packed_grad, channels, scratch);
    }
    for (int64_t token = 0; token < problem.tokens; ++token) {
      for (int64_t d = 0; d < channels; ++d)
        store(packed_grad[token * channels + d], to[token * token_stride + d]);
    }
  }
}

}  // namespace
}  // namespace ddetr
