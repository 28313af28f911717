#include "transmission/failure_replies.h"

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/limits.h"
#include "protocol/nbd_error.h"

namespace nbdinetd {
namespace {

MessageId KindOf(const Request& request, StorageError error) {
  if (error == ENOSPC || error == EDQUOT) return message_id::kOutOfSpace;
  return request.type == NBD_CMD_FLUSH ? message_id::kFailedFlush
                                       : message_id::kStorageError;
}

}  // namespace

std::string FailureReplies::Sentence(const Request& request,
                                     StorageError error) {
  const absl::string_view reason =
      error.truncated
          ? "the file has been truncated, and ends before the export does"
          : absl::NullSafeStringView(strerrordesc_np(error.number));
  return absl::StrCat(CommandName(request.type), " of ", request.length,
                      " bytes at offset ", request.offset, " failed: ", reason);
}

void FailureReplies::Answer(const Request& request, StorageError error,
                            uint64_t offset) {
  const std::string sentence = Sentence(request, error);
  // NBD_ENOTSUP says that zeroes are no faster than writing them, and is no
  // storage error. To other requests the server "SHOULD NOT return NBD_ENOTSUP"
  // ("Error values").
  const bool is_answer =
      error == EOPNOTSUPP && request.has(NBD_CMD_FLAG_FAST_ZERO);
  if (!is_answer) LogError(request, error);
  const NbdError nbd_error = is_answer ? NBD_ENOTSUP : NbdErrorOf(error.number);
  if (request.type == NBD_CMD_READ || offset != request.offset) {
    replies_.ErrorAt(request, nbd_error, sentence, offset);
  } else {
    replies_.Error(request, nbd_error, sentence);
  }
}

void FailureReplies::LogError(const Request& request, StorageError error) {
  if (++logged_ > kMaxStorageErrorsLogged) return;
  const std::string sentence = Sentence(request, error);
  log_.Write(Priority::kError, KindOf(request, error),
             absl::StrCat(Quoted(target_.path()), ": ", sentence,
                          logged_ == kMaxStorageErrorsLogged
                              ? "; further errors are only counted"
                              : ""),
             {{"NBD_REASON", sentence}});
}

}  // namespace nbdinetd
