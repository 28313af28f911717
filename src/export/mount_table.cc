#include "export/mount_table.h"

#include <sys/sysmacros.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace nbdinetd {
namespace {

// The fields of a line up to the options of the mount; optional ones follow, up
// to a hyphen; then the type, the source and the options of the file system.
constexpr size_t kDevice = 2, kMountOptions = 5, kFirstOptional = 6;

}  // namespace

bool Mount::HasOneOf(absl::string_view wanted) const {
  const std::vector<absl::string_view> given = absl::StrSplit(options, ',');
  for (const absl::string_view option : absl::StrSplit(wanted, ',')) {
    if (std::find(given.begin(), given.end(), option) != given.end()) {
      return true;
    }
  }
  return false;
}

std::optional<Mount> FindMount(std::istream& table, dev_t device) {
  const std::string number = absl::StrCat(major(device), ":", minor(device));
  std::string line;
  while (std::getline(table, line)) {
    // The kernel writes a space inside of a field as \040.
    const std::vector<absl::string_view> fields = absl::StrSplit(line, ' ');
    if (fields.size() <= kFirstOptional || fields[kDevice] != number) continue;
    const auto hyphen =
        std::find(fields.begin() + kFirstOptional, fields.end(), "-");
    if (fields.end() - hyphen < 4) continue;
    return Mount{std::string(hyphen[1]),
                 absl::StrCat(fields[kMountOptions], ",", hyphen[3])};
  }
  return std::nullopt;
}

std::optional<Mount> FindOwnMount(dev_t device) {
  std::ifstream table("/proc/self/mountinfo");
  return FindMount(table, device);
}

}  // namespace nbdinetd
