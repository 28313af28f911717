#include "ctl/nbd_uri.h"

#include <pwd.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/errors.h"
#include "base/limits.h"

namespace nbdinetd::ctl {
namespace {

constexpr char kDefaultPort[] = "10809";
constexpr size_t kMaxHostnameBytes = 253;  // of DNS, without the last dot
constexpr size_t kMaxSocketBytes = sizeof(sockaddr_un{}.sun_path) - 1;

// The bytes that %XX stands for; nullopt for another use of '%'.
std::optional<std::string> Decoded(absl::string_view text) {
  std::string bytes;
  while (!text.empty()) {
    if (text[0] != '%') {
      bytes += text[0];
      text.remove_prefix(1);
      continue;
    }
    uint32_t byte = 0;
    if (text.size() < 3 ||
        !absl::ascii_isxdigit(static_cast<unsigned char>(text[1])) ||
        !absl::ascii_isxdigit(static_cast<unsigned char>(text[2])) ||
        !absl::SimpleHexAtoi(text.substr(1, 2), &byte)) {
      return std::nullopt;
    }
    bytes += static_cast<char>(byte);
    text.remove_prefix(3);
  }
  return bytes;
}

absl::Status Wrong(absl::string_view uri, absl::string_view reason) {
  return absl::InvalidArgumentError(absl::StrCat(Quoted(uri), ": ", reason));
}

// The part of `rest` before the first character of `ends`, which is removed.
absl::string_view TakeUntil(absl::string_view& rest, absl::string_view ends) {
  const absl::string_view part = rest.substr(0, rest.find_first_of(ends));
  rest.remove_prefix(part.size());
  return part;
}

// Host and port; a sentence if they are wrong.
std::string SetHost(absl::string_view authority, NbdUri& uri) {
  absl::string_view host = authority;
  absl::string_view port;
  if (absl::ConsumePrefix(&host, "[")) {
    const size_t end = host.find(']');
    if (end == absl::string_view::npos) return "the bracket isn't closed";
    port = host.substr(end + 1);
    host = host.substr(0, end);
    if (!port.empty() && port[0] != ':') {
      return "a port needs ':' behind the bracket";
    }
  } else {
    port = host.substr(std::min(host.size(), host.find(':')));
    host = host.substr(0, host.size() - port.size());
  }
  absl::ConsumePrefix(&port, ":");
  uint32_t number = 0;
  if (!port.empty() &&
      (!absl::SimpleAtoi(port, &number) || number == 0 || number > 65535)) {
    return absl::StrCat("the port ", Quoted(port),
                        " isn't a number from 1 to 65535; an IPv6 address "
                        "needs brackets");
  }
  std::optional<std::string> decoded = Decoded(host);
  if (!decoded.has_value() || decoded->find('\0') != std::string::npos) {
    return "the host isn't valid";
  }
  uri.host = decoded->empty() ? "localhost" : *std::move(decoded);
  uri.port = port.empty() ? kDefaultPort : absl::StrCat(number);
  return "";
}

// The user before '@', who matters to pre-shared keys alone, and what follows.
std::string SetAuthority(absl::string_view authority, bool is_unix,
                         NbdUri& uri) {
  const size_t user_end = authority.rfind('@');
  if (user_end != absl::string_view::npos) {
    const std::optional<std::string> user =
        Decoded(authority.substr(0, user_end));
    if (!user.has_value()) return "the user isn't valid";
    if (uri.tls.has_value()) uri.tls->psk_identity = *user;
    authority.remove_prefix(user_end + 1);
  }
  if (!is_unix) return SetHost(authority, uri);
  return authority.empty() ? ""
                           : "a Unix socket has no host: write "
                             "nbd+unix:///EXPORT?socket=PATH";
}

std::string SetSocket(const std::string& value, NbdUri& uri) {
  // Only the first character may be NUL, which makes it an abstract name.
  if (value.empty() || value.find('\0', 1) != std::string::npos) {
    return "the socket isn't a path";
  }
  if (value.size() > kMaxSocketBytes) {
    return absl::StrCat("the path of the socket is longer than ",
                        kMaxSocketBytes, " bytes");
  }
  uri.socket = value;
  return "";
}

// What a parameter of TLS says; a sentence if it is wrong.
std::string SetTls(absl::string_view key, const std::string& value,
                   TlsClientSettings& tls) {
  if (value.empty() || value.find('\0') != std::string::npos) {
    return absl::StrCat(Quoted(key), " has no value");
  }
  if (key == "tls-certificates") {
    tls.certificates = value;
  } else if (key == "tls-psk-file") {
    tls.psk_file = value;
  } else if (key == "tls-hostname") {
    tls.hostname = value;
  } else if (value == "1" || value == "true") {
    tls.verify_peer = true;
  } else if (value == "0" || value == "false") {
    tls.verify_peer = false;
  } else {
    return "\"tls-verify-peer\" is 0 or 1";
  }
  return "";
}

// One key of the query; a sentence if it is wrong.
std::string SetParameter(absl::string_view parameter, bool is_unix,
                         NbdUri& uri) {
  const size_t equals = parameter.find('=');
  const absl::string_view key = parameter.substr(0, equals);
  const bool is_tls = key == "tls-certificates" || key == "tls-psk-file" ||
                      key == "tls-hostname" || key == "tls-verify-peer";
  if (key != "socket" && !is_tls) {
    return absl::StrCat("the probe doesn't know the parameter ", Quoted(key));
  }
  const std::optional<std::string> value = Decoded(
      equals == absl::string_view::npos ? "" : parameter.substr(equals + 1));
  if (!value.has_value()) {
    return absl::StrCat(Quoted(key), " isn't valid: write '%' as \"%25\"");
  }
  if (is_tls) {
    return uri.tls.has_value()
               ? SetTls(key, *value, *uri.tls)
               : absl::StrCat(Quoted(key), " is for nbds and nbds+unix");
  }
  return is_unix ? SetSocket(*value, uri)
                 : "\"socket=\" is for nbd+unix and nbds+unix";
}

// Who runs this process: RFC 3986 leaves the default to the scheme, and
// doc/uri.md names a local credential.
std::string LocalUser() {
  const passwd* user = getpwuid(geteuid());
  return user == nullptr ? "" : user->pw_name;
}

// Without the scope of an address, and the dot at the end of a name: neither is
// in a certificate. nullopt for what can't be there, either. OpenSSL would take
// a dot at the beginning for every name below.
std::optional<std::string> NameOfCertificate(absl::string_view host) {
  host = host.substr(0, host.find('%'));
  absl::ConsumeSuffix(&host, ".");
  if (absl::StartsWith(host, ".") || host.size() > kMaxHostnameBytes) {
    return std::nullopt;
  }
  return std::string(host);
}

// What the URI leaves open; a sentence about what is wrong for TLS.
std::string SetDefaults(NbdUri& uri) {
  if (!uri.tls.has_value()) return "";
  const std::string& host =
      uri.tls->hostname.empty() ? uri.host : uri.tls->hostname;
  std::optional<std::string> name = NameOfCertificate(host);
  if (!name.has_value()) {
    return absl::StrCat("no certificate is of the host ", Quoted(host));
  }
  uri.tls->hostname = *std::move(name);
  if (!uri.tls->psk_file.empty() && uri.tls->psk_identity.empty()) {
    uri.tls->psk_identity = LocalUser();
  }
  return "";
}

}  // namespace

absl::StatusOr<NbdUri> ParseNbdUri(absl::string_view text) {
  NbdUri uri;
  absl::string_view rest = text.substr(0, text.find('#'));
  const size_t scheme_end = rest.find("://");
  // Schemes are case-insensitive (RFC 3986, section 3.1).
  const std::string scheme = absl::AsciiStrToLower(
      rest.substr(0, scheme_end == rest.npos ? 0 : scheme_end));
  const bool is_unix = absl::EndsWith(scheme, "+unix");
  const absl::string_view transport = absl::StripSuffix(scheme, "+unix");
  if (transport != "nbd" && transport != "nbds") {
    return Wrong(text,
                 "not an NBD URI: write nbd://HOST/EXPORT or "
                 "nbd+unix:///EXPORT?socket=PATH");
  }
  if (transport == "nbds") uri.tls.emplace();
  rest.remove_prefix(scheme_end + 3);
  const absl::string_view authority = TakeUntil(rest, "/?");
  absl::string_view path = TakeUntil(rest, "?");
  absl::ConsumePrefix(&path, "/");
  std::string wrong = SetAuthority(authority, is_unix, uri);
  std::optional<std::string> name = Decoded(path);
  if (!name.has_value()) {
    wrong = "the export isn't valid: write '%' as \"%25\"";
  } else if (name->size() > kMaxStringBytes) {
    wrong = absl::StrCat("the export's name is longer than ", kMaxStringBytes,
                         " bytes");
  } else {
    uri.export_name = *std::move(name);
  }
  if (absl::ConsumePrefix(&rest, "?") && !rest.empty()) {
    for (const absl::string_view parameter : absl::StrSplit(rest, '&')) {
      if (wrong.empty()) wrong = SetParameter(parameter, is_unix, uri);
    }
  }
  if (wrong.empty() && is_unix && uri.socket.empty()) {
    wrong = "\"?socket=PATH\" is missing";
  }
  if (wrong.empty()) wrong = SetDefaults(uri);
  if (!wrong.empty()) return Wrong(text, wrong);
  return uri;
}

}  // namespace nbdinetd::ctl
