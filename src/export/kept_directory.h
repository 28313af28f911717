// The directory of kept copies, as the process of a connection uses it.
//
// It is opened before the sandbox is entered, and so is an empty file for a new
// copy: the client, and therefore its copy, is known only inside. The
// descriptor copy_fd() has one number from the start to the end, which the
// sandbox knows: whatever copy the client turns out to have is put there
// (dup3). A new copy gets its name last (linkat), when all of it is on stable
// storage: a name without a whole copy never exists.
//
// Where the file system can't make a file without a name, the file for a new
// copy has a hidden one, and the lock of ExclusiveLock from the start. A
// process that is killed leaves it, without the lock; the next one that needs
// such a file deletes it, an hour later at the earliest.
//
// System calls after Open(): openat2, dup3, linkat or, where a file needs a
// name from the start, renameat2; unlinkat; fsync. Threads: one.
#ifndef NBDINETD_EXPORT_KEPT_DIRECTORY_H_
#define NBDINETD_EXPORT_KEPT_DIRECTORY_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace nbdinetd {

class KeptDirectory {
 public:
  // AlreadyExists: no copy can be made in the directory, and the message says
  // why; Internal: the process lacks descriptors or memory.
  static absl::StatusOr<KeptDirectory> Open(const std::string& path);

  KeptDirectory(KeptDirectory&& other) noexcept;
  KeptDirectory& operator=(KeptDirectory&&) = delete;
  ~KeptDirectory() { RemoveUnnamed(); }

  int fd() const { return fd_.get(); }         // borrowed
  int copy_fd() const { return copy_.get(); }  // borrowed
  const std::string& path() const { return path_; }

  // Puts the copy `name` behind copy_fd(), or a file for a new one if there is
  // none. True: it was there.
  absl::StatusOr<bool> Take(const std::string& name);
  // Whether the copy that Take() has found has lost its name since.
  bool IsGone() const;
  // Gives the new copy, which is on stable storage, its name. 0 or an errno
  // value; EEXIST: another one has got that meanwhile.
  int Name(const std::string& name);
  // Removes the copy `name`, which is behind copy_fd(), and locked. 0 or an
  // errno value.
  int Remove(const std::string& name);

  // copy_fd() now belongs to the caller. Take() doesn't work any more.
  UniqueFd Release();

 private:
  KeptDirectory(std::string path, UniqueFd fd)
      : path_(std::move(path)), fd_(std::move(fd)) {}

  // Makes a locked file that has a hidden name. 0 or an errno value.
  int MakeNamed();
  // Deletes the files of processes that have ended before they named them.
  void RemoveLeftovers();
  // Makes the file for a new copy. Sets new_error_ if that fails for want of
  // space: the client may have a copy already.
  absl::Status MakeNew();
  // Deletes the file for a new copy that has got no other name.
  void RemoveUnnamed();

  std::string path_;
  UniqueFd fd_;
  UniqueFd new_;
  // Of the file of a new copy, where it can't be made without; empty once that
  // is gone.
  std::string new_name_;
  // copy_ is new_, which then stays open: closing it would release the lock of
  // the holder (ExclusiveLock), as closing any descriptor of a file does.
  bool took_new_ = false;
  int new_error_ = 0;
  UniqueFd copy_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_KEPT_DIRECTORY_H_
