// A block device over a file.

#ifndef NBDINETD_TESTS_SUPPORT_LOOP_DEVICE_H_
#define NBDINETD_TESTS_SUPPORT_LOOP_DEVICE_H_

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "base/unique_fd.h"

namespace nbdtest {

// It goes away with its last user, also when the test crashes.
class LoopDevice {
 public:
  LoopDevice(const std::string& file, uint32_t block_bytes, bool read_only) {
    const nbdinetd::UniqueFd control(
        open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    const nbdinetd::UniqueFd backing(open(file.c_str(), O_RDWR | O_CLOEXEC));
    if (!control.valid() || !backing.valid()) {
      problem_ = std::string("no loop devices: ") + std::strerror(errno);
      return;
    }
    // Somebody else may take the free device first.
    for (int attempt = 0; attempt < 100 && !device_.valid(); ++attempt) {
      const int number = ioctl(control.get(), LOOP_CTL_GET_FREE);
      if (number < 0) break;
      path_ = "/dev/loop" + std::to_string(number);
      nbdinetd::UniqueFd device(open(path_.c_str(), O_RDWR | O_CLOEXEC));
      if (!device.valid()) break;
      loop_config config = {};
      config.fd = static_cast<uint32_t>(backing.get());
      config.block_size = block_bytes;
      config.info.lo_flags =
          LO_FLAGS_AUTOCLEAR | (read_only ? LO_FLAGS_READ_ONLY : 0);
      if (ioctl(device.get(), LOOP_CONFIGURE, &config) == 0) {
        device_ = std::move(device);
        // An earlier user of the device may have left it read-only.
        const int set_read_only = read_only;
        if (ioctl(device_.get(), BLKROSET, &set_read_only) != 0)
          device_.Reset();
      } else if (errno != EBUSY) {
        break;
      }
    }
    if (!device_.valid())
      problem_ = std::string("no loop device: ") + std::strerror(errno);
  }

  bool attached() const { return device_.valid(); }
  const std::string& problem() const { return problem_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::string problem_;
  nbdinetd::UniqueFd device_;
};

}  // namespace nbdtest

#endif  // NBDINETD_TESTS_SUPPORT_LOOP_DEVICE_H_
