// The memory of requests that wait for the storage: the bytes that they read or
// write, and the extents that they find.
//
// One thread allocates it and another frees it, in sizes from a page to
// kMaxTaskBytes. malloc(3) keeps freed memory for the thread that allocated it,
// and can't return memory below a block in use to the kernel, so that a process
// may hold much more than it uses. In this pool each buffer can be unmapped by
// itself. A free buffer serves the next request of its size. Free buffers are
// unmapped before all buffers together would exceed kMaxTaskBytes.
//
// Buffers of more than kPieceBytes are in huge pages, if the kernel has some.
// Reads beside the page cache (O_DIRECT) take them, for which the storage then
// gets one range of memory in place of hundreds of pages.
//
// Invariant: size_bytes() exceeds kMaxTaskBytes only if more is in use.
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
  // Frees a buffer.
  class Return {
   public:
    Return() = default;
    Return(BufferPool& pool, size_t bytes) : pool_(&pool), bytes_(bytes) {}
    void operator()(char* data) const { pool_->Give(data, bytes_); }

   private:
    BufferPool* pool_ = nullptr;
    size_t bytes_ = 0;
  };
  // Freed by its destructor, in any thread. The pool must outlive it.
  using Buffer = std::unique_ptr<char[], Return>;

  BufferPool() = default;
  // Only after all buffers have been freed.
  ~BufferPool() override;
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // Allocates at least `bytes` bytes, uninitialized. nullptr: mmap(2) failed.
  Buffer Take(size_t bytes);
  // The bytes that Take(bytes) allocates.
  static size_t SizeFor(size_t bytes);

  // Unmaps free buffers except kIdleBytes. For the time when no request waits.
  void Trim();

  // The mapped bytes, free or in use.
  size_t size_bytes() const;

 private:
  // The sizes are the powers of two from kMinBytes to kMaxTaskBytes. A longer
  // buffer is unmapped as soon as it is freed.
  static constexpr size_t kMinBytes = 4096;
  static constexpr size_t kClasses = 14;
  static_assert(kMinBytes << (kClasses - 1) == kMaxTaskBytes);
  // Enough for the next requests of a client with a few in flight.
  static constexpr size_t kIdleBytes = 2 << 20;

  static size_t ClassOf(size_t bytes);
  char* TakeBytes(size_t bytes);
  void Give(char* data, size_t bytes);
  // Maps free buffers of this size, at least one. False: mmap(2) failed.
  bool Map(size_t size);
  // Unmaps free buffers, the largest first, until no more than `bytes` are
  // mapped.
  void ShrinkTo(size_t bytes);

  // std::pmr::memory_resource, for extents.
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
