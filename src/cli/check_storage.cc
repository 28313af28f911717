#include "cli/check_storage.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/errors.h"
#include "export/coherence.h"
#include "negotiation/agreement.h"

namespace nbdinetd {
namespace {

absl::string_view WordOf(OtherHosts hosts) {
  return hosts == OtherHosts::kNo        ? "no"
         : hosts == OtherHosts::kUnknown ? "unknown"
                                         : "yes";
}

absl::string_view WordOf(Durability durability) {
  return durability == Durability::kStable   ? "stable"
         : durability == Durability::kServer ? "server"
                                             : "nothing";
}

std::string MultiConnReason(const Export::Facts& facts,
                            const ConnectionConfig& config) {
  if (config.multi_conn.has_value() && !facts.private_copy) {
    return *config.multi_conn ? "--multi-conn=on says so"
                              : "--multi-conn=off says so";
  }
  if (config.exclusive != Exclusive::kOff && !facts.private_copy) {
    return "--exclusive serves one at a time";
  }
  return CoherenceInWords(facts);
}

bool MayHaveHoles(const Export::Facts& facts) {
  return !facts.block_device && facts.sharing == Export::Sharing::kOwn &&
         facts.storage.promises->holes != ExtentSource::kNoHoles;
}

std::string LinesOf(const StorageReport& storage) {
  std::string lines = absl::StrCat(
      "on ", storage.name,
      storage.other_hosts == "no"        ? ", which no other host serves"
      : storage.other_hosts == "unknown" ? ", which other hosts may have, too"
                                         : ", which other hosts may serve, too",
      "\nclients may ", storage.multi_conn ? "" : "not ",
      "use several connections (NBD_FLAG_CAN_MULTI_CONN): ",
      storage.multi_conn_reason, "\n");
  if (storage.locks_reach_all.has_value()) {
    absl::StrAppend(&lines,
                    *storage.locks_reach_all
                        ? "the lock of --exclusive holds on every host that "
                          "could serve it"
                        : absl::StrCat("the lock of --exclusive holds on this "
                                       "host alone: ",
                                       storage.locks_reason),
                    "\n");
  }
  if (!storage.refusal.empty()) {
    absl::StrAppend(&lines,
                    "would refuse it to every client: ", storage.refusal, "\n");
  }
  if (storage.flush == "server") {
    absl::StrAppend(&lines,
                    "a flush is answered when what stores the data says that "
                    "it is durable\n");
  } else if (storage.flush == "nothing") {
    absl::StrAppend(&lines,
                    "nothing is left after a loss of power, flushed or not\n");
  }
  absl::StrAppend(&lines, storage.holes
                              ? "block status tells holes from data\n"
                              : "block status reports everything as data\n");
  return lines;
}

}  // namespace

StorageReport StorageReportOf(const Export::Facts& facts,
                              const ConnectionConfig& config) {
  const StoragePromises& promises = *facts.storage.promises;
  StorageReport report;
  report.name = promises.name;
  report.other_hosts = std::string(WordOf(facts.storage.served_by));
  report.multi_conn =
      !facts.private_copy &&
      WelcomesMultiConn(config.multi_conn, config.exclusive, facts);
  report.multi_conn_reason = MultiConnReason(facts, config);
  report.flush = std::string(WordOf(promises.durability));
  report.holes = MayHaveHoles(facts);
  if (config.exclusive == Exclusive::kOff) return report;
  report.locks_reach_all = LocksReachAll(facts);
  report.locks_reason = WhyLocksReachNotAll(facts);
  if (!*report.locks_reach_all &&
      config.exclusive_scope == ExclusiveScope::kCluster) {
    report.refusal = "--exclusive-scope=cluster needs a lock that holds on all";
  }
  return report;
}

std::string InWords(const std::vector<StoredAs>& exports) {
  std::vector<const StoredAs*> different;
  const auto count = [&](const StorageReport& storage) {
    return std::count_if(
        exports.begin(), exports.end(),
        [&](const StoredAs& one) { return one.storage == storage; });
  };
  for (const StoredAs& one : exports) {
    if (std::none_of(different.begin(), different.end(),
                     [&](const StoredAs* other) {
                       return other->storage == one.storage;
                     })) {
      different.push_back(&one);
    }
  }
  std::string words;
  for (const StoredAs* one : different) {
    const auto others = static_cast<size_t>(count(one->storage)) - 1;
    if (different.size() > 1) {
      absl::StrAppend(&words, Quoted(one->file),
                      others == 0 ? "" : absl::StrCat(" and ", others, " more"),
                      ": ");
    }
    absl::StrAppend(&words, LinesOf(one->storage));
  }
  return words;
}

}  // namespace nbdinetd
