#include "base/json.h"

#include <gtest/gtest.h>

namespace nbdinetd {
namespace {

TEST(JsonString, IsValidJsonForAnyBytes) {
  EXPECT_EQ(JsonString(""), "\"\"");
  EXPECT_EQ(JsonString("/srv/a b.img"), "\"/srv/a b.img\"");
  EXPECT_EQ(JsonString("a\"b\\c"), "\"a\\\"b\\\\c\"");
  EXPECT_EQ(JsonString(std::string("\n\x1f\x7f\0", 4)),
            "\"\\u000a\\u001f\\u007f\\u0000\"");
  EXPECT_EQ(JsonString("Gr\xc3\xbc\xc3\x9f"), "\"Gr\xc3\xbc\xc3\x9f\"");
}

TEST(JsonString, AByteThatIsNotUtf8ReplacesOnlyItself) {
  EXPECT_EQ(JsonString("\xc3\xbc\xff"), "\"\xc3\xbc\\ufffd\"");
  EXPECT_EQ(JsonString("\xff\xc3\xbc"), "\"\\ufffd\xc3\xbc\"");
  // The beginning of a character, and what follows it.
  EXPECT_EQ(JsonString("\xe2\x82\"\xe2\x82\xac"),
            "\"\\ufffd\\ufffd\\\"\xe2\x82\xac\"");
}

}  // namespace
}  // namespace nbdinetd
