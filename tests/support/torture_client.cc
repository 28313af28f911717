#include "torture_client.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace nbdtest {

namespace {

constexpr size_t kMaxDepth = 64;
// Beyond it the client waits for replies first, whatever its depth is.
constexpr uint64_t kMaxBytesUnderWay = 16u << 20;
constexpr uint32_t kMaxLength = 6u << 20;

std::string CommandName(uint16_t command) {
  constexpr std::array kNames = {"READ",         "WRITE",       "DISC",
                                 "FLUSH",        "TRIM",        "CACHE",
                                 "WRITE_ZEROES", "BLOCK_STATUS"};
  return kNames.at(command);
}

}  // namespace

TortureModel::Outcome OutcomeOf(const Request& request, const Reply& reply) {
  using enum TortureModel::Outcome;
  if (reply.error == kNbdEnotsup) return kRefused;
  if (reply.error == kNbdEshutdown) {
    // A write is all carried out or not begun. The pieces of a trim or a
    // zeroing end at a shutdown, and only a structured reply says whether one
    // had begun.
    const bool unbegun = reply.message == "the server is shutting down";
    return request.type == kCmdWrite || unbegun ? kRefused : kMaybe;
  }
  return reply.error != kNbdOk || request.type == kCmdTrim ? kMaybe : kDone;
}

TortureClient::TortureClient(Peer& peer, TortureModel& model,
                             const Setup& setup)
    : peer_(peer), model_(model), setup_(setup), random_(setup.seed) {}

uint64_t TortureClient::Random(uint64_t below) {
  return std::uniform_int_distribution<uint64_t>(0, below - 1)(random_);
}

uint32_t TortureClient::RandomLength() {
  // Around the sizes at which a server may change its mind: a page, a buffer's
  // worth, more than any buffer.
  constexpr std::array<uint32_t, 6> kLimits = {
      64, 4096, 64u << 10, 300u << 10, 1u << 20, kMaxLength};
  constexpr std::array<int, 6> kWeights = {20, 35, 22, 15, 5, 3};
  int pick = static_cast<int>(Random(100));
  size_t at = 0;
  while (pick >= kWeights[at]) pick -= kWeights[at++];
  const auto limit =
      static_cast<uint32_t>(std::min<uint64_t>(kLimits[at], model_.size() / 2));
  auto length = static_cast<uint32_t>(1 + Random(limit));
  if (OneIn(3)) length = (length + 511) / 512 * 512;
  if (OneIn(6)) length = (length + 4095) / 4096 * 4096;
  return length;
}

TortureClient::Range TortureClient::RandomRange(uint32_t length, bool changes) {
  // What nobody else changes is checked exactly; what others change at the same
  // time must at least be one of the values.
  const bool own = OneIn(3) ? false : true;
  uint64_t begin = own ? setup_.own_begin : 0;
  uint64_t end = own ? setup_.own_end : model_.size();
  // Neither may a change touch what belongs to the others.
  if (changes && !own) begin = model_.size() / 2;
  Range range;
  for (int attempt = 0; attempt < 4; ++attempt) {
    range.length =
        static_cast<uint32_t>(std::min<uint64_t>(length, end - begin));
    const uint64_t room = end - begin - range.length;
    range.offset = begin + Random(room + 1);
    const uint64_t unit = OneIn(2) ? 4096 : OneIn(2) ? 512 : 1;
    const uint64_t aligned = range.offset / unit * unit;
    if (aligned >= begin) range.offset = aligned;
    if (!own || !OverlapsOwnChange(range) || OneIn(8)) break;
  }
  return range;
}

bool TortureClient::OverlapsOwnChange(const Range& range) const {
  return std::any_of(operations_.begin(), operations_.end(),
                     [&](const auto& entry) {
                       const Request& other = entry.second.request;
                       return entry.second.changes &&
                              range.offset < other.offset + other.length &&
                              other.offset < range.offset + range.length;
                     });
}

TortureClient::Range TortureClient::Around(const Range& range) {
  const uint64_t more = range.length + Random(model_.size());
  const uint64_t begin = range.offset - std::min(range.offset, Random(more));
  const uint64_t end =
      std::min(model_.size(), range.offset + range.length + Random(more));
  return {begin,
          static_cast<uint32_t>(std::min<uint64_t>(end - begin, kMaxLength))};
}

