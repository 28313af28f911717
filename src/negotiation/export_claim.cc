#include "negotiation/export_claim.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/exit_status.h"
#include "export/export.h"
#include "negotiation/export_lock.h"
#include "protocol/nbd.h"

namespace nbdinetd {
namespace {

// How often a client's kept copy may be replaced while it is waited for.
constexpr int kMaxClaims = 100;

// Why a client gets nothing of the export that it has chosen.
Refusal NotClaimed(const absl::Status& status, bool is_locked, bool tls_helps) {
  const std::string reason(status.message());
  if (absl::IsUnauthenticated(status)) {
    return {tls_helps ? NBD_REP_ERR_TLS_REQD : NBD_REP_ERR_POLICY,
            reason,
            {ExitStatus::kRefused, reason}};
  }
  if (absl::IsFailedPrecondition(status)) {
    return {NBD_REP_ERR_POLICY,
            "the copy of the export for this client can't be used as it is; "
            "the server's log says why",
            {ExitStatus::kUnavailable, reason},
            /*ends_connection=*/is_locked};
  }
  return {NBD_REP_ERR_PLATFORM,
          "no private copy of the export can be made",
          {ExitStatus::kSystem, reason},
          /*ends_connection=*/true};
}

}  // namespace

std::optional<Refusal> ClaimExport(const ClaimContext& context,
                                   Negotiated& negotiated) {
  Catalog& catalog = context.catalog;
  ExportLock lock(context.channel, context.settings, context.deadline);
  // A kept copy may be replaced while this process waits for its lock.
  for (int attempt = 1;; ++attempt) {
    const absl::StatusOr<std::shared_ptr<Export>> reserved = catalog.Reserve(
        negotiated.target, negotiated.catalog_name, context.settings.claimant);
    if (!reserved.ok()) {
      return NotClaimed(reserved.status(), /*is_locked=*/false,
                        context.tls_helps);
    }
    if (std::optional<Refusal> refusal = lock.Lock(
            **reserved, negotiated.export_name,
            negotiated.exclusive.value_or(context.settings.exclusive))) {
      return refusal;
    }
    absl::StatusOr<std::shared_ptr<Export>> claimed = catalog.Claim(*reserved);
    if (claimed.ok()) {
      negotiated.target = *std::move(claimed);
      return std::nullopt;
    }
    if (!absl::IsAborted(claimed.status()) || attempt == kMaxClaims) {
      return NotClaimed(claimed.status(), /*is_locked=*/true,
                        context.tls_helps);
    }
  }
}

}  // namespace nbdinetd
