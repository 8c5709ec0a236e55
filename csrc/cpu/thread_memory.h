// Memory that one thread works in for the length of a call.

#pragma once

#include <cstdint>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "kernels.h"

namespace ddetr::cpu {

// A head's maps are megabytes that are read all over. In pages of 4 KiB most reads would miss the translation buffer;
// on Linux the block asks for pages of 2 MiB, and gets them or not.
class ThreadMemory {
 public:
  explicit ThreadMemory(int64_t bytes)
      : alignment_(static_cast<std::align_val_t>(bytes >= kHugePage ? kHugePage : kCacheLine)),
        start_(::operator new(static_cast<size_t>(bytes), alignment_)) {
#if defined(__linux__)
    if (bytes >= kHugePage)
      madvise(start_, static_cast<size_t>(bytes), MADV_HUGEPAGE);
#endif
  }
  ~ThreadMemory() { ::operator delete(start_, alignment_); }
  ThreadMemory(const ThreadMemory&) = delete;
  ThreadMemory& operator=(const ThreadMemory&) = delete;

  void* start() const { return start_; }

 private:
  static constexpr int64_t kHugePage = 2 << 20;

  std::align_val_t alignment_;
  void* start_;
};

}  // namespace ddetr::cpu
