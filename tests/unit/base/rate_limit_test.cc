#include "base/rate_limit.h"

#include <gtest/gtest.h>

namespace nbdinetd {
namespace {

const absl::Time kStart = absl::UnixEpoch();

TEST(RateLimit, LetsTheFirstOnesThroughAndCountsTheOthers) {
  RateLimit limit(2, absl::Seconds(10));
  EXPECT_EQ(limit.due(), absl::InfiniteFuture());
  EXPECT_TRUE(limit.Admit(kStart));
  EXPECT_TRUE(limit.Admit(kStart + absl::Seconds(1)));
  EXPECT_EQ(limit.due(), absl::InfiniteFuture());
  EXPECT_FALSE(limit.Admit(kStart + absl::Seconds(2)));
  EXPECT_FALSE(limit.Admit(kStart + absl::Seconds(9)));
  // The interval starts with its first message.
  EXPECT_EQ(limit.due(), kStart + absl::Seconds(10));
  EXPECT_EQ(limit.TakeSuppressed(), 2u);
  EXPECT_EQ(limit.TakeSuppressed(), 0u);
  EXPECT_EQ(limit.due(), absl::InfiniteFuture());
}

TEST(RateLimit, TheNextIntervalStartsAfresh) {
  RateLimit limit(1, absl::Seconds(10));
  EXPECT_TRUE(limit.Admit(kStart));
  EXPECT_FALSE(limit.Admit(kStart + absl::Seconds(9)));
  EXPECT_EQ(limit.TakeSuppressed(), 1u);
  EXPECT_FALSE(limit.Admit(kStart + absl::Seconds(9.5)));
  EXPECT_EQ(limit.TakeSuppressed(), 1u);
  EXPECT_TRUE(limit.Admit(kStart + absl::Seconds(10)));
  EXPECT_FALSE(limit.Admit(kStart + absl::Seconds(19)));
  EXPECT_TRUE(limit.Admit(kStart + absl::Seconds(40)));
}

}  // namespace
}  // namespace nbdinetd
