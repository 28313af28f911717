#include "ctl/unit_checks.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/errors.h"
#include "base/unique_fd.h"

namespace nbdinetd::ctl {
namespace {

using Level = Finding::Level;
using Findings = std::vector<Finding>;

// Whether another process listens on a TCP address, as the property Listen
// spells it: "[::]:10809", "192.0.2.1:10809". False for other addresses.
bool IsTaken(absl::string_view address) {
  const size_t colon = address.rfind(':');
  uint16_t port = 0;
  uint32_t number = 0;
  if (colon == absl::string_view::npos ||
      !absl::SimpleAtoi(address.substr(colon + 1), &number) ||
      number > UINT16_MAX) {
    return false;
  }
  port = static_cast<uint16_t>(number);
  std::string host(address.substr(0, colon));
  sockaddr_in6 in6 = {};
  in6.sin6_family = AF_INET6;
  in6.sin6_port = htons(port);
  sockaddr_in in = {};
  in.sin_family = AF_INET;
  in.sin_port = htons(port);
  const bool is_ipv6 = host.size() > 2 && host[0] == '[';
  if (is_ipv6) host = host.substr(1, host.size() - 2);
  if (inet_pton(is_ipv6 ? AF_INET6 : AF_INET, host.c_str(),
                is_ipv6 ? static_cast<void*>(&in6.sin6_addr)
                        : static_cast<void*>(&in.sin_addr)) != 1) {
    return false;
  }
  UniqueFd fd(
      socket(is_ipv6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  // Without listen(), no client notices.
  const int result =
      is_ipv6 ? bind(fd.get(), reinterpret_cast<sockaddr*>(&in6), sizeof(in6))
              : bind(fd.get(), reinterpret_cast<sockaddr*>(&in), sizeof(in));
  return result != 0 && errno == EADDRINUSE;
}

bool IsBelow(absl::string_view path, absl::string_view directory) {
  absl::ConsumePrefix(&directory, "-");
  absl::ConsumePrefix(&directory, "+");
  directory = absl::StripSuffix(directory, "/");
  return absl::ConsumePrefix(&path, directory) &&
         (path.empty() || path[0] == '/');
}

bool IsBelowAny(absl::string_view path, const std::vector<std::string>& list) {
  return std::any_of(list.begin(), list.end(), [&](const std::string& entry) {
    return IsBelow(path, entry);
  });
}

// Whether BindPaths= makes the path visible; to write, too, unless it is
// BindReadOnlyPaths=.
bool IsBound(const Properties& service, const char* property,
             const std::string& path) {
  for (const auto& [source, target] : service.Get<StringPairs>(property)) {
    if (IsBelow(path, target)) return true;
  }
  return false;
}

// Whether an entry of DeviceAllow= is for this device, and permits what is
// needed.
bool AllowsDevice(const std::string& entry, const std::string& permissions,
                  const struct stat& device, bool writable) {
  if (!absl::StrContains(permissions, 'r') ||
      (writable && !absl::StrContains(permissions, 'w'))) {
    return false;
  }
  // Names of classes ("block-sd") are those of /proc/devices.
  if (entry == "block-*") return true;
  if (absl::StartsWith(entry, "block-")) return true;
  struct stat allowed;
  return stat(entry.c_str(), &allowed) == 0 && S_ISBLK(allowed.st_mode) &&
         allowed.st_rdev == device.st_rdev;
}

void CheckDevice(const Properties& service, const std::string& path,
                 bool writable, Findings& findings) {
  struct stat st;
  if (stat(path.c_str(), &st) != 0 || !S_ISBLK(st.st_mode)) return;
  const StringPairs allowed = service.Get<StringPairs>("DeviceAllow");
  const std::string policy = service.Get<std::string>("DevicePolicy");
  if (allowed.empty() && policy == "auto") return;
  for (const auto& [entry, permissions] : allowed) {
    if (AllowsDevice(entry, permissions, st, writable)) return;
  }
  findings.push_back(
      {Level::kError,
       absl::StrCat("the service may not open the device ", path,
                    ": add DeviceAllow=", path, writable ? " rw" : " r",
                    " to its [Service]")});
}

// What mount namespaces hide of the path.
void CheckVisible(const Properties& service, const std::string& path,
                  Findings& findings) {
  if (IsBound(service, "BindPaths", path) ||
      IsBound(service, "BindReadOnlyPaths", path)) {
    return;
  }
  const auto hidden = [&](absl::string_view setting) {
    findings.push_back(
        {Level::kError,
         absl::StrCat("the service can't see ", path, ", which ", setting,
                      " hides: add BindPaths=", path, " to its [Service]")});
  };
  const std::string home = service.Get<std::string>("ProtectHome");
  if ((home == "yes" || home == "tmpfs") &&
      IsBelowAny(path, {"/home", "/root", "/run/user"})) {
    hidden(absl::StrCat("ProtectHome=", home));
  } else if (service.Get<bool>("PrivateTmp") &&
             IsBelowAny(path, {"/tmp", "/var/tmp"})) {
    hidden("PrivateTmp=yes");
  } else {
    for (const auto& [directory, options] :
         service.Get<StringPairs>("TemporaryFileSystem")) {
      if (!IsBelow(path, directory)) continue;
      hidden(absl::StrCat("TemporaryFileSystem=", directory));
      return;
    }
  }
}

void CheckWritable(const Properties& service, const std::string& path,
                   Findings& findings) {
  if (service.Get<std::string>("ProtectSystem") != "strict" ||
      IsBound(service, "BindPaths", path) || absl::StartsWith(path, "/dev/") ||
      IsBelowAny(path,
                 service.Get<std::vector<std::string>>("ReadWritePaths"))) {
    return;
  }
  findings.push_back(
      {Level::kWarning,
       absl::StrCat(path,
                    " would be read-only, by ProtectSystem=strict: add "
                    "ReadWritePaths=",
                    path, " to the service's [Service]")});
}

}  // namespace

Findings CheckSocket(Bus& bus, const ManagedExport& target,
                     absl::Span<const ManagedExport> exports) {
  Findings findings;
  const std::string& unit = target.main_unit();
  if (target.state == "failed") {
    findings.push_back(
        {Level::kError, absl::StrCat(unit, " has failed: ", target.reason)});
  }
  if (bus.GetNumber(unit, "Unit", "NeedDaemonReload") != 0) {
    findings.push_back({Level::kWarning,
                        absl::StrCat(unit,
                                     " is older than its file: run 'systemctl "
                                     "daemon-reload'")});
  }
  const bool listens = target.state == "listening" || target.state == "running";
  for (const std::string& address : target.addresses) {
    for (const ManagedExport& other : exports) {
      const auto& theirs = other.addresses;
      if (other.name == target.name || other.state == "stopped" ||
          std::find(theirs.begin(), theirs.end(), address) == theirs.end()) {
        continue;
      }
      findings.push_back(
          {Level::kError,
           absl::StrCat(address, " is the address of the export ",
                        Quoted(other.name), ", too")});
    }
    if (!listens && findings.empty() && IsTaken(address)) {
      findings.push_back(
          {Level::kError, absl::StrCat("another process listens on ", address,
                                       ": 'ss -ltnp' shows it")});
    }
  }
  return findings;
}

Findings CheckService(const Properties& service, const std::string& path,
                      bool writable) {
  Findings findings;
  if (!path.empty()) {
    CheckDevice(service, path, writable, findings);
    CheckVisible(service, path, findings);
    if (writable) CheckWritable(service, path, findings);
  }
  for (const auto& [id, source] : service.Get<StringPairs>("LoadCredential")) {
    if (!absl::StartsWith(source, "/") || access(source.c_str(), R_OK) == 0) {
      continue;
    }
    findings.push_back(
        {Level::kError,
         absl::StrCat(
             "LoadCredential=: ",
             ErrnoStatus(errno, absl::StrCat("failed to open ", Quoted(source)))
                 .message())});
  }
  return findings;
}

}  // namespace nbdinetd::ctl
