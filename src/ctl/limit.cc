// limit: how much each client of an export may transfer, from now on.

#include <cerrno>
#include <fstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/limit_signal.h"
#include "base/transfer_limits.h"
#include "cli/transfer_limit_argument.h"
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

// A drop-in for each of the two, since only one may be given.
absl::StatusOr<std::string> WriteLimits(const CommandLine& line,
                                        const std::string& name) {
  struct Kind {
    const char* file;
    const char* key;
    const DirectionLimits& limits;
  };
  const Kind kinds[] = {{"max-rate", "MaxRate", line.limits.bytes},
                        {"max-iops", "MaxIOPS", line.limits.requests}};
  std::string written;
  for (const Kind& kind : kinds) {
    if (kind.limits.given == 0) continue;
    const absl::StatusOr<std::string> path =
        DropInPath(line.where, name, kind.file);
    if (!path.ok()) return path.status();
    absl::Status status = WriteDropIn(*path, Lines(kind.key, kind.limits));
    if (!status.ok()) return status;
    absl::StrAppend(&written, written.empty() ? "wrote " : " and ", *path);
  }
  return written;
}

// Whether the process waits for the signal. Its default action would end a
// process that doesn't: one that has just started, or an older nbdinetd.
bool TakesLimits(uint64_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/status"));
  for (std::string line; std::getline(file, line);) {
    uint64_t blocked = 0;
    if (!absl::StartsWith(line, "SigBlk:\t")) continue;
    return absl::SimpleHexAtoi(line.substr(8), &blocked) &&
           (blocked >> (LimitSignal() - 1) & 1) != 0;
  }
  return false;
}

// Changes the limits of a connection that is being served. 0 or an errno value:
// ESRCH if it has ended, EOPNOTSUPP if its process doesn't take limits.
int ChangeLimits(const LiveConnection& connection,
                 const std::vector<uint64_t>& values) {
  if (!connection.pid.has_value()) return EOPNOTSUPP;
  const UniqueFd pidfd = OpenClientProcess(connection);
  if (!pidfd.valid()) return errno;
  if (!TakesLimits(*connection.pid)) return EOPNOTSUPP;
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
  std::string text = absl::StrCat(
      changed, changed == 1 ? " client has" : " clients have", " it already");
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
  absl::StatusOr<std::string> result = WriteLimits(line, target->name);
  if (!result.ok()) return result.status();
  absl::Status reloaded = bus.Reload();
  if (!reloaded.ok()) return reloaded;
  const absl::StatusOr<std::string> renewed = RenewListener(bus, *target);
  if (!renewed.ok()) return renewed.status();
  absl::StrAppend(&*result, "; ", ChangeConnections(bus, line, *target),
                  *renewed);
  return PrintResult(line, target->name, *result);
}

}  // namespace nbdinetd::ctl
