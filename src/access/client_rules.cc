#include "access/client_rules.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/errors.h"
#include "base/file_status.h"
#include "base/limits.h"
#include "base/unique_fd.h"

namespace nbdinetd {
namespace {

absl::Status Unreadable(const std::string& path, absl::string_view reason) {
  return absl::FailedPreconditionError(
      absl::StrCat("failed to read rules ", Quoted(path), ": ", reason));
}

absl::StatusOr<std::string> ReadRules(const std::string& path) {
  // O_NONBLOCK: a FIFO would wait for its writer.
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat st = {};
  if (!fd.valid() || FileStatus(fd.get(), &st) != 0) {
    return Unreadable(path, ErrnoText(errno));
  }
  if (!S_ISREG(st.st_mode)) return Unreadable(path, "it is no regular file");
  std::string content;
  // One byte more than there should be, to see the end.
  content.resize(static_cast<size_t>(std::min<uint64_t>(
                     static_cast<uint64_t>(st.st_size), kMaxRulesBytes)) +
                 1);
  size_t size = 0;
  for (;;) {
    const ssize_t n =
        read(fd.get(), content.data() + size, content.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Unreadable(path, ErrnoText(errno));
    size += static_cast<size_t>(n);
    if (size > kMaxRulesBytes) {
      return Unreadable(
          path, absl::StrCat("it has more than ", kMaxRulesBytes, " bytes"));
    }
    if (n == 0) break;
    // The file grows.
    if (size == content.size()) content.resize(2 * size);
  }
  content.resize(size);
  return content;
}

// The name that a pattern without wildcards stands for.
std::string NameOf(absl::string_view pattern) {
  std::string name;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] == '\\' && i + 1 < pattern.size() &&
        IsEscapable(pattern[i + 1])) {
      ++i;
    }
    name.push_back(pattern[i]);
  }
  return name;
}

}  // namespace

// ---- ClientGrants

std::optional<ClientGrants::Decision> ClientGrants::For(
    absl::string_view export_name) const {
  const auto plain = plain_.find(std::string(export_name));
  for (const Pattern& pattern : patterns_) {
    if (plain != plain_.end() && pattern.decision.line > plain->second.line) {
      break;
    }
    if (pattern.glob.Matches(export_name)) return pattern.decision;
  }
  if (plain == plain_.end()) return std::nullopt;
  return plain->second;
}

std::string ClientGrants::PlaceOf(uint32_t line) const {
  return absl::StrCat(*path_, ":", line);
}

std::string ClientGrants::WhyNot() const {
  if (deciding_line_ == 0) {
    return absl::StrCat("no line of ", Quoted(*path_), " is about this client");
  }
  if (empty()) {
    return absl::StrCat("by line ", deciding_line_, " of ", Quoted(*path_));
  }
  return absl::StrCat("of the lines of ", Quoted(*path_),
                      " that hold for this client, as line ", deciding_line_,
                      " does, none names it");
}

// ---- ClientRules

ClientRules::ClientRules(std::string content, std::string path)
    : content_(std::make_unique<const std::string>(std::move(content))),
      path_(std::make_unique<const std::string>(std::move(path))) {}

absl::StatusOr<ClientRules> ClientRules::Read(const std::string& path, int fd,
                                              Identify identify) {
  absl::StatusOr<std::string> content = ReadRules(path);
  if (!content.ok()) return content.status();
  // To find the unit takes some system calls, and most files have none.
  const bool may_need_unit = absl::StrContains(*content, "unit:");
  return Parse(*std::move(content), path, identify(fd, may_need_unit));
}

absl::StatusOr<ClientRules> ClientRules::ReadFor(const std::string& path,
                                                 const PeerIdentity& peer) {
  absl::StatusOr<std::string> content = ReadRules(path);
  if (!content.ok()) return content.status();
  return Parse(*std::move(content), path, peer);
}

absl::StatusOr<ClientRules> ClientRules::Parse(std::string content,
                                               std::string path,
                                               const PeerIdentity& peer) {
  ClientRules rules(std::move(content), std::move(path));
  absl::Status status = rules.ParseAll(peer);
  if (!status.ok()) return status;
  // A line about a unit might be the most specific one: without the unit,
  // nobody knows which line holds.
  if (rules.has_units_ && peer.family == PeerIdentity::Family::kUnix &&
      !peer.unit.has_value()) {
    rules.of_peer_.clear();
    rules.why_no_unit_ = peer.why_no_unit;
  }
  for (const std::vector<Line>* lines : {&rules.of_peer_, &rules.of_tls_}) {
    for (const Line& line : *lines) rules.Note(line);
  }
  return rules;
}

