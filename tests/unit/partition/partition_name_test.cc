#include "partition/partition_name.h"

#include <gtest/gtest.h>

namespace nbdinetd {
namespace {

TEST(PartitionNameTest, DigitsAreANumberAndAnythingElseIsALabelOrUuid) {
  for (const auto& [text, number] :
       {std::pair{"1", 1u}, {"255", 255u}, {"007", 7u}}) {
    const auto name = ParsePartitionName(text);
    ASSERT_TRUE(name.ok()) << text;
    EXPECT_EQ(name->number, number);
  }
  for (const char* text : {"root", "1a", "-1", "1 ", "1234abcd-01", "+1"}) {
    const auto name = ParsePartitionName(text);
    ASSERT_TRUE(name.ok()) << text;
    EXPECT_EQ(name->number, std::nullopt);
    EXPECT_EQ(name->text, text);
  }
}

TEST(PartitionNameTest, NumbersThatNoPartitionHasAreWrong) {
  for (const char* text :
       {"", "0", "000", "256", "4294967297", "99999999999999999999999999"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParsePartitionName(text).status()))
        << text;
  }
}

TEST(PartitionNameTest, ANumberFollowsTheLastColonOfAFile) {
  const auto split = SplitPartitionName("a:b.img:12");
  ASSERT_TRUE(split.has_value());
  EXPECT_EQ(split->file, "a:b.img");
  EXPECT_EQ(split->number, 12u);
  for (const char* name : {"", ":", "disk", "disk:", ":1", "disk:0", "disk:01",
                           "disk:256", "disk:-1", "disk:1a", "disk: 1"}) {
    EXPECT_FALSE(SplitPartitionName(name).has_value()) << name;
  }
}

}  // namespace
}  // namespace nbdinetd
