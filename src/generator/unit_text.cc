#include "generator/unit_text.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace nbdinetd {
namespace {

// Whether a word needs no quotes and no escapes anywhere.
bool IsPlainWord(absl::string_view word) {
  return !word.empty() &&
         std::all_of(word.begin(), word.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c >= 0x80 ||
                  std::string_view("-_./:=,+@").find(static_cast<char>(c)) !=
                      std::string_view::npos;
         });
}

// Escapes the control characters of a word whose C escapes systemd decodes.
std::string WithControlsEscaped(absl::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) {
      absl::StrAppendFormat(&escaped, "\\x%02x", static_cast<unsigned char>(c));
    } else {
      escaped.push_back(c);
    }
  }
  return escaped;
}

bool IsRemoved(const UnitChanges& changes, absl::string_view section,
               absl::string_view key) {
  return std::any_of(changes.removed.begin(), changes.removed.end(),
                     [&](const UnitKey& removed) {
                       return removed.key == key && removed.section == section;
                     });
}

absl::string_view ValueIn(const UnitChanges& changes,
                          const ExportSetting& setting) {
  for (const auto& [where, value] : changes.replaced) {
    if (where.key == setting.key && where.section == setting.section) {
      return value;
    }
  }
  return setting.value;
}

}  // namespace

std::string CommandWord(absl::string_view argument) {
  if (IsPlainWord(argument)) return std::string(argument);
  const std::string escaped = absl::StrReplaceAll(
      argument, {{"\\", "\\\\"}, {"\"", "\\\""}, {"%", "%%"}, {"$", "$$"}});
  return absl::StrCat("\"", WithControlsEscaped(escaped), "\"");
}

std::string PathWord(absl::string_view path) {
  return IsPlainWord(path) ? std::string(path) : BindPathWord(path);
}

std::string BindPathWord(absl::string_view path) {
  return absl::StrCat(
      "\"",
      absl::StrReplaceAll(path, {{"\\", "\\\\"}, {"\"", "\\\""}, {"%", "%%"}}),
      "\"");
}

std::string PlainValue(absl::string_view text) {
  return absl::StrReplaceAll(text, {{"%", "%%"}});
}

ShippedUnit::ShippedUnit(absl::string_view text) {
  ParseExportText(text, "", settings).IgnoreError();
}

std::string ShippedUnit::ValueOf(absl::string_view section,
                                 absl::string_view key) const {
  for (const ExportSetting& setting : settings) {
    if (setting.section == section && setting.key == key) return setting.value;
  }
  return "";
}

bool ShippedUnit::Has(absl::string_view section, absl::string_view key) const {
  return std::any_of(settings.begin(), settings.end(),
                     [&](const ExportSetting& setting) {
                       return setting.section == section && setting.key == key;
                     });
}

std::string Render(const ShippedUnit& shipped, const UnitChanges& changes) {
  std::string text = changes.head;
  std::string section;
  const auto end_section = [&] {
    for (const auto& [added_section, line] : changes.added) {
      if (added_section == section) absl::StrAppend(&text, line, "\n");
    }
  };
  for (const ExportSetting& setting : shipped.settings) {
    if (IsRemoved(changes, setting.section, "")) continue;
    if (setting.section != section) {
      end_section();
      section = setting.section;
      absl::StrAppend(&text, "\n[", section, "]\n");
    }
    if (IsRemoved(changes, section, setting.key)) continue;
    absl::StrAppend(&text, setting.key, "=", ValueIn(changes, setting), "\n");
  }
  end_section();
  return text;
}

}  // namespace nbdinetd
