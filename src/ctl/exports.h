// Finds the exports of a service manager: the units whose service runs
// nbdinetd, generated or written by hand.
//
// Threads: one.
#ifndef NBDINETD_CTL_EXPORTS_H_
#define NBDINETD_CTL_EXPORTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "ctl/bus.h"
#include "ctl/exec_start.h"

namespace nbdinetd::ctl {

struct ManagedExport {
  // What the argument EXPORT names: NAME of NAME.export; for other units, the
  // unit's name without ".socket" or ".service".
  std::string name;
  std::string socket;  // a unit; empty for a service that listens by itself
  // The service; with `per_connection`, the template: "nbdinetd@.service".
  std::string service;
  bool per_connection = false;  // Accept=yes
  // The .export file, or that of the unit, if the manager knows it.
  std::string source_path;
  bool generated = false;  // from an .export file
  bool has_units = true;   // false for an .export file without any

  // "listening", "running", "failed", "stopped" or "drained" (drained_mark.h);
  // "activating" or "deactivating" on the way to them; "removed" if its files
  // have been deleted, and what is active of its units is left.
  std::string state;
  std::vector<std::string> addresses;
  Served served;
  std::vector<std::string> arguments;  // of nbdinetd, without variables
  // False if a variable's value couldn't be read: `served` may be empty then.
  bool arguments_known = true;
  std::string user;  // User=
  // The first of StateDirectory=, which is relative; empty without one.
  std::string state_directory;
  // RootDirectory= or RootImage=: paths are those of another tree.
  bool has_root = false;
  std::string reason;                  // a failure, in words; empty without one
  uint64_t accepted = 0, refused = 0;  // with `per_connection`

  // The unit that `start` and `stop` act on.
  const std::string& main_unit() const {
    return socket.empty() ? service : socket;
  }
};

// All exports, by name. A unit that isn't loaded is among them if its socket's
// unit file exists, and, on this machine, an .export file without units.
absl::StatusOr<std::vector<ManagedExport>> FindExportUnits(Bus& bus,
                                                           const Where& where);

struct BusAndExports {
  Bus bus;
  std::vector<ManagedExport> exports;
};
absl::StatusOr<BusAndExports> OpenBusAndExports(const Where& where);

// The export that `name` names: its name, or one of its units. NotFound if
// there is none.
absl::StatusOr<ManagedExport> FindExport(
    const std::vector<ManagedExport>& exports, absl::string_view name);

// The name of the export that a unit would belong to, known or not:
// "nbdinetd-golden@17-....service" is "golden".
std::string ExportNameOfUnit(const std::vector<ManagedExport>& exports,
                             absl::string_view unit);

// A unit with the settings of the service: of a template, an instance that
// never starts.
std::string ProbeOf(const ManagedExport& target);

// "nbdinetd-golden@" and "nbdinetd@"; empty for a unit without instances.
std::string TemplatePrefix(const ManagedExport& target);

// What a failed unit's property Result means (systemd.exec(5)): "nbdinetd was
// ended by a signal".
std::string ResultInWords(const std::string& result);

// Whether the units are there without anything to serve, as the shipped ones
// are before anybody has configured them.
bool IsUnused(const ManagedExport& target);

// The size of an export of a file, as far as this machine shows it; nullopt for
// a directory, for a part that the file doesn't have, and for a file that can't
// be examined, whose errno value is then in `*error_number`.
std::optional<uint64_t> SizeOfExport(const Served& served, int* error_number);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_EXPORTS_H_
