// How much a connection may transfer. Plain values.
#ifndef NBDINETD_BASE_TRANSFER_LIMITS_H_
#define NBDINETD_BASE_TRANSFER_LIMITS_H_

#include <cstdint>

namespace nbdinetd {

// A token bucket: `burst` tokens at most, and `per_second` new ones.
struct TransferLimit {
  uint64_t per_second = 0;  // 0: no limit
  uint64_t burst = 0;       // 0: the tokens of a tenth of a second

  bool limits() const { return per_second != 0; }
};

// The limits of one kind. If it was given once, it holds for both directions
// together.
struct DirectionLimits {
  TransferLimit reads = {};
  TransferLimit writes = {};
  bool together = false;  // `reads` holds for both
  int given = 0;          // how often it was given
};

struct TransferLimits {
  DirectionLimits bytes = {};     // --max-rate
  DirectionLimits requests = {};  // --max-iops
};

// `limits`, but for the kinds that were given in `others`, which hold in their
// place.
inline TransferLimits Replaced(TransferLimits limits,
                               const TransferLimits& others) {
  if (others.bytes.given != 0) limits.bytes = others.bytes;
  if (others.requests.given != 0) limits.requests = others.requests;
  return limits;
}

// Limits that may change while they hold.
struct LiveLimits {
  TransferLimits now = {};
  uint64_t changes = 0;  // how often they have changed
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_TRANSFER_LIMITS_H_
