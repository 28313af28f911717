// limit: how much each client of an export may transfer, from now on.

#include <cerrno>
#include <string>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/limit_signal.h"
#include "base/transfer_limit_argument.h"
#include "base/transfer_limits.h"
#include "ctl/action_result.h"
#include "ctl/bus.h"
#include "ctl/client_process.h"
#include "ctl/connections.h"
#include "ctl/drop_in.h"
#include "ctl/export_files.h"
#include "ctl/exports.h"
#include "ctl/unit_jobs.h"
#include "ctl/verbs.h"

namespace nbdinetd::ctl {
namespace {

// The lines of [Export] that make `limits` those of `key`, whatever other files
// say: an empty value resets a list.
std::string Lines(absl::string_view key, const DirectionLimits& limits) {
  std::string lines = absl::StrCat(key, "=\n");
  for (const std::string& argument : TransferLimitArguments(limits)) {
    absl::StrAppend(&lines, key, "=", argument, "\n");
  }
  return lines;
}

// A key that is to be set.
struct Setting {
  const char* file;  // of the drop-in
  const char* key;
  const DirectionLimits& limits;
};

std::vector<Setting> SettingsOf(const TransferLimits& limits) {
  std::vector<Setting> settings;
  if (limits.bytes.given > 0) {
    settings.push_back({"max-rate", "MaxRate", limits.bytes});
  }
  if (limits.requests.given > 0) {
    settings.push_back({"max-iops", "MaxIOPS", limits.requests});
  }
  return settings;
}

// Writes one drop-in, and appends its path to `written`. If other files have
// limits that are read later, or the export would lose its units, everything
// stays as it was.
absl::Status Write(const Where& where, const std::string& name,
                   const Setting& setting, std::string& written) {
  const absl::StatusOr<std::string> path =
      DropInPath(where, name, setting.file);
  if (!path.ok()) return path.status();
  absl::Status status =
      SetDropIn(*path, Lines(setting.key, setting.limits), [&] {
        const absl::Status set = CheckList(
            where, name, setting.key, TransferLimitArguments(setting.limits));
        if (set.ok()) return set;
        return absl::FailedPreconditionError(
            absl::StrCat(*path, " would not set it: ", set.message()));
      });
  if (status.ok()) {
    absl::StrAppend(&written, written.empty() ? "wrote " : " and ", *path);
  }
  return status;
}

// Changes the limits of a connection that is being served. 0 or an errno value:
// ESRCH if it has ended, EOPNOTSUPP if its process doesn't take limits.
int ChangeLimits(const LiveConnection& connection,
                 const std::vector<uint64_t>& values) {
  if (!connection.pid.has_value()) return EOPNOTSUPP;
  const UniqueFd pidfd = OpenClientProcess(connection);
  if (!pidfd.valid()) return errno;
  if (!WaitsFor(*connection.pid, LimitSignal())) return EOPNOTSUPP;
  for (const uint64_t value : values) {
    if (const int error = SendSignal(pidfd, LimitSignal(), value)) {
      return error;
    }
  }
  return 0;
}

// What has become of the clients that are connected, as part of a sentence.
std::string ChangeConnections(Bus& bus, const CommandLine& line,
                              const ManagedExport& target) {
  const absl::StatusOr<LiveConnections> found =
      FindConnections(bus, line.where, {target});
  if (!found.ok()) {
    return absl::StrCat("its clients aren't known: ", found.status().message());
  }
  const std::vector<uint64_t> values = EncodeLimits(line.limits);
  int changed = 0, unchanged = 0;
  std::string why;
  for (const LiveConnection& connection : found->connections) {
    const int error = ChangeLimits(connection, values);
    if (error == 0) ++changed;
    if (error == 0 || error == ESRCH) continue;
    ++unchanged;
    why = error == EPERM ? "run nbdinetctl as root"
          : error == EOPNOTSUPP
              ? "their processes have just started, or are older"
              : ErrnoText(error);
  }
  // Its process knows best: it keeps the limits of the line.
  const bool has_rules =
      absl::c_any_of(target.arguments, [](absl::string_view argument) {
        return absl::StartsWith(argument, "--rules");
      });
  std::string text = absl::StrCat(
      changed, changed == 1 ? " client has" : " clients have", " it already",
      changed > 0 && has_rules ? ", unless a line of its rules limits it" : "");
  if (unchanged > 0) {
    absl::StrAppend(&text, ", ", unchanged,
                    " will have it when they connect again (", why, ")");
  }
  return text;
}

// Lets the listening process end that has the earlier limits on its command
// line; the next client starts another one.
absl::StatusOr<std::string> RenewListener(Bus& bus,
                                          const ManagedExport& target) {
  if (target.per_connection ||
      bus.GetString(target.service, "Unit", "ActiveState") != "active") {
    return std::string();
  }
  if (target.socket.empty() || !HandsOver(bus, target.service)) {
    return absl::StrCat("; further clients have it after 'systemctl restart ",
                        target.service, "'");
  }
  absl::Status status = StopListener(bus, target.service);
  if (!status.ok()) return status;
  return std::string();
}

// The error of what comes after something that has been done.
absl::Status But(const std::string& done, const absl::Status& status) {
  return absl::Status(status.code(),
                      absl::StrCat(done, ", but: ", status.message()));
}

}  // namespace

absl::StatusOr<int> Limit(const CommandLine& line) {
  if (line.limits.bytes.given == 0 && line.limits.requests.given == 0) {
    return absl::InvalidArgumentError(
        "limit needs --max-rate=BYTES or --max-iops=NUMBER; 0 is no limit");
  }
  absl::StatusOr<BusAndExports> opened = OpenBusAndExports(line.where);
  if (!opened.ok()) return opened.status();
  Bus& bus = opened->bus;
  const absl::StatusOr<ManagedExport> target =
      FindExport(opened->exports, line.arguments[0]);
  if (!target.ok()) return target.status();
  if (!target->generated) {
    return absl::FailedPreconditionError(absl::StrCat(
        Quoted(target->name),
        " has no .export file: put --max-rate or --max-iops into ExecStart= "
        "of ",
        target->service, " ('systemctl edit ", target->service, "')"));
  }
  std::string result;
  absl::Status status;
  for (const Setting& setting : SettingsOf(line.limits)) {
    status = Write(line.where, target->name, setting, result);
    if (!status.ok()) break;
  }
  if (result.empty()) return status;
  if (status.ok()) status = bus.Reload();
  if (!status.ok()) return But(result, status);
  const std::string connected = ChangeConnections(bus, line, *target);
  absl::StrAppend(&result, "; ", connected);
  const absl::StatusOr<std::string> renewed = RenewListener(bus, *target);
  if (!renewed.ok()) return But(result, renewed.status());
  absl::StrAppend(&result, *renewed);
  return PrintResult(line, target->name, result);
}

}  // namespace nbdinetd::ctl
