#include "sandbox/sandbox.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/errors.h"
#include "sandbox/filters.h"
#include "sandbox/landlock.h"
#include "sandbox/privileges.h"
#include "sandbox/table_sandbox.h"

namespace nbdinetd {
namespace {

absl::Status Lacking(const std::vector<std::string>& clauses) {
  if (clauses.empty()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrJoin(clauses, "; "));
}

std::string NoFilter(const char* which, int error) {
  return absl::StrCat("system calls can't be filtered", which,
                      " (seccomp): ", ErrnoText(error));
}

// What every sandbox has, but for the filter, which forbids the system calls
// of these steps. Returns clauses about what failed.
std::vector<std::string> EnterAllButFilter(const SandboxFacts& facts) {
  std::vector<std::string> lacking;
  // First: without new privileges, the other steps need no capability.
  if (const int error = ForbidNewPrivileges()) {
    lacking.push_back(
        absl::StrCat("new privileges can't be forbidden: ", ErrnoText(error)));
  }
  if (const int error = DropCapabilities()) {
    lacking.push_back(
        absl::StrCat("capabilities can't be given up: ", ErrnoText(error)));
  }
  if (const int error = EnterLandlock(facts)) {
    lacking.push_back(absl::StrCat(
        "files can't be put out of reach (Landlock): ", ErrnoText(error)));
  }
  return lacking;
}

// False, and a clause about it, when the filter can't be loaded.
bool EnterFilter(const Filter& filter, const SandboxFacts& facts,
                 std::vector<std::string>& lacking) {
  if (filter.absent()) {
    lacking.push_back(
        "system calls can't be filtered: this program was built without "
        "libseccomp");
    return false;
  }
  const int error = LoadFilter(filter, facts);
  if (error != 0) lacking.push_back(NoFilter("", error));
  return error == 0;
}

}  // namespace

absl::Status Sandbox::Enter() {
  std::vector<std::string> lacking = EnterAllButFilter(facts_);
  has_filter_ = EnterFilter(NegotiationFilter(facts_), facts_, lacking);
  return Lacking(lacking);
}

absl::Status EnterTableSandbox() {
  const SandboxFacts facts;
  std::vector<std::string> lacking = EnterAllButFilter(facts);
  if (const int error = ForbidCoreDumps()) {
    lacking.push_back(
        absl::StrCat("core dumps can't be forbidden: ", ErrnoText(error)));
  }
  EnterFilter(kTableFilter, facts, lacking);
  return Lacking(lacking);
}

absl::Status Sandbox::Tighten() {
  if (!has_filter_) return absl::OkStatus();
  const int error = LoadFilter(TransmissionFilter(facts_), facts_);
  if (error == 0) return absl::OkStatus();
  return Lacking({NoFilter(" for the transmission", error)});
}

std::string Sandbox::InWords() const {
  return absl::StrCat(
      "in a sandbox: without privileges, ",
      facts_.directory_fd < 0 && facts_.copies_fd < 0
          ? "with no file but what is open"
      : facts_.directory_fd < 0
          ? "with no file but what is open, and the kept copies"
      : facts_.copies_fd >= 0
          ? "with no file but those of the directory, for reading, and the "
            "kept copies"
      : facts_.writable
          ? "with no file but those of the directory"
          : "with no file but those of the directory, for reading",
      ", and with no system call that this doesn't need\n");
}

}  // namespace nbdinetd
