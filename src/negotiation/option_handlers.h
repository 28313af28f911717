// Answers each option of a client: a payload goes in, replies come out.
//
// OptionHandlers owns all that option haggling has agreed on so far. It does no
// input or output: the caller reads payloads, sends replies, logs, and waits.
// A new option is a row of the table in option_handlers.cc and a handler.
//
// Invariant: one object serves one negotiation. An upgrade to TLS needs a new
// one, since nothing from before may be kept (NBD_OPT_STARTTLS). Threads: one.
#ifndef NBDINETD_NEGOTIATION_OPTION_HANDLERS_H_
#define NBDINETD_NEGOTIATION_OPTION_HANDLERS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/exit_status.h"
#include "export/catalog.h"
#include "export/exclusive.h"
#include "negotiation/negotiated.h"
#include "negotiation/refusal.h"
#include "protocol/option.h"
#include "stream/tls.h"

namespace nbdinetd {

class OptionHandlers {
 public:
  // What is settled before the first option.
  struct Facts {
    TlsMode tls = TlsMode::kOff;  // kOff also for a client that can't begin it
    bool secure = false;          // the options come over TLS
    bool no_zeroes = false;       // NBD_FLAG_C_NO_ZEROES
    Exclusive exclusive = Exclusive::kOff;
  };

  // One option, from its payload to its replies.
  struct Call {
    absl::string_view payload;
    // The client has sent bytes behind the option already.
    bool input_follows;
    // Sends and clears `replies`, so that a long answer needs little memory.
    // False when the connection has ended: then the handler stops.
    absl::FunctionRef<bool(OptionReplies& replies)> send_so_far;
    // Out: the replies that the caller still has to send.
    OptionReplies& replies;
    // Out: an error for the server's log. The replies name it in general terms.
    absl::Status trouble = absl::OkStatus();
  };

  // What follows once the replies are sent. With Negotiated it is transmission;
  // the caller locks the export first, and replaces the replies if it can't.
  struct NextOption {};
  struct StartTls {};
  using Next = std::variant<NextOption, StartTls, Negotiated, Ending>;

  // `catalog` is borrowed.
  OptionHandlers(Catalog& catalog, const Facts& facts)
      : catalog_(catalog), facts_(facts) {}

  // As the specification spells it; "unknown" for an option without a row.
  static const char* NameOf(uint32_t option);
  // Whether an error can be replied to it; all but NBD_OPT_EXPORT_NAME.
  static bool HasErrorReply(uint32_t option);

  // The header of an option has arrived. Revokes what the specification says
  // that this option revokes, also when it fails.
  void Begin(uint32_t option);
  // Why an option of which only the header is known can't be carried out;
  // nullopt when it can.
  std::optional<Refusal> WhyRefused(const OptionHeader& header,
                                    bool shutting_down) const;
  // Answers an option for which that was nullopt.
  Next Answer(uint32_t option, Call& call);
  // Answers an option that is refused and HasErrorReply(). NBD_OPT_ABORT is
  // carried out all the same.
  Next AnswerRefused(uint32_t option, const Refusal& refusal,
                     OptionReplies& replies);

 private:
  struct Row;
  static const Row* Find(uint32_t option);

  Next OnExportName(Call& call);
  Next OnAbort(Call& call);
  Next OnList(Call& call);
  Next OnStartTls(Call& call);
  Next OnInfo(Call& call);
  Next OnGo(Call& call);
  Next OnStructuredReply(Call& call);
  Next OnListMetaContext(Call& call);
  Next OnSetMetaContext(Call& call);

  // Answers INFO or GO. False after an error reply; else described_ is the
  // export that was asked for.
  bool DescribeExport(const InfoRequest& request, Call& call);
  // Answers LIST_META_CONTEXT or SET_META_CONTEXT, and selects for the latter.
  void AnswerMetaContext(NbdOption option, Call& call);
  Promises PromisesFor(const Export& target,
                       absl::string_view export_name) const;
  Negotiated Agree(const Catalog::Opened& opened,
                   absl::string_view export_name) const;

  Catalog& catalog_;
  const Facts facts_;

  bool structured_replies_ = false;
  // The name for which base:allocation was selected.
  std::optional<std::string> base_allocation_for_;
  // What the option before this one has described, if it was NBD_OPT_INFO or a
  // refused NBD_OPT_GO.
  struct Described {
    std::string asked_name;
    Catalog::Opened opened;
  };
  std::optional<Described> described_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_NEGOTIATION_OPTION_HANDLERS_H_
