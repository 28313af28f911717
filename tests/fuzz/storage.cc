#include "storage.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <string>

#include "fuzz/sizes.h"

namespace nbdfuzz {
namespace {

thread_local Storage* current = nullptr;

// Data that a file has had from the beginning: one of a few pages, none of
// which repeats itself.
constexpr size_t kPatterns = 7;
const Storage::Page& PatternPage(uint64_t number) {
  static const auto* pages = [] {
    auto* made = new std::array<Storage::Page, kPatterns>;
    uint32_t state = 1;
    for (Storage::Page& page : *made) {
      for (char& byte : page) {
        state = state * 1664525 + 1013904223;
        byte = static_cast<char>(state >> 24);
      }
    }
    return made;
  }();
  return (*pages)[number % kPatterns];
}

// Of linux/magic.h, but not in every version of it.
constexpr long kXfsMagic = 0x58465342;

// Holes and data alternate in runs of so many pages; 0: it is all data.
constexpr uint64_t kRunPages[] = {0, 1, 3, 16, 17, 64, 100};
// So many runs, and then a hole up to the end.
constexpr uint64_t kMaxRuns = 40;
// What a large file has of data at its beginning.
constexpr uint64_t kMaxData = 2 << 20;
// The disk is full at so many pages with data: zeroes that a file system can't
// have otherwise may be written over any length.
constexpr size_t kMaxPages = 1 << 14;
// What a page of the cache may belong to, at most.
constexpr uint64_t kMaxFolio = 2 << 20;
// What a process can map.
constexpr uint64_t kAddressSpace = uint64_t{1} << 47;

}  // namespace

Storage::Storage(const Input& input, Simulation& simulation)
    : simulation_(simulation),
      export_size_(SizeOf(input)),
      size_(export_size_),
      cache_(input.settings[Input::kCache]),
      lacks_(input.settings[Input::kFileSystem]),
      map_(input.settings[Input::kSpare]) {
  const uint8_t layout = input.settings[Input::kLayout];
  const uint64_t run = kRunPages[layout % std::size(kRunPages)] * kPage;
  const uint64_t end = std::min(size_, kMaxData);
  runs_[0] = end > 0;
  if (run != 0) {
    bool data = (layout & 0x80) != 0;
    for (uint64_t i = 0, offset = 0; i < kMaxRuns && offset < end;
         ++i, offset += run, data = !data) {
      runs_[offset] = data;
    }
    runs_[kMaxRuns * run] = false;
  }
  if (size_ > kMaxData) {
    SplitAt(end);
    runs_.erase(runs_.upper_bound(end), runs_.end());
    runs_[end] = false;
  }
  initial_runs_ = runs_;
  // Writing zeroes by hand takes too long where there are many.
  if (size_ > (64 << 20)) {
    lacks_ &= static_cast<uint8_t>(
        ~(1u << kAllocation | 1u << kZeroRange | 1u << kPunchHole));
  }
  current = this;
}

Storage::~Storage() { current = nullptr; }

Storage* Storage::Current() { return current; }

struct stat Storage::Stat() const {
  struct stat st = {};
  st.st_mode = S_IFREG | 0600;
  st.st_size = static_cast<off_t>(size_);
  st.st_blksize = 4096;
  // Sparse, unless there is no hole.
  st.st_blocks = runs_.size() == 1 && runs_.begin()->second
                     ? static_cast<blkcnt_t>(size_ / 512 + 8)
                     : 0;
  return st;
}

const Storage::Page* Storage::PageAt(uint64_t number) const {
  const auto changed = pages_.find(number);
  if (changed != pages_.end()) return &changed->second;
  const auto run = initial_runs_.upper_bound(number * kPage);
  return std::prev(run)->second ? &PatternPage(number) : nullptr;
}

Storage::Page& Storage::WritablePage(uint64_t number) {
  const auto changed = pages_.find(number);
  if (changed != pages_.end()) return changed->second;
  const Page* before = PageAt(number);
  Page& page = pages_[number];
  if (before != nullptr) {
    page = *before;
  } else {
    page.fill(0);
  }
  return page;
}

bool Storage::IsData(uint64_t offset) const {
  return std::prev(runs_.upper_bound(offset))->second;
}

void Storage::SplitAt(uint64_t offset) {
  if (runs_.count(offset) == 0) runs_[offset] = IsData(offset);
}

void Storage::SetRun(uint64_t offset, uint64_t length, bool data) {
  const uint64_t begin = offset / kPage * kPage;
  const uint64_t end = (offset + length + kPage - 1) / kPage * kPage;
  SplitAt(begin);
  SplitAt(end);
  runs_.erase(runs_.upper_bound(begin), runs_.lower_bound(end));
  runs_[begin] = data;
  if (data) return;
  // Holes of a large request come in very many pieces, and are one.
  if (const auto next = runs_.find(end); next != runs_.end() && !next->second) {
    runs_.erase(next);
  }
  if (begin > 0 && !IsData(begin - 1)) runs_.erase(begin);
}

bool Storage::IsCached(uint64_t number) const {
  switch (cache_ % 4) {
    case 0:
      return true;
    case 1:
      break;
    case 2:
      if (number / 16 % 2 == 0) return true;
      break;
    default:
      if (number % 5 != 0) return true;
  }
  return cached_.count(number) != 0;
}

int Storage::Fault() {
  const uint8_t decision = simulation_.storage_tape().Next();
  if (decision < 0x80) return 0;
  if (decision >= 0xf0) {
    Truncate(decision);
    return 0;
  }
  if (decision >= 0xe0) return EINTR;
  constexpr int kErrors[] = {EIO,    ENOSPC, EDQUOT, EFBIG,  EPERM, ENOMEM,
                             EINVAL, EROFS,  ENXIO,  ESTALE, EIO,   EOVERFLOW};
  failed_ = true;
  return kErrors[decision % std::size(kErrors)];
}

// Somebody else makes the file shorter.
void Storage::Truncate(uint8_t decision) {
  failed_ = true;
  size_ = std::min(size_, export_size_ / 16 * (decision - uint64_t{0xf0}));
}

void Storage::CheckRange(int64_t offset, uint64_t length) const {
  Require(offset >= 0 && static_cast<uint64_t>(offset) <= export_size_ &&
              length <= export_size_ - static_cast<uint64_t>(offset),
          "the server goes outside the export");
}

ssize_t Storage::Read(char* out, size_t length, int64_t offset, bool wait) {
  CheckRange(offset, length);
  if (!wait && Lacks(kNowait)) return -EOPNOTSUPP;
  const int fault = Fault();
  if (fault == EINTR || (fault != 0 && wait)) return -fault;
  if (fault != 0) return -EAGAIN;
  const auto begin = static_cast<uint64_t>(offset);
  uint64_t end = std::min(begin + length, size_);
  const uint8_t decision = simulation_.storage_tape().Next();
  if (decision != 0) end = std::min(end, begin + decision * uint64_t{997});
  uint64_t position = begin;
  while (position < end) {
    const uint64_t number = position / kPage;
    if (!wait && !IsCached(number)) break;
    const uint64_t n = std::min(end, (number + 1) * kPage) - position;
    const Page* page = PageAt(number);
    if (page == nullptr) {
      std::memset(out, 0, n);
    } else {
      std::memcpy(out, page->data() + position % kPage, n);
    }
    if (wait && !IsCached(number)) cached_.insert(number);
    out += n;
    position += n;
  }
  if (position == begin && begin < end) return -EAGAIN;
  return static_cast<ssize_t>(position - begin);
}

Storage::Changed& Storage::Note(Change change, uint64_t offset, uint64_t length,
                                std::string_view bytes) {
  if (on_change) on_change(change, offset, length, bytes);
  Changed changed;
  changed.offset = offset;
  changed.length = length;
  if (change != Change::kAllocate && length > 0) {
    const uint64_t first = offset / kPage;
    const uint64_t last = (offset + length - 1) / kPage;
    // Only pages with something in them matter, and a long range has few.
    for (uint64_t number = first; number <= std::min(last, kMaxData / kPage);
         ++number) {
      if (const Page* page = PageAt(number)) changed.before[number] = *page;
    }
    for (auto page = pages_.lower_bound(first);
         page != pages_.end() && page->first <= last; ++page) {
      changed.before.insert(*page);
    }
  }
  changes_.push_back(std::move(changed));
  return changes_.back();
}

void Storage::Fill(uint64_t offset, uint64_t length, std::string_view bytes) {
  // Zeroes only matter where there is something.
  if (bytes.empty()) {
    auto page = pages_.lower_bound(offset / kPage);
    const uint64_t end = offset + length;
    while (page != pages_.end() && page->first * kPage < end) {
      const uint64_t begin = std::max(offset, page->first * kPage);
      const uint64_t stop = std::min(end, (page->first + 1) * kPage);
      std::memset(page->second.data() + begin % kPage, 0, stop - begin);
      ++page;
    }
    return;
  }
  for (uint64_t done = 0; done < length;) {
    const uint64_t position = offset + done;
    const uint64_t n = std::min(length - done, kPage - position % kPage);
    std::memcpy(WritablePage(position / kPage).data() + position % kPage,
                bytes.data() + done, n);
    done += n;
  }
}

ssize_t Storage::Write(std::string_view bytes, int64_t offset, bool durable) {
  CheckRange(offset, bytes.size());
  Require(!bytes.empty(), "the server writes nothing");
  if (durable && Lacks(kDsync)) return -EOPNOTSUPP;
  if (const int fault = Fault()) {
    if (durable && fault == EIO) lost_ = true;
    return -fault;
  }
  if (pages_.size() > kMaxPages) {
    failed_ = true;
    return -ENOSPC;
  }
  const uint8_t decision = simulation_.storage_tape().Next();
  const size_t length = decision == 0
                            ? bytes.size()
                            : std::min(bytes.size(), decision * size_t{997});
  const auto begin = static_cast<uint64_t>(offset);
  bytes = bytes.substr(0, length);
  Changed& changed = Note(Change::kWrite, begin, length, bytes);
  changed.durable = durable;
  Fill(begin, length, bytes);
  for (uint64_t page = begin / kPage; page <= (begin + length - 1) / kPage;
       ++page) {
    if (durable) continue;
    dirty_.insert(page);
    if (!IsData(page * kPage)) forgotten_.insert(page);
  }
  SetRun(begin, length, true);
  if (durable) Clean(begin / kPage, (begin + length - 1) / kPage + 1);
  size_ = std::max(size_, begin + length);
  for (uint64_t page = begin / kPage; page <= (begin + length - 1) / kPage;
       ++page) {
    if (!IsCached(page)) cached_.insert(page);
  }
  return static_cast<ssize_t>(length);
}

void Storage::Clean(uint64_t first_page, uint64_t end_page) {
  for (std::set<uint64_t>* pages : {&dirty_, &forgotten_}) {
    pages->erase(pages->lower_bound(first_page), pages->lower_bound(end_page));
  }
}

int Storage::WriteBack(int64_t offset, int64_t length) {
  CheckRange(offset, static_cast<uint64_t>(length));
  if (const int fault = Fault()) {
    if (fault == EIO || fault == ENOSPC || fault == EDQUOT) lost_ = true;
    return -fault;
  }
  const uint64_t begin = static_cast<uint64_t>(offset);
  const uint64_t end = begin + static_cast<uint64_t>(length);
  Clean(begin / kPage, (end + kPage - 1) / kPage);
  return 0;
}

int Storage::flags() const {
  return (map_ >> kNoExtents & 1) != 0 ? 0 : FS_EXTENT_FL;
}

int Storage::Sync() {
  if (const int fault = Fault()) {
    const bool has_none = fault == EINVAL || fault == EROFS;
    if (fault != EINTR && !(read_only && has_none)) lost_ = true;
    return -fault;
  }
  for (; first_undurable_ < changes_.size(); ++first_undurable_) {
    changes_[first_undurable_].durable = true;
  }
  dirty_.clear();
  forgotten_.clear();
  return 0;
}

int Storage::Allocate(int mode, int64_t offset, int64_t length) {
  Require(length > 0, "the server allocates nothing");
  CheckRange(offset, static_cast<uint64_t>(length));
  const bool punch = mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
  const bool zero = mode == FALLOC_FL_ZERO_RANGE;
  Require(punch || zero || mode == 0, "an unknown mode of fallocate()");
  if (Lacks(punch ? kPunchHole : zero ? kZeroRange : kAllocation)) {
    return -EOPNOTSUPP;
  }
  if (const int fault = Fault()) return -fault;
  const auto begin = static_cast<uint64_t>(offset);
  const auto bytes = static_cast<uint64_t>(length);
  const uint64_t end = begin + bytes;
  Note(punch || zero ? Change::kZero : Change::kAllocate, begin, bytes, {});
  if (!punch) size_ = std::max(size_, end);
  if (punch || zero) {
    // Data from the beginning isn't among the pages yet.
    for (const auto& [number, page] : changes_.back().before) {
      WritablePage(number);
    }
    Fill(begin, bytes, {});
  }
  Clean(begin / kPage, (end + kPage - 1) / kPage);
  if (punch) {
    const uint64_t first = (begin + kPage - 1) / kPage * kPage;
    const uint64_t last = end / kPage * kPage;
    if (first < last) SetRun(first, last - first, false);
  } else {
    SetRun(begin, bytes, true);
  }
  return 0;
}

int64_t Storage::Seek(int64_t offset, bool for_hole) {
  CheckRange(offset, 0);
  if (Lacks(kSeeking)) return -EINVAL;
  // ENXIO is an answer.
  if (const int fault = Fault(); fault != 0 && fault != EINTR) {
    return fault == ENXIO ? -EIO : -fault;
  }
  const auto position = static_cast<uint64_t>(offset);
  if (position >= size_) return -ENXIO;
  if (forgets() && !for_hole) {
    for (uint64_t at = position; at < size_;) {
      const auto next = runs_.upper_bound(at);
      const uint64_t run_end = next == runs_.end() ? size_ : next->first;
      if (!IsData(at)) {
        at = run_end;
      } else if (forgotten_.count(at / kPage) == 0) {
        return static_cast<int64_t>(at);
      } else {
        at = (at / kPage + 1) * kPage;
      }
    }
    return -ENXIO;
  }
  if (IsData(position) != for_hole) return offset;
  for (auto run = runs_.upper_bound(position);
       run != runs_.end() && run->first < size_; ++run) {
    if (run->second != for_hole) return static_cast<int64_t>(run->first);
  }
  return for_hole ? static_cast<int64_t>(size_) : -ENXIO;
}

int Storage::Advise(int64_t offset, int64_t length) {
  Require(length > 0, "advice for the whole file");
  CheckRange(offset, static_cast<uint64_t>(length));
  const int fault = Fault();
  return fault == EINTR ? 0 : -fault;
}

void Storage::Forget(int64_t offset, int64_t length) {
  // Unsigned, because the end may be behind the greatest offset of a file.
  const uint64_t begin = static_cast<uint64_t>(offset);
  const uint64_t end = begin + static_cast<uint64_t>(length);
  cached_.erase(cached_.lower_bound(begin / kPage),
                cached_.lower_bound(end / kPage));
}

bool Storage::forgets() const {
  return type() == NFS_SUPER_MAGIC ||
         (type() == EXT4_SUPER_MAGIC && (flags() & FS_EXTENT_FL) == 0);
}

long Storage::type() const {
  if (Lacks(kNowait) && Lacks(kMemory)) return TMPFS_MAGIC;
  if ((map_ >> kHasNone & 1) != 0) return NFS_SUPER_MAGIC;
  return (map_ >> kLeavesOut & 1) != 0 ? kXfsMagic : EXT4_SUPER_MAGIC;
}

// FS_IOC_FIEMAP.
int Storage::Map(fiemap* map) {
  if ((map_ >> kRefused & 1) != 0) return -ENOTTY;
  if (const int fault = Fault()) return -fault;
  const uint64_t file_end = (size_ + kPage - 1) / kPage * kPage;
  const uint64_t end =
      std::min<uint64_t>(file_end, map->fm_start + map->fm_length);
  map->fm_mapped_extents = 0;
  for (auto run = runs_.begin(); run != runs_.end() && run->first < end &&
                                 map->fm_mapped_extents < map->fm_extent_count;
       ++run) {
    const auto next = std::next(run);
    const uint64_t run_end =
        next == runs_.end() ? file_end : std::min(next->first, file_end);
    if (!run->second || run_end <= map->fm_start) continue;
    // What XFS has in its second map.
    if ((map_ >> kLeavesOut & 1) != 0 && run->first / kPage % 2 == 1) continue;
    fiemap_extent& extent = map->fm_extents[map->fm_mapped_extents++];
    extent = {};
    extent.fe_logical = run->first;
    extent.fe_length = run_end - run->first;
    if ((map_ >> kUnwritten & 1) != 0)
      extent.fe_flags |= FIEMAP_EXTENT_UNWRITTEN;
    if ((map_ >> kDelayed & 1) != 0) extent.fe_flags |= FIEMAP_EXTENT_DELALLOC;
  }
  return 0;
}

int Storage::CountCached(uint64_t offset, uint64_t length, uint64_t* pages,
                         uint64_t* dirty) {
  if (Lacks(kCachestat)) return -ENOSYS;
  const uint64_t first = offset / kPage;
  const uint64_t last = (offset + length - 1) / kPage;
  *pages = 0;
  *dirty = static_cast<uint64_t>(
      std::distance(dirty_.lower_bound(first), dirty_.upper_bound(last)));
  // More than anybody asks for to know whether all of it is cached.
  if (last - first > (256 << 20) / kPage) return 0;
  for (uint64_t page = offset / kPage; page <= (offset + length - 1) / kPage;
       ++page) {
    *pages += IsCached(page);
  }
  return 0;
}

bool Storage::CanBeMapped(uint64_t offset, uint64_t length) const {
  Require(offset == 0 && length > export_size_ &&
              length <= export_size_ + kMaxFolio + 2 * kPage,
          "the server maps something else than the file and a page behind it");
  return (map_ >> kNoMapping & 1) == 0 && length < kAddressSpace;
}

void Storage::TellCached(uint64_t first, uint64_t count,
                         unsigned char* states) const {
  const uint64_t end = (export_size_ + kPage - 1) / kPage;
  Require(first + count <= end + kMaxFolio / kPage + 1,
          "the server asks beyond the mapping");
  const bool secret = (map_ >> kSecret & 1) != 0;
  for (uint64_t page = first; page < first + count; ++page) {
    *states++ = secret || (page < end && IsCached(page));
  }
}

char Storage::ByteBefore(const Changed& changed, uint64_t position) const {
  const auto page = changed.before.find(position / kPage);
  return page == changed.before.end() ? '\0' : page->second[position % kPage];
}

std::vector<const Storage::Changed*> Storage::ChangesOf(uint64_t offset,
                                                        uint64_t length,
                                                        size_t since) const {
  std::vector<const Changed*> found;
  for (size_t i = since; i < changes_.size(); ++i) {
    const Changed& changed = changes_[i];
    if (changed.offset < offset + length &&
        offset < changed.offset + changed.length) {
      found.push_back(&changed);
    }
  }
  return found;
}

bool Storage::HadByte(uint64_t position, char byte,
                      const std::vector<const Changed*>& changes) const {
  for (const Changed* changed : changes) {
    if (position >= changed->offset &&
        position - changed->offset < changed->length &&
        ByteBefore(*changed, position) == byte) {
      return true;
    }
  }
  return false;
}

std::optional<size_t> Storage::FirstDifference(uint64_t offset,
                                               std::string_view bytes,
                                               size_t since) const {
  static const Page zeroes = {};
  for (size_t done = 0; done < bytes.size();) {
    const uint64_t position = offset + done;
    const size_t n =
        std::min<size_t>(bytes.size() - done, kPage - position % kPage);
    const Page* page = PageAt(position / kPage);
    const char* now =
        (page == nullptr ? zeroes : *page).data() + position % kPage;
    if (std::memcmp(now, bytes.data() + done, n) != 0) {
      const std::vector<const Changed*> changes = ChangesOf(position, n, since);
      for (size_t i = 0; i < n; ++i) {
        if (now[i] != bytes[done + i] &&
            !HadByte(position + i, bytes[done + i], changes)) {
          return done + i;
        }
      }
    }
    done += n;
  }
  return std::nullopt;
}

std::optional<uint64_t> Storage::FirstNonZero(uint64_t offset, uint64_t length,
                                              size_t since) const {
  static const std::string zeroes(kPage, '\0');
  const uint64_t end = offset + length;
  while (offset < end) {
    const uint64_t n = std::min(end - offset, kPage - offset % kPage);
    if (PageAt(offset / kPage) == nullptr) {
      // On to the next page that may have something in it.
      const auto page = pages_.lower_bound(offset / kPage);
      uint64_t next = page == pages_.end() ? end : page->first * kPage;
      if (offset < kMaxData) next = offset + n;
      offset = std::max(next, offset + n);
      continue;
    }
    if (const auto at = FirstDifference(
            offset, std::string_view(zeroes).substr(0, n), since)) {
      return offset + *at;
    }
    offset += n;
  }
  return std::nullopt;
}

namespace {

// As the C library gives results to its callers.
template <typename T>
T Result(T value) {
  if (value >= 0) return value;
  errno = static_cast<int>(-value);
  return -1;
}

bool IsOurs(int fd) { return fd == kStorageFd && current != nullptr; }

// Fills the pieces one after the other; an error or a short read ends it.
ssize_t ReadPieces(std::span<const iovec> pieces, off_t offset, bool wait) {
  ssize_t done = 0;
  for (const iovec& piece : pieces) {
    const ssize_t n = current->Read(static_cast<char*>(piece.iov_base),
                                    piece.iov_len, offset + done, wait);
    if (n < 0) return done > 0 ? done : n;
    done += n;
    if (static_cast<size_t>(n) < piece.iov_len) break;
  }
  return done;
}

// Where the file is mapped: an address that no process has.
char* const kMapping = reinterpret_cast<char*>(uintptr_t{1} << 56);
bool IsMapped(const void* address) {
  return reinterpret_cast<uintptr_t>(address) >> 56 == 1;
}

}  // namespace
}  // namespace nbdfuzz

