#include "cli/export_size.h"

#include <gtest/gtest.h>

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
  image.Write(0, nbdtest::MbrOf(8, 3));
  EXPECT_EQ(
      ExportSize({.partition = PartitionName{1, ""}}, image.path(), kFileBytes),
      3 * 512u);
  EXPECT_EQ(
      ExportSize({.partition = PartitionName{2, ""}}, image.path(), kFileBytes),
      std::nullopt);
}

}  // namespace
}  // namespace nbdinetd
