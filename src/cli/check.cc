#include "cli/check.h"

#include <unistd.h>

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "cli/open_catalog.h"
#include "cli/output.h"
#include "connection/serve_connection.h"
#include "export/exclusive.h"
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

// Enters the sandbox, since only that shows whether the system supports it, and
// what can be opened inside. Returns its description for people, or an error
// when it is incomplete with --sandbox=require.
absl::StatusOr<std::string> CheckSandbox(const ConnectionConfig& config,
                                         const Catalog& catalog) {
  if (config.sandbox_mode == SandboxMode::kOff) return "in no sandbox\n";
  SandboxFacts facts = SandboxFactsOf(catalog, config);
  facts.output_fd = STDOUT_FILENO;
  Sandbox sandbox(facts);
  const absl::Status status = sandbox.Enter();
  if (status.ok()) return sandbox.InWords();
  if (config.sandbox_mode == SandboxMode::kRequire) {
    return absl::Status(status.code(),
                        absl::StrCat(kNotServing, status.message()));
  }
  return absl::StrCat("in an incomplete sandbox: ", status.message(), "\n");
}

}  // namespace

int Check(const Invocation& invocation, const Log& log) {
  const ConnectionConfig& config = invocation.connection_config;
  const absl::StatusOr<Opened> opened = OpenCatalogAndTls(
      invocation, MissingExport::kFail, KeyWarnings::kTell, log);
  if (!opened.ok()) return Fail(log, opened.status());
  const absl::StatusOr<std::string> sandbox =
      CheckSandbox(config, *opened->catalog);
  if (!sandbox.ok()) return Fail(log, sandbox.status());
  Print(opened->catalog->InWords());
  if (opened->tls != nullptr) {
    Print(absl::StrCat("would use TLS: ", opened->tls->description(),
                       config.tls_mode == TlsMode::kRequire
                           ? "; clients without TLS would be refused\n"
                           : "; clients without TLS would be served, too\n"));
  }
  Print(ExclusiveInWords(config.exclusive));
  for (const std::string& line : invocation.listener_config.access.InWords()) {
    Print(absl::StrCat(line, "\n"));
  }
  Print(*sandbox);
  return 0;
}

}  // namespace nbdinetd
