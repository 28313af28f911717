// Private copies (--cow): each client writes into a copy of its own, which is
// deleted when the connection ends. The file or block device is only read.
//
// Where the file system can, the copy is a clone (FICLONERANGE): made at once,
// and sharing its storage with the original until either is written to.
// Elsewhere an Overlay sends changes to a sparse file. Threads: one.
#ifndef NBDINETD_EXPORT_COPY_ON_WRITE_H_
#define NBDINETD_EXPORT_COPY_ON_WRITE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "export/catalog.h"
#include "export/copy_settings.h"
#include "export/export.h"

namespace nbdinetd {

// The file of a private copy.
class PrivateCopy {
 public:
  // Makes an empty file that has no name. AlreadyExists: it can't be made, and
  // the message says where and why; Internal: the process lacks descriptors or
  // memory.
  static absl::StatusOr<PrivateCopy> Create(const CopySettings& settings);

  int fd() const { return fd_.get(); }  // borrowed

  // A writable export, which is what `base` is now. The file becomes part of
  // it. Internal when that fails.
  absl::StatusOr<std::shared_ptr<Export>> Of(std::shared_ptr<Export> base) &&;

 private:
  PrivateCopy(UniqueFd fd, uint64_t max_bytes)
      : fd_(std::move(fd)), max_bytes_(max_bytes) {}

  UniqueFd fd_;
  uint64_t max_bytes_;
};

// What PrivateCopy::Of() will make of the read-only `base`, for promises: it
// shows what is in `base`, and nothing can be written to it yet.
std::shared_ptr<Export> PromiseOfCopy(std::shared_ptr<Export> base);

// The exports of `inner`, which are read-only, as writable ones: a client gets
// a copy of the one that it chooses.
std::unique_ptr<Catalog> WithPrivateCopies(std::unique_ptr<Catalog> inner,
                                           PrivateCopy copy);

// The directory of the copies by `settings`, which aren't in memory; empty for
// kept copies without one.
std::string CopyDirectory(const CopySettings& settings);

// Where the copies by `settings` are, for messages: memory, or a directory in
// quotes.
std::string CopyPlace(const CopySettings& settings);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_COPY_ON_WRITE_H_
