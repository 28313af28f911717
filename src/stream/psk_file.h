// The file of pre-shared keys, which psktool(1) makes: a line for each user,
//
//   identity:hexkey
//
// An identity that begins with # is in hexadecimal itself, as GnuTLS has it for
// names that are no text. There are no comments. Empty lines are skipped.
#ifndef NBDINETD_STREAM_PSK_FILE_H_
#define NBDINETD_STREAM_PSK_FILE_H_

#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nbdinetd {

// What OpenSSL takes at most.
inline constexpr size_t kMaxPskIdentityBytes = 256;
inline constexpr size_t kMaxPskBytes = 512;

// From identity to key, both in bytes.
using PskMap = absl::flat_hash_map<std::string, std::string>;

// FailedPrecondition says which line is wrong and why, never what is in it: a
// line holds a key.
absl::StatusOr<PskMap> ParsePskFile(absl::string_view text);

}  // namespace nbdinetd

#endif  // NBDINETD_STREAM_PSK_FILE_H_
