#include "export/kept_header.h"

#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/file_status.h"
#include "base/limits.h"
#include "export/checksum.h"

namespace nbdinetd {
namespace {

constexpr absl::string_view kMagic = "nbdinetd kept copy 1";
constexpr size_t kChecksumBytes = 8;
constexpr uint64_t kMaxErrno = 4095;

uint64_t Aligned(uint64_t offset) {
  return (offset + kTrailerAlignment - 1) / kTrailerAlignment *
         kTrailerAlignment;
}

// Takes fields from the front of a slot.
class Fields {
 public:
  explicit Fields(absl::string_view bytes) : rest_(bytes) {}

  uint64_t Number() {
    if (rest_.size() < 8) {
      good_ = false;
      return 0;
    }
    uint64_t number = 0;
    for (int i = 0; i < 8; ++i) {
      number = number << 8 | static_cast<unsigned char>(rest_[i]);
    }
    rest_.remove_prefix(8);
    return number;
  }
  std::string Text() {
    const uint64_t size = Number();
    if (size > KeptHeader::kMaxText || size > rest_.size()) {
      good_ = false;
      return "";
    }
    std::string text(rest_.substr(0, size));
    rest_.remove_prefix(size);
    return text;
  }
  bool good() const { return good_; }

 private:
  absl::string_view rest_;
  bool good_ = true;
};

void AppendNumber(uint64_t number, std::string* out) {
  for (int shift = 56; shift >= 0; shift -= 8) {
    out->push_back(static_cast<char>(number >> shift));
  }
}

void AppendText(absl::string_view text, std::string* out) {
  AppendNumber(text.size(), out);
  out->append(text.data(), text.size());
}

absl::Status Damaged(absl::string_view why) { return absl::DataLossError(why); }

// Whether the numbers are some that nbdinetd writes.
bool IsPossible(const KeptHeader& header) {
  constexpr uint64_t kMaxSize = kMaxCopyMapBytes * 8 * kMaxCopyBlockBytes;
  if (header.sequence > KeptHeader::kMaxSequence ||
      header.size_bytes > kMaxSize || header.base_bytes > header.size_bytes ||
      header.base_offset > kMaxSize * 4096) {
    return false;
  }
  const uint64_t block = header.block_bytes;
  return block == 0 || (std::has_single_bit(block) && block >= 512 &&
                        block <= kMaxCopyBlockBytes &&
                        header.size_bytes / block / 8 <= kMaxCopyMapBytes);
}

// Writes what is to follow `found` into the other slot, and waits for nothing.
// 0 or an errno value, and then `found` is as before.
int WriteNext(int fd, FoundHeader& found) {
  if (found.header.sequence >= KeptHeader::kMaxSequence) return EOVERFLOW;
  FoundHeader next = found;
  ++next.header.sequence;
  next.slot = 1 - found.slot;
  const absl::StatusOr<std::string> slot = EncodeHeader(next.header);
  if (!slot.ok()) return EINVAL;
  const uint64_t offset = next.header.layout().slots +
                          static_cast<uint64_t>(next.slot) * kHeaderSlotBytes;
  if (const int error = WriteAll(fd, offset, *slot)) return error;
  found = std::move(next);
  return 0;
}

}  // namespace

KeptLayout KeptHeader::layout() const {
  KeptLayout layout;
  const uint64_t blocks =
      block_bytes == 0 ? 0 : (size_bytes + block_bytes - 1) / block_bytes;
  layout.map_bytes = Aligned((blocks + 7) / 8);
  layout.live_map = Aligned(size_bytes);
  layout.durable_map = layout.live_map + layout.map_bytes;
  layout.slots = layout.durable_map + layout.map_bytes;
  layout.file_bytes = layout.slots + 2 * kHeaderSlotBytes;
  return layout;
}

absl::StatusOr<std::string> EncodeHeader(const KeptHeader& header) {
  std::string slot(kMagic);
  for (const uint64_t number :
       {header.sequence, header.size_bytes, header.block_bytes,
        header.base.inode,
        // Once the number of a device, which nothing uses.
        uint64_t{0}, header.base.mtime_ns, header.base.first_digest,
        header.base.last_digest, header.base_offset, header.base_bytes,
        static_cast<uint64_t>(header.owner.by_path ? 1 : 0),
        static_cast<uint64_t>(header.owner.kind),
        static_cast<uint64_t>(header.created)}) {
    AppendNumber(number, &slot);
  }
  for (const std::string* text :
       {&header.owner.identity, &header.boot_id, &header.base_path,
        &header.owner.export_name}) {
    if (text->size() > KeptHeader::kMaxText) {
      return absl::InvalidArgumentError(
          absl::StrCat("a text of ", text->size(), " bytes is too long"));
    }
    AppendText(*text, &slot);
  }
  // Zeroes, which a header of an earlier version has here, are no merge, and no
  // error.
  const KeptHeader::Merge merge = header.merge.value_or(KeptHeader::Merge());
  for (const uint64_t number :
       {static_cast<uint64_t>(header.merge.has_value() ? 1 : 0),
        merge.file_bytes, merge.generation, merge.first_digest,
        merge.last_digest, static_cast<uint64_t>(header.lost_error)}) {
    AppendNumber(number, &slot);
  }
  if (slot.size() + kChecksumBytes > kHeaderSlotBytes) {
    return absl::InvalidArgumentError("the header is too long");
  }
  slot.resize(kHeaderSlotBytes - kChecksumBytes);
  AppendNumber(Checksum(slot), &slot);
  return slot;
}

absl::StatusOr<KeptHeader> DecodeHeader(absl::string_view slot) {
  if (slot.size() != kHeaderSlotBytes ||
      slot.substr(0, kMagic.size()) != kMagic) {
    return Damaged("it is no copy that this version of nbdinetd has made");
  }
  const absl::string_view body = slot.substr(0, slot.size() - kChecksumBytes);
  if (Fields(slot.substr(body.size())).Number() != Checksum(body)) {
    return Damaged("its header is damaged");
  }
  Fields fields(body.substr(kMagic.size()));
  KeptHeader header;
  header.sequence = fields.Number();
  header.size_bytes = fields.Number();
  header.block_bytes = fields.Number();
  header.base.inode = fields.Number();
  fields.Number();
  header.base.mtime_ns = fields.Number();
  header.base.first_digest = fields.Number();
  header.base.last_digest = fields.Number();
  header.base_offset = fields.Number();
  header.base_bytes = fields.Number();
  header.owner.by_path = fields.Number() != 0;
  const uint64_t kind = fields.Number();
  header.created = static_cast<int64_t>(fields.Number());
  header.owner.identity = fields.Text();
  header.boot_id = fields.Text();
  header.base_path = fields.Text();
  header.owner.export_name = fields.Text();
  header.base.size_bytes = header.size_bytes;
  const uint64_t merges = fields.Number();
  KeptHeader::Merge merge;
  merge.file_bytes = fields.Number();
  merge.generation = fields.Number();
  merge.first_digest = fields.Number();
  merge.last_digest = fields.Number();
  if (merges == 1) header.merge = merge;
  const uint64_t lost_error = fields.Number();
  if (!fields.good() || merges > 1 || lost_error > kMaxErrno ||
      kind > static_cast<uint64_t>(ClientKind::kAddress) ||
      !IsPossible(header)) {
    return Damaged("its header makes no sense");
  }
  header.owner.kind = static_cast<ClientKind>(kind);
  header.lost_error = static_cast<int>(lost_error);
  return header;
}

absl::StatusOr<FoundHeader> ReadHeader(int fd) {
  struct stat st;
  if (FileStatus(fd, &st) != 0) return ErrnoStatus(errno, "fstat");
  const auto size = static_cast<uint64_t>(st.st_size);
  if (!S_ISREG(st.st_mode) || size < 2 * kHeaderSlotBytes) {
    return Damaged("it is too small for a copy");
  }
  std::optional<FoundHeader> found;
  absl::Status why;
  for (int i = 0; i < 2; ++i) {
    std::string slot(kHeaderSlotBytes, '\0');
    const uint64_t offset =
        size - static_cast<uint64_t>(2 - i) * kHeaderSlotBytes;
    if (const int error = ReadAll(fd, offset, slot.data(), slot.size())) {
      return ErrnoStatus(error, "failed to read its header",
                         absl::StatusCode::kUnavailable);
    }
    absl::StatusOr<KeptHeader> header = DecodeHeader(slot);
    if (!header.ok()) {
      why = header.status();
    } else if (header->layout().file_bytes != size) {
      why = Damaged("its size isn't what its header says");
    } else if (!found.has_value() ||
               header->sequence > found->header.sequence) {
      found = FoundHeader{*std::move(header), i};
    }
  }
  if (!found.has_value()) return why;
  return *std::move(found);
}

int ReplaceHeader(int fd, FoundHeader& found) {
  FoundHeader next = found;
  if (const int error = WriteNext(fd, next)) return error;
  if (const int error = SyncData(fd)) return error;
  found = std::move(next);
  return 0;
}

void MarkLost(int fd, FoundHeader& found, int error) {
  found.header.lost_error = error;
  // One slot may be lost, too. What the storage doesn't take is in the page
  // cache until the machine is restarted.
  for (int slot = 0; slot < 2; ++slot) {
    WriteNext(fd, found);
    SyncData(fd);
  }
}

int SyncCopy(int fd, FoundHeader& found) {
  const int error = SyncData(fd);
  if (error != 0) MarkLost(fd, found, error);
  return error;
}

int SyncData(int fd) {
  while (fdatasync(fd) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

int ReadAll(int fd, uint64_t offset, char* out, size_t size) {
  while (size > 0) {
    const ssize_t n = pread(fd, out, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    out += n;
    offset += static_cast<uint64_t>(n);
    size -= static_cast<size_t>(n);
  }
  return 0;
}

int WriteAll(int fd, uint64_t offset, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n =
        pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    offset += static_cast<uint64_t>(n);
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return 0;
}

}  // namespace nbdinetd
