// Deformable attention on the CPU, forward and backward.
//
// Compiled once for each instruction set, with DDETR_KERNELS naming the function that returns this copy. Loops over
// channels have a constant length wherever D is a common one, which is all that the compiler needs to keep them in vector
// registers.

#include "kernels.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "../bilinear.h"

#ifndef DDETR_KERNELS
#define DDETR_KERNELS baseline_kernels
#define DDETR_KERNELS_NAME "baseline"
#endif

namespace ddetr {
namespace {

// 16-bit elements as they lie in memory, and their way to float and back.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

inline double load(double x) { return x; }
inline float load(float x) { return x; }

inline float load(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

// Exact for every half, subnormals included: the exponent is moved by a multiplication that float can hold.
inline float load(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fffu);
  uint32_t bits = magnitude << 13;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  result *= 0x1p112f;
  std::memcpy(&bits, &result, sizeof bits);
  bits |= sign | (magnitude >= 0x7c00u ? 0x7f800000u : 0u);
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

inline void store(double x, double& to) { to = x; }
inline void store(float x, float& to) { to = x; }

// Rounds to nearest, ties to even; a NaN stays one.
inline void store(float x, BFloat16& to) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  to.bits = static_cast<uint16_t>(x != x ? 0x7fc0u : rounded);
}

inline void store(float x, Half& to) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  bits &= 0x7fffffffu;
  uint32_t result;
  if (bits > 0x7f800000u) {
    result = 0x7e00u;
  } else if (bits >= 0x47800000u) {  // 65536 and more, infinity included
    result = 0x7c00u;
  } else if (bits < 0x38800000u) {  // below the smallest normal half: adding 0.5 lets the adder round
    float magnitude;
    std::memcpy(&magnitude, &bits, sizeof magnitude);
    magnitude += 0.5f;
    std::memcpy(&result, &magnitude, sizeof result);
    result -= 0x3f000000u;
  } else {
    result = (bits + 0xfffu + ((bits >> 13) & 1u) - 0x38000000u) >> 13;
  }
  to.bits = static_cast<uint16_t>(sign | result);
}

template <typename T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};

// NaN and infinity less themselves are NaN.
template <typename Real>
inline bool is_finite(Real x) {
  return x - x == Real(0);
}

// One sample that reads something: its corners' addresses, counted from the head's first channel, and its numbers.
template <typename Real>
struct Read {
  int64_t offset[4];
  Real weight[4];  // bilinear
  Real attention;
  Sample<Real> sample;
  int64_t index;  // in L * P
  int32_t height, width;
};

// Collects the samples of one query and head that touch a map. Returns how many, and whether a location is not
// finite: such a query's result is NaN, as with grid_sample, for a fault upstream must not become a plausible number.
template <typename Real>
int64_t collect(const Problem& problem, const Real* locations, const Real* weights, Read<Real>* reads, bool& poisoned) {
  const int64_t stride = problem.heads * problem.channels;
  int64_t count = 0;
  for (int64_t level = 0, index = 0; level < problem.levels; ++level) {
    const int32_t height = static_cast<int32_t>(problem.heights[level]);
    const int32_t width = static_cast<int32_t>(problem.widths[level]);
    for (int64_t point = 0; point < problem.points; ++point, ++index) {
      Read<Real>& read = reads[count];
      const Real u = locations[2 * index], v = locations[2 * index + 1];
      if (!locate(u, v, height, width, read.sample)) {
        poisoned |= !is_finite(u) || !is_finite(v);
        continue;
      }
      corner_weights(read.sample, read.weight);
      for (int corner = 0; corner < 4; ++corner) {
        read.offset[corner] = (problem.starts[level] + read.sample.cell[corner]) * stride;
      }
      read.attention = weights[index];
      read.index = index;
      read.height = height;
      read.width = width;
      ++count;
    }
  }
  return count;
}

// Sums `count` channels of all reads. N is that count where it is known when compiling, else 0.
template <int N, typename T, typename Real>
inline void sum_reads(const T* value, const Read<Real>* reads, int64_t reads_count, int64_t channels, T* output) {
  constexpr int kBuffer = N > 0 ? N : 64;
  const int64_t length = N > 0 ? N : channels;
  for (int64_t first = 0; first < length; first += kBuffer) {
    const int64_t width = N > 0 ? N : std::min<int64_t>(kBuffer, length - first);
    Real sum[kBuffer] = {};
    for (int64_t i = 0; i < reads_count; ++i) {
      const Read<Real>& read = reads[i];
      const Real w0 = read.attention * read.weight[0], w1 = read.attention * read.weight[1];
      const Real w2 = read.attention * read.weight[2], w3 = read.attention * read.weight[3];
      const T* v0 = value + read.offset[0] + first;
      const T* v1 = value + read.offset[1] + first;
      const T* v2 = value + read.offset[2] + first;
      const T* v3 = value + read.offset[3] + first;
      for (int64_t d = 0; d < (N > 0 ? N : width); ++d) {
        sum[d] += w0 * load(v0[d]) + w1 * load(v1[d]) + w2 * load(v2[d]) + w3 * load(v3[d]);
      }
    }
    for (int64_t d = 0; d < width; ++d) store(sum[d], output[first + d]);
  }
}

