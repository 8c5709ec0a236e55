// Element types of the maps and their way to the type that sums run in, one number at a time.
//
// Everything in the kernels' headers has internal linkage: each copy of the kernels is compiled for another instruction
// set, and a linker that merged their functions could hand AVX-512 code to a processor without it.

#pragma once

#include <cstdint>
#include <cstring>

namespace ddetr {
namespace {

// 16-bit elements as they lie in memory.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// What sums of an element type run in.
template <typename T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};

template <typename To, typename From>
inline To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

inline double load(double x) {
  return x;
}
inline float load(float x) {
  return x;
}
inline float load(BFloat16 x) {
  return bits_as<float>(static_cast<uint32_t>(x.bits) << 16);
}

// Exact for every half, subnormals included: the exponent is moved by a multiplication that float can hold.
inline float load(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fffu);
  const uint32_t bits = bits_as<uint32_t>(bits_as<float>(magnitude << 13) * 0x1p112f);
  return bits_as<float>(bits | sign | (magnitude >= 0x7c00u ? 0x7f800000u : 0u));
}

inline void store(double x, double& to) {
  to = x;
}
inline void store(float x, float& to) {
  to = x;
}

// Rounds to nearest, ties to even; a NaN stays one.
inline void store(float x, BFloat16& to) {
  const uint32_t bits = bits_as<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  to.bits = static_cast<uint16_t>(x != x ? 0x7fc0u : rounded);
}

inline void store(float x, Half& to) {
  uint32_t bits = bits_as<uint32_t>(x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  bits &= 0x7fffffffu;
  uint32_t result;
  if (bits > 0x7f800000u) {
    result = 0x7e00u;
  } else if (bits >= 0x47800000u) {  // 65536 and more, infinity included
    result = 0x7c00u;
  } else if (bits < 0x38800000u) {  // below the smallest normal half: adding 0.5 lets the adder round
    result = bits_as<uint32_t>(bits_as<float>(bits) + 0.5f) - 0x3f000000u;
  } else {
    result = (bits + 0xfffu + ((bits >> 13) & 1u) - 0x38000000u) >> 13;
  }
  to.bits = static_cast<uint16_t>(sign | result);
}

}  // namespace
}  // namespace ddetr
