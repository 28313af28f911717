#include "negotiation/negotiation.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/limits.h"
#include "base/steady_clock.h"
#include "negotiation/export_claim.h"
#include "protocol/wire.h"

namespace nbdinetd {
namespace {

// Some peers aren't NBD clients, and send the first bytes of their own protocol
// where the client flags should be: what they are is more useful than flags.
Ending UnknownClientFlags(uint32_t flags) {
  // The first two bytes of a handshake record of TLS (RFC 8446, section 5.1).
  constexpr uint32_t kTlsHandshake = 0x1603;
  const auto not_nbd = [](std::string why) {
    return Ending{ExitStatus::kProtocol,
                  absl::StrCat("not an NBD client: ", why),
                  message_id::kNotAnNbdClient};
  };
  if (flags >> 16 == kTlsHandshake) {
    return not_nbd(
        "it started TLS at once, which an NBD client does after "
        "NBD_OPT_STARTTLS");
  }
  std::string bytes(sizeof(flags), '\0');
  Store<uint32_t>(bytes.data(), flags);
  if (absl::c_all_of(bytes, [](unsigned char c) {
        return absl::ascii_isprint(c) || absl::ascii_isspace(c);
      })) {
    return not_nbd(absl::StrCat("its first bytes are ", Quoted(bytes)));
  }
  return {ExitStatus::kProtocol,
          absl::StrCat("client broke the protocol: unknown client flags 0x",
                       absl::Hex(flags))};
}

}  // namespace

Negotiation::Negotiation(Channel& channel, Catalog& catalog, const Log& log,
                         const NegotiationSettings& settings)
    : channel_(channel),
      catalog_(catalog),
      log_(log),
      settings_(settings),
      facts_{.tls = settings.tls,
             .multi_conn = settings.multi_conn,
             .exclusive = settings.exclusive} {}

Negotiation::Negotiation(Channel& channel, Catalog& catalog, const Log& log,
                         const NegotiationSettings& settings,
                         const TlsUpgrade& upgrade)
    : channel_(channel),
      catalog_(catalog),
      log_(log),
      settings_(settings),
      facts_{.tls = settings.tls,
             .secure = true,
             .no_zeroes = upgrade.no_zeroes,
             .multi_conn = settings.multi_conn,
             .exclusive = settings.exclusive},
      deadline_(upgrade.deadline) {}

std::variant<Negotiated, TlsUpgrade, Ending> Negotiation::Run() {
  if (!facts_.secure) deadline_ = SteadyNow() + settings_.time_limit;
  channel_.BeginHandshake(deadline_);
  // "the server MUST NOT preserve any negotiation state" (NBD_OPT_STARTTLS).
  // The greeting and the client flags are exchanged once, before that option.
  if (facts_.secure || Greet()) {
    handlers_.emplace(catalog_, facts_);
    while (ReadOption()) {
    }
  }
  NoteRefusal();
  if (ending_.has_value()) return *std::move(ending_);
  if (start_tls_) return TlsUpgrade{deadline_, facts_.no_zeroes};
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
                   absl::FormatDuration(settings_.time_limit)));
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
    const Channel::Events events = channel_.Wait({});
    if (events.timeout) {
      EndTimedOut();
      return false;
    }
    // Only a shutdown: the next wait has its time limit.
    if (!events.input) continue;
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
          End(ExitStatus::kOk, handlers_.has_value()
                                   ? "client left without choosing an export"
                                   : "client sent nothing");
        } else {
          End(ExitStatus::kProtocol, handlers_.has_value()
                                         ? "client vanished inside an option"
                                         : "client vanished inside its flags");
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
      // The option's header has arrived: the client left inside the option.
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
  // flag" ("Client flags"). NBD_FLAG_C_FIXED_NEWSTYLE isn't required: a client
  // without it may still send options, and gets replies.
  if ((flags & ~(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES)) != 0) {
    ending_ = UnknownClientFlags(flags);
    return false;
  }
  facts_.no_zeroes = (flags & NBD_FLAG_C_NO_ZEROES) != 0;
  if ((flags & NBD_FLAG_C_FIXED_NEWSTYLE) == 0) {
    // "The server MUST operate in NOTLS mode unless ... the client replied with
    // NBD_FLAG_C_FIXED_NEWSTYLE" ("Server-side requirements").
    if (facts_.tls == TlsMode::kRequire) {
      End(ExitStatus::kRefused,
          "client is too old for TLS, which this server requires");
      return false;
    }
    facts_.tls = TlsMode::kOff;
  }
  return true;
}

