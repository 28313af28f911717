#include "transmission/buffer_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <new>

namespace nbdinetd {
namespace {

// The size and alignment of a huge page on most machines. Where it is another
// one, the buffers work as well.
constexpr size_t kHugePageBytes = 2 << 20;

char* MapMemory(size_t bytes) {
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return data == MAP_FAILED ? nullptr : static_cast<char*>(data);
}

// Maps a multiple of kHugePageBytes, and asks for huge pages. nullptr: mmap(2)
// failed.
char* MapHugePages(size_t bytes) {
  // Older kernels don't align it.
  char* const begin = MapMemory(bytes + kHugePageBytes);
  if (begin == nullptr) return nullptr;
  const size_t before = -reinterpret_cast<uintptr_t>(begin) % kHugePageBytes;
  if (before > 0) munmap(begin, before);
  char* const data = begin + before;
  munmap(data + bytes, kHugePageBytes - before);
  madvise(data, bytes, MADV_HUGEPAGE);
  return data;
}

}  // namespace

BufferPool::~BufferPool() { ShrinkTo(0); }

size_t BufferPool::ClassOf(size_t bytes) {
  return static_cast<size_t>(std::countr_zero(SizeFor(bytes)) -
                             std::countr_zero(kMinBytes));
}

size_t BufferPool::SizeFor(size_t bytes) {
  return std::bit_ceil(std::max(bytes, kMinBytes));
}

size_t BufferPool::size_bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return size_bytes_;
}

BufferPool::Buffer BufferPool::Take(size_t bytes) {
  return Buffer(TakeBytes(bytes), Return(*this, bytes));
}

char* BufferPool::TakeBytes(size_t bytes) {
  const size_t size = SizeFor(bytes);
  const size_t index = ClassOf(bytes);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (index >= kClasses) {
    ShrinkTo(0);
    char* data = MapMemory(size);
    if (data != nullptr) size_bytes_ += size;
    return data;
  }
  if (free_[index].empty() && !Map(size)) return nullptr;
  char* data = free_[index].back();
  free_[index].pop_back();
  free_bytes_ -= size;
  return data;
}

bool BufferPool::Map(size_t size) {
  const bool huge = size > kPieceBytes;
  const size_t bytes = huge ? std::max(size, kHugePageBytes) : size;
  ShrinkTo(kMaxTaskBytes - bytes);
  char* data = huge ? MapHugePages(bytes) : MapMemory(bytes);
  if (data == nullptr) return false;
  for (size_t at = 0; at < bytes; at += size) {
    free_[ClassOf(size)].push_back(data + at);
  }
  size_bytes_ += bytes;
  free_bytes_ += bytes;
  return true;
}

void BufferPool::Give(char* data, size_t bytes) {
  const size_t size = SizeFor(bytes);
  const size_t index = ClassOf(bytes);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (index >= kClasses || size_bytes_ > kMaxTaskBytes) {
    munmap(data, size);
    size_bytes_ -= size;
    return;
  }
  free_[index].push_back(data);
  free_bytes_ += size;
}

void BufferPool::Trim() {
  const std::lock_guard<std::mutex> lock(mutex_);
  ShrinkTo(size_bytes_ - free_bytes_ + kIdleBytes);
}

void BufferPool::ShrinkTo(size_t bytes) {
  for (size_t index = kClasses; index-- > 0 && size_bytes_ > bytes;) {
    const size_t size = kMinBytes << index;
    while (size_bytes_ > bytes && !free_[index].empty()) {
      munmap(free_[index].back(), size);
      free_[index].pop_back();
      size_bytes_ -= size;
      free_bytes_ -= size;
    }
  }
}

void* BufferPool::do_allocate(size_t bytes, size_t) {
  // A mapping is aligned to a page, which suffices for every type.
  char* data = TakeBytes(bytes);
  if (data == nullptr) throw std::bad_alloc();
  return data;
}

void BufferPool::do_deallocate(void* data, size_t bytes, size_t) {
  Give(static_cast<char*>(data), bytes);
}

}  // namespace nbdinetd
