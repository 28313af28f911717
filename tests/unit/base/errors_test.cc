#include "base/errors.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdio>
#include <map>
#include <string>

#include "base/exit_status.h"
#include "base/utf8.h"

namespace nbdinetd {
namespace {

TEST(ErrnoStatus, SaysWhatFailedAndWhy) {
  const absl::Status status = ErrnoStatus(ENOENT, "failed to open \"disk\"");
  EXPECT_EQ(status.message(),
            "failed to open \"disk\": No such file or directory");
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
}

TEST(ErrnoStatus, HasTheCodeThatWasAskedFor) {
  const absl::Status status =
      ErrnoStatus(EINVAL, "x", absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
}

TEST(ErrnoText, IsTheSystemsText) {
  EXPECT_EQ(ErrnoText(EIO), "Input/output error");
  EXPECT_EQ(ErrnoText(0), "Success");
}

TEST(ErrnoText, NamesTheNumberOfAnUnknownError) {
  EXPECT_NE(ErrnoText(54321).find("54321"), std::string::npos)
      << ErrnoText(54321);
}

TEST(ErrnoText, LeavesErrnoAlone) {
  errno = ENOSPC;
  ErrnoText(54321);
  EXPECT_EQ(errno, ENOSPC);
}

TEST(Quoted, LeavesAPlainNameReadable) {
  const std::string plain = "/srv/images/disk 1.img";
  EXPECT_EQ(Quoted(plain), "\"" + plain + "\"");
  EXPECT_EQ(Quoted(""), "\"\"");
}

TEST(Quoted, LeavesLettersOfAnyScriptReadable) {
  const std::string name = "\xc3\xa4\xe2\x82\xac\xf0\x9f\x92\xbe";
  EXPECT_EQ(Quoted(name), "\"" + name + "\"");
}

TEST(Quoted, CannotBeEndedByAQuoteInTheName) {
  EXPECT_EQ(Quoted("a\" to \"b"), R"("a\" to \"b")");
  EXPECT_EQ(Quoted("\\"), R"("\\")");
  EXPECT_EQ(Quoted("\\\""), R"("\\\"")");
}

TEST(Quoted, CannotForgeALine) {
  EXPECT_EQ(Quoted("a\nnbdinetd: b\r\t"), R"("a\nnbdinetd: b\r\t")");
}

// Each byte below 0x20, DEL, and each byte that is no UTF-8.
TEST(Quoted, LetsNoControlByteThrough) {
  for (int byte = 0; byte < 256; ++byte) {
    const std::string name = std::string("x") + static_cast<char>(byte) + "y";
    for (const char c : Quoted(name)) {
      ASSERT_TRUE(c >= 0x20 && c < 0x7f)
          << "byte " << byte << " in " << Quoted(name);
    }
  }
}

std::string Encoded(char32_t code) {
  const auto last = [code](int shift) {
    return static_cast<char>(0x80 | (code >> shift & 0x3f));
  };
  if (code < 0x80) return {static_cast<char>(code)};
  if (code < 0x800) return {static_cast<char>(0xc0 | code >> 6), last(0)};
  if (code < 0x10000)
    return {static_cast<char>(0xe0 | code >> 12), last(6), last(0)};
  return {static_cast<char>(0xf0 | code >> 18), last(12), last(6), last(0)};
}

// By Python's tables of Unicode, each character in a line: its number and its
// category.
std::map<char32_t, std::string> Categories() {
  std::map<char32_t, std::string> categories;
  FILE* python = popen(
      "/usr/bin/python3 -c 'import unicodedata\n"
      "for c in range(0x110000):\n"
      "    if not 0xd800 <= c < 0xe000: print(c, "
      "unicodedata.category(chr(c)))'",
      "r");
  if (python == nullptr) return categories;
  unsigned code;
  char category[3];
  while (std::fscanf(python, "%u %2s", &code, category) == 2)
    categories[code] = category;
  pclose(python);
  return categories;
}

// Default_Ignorable_Code_Point beyond Cf, which Python has no table of
// (DerivedCoreProperties.txt).
bool IsIgnorable(char32_t c) {
  const auto in = [c](char32_t first, char32_t last) {
    return c >= first && c <= last;
  };
  return c == 0x34f || in(0x115f, 0x1160) || in(0x17b4, 0x17b5) ||
         in(0x180b, 0x180d) || c == 0x180f || c == 0x2065 || c == 0x3164 ||
         in(0xfe00, 0xfe0f) || c == 0xffa0 || in(0xfff0, 0xfff8) ||
         in(0xe0000, 0xe0fff);
}

// A control of two bytes is obeyed by terminals; U+061C and its kind turn what
// follows around; the separators end a line; and what nobody sees makes two
// names look like one.
TEST(Quoted, LetsNoCharacterThroughThatCannotBeSeen) {
  const std::map<char32_t, std::string> categories = Categories();
  ASSERT_EQ(categories.size(), size_t{0x110000 - 0x800});
  int seen = 0, unseen = 0;
  for (const auto& [code, category] : categories) {
    if (code < 0x80) continue;
    const std::string text = Encoded(code);
    const bool wanted = category == "Cc" || category == "Cf" ||
                        category == "Zl" || category == "Zp" ||
                        IsIgnorable(code);
    for (const std::string& name : {text, "x" + text, text + "gmi.ksid"}) {
      const bool escaped = Quoted(name).find(text) == std::string::npos;
      // An older Python may not know a newer character yet.
      if (escaped == wanted || (escaped && category == "Cn")) continue;
      FAIL() << std::hex << static_cast<unsigned>(code) << " " << category
             << " " << Quoted(name);
    }
    ++(wanted ? unseen : seen);
  }
  EXPECT_GT(seen, 1000000);
  EXPECT_GT(unseen, 4000);
}

TEST(Quoted, IsValidUtf8WhateverTheNameIs) {
  for (const char* name :
       {"\xff", "\xc3", "\xc3\xa4\xff", "\xed\xa0\x80", "\xf4\x90\x80\x80"}) {
    EXPECT_TRUE(IsValidUtf8(Quoted(name))) << Quoted(name);
  }
}

TEST(Quoted, KeepsDifferentNamesApart) {
  EXPECT_NE(Quoted("a\nb"), Quoted("a\\nb"));
  EXPECT_NE(Quoted("\xff"), Quoted("\\377"));
  EXPECT_NE(Quoted("\xff"), Quoted("\xfe"));
}

// sysexits.h, as the manual promises.
TEST(ExitStatus, HasTheNumbersOfSysexits) {
  EXPECT_EQ(static_cast<int>(ExitStatus::kOk), 0);
  EXPECT_EQ(static_cast<int>(ExitStatus::kUsage), 64);
  EXPECT_EQ(static_cast<int>(ExitStatus::kNoInput), 66);
  EXPECT_EQ(static_cast<int>(ExitStatus::kUnavailable), 69);
  EXPECT_EQ(static_cast<int>(ExitStatus::kSystem), 71);
  EXPECT_EQ(static_cast<int>(ExitStatus::kCantCreate), 73);
  EXPECT_EQ(static_cast<int>(ExitStatus::kTimedOut), 75);
  EXPECT_EQ(static_cast<int>(ExitStatus::kProtocol), 76);
  EXPECT_EQ(static_cast<int>(ExitStatus::kRefused), 77);
  EXPECT_EQ(static_cast<int>(ExitStatus::kConfig), 78);
}

TEST(ExitStatus, FollowsFromTheCodeOfTheStatus) {
  EXPECT_EQ(ExitStatusOf(absl::OkStatus()), ExitStatus::kOk);
  EXPECT_EQ(ExitStatusOf(absl::InvalidArgumentError("usage")),
            ExitStatus::kUsage);
  EXPECT_EQ(ExitStatusOf(absl::NotFoundError("no file")), ExitStatus::kNoInput);
  EXPECT_EQ(ExitStatusOf(absl::InternalError("a system call")),
            ExitStatus::kSystem);
  EXPECT_EQ(ExitStatusOf(absl::UnknownError("anything else")),
            ExitStatus::kSystem);
}

}  // namespace
}  // namespace nbdinetd
