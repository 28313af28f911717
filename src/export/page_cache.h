// Tells which pages of a file are cached, without reading the file.
//
// cachestat(2) tells it since Linux 6.5, except for files on overlayfs. There,
// and before, mincore(2) does for a mapping of the file, which is made at
// construction, since the sandbox forbids it later. The mapping takes only
// address space: nothing may access it, so that there are no page faults, and
// no SIGBUS when the file becomes shorter.
//
// The kernel answers only a process that owns the file or may write to it:
// others could watch what its users read. cachestat(2) then fails with EPERM,
// and mincore(2) says that every page is cached. The mapping therefore has a
// page behind the end of the file that is never cached, and an answer that says
// that it is, is a refusal.
//
// Invariant: once an answer has been refused, none is asked for again.
// Threads: any, at the same time. Nothing here allocates memory.
#ifndef NBDINETD_EXPORT_PAGE_CACHE_H_
#define NBDINETD_EXPORT_PAGE_CACHE_H_

#include <atomic>
#include <cstdint>
#include <optional>

namespace nbdinetd {

class PageCache {
 public:
  // `fd` is borrowed and must outlive the object; `size_bytes` is the size of
  // the file or block device.
  PageCache(int fd, uint64_t size_bytes);
  ~PageCache();
  PageCache(const PageCache&) = delete;
  PageCache& operator=(const PageCache&) = delete;

  // Whether all pages of the range are cached; nullopt when the kernel doesn't
  // tell. `length` isn't 0. Both are in bytes.
  std::optional<bool> Holds(uint64_t offset, uint64_t length);
  // Whether no page of the range is dirty or being written back; nullopt when
  // the kernel doesn't tell. Only cachestat(2) can.
  std::optional<bool> IsClean(uint64_t offset, uint64_t length);

 private:
  enum class Way { kNone, kCachestat, kMincore };

  // Maps the file. False when that is impossible, or would leave too little
  // address space for the rest of the process.
  bool Map();
  uint64_t mapping_bytes() const;
  // Asks mincore(2). `first` and `count` are pages.
  std::optional<bool> HoldsMapped(uint64_t first, uint64_t count);

  const int fd_;
  const uint64_t pages_;     // of the file, the last one may be partial
  char* mapping_ = nullptr;  // of mapping_bytes(); nullptr: none
  std::atomic<Way> way_ = Way::kNone;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_PAGE_CACHE_H_
