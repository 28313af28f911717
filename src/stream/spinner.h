// Busy waiting, where it saves time.
//
// A client that keeps one request in flight sends the next one some
// microseconds after it has the reply; sleeping and waking up costs more than
// that. The peer is therefore polled before the process sleeps, but only
//   - while the peer has lately answered within the time of a spin: several
//     longer pauses stop the spinning, so that an idle connection costs
//     nothing; and
//   - while no other thread wants the processor: each turn offers it by
//     sched_yield(). If another thread has run, a number of waits don't spin.
//     That number doubles each time this happens, and halves after each
//     successful spin.
// A client that keeps several requests in flight sends the next one while it
// reads the replies. If it were polled at once, each request would be answered
// separately, with one more system call on either side, and the peer's socket
// would be locked just when the peer sends. Under the same conditions,
// LetGather() therefore waits a moment until several requests have arrived.
// Rejected: a fixed number of tries, which wastes that much time after every
// reply to a client that pauses for a millisecond; SO_BUSY_POLL, which is for
// network devices with queues of their own.
#ifndef NBDINETD_STREAM_SPINNER_H_
#define NBDINETD_STREAM_SPINNER_H_

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <cstdint>

namespace nbdinetd {

class Spinner {
 public:
  // Calls `succeeds` until it returns true, for at most kSpinNs: shorter when
  // another thread wants the processor, and not at all when spinning doesn't
  // pay. True if it did. After false the caller sleeps, and then calls
  // NoteSlept().
  template <typename Function>
  bool Try(Function succeeds) {
    start_ns_ = Now();
    if (!Worthwhile()) {
      if (skip_ > 0) --skip_;
      return false;
    }
    int64_t now = start_ns_;
    while (now - start_ns_ < kSpinNs) {
      for (int i = 0; i < kTriesPerTurn; ++i) {
        if (succeeds()) {
          NoteWait(Now() - start_ns_);
          last_skip_ /= 2;
          return true;
        }
      }
      const int64_t before = Now();
      sched_yield();
      now = Now();
      if (now - before > kYieldedNs) {
        last_skip_ = std::min(2 * last_skip_ + 1, kMaxSkippedWaits);
        skip_ = last_skip_;
        return false;
      }
    }
    return false;
  }

  // Call it before Try() when the last receive brought several requests.
  void LetGather() {
    if (!Worthwhile()) return;
    const int64_t start_ns = Now();
    do {
      for (int i = 0; i < kPausesPerTurn; ++i) PauseProcessor();
    } while (Now() - start_ns < kGatherNs);
  }

  void NoteSlept() { NoteWait(Now() - start_ns_); }

 private:
  static constexpr int64_t kSpinNs = 50'000;
  // Spinning saves time when waits are on average no longer than this.
  static constexpr int64_t kWorthwhileNs = 60'000;
  // The most that one long pause counts, so that a few quick answers outweigh
  // it.
  static constexpr int64_t kLongestNs = 400'000;
  // After a longer sched_yield(), another thread has run.
  static constexpr int64_t kYieldedNs = 10'000;
  static constexpr int kMaxSkippedWaits = 63;
  static constexpr int kTriesPerTurn = 4;
  // With a longer time, a client with four requests in flight waits for us;
  // with a shorter one, a client with 32 gains less.
  static constexpr int64_t kGatherNs = 10'000;
  static constexpr int kPausesPerTurn = 8;

  bool Worthwhile() const {
    return usual_wait_ns_ <= kWorthwhileNs && skip_ == 0;
  }

  // Leaves resources of the core to its other hardware thread.
  static void PauseProcessor() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
  }

  static int64_t Now() {
    timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * int64_t{1'000'000'000} + ts.tv_nsec;
  }

  void NoteWait(int64_t ns) {
    usual_wait_ns_ = (3 * usual_wait_ns_ + std::min(ns, kLongestNs)) / 4;
  }

  int64_t start_ns_ = 0;
  int64_t usual_wait_ns_ = kLongestNs;
  int skip_ = 0;       // waits without spinning that are left
  int last_skip_ = 0;  // skip_ when another thread last ran
};

}  // namespace nbdinetd

#endif  // NBDINETD_STREAM_SPINNER_H_
