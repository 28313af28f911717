// The catalog finds the export for a name.
//
// Exports are either open from the start (Catalog::OfOne, Catalog::OfNamed), or
// opened on request. Both have the same interface for negotiation. Threads:
// one.
#ifndef NBDINETD_EXPORT_CATALOG_H_
#define NBDINETD_EXPORT_CATALOG_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/transfer_limits.h"
#include "export/claimant.h"
#include "export/exclusive.h"
#include "export/export.h"

namespace nbdinetd {

// The payload of the error (NotFound) for an export that the client may not use
// (--rules): why, for the log. The client gets the reply for a name that no
// export has.
inline constexpr char kHiddenUrl[] = "nbdinetd/hidden";

class Catalog {
 public:
  // An export that is open from the start.
  struct Entry {
    std::string name;  // the canonical name, as in NBD_OPT_LIST
    std::string description;
    std::shared_ptr<Export> target;
  };

  // One export. Without a `name`, every name finds it, and NBD_OPT_LIST reports
  // it under the empty name.
  static std::unique_ptr<Catalog> OfOne(std::shared_ptr<Export> only,
                                        std::optional<std::string> name,
                                        std::string description);
  // Exports with different names. A single export is also the default export.
  static std::unique_ptr<Catalog> OfNamed(std::vector<Entry> entries);

  virtual ~Catalog() = default;
  Catalog(const Catalog&) = delete;
  Catalog& operator=(const Catalog&) = delete;

  // An opened export. The caller owns it; the catalog keeps a share of an
  // export that is open from the start.
  struct Opened {
    std::shared_ptr<Export> target;
    std::string name;  // the canonical name
    std::string description;
    // Why the export is read-only without --readonly. Empty otherwise, and for
    // an export that is open from the start: its reason is logged already.
    std::string read_only_reason;
    // What --rules say of the client's use of it: in place of --exclusive, of
    // --max-rate and of --max-iops, and the place of the rule, FILE:LINE. Empty
    // without them.
    std::optional<Exclusive> exclusive = std::nullopt;
    TransferLimits limits = {};
    std::string rule = {};
  };

  // Looks up `name` without opening the export; the empty name stands for the
  // default export. NotFound: no such export. InvalidArgument: `name` is no
  // valid string (the specification, "Conventions"). Another code: the lookup
  // failed.
  virtual absl::Status Find(absl::string_view name) = 0;
  // Opens the export `name`. Errors as for Find(); PermissionDenied when the
  // process has no right to open it, Cancelled when it was told to end
  // meanwhile, another code when opening fails. A client may open thousands of
  // exports; the caller therefore destroys one before it opens the next.
  virtual absl::StatusOr<Opened> Open(absl::string_view name) = 0;

  // Opens the export for a client that may only read, on storage that is opened
  // for reading where that is possible. The result stays read-only after
  // Claim() only if the caller sees to it. Errors as for Open().
  virtual absl::StatusOr<Opened> OpenReadOnly(absl::string_view name);

  // The name under which Open(name) would return an export, if there is one.
  // Looks at nothing.
  virtual std::string CanonicalName(absl::string_view name) const {
    return std::string(name);
  }

  // The export of which Open(name) may return a part, such as the disk of a
  // partition; empty: of none. `name` is canonical. Looks at nothing.
  virtual std::string WholeOf(absl::string_view /*name*/) const { return ""; }

  // What is to be locked for the client that has chosen `target`, which Open()
  // has returned under the canonical `name`: `target` itself, or with
  // --cow=keep the client's copy. It is only good for the locks, and for
  // Claim(). Unauthenticated: the client is unknown; another code when there is
  // no such copy, and none can be made.
  virtual absl::StatusOr<std::shared_ptr<Export>> Reserve(
      std::shared_ptr<Export> target, const std::string& /*name*/,
      const Claimant& /*claimant*/) {
    return target;
  }

  // What the client is served of what Reserve() has returned: that itself, or
  // with --cow a private copy. Succeeds at most once, after the locks. Aborted:
  // what was reserved isn't there any more; Reserve() finds what is.
  // FailedPrecondition: the client's copy must not be served as it is; the
  // message says why. Another code when no copy can be made.
  virtual absl::StatusOr<std::shared_ptr<Export>> Claim(
      std::shared_ptr<Export> reserved) {
    return reserved;
  }

  // Gets the canonical name and the description of an export, which are valid
  // during the call. False ends the list.
  using Visitor = absl::FunctionRef<bool(absl::string_view name,
                                         absl::string_view description)>;
  // Calls `visit` for each export in order. An error is returned before the
  // first call: ResourceExhausted for more than kMaxListedExports exports,
  // PermissionDenied when the process has no right to list them, another code
  // when listing fails. Cancelled, also later: there is no time any more.
  virtual absl::Status List(Visitor visit) = 0;
  // Calls `visit` if List() has an export of this name. No other export has an
  // effect on what this does.
  virtual void ListOne(absl::string_view name, Visitor visit);

  // Describes the exports for --check, in whole lines.
  virtual std::string InWords() = 0;

  // The directory from which exports are opened, borrowed; -1 when all exports
  // are open from the start.
  virtual int directory_fd() const { return -1; }

  // The socket to the process that reads partition tables, borrowed; -1 without
  // one.
  virtual int tables_fd() const { return -1; }

  // The file of the private copy, borrowed; -1 without one. Its number stays,
  // also if Reserve() puts another file there.
  virtual int copy_fd() const { return -1; }
  // The directory of kept copies, borrowed; -1 without them.
  virtual int copies_fd() const { return -1; }

  // The possible kinds of exports, not yet opened ones included. The sandbox
  // removes system calls that none of these kinds needs.
  struct Kinds {
    bool writable = true;
    bool block_devices = true;
  };
  virtual Kinds kinds() const { return {}; }

 protected:
  Catalog() = default;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_CATALOG_H_
