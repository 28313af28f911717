#include "base/errors.h"

#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/utf8.h"

namespace nbdinetd {

std::string ErrnoText(int error_number) {
  char buffer[128];
  // The GNU variant, which returns the text wherever it lies.
  return strerror_r(error_number, buffer, sizeof(buffer));
}

absl::Status ErrnoStatus(int error_number, absl::string_view what,
                         absl::StatusCode code) {
  return absl::Status(code, absl::StrCat(what, ": ", ErrnoText(error_number)));
}

std::string Quoted(absl::string_view name) {
  // Utf8SafeCEscape lets every byte from 0x80 pass, so that it is for names
  // that are known to be UTF-8 only.
  return absl::StrCat("\"",
                      IsValidUtf8(name) ? absl::Utf8SafeCEscape(name)
                                        : absl::CEscape(name),
                      "\"");
}

}  // namespace nbdinetd