template <int N, typename T>
void forward_rows(const Problem& problem, const T* value, const typename Accumulator<T>::type* locations,
                  const typename Accumulator<T>::type* weights, T* output, int64_t begin, int64_t end) {
  using Real = typename Accumulator<T>::type;
  const int64_t samples = problem.levels * problem.points;
  std::vector<Read<Real>> reads(static_cast<size_t>(samples) + 1);  // one more: `collect` writes before it decides
  for (int64_t row = begin; row < end; ++row) {
    const T* picture = value + row / problem.queries * problem.tokens * problem.heads * problem.channels;
    for (int64_t head = 0; head < problem.heads; ++head) {
      const int64_t item = row * problem.heads + head;
      bool poisoned = false;
      const int64_t count =
          collect(problem, locations + item * samples * 2, weights + item * samples, reads.data(), poisoned);
      T* to = output + item * problem.channels;
      if (poisoned) {
        for (int64_t d = 0; d < problem.channels; ++d) store(std::numeric_limits<Real>::quiet_NaN(), to[d]);
        continue;
      }
      sum_reads<N>(picture + head * problem.channels, reads.data(), count, problem.channels, to);
    }
  }
}

// Spreads a query's gradient over the cells that it read and gathers what each read was worth.
template <int N, typename T, typename Real>
inline void spread_read(const Read<Real>& read, const T* value, const Real* gradient, int64_t channels, Real* grad_value,
                        Real gain[4]) {
  const int64_t length = N > 0 ? N : channels;
  const Real w0 = read.attention * read.weight[0], w1 = read.attention * read.weight[1];
  const Real w2 = read.attention * read.weight[2], w3 = read.attention * read.weight[3];
  const T *v0 = value + read.offset[0], *v1 = value + read.offset[1];
  const T *v2 = value + read.offset[2], *v3 = value + read.offset[3];
  // Eight partial sums a corner: the compiler may not reorder a single one into vector lanes.
  constexpr int kLanes = 8;
  Real g0[kLanes] = {}, g1[kLanes] = {}, g2[kLanes] = {}, g3[kLanes] = {};
  const int64_t whole = length / kLanes * kLanes;
  for (int64_t d = 0; d < whole; d += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const Real g = gradient[d + lane];
      g0[lane] += g * load(v0[d + lane]);
      g1[lane] += g * load(v1[d + lane]);
      g2[lane] += g * load(v2[d + lane]);
      g3[lane] += g * load(v3[d + lane]);
    }
  }
  for (int64_t d = whole; d < length; ++d) {
    g0[0] += gradient[d] * load(v0[d]);
    g1[0] += gradient[d] * load(v1[d]);
    g2[0] += gradient[d] * load(v2[d]);
    g3[0] += gradient[d] * load(v3[d]);
  }
  gain[0] = gain[1] = gain[2] = gain[3] = Real(0);
  for (int lane = 0; lane < kLanes; ++lane) {
    gain[0] += g0[lane];
    gain[1] += g1[lane];
    gain[2] += g2[lane];
    gain[3] += g3[lane];
  }
  // One corner after the other: at a border two corners are the same cell (one of them with weight 0).
  const Real scaled[4] = {w0, w1, w2, w3};
  for (int corner = 0; corner < 4; ++corner) {
    Real* to = grad_value + read.offset[corner];
    for (int64_t d = 0; d < (N > 0 ? N : length); ++d) to[d] += scaled[corner] * gradient[d];
  }
}

