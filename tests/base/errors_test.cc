#include "base/errors.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <string>

#include "base/exit_status.h"
#include "base/utf8.h"

namespace nbdinetd {
namespace {

TEST(ErrnoStatus, SaysWhatFailedAndWhy) {
  const absl::Status status = ErrnoStatus(ENOENT, "failed to open \"disk\"");
  EXPECT_EQ(status.message(), "failed to open \"disk\": No such file or directory");
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
}

TEST(ErrnoStatus, HasTheCodeThatWasAskedFor) {
  const absl::Status status = ErrnoStatus(EINVAL, "x", absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
}

TEST(ErrnoText, IsTheSystemsText) {
  EXPECT_EQ(ErrnoText(EIO), "Input/output error");
  EXPECT_EQ(ErrnoText(0), "Success");
}

TEST(ErrnoText, NamesTheNumberOfAnUnknownError) {
  EXPECT_NE(ErrnoText(54321).find("54321"), std::string::npos) << ErrnoText(54321);
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
      ASSERT_TRUE(c >= 0x20 && c < 0x7f) << "byte " << byte << " in " << Quoted(name);
    }
  }
}

// U+0080 to U+009F: U+009B is what ESC [ is, to a terminal that knows it.
TEST(Quoted, LetsNoControlCharacterOfTwoBytesThrough) {
  for (int low = 0x80; low < 0xa0; ++low) {
    const std::string control = {'\xc2', static_cast<char>(low)};
    ASSERT_EQ(Quoted("x" + control + "y").find(control), std::string::npos) << std::hex << low;
  }
}

// Marks and overrides of writing direction, and the two separators of lines.
TEST(Quoted, LetsNoCharacterThroughThatTurnsALineAroundOrEndsIt) {
  const auto encoded = [](unsigned code) {
    return std::string{static_cast<char>(0xe0 | code >> 12),
                       static_cast<char>(0x80 | (code >> 6 & 0x3f)),
                       static_cast<char>(0x80 | (code & 0x3f))};
  };
  for (const unsigned code : {0x200eu, 0x200fu, 0x2028u, 0x2029u, 0x202au, 0x202bu, 0x202cu,
                              0x202du, 0x202eu, 0x2066u, 0x2067u, 0x2068u, 0x2069u}) {
    for (const char* rest : {"", "gmi.ksid"}) {
      const std::string name = "x" + encoded(code) + rest;
      EXPECT_EQ(Quoted(name).find(encoded(code)), std::string::npos) << std::hex << code;
    }
  }
  for (const unsigned code : {0x2010u, 0x2030u, 0x2065u, 0x20acu}) {
    EXPECT_EQ(Quoted(encoded(code)), "\"" + encoded(code) + "\"") << std::hex << code;
  }
}

TEST(Quoted, IsValidUtf8WhateverTheNameIs) {
  for (const char* name : {"\xff", "\xc3", "\xc3\xa4\xff", "\xed\xa0\x80", "\xf4\x90\x80\x80"}) {
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
  EXPECT_EQ(ExitStatusOf(absl::InvalidArgumentError("usage")), ExitStatus::kUsage);
  EXPECT_EQ(ExitStatusOf(absl::NotFoundError("no file")), ExitStatus::kNoInput);
  EXPECT_EQ(ExitStatusOf(absl::InternalError("a system call")), ExitStatus::kSystem);
  EXPECT_EQ(ExitStatusOf(absl::UnknownError("anything else")), ExitStatus::kSystem);
}

}  // namespace
}  // namespace nbdinetd