extern "C" {

using nbdfuzz::IsOurs;
using nbdfuzz::Result;
using nbdfuzz::Storage;

ssize_t __real_pread(int, void*, size_t, off_t);
ssize_t __wrap_pread(int fd, void* out, size_t length, off_t offset) {
  if (!IsOurs(fd)) return __real_pread(fd, out, length, offset);
  return Result(Storage::Current()->Read(static_cast<char*>(out), length,
                                         offset,
                                         /*wait=*/true));
}

ssize_t __real_preadv(int, const iovec*, int, off_t);
ssize_t __wrap_preadv(int fd, const iovec* pieces, int count, off_t offset) {
  if (!IsOurs(fd)) return __real_preadv(fd, pieces, count, offset);
  return Result(nbdfuzz::ReadPieces({pieces, static_cast<size_t>(count)},
                                    offset, /*wait=*/true));
}

ssize_t __real_preadv2(int, const iovec*, int, off_t, int);
ssize_t __wrap_preadv2(int fd, const iovec* pieces, int count, off_t offset,
                       int flags) {
  if (!IsOurs(fd)) return __real_preadv2(fd, pieces, count, offset, flags);
  nbdfuzz::Require((flags & ~RWF_NOWAIT) == 0,
                   "a kind of preadv2() that is not simulated");
  return Result(nbdfuzz::ReadPieces({pieces, static_cast<size_t>(count)},
                                    offset, (flags & RWF_NOWAIT) == 0));
}

ssize_t __real_pwrite(int, const void*, size_t, off_t);
ssize_t __wrap_pwrite(int fd, const void* bytes, size_t length, off_t offset) {
  if (!IsOurs(fd)) return __real_pwrite(fd, bytes, length, offset);
  return Result(Storage::Current()->Write(
      {static_cast<const char*>(bytes), length}, offset, /*durable=*/false));
}

ssize_t __real_pwritev2(int, const iovec*, int, off_t, int);
ssize_t __wrap_pwritev2(int fd, const iovec* pieces, int count, off_t offset,
                        int flags) {
  if (!IsOurs(fd)) return __real_pwritev2(fd, pieces, count, offset, flags);
  nbdfuzz::Require(count == 1 && (flags & ~RWF_DSYNC) == 0,
                   "a kind of pwritev2() that is not simulated");
  return Result(Storage::Current()->Write(
      {static_cast<const char*>(pieces[0].iov_base), pieces[0].iov_len}, offset,
      (flags & RWF_DSYNC) != 0));
}

int __real_fdatasync(int);
int __wrap_fdatasync(int fd) {
  return IsOurs(fd) ? Result(Storage::Current()->Sync()) : __real_fdatasync(fd);
}

int __real_fallocate(int, int, off_t, off_t);
int __wrap_fallocate(int fd, int mode, off_t offset, off_t length) {
  return IsOurs(fd) ? Result(Storage::Current()->Allocate(mode, offset, length))
                    : __real_fallocate(fd, mode, offset, length);
}

off_t __real_lseek(int, off_t, int);
off_t __wrap_lseek(int fd, off_t offset, int whence) {
  if (!IsOurs(fd)) return __real_lseek(fd, offset, whence);
  nbdfuzz::Require(whence == SEEK_DATA || whence == SEEK_HOLE,
                   "a kind of lseek() that is not simulated");
  return Result(Storage::Current()->Seek(offset, whence == SEEK_HOLE));
}

int __real_posix_fadvise(int, off_t, off_t, int);
int __wrap_posix_fadvise(int fd, off_t offset, off_t length, int advice) {
  if (!IsOurs(fd)) return __real_posix_fadvise(fd, offset, length, advice);
  if (advice != POSIX_FADV_DONTNEED)
    return -Storage::Current()->Advise(offset, length);
  Storage::Current()->Forget(offset, length);
  return 0;
}

int __real_fstat(int, struct stat*);
int __wrap_fstat(int fd, struct stat* st) {
  if (!IsOurs(fd)) return __real_fstat(fd, st);
  *st = Storage::Current()->Stat();
  return 0;
}

int __real_fstatfs(int, struct statfs*);
int __wrap_fstatfs(int fd, struct statfs* st) {
  if (!IsOurs(fd)) return __real_fstatfs(fd, st);
  *st = {};
  st->f_type = Storage::Current()->type();
  return 0;
}

int __real_ioctl(int, unsigned long, void*);
int __wrap_ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  void* argument = va_arg(list, void*);
  va_end(list);
  if (!IsOurs(fd)) return __real_ioctl(fd, request, argument);
  if (request == FS_IOC_GETFLAGS) {
    *static_cast<int*>(argument) = Storage::Current()->flags();
    return 0;
  }
  nbdfuzz::Require(request == FS_IOC_FIEMAP,
                   "a kind of ioctl() that is not simulated");
  return Result(Storage::Current()->Map(static_cast<fiemap*>(argument)));
}

