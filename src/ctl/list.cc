#include <map>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "ctl/bus.h"
#include "ctl/columns.h"
#include "ctl/connections.h"
#include "ctl/exports.h"
#include "ctl/output.h"
#include "ctl/verbs.h"

namespace nbdinetd::ctl {
namespace {

// What the connections of one export have transferred.
struct Sums {
  uint64_t clients = 0;
  Counters counters;
  uint64_t read_rate = 0, write_rate = 0;  // bytes a second
};
using SumsOfExports = std::map<std::string, Sums>;

SumsOfExports SumUp(const LiveConnections& found) {
  SumsOfExports sums;
  for (const LiveConnection& connection : found.connections) {
    Sums& sum = sums[connection.export_name];
    ++sum.clients;
    const Counters counters = connection.counters.value_or(Counters());
    sum.counters.requests += counters.requests;
    sum.counters.bytes_read += counters.bytes_read;
    sum.counters.bytes_written += counters.bytes_written;
    sum.counters.errors += counters.errors;
  }
  return sums;
}

uint64_t RateOf(uint64_t from, uint64_t to, absl::Duration time) {
  // A counter that has fallen is another connection's.
  if (to < from) return 0;
  return static_cast<uint64_t>(static_cast<double>(to - from) /
                               absl::ToDoubleSeconds(time));
}

// Adds the rates between two lists of connections. One that has ended between
// them counts for nothing, and a new one with all its bytes.
void AddRates(const LiveConnections& before, const LiveConnections& after,
              absl::Duration time, SumsOfExports& sums) {
  std::map<std::string, Counters> start;  // {unit: its counters}
  for (const LiveConnection& connection : before.connections) {
    if (connection.counters) start[connection.unit] = *connection.counters;
  }
  for (const LiveConnection& connection : after.connections) {
    if (!connection.counters.has_value()) continue;
    const Counters& from = start[connection.unit];
    const Counters& to = *connection.counters;
    Sums& sum = sums[connection.export_name];
    sum.read_rate += RateOf(from.bytes_read, to.bytes_read, time);
    sum.write_rate += RateOf(from.bytes_written, to.bytes_written, time);
  }
}

bool AnyCounters(const LiveConnections& found) {
  for (const LiveConnection& connection : found.connections) {
    if (connection.counters.has_value()) return true;
  }
  return false;
}

std::string FileOf(const ManagedExport& target) {
  std::string directory = target.served.directory;
  if (directory.empty()) return target.served.file;
  // A slash at its end says that it is one.
  if (directory.back() != '/') directory += '/';
  return directory;
}

std::vector<Cell> RowOf(const ManagedExport& target, const Where& where,
                        const Sums* sums, bool with_rates) {
  Cell size, rates[2], counters[4], accepts[2];
  int error_number = 0;
  if (where.local() && !target.served.file.empty()) {
    size = CellOf(SizeOfFile(target.served.file, &error_number));
  }
  // The processes of a listening service report no counters.
  if (target.per_connection) {
    const Sums none;
    const Sums& sum = sums == nullptr ? none : *sums;
    if (with_rates || sum.clients == 0) {
      rates[0] = sum.read_rate;
      rates[1] = sum.write_rate;
    }
    counters[0] = sum.counters.bytes_read;
    counters[1] = sum.counters.bytes_written;
    counters[2] = sum.counters.requests;
    counters[3] = sum.counters.errors;
    accepts[0] = target.accepted;
    accepts[1] = target.refused;
  }
  Cell addresses;
  if (!target.addresses.empty()) addresses = target.addresses;
  return {target.name,
          target.state,
          addresses,
          TextCell(FileOf(target)),
          size,
          sums == nullptr ? 0 : sums->clients,
          rates[0],
          rates[1],
          counters[0],
          counters[1],
          counters[2],
          counters[3],
          accepts[0],
          accepts[1],
          target.main_unit(),
          target.service,
          TextCell(target.source_path),
          TextCell(target.reason)};
}

}  // namespace

absl::StatusOr<int> List(const CommandLine& line) {
  absl::StatusOr<Bus> bus = Bus::Open(line.where);
  if (!bus.ok()) return bus.status();
  const absl::StatusOr<std::vector<ManagedExport>> exports =
      FindExportUnits(*bus, line.where);
  if (!exports.ok()) return exports.status();
  absl::StatusOr<LiveConnections> found =
      FindConnections(*bus, line.where, *exports);
  if (!found.ok()) return found.status();
  const absl::Duration interval = line.interval.value_or(
      line.json == Json::kOff ? absl::Seconds(1) : absl::ZeroDuration());
  const bool with_rates =
      interval > absl::ZeroDuration() && AnyCounters(*found);
  SumsOfExports sums = SumUp(*found);
  if (with_rates) {
    const absl::Time start = absl::Now();
    absl::SleepFor(interval);
    const absl::StatusOr<LiveConnections> later =
        FindConnections(*bus, line.where, *exports);
    if (!later.ok()) return later.status();
    sums = SumUp(*later);
    AddRates(*found, *later, absl::Now() - start, sums);
  }
  Table table(ListColumns());
  for (const ManagedExport& target : *exports) {
    if (IsUnused(target)) continue;
    const auto sum = sums.find(target.name);
    table.AddRow(RowOf(target, line.where,
                       sum == sums.end() ? nullptr : &sum->second, with_rates));
  }
  if (absl::Status status = PrintTable(line, table); !status.ok()) {
    return status;
  }
  if (table.empty() && line.json == Json::kOff) {
    Warn("there are no exports; nbdinetd.export(5) says how to make one");
  }
  return kSuccess;
}

}  // namespace nbdinetd::ctl
