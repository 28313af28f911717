// The memory of requests that wait for the storage: what they read, what they
// are to write, and the extents that they find.
//
// It is taken by one thread and given back by another, in sizes from a page to
// kPieceBytes. The C library's allocator keeps what is given back for the
// thread that took it, and never gives back what lies below something that
// lives, so that what the process holds can be much more than what is in use.
// Here each buffer is a mapping of its own: free ones serve the next of their
// size, and are unmapped before there would be more than kMaxTaskBytes of them
// together with those in use.
//
// Invariant: size_bytes() is no more than kMaxTaskBytes, unless more is in use.
// Threads: any.
#ifndef NBDINETD_TRANSMISSION_BUFFER_POOL_H_
#define NBDINETD_TRANSMISSION_BUFFER_POOL_H_

#include <array>
#include <cstddef>
#include <memory>
#include <memory_resource>
#include <mutex>
#include <vector>

#include "base/limits.h"

namespace nbdinetd {

class BufferPool : public std::pmr::memory_resource {
 public:
  // Gives a buffer back to its pool.
  class Return {
   public:
    Return() = default;
    Return(BufferPool& pool, size_t bytes) : pool_(&pool), bytes_(bytes) {}
    void operator()(char* data) const { pool_->Give(data, bytes_); }

   private:
    BufferPool* pool_ = nullptr;
    size_t bytes_ = 0;
  };
  // Owned by one side, and given back wherever it is destroyed; the pool has to
  // be there still.
  using Buffer = std::unique_ptr<char[], Return>;

  BufferPool() = default;
  // All buffers have been given back.
  ~BufferPool() override;
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // At least `bytes` bytes, of any content; nullptr when there is no memory.
  Buffer Take(size_t bytes);
  // How much of the pool is taken by a Take() of so many bytes.
  static size_t SizeFor(size_t bytes);

  // Unmaps what is free, but for kIdleBytes, since nothing waits any more.
  void Trim();

  // What is mapped, free or in use.
  size_t size_bytes() const;

 private:
  // The sizes are the powers of two from kMinBytes to kPieceBytes; what is
  // longer (extents that outgrow their limit for a moment) is never kept.
  static constexpr size_t kMinBytes = 4096;
  static constexpr size_t kClasses = 7;
  static_assert(kMinBytes << (kClasses - 1) == kPieceBytes);
  // As much as the next requests of a client that keeps a few in flight need.
  static constexpr size_t kIdleBytes = 2 << 20;

  static size_t ClassOf(size_t bytes);
  char* TakeBytes(size_t bytes);
  void Give(char* data, size_t bytes);
  // Unmaps free buffers, the largest first, until no more than `bytes` are
  // mapped.
  void ShrinkTo(size_t bytes);

  // std::pmr::memory_resource, for the extents.
  void* do_allocate(size_t bytes, size_t alignment) override;
  void do_deallocate(void* data, size_t bytes, size_t alignment) override;
  bool do_is_equal(const memory_resource& other) const noexcept override {
    return this == &other;
  }

  mutable std::mutex mutex_;
  // Guarded by mutex_:
  std::array<std::vector<char*>, kClasses> free_;
  size_t size_bytes_ = 0;
  size_t free_bytes_ = 0;
};

}  // namespace nbdinetd

#endif  // NBDINETD_TRANSMISSION_BUFFER_POOL_H_
