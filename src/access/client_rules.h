// The rules of --rules for one client: which lines of the file are about it,
// and what they let it do.
//
// Of all lines whose WHO matches the client, those with the most specific WHO
// (access/who.h) hold, and the others are as if they weren't there. If one of
// them is for nothing (-), the client gets nothing. Otherwise the first of them
// with a pattern for an export's name says how the client may use it; an export
// that none names doesn't exist for the client. A client that no line is about
// gets nothing.
//
// Two things are stronger than that order. An issuer that gets nothing gets
// nothing by a line about a subject either: a subject is what its issuer says.
// And if a line takes all from a client by its TLS identity, the lines about
// addresses, users and units hold only for clients with such an identity;
// otherwise a client would choose between the two by not saying who it is.
//
// Invariant: a file with any mistake gives no rules at all.
//
// The file is parsed once, before the client's first byte, and in one pass.
// Lines about an address, a user or a unit that isn't the client's are dropped
// at once; those of TLS stay until the handshake tells its identity. Names are
// those of the exports in the catalog: the canonical ones. Threads: any.
#ifndef NBDINETD_ACCESS_CLIENT_RULES_H_
#define NBDINETD_ACCESS_CLIENT_RULES_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "access/glob.h"
#include "access/grant.h"
#include "access/peer_identity.h"
#include "access/rule_line.h"
#include "access/who.h"

namespace nbdinetd {

// The rights of a client, once all of its identity is known. Refers to the
// ClientRules that made it.
class ClientGrants {
 public:
  struct Decision {
    Grant grant;
    uint32_t line;
  };
  // nullopt: the export doesn't exist for the client.
  std::optional<Decision> For(absl::string_view export_name) const;
  // "FILE:LINE".
  std::string PlaceOf(uint32_t line) const;
  // Whether there is no export that the client may use.
  bool empty() const { return plain_.empty() && patterns_.empty(); }
  // Whether a name may be used that no line has as it is.
  bool has_patterns() const { return !patterns_.empty(); }
  // Makes For() faster, for many names.
  void PrepareForMany();
  // The names without wildcards, sorted.
  std::vector<std::string> PlainNames() const;
  // Why the client gets no export, or not this one: for the log, as part of a
  // sentence.
  std::string WhyNot() const;

 private:
  friend class ClientRules;
  struct Pattern {
    Glob glob;
    Decision decision;
  };

  // Names without wildcards, each as its first line has it; and the others, in
  // the order of the file.
  std::unordered_map<std::string, Decision> plain_;
  std::vector<Pattern> patterns_;
  const std::string* path_ = nullptr;
  // One of the lines that hold; the one for nothing if there is one. 0: no line
  // is about the client.
  uint32_t deciding_line_ = 0;
  // The client lacks an identity, which that line is about.
  bool lacks_identity_ = false;
};

class ClientRules {
 public:
  // Reads and parses the file for a client that connects on `fd`.
  // FailedPrecondition: the file can't be read, isn't whole, changes meanwhile,
  // or line LINE of it is wrong: "FILE line LINE: reason".
  using Identify = PeerIdentity (*)(int fd, bool wants_unit);
  static absl::StatusOr<ClientRules> Read(const std::string& path, int fd,
                                          Identify identify);
  // The same for a client that nobody has seen (nbdinetd --check --as).
  static absl::StatusOr<ClientRules> ReadFor(const std::string& path,
                                             const PeerIdentity& peer);
  // Parses the content of the file `path`, which may have no newline at its
  // end.
  static absl::StatusOr<ClientRules> Parse(std::string content,
                                           std::string path,
                                           const PeerIdentity& peer);

  // Returns the rights of the client with the identity that TLS has verified,
  // or without one. They refer to this object.
  ClientGrants For(const TlsIdentity& tls) const;

  // Whether the client gets nothing, whatever TLS may tell of it.
  bool gives_nothing(bool tls_is_possible) const;
  // Whether a line gives a private copy, and the most that one asks of
  // --exclusive; of the lines that may still hold.
  bool gives_copies() const { return gives_copies_; }
  std::optional<Exclusive> strongest_exclusive() const { return exclusive_; }
  const std::string& path() const { return *path_; }
  // What a person should know of the file, as sentences without an end, when
  // the server identifies each client by TLS, or doesn't.
  std::vector<std::string> Warnings(bool tls_is_certain) const;
  // Why the peer's unit is unknown, if a line is about a unit; else empty.
  const std::string& why_no_unit() const { return why_no_unit_; }

 private:
  struct Line {
    RuleLine rule;
    uint32_t number;
  };

  // Those of `lines` that match and have the greatest rank.
  template <typename Match>
  static std::vector<const Line*> HighestOf(const std::vector<Line>& lines,
                                            Match matches);

  static absl::StatusOr<ClientRules> ReadAndParse(
      const std::string& path,
      absl::FunctionRef<PeerIdentity(bool wants_unit)> identify);

  ClientRules(std::string content, std::string path);
  absl::Status ParseAll(const PeerIdentity& peer);
  void Keep(const RuleLine& rule, uint32_t number, const PeerIdentity& peer);
  void Note(const Line& line);

  // Not std::string itself: the lines refer to the content, which then doesn't
  // move.
  std::unique_ptr<const std::string> content_;
  std::unique_ptr<const std::string> path_;
  // The lines that hold before TLS, in the order of the file, and all those of
  // TLS.
  std::vector<Line> of_peer_, of_tls_;
  // The first line of TLS that gives nothing; 0: there is none.
  uint32_t taking_line_ = 0;
  // Whether a line that isn't of TLS gives something, to whomever.
  bool gives_without_tls_ = false;
  bool has_units_ = false;
  bool gives_copies_ = false;
  std::optional<Exclusive> exclusive_;
  std::string why_no_unit_;
  mode_t file_mode_ = 0;
};

}  // namespace nbdinetd

#endif  // NBDINETD_ACCESS_CLIENT_RULES_H_
