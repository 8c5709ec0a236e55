// The emulated kernels behind a C interface, for ctypes: the same calls as csrc/cuda/ms_deform_attn_cuda.cpp makes.

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "../../../csrc/cuda/kernels.h"
#include "../../../csrc/cuda/ladder.h"

namespace ddetr::cuda {

size_t sorting_bytes(int64_t) { return 1; }

void sort_pairs(const Scratch& scratch, int64_t count, int bits, cudaStream_t) {
  const uint32_t mask = bits == 32 ? ~0u : (1u << bits) - 1;
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return (scratch.keys[a] & mask) < (scratch.keys[b] & mask); });
  for (int64_t i = 0; i < count; ++i) {
    scratch.sorted_keys[i] = scratch.keys[order[static_cast<size_t>(i)]];
    scratch.sorted_numbers[i] = scratch.numbers[order[static_cast<size_t>(i)]];
  }
}

}  // namespace ddetr::cuda

using namespace ddetr::cuda;

extern "C" {

// sizes: B, S, M, D, Q, L, P, then value's strides of picture, token and head. levels: (height, width) each.
// what: 0 forward, 1 backward, 2 the deterministic gradient of value, `pictures` in a round; 3 and 4 the ladder's two.
const char* ddetr_emulate(int what, int element, const int64_t* sizes, const int32_t* levels, int inline_levels,
                          Arguments call, int pictures) try {
  Shape shape{};
  std::vector<Level> table;
  for (int level = 0; level < sizes[5]; ++level) {
    const int32_t height = levels[2 * level], width = levels[2 * level + 1];
    const int32_t start = table.empty() ? 0 : table.back().start + table.back().height * table.back().width;
    const int32_t anchor =
        table.empty() ? 0 : table.back().anchor + (table.back().height + 1) * (table.back().width + 1);
    table.push_back({height, width, start, anchor});
  }
  shape = Shape{static_cast<int32_t>(sizes[0]), static_cast<int32_t>(sizes[1]), static_cast<int32_t>(sizes[2]),
                static_cast<int32_t>(sizes[3]), static_cast<int32_t>(sizes[4]), static_cast<int32_t>(sizes[5]),
                static_cast<int32_t>(sizes[6]), static_cast<int32_t>(sizes[5] * sizes[6]),
                table.empty() ? 0 : table.back().anchor + (table.back().height + 1) * (table.back().width + 1),
                sizes[7], sizes[8], sizes[9], {}, nullptr};
  if (inline_levels) {
    std::copy(table.begin(), table.end(), shape.inline_levels);
  } else {
    shape.more_levels = table.data();
  }
  const Kernels& kernels = element == 0   ? float64_kernels()
                           : element == 1 ? float32_kernels()
                           : element == 2 ? float16_kernels()
                                          : bfloat16_kernels();
  if (what == 0) kernels.forward(shape, call, nullptr);
  if (what == 1) kernels.backward(shape, call, nullptr);
  if (what == 3) ladder_forward(shape, call, nullptr);
  if (what == 4) ladder_backward(shape, call, nullptr);
  if (what == 2) {
    const int64_t items = int64_t{pictures} * shape.queries * shape.heads;
    const size_t count = static_cast<size_t>(items * shape.samples);
    std::vector<uint32_t> keys(count), sorted_keys(count), numbers(count), sorted_numbers(count);
    std::vector<double> softmaxes(static_cast<size_t>(3 * items));
    const Scratch scratch{pictures,       keys.data(),      sorted_keys.data(), numbers.data(),
                          sorted_numbers.data(), softmaxes.data(), nullptr,     0};
    kernels.value_gradient(shape, call, scratch, nullptr);
  }
  return nullptr;
} catch (const std::exception& error) {
  static std::string message;
  message = error.what();
  return message.c_str();
}
}
