// Vectors as wide as the instruction set that this copy of the kernels is compiled for, in the compilers' own notation,
// so that x86-64 and 64-bit Arm share one source; the only intrinsics are those of stores past the caches.

#pragma once

#include "../bilinear.h"
#include "elements.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace ddetr {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;  // SSE2 and NEON
#endif

template <typename Real>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef uint32_t bits __attribute__((vector_size(kVectorBytes)));
  typedef uint16_t halves __attribute__((vector_size(kVectorBytes / 2)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
};

template <typename Real>
using Vector = typename VectorOf<Real>::type;

template <typename Real>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(Real));

template <typename Wide>
inline Wide load_as(const void* from) {
  Wide wide;
  std::memcpy(&wide, from, sizeof wide);
  return wide;
}

inline Vector<double> load_vector(const double* from) {
  return load_as<Vector<double>>(from);
}
inline Vector<float> load_vector(const float* from) {
  return load_as<Vector<float>>(from);
}

inline Vector<float> load_vector(const BFloat16* from) {
  using Bits = VectorOf<float>::bits;
  return bits_as<Vector<float>>(__builtin_convertvector(load_as<VectorOf<float>::halves>(from), Bits) << 16);
}

inline Vector<float> load_vector(const Half* from) {  // as `load`, lane by lane
  using Bits = VectorOf<float>::bits;
  const Bits raw = __builtin_convertvector(load_as<VectorOf<float>::halves>(from), Bits);
  const Bits magnitude = raw & 0x7fffu;
  const Bits bits = bits_as<Bits>(bits_as<Vector<float>>(magnitude << 13) * 0x1p112f);
  const Bits special = bits_as<Bits>(magnitude >= 0x7c00u) & 0x7f800000u;
  return bits_as<Vector<float>>(bits | ((raw & 0x8000u) << 16) | special);
}

template <typename Real>
inline void store_vector(const Vector<Real>& vector, Real* to) {
  std::memcpy(to, &vector, sizeof vector);
}

// Stores past the caches, to an address that is a multiple of the vector; `finish_streams` before another thread reads.
template <typename Real>
inline void stream_vector(const Vector<Real>& vector, Real* to) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), bits_as<__m512i>(vector));
#elif defined(__AVX__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), bits_as<__m256i>(vector));
#elif defined(__SSE2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), bits_as<__m128i>(vector));
#else
  store_vector<Real>(vector, to);
#endif
}

inline void finish_streams() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Four vectors' sums of lanes. Neighbouring lanes meet at the end only, in one transposition for all four.
template <typename Real, int lanes>
struct LaneSums {
  typedef Real Wide __attribute__((vector_size(lanes * sizeof(Real))));
  typedef Real Narrow __attribute__((vector_size(lanes / 2 * sizeof(Real))));
  static inline Narrow folded(const Wide& wide) {
    Narrow halves[2];
    std::memcpy(halves, &wide, sizeof wide);
    return halves[0] + halves[1];
  }
  static inline void of(const Wide& a, const Wide& b, const Wide& c, const Wide& d, Real* sums) {
    LaneSums<Real, lanes / 2>::of(folded(a), folded(b), folded(c), folded(d), sums);
  }
};

#if defined(__clang__)
#define DDETR_SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define DDETR_SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, Order{i, j, k, l})
#endif

template <>
struct LaneSums<float, 4> {
  typedef float Wide __attribute__((vector_size(16)));
  typedef int32_t Order __attribute__((vector_size(16)));
  static inline void of(const Wide& a, const Wide& b, const Wide& c, const Wide& d, float* sums) {
    const Wide ab = DDETR_SHUFFLE(a, b, 0, 4, 1, 5) + DDETR_SHUFFLE(a, b, 2, 6, 3, 7);
    const Wide cd = DDETR_SHUFFLE(c, d, 0, 4, 1, 5) + DDETR_SHUFFLE(c, d, 2, 6, 3, 7);
    const Wide total = DDETR_SHUFFLE(ab, cd, 0, 1, 4, 5) + DDETR_SHUFFLE(ab, cd, 2, 3, 6, 7);
    std::memcpy(sums, &total, sizeof total);
  }
};

#undef DDETR_SHUFFLE

template <>
struct LaneSums<double, 2> {
  typedef double Wide __attribute__((vector_size(16)));
  static inline void of(const Wide& a, const Wide& b, const Wide& c, const Wide& d, double* sums) {
    sums[0] = a[0] + a[1];
    sums[1] = b[0] + b[1];
    sums[2] = c[0] + c[1];
    sums[3] = d[0] + d[1];
  }
};

}  // namespace

// Samples located side by side: as many as fit a vector of floats. Doubles, which gradient checks use, go one by one.
using FloatVector = Vector<float>;
template <>
struct Numbers<FloatVector> {
  typedef int32_t Integer __attribute__((vector_size(kVectorBytes)));
  using Truth = Integer;  // -1 or 0 in each lane
  static inline FloatVector real(Integer n) { return __builtin_convertvector(n, FloatVector); }
  static inline Integer cut(FloatVector x) { return __builtin_convertvector(x, Integer); }
  static inline Integer integer(Truth t) { return -t; }
  template <typename T>
  static inline T choose(Truth t, T yes, T no) {
    return t ? yes : no;
  }
};

}  // namespace ddetr
