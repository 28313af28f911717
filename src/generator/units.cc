#include "generator/units.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "generator/shipped_units.h"
#include "generator/socket_address.h"

namespace nbdinetd {
namespace {

using What = CarefulLook::Seen::What;

// In a user's own service manager, which lacks the privileges for them, these
// settings of the shipped units fail or have no effect.
constexpr const char* kOfRoot[] = {
    "CapabilityBoundingSet", "DevicePolicy",         "Slice",
    "KeyringMode",           "ProtectSystem",        "ReadWritePaths",
    "ProtectHome",           "PrivateTmp",           "TemporaryFileSystem",
    "BindReadOnlyPaths",     "ProtectProc",          "ProcSubset",
    "ProtectKernelTunables", "ProtectControlGroups", "PrivateNetwork",
    "IPAddressDeny",         "PrivateIPC",           "ProtectClock",
    "ProtectHostname",       "ProtectKernelModules", "ProtectKernelLogs",
    "PrivateMounts",         "PrivateDevices"};

// What a listener's service sees empty, and the setting for which it does.
struct HiddenDirectory {
  const char* path;
  const char* setting;
};
constexpr HiddenDirectory kHiddenDirectories[] = {
    {"/home/", "ProtectHome"},     {"/root/", "ProtectHome"},
    {"/run/user/", "ProtectHome"}, {"/run/", "TemporaryFileSystem"},
    {"/tmp/", "PrivateTmp"},       {"/var/tmp/", "PrivateTmp"}};

constexpr const char* kRequiredTlsFiles[] = {"server-cert.pem",
                                             "server-key.pem"};
constexpr const char* kOptionalTlsFiles[] = {"ca-cert.pem", "ca-crl.pem"};
constexpr char kPreSharedKeys[] = "keys.psk";

std::string SocketName(const ExportDefinition& definition) {
  return absl::StrCat("nbdinetd-", definition.file.sources.name, ".socket");
}

std::string ServiceName(const ExportDefinition& definition) {
  return absl::StrCat("nbdinetd-", definition.file.sources.name,
                      definition.is_listener ? ".service" : "@.service");
}

// The slice around an export's connections. A dash in its name would make one
// slice in another.
std::string SliceName(const ExportDefinition& definition) {
  return absl::StrCat(
      "system-nbdinetd-",
      absl::StrReplaceAll(definition.file.sources.name, {{"-", "\\x2d"}}),
      ".slice");
}

// The start of each unit.
UnitChanges Changes(const ExportDefinition& definition,
                    absl::string_view what) {
  const ExportSources& sources = definition.file.sources;
  UnitChanges changes;
  changes.head =
      absl::StrCat("# Made by nbdinetd-generator(8) from ", sources.path,
                   ". After a change there, run\n# systemctl daemon-reload.\n");
  changes.Remove("Install", "");
  changes.Add("Unit", "SourcePath", PlainValue(sources.path));
  const std::string description =
      definition.description.empty()
          ? ""
          : absl::StrCat(" (", definition.description, ")");
  changes.Replace(
      "Unit", "Description",
      PlainValue(absl::StrCat(what, " ", sources.name, description)));
  changes.Replace("Unit", "Documentation",
                  "man:nbdinetd.export(5) man:nbdinetd(8)");
  return changes;
}

// Whether a setting of [Unit] is one for the socket, too. Others order and bind
// the service; on a socket, which starts early, they would lead to circles.
bool IsForBoth(const ExportSetting& setting) {
  return setting.key == "Description" || setting.key == "Documentation" ||
         absl::StartsWith(setting.key, "Condition") ||
         absl::StartsWith(setting.key, "Assert");
}

bool IsOfDevices(const ExportSetting& setting) {
  return setting.key == "DeviceAllow" || setting.key == "DevicePolicy";
}

void AddSetting(const ExportSetting& setting, UnitChanges& changes) {
  changes.Add(setting.section, setting.key, setting.value);
}

// Whether BindPaths= can show a path in a hidden directory. systemd 254 and
// later lose paths with quotes or control characters on their way to
// systemd-executor, and bind a hidden directory itself read-only.
bool CanBind(const HiddenDirectory& hidden, absl::string_view path) {
  return absl::StrCat(path, "/") != hidden.path &&
         std::all_of(path.begin(), path.end(), [](unsigned char c) {
           return c != '"' && c != '\'' && !absl::ascii_iscntrl(c);
         });
}

// Lets a listener's service write to a file, or to a directory. A file comes
// with its directory, so that a file that replaces it is seen, too.
void AddWritablePath(const UnitMaker::Place& place, UnitChanges& changes) {
  if (!place.is_written_to) return;
  const size_t end = place.is_directory ? 0 : place.path.rfind('/');
  changes.Add("Service", "ReadWritePaths",
              PathWord(absl::StrCat(
                  "-", end == 0 ? place.path : place.path.substr(0, end))));
}

// What must be seen of the rules: their directory, so that a file that replaces
// them is seen, too, unless that would show all of what is hidden.
std::string PlaceOfRules(const std::string& path) {
  const std::string directory = path.substr(0, path.rfind('/') + 1);
  const bool is_hidden = std::any_of(
      std::begin(kHiddenDirectories), std::end(kHiddenDirectories),
      [&](const HiddenDirectory& hidden) { return directory == hidden.path; });
  return is_hidden || directory == "/"
             ? path
             : directory.substr(0, directory.size() - 1);
}

// The links that [Install] asks for.
absl::StatusOr<std::vector<UnitLink>> Links(
    const ExportDefinition& definition) {
  const std::string socket = SocketName(definition);
  std::vector<UnitLink> links;
  bool is_default = true;
  for (const ExportSetting& setting : definition.file.settings) {
    if (setting.section != "Install") continue;
    const bool is_alias = setting.key == "Alias";
    const std::string suffix = setting.key == "WantedBy"     ? ".wants/"
                               : setting.key == "RequiredBy" ? ".requires/"
                               : setting.key == "UpheldBy"   ? ".upholds/"
                                                             : "";
    if (!is_alias && suffix.empty()) {
      return ErrorAt(
          setting, absl::StrCat(ShownValue(setting.key),
                                "= has no effect in [Install]; use WantedBy=, "
                                "RequiredBy=, UpheldBy= or Alias="));
    }
    if (!is_alias) is_default = false;
    const std::string end =
        is_alias ? std::string() : absl::StrCat(suffix, socket);
    if (setting.value.empty()) {
      links.erase(std::remove_if(links.begin(), links.end(),
                                 [&](const UnitLink& link) {
                                   return absl::StrContains(link.name, '/')
                                              ? !is_alias && absl::EndsWith(
                                                                 link.name, end)
                                              : is_alias;
                                 }),
                  links.end());
    }
    for (const absl::string_view unit :
         absl::StrSplit(setting.value, ' ', absl::SkipWhitespace())) {
      // The names of other exports' units, and of the shipped ones.
      if (is_alias &&
          (unit == "nbdinetd.socket" || absl::StartsWith(unit, "nbdinetd-"))) {
        return ErrorAt(setting, absl::StrCat("Alias=", ShownValue(unit),
                                             ": another unit of nbdinetd has, "
                                             "or could have, this name; choose "
                                             "one that begins differently"));
      }
      if (absl::StrContains(unit, '/') || !absl::StrContains(unit, '.') ||
          unit[0] == '.' || (is_alias && !absl::EndsWith(unit, ".socket"))) {
        return ErrorAt(
            setting,
            absl::StrCat(setting.key, "=", ShownValue(unit),
                         is_alias ? ": this is no name of a socket unit"
                                  : ": this is no name of a unit"));
      }
      links.push_back({absl::StrCat(unit, end),
                       is_alias ? socket : absl::StrCat("../", socket)});
    }
  }
  if (is_default) {
    links.push_back({absl::StrCat("sockets.target.wants/", socket),
                     absl::StrCat("../", socket)});
  }
  if (!definition.is_enabled) links.clear();
  return links;
}

}  // namespace

UnitMaker::UnitMaker(ManagerScope scope, CarefulLook look)
    : scope_(scope),
      look_(std::move(look)),
      connection_socket_(kConnectionSocket),
      connection_service_(kConnectionService),
      connection_slice_(kConnectionSlice),
      listener_socket_(kListenerSocket),
      listener_service_(kListenerService) {}

absl::StatusOr<ExportUnits> UnitMaker::Make(
    const ExportDefinition& definition) const {
  absl::StatusOr<std::vector<UnitLink>> links = Links(definition);
  if (!links.ok()) return links.status();
  ExportUnits units;
  units.links = *std::move(links);
  units.files.push_back({SocketName(definition), SocketText(definition)});
  units.files.push_back({ServiceName(definition), ServiceText(definition)});
  if (HasSlice(definition)) {
    units.files.push_back({SliceName(definition), SliceText(definition)});
  }
  return units;
}

// Whether the device policy is that of a slice, as in the shipped units, and
// not that of the service, where it would cost each connection some time.
bool UnitMaker::HasSlice(const ExportDefinition& definition) const {
  return scope_ == ManagerScope::kSystem && !definition.is_listener &&
         LastSettingOf(definition.file, "Service", "Slice") == nullptr;
}

// Adds the device policy of the export, to its slice or to the service.
void UnitMaker::AddPolicy(const ExportDefinition& definition,
                          UnitChanges& changes) const {
  if (HasSlice(definition)) {
    changes.Replace("Service", "Slice", SliceName(definition));
    return;
  }
  if (!definition.is_listener) {
    // The slice is one that knows nothing of exports.
    changes.Remove("Service", "Slice");
    for (const ExportSetting& setting : connection_slice_.settings) {
      if (setting.section == "Slice" && setting.key != "DeviceAllow") {
        changes.Add("Service", setting.key, setting.value);
      }
    }
  }
  AddDevices(definition, "Service", changes);
}

std::string UnitMaker::SliceText(const ExportDefinition& definition) const {
  UnitChanges changes = Changes(definition, "NBD connections of");
  AddDevices(definition, "Slice", changes);
  for (const ExportSetting& setting : definition.file.settings) {
    if (setting.section == "Service" && IsOfDevices(setting)) {
      changes.Add("Slice", setting.key, setting.value);
    }
  }
  return Render(connection_slice_, changes);
}

std::string UnitMaker::SocketText(const ExportDefinition& definition) const {
  UnitChanges changes = Changes(definition, "NBD socket of");
  const ExportFile& file = definition.file;
  const std::vector<const ExportSetting*> addresses =
      SettingsOf(file, "Socket", "ListenStream");
  if (!addresses.empty()) changes.Remove("Socket", "ListenStream");
  if (std::any_of(addresses.begin(), addresses.end(), [](const auto* address) {
        return SocketAddress(address->value).IsPath();
      })) {
    changes.Add("Socket", "SocketMode", "0660");
  }
  if (!definition.is_listener && !definition.max_connections.empty()) {
    changes.Replace("Socket", "MaxConnections", definition.max_connections);
  }
  if (!definition.max_connections_per_source.empty()) {
    changes.Replace("Socket", "MaxConnectionsPerSource",
                    definition.max_connections_per_source);
  }
  for (const ExportSetting& setting : file.settings) {
    if (setting.section == "Socket" ||
        (setting.section == "Unit" && IsForBoth(setting))) {
      AddSetting(setting, changes);
    }
  }
  return Render(definition.is_listener ? listener_socket_ : connection_socket_,
                changes);
}

std::string UnitMaker::ServiceText(const ExportDefinition& definition) const {
  const ShippedUnit& shipped =
      definition.is_listener ? listener_service_ : connection_service_;
  UnitChanges changes = Changes(definition, "NBD export");
  changes.Add("Unit", "RequiresMountsFor", PathWord(definition.path));
  // systemd doesn't follow links there.
  const std::string target = look_.At(definition.path).path;
  if (target != definition.path && !absl::StartsWith(target, "/dev/")) {
    changes.Add("Unit", "RequiresMountsFor", PathWord(target));
  }
  changes.Remove("Service", "Environment");
  changes.Remove("Service", "EnvironmentFile");
  changes.Replace("Service", "ExecStart", Command(definition, shipped));
  if (scope_ == ManagerScope::kUser) {
    for (const char* key : kOfRoot) changes.Remove("Service", key);
  } else {
    if (!definition.user.empty()) {
      changes.Add("Service", "User", definition.user);
    }
    if (!definition.group.empty()) {
      changes.Add("Service", "Group", definition.group);
    }
    AddTls(definition, changes);
    AddPolicy(definition, changes);
    if (shipped.Has("Service", "ReadWritePaths")) {
      changes.Remove("Service", "ReadWritePaths");
      AddVisiblePath(
          {definition.path, !definition.is_read_only, definition.is_directory},
          changes);
      if (!definition.copy_directory.empty()) {
        AddVisiblePath({definition.copy_directory, true, true}, changes);
      }
      if (!definition.rules.empty()) {
        AddVisiblePath({PlaceOfRules(definition.rules), false, true}, changes);
      }
    }
  }
  AddCopies(definition, changes);
  if (!definition.rules.empty()) {
    changes.Add("Unit", "RequiresMountsFor", PathWord(definition.rules));
  }
  // Kept copies need to know whether the machine has been restarted, from
  // /proc/sys.
  if (definition.keeps_copies && shipped.Has("Service", "ProcSubset")) {
    changes.Replace("Service", "ProcSubset", "all");
  }
  for (const ExportSetting& setting : definition.file.settings) {
    const bool is_of_slice = HasSlice(definition) && IsOfDevices(setting);
    if ((setting.section == "Service" && !is_of_slice) ||
        setting.section == "Unit") {
      AddSetting(setting, changes);
    }
  }
  return Render(shipped, changes);
}

// The shipped command, with the arguments in place of its variables.
std::string UnitMaker::Command(const ExportDefinition& definition,
                               const ShippedUnit& shipped) const {
  std::string options;
  const auto add = [&options](absl::string_view word) {
    absl::StrAppend(&options, options.empty() ? "" : " ", word);
  };
  for (const std::string& argument : definition.arguments) {
    add(CommandWord(argument));
  }
  if (definition.is_listener && !definition.max_connections.empty()) {
    add(absl::StrCat("--max-connections=", definition.max_connections));
  }
  if (!definition.tls_certificates.empty()) {
    add(HasCredentials(definition)
            ? "--tls-certificates=${CREDENTIALS_DIRECTORY}"
            : CommandWord(absl::StrCat("--tls-certificates=",
                                       definition.tls_certificates)));
  }
  if (!definition.tls_pre_shared_keys.empty()) {
    add(scope_ == ManagerScope::kSystem
            ? absl::StrCat("--tls-psk=${CREDENTIALS_DIRECTORY}/",
                           kPreSharedKeys)
            : CommandWord(
                  absl::StrCat("--tls-psk=", definition.tls_pre_shared_keys)));
  }
  if (!definition.rules.empty()) {
    add(CommandWord(absl::StrCat("--rules=", definition.rules)));
  }
  if (definition.is_directory) {
    add(CommandWord(absl::StrCat("--directory=", definition.path)));
  }
  absl::StrAppend(&options, definition.more_options);
  const std::string file =
      definition.is_directory
          ? ""
          : absl::StrCat("-- ", CommandWord(definition.path));
  return absl::StrReplaceAll(
      shipped.ValueOf("Service", "ExecStart"),
      {{"$NBDINETD_OPTIONS", options}, {"-- ${NBDINETD_EXPORT}", file}});
}

// Whether the certificates are credentials. nbdinetd itself reads a directory
// that isn't there yet, which may have a revocation list.
bool UnitMaker::HasCredentials(const ExportDefinition& definition) const {
  if (scope_ == ManagerScope::kUser) return false;
  const std::string path =
      absl::StrCat(definition.tls_certificates, "/", kRequiredTlsFiles[0]);
  return look_.At(path).what == What::kFound;
}

// systemd reads the keys, as root, and only the service can read its copies.
void UnitMaker::AddTls(const ExportDefinition& definition,
                       UnitChanges& changes) const {
  const std::string& directory = definition.tls_certificates;
  const auto load = [&changes](absl::string_view id, absl::string_view path) {
    changes.Add("Service", "LoadCredential",
                absl::StrCat(id, ":", PlainValue(path)));
  };
  if (!directory.empty()) {
    changes.Add("Unit", "RequiresMountsFor", PathWord(directory));
    if (HasCredentials(definition)) {
      for (const char* name : kRequiredTlsFiles) {
        load(name, absl::StrCat(directory, "/", name));
      }
      for (const char* name : kOptionalTlsFiles) {
        const std::string path = absl::StrCat(directory, "/", name);
        // A link may lead to where nothing is mounted yet.
        struct stat status;
        if (lstat(path.c_str(), &status) == 0) load(name, path);
      }
    }
  }
  if (!definition.tls_pre_shared_keys.empty()) {
    changes.Add("Unit", "RequiresMountsFor",
                PathWord(definition.tls_pre_shared_keys));
    load(kPreSharedKeys, definition.tls_pre_shared_keys);
  }
}

// The one device that is served; for a file, none. A directory in /dev can have
// any block device.
void UnitMaker::AddDevices(const ExportDefinition& definition,
                           const std::string& section,
                           UnitChanges& changes) const {
  changes.Remove(section, "DeviceAllow");
  const CarefulLook::Seen seen = look_.At(definition.path);
  const std::string rights = definition.is_read_only ? " r" : " rw";
  if (definition.is_directory) {
    if (absl::StartsWith(absl::StrCat(seen.path, "/"), "/dev/")) {
      changes.Add(section, "DeviceAllow", absl::StrCat("block-*", rights));
    }
  } else if (absl::StartsWith(seen.path, "/dev/")) {
    changes.Add(section, "DeviceAllow",
                absl::StrCat(PathWord(seen.path), rights));
  } else if (seen.what == What::kFound && S_ISBLK(seen.status.st_mode)) {
    changes.Add(section, "DeviceAllow",
                absl::StrCat("/dev/block/", major(seen.status.st_rdev), ":",
                             minor(seen.status.st_rdev), rights));
  }
}

// Copies have no names, unless they are kept. The directory is the export's
// own, since its service may have its own user.
void UnitMaker::AddCopies(const ExportDefinition& definition,
                          UnitChanges& changes) const {
  if (!definition.has_copies) return;
  if (!definition.copy_directory.empty()) {
    changes.Add("Unit", "RequiresMountsFor",
                PathWord(definition.copy_directory));
    return;
  }
  changes.Add(
      "Service", "StateDirectory",
      PathWord(absl::StrCat("nbdinetd/", definition.file.sources.name)));
  changes.Add("Service", "StateDirectoryMode", "0700");
}

// The shipped listener's service sees most of the system read-only, and some
// directories empty. There a place is alone, if systemd can do that.
void UnitMaker::AddVisiblePath(const Place& place, UnitChanges& changes) const {
  std::vector<std::string> paths = {place.path};
  const CarefulLook::Seen seen = look_.At(place.path);
  if (seen.path != place.path) paths.push_back(seen.path);
  for (const std::string& path : paths) {
    if (absl::StartsWith(path, "/dev/")) continue;
    const auto is_inside = [&](const HiddenDirectory& directory) {
      return absl::StartsWith(absl::StrCat(path, "/"), directory.path);
    };
    const auto hidden = std::find_if(std::begin(kHiddenDirectories),
                                     std::end(kHiddenDirectories), is_inside);
    if (hidden == std::end(kHiddenDirectories)) {
      AddWritablePath({path, place.is_written_to, place.is_directory}, changes);
    } else if (CanBind(*hidden, path)) {
      changes.Add("Service",
                  place.is_written_to ? "BindPaths" : "BindReadOnlyPaths",
                  BindPathWord(absl::StrCat("-", path)));
    } else {
      for (const HiddenDirectory& directory : kHiddenDirectories) {
        if (is_inside(directory)) changes.Remove("Service", directory.setting);
      }
      AddWritablePath({path, place.is_written_to, place.is_directory}, changes);
    }
  }
}

}  // namespace nbdinetd
