// Which distinguished names a pattern matches: never by a value that reaches
// beyond its attribute.
#include "access/subject_pattern.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <string>

#include "absl/strings/match.h"
#include "base/limits.h"

namespace nbdinetd {
namespace {

TEST(SubjectPattern, AByteWeighsTheSameHoweverItIsEscaped) {
  struct {
    const char* pattern;
    bool has_wildcards;
    size_t literal_bytes;
  } const kRows[] = {
      {"CN=a", false, 4},    {"CN=\\61", false, 4}, {"CN=\\,", false, 4},
      {"CN=\\2C", false, 4}, {"CN=\\*", false, 4},  {"CN=\\2a\\?", false, 5},
      {"CN=a*", true, 4},    {"CN=?", true, 3},     {"CN=\\\\*", true, 4},
      {"*", true, 0},
  };
  for (const auto& row : kRows) {
    const GlobWeight weight = WeightOfSubject(row.pattern);
    EXPECT_EQ(weight.has_wildcards, row.has_wildcards) << row.pattern;
    EXPECT_EQ(weight.literal_bytes, row.literal_bytes) << row.pattern;
  }
}

TEST(SubjectPattern, AttributesMatchInTheirPlaces) {
  struct {
    const char* pattern;
    const char* name;
    bool matches;
  } const kRows[] = {
      {"CN=build-*,OU=CI,*", "CN=build-7,OU=CI,O=Example", true},
      {"CN=build-*,OU=CI,*", "CN=build-7,OU=CI", true},
      {"CN=build-*,OU=CI,*", "CN=build-7,OU=CI,O=Example,C=DE", true},
      {"CN=build-*,OU=CI,*", "CN=build-7,O=Example,OU=CI", false},
      {"CN=build-*,OU=CI,*", "OU=CI,CN=build-7", false},
      {"CN=build-*,OU=CI,*", "CN=built-7,OU=CI", false},
      {"CN=build-*,OU=CI", "CN=build-7,OU=CI,O=Example", false},
      {"*", "CN=anybody", true},
      {"*", "", false},
      {"*,O=Example", "CN=a,OU=b,O=Example", true},
      {"*,O=Example", "O=Example", true},
      {"*,O=Example,*", "CN=a,O=Example,C=DE", true},
      {"*,OU=a,*,OU=b,*", "CN=x,OU=a,OU=c,OU=b,C=DE", true},
      {"*,OU=a,*,OU=b,*", "CN=x,OU=b,OU=a", false},
      {"cn=alice", "CN=alice", true},
      {"CN=alice", "CN=Alice", false},
      {"CN=*", "CN=", true},
      {"CN=a=b", "CN=a=b", true},
      {"2.5.4.45=*", "2.5.4.45=x", true},
      // A value that looks like another attribute is a value all the same.
      {"CN=build-*,*", "O=x\\,CN=build-1", false},
      {"*,CN=build-*", "O=x\\,CN=build-1", false},
      {"*,CN=build-*,*", "CN=mallory,O=x\\,CN=build-1\\,", false},
      {"CN=build-*,OU=CI", "CN=build-1\\,OU=CI", false},
      {"CN=build-*,OU=CI", "CN=build-1\\2COU=CI", false},
      {"CN=build-*", "CN=build-1\\,OU=CI", true},
      {"O=x\\, Inc.", "O=x\\, Inc.", true},
      {"O=x\\2C Inc.", "O=x\\, Inc.", true},
      {"O=x\\, *", "O=x\\2C Inc.", true},
      // Joined attributes.
      {"CN=a", "CN=a+OU=CI", false},
      {"CN=*", "CN=a+OU=CI", false},
      {"CN=*+OU=CI", "CN=a+OU=CI", true},
      {"CN=*+OU=CI", "CN=a,OU=CI", false},
      {"CN=*+OU=CI", "OU=CI+CN=a", false},
      {"CN=a+b", "CN=a\\+b", false},
      {"CN=a\\+b", "CN=a\\+b", true},
      // Wildcards that are meant as they are.
      {"CN=\\*", "CN=*", true},
      {"CN=\\*", "CN=a", false},
      {"CN=\\2A", "CN=a", false},
      {"CN=\\2A", "CN=*", true},
      {"CN=a\\\\*", "CN=a\\\\b", true},
      // What OpenSSL can't show.
      {"CN=*", "CN=#0403616263", false},
      {"CN=\\#0403616263", "CN=#0403616263", false},
      {"*", "CN=#0403616263", true},
      {"CN=\\#0403616263", "CN=\\#0403616263", true},
  };
  for (const auto& row : kRows) {
    if (std::string(row.pattern) != "CN=a+b") {
      EXPECT_TRUE(CheckSubjectPattern(row.pattern).ok()) << row.pattern;
    }
    EXPECT_EQ(SubjectMatches(row.pattern, row.name), row.matches)
        << row.pattern << " and " << row.name;
  }
}

TEST(SubjectPattern, WhatIsNoAttributeIsRefused) {
  for (const char* pattern :
       {"", "alice", "CN=a,", ",CN=a", "=a", "*=a", "CN*=a", "C N=a", "CN=a+",
        "CN=a+b", "CN=a,build-*", "?"}) {
    EXPECT_TRUE(absl::StrContains(CheckSubjectPattern(pattern).message(),
                                  "is no attribute of a distinguished name"))
        << pattern;
  }
  EXPECT_TRUE(absl::StrContains(CheckSubjectPattern("CN=#0403").message(),
                                "hexadecimal"));
  std::string many = "CN=a";
  for (size_t i = 1; i < kMaxPatternAttributes; ++i) many += ",*";
  EXPECT_TRUE(CheckSubjectPattern(many).ok());
  EXPECT_FALSE(CheckSubjectPattern(many + ",*").ok());
  EXPECT_FALSE(
      CheckSubjectPattern("CN=" + std::string(kMaxGlobBytes + 1, 'a')).ok());
}

// A certificate may have very many attributes.
TEST(SubjectPattern, NoNameTakesLong) {
  std::string pattern = "*", name = "OU=a";
  for (int i = 0; i < 20; ++i) pattern += ",OU=a,*";
  for (int i = 0; i < 20000; ++i) name += ",OU=a";
  EXPECT_TRUE(SubjectMatches(pattern, name));
  EXPECT_FALSE(SubjectMatches(pattern + ",OU=b", name));
}

}  // namespace
}  // namespace nbdinetd
