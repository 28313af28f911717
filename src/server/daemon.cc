#include "server/daemon.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"

namespace nbdinetd {
namespace {

// The byte from a ready child; any other byte begins an error message.
constexpr char kReady = '\0';

[[noreturn]] void AwaitChild(int fd) {
  char buffer[1024];
  std::string message;
  ssize_t n;
  while ((n = read(fd, buffer, sizeof(buffer))) > 0) {
    message.append(buffer, static_cast<size_t>(n));
    if (message[0] == kReady) _exit(0);
  }
  if (message.empty())
    message = "the background process ended without a message; -f shows why";
  message = absl::StrCat("nbdinetd: ", message, "\n");
  [[maybe_unused]] const ssize_t written =
      write(STDERR_FILENO, message.data(), message.size());
  _exit(kBackgroundFailed);
}

// The user and group to change to (credentials(7)); kUnchanged for no change.
struct Credentials {
  static constexpr uid_t kUnchanged = static_cast<uid_t>(-1);
  uid_t uid = kUnchanged;
  gid_t gid = kUnchanged;
  std::string user_groups;  // the user whose supplementary groups are set
  std::string description;  // for messages: user "nobody" and group ""
};

absl::Status FindUser(const std::string& user, Credentials* credentials) {
  const passwd* entry = getpwnam(user.c_str());
  uid_t number = 0;
  if (entry == nullptr && absl::SimpleAtoi(user, &number)) {
    entry = getpwuid(number);
    credentials->uid = number;
  }
  if (entry != nullptr) {
    credentials->uid = entry->pw_uid;
    credentials->gid = entry->pw_gid;
    credentials->user_groups = entry->pw_name;
  } else if (credentials->uid == Credentials::kUnchanged) {
    return absl::InvalidArgumentError(
        absl::StrCat("--user=", Quoted(user), ": there is no such user"));
  }
  return absl::OkStatus();
}

absl::Status FindGroup(const std::string& group, Credentials* credentials) {
  gid_t number = 0;
  if (const struct group* entry = getgrnam(group.c_str())) {
    credentials->gid = entry->gr_gid;
  } else if (absl::SimpleAtoi(group, &number) &&
             number != Credentials::kUnchanged) {
    credentials->gid = number;
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("--group=", Quoted(group), ": there is no such group"));
  }
  credentials->user_groups.clear();
  return absl::OkStatus();
}

absl::StatusOr<Credentials> FindCredentials(const std::string& user,
                                            const std::string& group) {
  Credentials credentials;
  absl::Status status;
  if (!user.empty()) status = FindUser(user, &credentials);
  if (status.ok() && !group.empty()) status = FindGroup(group, &credentials);
  if (!status.ok()) return status;
  if (credentials.uid != Credentials::kUnchanged &&
      credentials.gid == Credentials::kUnchanged) {
    return absl::InvalidArgumentError(
        absl::StrCat("--user=", Quoted(user),
                     " has no entry with a group: use --group, too"));
  }
  credentials.description =
      absl::StrCat("user ", Quoted(user), " and group ", Quoted(group));
  return credentials;
}

absl::Status Become(const Credentials& credentials) {
  const uid_t uid = credentials.uid;
  const gid_t gid = credentials.gid;
  if (gid == Credentials::kUnchanged) return absl::OkStatus();
  // The groups first, while the process still has the right to.
  const bool changed =
      (credentials.user_groups.empty()
           ? setgroups(1, &gid)
           : initgroups(credentials.user_groups.c_str(), gid)) == 0 &&
      setresgid(gid, gid, gid) == 0 &&
      (uid == Credentials::kUnchanged || setresuid(uid, uid, uid) == 0);
  if (changed) return absl::OkStatus();
  return ErrnoStatus(errno,
                     absl::StrCat("failed to become ", credentials.description,
                                  ", which --user and --group ask for"));
}

std::string PidfileText() { return absl::StrCat(getpid(), "\n"); }

}  // namespace

absl::StatusOr<Background> Background::Enter() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    return ErrnoStatus(errno,
                       "failed to make a pipe to the background process");
  }
  UniqueFd parent_end(ends[0]), child_end(ends[1]);
  const pid_t pid = fork();
  if (pid < 0) return ErrnoStatus(errno, "failed to fork into the background");
  if (pid > 0) {
    child_end.Reset();
    AwaitChild(parent_end.get());
  }
  setsid();
  return Background(std::move(child_end));
}

