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

// How many patterns for exports are prepared: 2 MiB.
constexpr size_t kMaxPrepared = 256;

absl::Status Unreadable(const std::string& path, absl::string_view reason) {
  return absl::FailedPreconditionError(
      absl::StrCat("failed to read rules ", Quoted(path), ": ", reason));
}

struct RulesFile {
  std::string content;
  mode_t mode = 0;
};

bool IsSame(const timespec& one, const timespec& other) {
  return one.tv_sec == other.tv_sec && one.tv_nsec == other.tv_nsec;
}

absl::Status Unreadable(const std::string& path) {
  return Unreadable(path, ErrnoText(errno));
}

// Reads the file once. Aborted: it has changed meanwhile.
absl::StatusOr<RulesFile> ReadOnce(const std::string& path) {
  // O_NONBLOCK: a FIFO would wait for its writer.
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat before = {}, after = {};
  if (!fd.valid() || FileStatus(fd.get(), &before) != 0) {
    return Unreadable(path);
  }
  if (!S_ISREG(before.st_mode)) {
    return Unreadable(path, "it is no regular file");
  }
  if (before.st_size > static_cast<off_t>(kMaxRulesBytes)) {
    return Unreadable(
        path, absl::StrCat("it has more than ", kMaxRulesBytes, " bytes"));
  }
  RulesFile file{.content = "", .mode = before.st_mode};
  // One byte more than there should be, to see the end.
  file.content.resize(static_cast<size_t>(before.st_size) + 1);
  size_t size = 0;
  while (size < file.content.size()) {
    const ssize_t n =
        read(fd.get(), file.content.data() + size, file.content.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Unreadable(path);
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  if (FileStatus(fd.get(), &after) != 0) return Unreadable(path);
  if (static_cast<off_t>(size) != before.st_size ||
      before.st_size != after.st_size ||
      !IsSame(before.st_mtim, after.st_mtim) ||
      !IsSame(before.st_ctim, after.st_ctim)) {
    return absl::AbortedError("");
  }
  file.content.resize(size);
  return file;
}

absl::StatusOr<RulesFile> ReadRules(const std::string& path) {
  absl::StatusOr<RulesFile> file = ReadOnce(path);
  // A change of its mode or owner, or the end of a long write, ends soon.
  if (absl::IsAborted(file.status())) file = ReadOnce(path);
  if (!absl::IsAborted(file.status())) return file;
  return Unreadable(path,
                    "it changes while it is read; write another file, and "
                    "rename it to this one");
}

// The error for a file whose last line isn't whole, as far as one can see.
absl::Status CheckEnd(const std::string& content, const std::string& path) {
  if (content.empty() || content.back() == '\n') return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      Quoted(path), " line ", 1 + absl::c_count(content, '\n'),
      ": there is no newline at the end, as if the file weren't whole"));
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
  if (lacks_identity_) {
    return absl::StrCat("line ", deciding_line_, " of ", Quoted(*path_),
                        " takes something from a client that TLS identifies, "
                        "and this one isn't identified by TLS");
  }
  if (empty()) {
    return absl::StrCat("by line ", deciding_line_, " of ", Quoted(*path_));
  }
  return absl::StrCat("of the lines of ", Quoted(*path_),
                      " that hold for this client, as line ", deciding_line_,
                      " does, none names it");
}

void ClientGrants::PrepareForMany() {
  const size_t count = std::min(patterns_.size(), kMaxPrepared);
  for (size_t i = 0; i < count; ++i) patterns_[i].glob.Prepare();
}

