// The meaning of an .export file: its settings, checked.
//
// The keys of the program's options come from cli/option_table.h, and their
// values are checked by the options' own functions. Keys of the units come from
// here. Nothing is looked up: neither files, nor users, nor addresses.
#ifndef NBDINETD_GENERATOR_EXPORT_DEFINITION_H_
#define NBDINETD_GENERATOR_EXPORT_DEFINITION_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "generator/export_file.h"

namespace nbdinetd {

struct ExportDefinition {
  ExportFile file;  // with the settings that go through as they are

  std::string path;  // of the file, block device or directory; absolute
  bool is_directory = false;
  bool is_read_only = false;
  bool has_copies = false;     // Cow=
  bool keeps_copies = false;   // Cow=keep
  std::string copy_directory;  // absolute; empty for that of the unit, or none
  std::string description;     // for people; empty for none
  bool is_listener = false;
  bool is_enabled = true;
  std::string user, group;  // empty for the service manager's
  // Empty for the shipped unit's.
  std::string max_connections, max_connections_per_source;
  std::string tls_certificates,
      tls_pre_shared_keys;  // absolute paths, or empty
  std::string rules;        // an absolute path, or empty

  // Arguments of nbdinetd, without those of the paths above, as it must receive
  // them.
  std::vector<std::string> arguments;
  // Options=, for the command line as it is in the unit.
  std::string more_options;
};

// InvalidArgument "PATH:LINE: COMPLAINT", one line.
absl::StatusOr<ExportDefinition> DefineExport(const ExportFile& file,
                                              ManagerScope scope);

// The keys of [Export] that aren't keys of options.
absl::Span<const char* const> UnitKeys();

// Whether a section of an .export file goes into the units as it is.
bool IsUnitSection(absl::string_view section);

}  // namespace nbdinetd

#endif  // NBDINETD_GENERATOR_EXPORT_DEFINITION_H_
