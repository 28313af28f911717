// The partitions of a disk, and which of them can be served.
//
// A table comes from a process that has read it from an image (TableReader),
// and nothing in it is trusted. Find() returns only a range that lies inside
// the file, and that no other partition shares.
#ifndef NBDINETD_PARTITION_PARTITION_TABLE_H_
#define NBDINETD_PARTITION_PARTITION_TABLE_H_

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "partition/partition_name.h"

namespace nbdinetd {

struct Partition {
  // No partition begins behind it, or is larger: the kernel's offsets are
  // signed.
  static constexpr uint64_t kMaxBytes = std::numeric_limits<int64_t>::max();

  uint32_t number = 0;  // as the kernel counts: logical ones from 5 on
  // An MBR's container of logical partitions, which is no export.
  bool extended = false;
  uint64_t start_bytes = 0;
  uint64_t size_bytes = 0;
  std::string label;  // of a GPT; may be empty
  std::string uuid;   // of an MBR: "1234abcd-01"; may be empty
};

struct PartitionTable {
  enum class Kind {
    kNone,
    kGpt,
    kMbr,
    kBrokenGpt,  // only the MBR that protects it is there
  };
  Kind kind = Kind::kNone;
  uint32_t sector_bytes = 512;
  // Their numbers ascend.
  std::vector<Partition> partitions;
};

// The part of a file that is a partition of it.
struct PartitionRange {
  uint64_t offset;
  uint64_t length;
};

// Finds a partition of a file of `file_bytes` whose path, for messages, is
// `path`. NotFound: there is no such partition, the name isn't unique, or it
// can't be served, because it contains the table, reaches beyond the file or
// overlaps another one.
absl::StatusOr<PartitionRange> FindPartition(const PartitionTable& table,
                                             const PartitionName& name,
                                             uint64_t file_bytes,
                                             absl::string_view path);

}  // namespace nbdinetd

#endif  // NBDINETD_PARTITION_PARTITION_TABLE_H_
