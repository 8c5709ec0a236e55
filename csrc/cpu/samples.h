// The samples of one query and head, as arrays over L * P: loops over them are vector code, eight samples at a time.

#pragma once

#include "kernels.h"
#include "vectors.h"

namespace ddetr {
namespace {

// Hands out pieces of one block of memory, each starting on a cache line.
class Scratch {
 public:
  explicit Scratch(void* memory) : next_(static_cast<char*>(memory)) {}

  template <typename T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(next_);
    next_ += (count * static_cast<int64_t>(sizeof(T)) + kCacheLine - 1) / kCacheLine * kCacheLine;
    return piece;
  }

 private:
  char* next_;
};

// Work on one head comes to every M-th row: too far for the processor to guess, so that it is told in time. Reaching
// beyond the array does no harm. Rows that are written need it most: stores wait for each other.
template <bool written, typename T>
inline void fetch_ahead(const T* row, int64_t count, int64_t step) {
  constexpr int64_t kRowsAhead = 6;
  const char* next = reinterpret_cast<const char*>(row + kRowsAhead * step * count);
  for (int64_t byte = 0; byte < count * static_cast<int64_t>(sizeof(T)); byte += kCacheLine) {
    __builtin_prefetch(next + byte, written);
  }
}

// How many samples are located at once, and as what.
template <typename Real>
struct Together {
  using Reals = Real;
  static constexpr int64_t count = 1;
};
template <>
struct Together<float> {
  using Reals = Vector<float>;
  static constexpr int64_t count = kLanes<float>;
};

// The arrays of one query and head, each filled up to whole vectors with samples that weigh nothing.
template <typename Real>
struct Samples {
  using Reals = typename Together<Real>::Reals;
  using Integers = typename Numbers<Reals>::Integer;
  static constexpr int64_t kTogether = Together<Real>::count;

  int64_t count;                    // L * P
  int32_t *height, *width, *start;  // of each sample's level
  Real *u, *v, *attention;          // filled by a source
  int32_t* cell[4];                 // filled by `locate_samples`: the corners' tokens
  Real* weight[4];                  // attention times bilinear weight
  int32_t *all, *kept;              // 0, 1, 2 ... and which of these touch a map
  Real* gain[4];                    // backward: of each corner
  Real *grad_u, *grad_v, *grad_attention;

