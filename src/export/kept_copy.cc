#include "export/kept_copy.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory_resource>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/errors.h"
#include "base/file_status.h"
#include "base/limits.h"
#include "base/page_size.h"
#include "export/base_facts.h"
#include "export/block_map.h"
#include "export/copy_parts.h"
#include "export/copy_settings.h"
#include "export/file.h"
#include "export/kept_map.h"
#include "export/kept_overlay.h"
#include "export/loss_mark.h"
#include "export/quota.h"
#include "export/slice.h"

namespace nbdinetd {
namespace {

absl::Status Failed(const Export& base, absl::string_view what, int error) {
  return ErrnoStatus(error, absl::StrCat("failed to make a kept copy of ",
                                         Quoted(base.path()), ": ", what));
}

absl::Status CantOpen(const Export& base, absl::string_view what, int error) {
  return ErrnoStatus(error, absl::StrCat("failed to open the kept copy of ",
                                         Quoted(base.path()), ": ", what));
}

// 0 or an errno value.
int SetSize(int fd, uint64_t bytes) {
  while (ftruncate(fd, static_cast<off_t>(bytes)) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

// 0 or an errno value.
int WriteZeroes(int fd, uint64_t offset, uint64_t length) {
  const std::string zeroes(64 << 10, '\0');
  while (length > 0) {
    const uint64_t part = std::min<uint64_t>(length, zeroes.size());
    if (const int error =
            WriteAll(fd, offset, absl::string_view(zeroes).substr(0, part))) {
      return error;
    }
    offset += part;
    length -= part;
  }
  return 0;
}

// Allocates the storage of a range, so that writing to it can't fail for want
// of space. 0 or an errno value. Not posix_fallocate(), which makes other
// system calls where the file system has none for it.
int Allocate(int fd, uint64_t offset, uint64_t length) {
  while (fallocate(fd, 0, static_cast<off_t>(offset),
                   static_cast<off_t>(length)) != 0) {
    if (errno == EINTR) continue;
    if (errno != EOPNOTSUPP && errno != ENOSYS) return errno;
    return WriteZeroes(fd, offset, length);
  }
  return 0;
}

// The blocks that hold storage. nullptr and `*error`, an errno value, when they
// can't be found.
std::unique_ptr<BlockMap> StoredBlocks(Export& copy, uint64_t block,
                                       int* error) {
  const uint64_t size = copy.facts().size_bytes;
  std::unique_ptr<BlockMap> stored = MapOfBlocks(size, block);
  *error = stored == nullptr ? ENOMEM : 0;
  for (uint64_t at = 0; at < size && *error == 0;) {
    std::array<std::byte, 4096> memory;
    std::pmr::monotonic_buffer_resource resource(memory.data(), memory.size());
    Extents extents(&resource);
    *error = copy.FindExtents(at, size - at, 64, nullptr, &extents);
    for (const Extent& extent : extents) {
      const uint64_t end = std::min(at + extent.length_bytes, size);
      if (!extent.hole && end > at) {
        stored->Set(at / block, (end - 1) / block + 1);
      }
      at = end;
    }
    if (extents.empty()) break;
  }
  return *error == 0 ? std::move(stored) : nullptr;
}

// Adds blocks of `kept` to `stored` until they are as many as occupy
// `allocated_bytes`. Zeroes that are allocated (NBD_CMD_FLAG_NO_HOLE) look like
// holes; what a file system needs for itself counts only where the client has
// trimmed as much.
void CountZeroes(const KeptMap& kept, uint64_t allocated_bytes, uint64_t block,
                 BlockMap& stored) {
  uint64_t missing = allocated_bytes / block;
  const auto count = [&](uint64_t begin, uint64_t end, bool set) {
    while (begin < end && missing > 0) {
      const BlockMap::Run run = stored.RunAt(begin, end);
      const uint64_t blocks = run.set == set ? std::min(run.count, missing) : 0;
      if (blocks > 0 && !set) stored.Set(begin, begin + blocks);
      missing -= blocks;
      begin += run.count;
    }
  };
  // Only the blocks of `kept` are stored.
  kept.ForEachRun([&](uint64_t b, uint64_t e) { count(b, e, /*set=*/true); });
  kept.ForEachRun([&](uint64_t b, uint64_t e) { count(b, e, /*set=*/false); });
}

// Makes the copy's last use visible: the time of its file.
int Touch(int fd, const FoundHeader& found) {
  // The older slot, with its own content: should power fail while the storage
  // writes it, the newer one is whole.
  const uint64_t offset =
      found.header.layout().slots +
      static_cast<uint64_t>(1 - found.slot) * kHeaderSlotBytes;
  char byte;
  if (const int error = ReadAll(fd, offset, &byte, 1)) return error;
  return WriteAll(fd, offset, {&byte, 1});
}

std::string InWords(const KeptOwner& owner) {
  return absl::StrCat(WordOf(owner.kind), " ", Quoted(owner.identity),
                      " for export ", Quoted(owner.export_name));
}

}  // namespace

std::string ReadBootId() {
  const UniqueFd fd(
      open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  char text[64];
  const ssize_t n = fd.valid() ? read(fd.get(), text, sizeof(text)) : -1;
  if (n <= 0) return "";
  return std::string(absl::StripAsciiWhitespace(
      absl::string_view(text, static_cast<size_t>(n))));
}

Export::Facts KeptFacts(const Export::Facts& facts) {
  Export::Facts kept = CopyFacts(facts);
  // Its locks are on the copy.
  kept.shares_locks = false;
  return kept;
}

Export::Origin PlaceOf(const Export& base) {
  const uint64_t size = base.facts().size_bytes;
  return size == 0 ? Export::Origin{}
                   : base.FindOrigin(0, size).value_or(Export::Origin{});
}

std::string PathAndPlace(const Export& base, const std::string& path) {
  const uint64_t begin =
      base.facts().size_bytes == 0
          ? 0
          : base.FindOrigin(0, 1).value_or(Export::Origin{}).offset;
  return begin == 0 ? path : absl::StrCat(path, "@", begin);
}

std::unique_ptr<KeptMap> OpenKeptMap(int fd, FoundHeader& found,
                                     const std::string& boot_id, int* error) {
  const KeptHeader& header = found.header;
  const KeptLayout layout = header.layout();
  const uint64_t block = header.block_bytes;
  return KeptMap::Open(
      {fd, layout.live_map, layout.durable_map,
       (header.size_bytes + block - 1) / block},
      !boot_id.empty() && boot_id == header.boot_id
          ? KeptMap::Believe::kLive
          : KeptMap::Believe::kDurable,
      [&] { return SyncCopy(fd, found); }, error);
}

absl::StatusOr<FoundHeader> MakeCopy(int fd, Export& base,
                                     const NewCopy& copy) {
  FoundHeader found;
  KeptHeader& header = found.header;
  header.size_bytes = base.facts().size_bytes;
  const uint64_t block = CopyBlockBytes(header.size_bytes);
  if (block > kMaxCopyBlockBytes) {
    return absl::UnimplementedError(
        absl::StrCat("failed to make a kept copy of ", Quoted(base.path()),
                     ": it is larger than 512 TiB"));
  }
  const absl::StatusOr<BaseFacts> facts = ReadBaseFacts(base);
  if (!facts.ok()) return facts.status();
  header.base = *facts;
  header.base_path = copy.base_path;
  const Export::Origin place = PlaceOf(base);
  header.base_offset = place.offset;
  header.base_bytes = place.length;
  header.owner = copy.owner;
  header.created = absl::ToUnixSeconds(absl::Now());
  header.boot_id = copy.boot_id;
  // It may have been filled before, for a name that another copy has got.
  if (const int error = SetSize(fd, 0)) {
    return Failed(base, "ftruncate", error);
  }
  const bool cloned = copy.may_be_clone && CloneInto(base, fd);
  header.block_bytes = cloned ? 0 : block;
  const KeptLayout layout = header.layout();
  if (const int error = SetSize(fd, layout.file_bytes)) {
    return Failed(base, "its size", error);
  }
  if (const int error =
          Allocate(fd, layout.live_map, layout.file_bytes - layout.live_map)) {
    return Failed(base, "space for its maps", error);
  }
  if (const absl::StatusOr<std::string> slot = EncodeHeader(header);
      !slot.ok()) {
    return absl::InternalError(absl::StrCat("failed to make a kept copy of ",
                                            Quoted(base.path()), ": ",
                                            slot.status().message()));
  }
  if (const int error = ReplaceHeader(fd, found)) {
    return Failed(base, "its header", error);
  }
  // Its size and all else, too.
  while (fsync(fd) != 0) {
    if (errno != EINTR) return Failed(base, "fsync", errno);
  }
  return found;
}

absl::StatusOr<FoundHeader> CheckCopy(int fd, Export& base,
                                      const KeptOwner& owner) {
  absl::StatusOr<FoundHeader> found = ReadHeader(fd);
  if (!found.ok()) return found;
  const KeptHeader& header = found->header;
  if (header.owner != owner) {
    return absl::PermissionDeniedError(
        absl::StrCat("it belongs to ", InWords(header.owner)));
  }
  if (header.lost_error != 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the storage has lost something that the client had written (",
        ErrnoText(header.lost_error),
        "): 'nbdinetctl copies' discards the copy, or writes what is left to "
        "an image of its own"));
  }
  if (header.merge.has_value()) {
    return absl::FailedPreconditionError(
        "a merge of it into its base was cut short: 'nbdinetctl copies merge' "
        "goes on with it, and then the client begins anew");
  }
  if (header.block_bytes != 0 && header.block_bytes < PageBytes()) {
    return absl::DataLossError(
        "it was made on a machine with smaller pages of memory");
  }
  const absl::StatusOr<BaseFacts> now = ReadBaseFacts(base);
  if (!now.ok()) return now.status();
  std::string changes = ChangesOf(header.base, *now);
  if (!changes.empty()) return absl::AbortedError(changes);
  const Export::Origin place = PlaceOf(base);
  if (place.offset != header.base_offset || place.length != header.base_bytes) {
    return absl::AbortedError(absl::StrCat("its place in the file: from byte ",
                                           header.base_offset, " to byte ",
                                           place.offset));
  }
  return found;
}

absl::StatusOr<std::shared_ptr<Export>> OpenCopy(UniqueFd fd,
                                                 std::shared_ptr<Export> base,
                                                 ServedCopy copy) {
  FoundHeader& found = copy.found;
  const int number = fd.get();
  const bool same_boot =
      !copy.boot_id.empty() && found.header.boot_id == copy.boot_id;
  const uint64_t size = found.header.size_bytes;
  const uint64_t block = found.header.block_bytes;
  const KeptLayout layout = found.header.layout();
  int error = 0;
  std::unique_ptr<KeptMap> kept;
  if (block != 0) {
    kept = OpenKeptMap(number, found, copy.boot_id, &error);
    if (kept == nullptr) return CantOpen(*base, "its map", error);
  }
  // After the live map: it is what the boot id is about.
  if (same_boot) {
    error = Touch(number, found);
  } else {
    // A map has been synced by now. Before the header is another: what this
    // finds to be lost isn't the header.
    if (block == 0) error = SyncCopy(number, found);
    found.header.boot_id = copy.boot_id;
    if (error == 0) error = ReplaceHeader(number, found);
  }
  if (error != 0) return CantOpen(*base, "its header", error);
  struct stat st;
  if (FileStatus(number, &st) != 0) return CantOpen(*base, "fstat", errno);
  Export::Facts data = KeptFacts(base->facts());
  data.block_sizes = BlockSizes();
  data.storage = copy.storage;
  std::unique_ptr<Export> file =
      std::make_unique<Slice>(FileExport::Create(base->path(), std::move(fd),
                                                 st, {.storage = copy.storage}),
                              0, data);
  // KeptOverlay flushes by itself.
  file = std::make_unique<LossMark>(
      std::move(file), std::move(found),
      block == 0 ? LossMark::AtEnd::kFlush : LossMark::AtEnd::kNothing);
  const uint64_t counted = block != 0 ? block : CopyBlockBytes(size);
  if (copy.max_bytes != CopySettings().max_bytes) {
    std::unique_ptr<BlockMap> stored = StoredBlocks(*file, counted, &error);
    if (stored == nullptr) return CantOpen(*base, "what it stores", error);
    const auto allocated = static_cast<uint64_t>(st.st_blocks) * 512;
    const uint64_t maps = layout.file_bytes - layout.live_map;
    if (kept != nullptr && allocated > maps) {
      CountZeroes(*kept, allocated - maps, block, *stored);
    }
    const bool has_holes = CanPunchHoles(number, layout.file_bytes);
    file = std::make_unique<Quota>(
        std::move(file), Quota::Limit{copy.max_bytes, counted, has_holes},
        std::move(stored));
  }
  Export::Facts facts = KeptFacts(base->facts());
  facts.storage = copy.storage;
  if (block == 0) return CloneOf(std::move(base), std::move(file), facts);
  std::unique_ptr<BlockMap> copied = MapOfBlocks(size, block);
  if (copied == nullptr) return CantOpen(*base, "its map", ENOMEM);
  kept->ForEachRun(
      [&](uint64_t begin, uint64_t end) { copied->Set(begin, end); });
  return std::make_shared<KeptOverlay>(
      std::move(base), facts,
      Overlay::Copy{std::move(file), std::move(copied), block},
      std::move(kept));
}

}  // namespace nbdinetd
