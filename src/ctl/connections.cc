#include "ctl/connections.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "ctl/journal.h"

namespace nbdinetd::ctl {
namespace {

std::optional<absl::Time> TimeOf(uint64_t usec) {
  if (usec == 0) return std::nullopt;
  return absl::FromUnixMicros(static_cast<int64_t>(usec));
}

void ApplyStatus(const std::string& text, LiveConnection& connection) {
  std::optional<StatusText> status = ParseStatusText(text);
  if (!status.has_value()) return;
  connection.peer = std::move(status->peer);
  connection.identity = std::move(status->identity);
  connection.counters = status->counters;
  if (status->counters.has_value()) {
    connection.asked_name = std::move(status->export_name);
  }
}

// Instances of the template that live: a unit that has ended stays for a
// moment.
absl::StatusOr<std::vector<LiveConnection>> Instances(
    Bus& bus, const ManagedExport& target) {
  const std::string pattern = absl::StrCat(TemplatePrefix(target), "*.service");
  absl::StatusOr<std::vector<LoadedUnit>> units = bus.ListUnits({pattern});
  if (!units.ok()) return units.status();
  std::vector<LiveConnection> connections;
  for (const LoadedUnit& unit : *units) {
    if (unit.active_state == "inactive" || unit.active_state == "failed") {
      continue;
    }
    LiveConnection& connection = connections.emplace_back();
    connection.export_name = target.name;
    connection.unit = unit.name;
    connection.per_connection = true;
    const uint64_t pid = bus.GetNumber(unit.name, "Service", "MainPID");
    if (pid != 0) connection.pid = pid;
    connection.since =
        TimeOf(bus.GetNumber(unit.name, "Service", "ExecMainStartTimestamp"));
    ApplyStatus(bus.GetString(unit.name, "Service", "StatusText"), connection);
  }
  return connections;
}

// Fills in what the journal knows of a process: its last message is "serving"
// while it serves. False if it has ended already.
bool ApplyJournal(Journal& journal, LiveConnection& connection) {
  bool alive = true;
  JournalQuery query = LastMessagesOf(connection);
  query.message_ids.push_back(message_id::kServing);
  // Without effect on error: the peer stays unknown.
  journal
      .ForEach(query,
               [&](const JournalEntry& entry) {
                 if (entry.Field("MESSAGE_ID") != message_id::kServing.hex) {
                   alive = !entry.Field("NBD_REQUESTS").has_value();
                   return alive;
                 }
                 connection.peer = entry.Field("NBD_PEER").value_or("");
                 connection.identity =
                     entry.Field("NBD_TLS_IDENTITY").value_or("");
                 connection.asked_name = entry.Field("NBD_EXPORT");
                 connection.since = entry.time();
                 return false;
               })
      .IgnoreError();
  return alive;
}

// When a process of this machine started; nullopt for none.
std::optional<absl::Time> StartOf(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::string line;
  std::getline(file, line);
  // The second field, in parentheses, may contain blanks.
  const std::vector<std::string> fields = absl::StrSplit(
      line.substr(std::min(line.size(), line.rfind(')') + 1)), ' ');
  constexpr size_t kStart = 22 - 2;  // in ticks since the machine was booted
  uint64_t ticks = 0;
  timespec uptime;
  if (fields.size() <= kStart || !absl::SimpleAtoi(fields[kStart], &ticks) ||
      clock_gettime(CLOCK_BOOTTIME, &uptime) != 0) {
    return std::nullopt;
  }
  return absl::Now() - absl::DurationFromTimespec(uptime) +
         absl::Seconds(static_cast<double>(ticks) /
                       static_cast<double>(sysconf(_SC_CLK_TCK)));
}

// The processes of a service besides the listener. Those of an earlier listener
// of the same service are among them.
absl::StatusOr<std::vector<LiveConnection>> Children(
    Bus& bus, bool local, const ManagedExport& target) {
  // Asked for first: a listener that ends meanwhile has no number any more, and
  // would be taken for a connection.
  const uint64_t listener = bus.GetNumber(target.service, "Service", "MainPID");
  absl::StatusOr<std::vector<pid_t>> pids = bus.Processes(target.service);
  // A service that isn't loaded has no processes.
  if (absl::IsNotFound(pids.status())) return std::vector<LiveConnection>();
  if (!pids.ok()) return pids.status();
  std::vector<LiveConnection> connections;
  for (const pid_t pid : *pids) {
    if (static_cast<uint64_t>(pid) == listener) continue;
    LiveConnection& connection = connections.emplace_back();
    connection.export_name = target.name;
    connection.unit = target.service;
    connection.pid = static_cast<uint64_t>(pid);
    if (local) connection.since = StartOf(pid);
  }
  return connections;
}

}  // namespace

JournalQuery LastMessagesOf(const LiveConnection& connection) {
  JournalQuery query;
  for (const MessageId& id : message_id::kEndsOfServed) {
    query.message_ids.push_back(id);
  }
  query.process = {static_cast<pid_t>(*connection.pid), connection.unit};
  query.since = connection.since.value_or(absl::InfinitePast());
  query.newest_first = true;
  return query;
}

absl::StatusOr<LiveConnections> FindConnections(
    Bus& bus, const Where& where, absl::Span<const ManagedExport> exports) {
  LiveConnections found;
  std::optional<absl::StatusOr<Journal>> journal;
  for (const ManagedExport& target : exports) {
    if (!target.has_units) continue;
    absl::StatusOr<std::vector<LiveConnection>> connections =
        target.per_connection ? Instances(bus, target)
                              : Children(bus, where.local(), target);
    if (!connections.ok()) return connections.status();
    for (LiveConnection& connection : *connections) {
      if (!target.per_connection) {
        if (!journal.has_value()) journal = Journal::Open(where);
        if (!journal->ok()) {
          found.journal = journal->status();
        } else if (!ApplyJournal(**journal, connection)) {
          continue;
        }
      }
      found.connections.push_back(std::move(connection));
    }
  }
  return found;
}

}  // namespace nbdinetd::ctl