void Background::Ready(bool keep_standard_error) {
  [[maybe_unused]] const int ignored = chdir("/");
  const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  dup2(null.get(), STDIN_FILENO);
  dup2(null.get(), STDOUT_FILENO);
  if (!keep_standard_error) dup2(null.get(), STDERR_FILENO);
  [[maybe_unused]] const ssize_t n = write(parent_.get(), &kReady, 1);
  parent_.Reset();
}

void Background::Failed(absl::string_view message) {
  [[maybe_unused]] const ssize_t n =
      write(parent_.get(), message.data(), message.size());
  parent_.Reset();
}

absl::StatusOr<Pidfile> Pidfile::Write(const std::string& path) {
  const auto fail = [&](absl::string_view reason) {
    return absl::AlreadyExistsError(
        absl::StrCat("failed to write pidfile ", Quoted(path), ": ", reason));
  };
  const size_t slash = path.rfind('/');
  Pidfile pidfile;
  pidfile.name_ = slash == std::string::npos ? path : path.substr(slash + 1);
  // Kept open, because the current folder may change.
  pidfile.directory_.Reset(
      open(slash == std::string::npos ? "." : path.substr(0, slash + 1).c_str(),
           O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!pidfile.directory_.valid()) return fail(ErrnoText(errno));
  // Another user, such as that of --user, may have the right to write to the
  // folder. The file is therefore checked before it is truncated.
  pidfile.file_.Reset(openat(
      pidfile.directory_.get(), pidfile.name_.c_str(),
      O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0644));
  const int fd = pidfile.file_.get();
  if (!pidfile.file_.valid()) {
    return fail(errno == ELOOP ? "it is a symbolic link, and none is followed"
                               : ErrnoText(errno));
  }
  struct stat st;
  if (fstat(fd, &st) != 0) return fail(ErrnoText(errno));
  if (!S_ISREG(st.st_mode)) return fail("it is no regular file");
  if (st.st_nlink > 1) return fail("it has more than one hard link");
  const std::string text = PidfileText();
  if (ftruncate(fd, 0) != 0) return fail(ErrnoText(errno));
  const ssize_t n = pwrite(fd, text.data(), text.size(), 0);
  if (n < 0) return fail(ErrnoText(errno));
  if (n != static_cast<ssize_t>(text.size())) return fail(ErrnoText(ENOSPC));
  return pidfile;
}

void Pidfile::Remove() {
  if (!file_.valid()) return;
  char text[32];
  const ssize_t n = pread(file_.get(), text, sizeof(text), 0);
  struct stat ours, there;
  // Another process may have written its own id.
  const bool is_ours =
      n > 0 && absl::string_view(text, static_cast<size_t>(n)) == PidfileText();
  if (is_ours && fstat(file_.get(), &ours) == 0 &&
      fstatat(directory_.get(), name_.c_str(), &there, AT_SYMLINK_NOFOLLOW) ==
          0 &&
      ours.st_dev == there.st_dev && ours.st_ino == there.st_ino &&
      unlinkat(directory_.get(), name_.c_str(), 0) != 0) {
    [[maybe_unused]] const int ignored = ftruncate(file_.get(), 0);
  }
  *this = Pidfile();
}

absl::Status ChangeUser(const std::string& user, const std::string& group,
                        const BoundSockets& sockets) {
  const absl::StatusOr<Credentials> credentials = FindCredentials(user, group);
  if (!credentials.ok()) return credentials.status();
  sockets.GiveTo(credentials->uid, credentials->gid);
  return Become(*credentials);
}

absl::Status EndWithParent(pid_t parent) {
  if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0) {
    return ErrnoStatus(errno, "failed to arrange for --exit-with-parent");
  }
  // The parent may have ended before.
  if (getppid() != parent) kill(getpid(), SIGTERM);
  return absl::OkStatus();
}

absl::StatusOr<pid_t> StartCommand(
    const std::string& command,
    const std::vector<std::pair<std::string, std::string>>& variables) {
  const pid_t pid = fork();
  if (pid < 0) {
    return ErrnoStatus(errno, absl::StrCat("failed to run ", Quoted(command)));
  }
  if (pid > 0) return pid;
  for (const auto& [name, value] : variables) {
    setenv(name.c_str(), value.c_str(), /*overwrite=*/1);
  }
  // The listener blocks some signals and ignores others; the command gets the
  // defaults.
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  signal(SIGXFSZ, SIG_DFL);
  execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
  _exit(127);
}

}  // namespace nbdinetd
