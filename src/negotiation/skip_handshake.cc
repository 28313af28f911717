#include "negotiation/skip_handshake.h"

#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/steady_clock.h"
#include "negotiation/export_claim.h"
#include "negotiation/refusal.h"

namespace nbdinetd {

std::variant<Negotiated, Ending> SkipHandshake(
    Channel& channel, Catalog& catalog, const NegotiationSettings& settings,
    const Agreement& agreement) {
  const absl::Time deadline = SteadyNow() + settings.time_limit;
  const absl::StatusOr<Catalog::Opened> opened = catalog.Open("");
  // The log alone may say why (--rules).
  if (const auto why = opened.status().GetPayload(kHiddenUrl)) {
    return Ending{
        ExitStatus::kRefused,
        absl::StrCat("the client may not use the export: ", std::string(*why)),
        message_id::kRefused};
  }
  if (!opened.ok()) {
    return Ending{ExitStatus::kNoInput, std::string(opened.status().message())};
  }
  // The name that the client asked for is unknown here.
  Negotiated negotiated =
      Agree(*opened, opened->name, agreement,
            WelcomesMultiConn(settings.multi_conn,
                              opened->exclusive.value_or(settings.exclusive),
                              opened->target->facts()));
  channel.BeginHandshake(deadline);
  std::optional<Refusal> refusal = ClaimExport({.channel = channel,
                                                .catalog = catalog,
                                                .settings = settings,
                                                .deadline = deadline},
                                               negotiated);
  if (refusal.has_value()) return std::move(refusal->ending);
  channel.EndHandshake();
  return negotiated;
}

}  // namespace nbdinetd
