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
// The sectors of a disk whose image is a file aren't known. Nearly all have 512
// bytes; only where there is no table in these, a GPT in such ones is looked
// for.
constexpr unsigned kLargeSectorBytes = 4096;

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
    if (FileStatus(fd, &st) != 0) return ReadError(errno);
    char sector[kSectorBytes];
    const ssize_t n = ReadBeginning(fd, sector);
    if (n < 0) return ReadError(errno);
    if (n < static_cast<ssize_t>(sizeof(sector))) return answer;
    answer = LookForTable(fd, S_ISREG(st.st_mode));
    using Kind = PartitionTable::Kind;
    if (answer.outcome == TableAnswer::Outcome::kTable &&
        (answer.table.kind == Kind::kNone ||
         answer.table.kind == Kind::kBrokenGpt)) {
      // libblkid doesn't report every read that fails, and one may have been
      // interrupted.
      answer = LookForTable(fd, S_ISREG(st.st_mode));
    }
    return answer;
  }

 private:
  struct Look {
    unsigned sector_bytes;  // 0: those of the block device
    bool only_gpt;
  };

  TableAnswer LookForTable(int fd, bool is_file) const {
    TableAnswer answer;
    int error = 0;
    answer.table = ReadSectors(
        fd, {is_file ? unsigned{kSectorBytes} : 0, /*only_gpt=*/false}, &error);
    using Kind = PartitionTable::Kind;
    const bool is_found =
        answer.table.kind == Kind::kGpt || answer.table.kind == Kind::kMbr;
    // An MBR looks the same whatever the sectors are. It must not be read again
    // in larger ones, also if the first reading has failed.
    if (error == 0 && is_file && !is_found) {
      PartitionTable large =
          ReadSectors(fd, {kLargeSectorBytes, /*only_gpt=*/true}, &error);
      if (large.kind == Kind::kGpt) answer.table = std::move(large);
    }
    return error == 0 ? answer : ReadError(error);
  }

  static TableAnswer ReadError(int error) {
    TableAnswer answer;
    answer.outcome = TableAnswer::Outcome::kReadError;
    answer.error_number = error;
    return answer;
  }

  // As read(2); what it returns may be less in a short file only.
  static ssize_t ReadBeginning(int fd, char (&sector)[kSectorBytes]) {
    ssize_t n;
    do {
      n = pread(fd, sector, sizeof(sector), 0);
    } while (n < 0 && errno == EINTR);
    return n;
  }

  // `*error` becomes 0 or an errno value.
  PartitionTable ReadSectors(int fd, Look look, int* error) const {
    constexpr int kMaxAttempts = 8;
    PartitionTable table;
    for (int i = 0; i < kMaxAttempts; ++i) {
      *error = ReadOnce(fd, look, &table);
      if (*error != EINTR) break;
    }
    return table;
  }

  // Returns 0 or an errno value.
  int ReadOnce(int fd, Look look, PartitionTable* table) const {
    const std::unique_ptr<blkid_struct_probe, decltype(blkid_.blkid_free_probe)>
        probe(blkid_.blkid_new_probe(), blkid_.blkid_free_probe);
    // Others aren't parsed at all. PMBR is an MBR without the GPT that it
    // protects.
    char gpt[] = "gpt", mbr[] = "dos", protective[] = "PMBR";
    char* kinds[] = {gpt, look.only_gpt ? nullptr : mbr, protective, nullptr};
    if (probe == nullptr) return ENOMEM;
    if (blkid_.blkid_probe_set_device(probe.get(), fd, 0, 0) != 0) {
      return errno != 0 ? errno : EIO;
    }
    if (blkid_.blkid_probe_enable_partitions(probe.get(), 1) != 0 ||
        blkid_.blkid_probe_filter_partitions_type(
            probe.get(), BLKID_FLTR_ONLYIN, kinds) != 0 ||
        (look.sector_bytes != 0 && blkid_.blkid_probe_set_sectorsize(
                                       probe.get(), look.sector_bytes) != 0)) {
      return ENOMEM;
    }
    errno = 0;
    const blkid_partlist list = blkid_.blkid_probe_get_partitions(probe.get());
    if (list == nullptr) return IsRefusal(errno) ? 0 : errno;
    *table = TableOf(list);
    table->sector_bytes = blkid_.blkid_probe_get_sectorsize(probe.get());
    return 0;
  }

  // What the sandbox, or a file without what is asked, gives libblkid where it
  // finds no table. Others are errors of reading, which libblkid itself doesn't
  // tell from an absent table.
  static bool IsRefusal(int error) {
    return error == 0 || error == EPERM || error == EACCES || error == ENOENT ||
           error == ENOTTY || error == EINVAL || error == ENOSYS;
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
