#include "ctl/past_connections.h"

#include <sys/types.h>
#include <systemd/sd-messages.h>

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/message_id.h"
#include "base/steady_clock.h"
#include "ctl/connections.h"
#include "ctl/exports.h"

namespace nbdinetd::ctl {
namespace {

// "Failed with result ...", by a service manager about a unit.
constexpr MessageId kUnitFailed{SD_MESSAGE_UNIT_FAILURE_RESULT_STR};

// How far journald may lag behind the processes that write to it.
constexpr absl::Duration kJournalLag = absl::Seconds(1);

// What every message of a connection says.
PastConnection Read(const JournalEntry& entry) {
  PastConnection connection;
  connection.unit = entry.Unit();
  connection.pid = entry.Number("_PID");
  connection.peer = entry.Field("NBD_PEER").value_or("");
  connection.identity = entry.Field("NBD_TLS_IDENTITY").value_or("");
  connection.asked_name = entry.Field("NBD_EXPORT").value_or("");
  connection.file = entry.Field("NBD_FILE").value_or("");
  connection.mode = entry.Field("NBD_MODE").value_or("");
  connection.since = entry.time();
  return connection;
}

bool IsLastMessage(const JournalEntry& entry) {
  return entry.Field("NBD_REQUESTS").has_value();
}

PastConnection ReadLastMessage(const JournalEntry& entry) {
  PastConnection connection = Read(entry);
  const std::optional<uint64_t> usec = entry.Number("NBD_DURATION_USEC");
  if (usec.has_value()) {
    connection.duration = absl::Microseconds(static_cast<int64_t>(*usec));
  }
  connection.until = entry.time();
  connection.since =
      *connection.until - connection.duration.value_or(absl::ZeroDuration());
  connection.counters = Counters{entry.Number("NBD_REQUESTS").value_or(0),
                                 entry.Number("NBD_BYTES_READ").value_or(0),
                                 entry.Number("NBD_BYTES_WRITTEN").value_or(0),
                                 entry.Number("NBD_ERRORS").value_or(0)};
  connection.exit_status = entry.Number("NBD_EXIT_STATUS");
  connection.reason = entry.Field("NBD_REASON").value_or("");
  return connection;
}

// Boot, unit and process.
using ProcessKey = std::tuple<std::string, std::string, uint64_t>;

ProcessKey KeyOf(const JournalEntry& entry) {
  return {entry.Field("_BOOT_ID").value_or(""), entry.Unit(),
          entry.Number("_PID").value_or(0)};
}

// Pairs first and last messages.
class Pairing {
 public:
  Pairing(const Where& where, absl::Time until)
      : unit_field_(where.user ? "USER_UNIT" : "UNIT"), until_(until) {}

  // Takes the next entry. False if no further one is needed.
  bool Take(const JournalEntry& entry) {
    const bool is_late = entry.time() >= until_;
    const std::string id = entry.Field("MESSAGE_ID").value_or("");
    if (id == kUnitFailed.hex) {
      TakeFailure(entry);
    } else if (id != message_id::kServing.hex) {
      TakeLast(entry, is_late);
    } else if (!is_late) {
      TakeFirst(entry);
    }
    return !is_late || !open_.empty();
  }

  // Those that have ended for certain, in no order.
  const std::vector<PastConnection>& ended() const { return ended_; }
  // Those without a last message. `until` and `reason` are set if the manager
  // has reported the failure of the unit; a process may survive that of a
  // listener's.
  const std::map<ProcessKey, PastConnection>& open() const { return open_; }

 private:
  void TakeFirst(const JournalEntry& entry) {
    const auto [found, is_new] = open_.try_emplace(KeyOf(entry), Read(entry));
    if (is_new) return;
    // Another process has got the number of one that wrote no last message.
    ended_.push_back(std::move(found->second));
    found->second = Read(entry);
  }

  void TakeLast(const JournalEntry& entry, bool is_late) {
    // Another message may have the same kind: a failed request, for example.
    if (!IsLastMessage(entry)) return;
    open_.erase(KeyOf(entry));
    if (!is_late) ended_.push_back(ReadLastMessage(entry));
  }

