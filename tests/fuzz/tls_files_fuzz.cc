// The files that TLS is made of: the list of pre-shared keys, and certificates,
// key, authority and revocation list in PEM. Whatever is in them, they are
// used, or refused with a sentence that gives no key away.
//
// An input is a byte that chooses, and then the file, or four files that end in
// a zero byte.

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>

#include "fuzz/simulation.h"
#include "stream/psk_file.h"
#include "stream/tls.h"

namespace {

using nbdfuzz::Require;

void CheckRefusal(const absl::Status& status, std::string_view secret) {
  Require(status.code() == absl::StatusCode::kFailedPrecondition,
          "a wrong file isn't called that");
  nbdfuzz::RequireSentence(status.message());
  Require(secret.size() < 16 ||
              std::string(status.message()).find(secret) == std::string::npos,
          "a message holds a key");
}

void TryPskFile(const std::string& text) {
  const auto keys = nbdinetd::ParsePskFile(text);
  // The longest run of hexadecimal digits may be a key.
  constexpr const char* kDigits = "0123456789abcdefABCDEF";
  std::string longest;
  for (size_t at = 0; (at = text.find_first_of(kDigits, at)) < text.size();) {
    const size_t end =
        std::min(text.find_first_not_of(kDigits, at), text.size());
    if (end - at > longest.size()) longest = text.substr(at, end - at);
    at = end;
  }
  if (!keys.ok()) {
    CheckRefusal(keys.status(), longest);
    return;
  }
  Require(!keys->empty(), "a file without keys is taken");
  size_t bytes = 0;
  for (const auto& [identity, key] : *keys) {
    Require(!identity.empty() &&
                identity.size() <= nbdinetd::kMaxPskIdentityBytes &&
                identity.find('\0') == std::string::npos,
            "an identity that OpenSSL doesn't take");
    Require(!key.empty() && key.size() <= nbdinetd::kMaxPskBytes,
            "a key that OpenSSL doesn't take");
    bytes += 2 * key.size();
  }
  Require(bytes <= text.size(), "keys out of nowhere");
}

// A folder of this process's own, which the files of each input replace.
const std::filesystem::path& Folder() {
  static const auto* folder = [] {
    std::string name =
        (std::filesystem::temp_directory_path() / "nbdinetd-fuzz-XXXXXX")
            .string();
    Require(mkdtemp(name.data()) != nullptr, "no temporary folder to be had");
    return new std::filesystem::path(name);
  }();
  [[maybe_unused]] static const int registered =
      std::atexit([] { std::filesystem::remove_all(Folder()); });
  return *folder;
}

void Check(const absl::StatusOr<std::unique_ptr<nbdinetd::Tls>>& tls,
           std::string_view secret) {
  if (tls.ok()) {
    Require(!(*tls)->description().empty(), "nobody can tell what was loaded");
  } else if (tls.status().code() != absl::StatusCode::kInvalidArgument) {
    CheckRefusal(tls.status(), secret);  // else there is no TLS in this build
  }
}

void TryFiles(std::string_view bytes, bool verify) {
  constexpr const char* kFiles[] = {"server-cert.pem", "server-key.pem",
                                    "ca-cert.pem", "ca-crl.pem"};
  for (const char* name : kFiles) {
    const size_t end = std::min(bytes.find('\0'), bytes.size());
    std::ofstream(Folder() / name, std::ios::binary)
        << std::string(bytes.substr(0, end));
    // No list of what is revoked is no error, an empty one is.
    if (end == 0) std::filesystem::remove(Folder() / name);
    bytes.remove_prefix(std::min(end + 1, bytes.size()));
  }
  nbdinetd::TlsSettings settings;
  settings.mode = nbdinetd::TlsMode::kRequire;
  settings.certificates = Folder().string();
  settings.verify_peer = verify;
  Check(nbdinetd::Tls::Load(settings), {});
  for (const char* part : {"cert", "key"}) {
    const std::string name = std::string("-") + part + ".pem";
    std::error_code missing;
    std::filesystem::rename(Folder() / ("server" + name),
                            Folder() / ("client" + name), missing);
    if (missing) std::filesystem::remove(Folder() / ("client" + name));
  }
  nbdinetd::TlsClientSettings client;
  client.certificates = Folder().string();
  Check(nbdinetd::Tls::LoadClient(client), {});
}

void TryPskLoad(std::string_view bytes) {
  const std::filesystem::path path = Folder() / "keys.psk";
  std::ofstream(path, std::ios::binary) << std::string(bytes);
  nbdinetd::TlsSettings settings;
  settings.mode = nbdinetd::TlsMode::kRequire;
  settings.psk_file = path.string();
  Check(nbdinetd::Tls::Load(settings), {});
  nbdinetd::TlsClientSettings client;
  client.psk_file = path.string();
  client.psk_identity = std::string(bytes.substr(0, bytes.find(':')));
  Check(nbdinetd::Tls::LoadClient(client), {});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1,
                               size - 1);
  switch (data[0] % 8) {
    case 0:
      TryFiles(bytes, /*verify=*/false);
      break;
    case 1:
      TryFiles(bytes, /*verify=*/true);
      break;
    case 2:
      TryPskLoad(bytes);
      break;
    default:
      TryPskFile(std::string(bytes));
  }
  return 0;
}
