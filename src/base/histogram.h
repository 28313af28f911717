// How many values lie in each of a row of ranges.
//
// The ranges end at kFirstBound * 2^k, inclusive; one more has all values above
// the last bound. With powers of two, a range is found without a search.
// Threads: as Counter.
#ifndef NBDINETD_BASE_HISTOGRAM_H_
#define NBDINETD_BASE_HISTOGRAM_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/counter.h"

namespace nbdinetd {

template <uint64_t kFirstBound, size_t kBounds>
class Histogram {
 public:
  static_assert(kBounds > 0 && kFirstBound <= UINT64_MAX >> (kBounds - 1));
  // With the one for values above the last bound.
  static constexpr size_t kBuckets = kBounds + 1;

  // The highest value of the bucket, which is not the last one.
  static constexpr uint64_t Bound(size_t bucket) {
    return kFirstBound << bucket;
  }
  static constexpr size_t BucketOf(uint64_t value) {
    if (value <= kFirstBound) return 0;
    const auto bucket =
        static_cast<size_t>(std::bit_width((value - 1) / kFirstBound));
    return bucket < kBounds ? bucket : kBounds;
  }

  // Adds `times` values of one bucket, which are `sum` together.
  void Add(size_t bucket, uint64_t times, uint64_t sum) {
    counts_[bucket] += times;
    sum_ += sum;
  }

  uint64_t count(size_t bucket) const { return counts_[bucket]; }
  uint64_t sum() const { return sum_; }
  // Calls visit(bound, count) for each bucket that isn't empty. The bound is a
  // std::optional<uint64_t>; the last bucket has none.
  template <typename Visitor>
  void ForEachBucket(Visitor visit) const {
    for (size_t i = 0; i < kBuckets; ++i) {
      const std::optional<uint64_t> bound =
          i < kBounds ? std::optional<uint64_t>(Bound(i)) : std::nullopt;
      if (const uint64_t of_bucket = count(i); of_bucket != 0) {
        visit(bound, of_bucket);
      }
    }
  }
  // Of all buckets.
  uint64_t count() const {
    uint64_t all = 0;
    for (const Counter& count : counts_) all += count;
    return all;
  }

 private:
  Counter counts_[kBuckets];
  Counter sum_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_HISTOGRAM_H_
