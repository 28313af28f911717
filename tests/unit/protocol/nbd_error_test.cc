#include "protocol/nbd_error.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <map>

#include "base/errors.h"
#include "support/wire.h"

namespace nbdinetd {
namespace {

// "Error values": those that have an errno of the same meaning, and the
// mappings that the section asks for. Everything else that a storage may say is
// NBD_EIO: the section reserves NBD_EOVERFLOW and NBD_ENOTSUP for other cases,
// and a storage that shuts down is no server that does.
const std::map<int, uint32_t>& Expected() {
  static const std::map<int, uint32_t> expected = {
      {0, nbdtest::kNbdOk},          {EPERM, nbdtest::kNbdEperm},
      {EACCES, nbdtest::kNbdEperm},  {EROFS, nbdtest::kNbdEperm},
      {EIO, nbdtest::kNbdEio},       {ENOMEM, nbdtest::kNbdEnomem},
      {EINVAL, nbdtest::kNbdEinval}, {ENOSPC, nbdtest::kNbdEnospc},
      {EDQUOT, nbdtest::kNbdEnospc}, {EFBIG, nbdtest::kNbdEnospc},
  };
  return expected;
}

TEST(NbdErrorOf, GivesEveryErrnoItsErrorValue) {
  for (int error = 0; error < 200; ++error) {
    const auto row = Expected().find(error);
    const uint32_t wanted =
        row == Expected().end() ? nbdtest::kNbdEio : row->second;
    EXPECT_EQ(static_cast<uint32_t>(NbdErrorOf(error)), wanted)
        << error << ", " << ErrnoText(error);
  }
}

// What a disk or a network file system says when it is lost must not look like
// the client's fault.
TEST(NbdErrorOf, ALostStorageIsAnInputOutputError) {
  for (const int error : {ENXIO, ENODEV, ESTALE, EREMOTEIO, ETIMEDOUT, ENODATA,
                          EBADF, EAGAIN, EINTR, ENOLINK, EHOSTDOWN, EUCLEAN}) {
    EXPECT_EQ(static_cast<uint32_t>(NbdErrorOf(error)), nbdtest::kNbdEio)
        << ErrnoText(error);
  }
}

TEST(NbdErrorOf, OnlySuccessIsSuccess) {
  for (int error = -200; error < 5000; ++error) {
    EXPECT_EQ(NbdErrorOf(error) == NBD_SUCCESS, error == 0) << error;
  }
}

TEST(NbdErrors, HaveTheValuesOfTheSpecification) {
  EXPECT_EQ(static_cast<uint32_t>(NBD_SUCCESS), nbdtest::kNbdOk);
  EXPECT_EQ(static_cast<uint32_t>(NBD_EPERM), nbdtest::kNbdEperm);
  EXPECT_EQ(static_cast<uint32_t>(NBD_EIO), nbdtest::kNbdEio);
  EXPECT_EQ(static_cast<uint32_t>(NBD_ENOMEM), nbdtest::kNbdEnomem);
  EXPECT_EQ(static_cast<uint32_t>(NBD_EINVAL), nbdtest::kNbdEinval);
  EXPECT_EQ(static_cast<uint32_t>(NBD_ENOSPC), nbdtest::kNbdEnospc);
  EXPECT_EQ(static_cast<uint32_t>(NBD_EOVERFLOW), nbdtest::kNbdEoverflow);
  EXPECT_EQ(static_cast<uint32_t>(NBD_ENOTSUP), nbdtest::kNbdEnotsup);
  EXPECT_EQ(static_cast<uint32_t>(NBD_ESHUTDOWN), nbdtest::kNbdEshutdown);
}

}  // namespace
}  // namespace nbdinetd
