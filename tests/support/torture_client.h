// A client that sends random requests, many at a time, and holds each reply
// against a TortureModel.

#ifndef NBDINETD_TESTS_SUPPORT_TORTURE_CLIENT_H_
#define NBDINETD_TESTS_SUPPORT_TORTURE_CLIENT_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "support/peer.h"
#include "torture_model.h"
#include "wire.h"

namespace nbdtest {

// What the reply to a request that changes bytes says of them.
TortureModel::Outcome OutcomeOf(const Request& request, const Reply& reply);

class TortureClient {
 public:
  struct Setup {
    // The part of the export that only this client changes.
    uint64_t own_begin = 0;
    uint64_t own_end = 0;
    bool structured = true;
    bool extended = false;
    // The export is: nothing is written, and all else must succeed.
    bool read_only = false;
    // Reads late and sends in odd pieces.
    bool slow = false;
    uint64_t seed = 0;
    // The storage or the connection may fail: then errors are answers, and the
    // connection may end, but wrong bytes are wrong.
    bool faulty = false;
  };

  // The peer has entered transmission. All is borrowed.
  TortureClient(Peer& peer, TortureModel& model, const Setup& setup);
  TortureClient(const TortureClient&) = delete;
  TortureClient& operator=(const TortureClient&) = delete;

  // From now on NBD_ESHUTDOWN and the end of the connection are answers, too.
  void ExpectShutdown() { shutdown_ = true; }

  enum class Ending {
    kDrained,  // all is answered
    kEnded,    // the server has closed
  };
  // Sends requests until `stop`, then waits for all replies. Throws
  // BrokenConversation when the server does something wrong.
  Ending Run(const std::atomic<bool>& stop);
  // The same, but leaves at `stop` with requests under way.
  void RunAndLeave(const std::atomic<bool>& stop);

  // What the server may still do, and what the client will never know of. To be
  // called when the server's process has ended.
  void Abandon();

  // May be asked while it runs.
  uint64_t requests() const { return requests_; }
  // How much block statuses have told to be holes, each time.
  uint64_t hole_bytes() const { return hole_bytes_; }

 private:
  struct Operation {
    Request request;
    // Of a request that changes bytes.
    bool changes = false;
    TortureModel::Change change;
    // Of one that looks at them.
    bool reads = false;
    TortureModel::Time read_start = 0;
  };
  struct Range {
    uint64_t offset = 0;
    uint64_t length = 0;
  };

  uint64_t Random(uint64_t below);
  bool OneIn(uint64_t n) { return Random(n) == 0; }
  uint32_t RandomLength();
  Range RandomRange(uint32_t length, bool changes);
  bool OverlapsOwnChange(const Range& range) const;
  uint16_t RandomCommand();
  uint16_t RandomFlags(uint16_t command);
  Request RandomRequest();
  // As much again before and behind the range, and more.
  Range Around(const Range& range);
  // One or several requests in one piece.
  void SendSome();
  Bytes Prepare(const Request& request);
  void ReceiveOne();
  void Complete(const Operation& operation, const Reply& reply);
  void CompleteChange(const Operation& operation, const Reply& reply);
  void CheckStatus(const Operation& operation, const Reply& reply);
  void ChangePace();
  [[noreturn]] void Wrong(const Operation& operation, const std::string& what);

  Peer& peer_;
  TortureModel& model_;
  const Setup setup_;
  std::mt19937_64 random_;
  size_t depth_ = 1;
  std::atomic<bool> shutdown_ = false;
  std::atomic<uint64_t> requests_ = 0;
  uint64_t hole_bytes_ = 0;
  uint64_t bytes_under_way_ = 0;
  std::map<uint64_t, Operation> operations_;  // by cookie
  // Ranges to be read soon: just written, or just told to be zeroes; and to be
  // asked about: just written.
  std::vector<Range> to_read_;
  std::vector<Range> to_ask_;
};

}  // namespace nbdtest

#endif  // NBDINETD_TESTS_SUPPORT_TORTURE_CLIENT_H_
