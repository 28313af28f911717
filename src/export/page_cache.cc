#include "export/page_cache.h"

#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

#include "base/page_size.h"

namespace nbdinetd {
namespace {

// cachestat(2), since Linux 6.5; older C libraries don't define it.
constexpr long kCachestatNumber = 451;
struct CachestatRange {
  uint64_t offset;
  uint64_t length;
};
struct Cachestat {
  uint64_t cached, dirty, writeback, evicted, recently_evicted;
};

bool GetCachestat(int fd, uint64_t offset, uint64_t length, Cachestat* stat) {
  CachestatRange range = {offset, length};
  return syscall(kCachestatNumber, fd, &range, stat, 0) == 0;
}

// Such a file's pages belong to a file of a layer. cachestat(2) looks for pages
// of its own, and finds none; a mapping is one of the layer's file.
bool IsOnOverlay(int fd) {
  struct statfs st;
  return fstatfs(fd, &st) == 0 &&
         static_cast<uint64_t>(st.f_type) == OVERLAYFS_SUPER_MAGIC;
}

// Pages that one mincore(2) asks for: one byte each, on the stack.
constexpr size_t kMincorePages = 1024;

// Address space that the process keeps for its threads, buffers and heap. A
// limit (RLIMIT_AS) that leaves less would end it.
constexpr size_t kReserveBytes = 256 << 20;

// The largest folio of the page cache; folios are aligned to their size. The
// last one of a file may go beyond its end.
constexpr uint64_t kMaxFolioBytes = 2 << 20;

// The page that is asked about to detect a refusal.
uint64_t NeverCachedPage(uint64_t file_pages) {
  const uint64_t folio_pages =
      std::max(kMaxFolioBytes / PageBytes(), uint64_t{1});
  return (file_pages + folio_pages - 1) / folio_pages * folio_pages;
}

// mincore(2) defines the lowest bit.
bool AllCached(const unsigned char* states, size_t count) {
  unsigned char all = 1;
  for (size_t i = 0; i < count; ++i) all &= states[i];
  return all != 0;
}

}  // namespace

PageCache::PageCache(int fd, uint64_t size_bytes)
    : fd_(fd), pages_((size_bytes + PageBytes() - 1) / PageBytes()) {
  Cachestat stat = {};
  if (!IsOnOverlay(fd_) && GetCachestat(fd_, 0, 1, &stat)) {
    way_ = Way::kCachestat;
  } else if (Map()) {
    way_ = Way::kMincore;
  }
}

PageCache::~PageCache() {
  // The mapping holds the open file description, and with it the locks on it.
  if (mapping_ != nullptr) munmap(mapping_, mapping_bytes());
}

uint64_t PageCache::mapping_bytes() const {
  return (NeverCachedPage(pages_) + 1) * PageBytes();
}

bool PageCache::Map() {
  void* reserve = mmap(nullptr, kReserveBytes, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (reserve == MAP_FAILED) return false;
  void* mapping =
      mmap(nullptr, mapping_bytes(), PROT_NONE, MAP_PRIVATE, fd_, 0);
  munmap(reserve, kReserveBytes);
  if (mapping == MAP_FAILED) return false;
  mapping_ = static_cast<char*>(mapping);
  return true;
}

std::optional<bool> PageCache::Holds(uint64_t offset, uint64_t length) {
  const uint64_t first = offset / PageBytes();
  const uint64_t count = (offset + length - 1) / PageBytes() - first + 1;
  switch (way_.load(std::memory_order_relaxed)) {
    case Way::kCachestat: {
      Cachestat stat = {};
      if (GetCachestat(fd_, offset, length, &stat)) return stat.cached == count;
      // The process has given up the capability that it needs for this file.
      break;
    }
    case Way::kMincore:
      if (const std::optional<bool> holds = HoldsMapped(first, count)) {
        return holds;
      }
      break;
    case Way::kNone:
      break;
  }
  way_.store(Way::kNone, std::memory_order_relaxed);
  return std::nullopt;
}

std::optional<bool> PageCache::HoldsMapped(uint64_t first, uint64_t count) {
  if (first + count > pages_) return std::nullopt;
  unsigned char states[kMincorePages];
  const auto ask = [&](uint64_t page, size_t pages) {
    return mincore(mapping_ + page * PageBytes(), pages * PageBytes(),
                   states) == 0;
  };
  while (count > 0) {
    const size_t part = std::min<uint64_t>(count, kMincorePages);
    if (!ask(first, part)) {
      // The kernel lacks memory for the moment.
      if (errno == EAGAIN) return false;
      return std::nullopt;
    }
    if (!AllCached(states, part)) return false;
    first += part;
    count -= part;
  }
  if (!ask(NeverCachedPage(pages_), 1) || AllCached(states, 1))
    return std::nullopt;
  return true;
}

std::optional<bool> PageCache::IsClean(uint64_t offset, uint64_t length) {
  Cachestat stat = {};
  if (way_.load(std::memory_order_relaxed) != Way::kCachestat ||
      !GetCachestat(fd_, offset, length, &stat)) {
    return std::nullopt;
  }
  return stat.dirty == 0 && stat.writeback == 0;
}

}  // namespace nbdinetd
