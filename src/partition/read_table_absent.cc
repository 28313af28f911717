// Replaces read_table.cc in a program that was built without libblkid.
#include "partition/read_table.h"

namespace nbdinetd {

absl::StatusOr<std::unique_ptr<TableParser>> TableParser::Create() {
  return absl::FailedPreconditionError(
      "this program was built without libblkid's headers");
}

}  // namespace nbdinetd
