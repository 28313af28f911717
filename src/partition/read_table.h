// Reads the partition table of an open file by libblkid.
//
// It handles hostile input in C: only the process of TableReader, and a fuzz
// target, call it.
#ifndef NBDINETD_PARTITION_READ_TABLE_H_
#define NBDINETD_PARTITION_READ_TABLE_H_

#include <memory>

#include "partition/table_answer.h"

namespace nbdinetd {

class TableParser {
 public:
  // Loads libblkid. FailedPrecondition when that fails.
  static absl::StatusOr<std::unique_ptr<TableParser>> Create();

  virtual ~TableParser() = default;

  // Reads from `fd`, which is borrowed, and whose open file description nobody
  // else uses: libblkid moves its offset, and tells the kernel not to read
  // ahead. Only partitions of the first table are returned, not those of a
  // table in one of them.
  virtual TableAnswer Read(int fd) = 0;
};

}  // namespace nbdinetd

#endif  // NBDINETD_PARTITION_READ_TABLE_H_
