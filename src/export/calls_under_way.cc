#include "export/calls_under_way.h"

namespace nbdinetd {

void CallsUnderWay::Begin(Call& call) {
  const std::lock_guard<std::mutex> lock(mutex_);
  call.begun = ++begun_;
  call.older = newest_;
  call.newer = nullptr;
  (newest_ != nullptr ? newest_->newer : oldest_) = &call;
  newest_ = &call;
}

void CallsUnderWay::End(Call& call) {
  const std::lock_guard<std::mutex> lock(mutex_);
  call.begun_by_end = begun_;
  (call.newer != nullptr ? call.newer->older : newest_) = call.older;
  (call.older != nullptr ? call.older->newer : oldest_) = call.newer;
  if (call.older == nullptr) oldest_ended_.notify_all();
}

void CallsUnderWay::WaitForOverlapping(const Call& call) {
  std::unique_lock<std::mutex> lock(mutex_);
  oldest_ended_.wait(lock, [&] {
    return oldest_ == nullptr || oldest_->begun > call.begun_by_end;
  });
}

}  // namespace nbdinetd