  void TakeFailure(const JournalEntry& entry) {
    // Others can write such a message, too.
    if (entry.Unit() != "init.scope") return;
    const std::string boot = entry.Field("_BOOT_ID").value_or("");
    const std::string unit = entry.Field(unit_field_).value_or("");
    for (auto at = open_.lower_bound({boot, unit, 0});
         at != open_.end() && std::get<0>(at->first) == boot &&
         std::get<1>(at->first) == unit;
         ++at) {
      PastConnection& connection = at->second;
      connection.until = entry.time();
      connection.duration = entry.time() - connection.since;
      connection.reason = absl::StrCat(
          "no last message: ",
          ResultInWords(entry.Field("UNIT_RESULT").value_or("unknown")));
    }
  }

  const char* const unit_field_;
  const absl::Time until_;
  std::map<ProcessKey, PastConnection> open_;
  std::vector<PastConnection> ended_;
};

// Whether the process of a connection lives, or may live.
bool MayLive(Bus& bus, const PastConnection& connection) {
  const absl::StatusOr<std::vector<pid_t>> pids =
      bus.Processes(connection.unit);
  if (!pids.ok()) return !absl::IsNotFound(pids.status());
  return std::find(pids->begin(), pids->end(),
                   static_cast<pid_t>(connection.pid.value_or(0))) !=
         pids->end();
}

// The last message of a process, if the journal has got it since.
std::optional<PastConnection> LateMessageOf(Journal& journal,
                                            const PastConnection& connection) {
  std::optional<PastConnection> last;
  if (!connection.pid.has_value()) return last;
  LiveConnection process;
  process.unit = connection.unit;
  process.pid = connection.pid;
  process.since = connection.since;
  journal
      .ForEach(LastMessagesOf(process),
               [&](const JournalEntry& entry) {
                 if (!IsLastMessage(entry)) return true;
                 last = ReadLastMessage(entry);
                 return false;
               })
      .IgnoreError();
  return last;
}

// Gives journald time for last messages that are on their way to it.
void AwaitLastMessages(const Where& where,
                       std::vector<PastConnection>& connections) {
  const absl::Time deadline = SteadyNow() + kJournalLag;
  for (;;) {
    // Anew, for files that journald may have begun.
    absl::StatusOr<Journal> journal = Journal::Open(where);
    if (!journal.ok()) return;
    bool all = true;
    for (PastConnection& connection : connections) {
      if (connection.until.has_value()) continue;
      if (auto last = LateMessageOf(*journal, connection)) {
        connection = *std::move(last);
      } else {
        all = false;
      }
    }
    if (all || SteadyNow() >= deadline) return;
    absl::SleepFor(absl::Milliseconds(50));
  }
}

// What has ended of the connections without a last message.
std::vector<PastConnection> Killed(const Where& where, Bus* bus,
                                   const Pairing& pairing) {
  const std::string boot = CurrentBoot();
  std::vector<PastConnection> killed, unsure;
  for (const auto& [key, connection] : pairing.open()) {
    if (std::get<0>(key) != boot) {
      killed.push_back(connection);
      if (!connection.reason.empty()) continue;
      killed.back().reason =
          "no last message: killed, crashed, or the machine went down";
    } else if (bus != nullptr && !MayLive(*bus, connection)) {
      // The manager's report comes after all messages of the unit.
      (connection.until.has_value() ? killed : unsure).push_back(connection);
    }
  }
  if (!unsure.empty()) AwaitLastMessages(where, unsure);
  killed.insert(killed.end(), unsure.begin(), unsure.end());
  return killed;
}

}  // namespace

absl::StatusOr<std::vector<PastConnection>> FindPastConnections(
    Journal& journal, const Where& where, Bus* bus, absl::Time since,
    absl::Time until) {
  JournalQuery query;
  query.since = since;
  query.message_ids = {message_id::kServing, kUnitFailed};
  for (const MessageId& id : message_id::kEndsOfServed) {
    query.message_ids.push_back(id);
  }
  Pairing pairing(where, until);
  const absl::Status status = journal.ForEach(
      query, [&](const JournalEntry& entry) { return pairing.Take(entry); });
  if (!status.ok()) return status;
  std::vector<PastConnection> past = pairing.ended();
  for (PastConnection& connection : Killed(where, bus, pairing)) {
    past.push_back(std::move(connection));
  }
  past.erase(std::remove_if(past.begin(), past.end(),
                            [&](const auto& c) { return c.time() >= until; }),
             past.end());
  for (PastConnection& connection : past) {
    if (connection.until.has_value() || !connection.reason.empty()) continue;
    connection.reason = "no last message: killed, or crashed";
  }
  std::stable_sort(past.begin(), past.end(), [](const auto& a, const auto& b) {
    return a.time() < b.time();
  });
  return past;
}

}  // namespace nbdinetd::ctl
