#include "partition/table_answer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

namespace nbdinetd {
namespace {

using Kind = PartitionTable::Kind;
using Outcome = TableAnswer::Outcome;

TableAnswer Sample() {
  TableAnswer answer;
  answer.table = {Kind::kGpt,
                  4096,
                  {{1, false, 4096, 8192, "Größe", "ab-01"},
                   {2, true, 1 << 20, 512, "", ""},
                   {255, false, Partition::kMaxBytes & ~uint64_t{511}, 0,
                    std::string(108, 'x'), std::string(36, 'f')}}};
  return answer;
}

// An answer in which the 32 or 64 bits at `at` are `value`.
template <typename T>
std::string With(size_t at, T value) {
  std::string bytes = Encode(Sample());
  std::memcpy(bytes.data() + at, &value, sizeof(value));
  return bytes;
}

void ExpectBroken(const std::string& bytes) {
  EXPECT_TRUE(absl::IsInternal(Decode(bytes).status()));
}

constexpr size_t kFirst = kAnswerHeadBytes;
constexpr size_t kSecond = kFirst + kAnswerPartitionBytes;
constexpr size_t kLabel = 24, kUuid = kLabel + kAnswerLabelBytes;

TEST(TableAnswerTest, WhatIsEncodedIsDecoded) {
  const auto answer = Decode(Encode(Sample()));
  ASSERT_TRUE(answer.ok()) << answer.status();
  const TableAnswer sample = Sample();
  EXPECT_EQ(answer->outcome, Outcome::kTable);
  EXPECT_EQ(answer->table.kind, Kind::kGpt);
  EXPECT_EQ(answer->table.sector_bytes, 4096u);
  ASSERT_EQ(answer->table.partitions.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    const Partition& got = answer->table.partitions[i];
    const Partition& wanted = sample.table.partitions[i];
    EXPECT_EQ(got.number, wanted.number);
    EXPECT_EQ(got.extended, wanted.extended);
    EXPECT_EQ(got.start_bytes, wanted.start_bytes);
    EXPECT_EQ(got.size_bytes, wanted.size_bytes);
    EXPECT_EQ(got.label, wanted.label);
    EXPECT_EQ(got.uuid, wanted.uuid);
  }
  const auto failure = Decode(Encode({Outcome::kNoLibrary, 5, "why", {}}));
  ASSERT_TRUE(failure.ok());
  EXPECT_EQ(failure->outcome, Outcome::kNoLibrary);
  EXPECT_EQ(failure->error_number, 5);
  EXPECT_EQ(failure->text, "why");
}

TEST(TableAnswerTest, TheMostPartitionsFit) {
  TableAnswer answer;
  for (uint32_t i = 1; i <= kMaxPartitions + 10; ++i) {
    answer.table.partitions.push_back({i, false, 0, 0, "", ""});
  }
  const std::string bytes = Encode(answer);
  EXPECT_EQ(bytes.size(), kMaxAnswerBytes);
  EXPECT_EQ(Decode(bytes)->table.partitions.size(), kMaxPartitions);
}

TEST(TableAnswerTest, AnotherLengthIsBroken) {
  const std::string bytes = Encode(Sample());
  for (size_t size = 0; size < bytes.size(); ++size) {
    ExpectBroken(bytes.substr(0, size));
  }
  ExpectBroken(bytes + "x");
  ExpectBroken(std::string(kMaxAnswerBytes + 1, '\0'));
}

TEST(TableAnswerTest, ValuesThatNoOneEncodesAreBroken) {
  ExpectBroken(With<uint32_t>(0, 4));   // outcome
  ExpectBroken(With<uint32_t>(8, 4));   // kind
  ExpectBroken(With<uint32_t>(16, 2));  // count
  ExpectBroken(With<uint32_t>(16, 4));
  ExpectBroken(With<uint32_t>(16, 0xffffffff));
  ExpectBroken(With<uint32_t>(20, 1));  // length of the text
  ExpectBroken(With<uint32_t>(20, 0xffffffff));
  ExpectBroken(With<uint32_t>(kFirst, 0));  // number
  ExpectBroken(With<uint32_t>(kFirst, 2));
  ExpectBroken(With<uint32_t>(kSecond, 1));
  ExpectBroken(With<uint32_t>(kSecond, 256));
  ExpectBroken(With<char>(kFirst + kLabel, '\xff'));
  ExpectBroken(With<char>(kFirst + kUuid, ' '));
  ExpectBroken(With<char>(kFirst + kUuid, '\n'));
  ExpectBroken(Encode({Outcome::kNoLibrary, 0, "a\nb", {}}));
  ExpectBroken(Encode({Outcome::kNoLibrary, 0, "a\xff", {}}));
}

TEST(TableAnswerTest, TextsWithoutAnEndStayInside) {
  std::string bytes = Encode(Sample());
  std::memset(bytes.data() + kFirst + kLabel, 'a', kAnswerLabelBytes);
  std::memset(bytes.data() + kFirst + kUuid, 'b', kAnswerUuidBytes);
  const auto answer = Decode(bytes);
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->table.partitions[0].label,
            std::string(kAnswerLabelBytes, 'a'));
  EXPECT_EQ(answer->table.partitions[0].uuid,
            std::string(kAnswerUuidBytes, 'b'));
}

TEST(TableAnswerTest, PlacesThatNoFileHasAreAtTheEndOfNumbers) {
  for (const uint64_t sectors : {~uint64_t{0}, uint64_t{1} << 63,
                                 uint64_t{1} << 55, uint64_t{1} << 54}) {
    for (const size_t field : {kFirst + 8, kFirst + 16}) {
      const auto answer = Decode(With<uint64_t>(field, sectors));
      ASSERT_TRUE(answer.ok());
      const Partition& partition = answer->table.partitions[0];
      EXPECT_EQ(
          field == kFirst + 8 ? partition.start_bytes : partition.size_bytes,
          Partition::kMaxBytes);
    }
  }
}

}  // namespace
}  // namespace nbdinetd
