#include "export/padding.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace nbdinetd {
namespace {

bool IsZero(absl::Span<const char> data) {
  return std::all_of(data.begin(), data.end(),
                     [](char byte) { return byte == 0; });
}

}  // namespace

Padding::Padding(std::shared_ptr<Export> base, Facts facts)
    : Layer(std::move(base), facts),
      base_bytes_(this->base().facts().size_bytes) {}

uint64_t Padding::InBase(uint64_t offset, uint64_t length) const {
  return offset < base_bytes_ ? std::min(length, base_bytes_ - offset) : 0;
}

std::optional<Export::Location> Padding::Locate(uint64_t offset,
                                                uint64_t length) const {
  const uint64_t in_base = InBase(offset, length);
  if (in_base == 0) return std::nullopt;
  return base().Locate(offset, in_base);
}

std::optional<Export::Origin> Padding::FindOrigin(uint64_t offset,
                                                  uint64_t length) const {
  const uint64_t in_base = InBase(offset, length);
  if (in_base == 0) return std::nullopt;
  return base().FindOrigin(offset, in_base);
}

size_t Padding::ReadCached(uint64_t offset, absl::Span<char> out) {
  const size_t in_base = InBase(offset, out.size());
  if (in_base != 0) {
    const size_t read = base().ReadCached(offset, out.first(in_base));
    if (read != in_base) return read;
  }
  std::memset(out.data() + in_base, 0, out.size() - in_base);
  return out.size();
}

bool Padding::IsCached(uint64_t offset, uint64_t length) {
  const uint64_t in_base = InBase(offset, length);
  return in_base == 0 || base().IsCached(offset, in_base);
}

StorageError Padding::Read(uint64_t offset, absl::Span<char> out,
                           size_t* done) {
  const size_t in_base = InBase(offset, out.size());
  *done = 0;
  if (in_base != 0) {
    const StorageError error = base().Read(offset, out.first(in_base), done);
    if (error) return error;
  }
  std::memset(out.data() + in_base, 0, out.size() - in_base);
  *done = out.size();
  return 0;
}

int Padding::Write(uint64_t offset, absl::Span<const char> data, bool durable) {
  const size_t in_base = InBase(offset, data.size());
  if (!IsZero(data.subspan(in_base))) return ENOSPC;
  return in_base == 0 ? 0 : base().Write(offset, data.first(in_base), durable);
}

bool Padding::WriteWouldWait(uint64_t offset, uint64_t length) {
  const uint64_t in_base = InBase(offset, length);
  return in_base != 0 && base().WriteWouldWait(offset, in_base);
}

int Padding::Trim(uint64_t offset, uint64_t length) {
  const uint64_t in_base = InBase(offset, length);
  return in_base == 0 ? 0 : base().Trim(offset, in_base);
}

int Padding::Zero(uint64_t offset, uint64_t length, Hole hole, Speed speed,
                  const std::atomic<bool>* cut_short) {
  const uint64_t in_base = InBase(offset, length);
  if (in_base < length && hole == Hole::kForbidden) return ENOSPC;
  return in_base == 0 ? 0
                      : base().Zero(offset, in_base, hole, speed, cut_short);
}

int Padding::Prefetch(uint64_t offset, uint64_t length) {
  const uint64_t in_base = InBase(offset, length);
  return in_base == 0 ? 0 : base().Prefetch(offset, in_base);
}

int Padding::FindExtents(uint64_t offset, uint64_t length, size_t limit,
                         const std::atomic<bool>* cut_short, Extents* out) {
  const uint64_t in_base = InBase(offset, length);
  uint64_t end = offset;
  if (in_base != 0) {
    if (const int error =
            base().FindExtents(offset, in_base, limit, cut_short, out)) {
      return error;
    }
    for (const Extent& extent : *out) end += extent.length_bytes;
  }
  // The base's extents end before the base does.
  if (end < base_bytes_) return 0;
  const uint64_t padding = facts().size_bytes - end;
  if (!out->empty() && out->back().hole) {
    out->back().length_bytes += padding;
  } else if (end < offset + length && out->size() < limit) {
    out->push_back({padding, true});
  }
  return 0;
}

}  // namespace nbdinetd
