// Memory that one thread works in for the length of a call, and keeps for its next one.

#pragma once

#include <cstdint>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "kernels.h"

namespace ddetr::cpu {

// A block of memory, or none. A head's maps are megabytes that are read all over. In pages of 4 KiB most reads would
// miss the translation buffer; on Linux the block asks for pages of 2 MiB, and gets them or not.
class Block {
 public:
  Block() = default;
  explicit Block(int64_t bytes)
      : bytes_(bytes), start_(::operator new(static_cast<size_t>(bytes), alignment_of(bytes))) {
#if defined(__linux__)
    if (bytes >= kHugePage)
      madvise(start_, static_cast<size_t>(bytes), MADV_HUGEPAGE);
#endif
  }
  Block(Block&& other) noexcept { swap(other); }
  Block& operator=(Block&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Block() {
    if (start_)
      ::operator delete(start_, alignment_of(bytes_));
  }

  void* start() const { return start_; }
  int64_t bytes() const { return bytes_; }

 private:
  static constexpr int64_t kHugePage = 2 << 20;

  static std::align_val_t alignment_of(int64_t bytes) {
    return static_cast<std::align_val_t>(bytes >= kHugePage ? kHugePage : kCacheLine);
  }
  void swap(Block& other) noexcept {
    std::swap(bytes_, other.bytes_);
    std::swap(start_, other.start_);
  }

  int64_t bytes_ = 0;
  void* start_ = nullptr;
};

// Given back to the system, pages would have to be mapped and cleared again in the next call: a thread keeps its
// largest block so far, up to `kKept`.
class ThreadMemory {
 public:
  explicit ThreadMemory(int64_t bytes) {
    if (kept().bytes() >= bytes)
      block_ = std::move(kept());
    else
      block_ = Block(bytes);
  }
  ~ThreadMemory() {
    if (block_.bytes() <= kKept && block_.bytes() > kept().bytes())
      kept() = std::move(block_);
  }
  ThreadMemory(const ThreadMemory&) = delete;
  ThreadMemory& operator=(const ThreadMemory&) = delete;

  void* start() const { return block_.start(); }

 private:
  static constexpr int64_t kKept = 16 << 20;

  static Block& kept() {
    static thread_local Block block;
    return block;
  }

  Block block_;
};

}  // namespace ddetr::cpu
