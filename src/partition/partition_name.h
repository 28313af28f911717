// The name of a partition: its number, its label or its UUID (--partition).
#ifndef NBDINETD_PARTITION_PARTITION_NAME_H_
#define NBDINETD_PARTITION_PARTITION_NAME_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nbdinetd {

struct PartitionName {
  // Without one, `text` is a label or a UUID.
  std::optional<uint32_t> number;
  std::string text;
};

// A text that has only digits is a number. InvalidArgument, as a clause, for an
// empty text, and for a number that no partition has.
absl::StatusOr<PartitionName> ParsePartitionName(absl::string_view text);

// The file and the number in "FILE:N", where N is a number that a partition can
// have, without leading zeroes. nullopt for other names.
struct FileAndNumber {
  std::string file;
  uint32_t number;
};
std::optional<FileAndNumber> SplitPartitionName(absl::string_view name);

}  // namespace nbdinetd

#endif  // NBDINETD_PARTITION_PARTITION_NAME_H_
