// What the catalogs on a catalog have in common: each call is passed to the
// catalog below. One overrides the calls that it changes, as Layer's heirs do
// for exports. OpenReadOnly() isn't passed on, but leads to the heir's Open().
// Threads: one.
#ifndef NBDINETD_EXPORT_FORWARDING_CATALOG_H_
#define NBDINETD_EXPORT_FORWARDING_CATALOG_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "export/catalog.h"

namespace nbdinetd {

class ForwardingCatalog : public Catalog {
 public:
  absl::Status Find(absl::string_view name) override {
    return inner_->Find(name);
  }
  absl::StatusOr<Opened> Open(absl::string_view name) override {
    return inner_->Open(name);
  }
  absl::StatusOr<std::shared_ptr<Export>> Reserve(
      std::shared_ptr<Export> target, const std::string& name,
      const Claimant& claimant) override {
    return inner_->Reserve(std::move(target), name, claimant);
  }
  absl::StatusOr<std::shared_ptr<Export>> Claim(
      std::shared_ptr<Export> reserved) override {
    return inner_->Claim(std::move(reserved));
  }
  std::string CanonicalName(absl::string_view name) const override {
    return inner_->CanonicalName(name);
  }
  std::string WholeOf(absl::string_view name) const override {
    return inner_->WholeOf(name);
  }
  absl::Status List(Visitor visit) override { return inner_->List(visit); }
  void ListOne(absl::string_view name, Visitor visit) override {
    inner_->ListOne(name, visit);
  }
  std::string InWords() override { return inner_->InWords(); }
  int directory_fd() const override { return inner_->directory_fd(); }
  int tables_fd() const override { return inner_->tables_fd(); }
  int copy_fd() const override { return inner_->copy_fd(); }
  int copies_fd() const override { return inner_->copies_fd(); }
  Kinds kinds() const override { return inner_->kinds(); }

 protected:
  explicit ForwardingCatalog(std::unique_ptr<Catalog> inner)
      : inner_(std::move(inner)) {}

  Catalog& inner() { return *inner_; }

 private:
  const std::unique_ptr<Catalog> inner_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_FORWARDING_CATALOG_H_
