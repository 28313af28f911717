// What the process of a connection gives up before it listens to a stranger.
//
// In two steps, and for ever. Enter() comes before the first byte of the
// client, when all is open that the connection will need: no new privileges, no
// capabilities, no file but the exports that are still to be opened beneath a
// directory (Landlock), no system call but those in system_calls.h (seccomp).
// Tighten() comes when transmission starts, and takes away what only the
// haggling needed: from then on nothing can be opened. What is taken away
// depends on what the connection is (SandboxFacts), on no option.
//
// A system call that isn't in the table ends the process (SIGSYS): nbdinetd
// makes none, so that somebody else does. What a kernel, or whoever confines us
// from outside, doesn't have is told to the caller, and the rest is done all
// the same. Threads: the main thread, before there are any others; they inherit
// all of it.
#ifndef NBDINETD_SANDBOX_SANDBOX_H_
#define NBDINETD_SANDBOX_SANDBOX_H_

#include <string>

#include "absl/status/status.h"

namespace nbdinetd {

// --sandbox.
enum class SandboxMode {
  kOff,
  kOn,       // as far as the system has it
  kRequire,  // all of it, or the client is not served
};

// Sanitizers and gcov make system calls, and open files, of their own.
#ifdef NBDINETD_NO_SANDBOX_BY_DEFAULT
inline constexpr SandboxMode kDefaultSandbox = SandboxMode::kOff;
#else
inline constexpr SandboxMode kDefaultSandbox = SandboxMode::kOn;
#endif

// What a connection is, as far as it decides what it needs.
struct SandboxFacts {
  bool tls = false;            // it may, or must, be encrypted
  bool writable = false;       // an export may be written to
  bool block_devices = false;  // an export may be a block device
  bool exclusive = false;      // exports are locked
  bool takeover = false;       // and whoever has one locked is asked to leave
  // Descriptors, or -1: what exports are opened beneath; what comes from the
  // client and goes to it; of signals; what workers tell of their results by.
  int directory_fd = -1;
  int input_fd = -1;
  int output_fd = -1;
  bool kernel_tls = false;  // if TLS, the kernel may encrypt for that socket
  int signals_fd = -1;
  int workers_fd = -1;
};

class Sandbox {
 public:
  explicit Sandbox(const SandboxFacts& facts) : facts_(facts) {}

  // An error says what of it could not be had and why, in clauses for a person;
  // everything else is in place.
  absl::Status Enter();
  // After Enter(). What that has told isn't told again.
  absl::Status Tighten();

  // What Enter() leaves to the process, for a person: a line with its newline.
  std::string InWords() const;

 private:
  const SandboxFacts facts_;
  bool has_filter_ = false;
};

}  // namespace nbdinetd

#endif  // NBDINETD_SANDBOX_SANDBOX_H_
