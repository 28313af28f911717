// Answers requests that failed: the client gets an NBD error and a sentence,
// the log the same sentence with the export's path.
//
// Threads: one.
#ifndef NBDINETD_TRANSMISSION_FAILURE_REPLIES_H_
#define NBDINETD_TRANSMISSION_FAILURE_REPLIES_H_

#include <cstdint>
#include <string>

#include "base/log.h"
#include "export/export.h"
#include "export/storage_error.h"
#include "protocol/request.h"
#include "transmission/reply_sender.h"

namespace nbdinetd {

class FailureReplies {
 public:
  // All borrowed.
  FailureReplies(const Export& target, ReplySender& replies, const Log& log)
      : target_(target), replies_(replies), log_(log) {}

  // Answers the request with the error, and logs it, but for NBD_ENOTSUP.
  // `offset` is where the request failed; the client gets it for a read, and
  // for another request if it failed behind its beginning.
  void Answer(const Request& request, StorageError error, uint64_t offset);
  // Logs the error, up to kMaxStorageErrorsLogged of them.
  void LogError(const Request& request, StorageError error);
  // "read of 4096 bytes at offset 8192 failed: Input/output error".
  static std::string Sentence(const Request& request, StorageError error);

 private:
  const Export& target_;
  ReplySender& replies_;
  const Log& log_;
  int logged_ = 0;
};

}  // namespace nbdinetd

#endif  // NBDINETD_TRANSMISSION_FAILURE_REPLIES_H_
