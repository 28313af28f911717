// Which calls have begun and not ended, so that one can wait for those that
// overlapped with it.
//
// Calls are in the order in which they began. One that has ended waits only for
// those that had begun by then: newer ones, of which there may always be some,
// can't keep it. (A shared lock for the call, and the whole lock behind it,
// would wait for them, too: whoever has had the whole lock is in its next call
// before the others have woken up, so that of many calls one at a time gets
// on.) Threads: any.
#ifndef NBDINETD_EXPORT_CALLS_UNDER_WAY_H_
#define NBDINETD_EXPORT_CALLS_UNDER_WAY_H_

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace nbdinetd {

class CallsUnderWay {
 public:
  // Borrowed from Begin() to End(). It stays where it is.
  class Call {
   public:
    Call() = default;
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    friend class CallsUnderWay;
    uint64_t begun = 0;  // how many calls had, with this one, when it began
    uint64_t begun_by_end = 0;
    Call* older = nullptr;  // of those under way
    Call* newer = nullptr;
  };

  CallsUnderWay() = default;
  CallsUnderWay(const CallsUnderWay&) = delete;
  CallsUnderWay& operator=(const CallsUnderWay&) = delete;

  void Begin(Call& call);
  void End(Call& call);
  // Waits until those calls have ended that were under way when `call`, which
  // has ended, was.
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
