// Handles options: takes the payload of one, and makes the replies.
//
// OptionHandlers owns the state of option haggling. It never uses the
// connection: the caller reads payloads, sends replies, logs, and waits. A new
// option is a row of the table in option_handlers.cc and a handler.
//
// Invariant: one object serves one negotiation. An upgrade to TLS needs a new
// one, because no state may survive it (NBD_OPT_STARTTLS). Threads: one.
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
#include "negotiation/agreement.h"
#include "negotiation/negotiated.h"
#include "negotiation/refusal.h"
#include "protocol/option.h"
#include "stream/tls.h"

namespace nbdinetd {

class OptionHandlers {
 public:
  // Decided before the first option.
  struct Facts {
    TlsMode tls = TlsMode::kOff;  // kOff also if the client can't use it
    bool secure = false;          // the options arrive over TLS
    bool no_zeroes = false;       // NBD_FLAG_C_NO_ZEROES
    // As in NegotiationSettings.
    std::optional<bool> multi_conn = std::nullopt;
    Exclusive exclusive = Exclusive::kOff;
  };

  // One option: its payload and its replies.
  struct Call {
    absl::string_view payload;
    // The client has already sent bytes after the option.
    bool input_follows;
    // Sends and clears `replies`, so that a long answer needs little memory.
    // False when the connection has ended; the handler then returns.
    absl::FunctionRef<bool(OptionReplies& replies)> send_so_far;
    // Out: replies that the caller sends.
    OptionReplies& replies;
    // Out: a server error for the log; the client gets only a general message.
    absl::Status trouble = absl::OkStatus();
    // Out: why the client didn't get the export that it asked for: the ending
    // of the connection if it leaves now.
    std::optional<Ending> refused = std::nullopt;
    // Out: a shutdown has cancelled a wait of the catalog.
    bool is_cancelled = false;
  };

  // The step that the answer leads to.
  struct NextOption {};
  struct StartTls {};
  // Negotiated: transmission, if the export can be locked; otherwise the caller
  // replaces the replies by an error.
  using Next = std::variant<NextOption, StartTls, Negotiated, Ending>;

  // `catalog` is borrowed.
  OptionHandlers(Catalog& catalog, const Facts& facts)
      : catalog_(catalog), facts_(facts) {}

  // The name from the specification; "unknown" for an unknown option.
  static const char* NameOf(uint32_t option);
  // Whether the option has an error reply; all but NBD_OPT_EXPORT_NAME have.
  static bool HasErrorReply(uint32_t option);

  // Called when the header of an option has arrived. Resets the state that this
  // option resets according to the specification, even if it fails.
  void Begin(uint32_t option);
  // The reason to refuse an option of which only the header is known; nullopt
  // to handle it.
  std::optional<Refusal> WhyRefused(const OptionHeader& header,
                                    bool shutting_down) const;
  // Answers an option for which WhyRefused() returned nullopt.
  Next Answer(uint32_t option, Call& call);
  // Answers a refused option that HasErrorReply(). NBD_OPT_ABORT ends the
  // connection all the same.
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
  Next OnExtendedHeaders(Call& call);

  // Answers NBD_OPT_INFO or NBD_OPT_GO. False after an error reply; otherwise
  // described_ is the requested export.
  bool DescribeExport(const InfoRequest& request, Call& call);
  // Answers NBD_OPT_LIST_META_CONTEXT, or NBD_OPT_SET_META_CONTEXT and selects.
  void AnswerMetaContext(NbdOption option, Call& call);
  // What has been agreed on for a client that chooses `export_name` now.
  Agreement AgreementFor(absl::string_view export_name) const;
  // Whether several connections of the client are welcome to the export.
  bool HasMultiConn(const Catalog::Opened& opened) const;

  Catalog& catalog_;
  const Facts facts_;

  // The style that was negotiated. Extended replies replace structured ones,
  // and nothing replaces them.
  ReplyStyle style_ = ReplyStyle::kSimple;
  // The export name for which base:allocation is selected.
  std::optional<std::string> base_allocation_for_;
  // The export of the option before, if that was NBD_OPT_INFO or a refused
  // NBD_OPT_GO.
  struct Described {
    std::string asked_name;
    Catalog::Opened opened;
  };
  std::optional<Described> described_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_NEGOTIATION_OPTION_HANDLERS_H_
