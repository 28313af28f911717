#include "protocol/transmission_flags.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_join.h"
#include "support/wire.h"

namespace nbdinetd {
namespace {

TEST(TransmissionFlags, HaveTheNamesOfTheSpecification) {
  const struct {
    unsigned flag;
    const char* name;
  } rows[] = {
      {nbdtest::kHasFlags, "HAS_FLAGS"},
      {nbdtest::kReadOnly, "READ_ONLY"},
      {nbdtest::kSendFlush, "SEND_FLUSH"},
      {nbdtest::kSendFua, "SEND_FUA"},
      {nbdtest::kRotational, "ROTATIONAL"},
      {nbdtest::kSendTrim, "SEND_TRIM"},
      {nbdtest::kSendWriteZeroes, "SEND_WRITE_ZEROES"},
      {nbdtest::kSendDf, "SEND_DF"},
      {nbdtest::kCanMultiConn, "CAN_MULTI_CONN"},
      {nbdtest::kSendCache, "SEND_CACHE"},
      {nbdtest::kSendFastZero, "SEND_FAST_ZERO"},
      {nbdtest::kBlockStatusPayload, "BLOCK_STATUS_PAYLOAD"},
  };
  unsigned all = 0;
  std::string names;
  for (const auto& [flag, name] : rows) {
    EXPECT_EQ(
        absl::StrJoin(TransmissionFlagNames(static_cast<uint16_t>(flag)), " "),
        name);
    all |= flag;
    names += names.empty() ? name : std::string(" ") + name;
  }
  EXPECT_EQ(
      absl::StrJoin(TransmissionFlagNames(static_cast<uint16_t>(all)), " "),
      names);
  EXPECT_TRUE(TransmissionFlagNames(0).empty());
}

}  // namespace
}  // namespace nbdinetd
