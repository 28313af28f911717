#include "ctl/journal.h"

#include <systemd/sd-id128.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"

namespace nbdinetd::ctl {
namespace {

// The library opens what it may, and says nothing of the rest.
bool MayRead(const Where& where) {
  sd_id128_t machine;
  if (where.user || sd_id128_get_machine(&machine) < 0) return true;
  char id[SD_ID128_STRING_MAX];
  for (const char* directory : {"/var/log/journal/", "/run/log/journal/"}) {
    const std::string path = absl::StrCat(
        directory, sd_id128_to_string(machine, id), "/system.journal");
    // Either the file or its directory may be forbidden.
    if (access(path.c_str(), R_OK) != 0 && errno == EACCES) return false;
  }
  return true;
}

absl::Status AddMatch(sd_journal* journal, const std::string& match) {
  const int result = sd_journal_add_match(journal, match.data(), match.size());
  if (result >= 0) return absl::OkStatus();
  return ErrnoStatus(-result, "failed to search the journal");
}

absl::Status AddProcess(sd_journal* journal, const JournalProcess& process,
                        bool user) {
  for (const std::string& match :
       {absl::StrCat("_PID=", process.pid),
        absl::StrCat("_BOOT_ID=", CurrentBoot()),
        absl::StrCat(user ? "_SYSTEMD_USER_UNIT=" : "_SYSTEMD_UNIT=",
                     process.unit)}) {
    absl::Status status = AddMatch(journal, match);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

std::string CurrentBoot() {
  sd_id128_t boot;
  char text[SD_ID128_STRING_MAX];
  if (sd_id128_get_boot(&boot) < 0) return "";
  return sd_id128_to_string(boot, text);
}

std::optional<std::string> JournalEntry::Field(const char* name) const {
  const void* data = nullptr;
  size_t length = 0;
  if (sd_journal_get_data(journal_, name, &data, &length) < 0) {
    return std::nullopt;
  }
  // "NAME=value"
  const size_t prefix = strlen(name) + 1;
  if (length < prefix) return std::nullopt;
  return std::string(static_cast<const char*>(data) + prefix, length - prefix);
}

std::optional<uint64_t> JournalEntry::Number(const char* name) const {
  const std::optional<std::string> text = Field(name);
  uint64_t number = 0;
  if (!text.has_value() || !absl::SimpleAtoi(*text, &number)) {
    return std::nullopt;
  }
  return number;
}

absl::Time JournalEntry::time() const {
  uint64_t usec = 0;
  sd_journal_get_realtime_usec(journal_, &usec);
  return absl::FromUnixMicros(static_cast<int64_t>(usec));
}

std::string JournalEntry::Unit() const {
  // A process of a user's manager belongs to none of the system's units,
  // although it is in one, user@UID.service.
  const std::optional<std::string> of_user = Field("_SYSTEMD_USER_UNIT");
  if (user_) return of_user.value_or("");
  return of_user.has_value() ? "" : Field("_SYSTEMD_UNIT").value_or("");
}

absl::StatusOr<Journal> Journal::Open(const Where& where) {
  if (!where.local()) {
    return absl::UnimplementedError(absl::StrCat(
        "sd-journal reads the journal's files on this machine only: run "
        "nbdinetctl on the other one, as in '",
        where.host.empty()
            ? absl::StrCat("systemd-run --pipe -M ", where.machine)
            : absl::StrCat("ssh ", where.host),
        " nbdinetctl history'"));
  }
  if (!MayRead(where)) {
    return absl::PermissionDeniedError(
        "this user may not read the journal: run nbdinetctl as root, or add "
        "the user to the group systemd-journal");
  }
  sd_journal* journal = nullptr;
  const int result = sd_journal_open(&journal, SD_JOURNAL_LOCAL_ONLY);
  if (result < 0) return ErrnoStatus(-result, "failed to open the journal");
  return Journal(journal, where.user);
}

absl::Status Journal::ForEach(
    const JournalQuery& query,
    absl::FunctionRef<bool(const JournalEntry&)> visit) {
  sd_journal* journal = journal_.get();
  sd_journal_flush_matches(journal);
  // Matches of one field are alternatives.
  for (const MessageId& id : query.message_ids) {
    absl::Status status =
        AddMatch(journal, absl::StrCat("MESSAGE_ID=", id.hex));
    if (!status.ok()) return status;
  }
  if (query.process.has_value()) {
    absl::Status status = AddProcess(journal, *query.process, user_);
    if (!status.ok()) return status;
  }
  if (user_) {
    // Root's journal has the units of all users.
    absl::Status status = AddMatch(journal, absl::StrCat("_UID=", getuid()));
    if (!status.ok()) return status;
  }
  int result;
  if (query.newest_first) {
    result = sd_journal_seek_tail(journal);
  } else if (query.since > absl::UnixEpoch()) {
    result = sd_journal_seek_realtime_usec(
        journal, static_cast<uint64_t>(absl::ToUnixMicros(query.since)));
  } else {
    result = sd_journal_seek_head(journal);
  }
  while (result >= 0) {
    result = query.newest_first ? sd_journal_previous(journal)
                                : sd_journal_next(journal);
    if (result <= 0) break;
    const JournalEntry entry(journal, user_);
    // The seek may end before the time, among several files.
    if (entry.time() < query.since) {
      if (query.newest_first) break;
      continue;
    }
    if (!visit(entry)) break;
  }
  if (result >= 0) return absl::OkStatus();
  return ErrnoStatus(-result, "failed to read the journal");
}

}  // namespace nbdinetd::ctl
