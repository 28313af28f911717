#include "export/kept_map.h"

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/string_view.h"
#include "export/extents.h"
#include "export/kept_header.h"

namespace nbdinetd {
namespace {

// The bits of a byte from `first` to before `last`, which are from 0 to 8.
unsigned char BitsOf(uint64_t first, uint64_t last) {
  return static_cast<unsigned char>(((1u << last) - 1) & ~((1u << first) - 1));
}

// Calls `visit` for each byte with blocks of [begin, end), with their bits in
// it, until that returns false. Whether it never has.
template <typename Visit>
bool ForBytes(uint64_t begin, uint64_t end, Visit visit) {
  while (begin < end) {
    const uint64_t byte = begin / 8;
    const uint64_t last = std::min(end - byte * 8, uint64_t{8});
    if (!visit(byte, BitsOf(begin % 8, last))) return false;
    begin = byte * 8 + last;
  }
  return true;
}

// Whether SEEK_DATA counts dirty pages as data: a map that has just been
// written would otherwise look like a hole.
bool HasCertainHoles(int fd) {
  const ExtentSource source = ExtentSourceOf(fd);
  return source == ExtentSource::kMap ||
         source == ExtentSource::kMapWithoutHoles ||
         source == ExtentSource::kSeek;
}

absl::string_view View(const unsigned char* bytes, uint64_t size) {
  return {reinterpret_cast<const char*>(bytes), size};
}

}  // namespace

KeptMap::KeptMap(const Place& place, Bytes live, Bytes durable)
    : place_(place),
      bytes_((place.blocks + 7) / 8),
      live_(std::move(live)),
      durable_(std::move(durable)),
      is_changed_((bytes_ + kPage - 1) / kPage) {
  changed_.reserve(is_changed_.size());
  taken_.reserve(is_changed_.size());
}

std::unique_ptr<KeptMap> KeptMap::Open(const Place& place, Believe believe,
                                       absl::FunctionRef<int()> sync,
                                       int* error) {
  const uint64_t bytes = (place.blocks + 7) / 8;
  // Memory that nothing has touched is no memory yet.
  const auto make = [bytes] {
    return Bytes(static_cast<unsigned char*>(
        std::calloc(std::max<uint64_t>(bytes, 1), 1)));
  };
  Bytes live = make();
  Bytes durable = make();
  *error = live == nullptr || durable == nullptr ? ENOMEM : 0;
  if (*error == 0) {
    *error = Read(place.fd, place.durable_map, bytes, durable.get());
  }
  if (*error == 0 && believe == Believe::kLive) {
    *error = Read(place.fd, place.live_map, bytes, live.get());
  }
  if (*error != 0) return nullptr;
  std::unique_ptr<KeptMap> map(
      new KeptMap(place, std::move(live), std::move(durable)));
  if (believe == Believe::kDurable) *error = map->RestoreLive(sync);
  map->FindChanges();
  return *error == 0 ? std::move(map) : nullptr;
}

int KeptMap::Read(int fd, uint64_t offset, uint64_t size, unsigned char* out) {
  const uint64_t end = offset + size;
  if (!HasCertainHoles(fd)) {
    return ReadAll(fd, offset, reinterpret_cast<char*>(out), size);
  }
  for (uint64_t at = offset; at < end;) {
    const off_t data = lseek(fd, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) return 0;
    const uint64_t from = data < 0 ? at : static_cast<uint64_t>(data);
    if (from >= end) return 0;
    const off_t hole = lseek(fd, static_cast<off_t>(from), SEEK_HOLE);
    const uint64_t to =
        std::min(end, hole < 0 ? end : static_cast<uint64_t>(hole));
    if (const int error =
            ReadAll(fd, from, reinterpret_cast<char*>(out) + (from - offset),
                    to - from)) {
      return error;
    }
    at = to;
  }
  return 0;
}

int KeptMap::RestoreLive(absl::FunctionRef<int()> sync) {
  constexpr uint64_t kPart = 1 << 20;
  for (uint64_t at = 0; at < bytes_; at += kPart) {
    const uint64_t size = std::min(kPart, bytes_ - at);
    std::memcpy(&live_[at], &durable_[at], size);
    if (const int error =
            WriteAll(place_.fd, place_.live_map + at, View(&live_[at], size))) {
      return error;
    }
  }
  return sync();
}

uint64_t KeptMap::PageSize(size_t page) const {
  return std::min(kPage, bytes_ - page * kPage);
}

void KeptMap::FindChanges() {
  for (size_t page = 0; page < is_changed_.size(); ++page) {
    const uint64_t begin = page * kPage;
    bool differs = false;
    for (uint64_t i = begin; i < begin + PageSize(page); ++i) {
      if (live_[i] == durable_[i]) continue;
      // A block in the durable map alone would be a fault of the file. Its data
      // is there all the same.
      if ((durable_[i] & ~live_[i]) != 0) live_[i] |= durable_[i];
      differs = true;
    }
    if (!differs) continue;
    is_changed_[page] = true;
    changed_.push_back(static_cast<uint32_t>(page));
  }
}

void KeptMap::ForEachRun(
    absl::FunctionRef<void(uint64_t begin, uint64_t end)> visit) const {
  const auto byte_at = [this](uint64_t block) -> unsigned {
    return live_[block / 8];
  };
  const auto has = [&](uint64_t block) {
    return (byte_at(block) >> (block % 8) & 1) != 0;
  };
  for (uint64_t at = 0; at < place_.blocks;) {
    if (at % 8 == 0 && byte_at(at) == 0) {
      at += 8;
      continue;
    }
    if (!has(at)) {
      ++at;
      continue;
    }
    const uint64_t begin = at;
    while (at < place_.blocks && has(at)) {
      at += at % 8 == 0 && byte_at(at) == 0xff ? 8 : 1;
    }
    // The last byte may have bits behind the last block.
    at = std::min(at, place_.blocks);
    visit(begin, at);
  }
}

int KeptMap::Add(uint64_t begin, uint64_t end, uint64_t* end_added) {
  const std::lock_guard lock(mutex_);
  for (*end_added = begin; *end_added < end;) {
    // Up to the end of a page of the map.
    const uint64_t page_end = (*end_added / (8 * kPage) + 1) * 8 * kPage;
    const uint64_t part_end = std::min(end, page_end);
    if (const int error = AddInPage(*end_added, part_end)) return error;
    *end_added = part_end;
  }
  return 0;
}

int KeptMap::AddInPage(uint64_t begin, uint64_t end) {
  const uint64_t first = begin / 8;
  const uint64_t size = (end - 1) / 8 - first + 1;
  unsigned char before[kPage];
  std::memcpy(before, &live_[first], size);
  ForBytes(begin, end, [this](uint64_t byte, unsigned char bits) {
    live_[byte] = static_cast<unsigned char>(live_[byte] | bits);
    return true;
  });
  if (const int error = WriteAll(place_.fd, place_.live_map + first,
                                 View(&live_[first], size))) {
    // Nor may a later flush, or process, find a part of them. If not even this
    // can be written, the blocks may be found copied after all: their data is
    // complete, and nobody has been told that it isn't there.
    std::memcpy(&live_[first], before, size);
    WriteAll(place_.fd, place_.live_map + first, View(before, size));
    return error;
  }
  const uint64_t page = first / kPage;
  if (!is_changed_[page]) {
    is_changed_[page] = true;
    changed_.push_back(static_cast<uint32_t>(page));
  }
  return 0;
}

bool KeptMap::AreDurable(uint64_t begin, uint64_t end) {
  const std::lock_guard lock(mutex_);
  if (!durable_holds_.load(std::memory_order_relaxed)) return false;
  return ForBytes(begin, end, [this](uint64_t byte, unsigned char bits) {
    return (durable_[byte] & bits) == bits;
  });
}

int KeptMap::Flush(absl::FunctionRef<int()> sync) {
  std::unique_lock flush(flush_);
  TakeChanges();
  if (taken_.empty() && durable_holds_.load(std::memory_order_relaxed)) {
    flush.unlock();
    return sync();
  }
  int error = sync();
  if (error == 0) error = WriteTaken();
  if (error == 0) error = sync();
  if (error != 0) {
    PutBack();
    return error;
  }
  taken_.clear();
  const std::lock_guard lock(mutex_);
  durable_holds_.store(true, std::memory_order_relaxed);
  return 0;
}

void KeptMap::TakeChanges() {
  const std::lock_guard lock(mutex_);
  taken_.swap(changed_);
  for (const uint32_t page : taken_) {
    is_changed_[page] = false;
    const uint64_t begin = page * kPage;
    std::memcpy(&durable_[begin], &live_[begin], PageSize(page));
  }
  if (!taken_.empty()) durable_holds_.store(false, std::memory_order_relaxed);
}

int KeptMap::WriteTaken() {
  for (const uint32_t page : taken_) {
    const uint64_t begin = page * kPage;
    if (const int error = WriteAll(place_.fd, place_.durable_map + begin,
                                   View(&durable_[begin], PageSize(page)))) {
      return error;
    }
  }
  return 0;
}

void KeptMap::PutBack() {
  const std::lock_guard lock(mutex_);
  for (const uint32_t page : taken_) {
    if (is_changed_[page]) continue;
    is_changed_[page] = true;
    changed_.push_back(page);
  }
  taken_.clear();
}

}  // namespace nbdinetd
