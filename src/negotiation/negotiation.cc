#include "negotiation/negotiation.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/limits.h"
#include "base/steady_clock.h"
#include "protocol/wire.h"

namespace nbdinetd {

const Negotiation::Rule* Negotiation::FindRule(uint32_t option) {
  using N = Negotiation;
  static constexpr Rule kRules[] = {
      {NBD_OPT_EXPORT_NAME, "NBD_OPT_EXPORT_NAME", kMaxStringBytes,
       &N::OnExportName},
      {NBD_OPT_ABORT, "NBD_OPT_ABORT", kMaxOptionBytes, &N::OnAbort},
      {NBD_OPT_LIST, "NBD_OPT_LIST", kMaxOptionBytes, &N::OnList},
      {NBD_OPT_STARTTLS, "NBD_OPT_STARTTLS", kMaxOptionBytes, &N::OnStartTls},
      {NBD_OPT_INFO, "NBD_OPT_INFO", kMaxOptionBytes, &N::OnInfo},
      {NBD_OPT_GO, "NBD_OPT_GO", kMaxOptionBytes, &N::OnGo},
      {NBD_OPT_STRUCTURED_REPLY, "NBD_OPT_STRUCTURED_REPLY", kMaxOptionBytes,
       &N::OnStructuredReply},
      {NBD_OPT_LIST_META_CONTEXT, "NBD_OPT_LIST_META_CONTEXT", kMaxOptionBytes,
       &N::OnListMetaContext},
      {NBD_OPT_SET_META_CONTEXT, "NBD_OPT_SET_META_CONTEXT", kMaxOptionBytes,
       &N::OnSetMetaContext},
  };
  const auto* rule = std::find_if(
      std::begin(kRules), std::end(kRules),
      [option](const Rule& candidate) { return candidate.option == option; });
  return rule == std::end(kRules) ? nullptr : rule;
}

std::variant<Negotiated, TlsUpgrade, Ending> Negotiation::Run() {
  if (!secure_) deadline_ = SteadyNow() + time_limit_;
  channel_.BeginHandshake(deadline_);
  // "the server MUST NOT preserve any negotiation state" (NBD_OPT_STARTTLS);
  // the greeting and the client flags come before it, and only once.
  if (secure_ || Greet()) {
    while (ReadOption()) {
    }
  }
  NoteInUse();
  if (ending_.has_value()) return *std::move(ending_);
  if (start_tls_) return TlsUpgrade{deadline_, no_zeroes_};
  channel_.EndHandshake();
  return *std::move(negotiated_);
}

bool Negotiation::Greet() {
  if (channel_.Send(EncodeGreeting())) return ReadClientFlags();
  EndUnsent(ExitStatus::kOk, "client left before the greeting");
  return false;
}

void Negotiation::End(ExitStatus status, std::string reason) {
  ending_ = Ending{status, std::move(reason)};
}

void Negotiation::EndTimedOut() {
  if (channel_.shutdown_requested()) {
    End(ExitStatus::kOk, kShuttingDown);
    return;
  }
  End(ExitStatus::kTimedOut,
      absl::StrCat("client didn't finish the handshake within ",
                   absl::FormatDuration(time_limit_)));
}

void Negotiation::EndUnsent(ExitStatus if_gone, std::string reason_if_gone) {
  negotiated_.reset();
  if (channel_.shutdown_requested() || channel_.send_timed_out()) {
    EndTimedOut();
  } else {
    End(if_gone, std::move(reason_if_gone));
  }
}

bool Negotiation::Require(size_t n) {
  channel_.MakeRoomFor(n);
  while (channel_.input().size() < n) {
    switch (channel_.Wait(/*want_input=*/true, /*workers_fd=*/-1,
                          absl::InfiniteFuture())) {
      case Channel::Wake::kShutdown:
        // From now on there is a limit to this, too.
        continue;
      case Channel::Wake::kTimeout:
        EndTimedOut();
        return false;
      case Channel::Wake::kWorkers:
      case Channel::Wake::kInput:
        break;
    }
    switch (channel_.Receive()) {
      case Channel::Receipt::kData:
      case Channel::Receipt::kNothing:
        break;
      case Channel::Receipt::kTimedOut:
        EndTimedOut();
        return false;
      case Channel::Receipt::kEnd:
      case Channel::Receipt::kReset:
        if (!channel_.failure().empty()) {
          End(ExitStatus::kProtocol, channel_.failure());
        } else if (channel_.input().empty()) {
          End(ExitStatus::kOk, "client left during option haggling");
        } else {
          End(ExitStatus::kProtocol, "client vanished inside an option");
        }
        return false;
    }
  }
  return true;
}

bool Negotiation::Discard(uint64_t n) {
  while (n > 0) {
    const size_t part = std::min<uint64_t>(n, kInputBytes);
    if (!Require(1)) {
      // The option's header went before: to vanish here is to vanish inside it.
      if (ending_->status == ExitStatus::kOk &&
          !channel_.shutdown_requested()) {
        End(ExitStatus::kProtocol, "client vanished inside an option");
      }
      return false;
    }
    const size_t have = std::min(part, channel_.input().size());
    channel_.Consume(have);
    n -= have;
  }
  return true;
}

bool Negotiation::ReadClientFlags() {
  if (!Require(kClientFlagsBytes)) return false;
  const auto flags = Load<uint32_t>(channel_.input().data());
  channel_.Consume(kClientFlagsBytes);
  // "the server MUST drop the TCP connection if the client sets an unknown
  // flag" ("Client flags"). NBD_FLAG_C_FIXED_NEWSTYLE isn't insisted on: a
  // client that left it out may still send options, and gets replies.
  if ((flags & ~(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES)) != 0) {
    End(ExitStatus::kProtocol,
        absl::StrCat("client broke the protocol: unknown client flags 0x",
                     absl::Hex(flags)));
    return false;
  }
  no_zeroes_ = (flags & NBD_FLAG_C_NO_ZEROES) != 0;
  if ((flags & NBD_FLAG_C_FIXED_NEWSTYLE) == 0) {
    // "The server MUST operate in NOTLS mode unless ... the client replied with
    // NBD_FLAG_C_FIXED_NEWSTYLE" ("Server-side requirements").
    if (tls_ == TlsMode::kRequire) {
      End(ExitStatus::kRefused,
          "client is too old for TLS, which this server requires");
      return false;
    }
    tls_ = TlsMode::kOff;
  }
  return true;
}

// Reads and answers one option; false when haggling is over.
bool Negotiation::ReadOption() {
  // A client that never stops talking is never waited for.
  if (SteadyNow() >= channel_.HandshakeLimit()) {
    EndTimedOut();
    return false;
  }
  if (!Require(kOptionHeaderBytes)) return false;
  const std::optional<OptionHeader> header =
      DecodeOptionHeader(channel_.input().substr(0, kOptionHeaderBytes));
  if (!header.has_value()) {
    End(ExitStatus::kProtocol, "client broke the protocol: wrong option magic");
    return false;
  }
  return HandleOption(*header) && !negotiated_.has_value() && !start_tls_ &&
         !ending_.has_value();
}

struct Negotiation::Refusal {
  NbdOptionReply reply;
  const char* sentence;
  // How the connection ends where the option has no error reply.
  Ending ending;
};

std::optional<Negotiation::Refusal> Negotiation::WhyRefused(
    const OptionHeader& header, const Rule* rule) const {
  // FORCEDTLS mode.
  if (tls_ == TlsMode::kRequire && !secure_ &&
      header.option != NBD_OPT_STARTTLS && header.option != NBD_OPT_ABORT) {
    return Refusal{NBD_REP_ERR_TLS_REQD,
                   "this server requires TLS",
                   {ExitStatus::kRefused,
                    "client asked for an export without TLS, which this "
                    "server requires"}};
  }
  if (channel_.shutdown_requested()) {
    return Refusal{
        NBD_REP_ERR_SHUTDOWN, kShuttingDown, {ExitStatus::kOk, kShuttingDown}};
  }
  if (rule == nullptr) {
    return Refusal{NBD_REP_ERR_UNSUP, "the option is not supported", {}};
  }
  if (header.length > rule->max_payload_bytes) {
    return Refusal{NBD_REP_ERR_TOO_BIG,
                   "the option is too long",
                   {ExitStatus::kProtocol,
                    "client broke the protocol: an export name is too long"}};
  }
  return std::nullopt;
}

bool Negotiation::HandleOption(const OptionHeader& header) {
  const Rule* rule = FindRule(header.option);
  if (log_.verbose()) {
    log_.Debug(absl::StrCat("option ", rule != nullptr ? rule->name : "unknown",
                            " (", header.option, "), ", header.length,
                            " bytes"));
  }
  if (header.option == NBD_OPT_SET_META_CONTEXT) {
    // "replaces all previously-set metadata contexts (including when this
    // command fails)", whatever it fails by.
    base_allocation_for_.reset();
  }
  if (header.option != NBD_OPT_GO) described_.reset();
  if (const std::optional<Refusal> refusal = WhyRefused(header, rule)) {
    return Refuse(header, *refusal);
  }
  const size_t whole = kOptionHeaderBytes + header.length;
  if (!Require(whole)) return false;
  // The payload may have taken its time, and a shutdown have come meanwhile.
  if (const std::optional<Refusal> refusal = WhyRefused(header, rule)) {
    return Refuse(header, *refusal);
  }
  OptionReplies replies(header.option);
  (this->*rule->handle)(
      channel_.input().substr(kOptionHeaderBytes, header.length), replies);
  channel_.Consume(whole);
  return SendReplies(replies);
}

bool Negotiation::Refuse(const OptionHeader& header, const Refusal& refusal) {
  if (header.option == NBD_OPT_EXPORT_NAME) {
    // This option knows no error reply, so that all that is left is to
    // terminate the session.
    ending_ = refusal.ending;
    return false;
  }
  channel_.Consume(kOptionHeaderBytes);
  if (!Discard(header.length)) return false;
  OptionReplies replies(header.option);
  if (header.option == NBD_OPT_ABORT) {
    // Whatever comes with it, and also while shutting down.
    OnAbort({}, replies);
  } else {
    replies.Error(refusal.reply, refusal.sentence);
  }
  return SendReplies(replies);
}

bool Negotiation::SendReplies(const OptionReplies& replies) {
  if (channel_.Send(replies.bytes()) || ending_.has_value()) return true;
  EndUnsent(ExitStatus::kProtocol,
            "client left without reading an option's reply");
  return false;
}

}  // namespace nbdinetd
