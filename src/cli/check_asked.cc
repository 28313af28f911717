#include "cli/check_asked.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "access/asked_client.h"
#include "access/client_rules.h"
#include "access/rule_line.h"
#include "access/ruled_catalog.h"
#include "base/errors.h"
#include "base/transfer_limits.h"
#include "export/exclusive.h"

namespace nbdinetd {
namespace {

// What --allow and --deny say of the client; nullopt if it may connect, or if
// nothing about its address was asked.
std::optional<std::string> WhyRefused(const Invocation& invocation,
                                      const AskedClient& asked) {
  if (asked.peer.family == PeerIdentity::Family::kUnnamed) return std::nullopt;
  return invocation.listener_config.access.WhyRefused(asked.peer);
}

// The mode that the client gets by `grant`, of an export that the options make
// `read_only`.
std::string ModeOf(const Options& options, bool read_only,
                   Grant::Mode granted) {
  if (granted == Grant::Mode::kReadOnly) return InWords(granted);
  if (options.copies.enabled || granted == Grant::Mode::kPrivateCopy) {
    return InWords(Grant::Mode::kPrivateCopy);
  }
  return InWords(read_only ? Grant::Mode::kReadOnly : granted);
}

// How many exports are tried for other names: one file system has them all,
// but for what is linked from elsewhere.
constexpr int kMaxAliasTries = 16;

class Asker {
 public:
  Asker(const Invocation& invocation, const Catalog& catalog,
        CheckReport& report)
      : invocation_(invocation),
        options_(invocation.options),
        catalog_(catalog),
        report_(report) {}

  void Ask(const ClientGrants* grants) {
    if (std::optional<std::string> refused =
            WhyRefused(invocation_, options_.asked)) {
      report_.asked_reason = *std::move(refused);
    } else if (grants != nullptr && grants->empty()) {
      report_.asked_reason = grants->WhyNot();
    } else {
      for (const CheckReport::Served& served : report_.exports) {
        Add(served.name.value_or(""), served.read_only, grants);
      }
    }
    for (const CheckReport::Asked& asked : report_.asked) {
      if (!asked.mode.empty()) return;
    }
    report_.exit_status = ExitStatus::kRefused;
  }

 private:
  void Add(const std::string& name, bool read_only,
           const ClientGrants* grants) {
    CheckReport::Asked asked;
    asked.name = name;
    Exclusive exclusive = options_.exclusive;
    TransferLimits limits = options_.transfer_limits;
    Grant::Mode mode = Grant::Mode::kReadWrite;
    if (grants != nullptr) {
      const auto decision = DecisionFor(*grants, catalog_, name);
      if (!decision.has_value()) {
        asked.reason = grants->WhyNot();
        report_.asked.push_back(std::move(asked));
        return;
      }
      mode = decision->grant.mode.value_or(Grant::Mode::kReadOnly);
      exclusive = decision->grant.exclusive.value_or(exclusive);
      limits = Replaced(limits, LimitsFor(*grants, catalog_, name));
      asked.rule = grants->PlaceOf(decision->line);
    }
    asked.mode = ModeOf(options_, read_only, mode);
    if (exclusive != Exclusive::kOff) {
      asked.exclusive = std::string(WordOf(exclusive));
    }
    asked.limits = InWords(limits);
    report_.asked.push_back(std::move(asked));
  }

  const Invocation& invocation_;
  const Options& options_;
  const Catalog& catalog_;
  CheckReport& report_;
};

// `name` with the other case of its first letter; empty without one.
std::string InOtherCase(std::string name) {
  const auto letter = std::find_if(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalpha(static_cast<unsigned char>(c));
  });
  if (letter == name.end()) return "";
  const auto byte = static_cast<unsigned char>(*letter);
  *letter = absl::ascii_islower(byte) ? absl::ascii_toupper(byte)
                                      : absl::ascii_tolower(byte);
  return name;
}

}  // namespace

absl::Status CheckRules(const Invocation& invocation, Catalog& catalog,
                        CheckReport& report) {
  const Options& options = invocation.options;
  const AskedClient& asked = options.asked;
  report.rules = options.rules;
  report.asked_who = absl::StrJoin(asked.words, " ");
  if (options.rules.empty()) {
    if (!asked.empty()) Asker(invocation, catalog, report).Ask(nullptr);
    return absl::OkStatus();
  }
  const absl::StatusOr<ClientRules> rules =
      ClientRules::ReadFor(options.rules, asked.peer);
  if (!rules.ok()) return rules.status();
  // nbdinetctl leaves the options of TLS out where it has no keys.
  const bool tls_is_unknown = options.tls.mode == TlsMode::kOff;
  for (std::string& warning :
       rules->Warnings(tls_is_unknown || TlsIsCertain(options.tls))) {
    report.hints.push_back(std::move(warning));
  }
  if (std::string hint = AliasHint(catalog, report); !hint.empty()) {
    report.hints.push_back(std::move(hint));
  }
  if (asked.empty()) return absl::OkStatus();
  const ClientGrants grants = rules->For(asked.tls);
  Asker(invocation, catalog, report).Ask(&grants);
  return absl::OkStatus();
}

std::string AliasHint(Catalog& catalog, const CheckReport& report) {
  std::set<absl::string_view> listed;
  for (const CheckReport::Served& served : report.exports) {
    if (!served.name.has_value()) return "";
    listed.insert(*served.name);
  }
  for (const CheckReport::LeftOut& left_out : report.left_out) {
    listed.insert(left_out.name);
  }
  int tries = 0;
  for (const absl::string_view name : listed) {
    if (++tries > kMaxAliasTries) break;
    for (const std::string& alias :
         {InOtherCase(std::string(name)), absl::StrCat(name, ".")}) {
      if (alias.empty() || listed.count(alias) != 0 ||
          !catalog.Find(alias).ok()) {
        continue;
      }
      return absl::StrCat(
          "the export ", Quoted(name), " can also be asked for as ",
          Quoted(alias),
          ", since its file system takes both for one name; to the rules they "
          "are two: a line about the one isn't about the other");
    }
  }
  return "";
}

std::string AskedInWords(const CheckReport& report) {
  if (report.asked_who.empty()) return "";
  const std::string who = Quoted(report.asked_who);
  if (!report.asked_reason.empty()) {
    return absl::StrCat("would refuse ", who, ": ", report.asked_reason, "\n");
  }
  std::string words;
  for (const CheckReport::Asked& asked : report.asked) {
    const std::string name = Quoted(asked.name);
    if (asked.mode.empty()) {
      absl::StrAppend(&words, "would show ", who, " no export ", name, ": ",
                      asked.reason, "\n");
      continue;
    }
    absl::StrAppend(
        &words, "would let ", who, " use export ", name, " ", asked.mode,
        asked.exclusive.empty()
            ? ""
            : absl::StrCat(", alone (exclusive=", asked.exclusive, ")"),
        asked.limits.empty() ? "" : absl::StrCat(", with ", asked.limits),
        asked.rule.empty() ? "" : absl::StrCat(", by ", Quoted(asked.rule)),
        "\n");
  }
  return words;
}

}  // namespace nbdinetd
