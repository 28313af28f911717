#include "cli/check.h"

#include <unistd.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "base/errors.h"
#include "cli/check_asked.h"
#include "cli/check_report.h"
#include "cli/check_storage.h"
#include "cli/image_user.h"
#include "cli/open_catalog.h"
#include "cli/output.h"
#include "cli/unit_hints.h"
#include "connection/serve_connection.h"
#include "export/copy_on_write.h"
#include "export/exclusive.h"
#include "negotiation/agreement.h"
#include "protocol/option.h"
#include "protocol/request.h"
#include "protocol/transmission_flags.h"
#include "sandbox/sandbox.h"

namespace nbdinetd {
namespace {

absl::string_view ExclusiveInWords(Exclusive exclusive) {
  switch (exclusive) {
    case Exclusive::kOff:
      return "";
    case Exclusive::kRefuse:
      return "to one client at a time; others would be refused\n";
    case Exclusive::kWait:
      return "to one client at a time; others would wait until it has left\n";
    case Exclusive::kTakeover:
      return "to one client at a time; it would have to leave for the next\n";
  }
  return "";
}

// The words of the option.
absl::string_view WordOf(TlsMode mode) {
  return mode == TlsMode::kOff  ? "off"
         : mode == TlsMode::kOn ? "on"
                                : "require";
}

// Enters the sandbox, since only that shows whether the system supports it, and
// what can be opened inside. Returns its description for people, or an error
// when it is incomplete with --sandbox=require.
absl::StatusOr<std::string> CheckSandbox(const ConnectionConfig& config,
                                         const Catalog& catalog, const Log& log,
                                         CheckReport& report) {
  report.sandbox = "off";
  if (config.sandbox_mode == SandboxMode::kOff) return "in no sandbox\n";
  SandboxFacts facts = SandboxFactsOf(catalog, config, log);
  facts.output_fd = STDOUT_FILENO;
  Sandbox sandbox(facts);
  const absl::Status status = sandbox.Enter();
  report.sandbox = status.ok() ? "on" : "incomplete";
  report.sandbox_reason = std::string(status.message());
  if (status.ok()) return sandbox.InWords();
  if (config.sandbox_mode == SandboxMode::kRequire) {
    return absl::Status(status.code(),
                        absl::StrCat(kNotServing, status.message()));
  }
  return absl::StrCat("in an incomplete sandbox: ", status.message(), "\n");
}

// What another program may promise a client of `target`; nullopt without
// --negotiated.
std::optional<Promises> PromisesOf(const Export& target,
                                   const ConnectionConfig& config) {
  if (!config.negotiated.has_value()) return std::nullopt;
  return PromisesFor(
      target, *config.negotiated,
      WelcomesMultiConn(config.multi_conn, config.exclusive, target.facts()));
}

// Describes each export.
void CheckExports(const Invocation& invocation, Catalog& catalog,
                  CheckReport& report) {
  const Options& options = invocation.options;
  const bool any_name = options.directory.empty() && invocation.files.empty() &&
                        !options.export_name.has_value();
  std::vector<std::string> names;
  // An error appears in the words of the catalog.
  catalog
      .List([&](absl::string_view name, absl::string_view) {
        names.emplace_back(name);
        return true;
      })
      .IgnoreError();
  for (const std::string& name : names) {
    absl::StatusOr<Catalog::Opened> opened = catalog.Open(name);
    if (!opened.ok()) {
      report.left_out.push_back({name, std::string(opened.status().message())});
      continue;
    }
    const Export::Facts& facts = opened->target->facts();
    report.exports.push_back(
        {any_name ? std::nullopt : std::make_optional(name),
         opened->target->path(), facts.size_bytes, facts.read_only,
         std::move(opened->read_only_reason),
         FindImageUser(opened->target->lock_fd()),
         PromisesOf(*opened->target, invocation.connection_config),
         StorageReportOf(facts, invocation.connection_config)});
    if (!report.exports.back().storage.refusal.empty()) {
      report.exit_status = ExitStatus::kUnavailable;
    }
  }
}

// What follows for the clients of an export that a virtual machine uses; empty
// if both only read.
std::string UseInWords(const CheckReport::Served& served, bool only_read) {
  if (!served.user.has_value()) return "";
  const std::string use = absl::StrCat(Quoted(served.file), " is in use by ",
                                       InWords(*served.user));
  if (served.user->writes) {
    return absl::StrCat(
        use, ", which writes to it: ",
        only_read
            ? "clients would see its content change; serve a snapshot or copy"
            : "writes of clients would destroy its file systems; stop the "
              "virtual machine first, or serve a copy");
  }
  if (only_read) return "";
  return absl::StrCat(use,
                      ", which reads it: writes of clients would change its "
                      "content; serve it with --readonly, or serve a copy");
}

std::string PromisesInWords(const Promises& promises) {
  const BlockSizes& sizes = promises.block_sizes;
  return absl::StrCat(
      "another program may have promised the client: ", promises.size_bytes,
      " bytes; transmission flags 0x",
      absl::Hex(promises.transmission_flags, absl::kZeroPad4), " (",
      absl::StrJoin(TransmissionFlagNames(promises.transmission_flags), ", "),
      "); block sizes ", sizes.minimum, ", ", sizes.preferred, " and ",
      sizes.advertised_payload,
      promises.block_status
          ? absl::StrCat("; metadata context ", kBaseAllocationId, ", ",
                         kBaseAllocation)
          : "",
      "\n");
}

// What the exports could lack under the shipped units, or for a client.
void AddHints(const Options& options, CheckReport& report) {
  for (const CheckReport::Served& served : report.exports) {
    std::string use =
        UseInWords(served, served.read_only || !report.cow.empty());
    if (!use.empty()) report.hints.push_back(std::move(use));
  }
  const std::string& path =
      options.directory.empty() ? options.file : options.directory;
  if (path.empty() || absl::StartsWith(path, "/dev/fd/") ||
      absl::StartsWith(path, "/proc/")) {
    return;
  }
  report.unit_hints = UnitHints(path, options.export_settings.read_only);
}

// The answer for people.
void PrintWords(const Opened& opened, const Invocation& invocation,
                const CheckReport& report, absl::string_view sandbox) {
  const Options& options = invocation.options;
  const ConnectionConfig& config = invocation.connection_config;
  Print(opened.catalog->InWords());
  if (opened.tls != nullptr) {
    Print(absl::StrCat("would use TLS: ", opened.tls->description(),
                       config.tls_mode == TlsMode::kRequire
                           ? "; clients without TLS would be refused\n"
                           : "; clients without TLS would be served, too\n"));
  }
  if (options.copies.keep) {
    Print(absl::StrCat(
        "each client, known by its ",
        options.copies.key == CopyKey::kTls ? "TLS identity" : "IP address",
        ", would write into a copy of its own in ", CopyPlace(options.copies),
        ", which is kept until it comes back\n"));
  } else if (!report.cow.empty()) {
    Print(absl::StrCat("each client would write into a private copy in ",
                       CopyPlace(options.copies),
                       ", which is deleted when the "
                       "connection ends\n"));
  }
  for (const CheckReport::Served& served : report.exports) {
    if (served.promises.has_value()) Print(PromisesInWords(*served.promises));
  }
  Print(ExclusiveInWords(config.exclusive));
  std::vector<StoredAs> stored;
  for (const CheckReport::Served& served : report.exports) {
    stored.push_back({served.file, served.storage});
  }
  Print(InWords(stored));
  for (const std::string& line : report.access) Print(absl::StrCat(line, "\n"));
  if (!report.rules.empty()) {
    Print(absl::StrCat("each client would see the exports that ",
                       Quoted(report.rules), " lets it use\n"));
  }
  Print(AskedInWords(report));
  Print(sandbox);
}

int CheckFailed(const absl::Status& status, bool json, const Log& log) {
  if (json) {
    CheckReport report;
    report.reason = std::string(status.message());
    report.exit_status = ExitStatusOf(status);
    Print(ToJson(report));
  }
  return Fail(log, status);
}

}  // namespace

int Check(const Invocation& invocation, const Log& log) {
  const ConnectionConfig& config = invocation.connection_config;
  const bool json = invocation.options.check_json;
  const absl::StatusOr<Opened> opened = OpenCatalogAndTls(
      invocation, MissingExport::kFail, KeyWarnings::kTell, log);
  if (!opened.ok()) return CheckFailed(opened.status(), json, log);
  CheckReport report;
  report.tls = std::string(WordOf(config.tls_mode));
  if (invocation.options.copies.enabled) {
    report.cow = invocation.options.copies.keep ? "keep" : "discard";
  }
  if (config.exclusive != Exclusive::kOff) {
    report.exclusive = std::string(WordOf(config.exclusive));
  }
  report.access = invocation.listener_config.access.InWords();
  CheckExports(invocation, *opened->catalog, report);
  const absl::Status rules = CheckRules(invocation, *opened->catalog, report);
  if (!rules.ok()) return CheckFailed(rules, json, log);
  AddHints(invocation.options, report);
  const absl::StatusOr<std::string> sandbox =
      CheckSandbox(config, *opened->catalog, log, report);
  if (!sandbox.ok()) return CheckFailed(sandbox.status(), json, log);
  if (json) {
    Print(ToJson(report));
  } else {
    PrintWords(*opened, invocation, report, *sandbox);
    for (const auto* hints : {&report.hints, &report.unit_hints}) {
      for (const std::string& hint : *hints) {
        log.Write(Priority::kNotice, absl::StrCat("hint: ", hint));
      }
    }
  }
  return static_cast<int>(report.exit_status);
}

}  // namespace nbdinetd