std::vector<std::string> ClientGrants::PlainNames() const {
  std::vector<std::string> names;
  names.reserve(plain_.size());
  for (const auto& [name, decision] : plain_) names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

// ---- ClientRules

ClientRules::ClientRules(std::string content, std::string path)
    : content_(std::make_unique<const std::string>(std::move(content))),
      path_(std::make_unique<const std::string>(std::move(path))) {}

absl::StatusOr<ClientRules> ClientRules::ReadAndParse(
    const std::string& path,
    absl::FunctionRef<PeerIdentity(bool wants_unit)> identify) {
  absl::StatusOr<RulesFile> file = ReadRules(path);
  if (!file.ok()) return file.status();
  const absl::Status whole = CheckEnd(file->content, path);
  // To find the unit takes some system calls, and most files have none.
  const bool may_need_unit = absl::StrContains(file->content, "unit:");
  absl::StatusOr<ClientRules> rules =
      Parse(std::move(file->content), path, identify(may_need_unit));
  // An error in a line says more.
  if (rules.ok() && !whole.ok()) return whole;
  if (rules.ok()) rules->file_mode_ = file->mode;
  return rules;
}

absl::StatusOr<ClientRules> ClientRules::Read(const std::string& path, int fd,
                                              Identify identify) {
  return ReadAndParse(
      path, [&](bool wants_unit) { return identify(fd, wants_unit); });
}

absl::StatusOr<ClientRules> ClientRules::ReadFor(const std::string& path,
                                                 const PeerIdentity& peer) {
  return ReadAndParse(path, [&](bool /*wants_unit*/) { return peer; });
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
  uint32_t exports = 0;
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
    if (!parsed->has_value()) continue;
    exports += (*parsed)->export_count;
    if (exports > kMaxRuleExports) {
      return wrong(absl::StrCat("the lines so far have more than ",
                                kMaxRuleExports,
                                " names and patterns of exports"));
    }
    Keep(**parsed, number, peer);
  }
  return absl::OkStatus();
}

void ClientRules::Keep(const RuleLine& rule, uint32_t number,
                       const PeerIdentity& peer) {
  if (rule.who.is_of_tls()) {
    if (rule.gives_nothing() && taking_line_ == 0) taking_line_ = number;
    of_tls_.push_back({rule, number});
    return;
  }
  gives_without_tls_ |= !rule.gives_nothing();
  has_units_ |= rule.who.kind == Who::Kind::kUnit;
  if (!rule.who.Matches(peer)) return;
  if (!of_peer_.empty()) {
    const uint32_t so_far = of_peer_.front().rule.rank();
    if (rule.rank() < so_far) return;
    if (rule.rank() > so_far) of_peer_.clear();
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
  // Without TLS, nobody has an identity.
  if (!tls_is_possible && taking_line_ != 0) return true;
  return of_peer_.empty() || !absl::c_all_of(of_peer_, gives);
}

std::vector<std::string> ClientRules::Warnings(bool tls_is_certain) const {
  std::vector<std::string> warnings;
  if ((file_mode_ & (S_IWGRP | S_IWOTH)) != 0) {
    warnings.push_back(absl::StrCat(
        Quoted(*path_), " may be changed by ",
        (file_mode_ & S_IWOTH) != 0 ? "every user" : "the group of the file",
        ", who then decides which client may use which export"));
  }
  if (!tls_is_certain && gives_without_tls_ && !of_tls_.empty() &&
      taking_line_ == 0) {
    warnings.push_back(absl::StrCat(
        Quoted(*path_), " line ", of_tls_.front().number,
        " is about TLS, and a client that isn't identified by TLS has what the "
        "lines about its address give: --tls=require with --tls-psk or "
        "--tls-verify-peer lets in nobody else"));
  }
  return warnings;
}

template <typename Match>
std::vector<const ClientRules::Line*> ClientRules::HighestOf(
    const std::vector<Line>& lines, Match matches) {
  std::vector<const Line*> highest;
  for (const Line& line : lines) {
    if (!matches(line.rule.who)) continue;
    if (!highest.empty()) {
      const uint32_t so_far = highest.front()->rule.rank();
      if (line.rule.rank() < so_far) continue;
      if (line.rule.rank() > so_far) highest.clear();
    }
    highest.push_back(&line);
  }
  return highest;
}

ClientGrants ClientRules::For(const TlsIdentity& tls) const {
  ClientGrants grants;
  grants.path_ = path_.get();
  const auto is_for_nothing = [](const Line* line) {
    return line->rule.gives_nothing();
  };
  std::vector<const Line*> lines = HighestOf(of_tls_, [&](const Who& who) {
    return who.kind == Who::Kind::kIssuer && who.Matches(tls);
  });
  if (!absl::c_any_of(lines, is_for_nothing)) {
    lines =
        HighestOf(of_tls_, [&](const Who& who) { return who.Matches(tls); });
  }
  if (lines.empty() && taking_line_ != 0 && !tls.is_known()) {
    grants.deciding_line_ = taking_line_;
    grants.lacks_identity_ = true;
    return grants;
  }
  if (lines.empty()) {
    for (const Line& line : of_peer_) lines.push_back(&line);
  }
  if (lines.empty()) return grants;
  grants.deciding_line_ = lines.front()->number;
  const auto nothing = absl::c_find_if(lines, is_for_nothing);
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
