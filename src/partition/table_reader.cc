#include "partition/table_reader.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/types/span.h"
#include "base/errors.h"
#include "base/limits.h"
#include "base/page_size.h"
#include "base/poll.h"
#include "base/steady_clock.h"
#include "partition/read_table.h"
#include "partition/table_answer.h"
#include "sandbox/table_sandbox.h"

namespace nbdinetd {
namespace {

constexpr char kProcess[] = "the process that reads partition tables ";

// Between two looks whether it has ended.
constexpr absl::Duration kMinEndPause = absl::Microseconds(100);
constexpr absl::Duration kMaxEndPause = absl::Milliseconds(10);

// ---- In that process

// Receives the descriptor of a message; empty when there are no more.
UniqueFd ReceiveDescriptor() {
  char byte;
  iovec piece = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t received;
  do {
    received = recvmsg(kTableSocket, &message, MSG_CMSG_CLOEXEC);
  } while (received < 0 && errno == EINTR);
  if (received <= 0) return {};
  const cmsghdr* head = CMSG_FIRSTHDR(&message);
  if (head == nullptr || head->cmsg_level != SOL_SOCKET ||
      head->cmsg_type != SCM_RIGHTS ||
      head->cmsg_len != CMSG_LEN(sizeof(int))) {
    return {};
  }
  int fd;
  std::memcpy(&fd, CMSG_DATA(head), sizeof(fd));
  return UniqueFd(fd);
}

// Keeps only the socket, as kTableSocket. False when that fails.
bool KeepOnly(int socket) {
  return (socket == kTableSocket || dup2(socket, kTableSocket) >= 0) &&
         syscall(SYS_close_range, kTableSocket + 1, ~0u, 0) == 0;
}

void Limit(int resource, rlim_t value) {
  const rlimit limit = {value, value};
  setrlimit(static_cast<__rlimit_resource>(resource), &limit);
}

// The address space in use, which is large with a sanitizer or under valgrind;
// 0 if it isn't known.
uint64_t AddressSpaceBytes() {
  const UniqueFd fd(open("/proc/self/statm", O_RDONLY | O_CLOEXEC));
  char text[128] = {};
  // Its first number is in pages.
  if (!fd.valid() || read(fd.get(), text, sizeof(text) - 1) <= 0) return 0;
  return std::strtoull(text, nullptr, 10) * PageBytes();
}

// Why no table can be read; nullopt if it can.
std::optional<TableAnswer> Prepare(SandboxMode mode,
                                   std::unique_ptr<TableParser>& parser) {
  auto created = TableParser::Create();
  if (!created.ok()) {
    return TableAnswer{TableAnswer::Outcome::kNoLibrary,
                       0,
                       std::string(created.status().message()),
                       {}};
  }
  parser = *std::move(created);
  Limit(RLIMIT_CPU, kTableCpuSeconds);
  Limit(RLIMIT_AS, AddressSpaceBytes() + kTableMemoryBytes);
  if (mode == SandboxMode::kOff) return std::nullopt;
  const absl::Status sandboxed = EnterTableSandbox();
  // Without --sandbox=require, the connection says what is missing.
  if (sandboxed.ok() || mode != SandboxMode::kRequire) return std::nullopt;
  return TableAnswer{TableAnswer::Outcome::kNoSandbox,
                     0,
                     std::string(sandboxed.message()),
                     {}};
}

[[noreturn]] void Serve(int socket, SandboxMode mode, pid_t parent) {
  if (!KeepOnly(socket)) _exit(1);
  std::unique_ptr<TableParser> parser;
  const std::optional<TableAnswer> failure = Prepare(mode, parser);
  // After the last change of privileges, which would undo it.
  prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  // It may have ended before.
  if (getppid() != parent) _exit(1);
  while (true) {
    UniqueFd fd = ReceiveDescriptor();
    if (!fd.valid()) _exit(0);
    const std::string answer =
        Encode(failure.has_value() ? *failure : parser->Read(fd.get()));
    fd.Reset();
    ssize_t sent;
    do {
      sent = send(kTableSocket, answer.data(), answer.size(), MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0) _exit(1);
  }
}

// ---- In the connection's

// Sends a byte and a descriptor. 0 or an errno value.
int SendDescriptor(int socket, int fd) {
  char byte = 0;
  iovec piece = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(head), &fd, sizeof(fd));
  ssize_t sent;
  do {
    sent = sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  return sent < 0 ? errno : 0;
}

absl::Status HasEnded() {
  return absl::InternalError(absl::StrCat(
      kProcess, "has ended: the table may be one that libblkid can't take"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<TableReader>> TableReader::Start(
    SandboxMode mode, ShutdownNotice shutdown) {
  constexpr char kFailed[] =
      "failed to start the process that reads partition tables";
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) {
    return ErrnoStatus(errno, kFailed);
  }
  UniqueFd ours(sockets[0]), theirs(sockets[1]);
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) return ErrnoStatus(errno, kFailed);
  if (child == 0) Serve(theirs.get(), mode, parent);
  return std::unique_ptr<TableReader>(
      new TableReader(std::move(ours), child, std::move(shutdown)));
}

void TableReader::End(std::unique_ptr<TableReader> reader) {
  const pid_t process = reader->process_;
  reader.reset();
  EndProcess(process);
}

void TableReader::EndProcess(pid_t process) {
  // It may be computing, or waiting for the storage. While it waits for that
  // without limit, it doesn't end; it is then left to whoever reaps next.
  kill(process, SIGKILL);
  const absl::Time deadline = SteadyNow() + kTableEndPatience;
  absl::Duration pause = kMinEndPause;
  while (waitpid(process, nullptr, WNOHANG) == 0 && SteadyNow() < deadline) {
    absl::SleepFor(pause);
    pause = std::min(2 * pause, kMaxEndPause);
  }
}

absl::StatusOr<std::string> TableReader::Ask(int fd) {
  if (const int error = SendDescriptor(socket_.get(), fd)) {
    if (error == EPIPE || error == ECONNRESET) return HasEnded();
    return ErrnoStatus(error, absl::StrCat(kProcess, "can't be asked"));
  }
  const absl::Time deadline = SteadyNow() + kTablePatience;
  std::string bytes(kMaxAnswerBytes + 1, '\0');
  while (true) {
    pollfd entries[] = {{socket_.get(), POLLIN, 0}, {shutdown_.fd, POLLIN, 0}};
    if (PollUntil(absl::MakeSpan(entries), deadline) == 0) {
      return absl::InternalError(
          absl::StrCat(kProcess, "hasn't answered within ",
                       absl::FormatDuration(kTablePatience),
                       ": the storage, or the table, takes too long"));
    }
    const ssize_t n =
        recv(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
      if (entries[1].revents != 0 &&
          (shutdown_.told == nullptr || shutdown_.told() != Shutdown::kNone)) {
        return absl::CancelledError("this process was told to end");
      }
      continue;
    }
    if (n == 0 || (n < 0 && errno == ECONNRESET)) return HasEnded();
    if (n < 0) {
      return ErrnoStatus(errno, absl::StrCat(kProcess, "can't be heard"));
    }
    bytes.resize(static_cast<size_t>(n));
    return bytes;
  }
}

absl::StatusOr<PartitionTable> TableReader::Read(int fd,
                                                 const std::string& path) {
  const std::string what =
      absl::StrCat("failed to read the partition table of ", Quoted(path));
  const auto failed = [&](const absl::Status& status) {
    // A late answer must not be taken for that to another question.
    socket_.Reset();
    return absl::Status(status.code(),
                        absl::StrCat(what, ": ", status.message()));
  };
  if (!socket_.valid()) return failed(HasEnded());
  const absl::StatusOr<std::string> bytes = Ask(fd);
  if (!bytes.ok()) return failed(bytes.status());
  absl::StatusOr<TableAnswer> answer = Decode(*bytes);
  if (!answer.ok()) return failed(answer.status());
  switch (answer->outcome) {
    case TableAnswer::Outcome::kTable:
      return std::move(answer->table);
    case TableAnswer::Outcome::kNoLibrary:
      return absl::FailedPreconditionError(absl::StrCat(
          what, ": libblkid can't be loaded (", answer->text,
          "); install it, such as the package libblkid1, or serve a part by "
          "--offset and --length"));
    case TableAnswer::Outcome::kNoSandbox:
      return absl::InternalError(
          absl::StrCat(what, ": --sandbox=require, and ", answer->text));
    case TableAnswer::Outcome::kReadError:
      break;
  }
  return ErrnoStatus(answer->error_number, what, absl::StatusCode::kNotFound);
}

}  // namespace nbdinetd
