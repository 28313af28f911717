// probe: whether a server serves an export, asked by the handshake of a client.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/steady_clock.h"
#include "base/unique_fd.h"
#include "ctl/columns.h"
#include "ctl/dial.h"
#include "ctl/drained_mark.h"
#include "ctl/export_probe.h"
#include "ctl/nbd_uri.h"
#include "ctl/output.h"
#include "ctl/table.h"
#include "ctl/verbs.h"
#include "protocol/client.h"
#include "protocol/transmission_flags.h"
#include "stream/channel.h"
#include "stream/stream.h"
#include "stream/tls.h"

namespace nbdinetd::ctl {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(5);
// What HAProxy shows of a sentence is shorter.
constexpr size_t kMaxAgentSentenceBytes = 200;

absl::StatusOr<ExportInformation> Ask(const NbdUri& uri, bool read,
                                      absl::Time deadline) {
  std::unique_ptr<Tls> tls;
  if (uri.tls.has_value()) {
    absl::StatusOr<std::unique_ptr<Tls>> loaded = Tls::LoadClient(*uri.tls);
    if (!loaded.ok()) return loaded.status();
    tls = *std::move(loaded);
    if (!tls->warning().empty()) Warn(tls->warning());
  }
  absl::StatusOr<UniqueFd> connection = Dial(uri, deadline);
  if (!connection.ok()) return connection.status();
  Channel channel(std::make_unique<SocketStream>(*std::move(connection)),
                  /*shutdown_fd=*/-1);
  channel.BeginHandshake(deadline);
  ExportProbe probe(channel);
  absl::Status status = probe.Greet();
  if (status.ok() && tls != nullptr) status = probe.StartTls(*tls);
  if (!status.ok()) return status;
  return read ? probe.Read(uri.export_name) : probe.Ask(uri.export_name);
}

std::vector<std::string> FlagNames(uint16_t flags) {
  std::vector<std::string> names;
  for (const absl::string_view name : TransmissionFlagNames(flags)) {
    names.emplace_back(name);
  }
  return names;
}

// Answers the agent check of HAProxy: by words, and a sentence behind '#'.
// "ready" takes back an earlier "drain".
absl::Status PrintForAgent(const absl::Status& status) {
  if (status.ok()) return PrintText("ready up\n");
  return PrintText(
      absl::StrCat("ready down #",
                   status.message().substr(0, kMaxAgentSentenceBytes), "\n"));
}

}  // namespace

absl::StatusOr<int> Probe(const CommandLine& line) {
  const absl::Time start = SteadyNow();
  const absl::StatusOr<NbdUri> uri = ParseNbdUri(line.arguments[0]);
  if (!uri.ok()) return uri.status();
  if (line.agent && IsMachineMarked(line.where)) {
    absl::Status printed = PrintText("drain\n");
    if (!printed.ok()) return printed;
    return kSuccess;
  }
  const absl::StatusOr<ExportInformation> information =
      Ask(*uri, line.read, start + line.timeout.value_or(kTimeout));
  if (line.agent) {
    absl::Status printed = PrintForAgent(information.status());
    if (!printed.ok()) return printed;
    return kSuccess;
  }
  if (!information.ok()) {
    // No status of an error in the export is one of nbdinetctl's usage.
    return absl::UnavailableError(
        absl::StrCat(line.arguments[0], ": ", information.status().message()));
  }
  Table table(ProbeColumns());
  table.AddRow(
      {line.arguments[0], *information->size_bytes,
       static_cast<uint64_t>(absl::ToInt64Microseconds(SteadyNow() - start)),
       FlagNames(information->transmission_flags)});
  if (absl::Status status = PrintTable(line, table); !status.ok()) {
    return status;
  }
  return kSuccess;
}

}  // namespace nbdinetd::ctl
