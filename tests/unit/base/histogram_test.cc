#include "base/histogram.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "base/statistics.h"

namespace nbdinetd {
namespace {

TEST(Histogram, ABoundBelongsToItsBucket) {
  using H = Histogram<1000, 4>;
  EXPECT_EQ(H::kBuckets, 5u);
  EXPECT_EQ(H::BucketOf(0), 0u);
  for (size_t bucket = 0; bucket < 4; ++bucket) {
    EXPECT_EQ(H::Bound(bucket), uint64_t{1000} << bucket);
    EXPECT_EQ(H::BucketOf(H::Bound(bucket) - 1), bucket);
    EXPECT_EQ(H::BucketOf(H::Bound(bucket)), bucket);
    EXPECT_EQ(H::BucketOf(H::Bound(bucket) + 1), bucket + 1);
  }
  EXPECT_EQ(H::BucketOf(uint64_t{1} << 63), 4u);
  EXPECT_EQ(H::BucketOf(UINT64_MAX), 4u);
}

// Against a search, for the histograms that there are.
template <typename H>
void ExpectBucketsAsSearched() {
  for (uint64_t value = 1; value < UINT64_MAX / 3; value = value * 3 / 2 + 1) {
    size_t bucket = 0;
    while (bucket + 1 < H::kBuckets && H::Bound(bucket) < value) ++bucket;
    EXPECT_EQ(H::BucketOf(value), bucket) << value;
  }
}

TEST(Histogram, EachValueLiesInTheFirstBucketThatCanHoldIt) {
  ExpectBucketsAsSearched<LatencyHistogram>();
  ExpectBucketsAsSearched<SizeHistogram>();
}

TEST(Histogram, CountsAndSumsAddUp) {
  SizeHistogram histogram;
  EXPECT_EQ(histogram.count(), 0u);
  histogram.Add(SizeHistogram::BucketOf(4096), 3, 3 * 4096);
  histogram.Add(SizeHistogram::BucketOf(UINT64_MAX), 1, 7);
  histogram.Add(SizeHistogram::BucketOf(4095), 1, 4095);
  EXPECT_EQ(histogram.count(3), 4u);
  EXPECT_EQ(histogram.count(SizeHistogram::kBuckets - 1), 1u);
  EXPECT_EQ(histogram.count(), 5u);
  EXPECT_EQ(histogram.sum(), 3 * 4096 + 7 + 4095u);
}

TEST(Histogram, VisitsTheBucketsThatAreNotEmpty) {
  Histogram<16, 3> histogram;
  histogram.Add(1, 5, 100);
  histogram.Add(3, 2, 1000);
  std::vector<std::pair<std::optional<uint64_t>, uint64_t>> seen;
  histogram.ForEachBucket([&](std::optional<uint64_t> bound, uint64_t count) {
    seen.emplace_back(bound, count);
  });
  const decltype(seen) wanted = {{32, 5}, {std::nullopt, 2}};
  EXPECT_EQ(seen, wanted);
}

TEST(Counter, RaisesButNeverFalls) {
  Counter counter;
  counter.Raise(5);
  counter.Raise(3);
  EXPECT_EQ(counter, 5u);
  ++counter;
  counter += 4;
  EXPECT_EQ(counter, 10u);
}

}  // namespace
}  // namespace nbdinetd