bool Negotiation::ReadOption() {
  // The time limit also holds for a client that sends options without a pause;
  // Require() then never waits.
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

bool Negotiation::HandleOption(const OptionHeader& header) {
  if (log_.verbose()) {
    log_.Debug(absl::StrCat("option ", OptionHandlers::NameOf(header.option),
                            " (", header.option, "), ", header.length,
                            " bytes"));
  }
  handlers_->Begin(header.option);
  if (const std::optional<Refusal> refusal =
          handlers_->WhyRefused(header, channel_.shutdown_requested())) {
    return Refuse(header, *refusal);
  }
  const size_t whole = kOptionHeaderBytes + header.length;
  if (!Require(whole)) return false;
  // A shutdown may have started while the payload arrived.
  if (const std::optional<Refusal> refusal =
          handlers_->WhyRefused(header, channel_.shutdown_requested())) {
    return Refuse(header, *refusal);
  }
  const auto send_so_far = [this](OptionReplies& so_far) {
    return SendSoFar(so_far);
  };
  OptionReplies replies(header.option);
  OptionHandlers::Call call = {
      .payload = channel_.input().substr(kOptionHeaderBytes, header.length),
      .input_follows = channel_.input().size() > whole,
      .send_so_far = send_so_far,
      .replies = replies};
  OptionHandlers::Next next = handlers_->Answer(header.option, call);
  // The wait that was cancelled has taken the signal.
  if (call.is_cancelled) channel_.LookForShutdown();
  LogTrouble(call.trouble);
  if (call.refused.has_value()) refused_ = std::move(call.refused);
  Proceed(header, std::move(next), replies);
  channel_.Consume(whole);
  return SendReplies(replies);
}

bool Negotiation::Refuse(const OptionHeader& header, const Refusal& refusal) {
  if (!OptionHandlers::HasErrorReply(header.option)) {
    ending_ = refusal.ending;
    return false;
  }
  if (refusal.ending.status == ExitStatus::kRefused) refused_ = refusal.ending;
  channel_.Consume(kOptionHeaderBytes);
  if (!Discard(header.length)) return false;
  OptionReplies replies(header.option);
  Proceed(header, handlers_->AnswerRefused(header.option, refusal, replies),
          replies);
  return SendReplies(replies);
}

void Negotiation::Proceed(const OptionHeader& header, OptionHandlers::Next next,
                          OptionReplies& replies) {
  if (Negotiated* negotiated = std::get_if<Negotiated>(&next)) {
    ChooseExport(header, std::move(*negotiated), replies);
  } else if (Ending* ending = std::get_if<Ending>(&next)) {
    ending_ = std::move(*ending);
  } else if (std::holds_alternative<OptionHandlers::StartTls>(next)) {
    start_tls_ = true;
  }
}

void Negotiation::ChooseExport(const OptionHeader& header,
                               Negotiated negotiated, OptionReplies& replies) {
  std::optional<Refusal> refusal =
      ClaimExport({.channel = channel_,
                   .catalog = catalog_,
                   .settings = settings_,
                   .deadline = deadline_,
                   .tls_helps = !facts_.secure && facts_.tls != TlsMode::kOff},
                  negotiated);
  if (!refusal.has_value()) {
    negotiated_ = std::move(negotiated);
    return;
  }
  replies.Clear();
  const bool has_error_reply = OptionHandlers::HasErrorReply(header.option);
  if (has_error_reply) replies.Error(refusal->reply, refusal->sentence);
  if (!has_error_reply || refusal->ends_connection) {
    ending_ = std::move(refusal->ending);
  } else {
    refused_ = std::move(refusal->ending);
  }
}

bool Negotiation::SendReplies(const OptionReplies& replies) {
  if (channel_.Send(replies.bytes()) || ending_.has_value()) return true;
  EndUnsent(ExitStatus::kProtocol,
            replies.option() == NBD_OPT_EXPORT_NAME
                ? "client left without reading the export's size"
                : "client left without reading an option's reply");
  return false;
}

bool Negotiation::SendSoFar(OptionReplies& replies) {
  // A remote file system may take long for each part of the replies.
  channel_.LookForShutdown();
  if (SteadyNow() >= channel_.HandshakeLimit()) {
    EndTimedOut();
  } else {
    SendReplies(replies);
  }
  replies.Clear();
  return !ending_.has_value();
}

void Negotiation::LogTrouble(const absl::Status& trouble) {
  if (trouble.ok() || ++troubles_logged_ > kMaxOpenErrorsLogged) return;
  log_.Write(
      Priority::kError, message_id::kNotOpened,
      absl::StrCat(trouble.message(), troubles_logged_ == kMaxOpenErrorsLogged
                                          ? "; further ones are not logged"
                                          : ""),
      {{"NBD_REASON", std::string(trouble.message())}});
}

// A client that was refused an export and then only disconnects wasn't served:
// the reason is the refusal, and the exit status that of the refusal.
void Negotiation::NoteRefusal() {
  if (refused_.has_value() && ending_.has_value() &&
      ending_->status == ExitStatus::kOk && !ending_->message_id.has_value() &&
      !channel_.shutdown_requested()) {
    ending_ = std::move(refused_);
  }
}

}  // namespace nbdinetd
