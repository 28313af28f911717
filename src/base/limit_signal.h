// The signal by which `nbdinetctl limit` changes the limits of a connection
// that is being served: a real-time signal whose value says what changes.
//
// The process reads it from the descriptor that also has its shutdown signals,
// and therefore needs no further right in its sandbox. The kernel lets
// the same user send it, and CAP_KILL. A value that means nothing is
// ignored.
#ifndef NBDINETD_BASE_LIMIT_SIGNAL_H_
#define NBDINETD_BASE_LIMIT_SIGNAL_H_

#include <cstdint>
#include <vector>

#include "base/transfer_limits.h"

namespace nbdinetd {

// SIGRTMIN is known at run time only.
int LimitSignal();

// The values of the signals, in order, that make `limits` the limits of the
// kinds that were given in it. Numbers above kMaxSignalledLimit are sent as
// that.
std::vector<uint64_t> EncodeLimits(const TransferLimits& limits);
inline constexpr uint64_t kMaxSignalledLimit = (uint64_t{1} << 57) - 1;

// Changes `limits` by the value of one signal. The change is whole, and may
// hold, after kLast.
enum class LimitSignalPart { kMeaningless, kMore, kLast };
LimitSignalPart ApplyLimitSignal(uint64_t value, TransferLimits& limits);

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_LIMIT_SIGNAL_H_
