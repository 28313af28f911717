#include "negotiation/option_handlers.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/limits.h"

namespace nbdinetd {
namespace {

// Whether the option is allowed before TLS when the server requires TLS
// (FORCEDTLS mode).
enum class BeforeTls { kAllowed, kRefused };

enum class IfRefused {
  kErrorReply,
  // The connection ends, since the option has no error reply.
  kEnd,
  // The option is handled with any payload, and during a shutdown.
  kCarryOut,
};

// `status` is the catalog's. The client can't tell an export that it may not
// use from one that isn't there; the log can.
Ending UnknownExport(absl::string_view name, const absl::Status& status) {
  if (const auto why = status.GetPayload(kHiddenUrl)) {
    return {
        .status = ExitStatus::kRefused,
        .reason = absl::StrCat("client asked for export ", Quoted(name),
                               ", which it may not use: ", std::string(*why)),
        .message_id = message_id::kRefused,
        .unknown_export = std::string(name)};
  }
  return {
      .status = ExitStatus::kOk,
      .reason = absl::StrCat("client asked for unknown export ", Quoted(name)),
      .message_id = message_id::kUnknownExport,
      .unknown_export = std::string(name)};
}

// Answers an option whose export, `name`, can't be opened; `status` is the
// catalog's.
void RefuseExport(absl::string_view name, const absl::Status& status,
                  OptionHandlers::Call& call) {
  OptionReplies& replies = call.replies;
  if (absl::IsNotFound(status)) {
    call.refused = UnknownExport(name, status);
    replies.Error(NBD_REP_ERR_UNKNOWN, "there is no export of this name");
    return;
  }
  if (absl::IsInvalidArgument(status)) {
    replies.Error(NBD_REP_ERR_INVALID, "the export's name is no valid string");
    return;
  }
  if (absl::IsCancelled(status)) {
    call.is_cancelled = true;
    replies.Error(NBD_REP_ERR_SHUTDOWN, kShuttingDown);
    return;
  }
  call.trouble = status;
  if (absl::IsPermissionDenied(status)) {
    replies.Error(NBD_REP_ERR_POLICY, "the server may not open this export");
  } else {
    replies.Error(NBD_REP_ERR_UNKNOWN, "the server can't open this export");
  }
}

void RefuseList(const absl::Status& status, OptionHandlers::Call& call) {
  call.trouble = status;
  OptionReplies& replies = call.replies;
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

}  // namespace

// ---- The table ----

struct OptionHandlers::Row {
  NbdOption option;
  const char* name;
  BeforeTls before_tls;
  // A longer payload is refused before it is read.
  uint32_t max_payload_bytes;
  IfRefused if_refused;
  Next (OptionHandlers::*handle)(Call& call);
};

const OptionHandlers::Row* OptionHandlers::Find(uint32_t option) {
  using H = OptionHandlers;
  constexpr BeforeTls kAllowed = BeforeTls::kAllowed;
  constexpr BeforeTls kRefused = BeforeTls::kRefused;
  constexpr IfRefused kErrorReply = IfRefused::kErrorReply;
  static constexpr Row kRows[] = {
      {NBD_OPT_EXPORT_NAME, "NBD_OPT_EXPORT_NAME", kRefused, kMaxStringBytes,
       IfRefused::kEnd, &H::OnExportName},
      {NBD_OPT_ABORT, "NBD_OPT_ABORT", kAllowed, kMaxOptionBytes,
       IfRefused::kCarryOut, &H::OnAbort},
      {NBD_OPT_LIST, "NBD_OPT_LIST", kRefused, kMaxOptionBytes, kErrorReply,
       &H::OnList},
      {NBD_OPT_STARTTLS, "NBD_OPT_STARTTLS", kAllowed, kMaxOptionBytes,
       kErrorReply, &H::OnStartTls},
      {NBD_OPT_INFO, "NBD_OPT_INFO", kRefused, kMaxOptionBytes, kErrorReply,
       &H::OnInfo},
      {NBD_OPT_GO, "NBD_OPT_GO", kRefused, kMaxOptionBytes, kErrorReply,
       &H::OnGo},
      {NBD_OPT_STRUCTURED_REPLY, "NBD_OPT_STRUCTURED_REPLY", kRefused,
       kMaxOptionBytes, kErrorReply, &H::OnStructuredReply},
      {NBD_OPT_LIST_META_CONTEXT, "NBD_OPT_LIST_META_CONTEXT", kRefused,
       kMaxOptionBytes, kErrorReply, &H::OnListMetaContext},
      {NBD_OPT_SET_META_CONTEXT, "NBD_OPT_SET_META_CONTEXT", kRefused,
       kMaxOptionBytes, kErrorReply, &H::OnSetMetaContext},
      {NBD_OPT_EXTENDED_HEADERS, "NBD_OPT_EXTENDED_HEADERS", kRefused,
       kMaxOptionBytes, kErrorReply, &H::OnExtendedHeaders},
  };
  const auto* row = std::find_if(
      std::begin(kRows), std::end(kRows),
      [option](const Row& candidate) { return candidate.option == option; });
  return row == std::end(kRows) ? nullptr : row;
}

const char* OptionHandlers::NameOf(uint32_t option) {
  const Row* row = Find(option);
  return row != nullptr ? row->name : "unknown";
}

bool OptionHandlers::HasErrorReply(uint32_t option) {
  const Row* row = Find(option);
  return row == nullptr || row->if_refused != IfRefused::kEnd;
}

void OptionHandlers::Begin(uint32_t option) {
  if (option == NBD_OPT_SET_META_CONTEXT) {
    // "replaces all previously-set metadata contexts (including when this
    // command fails)", for every reason of failure.
    base_allocation_for_.reset();
  }
  if (option != NBD_OPT_GO) described_.reset();
}

std::optional<Refusal> OptionHandlers::WhyRefused(const OptionHeader& header,
                                                  bool shutting_down) const {
  const Row* row = Find(header.option);
  if (facts_.tls == TlsMode::kRequire && !facts_.secure &&
      (row == nullptr || row->before_tls == BeforeTls::kRefused)) {
    return Refusal{NBD_REP_ERR_TLS_REQD,
                   "this server requires TLS",
                   {ExitStatus::kRefused,
                    "client asked for an export without TLS, which this "
                    "server requires"}};
  }
  if (shutting_down) return ShuttingDown();
  if (row == nullptr) {
    return Refusal{NBD_REP_ERR_UNSUP, "the option is not supported", {}};
  }
  if (header.length > row->max_payload_bytes) {
    return Refusal{NBD_REP_ERR_TOO_BIG,
                   "the option is too long",
                   {ExitStatus::kProtocol,
                    "client broke the protocol: an export name is too long"}};
  }
  return std::nullopt;
}

OptionHandlers::Next OptionHandlers::Answer(uint32_t option, Call& call) {
  return (this->*Find(option)->handle)(call);
}

OptionHandlers::Next OptionHandlers::AnswerRefused(uint32_t option,
                                                   const Refusal& refusal,
                                                   OptionReplies& replies) {
  const Row* row = Find(option);
  if (row != nullptr && row->if_refused == IfRefused::kCarryOut) {
    const auto send_nothing = [](OptionReplies&) { return true; };
    Call call = {.payload = {},
                 .input_follows = false,
                 .send_so_far = send_nothing,
                 .replies = replies};
    return Answer(option, call);
  }
  replies.Error(refusal.reply, refusal.sentence);
  return NextOption{};
}

Agreement OptionHandlers::AgreementFor(absl::string_view export_name) const {
  // "used the same export name for the subsequent NBD_OPT_GO" ("Metadata
  // querying").
  return {.style = style_,
          .base_allocation = base_allocation_for_ == export_name};
}

bool OptionHandlers::HasMultiConn(const Catalog::Opened& opened) const {
  return WelcomesMultiConn(facts_.multi_conn,
                           opened.exclusive.value_or(facts_.exclusive),
                           opened.target->facts());
}

// ---- The options ----

OptionHandlers::Next OptionHandlers::OnExportName(Call& call) {
  if (style_ == ReplyStyle::kExtended) {
    // "Once extended headers are successfully requested, a client MUST NOT use
    // NBD_OPT_EXPORT_NAME" (NBD_OPT_EXTENDED_HEADERS).
    return Ending{ExitStatus::kProtocol,
                  "client broke the protocol: NBD_OPT_EXPORT_NAME came after "
                  "NBD_OPT_EXTENDED_HEADERS"};
  }
  const absl::StatusOr<Catalog::Opened> opened = catalog_.Open(call.payload);
  if (absl::IsInvalidArgument(opened.status())) {
    return Ending{
        ExitStatus::kProtocol,
        "client broke the protocol: an export name is no valid string"};
  }
  if (absl::IsNotFound(opened.status())) {
    return UnknownExport(call.payload, opened.status());
  }
  if (absl::IsCancelled(opened.status())) return ShuttingDown().ending;
  if (!opened.ok()) {
    return Ending{ExitStatus::kNoInput, std::string(opened.status().message())};
  }
  Negotiated negotiated = Agree(
      *opened, call.payload, AgreementFor(call.payload), HasMultiConn(*opened));
  call.replies.ExportName(negotiated.promises.size_bytes,
                          negotiated.promises.transmission_flags,
                          facts_.no_zeroes);
  return negotiated;
}

OptionHandlers::Next OptionHandlers::OnAbort(Call& call) {
  call.replies.Ack();
  return Ending{ExitStatus::kOk, "client chose no export"};
}

OptionHandlers::Next OptionHandlers::OnList(Call& call) {
  OptionReplies& replies = call.replies;
  if (!call.payload.empty()) {
    replies.Error(NBD_REP_ERR_INVALID, "NBD_OPT_LIST takes no data");
    return NextOption{};
  }
  bool goes_on = true;
  const absl::Status status =
      catalog_.List([&](absl::string_view name, absl::string_view description) {
        replies.Server(name, description);
        if (replies.bytes().size() >= kOptionRepliesBytes) {
          goes_on = call.send_so_far(replies);
        }
        return goes_on;
      });
  // That ends the handshake, whose time is over.
  if (absl::IsCancelled(status)) goes_on = call.send_so_far(replies);
  if (!goes_on) return NextOption{};
  if (status.ok()) {
    replies.Ack();
  } else {
    RefuseList(status, call);
  }
  return NextOption{};
}

OptionHandlers::Next OptionHandlers::OnStartTls(Call& call) {
  OptionReplies& replies = call.replies;
  if (facts_.secure) {
    replies.Error(NBD_REP_ERR_INVALID, "TLS has been started already");
  } else if (facts_.tls == TlsMode::kOff) {
    // NOTLS mode: this error for any payload.
    replies.Error(NBD_REP_ERR_UNSUP, "this server has no TLS");
  } else if (!call.payload.empty()) {
    replies.Error(NBD_REP_ERR_INVALID, "NBD_OPT_STARTTLS takes no data");
  } else if (call.input_follows) {
    // An attacker between us and the client may have inserted them; they must
    // not be processed as if they had arrived over TLS.
    return Ending{ExitStatus::kProtocol,
                  "client broke the protocol: there were bytes in plain text "
                  "behind NBD_OPT_STARTTLS"};
  } else {
    replies.Ack();
    return StartTls{};
  }
  return NextOption{};
}

bool OptionHandlers::DescribeExport(const InfoRequest& request, Call& call) {
  // "If there are no intervening option requests between a successful
  // NBD_OPT_INFO and an NBD_OPT_GO with the same parameters, the server MUST
  // reply with the same set of information": then it is the same file, too.
  if (!described_.has_value() || described_->asked_name != request.name) {
    // Only one export is open at a time: a client may request thousands.
    described_.reset();
    absl::StatusOr<Catalog::Opened> found = catalog_.Open(request.name);
    if (!found.ok()) {
      RefuseExport(request.name, found.status(), call);
      return false;
    }
    described_ = Described{std::string(request.name), *std::move(found)};
  }
  const Catalog::Opened& opened = described_->opened;
  const Promises promises = PromisesFor(
      *opened.target, AgreementFor(request.name), HasMultiConn(opened));
  OptionReplies& replies = call.replies;
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
  // "A server with size constraints other than the default SHOULD advertise the
  // size constraints [...], and MUST do so unless it has agreed on size
  // constraints via out of band means" ("Size constraints"): unasked, too.
  const BlockSizes& sizes = promises.block_sizes;
  if (asked(NBD_INFO_BLOCK_SIZE) || sizes.chosen) {
    replies.InfoBlockSize(sizes.minimum, sizes.preferred,
                          sizes.advertised_payload);
  }
  replies.Ack();
  return true;
}

OptionHandlers::Next OptionHandlers::OnInfo(Call& call) {
  const std::optional<InfoRequest> request = DecodeInfoRequest(call.payload);
  if (request.has_value()) {
    DescribeExport(*request, call);
  } else {
    call.replies.Error(NBD_REP_ERR_INVALID, "NBD_OPT_INFO is malformed");
  }
  return NextOption{};
}

OptionHandlers::Next OptionHandlers::OnGo(Call& call) {
  const std::optional<InfoRequest> request = DecodeInfoRequest(call.payload);
  if (!request.has_value()) {
    call.replies.Error(NBD_REP_ERR_INVALID, "NBD_OPT_GO is malformed");
    return NextOption{};
  }
  if (!DescribeExport(*request, call)) return NextOption{};
  return Agree(described_->opened, request->name, AgreementFor(request->name),
               HasMultiConn(described_->opened));
}

OptionHandlers::Next OptionHandlers::OnStructuredReply(Call& call) {
  if (!call.payload.empty()) {
    call.replies.Error(NBD_REP_ERR_INVALID,
                       "NBD_OPT_STRUCTURED_REPLY takes no data");
  } else if (style_ == ReplyStyle::kExtended) {
    call.replies.Error(NBD_REP_ERR_EXT_HEADER_REQD,
                       "extended headers have been negotiated, and take "
                       "precedence");
  } else if (style_ == ReplyStyle::kStructured) {
    call.replies.Error(NBD_REP_ERR_INVALID,
                       "structured replies have been negotiated already");
  } else {
    style_ = ReplyStyle::kStructured;
    call.replies.Ack();
  }
  return NextOption{};
}

OptionHandlers::Next OptionHandlers::OnExtendedHeaders(Call& call) {
  if (!call.payload.empty()) {
    call.replies.Error(NBD_REP_ERR_INVALID,
                       "NBD_OPT_EXTENDED_HEADERS takes no data");
  } else if (style_ == ReplyStyle::kExtended) {
    call.replies.Error(NBD_REP_ERR_INVALID,
                       "extended headers have been negotiated already");
  } else {
    style_ = ReplyStyle::kExtended;
    call.replies.Ack();
  }
  return NextOption{};
}

void OptionHandlers::AnswerMetaContext(NbdOption option, Call& call) {
  OptionReplies& replies = call.replies;
  if (style_ == ReplyStyle::kSimple) {
    replies.Error(NBD_REP_ERR_INVALID,
                  "metadata contexts need structured replies or extended "
                  "headers first");
    return;
  }
  const std::optional<MetaContextRequest> request =
      DecodeMetaContextRequest(call.payload);
  if (!request.has_value()) {
    replies.Error(NBD_REP_ERR_INVALID,
                  "the list of metadata contexts is malformed");
    return;
  }
  const absl::Status status = catalog_.Find(request->name);
  if (!status.ok()) {
    RefuseExport(request->name, status, call);
    return;
  }
  const bool listing = option == NBD_OPT_LIST_META_CONTEXT;
  // Without queries, a list has all contexts, and a selection has none. "base:"
  // is a wildcard in a list, and ignored in a selection.
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

OptionHandlers::Next OptionHandlers::OnListMetaContext(Call& call) {
  AnswerMetaContext(NBD_OPT_LIST_META_CONTEXT, call);
  return NextOption{};
}

OptionHandlers::Next OptionHandlers::OnSetMetaContext(Call& call) {
  AnswerMetaContext(NBD_OPT_SET_META_CONTEXT, call);
  return NextOption{};
}

}  // namespace nbdinetd
