// The kernels' launches for one dtype of value: DDETR_ELEMENT names its type, DDETR_KERNELS the function that returns
// them. The build compiles this file four times.

#include <cstdint>

#include "backward.cuh"
#include "forward.cuh"
#include "kernels.h"
#include "reference_gradient.cuh"
#include "value_gradient.cuh"

namespace ddetr::cuda {
namespace {

using Half = torch::headeronly::Half;
using BFloat16 = torch::headeronly::BFloat16;
using Element = DDETR_ELEMENT;
using Real = RealOf<Element>::type;

constexpr int64_t kMostBlocks = (int64_t{1} << 31) - 1;
constexpr int64_t kMostRows = 65535;  // of a grid

// A whole warp for many channels, four lanes for few: fewer could not exchange as Group does.
int lanes_for(int64_t channels, int vector) {
  int lanes = 4;
  while (lanes < kWarp && lanes * vector < channels)
    lanes *= 2;
  return lanes;
}

// The grid for `count` groups along x and `pairs` along y. Blocks become smaller where there are too few of them to
// keep a large GPU busy: 300 queries in one picture make 80 blocks of 256 threads for 132 processors.
struct Grid {
  dim3 blocks;
  int threads;
};

Grid grid_for(int64_t count, int64_t pairs, int lanes) {
  constexpr int64_t kEnough = 1024;
  int threads = kThreads;
  while (threads > 64 && (count * lanes + threads - 1) / threads * pairs < kEnough)
    threads /= 2;
  const int64_t across = (count * lanes + threads - 1) / threads;
  if (across > kMostBlocks)
    throw std::runtime_error("too many queries for one grid: split the call");
  return {dim3(static_cast<unsigned>(across), static_cast<unsigned>(pairs < kMostRows ? pairs : kMostRows)), threads};
}

bool aligned(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// Whether vectors of so many channels meet everywhere a multiple of their size.
bool fits(const Shape& shape, const Arguments& call, int vector) {
  const size_t bytes = sizeof(Element) * static_cast<size_t>(vector);
  return shape.channels % vector == 0 && shape.picture_stride % vector == 0 && shape.token_stride % vector == 0 &&
         shape.head_stride % vector == 0 && aligned(call.value, bytes) && aligned(call.grad_output, bytes) &&
         aligned(call.output, bytes);
}

// Calls `body` with the widest vector that fits, as a compile-time number: 16 bytes, 8 bytes, or one channel.
template <typename Body>
void by_vector(const Shape& shape, const Arguments& call, const Body& body) {
  constexpr int kWide = 16 / sizeof(Element), kMiddle = 8 / sizeof(Element);
  if (fits(shape, call, kWide)) {
    body(std::integral_constant<int, kWide>{});
  } else if (kMiddle > 1 && fits(shape, call, kMiddle)) {
    body(std::integral_constant<int, kMiddle>{});
  } else {
    body(std::integral_constant<int, 1>{});
  }
}

// Calls `body` with the samples' source.
template <typename Body>
void by_source(const Arguments& call, const Body& body) {
  const Real* points = static_cast<const Real*>(call.points);
  const Real* weights = static_cast<const Real*>(call.weights);
  Real* grad_points = static_cast<Real*>(call.grad_points);
  Real* grad_weights = static_cast<Real*>(call.grad_weights);
  if (call.references) {
    body(FusedSamples<Real>{static_cast<const Real*>(call.references), points, weights, call.boxes, grad_points,
                            grad_weights});
  } else {
    body(GivenSamples<Real>{points, weights, grad_points, grad_weights});
  }
}

void forward(const Shape& shape, const Arguments& call, cudaStream_t stream) {
  by_vector(shape, call, [&](auto vector) {
    by_source(call, [&](auto source) {
      const int lanes = lanes_for(shape.channels, vector);
      const Grid grid = grid_for(shape.queries, int64_t{shape.batch} * shape.heads, lanes);
      launch("ms_deform_attn", &forward_kernel<Element, vector.value, decltype(source)>, grid.blocks, grid.threads,
             stream, shape, source, static_cast<const Element*>(call.value), static_cast<Element*>(call.output), lanes);
    });
  });
}

void backward(const Shape& shape, const Arguments& call, cudaStream_t stream) {
  by_vector(shape, call, [&](auto vector) {
    by_source(call, [&](auto source) {
      const int lanes = lanes_for(shape.channels, vector);
      const Grid grid = grid_for(shape.queries, int64_t{shape.batch} * shape.heads, lanes);
      launch("ms_deform_attn_backward", &backward_kernel<Element, vector.value, decltype(source)>, grid.blocks,
             grid.threads, stream, shape, source, static_cast<const Element*>(call.value),
             static_cast<const Element*>(call.grad_output), static_cast<Real*>(call.grad_value), lanes);
    });
  });
  if (!call.references || shape.levels == 0)
    return;
  const int64_t blocks = (int64_t{shape.batch} * shape.queries * shape.levels + kThreads - 1) / kThreads;
  launch("ms_deform_attn_fused_backward", &reference_kernel<Real>,
         dim3(static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks)), kThreads, stream, shape, call.boxes,
         static_cast<const Real*>(call.references), static_cast<const Real*>(call.points),
         static_cast<Real*>(call.grad_points), static_cast<Real*>(call.grad_references));
}

int bits_of(int64_t largest) {
  int bits = 1;
  while (bits < 32 && (largest >> bits) != 0)
    ++bits;
  return bits;
}

void value_gradient(const Shape& shape, const Arguments& call, const Scratch& scratch, cudaStream_t stream) {
  for (int32_t first = 0; first < shape.batch; first += scratch.pictures) {
    const Round round{first, shape.batch - first < scratch.pictures ? shape.batch - first : scratch.pictures};
    const int64_t pairs = int64_t{round.count} * shape.heads;
    const int64_t count = pairs * shape.queries * shape.samples;
    by_source(call, [&](auto source) {
      using Softmax = typename decltype(source)::Softmax;
      Softmax* softmaxes = static_cast<Softmax*>(scratch.softmaxes);
      if (count > 0) {
        const int lanes = lanes_for(shape.samples, 1);
        const Grid grid = grid_for(shape.queries, pairs, lanes);
        launch("ms_deform_attn_backward (anchors)", &anchor_kernel<Real, decltype(source)>, grid.blocks, grid.threads,
               stream, shape, source, round, scratch.keys, scratch.numbers, softmaxes, lanes);
        sort_pairs(scratch, count, bits_of(pairs * shape.anchors), stream);
      }
      by_vector(shape, call, [&](auto vector) {
        const int lanes = lanes_for(shape.channels, vector);
        const Grid grid = grid_for(shape.tokens, pairs, lanes);
        launch("ms_deform_attn_backward (cells)", &gather_kernel<Element, vector.value, decltype(source)>, grid.blocks,
               grid.threads, stream, shape, source, round, scratch.sorted_keys, scratch.sorted_numbers, count,
               softmaxes, static_cast<const Element*>(call.grad_output), static_cast<Element*>(call.grad_value), lanes);
      });
    });
  }
}

}  // namespace

const Kernels& DDETR_KERNELS() {
  static const Kernels kernels{forward, backward, value_gradient};
  return kernels;
}

}  // namespace ddetr::cuda
