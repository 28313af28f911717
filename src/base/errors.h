// Converts errno to absl::Status, and quotes names for messages.
#ifndef NBDINETD_BASE_ERRORS_H_
#define NBDINETD_BASE_ERRORS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace nbdinetd {

// "WHAT: REASON", where REASON is the system's text for `error_number`. `what`
// names the failed operation and its object: "failed to open '/srv/disk.img'".
absl::Status ErrnoStatus(int error_number, absl::string_view what,
                         absl::StatusCode code = absl::StatusCode::kInternal);

// The system's text for `error_number` (strerror_r(3)). Threads: any.
std::string ErrnoText(int error_number);

// `name` in double quotes. Quotes, invisible characters, and bytes that aren't
// UTF-8 are escaped. Every name in a message goes through this function, since
// a client, or the owner of a file, could choose a name that forges a log line.
std::string Quoted(absl::string_view name);

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_ERRORS_H_
