// The calls that have begun and not yet ended; a call can wait for those that
// overlapped with it.
//
// The calls are kept in the order of their beginnings. A call that has ended
// waits only for calls that began before its end, so that a steady stream of
// newer calls can't delay it. Rejected: a std::shared_mutex, locked shared by
// the call and exclusively by the wait. The wait would include newer calls; the
// thread that just had the exclusive lock starts its next call before the
// others wake up, and one call at a time would make progress. Threads: any.
#ifndef NBDINETD_EXPORT_CALLS_UNDER_WAY_H_
#define NBDINETD_EXPORT_CALLS_UNDER_WAY_H_

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace nbdinetd {

class CallsUnderWay {
 public:
  // CallsUnderWay keeps a pointer to it from Begin() to End(); the caller owns
  // it.
  class Call {
   public:
    Call() = default;
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    friend class CallsUnderWay;
    uint64_t begun = 0;  // the number of calls begun, this one included
    uint64_t begun_by_end = 0;
    Call* older = nullptr;  // among the calls under way
    Call* newer = nullptr;
  };

  CallsUnderWay() = default;
  CallsUnderWay(const CallsUnderWay&) = delete;
  CallsUnderWay& operator=(const CallsUnderWay&) = delete;

  void Begin(Call& call);
  void End(Call& call);
  // Waits for the end of every call that overlapped with `call`, which has
  // ended.
  void WaitForOverlapping(const Call& call);

 private:
  std::mutex mutex_;
  std::condition_variable oldest_ended_;
  // Guarded by mutex_:
  uint64_t begun_ = 0;
  Call* oldest_ = nullptr;
  Call* newest_ = nullptr;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_CALLS_UNDER_WAY_H_
