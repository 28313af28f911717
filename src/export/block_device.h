// A block device as an export. Threads: see Export.
#ifndef NBDINETD_EXPORT_BLOCK_DEVICE_H_
#define NBDINETD_EXPORT_BLOCK_DEVICE_H_

#include "export/stored_export.h"

namespace nbdinetd {

class BlockDeviceExport : public StoredExport {
 public:
  // Reads the size, the block sizes and the rotational flag from the device by
  // ioctl(2). Internal when the device reports no size.
  static absl::StatusOr<std::unique_ptr<StoredExport>> Create(
      const std::string& path, UniqueFd fd, const Opening& opening);
  // Whether the device is read-only (BLKROGET); open(2) for writing succeeds on
  // such a device all the same.
  static bool IsReadOnly(int fd);

  int Trim(uint64_t offset, uint64_t length) override;
  int Zero(uint64_t offset, uint64_t length, Hole hole, Speed speed,
           const std::atomic<bool>* cut_short) override;

 private:
  BlockDeviceExport(std::string path, UniqueFd fd, Facts facts,
                    uint64_t command_block_bytes);

  // Unmaps whole blocks, which read as zeroes afterwards. EOPNOTSUPP when the
  // device has no such command.
  int Unmap(Range whole);
  // Whether Unmap() may be tried for kFastOnly: a failure loses no data.
  bool MayZeroFast(uint64_t offset, uint64_t length);

  // The alignment of commands: a logical block, and at least a page. The kernel
  // zeroes the rest of a partly covered page in the page cache, even when the
  // command fails.
  const uint64_t command_block_bytes_;
  // Unmap() has returned EOPNOTSUPP once.
  std::atomic<bool> refuses_unmap_ = false;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_BLOCK_DEVICE_H_
