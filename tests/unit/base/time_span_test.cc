#include <optional>

#include "base/time_span.h"

#include <gtest/gtest.h>

namespace nbdinetd {
namespace {

TEST(TimeSpan, IsSpelledAsInSystemd) {
  const struct {
    const char* text;
    absl::Duration duration;
  } rows[] = {
      {"10", absl::Seconds(10)},
      {"10s", absl::Seconds(10)},
      {" 10 s ", absl::Seconds(10)},
      {"2min", absl::Minutes(2)},
      {"2m", absl::Minutes(2)},
      {"1h 30min", absl::Minutes(90)},
      {"1h30min", absl::Minutes(90)},
      {"500ms", absl::Milliseconds(500)},
      {"1.5s", absl::Milliseconds(1500)},
      {"250us", absl::Microseconds(250)},
      {"1d", absl::Hours(24)},
      {"3 hours", absl::Hours(3)},
      {"0", absl::InfiniteDuration()},
      {"0s", absl::InfiniteDuration()},
      {"infinity", absl::InfiniteDuration()},
      {"off", absl::InfiniteDuration()},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(ParseTimeSpan(row.text), row.duration) << row.text;
  }
}

TEST(TimeSpan, AnythingElseIsNone) {
  for (const char* text : {"", " ", "s", "ten", "10x", "10 20x", "-1", "1..5s",
                           "1s!", "0x10", "1e3", "nan", "inf"}) {
    EXPECT_EQ(ParseTimeSpan(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace nbdinetd
