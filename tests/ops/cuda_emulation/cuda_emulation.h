// CUDA on the CPU, as much of it as csrc/cuda uses: the kernels' own sources run here under sanitizers, without a GPU.
//
// A block's threads are fibers of one operating-system thread. Each runs until it must wait for others (a shuffle, a
// warp's barrier) and then gives way to the next; a warp whose lanes wait for one that never comes is an error, not a
// hang. What it cannot show: races inside a warp between two barriers, memory speed, the GPU's own rounding of exp.

#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static  // blocks run one after the other
#define __grid_constant__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
inline const char* cudaGetErrorString(cudaError_t) { return "emulated"; }

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

template <typename T>
inline T min(T a, T b) {
  return b < a ? b : a;
}

namespace emulation {

constexpr int kWarp = 32;
constexpr size_t kStack = 256 * 1024;

// Lanes that meet: how many have come, and how often all have.
struct Meeting {
  unsigned mask = 0;
  int arrived = 0;
  long round = 0;
};

struct Warp {
  Meeting meetings[2 * kWarp];  // one for each mask in use
  alignas(16) unsigned char exchange[kWarp][16];
};

struct Fiber {
  ucontext_t context;
  bool done = false;
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  ucontext_t scheduler;
  int current = 0;
  long progress = 0;  // arrivals: if a whole turn brings none, all wait in vain
  const std::function<void()>* body = nullptr;
  const void* scheduler_stack = nullptr;  // for the address sanitizer
  size_t scheduler_size = 0;
};

inline Block* running = nullptr;

inline void to_scheduler(bool forever = false) {
  Fiber& fiber = running->fibers[static_cast<size_t>(running->current)];
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(forever ? nullptr : &fake, running->scheduler_stack, running->scheduler_size);
#endif
  (void)forever;
  swapcontext(&fiber.context, &running->scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, &running->scheduler_stack, &running->scheduler_size);
#endif
}

inline void enter() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &running->scheduler_stack, &running->scheduler_size);
#endif
  (*running->body)();
  running->fibers[static_cast<size_t>(running->current)].done = true;
  ++running->progress;
  to_scheduler(true);
}

// Waits until all lanes of the mask are here.
inline void meet(unsigned mask) {
  const int lane = running->current % kWarp;
  Warp& warp = running->warps[static_cast<size_t>(running->current / kWarp)];
  if (!(mask >> lane & 1)) throw std::logic_error("a lane waits with a mask that leaves it out");
  Meeting* meeting = warp.meetings;
  while (meeting->mask != mask && meeting->mask != 0) ++meeting;
  meeting->mask = mask;
  const long round = meeting->round;
  ++running->progress;
  if (++meeting->arrived == __builtin_popcount(mask)) {
    meeting->arrived = 0;
    ++meeting->round;
    return;
  }
  while (meeting->round == round) to_scheduler();
}

template <typename T>
inline T exchange(unsigned mask, T x, int source) {
  static_assert(sizeof(T) <= 16);
  Warp& warp = running->warps[static_cast<size_t>(running->current / kWarp)];
  if (!(mask >> source & 1)) throw std::logic_error("a shuffle reads a lane that its mask leaves out");
  std::memcpy(warp.exchange[running->current % kWarp], &x, sizeof x);
  meet(mask);
  std::memcpy(&x, warp.exchange[source], sizeof x);
  meet(mask);  // nobody writes before all have read
  return x;
}

inline void prepare(Fiber& fiber, char* stack) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = kStack;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, enter, 0);
}

inline void run_block(const char* name, int threads, const std::function<void()>& body) {
  Block block;
  block.fibers.resize(static_cast<size_t>(threads));
  block.warps.resize(static_cast<size_t>((threads + kWarp - 1) / kWarp));
  block.body = &body;
  running = &block;
  static std::vector<std::unique_ptr<char[]>> stacks;  // kept from block to block
  while (stacks.size() < block.fibers.size()) stacks.emplace_back(new char[kStack]);
  for (size_t i = 0; i < block.fibers.size(); ++i) prepare(block.fibers[i], stacks[i].get());
  for (bool left = true; left;) {
    left = false;
    const long before = block.progress;
    for (int i = 0; i < threads; ++i) {
      Fiber& fiber = block.fibers[static_cast<size_t>(i)];
      if (fiber.done) continue;
      left = true;
      block.current = i;
      threadIdx = dim3(static_cast<unsigned>(i));
#if defined(__SANITIZE_ADDRESS__)
      void* fake = nullptr;
      __sanitizer_start_switch_fiber(&fake, stacks[static_cast<size_t>(i)].get(), kStack);
#endif
      swapcontext(&block.scheduler, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
      __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
    }
    if (left && block.progress == before) {
      std::fprintf(stderr, "%s: a warp waits for a lane that never comes\n", name);
      std::abort();
    }
  }
  running = nullptr;
}

}  // namespace emulation

template <typename Body>
inline void emulate(const char* name, dim3 grid, int threads, const Body& body) {
  const std::function<void()> function = body;
  blockDim = dim3(static_cast<unsigned>(threads));
  gridDim = grid;
  for (unsigned y = 0; y < grid.y; ++y) {
    for (unsigned x = 0; x < grid.x; ++x) {
      blockIdx = dim3(x, y);
      emulation::run_block(name, threads, function);
    }
  }
}

inline void __syncwarp(unsigned mask = 0xffffffffu) { emulation::meet(mask); }

template <typename T>
inline T __shfl_sync(unsigned mask, T x, int source, int width) {
  const int lane = emulation::running->current % emulation::kWarp;
  return emulation::exchange(mask, x, lane / width * width + source % width);
}

template <typename T>
inline T __shfl_xor_sync(unsigned mask, T x, int step) {
  return emulation::exchange(mask, x, (emulation::running->current % emulation::kWarp) ^ step);
}

// One fiber runs at a time: nothing else is needed to be atomic.
template <typename T>
inline void atomicAdd(T* to, T x) {
  *to += x;
}

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline void atomicAdd(float2* to, float2 x) { *to = {to->x + x.x, to->y + x.y}; }
inline void atomicAdd(float4* to, float4 x) { *to = {to->x + x.x, to->y + x.y, to->z + x.z, to->w + x.w}; }
