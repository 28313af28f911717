// A peer in memory, for tests of what lies above the stream: no socket, and
// every short read, short write and error happens when the test says so.

#ifndef NBDINETD_TESTS_SUPPORT_MEMORY_STREAM_H_
#define NBDINETD_TESTS_SUPPORT_MEMORY_STREAM_H_

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "stream/stream.h"

namespace nbdtest {

// Something that poll() finds readable or not, as the test wishes.
class Event {
 public:
  Event() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (fd_ < 0) throw std::runtime_error("no eventfd to be had");
  }
  ~Event() { close(fd_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  int fd() const { return fd_; }
  void Set() { eventfd_write(fd_, 1); }
  void Clear() {
    eventfd_t ignored;
    eventfd_read(fd_, &ignored);
  }

 private:
  int fd_;
};

// Whether poll() finds the descriptor readable at this moment.
inline bool IsReadable(int fd) {
  pollfd entry = {fd, POLLIN, 0};
  return poll(&entry, 1, 0) == 1;
}

// The client's side of a MemoryStream. It belongs to the test, since the stream
// belongs to the channel, and has to outlive both.
class MemoryPeer {
 public:
  // The bytes are there for the server to read; they join what it has not read
  // yet.
  void Send(std::string_view bytes) {
    to_server_.append(bytes);
    Signal();
  }
  // Behind what has been sent comes the end of the stream.
  void Close() { EndWith(0); }
  // Behind what has been sent the connection fails.
  void Reset() { Fail(ECONNRESET); }
  void Fail(int error) { EndWith(-error); }

  // What the server has written, and no call returns twice.
  std::string Receive() { return std::exchange(from_server_, ""); }
  size_t unread() const { return to_server_.size(); }
  // How many write calls it took.
  size_t writes() const { return writes_; }

  // No read or write moves more bytes than this.
  void LimitReads(size_t bytes) { read_limit_ = bytes; }
  void LimitWrites(size_t bytes) { write_limit_ = bytes; }
  // The next writes return these errors (as negated errno) before one succeeds.
  void FailWrites(std::vector<int> errors) {
    write_errors_ = std::move(errors);
  }
  // Once the server has written so many bytes it gets the error, for good.
  void BreakAfter(size_t bytes, int error) {
    bytes_until_broken_ = bytes;
    broken_error_ = error;
  }
  // Files can be sent; each call moves no more bytes than LimitWrites() says.
  // `before` is called before each with the number of bytes that have been sent
  // so, and may return what the call is to return instead of sending (0, or a
  // negated errno), or 1 to go on.
  void AllowFiles(std::function<ssize_t(size_t)> before = [](size_t) {
    return 1;
  }) {
    before_file_ = std::move(before);
  }
  // A full send buffer: writes are refused, and poll() finds no room.
  void Stall(bool stall = true) { stalled_ = stall; }
  // The stream reads nothing before it has sent something, and says so.
  void OweOutput(bool owe) { owes_output_ = owe; }
  // From so many bytes on, of which there is one less at each look, the stream
  // tells what the client hasn't taken.
  void CountUnread(size_t bytes) {
    counts_unread_ = true;
    unread_bytes_ = bytes;
  }
  // As TCP does, poll() finds no room although writes succeed; from many bytes
  // on, the client takes so many between two looks.
  void ShowRoomLate(size_t taken_between_looks) {
    CountUnread(SIZE_MAX);
    shows_room_late_ = true;
    taken_between_looks_ = taken_between_looks;
  }
  // As TCP does, the stream tells what the client's machine has acknowledged:
  // so much more at each look. With `on_its_way` something always is.
  void TellAcknowledged(bool on_its_way, uint64_t more_at_each_look) {
    acknowledged_ = 0;
    acknowledged_at_each_look_ = more_at_each_look;
    counts_unread_ = true;
    unread_bytes_ = on_its_way ? SIZE_MAX : 0;
  }

 private:
  friend class MemoryStream;

  void EndWith(ssize_t result) {
    ended_ = true;
    end_result_ = result;
    Signal();
  }
  void Signal() {
    readable_.Clear();
    if (!to_server_.empty() || ended_) readable_.Set();
  }

  ssize_t Read(char* out, size_t size) {
    if (to_server_.empty()) return ended_ ? end_result_ : -EAGAIN;
    const size_t n = std::min({size, read_limit_, to_server_.size()});
    std::memcpy(out, to_server_.data(), n);
    to_server_.erase(0, n);
    Signal();
    return static_cast<ssize_t>(n);
  }

  ssize_t Write(const iovec* pieces, size_t count) {
    ++writes_;
    if (stalled_) return -EAGAIN;
    if (!write_errors_.empty()) {
      const int error = write_errors_.front();
      write_errors_.erase(write_errors_.begin());
      return error;
    }
    if (broken_error_ != 0 && bytes_until_broken_ == 0) return broken_error_;
    size_t room = write_limit_;
    if (broken_error_ != 0) room = std::min(room, bytes_until_broken_);
    size_t written = 0;
    for (size_t i = 0; i < count && room > 0; ++i) {
      const size_t n = std::min(room, pieces[i].iov_len);
      from_server_.append(static_cast<const char*>(pieces[i].iov_base), n);
      written += n;
      room -= n;
    }
    if (broken_error_ != 0) bytes_until_broken_ -= written;
    return static_cast<ssize_t>(written);
  }

  ssize_t SendFile(int file, uint64_t offset, size_t length) {
    if (const ssize_t instead = before_file_(file_bytes_); instead <= 0)
      return instead;
    std::string bytes(std::min(length, write_limit_), '\0');
    const ssize_t got =
        pread(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got <= 0) return got < 0 ? -errno : 0;
    from_server_.append(bytes, 0, static_cast<size_t>(got));
    file_bytes_ += static_cast<size_t>(got);
    return got;
  }

  std::string to_server_;
  std::string from_server_;
  std::function<ssize_t(size_t)> before_file_;
  size_t file_bytes_ = 0;
  bool ended_ = false;
  ssize_t end_result_ = 0;
  size_t read_limit_ = SIZE_MAX;
  size_t write_limit_ = SIZE_MAX;
  std::vector<int> write_errors_;
  size_t bytes_until_broken_ = 0;
  int broken_error_ = 0;
  bool stalled_ = false;
  bool owes_output_ = false;
  bool counts_unread_ = false;
  size_t unread_bytes_ = 0;
  bool shows_room_late_ = false;
  size_t taken_between_looks_ = 1;
  std::optional<uint64_t> acknowledged_;
  uint64_t acknowledged_at_each_look_ = 0;
  size_t writes_ = 0;
  Event readable_;
  Event writable_;  // an eventfd has room unless it is at its limit
  Event unwritable_;
};

class MemoryStream : public nbdinetd::Stream {
 public:
  explicit MemoryStream(MemoryPeer& peer) : peer_(peer) {
    // At this count one more would overflow, so that poll() finds no room.
    eventfd_write(peer_.unwritable_.fd(), UINT64_MAX - 1);
  }
  ssize_t Read(absl::Span<char> buffer) override {
    return peer_.Read(buffer.data(), buffer.size());
  }
  ssize_t Write(absl::Span<const iovec> pieces, bool) override {
    return peer_.Write(pieces.data(), pieces.size());
  }
  bool sends_files() const override { return peer_.before_file_ != nullptr; }
  ssize_t SendFile(int file, uint64_t offset, size_t length) override {
    return peer_.SendFile(file, offset, length);
  }
  void Abort() override { peer_.Close(); }
  bool has_output() const override { return peer_.owes_output_; }
  std::optional<size_t> unread_bytes() const override {
    if (!peer_.counts_unread_) return std::nullopt;
    const size_t bytes = peer_.unread_bytes_;
    peer_.unread_bytes_ -= std::min(bytes, peer_.taken_between_looks_);
    return bytes;
  }
  bool shows_room_late() const override { return peer_.shows_room_late_; }
  std::optional<uint64_t> acknowledged_bytes() const override {
    if (peer_.acknowledged_.has_value()) {
      *peer_.acknowledged_ += peer_.acknowledged_at_each_look_;
    }
    return peer_.acknowledged_;
  }
  int input_fd() const override { return peer_.readable_.fd(); }
  int output_fd() const override {
    return peer_.stalled_ || peer_.shows_room_late_ ? peer_.unwritable_.fd()
                                                    : peer_.writable_.fd();
  }

 private:
  MemoryPeer& peer_;
};

}  // namespace nbdtest

#endif  // NBDINETD_TESTS_SUPPORT_MEMORY_STREAM_H_