template <int N, typename T>
void backward_pairs(const Problem& problem, const T* value, const typename Accumulator<T>::type* locations,
                    const typename Accumulator<T>::type* weights, const T* grad_output,
                    typename Accumulator<T>::type* grad_value, typename Accumulator<T>::type* grad_locations,
                    typename Accumulator<T>::type* grad_weights, int64_t begin, int64_t end) {
  using Real = typename Accumulator<T>::type;
  const int64_t samples = problem.levels * problem.points, channels = problem.channels;
  const int64_t picture_size = problem.tokens * problem.heads * channels;
  std::vector<Read<Real>> reads(static_cast<size_t>(samples) + 1);
  std::vector<Real> gradient(static_cast<size_t>(channels));
  for (int64_t pair = begin; pair < end; ++pair) {
    const int64_t picture = pair / problem.heads, head = pair % problem.heads;
    const T* head_value = value + picture * picture_size + head * channels;
    Real* head_grad = grad_value + picture * picture_size + head * channels;
    for (int64_t query = 0; query < problem.queries; ++query) {
      const int64_t item = (picture * problem.queries + query) * problem.heads + head;
      for (int64_t d = 0; d < channels; ++d) gradient[d] = load(grad_output[item * channels + d]);
      Real* to_locations = grad_locations + item * samples * 2;
      Real* to_weights = grad_weights + item * samples;
      std::fill(to_locations, to_locations + samples * 2, Real(0));
      std::fill(to_weights, to_weights + samples, Real(0));
      bool poisoned = false;
      const int64_t count =
          collect(problem, locations + item * samples * 2, weights + item * samples, reads.data(), poisoned);
      for (int64_t index = 0; poisoned && index < samples; ++index) {
        const Real* location = locations + (item * samples + index) * 2;
        if (is_finite(location[0]) && is_finite(location[1])) continue;
        to_locations[2 * index] = to_locations[2 * index + 1] = to_weights[index] =
            std::numeric_limits<Real>::quiet_NaN();
      }
      for (int64_t i = 0; i < count; ++i) {
        const Read<Real>& read = reads[i];
        Real gain[4], grad_u, grad_v;
        spread_read<N>(read, head_value, gradient.data(), channels, head_grad, gain);
        location_gradient(read.sample, gain, read.height, read.width, grad_u, grad_v);
        to_locations[2 * read.index] = read.attention * grad_u;
        to_locations[2 * read.index + 1] = read.attention * grad_v;
        to_weights[read.index] = read.weight[0] * gain[0] + read.weight[1] * gain[1] + read.weight[2] * gain[2] +
                                 read.weight[3] * gain[3];
      }
    }
  }
}

// Calls `function<N>` with N = channels where that is a common number, else with N = 0.
#define DDETR_BY_CHANNELS(channels, function, ...)          \
  switch (channels) {                                       \
    case 8: function<8>(__VA_ARGS__); break;                \
    case 16: function<16>(__VA_ARGS__); break;              \
    case 32: function<32>(__VA_ARGS__); break;              \
    case 64: function<64>(__VA_ARGS__); break;              \
    default: function<0>(__VA_ARGS__); break;               \
  }

template <typename T>
void forward_as(const Problem& problem, const void* value, const void* locations, const void* weights, void* output,
                int64_t begin, int64_t end) {
  using Real = typename Accumulator<T>::type;
  DDETR_BY_CHANNELS(problem.channels, forward_rows, problem, static_cast<const T*>(value),
                    static_cast<const Real*>(locations), static_cast<const Real*>(weights), static_cast<T*>(output),
                    begin, end)
}

template <typename T>
void backward_as(const Problem& problem, const void* value, const void* locations, const void* weights,
                 const void* grad_output, void* grad_value, void* grad_locations, void* grad_weights, int64_t begin,
                 int64_t end) {
  using Real = typename Accumulator<T>::type;
  DDETR_BY_CHANNELS(problem.channels, backward_pairs, problem, static_cast<const T*>(value),
                    static_cast<const Real*>(locations), static_cast<const Real*>(weights),
                    static_cast<const T*>(grad_output), static_cast<Real*>(grad_value),
                    static_cast<Real*>(grad_locations), static_cast<Real*>(grad_weights), begin, end)
}

#define DDETR_BY_ELEMENT(element, function, ...)                      \
  switch (element) {                                                  \
    case Element::Float64: function<double>(__VA_ARGS__); break;      \
    case Element::Float32: function<float>(__VA_ARGS__); break;       \
    case Element::Float16: function<Half>(__VA_ARGS__); break;        \
    case Element::BFloat16: function<BFloat16>(__VA_ARGS__); break;   \
  }

void forward(const Problem& problem, Element element, const void* value, const void* locations, const void* weights,
             void* output, int64_t begin, int64_t end) {
  DDETR_BY_ELEMENT(element, forward_as, problem, value, locations, weights, output, begin, end)
}

void backward(const Problem& problem, Element element, const void* value, const void* locations, const void* weights,
              const void* grad_output, void* grad_value, void* grad_locations, void* grad_weights, int64_t begin,
              int64_t end) {
  DDETR_BY_ELEMENT(element, backward_as, problem, value, locations, weights, grad_output, grad_value, grad_locations,
                   grad_weights, begin, end)
}

}  // namespace

const Kernels& DDETR_KERNELS() {
  static const Kernels kernels{DDETR_KERNELS_NAME, forward, backward};
  return kernels;
}

}  // namespace ddetr
