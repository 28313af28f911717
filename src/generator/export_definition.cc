#include "generator/export_definition.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/edit_distance.h"
#include "cli/option_table.h"
#include "cli/options.h"

namespace nbdinetd {
namespace {

constexpr char kExport[] = "Export";
constexpr const char* kUnitKeys[] = {
    "File",    "User",   "Group", "Mode", "MaxConnectionsPerSource",
    "Enabled", "Options"};
constexpr const char* kUnitSections[] = {"Unit", "Socket", "Service",
                                         "Install"};

const OptionRow* RowOfKey(absl::string_view key) {
  for (const OptionRow& row : OptionTable()) {
    if (row.key != nullptr && key == row.key) return &row;
  }
  return nullptr;
}

const OptionRow* RowOfName(absl::string_view name) {
  for (const OptionRow& row : OptionTable()) {
    if (name == row.name) return &row;
  }
  return nullptr;
}

// ---- Messages

// A message of the command line in the words of the file: "--tls-allow" becomes
// "TLSAllow=".
std::string InKeys(absl::string_view message) {
  std::string text;
  while (true) {
    const size_t dashes = std::min(message.find("--"), message.size());
    absl::StrAppend(&text, message.substr(0, dashes));
    message.remove_prefix(dashes);
    if (message.empty()) return text;
    size_t end = 2;
    while (end < message.size() &&
           (absl::ascii_islower(static_cast<unsigned char>(message[end])) ||
            message[end] == '-')) {
      ++end;
    }
    const OptionRow* row = RowOfName(message.substr(2, end - 2));
    if (row == nullptr || row->key == nullptr) {
      absl::StrAppend(&text, message.substr(0, end));
    } else {
      const bool has_value = end < message.size() && message[end] == '=';
      absl::StrAppend(&text, row->key, has_value ? "" : "=");
    }
    message.remove_prefix(end);
  }
}

// The complaint of an option about `setting`, as an error of that line. Quotes
// around a value that needs none are left out.
absl::Status Complaint(const ExportSetting& setting,
                       const absl::Status& status) {
  const std::string message = InKeys(status.message());
  absl::string_view rest = message;
  if (!absl::ConsumePrefix(&rest, absl::StrCat(setting.key, "=\""))) {
    return ErrorAt(setting, message);
  }
  const absl::string_view value = rest.substr(0, rest.find('"'));
  if (ShownValue(value) != value) return ErrorAt(setting, message);
  return ErrorAt(setting, absl::StrCat(setting.key, "=", value,
                                       rest.substr(value.size() + 1)));
}

absl::Status UnknownKey(const ExportSetting& setting) {
  std::vector<std::string> keys(std::begin(kUnitKeys), std::end(kUnitKeys));
  for (const OptionRow& row : OptionTable()) {
    if (row.key != nullptr) keys.emplace_back(row.key);
  }
  // A longer one is near to none.
  const std::string key = absl::AsciiStrToLower(setting.key.substr(0, 50));
  const auto distance = [&key](const std::string& known) {
    return EditDistance(absl::AsciiStrToLower(known), key);
  };
  const auto nearest = std::min_element(
      keys.begin(), keys.end(),
      [&](const auto& a, const auto& b) { return distance(a) < distance(b); });
  const bool is_near = distance(*nearest) <= 2;
  return ErrorAt(
      setting,
      absl::StrCat(ShownValue(setting.key), "= is no key of [Export]; ",
                   is_near ? absl::StrCat("did you mean ", *nearest, "=?")
                           : "nbdinetd.export(5) has all of them"));
}

// ---- Single settings

absl::Status CheckSections(const ExportFile& file) {
  for (const ExportSetting& setting : file.settings) {
    if (setting.section == kExport) {
      const bool known =
          RowOfKey(setting.key) != nullptr ||
          std::any_of(std::begin(kUnitKeys), std::end(kUnitKeys),
                      [&](const char* key) { return setting.key == key; });
      if (!known) return UnknownKey(setting);
    } else if (!IsUnitSection(setting.section) &&
               !absl::StartsWith(setting.section, "X-")) {
      return ErrorAt(
          setting,
          absl::StrCat("there is no section [", ShownValue(setting.section),
                       "]; use [Export], [Unit], [Socket], [Service] or "
                       "[Install]"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckPath(const ExportSetting& setting) {
  if (setting.value[0] != '/') {
    return ErrorAt(setting,
                   absl::StrCat(setting.key, "=", ShownValue(setting.value),
                                ": use an absolute path"));
  }
  // Its meaning depends on the links before it. systemd accepts none.
  if (absl::StrContains(absl::StrCat(setting.value, "/"), "/../")) {
    return ErrorAt(setting,
                   absl::StrCat(setting.key, "=", ShownValue(setting.value),
                                ": use the path without .."));
  }
  if (setting.value.back() == '\\') {
    return ErrorAt(setting,
                   absl::StrCat(setting.key, "=", ShownValue(setting.value),
                                ": a path in a unit can't end with \\"));
  }
  return absl::OkStatus();
}

// Which of two words, `no` or `yes`, a setting is.
absl::StatusOr<bool> WordOf(const ExportSetting& setting, absl::string_view no,
                            absl::string_view yes) {
  if (setting.value == no || setting.value == yes) return setting.value == yes;
  return ErrorAt(setting,
                 absl::StrCat(setting.key, "=", ShownValue(setting.value),
                              ": use ", no, " or ", yes));
}

// Applies the settings of one option, and appends its arguments.
absl::Status Apply(const OptionRow& row,
                   const std::vector<const ExportSetting*>& settings,
                   Options& options, std::vector<std::string>& arguments) {
  const std::string name = absl::StrCat("--", row.name);
  for (const ExportSetting* setting : settings) {
    if (row.key_kind == KeyKind::kBoolean) {
      const absl::StatusOr<bool> given = BooleanOf(*setting);
      if (!given.ok()) return given.status();
      if (!*given) continue;
      arguments.push_back(name);
      row.set({name, ""}, options).IgnoreError();
      continue;
    }
    if (row.key_kind == KeyKind::kWord && setting->value == "no") continue;
    if (row.key_kind == KeyKind::kPath) {
      if (absl::Status path = CheckPath(*setting); !path.ok()) return path;
    }
    const absl::Status status =
        row.set({row.key, setting->value, AccessRules::Names::kTrust}, options);
    if (!status.ok()) {
      absl::Status complaint = Complaint(*setting, status);
      if (row.key_kind != KeyKind::kWord) return complaint;
      return absl::InvalidArgumentError(
          absl::StrCat(complaint.message(), ", or no"));
    }
    arguments.push_back(absl::StrCat(name, "=", setting->value));
  }
  return absl::OkStatus();
}

// ---- All settings

class Definer {
 public:
  Definer(const ExportFile& file, ManagerScope scope) : scope_(scope) {
    definition_.file = file;
  }

  absl::StatusOr<ExportDefinition> Define() {
    for (const auto step :
         {&Definer::TakeSections, &Definer::TakeUnitKeys, &Definer::TakeOptions,
          &Definer::TakeConnections, &Definer::TakeExport}) {
      if (absl::Status status = (this->*step)(); !status.ok()) return status;
    }
    return definition_;
  }

 private:
  const ExportSetting* Last(absl::string_view key) const {
    return LastSettingOf(definition_.file, kExport, key);
  }
  std::string ValueOf(absl::string_view key) const {
    const ExportSetting* setting = Last(key);
    return setting == nullptr ? "" : setting->value;
  }

  absl::Status TakeSections() { return CheckSections(definition_.file); }

  absl::Status TakeUnitKeys() {
    if (const ExportSetting* enabled = Last("Enabled"); enabled != nullptr) {
      const absl::StatusOr<bool> value = BooleanOf(*enabled);
      if (!value.ok()) return value.status();
      definition_.is_enabled = *value;
    }
    if (const ExportSetting* mode = Last("Mode"); mode != nullptr) {
      const absl::StatusOr<bool> value =
          WordOf(*mode, "connection", "listener");
      if (!value.ok()) return value.status();
      definition_.is_listener = *value;
    }
    for (const char* key : {"User", "Group"}) {
      const ExportSetting* setting = Last(key);
      if (setting == nullptr) continue;
      if (absl::Status status = CheckUser(*setting); !status.ok())
        return status;
    }
    definition_.user = ValueOf("User");
    definition_.group = ValueOf("Group");
    for (const ExportSetting* more :
         SettingsOf(definition_.file, kExport, "Options")) {
      absl::StrAppend(&definition_.more_options, " ", more->value);
    }
    return absl::OkStatus();
  }

  absl::Status CheckUser(const ExportSetting& setting) const {
    if (scope_ == ManagerScope::kUser) {
      return ErrorAt(setting,
                     absl::StrCat(setting.key,
                                  "=: a user's own service manager can't "
                                  "change the user; leave it out"));
    }
    const bool valid = std::all_of(
        setting.value.begin(), setting.value.end(), [](unsigned char c) {
          return absl::ascii_isalnum(c) || absl::StrContains("-_.", c);
        });
    if (valid) return absl::OkStatus();
    return ErrorAt(setting,
                   absl::StrCat(setting.key, "=", ShownValue(setting.value),
                                ": this is no name and no number; use letters, "
                                "digits, '-', '_' and '.'"));
  }

  // With a space in the path of LoadCredential=, systemd 254 and later start no
  // service: the path is cut there on its way to systemd-executor.
  absl::Status CheckCredential(absl::string_view key) const {
    const ExportSetting* setting = Last(key);
    if (setting == nullptr || scope_ == ManagerScope::kUser ||
        !absl::StrContains(setting->value, ' ')) {
      return absl::OkStatus();
    }
    return ErrorAt(*setting,
                   absl::StrCat(key, "=", ShownValue(setting->value),
                                ": systemd can't hand over files whose path "
                                "has a space; choose a path without one"));
  }

  absl::Status TakeOptions() {
    Options options;
    std::vector<const OptionRow*> given;
    for (const OptionRow& row : OptionTable()) {
      if (row.key == nullptr) continue;
      std::vector<const ExportSetting*> settings =
          SettingsOf(definition_.file, kExport, row.key);
      if (settings.empty()) continue;
      if (row.key_kind != KeyKind::kList) {
        settings.erase(settings.begin(), settings.end() - 1);
      }
      std::vector<std::string> arguments;
      absl::Status status = Apply(row, settings, options, arguments);
      if (!status.ok()) return status;
      if (arguments.empty()) continue;
      given.push_back(&row);
      if (IsPlaced(row)) continue;
      definition_.arguments.insert(definition_.arguments.end(),
                                   arguments.begin(), arguments.end());
    }
    definition_.description = options.description;
    definition_.tls_certificates = options.tls.certificates;
    definition_.tls_pre_shared_keys = options.tls.psk_file;
    definition_.rules = options.rules;
    if (absl::Status status = TakeCopies(options.copies); !status.ok()) {
      return status;
    }
    for (const char* key : {"TLSCertificates", "TLSPreSharedKeys"}) {
      absl::Status status = CheckCredential(key);
      if (!status.ok()) return status;
    }
    const absl::Status together = SettleOptions(given, options);
    definition_.is_read_only = options.export_settings.read_only;
    return together.ok() ? together
                         : ErrorOfSeveral(InKeys(together.message()));
  }

  absl::Status TakeCopies(const CopySettings& copies) {
    // The rules may give copies.
    const bool may_have_copies =
        copies.enabled ||
        (!definition_.rules.empty() && !copies.directory.empty());
    definition_.has_copies = may_have_copies && !copies.in_memory;
    definition_.keeps_copies = copies.keep;
    if (!definition_.has_copies || copies.directory.empty()) {
      return absl::OkStatus();
    }
    definition_.copy_directory = copies.directory;
    if (copies.directory[0] == '/') return absl::OkStatus();
    return ErrorAt(*Last("CowDir"),
                   absl::StrCat("CowDir=", ShownValue(copies.directory),
                                ": use an absolute path, or memory"));
  }

  // Options whose arguments the units decide.
  static bool IsPlaced(const OptionRow& row) {
    return row.key_kind == KeyKind::kPath ||
           row.key == absl::string_view("MaxConnections");
  }

  // An error of settings that don't fit together belongs to the line of the
  // first one that it names.
  absl::Status ErrorOfSeveral(const std::string& message) const {
    const absl::string_view key =
        absl::string_view(message).substr(0, message.find('='));
    const ExportSetting* setting = Last(key);
    if (setting != nullptr) return ErrorAt(*setting, message);
    return absl::InvalidArgumentError(
        absl::StrCat(definition_.file.sources.path, ": ", message));
  }

  // The number of connections is a matter of the socket, or of the listener.
  absl::Status TakeConnections() {
    const ExportSetting* idle = Last("IdleExit");
    const ExportSetting* per_source = Last("MaxConnectionsPerSource");
    if (idle != nullptr && !definition_.is_listener) {
      return ErrorAt(*idle,
                     "IdleExit= needs Mode=listener: a process for one "
                     "connection exits with it");
    }
    if (per_source != nullptr && definition_.is_listener) {
      return ErrorAt(*per_source,
                     "MaxConnectionsPerSource= needs Mode=connection: a "
                     "listener has only MaxConnections=");
    }
    uint32_t number = 0;
    if (per_source != nullptr &&
        (!absl::SimpleAtoi(per_source->value, &number) || number == 0)) {
      return ErrorAt(*per_source, absl::StrCat("MaxConnectionsPerSource=",
                                               ShownValue(per_source->value),
                                               ": a number from 1 on is "
                                               "needed"));
    }
    definition_.max_connections = ValueOf("MaxConnections");
    definition_.max_connections_per_source = ValueOf("MaxConnectionsPerSource");
    return absl::OkStatus();
  }

  absl::Status TakeExport() {
    const ExportSetting* file = Last("File");
    const ExportSetting* directory = Last("Directory");
    if (file != nullptr && directory != nullptr) {
      return ErrorAt(*directory,
                     "both File= and Directory=; leave out one of them");
    }
    definition_.is_directory = directory != nullptr;
    const ExportSetting* setting = file != nullptr ? file : directory;
    if (setting == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(definition_.file.sources.path,
                       ": nothing to serve; [Export] needs File=, or "
                       "Directory="));
    }
    definition_.path = setting->value;
    return CheckPath(*setting);
  }

  const ManagerScope scope_;
  ExportDefinition definition_;
};

}  // namespace

absl::StatusOr<ExportDefinition> DefineExport(const ExportFile& file,
                                              ManagerScope scope) {
  return Definer(file, scope).Define();
}

absl::Span<const char* const> UnitKeys() { return kUnitKeys; }

bool IsUnitSection(absl::string_view section) {
  return std::any_of(std::begin(kUnitSections), std::end(kUnitSections),
                     [&](const char* known) { return section == known; });
}

}  // namespace nbdinetd
