#include "base/poll.h"

#include <algorithm>
#include <cstdint>

#include "base/steady_clock.h"

namespace nbdinetd {
namespace {

// One hour. poll() takes an int of milliseconds; the loop covers longer waits.
constexpr int64_t kMaxTimeoutMs = 3600 * 1000;

}  // namespace

int PollUntil(absl::Span<pollfd> fds, absl::Time deadline) {
  for (;;) {
    int timeout_ms = -1;
    if (deadline != absl::InfiniteFuture()) {
      // Rounded up, so that poll() doesn't return before the deadline.
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
