#include "export/catalog.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "export/read_only.h"
#include "protocol/option.h"

namespace nbdinetd {
namespace {

// Exports that are open from the start.
class OpenedCatalog : public Catalog {
 public:
  OpenedCatalog(std::vector<Entry> entries, bool answers_to_any)
      : entries_(std::move(entries)), answers_to_any_(answers_to_any) {}

  absl::Status Find(absl::string_view name) override {
    return Lookup(name) != nullptr ? absl::OkStatus() : NoExport(name);
  }

  absl::StatusOr<Opened> Open(absl::string_view name) override {
    const Entry* entry = Lookup(name);
    if (entry == nullptr) return NoExport(name);
    return Opened{.target = entry->target,
                  .name = entry->name,
                  .description = entry->description,
                  .read_only_reason = ""};
  }

  std::string CanonicalName(absl::string_view name) const override {
    return std::string(answers_to_any_ || (entries_.size() == 1 && name.empty())
                           ? entries_[0].name
                           : name);
  }

  absl::Status List(Visitor visit) override {
    for (const Entry& entry : entries_) {
      if (!visit(entry.name, entry.description)) break;
    }
    return absl::OkStatus();
  }

  Kinds kinds() const override {
    Kinds kinds{/*writable=*/false, /*block_devices=*/false};
    for (const Entry& entry : entries_) {
      const Export::Facts& facts = entry.target->facts();
      kinds.writable |= !facts.read_only;
      kinds.block_devices |= facts.block_device;
    }
    return kinds;
  }

  std::string InWords() override {
    std::string words;
    for (const Entry& entry : entries_) {
      const Export::Facts& facts = entry.target->facts();
      absl::StrAppend(&words, "would serve ", Quoted(entry.target->path()),
                      ": ", facts.size_bytes, " bytes, ",
                      facts.read_only ? "read-only" : "read-write", ", under ",
                      answers_to_any_ ? std::string("any export name")
                                      : absl::StrCat("the export name ",
                                                     Quoted(entry.name)),
                      "\n");
    }
    return words;
  }

 private:
  static absl::Status NoExport(absl::string_view name) {
    if (!IsValidString(name)) {
      return absl::InvalidArgumentError("the export's name is no valid string");
    }
    return absl::NotFoundError(
        absl::StrCat("there is no export ", Quoted(name)));
  }

  const Entry* Lookup(absl::string_view name) const {
    if (!IsValidString(name)) return nullptr;
    if (entries_.size() == 1 && (answers_to_any_ || name.empty())) {
      return &entries_[0];
    }
    for (const Entry& entry : entries_) {
      if (entry.name == name) return &entry;
    }
    return nullptr;
  }

  const std::vector<Entry> entries_;
  const bool answers_to_any_;
};

}  // namespace

absl::StatusOr<Catalog::Opened> Catalog::OpenReadOnly(absl::string_view name) {
  absl::StatusOr<Opened> opened = Open(name);
  if (!opened.ok() || opened->target->facts().read_only) return opened;
  opened->target = std::make_shared<ReadOnly>(std::move(opened->target));
  return opened;
}

void Catalog::ListOne(absl::string_view name, Visitor visit) {
  List([&](absl::string_view listed, absl::string_view description) {
    return listed != name || visit(listed, description);
  }).IgnoreError();
}

std::unique_ptr<Catalog> Catalog::OfOne(std::shared_ptr<Export> only,
                                        std::optional<std::string> name,
                                        std::string description) {
  const bool any = !name.has_value();
  std::vector<Entry> entries;
  entries.push_back(
      {std::move(name).value_or(""), std::move(description), std::move(only)});
  return std::make_unique<OpenedCatalog>(std::move(entries), any);
}

std::unique_ptr<Catalog> Catalog::OfNamed(std::vector<Entry> entries) {
  return std::make_unique<OpenedCatalog>(std::move(entries),
                                         /*answers_to_any=*/false);
}

}  // namespace nbdinetd
