#include "cli/output.h"

#include <unistd.h>

#include <cerrno>
#include <string>

#include "base/exit_status.h"

namespace nbdinetd {

void Print(absl::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(STDOUT_FILENO, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    text.remove_prefix(static_cast<size_t>(n));
  }
}

int Fail(const Log& log, const absl::Status& status) {
  const ExitStatus exit_status = ExitStatusOf(status);
  if (exit_status == ExitStatus::kOk) {
    log.Write(Priority::kNotice, status.message());
  } else if (exit_status == ExitStatus::kNoInput) {
    log.Write(Priority::kError, message_id::kNotOpened, status.message(),
              {{"NBD_REASON", std::string(status.message())}});
  } else {
    log.Error(status.message());
  }
  return static_cast<int>(exit_status);
}

}  // namespace nbdinetd
