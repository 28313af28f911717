#include "export/copy_parts.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <utility>

#include "base/limits.h"
#include "base/page_size.h"
#include "export/slice.h"

namespace nbdinetd {

Export::Facts CopyFacts(Export::Facts facts) {
  facts.read_only = false;
  facts.block_device = false;
  facts.private_copy = true;
  // Its locks are on the base.
  facts.shares_locks |= facts.sharing != Export::Sharing::kOwn;
  facts.sharing = Export::Sharing::kOwn;
  return facts;
}

bool CloneInto(const Export& base, int to) {
  const uint64_t size = base.facts().size_bytes;
  if (size == 0) return false;
  const std::optional<Export::Location> place = base.Locate(0, size);
  if (!place.has_value() || place->length != size) return false;
  file_clone_range range = {};
  range.src_fd = place->fd;
  range.src_offset = place->offset;
  range.src_length = size;
  if (ioctl(to, FICLONERANGE, &range) == 0) return true;
  // A part may have been cloned.
  [[maybe_unused]] const int ignored = ftruncate(to, 0);
  return false;
}

std::shared_ptr<Export> CloneOf(std::shared_ptr<Export> base,
                                std::unique_ptr<Export> copy,
                                Export::Facts facts) {
  struct BaseAndClone {
    BaseAndClone(std::shared_ptr<Export> cloned, std::unique_ptr<Export> clone,
                 const Export::Facts& promised)
        : base(std::move(cloned)), copy(std::move(clone), 0, promised) {}

    const std::shared_ptr<Export> base;
    Slice copy;
  };
  const auto both =
      std::make_shared<BaseAndClone>(std::move(base), std::move(copy), facts);
  return std::shared_ptr<Export>(both, &both->copy);
}

bool CanPunchHoles(int fd, uint64_t end_bytes) {
  while (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                   static_cast<off_t>(end_bytes),
                   static_cast<off_t>(PageBytes())) != 0) {
    if (errno != EINTR) return false;
  }
  return true;
}

std::unique_ptr<BlockMap> MapOfBlocks(uint64_t size_bytes,
                                      uint64_t block_bytes) {
  return BlockMap::Create((size_bytes + block_bytes - 1) / block_bytes);
}

uint64_t CopyBlockBytes(uint64_t size_bytes) {
  uint64_t block = PageBytes();
  while (size_bytes / block / 8 > kMaxCopyMapBytes) block *= 2;
  return block;
}

}  // namespace nbdinetd