  Samples(const Problem& problem, Scratch& scratch) : count(problem.levels * problem.points) {
    const int64_t whole = (count + kTogether - 1) / kTogether * kTogether;
    int32_t** const integers[] = {&height, &width, &start, &cell[0], &cell[1], &cell[2], &cell[3], &all, &kept};
    Real** const reals[] = {&u,       &v,       &attention, &weight[0], &weight[1], &weight[2], &weight[3],
                            &gain[0], &gain[1], &gain[2],   &gain[3],   &grad_u,    &grad_v,    &grad_attention};
    for (int32_t** array : integers)
      *array = scratch.take<int32_t>(whole);
    for (Real** array : reals)
      *array = scratch.take<Real>(whole);
    for (int64_t index = 0; index < whole; ++index) {
      const int64_t level = index / problem.points;
      height[index] = index < count ? static_cast<int32_t>(problem.heights[level]) : 1;
      width[index] = index < count ? static_cast<int32_t>(problem.widths[level]) : 1;
      start[index] = index < count ? static_cast<int32_t>(problem.starts[level]) : 0;
      all[index] = static_cast<int32_t>(index);
      u[index] = v[index] = Real(0.5);
      attention[index] = 0;
    }
  }
};

// The arrays of as many queries and heads as are worked on together.
template <typename Real>
struct SampleGroup {
  const Samples<Real> of[kGroup];
  SampleGroup(const Problem& problem, Scratch& scratch)
      : of{{problem, scratch}, {problem, scratch}, {problem, scratch}, {problem, scratch}} {}
};

template <typename Lanes, typename T>
inline Lanes get(const T* array, int64_t index) {
  return load_as<Lanes>(array + index);
}
template <typename Lanes, typename T>
inline void set(T* array, int64_t index, const Lanes& lanes) {
  std::memcpy(array + index, &lanes, sizeof lanes);
}
template <typename Truth>
inline bool all_of(const Truth& truth) {
  const Truth wrong = truth == Truth{};
  if constexpr (sizeof wrong % sizeof(uint64_t) == 0) {
    uint64_t words[sizeof wrong / sizeof(uint64_t)], found = 0;
    std::memcpy(words, &wrong, sizeof wrong);
    for (uint64_t word : words)
      found |= word;
    return !found;
  } else {
    return !wrong;
  }
}

// The samples to read: their cells and weights come first and in order; `order` says which they were.
struct Located {
  int64_t count;
  const int32_t* order;
  bool finite;  // all locations are, and no weight is NaN; else the query's result is NaN, as with grid_sample, for a
                // fault upstream must not become a plausible number
};

// Finds each sample's cells and weights. Samples that touch no map are left out, or, with `keep_all`, read some cell
// with weight 0: quicker, and right where cells are finite.
template <typename Real>
inline Located locate_samples(const Samples<Real>& samples, bool keep_all) {
  using Reals = typename Samples<Real>::Reals;
  using Integers = typename Samples<Real>::Integers;
  using Truth = typename Numbers<Reals>::Truth;
  Truth all_touch = Reals{} == Reals{}, all_finite = all_touch;
  for (int64_t i = 0; i < samples.count; i += Samples<Real>::kTogether) {
    const Reals u = get<Reals>(samples.u, i), v = get<Reals>(samples.v, i);
    const Reals attention = get<Reals>(samples.attention, i);
    Sample<Reals> sample;
    Reals weight[4];
    const Truth touches = locate(u, v, get<Integers>(samples.height, i), get<Integers>(samples.width, i), sample);
    corner_weights(sample, weight);
    for (int corner = 0; corner < 4; ++corner) {
      set(samples.cell[corner], i, get<Integers>(samples.start, i) + sample.cell[corner]);
      set(samples.weight[corner], i, attention * weight[corner]);
    }
    set(samples.kept, i, Numbers<Reals>::integer(touches));
    all_touch &= touches;
    // NaN and infinity less themselves are NaN, and NaN alone is not equal to itself.
    all_finite &= (u - u == Reals{}) & (v - v == Reals{}) & (attention == attention);
  }
  const bool finite = all_of(all_finite);
  if (keep_all || all_of(all_touch))
    return {samples.count, samples.all, finite};
  int64_t count = 0;
  for (int64_t i = 0; i < samples.count; ++i) {
    const int32_t touches = samples.kept[i];
    for (int corner = 0; corner < 4; ++corner) {
      samples.cell[corner][count] = samples.cell[corner][i];
      samples.weight[corner][count] = samples.weight[corner][i];
    }
    samples.kept[count] = static_cast<int32_t>(i);
    count += touches;  // no branch: which samples lie outside is anybody's guess
  }
  return {count, samples.kept, finite};
}

// From each corner's gain to the gradients of locations and weights. Samples outside have gained nothing.
template <typename Real>
inline void differentiate_samples(const Samples<Real>& samples) {
  using Reals = typename Samples<Real>::Reals;
  using Integers = typename Samples<Real>::Integers;
  for (int64_t i = 0; i < samples.count; i += Samples<Real>::kTogether) {
    const Reals u = get<Reals>(samples.u, i), v = get<Reals>(samples.v, i);
    const Reals attention = get<Reals>(samples.attention, i);
    const Reals poison = (u - u) + (v - v);  // 0, or NaN where a location is not finite
    const Integers height = get<Integers>(samples.height, i), width = get<Integers>(samples.width, i);
    Reals gain[4], weight[4], grad_u, grad_v;
    for (int corner = 0; corner < 4; ++corner)
      gain[corner] = get<Reals>(samples.gain[corner], i);
    Sample<Reals> sample;
    locate(u, v, height, width, sample);
    corner_weights(sample, weight);
    location_gradient(sample, gain, height, width, grad_u, grad_v);
    set(samples.grad_u, i, attention * grad_u + poison);
    set(samples.grad_v, i, attention * grad_v + poison);
    set(samples.grad_attention, i,
        weight[0] * gain[0] + weight[1] * gain[1] + weight[2] * gain[2] + weight[3] * gain[3] + poison);
  }
}

}  // namespace
}  // namespace ddetr
