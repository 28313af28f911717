#include "generator/generator_log.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"
#include "generator/export_file.h"

namespace nbdinetd {
namespace {

constexpr size_t kMaxMessageBytes =
    900;  // a line of the kernel's log has 1 KiB

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

// A newline would begin another field or line, and a terminal obeys others.
std::string OneLine(absl::string_view text) {
  std::string line = Shortened(text, kMaxMessageBytes);
  for (char& c : line) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) c = '?';
  }
  return line;
}

bool WriteLine(const char* path, const std::string& line) {
  const UniqueFd fd(open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  return fd.valid() && write(fd.get(), line.data(), line.size()) >= 0;
}

}  // namespace

void LogGeneratorError(GeneratorCaller caller, absl::string_view text,
                       absl::string_view name) {
  const std::string message = OneLine(text);
  const std::string line = absl::StrCat("nbdinetd-generator: ", message, "\n");
  if (caller == GeneratorCaller::kServiceManager &&
      (SendToJournal(message, OneLine(name)) ||
       // 27: facility daemon, priority error (syslog(3)).
       WriteLine("/dev/kmsg", absl::StrCat("<27>", line)))) {
    return;
  }
  std::fputs(line.c_str(), stderr);
}

}  // namespace nbdinetd
