#include "transmission_checker.h"

#include <algorithm>

namespace nbdfuzz {
namespace {

using namespace nbdtest;  // NOLINT: the words of the protocol.

constexpr size_t kSimpleHeader = 16;
constexpr int kExitSystem = 71;
constexpr int kExitTimedOut = 75;

[[noreturn]] void Wrong(const std::string& what, uint64_t cookie) {
  throw BrokenConversation(what + " (request " +
                           std::to_string(cookie & 0xffff) + ")");
}

}  // namespace

TransmissionChecker::TransmissionChecker(const TransmissionSetting& setting,
                                         Simulation& simulation,
                                         Storage& storage)
    : setting_(setting), simulation_(simulation), storage_(storage) {
  ReadRequests();
  simulation.on_received = [this](size_t bytes) { OnReceived(bytes); };
  simulation.on_sent = [this](std::string_view bytes) { OnSent(bytes); };
  storage.on_change = [this](Storage::Change change, uint64_t offset,
                             uint64_t length, std::string_view bytes) {
    OnChange(change, offset, length, bytes);
  };
}

void TransmissionChecker::ReadRequests() {
  const std::string_view stream = simulation_.stream();
  size_t at = 0;
  while (at < stream.size()) {
    if (stream.size() - at < header_bytes()) {
      last_ = Stream::kCut;
      return;
    }
    Reader reader(stream.substr(at, header_bytes()));
    if (reader.U32() !=
        (setting_.extended ? kExtendedRequestMagic : kRequestMagic)) {
      last_ = Stream::kBroken;
      return;
    }
    Request request;
    request.flags = reader.U16();
    request.type = reader.U16();
    request.cookie = reader.U64();
    request.offset = reader.U64();
    request.length = setting_.extended ? reader.U64() : reader.U32();
    request.begin = at;
    at += header_bytes();
    if (request.type == kCmdDisc) {
      last_ = Stream::kDisconnect;
      return;
    }
    // A write has one whatever its flags are: some clients don't set the one
    // for it.
    request.has_payload =
        request.type == kCmdWrite ||
        (setting_.extended && request.has(kCmdFlagPayloadLen));
    const uint64_t payload = request.has_payload ? request.length : 0;
    if (setting_.extended && payload > setting_.advertised_payload) {
      last_ = Stream::kBroken;
      return;
    }
    if (payload > stream.size() - at) last_ = Stream::kCut;
    request.payload = stream.substr(at, payload);
    at += request.payload.size();
    request.end = last_ == Stream::kCut ? SIZE_MAX : at;
    request.must_fail = Errors(request);
    by_cookie_[request.cookie] = requests_.size();
    requests_.push_back(std::move(request));
  }
}

bool TransmissionChecker::TakeStatusPayload(Request& request) const {
  // One context and no more can have been selected.
  if (request.payload.size() != 12) return false;
  Reader reader(request.payload);
  request.length = reader.U64();
  return reader.U32() == setting_.context_id;
}

// "Request types", "Command flags" and "Error values".
std::set<uint32_t> TransmissionChecker::Errors(Request& request) const {
  std::set<uint32_t> errors;
  const auto promised = [this](uint16_t flag) {
    return (setting_.flags & flag) != 0;
  };
  unsigned valid = promised(kSendFua) ? unsigned{kCmdFlagFua} : 0;
  if (request.type == kCmdBlockStatus && request.has_payload &&
      promised(kBlockStatusPayload)) {
    valid |= kCmdFlagPayloadLen;
    if (!TakeStatusPayload(request)) errors.insert(kNbdEinval);
  }
  // "Size constraints". The range of an unknown command has none.
  if (request.type < kCmdResize && request.type != kCmdFlush &&
      ((request.offset | request.length) & (setting_.minimum - 1)) != 0) {
    errors.insert(kNbdEinval);
  }
  const uint64_t size = setting_.size;
  const bool past_end =
      request.offset > size || request.length > size - request.offset;
  switch (request.type) {
    case kCmdRead:
      if (promised(kSendDf)) valid |= kCmdFlagDf;
      if (past_end) errors.insert(kNbdEinval);
      if (request.length > (request.has(kCmdFlagDf)
                                ? setting_.advertised_payload
                                : setting_.accepted_payload)) {
        errors.insert(setting_.structured ? kNbdEoverflow : kNbdEinval);
      }
      break;
    case kCmdWrite:
      if (setting_.extended) valid |= kCmdFlagPayloadLen;
      if (past_end) errors.insert(kNbdEnospc);
      if (request.length > setting_.accepted_payload) errors.insert(kNbdEinval);
      break;
    case kCmdFlush:
      if (!promised(kSendFlush) || request.offset != 0 || request.length != 0) {
        errors.insert(kNbdEinval);
      }
      break;
    case kCmdTrim:
      if (past_end || !promised(kSendTrim)) errors.insert(kNbdEinval);
      break;
    case kCmdCache:
      if (past_end || !promised(kSendCache)) errors.insert(kNbdEinval);
      break;
    case kCmdWriteZeroes:
      valid |= kCmdFlagNoHole;
      if (promised(kSendFastZero)) valid |= kCmdFlagFastZero;
      if (past_end) errors.insert(kNbdEnospc);
      if (!promised(kSendWriteZeroes)) errors.insert(kNbdEinval);
      break;
    case kCmdBlockStatus:
      valid |= kCmdFlagReqOne;
      if (past_end || request.length == 0 || !setting_.block_status) {
        errors.insert(kNbdEinval);
      }
      break;
    default:
      errors.insert(kNbdEinval);
  }
  if ((request.flags & ~valid) != 0) errors.insert(kNbdEinval);
  if (request.writes() && promised(kReadOnly)) errors.insert(kNbdEperm);
  return errors;
}

void TransmissionChecker::OnReceived(size_t bytes) {
  for (; arrived_ < requests_.size() && requests_[arrived_].begin < bytes;
       ++arrived_) {
    Request& request = requests_[arrived_];
    request.arrived = true;
    request.arrival = storage_.time();
    request.answered_at = replies_;
    request.lost_before = storage_.has_lost();
  }
}

void TransmissionChecker::OnChange(Storage::Change change, uint64_t offset,
                                   uint64_t length, std::string_view bytes) {
  const bool allocates = change == Storage::Change::kAllocate;
  Request* somebody = nullptr;
  for (size_t i = 0; i < arrived_; ++i) {
    Request& request = requests_[i];
    if (request.answered || !request.writes() || !request.must_fail.empty()) {
      continue;
    }
    if (offset < request.offset ||
        offset + length > request.offset + request.length) {
      continue;
    }
    bool wanted = false;
    const bool inlined = !simulation_.worker_is_at.has_value();
    if (inlined ? request.type != kCmdWrite
                : request.cookie != *simulation_.worker_is_at) {
      continue;
    }
    switch (request.type) {
      case kCmdWrite:
        wanted =
            change == Storage::Change::kWrite && request.Carries(offset, bytes);
        break;
      case kCmdTrim:
        wanted = change == Storage::Change::kZero;
        break;
      default:
        wanted = change == Storage::Change::kZero || allocates ||
                 bytes.find_first_not_of('\0') == std::string_view::npos;
    }
    if (!wanted) continue;
    if (somebody != nullptr) return;  // there's no telling whose it is
    somebody = &request;
  }
  Require(somebody != nullptr,
          "the export is changed, and nobody has asked for it");
  somebody->changes.push_back(storage_.time());
  somebody->changed_bytes |= !allocates;
}

void TransmissionChecker::OnSent(std::string_view bytes) {
  unread_.append(bytes);
  size_t taken = 0;
  while (const size_t n = TakeReply(std::string_view(unread_).substr(taken))) {
    taken += n;
  }
  unread_.erase(0, taken);
}

size_t TransmissionChecker::TakeReply(std::string_view bytes) {
  if (bytes.size() < kSimpleHeader) return 0;
  switch (const uint32_t magic = Reader(bytes).U32()) {
    case kSimpleReplyMagic:
      Require(!setting_.structured, "a simple reply among structured ones");
      return TakeSimple(bytes);
    case kStructuredReplyMagic:
    case kExtendedReplyMagic:
      Require(setting_.structured, "a reply in chunks was not negotiated");
      Require(setting_.extended == (magic == kExtendedReplyMagic),
              "a reply with the other kind of headers");
      return TakeChunk(bytes);
    default:
      throw BrokenConversation("a reply's magic is wrong");
  }
}

TransmissionChecker::Request& TransmissionChecker::Find(uint64_t cookie) {
  const auto found = by_cookie_.find(cookie);
  if (found == by_cookie_.end()) Wrong("a reply to no request", cookie);
  Request& request = requests_[found->second];
  if (!request.arrived ||
      simulation_.received() < request.begin + header_bytes()) {
    Wrong("a reply to a request that hasn't been read", cookie);
  }
  if (request.answered) Wrong("a second reply", cookie);
  return request;
}

size_t TransmissionChecker::TakeSimple(std::string_view bytes) {
  Reader reader(bytes.substr(0, kSimpleHeader));
  reader.U32();
  const uint32_t error = reader.U32();
  Request& request = Find(reader.U64());
  if (error != 0 || request.type != kCmdRead) {
    Answered(request, error, UINT64_MAX);
    return kSimpleHeader;
  }
  if (bytes.size() - kSimpleHeader < request.length) {
    // A read that must fail would otherwise be waited for.
    Require(request.must_fail.empty(), "a bad read succeeds");
    return 0;
  }
  TakeData(request, request.offset,
           bytes.substr(kSimpleHeader, request.length));
  Answered(request, 0, UINT64_MAX);
  return kSimpleHeader + request.length;
}

// The longest payload of a chunk. What it says of the export is bounded by the
// maximum payload size, and a map or a sentence by what the server sends.
uint64_t TransmissionChecker::MostOf(uint16_t type) const {
  return type == kReplyOffsetData ? uint64_t{setting_.advertised_payload} + 8
                                  : uint64_t{kMaxPayload};
}

size_t TransmissionChecker::TakeChunk(std::string_view bytes) {
  const size_t header = setting_.extended ? 32 : 20;
  if (bytes.size() < header) return 0;
  Reader reader(bytes.substr(0, header));
  reader.U32();
  const uint16_t flags = reader.U16();
  const uint16_t type = reader.U16();
  const uint64_t cookie = reader.U64();
  Request& request = Find(cookie);
  if (setting_.extended && reader.U64() != request.offset) {
    Wrong("an extended reply with another offset", cookie);
  }
  const uint64_t length = setting_.extended ? reader.U64() : reader.U32();
  Require((flags & ~kReplyFlagDone) == 0, "unknown structured reply flags");
  Require(length <= MostOf(type), "a chunk is too long");
  if (bytes.size() - header < length) return 0;
  TakePayload(request, type, (flags & kReplyFlagDone) != 0,
              bytes.substr(header, length));
  return header + length;
}

void TransmissionChecker::TakePayload(Request& request, uint16_t type,
                                      bool done, std::string_view payload) {
  const uint64_t cookie = request.cookie;
  switch (type) {
    case kReplyNone:
      Require(done && payload.empty(), "a malformed chunk of no type");
      break;
    case kReplyOffsetData:
      if (payload.size() < 9) Wrong("a data chunk without data", cookie);
      TakeData(request, Reader(payload).U64(), payload.substr(8));
      break;
    case kReplyOffsetHole: {
      if (payload.size() != 12) Wrong("a hole chunk of a wrong length", cookie);
      Reader hole(payload);
      const uint64_t offset = hole.U64();
      TakeHole(request, offset, hole.U32());
      break;
    }
    case kReplyBlockStatus:
    case kReplyBlockStatusExt:
      if (setting_.extended != (type == kReplyBlockStatusExt)) {
        Wrong("a block status for the other kind of headers", cookie);
      }
      TakeStatus(request, payload);
      break;
    case kReplyError:
    case kReplyErrorOffset:
      if (!done) Wrong("an error chunk that isn't the last", cookie);
      TakeErrorChunk(request, type, payload);
      return;
    default:
      Wrong("a chunk of an unknown type", cookie);
  }
  if (done) Answered(request, 0, UINT64_MAX);
}

void TransmissionChecker::Cover(Request& request, uint64_t offset,
                                uint64_t length) {
  if (request.type != kCmdRead || !request.must_fail.empty()) {
    Wrong("content for a request that has none", request.cookie);
  }
  if (length == 0 || offset < request.offset ||
      offset - request.offset > request.length ||
      length > request.length - (offset - request.offset)) {
    Wrong("content outside the request", request.cookie);
  }
  if (!request.covered.empty() && request.has(kCmdFlagDf)) {
    Wrong("NBD_CMD_FLAG_DF, and two content chunks", request.cookie);
  }
  const auto next = request.covered.lower_bound(offset);
  if ((next != request.covered.end() && next->first < offset + length) ||
      (next != request.covered.begin() && std::prev(next)->second > offset)) {
    Wrong("content chunks that overlap", request.cookie);
  }
  request.covered[offset] = offset + length;
  request.covered_bytes += length;
}

void TransmissionChecker::TakeData(Request& request, uint64_t offset,
                                   std::string_view data) {
  if (data.empty() && request.length == 0) return;
  Cover(request, offset, data.size());
  if (const auto at = storage_.FirstDifference(offset, data, request.arrival)) {
    request.first_wrong = std::min(request.first_wrong, offset + *at);
  }
}

void TransmissionChecker::TakeHole(Request& request, uint64_t offset,
                                   uint64_t length) {
  Cover(request, offset, length);
  if (const auto at = storage_.FirstNonZero(offset, length, request.arrival)) {
    request.first_wrong = std::min(request.first_wrong, *at);
  }
}

void TransmissionChecker::TakeStatus(Request& request,
                                     std::string_view payload) {
  if (request.type != kCmdBlockStatus || !request.must_fail.empty()) {
    Wrong("block status for a request that has none", request.cookie);
  }
  const size_t fixed = setting_.extended ? 8 : 4;
  const size_t each = setting_.extended ? 16 : 8;
  if (payload.size() < fixed + each || payload.size() % each != fixed) {
    Wrong("a block status of a wrong length", request.cookie);
  }
  ++request.status_chunks;
  Reader reader(payload);
  if (reader.U32() != setting_.context_id) {
    Wrong("an unknown metadata context", request.cookie);
  }
  if (setting_.extended && reader.U32() != reader.left() / each) {
    Wrong("a block status with another count", request.cookie);
  }
  uint64_t sum = 0;
  size_t count = 0;
  while (reader.left() > 0) {
    if (sum >= request.length) {
      Wrong("a descriptor beyond what was asked for", request.cookie);
    }
    const uint64_t length = setting_.extended ? reader.U64() : reader.U32();
    const uint64_t status = setting_.extended ? reader.U64() : reader.U32();
    const uint64_t offset = request.offset + sum;
    if (length == 0) Wrong("an empty descriptor", request.cookie);
    if ((status & ~uint64_t{kStateHole | kStateZero}) != 0) {
      Wrong("an unknown status flag", request.cookie);
    }
    if (length % setting_.minimum != 0) {
      Wrong("a descriptor that isn't aligned", request.cookie);
    }
    if (length > setting_.size - offset) {
      Wrong("a descriptor beyond the end of the export", request.cookie);
    }
    if ((status & kStateZero) != 0 &&
        storage_.FirstNonZero(offset, length, request.arrival).has_value()) {
      Wrong("NBD_STATE_ZERO where there is something", request.cookie);
    }
    sum += length;
    ++count;
  }
  if (request.has(kCmdFlagReqOne) && (count != 1 || sum > request.length)) {
    Wrong("NBD_CMD_FLAG_REQ_ONE, and more than that", request.cookie);
  }
}

void TransmissionChecker::TakeErrorChunk(Request& request, uint16_t type,
                                         std::string_view payload) {
  Reader reader(payload);
  const uint32_t error = reader.U32();
  const std::string sentence = reader.Raw(reader.U16());
  uint64_t offset = UINT64_MAX;
  if (type == kReplyErrorOffset) {
    offset = reader.U64();
    if (offset < request.offset || offset - request.offset > request.length) {
      Wrong("an error outside the request", request.cookie);
    }
  }
  Require(reader.left() == 0, "an error chunk is too long");
  Require(error != 0, "an error chunk without an error");
  Require(IsProtocolString(sentence), "an error's message is no string");
  Answered(request, error, offset);
}

void TransmissionChecker::Answered(Request& request, uint32_t error,
                                   uint64_t error_offset) {
  if (request.has_payload && simulation_.received() < request.end) {
    Wrong("an answer before all of the request has been read", request.cookie);
  }
  request.answered = true;
  request.reply_number = ++replies_;
  if (error == 0) {
    CheckSuccess(request);
    return;
  }
  CheckError(request, error);
  // What came before the error is good.
  if (error_offset != UINT64_MAX && request.first_wrong < error_offset) {
    Wrong("wrong bytes before the error", request.cookie);
  }
}

void TransmissionChecker::CheckSuccess(Request& request) {
  if (!request.must_fail.empty()) {
    Wrong("a bad request succeeds", request.cookie);
  }
  switch (request.type) {
    case kCmdRead:
      if (request.first_wrong != UINT64_MAX) {
        Wrong("wrong bytes at " + std::to_string(request.first_wrong),
              request.cookie);
      }
      if (request.covered_bytes != request.length) {
        Wrong("content is missing", request.cookie);
      }
      break;
    case kCmdWrite:
      if (storage_.FirstDifference(request.offset, request.payload,
                                   request.arrival)) {
        Wrong("a write hasn't been written", request.cookie);
      }
      break;
    case kCmdWriteZeroes:
      if (storage_.FirstNonZero(request.offset, request.length,
                                request.arrival)) {
        Wrong("zeroes haven't been written", request.cookie);
      }
      break;
    case kCmdBlockStatus:
      if (request.status_chunks != 1) {
        Wrong("not one block status chunk", request.cookie);
      }
      break;
    default:
      break;
  }
  if (request.type == kCmdFlush ||
      (request.has(kCmdFlagFua) && request.writes() && request.length > 0)) {
    CheckFlushed(request);
  }
}

// "NBD_CMD_FLUSH", "NBD_CMD_FLAG_FUA": what has been answered before, or was
// asked for, is on the disk.
void TransmissionChecker::CheckFlushed(const Request& request) const {
  for (const Request& other : requests_) {
    const bool counts =
        request.type == kCmdFlush
            ? other.answered && other.reply_number <= request.answered_at
            : &other == &request;
    if (!counts) continue;
    for (const size_t change : other.changes) {
      if (!storage_.Durable(change)) {
        Wrong("something isn't on the disk", request.cookie);
      }
    }
  }
  if (request.lost_before) {
    Wrong("a flush succeeds after one has failed", request.cookie);
  }
}

void TransmissionChecker::CheckError(const Request& request,
                                     uint32_t error) const {
  if (ErrorName(error).rfind("undefined", 0) == 0) {
    Wrong("an undefined error value", request.cookie);
  }
  if (error == kNbdEshutdown && simulation_.shutdown_requested() &&
      !setting_.drains) {
    return;
  }
  // A client that has broken the protocol may find its last ones cut short.
  const bool in_pieces =
      request.type == kCmdTrim || request.type == kCmdWriteZeroes;
  if (error == kNbdEshutdown && in_pieces &&
      (last_ == Stream::kBroken || last_ == Stream::kCut)) {
    return;
  }
  if (!request.must_fail.empty()) {
    if (request.must_fail.count(error) == 0) {
      Wrong("the wrong error: " + ErrorName(error), request.cookie);
    }
    return;
  }
  if (error == kNbdEnotsup) {
    if (request.has(kCmdFlagFastZero) &&
        (storage_.lacks_something() || storage_.has_failed()) &&
        !request.changed_bytes) {
      return;
    }
    Wrong("NBD_ENOTSUP for what isn't a question", request.cookie);
  }
  if (error == kNbdEshutdown || error == kNbdEoverflow ||
      !storage_.has_failed()) {
    // The storage may say EOVERFLOW itself.
    if (error == kNbdEoverflow && storage_.has_failed()) return;
    Wrong("a good request fails: " + ErrorName(error), request.cookie);
  }
}

void TransmissionChecker::Finish(int exit_status) {
  // Or it has given up on a client that reads nothing.
  const bool cut = simulation_.broken() || simulation_.has_stalled();
  Require(cut || unread_.empty(), "the last reply is cut");
  const bool shut_down = simulation_.shutdown_requested();
  if (simulation_.aborted()) {
    Require(!setting_.structured && storage_.has_failed(),
            "the server cuts the connection, and nothing has failed");
  }
  std::set<int> statuses;
  if (cut) {
    statuses = {kExitProtocol, kExitTimedOut, kExitSystem, kExitOk};
  } else {
    const bool ended_inside = last_ == Stream::kCut || last_ == Stream::kBroken;
    statuses.insert(ended_inside ? kExitProtocol : kExitOk);
    if (simulation_.ends_in_error() && last_ != Stream::kDisconnect &&
        last_ != Stream::kBroken) {
      statuses = {kExitProtocol, kExitTimedOut};
    }
    if (simulation_.ends_in_silence() || simulation_.has_paused()) {
      statuses.insert(kExitTimedOut);
    }
  }
  if (shut_down) statuses.insert({kExitOk, kExitSystem});
  Require(statuses.count(exit_status) == 1,
          ("transmission ended with the status " + std::to_string(exit_status))
              .c_str());
  if (cut || exit_status == kExitTimedOut) return;
  if (shut_down) {
    // In a drain, whoever has been heard is answered, unless time has passed.
    if (!setting_.drains || simulation_.has_paused()) return;
    for (const Request& request : requests_) {
      if (request.end <= simulation_.received() && !request.answered) {
        Wrong("a drain forgets a request", request.cookie);
      }
    }
    return;
  }
  for (const Request& request : requests_) {
    if (request.end == SIZE_MAX) continue;  // it never came to its end
    if (!request.answered) Wrong("no reply", request.cookie);
  }
}

}  // namespace nbdfuzz
