// Moves bytes to and from the peer.
//
// A Stream owns the peer's descriptors; no other code reads from them or writes
// to them. It never blocks and never raises SIGPIPE. Threads: one.
#ifndef NBDINETD_STREAM_STREAM_H_
#define NBDINETD_STREAM_STREAM_H_

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/types/span.h"
#include "base/unique_fd.h"

namespace nbdinetd {

// Returns false also if getsockopt(2) fails.
bool IsUnixSocket(int fd);

class Stream {
 public:
  // What Linux lets a TCP connection hold by default (net.ipv4.tcp_wmem).
  static constexpr size_t kTcpHeldBytes = 4 << 20;

  virtual ~Stream() = default;

  // Both return a positive number of bytes, or a negated errno (-EAGAIN: call
  // poll() first). Read returns 0 at the end of the stream.
  virtual ssize_t Read(absl::Span<char> buffer) = 0;
  // `more`: other bytes follow at once, and may share a packet with these.
  virtual ssize_t Write(absl::Span<const iovec> pieces, bool more = false) = 0;

  // True if bytes that are written to the descriptor are wire bytes (a plain
  // socket, kernel TLS), so that the kernel can send a file without copying it.
  virtual bool sends_files() const { return false; }
  // Sends from `file` as Write() does; only where sends_files() returns true.
  // Returns 0 when the file ends at `offset`, and a negated errno for an error
  // of the file or the stream.
  virtual ssize_t SendFile(int file, uint64_t offset, size_t length);

  // About the most that the kernel holds of what was written and the peer
  // hasn't received. Not the number of the moment: unread_bytes() is that.
  virtual size_t held_bytes() const { return kTcpHeldBytes; }

  // A hard disconnect: ends the connection in both directions. A socket stays
  // open until the destructor.
  virtual void Abort() = 0;

  // State that poll() doesn't report. has_input(): Read() has bytes, although
  // the descriptor may have none. has_output(): Read() must send before it can
  // return bytes, so the descriptor has to be writable.
  virtual bool has_input() const { return false; }
  virtual bool has_output() const { return false; }
  // The written bytes that the peer hasn't taken. The number is approximate:
  // only its changes are meaningful. nullopt where the kernel doesn't report
  // it.
  virtual std::optional<size_t> unread_bytes() const { return std::nullopt; }
  // True if poll() reports the descriptor as writable much later than it has
  // room: TCP's send buffer must first be free to a third.
  virtual bool shows_room_late() const { return false; }
  // The wire bytes that a TCP peer's machine has acknowledged; it only grows.
  // nullopt for others.
  virtual std::optional<uint64_t> acknowledged_bytes() const {
    return std::nullopt;
  }
  // After a failure that an errno doesn't describe, a phrase for the log.
  virtual std::string failure() const { return ""; }

  // For code that uses the descriptor without this class and must not wait.
  // O_NONBLOCK also affects holders of a duplicate; the destructor and Abort()
  // therefore clear it if it was set here.
  virtual void SetNonBlocking(bool) {}

  // For poll() only.
  virtual int input_fd() const = 0;
  virtual int output_fd() const = 0;
};

// A stream socket of any family. The destructor shuts it down before it closes
// it, so that the peer notices although another process holds a duplicate. Sent
// bytes still arrive.
//
// Holders of a duplicate share the file status flags, so these are left
// unchanged: each call passes MSG_DONTWAIT. sendfile(2) can't, so the socket
// gets the shortest SO_SNDTIMEO instead. SIGPIPE must be ignored before the
// first SendFile().
class SocketStream : public Stream {
 public:
  explicit SocketStream(UniqueFd socket);
  ~SocketStream() override;
  ssize_t Read(absl::Span<char> buffer) override;
  ssize_t Write(absl::Span<const iovec> pieces, bool more = false) override;
  bool sends_files() const override { return sends_files_; }
  ssize_t SendFile(int file, uint64_t offset, size_t length) override;
  // TCP: unacknowledged bytes. A Unix socket: unread bytes and the kernel's
  // memory to hold them.
  std::optional<size_t> unread_bytes() const override;
  bool shows_room_late() const override { return !is_unix_; }
  std::optional<uint64_t> acknowledged_bytes() const override;
  void SetNonBlocking(bool on) override;
  size_t held_bytes() const override;
  void Abort() override;
  int input_fd() const override { return socket_.get(); }
  int output_fd() const override { return socket_.get(); }

 private:
  void End();

  UniqueFd socket_;
  const bool is_unix_;
  bool aborted_ = false;
  bool sends_files_ = false;
  bool made_non_blocking_ = false;
};

// A pair of pipes, as from ssh. Other holders of an inherited pipe share its
// file status flags, so these are left unchanged: each pipe is opened anew with
// O_NONBLOCK where the process may do that. Otherwise it is polled before each
// call, and each write is short enough for a pipe that poll() reports as
// writable. SIGPIPE must be ignored.
class PipeStream : public Stream {
 public:
  PipeStream(UniqueFd input, UniqueFd output);
  ssize_t Read(absl::Span<char> buffer) override;
  ssize_t Write(absl::Span<const iovec> pieces, bool more = false) override;
  void Abort() override;
  int input_fd() const override { return input_.fd.get(); }
  int output_fd() const override { return output_.fd.get(); }

 private:
  struct End {
    UniqueFd fd;
    bool waits;  // a call on it may block
  };
  // `access` is O_RDONLY or O_WRONLY.
  static End Take(UniqueFd pipe, int access);

  End input_;
  End output_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_STREAM_STREAM_H_
