// The exports of a catalog as --rules shows them to one client: those that it
// may use, in the way in which it may use them.
//
// An export that the client may not use is as if it weren't there: a request
// for it has the error of a name that no export has, and leads to the same
// system calls. Nothing is looked up under the name itself, whose existence can
// therefore change neither the reply nor its time; a name of the same length,
// which is never the asked one, is looked up in its place.
//
// Identity may become known in the middle of a connection, by TLS: each
// negotiation has an object of its own, with the grants that hold then.
// Threads: one.
#ifndef NBDINETD_ACCESS_RULED_CATALOG_H_
#define NBDINETD_ACCESS_RULED_CATALOG_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "access/client_rules.h"
#include "access/grant.h"
#include "access/ruled_client.h"
#include "base/transfer_limits.h"
#include "export/catalog.h"

namespace nbdinetd {

// Returns the client's rights to the export `name`, which is canonical, of
// `catalog`; nullopt: none. This is the one place that decides them.
//
// A part of an export, such as a partition, is a part of what is there: a
// client that may use both has the weaker use of the two for the part, with the
// stronger lock. One that may use only the part has what its own name says. The
// lock of a kept copy stays, since two connections can't have one copy.
std::optional<ClientGrants::Decision> DecisionFor(const ClientGrants& grants,
                                                  const Catalog& catalog,
                                                  absl::string_view name);

// The limits that the rules set in place of --max-rate and --max-iops; a kind
// that they don't set was not given. A part of an export has the limits of the
// export's line, but for those of its own line.
TransferLimits LimitsFor(const ClientGrants& grants, const Catalog& catalog,
                         absl::string_view name);

class RuledCatalog : public Catalog {
 public:
  // `inner` and `copy` are borrowed. `goes_on` is asked before each name of a
  // list, of which the client may see few: whether there is still time.
  RuledCatalog(Catalog& inner, ClientGrants grants, CopyForClient& copy,
               std::function<bool()> goes_on)
      : inner_(inner),
        grants_(std::move(grants)),
        copy_(copy),
        goes_on_(std::move(goes_on)) {}

  absl::Status Find(absl::string_view name) override;
  absl::StatusOr<Opened> Open(absl::string_view name) override;
  absl::StatusOr<std::shared_ptr<Export>> Reserve(
      std::shared_ptr<Export> target, const std::string& name,
      const Claimant& claimant) override;
  absl::StatusOr<std::shared_ptr<Export>> Claim(
      std::shared_ptr<Export> reserved) override;
  // Cancelled: there is no time any more. Without patterns for names, only the
  // names that the client may use are looked up, so that neither an error nor
  // the time depends on others.
  absl::Status List(Visitor visit) override;

  std::string CanonicalName(absl::string_view name) const override {
    return inner_.CanonicalName(name);
  }
  std::string WholeOf(absl::string_view name) const override {
    return inner_.WholeOf(name);
  }
  std::string InWords() override { return inner_.InWords(); }
  int directory_fd() const override { return inner_.directory_fd(); }
  int tables_fd() const override { return inner_.tables_fd(); }
  int copy_fd() const override {
    return copy_.file.has_value() ? copy_.file->fd() : inner_.copy_fd();
  }
  int copies_fd() const override { return inner_.copies_fd(); }
  Kinds kinds() const override { return inner_.kinds(); }

 private:
  // Looks up what isn't there. Returns the error for an export that the client
  // may not use.
  absl::Status Hide(absl::string_view name);
  // Whether this catalog makes the copy for an export that is granted so.
  bool MakesCopy(Grant::Mode mode) const {
    return mode == Grant::Mode::kPrivateCopy && !copy_.is_made_by_catalog;
  }

  Catalog& inner_;
  ClientGrants grants_;
  CopyForClient& copy_;
  const std::function<bool()> goes_on_;
  // How the reserved export is to be served.
  Grant::Mode claimed_mode_ = Grant::Mode::kReadOnly;
};

}  // namespace nbdinetd

#endif  // NBDINETD_ACCESS_RULED_CATALOG_H_
