// Busy waiting, where that pays.
//
// A client that keeps one request in flight sends the next some microseconds
// after it has the reply; to sleep and be woken costs more than that. So the
// peer is polled before the process sleeps, but only
//   - while the peer has lately answered within the time of a spin: after some
//     longer pauses there are no more spins, so that an idle connection costs
//     nothing; and
//   - while nobody else wants the processor: each turn offers it by
//     sched_yield(), and when somebody took it, there are no spins for a while:
//     a few waits when it was a moment's work of the system, longer and longer
//     when it happens again and again.
// And a client that keeps several requests in flight sends the next while it
// reads the replies. Polled at once, each request would be answered by itself,
// with a system call more on either side, and the peer's socket be locked just
// when it wants to send; so the process looks away for a moment until several
// have gathered, on the same conditions.
// Rejected: a fixed number of tries, which burns that much after every reply
// to a client that thinks for a millisecond; SO_BUSY_POLL, which is for network
// devices with queues of their own.
#ifndef NBDINETD_STREAM_SPINNER_H_
#define NBDINETD_STREAM_SPINNER_H_

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <cstdint>

namespace nbdinetd {

class Spinner {
 public:
  // Calls `succeeds` until it returns true, as long as it is worth it. True if
  // it did. After false the caller sleeps, and then calls NoteSlept().
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

  // Before Try(), when the last receive brought several requests.
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
  // Spinning pays when waits are on average no longer than this.
  static constexpr int64_t kWorthwhileNs = 60'000;
  // One long pause counts as no more than this, so that a few quick answers
  // outweigh it.
  static constexpr int64_t kLongestNs = 400'000;
  // Somebody else has run meanwhile.
  static constexpr int64_t kYieldedNs = 10'000;
  static constexpr int kMaxSkippedWaits = 63;
  static constexpr int kTriesPerTurn = 4;
  // Longer, and a client with four requests in flight waits for us; shorter,
  // and one with 32 gains less.
  static constexpr int64_t kGatherNs = 10'000;
  static constexpr int kPausesPerTurn = 8;

  bool Worthwhile() const {
    return usual_wait_ns_ <= kWorthwhileNs && skip_ == 0;
  }

  // Leaves the processor's resources to its sibling, if it has one.
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
  int skip_ = 0;       // how many more waits
  int last_skip_ = 0;  // how many when somebody last took the processor
};

}  // namespace nbdinetd

#endif  // NBDINETD_STREAM_SPINNER_H_
