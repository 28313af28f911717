// Strings in JSON (RFC 8259).
#ifndef NBDINETD_BASE_JSON_H_
#define NBDINETD_BASE_JSON_H_

#include <string>

#include "absl/strings/string_view.h"

namespace nbdinetd {

// `text` as a string of JSON, in quotes. Each byte that belongs to no
// well-formed character of UTF-8 becomes U+FFFD, since JSON can't express it.
std::string JsonString(absl::string_view text);

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_JSON_H_
