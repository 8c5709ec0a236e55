// A picture to the planes that a network reads, in one pass over memory: resize, then look each pixel up in a table.
//
// The published weights were trained on Pillow's bilinear pixels, so these are Pillow's to the last bit: weights are
// whole numbers of 22 bits, rows are resized first and rounded to 8 bits, then columns. Where Pillow's order may be the
// other one, ddetr_lab/resampling.py does not call this.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "../call.h"

#if defined(__x86_64__) && defined(__gnu_linux__)
#define DDETR_FOR_EACH_PROCESSOR __attribute__((target_clones("avx2", "sse4.1", "default")))
#else
#define DDETR_FOR_EACH_PROCESSOR
#endif

namespace ddetr::cpu {
namespace {

constexpr int kBits = 22;  // of a weight: a sum of 255s still fits in 32 bits
constexpr int32_t kHalf = 1 << (kBits - 1), kLargest = 255;
constexpr int64_t kColours = 3;

// A pixel's three colours, and a lane to spare because registers hold four.
typedef int32_t Pixel __attribute__((vector_size(16)));

constexpr Pixel kHalves = {kHalf, kHalf, kHalf, kHalf}, kLargests = {kLargest, kLargest, kLargest, kLargest};

// Weights are rounded one by one: thousands of them may add up to more than a whole.
inline Pixel eight_bits(Pixel sums) {
  sums >>= kBits;
  return sums < kLargests ? sums : kLargests;
}

// What one side of the result is made of: the cell i is the weighted sum of `taps` neighbours from first[i] on.
struct Side {
  int64_t taps;
  std::vector<int64_t> first;
  std::vector<int32_t> weights;  // (cells, taps)
};

// A triangle over each cell's centre, as wide as a cell of the coarser of both grids, cut at the picture's edges.
Side plan_side(int64_t from, int64_t to) {
  const double scale = static_cast<double>(from) / static_cast<double>(to), reach = std::max(scale, 1.0);
  const auto centre = [&](int64_t i) { return (static_cast<double>(i) + 0.5) * scale; };
  const auto begin = [&](int64_t i) { return std::max<int64_t>(0, static_cast<int64_t>(centre(i) - reach + 0.5)); };
  const auto end = [&](int64_t i) { return std::min(from, static_cast<int64_t>(centre(i) + reach + 0.5)); };
  Side side{1, std::vector<int64_t>(to), {}};
  for (int64_t i = 0; i < to; ++i) {
    side.taps = std::max(side.taps, end(i) - begin(i));
  }
  side.weights.assign(to * side.taps, 0);
  std::vector<double> triangle(side.taps);
  for (int64_t i = 0; i < to; ++i) {
    const int64_t first = begin(i), count = end(i) - first;
    double total = 0;
    for (int64_t tap = 0; tap < count; ++tap) {
      const double away = std::abs(static_cast<double>(first + tap) - centre(i) + 0.5);
      triangle[tap] = std::max(1.0 - away * (1.0 / reach), 0.0);
      total += triangle[tap];
    }
    side.first[i] = std::min(first, from - side.taps);  // near the far edge the first weights are zero
    int32_t* weights = &side.weights[i * side.taps + first - side.first[i]];
    for (int64_t tap = 0; tap < count; ++tap) {
      weights[tap] = static_cast<int32_t>(0.5 + triangle[tap] / total * (1 << kBits));
    }
  }
  return side;
}

// Resizes one row: `cells` pixels, each from `taps` neighbours.
DDETR_FOR_EACH_PROCESSOR void resize_row(const Side& side, const Pixel* row, int64_t cells, Pixel* resized) {
  const int32_t* weights = side.weights.data();
  for (int64_t x = 0; x < cells; ++x, weights += side.taps) {
    const Pixel* pixels = row + side.first[x];
    Pixel sums = kHalves;
    for (int64_t tap = 0; tap < side.taps; ++tap) {
      sums += pixels[tap] * weights[tap];
    }
    resized[x] = eight_bits(sums);
  }
}

// Adds resized rows by their weights and looks the 8-bit sums up.
DDETR_FOR_EACH_PROCESSOR void blend_rows(const std::vector<const Pixel*>& rows, const int32_t* weights, int64_t cells,
                                         const float* table, float* planes, int64_t plane, int64_t step) {
  for (int64_t x = 0; x < cells; ++x) {
    Pixel sums = kHalves;
    for (size_t tap = 0; tap < rows.size(); ++tap) {
      sums += rows[tap][x] * weights[tap];
    }
    sums = eight_bits(sums);
    for (int64_t colour = 0; colour < kColours; ++colour) {
      planes[colour * plane + x * step] = table[colour * 256 + sums[colour]];
    }
  }
}

void check(const char* name, const Tensor& tensor, ScalarType type, bool fits, const char* expected) {
  STD_TORCH_CHECK(fits && tensor.scalar_type() == type && tensor.is_cpu(), name, " is ", shape_of(tensor), " ",
                  torch::headeronly::toString(tensor.scalar_type()), " on ", device_of(tensor),
                  ", expected on the CPU ", expected);
}

}  // namespace

// pixels (H, W, 3) uint8, table (3, 256) float32, planes (3, H', W') float32, which is written; any strides.
void resize_bilinear(const Tensor& pixels, const Tensor& table, Tensor& planes) {
  check("pixels", pixels, ScalarType::Byte, pixels.dim() == 3 && pixels.size(2) == kColours,
        "(H, W, 3) uint8: give 8-bit pixels with the three colours last");
  check("table", table, ScalarType::Float,
        table.dim() == 2 && table.size(0) == kColours && table.size(1) == 256 && table.is_contiguous(),
        "contiguous (3, 256) float32: give what becomes of each 8-bit value of each colour");
  check("planes", planes, ScalarType::Float, planes.dim() == 3 && planes.size(0) == kColours,
        "(3, H, W) float32: give the memory that the resized picture is to be written to");
  const int64_t height = pixels.size(0), width = pixels.size(1), cells = planes.size(2);
  STD_TORCH_CHECK(height > 0 && width > 0 && planes.size(1) > 0 && cells > 0, "pixels is ", shape_of(pixels),
                  " and planes is ", shape_of(planes), ", expected no side of 0: there is nothing to resize");
  const Side across = plan_side(width, cells), down = plan_side(height, planes.size(1));
  const auto* from = static_cast<const uint8_t*>(pixels.const_data_ptr());
  const auto* values = static_cast<const float*>(table.const_data_ptr());
  auto* to = static_cast<float*>(planes.mutable_data_ptr());
  const int64_t row_step = pixels.stride(0), step = pixels.stride(1), colour_step = pixels.stride(2);
  const int64_t plane = planes.stride(0), plane_row = planes.stride(1), plane_step = planes.stride(2);

  torch::stable::parallel_for(0, planes.size(1), 32, [&](int64_t begin, int64_t end) {
    std::vector<Pixel> row(width);
    std::vector<Pixel> resized(down.taps * cells);  // a ring of rows: the one numbered y lies at y % taps
    std::vector<const Pixel*> rows(down.taps);
    int64_t next = down.first[begin];
    for (int64_t y = begin; y < end; ++y) {
      for (next = std::max(next, down.first[y]); next < down.first[y] + down.taps; ++next) {
        const uint8_t* source = from + next * row_step;
        for (int64_t x = 0; x < width; ++x, source += step) {
          row[x] = Pixel{source[0], source[colour_step], source[2 * colour_step], 0};
        }
        resize_row(across, row.data(), cells, &resized[next % down.taps * cells]);
      }
      for (int64_t tap = 0; tap < down.taps; ++tap) {
        rows[tap] = &resized[(down.first[y] + tap) % down.taps * cells];
      }
      blend_rows(rows, &down.weights[y * down.taps], cells, values, to + y * plane_row, plane, plane_step);
    }
  });
}

}  // namespace ddetr::cpu

STABLE_TORCH_LIBRARY_FRAGMENT(ddetr_lab, m) {
  m.def("resize_bilinear(Tensor pixels, Tensor table, Tensor(a!) planes) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(ddetr_lab, CPU, m) {
  m.impl("resize_bilinear", TORCH_BOX(&ddetr::cpu::resize_bilinear));
}
