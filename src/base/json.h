// Strings in JSON (RFC 8259).
#ifndef NBDINETD_BASE_JSON_H_
#define NBDINETD_BASE_JSON_H_

#include <string>

#include "absl/strings/string_view.h"

namespace nbdinetd {

// `text` as a string of JSON, in quotes. If it isn't valid UTF-8, each byte
// from 0x80 on becomes U+FFFD, since JSON can't express it.
std::string JsonString(absl::string_view text);

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_JSON_H_
