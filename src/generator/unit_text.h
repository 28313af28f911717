// The text of units: escaping, and units that are made from shipped ones.
//
// systemd takes a value apart in steps: quotes and backslashes of a list's
// words, then specifiers such as %n, and in ExecStart= variables such as $HOME.
// Each function here undoes exactly the steps of the settings that it names, so
// that a path or text from an .export file arrives unchanged.
#ifndef NBDINETD_GENERATOR_UNIT_TEXT_H_
#define NBDINETD_GENERATOR_UNIT_TEXT_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "generator/export_file.h"

namespace nbdinetd {

// One argument of ExecStart=.
std::string CommandWord(absl::string_view argument);

// One path in RequiresMountsFor=, DeviceAllow=, ReadWritePaths=.
std::string PathWord(absl::string_view path);

// One path in BindPaths= or BindReadOnlyPaths=, where a colon outside of quotes
// separates two paths.
std::string BindPathWord(absl::string_view path);

// All of a value in which only specifiers have a meaning, as in Description=
// and SourcePath=. It must not end with a backslash.
std::string PlainValue(absl::string_view text);

// A unit as it is shipped, without its comments.
struct ShippedUnit {
  std::vector<ExportSetting> settings;

  // Parses the text of a unit, which is part of this program.
  explicit ShippedUnit(absl::string_view text);

  // The value of a setting that is there once; "" when it is missing.
  std::string ValueOf(absl::string_view section, absl::string_view key) const;
  bool Has(absl::string_view section, absl::string_view key) const;
};

// A setting of a unit, or a section of it with "" as the key.
struct UnitKey {
  std::string section, key;
};

// The difference between a generated unit and a shipped one. There are few
// changes, so that lists are searched.
struct UnitChanges {
  std::string head;  // lines of comment
  // Settings and sections that the shipped unit has and this one doesn't.
  std::vector<UnitKey> removed;
  // Values in place of those that the shipped unit has.
  std::vector<std::pair<UnitKey, std::string>> replaced;
  // Lines for sections, behind those of the shipped unit.
  std::vector<std::pair<std::string, std::string>> added;

  void Remove(const std::string& section, const std::string& key) {
    removed.push_back({section, key});
  }
  void Add(const std::string& section, const std::string& key,
           const std::string& value) {
    added.emplace_back(section, key + "=" + value);
  }
  // Gives a setting that the shipped unit has another value.
  void Replace(const std::string& section, const std::string& key,
               const std::string& value) {
    replaced.push_back({{section, key}, value});
  }
};

// The text of the unit.
std::string Render(const ShippedUnit& shipped, const UnitChanges& changes);

}  // namespace nbdinetd

#endif  // NBDINETD_GENERATOR_UNIT_TEXT_H_
