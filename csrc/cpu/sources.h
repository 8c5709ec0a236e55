// Where a query's locations and weights come from, and where their gradients go: tensors that hold them, or, in the
// fused operator, reference points, offsets and logits, so that neither locations nor softmax ever reach memory.

#pragma once

#include <cmath>

#include "samples.h"

namespace ddetr {
namespace {

// Reads (B, Q, M, L, P, 2) locations and (B, Q, M, L, P) weights.
template <typename Real>
struct GivenSource {
  const Real *locations, *weights;
  Real *grad_locations, *grad_weights;
  int64_t step;  // how many rows lie between one read and the next

  GivenSource(const Problem&, const Inputs& inputs, int64_t step)
      : locations(static_cast<const Real*>(inputs.places)),
        weights(static_cast<const Real*>(inputs.weights)),
        grad_locations(static_cast<Real*>(inputs.grad_places)),
        grad_weights(static_cast<Real*>(inputs.grad_weights)),
        step(step) {}

  void read(int64_t, int64_t, int64_t, int64_t item, const Samples<Real>& samples) const {
    const Real* from = locations + item * samples.count * 2;
    fetch_ahead<false>(from, samples.count * 2, step);
    fetch_ahead<false>(weights + item * samples.count, samples.count, step);
    for (int64_t i = 0; i < samples.count; ++i) {
      samples.u[i] = from[2 * i];
      samples.v[i] = from[2 * i + 1];
      samples.attention[i] = weights[item * samples.count + i];
    }
  }

  void write(int64_t, int64_t, int64_t, int64_t item, const Samples<Real>& samples) const {
    Real* to = grad_locations + item * samples.count * 2;
    fetch_ahead<true>(to, samples.count * 2, step);
    fetch_ahead<true>(grad_weights + item * samples.count, samples.count, step);
    for (int64_t i = 0; i < samples.count; ++i) {
      to[2 * i] = samples.grad_u[i];
      to[2 * i + 1] = samples.grad_v[i];
      grad_weights[item * samples.count + i] = samples.grad_attention[i];
    }
  }
};

// e^x for x <= 0, to two units in the last place: Cephes' polynomial on [-ln 2 / 2, ln 2 / 2] and a shifted exponent.
inline float exp_of_negative(float x) {
  x = x < -87.0f ? -87.0f : x;  // the smallest normal float; a NaN stays one
  const float shift = 0x1.8p23f;
  const float rounded = x * 1.44269504f + shift;  // its low bits are the integer nearest to x / ln 2
  const float n = rounded - shift;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float y = 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  return y * bits_as<float>((bits_as<uint32_t>(rounded) + 127u) << 23);  // the shift leaves the integer's low bits only
}
inline double exp_of_negative(double x) {
  return std::exp(x);
}

// Reads (B, Q, L, 2 or 4) reference points, (B, Q, M, L, P, 2) offsets and (B, Q, M, L, P) logits. Gradients of the
// reference points are written head by head, (B, M, Q, L, 2 or 4), and summed over heads afterwards.
template <typename Real>
struct FusedSource {
  const Real *reference, *offsets, *logits;
  Real *grad_reference, *grad_offsets, *grad_logits;
  int64_t coordinates, levels, points, queries, heads, step;

  FusedSource(const Problem& problem, const Inputs& inputs, int64_t step)
      : reference(static_cast<const Real*>(inputs.reference)),
        offsets(static_cast<const Real*>(inputs.places)),
        logits(static_cast<const Real*>(inputs.weights)),
        grad_reference(static_cast<Real*>(inputs.grad_reference)),
        grad_offsets(static_cast<Real*>(inputs.grad_places)),
        grad_logits(static_cast<Real*>(inputs.grad_weights)),
        coordinates(inputs.coordinates),
        levels(problem.levels),
        points(problem.points),
        queries(problem.queries),
        heads(problem.heads),
        step(step) {}

