// UTF-8: checks a string for it, which the specification requires of its
// strings, and takes one apart.
#ifndef NBDINETD_BASE_UTF8_H_
#define NBDINETD_BASE_UTF8_H_

#include <cstddef>

#include "absl/strings/string_view.h"

namespace nbdinetd {

// The length in bytes, 1 to 4, of the character at the start of `text`, if it
// is well-formed as IsValidUtf8() says; otherwise, and for an empty text, 0.
size_t CharacterLength(absl::string_view text);

// Returns the code point of the character at `*i`, and moves `*i` past it. The
// character must be well-formed.
char32_t TakeCharacter(absl::string_view text, size_t* i);

// True for well-formed UTF-8 (Unicode, table 3-7): no overlong forms, no
// surrogates, nothing above U+10FFFF. NUL is accepted.
bool IsValidUtf8(absl::string_view text);

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_UTF8_H_
