#include "negotiation_checker.h"

#include <algorithm>
#include <bit>
#include <set>

#include "fuzz/input.h"
#include "fuzz/simulation.h"

namespace nbdfuzz {
namespace {

using namespace nbdtest;  // NOLINT: the words of the protocol.

constexpr int kExitUnavailable = 69;
constexpr int kExitTimedOut = 75;
constexpr int kExitRefused = 77;
constexpr size_t kOptionHeader = 16;
constexpr size_t kReplyHeader = 20;

struct InfoPayloadParts {
  std::string name;
  std::vector<uint16_t> asked;
};

std::optional<InfoPayloadParts> ParseInfo(std::string_view payload) {
  try {
    Reader reader(payload);
    InfoPayloadParts parts;
    parts.name = reader.Raw(reader.U32());
    for (int left = reader.U16(); left > 0; --left) {
      parts.asked.push_back(reader.U16());
    }
    if (reader.left() != 0 || !IsProtocolString(parts.name)) return {};
    return parts;
  } catch (const BrokenConversation&) {
    return std::nullopt;
  }
}

struct MetaParts {
  std::string name;
  std::vector<std::string> queries;
};

std::optional<MetaParts> ParseMeta(std::string_view payload) {
  try {
    Reader reader(payload);
    MetaParts parts;
    parts.name = reader.Raw(reader.U32());
    for (uint32_t left = reader.U32(); left > 0; --left) {
      parts.queries.push_back(reader.Raw(reader.U32()));
    }
    if (reader.left() != 0 || !IsProtocolString(parts.name)) return {};
    for (const std::string& query : parts.queries) {
      if (!IsProtocolString(query)) return std::nullopt;
    }
    return parts;
  } catch (const BrokenConversation&) {
    return std::nullopt;
  }
}

}  // namespace

bool NegotiationChecker::MayStopHere() const {
  return setting_.output_cut ||
         (!outcome_.negotiated &&
          (setting_.may_shut_down || setting_.may_time_out ||
           (in_use_ && (outcome_.exit_status == kExitUnavailable ||
                        outcome_.exit_status == kExitSystem))));
}

void NegotiationChecker::Check() {
  const std::string greeting = Writer()
                                   .U64(kNbdMagic)
                                   .U64(kIHaveOpt)
                                   .U16(kFlagFixedNewstyle | kFlagNoZeroes)
                                   .bytes();
  if (server_.size() < greeting.size()) {
    Require(setting_.output_cut, "the greeting is missing");
    return;
  }
  Require(server_.substr(0, greeting.size()) == greeting,
          "the greeting is wrong");
  server_.remove_prefix(greeting.size());
  if (client_.size() < 4) {
    CheckEnding({client_.empty() ? kExitOk : kExitProtocol});
    return;
  }
  const uint32_t flags = Reader(client_).U32();
  client_.remove_prefix(4);
  no_zeroes_ = (flags & kClientNoZeroes) != 0;
  if ((flags & ~(kClientFixedNewstyle | kClientNoZeroes)) != 0) {
    CheckEnding({kExitProtocol});
    return;
  }
  // "Server-side requirements": an old client can't have TLS.
  tls_ = setting_.tls;
  if ((flags & kClientFixedNewstyle) == 0) {
    if (tls_ == NegotiationSetting::Tls::kRequire) {
      CheckEnding({kExitRefused});
      return;
    }
    tls_ = NegotiationSetting::Tls::kOff;
  }
  while (CheckOption()) {
  }
}

bool NegotiationChecker::CheckOption() {
  if (server_.empty() && MayStopHere()) return false;
  if (client_.size() < kOptionHeader) {
    CheckEnding({client_.empty() ? kExitOk : kExitProtocol});
    return false;
  }
  Reader header(client_.substr(0, kOptionHeader));
  const bool good_magic = header.U64() == kIHaveOpt;
  option_ = header.U32();
  const uint32_t length = header.U32();
  if (!good_magic) {
    CheckEnding({kExitProtocol});
    return false;
  }
  const bool needs_tls = tls_ == NegotiationSetting::Tls::kRequire &&
                         !secure_ && option_ != kOptStartTls &&
                         option_ != kOptAbort;
  if (needs_tls && option_ == kOptExportName) {
    CheckEnding({kExitRefused});
    return false;
  }
  if (option_ == kOptExportName && length > kMaxString) {
    CheckEnding({kExitProtocol});
    return false;
  }
  if (length > client_.size() - kOptionHeader) {
    CheckEnding({kExitProtocol});
    return false;
  }
  const std::string_view payload = client_.substr(kOptionHeader, length);
  client_.remove_prefix(kOptionHeader + length);
  if (option_ == kOptSetMetaContext) context_for_.reset();
  if (needs_tls) {
    refused_for_tls_ = true;
    return Expect(kRepErrTlsReqd);
  }
  // While shutting down, any option may get this answer, and is then as if it
  // hadn't been sent.
  if (setting_.may_shut_down && server_.size() >= kReplyHeader) {
    Reader reply(server_.substr(0, kReplyHeader));
    reply.U64();
    reply.U32();
    if (reply.U32() == kRepErrShutdown) {
      Require(option_ != kOptExportName && option_ != kOptAbort,
              "NBD_REP_ERR_SHUTDOWN for an option that has no such reply");
      return Expect(kRepErrShutdown);
    }
  }
  return Answer(option_, payload);
}

bool NegotiationChecker::Answer(uint32_t option, std::string_view payload) {
  const bool too_long = payload.size() > kMaxOptionPayload;
  switch (option) {
    case kOptExportName:
      return AnswerExportName(payload);
    case kOptAbort:
      if (Expect(kRepAck, "")) CheckEnding({kExitOk});
      return false;
    case kOptList:
      if (too_long) return Expect(kRepErrTooBig);
      return payload.empty() ? AnswerList() : Expect(kRepErrInvalid);
    case kOptStartTls:
      if (!too_long) return AnswerStartTls(payload);
      start_tls_seen_ = true;
      return Expect(kRepErrTooBig);
    case kOptInfo:
    case kOptGo:
      return too_long ? Expect(kRepErrTooBig) : AnswerInfo(option, payload);
    case kOptStructuredReply:
    case kOptExtendedHeaders:
      return too_long ? Expect(kRepErrTooBig) : AnswerStyle(option, payload);
    case kOptListMetaContext:
    case kOptSetMetaContext:
      return too_long ? Expect(kRepErrTooBig)
                      : AnswerMetaContext(option, payload);
    default:
      return Expect(kRepErrUnsup);
  }
}

bool NegotiationChecker::AnswerStyle(uint32_t option,
                                     std::string_view payload) {
  if (!payload.empty()) return Expect(kRepErrInvalid);
  if (option == kOptExtendedHeaders) {
    if (extended_) return Expect(kRepErrInvalid);
    extended_ = true;
  } else if (extended_) {
    return Expect(kRepErrExtHeaderReqd);
  } else if (structured_) {
    return Expect(kRepErrInvalid);
  }
  structured_ = true;
  return Expect(kRepAck, "");
}

bool NegotiationChecker::AnswerStartTls(std::string_view payload) {
  // What comes behind a second one isn't held back.
  const bool waits = setting_.waits_for_tls && !start_tls_seen_;
  start_tls_seen_ = true;
  if (secure_) return Expect(kRepErrInvalid);
  if (tls_ == NegotiationSetting::Tls::kOff) return Expect(kRepErrUnsup);
  if (!payload.empty()) return Expect(kRepErrInvalid);
  if (server_.empty() && !waits && !client_.empty()) {
    // Bytes in plain text that have come together with it.
    CheckEnding({kExitProtocol});
    return false;
  }
  if (!Expect(kRepAck, "")) return false;
  // "the server MUST NOT preserve any negotiation state" (NBD_OPT_STARTTLS).
  secure_ = true;
  refused_for_tls_ = false;
  structured_ = false;
  extended_ = false;
  context_for_.reset();
  return true;
}

bool NegotiationChecker::AnswerExportName(std::string_view payload) {
  if (extended_) {
    // "a client MUST NOT use NBD_OPT_EXPORT_NAME".
    CheckEnding({kExitProtocol});
    return false;
  }
  if (!IsProtocolString(payload)) {
    CheckEnding({kExitProtocol});
    return false;
  }
  const std::optional<size_t> found = Find(payload);
  if (!found.has_value()) {
    CheckEnding({kExitOk});
    return false;
  }
  const ServedExport& target = setting_.exports[*found];
  if (target.refusal != 0) {
    CheckEnding({kExitNoInput});
    return false;
  }
  if (server_.empty() && setting_.may_be_in_use && !outcome_.negotiated) {
    CheckEnding({kExitUnavailable, kExitSystem});
    return false;
  }
  const size_t size = no_zeroes_ ? 10 : 134;
  if (server_.size() < size && MayStopHere()) return false;
  Require(server_.size() == size,
          "the reply to NBD_OPT_EXPORT_NAME is of a wrong size");
  Reader reply(server_);
  Require(reply.U64() == target.size, "NBD_OPT_EXPORT_NAME: wrong size");
  Require(reply.U16() == FlagsOf(target, payload),
          "NBD_OPT_EXPORT_NAME: wrong flags");
  const std::string zeroes = reply.Rest();
  Require(
      std::all_of(zeroes.begin(), zeroes.end(), [](char c) { return c == 0; }),
      "NBD_OPT_EXPORT_NAME: the reserved bytes are not zero");
  server_ = {};
  CheckNegotiated(payload);
  return false;
}

bool NegotiationChecker::AnswerList() {
  if (setting_.list_refusal != 0) return Expect(setting_.list_refusal);
  for (const ServedExport& served : setting_.exports) {
    if (!Expect(
            kRepServer,
            Writer().String32(served.name).Raw(served.description).bytes())) {
      return false;
    }
  }
  return Expect(kRepAck, "");
}

bool NegotiationChecker::AnswerInfo(uint32_t option, std::string_view payload) {
  const std::optional<InfoPayloadParts> request = ParseInfo(payload);
  if (!request.has_value()) return Expect(kRepErrInvalid);
  const std::optional<size_t> found = Find(request->name);
  if (!found.has_value()) return Expect(kRepErrUnknown);
  const ServedExport& target = setting_.exports[*found];
  if (target.refusal != 0) return Expect(target.refusal);
  const auto asked = [&](uint16_t info) {
    return std::find(request->asked.begin(), request->asked.end(), info) !=
           request->asked.end();
  };
  std::set<uint16_t> seen;
  for (;;) {
    const std::optional<Reply> reply = NextReply();
    if (!reply.has_value()) return false;
    if (reply->type == kRepAck) {
      Require(reply->payload.empty(), "NBD_REP_ACK with data");
      break;
    }
    if (option == kOptGo && setting_.may_be_in_use && seen.empty() &&
        (reply->type == kRepErrPolicy || reply->type == kRepErrPlatform)) {
      in_use_ = true;
      return true;
    }
    Require(reply->type == kRepInfo, "neither NBD_REP_INFO nor NBD_REP_ACK");
    Reader reader(reply->payload);
    const uint16_t info = reader.U16();
    Require(seen.insert(info).second, "the same information twice");
    Require(info == kInfoExport || asked(info), "information nobody asked for");
    switch (info) {
      case kInfoExport:
        Require(reader.U64() == target.size, "NBD_INFO_EXPORT: wrong size");
        Require(reader.U16() == FlagsOf(target, request->name),
                "NBD_INFO_EXPORT: wrong flags");
        Require(reader.left() == 0, "NBD_INFO_EXPORT is too long");
        break;
      case kInfoName:
        Require(reader.Rest() == target.name, "NBD_INFO_NAME: wrong name");
        break;
      case kInfoDescription:
        Require(reader.Rest() == target.description,
                "NBD_INFO_DESCRIPTION: wrong description");
        break;
      case kInfoBlockSize: {
        const uint32_t minimum = reader.U32();
        const uint32_t preferred = reader.U32();
        const uint32_t maximum = reader.U32();
        Require(reader.left() == 0, "NBD_INFO_BLOCK_SIZE is too long");
        Require(minimum == 1 && preferred == target.preferred_block &&
                    std::has_single_bit(preferred) && preferred >= 512 &&
                    maximum >= preferred && maximum % minimum == 0,
                "NBD_INFO_BLOCK_SIZE: wrong sizes");
        break;
      }
      default:
        Require(false, "information of an unknown type");
    }
  }
  Require(seen.count(kInfoExport) == 1, "NBD_INFO_EXPORT is missing");
  for (const uint16_t info : {kInfoName, kInfoBlockSize}) {
    Require(!asked(info) || seen.count(info) == 1, "information is missing");
  }
  if (option == kOptInfo) return true;
  Require(server_.empty(), "more after the reply to NBD_OPT_GO");
  CheckNegotiated(request->name);
  return false;
}

bool NegotiationChecker::AnswerMetaContext(uint32_t option,
                                           std::string_view payload) {
  if (!structured_) return Expect(kRepErrInvalid);
  const std::optional<MetaParts> request = ParseMeta(payload);
  if (!request.has_value()) return Expect(kRepErrInvalid);
  if (!Find(request->name).has_value()) return Expect(kRepErrUnknown);
  const bool listing = option == kOptListMetaContext;
  bool found = listing && request->queries.empty();
  for (const std::string& query : request->queries) {
    if (query.find(':') == std::string::npos) return Expect(kRepErrInvalid);
    found |= query == "base:allocation" || (listing && query == "base:");
  }
  if (found) {
    const std::optional<Reply> reply = NextReply();
    if (!reply.has_value()) return false;
    Require(reply->type == kRepMetaContext, "no NBD_REP_META_CONTEXT");
    Reader reader(reply->payload);
    const uint32_t id = reader.U32();
    Require(!listing || id == 0, "a listed context should have the id 0");
    Require(reader.Rest() == "base:allocation", "a context of a wrong name");
    if (!listing) context_for_ = request->name;
  }
  return Expect(kRepAck, "");
}

std::optional<NegotiationChecker::Reply> NegotiationChecker::NextReply() {
  if (server_.empty() && MayStopHere()) return std::nullopt;
  if (server_.size() < kReplyHeader) {
    Require(setting_.output_cut, "an option got no reply");
    return std::nullopt;
  }
  Reader reader(server_);
  Require(reader.U64() == kOptionReplyMagic,
          "an option reply's magic is wrong");
  Require(reader.U32() == option_, "a reply to another option");
  Reply reply;
  reply.type = reader.U32();
  const uint32_t length = reader.U32();
  if (length > reader.left()) {
    Require(setting_.output_cut, "an option reply is cut");
    return std::nullopt;
  }
  reply.payload = reader.Raw(length);
  server_.remove_prefix(kReplyHeader + length);
  Require((reply.type & kRepErrorBit) == 0 || IsProtocolString(reply.payload),
          "the message of an error reply is no string");
  return reply;
}

bool NegotiationChecker::Expect(uint32_t type) {
  const std::optional<Reply> reply = NextReply();
  if (!reply.has_value()) return false;
  if (reply->type != type) {
    throw BrokenConversation("option " + std::to_string(option_) + " got " +
                             OptionReplyName(reply->type) + " instead of " +
                             OptionReplyName(type));
  }
  return true;
}

bool NegotiationChecker::Expect(uint32_t type, std::string_view payload) {
  // What it says is looked at before it is gone.
  const std::string_view before = server_;
  if (!Expect(type)) return false;
  Require(before.substr(kReplyHeader, before.size() - server_.size() -
                                          kReplyHeader) == payload,
          "a reply says something else than expected");
  return true;
}

std::optional<size_t> NegotiationChecker::Find(std::string_view name) const {
  if (setting_.exports.size() == 1 &&
      (setting_.answers_to_any || name.empty())) {
    return 0;
  }
  for (size_t i = 0; i < setting_.exports.size(); ++i) {
    if (setting_.exports[i].name == name) return i;
  }
  return std::nullopt;
}

uint16_t NegotiationChecker::FlagsOf(const ServedExport& target,
                                     std::string_view name) const {
  unsigned flags = kHasFlags | kSendFlush | kSendFua | kSendCache;
  if (!setting_.exclusive) flags |= kCanMultiConn;
  flags |= target.read_only
               ? unsigned{kReadOnly}
               : unsigned{kSendTrim} | kSendWriteZeroes | kSendFastZero;
  if (target.rotational) flags |= kRotational;
  if (structured_) flags |= kSendDf;
  if (extended_ && context_for_ == name) flags |= kBlockStatusPayload;
  return static_cast<uint16_t>(flags);
}

void NegotiationChecker::CheckNegotiated(std::string_view name) {
  if (!outcome_.negotiated) {
    Require(MayStopHere(), "transmission doesn't start");
    return;
  }
  const std::optional<size_t> found = Find(name);
  const ServedExport& target = setting_.exports[*found];
  Require(outcome_.secure == secure_, "TLS that nobody has started");
  Require(outcome_.secure || tls_ != NegotiationSetting::Tls::kRequire,
          "transmission without TLS");
  Require(outcome_.locked || !setting_.exclusive,
          "transmission without the lock of --exclusive");
  Require(outcome_.export_name == name, "transmission of another name");
  Require(outcome_.export_index == found, "transmission of another export");
  Require(outcome_.size == target.size, "transmission of another size");
  Require(outcome_.transmission_flags == FlagsOf(target, name),
          "the transmission flags are not those that were advertised");
  Require(outcome_.structured == structured_ && outcome_.extended == extended_,
          "the style of replies is not what was negotiated");
  Require(outcome_.block_status == (context_for_ == name),
          "the metadata context is not what was negotiated");
  Require(client_.substr(0, outcome_.unread.size()) == outcome_.unread,
          "requests behind the last option have been lost");
}

void NegotiationChecker::CheckEnding(std::vector<int> statuses) {
  Require(server_.empty() || setting_.output_cut,
          "a reply that nobody expects");
  if (outcome_.negotiated) {
    Require(false, "transmission starts without an export");
  }
  // A client that was refused for lack of TLS, and then leaves, wasn't served.
  if (refused_for_tls_) {
    std::replace(statuses.begin(), statuses.end(), kExitOk, kExitRefused);
  }
  if (in_use_) statuses.insert(statuses.end(), {kExitUnavailable, kExitSystem});
  if (setting_.may_shut_down) statuses.push_back(kExitOk);
  if (setting_.may_time_out || setting_.ends_in_silence ||
      setting_.ends_in_error) {
    statuses.push_back(kExitTimedOut);
  }
  if (setting_.output_cut) {
    statuses.push_back(kExitTimedOut);
    statuses.push_back(kExitProtocol);
    statuses.push_back(kExitOk);
    if (refused_for_tls_) statuses.push_back(kExitRefused);
  }
  Require(std::find(statuses.begin(), statuses.end(), outcome_.exit_status) !=
              statuses.end(),
          "the handshake ended with another status");
}

}  // namespace nbdfuzz
