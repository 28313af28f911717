// A file system of one's own, for what the usual ones don't do: one that is
// full, one that cannot punch holes. It is mounted where only this process sees
// it.

#ifndef NBDINETD_TESTS_SUPPORT_PRIVATE_MOUNT_H_
#define NBDINETD_TESTS_SUPPORT_PRIVATE_MOUNT_H_

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

#include "image.h"

namespace nbdtest {

// In CI, a test that cannot run has failed.
inline bool MustRun() {
  const char* ci = std::getenv("CI");
  return ci != nullptr && *ci != '\0' && std::string(ci) != "0" &&
         std::string(ci) != "false";
}

// Leaves the test when the machine can't run it: with a failure in CI, else
// skipped.
#define NBDTEST_REQUIRE(condition, reason)                         \
  do {                                                             \
    if (!(condition)) {                                            \
      if (nbdtest::MustRun())                                      \
        FAIL() << "this machine can't run the test: " << (reason); \
      GTEST_SKIP() << (reason);                                    \
    }                                                              \
  } while (false)

// From here on this process has mounts of its own, which end with it. False
// where that is not allowed.
inline bool HavePrivateMounts() {
  static const bool have =
      unshare(CLONE_NEWNS) == 0 &&
      mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
  return have;
}

class PrivateMount {
 public:
  PrivateMount(const std::string& type, const std::string& options,
               const std::string& source = "none") {
    if (!HavePrivateMounts()) {
      problem_ = "mounting needs root";
    } else if (mount(source.c_str(), directory_.path().c_str(), type.c_str(), 0,
                     options.c_str()) != 0) {
      problem_ = "failed to mount a " + type + ": " + std::strerror(errno);
    } else {
      mounted_ = true;
    }
  }
  ~PrivateMount() {
    if (mounted_) umount2(directory_.path().c_str(), MNT_DETACH);
  }
  PrivateMount(const PrivateMount&) = delete;
  PrivateMount& operator=(const PrivateMount&) = delete;

  bool mounted() const { return mounted_; }
  const std::string& problem() const { return problem_; }
  const std::string& path() const { return directory_.path(); }

 private:
  TempDir directory_;
  bool mounted_ = false;
  std::string problem_;
};

}  // namespace nbdtest

#endif  // NBDINETD_TESTS_SUPPORT_PRIVATE_MOUNT_H_
