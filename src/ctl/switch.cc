// enable, disable, start and stop.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "ctl/action_result.h"
#include "ctl/bus.h"
#include "ctl/connections.h"
#include "ctl/drop_in.h"
#include "ctl/export_files.h"
#include "ctl/exports.h"
#include "ctl/unit_jobs.h"
#include "ctl/verbs.h"

namespace nbdinetd::ctl {
namespace {

absl::StatusOr<std::string> StartExport(Bus& bus, const ManagedExport& target) {
  if (!target.has_units || target.state == "removed") {
    return absl::FailedPreconditionError(absl::StrCat(
        "failed to start ", Quoted(target.name), ": ", target.reason));
  }
  if (target.state == "drained") {
    return absl::FailedPreconditionError(absl::StrCat(
        "failed to start ", Quoted(target.name),
        ": it is drained; 'nbdinetctl undrain ", target.name, "' ends that"));
  }
  absl::Status status = RunJobs(bus, "StartUnit", {target.main_unit()});
  if (!status.ok()) return status;
  return absl::StrCat("started ", target.main_unit());
}

// How many clients an export has; 0 if that can't be found out.
size_t ClientsOf(Bus& bus, const Where& where, const ManagedExport& target) {
  const absl::StatusOr<LiveConnections> found =
      FindConnections(bus, where, {target});
  return found.ok() ? found->connections.size() : 0;
}

std::string InWords(size_t clients) {
  return absl::StrCat(clients, clients == 1 ? " client" : " clients");
}

// FailedPrecondition if the clients can't stay.
absl::Status CheckClientsStay(Bus& bus, const Where& where,
                              const ManagedExport& target) {
  if (target.per_connection || HandsOver(bus, target.service)) {
    return absl::OkStatus();
  }
  const size_t clients = ClientsOf(bus, where, target);
  if (clients == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "stopping ", target.service, " would end its ", InWords(clients),
      ", since it has no ExecReload= that hands over, or no "
      "KillMode=process: run 'nbdinetctl disconnect ",
      target.name, "' first"));
}

absl::StatusOr<std::string> StopExport(Bus& bus, const Where& where,
                                       const ManagedExport& target) {
  if (!target.has_units) return std::string("it has no units");
  absl::Status status = CheckClientsStay(bus, where, target);
  if (!status.ok()) return status;
  // First the socket, so that no client starts the service again.
  if (!target.socket.empty()) {
    status = RunJobs(bus, "StopUnit", {target.socket});
  }
  if (status.ok() && !target.per_connection) {
    status = StopListener(bus, target.service);
  }
  if (!status.ok()) return status;
  std::string result = absl::StrCat("stopped ", target.main_unit());
  const size_t clients = ClientsOf(bus, where, target);
  if (clients > 0) {
    absl::StrAppend(
        &result, "; ", InWords(clients), clients == 1 ? " stays" : " stay",
        " connected: 'nbdinetctl disconnect ", target.name, "' ends that");
  }
  return result;
}

// Changes the links of a unit written by hand.
absl::StatusOr<std::string> SetLinks(Bus& bus, const std::string& unit,
                                     bool enable) {
  absl::Status status =
      enable ? bus.EnableUnitFile(unit) : bus.DisableUnitFile(unit);
  if (status.ok()) status = bus.Reload();
  if (!status.ok()) return status;
  return absl::StrCat(enable ? "enabled " : "disabled ", unit);
}

// Sets Enabled= of an .export file. If another setting holds, or the export
// would have no units, everything stays as it was.
absl::StatusOr<std::string> SetKey(Bus& bus, const Where& where,
                                   const std::string& name, bool enable) {
  const absl::StatusOr<std::string> path = DropInPath(where, name, "enabled");
  if (!path.ok()) return path.status();
  absl::Status status =
      SetDropIn(*path, enable ? "Enabled=yes\n" : "Enabled=no\n", [&] {
        const absl::Status set = CheckEnabled(where, name, enable);
        if (set.ok()) return set;
        return absl::FailedPreconditionError(
            absl::StrCat(*path, " would not ", enable ? "enable " : "disable ",
                         Quoted(name), ": ", set.message()));
      });
  if (status.ok()) status = bus.Reload();
  if (!status.ok()) return status;
  return absl::StrCat("wrote ", *path);
}

absl::StatusOr<std::string> SetEnabled(Bus& bus, const Where& where,
                                       const ManagedExport& target,
                                       bool enable) {
  if (target.state == "removed") {
    return absl::FailedPreconditionError(
        absl::StrCat("failed to ", enable ? "enable " : "disable ",
                     Quoted(target.name), ": ", target.reason));
  }
  return target.generated ? SetKey(bus, where, target.name, enable)
                          : SetLinks(bus, target.main_unit(), enable);
}

absl::StatusOr<int> ChangeEnabled(const CommandLine& line, bool enable) {
  absl::StatusOr<BusAndExports> opened = OpenBusAndExports(line.where);
  if (!opened.ok()) return opened.status();
  Bus& bus = opened->bus;
  const std::string& argument = line.arguments[0];
  absl::StatusOr<ManagedExport> target = FindExport(opened->exports, argument);
  if (!target.ok()) return target.status();
  const std::string name = target->name;
  absl::StatusOr<std::string> result =
      SetEnabled(bus, line.where, *target, enable);
  if (!result.ok()) return result.status();
  if (line.now) {
    // The reload may have made its units.
    const absl::StatusOr<std::vector<ManagedExport>> exports =
        FindExportUnits(bus, line.where);
    if (!exports.ok()) return exports.status();
    target = FindExport(*exports, name);
    if (!target.ok()) return target.status();
    const absl::StatusOr<std::string> then =
        enable ? StartExport(bus, *target)
               : StopExport(bus, line.where, *target);
    if (!then.ok()) return then.status();
    absl::StrAppend(&*result, "; ", *then);
  }
  return PrintResult(line, name, *result);
}

}  // namespace

absl::StatusOr<int> Enable(const CommandLine& line) {
  return ChangeEnabled(line, true);
}

absl::StatusOr<int> Disable(const CommandLine& line) {
  return ChangeEnabled(line, false);
}

absl::StatusOr<int> Start(const CommandLine& line) {
  absl::StatusOr<BusAndExports> opened = OpenBusAndExports(line.where);
  if (!opened.ok()) return opened.status();
  const absl::StatusOr<ManagedExport> target =
      FindExport(opened->exports, line.arguments[0]);
  if (!target.ok()) return target.status();
  const absl::StatusOr<std::string> result = StartExport(opened->bus, *target);
  if (!result.ok()) return result.status();
  return PrintResult(line, target->name, *result);
}

absl::StatusOr<int> Stop(const CommandLine& line) {
  absl::StatusOr<BusAndExports> opened = OpenBusAndExports(line.where);
  if (!opened.ok()) return opened.status();
  const absl::StatusOr<ManagedExport> target =
      FindExport(opened->exports, line.arguments[0]);
  if (!target.ok()) return target.status();
  const absl::StatusOr<std::string> result =
      StopExport(opened->bus, line.where, *target);
  if (!result.ok()) return result.status();
  return PrintResult(line, target->name, *result);
}

}  // namespace nbdinetd::ctl
