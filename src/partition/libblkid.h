// libblkid, loaded when partition tables are read.
//
// Only the process that reads the tables loads it (TableReader): a connection
// doesn't pay for it, and has none of it in its memory.
#ifndef NBDINETD_PARTITION_LIBBLKID_H_
#define NBDINETD_PARTITION_LIBBLKID_H_

#include <blkid/blkid.h>

#include "absl/status/statusor.h"

namespace nbdinetd {

// The functions that nbdinetd calls, as in libblkid's reference manual.
#define NBDINETD_LIBBLKID_FUNCTIONS(F)  \
  F(blkid_free_probe)                   \
  F(blkid_new_probe)                    \
  F(blkid_partition_get_name)           \
  F(blkid_partition_get_partno)         \
  F(blkid_partition_get_size)           \
  F(blkid_partition_get_start)          \
  F(blkid_partition_get_table)          \
  F(blkid_partition_get_uuid)           \
  F(blkid_partition_is_extended)        \
  F(blkid_partlist_get_partition)       \
  F(blkid_partlist_get_table)           \
  F(blkid_partlist_numof_partitions)    \
  F(blkid_parttable_get_type)           \
  F(blkid_probe_enable_partitions)      \
  F(blkid_probe_filter_partitions_type) \
  F(blkid_probe_get_partitions)         \
  F(blkid_probe_get_sectorsize)         \
  F(blkid_probe_set_device)             \
  F(blkid_probe_set_sectorsize)

struct LibBlkid {
#define NBDINETD_DECLARE(name) decltype(&::name) name;
  NBDINETD_LIBBLKID_FUNCTIONS(NBDINETD_DECLARE)
#undef NBDINETD_DECLARE

  // Loads it. FailedPrecondition when that fails. It is never unloaded.
  static absl::StatusOr<LibBlkid> Load();
};

}  // namespace nbdinetd

#endif  // NBDINETD_PARTITION_LIBBLKID_H_