  // What an offset of 1 moves a location by: one cell from a point, half a side over P from a box.
  void scale(const Real* from, const Samples<Real>& samples, int64_t index, Real& x, Real& y) const {
    const bool box = coordinates == 4;
    x = box ? from[2] * Real(0.5) / static_cast<Real>(points) : Real(1) / static_cast<Real>(samples.width[index]);
    y = box ? from[3] * Real(0.5) / static_cast<Real>(points) : Real(1) / static_cast<Real>(samples.height[index]);
  }

  void read(int64_t batch, int64_t query, int64_t, int64_t item, const Samples<Real>& samples) const {
    const int64_t count = samples.count;
    const Real* move = offsets + item * count * 2;
    const Real* logit = logits + item * count;
    if (count == 0)
      return;  // no sample: nothing to weigh
    fetch_ahead<false>(move, count * 2, step);
    fetch_ahead<false>(logit, count, step);
    for (int64_t level = 0, i = 0; level < levels; ++level) {
      const Real* from = reference + ((batch * queries + query) * levels + level) * coordinates;
      Real x, y;
      scale(from, samples, i, x, y);
      for (int64_t point = 0; point < points; ++point, ++i) {
        samples.u[i] = from[0] + move[2 * i] * x;
        samples.v[i] = from[1] + move[2 * i + 1] * y;
      }
    }
    Real largest = logit[0];
    for (int64_t i = 1; i < count; ++i)
      largest = logit[i] > largest ? logit[i] : largest;
    Real total = 0;
    for (int64_t i = 0; i < count; ++i)
      samples.attention[i] = exp_of_negative(logit[i] - largest);
    for (int64_t i = 0; i < count; ++i)
      total += samples.attention[i];
    const Real share = Real(1) / total;
    for (int64_t i = 0; i < count; ++i)
      samples.attention[i] *= share;
  }

  void write(int64_t batch, int64_t query, int64_t head, int64_t item, const Samples<Real>& samples) const {
    const int64_t count = samples.count;
    const Real* move = offsets + item * count * 2;
    Real* to_offset = grad_offsets + item * count * 2;
    Real* to_logit = grad_logits + item * count;
    if (count == 0) {  // and the reference points have moved nothing
      const int64_t numbers = levels * coordinates;
      Real* to = grad_reference + ((batch * heads + head) * queries + query) * numbers;
      for (int64_t i = 0; i < numbers; ++i)
        to[i] = 0;
      return;
    }
    fetch_ahead<true>(to_offset, count * 2, step);
    fetch_ahead<true>(to_logit, count, step);
    Real mean = 0;
    for (int64_t i = 0; i < count; ++i)
      mean += samples.attention[i] * samples.grad_attention[i];
    for (int64_t i = 0; i < count; ++i) {
      to_logit[i] = samples.attention[i] * (samples.grad_attention[i] - mean);
    }
    for (int64_t level = 0, i = 0; level < levels; ++level) {
      const Real* from = reference + ((batch * queries + query) * levels + level) * coordinates;
      Real* to = grad_reference + (((batch * heads + head) * queries + query) * levels + level) * coordinates;
      Real x, y, sum_x = 0, sum_y = 0, sum_w = 0, sum_h = 0;
      scale(from, samples, i, x, y);
      for (int64_t point = 0; point < points; ++point, ++i) {
        to_offset[2 * i] = samples.grad_u[i] * x;
        to_offset[2 * i + 1] = samples.grad_v[i] * y;
        sum_x += samples.grad_u[i];
        sum_y += samples.grad_v[i];
        sum_w += samples.grad_u[i] * move[2 * i];
        sum_h += samples.grad_v[i] * move[2 * i + 1];
      }
      to[0] = sum_x;
      to[1] = sum_y;
      if (coordinates == 4) {
        to[2] = sum_w * Real(0.5) / static_cast<Real>(points);
        to[3] = sum_h * Real(0.5) / static_cast<Real>(points);
      }
    }
  }
};

}  // namespace
}  // namespace ddetr
