#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/string_view.h"
#include "base/file_status.h"
#include "base/utf8.h"
#include "partition/libblkid.h"
#include "partition/read_table.h"

namespace nbdinetd {
namespace {

constexpr uint64_t kSectorBytes = 512;
// The sectors of a disk whose image is a file aren't known. Nearly all have
// these; only where there is no table in sectors of 512 bytes, a GPT in sectors
// of 4096 is looked for.
constexpr unsigned kFileSectorBytes[] = {512, 4096};

uint64_t BytesOf(blkid_loff_t sectors) {
  const auto count = static_cast<uint64_t>(sectors);
  return count > Partition::kMaxBytes / kSectorBytes ? Partition::kMaxBytes
                                                     : count * kSectorBytes;
}

absl::string_view TextOf(const char* text) {
  return text == nullptr ? absl::string_view() : text;
}

class BlkidParser : public TableParser {
 public:
  explicit BlkidParser(const LibBlkid& blkid) : blkid_(blkid) {}

  TableAnswer Read(int fd) override {
    TableAnswer answer;
    struct stat st;
    char sector[kSectorBytes];
    // libblkid doesn't tell a read error from an absent table.
    if (FileStatus(fd, &st) != 0 || pread(fd, sector, sizeof(sector), 0) < 0) {
      answer.outcome = TableAnswer::Outcome::kReadError;
      answer.error_number = errno;
      return answer;
    }
    if (S_ISBLK(st.st_mode)) {
      answer.table = ReadSectors(fd, /*sector_bytes=*/0);
      return answer;
    }
    for (const unsigned sector_bytes : kFileSectorBytes) {
      PartitionTable table = ReadSectors(fd, sector_bytes);
      using Kind = PartitionTable::Kind;
      const bool is_found =
          table.kind == Kind::kGpt || table.kind == Kind::kMbr;
      if (is_found || answer.table.kind == Kind::kNone) {
        answer.table = std::move(table);
      }
      if (is_found) break;
    }
    return answer;
  }

 private:
  // 0: the sectors of the block device.
  PartitionTable ReadSectors(int fd, unsigned sector_bytes) const {
    const std::unique_ptr<blkid_struct_probe, decltype(blkid_.blkid_free_probe)>
        probe(blkid_.blkid_new_probe(), blkid_.blkid_free_probe);
    // Others aren't parsed at all. PMBR is an MBR without the GPT that it
    // protects.
    char gpt[] = "gpt", mbr[] = "dos", protective[] = "PMBR";
    char* kinds[] = {gpt, mbr, protective, nullptr};
    if (probe == nullptr ||
        blkid_.blkid_probe_set_device(probe.get(), fd, 0, 0) != 0 ||
        blkid_.blkid_probe_enable_partitions(probe.get(), 1) != 0 ||
        blkid_.blkid_probe_filter_partitions_type(
            probe.get(), BLKID_FLTR_ONLYIN, kinds) != 0) {
      return {};
    }
    if (sector_bytes != 0 &&
        blkid_.blkid_probe_set_sectorsize(probe.get(), sector_bytes) != 0) {
      return {};
    }
    const blkid_partlist list = blkid_.blkid_probe_get_partitions(probe.get());
    if (list == nullptr) return {};
    PartitionTable table = TableOf(list);
    table.sector_bytes = blkid_.blkid_probe_get_sectorsize(probe.get());
    return table;
  }

  PartitionTable TableOf(blkid_partlist list) const {
    PartitionTable table;
    const blkid_parttable first = blkid_.blkid_partlist_get_table(list);
    if (first == nullptr) {
      table.kind = PartitionTable::Kind::kBrokenGpt;
      return table;
    }
    table.kind = TextOf(blkid_.blkid_parttable_get_type(first)) == "gpt"
                     ? PartitionTable::Kind::kGpt
                     : PartitionTable::Kind::kMbr;
    const int count = blkid_.blkid_partlist_numof_partitions(list);
    for (int i = 0; i < count; ++i) {
      const blkid_partition partition =
          blkid_.blkid_partlist_get_partition(list, i);
      // Not those of a table in a partition. The kernel has as many numbers.
      if (partition == nullptr ||
          blkid_.blkid_partition_get_table(partition) != first ||
          blkid_.blkid_partition_get_partno(partition) < 1 ||
          blkid_.blkid_partition_get_partno(partition) >
              static_cast<int>(kMaxPartitions)) {
        continue;
      }
      table.partitions.push_back(PartitionOf(partition));
    }
    std::sort(table.partitions.begin(), table.partitions.end(),
              [](const Partition& a, const Partition& b) {
                return a.number < b.number;
              });
    return table;
  }

  Partition PartitionOf(blkid_partition from) const {
    Partition partition;
    partition.number =
        static_cast<uint32_t>(blkid_.blkid_partition_get_partno(from));
    partition.extended = blkid_.blkid_partition_is_extended(from) == 1;
    partition.start_bytes = BytesOf(blkid_.blkid_partition_get_start(from));
    partition.size_bytes = BytesOf(blkid_.blkid_partition_get_size(from));
    partition.label =
        std::string(TextOf(blkid_.blkid_partition_get_name(from)));
    // libblkid leaves half a surrogate as it is: no name that could be given.
    if (!IsValidUtf8(partition.label)) partition.label.clear();
    partition.uuid = std::string(TextOf(blkid_.blkid_partition_get_uuid(from)));
    return partition;
  }

  const LibBlkid blkid_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TableParser>> TableParser::Create() {
  const absl::StatusOr<LibBlkid> library = LibBlkid::Load();
  if (!library.ok()) return library.status();
  return std::make_unique<BlkidParser>(*library);
}

}  // namespace nbdinetd
