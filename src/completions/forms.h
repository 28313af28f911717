// The forms of an argument, as the tables of options and verbs spell them:
// "off|on|require", "memory|DIR", "uid:USER|gid:GROUP". A form is literal text,
// then perhaps a placeholder in capitals, which stands for what a shell finds
// by itself, such as the names of files.
//
// Threads: any.
#ifndef NBDINETD_COMPLETIONS_FORMS_H_
#define NBDINETD_COMPLETIONS_FORMS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace nbdinetd {

struct Form {
  std::string literal;      // "uid:"; may be empty
  std::string placeholder;  // "USER"; empty for none

  friend bool operator==(const Form&, const Form&) = default;
};

// Forms that are separated by |. What follows the placeholder of a form, such
// as "[:BURST]", is left out. InvalidArgument: a character that a shell may
// interpret, or a placeholder that is neither completed nor free.
absl::StatusOr<std::vector<Form>> ParseForms(absl::string_view text);

// Placeholders for which each template in completions/ has a function.
absl::Span<const absl::string_view> CompletedPlaceholders();
// Placeholders for texts that a shell can't know.
absl::Span<const absl::string_view> FreePlaceholders();

bool IsCompleted(absl::string_view placeholder);

}  // namespace nbdinetd

#endif  // NBDINETD_COMPLETIONS_FORMS_H_
