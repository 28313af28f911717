#include "descriptors.h"

#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "fuzz/simulation.h"

namespace nbdfuzz {
namespace {

thread_local Descriptors* current = nullptr;

mode_t TypeOf(Descriptors::Kind kind) {
  switch (kind) {
    case Descriptors::Kind::kConnection:
    case Descriptors::Kind::kListener:
    case Descriptors::Kind::kDatagram:
      return S_IFSOCK;
    case Descriptors::Kind::kFile:
      return S_IFREG;
    case Descriptors::Kind::kBlockDevice:
      return S_IFBLK;
    case Descriptors::Kind::kPipe:
      return S_IFIFO;
    case Descriptors::Kind::kFolder:
      return S_IFDIR;
    default:
      return S_IFCHR;
  }
}

}  // namespace

Descriptors::Descriptors() { current = this; }
Descriptors::~Descriptors() { current = nullptr; }
Descriptors* Descriptors::Current() { return current; }

Descriptors::Descriptor* Descriptors::Find(int fd) {
  const auto found = table_.find(fd);
  return found == table_.end() ? nullptr : &found->second;
}

int Descriptors::Duplicate(int fd, int lowest) {
  const Descriptor* old = Find(fd);
  if (old == nullptr) return -EBADF;
  int to = lowest;
  while (table_.count(to) != 0) ++to;
  if (to >= kMax) return -EMFILE;
  const File file = old->file;
  table_[to] = {file, /*close_on_exec=*/true};
  return to;
}

int Descriptors::DuplicateTo(int fd, int to) {
  const Descriptor* old = Find(fd);
  if (old == nullptr || to < 0) return -EBADF;
  const File file = old->file;
  table_[to] = {file, /*close_on_exec=*/false};
  return to;
}

int Descriptors::OpenNull() {
  int fd = 0;
  while (table_.count(fd) != 0) ++fd;
  if (fd >= kMax) return -EMFILE;
  Add(fd, {Kind::kNull, -1});
  return fd;
}

int Descriptors::Close(int fd) {
  Require(table_.erase(fd) == 1, "a descriptor is closed that isn't open");
  return 0;
}

int Descriptors::Stat(int fd, struct stat* st) {
  const Descriptor* found = Find(fd);
  if (found == nullptr) return -EBADF;
  *st = {};
  st->st_mode = TypeOf(found->file.kind);
  st->st_dev = 1;
  st->st_ino = static_cast<ino_t>(found->file.number + 2);
  return 0;
}

int Descriptors::SocketOption(int fd, int option, int* value) {
  const Descriptor* found = Find(fd);
  if (found == nullptr) return -EBADF;
  const Kind kind = found->file.kind;
  if (TypeOf(kind) != S_IFSOCK) return -ENOTSOCK;
  switch (option) {
    case SO_TYPE:
      *value = kind == Kind::kDatagram ? SOCK_DGRAM : SOCK_STREAM;
      return 0;
    case SO_ACCEPTCONN:
      *value = kind == Kind::kListener ? 1 : 0;
      return 0;
    default:
      return -ENOPROTOOPT;
  }
}

int Descriptors::PeerAddress(int fd, sockaddr* address, socklen_t* length) {
  const Descriptor* found = Find(fd);
  if (found == nullptr) return -EBADF;
  sockaddr_storage peer = {};
  socklen_t size = 0;
  switch (found->file.family % 6) {
    case 0: {
      peer.ss_family = AF_UNIX;
      size = sizeof(sa_family_t);
      break;
    }
    case 1: {
      auto* in = reinterpret_cast<sockaddr_in*>(&peer);
      in->sin_family = AF_INET;
      in->sin_port = htons(40000);
      in->sin_addr.s_addr = htonl(0x7f000001);
      size = sizeof(*in);
      break;
    }
    case 2:
    case 3: {
      auto* in6 = reinterpret_cast<sockaddr_in6*>(&peer);
      in6->sin6_family = AF_INET6;
      in6->sin6_port = htons(40000);
      in6->sin6_addr = in6addr_loopback;
      if (found->file.family % 6 == 3) {
        std::memset(&in6->sin6_addr, 0, 16);
        in6->sin6_addr.s6_addr[10] = in6->sin6_addr.s6_addr[11] = 0xff;
      }
      size = sizeof(*in6);
      break;
    }
    case 4: {
      auto* vm = reinterpret_cast<sockaddr_vm*>(&peer);
      vm->svm_family = AF_VSOCK;
      vm->svm_cid = 7;
      size = sizeof(*vm);
      break;
    }
    default:
      return -ENOTCONN;
  }
  std::memcpy(address, &peer, std::min(*length, size));
  *length = size;
  return 0;
}

int Descriptors::Shutdown(int fd) {
  const Descriptor* found = Find(fd);
  if (found == nullptr) return -EBADF;
  Require(found->file.kind != Kind::kListener,
          "a listening socket is shut down, which others may go on with");
  if (TypeOf(found->file.kind) != S_IFSOCK) return -ENOTSOCK;
  ended_.insert(found->file.number);
  return 0;
}

namespace {

template <typename T>
T Result(T value) {
  if (value >= 0) return value;
  errno = static_cast<int>(-value);
  return -1;
}

}  // namespace
}  // namespace nbdfuzz

