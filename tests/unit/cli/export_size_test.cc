#include "cli/export_size.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

#include "base/unique_fd.h"
#include "support/image.h"

namespace nbdinetd {
namespace {

constexpr uint64_t kFileBytes = 64 << 10;

TEST(ExportSizeTest, APartIsSmallerThanItsFile) {
  const auto size = [](const ExportSettings& settings) {
    return ExportSize(settings, "/missing", kFileBytes);
  };
  EXPECT_EQ(size({}), kFileBytes);
  EXPECT_EQ(size({.part = Part{.offset = 1000}}), kFileBytes - 1000);
  EXPECT_EQ(size({.part = Part{.offset = 1000, .length = 5}}), 5u);
  EXPECT_EQ(size({.part = Part{.offset = kFileBytes + 1}}), std::nullopt);
  EXPECT_EQ(size({.part = Part{.offset = 1, .length = kFileBytes}}),
            std::nullopt);
  EXPECT_EQ(size({.part = Part{.length = 5},
                  .size = SizeChange{SizeChange::Kind::kUp, 512}}),
            512u);
  EXPECT_EQ(size({.partition = PartitionName{1, ""}}), std::nullopt);
}

TEST(ExportSizeTest, APartitionIsLookedUp) {
  const nbdtest::TempImage image = nbdtest::TempImage::Sparse(kFileBytes);
  std::string sector(512, '\0');
  sector[446 + 4] = '\x83';
  sector[446 + 8] = 8;
  sector[446 + 12] = 3;
  sector[510] = '\x55';
  sector[511] = '\xaa';
  const UniqueFd fd(open(image.path().c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_EQ(pwrite(fd.get(), sector.data(), sector.size(), 0), 512);
  EXPECT_EQ(
      ExportSize({.partition = PartitionName{1, ""}}, image.path(), kFileBytes),
      3 * 512u);
  EXPECT_EQ(
      ExportSize({.partition = PartitionName{2, ""}}, image.path(), kFileBytes),
      std::nullopt);
}

}  // namespace
}  // namespace nbdinetd
