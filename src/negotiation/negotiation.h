// The handshake phase: greeting, client flags and option haggling, up to the
// choice of an export.
//
// Negotiation is the loop: it reads options, sends replies, and enforces the
// time limits. OptionHandlers makes the replies; ClaimExport() locks the chosen
// export.
//
// Invariant: one Negotiation object holds everything that has been negotiated.
// An upgrade to TLS starts a new one, because no state may survive it
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
  // All borrowed. The time limit starts with Run().
  Negotiation(Channel& channel, Catalog& catalog, const Log& log,
              const NegotiationSettings& settings);
  // The negotiation after a TLS handshake.
  Negotiation(Channel& channel, Catalog& catalog, const Log& log,
              const NegotiationSettings& settings, const TlsUpgrade& upgrade);

  // Sends the greeting, unless it was sent before TLS, and handles options
  // until the client has chosen an export or requested TLS, or the connection
  // has ended; Ending has the reason. Call it once. The channel stays in its
  // handshake state until an export is chosen.
  std::variant<Negotiated, TlsUpgrade, Ending> Run();

 private:
  // Waits for `n` bytes of input. False when the connection has ended; ending_
  // is then set.
  bool Require(size_t n);
  // Reads and drops `n` bytes. False as for Require().
  bool Discard(uint64_t n);
  // Ends the connection (a hard disconnect, unless the client requested the
  // end).
  void End(ExitStatus status, std::string reason);
  // Ends the connection at the handshake's time limit, or at that of a
  // shutdown.
  void EndTimedOut();
  // Ends the connection when the peer receives no more: it timed out, or
  // disconnected.
  void EndUnsent(ExitStatus if_gone, std::string reason_if_gone);
  // Says of an ending that the client had been refused an export before.
  void NoteRefusal();

  bool Greet();
  bool ReadClientFlags();
  // Reads and answers one option. False when haggling has ended.
  bool ReadOption();
  bool HandleOption(const OptionHeader& header);
  // Refuses an option of which only the header has been read.
  bool Refuse(const OptionHeader& header, const Refusal& refusal);
  // Carries out the consequences of an option before its replies are sent.
  void Proceed(const OptionHeader& header, OptionHandlers::Next next,
               OptionReplies& replies);
  // Claims the export of `negotiated`, or replaces `replies` by an error.
  void ChooseExport(const OptionHeader& header, Negotiated negotiated,
                    OptionReplies& replies);
  bool SendReplies(const OptionReplies& replies);
  // Sends the replies that exist so far, and clears them. False when the
  // connection has ended.
  bool SendSoFar(OptionReplies& replies);
  void LogTrouble(const absl::Status& trouble);

  Channel& channel_;
  Catalog& catalog_;
  const Log& log_;
  const NegotiationSettings settings_;
  // Complete after the client flags.
  OptionHandlers::Facts facts_;
  // For the whole handshake.
  absl::Time deadline_ = absl::InfiniteFuture();
  // Set after the client flags.
  std::optional<OptionHandlers> handlers_;
  // Why the client was last refused an export: the ending if it leaves now.
  std::optional<Ending> refused_;
  int troubles_logged_ = 0;

  // Haggling has ended when one of these is set.
  bool start_tls_ = false;
  std::optional<Negotiated> negotiated_;
  std::optional<Ending> ending_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_NEGOTIATION_NEGOTIATION_H_
