// The signals of the process of a connection: those that end it, at once or by
// a drain, and those that change how much its client may transfer
// (limit_signal.h).
//
// Both come through one descriptor. Each wait of the process polls it, and
// calls Take(): the channel's, and that for the process that reads partition
// tables. Threads: one.
#ifndef NBDINETD_CONNECTION_CONNECTION_SIGNALS_H_
#define NBDINETD_CONNECTION_CONNECTION_SIGNALS_H_

#include <optional>
#include <utility>

#include "base/limit_signal.h"
#include "base/shutdown_notice.h"
#include "base/signals.h"
#include "base/transfer_limits.h"

namespace nbdinetd {

class ConnectionSignals {
 public:
  // `limits` hold at first.
  ConnectionSignals(Signals signals, const TransferLimits& limits)
      : signals_(std::move(signals)), limits_{limits}, next_limits_(limits) {}

  int fd() const { return signals_.fd(); }

  // For a wait; refers to this object.
  ShutdownNotice notice() {
    return {fd(), [this] { return Take(); }};
  }

  // Takes all signals that are pending. How the process should end.
  Shutdown Take() {
    while (const std::optional<Signals::Signal> signal = signals_.Take()) {
      if (signal->number == kDrainSignal) {
        drains_ = true;
      } else if (signal->number != LimitSignal()) {
        ended_by_ = ended_by_.value_or(signal->number);
      } else if (ApplyLimitSignal(signal->value, next_limits_) ==
                 LimitSignalPart::kLast) {
        limits_.now = next_limits_;
        ++limits_.changes;
      }
    }
    return ended_by_.has_value() ? Shutdown::kNow
           : drains_             ? Shutdown::kDrain
                                 : Shutdown::kNone;
  }

  // The first signal that ends the process at once; nullopt if Take() has seen
  // none.
  std::optional<int> ended_by() const { return ended_by_; }

  const LiveLimits& limits() const { return limits_; }

 private:
  Signals signals_;
  LiveLimits limits_;
  TransferLimits next_limits_;  // until a change of them is whole
  std::optional<int> ended_by_;
  bool drains_ = false;
};

}  // namespace nbdinetd

#endif  // NBDINETD_CONNECTION_CONNECTION_SIGNALS_H_