long __real_syscall(long number, ...);
// Six arguments, whether or not there are so many.
__attribute__((no_sanitize_address)) long __wrap_syscall(long number, ...) {
  constexpr long kCachestat = 451;
  va_list list;
  va_start(list, number);
  long arguments[6];
  for (long& argument : arguments) argument = va_arg(list, long);
  va_end(list);
  const auto fd = static_cast<int>(arguments[0]);
  if (number == SYS_fstat && IsOurs(fd)) {
    return __wrap_fstat(fd, reinterpret_cast<struct stat*>(arguments[1]));
  }
  if (number != kCachestat || !IsOurs(fd)) {
    return __real_syscall(number, arguments[0], arguments[1], arguments[2],
                          arguments[3], arguments[4], arguments[5]);
  }
  const auto* range = reinterpret_cast<const uint64_t*>(arguments[1]);
  auto* cached = reinterpret_cast<uint64_t*>(arguments[2]);
  return Result(Storage::Current()->CountCached(range[0], range[1], &cached[0],
                                                &cached[1]));
}

void* __real_mmap(void*, size_t, int, int, int, off_t);
void* __wrap_mmap(void* address, size_t length, int protection, int flags,
                  int fd, off_t offset) {
  if (!IsOurs(fd)) {
    return __real_mmap(address, length, protection, flags, fd, offset);
  }
  nbdfuzz::Require(protection == PROT_NONE, "the server accesses a mapping");
  if (Storage::Current()->CanBeMapped(static_cast<uint64_t>(offset), length)) {
    return nbdfuzz::kMapping;
  }
  errno = ENODEV;
  return MAP_FAILED;
}

int __real_munmap(void*, size_t);
int __wrap_munmap(void* address, size_t length) {
  return nbdfuzz::IsMapped(address) ? 0 : __real_munmap(address, length);
}

int __real_mincore(void*, size_t, unsigned char*);
int __wrap_mincore(void* address, size_t length, unsigned char* states) {
  if (!nbdfuzz::IsMapped(address)) {
    return __real_mincore(address, length, states);
  }
  const auto offset =
      static_cast<uint64_t>(static_cast<char*>(address) - nbdfuzz::kMapping);
  Storage::Current()->TellCached(offset / Storage::kPage,
                                 length / Storage::kPage, states);
  return 0;
}

int __real_sync_file_range(int, off64_t, off64_t, unsigned);
int __wrap_sync_file_range(int fd, off64_t offset, off64_t length,
                           unsigned flags) {
  if (!IsOurs(fd)) return __real_sync_file_range(fd, offset, length, flags);
  return Result(Storage::Current()->WriteBack(offset, length));
}

}  // extern "C"
