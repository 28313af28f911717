// The sandbox of the process that reads partition tables, which has no files
// but what it is sent, and hardly any system calls (table_calls.h). Threads: a
// process that has one.
#ifndef NBDINETD_SANDBOX_TABLE_SANDBOX_H_
#define NBDINETD_SANDBOX_TABLE_SANDBOX_H_

#include "absl/status/status.h"

namespace nbdinetd {

// The descriptor of its one socket.
inline constexpr int kTableSocket = 0;

// Enters it. An error lists the parts that failed and why, as clauses for a
// person; all other parts are in place.
absl::Status EnterTableSandbox();

}  // namespace nbdinetd

#endif  // NBDINETD_SANDBOX_TABLE_SANDBOX_H_
