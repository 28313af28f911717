#include "generator/generated_exports.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "generator/export_definition.h"
#include "generator/socket_address.h"

namespace nbdinetd {
namespace {

// An address, and the export that listens on it.
struct TakenAddress {
  SocketAddress address;
  std::string name;
};

// The settings of [Socket] that let two sockets have one address.
bool MayShareAddress(const ExportFile& file) {
  return LastSettingOf(file, "Socket", "ReusePort") != nullptr ||
         LastSettingOf(file, "Socket", "BindToDevice") != nullptr;
}

// Takes the addresses of an export, unless another one has one of them.
absl::Status TakeAddresses(const ExportFile& file,
                           std::vector<TakenAddress>& taken) {
  std::vector<std::pair<SocketAddress, const ExportSetting*>> addresses;
  for (const ExportSetting* setting :
       SettingsOf(file, "Socket", "ListenStream")) {
    addresses.emplace_back(setting->value, setting);
  }
  if (addresses.empty()) addresses.emplace_back("10809", nullptr);
  for (const auto& [address, setting] : addresses) {
    for (const TakenAddress& other : taken) {
      if (!address.CollidesWith(other.address)) continue;
      const std::string complaint = absl::StrCat(
          "ListenStream=", ShownValue(address.text()), ": export ", other.name,
          " listens on ",
          address.text() == other.address.text()
              ? "it"
              : ShownValue(other.address.text()),
          " already; choose another address, or set Enabled=no in one of the "
          "files");
      return setting != nullptr
                 ? ErrorAt(*setting, complaint)
                 : absl::InvalidArgumentError(absl::StrCat(
                       file.sources.path, ": without ", complaint));
    }
  }
  for (auto& [address, setting] : addresses) {
    taken.push_back({std::move(address), file.sources.name});
  }
  return absl::OkStatus();
}

absl::Status Generate(const ExportSources& sources, ManagerScope scope,
                      const UnitMaker& maker, std::vector<TakenAddress>& taken,
                      ExportUnits& units) {
  const absl::StatusOr<ExportFile> file = ReadExport(sources);
  if (!file.ok()) return file.status();
  const absl::StatusOr<ExportDefinition> definition =
      DefineExport(*file, scope);
  if (!definition.ok()) return definition.status();
  absl::StatusOr<ExportUnits> made = maker.Make(*definition);
  if (!made.ok()) return made.status();
  units = *std::move(made);
  if (!definition->is_enabled || MayShareAddress(*file)) {
    return absl::OkStatus();
  }
  absl::Status addresses = TakeAddresses(*file, taken);
  if (!addresses.ok()) units.links.clear();
  return addresses;
}

}  // namespace

std::vector<GeneratedExport> GenerateExports(
    const std::vector<ExportSources>& exports, ManagerScope scope) {
  const UnitMaker maker(scope);
  std::vector<TakenAddress> taken;
  std::vector<GeneratedExport> generated;
  for (const ExportSources& sources : exports) {
    GeneratedExport made{sources, {}, {}};
    made.status = Generate(sources, scope, maker, taken, made.units);
    generated.push_back(std::move(made));
  }
  return generated;
}

}  // namespace nbdinetd
