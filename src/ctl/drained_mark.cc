#include "ctl/drained_mark.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "ctl/drop_in.h"
#include "generator/export_file.h"

namespace nbdinetd::ctl {
namespace {

// systemd leaves keys that begin with "X-" alone.
constexpr char kStarts[] = "X-Nbdinetctl-Starts=yes";

// Directories of unit files, and of the machine's mark.
struct Directories {
  std::string units, mark;  // empty: there is none
};

Directories DirectoriesFor(const Where& where, Lasts lasts) {
  if (!where.user) {
    return lasts == Lasts::kUntilReboot
               ? Directories{"/run/systemd/system", "/run/nbdinetd"}
               : Directories{"/etc/systemd/system", "/etc/nbdinetd"};
  }
  if (lasts == Lasts::kUntilReboot) {
    const char* run = std::getenv("XDG_RUNTIME_DIR");
    if (run == nullptr || run[0] != '/') return {};
    return {absl::StrCat(run, "/systemd/user"), absl::StrCat(run, "/nbdinetd")};
  }
  const std::string config = UserConfiguration();
  if (config.empty()) return {};
  return {absl::StrCat(config, "/systemd/user"),
          absl::StrCat(config, "/nbdinetd")};
}

// The paths of a mark, of one kind or the other; empty ones are left out.
std::string UnitMark(const Where& where, const std::string& unit, Lasts lasts) {
  const std::string directory = DirectoriesFor(where, lasts).units;
  return directory.empty()
             ? ""
             : absl::StrCat(directory, "/", unit, ".d/", kDrainDropIn);
}

std::string MachineMark(const Where& where, Lasts lasts) {
  const std::string directory = DirectoriesFor(where, lasts).mark;
  return directory.empty() ? "" : absl::StrCat(directory, "/drained");
}

absl::Status CheckPath(const Where& where, const std::string& path) {
  if (!where.local()) {
    return absl::UnimplementedError(
        "a file on the export's own machine drains it: run nbdinetctl there");
  }
  if (path.empty()) {
    return absl::FailedPreconditionError(
        "neither $XDG_RUNTIME_DIR nor $XDG_CONFIG_HOME nor $HOME says where "
        "this user's files are");
  }
  return absl::OkStatus();
}

// Whether there was such a file.
absl::StatusOr<bool> Remove(const std::string& path) {
  if (path.empty()) return false;
  if (unlink(path.c_str()) == 0) return true;
  if (errno == ENOENT || errno == ENOTDIR) return false;
  return FileError(errno, "remove", path);
}

// Whether the mark says that undrain should start the unit; nullopt if there is
// none.
std::optional<bool> Starts(const std::string& path) {
  std::ifstream file(path);
  if (path.empty() || !file.is_open()) return std::nullopt;
  for (std::string line; std::getline(file, line);) {
    if (line == kStarts) return true;
  }
  return false;
}

}  // namespace

absl::Status MarkUnit(const Where& where, const std::string& unit, Lasts lasts,
                      bool starts) {
  const std::string path = UnitMark(where, unit, lasts);
  absl::Status status = CheckPath(where, path);
  if (!status.ok()) return status;
  for (const Lasts kind : {Lasts::kUntilReboot, Lasts::kUntilEnded}) {
    starts = starts || Starts(UnitMark(where, unit, kind)).value_or(false);
  }
  return WriteWhole(
      path, absl::StrCat("# 'nbdinetctl drain' has written this file, and "
                         "'nbdinetctl undrain' removes it.\n[Unit]\n"
                         "ConditionPathExists=!",
                         absl::StrReplaceAll(path, {{"%", "%%"}}), "\n",
                         starts ? kStarts : "", starts ? "\n" : ""));
}

absl::StatusOr<std::optional<bool>> UnmarkUnit(const Where& where,
                                               const std::string& unit) {
  absl::Status status = CheckPath(where, "/");
  if (!status.ok()) return status;
  std::optional<bool> starts;
  for (const Lasts kind : {Lasts::kUntilReboot, Lasts::kUntilEnded}) {
    const std::string path = UnitMark(where, unit, kind);
    const std::optional<bool> says = Starts(path);
    const absl::StatusOr<bool> removed = Remove(path);
    if (!removed.ok()) return removed.status();
    if (!*removed) continue;
    // Fails while there are other drop-ins.
    rmdir(path.substr(0, path.rfind('/')).c_str());
    starts = starts.value_or(false) || says.value_or(false);
  }
  return starts;
}

absl::Status MarkMachine(const Where& where, Lasts lasts) {
  const std::string path = MachineMark(where, lasts);
  absl::Status status = CheckPath(where, path);
  if (!status.ok()) return status;
  return WriteWhole(path, "");
}

absl::Status UnmarkMachine(const Where& where) {
  absl::Status status = CheckPath(where, "/");
  if (!status.ok()) return status;
  for (const Lasts kind : {Lasts::kUntilReboot, Lasts::kUntilEnded}) {
    const absl::StatusOr<bool> removed = Remove(MachineMark(where, kind));
    if (!removed.ok()) return removed.status();
  }
  return absl::OkStatus();
}

bool IsMachineMarked(const Where& where) {
  for (const Lasts kind : {Lasts::kUntilReboot, Lasts::kUntilEnded}) {
    const std::string path = MachineMark(where, kind);
    if (!path.empty() && access(path.c_str(), F_OK) == 0) return true;
  }
  return false;
}

}  // namespace nbdinetd::ctl
