#include "export/cache_modes.h"

#include <fcntl.h>

#include <algorithm>
#include <utility>

#include "base/limits.h"

namespace nbdinetd {

DropBehind::DropBehind(std::shared_ptr<StoredExport> base)
    : Layer(base), stored_(*base) {
  posix_fadvise(lock_fd(), 0, 0, POSIX_FADV_RANDOM);
}

DropBehind::~DropBehind() {
  if (written_bytes_.load() != 0 || writing_back_.length != 0) Flush();
}

size_t DropBehind::ReadCached(uint64_t offset, absl::Span<char> out) {
  if (const std::optional<size_t> n = stored_.ReadCachedOnce(offset, out)) {
    return *n;
  }
  // Nothing if not all of it is cached: RWF_NOWAIT may start the read of the
  // rest, which would then look as if it had been there.
  return IsCached(offset, out.size()) ? Layer::ReadCached(offset, out) : 0;
}

StorageError DropBehind::Read(uint64_t offset, absl::Span<char> out,
                              size_t* done) {
  if (const auto error = stored_.ReadOnce(offset, out, done)) return *error;
  const bool was_cached = IsCached(offset, out.size());
  const StorageError error = Layer::Read(offset, out, done);
  if (!was_cached && !out.empty()) stored_.Drop(offset, out.size());
  return error;
}

int DropBehind::Write(uint64_t offset, absl::Span<const char> data,
                      bool durable) {
  if (const int error = Layer::Write(offset, data, durable)) return error;
  if (durable) {
    stored_.Drop(offset, data.size());
    return 0;
  }
  const uint64_t end = offset + data.size();
  uint64_t bytes;
  {
    const std::lock_guard lock(written_mutex_);
    const bool is_first = written_bytes_ == 0;
    written_begin_ = is_first ? offset : std::min(written_begin_, offset);
    written_end_ = is_first ? end : std::max(written_end_, end);
    bytes = written_bytes_ += data.size();
  }
  return bytes < kWriteBackBytes ? 0 : AdvanceWriteBack();
}

bool DropBehind::WriteWouldWait(uint64_t offset, uint64_t length) {
  return written_bytes_.load(std::memory_order_relaxed) + length >=
             kWriteBackBytes ||
         Layer::WriteWouldWait(offset, length);
}

Range DropBehind::TakeWritten() {
  const std::lock_guard lock(written_mutex_);
  if (written_bytes_ == 0) return {0, 0};
  written_bytes_ = 0;
  return {written_begin_, written_end_ - written_begin_};
}

int DropBehind::AdvanceWriteBack() {
  const std::lock_guard lock(write_back_mutex_);
  // Another thread may have done it, while this one waited for the lock.
  if (written_bytes_ < kWriteBackBytes) return 0;
  const Range written = TakeWritten();
  stored_.BeginWriteBack(written.offset, written.length);
  const Range before = std::exchange(writing_back_, written);
  if (before.length == 0) return 0;
  const int error = stored_.WriteBack(before.offset, before.length);
  stored_.Drop(before.offset, before.length);
  return error;
}

int DropBehind::Flush() {
  const std::lock_guard lock(write_back_mutex_);
  const Range written = TakeWritten();
  const Range before = std::exchange(writing_back_, Range{});
  const int error = Layer::Flush();
  for (const Range range : {before, written}) {
    if (range.length != 0) stored_.Drop(range.offset, range.length);
  }
  return error;
}

}  // namespace nbdinetd
