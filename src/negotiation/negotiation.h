// The handshake phase: greeting, client flags and option haggling, up to the
// choice of an export.
//
// Invariant: all that has been negotiated lives in one Negotiation object. An
// upgrade to TLS must start a new one, since nothing from before may be kept
// (NBD_OPT_STARTTLS in the specification). Threads: one.
#ifndef NBDINETD_NEGOTIATION_NEGOTIATION_H_
#define NBDINETD_NEGOTIATION_NEGOTIATION_H_

#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/exit_status.h"
#include "base/log.h"
#include "export/catalog.h"
#include "export/exclusive.h"
#include "protocol/option.h"
#include "protocol/reply.h"
#include "protocol/request.h"
#include "stream/channel.h"
#include "stream/tls.h"

namespace nbdinetd {

// What a client and we have agreed on when transmission starts.
struct Negotiated {
  std::shared_ptr<Export> target;
  std::string export_name;  // as the client spelled it
  // Why it is read-only though nobody asked for that; mostly empty.
  std::string read_only_reason;
  Promises promises;
  ReplyStyle style = ReplyStyle::kSimple;
};

// A client has been told to begin with TLS. All that is kept of what came
// before: when the handshake's time is over, and the client flags, which are
// sent once.
struct TlsUpgrade {
  absl::Time deadline;
  bool no_zeroes = false;
};

// The id of base:allocation, the one metadata context there is.
inline constexpr uint32_t kBaseAllocationId = 1;

class Negotiation {
 public:
  // All borrowed. `time_limit` is for all of it, counted from Run().
  Negotiation(Channel& channel, Catalog& catalog, const Log& log,
              absl::Duration time_limit, TlsMode tls = TlsMode::kOff)
      : channel_(channel),
        catalog_(catalog),
        log_(log),
        time_limit_(time_limit),
        tls_(tls) {}
  // Over TLS, behind the handshake.
  Negotiation(Channel& channel, Catalog& catalog, const Log& log,
              absl::Duration time_limit, const TlsUpgrade& upgrade)
      : channel_(channel),
        catalog_(catalog),
        log_(log),
        time_limit_(time_limit),
        tls_(TlsMode::kRequire),
        secure_(true),
        deadline_(upgrade.deadline),
        no_zeroes_(upgrade.no_zeroes) {}

  // Whether the export that is chosen must be nobody else's; before Run().
  void set_exclusive(Exclusive exclusive) { exclusive_ = exclusive; }

  // Sends the greeting, unless there was one, and haggles until the client has
  // chosen an export, or is to begin with TLS, or the connection has ended, for
  // the reason given. Called once. The channel is in a handshake until an
  // export is chosen.
  std::variant<Negotiated, TlsUpgrade, Ending> Run();

 private:
  // One row of the table of options.
  struct Rule {
    uint32_t option;
    const char* name;
    // A longer payload is refused before it is looked at.
    uint32_t max_payload_bytes;
    void (Negotiation::*handle)(absl::string_view payload,
                                OptionReplies& replies);
  };
  static const Rule* FindRule(uint32_t option);

  // The export can't be locked for a client.
  struct NotLocked {
    // What it is told, where the option has error replies.
    NbdOptionReply reply;
    std::string sentence;
    // How the connection ends if it has to: the option has none, or `over`.
    Ending ending;
    bool over;
  };

  // True when the input holds at least `n` bytes; else the connection has
  // ended, and ending_ says why.
  bool Require(size_t n);
  // Reads `n` bytes away; false as with Require.
  bool Discard(uint64_t n);
  // Ends the connection (a hard disconnect, unless the client asked for it).
  void End(ExitStatus status, std::string reason);
  bool Greet();
  void NoteInUse();
  bool ReadClientFlags();
  bool ReadOption();
  bool HandleOption(const OptionHeader& header);
  // Why an option of which only the header is known can't be carried out.
  struct Refusal;
  std::optional<Refusal> WhyRefused(const OptionHeader& header,
                                    const Rule* rule) const;
  // Answers the option so, or ends the connection where there is no such
  // answer.
  bool Refuse(const OptionHeader& header, const Refusal& refusal);
  bool SendReplies(const OptionReplies& replies);
  // The handshake's time is over, or the time that a shutdown leaves.
  void EndTimedOut();
  // The peer took no more of what was sent: it timed out, or left.
  void EndUnsent(ExitStatus if_gone, std::string reason_if_gone);

  void OnExportName(absl::string_view payload, OptionReplies& replies);
  void OnAbort(absl::string_view payload, OptionReplies& replies);
  void OnList(absl::string_view payload, OptionReplies& replies);
  void OnStartTls(absl::string_view payload, OptionReplies& replies);
  void OnInfo(absl::string_view payload, OptionReplies& replies);
  void OnGo(absl::string_view payload, OptionReplies& replies);
  void OnStructuredReply(absl::string_view payload, OptionReplies& replies);
  void OnListMetaContext(absl::string_view payload, OptionReplies& replies);
  void OnSetMetaContext(absl::string_view payload, OptionReplies& replies);

  // Answers INFO or GO. False after an error reply; else described_ is the
  // export that was asked for.
  bool DescribeExport(const InfoRequest& request, OptionReplies& replies);
  // Answers an option whose export can't be had, for the catalog's reason.
  void RefuseExport(const absl::Status& status, OptionReplies& replies);
  void LogOpenError(const absl::Status& status);
  // Sends replies before there are all of them. False when the connection has
  // ended.
  bool SendSoFar(OptionReplies& replies);
  // Answers LIST_META_CONTEXT or SET_META_CONTEXT, and selects for the latter.
  void AnswerMetaContext(absl::string_view payload, NbdOption option,
                         OptionReplies& replies);
  // Locks the export under --exclusive (negotiation_lock.cc), and may wait for
  // that; meanwhile the input may move. nullopt when it has succeeded.
  std::optional<NotLocked> LockExport(const Export& target,
                                      const std::string& name);
  // Waits until another try is due: until `pause` is over, or `holder_fd` is
  // readable. A value when there is nothing to wait for any more.
  std::optional<NotLocked> WaitForHolder(int holder_fd, absl::Duration pause,
                                         const std::string& name);
  NotLocked InUse(const std::string& name, absl::string_view sentence);
  Promises PromisesFor(const Export& target,
                       absl::string_view export_name) const;
  void EnterTransmission(const Catalog::Opened& opened,
                         absl::string_view export_name);

  static constexpr char kShuttingDown[] = "the server is shutting down";

  Channel& channel_;
  Catalog& catalog_;
  const Log& log_;
  const absl::Duration time_limit_;
  TlsMode tls_;
  const bool secure_ = false;
  Exclusive exclusive_ = Exclusive::kOff;

  // Of the whole handshake.
  absl::Time deadline_ = absl::InfiniteFuture();
  bool no_zeroes_ = false;
  bool structured_replies_ = false;
  // The name for which base:allocation was selected.
  std::optional<std::string> base_allocation_for_;
  // The export that the client was refused last, since it is in use.
  std::optional<std::string> in_use_;

  bool start_tls_ = false;
  // What the option before this one has described, if it was NBD_OPT_INFO.
  struct Described {
    std::string asked_name;
    Catalog::Opened opened;
  };
  std::optional<Described> described_;
  int open_errors_logged_ = 0;

  std::optional<Negotiated> negotiated_;
  std::optional<Ending> ending_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_NEGOTIATION_NEGOTIATION_H_
