// What the specification says of option haggling, held against one
// conversation.
//
// A second, independent reading: it walks the client's bytes and the server's
// together, and knows what each option must have been answered. Its numbers are
// those of support/wire.h. Each fault is thrown as BrokenConversation.

#ifndef NBDINETD_TESTS_FUZZ_NEGOTIATION_CHECKER_H_
#define NBDINETD_TESTS_FUZZ_NEGOTIATION_CHECKER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "support/wire.h"

namespace nbdfuzz {

struct ServedExport {
  std::string name;
  std::string description;
  uint64_t size = 0;
  bool read_only = false;
  bool rotational = false;
  uint32_t preferred_block = 4096;
  // It can't be opened; 0, or the reply to who asks for it.
  uint32_t refusal = 0;
};

// What the server has, and how the conversation went otherwise.
struct NegotiationSetting {
  std::vector<ServedExport> exports;  // as they are listed
  bool answers_to_any = false;
  enum class Tls { kOff, kOn, kRequire } tls = Tls::kOff;
  // The client sends nothing behind NBD_OPT_STARTTLS before it is answered.
  bool waits_for_tls = false;
  // They can't be listed; 0, or the reply.
  uint32_t list_refusal = 0;
  // --exclusive; and whether at some time the lock wasn't to be had.
  bool exclusive = false;
  bool may_be_in_use = false;
  bool may_shut_down = false;  // SIGTERM may have come at any time
  bool may_time_out = false;   // the client has been silent for some time
  bool output_cut = false;     // the client has not got all that was sent
  bool ends_in_silence = false;
  bool ends_in_error = false;
};

// How the handshake phase ended, as the server says.
struct NegotiationOutcome {
  bool negotiated = false;
  // If so:
  std::string export_name;
  std::optional<size_t> export_index;
  uint64_t size = 0;
  uint16_t transmission_flags = 0;
  bool block_status = false;
  bool structured = false;  // replies in chunks
  bool extended = false;    // with extended headers
  std::string unread;       // what it has received and not consumed
  size_t received = 0;
  bool locked = false;
  // If not:
  int exit_status = 0;
  bool secure = false;  // TLS had been started by then
};

class NegotiationChecker {
 public:
  // `client` is all that the client would have sent, `server` what it got.
  NegotiationChecker(const NegotiationSetting& setting, std::string_view client,
                     std::string_view server, const NegotiationOutcome& outcome)
      : setting_(setting),
        client_(client),
        server_(server),
        outcome_(outcome) {}
  void Check();

 private:
  struct Reply {
    uint32_t type;
    std::string payload;
  };

  // False when haggling is over.
  bool CheckOption();
  bool Answer(uint32_t option, std::string_view payload);
  bool AnswerStartTls(std::string_view payload);
  bool AnswerExportName(std::string_view payload);
  bool AnswerStyle(uint32_t option, std::string_view payload);
  bool AnswerInfo(uint32_t option, std::string_view payload);
  bool AnswerMetaContext(uint32_t option, std::string_view payload);
  bool AnswerList();

  // The server's next reply; nullopt when there is none, and needn't be.
  std::optional<Reply> NextReply();
  bool Expect(uint32_t type);
  bool Expect(uint32_t type, std::string_view payload);
  std::optional<size_t> Find(std::string_view name) const;
  // The transmission flags of the export under the name that was asked for.
  uint16_t FlagsOf(const ServedExport& target, std::string_view name) const;
  void CheckNegotiated(std::string_view name);
  void CheckEnding(std::vector<int> statuses);
  // The conversation may have been ended from outside at this point.
  bool MayStopHere() const;

  const NegotiationSetting& setting_;
  std::string_view client_;
  std::string_view server_;
  const NegotiationOutcome& outcome_;
  uint32_t option_ = 0;
  NegotiationSetting::Tls tls_ = NegotiationSetting::Tls::kOff;
  // A client was told so.
  bool in_use_ = false;
  bool start_tls_seen_ = false;
  bool refused_for_tls_ = false;  // and nothing has been served since
  bool secure_ = false;
  bool no_zeroes_ = false;
  bool structured_ = false;  // or extended
  bool extended_ = false;
  std::optional<std::string> context_for_;
};

}  // namespace nbdfuzz

#endif  // NBDINETD_TESTS_FUZZ_NEGOTIATION_CHECKER_H_
