// What the specification says of the transmission phase, held against one
// conversation while it goes on.
//
// A second, independent reading of requests and replies, with the numbers of
// support/wire.h. It knows what each request must be answered, which bytes it
// may read, what it may change, and what has to be on the disk when it is
// answered. Each fault is thrown as BrokenConversation.

#ifndef NBDINETD_TESTS_FUZZ_TRANSMISSION_CHECKER_H_
#define NBDINETD_TESTS_FUZZ_TRANSMISSION_CHECKER_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "fuzz/simulation.h"
#include "fuzz/storage.h"
#include "support/wire.h"

namespace nbdfuzz {

// What client and server have agreed on.
struct TransmissionSetting {
  uint64_t size = 0;
  uint16_t flags = 0;       // transmission flags
  bool structured = false;  // replies in chunks
  bool extended = false;    // with extended headers
  bool block_status = false;
  uint32_t context_id = 1;
  // The size constraints. By default, more is accepted than is advertised.
  uint32_t minimum = 1;
  uint32_t advertised_payload = nbdtest::kMaxPayload;
  uint32_t accepted_payload = nbdtest::kLongestRequest;
  bool drains = false;  // the shutdown is a drain
};

class TransmissionChecker {
 public:
  // Takes over the callbacks of both, which it borrows.
  TransmissionChecker(const TransmissionSetting& setting,
                      Simulation& simulation, Storage& storage);

  // After the end: whether everything has been answered that had to be, and
  // whether the exit status is right.
  void Finish(int exit_status);

 private:
  enum class Stream { kGoesOn, kDisconnect, kBroken, kCut };

  struct Request {
    uint16_t type = 0;
    uint16_t flags = 0;
    uint64_t cookie = 0;
    uint64_t offset = 0;
    // The effect length where the payload has one of its own.
    uint64_t length = 0;
    std::string_view payload;
    bool has_payload = false;
    size_t begin = 0;  // in the client's stream
    size_t end = 0;    // and of its payload
    // The errors that it has to be answered with one of; empty if it is good.
    std::set<uint32_t> must_fail;

    bool arrived = false;
    size_t arrival = 0;        // Storage::time()
    size_t answered_at = 0;    // the number of replies when it arrived
    bool lost_before = false;  // a sync had failed by then
    bool answered = false;
    size_t reply_number = 0;  // if answered
    // Of a structured reply: what has been said of the range so far.
    std::map<uint64_t, uint64_t> covered;  // begin to end
    uint64_t covered_bytes = 0;
    uint64_t first_wrong = UINT64_MAX;  // offset of a byte that is wrong
    int status_chunks = 0;
    // Its changes, as times of the storage.
    std::vector<size_t> changes;
    bool changed_bytes = false;

    bool has(uint16_t flag) const { return (flags & flag) != 0; }
    // Whether its payload has these bytes for this offset of the export. A
    // payload that the end of the stream has cut is shorter than its length.
    bool Carries(uint64_t at, std::string_view bytes) const {
      const uint64_t before = at - offset;
      return before <= payload.size() &&
             payload.substr(before, bytes.size()) == bytes;
    }
    bool writes() const {
      return type == nbdtest::kCmdWrite || type == nbdtest::kCmdTrim ||
             type == nbdtest::kCmdWriteZeroes;
    }
  };

  void ReadRequests();
  size_t header_bytes() const { return setting_.extended ? 32 : 28; }
  // Takes the effect length from the payload of a block status; false when the
  // payload is malformed, or its context unknown.
  bool TakeStatusPayload(Request& request) const;
  // The errors of which the request must get one. Takes the effect length from
  // its payload.
  std::set<uint32_t> Errors(Request& request) const;

  void OnReceived(size_t bytes);
  void OnSent(std::string_view bytes);
  void OnChange(Storage::Change change, uint64_t offset, uint64_t length,
                std::string_view bytes);

  // The length of the reply at the front of `bytes`, handled; 0 when it isn't
  // all there.
  size_t TakeReply(std::string_view bytes);
  size_t TakeSimple(std::string_view bytes);
  uint64_t MostOf(uint16_t type) const;
  size_t TakeChunk(std::string_view bytes);
  void TakeData(Request& request, uint64_t offset, std::string_view data);
  void TakeHole(Request& request, uint64_t offset, uint64_t length);
  void Cover(Request& request, uint64_t offset, uint64_t length);
  void TakePayload(Request& request, uint16_t type, bool done,
                   std::string_view payload);
  void TakeStatus(Request& request, std::string_view payload);
  void TakeErrorChunk(Request& request, uint16_t type,
                      std::string_view payload);
  Request& Find(uint64_t cookie);
  void Answered(Request& request, uint32_t error, uint64_t error_offset);
  void CheckSuccess(Request& request);
  void CheckError(const Request& request, uint32_t error) const;
  void CheckFlushed(const Request& request) const;

  const TransmissionSetting setting_;
  Simulation& simulation_;
  Storage& storage_;
  std::vector<Request> requests_;
  std::map<uint64_t, size_t> by_cookie_;
  // What comes behind the last request.
  Stream last_ = Stream::kGoesOn;
  size_t arrived_ = 0;  // requests
  size_t replies_ = 0;
  std::string unread_;
};

}  // namespace nbdfuzz

#endif  // NBDINETD_TESTS_FUZZ_TRANSMISSION_CHECKER_H_
