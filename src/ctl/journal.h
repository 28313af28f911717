// Reads what nbdinetd has written to the journal.
//
// Owns the open journal. Threads: one.
#ifndef NBDINETD_CTL_JOURNAL_H_
#define NBDINETD_CTL_JOURNAL_H_

#include <sys/types.h>
#include <systemd/sd-journal.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/message_id.h"
#include "ctl/where.h"

namespace nbdinetd::ctl {

// This boot of the machine, as the field _BOOT_ID has it; empty if it can't be
// found out, which no entry has.
std::string CurrentBoot();

// The entry that the journal is at; valid within a callback.
class JournalEntry {
 public:
  // `user`: the units are those of a user's manager.
  JournalEntry(sd_journal* journal, bool user)
      : journal_(journal), user_(user) {}

  // The first value of a field; nullopt without one.
  std::optional<std::string> Field(const char* name) const;
  std::optional<uint64_t> Number(const char* name) const;
  absl::Time time() const;
  // The unit of the process that wrote it, as the journal itself found out;
  // empty for none. Another user can't forge it.
  std::string Unit() const;

 private:
  sd_journal* journal_;
  bool user_;
};

// A process whose entries are searched. Its id alone isn't enough: others had
// it before.
struct JournalProcess {
  pid_t pid = 0;
  std::string unit;
};

struct JournalQuery {
  std::vector<MessageId> message_ids;
  // Only entries of this process since the machine was booted. `since` should
  // be the process's start.
  std::optional<JournalProcess> process;
  absl::Time since = absl::InfinitePast();
  bool newest_first = false;
};

class Journal {
 public:
  // PermissionDenied if this user may not read the system's journal;
  // Unimplemented with -H and -M.
  static absl::StatusOr<Journal> Open(const Where& where);

  // Calls `visit` for each entry that matches, until it returns false.
  absl::Status ForEach(const JournalQuery& query,
                       absl::FunctionRef<bool(const JournalEntry&)> visit);

 private:
  struct Close {
    void operator()(sd_journal* journal) const { sd_journal_close(journal); }
  };

  Journal(sd_journal* journal, bool user) : journal_(journal), user_(user) {}

  std::unique_ptr<sd_journal, Close> journal_;
  bool user_;
};

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_JOURNAL_H_
