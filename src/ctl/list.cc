#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/steady_clock.h"
#include "ctl/bus.h"
#include "ctl/columns.h"
#include "ctl/connections.h"
#include "ctl/exports.h"
#include "ctl/output.h"
#include "ctl/rate_meter.h"
#include "ctl/status_text.h"
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

// How long rates are measured.
struct Measurement {
  absl::Duration limit;
  // Ends before the limit, as soon as nothing more is to be expected.
  bool may_end_early = false;
};

// The default: a report takes a second, so that two are seen in any case.
constexpr Measurement kByReports = {absl::Seconds(3), true};
constexpr absl::Duration kReadingInterval = absl::Milliseconds(100);

using Meters = std::map<std::string, RateMeter>;  // by the connection's unit

// Reads the status of the connections again and again.
Meters Measure(Bus& bus, const LiveConnections& found,
               const Measurement& measurement) {
  const absl::Time start = SteadyNow();
  Meters meters;
  for (const LiveConnection& connection : found.connections) {
    if (connection.counters.has_value()) {
      meters[connection.unit].Note(*connection.counters, start);
    }
  }
  for (;;) {
    const absl::Time now = SteadyNow();
    const auto is_done = [&](const Meters::value_type& entry) {
      return measurement.may_end_early && entry.second.IsSettled(now);
    };
    const absl::Duration left = start + measurement.limit - now;
    if (left <= absl::ZeroDuration() ||
        std::all_of(meters.begin(), meters.end(), is_done)) {
      return meters;
    }
    absl::SleepFor(std::min(left, kReadingInterval));
    for (auto& entry : meters) {
      if (is_done(entry)) continue;
      const std::optional<StatusText> status =
          ParseStatusText(bus.GetString(entry.first, "Service", "StatusText"));
      if (status.has_value() && status->counters.has_value()) {
        entry.second.Note(*status->counters, SteadyNow());
      }
    }
  }
}

// Adds the rates of the connections that are still there.
void AddRates(const LiveConnections& found, const Meters& meters,
              SumsOfExports& sums) {
  for (const LiveConnection& connection : found.connections) {
    const auto meter = meters.find(connection.unit);
    if (meter == meters.end()) continue;
    const RateMeter::Rates rates = meter->second.rates();
    Sums& sum = sums[connection.export_name];
    sum.read_rate += rates.read;
    sum.write_rate += rates.written;
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
    size = CellOf(SizeOfExport(target.served, &error_number));
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
  const Measurement measurement =
      line.interval.has_value() ? Measurement{*line.interval, false}
      : line.json == Json::kOff ? kByReports
                                : Measurement{absl::ZeroDuration(), false};
  const bool with_rates =
      measurement.limit > absl::ZeroDuration() && AnyCounters(*found);
  SumsOfExports sums = SumUp(*found);
  if (with_rates) {
    const Meters meters = Measure(*bus, *found, measurement);
    const absl::StatusOr<LiveConnections> later =
        FindConnections(*bus, line.where, *exports);
    if (!later.ok()) return later.status();
    sums = SumUp(*later);
    AddRates(*later, meters, sums);
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
