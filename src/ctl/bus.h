// The connection to a service manager, by sd-bus: its units, their properties,
// and its jobs.
//
// Owns the connection. Every call waits for its answer. Threads: one.
#ifndef NBDINETD_CTL_BUS_H_
#define NBDINETD_CTL_BUS_H_

#include <sys/types.h>
#include <systemd/sd-bus.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "ctl/properties.h"
#include "ctl/where.h"

namespace nbdinetd::ctl {

// A row of the manager's list of loaded units.
struct LoadedUnit {
  std::string name;
  std::string active_state;  // "active", "failed", ...
  std::string sub_state;     // "listening", "running", ...
  // False for a unit that is active, though its files have been deleted and the
  // manager has been reloaded.
  bool has_file = true;
};

class Bus {
 public:
  // Connects as systemctl does: to the bus, or without one to the manager's own
  // socket; with `host`, by ssh and systemd-stdio-bridge.
  static absl::StatusOr<Bus> Open(const Where& where);

  // The loaded units whose names match one of the patterns (glob(7)).
  absl::StatusOr<std::vector<LoadedUnit>> ListUnits(
      const std::vector<std::string>& patterns);
  // The names of the unit files that match, loaded or not.
  absl::StatusOr<std::vector<std::string>> ListUnitFiles(
      const std::vector<std::string>& patterns);
  // Properties of "Unit", "Socket" or "Service". The manager loads a unit that
  // isn't loaded yet.
  absl::StatusOr<Properties> GetAll(const std::string& unit,
                                    absl::string_view interface);
  // One property; empty if it can't be read, as for a unit that is gone.
  std::string GetString(const std::string& unit, absl::string_view interface,
                        const char* property);
  // 0 or 1 for a truth value.
  uint64_t GetNumber(const std::string& unit, absl::string_view interface,
                     const char* property);
  std::vector<std::string> GetStrings(const std::string& unit,
                                      absl::string_view interface,
                                      const char* property);
  // The processes of a unit.
  absl::StatusOr<std::vector<pid_t>> Processes(const std::string& unit);

  // Keeps the unit and its result known until this connection ends. Without
  // effect if the manager refuses.
  void KeepUnit(const std::string& unit);
  // Starts, stops or reloads units ("StartUnit", "StopUnit", "ReloadUnit"), and
  // waits for all jobs.
  // Returns the result of each unit's job: "done", "timeout", ...; an error for
  // the first unit that gets no job.
  absl::StatusOr<std::map<std::string, std::string>> RunJobs(
      const std::string& method, const std::vector<std::string>& units);
  // "start" for "StartUnit".
  static const char* InWords(const std::string& method);
  // FailedPrecondition for a unit without an [Install] section.
  absl::Status EnableUnitFile(const std::string& unit);
  absl::Status DisableUnitFile(const std::string& unit);
  absl::Status Reload();

 private:
  struct Unref {
    void operator()(sd_bus* bus) const { sd_bus_flush_close_unref(bus); }
  };
  using Owned = std::unique_ptr<sd_bus, Unref>;

  explicit Bus(Owned bus) : bus_(std::move(bus)) {}
  static absl::StatusOr<Owned> Connect(const Where& where);

  Owned bus_;
};

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_BUS_H_
