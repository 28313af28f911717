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
  if (written_.bytes != 0 || writing_back_.length != 0) Flush();
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
  bool is_enough;
  {
    const std::lock_guard lock(written_mutex_);
    written_.Add({offset, data.size()});
    is_enough = written_.is_enough();
  }
  return is_enough ? AdvanceWriteBack() : 0;
}

bool DropBehind::WriteWouldWait(uint64_t offset, uint64_t length) {
  {
    const std::lock_guard lock(written_mutex_);
    Written after = written_;
    after.Add({offset, length});
    if (after.is_enough()) return true;
  }
  return Layer::WriteWouldWait(offset, length);
}

void DropBehind::Written::Add(Range range) {
  begin = bytes == 0 ? range.offset : std::min(begin, range.offset);
  end = bytes == 0 ? range.end() : std::max(end, range.end());
  bytes += range.length;
}

bool DropBehind::Written::is_enough() const {
  // Several requests of a sequential writer are under way at once, and may
  // leave gaps for now.
  const bool scattered = end - begin > 2 * bytes;
  return bytes >= (scattered ? kScatteredWriteBackBytes : kWriteBackBytes);
}

int DropBehind::AdvanceWriteBack() {
  const std::lock_guard lock(write_back_mutex_);
  Range written;
  {
    const std::lock_guard written_lock(written_mutex_);
    // Another thread may have done it, while this one waited for the lock.
    if (!written_.is_enough()) return 0;
    written = std::exchange(written_, Written()).range();
  }
  stored_.BeginWriteBack(written.offset, written.length);
  const Range before = std::exchange(writing_back_, written);
  if (before.length == 0) return 0;
  const int error = stored_.WriteBack(before.offset, before.length);
  stored_.Drop(before.offset, before.length);
  return error;
}

int DropBehind::Flush() {
  const std::lock_guard lock(write_back_mutex_);
  Range written;
  {
    const std::lock_guard written_lock(written_mutex_);
    written = std::exchange(written_, Written()).range();
  }
  const Range before = std::exchange(writing_back_, Range{});
  const int error = Layer::Flush();
  for (const Range range : {before, written}) {
    if (range.length != 0) stored_.Drop(range.offset, range.length);
  }
  return error;
}

}  // namespace nbdinetd
