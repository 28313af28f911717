#include "partition/partition_table.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/match.h"

namespace nbdinetd {
namespace {

using Kind = PartitionTable::Kind;

constexpr uint64_t kFileBytes = 1 << 20;

Partition At(uint32_t number, uint64_t start, uint64_t size,
             const std::string& label = "", const std::string& uuid = "") {
  return {number, /*extended=*/false, start, size, label, uuid};
}
Partition Extended(uint32_t number, uint64_t start, uint64_t size) {
  return {number, /*extended=*/true, start, size, "", ""};
}

absl::StatusOr<PartitionRange> Find(const PartitionTable& table,
                                    const PartitionName& name) {
  return FindPartition(table, name, kFileBytes, "disk.img");
}

void ExpectRange(const PartitionTable& table, const PartitionName& name,
                 uint64_t offset, uint64_t length) {
  const auto range = Find(table, name);
  ASSERT_TRUE(range.ok()) << range.status();
  EXPECT_EQ(range->offset, offset);
  EXPECT_EQ(range->length, length);
}

void ExpectNone(const PartitionTable& table, const PartitionName& name,
                const std::string& words) {
  const absl::Status status = Find(table, name).status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), words)) << status;
}

PartitionName Number(uint32_t number) { return {number, ""}; }
PartitionName Text(const std::string& text) { return {std::nullopt, text}; }

TEST(PartitionTableTest, AnyNameFindsThePartition) {
  const PartitionTable table = {
      Kind::kGpt,
      512,
      {At(1, 4096, 512, "EFI", "AB-1"), At(3, 8192, 1024, "ab-2", "cd-3")}};
  ExpectRange(table, Number(1), 4096, 512);
  ExpectRange(table, Text("EFI"), 4096, 512);
  ExpectRange(table, Text("ab-1"), 4096, 512);
  ExpectRange(table, Text("CD-3"), 8192, 1024);
  ExpectNone(table, Text("efi"), "isn't in the GPT");
  ExpectNone(table, Number(2),
             "partition 2 isn't in the GPT of \"disk.img\", which has 1, 3");
  ExpectNone(table, Text("x"),
             "which has 1 (\"EFI\", AB-1), 3 (\"ab-2\", cd-3)");
}

TEST(PartitionTableTest, AnEmptyLabelOrUuidIsNoName) {
  ExpectNone({Kind::kGpt, 512, {At(1, 4096, 512)}}, Text(""), "isn't in");
}

TEST(PartitionTableTest, ANameOfSeveralIsAnErrorThatListsThem) {
  const PartitionTable table = {
      Kind::kGpt,
      512,
      {At(1, 4096, 512, "a", "b"), At(2, 8192, 512, "a"), At(3, 9000, 8, "B")}};
  ExpectNone(table, Text("a"),
             "have the name \"a\": 1 (\"a\", b), 2 (\"a\"); choose one");
  // The label of one and the UUID of another.
  ExpectNone(table, Text("B"), "have the name \"B\": 1 (\"a\", b), 3 (\"B\")");
}

TEST(PartitionTableTest, AListIsShort) {
  PartitionTable table = {Kind::kGpt, 512, {}};
  for (uint32_t i = 1; i <= 100; ++i) {
    table.partitions.push_back(At(i, 4096 * i, 4096, std::string(108, 'x')));
  }
  table.partitions.erase(table.partitions.begin() + 50);
  ExpectNone(table, Number(200), "has 1 to 50, 52 to 100");
  EXPECT_LT(Find(table, Text("y")).status().message().size(), 4096u);
}

TEST(PartitionTableTest, NothingReachesBeyondTheFile) {
  constexpr uint64_t kMax = Partition::kMaxBytes;
  const PartitionTable table = {Kind::kGpt,
                                512,
                                {At(1, 1, kFileBytes), At(2, kFileBytes + 1, 0),
                                 At(3, kMax, kMax), At(4, kFileBytes, 1)}};
  for (uint32_t number = 1; number <= 4; ++number) {
    ExpectNone(table, Number(number), "beyond the file's 1048576");
  }
  ExpectRange({Kind::kGpt, 512, {At(1, 512, kFileBytes - 512)}}, Number(1), 512,
              kFileBytes - 512);
}

TEST(PartitionTableTest, NoneContainsTheTable) {
  for (const Kind kind : {Kind::kGpt, Kind::kMbr}) {
    const PartitionTable table = {
        kind, 512, {At(1, 0, 4096), At(2, 4096, 4096)}};
    ExpectNone(table, Number(1), "begins where the table itself is");
    ExpectRange(table, Number(2), 4096, 4096);
  }
}

TEST(PartitionTableTest, OverlappingOnesAreNotServedAndTheOthersAre) {
  const PartitionTable table = {
      Kind::kGpt,
      512,
      {At(1, 512, 512), At(2, 1023, 1), At(3, 1024, 1024), At(4, 4096, 4096),
       At(5, 4608, 512), At(6, 8192, 512), At(7, 8192, 512)}};
  ExpectNone(table, Number(1), "overlaps partition 2");
  ExpectNone(table, Number(2), "overlaps partition 1");
  ExpectRange(table, Number(3), 1024, 1024);
  ExpectNone(table, Number(4), "--offset=4096 and --length=4096");
  ExpectNone(table, Number(5), "overlaps partition 4");
  ExpectNone(table, Number(6), "overlaps partition 7");
  ExpectNone(table, Number(7), "overlaps partition 6");
}

TEST(PartitionTableTest, AnExtendedPartitionOnlyContainsOthers) {
  const PartitionTable table = {
      Kind::kMbr,
      512,
      {At(1, 512, 512), Extended(2, 4096, 8192), At(3, 8192, 512),
       At(5, 4608, 512), At(6, 5120, 512)}};
  ExpectNone(table, Number(2), "extended partition");
  ExpectNone(table, Number(3), "overlaps partition 2");
  ExpectRange(table, Number(5), 4608, 512);
  ExpectRange(table, Number(6), 5120, 512);
  ExpectNone(table, Number(9), "which has 1, 3, 5, 6");
}

TEST(PartitionTableTest, ATableThatIsNoneSaysWhatItIs) {
  ExpectNone({Kind::kNone, 512, {}}, Number(1), "no partition table");
  ExpectNone({Kind::kBrokenGpt, 512, {}}, Number(1), "no GPT that is valid");
  ExpectNone({Kind::kGpt, 512, {}}, Number(1), "which has none");
  // A process that has been taken over may say so all the same.
  ExpectNone({Kind::kNone, 512, {At(1, 0, 512)}}, Number(1), "no partition");
}

TEST(PartitionTableTest, AnMbrBeyond32BitsOfSmallSectorsIsRefused) {
  const PartitionTable table = {Kind::kMbr, 4096, {At(1, 4096, 4096)}};
  constexpr uint64_t kLimit = uint64_t{2} << 40;
  EXPECT_TRUE(FindPartition(table, Number(1), kLimit, "x").ok());
  EXPECT_TRUE(absl::IsNotFound(
      FindPartition(table, Number(1), kLimit + 512, "x").status()));
}

}  // namespace
}  // namespace nbdinetd
