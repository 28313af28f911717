#include "ctl/unit_jobs.h"

#include <map>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace nbdinetd::ctl {
namespace {

// The unit's result is for the sentence about the failure.
absl::Status JobFailed(absl::string_view what, const std::string& unit,
                       const std::string& job, const std::string& result) {
  return absl::InternalError(absl::StrCat(
      "failed to ", what, " ", unit, ": the job's result is ", job,
      result.empty() || result == "success"
          ? ""
          : absl::StrCat(", the unit's ", result),
      "; 'nbdinetctl check' and 'journalctl -u ", unit, "' say more"));
}

}  // namespace

absl::Status RunJobs(Bus& bus, const std::string& method,
                     const std::vector<std::string>& units) {
  const absl::StatusOr<std::map<std::string, std::string>> jobs =
      bus.RunJobs(method, units);
  if (!jobs.ok()) return jobs.status();
  for (const auto& [unit, job] : *jobs) {
    if (job == "done" || job == "skipped") continue;
    return JobFailed(Bus::InWords(method), unit, job,
                     bus.GetString(unit, "Socket", "Result"));
  }
  return absl::OkStatus();
}

bool HandsOver(Bus& bus, const std::string& service) {
  const std::string kill_mode = bus.GetString(service, "Service", "KillMode");
  return bus.GetNumber(service, "Unit", "CanReload") != 0 &&
         (kill_mode == "process" || kill_mode == "none");
}

absl::Status StopListener(Bus& bus, const std::string& service) {
  if (bus.GetString(service, "Unit", "ActiveState") != "active" ||
      !HandsOver(bus, service)) {
    return RunJobs(bus, "StopUnit", {service});
  }
  absl::Status status = RunJobs(bus, "ReloadUnit", {service});
  if (!status.ok()) return status;
  if (bus.GetString(service, "Unit", "ActiveState") == "active") {
    return absl::InternalError(absl::StrCat(
        "failed to stop ", service,
        ": it continues after a reload, which its ExecReload= should make "
        "exit; 'systemctl stop ",
        service, "' ends it and its clients"));
  }
  return absl::OkStatus();
}

}  // namespace nbdinetd::ctl
