#include "ctl/json_reader.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "base/json.h"

namespace nbdinetd::ctl {
namespace {

using Members = std::map<std::string, std::string>;
using Elements = std::vector<std::string>;

TEST(JsonReader, TakesObjectsAndArraysApart) {
  EXPECT_EQ(JsonMembers("{\"a\": 1, \"b\": [\"x, y\", {\"c\": \"}\"}]}\n"),
            (Members{{"a", "1"}, {"b", "[\"x, y\", {\"c\": \"}\"}]"}}));
  EXPECT_EQ(JsonElements("[\"x, y\", {\"c\": \"}\"}, 3]"),
            (Elements{"\"x, y\"", "{\"c\": \"}\"}", "3"}));
  EXPECT_EQ(JsonMembers("{}"), Members());
  EXPECT_EQ(JsonElements(" [ ] "), Elements());
}

TEST(JsonReader, ReadsTheStringsThatNbdinetdWrites) {
  for (const std::string text :
       {"", "plain", "a \"quote\" \\ and\nlines\x01\x7f", "\u00fc\u202e",
        "{[,:]}"}) {
    EXPECT_EQ(JsonText(JsonString(text)), text);
  }
  EXPECT_EQ(JsonText("\"\\n\\t\\u0041\\u00fc\""), "\n\tA\ufffd");
}

TEST(JsonReader, RefusesOtherText) {
  for (const char* text : {"", "x", "{", "{\"a\"}", "{a: 1}", "{\"a\": [}",
                           "{\"a\": \"x}", "[1] [2]"}) {
    EXPECT_EQ(JsonMembers(text), std::nullopt) << text;
  }
  EXPECT_EQ(JsonElements("[\"a]"), std::nullopt);
  EXPECT_EQ(JsonText("\"a\" \"b\""), std::nullopt);
  EXPECT_EQ(JsonText("\"a\\\""), std::nullopt);
  EXPECT_EQ(JsonText("\"\\u00\""), "\ufffd");
}

}  // namespace
}  // namespace nbdinetd::ctl
