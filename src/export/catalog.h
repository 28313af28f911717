// The catalog: which export a name stands for.
//
// Exports are open from the start (Catalog::OfOne, Catalog::OfNamed), or are
// opened as clients ask for them. Negotiation doesn't know the difference.
// Threads: one.
#ifndef NBDINETD_EXPORT_CATALOG_H_
#define NBDINETD_EXPORT_CATALOG_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "export/export.h"

namespace nbdinetd {

class Catalog {
 public:
  // An export that is open from the start.
  struct Entry {
    std::string name;  // the canonical one, as in NBD_OPT_LIST
    std::string description;
    std::shared_ptr<Export> target;
  };

  // One export. Without a `name` it answers to any, and is listed under the
  // empty one.
  static std::unique_ptr<Catalog> OfOne(std::shared_ptr<Export> only,
                                        std::optional<std::string> name,
                                        std::string description);
  // Exports under names that differ. A sole one is the default export, too.
  static std::unique_ptr<Catalog> OfNamed(std::vector<Entry> entries);

  virtual ~Catalog() = default;
  Catalog(const Catalog&) = delete;
  Catalog& operator=(const Catalog&) = delete;

  // An export as it is served. The caller owns it; an export that is open from
  // the start it shares with the catalog.
  struct Opened {
    std::shared_ptr<Export> target;
    std::string name;  // the canonical one
    std::string description;
    // Why it is read-only though nobody asked for that, where nobody has been
    // told yet; else empty.
    std::string read_only_reason;
  };

  // Whether there is an export that a client means by `name`; the empty name is
  // the default export's. NotFound when there is none; InvalidArgument when
  // `name` is no string in the sense of the specification's "Conventions", and
  // no name is ever looked up; another code when it can't be told. Opens
  // nothing.
  virtual absl::Status Find(absl::string_view name) = 0;
  // Opens that export. Errors as above; PermissionDenied when it may not be
  // opened, another code when it can't. A client may ask for thousands: the
  // caller drops one before it opens another.
  virtual absl::StatusOr<Opened> Open(absl::string_view name) = 0;

  // Told the canonical name and the description of an export; false when it
  // wants to hear no more.
  using Visitor = absl::FunctionRef<bool(absl::string_view name,
                                         absl::string_view description)>;
  // Tells `visit` all exports in their order. An error comes before the first:
  // ResourceExhausted when there are more than kMaxListedExports,
  // PermissionDenied when they may not be listed, another code when they can't.
  virtual absl::Status List(Visitor visit) = 0;

  // What would be served, for a person: lines, each with its newline.
  virtual std::string InWords() = 0;

  // The directory beneath which exports are still to be opened, borrowed; -1
  // when they are all open.
  virtual int directory_fd() const { return -1; }

  // Of what kinds the exports may be, those included that are still to be
  // opened; for whoever takes away what none of them needs.
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
