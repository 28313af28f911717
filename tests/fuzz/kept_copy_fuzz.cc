// A kept copy that somebody has damaged, or made to do harm: whatever its
// header says, it is refused with a sentence, or used without an access outside
// of it.
//
// An input is a byte of choices, and then what a slot has behind its magic. The
// target adds magic and checksum, since no random input has a right one. With
// bit 0, the file has the size that the header says; with bit 1 the slot is
// damaged afterwards; with bit 2 the copy is opened, and its maps are the rest
// of the input.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/unique_fd.h"
#include "export/checksum.h"
#include "export/copy_settings.h"
#include "export/export.h"
#include "export/kept_copy.h"
#include "export/kept_header.h"
#include "export/kept_name.h"
#include "fuzz/simulation.h"
#include "support/fake_export.h"

namespace {

using nbdfuzz::Require;
using namespace nbdinetd;  // NOLINT(google-build-using-namespace)

constexpr std::string_view kMagic = "nbdinetd kept copy 1";
// Larger copies would take too long.
constexpr uint64_t kMaxOpenedBytes = 64 << 20;

std::string SlotOf(std::string_view body) {
  std::string slot(kMagic);
  slot += body.substr(0, kHeaderSlotBytes - slot.size() - 8);
  slot.resize(kHeaderSlotBytes - 8);
  const uint64_t checksum = Checksum(slot);
  for (int shift = 56; shift >= 0; shift -= 8) {
    slot += static_cast<char>(checksum >> shift);
  }
  return slot;
}

void CheckHeader(const KeptHeader& header) {
  const absl::StatusOr<std::string> slot = EncodeHeader(header);
  Require(slot.ok(), "a header that was read can't be written");
  const absl::StatusOr<KeptHeader> again = DecodeHeader(*slot);
  Require(again.ok() && *EncodeHeader(*again) == *slot,
          "a header that was written isn't read as it was");
  const KeptLayout layout = header.layout();
  Require(header.size_bytes <= layout.live_map &&
              layout.live_map <= layout.durable_map &&
              layout.durable_map <= layout.slots &&
              layout.slots < layout.file_bytes &&
              layout.file_bytes < (uint64_t{1} << 62),
          "parts of a copy overlap");
  if (header.block_bytes != 0) {
    const uint64_t blocks =
        (header.size_bytes + header.block_bytes - 1) / header.block_bytes;
    Require((blocks + 7) / 8 <= layout.map_bytes, "a map is too small");
  }
  const std::string name = KeptNameOf(header.owner);
  Require(name.size() <= 255 && name[0] != '.' &&
              name.find('/') == std::string::npos &&
              name.find('\0') == std::string::npos,
          "a copy's name leaves the directory");
}

void Use(UniqueFd fd, FoundHeader found) {
  const uint64_t size = found.header.size_bytes;
  Export::Facts facts;
  facts.size_bytes = size;
  facts.read_only = true;
  UniqueFd empty(memfd_create("base", MFD_CLOEXEC));
  Require(ftruncate(empty.get(), static_cast<off_t>(size)) == 0, "ftruncate");
  auto base = std::make_shared<nbdtest::FakeExport>(std::move(empty), facts);
  const auto copy =
      OpenCopy(std::move(fd), base,
               {std::move(found), "boot", CopySettings().max_bytes});
  Require(copy.ok(), "a copy with a good header isn't opened");
  if (size == 0) return;
  char bytes[100];
  for (const uint64_t offset : {uint64_t{0}, size / 2, size - 1}) {
    const size_t length = std::min<uint64_t>(sizeof(bytes), size - offset);
    size_t done = 0;
    Require(!(*copy)->Read(offset, absl::MakeSpan(bytes, length), &done),
            "a copy can't be read");
    Require((*copy)->Write(offset, absl::MakeConstSpan("x", 1), false) == 0,
            "a copy can't be written to");
  }
  Require((*copy)->Flush() == 0, "a copy can't be flushed");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const uint8_t choices = data[0];
  const std::string_view input(reinterpret_cast<const char*>(data + 1),
                               size - 1);
  std::string slot = SlotOf(input);
  if ((choices & 2) != 0) slot[size % slot.size()] ^= 1;
  const absl::StatusOr<KeptHeader> header = DecodeHeader(slot);
  Require(header.ok() || absl::IsDataLoss(header.status()),
          "a wrong header isn't called damaged");
  Require((choices & 2) == 0 || !header.ok(), "a damaged header is taken");
  if (header.ok()) CheckHeader(*header);
  uint64_t file_bytes = 2 * kHeaderSlotBytes + size % 5000;
  if (header.ok() && (choices & 1) != 0)
    file_bytes = header->layout().file_bytes;
  if (file_bytes > kMaxOpenedBytes) return 0;
  UniqueFd fd(memfd_create("copy", MFD_CLOEXEC));
  Require(ftruncate(fd.get(), static_cast<off_t>(file_bytes)) == 0,
          "ftruncate");
  const uint64_t place =
      file_bytes - ((choices & 8) != 0 ? 2 : 1) * kHeaderSlotBytes;
  Require(WriteAll(fd.get(), place, slot) == 0, "write");
  absl::StatusOr<FoundHeader> found = ReadHeader(fd.get());
  Require(found.ok() || absl::IsDataLoss(found.status()),
          "a wrong copy isn't called damaged");
  Require(!found.ok() || header.ok(), "a header comes from nowhere");
  if (!found.ok() || (choices & 4) == 0) return 0;
  // Its header can't be replaced any more.
  if (header->sequence == KeptHeader::kMaxSequence) return 0;
  const KeptLayout layout = header->layout();
  const std::string_view maps = input.substr(0, 2 * layout.map_bytes);
  Require(WriteAll(fd.get(), layout.live_map, {maps.data(), maps.size()}) == 0,
          "write");
  // The program refuses smaller blocks than pages.
  if (header->block_bytes != 0 && header->block_bytes < 4096) return 0;
  Use(std::move(fd), *std::move(found));
  return 0;
}
