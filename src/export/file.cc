#include "export/file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <bit>
#include <cerrno>

#include "base/file_status.h"
#include "base/page_size.h"

namespace nbdinetd {
namespace {

uint32_t PreferredBlock(const struct stat& st) {
  const auto block = static_cast<uint64_t>(st.st_blksize);
  // "MUST be a power of 2 at least as large as ... 512", and no larger than the
  // maximum payload ("Size constraints"). Network file systems report any
  // value.
  const bool usable =
      std::has_single_bit(block) && block >= 512 && block <= (1 << 20);
  return usable ? static_cast<uint32_t>(block) : 4096;
}

// Whether PUNCH_HOLE may do nothing before `end`, and report success. On ext4,
// kernels of 2022 to 2025 do, that of Debian 12 among them: where a file
// without extents would end, at 4 TiB, or at 16 GiB with blocks of 1 KiB.
bool MayIgnoreHoles(int fd, uint64_t end) {
  constexpr uint64_t kFrom = uint64_t{16} << 30;
  struct statfs st;
  if (end <= kFrom || fstatfs(fd, &st) != 0) return false;
  const auto type = static_cast<uint64_t>(st.f_type);
  // overlayfs may be one of ext4.
  return type == EXT4_SUPER_MAGIC || type == OVERLAYFS_SUPER_MAGIC;
}

Export::Facts FactsOf(const struct stat& st) {
  Export::Facts facts;
  facts.size_bytes = static_cast<uint64_t>(st.st_size);
  facts.block_sizes.preferred = PreferredBlock(st);
  return facts;
}

}  // namespace

std::unique_ptr<Export> FileExport::CreateTemporary(const std::string& path,
                                                    UniqueFd fd,
                                                    const struct stat& st) {
  Facts facts = FactsOf(st);
  facts.temporary = true;
  return std::unique_ptr<Export>(new FileExport(path, std::move(fd), facts));
}

std::unique_ptr<StoredExport> FileExport::Create(const std::string& path,
                                                 UniqueFd fd,
                                                 const struct stat& st,
                                                 const Opening& opening) {
  Facts facts = FactsOf(st);
  facts.sharing = opening.sharing;
  facts.read_only = opening.read_only;
  facts.storage = opening.storage;
  return std::unique_ptr<StoredExport>(
      new FileExport(path, std::move(fd), facts));
}

int FileExport::Allocate(int mode, uint64_t offset, uint64_t length) {
  const Busy busy(*this, Busy::kWrites);
  while (fallocate(fd(), mode, static_cast<off_t>(offset),
                   static_cast<off_t>(length)) != 0) {
    if (errno != EINTR) return errno == ENOSYS ? EOPNOTSUPP : errno;
  }
  return 0;
}

int FileExport::PunchHole(uint64_t offset, uint64_t length) {
  return Allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
}

int FileExport::Trim(uint64_t offset, uint64_t length) {
  const Range whole = WholeBlocks(offset, length, PageBytes());
  if (whole.length == 0) return 0;
  const int error = PunchHole(whole.offset, whole.length);
  return error == EOPNOTSUPP ? 0 : error;
}

int FileExport::ZeroAllocated(uint64_t offset, uint64_t length) {
  int error = Allocate(FALLOC_FL_ZERO_RANGE, offset, length);
  if (error != EOPNOTSUPP) return error;
  // tmpfs and others have no ZERO_RANGE, but two calls do the same. The first
  // Allocate() fails before anything has changed; the last one allocates the
  // hole.
  error = Allocate(0, offset, length);
  if (error == 0) error = PunchHole(offset, length);
  return error != 0 ? error : Allocate(0, offset, length);
}

bool FileExport::HoldsData(Range range, uint64_t block) const {
  const Range whole = WholeBlocks(range.offset, range.length, block);
  if (whole.length == 0) return true;
  const off_t data = lseek(fd(), static_cast<off_t>(whole.offset), SEEK_DATA);
  return data >= 0 ? static_cast<uint64_t>(data) < whole.end() : errno != ENXIO;
}

int FileExport::ZeroWhole(Range whole, Hole hole) {
  int error = EOPNOTSUPP;
  if (hole == Hole::kAllowed) {
    // PUNCH_HOLE doesn't extend a truncated file, and reading beyond its end
    // would fail. ZERO_RANGE and writes extend it.
    struct stat st;
    if (FileStatus(fd(), &st) != 0) return errno;
    if (static_cast<uint64_t>(st.st_size) >= whole.end()) {
      error = PunchHole(whole.offset, whole.length);
    }
    if (error == 0 && MayIgnoreHoles(fd(), whole.end()) &&
        HoldsData(whole, PreferredBlock(st))) {
      error = EOPNOTSUPP;
    }
  }
  return error != EOPNOTSUPP ? error
                             : ZeroAllocated(whole.offset, whole.length);
}

// fallocate() gets only whole pages. XFS zeroes and drops every page that the
// range touches, even partly; a sendfile() of such a page that is still being
// sent would deliver zeroes outside of the range.
int FileExport::Zero(uint64_t offset, uint64_t length, Hole hole, Speed speed,
                     const std::atomic<bool>* cut_short) {
  if (length == 0) return 0;
  const Range whole = WholeBlocks(offset, length, PageBytes());
  // Less than two pages are written faster than a client could send them;
  // kFastOnly therefore allows it.
  if (whole.length == 0) return WriteZeroes(offset, length, nullptr);
  const int error = ZeroWhole(whole, hole);
  if (error == 0) return WriteZeroesAround(whole, offset, length);
  if (error != EOPNOTSUPP || speed == Speed::kFastOnly) return error;
  return WriteZeroes(offset, length, cut_short);
}

}  // namespace nbdinetd
