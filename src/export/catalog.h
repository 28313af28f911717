// The catalog: which export a name stands for.
#ifndef NBDINETD_EXPORT_CATALOG_H_
#define NBDINETD_EXPORT_CATALOG_H_

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "export/export.h"

namespace nbdinetd {

// One export, under one name.
class Catalog {
 public:
  // Without a `name` the export answers to any, and is listed under the empty
  // one; with it, to that and to the empty name, which is the default export.
  Catalog(std::unique_ptr<Export> only, absl::optional<std::string> name,
          std::string description)
      : export_(std::move(only)),
        answers_to_any_(!name.has_value()),
        name_(std::move(name).value_or("")),
        description_(std::move(description)) {}

  // The export that a client means by `name`, borrowed; nullptr when there is
  // none.
  Export* Find(absl::string_view name) const {
    const bool known = answers_to_any_ || name.empty() || name == name_;
    return known ? export_.get() : nullptr;
  }

  // The canonical name, as in NBD_OPT_LIST and NBD_INFO_NAME.
  const std::string& name() const { return name_; }
  // May be empty.
  const std::string& description() const { return description_; }

 private:
  std::unique_ptr<Export> export_;
  bool answers_to_any_;
  std::string name_;
  std::string description_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_CATALOG_H_
