#include "export/overlay.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory_resource>
#include <mutex>
#include <utility>

#include "base/limits.h"
#include "export/counted.h"

namespace nbdinetd {
namespace {

// Extents that are asked of one of the two exports at once, and how many more
// than that FindExtents() may hold for a moment.
constexpr size_t kExtentsAtOnce = 256;
constexpr size_t kMoreExtents = 8;

}  // namespace

Overlay::Overlay(std::shared_ptr<Export> base, Facts facts, Copy copy)
    : Layer(std::move(base), facts),
      copy_(std::move(copy.target)),
      copied_(std::move(copy.copied)),
      block_bytes_(copy.block_bytes),
      block_(copy.block_bytes) {}

int Overlay::SetCopied(uint64_t begin, uint64_t end) {
  copied_->Set(begin, end);
  return 0;
}

Overlay::Run Overlay::RunAt(uint64_t offset, uint64_t length) const {
  const uint64_t end = offset + length;
  const uint64_t first = offset / block_bytes_;
  const BlockMap::Run run = copied_->RunAt(first, (end - 1) / block_bytes_ + 1);
  const uint64_t run_end = std::min(end, (first + run.count) * block_bytes_);
  return {run.set ? *copy_ : base(), run_end - offset};
}

std::optional<Export::Location> Overlay::Locate(uint64_t offset,
                                                uint64_t length) const {
  const Run run = RunAt(offset, length);
  return run.in.Locate(offset, run.length);
}

std::optional<Export::Origin> Overlay::FindOrigin(uint64_t offset,
                                                  uint64_t length) const {
  const Run run = RunAt(offset, length);
  if (&run.in != &base()) return std::nullopt;
  return run.in.FindOrigin(offset, run.length);
}

size_t Overlay::ReadCached(uint64_t offset, absl::Span<char> out) {
  size_t done = 0;
  while (done < out.size()) {
    const Run run = RunAt(offset + done, out.size() - done);
    const size_t read =
        run.in.ReadCached(offset + done, out.subspan(done, run.length));
    done += read;
    if (read != run.length) break;
  }
  return done;
}

bool Overlay::IsCached(uint64_t offset, uint64_t length) {
  while (length > 0) {
    const Run run = RunAt(offset, length);
    if (!run.in.IsCached(offset, run.length)) return false;
    offset += run.length;
    length -= run.length;
  }
  return true;
}

StorageError Overlay::Read(uint64_t offset, absl::Span<char> out,
                           size_t* done) {
  *done = 0;
  while (*done < out.size()) {
    const Run run = RunAt(offset + *done, out.size() - *done);
    size_t read = 0;
    const StorageError error =
        run.in.Read(offset + *done, out.subspan(*done, run.length), &read);
    *done += read;
    if (error) return error;
  }
  return 0;
}

Overlay::Parts Overlay::PartsOf(uint64_t offset, uint64_t length) const {
  const uint64_t end = offset + length;
  const uint64_t first = (offset + block_bytes_ - 1) / block_bytes_;
  const uint64_t last =
      end == facts().size_bytes ? end : end / block_bytes_ * block_bytes_;
  const uint64_t begin = first * block_bytes_;
  // All in one block, and not all of it.
  if (begin > last) return {length, 0, 0};
  return {begin - offset, last - begin, end - last};
}

int Overlay::Write(uint64_t offset, absl::Span<const char> data, bool durable) {
  const Parts parts = PartsOf(offset, data.size());
  if (parts.head != 0) {
    if (const int error =
            ChangePart(offset, parts.head, data.data(), durable)) {
      return error;
    }
  }
  const uint64_t whole = offset + parts.head;
  if (parts.whole != 0) {
    const int error = ChangeBlocks(whole, parts.whole, [&] {
      return copy_->Write(whole, data.subspan(parts.head, parts.whole),
                          durable);
    });
    if (error != 0) return error;
  }
  return parts.tail == 0
             ? 0
             : ChangePart(whole + parts.whole, parts.tail,
                          data.data() + parts.head + parts.whole, durable);
}

template <typename Change>
int Overlay::ChangeBlocks(uint64_t offset, uint64_t length, Change change) {
  const Run run = RunAt(offset, length);
  if (&run.in == copy_.get() && run.length == length) return change();
  const Counted counted(changes_);
  const std::shared_lock lock(blocks_);
  if (const int error = change()) return error;
  return SetCopied(offset / block_bytes_,
                   (offset + length - 1) / block_bytes_ + 1);
}

int Overlay::ChangePart(uint64_t offset, uint64_t length, const char* data,
                        bool durable) {
  const uint64_t block = offset / block_bytes_;
  if (!copied_->Has(block)) {
    // Not while others wait for the lock.
    ReadAhead(block);
    const Counted counted(changes_);
    const std::unique_lock lock(blocks_);
    if (!copied_->Has(block)) {
      return CompleteBlock(offset, length, data, durable);
    }
  }
  return data != nullptr
             ? copy_->Write(offset, absl::MakeConstSpan(data, length), durable)
             : copy_->Zero(offset, length, Hole::kForbidden, Speed::kAny,
                           nullptr);
}

void Overlay::ReadAhead(uint64_t block) {
  uint64_t offset = block * block_bytes_;
  const uint64_t end = std::min(offset + block_bytes_, facts().size_bytes);
  if (!base().caches_reads() || base().IsCached(offset, end - offset)) return;
  char bytes[4096];
  size_t done = 0;
  while (offset < end) {
    const absl::Span<char> part(
        bytes, std::min<uint64_t>(sizeof(bytes), end - offset));
    // CompleteBlock() has the error, too.
    if (base().Read(offset, part, &done)) return;
    offset += part.size();
  }
}

int Overlay::CompleteBlock(uint64_t offset, uint64_t length, const char* data,
                           bool durable) {
  const uint64_t block = offset / block_bytes_;
  const uint64_t begin = block * block_bytes_;
  const uint64_t size = std::min(block_bytes_, facts().size_bytes - begin);
  size_t done = 0;
  const StorageError error =
      base().Read(begin, absl::MakeSpan(block_.data(), size), &done);
  if (error) return error.number;
  char* const changed = block_.data() + (offset - begin);
  if (data != nullptr) {
    std::memcpy(changed, data, length);
  } else {
    std::memset(changed, 0, length);
  }
  if (const int failed = copy_->Write(
          begin, absl::MakeConstSpan(block_.data(), size), durable)) {
    return failed;
  }
  return SetCopied(block, block + 1);
}

bool Overlay::WriteWouldWait(uint64_t offset, uint64_t length) {
  if (writes_busy()) return true;
  const auto waits = [this](uint64_t at, uint64_t bytes) {
    if (bytes == 0) return false;
    const uint64_t block = at / block_bytes_;
    if (copied_->Has(block)) return copy_->WriteWouldWait(at, bytes);
    const uint64_t begin = block * block_bytes_;
    return !base().IsCached(begin,
                            std::min(block_bytes_, facts().size_bytes - begin));
  };
  const Parts parts = PartsOf(offset, length);
  return waits(offset, parts.head) ||
         waits(offset + parts.head + parts.whole, parts.tail);
}

int Overlay::Trim(uint64_t offset, uint64_t length) {
  const Parts parts = PartsOf(offset, length);
  const uint64_t whole = offset + parts.head;
  // A last block that is shorter would have to be written.
  const uint64_t bytes = parts.whole / block_bytes_ * block_bytes_;
  if (bytes == 0) return 0;
  const int error = ChangeBlocks(whole, bytes, [&] {
    return copy_->Zero(whole, bytes, Hole::kAllowed, Speed::kFastOnly, nullptr);
  });
  // The copy can have no holes: a trim is a hint.
  return error == EOPNOTSUPP ? 0 : error;
}

int Overlay::Zero(uint64_t offset, uint64_t length, Hole hole, Speed speed,
                  const std::atomic<bool>* cut_short) {
  const Parts parts = PartsOf(offset, length);
  const uint64_t whole = offset + parts.head;
  // First what may not be possible.
  if (parts.whole != 0) {
    const int error = ChangeBlocks(whole, parts.whole, [&] {
      return copy_->Zero(whole, parts.whole, hole, speed, cut_short);
    });
    if (error != 0) return error;
  }
  if (parts.head != 0) {
    if (const int error = ChangePart(offset, parts.head, nullptr, false)) {
      return error;
    }
  }
  return parts.tail == 0
             ? 0
             : ChangePart(whole + parts.whole, parts.tail, nullptr, false);
}

int Overlay::Prefetch(uint64_t offset, uint64_t length) {
  while (length > 0) {
    const Run run = RunAt(offset, length);
    if (const int error = run.in.Prefetch(offset, run.length)) return error;
    offset += run.length;
    length -= run.length;
  }
  return 0;
}

int Overlay::FindExtents(uint64_t offset, uint64_t length, size_t limit,
                         const std::atomic<bool>* cut_short, Extents* out) {
  const int error = AppendExtents(offset, length, limit, cut_short, out);
  if (error == 0 && facts().block_sizes.minimum > 1) {
    AlignExtents(facts().block_sizes.minimum, length, out);
  }
  return error;
}

int Overlay::AppendExtents(uint64_t offset, uint64_t length, size_t limit,
                           const std::atomic<bool>* cut_short, Extents* out) {
  const uint64_t end = offset + length;
  for (size_t looks = 0; offset < end && looks < kMaxExtentLooks;) {
    const Run run = RunAt(offset, end - offset);
    alignas(Extent)
        std::byte memory[(kExtentsAtOnce + kMoreExtents) * sizeof(Extent)];
    std::pmr::monotonic_buffer_resource resource(
        memory, sizeof(memory), std::pmr::null_memory_resource());
    Extents part(&resource);
    part.reserve(kExtentsAtOnce + kMoreExtents);
    const size_t part_limit = std::min(kExtentsAtOnce, limit);
    if (const int error = run.in.FindExtents(offset, run.length, part_limit,
                                             cut_short, &part)) {
      return error;
    }
    // The last one may reach into another run.
    const uint64_t run_end = offset + run.length;
    for (const Extent& extent : part) {
      const uint64_t bytes = std::min(extent.length_bytes, run_end - offset);
      if (!out->empty() && out->back().hole == extent.hole) {
        out->back().length_bytes += bytes;
      } else if (out->size() == limit) {
        return 0;
      } else {
        out->push_back({bytes, extent.hole});
      }
      offset += bytes;
    }
    if (cut_short != nullptr && cut_short->load(std::memory_order_relaxed)) {
      break;
    }
    // It has looked often enough, or found as many as it was asked for.
    if (offset < run_end && part.size() < part_limit) break;
    looks += part.size();
  }
  return 0;
}

}  // namespace nbdinetd
