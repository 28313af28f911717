#include <unistd.h>

#include <cerrno>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "ctl/bus.h"
#include "ctl/columns.h"
#include "ctl/export_files.h"
#include "ctl/exports.h"
#include "ctl/finding.h"
#include "ctl/output.h"
#include "ctl/unit_checks.h"
#include "ctl/verbs.h"
#include "generator/export_file.h"

namespace nbdinetd::ctl {
namespace {

using Level = Finding::Level;

const char* InWords(Level level) {
  switch (level) {
    case Level::kOk:
      return "ok";
    case Level::kWarning:
      return "warning";
    default:
      return "error";
  }
}

// The findings of all exports, as rows.
class Report {
 public:
  void Add(const std::string& name, std::vector<Finding> findings) {
    for (Finding& finding : findings) {
      failed_ = failed_ || finding.level == Level::kError;
      table_.AddRow({name, InWords(finding.level), std::move(finding.message)});
    }
  }
  absl::StatusOr<int> Print(const CommandLine& line) {
    if (absl::Status status = PrintTable(line, table_); !status.ok()) {
      return status;
    }
    return failed_ ? kFailed : kSuccess;
  }
  bool empty() const { return table_.empty(); }

 private:
  Table table_{CheckColumns()};
  bool failed_ = false;
};

std::vector<Finding> CheckUnits(Bus& bus, const CommandLine& line,
                                const ManagedExport& target,
                                const std::vector<ManagedExport>& exports) {
  const Where& where = line.where;
  if (!target.has_units) {
    // Only a file in which nothing is wrong gets here.
    return {{Level::kWarning, target.reason}};
  }
  if (target.state == "removed") {
    return {{Level::kWarning,
             absl::StrCat(target.reason,
                          ", but units of it are active: 'nbdinetctl stop ",
                          target.name, "' and 'nbdinetctl disconnect ",
                          target.name, "' end them")}};
  }
  std::vector<Finding> findings = CheckSocket(bus, target, exports);
  const auto append = [&findings](const std::vector<Finding>& more) {
    findings.insert(findings.end(), more.begin(), more.end());
  };
  if (!where.local()) {
    append({{Level::kWarning,
             "its files are another machine's, and aren't checked"}});
    return findings;
  }
  const absl::StatusOr<Properties> service =
      bus.GetAll(ProbeOf(target), "Service");
  if (!service.ok()) {
    append({{Level::kError, std::string(service.status().message())}});
    return findings;
  }
  const std::string& path = target.served.directory.empty()
                                ? target.served.file
                                : target.served.directory;
  append(CheckService(*service, path, !target.served.read_only));
  std::vector<Finding> handler =
      CheckHandler(*service, target, where, line.asked);
  // "ok" is for an export with which nothing is wrong.
  if (!findings.empty() && line.asked.empty() &&
      handler.back().level == Level::kOk) {
    handler.pop_back();
  }
  append(handler);
  return findings;
}

}  // namespace

absl::StatusOr<int> CheckExports(const CommandLine& line) {
  Report report;
  const std::string argument =
      line.arguments.empty() ? "" : line.arguments.front();
  if (absl::StrContains(argument, '/') || absl::EndsWith(argument, ".export")) {
    if (!line.asked.empty()) {
      return absl::InvalidArgumentError(
          "--as needs an export with units, not a file");
    }
    // A file needs no service manager.
    if (access(argument.c_str(), F_OK) != 0) {
      return ErrnoStatus(errno,
                         absl::StrCat("failed to read ", Quoted(argument)),
                         absl::StatusCode::kNotFound);
    }
    const std::string error = ErrorOfFile(argument, line.where);
    report.Add(SourcesOfFile(argument).name,
               {error.empty() ? Finding{Level::kOk, "the file is right"}
                              : Finding{Level::kError, error}});
    return report.Print(line);
  }
  absl::StatusOr<BusAndExports> opened = OpenBusAndExports(line.where);
  if (!opened.ok()) return opened.status();
  std::string name = argument;
  if (!argument.empty()) {
    const absl::StatusOr<ManagedExport> target =
        FindExport(opened->exports, argument);
    if (!target.ok()) return target.status();
    name = target->name;
  }
  std::map<std::string, std::string> errors;
  if (line.where.local()) errors = ErrorsOfFiles(line.where);
  for (const ManagedExport& target : opened->exports) {
    if (name.empty() ? IsUnused(target) : target.name != name) continue;
    const auto error = errors.find(target.name);
    if (target.generated && error != errors.end()) {
      // Nothing else is said: a reload, which might be advised, would take the
      // units away that are there.
      report.Add(target.name, {{Level::kError, error->second}});
      continue;
    }
    report.Add(target.name,
               CheckUnits(opened->bus, line, target, opened->exports));
  }
  return report.Print(line);
}

}  // namespace nbdinetd::ctl
