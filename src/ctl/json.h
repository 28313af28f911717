// Strings in JSON (RFC 8259).
#ifndef NBDINETD_CTL_JSON_H_
#define NBDINETD_CTL_JSON_H_

#include <string>

#include "absl/strings/string_view.h"

namespace nbdinetd::ctl {

// `text` as a string of JSON, in quotes. Bytes that aren't UTF-8 become U+FFFD,
// since JSON has no way to write them.
std::string JsonString(absl::string_view text);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_JSON_H_
