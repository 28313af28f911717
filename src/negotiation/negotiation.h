// The handshake phase: greeting, client flags and option haggling, up to the
// choice of an export.
//
// This is the loop: it reads options, sends replies, and keeps the time limits;
// OptionHandlers says what is replied, ExportLock locks the chosen export.
//
// Invariant: all that has been negotiated lives in one Negotiation object. An
// upgrade to TLS must start a new one, since nothing from before may be kept
// (NBD_OPT_STARTTLS in the specification). Threads: one.
#ifndef NBDINETD_NEGOTIATION_NEGOTIATION_H_
#define NBDINETD_NEGOTIATION_NEGOTIATION_H_

#include <optional>
#include <string>
#include <variant>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/exit_status.h"
#include "base/log.h"
#include "export/catalog.h"
#include "negotiation/negotiated.h"
#include "negotiation/negotiation_settings.h"
#include "negotiation/option_handlers.h"
#include "negotiation/refusal.h"
#include "protocol/option.h"
#include "stream/channel.h"

namespace nbdinetd {

class Negotiation {
 public:
  // All borrowed. The time limit is counted from Run().
  Negotiation(Channel& channel, Catalog& catalog, const Log& log,
              const NegotiationSettings& settings);
  // Over TLS, behind the handshake.
  Negotiation(Channel& channel, Catalog& catalog, const Log& log,
              const NegotiationSettings& settings, const TlsUpgrade& upgrade);

  // Sends the greeting, unless there was one, and haggles until the client has
  // chosen an export, or is to begin with TLS, or the connection has ended, for
  // the reason given. Called once. The channel is in a handshake until an
  // export is chosen.
  std::variant<Negotiated, TlsUpgrade, Ending> Run();

 private:
  // True when the input holds at least `n` bytes; else the connection has
  // ended, and ending_ says why.
  bool Require(size_t n);
  // Reads `n` bytes away; false as with Require.
  bool Discard(uint64_t n);
  // Ends the connection (a hard disconnect, unless the client asked for it).
  void End(ExitStatus status, std::string reason);
  // The handshake's time is over, or the time that a shutdown leaves.
  void EndTimedOut();
  // The peer took no more of what was sent: it timed out, or left.
  void EndUnsent(ExitStatus if_gone, std::string reason_if_gone);
  void NoteInUse();

  bool Greet();
  bool ReadClientFlags();
  // Reads and answers one option; false when haggling is over.
  bool ReadOption();
  bool HandleOption(const OptionHeader& header);
  // Refuses an option of which the header has been read, and no more.
  bool Refuse(const OptionHeader& header, const Refusal& refusal);
  // Does what follows an option, before its replies are sent.
  void Proceed(const OptionHeader& header, OptionHandlers::Next next,
               OptionReplies& replies);
  // Locks the export of `negotiated`, or puts an error in place of `replies`.
  void ChooseExport(const OptionHeader& header, Negotiated negotiated,
                    OptionReplies& replies);
  bool SendReplies(const OptionReplies& replies);
  // Sends replies before there are all of them, and clears them. False when the
  // connection has ended.
  bool SendSoFar(OptionReplies& replies);
  void LogTrouble(const absl::Status& trouble);

  Channel& channel_;
  Catalog& catalog_;
  const Log& log_;
  const NegotiationSettings settings_;
  // Complete once the client flags are read.
  OptionHandlers::Facts facts_;
  // Of the whole handshake.
  absl::Time deadline_ = absl::InfiniteFuture();
  // From the client flags on.
  std::optional<OptionHandlers> handlers_;
  // The export that the client was refused last, since it is in use.
  std::optional<std::string> in_use_;
  int troubles_logged_ = 0;

  // Haggling is over once one of these is set.
  bool start_tls_ = false;
  std::optional<Negotiated> negotiated_;
  std::optional<Ending> ending_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_NEGOTIATION_NEGOTIATION_H_
