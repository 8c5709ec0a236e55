// The stable sort behind the deterministic backward pass: CUB's, from the CUDA toolkit.

#include <cub/device/device_radix_sort.cuh>

#include "kernels.h"

namespace ddetr::cuda {

void sort_pairs(const Scratch& scratch, int64_t count, int bits, cudaStream_t stream) {
  size_t bytes = scratch.sorting_bytes;
  check(cub::DeviceRadixSort::SortPairs(scratch.sorting, bytes, scratch.keys, scratch.sorted_keys, scratch.numbers,
                                        scratch.sorted_numbers, count, 0, bits, stream),
        "ms_deform_attn_backward (sorting)");
}

size_t sorting_bytes(int64_t count) {
  size_t bytes = 0;
  const uint32_t* in = nullptr;
  uint32_t* out = nullptr;
  check(cub::DeviceRadixSort::SortPairs(nullptr, bytes, in, out, in, out, count, 0, 32, nullptr),
        "ms_deform_attn_backward (sorting)");
  return bytes > 0 ? bytes : 1;
}

}  // namespace ddetr::cuda
