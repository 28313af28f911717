#include "ctl/json.h"

#include <gtest/gtest.h>

namespace nbdinetd::ctl {
namespace {

TEST(Json, WhatJsonForbidsIsEscaped) {
  EXPECT_EQ(JsonString("a\"b\\c/d"), "\"a\\\"b\\\\c/d\"");
  EXPECT_EQ(JsonString(absl::string_view("\n\t\x01\x7f\0", 5)),
            "\"\\n\\t\\u0001\\u007f\\u0000\"");
}

TEST(Json, Utf8IsKeptAndOtherBytesAreReplaced) {
  EXPECT_EQ(JsonString("\u00fc\u20ac\U0001F600"), "\"\u00fc\u20ac\U0001F600\"");
  EXPECT_EQ(JsonString("a\xff\xc3"), "\"a\ufffd\ufffd\"");
  // A surrogate, and an overlong form.
  EXPECT_EQ(JsonString("\xed\xa0\x80"), "\"\ufffd\ufffd\ufffd\"");
  EXPECT_EQ(JsonString("\xc0\xaf"), "\"\ufffd\ufffd\"");
}

}  // namespace
}  // namespace nbdinetd::ctl
