#include "ctl/bus.h"

#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <set>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "ctl/properties.h"

namespace nbdinetd::ctl {
namespace {

constexpr char kService[] = "org.freedesktop.systemd1";
constexpr char kManagerPath[] = "/org/freedesktop/systemd1";
constexpr uint64_t kReloadTimeoutUsec = 5 * 60 * 1000000ull;
constexpr char kManager[] = "org.freedesktop.systemd1.Manager";

// The actions of polkit that the manager asks for (org.freedesktop.systemd1(5),
// "Security"). Everybody may read.
constexpr absl::string_view kManageUnits = "manage-units";
constexpr absl::string_view kManageUnitFiles = "manage-unit-files";
constexpr absl::string_view kReloadDaemon = "reload-daemon";

struct Error {
  sd_bus_error error = SD_BUS_ERROR_NULL;
  Error() = default;
  Error(const Error&) = delete;
  Error& operator=(const Error&) = delete;
  ~Error() { sd_bus_error_free(&error); }

  bool Is(const char* name) const {
    return sd_bus_error_has_name(&error, name) > 0;
  }
  // `result` is the negative errno value of the failed call; `action` is empty
  // for one that reads.
  absl::Status Status(int result, absl::string_view what,
                      absl::string_view action = "") const {
    if (Is(SD_BUS_ERROR_INTERACTIVE_AUTHORIZATION_REQUIRED) ||
        Is(SD_BUS_ERROR_ACCESS_DENIED) || Is(SD_BUS_ERROR_AUTH_FAILED) ||
        result == -EACCES || result == -EPERM) {
      return absl::PermissionDeniedError(absl::StrCat(
          what,
          ": polkit and the service manager don't permit it to this user. Run "
          "nbdinetctl as root",
          action.empty() ? ""
                         : absl::StrCat(", or permit the user the action "
                                        "org.freedesktop.systemd1.",
                                        action, " (polkit(8))")));
    }
    if (Is("org.freedesktop.systemd1.NoSuchUnit")) {
      return absl::NotFoundError(absl::StrCat(what, ": ", error.message));
    }
    return absl::InternalError(absl::StrCat(
        what, ": ",
        sd_bus_error_is_set(&error) != 0 ? error.message : ErrnoText(-result)));
  }
};

std::string UnitPath(const std::string& unit) {
  char* path = nullptr;
  if (sd_bus_path_encode("/org/freedesktop/systemd1/unit", unit.c_str(),
                         &path) < 0) {
    return "/";
  }
  const absl::Cleanup release = [path] { free(path); };
  return path;
}

std::string Interface(absl::string_view name) {
  return absl::StrCat("org.freedesktop.systemd1.", name);
}

// Calls a method of the manager that takes states, of which none is given here,
// and patterns of names.
absl::StatusOr<Message> CallWithPatterns(
    sd_bus* bus, const char* method, const std::vector<std::string>& patterns) {
  sd_bus_message* raw_call = nullptr;
  int result = sd_bus_message_new_method_call(bus, &raw_call, kService,
                                              kManagerPath, kManager, method);
  const Message call(raw_call);
  std::vector<char*> strings;
  for (const std::string& pattern : patterns) {
    strings.push_back(const_cast<char*>(pattern.c_str()));
  }
  strings.push_back(nullptr);
  char* none[] = {nullptr};
  if (result >= 0) result = sd_bus_message_append_strv(call.get(), none);
  if (result >= 0) {
    result = sd_bus_message_append_strv(call.get(), strings.data());
  }
  Error error;
  sd_bus_message* raw_reply = nullptr;
  if (result >= 0) {
    result = sd_bus_call(bus, call.get(), 0, &error.error, &raw_reply);
  }
  Message reply(raw_reply);
  if (result < 0) return error.Status(result, "failed to list units");
  return reply;
}

// The manager's own socket, where there is no bus.
int OpenPrivate(const std::string& path, sd_bus** bus) {
  int result = sd_bus_new(bus);
  if (result < 0) return result;
  const std::string address = absl::StrCat("unix:path=", path);
  result = sd_bus_set_address(*bus, address.c_str());
  return result < 0 ? result : sd_bus_start(*bus);
}

int OpenSystem(sd_bus** bus) {
  const int result = sd_bus_open_system(bus);
  if (result >= 0 || geteuid() != 0) return result;
  return OpenPrivate("/run/systemd/private", bus);
}

int OpenUser(sd_bus** bus) {
  if (const char* runtime = getenv("XDG_RUNTIME_DIR")) {
    const std::string path = absl::StrCat(runtime, "/systemd/private");
    if (OpenPrivate(path, bus) >= 0) return 0;
    *bus = sd_bus_flush_close_unref(*bus);
  }
  return sd_bus_open_user(bus);
}

std::string ManagerName(const Where& where) {
  return absl::StrCat(
      where.user ? "the user's service manager" : "the service manager",
      where.host.empty() ? "" : absl::StrCat(" of ", Quoted(where.host)),
      where.machine.empty()
          ? ""
          : absl::StrCat(" of the container ", Quoted(where.machine)));
}

// The signals JobRemoved that have arrived: {job's path: result}.
using RemovedJobs = std::map<std::string, std::string>;

int OnJobRemoved(sd_bus_message* message, void* jobs, sd_bus_error*) {
  uint32_t id = 0;
  const char *path = "", *unit = "", *result = "";
  if (sd_bus_message_read(message, "uoss", &id, &path, &unit, &result) >= 0) {
    (*static_cast<RemovedJobs*>(jobs))[path] = result;
  }
  return 0;
}

// Waits until every job of `paths` has been removed.
absl::Status WaitForJobs(sd_bus* bus, const RemovedJobs& removed,
                         const std::set<std::string>& paths) {
  for (;;) {
    bool all = true;
    for (const std::string& path : paths) all = all && removed.count(path) > 0;
    if (all) return absl::OkStatus();
    int result = sd_bus_process(bus, nullptr);
    if (result == 0) result = sd_bus_wait(bus, UINT64_MAX);
    if (result < 0 && result != -EINTR) {
      return ErrnoStatus(-result, "failed to wait for the service manager");
    }
  }
}

}  // namespace

absl::StatusOr<Bus::Owned> Bus::Connect(const Where& where) {
  sd_bus* bus = nullptr;
  int result;
  if (!where.host.empty()) {
    result = sd_bus_open_system_remote(&bus, where.host.c_str());
  } else if (!where.machine.empty()) {
    result = where.user
                 ? sd_bus_open_user_machine(&bus, where.machine.c_str())
                 : sd_bus_open_system_machine(&bus, where.machine.c_str());
  } else {
    result = where.user ? OpenUser(&bus) : OpenSystem(&bus);
  }
  Owned owned(bus);
  if (result < 0) {
    return ErrnoStatus(-result,
                       absl::StrCat("failed to reach ", ManagerName(where)));
  }
  return owned;
}

absl::StatusOr<Bus> Bus::Open(const Where& where) {
  absl::StatusOr<Owned> owned = Connect(where);
  if (!owned.ok()) return owned.status();
  sd_bus* bus = owned->get();
  // A password may be asked for, by an agent if there is one.
  sd_bus_set_allow_interactive_authorization(bus, 1);
  // The first call shows whether ssh and the bridge have reached a manager.
  Error error;
  Message reply;
  sd_bus_message* raw = nullptr;
  const int result = sd_bus_get_property(bus, kService, kManagerPath, kManager,
                                         "Version", &error.error, &raw, "s");
  reply.reset(raw);
  if (result < 0) {
    return absl::UnavailableError(absl::StrCat(
        "failed to reach ", ManagerName(where), ": ",
        sd_bus_error_is_set(&error.error) != 0 ? error.error.message
                                               : ErrnoText(-result)));
  }
  return Bus(*std::move(owned));
}

absl::StatusOr<std::vector<LoadedUnit>> Bus::ListUnits(
    const std::vector<std::string>& patterns) {
  absl::StatusOr<Message> reply =
      CallWithPatterns(bus_.get(), "ListUnitsByPatterns", patterns);
  if (!reply.ok()) return reply.status();
  std::vector<LoadedUnit> units;
  sd_bus_message_enter_container(reply->get(), 'a', "(ssssssouso)");
  const char *name, *text, *load, *active, *sub, *following, *path, *job_type,
      *job;
  uint32_t id;
  while (sd_bus_message_read(reply->get(), "(ssssssouso)", &name, &text, &load,
                             &active, &sub, &following, &path, &id, &job_type,
                             &job) > 0) {
    const bool loaded = strcmp(load, "loaded") == 0;
    if (loaded ||
        (strcmp(load, "not-found") == 0 && strcmp(active, "inactive") != 0)) {
      units.push_back({name, active, sub, loaded});
    }
  }
  return units;
}

absl::StatusOr<std::vector<std::string>> Bus::ListUnitFiles(
    const std::vector<std::string>& patterns) {
  absl::StatusOr<Message> reply =
      CallWithPatterns(bus_.get(), "ListUnitFilesByPatterns", patterns);
  if (!reply.ok()) return reply.status();
  std::vector<std::string> names;
  sd_bus_message_enter_container(reply->get(), 'a', "(ss)");
  const char *path, *state;
  while (sd_bus_message_read(reply->get(), "(ss)", &path, &state) > 0) {
    const char* slash = strrchr(path, '/');
    names.push_back(slash == nullptr ? path : slash + 1);
  }
  return names;
}

absl::StatusOr<Properties> Bus::GetAll(const std::string& unit,
                                       absl::string_view interface) {
  Error error;
  sd_bus_message* raw = nullptr;
  const int result =
      sd_bus_call_method(bus_.get(), kService, UnitPath(unit).c_str(),
                         "org.freedesktop.DBus.Properties", "GetAll",
                         &error.error, &raw, "s", Interface(interface).c_str());
  const Message reply(raw);
  if (result < 0) {
    return error.Status(
        result, absl::StrCat("failed to read the properties of ", unit));
  }
  return ReadProperties(reply.get());
}

std::string Bus::GetString(const std::string& unit, absl::string_view interface,
                           const char* property) {
  char* text = nullptr;
  if (sd_bus_get_property_string(bus_.get(), kService, UnitPath(unit).c_str(),
                                 Interface(interface).c_str(), property,
                                 nullptr, &text) < 0) {
    return "";
  }
  const absl::Cleanup release = [text] { free(text); };
  return text;
}

uint64_t Bus::GetNumber(const std::string& unit, absl::string_view interface,
                        const char* property) {
  sd_bus_message* raw = nullptr;
  const int result =
      sd_bus_call_method(bus_.get(), kService, UnitPath(unit).c_str(),
                         "org.freedesktop.DBus.Properties", "Get", nullptr,
                         &raw, "ss", Interface(interface).c_str(), property);
  const Message reply(raw);
  const char* signature = nullptr;
  if (result < 0 ||
      sd_bus_message_peek_type(reply.get(), nullptr, &signature) <= 0) {
    return 0;
  }
  const std::string type = signature;
  if (type != "t" && type != "u" && type != "i" && type != "b") return 0;
  sd_bus_message_enter_container(reply.get(), 'v', type.c_str());
  return ReadNumber(reply.get(), type[0]);
}

std::vector<std::string> Bus::GetStrings(const std::string& unit,
                                         absl::string_view interface,
                                         const char* property) {
  char** list = nullptr;
  std::vector<std::string> strings;
  if (sd_bus_get_property_strv(bus_.get(), kService, UnitPath(unit).c_str(),
                               Interface(interface).c_str(), property, nullptr,
                               &list) < 0) {
    return strings;
  }
  for (char** entry = list; entry != nullptr && *entry != nullptr; ++entry) {
    strings.push_back(*entry);
    free(*entry);
  }
  free(list);
  return strings;
}

absl::StatusOr<std::vector<pid_t>> Bus::Processes(const std::string& unit) {
  Error error;
  sd_bus_message* raw = nullptr;
  const int result = sd_bus_call_method(bus_.get(), kService, kManagerPath,
                                        kManager, "GetUnitProcesses",
                                        &error.error, &raw, "s", unit.c_str());
  const Message reply(raw);
  if (result < 0) {
    return error.Status(result,
                        absl::StrCat("failed to list the processes of ", unit));
  }
  std::vector<pid_t> pids;
  sd_bus_message_enter_container(reply.get(), 'a', "(sus)");
  const char *cgroup, *command;
  uint32_t pid;
  while (sd_bus_message_read(reply.get(), "(sus)", &cgroup, &pid, &command) >
         0) {
    pids.push_back(static_cast<pid_t>(pid));
  }
  return pids;
}

void Bus::KeepUnit(const std::string& unit) {
  sd_bus_message* raw = nullptr;
  sd_bus_call_method(bus_.get(), kService, kManagerPath, kManager, "RefUnit",
                     nullptr, &raw, "s", unit.c_str());
  const Message reply(raw);
}

absl::StatusOr<std::map<std::string, std::string>> Bus::RunJobs(
    const std::string& method, const std::vector<std::string>& units) {
  RemovedJobs removed;
  sd_bus_slot* raw_slot = nullptr;
  const bool on_bus = sd_bus_is_bus_client(bus_.get()) > 0;
  int result = sd_bus_match_signal(
      bus_.get(), &raw_slot, on_bus ? kService : nullptr, kManagerPath,
      kManager, "JobRemoved", OnJobRemoved, &removed);
  const absl::Cleanup unref = [raw_slot] { sd_bus_slot_unref(raw_slot); };
  if (result < 0) return ErrnoStatus(-result, "failed to watch jobs");
  // Without it, the manager sends no signals; a second call is an error.
  sd_bus_message* subscribed = nullptr;
  sd_bus_call_method(bus_.get(), kService, kManagerPath, kManager, "Subscribe",
                     nullptr, &subscribed, "");
  sd_bus_message_unref(subscribed);

  std::map<std::string, std::string> jobs;  // {unit: job's path}
  std::set<std::string> paths;
  for (const std::string& unit : units) {
    Error error;
    sd_bus_message* raw = nullptr;
    result = sd_bus_call_method(bus_.get(), kService, kManagerPath, kManager,
                                method.c_str(), &error.error, &raw, "ss",
                                unit.c_str(), "replace");
    const Message reply(raw);
    const char* path = nullptr;
    if (result >= 0) result = sd_bus_message_read(reply.get(), "o", &path);
    if (result < 0) {
      return error.Status(
          result, absl::StrCat("failed to ", Bus::InWords(method), " ", unit),
          kManageUnits);
    }
    jobs[unit] = path;
    paths.insert(path);
  }
  if (absl::Status status = WaitForJobs(bus_.get(), removed, paths);
      !status.ok()) {
    return status;
  }
  for (auto& [unit, job] : jobs) job = removed[job];
  return jobs;
}

const char* Bus::InWords(const std::string& method) {
  return method == "StartUnit"  ? "start"
         : method == "StopUnit" ? "stop"
                                : "reload";
}

absl::Status Bus::EnableUnitFile(const std::string& unit) {
  Error error;
  sd_bus_message* raw = nullptr;
  int result = sd_bus_call_method(bus_.get(), kService, kManagerPath, kManager,
                                  "EnableUnitFiles", &error.error, &raw, "asbb",
                                  1, unit.c_str(), 0, 0);
  const Message reply(raw);
  int carries_install_info = 0;
  if (result >= 0) {
    result = sd_bus_message_read(reply.get(), "b", &carries_install_info);
  }
  const std::string failed = absl::StrCat("failed to enable ", unit);
  if (result < 0) return error.Status(result, failed, kManageUnitFiles);
  if (carries_install_info != 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      failed, ": it has no [Install] section, which says what starts it: ",
      "'systemctl edit ", unit, "' can add one"));
}

absl::Status Bus::DisableUnitFile(const std::string& unit) {
  Error error;
  sd_bus_message* raw = nullptr;
  const int result = sd_bus_call_method(
      bus_.get(), kService, kManagerPath, kManager, "DisableUnitFiles",
      &error.error, &raw, "asb", 1, unit.c_str(), 0);
  const Message reply(raw);
  if (result >= 0) return absl::OkStatus();
  return error.Status(result, absl::StrCat("failed to disable ", unit),
                      kManageUnitFiles);
}

absl::Status Bus::Reload() {
  Error error;
  sd_bus_message* raw = nullptr;
  sd_bus_message* raw_call = nullptr;
  int result = sd_bus_message_new_method_call(bus_.get(), &raw_call, kService,
                                              kManagerPath, kManager, "Reload");
  const Message call(raw_call);
  // A reload runs every generator, and reads every unit.
  if (result >= 0) {
    result = sd_bus_call(bus_.get(), call.get(), kReloadTimeoutUsec,
                         &error.error, &raw);
  }
  const Message reply(raw);
  return result >= 0
             ? absl::OkStatus()
             : error.Status(result, "failed to reload the service manager",
                            kReloadDaemon);
}

}  // namespace nbdinetd::ctl
