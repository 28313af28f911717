#include "ctl/export_probe.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/exit_status.h"
#include "base/limits.h"
#include "protocol/option.h"
#include "stream/tls_upgrade.h"

namespace nbdinetd::ctl {
namespace {

constexpr uint64_t kCookie = 0x70726f6265;
constexpr uint32_t kSectorBytes = 512;

absl::Status Broken(absl::string_view how) {
  return absl::InternalError(
      absl::StrCat("the server broke the protocol: ", how));
}

const char* NameOf(NbdOption option) {
  return option == NBD_OPT_GO     ? "NBD_OPT_GO"
         : option == NBD_OPT_INFO ? "NBD_OPT_INFO"
                                  : "NBD_OPT_STARTTLS";
}

std::string ReasonOf(NbdOption option, absl::string_view export_name,
                     uint32_t type) {
  switch (type) {
    case NBD_REP_ERR_UNSUP:
      return absl::StrCat("the server doesn't support ", NameOf(option));
    case NBD_REP_ERR_UNKNOWN:
      return absl::StrCat("the server has no export ", Quoted(export_name));
    case NBD_REP_ERR_SHUTDOWN:
      return "the server is shutting down";
    default:
      return option == NBD_OPT_STARTTLS
                 ? "the server refuses TLS"
                 : absl::StrCat("the server refuses the export ",
                                Quoted(export_name));
  }
}

// The server has refused the option; `sentence` is its own.
absl::Status Refused(NbdOption option, absl::string_view export_name,
                     uint32_t type, absl::string_view sentence, bool over_tls) {
  const std::string reason =
      type == NBD_REP_ERR_TLS_REQD && !over_tls
          ? "the server requires TLS: probe it as nbds://"
          : ReasonOf(option, export_name, type);
  return absl::UnavailableError(absl::StrCat(
      reason, " (", OptionErrorName(type), ")", sentence.empty() ? "" : ": ",
      sentence.empty() ? "" : Quoted(sentence)));
}

}  // namespace

absl::StatusOr<absl::string_view> ExportProbe::Take(size_t bytes,
                                                    const char* what) {
  channel_.Consume(std::exchange(taken_, 0));
  while (channel_.input().size() < bytes) {
    channel_.MakeRoomFor(bytes);
    const Channel::Events events = channel_.Wait({});
    if (events.timeout) {
      return absl::DeadlineExceededError(
          absl::StrCat("the server didn't send ", what, " in time"));
    }
    if (!events.input) continue;
    switch (channel_.Receive()) {
      case Channel::Receipt::kData:
      case Channel::Receipt::kNothing:
        break;
      case Channel::Receipt::kEnd:
        return absl::UnavailableError(absl::StrCat(
            "the server closed the connection instead of sending ", what));
      default: {
        // TLS says why, such as that the server wants a certificate.
        const std::string why = channel_.failure();
        return absl::UnavailableError(
            absl::StrCat("the connection broke before the server sent ", what,
                         why.empty() ? "" : ": ", why));
      }
    }
  }
  taken_ = bytes;
  return channel_.input().substr(0, bytes);
}

absl::Status ExportProbe::Send(const std::string& message) {
  if (channel_.Send(message)) return absl::OkStatus();
  if (channel_.send_timed_out()) {
    return absl::DeadlineExceededError("the server doesn't read in time");
  }
  // What it had to say by TLS may be there to be read.
  channel_.Receive();
  const std::string why = channel_.failure();
  return absl::UnavailableError(
      absl::StrCat("the server closed the connection",
                   why.empty() ? "" : absl::StrCat(": ", why)));
}

absl::Status ExportProbe::Greet() {
  const absl::StatusOr<absl::string_view> bytes =
      Take(kGreetingBytes, "its greeting");
  if (!bytes.ok()) return bytes.status();
  const std::optional<Greeting> greeting = DecodeGreeting(*bytes);
  if (!greeting.has_value()) {
    return absl::UnavailableError("what answers there is no NBD server");
  }
  if (!greeting->newstyle ||
      (greeting->handshake_flags & NBD_FLAG_FIXED_NEWSTYLE) == 0) {
    return absl::UnavailableError(
        "the server doesn't know the fixed newstyle negotiation");
  }
  return Send(EncodeClientFlags(NBD_FLAG_C_FIXED_NEWSTYLE));
}

absl::StatusOr<ExportProbe::OptionReply> ExportProbe::TakeReply(
    NbdOption option, absl::string_view export_name) {
  const absl::StatusOr<absl::string_view> bytes =
      Take(kOptionReplyHeaderBytes, "a reply to the option");
  if (!bytes.ok()) return bytes.status();
  const std::optional<OptionReplyHeader> header =
      DecodeOptionReplyHeader(*bytes);
  if (!header.has_value() || header->option != option) {
    return Broken("not a reply to the option");
  }
  if (header->length > kMaxProbeReplyBytes) {
    return Broken(
        absl::StrCat("a reply to an option has ", header->length, " bytes"));
  }
  const absl::StatusOr<absl::string_view> payload =
      Take(header->length, "all of a reply");
  if (!payload.ok()) return payload.status();
  if (header->is_error()) {
    return Refused(option, export_name, header->type, *payload, over_tls_);
  }
  return OptionReply{header->type, *payload};
}

absl::Status ExportProbe::StartTls(const Tls& tls) {
  absl::Status sent = Send(EncodeOption(NBD_OPT_STARTTLS, ""));
  if (!sent.ok()) return sent;
  const absl::StatusOr<OptionReply> reply = TakeReply(NBD_OPT_STARTTLS, "");
  if (!reply.ok()) return reply.status();
  if (reply->type != NBD_REP_ACK || !reply->payload.empty()) {
    return Broken("a malformed reply to the option");
  }
  channel_.Consume(std::exchange(taken_, 0));
  // Somebody between could have put them there, to be taken for bytes that came
  // over TLS.
  if (!channel_.input().empty()) {
    return Broken("bytes between the reply to NBD_OPT_STARTTLS and TLS");
  }
  TlsPeer peer;
  const std::optional<Ending> ending = UpgradeToTls(channel_, tls, &peer);
  over_tls_ = !ending.has_value();
  if (over_tls_) return absl::OkStatus();
  return ending->status == ExitStatus::kTimedOut
             ? absl::DeadlineExceededError(
                   "the server didn't finish the TLS handshake in time")
             : absl::UnavailableError(ending->reason);
}

absl::StatusOr<ExportInformation> ExportProbe::AskBy(
    NbdOption option, absl::string_view export_name) {
  absl::Status sent =
      Send(EncodeOption(option, EncodeInfoRequest(export_name)));
  if (!sent.ok()) return sent;
  ExportInformation information;
  for (int replies = 0; replies < kMaxProbeReplies; ++replies) {
    const absl::StatusOr<OptionReply> reply = TakeReply(option, export_name);
    if (!reply.ok()) return reply.status();
    if (reply->type == NBD_REP_ACK) {
      if (information.size_bytes.has_value()) return information;
      return Broken("no NBD_INFO_EXPORT");
    }
    if (reply->type != NBD_REP_INFO ||
        !AddInformation(reply->payload, information)) {
      return Broken("a malformed reply to the option");
    }
  }
  return Broken("too many replies to one option");
}

absl::StatusOr<ExportInformation> ExportProbe::Ask(
    absl::string_view export_name) {
  absl::StatusOr<ExportInformation> information =
      AskBy(NBD_OPT_INFO, export_name);
  if (!information.ok()) return information;
  // The client may close without waiting for the reply ("NBD_OPT_ABORT").
  Send(EncodeOption(NBD_OPT_ABORT, "")).IgnoreError();
  return information;
}

absl::StatusOr<ExportInformation> ExportProbe::Read(
    absl::string_view export_name) {
  absl::StatusOr<ExportInformation> information =
      AskBy(NBD_OPT_GO, export_name);
  if (!information.ok()) return information;
  absl::Status read = ReadSector(*information);
  if (!read.ok()) return read;
  Send(EncodeRequest(NBD_CMD_DISC, 0, 0, 0)).IgnoreError();
  return information;
}

absl::Status ExportProbe::ReadSector(const ExportInformation& information) {
  const uint32_t length = static_cast<uint32_t>(std::min<uint64_t>(
      *information.size_bytes,
      std::max(kSectorBytes, information.minimum_block_bytes)));
  if (length == 0) return absl::OkStatus();
  if (length > kMaxProbeReplyBytes) {
    return Broken(absl::StrCat("its minimum block size is ", length));
  }
  absl::Status sent = Send(EncodeRequest(NBD_CMD_READ, kCookie, 0, length));
  if (!sent.ok()) return sent;
  const absl::StatusOr<absl::string_view> bytes =
      Take(kSimpleReplyBytes, "a reply to the read");
  if (!bytes.ok()) return bytes.status();
  const std::optional<SimpleReply> reply = DecodeSimpleReply(*bytes);
  if (!reply.has_value() || reply->cookie != kCookie) {
    return Broken("not a reply to the read");
  }
  if (reply->error != NBD_SUCCESS) {
    return absl::DataLossError(absl::StrCat(
        "the server failed to read the first sector: NBD error ", reply->error,
        reply->error == NBD_EIO         ? " (NBD_EIO)"
        : reply->error == NBD_ESHUTDOWN ? " (NBD_ESHUTDOWN)"
                                        : ""));
  }
  return Take(length, "the first sector").status();
}

}  // namespace nbdinetd::ctl
