#include "base/limit_signal.h"

#include <signal.h>

#include <algorithm>

namespace nbdinetd {
namespace {

// A value from the lowest bit: 57 bits of a number, whether more values follow,
// and what the number is. The highest bit is always set, and a signal that was
// sent without a value has 0.
enum Field : uint64_t {
  kTogether,    // the rate of both directions, which have one limit from now on
  kReads,       // the rate of reads; writes have a limit of their own, or none
  kWrites,      // the rate of writes
  kReadsBurst,  // also of both directions
  kWritesBurst,
  kFields,
};
constexpr uint64_t kMoreFollow = uint64_t{1} << 57;
constexpr int kFieldShift = 58;
constexpr uint64_t kRequests = uint64_t{1} << 62;  // --max-iops
constexpr uint64_t kIsLimit = uint64_t{1} << 63;
static_assert(kFields <= 1 << 4);

uint64_t Encode(uint64_t kind, Field field, uint64_t number) {
  return kIsLimit | kMoreFollow | kind |
         static_cast<uint64_t>(field) << kFieldShift |
         std::min(number, kMaxSignalledLimit);
}

void Append(uint64_t kind, const DirectionLimits& limits,
            std::vector<uint64_t>& values) {
  if (limits.given == 0) return;
  values.push_back(Encode(kind, limits.together ? kTogether : kReads,
                          limits.reads.per_second));
  if (limits.reads.burst != 0) {
    values.push_back(Encode(kind, kReadsBurst, limits.reads.burst));
  }
  if (limits.together) return;
  values.push_back(Encode(kind, kWrites, limits.writes.per_second));
  if (limits.writes.burst != 0) {
    values.push_back(Encode(kind, kWritesBurst, limits.writes.burst));
  }
}

}  // namespace

int LimitSignal() { return SIGRTMIN + 1; }

std::vector<uint64_t> EncodeLimits(const TransferLimits& limits) {
  std::vector<uint64_t> values;
  Append(0, limits.bytes, values);
  Append(kRequests, limits.requests, values);
  if (!values.empty()) values.back() &= ~kMoreFollow;
  return values;
}

LimitSignalPart ApplyLimitSignal(uint64_t value, TransferLimits& limits) {
  if ((value & kIsLimit) == 0) return LimitSignalPart::kMeaningless;
  DirectionLimits& changed =
      (value & kRequests) != 0 ? limits.requests : limits.bytes;
  const uint64_t number = value & kMaxSignalledLimit;
  switch ((value & ~kIsLimit & ~kRequests) >> kFieldShift) {
    case kTogether:
      changed = {.reads = {number}, .together = true, .given = 1};
      break;
    case kReads:
      changed = {.reads = {number}, .given = 2};
      break;
    case kWrites:
      changed.writes = {number};
      break;
    case kReadsBurst:
      changed.reads.burst = number;
      break;
    case kWritesBurst:
      changed.writes.burst = number;
      break;
    default:
      return LimitSignalPart::kMeaningless;
  }
  return (value & kMoreFollow) != 0 ? LimitSignalPart::kMore
                                    : LimitSignalPart::kLast;
}

}  // namespace nbdinetd
