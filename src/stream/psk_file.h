// Parses the file of pre-shared keys that psktool(1) writes: one line for each
// user,
//
//   identity:hexkey
//
// An identity that begins with # is hexadecimal, as in GnuTLS, for names that
// aren't text. There are no comments. Empty lines are skipped.
#ifndef NBDINETD_STREAM_PSK_FILE_H_
#define NBDINETD_STREAM_PSK_FILE_H_

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nbdinetd {

// OpenSSL's limits.
inline constexpr size_t kMaxPskIdentityBytes = 256;
inline constexpr size_t kMaxPskBytes = 512;

// Maps an identity to its key, both in bytes.
using PskMap = std::map<std::string, std::string>;

// FailedPrecondition names the line and the error. It never quotes the line,
// which holds a key.
absl::StatusOr<PskMap> ParsePskFile(absl::string_view text);

}  // namespace nbdinetd

#endif  // NBDINETD_STREAM_PSK_FILE_H_
