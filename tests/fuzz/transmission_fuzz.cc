// The whole transmission phase over a simulated file: whatever a client sends,
// however it is cut into receives, in whatever order the workers end and
// whatever the storage does, each request gets the one reply that the
// specification wants, with the bytes that are there.

#include <memory>
#include <utility>

#include "base/service_manager.h"
#include "base/timeouts.h"
#include "export/file.h"
#include "export/layers.h"
#include "fuzz/input.h"
#include "fuzz/messages.h"
#include "fuzz/simulation.h"
#include "fuzz/sizes.h"
#include "fuzz/storage.h"
#include "fuzz/transmission_checker.h"
#include "transmission/transmission.h"

const nbdfuzz::Phase nbdfuzz::kFuzzedPhase = nbdfuzz::Phase::kTransmission;

namespace {

using namespace nbdfuzz;  // NOLINT

// kExtendedBit, which goes before kSimple, is behind these.
enum WhatBit { kSimple, kReadOnly, kNoBlockStatus, kVerbose, kSendsFiles };
static_assert(kSendsFiles + 1 == kExtendedBit);
constexpr int kBlockSizesBit = kExtendedBit + 1;

// Those of --block-size=512:4K:64K, or the defaults.
nbdinetd::ExportSettings SettingsOf(const Input& input) {
  nbdinetd::ExportSettings settings;
  settings.read_only = input.bit(Input::kWhat, kReadOnly);
  if (input.bit(Input::kWhat, kBlockSizesBit)) {
    settings.block_sizes = nbdinetd::BlockSizes{.minimum = 512,
                                                .preferred = 4096,
                                                .advertised_payload = 64 << 10,
                                                .accepted_payload = 64 << 10,
                                                .chosen = true};
  }
  return settings;
}

// A limit that holds most requests for a while.
nbdinetd::TransferLimits LimitsOf(const Input& input) {
  nbdinetd::TransferLimits limits;
  if (input.bit(Input::kTimes, 2)) {
    limits.bytes = {.reads = {64 << 10, 1}, .together = true};
  }
  if (input.bit(Input::kTimes, 3)) {
    limits.requests = {.reads = {100, 2}, .writes = {10, 1}};
  }
  return limits;
}

nbdinetd::ReplyStyle StyleOf(const Input& input) {
  if (HasExtendedHeaders(input)) return nbdinetd::ReplyStyle::kExtended;
  return input.bit(Input::kWhat, kSimple) ? nbdinetd::ReplyStyle::kSimple
                                          : nbdinetd::ReplyStyle::kStructured;
}

nbdinetd::Negotiated Agree(const Input& input,
                           std::shared_ptr<nbdinetd::Export> target) {
  const nbdinetd::ReplyStyle style = StyleOf(input);
  const bool structured = style != nbdinetd::ReplyStyle::kSimple;
  unsigned flags = nbdtest::kHasFlags | nbdtest::kSendFlush |
                   nbdtest::kSendFua | nbdtest::kCanMultiConn |
                   nbdtest::kSendCache;
  if (target->facts().read_only) {
    flags |= nbdtest::kReadOnly;
  } else {
    flags |=
        nbdtest::kSendTrim | nbdtest::kSendWriteZeroes | nbdtest::kSendFastZero;
  }
  if (structured) flags |= nbdtest::kSendDf;
  // The input takes some away.
  const unsigned without =
      static_cast<unsigned>(input.settings[Input::kFlagsHigh] << 8 |
                            input.settings[Input::kFlagsLow]);
  const unsigned may_lack = nbdtest::kSendFlush | nbdtest::kSendFua |
                            nbdtest::kSendCache | nbdtest::kSendTrim |
                            nbdtest::kSendWriteZeroes | nbdtest::kSendFastZero;
  const bool block_status =
      structured && !input.bit(Input::kWhat, kNoBlockStatus);
  nbdinetd::Negotiated negotiated;
  negotiated.target = target;
  if (style == nbdinetd::ReplyStyle::kExtended) {
    negotiated.promises.headers = nbdinetd::Headers::kExtended;
    if (block_status) flags |= nbdtest::kBlockStatusPayload;
  }
  negotiated.promises.size_bytes = target->facts().size_bytes;
  negotiated.promises.block_sizes = target->facts().block_sizes;
  negotiated.promises.transmission_flags =
      static_cast<uint16_t>(flags & ~(without & may_lack));
  negotiated.promises.block_status = block_status;
  negotiated.style = style;
  return negotiated;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Input input = Input::Parse({reinterpret_cast<const char*>(data), size});
  static auto* manager = new nbdinetd::ServiceManager;
  const nbdinetd::Log log({.destination = nbdinetd::LogDestination::kNull,
                           .verbose = input.bit(Input::kWhat, kVerbose),
                           .standard_error_is_peer = true});
  Simulation simulation(input, ExpandRequests(input.stream));
  Storage storage(input, simulation);
  const nbdinetd::ExportSettings settings = SettingsOf(input);
  storage.read_only = settings.read_only;
  std::unique_ptr<nbdinetd::Export> file = nbdinetd::FileExport::Create(
      "/no/such/file", nbdinetd::UniqueFd(kStorageFd), storage.Stat(),
      {.read_only = settings.read_only});
  simulation.stored_export = static_cast<nbdinetd::FileExport*>(file.get());
  const std::shared_ptr<nbdinetd::Export> target =
      *nbdinetd::WithLayers(std::move(file), settings);
  const nbdinetd::Negotiated negotiated = Agree(input, target);
  TransmissionChecker checker(
      {.size = negotiated.promises.size_bytes,
       .flags = negotiated.promises.transmission_flags,
       .structured = negotiated.style != nbdinetd::ReplyStyle::kSimple,
       .extended = HasExtendedHeaders(input),
       .block_status = negotiated.promises.block_status,
       .context_id = nbdinetd::kBaseAllocationId,
       .minimum = target->facts().block_sizes.minimum,
       .advertised_payload = target->facts().block_sizes.advertised_payload,
       .accepted_payload = target->facts().block_sizes.accepted_payload,
       .drains = input.bit(Input::kTimes, 4)},
      simulation, storage);
  nbdinetd::Timeouts timeouts;
  // A client that stays silent has to be waited for unless there is a limit.
  if (simulation.ends_in_silence() || input.bit(Input::kTimes, 0)) {
    timeouts.idle = absl::Seconds(30);
  }
  if (input.bit(Input::kTimes, 1)) timeouts.stall = absl::Seconds(5);
  nbdinetd::Channel channel(
      std::make_unique<SimulatedStream>(simulation,
                                        input.bit(Input::kWhat, kSendsFiles)),
      kShutdownFd, timeouts.stall, nullptr, [&] {
        if (!simulation.shutdown_requested()) return nbdinetd::Shutdown::kNone;
        simulation.TakeSignal();
        return input.bit(Input::kTimes, 4) ? nbdinetd::Shutdown::kDrain
                                           : nbdinetd::Shutdown::kNow;
      });
  nbdinetd::Statistics statistics;
  nbdinetd::Progress progress(*manager, statistics, "");
  const nbdinetd::LiveLimits limits = {LimitsOf(input)};
  const nbdinetd::Ending ending =
      nbdinetd::Transmission({.channel = channel,
                              .negotiated = negotiated,
                              .log = log,
                              .statistics = statistics,
                              .progress = progress,
                              .idle_timeout = timeouts.idle,
                              .limits = &limits,
                              .event_fd = nbdinetd::UniqueFd()})
          .Run();
  checker.Finish(static_cast<int>(ending.status));
  return 0;
}