uint16_t TortureClient::RandomCommand() {
  const uint64_t pick = setup_.read_only ? 45 + Random(55) : Random(100);
  if (pick < 33) return kCmdWrite;
  if (pick < 40) return kCmdWriteZeroes;
  if (pick < 45) return kCmdTrim;
  // From here on nothing that changes a byte.
  if (pick < 87) return kCmdRead;
  if (pick < 90) return kCmdCache;
  if (pick < 93) return kCmdFlush;
  return setup_.structured ? kCmdBlockStatus : kCmdRead;
}

uint16_t TortureClient::RandomFlags(uint16_t command) {
  uint16_t flags = 0;
  const auto maybe = [&](uint16_t flag, uint64_t n) {
    if (OneIn(n)) flags = static_cast<uint16_t>(flags | flag);
  };
  if (command == kCmdRead && setup_.structured) maybe(kCmdFlagDf, 3);
  if (command == kCmdBlockStatus) maybe(kCmdFlagReqOne, 2);
  if (command == kCmdWrite || command == kCmdTrim ||
      command == kCmdWriteZeroes) {
    maybe(kCmdFlagFua, 12);
  }
  if (command == kCmdWriteZeroes) {
    maybe(kCmdFlagNoHole, 3);
    maybe(kCmdFlagFastZero, 4);
  }
  return flags;
}

Request TortureClient::RandomRequest() {
  const auto take = [&](std::vector<Range>& ranges, uint16_t command) {
    Range range = ranges.back();
    ranges.pop_back();
    if (OneIn(3) || command == kCmdBlockStatus) range = Around(range);
    return Request{.type = command,
                   .flags = RandomFlags(command),
                   .offset = range.offset,
                   .length = range.length};
  };
  if (!to_ask_.empty() && OneIn(2)) return take(to_ask_, kCmdBlockStatus);
  if (!to_read_.empty() && OneIn(2)) return take(to_read_, kCmdRead);
  Request request;
  request.type = RandomCommand();
  request.flags = RandomFlags(request.type);
  if (request.type == kCmdFlush) return request;
  const Range range = RandomRange(
      RandomLength(), request.type == kCmdWrite || request.type == kCmdTrim ||
                          request.type == kCmdWriteZeroes);
  request.offset = range.offset;
  request.length = range.length;
  return request;
}

void TortureClient::SendSome() {
  Bytes batch;
  for (uint64_t left = 1 + Random(8); left > 0 && operations_.size() < depth_ &&
                                      bytes_under_way_ < kMaxBytesUnderWay;
       --left) {
    batch += Prepare(RandomRequest());
  }
  peer_.Send(batch);
}

Bytes TortureClient::Prepare(const Request& wanted) {
  Operation operation;
  operation.request = wanted;
  Request& request = operation.request;
  do {
    request.cookie = random_();
  } while (operations_.contains(*request.cookie));
  Bytes payload;
  switch (request.type) {
    case kCmdWrite:
      operation.changes = true;
      operation.change = model_.BeginWrite(request.offset, request.length);
      payload = VersionBytes(operation.change.version, request.offset,
                             request.length);
      break;
    case kCmdTrim:
    case kCmdWriteZeroes:
      operation.changes = true;
      operation.change = model_.BeginZero(request.offset, request.length);
      break;
    case kCmdRead:
    case kCmdBlockStatus:
      operation.reads = true;
      operation.read_start = model_.BeginReading();
      break;
    default:
      break;
  }
  operations_.emplace(*request.cookie, operation);
  bytes_under_way_ += request.length;
  ++requests_;
  if (request.type == kCmdBlockStatus && setup_.extended && OneIn(2)) {
    payload = StatusPayload(request.length, std::vector<uint32_t>{1});
    Request carrier = request;
    carrier.flags = static_cast<uint16_t>(carrier.flags | kCmdFlagPayloadLen);
    carrier.length = payload.size();
    return peer_.Prepare(carrier, payload);
  }
  return peer_.Prepare(request, payload);
}

void TortureClient::ReceiveOne() {
  const Reply reply = peer_.ReceiveReply();
  const auto found = operations_.find(reply.cookie);
  if (found == operations_.end()) {
    throw BrokenConversation("a reply to no request");
  }
  const Operation operation = found->second;
  operations_.erase(found);
  bytes_under_way_ -= operation.request.length;
  Complete(operation, reply);
  if (operation.reads) model_.EndReading(operation.read_start);
}

