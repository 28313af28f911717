// The names of kept copies in their directory, and who they belong to.
//
// A name says which export and which client: EXPORT@KIND+IDENTITY.copy, where
// EXPORT and IDENTITY are percent-encoded. Neither can contain a character that
// separates the parts, and no name is hidden or leaves the directory. Two
// owners have different names, but for names that are too long for a file
// system: their ends are replaced by a checksum, and the header of the file,
// which has the owner, refuses another one. Threads: any.
#ifndef NBDINETD_EXPORT_KEPT_NAME_H_
#define NBDINETD_EXPORT_KEPT_NAME_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace nbdinetd {

// How a client is known.
enum class ClientKind : uint8_t {
  kNone = 0,  // it isn't
  kPsk = 1,
  kCertificate = 2,
  kAddress = 3,
};

// The word for it in file names, and for people.
absl::string_view WordOf(ClientKind kind);

// The owner of the copy.
struct KeptOwner {
  // The export's name; or, with `by_path`, since the export has no name of its
  // own, the absolute path of its file.
  std::string export_name;
  bool by_path = false;
  ClientKind kind = ClientKind::kNone;
  std::string identity;

  friend bool operator==(const KeptOwner&, const KeptOwner&) = default;
};

// At most 255 bytes.
std::string KeptNameOf(const KeptOwner& owner);

// The end of the name of each copy.
inline constexpr absl::string_view kKeptNameEnd = ".copy";
// The beginning of the names of copies that have none yet, on a file system
// that can't make a file without a name.
inline constexpr absl::string_view kUnnamedBegin = ".nbdinetd-new-";

// Whether a file with this name may be a copy.
bool IsKeptName(absl::string_view name);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_KEPT_NAME_H_
