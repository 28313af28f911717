#include "access/rule_line.h"

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "access/glob.h"
#include "base/errors.h"
#include "base/transfer_limit_argument.h"
#include "export/exclusive.h"

namespace nbdinetd {
namespace {

using Word = RuleWords::Word;

absl::Status Wrong(absl::string_view reason) {
  return absl::InvalidArgumentError(reason);
}

bool IsBlank(char c) { return c == ' ' || c == '\t'; }

bool IsControl(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte < 0x20 || byte == 0x7f;
}

// ---- Settings

struct Settings {
  Grant grant = {};
  TransferLimits limits = {};
};

absl::Status SetMode(Grant::Mode mode, Grant& grant) {
  // "ro cow" says that the export itself is only read.
  const bool is_copy_of_read_only = (mode == Grant::Mode::kPrivateCopy &&
                                     grant.mode == Grant::Mode::kReadOnly) ||
                                    (mode == Grant::Mode::kReadOnly &&
                                     grant.mode == Grant::Mode::kPrivateCopy);
  if (is_copy_of_read_only) mode = Grant::Mode::kPrivateCopy;
  if (grant.mode.has_value() && !is_copy_of_read_only) {
    return Wrong(grant.mode == mode
                     ? "ro, rw or cow is there twice"
                     : "rw goes with neither ro nor cow: a client writes to "
                       "the export, or it doesn't");
  }
  grant.mode = mode;
  return absl::OkStatus();
}

template <Grant::Mode kMode>
absl::Status SetModeTo(absl::string_view /*value*/, Settings& settings) {
  return SetMode(kMode, settings.grant);
}

template <absl::string_view const& kName,
          DirectionLimits TransferLimits::*kKind>
absl::Status AddLimit(absl::string_view value, Settings& settings) {
  const std::string error = AddTransferLimit(value, settings.limits.*kKind);
  if (error.empty()) return absl::OkStatus();
  return Wrong(absl::StrCat(kName, value, ": ", error));
}

absl::Status SetExclusive(absl::string_view value, Settings& settings) {
  Grant& grant = settings.grant;
  if (grant.exclusive.has_value()) return Wrong("exclusive= is there twice");
  for (const auto& [word, meaning] : kExclusiveWords) {
    if (word == value) grant.exclusive = meaning;
  }
  if (grant.exclusive.has_value()) return absl::OkStatus();
  return Wrong(
      absl::StrCat("exclusive=", value, ": use off, refuse, wait or takeover"));
}

// A setting: a word, or with a = at its end the beginning of one.
struct SettingRow {
  absl::string_view name;
  absl::Status (*set)(absl::string_view value, Settings& settings);
};

constexpr absl::string_view kMaxRate = "max-rate=";
constexpr absl::string_view kMaxIops = "max-iops=";

constexpr SettingRow kSettings[] = {
    {"ro", SetModeTo<Grant::Mode::kReadOnly>},
    {"rw", SetModeTo<Grant::Mode::kReadWrite>},
    {"cow", SetModeTo<Grant::Mode::kPrivateCopy>},
    {"exclusive=", SetExclusive},
    {kMaxRate, AddLimit<kMaxRate, &TransferLimits::bytes>},
    {kMaxIops, AddLimit<kMaxIops, &TransferLimits::requests>},
};

const SettingRow* FindSetting(const Word& word) {
  if (word.is_quoted) return nullptr;
  for (const SettingRow& row : kSettings) {
    if (row.name.back() == '=' ? absl::StartsWith(word.text, row.name)
                               : word.text == row.name) {
      return &row;
    }
  }
  return nullptr;
}

// Takes the settings, of which `first` is the first.
absl::Status TakeSettings(const Word& first, RuleWords& words,
                          Settings& settings) {
  std::optional<Word> word = first;
  const char* end = first.end;
  while (word.has_value()) {
    const SettingRow* row = FindSetting(*word);
    if (row == nullptr) {
      return Wrong(absl::StrCat(
          Quoted(word->text),
          " is no setting; the exports come first, and then ro, rw or cow, "
          "exclusive=, max-rate= and max-iops=; a name that looks like a "
          "setting needs quotes"));
    }
    absl::Status status =
        row->set(word->text.substr(row->name.size()), settings);
    if (!status.ok()) return status;
    end = word->end;
    auto next = words.Next();
    if (!next.ok()) return next.status();
    word = *next;
  }
  if (!settings.grant.mode.has_value()) {
    return Wrong("one of ro, rw and cow is needed");
  }
  if (settings.limits.bytes.given + settings.limits.requests.given != 0) {
    settings.grant.limits = {first.begin,
                             static_cast<size_t>(end - first.begin)};
  }
  return absl::OkStatus();
}

// Takes what follows WHO.
absl::Status TakeExports(RuleWords& words, RuleLine& line) {
  const char* begin = nullptr;
  const char* end = nullptr;
  for (;;) {
    auto next = words.Next();
    if (!next.ok()) return next.status();
    if (!next->has_value()) {
      return Wrong(begin == nullptr
                       ? "what WHO may use is missing: names of exports, and "
                         "ro, rw or cow; or - for nothing"
                       : "how the exports may be used is missing: ro, rw or "
                         "cow");
    }
    const Word& word = **next;
    if (!word.is_quoted && word.text == "-") {
      auto more = words.Next();
      if (!more.ok()) return more.status();
      if (begin == nullptr && !more->has_value()) return absl::OkStatus();
      return Wrong(
          "- stands alone behind WHO; an export of that name needs "
          "quotes");
    }
    if (FindSetting(word) != nullptr) {
      if (begin == nullptr) {
        return Wrong(
            "there is no export before the settings; * stands for "
            "all of them");
      }
      line.exports = {begin, static_cast<size_t>(end - begin)};
      Settings settings;
      absl::Status status = TakeSettings(word, words, settings);
      line.grant = settings.grant;
      return status;
    }
    if (absl::Status status = CheckGlob(word.text); !status.ok()) {
      return status;
    }
    if (begin == nullptr) begin = word.begin;
    end = word.end;
    ++line.export_count;
  }
}

}  // namespace

TransferLimits TransferLimitsIn(absl::string_view text) {
  Settings settings;
  RuleWords words(text);
  // The words have been checked.
  for (auto word = words.Next(); word.ok() && word->has_value();
       word = words.Next()) {
    if (const SettingRow* row = FindSetting(**word)) {
      row->set((*word)->text.substr(row->name.size()), settings).IgnoreError();
    }
  }
  return settings.limits;
}

std::string InWords(const TransferLimits& limits) {
  std::vector<std::string> words;
  for (const std::string& rate : TransferLimitArguments(limits.bytes)) {
    words.push_back(absl::StrCat(kMaxRate, rate));
  }
  for (const std::string& iops : TransferLimitArguments(limits.requests)) {
    words.push_back(absl::StrCat(kMaxIops, iops));
  }
  return absl::StrJoin(words, " ");
}

absl::StatusOr<std::optional<Word>> RuleWords::Next() {
  size_t at = 0;
  while (at < rest_.size() && IsBlank(rest_[at])) ++at;
  rest_.remove_prefix(at);
  if (rest_.empty() || rest_[0] == '#') return std::optional<Word>();
  const bool is_quoted = rest_[0] == '"';
  const auto ends_word = [&](char c) {
    return is_quoted ? c == '"' : IsBlank(c);
  };
  size_t size = is_quoted ? 1 : 0;
  while (size < rest_.size() && !ends_word(rest_[size])) {
    const char c = rest_[size];
    if (IsControl(c)) return Wrong("a control character is in the line");
    if (c == '"') return Wrong("a quote is inside of a word: quote all of it");
    const bool escapes = c == '\\' && size + 1 < rest_.size() &&
                         (rest_[size + 1] == '"' || rest_[size + 1] == '\\');
    size += escapes ? 2 : 1;
  }
  if (!is_quoted) {
    const Word word{rest_.substr(0, size), false, rest_.data(),
                    rest_.data() + size};
    rest_.remove_prefix(size);
    return word;
  }
  if (size >= rest_.size()) return Wrong("a quote doesn't end");
  const Word word{rest_.substr(1, size - 1), true, rest_.data(),
                  rest_.data() + size + 1};
  rest_.remove_prefix(size + 1);
  if (!rest_.empty() && !IsBlank(rest_[0])) {
    return Wrong("a blank is missing behind a quoted word");
  }
  return word;
}

absl::StatusOr<std::optional<RuleLine>> ParseRuleLine(absl::string_view line,
                                                      WhoNames names,
                                                      KnownIds* ids) {
  RuleWords words(line);
  const auto first = words.Next();
  if (!first.ok()) return first.status();
  if (!first->has_value()) return std::optional<RuleLine>();
  absl::StatusOr<Who> who = Who::Parse((*first)->text, names, ids);
  if (!who.ok()) {
    return Wrong(
        absl::StrCat(Quoted((*first)->text), ": ", who.status().message()));
  }
  RuleLine parsed{*who};
  if (absl::Status status = TakeExports(words, parsed); !status.ok()) {
    return status;
  }
  return parsed;
}

}  // namespace nbdinetd
