// The sandbox of a connection's process, which it enters before it reads from
// the client.
//
// It has two steps, which can't be undone. Enter() runs before the first byte
// of the client, after everything that the connection needs is open. It forbids
// new privileges and removes all capabilities, access to all files except the
// exports beneath a directory (Landlock), and all system calls except those in
// system_calls.h (seccomp). Tighten() runs when transmission starts, and
// removes what only option haggling needs: nothing can be opened afterwards.
// Both depend on the kind of connection (SandboxFacts), and on no option.
//
// A system call that isn't in the table ends the process (SIGSYS), since only a
// bug or an attack can make it. If the kernel or an outer sandbox doesn't
// support a part, the caller is informed, and the other parts still apply.
// Threads: the main thread, before others start; they inherit the sandbox.
#ifndef NBDINETD_SANDBOX_SANDBOX_H_
#define NBDINETD_SANDBOX_SANDBOX_H_

#include <string>

#include "absl/status/status.h"

namespace nbdinetd {

// The values of --sandbox.
enum class SandboxMode {
  kOff,
  kOn,       // as far as the system supports it
  kRequire,  // all of it; otherwise the client isn't served
};

// Sanitizers and gcov make system calls and open files themselves.
#ifdef NBDINETD_NO_SANDBOX_BY_DEFAULT
inline constexpr SandboxMode kDefaultSandbox = SandboxMode::kOff;
#else
inline constexpr SandboxMode kDefaultSandbox = SandboxMode::kOn;
#endif

// The facts about a connection that decide what it needs.
struct SandboxFacts {
  bool tls = false;            // TLS is possible or required
  bool writable = false;       // an export may be written to
  bool block_devices = false;  // an export may be a block device
  bool exclusive = false;      // exports are locked
  bool takeover = false;       // and their holders are asked to end
  // Descriptors, or -1: the exports' directory; the socket to the process that
  // reads partition tables; the file of a private copy; the directory of kept
  // copies, of which one gets to copy_fd; the connection's two directions; the
  // signalfd; the eventfd by which workers report results; the file of --log;
  // the socket to the journal.
  int directory_fd = -1;
  int tables_fd = -1;
  int copy_fd = -1;
  int copies_fd = -1;
  int input_fd = -1;
  int output_fd = -1;
  bool kernel_tls = false;  // with TLS: the kernel may encrypt on the socket
  int signals_fd = -1;
  int workers_fd = -1;
  int log_fd = -1;
  int journal_fd = -1;
};

class Sandbox {
 public:
  explicit Sandbox(const SandboxFacts& facts) : facts_(facts) {}

  // Enters the sandbox. An error lists the parts that failed and why, as
  // clauses for a person; all other parts are in place.
  absl::Status Enter();
  // Adds the second filter, after Enter(). It doesn't repeat errors of Enter().
  absl::Status Tighten();

  // Describes the sandbox for a person, as one line with its newline.
  std::string InWords() const;

 private:
  const SandboxFacts facts_;
  bool has_filter_ = false;
};

}  // namespace nbdinetd

#endif  // NBDINETD_SANDBOX_SANDBOX_H_
