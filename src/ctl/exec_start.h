// Reads the ExecStart= of a service: does it run nbdinetd, and on which file?
#ifndef NBDINETD_CTL_EXEC_START_H_
#define NBDINETD_CTL_EXEC_START_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "export/export_settings.h"

namespace nbdinetd::ctl {

// A service's environment: {variable: value}.
using Environment = std::map<std::string, std::string>;

// Whether a command (its program's path, then its argument vector) runs
// nbdinetd.
bool RunsNbdinetd(absl::Span<const std::string> command);

// Adds the assignments of a file as EnvironmentFile= reads it
// (systemd.exec(5)). False when the file can't be read.
bool ReadEnvironmentFile(const std::string& path, Environment& environment);

// Replaces variables as systemd does in a command line: ${NAME} within a word,
// $NAME as a word of its own by the words of its value (systemd.service(5),
// "Command lines"). Variables that aren't set are empty.
std::vector<std::string> Expanded(absl::Span<const std::string> arguments,
                                  const Environment& environment);

// Whether a word refers to a variable, as systemd sees it.
bool HasVariable(absl::Span<const std::string> arguments);

// What a command line of nbdinetd serves.
struct Served {
  std::string file;       // empty if there is none, or if a variable has it
  std::string directory;  // of --directory
  bool read_only = false;
  bool keeps_copies = false;               // --cow=keep
  std::string copy_directory;              // of --cow-dir
  ExportSettings settings;                 // what decides about the size
  std::optional<std::string> export_name;  // of --exportname
  bool partitions = false;                 // --partitions
  // The arguments for --check without keys: without options for TLS, and with
  // --cow-key=peer-address where kept copies would need them.
  std::vector<std::string> without_tls;
};
Served ServedBy(absl::Span<const std::string> arguments);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_EXEC_START_H_
