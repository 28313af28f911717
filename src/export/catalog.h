// The catalog: which export a name stands for.
#ifndef NBDINETD_EXPORT_CATALOG_H_
#define NBDINETD_EXPORT_CATALOG_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "export/export.h"

namespace nbdinetd {

class Catalog {
 public:
  struct Entry {
    std::string name;  // the canonical one, as in NBD_OPT_LIST
    std::string description;
    std::unique_ptr<Export> target;
  };

  // One export. Without a `name` it answers to any, and is listed under the
  // empty one.
  static Catalog OfOne(std::unique_ptr<Export> only,
                       absl::optional<std::string> name,
                       std::string description) {
    const bool any = !name.has_value();
    std::vector<Entry> entries;
    entries.push_back({std::move(name).value_or(""), std::move(description),
                       std::move(only)});
    return Catalog(std::move(entries), any);
  }

  // Exports under names that differ. A sole one is the default export, too.
  static Catalog OfNamed(std::vector<Entry> entries) {
    return Catalog(std::move(entries), /*answers_to_any=*/false);
  }

  // The export that a client means by `name`, borrowed; nullptr when there is
  // none. The empty name is the default export's.
  const Entry* Find(absl::string_view name) const {
    if (entries_.size() == 1 && (answers_to_any_ || name.empty())) {
      return &entries_[0];
    }
    for (const Entry& entry : entries_) {
      if (entry.name == name) return &entry;
    }
    return nullptr;
  }

  const std::vector<Entry>& entries() const { return entries_; }
  bool answers_to_any() const { return answers_to_any_; }

 private:
  Catalog(std::vector<Entry> entries, bool answers_to_any)
      : entries_(std::move(entries)), answers_to_any_(answers_to_any) {}

  std::vector<Entry> entries_;
  bool answers_to_any_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_CATALOG_H_
