// Reads partition tables, in a process of its own.
//
// A guest may have written the table, and libblkid is C: what parses it must be
// able to do nothing. Start() forks a process before the connection's sandbox,
// and it enters a stricter one (EnterTableSandbox) before it gets anything. For
// each table it receives a descriptor of the file, open for reading, and
// answers with one message, which is checked like a client's (Decode()). It has
// no other descriptor and no key, and libblkid is in no other process.
//
// It ends when its socket has no more messages: when the TableReader is
// destroyed, and at the latest with its parent. It can wait for nothing else,
// and a table that makes libblkid compute ends it after kTableCpuSeconds.
// PR_SET_PDEATHSIG isn't enough, since a parent in a Landlock domain without
// signals doesn't send that one either. The caller of Start() must
// ignore SIGCHLD, or wait for the process, as End() does.
//
// Rejected: libblkid in the sandbox of the connection, which would have the
// client's connection, keys and, for writing, the export in the same memory,
// and more system calls for all; a program of its own, which would need
// execve(2), and a path.
//
// System calls after Start(): sendmsg and poll on fd(), recvfrom. Threads: the
// main thread.
#ifndef NBDINETD_PARTITION_TABLE_READER_H_
#define NBDINETD_PARTITION_TABLE_READER_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "base/shutdown_notice.h"
#include "base/unique_fd.h"
#include "partition/partition_table.h"
#include "sandbox/sandbox.h"

namespace nbdinetd {

class TableReader {
 public:
  // Internal when there can be no process. `shutdown` is for Read().
  static absl::StatusOr<std::unique_ptr<TableReader>> Start(
      SandboxMode mode, ShutdownNotice shutdown = {});

  // Reads the table of an open file; `path` is for messages. Waits for the
  // storage, at most kTablePatience. `fd` is borrowed, and its open file
  // description is used by nobody else.
  // NotFound: the file can't be read. FailedPrecondition: there is no libblkid.
  // Internal: the process failed, and no table can be read any more. Cancelled:
  // so, because this one was told to end.
  absl::StatusOr<PartitionTable> Read(int fd, const std::string& path);

  // Destroys `reader`, ends its process, and waits for that, at most
  // kTableEndPatience. Not in a sandbox.
  static void End(std::unique_ptr<TableReader> reader);
  // The second half of that, for a reader that another owner has destroyed.
  static void EndProcess(pid_t process);

  // Its process, a child of this one.
  pid_t process() const { return process_; }
  // The socket to the process, borrowed.
  int fd() const { return socket_.get(); }

 private:
  TableReader(UniqueFd socket, pid_t process, ShutdownNotice shutdown)
      : socket_(std::move(socket)),
        process_(process),
        shutdown_(std::move(shutdown)) {}

  // The bytes of an answer.
  absl::StatusOr<std::string> Ask(int fd);

  UniqueFd socket_;
  const pid_t process_;
  const ShutdownNotice shutdown_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_PARTITION_TABLE_READER_H_
