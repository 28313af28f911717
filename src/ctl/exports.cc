#include "ctl/exports.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <fstream>
#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/errors.h"
#include "cli/export_size.h"
#include "ctl/drained_mark.h"
#include "ctl/export_files.h"
#include "ctl/stat_in_time.h"

namespace nbdinetd::ctl {
namespace {

constexpr absl::string_view kSocket = ".socket";
constexpr absl::string_view kService = ".service";
constexpr absl::string_view kExportFile = ".export";
constexpr absl::string_view kGeneratedPrefix = "nbdinetd-";

absl::string_view BaseName(absl::string_view path) {
  return path.substr(path.rfind('/') + 1);
}

// "golden" of "/etc/nbdinetd/golden.export"; empty for another file.
std::string NameOfExportFile(absl::string_view path) {
  absl::string_view name = BaseName(path);
  return absl::ConsumeSuffix(&name, kExportFile) ? std::string(name) : "";
}

std::string NameOfUnit(absl::string_view unit) {
  if (!absl::ConsumeSuffix(&unit, kSocket)) {
    absl::ConsumeSuffix(&unit, kService);
  }
  return std::string(unit);
}

void AddReason(const std::string& reason, ManagedExport& target) {
  if (reason.empty()) return;
  absl::StrAppend(&target.reason, target.reason.empty() ? "" : "; ", reason);
}

std::vector<std::string> ListenAddresses(const Properties& socket) {
  std::vector<std::string> addresses;
  for (const auto& [type, address] : socket.Get<StringPairs>("Listen")) {
    addresses.push_back(address);
  }
  return addresses;
}

// Reads the arguments of the service's command; false if it doesn't run
// nbdinetd. Variables come from Environment= and, on this machine, from
// EnvironmentFile=.
bool ReadCommand(const Properties& service, bool local, ManagedExport& target) {
  const StringLists commands = service.Get<StringLists>("ExecStart");
  if (commands.empty() || !RunsNbdinetd(commands[0])) return false;
  // The program's path and argv[0] precede the arguments.
  const absl::Span<const std::string> words(commands[0]);
  const auto arguments = words.subspan(std::min<size_t>(2, words.size()));
  Environment environment;
  for (const std::string& assignment :
       service.Get<std::vector<std::string>>("Environment")) {
    const size_t equals = assignment.find('=');
    if (equals == std::string::npos) continue;
    environment[assignment.substr(0, equals)] = assignment.substr(equals + 1);
  }
  for (const auto& [path, ignored] :
       service.Get<StringPairs>("EnvironmentFiles")) {
    errno = 0;
    const bool missing =
        local && !ReadEnvironmentFile(path, environment) && errno == ENOENT;
    // An absent file is as good as an empty one to systemd.
    if (!local || (!missing && errno != 0)) target.arguments_known = false;
  }
  if (!HasVariable(arguments)) target.arguments_known = true;
  target.arguments = Expanded(arguments, environment);
  target.served = ServedBy(target.arguments);
  target.user = service.Get<std::string>("User");
  const std::vector<std::string> state =
      service.Get<std::vector<std::string>>("StateDirectory");
  if (!state.empty()) target.state_directory = state[0];
  target.has_root = !service.Get<std::string>("RootDirectory").empty() ||
                    !service.Get<std::string>("RootImage").empty();
  return true;
}

// The state of a unit, from the manager's list; a unit that isn't in it is
// stopped.
using Loaded = std::map<std::string, LoadedUnit>;

std::string StateOf(const Loaded& loaded, const std::string& unit,
                    absl::string_view active_word) {
  const auto found = loaded.find(unit);
  if (found == loaded.end()) return "stopped";
  const std::string& state = found->second.active_state;
  // Clients are served while its configuration or its mounts change.
  if (state == "active" || state == "reloading" || state == "refreshing") {
    return std::string(active_word);
  }
  return state == "inactive" || state == "maintenance" ? "stopped" : state;
}

// Sets the state of a unit that is stopped because `nbdinetctl drain` has
// marked it.
void FindMark(Bus& bus, ManagedExport& target) {
  if (target.state != "stopped") return;
  for (const std::string& path :
       bus.GetStrings(target.main_unit(), "Unit", "DropInPaths")) {
    if (BaseName(path) == kDrainDropIn) target.state = "drained";
  }
}

// The service of a socket: a template with Accept=yes.
std::string ServiceOf(Bus& bus, const std::string& socket,
                      bool per_connection) {
  if (per_connection) {
    return absl::StrCat(absl::StripSuffix(socket, kSocket), "@", kService);
  }
  for (const std::string& unit : bus.GetStrings(socket, "Unit", "Triggers")) {
    if (absl::EndsWith(unit, kService)) return unit;
  }
  return absl::StrCat(absl::StripSuffix(socket, kSocket), kService);
}

void ReadSource(Bus& bus, ManagedExport& target) {
  const std::string unit = target.main_unit();
  target.source_path = bus.GetString(unit, "Unit", "SourcePath");
  target.name = NameOfExportFile(target.source_path);
  target.generated = !target.name.empty();
  if (target.generated) return;
  target.name = NameOfUnit(unit);
  target.source_path = bus.GetString(unit, "Unit", "FragmentPath");
}

// The export of a socket; nullopt if its service doesn't run nbdinetd.
std::optional<ManagedExport> ExportOfSocket(Bus& bus, const std::string& socket,
                                            const Loaded& loaded, bool local) {
  const absl::StatusOr<Properties> properties = bus.GetAll(socket, "Socket");
  if (!properties.ok()) return std::nullopt;
  ManagedExport target;
  target.socket = socket;
  target.per_connection = properties->Get<bool>("Accept");
  target.service = ServiceOf(bus, socket, target.per_connection);
  const absl::StatusOr<Properties> service =
      bus.GetAll(ProbeOf(target), "Service");
  if (!service.ok() || !ReadCommand(*service, local, target)) {
    return std::nullopt;
  }
  ReadSource(bus, target);
  target.addresses = ListenAddresses(*properties);
  target.accepted = properties->Get<uint64_t>("NAccepted");
  target.refused = properties->Get<uint64_t>("NRefused");
  target.state = StateOf(loaded, socket, "listening");
  FindMark(bus, target);
  if (target.state == "failed") {
    AddReason(ResultInWords(properties->Get<std::string>("Result")), target);
  } else if (StateOf(loaded, target.service, "") == "failed") {
    target.state = "failed";
    AddReason(ResultInWords(service->Get<std::string>("Result")), target);
  }
  return target;
}

// The export of a service that listens by itself.
std::optional<ManagedExport> ExportOfService(Bus& bus, const std::string& unit,
                                             const Loaded& loaded, bool local) {
  const absl::StatusOr<Properties> service = bus.GetAll(unit, "Service");
  ManagedExport target;
  if (!service.ok() || !ReadCommand(*service, local, target)) {
    return std::nullopt;
  }
  target.service = unit;
  ReadSource(bus, target);
  target.state = StateOf(loaded, unit, "running");
  FindMark(bus, target);
  if (target.state == "failed") {
    AddReason(ResultInWords(service->Get<std::string>("Result")), target);
  }
  return target;
}

// The unit without its instance: "nbdinetd@.service".
std::string TemplateOf(const std::string& unit) {
  const size_t at = unit.find('@');
  return at == std::string::npos
             ? ""
             : absl::StrCat(unit.substr(0, at + 1), kService);
}

// The name of the export that a generated unit is of; empty for others.
std::string NameOfGenerated(absl::string_view unit) {
  unit = unit.substr(0, unit.find('@'));
  absl::ConsumeSuffix(&unit, kSocket);
  absl::ConsumeSuffix(&unit, kService);
  if (unit == "nbdinetd-listen") return "";
  return absl::ConsumePrefix(&unit, kGeneratedPrefix) ? std::string(unit) : "";
}

// Adds the exports of whose units only active ones are left.
void AddRemoved(const Loaded& loaded, std::vector<ManagedExport>& exports) {
  std::map<std::string, ManagedExport> removed;
  for (const auto& [name, unit] : loaded) {
    const std::string export_name = NameOfGenerated(name);
    if (unit.has_file || export_name.empty() || unit.active_state == "failed") {
      continue;
    }
    ManagedExport& target = removed[export_name];
    target.name = export_name;
    target.state = "removed";
    target.reason = "its .export file is gone";
    const bool is_instance = !TemplateOf(name).empty();
    target.per_connection = target.per_connection || is_instance;
    if (absl::EndsWith(name, kSocket)) {
      target.socket = name;
    } else {
      target.service = is_instance ? TemplateOf(name) : name;
    }
  }
  for (auto& [name, target] : removed) {
    const bool is_known = std::any_of(
        exports.begin(), exports.end(),
        [&](const ManagedExport& other) { return other.name == target.name; });
    if (is_known) continue;
    if (target.service.empty()) {
      // It has no clients, but its socket still listens.
      target.per_connection = true;
      target.service =
          absl::StrCat(kGeneratedPrefix, target.name, "@", kService);
    }
    exports.push_back(std::move(target));
  }
}

// What this machine shows of the file.
void ExamineFile(ManagedExport& target) {
  const std::string& path = target.served.directory.empty()
                                ? target.served.file
                                : target.served.directory;
  if (path.empty()) return;
  struct stat st;
  const int error = StatInTime(path, &st);
  if (error == ENOENT || error == ENOTDIR) {
    AddReason(
        target.served.directory.empty() ? "no such file" : "no such directory",
        target);
  } else if (error == ETIMEDOUT) {
    AddReason("the storage doesn't answer", target);
  } else if (error != 0 && error != EACCES) {
    // Storage that is gone. That this user may not look says nothing about it.
    AddReason(ErrnoText(error), target);
  }
}

}  // namespace

std::string ResultInWords(const std::string& result) {
  static const std::map<std::string, std::string> kWords = {
      {"resources", "the socket could not be opened"},
      {"timeout", "timed out"},
      {"exit-code", "nbdinetd exited with an error"},
      {"signal", "nbdinetd was ended by a signal"},
      {"core-dump", "nbdinetd crashed"},
      {"watchdog", "nbdinetd was ended by its watchdog"},
      {"start-limit-hit", "started too often"},
      {"trigger-limit-hit", "too many connections in a short time"},
      {"service-start-limit-hit", "its service was started too often"},
      {"oom-kill", "nbdinetd was ended for lack of memory"}};
  const auto found = kWords.find(result);
  return found == kWords.end() ? result : found->second;
}

std::string ProbeOf(const ManagedExport& target) {
  if (!target.per_connection) return target.service;
  return absl::StrCat(TemplatePrefix(target), "nbdinetctl", kService);
}

std::string TemplatePrefix(const ManagedExport& target) {
  if (!target.per_connection) return "";
  return std::string(absl::StripSuffix(target.service, kService));
}

absl::StatusOr<std::vector<ManagedExport>> FindExportUnits(Bus& bus,
                                                           const Where& where) {
  absl::StatusOr<std::vector<LoadedUnit>> units =
      bus.ListUnits({"*.socket", "*.service"});
  if (!units.ok()) return units.status();
  absl::StatusOr<std::vector<std::string>> files =
      bus.ListUnitFiles({"*.socket"});
  if (!files.ok()) return files.status();
  Loaded loaded;
  std::set<std::string> sockets(files->begin(), files->end());
  for (LoadedUnit& unit : *units) {
    if (unit.has_file && absl::EndsWith(unit.name, kSocket)) {
      sockets.insert(unit.name);
    }
    loaded[unit.name] = std::move(unit);
  }
  const bool local = where.local();
  std::vector<ManagedExport> exports;
  std::set<std::string> services;
  for (const std::string& socket : sockets) {
    if (absl::StrContains(socket, "@.")) continue;
    if (std::optional<ManagedExport> target =
            ExportOfSocket(bus, socket, loaded, local)) {
      services.insert(target->service);
      exports.push_back(*std::move(target));
    }
  }
  for (const auto& [name, unit] : loaded) {
    if (!unit.has_file || !absl::EndsWith(name, kService) ||
        services.count(name) > 0 || services.count(TemplateOf(name)) > 0) {
      continue;
    }
    if (std::optional<ManagedExport> target =
            ExportOfService(bus, name, loaded, local)) {
      exports.push_back(*std::move(target));
    }
  }
  for (ManagedExport& target : exports) {
    if (local) ExamineFile(target);
  }
  AddRemoved(loaded, exports);
  if (local) AddFilesWithoutUnits(where, exports);
  std::sort(exports.begin(), exports.end(),
            [](const ManagedExport& a, const ManagedExport& b) {
              return a.name < b.name;
            });
  return exports;
}

absl::StatusOr<BusAndExports> OpenBusAndExports(const Where& where) {
  absl::StatusOr<Bus> bus = Bus::Open(where);
  if (!bus.ok()) return bus.status();
  absl::StatusOr<std::vector<ManagedExport>> exports =
      FindExportUnits(*bus, where);
  if (!exports.ok()) return exports.status();
  return BusAndExports{*std::move(bus), *std::move(exports)};
}

absl::StatusOr<ManagedExport> FindExport(
    const std::vector<ManagedExport>& exports, absl::string_view name) {
  for (const ManagedExport& target : exports) {
    if (name == target.name) return target;
  }
  for (const ManagedExport& target : exports) {
    if (name == target.socket || name == target.service ||
        name == NameOfUnit(target.main_unit())) {
      return target;
    }
  }
  return absl::NotFoundError(
      absl::StrCat("there is no export ", Quoted(name),
                   ": 'nbdinetctl list' shows the names of all"));
}

std::string ExportNameOfUnit(const std::vector<ManagedExport>& exports,
                             absl::string_view unit) {
  for (const ManagedExport& target : exports) {
    const std::string prefix = TemplatePrefix(target);
    if (unit == target.service ||
        (!prefix.empty() && absl::StartsWith(unit, prefix))) {
      return target.name;
    }
  }
  absl::string_view name = unit.substr(0, unit.find('@'));
  absl::ConsumeSuffix(&name, kService);
  // Not a unit that another program's would be mistaken for.
  if (!absl::StartsWith(name, "nbdinetd")) return std::string(unit);
  // The units of an .export file that is deleted.
  if (name != "nbdinetd-listen") absl::ConsumePrefix(&name, kGeneratedPrefix);
  return std::string(name);
}

bool IsUnused(const ManagedExport& target) {
  return !target.generated && target.state == "stopped" &&
         target.arguments_known && target.served.file.empty() &&
         target.served.directory.empty();
}

namespace {

std::optional<uint64_t> SizeOfFile(const std::string& path, int* error_number) {
  struct stat st;
  *error_number = StatInTime(path, &st);
  if (*error_number != 0) return std::nullopt;
  if (S_ISREG(st.st_mode)) return static_cast<uint64_t>(st.st_size);
  if (!S_ISBLK(st.st_mode)) return std::nullopt;
  // In sectors of 512 bytes, for everybody to read.
  std::ifstream size(absl::StrCat("/sys/dev/block/", major(st.st_rdev), ":",
                                  minor(st.st_rdev), "/size"));
  uint64_t sectors = 0;
  if (!(size >> sectors)) return std::nullopt;
  return sectors * 512;
}

}  // namespace

std::optional<uint64_t> SizeOfExport(const Served& served, int* error_number) {
  const std::optional<uint64_t> bytes = SizeOfFile(served.file, error_number);
  if (!bytes.has_value()) return std::nullopt;
  return ExportSize(served.settings, served.file, *bytes);
}

}  // namespace nbdinetd::ctl
