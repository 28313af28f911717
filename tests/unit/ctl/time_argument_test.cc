#include "ctl/time_argument.h"

#include <gtest/gtest.h>

#include <string>

#include "ctl/readable.h"

namespace nbdinetd::ctl {
namespace {

std::string Parsed(absl::string_view text) {
  const absl::TimeZone zone = absl::FixedTimeZone(3600);
  const absl::Time now =
      absl::FromCivil(absl::CivilSecond(2026, 11, 28, 9, 12, 30), zone);
  const auto time = ParseTimeArgument(text, now, zone);
  return time.has_value() ? absl::FormatTime("%Y-%m-%d %H:%M:%E*S", *time, zone)
                          : "none";
}

TEST(TimeArgument, TheFormsOfSystemdAreTaken) {
  EXPECT_EQ(Parsed("now"), "2026-11-28 09:12:30");
  EXPECT_EQ(Parsed("today"), "2026-11-28 00:00:00");
  EXPECT_EQ(Parsed("yesterday"), "2026-11-27 00:00:00");
  EXPECT_EQ(Parsed("tomorrow"), "2026-11-29 00:00:00");
  EXPECT_EQ(Parsed("2026-11-01"), "2026-11-01 00:00:00");
  EXPECT_EQ(Parsed("2026-11-01 08:05"), "2026-11-01 08:05:00");
  EXPECT_EQ(Parsed("2026-11-01 08:05:06.5"), "2026-11-01 08:05:06.5");
  EXPECT_EQ(Parsed("08:05"), "2026-11-28 08:05:00");
  EXPECT_EQ(Parsed("@1795853550"), "2026-11-28 09:12:30");
  EXPECT_EQ(Parsed("2h 10min ago"), "2026-11-28 07:02:30");
  EXPECT_EQ(Parsed("-1d"), "2026-11-27 09:12:30");
  EXPECT_EQ(Parsed("+30s"), "2026-11-28 09:13:00");
}

TEST(TimeArgument, ATimeOfATableIsTaken) {
  const absl::Time time = absl::FromUnixSeconds(1795771920);
  EXPECT_EQ(ParseTimeArgument(ReadableTime(time, absl::UTCTimeZone()),
                              absl::InfinitePast(), absl::UTCTimeZone()),
            time);
  EXPECT_EQ(Parsed("Fri 2026-11-27 09:32"), "2026-11-27 09:32:00");
  EXPECT_EQ(Parsed("friday  2026-11-27"), "2026-11-27 00:00:00");
  EXPECT_EQ(Parsed("Sat 08:05"), "2026-11-28 08:05:00");
}

TEST(TimeArgument, OtherTextsAreNoTime) {
  for (const char* text :
       {"", "soon", "28.11.2026", "2026-13-01", "25:00", "@x", "ago", "-",
        "0 ago", "2h", "Thu 2026-11-27 09:32", "Fri2026-11-27", "Fri",
        "Fri today", "Fri 08:05", "Frid 2026-11-27"}) {
    EXPECT_EQ(Parsed(text), "none") << text;
  }
}

}  // namespace
}  // namespace nbdinetd::ctl