extern "C" {

using nbdfuzz::Descriptors;
using nbdfuzz::Result;

int __real_fcntl(int, int, long);
int __wrap_fcntl(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  const long argument = va_arg(list, long);
  va_end(list);
  Descriptors* descriptors = Descriptors::Current();
  if (descriptors == nullptr) return __real_fcntl(fd, command, argument);
  Descriptors::Descriptor* found = descriptors->Find(fd);
  if (found == nullptr) return Result(-EBADF);
  switch (command) {
    case F_GETFD:
      return found->close_on_exec ? FD_CLOEXEC : 0;
    case F_SETFD:
      found->close_on_exec = (argument & FD_CLOEXEC) != 0;
      return 0;
    case F_DUPFD_CLOEXEC:
      return Result(descriptors->Duplicate(fd, static_cast<int>(argument)));
    default:
      nbdfuzz::Require(false, "a kind of fcntl() that is not simulated");
      return -1;
  }
}

int __real_fstat(int, struct stat*);
int __wrap_fstat(int fd, struct stat* st) {
  Descriptors* descriptors = Descriptors::Current();
  return descriptors == nullptr ? __real_fstat(fd, st)
                                : Result(descriptors->Stat(fd, st));
}

int __real_dup2(int, int);
int __wrap_dup2(int fd, int to) {
  Descriptors* descriptors = Descriptors::Current();
  return descriptors == nullptr ? __real_dup2(fd, to)
                                : Result(descriptors->DuplicateTo(fd, to));
}

int __real_close(int);
int __wrap_close(int fd) {
  Descriptors* descriptors = Descriptors::Current();
  return descriptors == nullptr ? __real_close(fd)
                                : Result(descriptors->Close(fd));
}

int __real_open(const char*, int, int);
int __wrap_open(const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const int mode = va_arg(list, int);
  va_end(list);
  Descriptors* descriptors = Descriptors::Current();
  if (descriptors == nullptr) return __real_open(path, flags, mode);
  nbdfuzz::Require(std::strcmp(path, "/dev/null") == 0,
                   "a file is opened on the way to the sockets");
  return Result(descriptors->OpenNull());
}

int __real_isatty(int);
int __wrap_isatty(int fd) {
  Descriptors* descriptors = Descriptors::Current();
  if (descriptors == nullptr) return __real_isatty(fd);
  const Descriptors::Descriptor* found = descriptors->Find(fd);
  return found != nullptr && found->file.kind == Descriptors::Kind::kTerminal;
}

int __real_getsockopt(int, int, int, void*, socklen_t*);
int __wrap_getsockopt(int fd, int level, int option, void* value,
                      socklen_t* length) {
  Descriptors* descriptors = Descriptors::Current();
  if (descriptors == nullptr || level != SOL_SOCKET) {
    return __real_getsockopt(fd, level, option, value, length);
  }
  return Result(
      descriptors->SocketOption(fd, option, static_cast<int*>(value)));
}

int __real_getpeername(int, sockaddr*, socklen_t*);
int __wrap_getpeername(int fd, sockaddr* address, socklen_t* length) {
  Descriptors* descriptors = Descriptors::Current();
  return descriptors == nullptr
             ? __real_getpeername(fd, address, length)
             : Result(descriptors->PeerAddress(fd, address, length));
}

int __real_shutdown(int, int);
int __wrap_shutdown(int fd, int how) {
  Descriptors* descriptors = Descriptors::Current();
  return descriptors == nullptr ? __real_shutdown(fd, how)
                                : Result(descriptors->Shutdown(fd));
}

}  // extern "C"
