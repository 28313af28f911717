// A block device as an export.
#ifndef NBDINETD_EXPORT_BLOCK_DEVICE_H_
#define NBDINETD_EXPORT_BLOCK_DEVICE_H_

#include "export/export.h"

namespace nbdinetd {

class BlockDeviceExport : public Export {
 public:
  // Asks the device for its size, block sizes, and whether it rotates. Fails
  // when it doesn't know its size.
  static absl::StatusOr<std::unique_ptr<Export>> Create(
      const std::string& path, UniqueFd fd, bool read_only,
      Sharing sharing = Sharing::kOwn);
  // Whether the device refuses writes (BLKROGET), which open(2) doesn't tell.
  static bool IsReadOnly(int fd);

  int Trim(uint64_t offset, uint64_t length) override;
  int Zero(uint64_t offset, uint64_t length, Hole hole, Speed speed) override;

 private:
  BlockDeviceExport(std::string path, UniqueFd fd, Facts facts,
                    uint64_t command_block_bytes);

  // Makes whole blocks read as zeroes by unmapping them; EOPNOTSUPP where the
  // device has no such command.
  int Unmap(Range whole);
  // Whether it is worth to try that, and safe to fail.
  bool MayZeroFast(uint64_t offset, uint64_t length);

  // What the device's own commands take; and whole pages, since the kernel
  // zeroes the rest of a page in its cache, whether the command then succeeds
  // or not.
  const uint64_t command_block_bytes_;
  // Unmap() has failed with EOPNOTSUPP.
  std::atomic<bool> refuses_unmap_ = false;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_BLOCK_DEVICE_H_
