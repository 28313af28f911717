// A machine that exists for one input: its clock, its poll(), and the client at
// the other end of the stream.
//
// While a Simulation lives, what src/ calls poll(), clock_gettime() and
// sched_yield() ends up here (the fuzz targets are linked with --wrap), so that
// time passes only when the server waits for it, the same input always gives
// the same run, and a server that waits for what never comes is found out.
// Threads: those calls of other threads go to the real machine.

#ifndef NBDINETD_TESTS_FUZZ_SIMULATION_H_
#define NBDINETD_TESTS_FUZZ_SIMULATION_H_

#include <poll.h>
#include <time.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/string_view.h"
#include "export/stored_export.h"
#include "fuzz/input.h"
#include "stream/stream.h"
#include "support/wire.h"

namespace nbdfuzz {

// What is wrong with the server goes up as nbdtest::BrokenConversation. Nobody
// catches it in a fuzz target, which ends there, with its input at hand.
inline void Require(bool condition, const char* what) {
  if (!condition) throw nbdtest::BrokenConversation(what);
}

// Whether the text can be shown to a person as part of a line.
inline bool IsOneLine(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte >= 0x20 && byte != 0x7f;
  });
}

// Every error is a sentence for a person.
inline void RequireSentence(absl::string_view sentence) {
  Require(!sentence.empty(), "no word about what is wrong");
  Require(IsOneLine(sentence), "a message would break a line");
}

// Descriptors that nobody has; closing them does nothing.
enum FakeDescriptor {
  kInputFd = 0x5eed0000,
  kOutputFd,
  kShutdownFd,
  kWorkersFd,
  kStorageFd,
  kExportFd,
  kHolderFd,
};

class Simulation {
 public:
  // The `input` is borrowed; the client sends `stream`, which may differ from
  // the input's.
  Simulation(const Input& input, std::string stream);
  ~Simulation();
  Simulation(const Simulation&) = delete;
  Simulation& operator=(const Simulation&) = delete;

  // The one of this thread; nullptr without.
  static Simulation* Current();

  // What is below all layers of the export that is served; borrowed.
  nbdinetd::StoredExport* stored_export = nullptr;

  // ---- The client ----

  // Behind so many bytes of its stream the client waits for the server to say
  // something.
  void HoldAt(size_t position) { hold_at_ = position; }
  // Each is called after the server has read or written. How much of the
  // stream it has read so far; what it wrote.
  std::function<void(size_t)> on_received;
  std::function<void(std::string_view)> on_sent;

  size_t received() const { return received_; }
  const std::string& stream() const { return stream_; }
  // A write has failed, and will always fail, or the server has cut the
  // connection.
  bool broken() const { return send_error_ != 0; }
  bool aborted() const { return aborted_; }
  // The client has been silent for some time, or hasn't read, at least once.
  bool has_paused() const { return paused_; }
  bool has_stalled() const { return stalled_until_ns_ != 0; }
  bool shutdown_requested() const { return shutdown_; }
  // What kShutdownFd stands for is taken: it isn't readable any more.
  void TakeSignal() { signal_taken_ = true; }
  // The client will say nothing more, but stays.
  bool ends_in_silence() const { return end_ == End::kSilence; }
  bool ends_in_error() const {
    return end_ == End::kReset || end_ == End::kTimedOut;
  }

  ssize_t Read(absl::Span<char> buffer);
  ssize_t Write(absl::Span<const iovec> pieces);
  // Sends what pread() says is in the file.
  ssize_t SendFile(int file, uint64_t offset, size_t length);
  void Abort();

  // ---- The machine ----

  Tape& storage_tape() { return storage_; }
  Tape& schedule_tape() { return schedule_; }
  // The cookie of the request that a worker carries out at this moment.
  std::optional<uint64_t> worker_is_at;
  // Whether kWorkersFd is readable; told whether something else is.
  std::function<bool(bool)> workers_ready;

  int Poll(pollfd* fds, size_t count, int timeout_ms);
  int64_t Now() { return now_ns_ += 1'000; }
  void Pass(int64_t ns) {
    paused_ = true;
    now_ns_ += ns;
  }
  // The process that kHolderFd stands for.
  void EndHolderIn(int64_t ns) { holder_ends_ns_ = now_ns_ + ns; }
  bool holder_has_ended() const {
    return holder_ends_ns_ != 0 && now_ns_ >= holder_ends_ns_;
  }

 private:
  enum class End { kEof, kReset, kTimedOut, kSilence };

  // How many bytes a write may take now; or a negated errno.
  ssize_t SendLimit();
  short ReadyEvents(const pollfd& entry);
  // The server knows that the client is gone: nothing can be sent any more.
  void BreakSends() {
    if (send_error_ == 0) send_error_ = -EPIPE;
  }
  // The client is gone, and poll() says so.
  bool hung_up() const {
    return ends_in_error() && received_ == stream_.size();
  }
  bool Readable() const;

  std::string stream_;
  size_t received_ = 0;
  size_t hold_at_ = SIZE_MAX;
  const End end_;
  Tape receive_;
  Tape send_;
  Tape storage_;
  Tape schedule_;
  int64_t now_ns_ = 1'000'000'000'000;
  // Until then the client says nothing, or takes nothing.
  int64_t silent_until_ns_ = 0;
  int64_t stalled_until_ns_ = 0;
  int64_t holder_ends_ns_ = 0;
  bool paused_ = false;
  int send_error_ = 0;
  bool aborted_ = false;
  const int shutdown_at_;
  bool shutdown_ = false;
  bool signal_taken_ = false;
  int polls_ = 0;
};

class SimulatedStream : public nbdinetd::Stream {
 public:
  explicit SimulatedStream(Simulation& simulation, bool sends_files = false)
      : simulation_(simulation), sends_files_(sends_files) {}
  ssize_t Read(absl::Span<char> buffer) override {
    return simulation_.Read(buffer);
  }
  ssize_t Write(absl::Span<const iovec> pieces, bool) override {
    return simulation_.Write(pieces);
  }
  bool sends_files() const override { return sends_files_; }
  ssize_t SendFile(int file, uint64_t offset, size_t length) override {
    return simulation_.SendFile(file, offset, length);
  }
  void Abort() override { simulation_.Abort(); }
  int input_fd() const override { return kInputFd; }
  int output_fd() const override { return kOutputFd; }

 private:
  Simulation& simulation_;
  const bool sends_files_;
};

}  // namespace nbdfuzz

#endif  // NBDINETD_TESTS_FUZZ_SIMULATION_H_
