// nbdinetd-generator: makes units of .export files, for systemd.generator(7).

#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/errors.h"
#include "base/exit_status.h"
#include "generator/export_file.h"
#include "generator/generated_exports.h"
#include "generator/generator_log.h"
#include "generator/output_directory.h"

namespace nbdinetd {
namespace {

constexpr char kHelp[] =
    R"(Usage: nbdinetd-generator [OPTIONS] NORMAL-DIR [EARLY-DIR LATE-DIR]
       nbdinetd-generator [OPTIONS] --dry-run [NAME|FILE]

Make systemd units of the files NAME.export. systemd runs this program when it
boots and reloads its units; its units are written into NORMAL-DIR.

      --dry-run   print the units instead, of all exports, of the export NAME, or
                  of FILE, which is a path with a slash
      --user      read a user's own exports, not the system's
      --root=DIR  read exports below DIR
      --version   print the version and exit
      --help      print this help and exit

The manual pages nbdinetd.export(5) and nbdinetd-generator(8) explain all of it.
)";

struct Arguments {
  bool dry_run = false;
  bool help = false;
  bool version = false;
  ManagerScope scope = ManagerScope::kSystem;
  GeneratorCaller caller = GeneratorCaller::kPerson;
  std::string root;
  std::vector<std::string> operands;
};

// Parses the command line and the environment that systemd.generator(7)
// describes.
absl::StatusOr<Arguments> Parse(int argc, char** argv) {
  Arguments arguments;
  // systemd names the manager since version 251.
  if (const char* scope = std::getenv("SYSTEMD_SCOPE"); scope != nullptr) {
    arguments.caller = GeneratorCaller::kServiceManager;
    if (absl::string_view(scope) == "user") {
      arguments.scope = ManagerScope::kUser;
    }
  }
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (argument == "--dry-run") {
      arguments.dry_run = true;
    } else if (argument == "--user") {
      arguments.scope = ManagerScope::kUser;
    } else if (argument == "--help") {
      arguments.help = true;
    } else if (argument == "--version") {
      arguments.version = true;
    } else if (absl::ConsumePrefix(&argument, "--root=")) {
      arguments.root = std::string(argument);
    } else if (absl::StartsWith(argument, "-")) {
      return absl::InvalidArgumentError(
          absl::StrCat("option ", Quoted(argument), " is unknown"));
    } else {
      arguments.operands.emplace_back(argument);
    }
  }
  if (arguments.dry_run) arguments.caller = GeneratorCaller::kPerson;
  const size_t most = arguments.dry_run ? 1 : 3;
  const size_t least = arguments.dry_run ? 0 : 1;
  const size_t count = arguments.operands.size();
  if (arguments.help || arguments.version) return arguments;
  if (count < least || count > most) {
    return absl::InvalidArgumentError(
        arguments.dry_run
            ? "--dry-run takes one NAME or FILE, or none for all exports"
            : "the directories for the units are needed: NORMAL-DIR EARLY-DIR "
              "LATE-DIR");
  }
  return arguments;
}

void LogError(const Arguments& arguments, const absl::Status& status,
              absl::string_view name = "") {
  LogGeneratorError(arguments.caller, status.message(), name);
}

// Prints what would be written. Returns whether all of it could be made.
bool Print(const Arguments& arguments,
           const std::vector<GeneratedExport>& exports) {
  bool whole = true;
  for (const GeneratedExport& made : exports) {
    if (!made.status.ok()) {
      LogError(arguments, made.status);
      whole = false;
    }
    for (const UnitFile& file : made.units.files) {
      std::printf("# %s\n%s\n", file.name.c_str(), file.text.c_str());
    }
    for (const UnitLink& link : made.units.links) {
      std::printf("# %s -> %s\n\n", link.name.c_str(), link.target.c_str());
    }
  }
  return whole;
}

ExitStatus DryRun(const Arguments& arguments) {
  const std::string name =
      arguments.operands.empty() ? "" : arguments.operands[0];
  if (absl::StrContains(name, '/')) {
    const ExportSources sources = SourcesOfFile(name);
    return Print(arguments, GenerateExports({sources}, arguments.scope))
               ? ExitStatus::kOk
               : ExitStatus::kConfig;
  }
  const std::vector<std::string> directories =
      ExportDirectories(arguments.scope, arguments.root);
  const FoundExports found = FindExports(directories);
  bool whole = found.errors.empty();
  for (const absl::Status& error : found.errors) LogError(arguments, error);
  // All of them, since two exports may not have one address.
  std::vector<GeneratedExport> exports;
  for (GeneratedExport& made :
       GenerateExports(found.exports, arguments.scope)) {
    if (name.empty() || made.sources.name == name) {
      exports.push_back(std::move(made));
    }
  }
  if (exports.empty() && !name.empty()) {
    LogError(arguments, absl::NotFoundError(absl::StrCat(
                            "there is no export ", Quoted(name), ": no ", name,
                            ".export in ", absl::StrJoin(directories, ", "))));
    return ExitStatus::kNoInput;
  }
  whole = Print(arguments, exports) && whole;
  return whole ? ExitStatus::kOk : ExitStatus::kConfig;
}

absl::Status Write(const ExportUnits& units, const OutputDirectory& output) {
  // After an error, e.g. a full disk, no unit is there without those it needs.
  for (auto file = units.files.rbegin(); file != units.files.rend(); ++file) {
    if (absl::Status status = output.Write(*file); !status.ok()) return status;
  }
  for (const UnitLink& link : units.links) {
    if (absl::Status status = output.Write(link); !status.ok()) return status;
  }
  return absl::OkStatus();
}

// An error of an export is logged, and no failure: a status other than 0 would
// only add a line to the log that names no file.
ExitStatus Generate(const Arguments& arguments) {
  const absl::StatusOr<OutputDirectory> output =
      OutputDirectory::Open(arguments.operands[0]);
  if (!output.ok()) {
    LogError(arguments, output.status());
    return ExitStatus::kCantCreate;
  }
  const FoundExports found =
      FindExports(ExportDirectories(arguments.scope, arguments.root));
  for (const absl::Status& error : found.errors) LogError(arguments, error);
  ExitStatus exit_status = ExitStatus::kOk;
  for (const GeneratedExport& made :
       GenerateExports(found.exports, arguments.scope)) {
    if (!made.status.ok()) LogError(arguments, made.status, made.sources.name);
    const absl::Status written = Write(made.units, *output);
    if (written.ok()) continue;
    LogError(arguments, written, made.sources.name);
    exit_status = ExitStatus::kCantCreate;
  }
  return exit_status;
}

ExitStatus Main(int argc, char** argv) {
  umask(022);
  const absl::StatusOr<Arguments> arguments = Parse(argc, argv);
  if (!arguments.ok()) {
    LogGeneratorError(GeneratorCaller::kPerson,
                      absl::StrCat(arguments.status().message(),
                                   "; see nbdinetd-generator --help"));
    return ExitStatus::kUsage;
  }
  if (arguments->help || arguments->version) {
    std::fputs(
        arguments->help ? kHelp : "nbdinetd-generator " PACKAGE_VERSION "\n",
        stdout);
    return ExitStatus::kOk;
  }
  return arguments->dry_run ? DryRun(*arguments) : Generate(*arguments);
}

}  // namespace
}  // namespace nbdinetd

int main(int argc, char** argv) {
  return static_cast<int>(nbdinetd::Main(argc, argv));
}
