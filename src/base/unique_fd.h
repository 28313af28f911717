// Owns one file descriptor.
//
// Invariant: a UniqueFd holds either -1 or a descriptor that no other owner
// closes. Threads: one at a time; move it to hand it over.
#ifndef NBDINETD_BASE_UNIQUE_FD_H_
#define NBDINETD_BASE_UNIQUE_FD_H_

#include <unistd.h>

#include <utility>

namespace nbdinetd {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) Reset(std::exchange(other.fd_, -1));
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { Reset(); }

  // The descriptor, borrowed; -1 when there is none.
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }

  // Closes the descriptor and takes ownership of `fd`. Errors of close(2) are
  // ignored: Linux releases the descriptor even if it returns one.
  void Reset(int fd = -1) {
    if (fd_ >= 0) close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_UNIQUE_FD_H_
