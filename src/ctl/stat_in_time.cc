#include "ctl/stat_in_time.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

namespace nbdinetd::ctl {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kLongestWait(1000);
constexpr milliseconds kAllWaits(3000);
// For storage that answers while other storage doesn't.
constexpr milliseconds kShortestWait(20);

struct Answer {
  std::mutex mutex;
  std::condition_variable done;
  std::optional<int> error;  // nullopt: stat(2) hasn't returned
  struct stat st = {};
};

// Takes from the time that all calls have for storage that doesn't answer.
class Patience {
 public:
  milliseconds Next() {
    const std::lock_guard lock(mutex_);
    return std::clamp(left_, kShortestWait, kLongestWait);
  }
  void Used(milliseconds wait) {
    const std::lock_guard lock(mutex_);
    left_ -= std::min(left_, wait);
  }

 private:
  std::mutex mutex_;
  milliseconds left_ = kAllWaits;
};

}  // namespace

int StatInTime(const std::string& path, struct stat* st) {
  static Patience patience;
  const auto answer = std::make_shared<Answer>();
  std::thread([path, answer] {
    struct stat found = {};
    const int error = stat(path.c_str(), &found) == 0 ? 0 : errno;
    const std::lock_guard lock(answer->mutex);
    answer->error = error;
    answer->st = found;
    answer->done.notify_one();
  }).detach();
  const milliseconds wait = patience.Next();
  std::unique_lock lock(answer->mutex);
  if (!answer->done.wait_until(lock, steady_clock::now() + wait,
                               [&] { return answer->error.has_value(); })) {
    patience.Used(wait);
    return ETIMEDOUT;
  }
  *st = answer->st;
  return *answer->error;
}

}  // namespace nbdinetd::ctl
