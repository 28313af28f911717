// Asks a server for one export, as any client would: the handshake, and on
// request a read.
//
// All that the server sends is bounded in length and number, and every wait
// ends at the handshake's limit of the channel. Threads: one.
#ifndef NBDINETD_CTL_EXPORT_PROBE_H_
#define NBDINETD_CTL_EXPORT_PROBE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "protocol/client.h"
#include "stream/channel.h"
#include "stream/tls.h"

namespace nbdinetd::ctl {

class ExportProbe {
 public:
  // `channel` is borrowed; BeginHandshake() has set its limit.
  explicit ExportProbe(Channel& channel) : channel_(channel) {}

  // Receives the greeting, and answers it. An error has a sentence about the
  // server.
  absl::Status Greet();

  // After Greet(): goes on over TLS, which the server must have. `tls` is a
  // client's, and must outlive the channel.
  absl::Status StartTls(const Tls& tls);

  // After Greet(): asks by NBD_OPT_INFO, which claims nothing: an export that
  // one client alone may use (--exclusive) stays with its client. Then leaves.
  absl::StatusOr<ExportInformation> Ask(absl::string_view export_name);

  // After Greet(): chooses the export by NBD_OPT_GO, reads its first sector,
  // and disconnects.
  absl::StatusOr<ExportInformation> Read(absl::string_view export_name);

 private:
  // The next `bytes` of the input, until the next call; at most kInputBytes.
  absl::StatusOr<absl::string_view> Take(size_t bytes, const char* what);
  absl::Status Send(const std::string& message);
  struct OptionReply {
    uint32_t type;
    absl::string_view payload;  // until the next message is taken
  };
  // The next reply to this option; that the server refuses it is an error.
  absl::StatusOr<OptionReply> TakeReply(NbdOption option,
                                        absl::string_view export_name);
  absl::StatusOr<ExportInformation> AskBy(NbdOption option,
                                          absl::string_view export_name);
  absl::Status ReadSector(const ExportInformation& information);

  Channel& channel_;
  size_t taken_ = 0;  // of the input
  bool over_tls_ = false;
};

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_EXPORT_PROBE_H_
