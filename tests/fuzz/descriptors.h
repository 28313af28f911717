// The descriptors of a process that has been started by somebody: a table that
// exists for one input.
//
// While a Descriptors lives, what src/ does with descriptors that are in it, or
// could be, by fcntl(), fstat(), getsockopt(), getpeername(), dup2(), close()
// and open() ends up here (--wrap), so that a superserver's mistakes can be
// tried without making them to the process of the fuzz target. Threads: one.

#ifndef NBDINETD_TESTS_FUZZ_DESCRIPTORS_H_
#define NBDINETD_TESTS_FUZZ_DESCRIPTORS_H_

#include <sys/socket.h>
#include <sys/stat.h>

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>

namespace nbdfuzz {

class Descriptors {
 public:
  enum class Kind : uint8_t {
    kClosed,
    kConnection,
    kListener,
    kDatagram,
    kFile,
    kBlockDevice,
    kPipe,
    kTerminal,
    kFolder,
    kNull,
    kKinds,
  };
  struct File {
    Kind kind;
    int number;  // the same number is the same file
    uint8_t family = 0;
  };
  struct Descriptor {
    File file;
    bool close_on_exec = false;
  };
  // Beyond this nothing is open, and a new descriptor isn't to be had.
  static constexpr int kMax = 64;

  Descriptors();
  ~Descriptors();
  Descriptors(const Descriptors&) = delete;
  Descriptors& operator=(const Descriptors&) = delete;
  static Descriptors* Current();

  void Add(int fd, File file) { table_[fd] = {file}; }
  // nullptr when it isn't open.
  Descriptor* Find(int fd);
  size_t count() const { return table_.size(); }

  // The system calls: results as theirs, errors as negated errno.
  int Duplicate(int fd, int lowest);
  int DuplicateTo(int fd, int to);
  int OpenNull();
  int Close(int fd);
  int Stat(int fd, struct stat* st);
  int SocketOption(int fd, int option, int* value);
  int PeerAddress(int fd, sockaddr* address, socklen_t* length);
  int Shutdown(int fd);

  // Whether a connection has been shut down.
  bool has_ended(const File& file) const {
    return ended_.count(file.number) != 0;
  }

 private:
  std::set<int> ended_;
  std::map<int, Descriptor> table_;
};

}  // namespace nbdfuzz

#endif  // NBDINETD_TESTS_FUZZ_DESCRIPTORS_H_
