// The bytes to and from the peer.
//
// A Stream owns the peer's descriptors; nobody else reads from them or writes
// to them. It never blocks and never raises SIGPIPE. Threads: one.
#ifndef NBDINETD_STREAM_STREAM_H_
#define NBDINETD_STREAM_STREAM_H_

#include <sys/types.h>
#include <sys/uio.h>

#include <string>

#include "absl/types/span.h"
#include "base/unique_fd.h"

namespace nbdinetd {

class Stream {
 public:
  virtual ~Stream() = default;

  // Both return a positive number of bytes, or a negated errno (-EAGAIN when
  // poll() should be asked first). Read returns 0 at the end of the stream.
  virtual ssize_t Read(absl::Span<char> buffer) = 0;
  virtual ssize_t Write(absl::Span<const iovec> pieces) = 0;

  // Ends the connection at once, in both directions: a hard disconnect, though
  // the descriptors stay open until the end.
  virtual void Abort() = 0;

  // What poll() can't know. has_input(): Read() has something to return although
  // the descriptor may have nothing. has_output(): the next Read() also has
  // something to send, for which the descriptor should be writable.
  virtual bool has_input() const { return false; }
  virtual bool has_output() const { return false; }
  // After a failure that is more than an errno, a phrase for the log.
  virtual std::string failure() const { return ""; }

  // For poll() only.
  virtual int input_fd() const = 0;
  virtual int output_fd() const = 0;
};

// A stream socket of any family.
class SocketStream : public Stream {
 public:
  explicit SocketStream(UniqueFd socket) : socket_(std::move(socket)) {}
  ssize_t Read(absl::Span<char> buffer) override;
  ssize_t Write(absl::Span<const iovec> pieces) override;
  void Abort() override;
  int input_fd() const override { return socket_.get(); }
  int output_fd() const override { return socket_.get(); }

 private:
  UniqueFd socket_;
};

// A pair of pipes, as from ssh. They are made non-blocking, and set back at the
// end: the other holders of an inherited pipe share its flags. The process must
// ignore SIGPIPE.
class PipeStream : public Stream {
 public:
  PipeStream(UniqueFd input, UniqueFd output);
  ~PipeStream() override;
  ssize_t Read(absl::Span<char> buffer) override;
  ssize_t Write(absl::Span<const iovec> pieces) override;
  void Abort() override;
  int input_fd() const override { return input_.get(); }
  int output_fd() const override { return output_.get(); }

 private:
  UniqueFd input_;
  UniqueFd output_;
  int input_flags_;
  int output_flags_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_STREAM_STREAM_H_
