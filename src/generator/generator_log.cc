#include "generator/generator_log.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"

namespace nbdinetd {
namespace {

constexpr char kJournal[] = "/run/systemd/journal/socket";

// The journal's native protocol: a field has no newline here.
bool SendToJournal(absl::string_view message, absl::string_view name) {
  const UniqueFd socket(
      ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, kJournal, sizeof(kJournal));
  std::string datagram = absl::StrCat("MESSAGE=", message,
                                      "\nPRIORITY=3\nSYSLOG_FACILITY=3\n"
                                      "SYSLOG_IDENTIFIER=nbdinetd-generator\n");
  if (!name.empty()) absl::StrAppend(&datagram, "NBD_EXPORT=", name, "\n");
  return socket.valid() &&
         sendto(socket.get(), datagram.data(), datagram.size(), MSG_NOSIGNAL,
                reinterpret_cast<const sockaddr*>(&address),
                sizeof(address)) >= 0;
}

bool WriteLine(const char* path, const std::string& line) {
  const UniqueFd fd(open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  return fd.valid() && write(fd.get(), line.data(), line.size()) >= 0;
}

}  // namespace

void LogGeneratorError(GeneratorCaller caller, absl::string_view message,
                       absl::string_view name) {
  const std::string line = absl::StrCat("nbdinetd-generator: ", message, "\n");
  if (caller == GeneratorCaller::kServiceManager &&
      (SendToJournal(message, name) ||
       // 27: facility daemon, priority error (syslog(3)).
       WriteLine("/dev/kmsg", absl::StrCat("<27>", line)))) {
    return;
  }
  std::fputs(line.c_str(), stderr);
}

}  // namespace nbdinetd
