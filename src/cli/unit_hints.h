// What the shipped units for systemd would do differently from --check by hand.
//
// Their services run as root without capabilities. nbdinetd-listen.service, and
// nbdinetd@.service with strict.conf, also hide folders and make most others
// read-only. A test compares the folders here with the units. Threads: any.
#ifndef NBDINETD_CLI_UNIT_HINTS_H_
#define NBDINETD_CLI_UNIT_HINTS_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace nbdinetd {

// Folders that appear empty in the strict services, and those to which they
// can write.
absl::Span<const absl::string_view> HiddenFolders();
absl::Span<const absl::string_view> WritableFolders();

// Sentences for people about the file or directory at `path`, which exists;
// empty if the units serve it as this process would. Access control lists are
// not interpreted: a file that has one gets no hint on permissions.
std::vector<std::string> UnitHints(const std::string& path, bool read_only);

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_UNIT_HINTS_H_
