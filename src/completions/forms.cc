#include "completions/forms.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace nbdinetd {
namespace {

constexpr absl::string_view kCompleted[] = {
    "BYTES", "COMMAND", "CONTAINER", "COPY", "DIR",  "EXPORT", "FILE",
    "GROUP", "HOST",    "IP",        "PATH", "PEER", "TIME",   "USER",
};

constexpr absl::string_view kFree[] = {
    "ISSUER", "LABEL", "MIN",     "N",    "NAME", "NUMBER", "PATTERN",
    "PORT",   "STYLE", "SUBJECT", "TEXT", "UNIT", "URI",    "UUID",
};

bool Contains(absl::Span<const absl::string_view> names,
              absl::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Whether no shell gives the character a meaning, wherever it stands.
bool IsPlain(char c) {
  return absl::ascii_islower(static_cast<unsigned char>(c)) ||
         absl::ascii_isdigit(static_cast<unsigned char>(c)) ||
         absl::string_view(":-,").find(c) != absl::string_view::npos;
}

absl::StatusOr<Form> ParseForm(absl::string_view text) {
  const auto is_capital = [](unsigned char c) {
    return absl::ascii_isupper(c);
  };
  const auto start = std::find_if(text.begin(), text.end(), is_capital);
  const auto end = std::find_if_not(start, text.end(), is_capital);
  Form form = {std::string(text.begin(), start), std::string(start, end)};
  if (!std::all_of(form.literal.begin(), form.literal.end(), IsPlain)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a shell may interpret a character of ", form.literal));
  }
  if (!form.placeholder.empty() && !Contains(kCompleted, form.placeholder) &&
      !Contains(kFree, form.placeholder)) {
    return absl::InvalidArgumentError(
        absl::StrCat("forms.cc doesn't say whether a shell can complete ",
                     form.placeholder));
  }
  return form;
}

}  // namespace

absl::Span<const absl::string_view> CompletedPlaceholders() {
  return kCompleted;
}

absl::Span<const absl::string_view> FreePlaceholders() { return kFree; }

bool IsCompleted(absl::string_view placeholder) {
  return Contains(kCompleted, placeholder);
}

absl::StatusOr<std::vector<Form>> ParseForms(absl::string_view text) {
  std::vector<Form> forms;
  for (const absl::string_view part : absl::StrSplit(text, '|')) {
    absl::StatusOr<Form> form = ParseForm(part);
    if (!form.ok()) return form.status();
    forms.push_back(*std::move(form));
  }
  return forms;
}

}  // namespace nbdinetd
