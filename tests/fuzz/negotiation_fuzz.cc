// The whole handshake phase: whatever a client sends, however it is cut into
// receives, each option is answered as the specification says, nothing else is
// sent, and transmission starts with what was negotiated.

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fuzz/input.h"
#include "fuzz/locks.h"
#include "fuzz/messages.h"
#include "fuzz/negotiation_checker.h"
#include "fuzz/simulation.h"
#include "fuzz/sizes.h"
#include "negotiation/negotiation.h"
#include "support/fake_export.h"

namespace {

using namespace nbdfuzz;  // NOLINT
using nbdinetd::Catalog;
using nbdinetd::Export;

Export::Facts FactsOf(const Input& input) {
  Export::Facts facts;
  facts.size_bytes = SizeOf(input);
  facts.block_sizes.preferred = 512u << input.settings[Input::kLayout] % 12;
  facts.read_only = input.bit(Input::kHow, 0);
  facts.rotational = input.bit(Input::kHow, 1);
  return facts;
}

// A catalog that can't open some of its exports, or list them, or that takes
// long to list them, as that of a directory.
class Unreliable : public Catalog {
 public:
  Unreliable(std::unique_ptr<Catalog> whole, const NegotiationSetting& setting)
      : whole_(std::move(whole)), setting_(setting) {}

  absl::Status Find(absl::string_view name) override {
    return whole_->Find(name);
  }
  absl::StatusOr<Opened> Open(absl::string_view name) override {
    absl::StatusOr<Opened> opened = whole_->Open(name);
    if (!opened.ok()) return opened;
    for (const ServedExport& served : setting_.exports) {
      if (served.name != opened->name || served.refusal == 0) continue;
      return served.refusal == nbdtest::kRepErrPolicy
                 ? absl::PermissionDeniedError("failed to open it: no")
                 : absl::InternalError("failed to open it: broken");
    }
    return opened;
  }
  absl::Status List(Visitor visit) override {
    switch (setting_.list_refusal) {
      case nbdtest::kRepErrTooBig:
        return absl::ResourceExhaustedError("failed to list them: too many");
      case nbdtest::kRepErrPolicy:
        return absl::PermissionDeniedError("failed to list them: no");
      case nbdtest::kRepErrPlatform:
        return absl::InternalError("failed to list them: broken");
      default:
        break;
    }
    return whole_->List([&](absl::string_view name, absl::string_view text) {
      const uint8_t decision = Simulation::Current()->schedule_tape().Next();
      if (decision >= 0x80)
        Simulation::Current()->Pass(decision * 100'000'000ll);
      return visit(name, text);
    });
  }
  std::string InWords() override { return whole_->InWords(); }

 private:
  const std::unique_ptr<Catalog> whole_;
  const NegotiationSetting& setting_;
};

// What is served, and what the checker knows of it.
struct Served {
  std::unique_ptr<Catalog> catalog;
  std::vector<const Export*> targets;
  NegotiationSetting setting;
};

Served MakeServed(const Input& input) {
  Served served;
  const Export::Facts facts = FactsOf(input);
  const auto add = [&](std::string name, std::string description) {
    auto target = std::make_unique<nbdtest::FakeExport>(
        nbdinetd::UniqueFd(kExportFd), facts);
    served.targets.push_back(target.get());
    served.setting.exports.push_back({name, description, facts.size_bytes,
                                      facts.read_only, facts.rotational,
                                      facts.block_sizes.preferred,
                                      /*refusal=*/0});
    return Catalog::Entry{std::move(name), std::move(description),
                          std::move(target)};
  };
  const auto one = [&](std::optional<std::string> name, std::string text) {
    Catalog::Entry entry = add(name.value_or(""), text);
    served.setting.answers_to_any = !name.has_value();
    served.catalog =
        Catalog::OfOne(std::move(entry.target), std::move(name), text);
  };
  switch (input.settings[Input::kWhat] % 7) {
    case 0:
      one(std::nullopt, "");
      break;
    case 1:
      one("disk", "a disk");
      break;
    case 2:
      one(std::nullopt, std::string(nbdtest::kMaxString, 'd'));
      break;
    case 3:
      one(std::string(nbdtest::kMaxString, 'n'), "");
      break;
    case 4: {
      std::vector<Catalog::Entry> entries;
      entries.push_back(add("only", ""));
      served.catalog = Catalog::OfNamed(std::move(entries));
      break;
    }
    case 5: {
      std::vector<Catalog::Entry> entries;
      for (const char* name : {"a", "b", "disk", "\xc3\xbc"}) {
        entries.push_back(add(name, ""));
      }
      served.catalog = Catalog::OfNamed(std::move(entries));
      break;
    }
    default: {
      // More than one part of a list.
      std::vector<Catalog::Entry> entries;
      for (char c = 'a'; c <= 'z'; ++c) {
        entries.push_back(add(std::string(nbdtest::kMaxString, c), ""));
      }
      served.catalog = Catalog::OfNamed(std::move(entries));
    }
  }
  constexpr uint32_t kRefusals[] = {0, nbdtest::kRepErrPolicy,
                                    nbdtest::kRepErrUnknown, 0};
  constexpr uint32_t kListRefusals[] = {0, nbdtest::kRepErrTooBig,
                                        nbdtest::kRepErrPolicy,
                                        nbdtest::kRepErrPlatform};
  const uint8_t how = input.settings[Input::kHow];
  // The first of several is always good.
  auto& exports = served.setting.exports;
  for (size_t i = exports.size() > 1; i < exports.size(); ++i) {
    exports[i].refusal = kRefusals[how >> 4 & 3];
  }
  served.setting.list_refusal = kListRefusals[how >> 6];
  return served;
}

using Result =
    std::variant<nbdinetd::Negotiated, nbdinetd::TlsUpgrade, nbdinetd::Ending>;

// Behind the first NBD_OPT_STARTTLS; SIZE_MAX when there is none.
size_t EndOfStartTls(std::string_view wire) {
  size_t at = 4;
  for (const Message& message : TakeApart(Phase::kNegotiation, wire)) {
    if (message.kind != Message::kOption) continue;
    const std::string payload = message.Payload();
    at += 16 + payload.size();
    // Inside it there is nothing to wait for.
    if (payload.size() < message.length) break;
    if (message.type == nbdtest::kOptStartTls) return at;
  }
  return SIZE_MAX;
}

NegotiationOutcome OutcomeOf(const Result& result, const Served& served,
                             const nbdinetd::Channel& channel) {
  NegotiationOutcome outcome;
  if (const auto* ending = std::get_if<nbdinetd::Ending>(&result)) {
    outcome.exit_status = static_cast<int>(ending->status);
    return outcome;
  }
  const auto& negotiated = std::get<nbdinetd::Negotiated>(result);
  outcome.negotiated = true;
  outcome.export_name = negotiated.export_name;
  for (size_t i = 0; i < served.targets.size(); ++i) {
    if (served.targets[i] == negotiated.target.get()) outcome.export_index = i;
  }
  outcome.size = negotiated.promises.size_bytes;
  outcome.transmission_flags = negotiated.promises.transmission_flags;
  outcome.block_status = negotiated.promises.block_status;
  outcome.structured = negotiated.style != nbdinetd::ReplyStyle::kSimple;
  outcome.extended = negotiated.style == nbdinetd::ReplyStyle::kExtended;
  Require(outcome.extended ==
              (negotiated.promises.headers == nbdinetd::Headers::kExtended),
          "requests and replies of different kinds of headers");
  outcome.unread = std::string(channel.input());
  return outcome;
}

}  // namespace

