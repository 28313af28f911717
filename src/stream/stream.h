// The bytes to and from the peer.
//
// A Stream owns the peer's descriptors; nobody else reads from them or writes
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

// False, too, when it can't be told.
bool IsUnixSocket(int fd);

class Stream {
 public:
  virtual ~Stream() = default;

  // Both return a positive number of bytes, or a negated errno (-EAGAIN when
  // poll() should be asked first). Read returns 0 at the end of the stream.
  virtual ssize_t Read(absl::Span<char> buffer) = 0;
  // `more`: something follows at once, and may share a packet with this.
  virtual ssize_t Write(absl::Span<const iovec> pieces, bool more = false) = 0;

  // Whether bytes written to the descriptor are the bytes of the wire (a plain
  // socket, kernel TLS), so that the kernel can send a file's without copying
  // them.
  virtual bool sends_files() const { return false; }
  // Sends from `file`, as Write() does; only where sends_files(). 0 when the
  // file ends at `offset`. A negated errno may be the file's or the stream's.
  virtual ssize_t SendFile(int file, uint64_t offset, size_t length);

  // Ends the connection at once, in both directions: a hard disconnect, though
  // the descriptors stay open until the end.
  virtual void Abort() = 0;

  // What poll() can't know. has_input(): Read() has something to return
  // although the descriptor may have nothing. has_output(): Read() returns
  // nothing before it has sent something, for which the descriptor has to be
  // writable.
  virtual bool has_input() const { return false; }
  virtual bool has_output() const { return false; }
  // How much of what was written the peer hasn't taken: in bytes, more or less,
  // so that only a difference tells something. Nothing where the kernel doesn't
  // say.
  virtual std::optional<size_t> unread_bytes() const { return std::nullopt; }
  // How much of what was written a TCP peer's machine has acknowledged, in
  // bytes of the wire; it only grows. Nothing elsewhere.
  virtual std::optional<uint64_t> acknowledged_bytes() const {
    return std::nullopt;
  }
  // After a failure that is more than an errno, a phrase for the log.
  virtual std::string failure() const { return ""; }

  // For who has to use the descriptor by other means than this, and without
  // waiting. Holders of a duplicate share that; so it is taken back at the end,
  // if it wasn't before, and Abort() is one.
  virtual void SetNonBlocking(bool) {}

  // For poll() only.
  virtual int input_fd() const = 0;
  virtual int output_fd() const = 0;
};

// A stream socket of any family. Its end is shut down before it is closed, so
// that the peer hears of it though somebody else holds a duplicate; what has
// been sent still arrives.
//
// Those who hold a duplicate share the file status flags, so that these are
// left as they are: each call says by itself that it doesn't wait. sendfile(2)
// can't; the socket gets a timeout for sending instead, the shortest there is.
// SIGPIPE has to be ignored by the first SendFile().
class SocketStream : public Stream {
 public:
  explicit SocketStream(UniqueFd socket);
  ~SocketStream() override;
  ssize_t Read(absl::Span<char> buffer) override;
  ssize_t Write(absl::Span<const iovec> pieces, bool more = false) override;
  bool sends_files() const override { return sends_files_; }
  ssize_t SendFile(int file, uint64_t offset, size_t length) override;
  // TCP: what isn't acknowledged. A Unix socket: with what the kernel needs to
  // hold it.
  std::optional<size_t> unread_bytes() const override;
  std::optional<uint64_t> acknowledged_bytes() const override;
  void SetNonBlocking(bool on) override;
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
// file status flags, so that these are left as they are: each pipe is opened
// anew, without waiting, where the process may do that. Else it is asked before
// each call, and written to in pieces for which a pipe always has room when
// poll() says so. SIGPIPE has to be ignored.
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
    bool waits;  // a call on it may
  };
  // `access` is O_RDONLY or O_WRONLY.
  static End Take(UniqueFd pipe, int access);

  End input_;
  End output_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_STREAM_STREAM_H_
