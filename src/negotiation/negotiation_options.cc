// The second half of Negotiation: what each option does, and what is promised
// of an export.
#include <optional>
#include "absl/algorithm/container.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/limits.h"
#include "base/steady_clock.h"
#include "negotiation/negotiation.h"

namespace nbdinetd {

Promises Negotiation::PromisesFor(const Export& target,
                                  absl::string_view export_name) const {
  const Export::Facts& facts = target.facts();
  unsigned flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH |
                   NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;
  // Under a lock, a second connection would be refused.
  if (exclusive_ == Exclusive::kOff) flags |= NBD_FLAG_CAN_MULTI_CONN;
  if (facts.read_only) {
    flags |= NBD_FLAG_READ_ONLY;
  } else {
    flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES |
             NBD_FLAG_SEND_FAST_ZERO;
  }
  if (facts.rotational) flags |= NBD_FLAG_ROTATIONAL;
  if (structured_replies_) flags |= NBD_FLAG_SEND_DF;
  Promises promises;
  promises.size_bytes = facts.size_bytes;
  promises.transmission_flags = static_cast<uint16_t>(flags);
  // "used the same export name for the subsequent NBD_OPT_GO" ("Metadata
  // querying").
  promises.block_status = base_allocation_for_ == export_name;
  return promises;
}

void Negotiation::EnterTransmission(const Catalog::Opened& opened,
                                    absl::string_view export_name) {
  Negotiated negotiated;
  negotiated.target = opened.target;
  negotiated.export_name = std::string(export_name);
  negotiated.read_only_reason = opened.read_only_reason;
  negotiated.promises = PromisesFor(*opened.target, export_name);
  negotiated.style =
      structured_replies_ ? ReplyStyle::kStructured : ReplyStyle::kSimple;
  negotiated_ = std::move(negotiated);
}

void Negotiation::OnExportName(absl::string_view payload, OptionReplies&) {
  const absl::StatusOr<Catalog::Opened> opened = catalog_.Open(payload);
  if (absl::IsInvalidArgument(opened.status())) {
    End(ExitStatus::kProtocol,
        "client broke the protocol: an export name is no valid string");
    return;
  }
  if (absl::IsNotFound(opened.status())) {
    End(ExitStatus::kOk,
        absl::StrCat("client asked for unknown export ", Quoted(payload)));
    return;
  }
  if (!opened.ok()) {
    End(ExitStatus::kNoInput, std::string(opened.status().message()));
    return;
  }
  const std::string name(payload);
  if (std::optional<NotLocked> refusal = LockExport(*opened->target, name)) {
    ending_ = std::move(refusal->ending);
    return;
  }
  EnterTransmission(*opened, name);
  const Promises& promises = negotiated_->promises;
  if (!channel_.Send(EncodeExportNameReply(
          promises.size_bytes, promises.transmission_flags, no_zeroes_))) {
    EndUnsent(ExitStatus::kProtocol,
              "client left without reading the export's size");
  }
}

void Negotiation::OnAbort(absl::string_view, OptionReplies& replies) {
  replies.Ack();
  End(ExitStatus::kOk, "client ended option haggling");
}

void Negotiation::OnList(absl::string_view payload, OptionReplies& replies) {
  if (!payload.empty()) {
    replies.Error(NBD_REP_ERR_INVALID, "NBD_OPT_LIST takes no data");
    return;
  }
  const absl::Status status =
      catalog_.List([&](absl::string_view name, absl::string_view description) {
        replies.Server(name, description);
        return replies.bytes().size() < kOptionRepliesBytes ||
               SendSoFar(replies);
      });
  if (ending_.has_value()) return;
  if (status.ok()) {
    replies.Ack();
    return;
  }
  LogOpenError(status);
  if (absl::IsResourceExhausted(status)) {
    replies.Error(NBD_REP_ERR_TOO_BIG,
                  "there are too many exports to list them; ask for one by its "
                  "name");
  } else if (absl::IsPermissionDenied(status)) {
    replies.Error(NBD_REP_ERR_POLICY,
                  "the server may not list its exports; ask for one by its "
                  "name");
  } else {
    replies.Error(NBD_REP_ERR_PLATFORM, "the server can't list its exports");
  }
}

bool Negotiation::SendSoFar(OptionReplies& replies) {
  // To gather them may take long, on a file system that is far away.
  channel_.LookForShutdown();
  if (SteadyNow() >= channel_.HandshakeLimit()) {
    EndTimedOut();
  } else {
    SendReplies(replies);
  }
  replies.Clear();
  return !ending_.has_value();
}

void Negotiation::OnStartTls(absl::string_view payload,
                             OptionReplies& replies) {
  if (secure_) {
    replies.Error(NBD_REP_ERR_INVALID, "TLS has been started already");
  } else if (tls_ == TlsMode::kOff) {
    // NOTLS mode: an error whatever the payload.
    replies.Error(NBD_REP_ERR_UNSUP, "this server has no TLS");
  } else if (!payload.empty()) {
    replies.Error(NBD_REP_ERR_INVALID, "NBD_OPT_STARTTLS takes no data");
  } else if (channel_.input().size() > kOptionHeaderBytes) {
    // Somebody between us and the client may have put it there, for us to
    // believe that it came by TLS.
    End(ExitStatus::kProtocol,
        "client broke the protocol: there were bytes in plain text behind "
        "NBD_OPT_STARTTLS");
  } else {
    replies.Ack();
    start_tls_ = true;
  }
}

void Negotiation::LogOpenError(const absl::Status& status) {
  if (++open_errors_logged_ > kMaxOpenErrorsLogged) return;
  log_.Error(
      absl::StrCat(status.message(), open_errors_logged_ == kMaxOpenErrorsLogged
                                         ? "; further ones are not logged"
                                         : ""));
}

void Negotiation::RefuseExport(const absl::Status& status,
                               OptionReplies& replies) {
  if (absl::IsNotFound(status)) {
    replies.Error(NBD_REP_ERR_UNKNOWN, "there is no export of this name");
    return;
  }
  if (absl::IsInvalidArgument(status)) {
    replies.Error(NBD_REP_ERR_INVALID, "the export's name is no valid string");
    return;
  }
  LogOpenError(status);
  if (absl::IsPermissionDenied(status)) {
    replies.Error(NBD_REP_ERR_POLICY, "the server may not open this export");
  } else {
    replies.Error(NBD_REP_ERR_UNKNOWN, "the server can't open this export");
  }
}

bool Negotiation::DescribeExport(const InfoRequest& request,
                                 OptionReplies& replies) {
  // "If there are no intervening option requests between a successful
  // NBD_OPT_INFO and an NBD_OPT_GO with the same parameters, the server MUST
  // reply with the same set of information": then it is the same file, too.
  if (!described_.has_value() || described_->asked_name != request.name) {
    described_.reset();
    absl::StatusOr<Catalog::Opened> found = catalog_.Open(request.name);
    if (!found.ok()) {
      RefuseExport(found.status(), replies);
      return false;
    }
    described_ = Described{std::string(request.name), *std::move(found)};
  }
  const Catalog::Opened& opened = described_->opened;
  const Promises promises = PromisesFor(*opened.target, request.name);
  replies.InfoExport(promises.size_bytes, promises.transmission_flags);
  const auto asked = [&](uint16_t information) {
    return absl::c_linear_search(request.information, information);
  };
  if (asked(NBD_INFO_NAME)) {
    replies.InfoString(NBD_INFO_NAME, opened.name);
  }
  if (asked(NBD_INFO_DESCRIPTION) && !opened.description.empty()) {
    replies.InfoString(NBD_INFO_DESCRIPTION, opened.description);
  }
  if (asked(NBD_INFO_BLOCK_SIZE)) {
    replies.InfoBlockSize(kMinBlockBytes,
                          opened.target->facts().preferred_block_bytes,
                          kAdvertisedPayloadBytes);
  }
  replies.Ack();
  return true;
}

void Negotiation::OnInfo(absl::string_view payload, OptionReplies& replies) {
  const std::optional<InfoRequest> request = DecodeInfoRequest(payload);
  if (request.has_value()) {
    DescribeExport(*request, replies);
  } else {
    replies.Error(NBD_REP_ERR_INVALID, "NBD_OPT_INFO is malformed");
  }
}

void Negotiation::OnGo(absl::string_view payload, OptionReplies& replies) {
  const std::optional<InfoRequest> request = DecodeInfoRequest(payload);
  if (!request.has_value()) {
    replies.Error(NBD_REP_ERR_INVALID, "NBD_OPT_GO is malformed");
    return;
  }
  if (!DescribeExport(*request, replies)) return;
  const std::string name(request->name);
  if (std::optional<NotLocked> refusal =
          LockExport(*described_->opened.target, name)) {
    replies = OptionReplies(NBD_OPT_GO);
    replies.Error(refusal->reply, refusal->sentence);
    if (refusal->over) ending_ = std::move(refusal->ending);
    return;
  }
  EnterTransmission(described_->opened, name);
}

void Negotiation::OnStructuredReply(absl::string_view payload,
                                    OptionReplies& replies) {
  if (!payload.empty()) {
    replies.Error(NBD_REP_ERR_INVALID,
                  "NBD_OPT_STRUCTURED_REPLY takes no data");
  } else if (structured_replies_) {
    replies.Error(NBD_REP_ERR_INVALID,
                  "structured replies have been negotiated already");
  } else {
    structured_replies_ = true;
    replies.Ack();
  }
}

void Negotiation::AnswerMetaContext(absl::string_view payload, NbdOption option,
                                    OptionReplies& replies) {
  if (!structured_replies_) {
    replies.Error(NBD_REP_ERR_INVALID,
                  "metadata contexts need structured replies first");
    return;
  }
  const std::optional<MetaContextRequest> request =
      DecodeMetaContextRequest(payload);
  if (!request.has_value()) {
    replies.Error(NBD_REP_ERR_INVALID,
                  "the list of metadata contexts is malformed");
    return;
  }
  const absl::Status status = catalog_.Find(request->name);
  if (!status.ok()) {
    RefuseExport(status, replies);
    return;
  }
  const bool listing = option == NBD_OPT_LIST_META_CONTEXT;
  // No query asks for everything in a list, and for nothing in a selection.
  // "base:" is a wildcard in a list, and ignored in a selection.
  bool found = listing && request->queries.empty();
  for (const absl::string_view query : request->queries) {
    if (!absl::StrContains(query, ':')) {
      replies.Error(NBD_REP_ERR_INVALID, "a query has no namespace");
      return;
    }
    found |= query == kBaseAllocation || (listing && query == kBaseNamespace);
  }
  if (found) {
    // "The metadata context ID in these replies is reserved and SHOULD be set
    // to zero" (NBD_OPT_LIST_META_CONTEXT).
    replies.MetaContext(listing ? 0 : kBaseAllocationId, kBaseAllocation);
  }
  replies.Ack();
  if (!listing && found) base_allocation_for_ = std::string(request->name);
}

void Negotiation::OnListMetaContext(absl::string_view payload,
                                    OptionReplies& replies) {
  AnswerMetaContext(payload, NBD_OPT_LIST_META_CONTEXT, replies);
}

void Negotiation::OnSetMetaContext(absl::string_view payload,
                                   OptionReplies& replies) {
  AnswerMetaContext(payload, NBD_OPT_SET_META_CONTEXT, replies);
}

}  // namespace nbdinetd
