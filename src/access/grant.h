// The rights that a line of a rules file gives a client on an export. A plain
// value.
#ifndef NBDINETD_ACCESS_GRANT_H_
#define NBDINETD_ACCESS_GRANT_H_

#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"
#include "export/exclusive.h"

namespace nbdinetd {

struct Grant {
  // Each lets a client do more than the one before.
  enum class Mode : uint8_t {
    kReadOnly,
    kPrivateCopy,  // the client writes into a private copy
    kReadWrite,    // as far as the export is writable
  };
  // nullopt until a word of the line says it.
  std::optional<Mode> mode = std::nullopt;
  // In place of --exclusive; nullopt: as --exclusive says.
  std::optional<Exclusive> exclusive = std::nullopt;
  // The settings of the line, if max-rate= or max-iops= is among them, for
  // TransferLimitsIn(); the numbers would make each line much larger. Refers to
  // the line.
  absl::string_view limits = {};
};

// The mode for people: "read-only", "read-write", "copy-on-write".
constexpr const char* InWords(Grant::Mode mode) {
  return mode == Grant::Mode::kReadOnly    ? "read-only"
         : mode == Grant::Mode::kReadWrite ? "read-write"
                                           : "copy-on-write";
}

}  // namespace nbdinetd

#endif  // NBDINETD_ACCESS_GRANT_H_
