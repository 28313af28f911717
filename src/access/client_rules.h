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
// Invariant: a file with any mistake gives no rules at all.
//
// The file is parsed once, before the client's first byte, and in one pass.
// Lines about an address, a user or a unit that isn't the client's are dropped
// at once; those of TLS stay until the handshake tells its identity. Names are
// those of the exports in the catalog: the canonical ones. Threads: any.
#ifndef NBDINETD_ACCESS_CLIENT_RULES_H_
#define NBDINETD_ACCESS_CLIENT_RULES_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "access/glob.h"
#include "access/grant.h"
#include "access/peer_identity.h"
#include "access/rule_line.h"
#include "access/who.h"

namespace nbdinetd {

// What a client may use, once all of its identity is known. Refers to the
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
};

class ClientRules {
 public:
  // Reads and parses the file for a client that connects on `fd`.
  // FailedPrecondition: the file can't be read, or line LINE of it is wrong:
  // "FILE:LINE: reason".
  using Identify = PeerIdentity (*)(int fd, bool wants_unit);
  static absl::StatusOr<ClientRules> Read(const std::string& path, int fd,
                                          Identify identify);
  // The same for a client that nobody has seen (nbdinetd --check --as).
  static absl::StatusOr<ClientRules> ReadFor(const std::string& path,
                                             const PeerIdentity& peer);
  // Parses the content of the file `path`.
  static absl::StatusOr<ClientRules> Parse(std::string content,
                                           std::string path,
                                           const PeerIdentity& peer);

  // What the client may use, with the identity that TLS has verified, or
  // without one. Refers to this object.
  ClientGrants For(const TlsIdentity& tls) const;

  // Whether the client gets nothing, whatever TLS may tell of it.
  bool gives_nothing(bool tls_is_possible) const;
  // Whether a line gives a private copy, and the most that one asks of
  // --exclusive; of the lines that may still hold.
  bool gives_copies() const { return gives_copies_; }
  std::optional<Exclusive> strongest_exclusive() const { return exclusive_; }
  const std::string& path() const { return *path_; }
  // Why the peer's unit is unknown, if a line is about a unit; else empty.
  const std::string& why_no_unit() const { return why_no_unit_; }

 private:
  struct Line {
    RuleLine rule;
    uint32_t number;
  };

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
  bool has_units_ = false;
  bool gives_copies_ = false;
  std::optional<Exclusive> exclusive_;
  std::string why_no_unit_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_ACCESS_CLIENT_RULES_H_
