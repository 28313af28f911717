#include "ctl/export_files.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "generator/generated_exports.h"

namespace nbdinetd::ctl {
namespace {

bool HasUnits(const std::vector<ManagedExport>& exports,
              const std::string& name) {
  return std::any_of(exports.begin(), exports.end(),
                     [&](const ManagedExport& target) {
                       return target.generated && target.name == name;
                     });
}

ManagedExport WithoutUnits(const GeneratedExport& generated,
                           const Where& where) {
  ManagedExport target;
  target.name = generated.sources.name;
  target.socket = absl::StrCat("nbdinetd-", target.name, ".socket");
  target.service = absl::StrCat("nbdinetd-", target.name, "@.service");
  target.source_path = generated.sources.path;
  target.generated = true;
  target.has_units = false;
  target.state = generated.status.ok() ? "stopped" : "failed";
  target.reason =
      generated.status.ok()
          ? absl::StrCat("its units aren't made yet: run 'systemctl ",
                         where.user ? "--user " : "", "daemon-reload'")
          : std::string(generated.status.message());
  return target;
}

// The export as nbdinetd-generator would make it now; nullopt if it has no
// files.
std::optional<GeneratedExport> Generate(const Where& where,
                                        const std::string& name) {
  const std::vector<ExportSources> files =
      FindExports(ExportDirectories(ScopeOf(where))).exports;
  // All of them: two may have the same address.
  for (GeneratedExport& generated : GenerateExports(files, ScopeOf(where))) {
    if (generated.sources.name == name) return std::move(generated);
  }
  return std::nullopt;
}

absl::Status FilesGone() {
  return absl::NotFoundError("its .export file is gone");
}

}  // namespace

ManagerScope ScopeOf(const Where& where) {
  return where.user ? ManagerScope::kUser : ManagerScope::kSystem;
}

void AddFilesWithoutUnits(const Where& where,
                          std::vector<ManagedExport>& exports) {
  const std::vector<ExportSources> files =
      FindExports(ExportDirectories(ScopeOf(where))).exports;
  const bool all = std::all_of(
      files.begin(), files.end(),
      [&](const ExportSources& file) { return HasUnits(exports, file.name); });
  if (all) return;
  // All of them: two may have the same address.
  for (const GeneratedExport& generated :
       GenerateExports(files, ScopeOf(where))) {
    if (!HasUnits(exports, generated.sources.name)) {
      exports.push_back(WithoutUnits(generated, where));
    }
  }
}

std::map<std::string, std::string> ErrorsOfFiles(const Where& where) {
  std::map<std::string, std::string> errors;
  // All of them: two may have the same address.
  const std::vector<ExportSources> files =
      FindExports(ExportDirectories(ScopeOf(where))).exports;
  for (const GeneratedExport& generated :
       GenerateExports(files, ScopeOf(where))) {
    if (generated.status.ok()) continue;
    errors[generated.sources.name] = std::string(generated.status.message());
  }
  return errors;
}

std::string ErrorOfFile(const std::string& path, const Where& where) {
  const std::vector<GeneratedExport> generated =
      GenerateExports({SourcesOfFile(path)}, ScopeOf(where));
  if (generated.empty() || generated[0].status.ok()) return "";
  return std::string(generated[0].status.message());
}

absl::Status CheckEnabled(const Where& where, const std::string& name,
                          bool enabled) {
  const std::optional<GeneratedExport> generated = Generate(where, name);
  if (!generated.has_value()) return FilesGone();
  const absl::StatusOr<ExportFile> file = ReadExport(generated->sources);
  if (!file.ok()) return enabled ? file.status() : absl::OkStatus();
  const ExportSetting* setting = LastSettingOf(*file, "Export", "Enabled");
  if (setting == nullptr) {
    // The last assignment is empty, and restores the default.
    if (enabled) return generated->status;
    return absl::FailedPreconditionError("a later drop-in has \"Enabled=\"");
  }
  if (BooleanOf(*setting).value_or(enabled) != enabled) {
    return ErrorAt(*setting, absl::StrCat("Enabled=", setting->value,
                                          " is read later, and holds"));
  }
  return enabled ? generated->status : absl::OkStatus();
}

absl::Status CheckList(const Where& where, const std::string& name,
                       absl::string_view key,
                       const std::vector<std::string>& values) {
  const std::optional<GeneratedExport> generated = Generate(where, name);
  if (!generated.has_value()) return FilesGone();
  const absl::StatusOr<ExportFile> file = ReadExport(generated->sources);
  if (!file.ok()) return file.status();
  const std::vector<const ExportSetting*> settings =
      SettingsOf(*file, "Export", key);
  for (size_t i = 0; i < settings.size(); ++i) {
    if (i < values.size() && settings[i]->value == values[i]) continue;
    return ErrorAt(*settings[i], absl::StrCat(key, "=", settings[i]->value,
                                              " is read as well, and holds"));
  }
  if (settings.size() < values.size()) {
    return absl::FailedPreconditionError(
        absl::StrCat("a later drop-in has \"", key, "=\""));
  }
  return generated->status;
}

}  // namespace nbdinetd::ctl