void TortureClient::Complete(const Operation& operation, const Reply& reply) {
  const bool refused_fast = reply.error == kNbdEnotsup &&
                            (operation.request.flags & kCmdFlagFastZero) != 0;
  const bool shut_down = reply.error == kNbdEshutdown && shutdown_;
  if (reply.error != kNbdOk && !refused_fast && !shut_down && !setup_.faulty) {
    Wrong(operation, ErrorName(reply.error) + " " + reply.message);
  }
  if (operation.changes) CompleteChange(operation, reply);
  if (reply.error != kNbdOk) return;
  if (operation.request.type == kCmdRead) {
    if (const auto wrong = model_.Check(operation.read_start,
                                        operation.request.offset, reply.data)) {
      Wrong(operation, *wrong);
    }
  }
  if (operation.request.type == kCmdBlockStatus) CheckStatus(operation, reply);
}

void TortureClient::CompleteChange(const Operation& operation,
                                   const Reply& reply) {
  const Request& request = operation.request;
  model_.End(operation.change, OutcomeOf(request, reply));
  if (OneIn(3)) to_read_.push_back({request.offset, request.length});
  if (to_read_.size() > 32) to_read_.erase(to_read_.begin());
  // Before anybody has asked for a flush: what isn't on the storage yet is
  // where a map of the storage is wrong.
  if (setup_.structured && request.type == kCmdWrite && OneIn(6)) {
    to_ask_.push_back({request.offset, request.length});
    if (to_ask_.size() > 8) to_ask_.erase(to_ask_.begin());
  }
}

void TortureClient::CheckStatus(const Operation& operation,
                                const Reply& reply) {
  uint64_t offset = operation.request.offset;
  for (const Extent& extent : reply.extents) {
    if (offset + extent.length > model_.size()) {
      Wrong(operation, "an extent goes beyond the end of the export");
    }
    // The server knows no hole that doesn't read as zeroes.
    if (extent.flags != 0 && extent.flags != (kStateHole | kStateZero)) {
      Wrong(operation,
            "an extent has the flags " + std::to_string(extent.flags));
    }
    if (extent.flags != 0) {
      hole_bytes_ += extent.length;
      if (const auto wrong =
              model_.CheckZeroes(operation.read_start, offset, extent.length)) {
        Wrong(operation, "told to be zeroes: " + *wrong);
      }
      to_read_.push_back(
          {offset, std::min<uint64_t>(extent.length, kMaxLength)});
    }
    offset += extent.length;
  }
}

void TortureClient::Wrong(const Operation& operation, const std::string& what) {
  const Request& request = operation.request;
  throw BrokenConversation(CommandName(request.type) + " flags " +
                           std::to_string(request.flags) + " offset " +
                           std::to_string(request.offset) + " length " +
                           std::to_string(request.length) + ": " + what);
}

void TortureClient::ChangePace() {
  depth_ = OneIn(4) ? 1 + Random(3) : 1 + Random(kMaxDepth);
  if (!setup_.slow) return;
  const auto limit = [&]() -> size_t {
    return OneIn(3) ? SIZE_MAX : 1 + Random(OneIn(2) ? 9000 : 40);
  };
  peer_.set_read_limit(limit());
  peer_.set_write_limit(limit());
  // A client that is busy with something else; no test waits for this.
  std::this_thread::sleep_for(std::chrono::microseconds(Random(8000)));
}

TortureClient::Ending TortureClient::Run(const std::atomic<bool>& stop) {
  try {
    while (!stop || !operations_.empty()) {
      if (stop) {
        peer_.set_read_limit(SIZE_MAX);
      } else if (OneIn(setup_.slow ? 32 : 256)) {
        ChangePace();
      }
      const bool may_send = !stop && operations_.size() < depth_ &&
                            bytes_under_way_ < kMaxBytesUnderWay;
      if (operations_.empty() || (may_send && OneIn(2))) {
        if (!stop) SendSome();
      } else {
        ReceiveOne();
      }
    }
    return Ending::kDrained;
  } catch (const ConnectionEnded&) {
    if (!shutdown_ && !setup_.faulty) throw;
    return Ending::kEnded;
  }
}

void TortureClient::RunAndLeave(const std::atomic<bool>& stop) {
  try {
    while (!stop) {
      if (operations_.size() < 1 + depth_ / 2) SendSome();
      ReceiveOne();
    }
    SendSome();
  } catch (const ConnectionEnded&) {
    if (!setup_.faulty) throw;
  }
  peer_.Close();
}

void TortureClient::Abandon() {
  for (const auto& [cookie, operation] : operations_) {
    if (operation.changes) {
      model_.End(operation.change, TortureModel::Outcome::kMaybe);
    }
    if (operation.reads) model_.EndReading(operation.read_start);
  }
  operations_.clear();
}

}  // namespace nbdtest
