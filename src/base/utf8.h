// Checks a string for UTF-8, which the specification requires of its strings.
#ifndef NBDINETD_BASE_UTF8_H_
#define NBDINETD_BASE_UTF8_H_

#include "absl/strings/string_view.h"

namespace nbdinetd {

// True for well-formed UTF-8 (Unicode, table 3-7): no overlong forms, no
// surrogates, nothing above U+10FFFF. NUL is accepted.
bool IsValidUtf8(absl::string_view text);

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_UTF8_H_
