// The file of --log=/PATH, to which messages are appended.
//
// Each message is one write(2) with O_APPEND: on a local file system, lines of
// several processes don't mix. A program that rotates logs may rename the file
// at any time: Follow() then opens a new one. In the sandbox, which forbids to
// open files, a process keeps the file that it has. Threads: the main thread
// only.
#ifndef NBDINETD_BASE_LOG_FILE_H_
#define NBDINETD_BASE_LOG_FILE_H_

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"

namespace nbdinetd {

class LogFile {
 public:
  // Opens the file at `path`, which is absolute, or creates it with mode 0640.
  // AlreadyExists when that fails, or when it is neither a regular file nor a
  // character device: a pipe could be a client's.
  static absl::StatusOr<LogFile> Open(std::string path);

  int fd() const { return fd_.get(); }

  // Appends `line`. A line that can't be written is dropped.
  void Append(absl::string_view line) const;

  // Opens the file anew if `path` leads to another file now, or to none. If
  // that fails, the object keeps the file that it has.
  void Follow();

 private:
  LogFile(std::string path, UniqueFd fd)
      : path_(std::move(path)), fd_(std::move(fd)) {}

  std::string path_;
  UniqueFd fd_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_LOG_FILE_H_
