// The command line.
#ifndef NBDINETD_CLI_OPTIONS_H_
#define NBDINETD_CLI_OPTIONS_H_

#include <sys/types.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "access/asked_client.h"
#include "base/log.h"
#include "base/timeouts.h"
#include "base/transfer_limits.h"
#include "export/copy_settings.h"
#include "export/exclusive.h"
#include "export/export_settings.h"
#include "negotiation/agreement.h"
#include "sandbox/sandbox.h"
#include "server/access.h"
#include "server/activation.h"
#include "server/bind.h"
#include "stream/tls.h"

namespace nbdinetd {

struct Options {
  std::string file;       // empty when none was given
  std::string directory;  // --directory, in place of a file; else empty
  ExportSettings export_settings;  // read_only with --cow, too
  CopySettings copies;             // --cow
  bool partitions = false;         // of the files in `directory`
  std::optional<std::string> export_name;
  std::string description;
  std::optional<LogDestination> log;
  std::string log_file;  // absolute; the destination kFile
  bool verbose = false;
  Timeouts timeouts;
  TransferLimits transfer_limits;
  TlsSettings tls;
  bool tls_given = false;  // --tls was given
  AccessRules access;
  std::string rules;  // --rules; empty for none
  AskedClient asked;  // --as
  Exclusive exclusive = Exclusive::kOff;
  ExclusiveScope exclusive_scope = ExclusiveScope::kHost;
  bool force_share = false;
  std::optional<bool> multi_conn;  // --multi-conn; nullopt: auto
  SandboxMode sandbox = kDefaultSandbox;
  std::optional<Agreement> negotiated;  // --negotiated

  // The parent process, with which this one ends (--exit-with-parent).
  std::optional<pid_t> parent;
  bool print_uri = false;

  bool check = false;
  bool check_json = false;  // --check=json
  bool version = false;
  bool help = false;

  // The source of clients: activation, or sockets of our own.
  ActivationOptions activation;
  ListenAddress listen;
  std::string run;
  std::string pidfile;
  std::string user;
  std::string group;
  uint32_t max_connections = std::numeric_limits<uint32_t>::max();
  absl::Duration exit_idle = absl::InfiniteDuration();
};

// Parses the arguments like GNU getopt_long(). InvalidArgument: a message for
// people; `*options` then still holds every valid option, since --log decides
// where the error is reported. Prints nothing.
absl::Status ParseOptions(int argc, char** argv, Options* options);

// The text of --help, with its last newline.
std::string HelpText();

}  // namespace nbdinetd

#endif  // NBDINETD_CLI_OPTIONS_H_
