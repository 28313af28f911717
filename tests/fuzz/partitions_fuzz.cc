// Partition tables: those of an image, read by libblkid as TableReader's
// process does, and answers of that process, if it has been taken over.
// Whatever is in them, a partition that is served lies inside of the file, and
// no two of them share a byte.
//
// An input begins with a byte that chooses. An answer follows as it is. An
// image is a byte for its size, and pieces: the sector (32 bits), the length
// (16), and the bytes. The checksums of a GPT can be set right, since hardly
// any change would otherwise get behind them.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"
#include "fuzz/simulation.h"
#include "partition/partition_table.h"
#include "partition/read_table.h"
#include "partition/table_answer.h"

namespace {

using nbdfuzz::Require;
using nbdinetd::Partition;
using nbdinetd::PartitionName;
using nbdinetd::PartitionRange;
using nbdinetd::PartitionTable;
using nbdinetd::TableAnswer;
using nbdinetd::TableParser;
using nbdinetd::UniqueFd;

constexpr uint64_t kSectorBytes = 512;

void CheckMessage(const absl::Status& status) {
  Require(status.code() == absl::StatusCode::kNotFound,
          "a partition that isn't served is something else");
  const absl::string_view message = status.message();
  Require(message.size() < 16384, "the message's length");
  nbdfuzz::RequireSentence(message);
}

// Looks for everything that the table has, and for what it may not have.
void CheckTable(const PartitionTable& table, uint64_t file_bytes) {
  std::vector<PartitionName> names = {{0, ""}, {255, ""}, {{}, ""}, {{}, "x"}};
  for (const Partition& partition : table.partitions) {
    names.push_back({partition.number, ""});
    names.push_back({std::nullopt, partition.label});
    names.push_back({std::nullopt, partition.uuid});
  }
  std::map<uint32_t, PartitionRange> ranges;  // by number
  for (const PartitionName& name : names) {
    const auto range =
        nbdinetd::FindPartition(table, name, file_bytes, "disk.img");
    if (!range.ok()) {
      CheckMessage(range.status());
      continue;
    }
    Require(name.number.has_value() || !name.text.empty(),
            "an empty name names a partition");
    Require(range->offset > 0, "a partition contains the table");
    Require(range->offset <= file_bytes &&
                range->length <= file_bytes - range->offset,
            "a partition reaches beyond the file");
    if (name.number.has_value()) ranges[*name.number] = *range;
  }
  uint64_t end = 0;  // of the partition before
  std::multimap<uint64_t, uint64_t> by_offset;
  for (const auto& [number, range] : ranges) {
    by_offset.emplace(range.offset, range.length);
  }
  for (const auto& [offset, length] : by_offset) {
    Require(length == 0 || offset >= end, "two partitions share bytes");
    end = std::max(end, offset + length);
  }
}

void TryAnswer(std::string_view bytes) {
  uint64_t file_bytes = 0;
  if (bytes.size() < sizeof(file_bytes)) return;
  std::memcpy(&file_bytes, bytes.data(), sizeof(file_bytes));
  file_bytes &= Partition::kMaxBytes;
  bytes.remove_prefix(sizeof(file_bytes));
  const auto answer = nbdinetd::Decode({bytes.data(), bytes.size()});
  if (!answer.ok()) return;
  Require(answer->table.partitions.size() <= nbdinetd::kMaxPartitions,
          "too many partitions");
  CheckTable(answer->table, file_bytes);
}

// ---- Images

uint32_t Crc32(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (const char c : bytes) {
    crc ^= static_cast<uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc >> 1) ^ (0xedb88320u & (0 - (crc & 1)));
    }
  }
  return ~crc;
}

class Image {
 public:
  explicit Image(uint64_t sectors)
      : fd_(memfd_create("fuzz", MFD_CLOEXEC)), bytes_(sectors * kSectorBytes) {
    Require(
        fd_.valid() && ftruncate(fd_.get(), static_cast<off_t>(bytes_)) == 0,
        "no image to be had");
  }

  int fd() const { return fd_.get(); }
  uint64_t bytes() const { return bytes_; }

