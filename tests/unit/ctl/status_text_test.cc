#include "ctl/status_text.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "base/amounts.h"
#include "base/errors.h"

namespace nbdinetd::ctl {
namespace {

TEST(StatusText, NegotiationHasAPeerOnly) {
  const auto status = ParseStatusText("negotiating with 192.0.2.7:40000");
  ASSERT_TRUE(status.has_value());
  EXPECT_EQ(status->peer, "192.0.2.7:40000");
  EXPECT_FALSE(status->counters.has_value());
}

TEST(StatusText, ServingHasAllOfIt) {
  const auto status = ParseStatusText(
      "serving \"disk\" to [2001:db8::7]:40000 as \"CN=build1\": 12 requests, "
      "13207024 bytes (12.6 MiB) read, 1 byte written, 1 error");
  ASSERT_TRUE(status.has_value());
  EXPECT_EQ(status->export_name, "disk");
  EXPECT_EQ(status->peer, "[2001:db8::7]:40000");
  EXPECT_EQ(status->identity, "CN=build1");
  ASSERT_TRUE(status->counters.has_value());
  EXPECT_EQ(status->counters->requests, 12u);
  EXPECT_EQ(status->counters->bytes_read, 13207024u);
  EXPECT_EQ(status->counters->bytes_written, 1u);
  EXPECT_EQ(status->counters->errors, 1u);
}

TEST(StatusText, AClientCantForgeAnotherStatusByAName) {
  for (const std::string& name : {std::string("\" to 1.2.3.4:5: 9 requests"),
                                  std::string("a\\\" as \"x\": "),
                                  std::string("\n\xff\u202e"), std::string()}) {
    const std::string text = absl::StrCat(
        "serving ", Quoted(name), " to unix:pid=1,uid=2,gid=3 as ",
        Quoted(name), ": 1 request, 0 bytes read, 0 bytes written, 0 errors");
    const auto status = ParseStatusText(text);
    ASSERT_TRUE(status.has_value()) << text;
    EXPECT_EQ(status->export_name, name);
    EXPECT_EQ(status->identity, name);
    EXPECT_EQ(status->peer, "unix:pid=1,uid=2,gid=3");
    EXPECT_EQ(status->counters->requests, 1u);
  }
}

// The program's own words, whatever the amount.
TEST(StatusText, EveryAmountOfTheProgramIsRead) {
  for (const uint64_t bytes : {uint64_t{0}, uint64_t{1}, uint64_t{1023},
                               uint64_t{1024}, uint64_t{1} << 40, UINT64_MAX}) {
    const auto status = ParseStatusText(
        absl::StrCat("serving \"\" to p: ", Counted(bytes, "request"), ", ",
                     ExactAmount(bytes), " read, ", ExactAmount(bytes),
                     " written, ", Counted(bytes, "error")));
    ASSERT_TRUE(status.has_value()) << bytes;
    EXPECT_EQ(status->counters->bytes_read, bytes);
    EXPECT_EQ(status->counters->bytes_written, bytes);
    EXPECT_EQ(status->counters->requests, bytes);
    EXPECT_EQ(status->counters->errors, bytes);
  }
}

TEST(StatusText, OtherTextsHaveNoMeaning) {
  for (const char* text :
       {"", "negotiating with ", "serving", "serving \"a", "serving \"a\" to ",
        "serving \"a\" to p: 1 requests", "3 connections",
        "serving \"a\" to p: 1 request, 0 bytes read, 0 bytes written, 0 "
        "errors, and more",
        "serving \"a\" to p: x requests, 0 bytes read, 0 bytes written, 0 "
        "errors"}) {
    EXPECT_FALSE(ParseStatusText(text).has_value()) << text;
  }
}

}  // namespace
}  // namespace nbdinetd::ctl
