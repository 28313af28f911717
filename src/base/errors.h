// From errno to absl::Status, and how names look in messages.
#ifndef NBDINETD_BASE_ERRORS_H_
#define NBDINETD_BASE_ERRORS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace nbdinetd {

// "WHAT: REASON", where REASON is the system's text for `error_number`.
// `what` says what failed and on what: "failed to open '/srv/disk.img'".
absl::Status ErrnoStatus(int error_number, absl::string_view what,
                         absl::StatusCode code = absl::StatusCode::kInternal);

// The system's text for `error_number`, in any thread.
std::string ErrnoText(int error_number);

// `name` between double quotes, with quotes, characters that can't be seen and
// bytes that are no UTF-8 escaped: the only way in which a name reaches a
// message, since a client, or whoever named a file, may have chosen it to forge
// a log line.
std::string Quoted(absl::string_view name);

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_ERRORS_H_