absl::Status ClientRules::ParseAll(const PeerIdentity& peer) {
  absl::string_view rest = *content_;
  KnownIds ids;
  for (uint32_t number = 1; !rest.empty(); ++number) {
    const size_t size = std::min(rest.find('\n'), rest.size());
    absl::string_view text = rest.substr(0, size);
    rest.remove_prefix(std::min(size + 1, rest.size()));
    const auto wrong = [&](absl::string_view reason) {
      return absl::FailedPreconditionError(
          absl::StrCat(Quoted(*path_), " line ", number, ": ", reason));
    };
    if (number > kMaxRuleLines) {
      return wrong(
          absl::StrCat("there are more than ", kMaxRuleLines, " lines"));
    }
    if (text.size() > kMaxRuleLineBytes) {
      return wrong(
          absl::StrCat("the line has more than ", kMaxRuleLineBytes, " bytes"));
    }
    const auto parsed =
        ParseRuleLine(absl::StripSuffix(text, "\r"), WhoNames::kLookUp, &ids);
    if (!parsed.ok()) return wrong(parsed.status().message());
    if (parsed->has_value()) Keep(**parsed, number, peer);
  }
  return absl::OkStatus();
}

void ClientRules::Keep(const RuleLine& rule, uint32_t number,
                       const PeerIdentity& peer) {
  if (rule.who.is_of_tls()) {
    of_tls_.push_back({rule, number});
    return;
  }
  has_units_ |= rule.who.kind == Who::Kind::kUnit;
  if (!rule.who.Matches(peer)) return;
  if (!of_peer_.empty()) {
    const uint32_t so_far = of_peer_.front().rule.who.specificity;
    if (rule.who.specificity < so_far) return;
    if (rule.who.specificity > so_far) of_peer_.clear();
  }
  of_peer_.push_back({rule, number});
}

void ClientRules::Note(const Line& line) {
  if (line.rule.gives_nothing()) return;
  const Grant& grant = line.rule.grant;
  gives_copies_ |= grant.mode == Grant::Mode::kPrivateCopy;
  if (grant.exclusive.has_value()) {
    exclusive_ =
        std::max(exclusive_.value_or(*grant.exclusive), *grant.exclusive);
  }
}

bool ClientRules::gives_nothing(bool tls_is_possible) const {
  const auto gives = [](const Line& line) {
    return !line.rule.gives_nothing();
  };
  if (tls_is_possible && absl::c_any_of(of_tls_, gives)) return false;
  return of_peer_.empty() || !absl::c_all_of(of_peer_, gives);
}

ClientGrants ClientRules::For(const TlsIdentity& tls) const {
  std::vector<const Line*> lines;
  for (const Line& line : of_tls_) {
    if (!line.rule.who.Matches(tls)) continue;
    if (!lines.empty()) {
      const uint32_t so_far = lines.front()->rule.who.specificity;
      if (line.rule.who.specificity < so_far) continue;
      if (line.rule.who.specificity > so_far) lines.clear();
    }
    lines.push_back(&line);
  }
  if (lines.empty()) {
    for (const Line& line : of_peer_) lines.push_back(&line);
  }
  ClientGrants grants;
  grants.path_ = path_.get();
  if (lines.empty()) return grants;
  grants.deciding_line_ = lines.front()->number;
  const auto nothing = absl::c_find_if(
      lines, [](const Line* line) { return line->rule.gives_nothing(); });
  if (nothing != lines.end()) {
    grants.deciding_line_ = (*nothing)->number;
    return grants;
  }
  for (const Line* line : lines) {
    const ClientGrants::Decision decision{line->rule.grant, line->number};
    RuleWords words(line->rule.exports);
    // The words have been checked.
    for (auto word = words.Next(); word.ok() && word->has_value();
         word = words.Next()) {
      const absl::string_view pattern = (*word)->text;
      if (WeightOf(pattern).has_wildcards) {
        grants.patterns_.push_back({Glob(pattern), decision});
      } else {
        grants.plain_.emplace(NameOf(pattern), decision);
      }
    }
  }
  return grants;
}

}  // namespace nbdinetd
