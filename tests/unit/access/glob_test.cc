// Which names a pattern matches, also patterns that are made to take long.
#include "access/glob.h"

#include <fnmatch.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <string>

#include "base/limits.h"

namespace nbdinetd {
namespace {

// Prepared and not.
bool Matches(const std::string& pattern, const std::string& name) {
  EXPECT_TRUE(CheckGlob(pattern).ok()) << pattern;
  Glob glob(pattern);
  const bool matches = glob.Matches(name);
  glob.Prepare();
  EXPECT_EQ(glob.Matches(name), matches) << pattern << " and " << name;
  return matches;
}

TEST(Glob, WholeNamesMatch) {
  struct {
    const char* pattern;
    const char* name;
    bool matches;
  } const kRows[] = {
      {"golden", "golden", true},
      {"golden", "golden2", false},
      {"golden", "Golden", false},
      {"golden", "", false},
      {"", "", true},
      {"", "a", false},
      {"*", "", true},
      {"*", "a/b.c", true},
      {"vm-*", "vm-", true},
      {"vm-*", "vm-1", true},
      {"vm-*", "vm", false},
      {"*-1", "vm-1", true},
      {"*-1", "vm-1-1", true},
      {"*-1", "vm-12", false},
      {"a*b*c", "abc", true},
      {"a*b*c", "aXbYbZc", true},
      {"a*b*c", "ac", false},
      {"a*b*c", "abcd", false},
      {"a**b", "ab", true},
      {"a**b", "aXXb", true},
      {"*a*", "bab", true},
      {"*a*", "bbb", false},
      {"?", "a", true},
      {"?", "", false},
      {"?", "ab", false},
      {"a?c", "abc", true},
      {"a?c", "ac", false},
      {"a?*", "a", false},
      {"a?*", "ab", true},
      {"*?", "", false},
      {"*?b", "xb", true},
      {"*?b", "b", false},
      // One character of several bytes.
      {"?", "\xc3\xa4", true},
      {"?", "\xe2\x82\xac", true},
      {"a?b",
       "a\xe2\x82\xac"
       "b",
       true},
      {"??", "\xc3\xa4", false},
      {"?*", "\xc3\xa4\xc3\xa4", true},
      // A part of a character is none.
      {"?", "\xa4", false},
      // What a backslash takes away.
      {"\\*", "*", true},
      {"\\*", "a", false},
      {"a\\?", "a?", true},
      {"a\\?", "ab", false},
      {"\\\\", "\\", true},
      {"\\\"*", "\"x", true},
      {"a\\x2db*", "a\\x2db.scope", true},
      {"a\\x2db*", "a-b.scope", false},
      {"a\\", "a\\", true},
      {"a*\\", "ab\\", true},
      // No brackets.
      {"[ab]", "a", false},
      {"[ab]", "[ab]", true},
  };
  for (const auto& row : kRows) {
    EXPECT_EQ(Matches(row.pattern, row.name), row.matches)
        << row.pattern << " and " << row.name;
  }
}

TEST(Glob, AnythingCanBeInAName) {
  EXPECT_TRUE(Matches("a*b", std::string("a\0\n\xff"
                                         "b",
                                         5)));
  EXPECT_FALSE(Matches("a*b", std::string("a\0\n\xff"
                                          "b\0",
                                          6)));
  EXPECT_FALSE(Matches("ab", std::string("ab\0", 3)));
}

// All patterns of up to five characters, against all names of up to five.
TEST(Glob, TheSystemsFunctionAgrees) {
  const auto nth = [](size_t n, const char* letters, size_t count) {
    std::string text;
    for (; n > 0; n = (n - 1) / count) text += letters[(n - 1) % count];
    return text;
  };
  size_t matched = 0;
  for (size_t i = 0; i < 4 + 16 + 64 + 256 + 1024; ++i) {
    const std::string pattern = nth(i, "ab*?", 4);
    for (size_t k = 0; k < 2 + 4 + 8 + 16 + 32; ++k) {
      const std::string name = nth(k, "ab", 2);
      const bool expected = fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
      matched += expected;
      ASSERT_EQ(Matches(pattern, name), expected) << pattern << ' ' << name;
    }
  }
  EXPECT_GT(matched, 1000u);
}

// With backtracking, each of these would take longer than the sun has.
TEST(Glob, NoPatternTakesLong) {
  const std::string name(1 << 20, 'a');
  std::string pattern;
  while (pattern.size() + 4 < kMaxGlobBytes) pattern += "a*?*";
  EXPECT_FALSE(Matches(pattern + "b", name));
  EXPECT_TRUE(Matches(pattern + "a", name));
  EXPECT_FALSE(Matches("*" + std::string(200, 'a') + "b*", name));
}

TEST(Glob, ALongPatternIsRefused) {
  EXPECT_TRUE(CheckGlob(std::string(kMaxGlobBytes, '?')).ok());
  EXPECT_FALSE(CheckGlob(std::string(kMaxGlobBytes + 1, '?')).ok());
  EXPECT_TRUE(Matches(std::string(kMaxGlobBytes, '?'),
                      std::string(kMaxGlobBytes, 'x')));
  EXPECT_TRUE(Matches(std::string(kMaxGlobBytes - 1, 'x') + "*",
                      std::string(kMaxGlobBytes - 1, 'x')));
}

TEST(Glob, AWeightIsWhatAPatternSays) {
  EXPECT_FALSE(WeightOf("golden").has_wildcards);
  EXPECT_EQ(WeightOf("golden").literal_bytes, 6u);
  EXPECT_TRUE(WeightOf("a*b?").has_wildcards);
  EXPECT_EQ(WeightOf("a*b?").literal_bytes, 2u);
  EXPECT_FALSE(WeightOf("a\\*").has_wildcards);
  EXPECT_EQ(WeightOf("a\\*").literal_bytes, 2u);
}

}  // namespace
}  // namespace nbdinetd