const nbdfuzz::Phase nbdfuzz::kFuzzedPhase = nbdfuzz::Phase::kNegotiation;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Input input = Input::Parse({reinterpret_cast<const char*>(data), size});
  Served served = MakeServed(input);
  const nbdinetd::Log log({.destination = nbdinetd::LogDestination::kNull,
                           .verbose = input.bit(Input::kHow, 2),
                           .standard_error_is_peer = true});
  NegotiationSetting& setting = served.setting;
  setting.tls =
      static_cast<NegotiationSetting::Tls>(input.settings[Input::kSpare] % 3);
  setting.waits_for_tls = !input.bit(Input::kHow, 3);
  Simulation simulation(input, ExpandOptions(input.stream));
  // What is upgraded here stays in plain text: the phase doesn't know.
  if (setting.waits_for_tls) simulation.HoldAt(EndOfStartTls(input.stream));
  const Locks locks(input, simulation);
  const auto exclusive =
      static_cast<nbdinetd::Exclusive>(input.settings[Input::kTimes] % 4);
  setting.exclusive = exclusive != nbdinetd::Exclusive::kOff;
  Unreliable catalog(std::move(served.catalog), setting);
  std::string sent;
  simulation.on_sent = [&](std::string_view bytes) { sent.append(bytes); };
  nbdinetd::Channel channel(std::make_unique<SimulatedStream>(simulation),
                            kShutdownFd);
  const nbdinetd::NegotiationSettings settings = {
      .tls = static_cast<nbdinetd::TlsMode>(setting.tls),
      .exclusive = exclusive,
      .time_limit = absl::Seconds(10)};
  nbdinetd::Negotiation negotiation(channel, catalog, log, settings);
  Result result = negotiation.Run();
  const auto* upgrade = std::get_if<nbdinetd::TlsUpgrade>(&result);
  const bool secure = upgrade != nullptr;
  if (secure) {
    Require(channel.input().empty(), "bytes in plain text are kept for TLS");
    const nbdinetd::TlsUpgrade kept = *upgrade;
    nbdinetd::Negotiation inside(channel, catalog, log, settings, kept);
    result = inside.Run();
    Require(!std::holds_alternative<nbdinetd::TlsUpgrade>(result),
            "TLS inside TLS");
  }
  setting.may_shut_down = simulation.shutdown_requested();
  setting.may_time_out = simulation.has_paused();
  setting.output_cut =
      simulation.broken() || (simulation.has_stalled() &&
                              std::holds_alternative<nbdinetd::Ending>(result));
  setting.ends_in_silence = simulation.ends_in_silence();
  setting.ends_in_error = simulation.ends_in_error();
  NegotiationOutcome outcome = OutcomeOf(result, served, channel);
  outcome.secure = secure;
  outcome.locked = locks.owned();
  Require(setting.exclusive || !locks.asked(), "a lock nobody has asked for");
  setting.may_be_in_use = locks.refused();
  NegotiationChecker(setting, simulation.stream(), sent, outcome).Check();
  return 0;
}
