#include "export/cache_modes.h"

#include <fcntl.h>

#include <algorithm>
#include <utility>

#include "base/limits.h"
#include "base/page_size.h"

namespace nbdinetd {

DropBehind::DropBehind(std::shared_ptr<StoredExport> base)
    : Layer(base), stored_(*base) {
  posix_fadvise(lock_fd(), 0, 0, POSIX_FADV_RANDOM);
}

DropBehind::~DropBehind() {
  if (written_bytes_.load() != 0) Flush();
}

// The kernel drops whole pages, and none that is dirty.
void DropBehind::Drop(uint64_t offset, uint64_t length) const {
  const uint64_t page = PageBytes();
  const uint64_t begin = offset / page * page;
  const uint64_t end = (offset + length + page - 1) / page * page;
  posix_fadvise(lock_fd(), static_cast<off_t>(begin),
                static_cast<off_t>(end - begin), POSIX_FADV_DONTNEED);
}

StorageError DropBehind::Read(uint64_t offset, absl::Span<char> out,
                              size_t* done) {
  const bool was_cached = IsCached(offset, out.size());
  const StorageError error = Layer::Read(offset, out, done);
  if (!was_cached && !out.empty()) Drop(offset, out.size());
  return error;
}

int DropBehind::Write(uint64_t offset, absl::Span<const char> data,
                      bool durable) {
  if (const int error = Layer::Write(offset, data, durable)) return error;
  if (durable) {
    Drop(offset, data.size());
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
  return bytes < kMaxDirtyBytes ? 0 : WriteBackAndDrop();
}

bool DropBehind::WriteWouldWait(uint64_t offset, uint64_t length) {
  return written_bytes_.load(std::memory_order_relaxed) + length >=
             kMaxDirtyBytes ||
         Layer::WriteWouldWait(offset, length);
}

Range DropBehind::TakeWritten() {
  const std::lock_guard lock(written_mutex_);
  if (written_bytes_ == 0) return {0, 0};
  written_bytes_ = 0;
  return {written_begin_, written_end_ - written_begin_};
}

int DropBehind::WriteBackAndDrop() {
  const Range written = TakeWritten();
  if (written.length == 0) return 0;
  const int error = stored_.WriteBack(written.offset, written.length);
  Drop(written.offset, written.length);
  return error;
}

int DropBehind::Flush() {
  const Range written = TakeWritten();
  const int error = Layer::Flush();
  if (written.length != 0) Drop(written.offset, written.length);
  return error;
}

}  // namespace nbdinetd
