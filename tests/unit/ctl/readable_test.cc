#include "ctl/readable.h"

#include <gtest/gtest.h>
#include <locale.h>

#include <string>

namespace nbdinetd::ctl {
namespace {

// The locale that nbdinetctl sets, for the time of a test.
class Utf8Locale {
 public:
  Utf8Locale() : before_(setlocale(LC_CTYPE, nullptr)) {
    EXPECT_NE(setlocale(LC_CTYPE, "C.UTF-8"), nullptr);
  }
  ~Utf8Locale() { setlocale(LC_CTYPE, before_.c_str()); }
  Utf8Locale(const Utf8Locale&) = delete;
  Utf8Locale& operator=(const Utf8Locale&) = delete;

 private:
  const std::string before_;
};

TEST(Readable, SizesHaveOneUnitAndOneDigit) {
  EXPECT_EQ(ReadableBytes(0), "0");
  EXPECT_EQ(ReadableBytes(1023), "1023");
  EXPECT_EQ(ReadableBytes(1024), "1.0K");
  EXPECT_EQ(ReadableBytes(uint64_t{40} << 30), "40.0G");
  // Never "1024.0K".
  EXPECT_EQ(ReadableBytes((1 << 20) - 1), "1.0M");
  EXPECT_EQ(ReadableBytes(UINT64_MAX), "16.0E");
}

TEST(Readable, SpansHaveTwoUnitsAtMost) {
  EXPECT_EQ(ReadableSpan(absl::Milliseconds(350)), "350ms");
  EXPECT_EQ(ReadableSpan(absl::Seconds(12)), "12s");
  EXPECT_EQ(ReadableSpan(absl::Seconds(125)), "2min 5s");
  EXPECT_EQ(ReadableSpan(absl::Minutes(2)), "2min");
  EXPECT_EQ(ReadableSpan(absl::Hours(1) + absl::Seconds(5)), "1h");
  EXPECT_EQ(ReadableSpan(absl::Hours(51) + absl::Minutes(7)), "2d 3h");
}

TEST(Readable, AnAgeIsNeverNegative) {
  const absl::Time now = absl::FromUnixSeconds(1000);
  EXPECT_EQ(ReadableAge(now - absl::Minutes(2), now), "2min ago");
  EXPECT_EQ(ReadableAge(now + absl::Minutes(2), now), "now");
}

TEST(Readable, ATimeHasItsDayOfTheWeek) {
  EXPECT_EQ(
      ReadableTime(absl::FromUnixSeconds(1795771920), absl::UTCTimeZone()),
      "Fri 2026-11-27 09:32");
}

TEST(Readable, ATerminalGetsNothingInvisible) {
  EXPECT_EQ(Visible("/srv/\"a\" b\\c'd"), "/srv/\"a\" b\\c'd");
  EXPECT_EQ(Visible("\u00fc"), "\u00fc");
  EXPECT_EQ(Visible("a\x1b[2Jb"), "a\\033[2Jb");
  EXPECT_EQ(Visible("a\nb"), "a\\nb");
  EXPECT_EQ(Visible("\xff"), "\\377");
}

TEST(Readable, ATextIsShortenedByCharacters) {
  EXPECT_EQ(Ellipsized("abcdef", 6), "abcdef");
  EXPECT_EQ(Ellipsized("abcdef", 4), "abc\u2026");
  EXPECT_EQ(Ellipsized("\u00fc\u00fc\u00fc", 2), "\u00fc\u2026");
  EXPECT_EQ(Ellipsized("ab", 1), "\u2026");
  EXPECT_EQ(WidthOf("\u00fcb\u2026"), 3u);
}

TEST(Readable, WidthsAreThoseOfATerminal) {
  const Utf8Locale locale;
  const std::string disk = "\u78c1\u76d8";  // two columns each
  const std::string accent = "e\u0301";     // one in all
  EXPECT_EQ(WidthOf(disk), 4u);
  EXPECT_EQ(WidthOf(accent), 1u);
  EXPECT_EQ(WidthOf("a\xff"), 2u);
  EXPECT_EQ(Ellipsized(disk, 4), disk);
  EXPECT_EQ(Ellipsized(disk, 3), "\u78c1\u2026");
  // Half a character isn't possible.
  EXPECT_EQ(Ellipsized(disk, 2), "\u2026");
  EXPECT_EQ(Ellipsized(accent + accent + accent, 2), accent + "\u2026");
}

}  // namespace
}  // namespace nbdinetd::ctl
