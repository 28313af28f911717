// Chooses how long cached reads are sent: by sendfile(2), or by a copy into the
// output buffer.
//
// sendfile(2) takes less of this process's time almost everywhere, but the
// whole can be slower: the peer then fetches the bytes from memory itself, and
// the kernel's pacing may treat the two differently. WayChoice therefore
// compares how long a long stream of replies takes with each way, waits for the
// peer included, and not the time for which there is no request.
//
// The usual way is sendfile(2) at first. Now and then a look compares the other
// way with it: some of the replies go out in the usual way, some in the other,
// some in the usual one again. Replies that the kernel still holds from the way
// before would be counted for the wrong one, so each change is followed by
// replies that aren't counted. Looks that agree change the usual way: one by
// itself may have been disturbed by other work of the machine.
//
// Looks are paid for: each takes from a credit what it lost, and a connection
// earns credit with the bytes that it sends. It begins with enough for one
// look, and a gain is looked at again at once. The other way carries less than
// 4 % of a long connection if the two are equal, and less if it is slower.
//
// Threads: one. There is no clock here: the caller measures.
#ifndef NBDINETD_TRANSMISSION_WAY_CHOICE_H_
#define NBDINETD_TRANSMISSION_WAY_CHOICE_H_

#include <cstdint>

#include "absl/time/time.h"

namespace nbdinetd {

enum class Way { kSendFile, kCopy };

class WayChoice {
 public:
  // Bytes of long replies before the first look; most connections that end
  // sooner aren't worth one.
  static constexpr uint64_t kWarmUpBytes = 16 << 20;

  // `held_bytes`: about the most that the kernel holds on the way to the peer.
  explicit WayChoice(uint64_t held_bytes);

  // The way of the next long reply.
  Way way() const { return OtherWayNow() ? Other(usual_) : usual_; }
  // Whether the time of the next long reply counts. The caller then has all of
  // it sent before it stops the time.
  bool timed() const { return step_ != Step::kRest; }

  // A long reply has been sent in this way. `time` is from when its request had
  // been received and the replies before it had been sent; it is only used if
  // timed() was true.
  void NoteSent(uint64_t bytes, absl::Duration time);

 private:
  // The steps of a look, in order. kToOther and kBack aren't counted.
  enum class Step { kRest, kBefore, kToOther, kOther, kBack, kAfter };

  static Way Other(Way way) {
    return way == Way::kCopy ? Way::kSendFile : Way::kCopy;
  }
  bool OtherWayNow() const {
    return step_ == Step::kToOther || step_ == Step::kOther;
  }
  void Begin(Step step);
  // The nanoseconds that a byte took in the present step.
  double Cost() const;
  // Uses the result of a look.
  void Judge();

  const uint64_t settle_bytes_;
  const uint64_t window_bytes_;
  Way usual_ = Way::kSendFile;
  Step step_ = Step::kRest;
  // Of the present step.
  uint64_t bytes_ = 0;
  absl::Duration time_;
  // Of the steps kBefore and kOther.
  double usual_cost_ = 0;
  double other_cost_ = 0;
  // In looks. The next one begins when it is positive.
  double credit_;
  // By how much the other way was better in the last looks.
  double evidence_ = 0;
};

}  // namespace nbdinetd

#endif  // NBDINETD_TRANSMISSION_WAY_CHOICE_H_