  void Write(uint64_t offset, std::string_view data) {
    if (offset >= bytes_) return;
    data = data.substr(0, bytes_ - offset);
    Require(
        pwrite(fd_.get(), data.data(), data.size(),
               static_cast<off_t>(offset)) == static_cast<ssize_t>(data.size()),
        "the image can't be written");
  }

  // Sets the checksums of a GPT whose header is in this sector, if there is
  // one.
  void CorrectGpt(uint64_t lba, uint64_t sector_bytes) {
    constexpr size_t kHeader = 92, kHeaderCrc = 16, kEntriesLba = 72,
                     kCount = 80, kEntryBytes = 84, kEntriesCrc = 88;
    constexpr uint64_t kMostEntries = 1 << 16;
    const std::string head = Read(lba * sector_bytes, sector_bytes);
    if (head.size() < kHeader || head.compare(0, 8, "EFI PART") != 0) return;
    const uint64_t entries = Number<uint32_t>(head, kCount) *
                             uint64_t{Number<uint32_t>(head, kEntryBytes)};
    std::string fixed = head;
    if (entries <= kMostEntries) {
      Store(fixed, kEntriesCrc,
            Crc32(Read(Number<uint64_t>(head, kEntriesLba) * sector_bytes,
                       entries)));
    }
    Store(fixed, kHeaderCrc, 0);
    const size_t size =
        std::clamp<size_t>(Number<uint32_t>(head, 12), kHeader, fixed.size());
    Store(fixed, kHeaderCrc, Crc32(std::string_view(fixed).substr(0, size)));
    Write(lba * sector_bytes, fixed);
  }

 private:
  std::string Read(uint64_t offset, uint64_t length) const {
    if (offset > bytes_) return "";
    std::string data(std::min(length, bytes_ - offset), '\0');
    Require(
        pread(fd_.get(), data.data(), data.size(),
              static_cast<off_t>(offset)) == static_cast<ssize_t>(data.size()),
        "the image can't be read");
    return data;
  }
  template <typename T>
  static T Number(const std::string& bytes, size_t at) {
    T number;
    std::memcpy(&number, bytes.data() + at, sizeof(number));
    return number;
  }
  static void Store(std::string& bytes, size_t at, uint32_t number) {
    std::memcpy(bytes.data() + at, &number, sizeof(number));
  }

  const UniqueFd fd_;
  const uint64_t bytes_;
};

void TryImage(std::string_view bytes, bool correct) {
  static const auto parser = TableParser::Create();
  if (!parser.ok() || bytes.empty()) return;  // built without libblkid
  // 16 to 2^23 sectors: up to 4 GiB.
  Image image(uint64_t{16} << (static_cast<uint8_t>(bytes[0]) % 20));
  bytes.remove_prefix(1);
  while (bytes.size() > 6) {
    uint32_t sector;
    uint16_t length;
    std::memcpy(&sector, bytes.data(), sizeof(sector));
    std::memcpy(&length, bytes.data() + sizeof(sector), sizeof(length));
    bytes.remove_prefix(6);
    image.Write(sector * kSectorBytes, bytes.substr(0, length));
    bytes.remove_prefix(std::min<size_t>(length, bytes.size()));
  }
  if (correct) {
    for (const uint64_t sector_bytes : {kSectorBytes, uint64_t{4096}}) {
      image.CorrectGpt(1, sector_bytes);
      image.CorrectGpt(image.bytes() / sector_bytes - 1, sector_bytes);
    }
  }
  const TableAnswer answer = (*parser)->Read(image.fd());
  Require(answer.outcome == TableAnswer::Outcome::kTable, "no table");
  const auto decoded = nbdinetd::Decode(nbdinetd::Encode(answer));
  Require(decoded.ok(), "an honest answer isn't understood");
  Require(decoded->table.partitions.size() == answer.table.partitions.size() &&
              decoded->table.kind == answer.table.kind,
          "an answer isn't what it was");
  CheckTable(decoded->table, image.bytes());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1,
                               size - 1);
  if (data[0] % 4 == 0) {
    TryAnswer(bytes);
  } else {
    TryImage(bytes, /*correct=*/data[0] % 4 != 1);
  }
  return 0;
}
