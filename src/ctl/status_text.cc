#include "ctl/status_text.h"

#include <cstddef>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"

namespace nbdinetd::ctl {
namespace {

// Takes a name in double quotes, as Quoted() writes it, from the start of
// `*text`.
std::optional<std::string> TakeQuoted(absl::string_view* text) {
  if (!absl::ConsumePrefix(text, "\"")) return std::nullopt;
  size_t end = 0;
  while (end < text->size() && (*text)[end] != '"') {
    end += (*text)[end] == '\\' ? 2 : 1;
  }
  if (end >= text->size()) return std::nullopt;
  std::string name;
  if (!absl::CUnescape(text->substr(0, end), &name)) return std::nullopt;
  text->remove_prefix(end + 1);
  return name;
}

// Takes what precedes `end` from the start of `*text`, and `end` itself.
std::optional<absl::string_view> TakeUntil(absl::string_view end,
                                           absl::string_view* text) {
  const size_t found = text->find(end);
  if (found == absl::string_view::npos) return std::nullopt;
  const absl::string_view taken = text->substr(0, found);
  text->remove_prefix(found + end.size());
  return taken;
}

// Takes a number and the noun after it: "1 request", "2 requests".
std::optional<uint64_t> TakeCount(absl::string_view noun,
                                  absl::string_view* text) {
  const std::optional<absl::string_view> digits = TakeUntil(" ", text);
  uint64_t count = 0;
  if (!digits.has_value() || !absl::SimpleAtoi(*digits, &count) ||
      !absl::ConsumePrefix(text, noun)) {
    return std::nullopt;
  }
  absl::ConsumePrefix(text, "s");
  return count;
}

// Takes "1024 bytes (1.0 KiB) VERB".
std::optional<uint64_t> TakeBytes(absl::string_view verb,
                                  absl::string_view* text) {
  const std::optional<uint64_t> bytes = TakeCount("byte", text);
  if (bytes.has_value() && absl::ConsumePrefix(text, " (") &&
      !TakeUntil(")", text).has_value()) {
    return std::nullopt;
  }
  if (!absl::ConsumePrefix(text, " ") || !absl::ConsumePrefix(text, verb)) {
    return std::nullopt;
  }
  return bytes;
}

// "N requests, AMOUNT read, AMOUNT written, N errors"
std::optional<Counters> ParseCounters(absl::string_view text) {
  const auto requests = TakeCount("request", &text);
  const bool first = absl::ConsumePrefix(&text, ", ");
  const auto read = TakeBytes("read", &text);
  const bool second = absl::ConsumePrefix(&text, ", ");
  const auto written = TakeBytes("written", &text);
  const bool third = absl::ConsumePrefix(&text, ", ");
  const auto errors = TakeCount("error", &text);
  if (!requests || !first || !read || !second || !written || !third ||
      !errors || !text.empty()) {
    return std::nullopt;
  }
  return Counters{*requests, *read, *written, *errors};
}

}  // namespace

std::optional<StatusText> ParseStatusText(absl::string_view text) {
  StatusText status;
  if (absl::ConsumePrefix(&text, "negotiating with ")) {
    status.peer = std::string(text);
    if (status.peer.empty()) return std::nullopt;
    return status;
  }
  if (!absl::ConsumePrefix(&text, "serving ")) return std::nullopt;
  const std::optional<std::string> name = TakeQuoted(&text);
  if (!name.has_value() || !absl::ConsumePrefix(&text, " to ")) {
    return std::nullopt;
  }
  status.export_name = *name;
  // A peer may contain ':', but neither a blank nor a quote.
  const size_t end = text.find(": ");
  const size_t as = text.find(" as \"");
  if (as < end) {
    status.peer = std::string(text.substr(0, as));
    text.remove_prefix(as + 4);
    const std::optional<std::string> identity = TakeQuoted(&text);
    if (!identity.has_value() || !absl::ConsumePrefix(&text, ": ")) {
      return std::nullopt;
    }
    status.identity = *identity;
  } else if (const auto peer = TakeUntil(": ", &text)) {
    status.peer = std::string(*peer);
  }
  status.counters = ParseCounters(text);
  if (status.peer.empty() || !status.counters.has_value()) return std::nullopt;
  return status;
}

}  // namespace nbdinetd::ctl
