// Reads the JSON that nbdinetd prints (RFC 8259).
#ifndef NBDINETD_CTL_JSON_READER_H_
#define NBDINETD_CTL_JSON_READER_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace nbdinetd::ctl {

// The members of an object, whose values are JSON as well. nullopt for other
// text. Numbers and words aren't checked.
std::optional<std::map<std::string, std::string>> JsonMembers(
    absl::string_view json);

// The elements of an array, as JSON. nullopt for other text.
std::optional<std::vector<std::string>> JsonElements(absl::string_view json);

// The text of a string; nullopt for other text. Escapes of characters from
// U+0080 on become U+FFFD.
std::optional<std::string> JsonText(absl::string_view json);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_JSON_READER_H_
