// src/protocol on bytes alone: what it takes apart, a second reader takes apart
// the same way; and what it puts together says what it was asked to say.

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/limits.h"
#include "fuzz/simulation.h"
#include "protocol/nbd_error.h"
#include "protocol/option.h"
#include "protocol/reply.h"
#include "protocol/request.h"
#include "support/wire.h"

namespace {

using nbdfuzz::Require;
using nbdtest::BrokenConversation;
using nbdtest::IsProtocolString;
using nbdtest::Reader;

// Abseil's string_view, where it isn't the standard library's.
absl::string_view View(std::string_view bytes) {
  return {bytes.data(), bytes.size()};
}

// The next integers of the input; 0 when it is over.
class Numbers {
 public:
  explicit Numbers(std::string_view bytes) : rest_(bytes) {}
  uint64_t Next(size_t bytes) {
    uint64_t number = 0;
    for (; bytes > 0; --bytes) {
      number =
          number << 8 | (rest_.empty() ? 0 : static_cast<uint8_t>(rest_[0]));
      rest_.remove_prefix(std::min<size_t>(1, rest_.size()));
    }
    return number;
  }
  std::string_view Rest() const { return rest_; }

 private:
  std::string_view rest_;
};

template <typename Parse>
auto ParseOrNothing(Parse parse) -> std::optional<decltype(parse())> {
  try {
    return parse();
  } catch (const BrokenConversation&) {
    return std::nullopt;
  }
}

void TryInfoRequest(std::string_view payload) {
  struct Parts {
    std::string name;
    std::vector<uint16_t> information;
  };
  const auto expected = ParseOrNothing([&] {
    Reader reader(payload);
    Parts parts;
    parts.name = reader.Raw(reader.U32());
    for (int left = reader.U16(); left > 0; --left) {
      parts.information.push_back(reader.U16());
    }
    // Whether the name is a string is for the catalog to say.
    Require(reader.left() == 0, "malformed");
    return parts;
  });
  const auto request = nbdinetd::DecodeInfoRequest(View(payload));
  Require(request.has_value() == expected.has_value(),
          "NBD_OPT_INFO: only one reader finds it malformed");
  if (!request.has_value()) return;
  Require(request->name == expected->name, "NBD_OPT_INFO: another name");
  Require(request->information == expected->information,
          "NBD_OPT_INFO: other information");
}

void TryMetaContextRequest(std::string_view payload) {
  struct Parts {
    std::string name;
    std::vector<std::string> queries;
  };
  const auto expected = ParseOrNothing([&] {
    Reader reader(payload);
    Parts parts;
    parts.name = reader.Raw(reader.U32());
    for (uint32_t left = reader.U32(); left > 0; --left) {
      parts.queries.push_back(reader.Raw(reader.U32()));
      Require(IsProtocolString(parts.queries.back()), "malformed");
    }
    Require(reader.left() == 0, "malformed");
    return parts;
  });
  const auto request = nbdinetd::DecodeMetaContextRequest(View(payload));
  Require(request.has_value() == expected.has_value(),
          "NBD_OPT_SET_META_CONTEXT: only one reader finds it malformed");
  if (!request.has_value()) return;
  Require(request->name == expected->name, "a metadata context's other name");
  Require(std::equal(request->queries.begin(), request->queries.end(),
                     expected->queries.begin(), expected->queries.end()),
          "other metadata context queries");
}

void TryString(std::string_view text) {
  Require(nbdinetd::IsValidString(View(text)) == IsProtocolString(text),
          "only one reader finds the string valid");
}

void TryOptionHeader(std::string_view bytes) {
  if (bytes.size() < nbdinetd::kOptionHeaderBytes) return;
  bytes = bytes.substr(0, nbdinetd::kOptionHeaderBytes);
  Reader reader(bytes);
  const auto header = nbdinetd::DecodeOptionHeader(View(bytes));
  Require(header.has_value() == (reader.U64() == nbdtest::kIHaveOpt),
          "an option's magic");
  if (!header.has_value()) return;
  Require(header->option == reader.U32() && header->length == reader.U32(),
          "an option's header");
}

void TryOptionReplies(std::string_view input) {
  Numbers numbers(input);
  const auto option = static_cast<uint32_t>(numbers.Next(4));
  const uint64_t size = numbers.Next(8);
  const auto flags = static_cast<uint16_t>(numbers.Next(2));
  const std::string_view text = numbers.Rest();
  nbdinetd::OptionReplies replies(option);
  replies.Server(View(text), "description");
  replies.InfoExport(size, flags);
  replies.InfoString(nbdinetd::NBD_INFO_NAME, View(text));
  replies.InfoBlockSize(1, 4096, option);
  replies.MetaContext(option, View(text));
  replies.Error(nbdinetd::NBD_REP_ERR_POLICY, View(text));
  replies.Ack();
  const std::string& bytes = replies.bytes();
  Reader reader(bytes);
  const auto next = [&](uint32_t type) {
    Require(reader.U64() == nbdtest::kOptionReplyMagic, "a reply's magic");
    Require(reader.U32() == option, "a reply's option");
    Require(reader.U32() == type, "a reply's type");
    return reader.Raw(reader.U32());
  };
  const std::string server = next(nbdtest::kRepServer);
  Require(server == nbdtest::Writer().String32(text).Raw("description").bytes(),
          "NBD_REP_SERVER");
  using nbdtest::Writer;
  const std::string info = next(nbdtest::kRepInfo);
  Require(info == Writer().U16(0).U64(size).U16(flags).bytes(),
          "NBD_INFO_EXPORT");
  const std::string name = next(nbdtest::kRepInfo);
  Require(name == Writer().U16(1).Raw(text).bytes(), "NBD_INFO_NAME");
  const std::string block = next(nbdtest::kRepInfo);
  Require(block == Writer().U16(3).U32(1).U32(4096).U32(option).bytes(),
          "NBD_INFO_BLOCK_SIZE");
  const std::string context = next(nbdtest::kRepMetaContext);
  Require(context == Writer().U32(option).Raw(text).bytes(),
          "NBD_REP_META_CONTEXT");
  Require(next(nbdtest::kRepErrPolicy) == text, "an error's message");
  Require(next(nbdtest::kRepAck).empty() && reader.left() == 0, "NBD_REP_ACK");
  for (const bool no_zeroes : {false, true}) {
    const std::string export_name =
        nbdinetd::EncodeExportNameReply(size, flags, no_zeroes);
    Reader reply(export_name);
    Require(reply.left() == (no_zeroes ? 10 : 134), "NBD_OPT_EXPORT_NAME");
    Require(reply.U64() == size && reply.U16() == flags, "NBD_OPT_EXPORT_NAME");
  }
}

// A request that is let pass is one that may be carried out.
void CheckVerdict(const nbdinetd::Request& request,
                  const nbdinetd::Promises& promises) {
  // It has no reply, and so no verdict.
  if (request.type == nbdtest::kCmdDisc) return;
  const nbdinetd::Verdict verdict = ValidateRequest(request, promises);
  const auto error = static_cast<uint32_t>(verdict.error);
  Require(error == 0 || error == nbdtest::kNbdEperm ||
              error == nbdtest::kNbdEinval || error == nbdtest::kNbdEnospc ||
              error == nbdtest::kNbdEoverflow,
          "a verdict that the specification doesn't have");
  Require((error == 0) == (*verdict.sentence == '\0'), "a verdict's sentence");
  if (error != 0) return;
  const auto promised = [&](uint16_t flag) {
    return (promises.transmission_flags & flag) != 0;
  };
  Require(request.type <= nbdtest::kCmdBlockStatus, "an unknown command");
  Require(request.offset <= promises.size_bytes &&
              request.length <= promises.size_bytes - request.offset,
          "a request leaves the export");
  const bool moves_data =
      request.type == nbdtest::kCmdRead || request.type == nbdtest::kCmdWrite;
  Require(!moves_data || request.length <= nbdtest::kLongestRequest,
          "a payload is too long");
  const bool changes = request.type == nbdtest::kCmdWrite ||
                       request.type == nbdtest::kCmdTrim ||
                       request.type == nbdtest::kCmdWriteZeroes;
  Require(!changes || !promised(nbdtest::kReadOnly),
          "a change of a read-only export");
  Require(!request.has(nbdtest::kCmdFlagFua) || promised(nbdtest::kSendFua),
          "NBD_CMD_FLAG_FUA wasn't advertised");
  Require(!request.has(nbdtest::kCmdFlagDf) ||
              (promised(nbdtest::kSendDf) && request.type == nbdtest::kCmdRead),
          "NBD_CMD_FLAG_DF is not valid here");
  Require(request.type != nbdtest::kCmdBlockStatus ||
              (promises.block_status && !request.unknown_context),
          "block status without a metadata context");
  // What is carried out has a payload exactly if it is a write.
  Require(promises.headers == nbdinetd::Headers::kCompact ||
              request.length == 0 ||
              request.has_payload == (request.type == nbdtest::kCmdWrite),
          "a payload that the command doesn't have");
}

void TryRequest(std::string_view input) {
  Numbers numbers(input);
  nbdinetd::Promises promises;
  promises.size_bytes = numbers.Next(8);
  promises.transmission_flags = static_cast<uint16_t>(numbers.Next(2));
  const uint64_t what = numbers.Next(1);
  promises.block_status = (what & 1) != 0;
  const bool extended = (what & 2) != 0;
  if (extended) promises.headers = nbdinetd::Headers::kExtended;
  const nbdinetd::RequestDecoder decoder(
      promises.headers, promises.block_sizes.advertised_payload);
  const std::string_view bytes = numbers.Rest();
  const size_t header = extended ? 32 : 28;
  Require(decoder.header_bytes() == header, "a header's length");
  if (bytes.size() < header) return;
  Reader reader(bytes.substr(0, header));
  std::optional<nbdinetd::Request> request =
      decoder.Decode(View(bytes.substr(0, header)));
  Require(request.has_value() ==
              (reader.U32() == (extended ? nbdtest::kExtendedRequestMagic
                                         : nbdtest::kRequestMagic)),
          "a request's magic");
  if (!request.has_value()) return;
  Require(request->flags == reader.U16() && request->type == reader.U16() &&
              request->cookie == reader.U64() &&
              request->offset == reader.U64() &&
              request->length == (extended ? reader.U64() : reader.U32()) &&
              request->sent_offset == request->offset,
          "a request's fields");
  Require(!nbdinetd::CommandName(request->type).empty(), "a command's name");
  const bool has_payload =
      request->type == nbdtest::kCmdWrite ||
      (extended && request->has(nbdtest::kCmdFlagPayloadLen));
  Require(
      nbdinetd::PayloadBytes(*request) == (has_payload ? request->length : 0),
      "a request's payload");
  if (decoder.ExceedsPayloadLimit(*request)) {
    Require(extended && has_payload && request->length > nbdtest::kMaxPayload,
            "a payload is said to be too long");
    return;
  }
  if (HasStatusPayload(*request, promises)) {
    if (bytes.size() < header + nbdinetd::kStatusPayloadBytes) return;
    request = TakeStatusPayload(
        *request, View(bytes.substr(header, nbdinetd::kStatusPayloadBytes)));
    Require(nbdinetd::PayloadBytes(*request) == 0 &&
                !request->has(nbdtest::kCmdFlagPayloadLen),
            "a payload is taken twice");
  }
  CheckVerdict(*request, promises);
}

void TryReplies(std::string_view input) {
  Numbers numbers(input);
  nbdinetd::Request request;
  request.flags = static_cast<uint16_t>(numbers.Next(2));
  request.cookie = numbers.Next(8);
  request.offset = numbers.Next(8);
  const auto error = nbdinetd::NbdErrorOf(static_cast<int>(numbers.Next(4)));
  const std::string_view sentence = numbers.Rest();
  const absl::string_view told = View(sentence);
  request.sent_offset = request.offset ^ 0x1234;
  const nbdinetd::ReplyEncoder simple(nbdinetd::ReplyStyle::kSimple);
  // On the heap and of the promised size, so that a byte too many is found.
  std::vector<char> out(nbdinetd::kMaxReplyBytes);
  const auto wrote = [&](const char* end) {
    return std::string_view(out.data(), static_cast<size_t>(end - out.data()));
  };
  const auto try_error = [&](bool extended, bool at) {
    const nbdinetd::ReplyEncoder encoder(
        extended ? nbdinetd::ReplyStyle::kExtended
                 : nbdinetd::ReplyStyle::kStructured);
    Reader reader(
        wrote(at ? encoder.EncodeErrorAt(out.data(), request, error, told,
                                         request.offset)
                 : encoder.EncodeError(out.data(), request, error, told)));
    Require(reader.U32() == (extended ? nbdtest::kExtendedReplyMagic
                                      : nbdtest::kStructuredReplyMagic),
            "a chunk's magic");
    Require(reader.U16() == nbdtest::kReplyFlagDone, "a chunk's flags");
    Require(reader.U16() ==
                (at ? nbdtest::kReplyErrorOffset : nbdtest::kReplyError),
            "a chunk's type");
    Require(reader.U64() == request.cookie, "a chunk's cookie");
    Require(!extended || reader.U64() == request.sent_offset,
            "a header's offset");
    const uint64_t length = extended ? reader.U64() : reader.U32();
    Require(length == reader.left(), "a chunk's length");
    Require(reader.U32() == static_cast<uint32_t>(error), "a chunk's error");
    const std::string said = reader.Raw(reader.U16());
    Require(said == sentence.substr(0, said.size()), "a chunk's sentence");
    Require(!at || reader.U64() == request.offset, "a chunk's offset");
    Require(reader.left() == 0, "a chunk is too long");
  };
  for (const bool extended : {false, true}) {
    for (const bool at : {false, true}) try_error(extended, at);
  }
  Reader reader(wrote(
      simple.EncodeErrorAt(out.data(), request, error, told, request.offset)));
  Require(reader.U32() == nbdtest::kSimpleReplyMagic &&
              reader.U32() == static_cast<uint32_t>(error) &&
              reader.U64() == request.cookie && reader.left() == 0,
          "a simple reply");
  Require(wrote(simple.EncodeDone(out.data(), request)).empty(),
          "a simple reply has no end");
  Require(
      nbdtest::ErrorName(static_cast<uint32_t>(error)).rfind("undefined", 0) !=
          0,
      "an error that the specification doesn't have");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  constexpr void (*kTries[])(std::string_view) = {
      TryInfoRequest,  TryMetaContextRequest, TryString,
      TryOptionHeader, TryOptionReplies,      TryRequest,
      TryReplies};
  // A copy of its own, so that a byte read too many is found.
  const std::vector<char> copy(data + 1, data + size);
  kTries[data[0] % std::size(kTries)]({copy.data(), copy.size()});
  return 0;
}
