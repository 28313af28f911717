#include "base/poll.h"

#include <algorithm>
#include <cstdint>

#include "base/steady_clock.h"

namespace nbdinetd {
namespace {

// poll() takes no more milliseconds than an int holds; an hour is as good.
constexpr int64_t kMaxTimeoutMs = 3600 * 1000;

}  // namespace

int PollUntil(absl::Span<pollfd> fds, absl::Time deadline) {
  for (;;) {
    int timeout_ms = -1;
    if (deadline != absl::InfiniteFuture()) {
      // Rounded up, so as not to wake before the deadline and poll in circles.
      const absl::Duration left =
          absl::Ceil(deadline - SteadyNow(), absl::Milliseconds(1));
      timeout_ms = static_cast<int>(std::clamp<int64_t>(
          absl::ToInt64Milliseconds(left), 0, kMaxTimeoutMs));
    }
    const int n = poll(fds.data(), fds.size(), timeout_ms);
    if (n > 0) return n;
    if (deadline != absl::InfiniteFuture() && SteadyNow() >= deadline) return 0;
  }
}

}  // namespace nbdinetd
