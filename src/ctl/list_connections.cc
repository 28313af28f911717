#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "ctl/bus.h"
#include "ctl/columns.h"
#include "ctl/connections.h"
#include "ctl/exports.h"
#include "ctl/live_statistics.h"
#include "ctl/output.h"
#include "ctl/verbs.h"

namespace nbdinetd::ctl {
namespace {

std::vector<Cell> RowOf(const LiveConnection& connection) {
  Cell since, counters[4], commands;
  if (connection.since.has_value()) {
    since = static_cast<uint64_t>(absl::ToUnixMicros(*connection.since));
  }
  if (connection.counters.has_value()) {
    counters[0] = connection.counters->requests;
    counters[1] = connection.counters->bytes_read;
    counters[2] = connection.counters->bytes_written;
    counters[3] = connection.counters->errors;
  }
  if (connection.statistics.has_value()) {
    std::string json = HistogramsJson(*connection.statistics);
    if (!json.empty()) commands = JsonValue{std::move(json)};
  }
  return {connection.export_name,
          TextCell(connection.asked_name.value_or("")),
          TextCell(connection.peer),
          TextCell(connection.identity),
          connection.asked_name.has_value() ? "serving" : "negotiating",
          since,
          counters[0],
          counters[1],
          counters[2],
          counters[3],
          connection.unit,
          CellOf(connection.pid),
          commands};
}

}  // namespace

absl::StatusOr<int> Connections(const CommandLine& line) {
  absl::StatusOr<BusAndExports> opened = OpenBusAndExports(line.where);
  if (!opened.ok()) return opened.status();
  if (!line.arguments.empty()) {
    absl::StatusOr<ManagedExport> target =
        FindExport(opened->exports, line.arguments[0]);
    if (!target.ok()) return target.status();
    opened->exports = {*std::move(target)};
  }
  absl::StatusOr<LiveConnections> found =
      FindConnections(opened->bus, line.where, opened->exports);
  if (!found.ok()) return found.status();
  if (line.json != Json::kOff) {
    ReadLiveStatistics(line.where, absl::MakeSpan(found->connections));
  }
  Table table(ConnectionColumns());
  for (const LiveConnection& connection : found->connections) {
    table.AddRow(RowOf(connection));
  }
  if (absl::Status status = PrintTable(line, table); !status.ok()) {
    return status;
  }
  if (!found->journal.ok()) {
    Warn(absl::StrCat("the clients of listening services are in the journal: ",
                      found->journal.message()));
  }
  return kSuccess;
}

}  // namespace nbdinetd::ctl
