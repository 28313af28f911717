#include "access/ruled_catalog.h"

#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "export/read_only.h"
#include "protocol/option.h"

namespace nbdinetd {
namespace {

// A name that has the form of `name`, and is never it: a partition's number at
// its end stays, since that leads to other system calls.
std::string NameInPlaceOf(absl::string_view name) {
  const size_t colon = name.rfind(':');
  const bool has_number = colon != absl::string_view::npos &&
                          colon + 1 < name.size() &&
                          name.find_first_not_of("0123456789", colon + 1) ==
                              absl::string_view::npos;
  const size_t size = has_number ? colon : name.size();
  std::string other(size, '\x01');
  if (!other.empty() && name.substr(0, size) == other) other[0] = '\x02';
  return absl::StrCat(other, name.substr(size));
}

}  // namespace

absl::Status RuledCatalog::Hide(absl::string_view name) {
  // Its result says nothing about the export. A name that is no valid string
  // is the client's mistake, whoever it is.
  if (!IsValidString(name)) return inner_.Find(name);
  inner_.Find(NameInPlaceOf(CanonicalName(name))).IgnoreError();
  absl::Status hidden = absl::NotFoundError(
      absl::StrCat("the client may not use export ", Quoted(name)));
  hidden.SetPayload(kHiddenUrl, absl::Cord(grants_.WhyNot()));
  return hidden;
}

absl::Status RuledCatalog::Find(absl::string_view name) {
  if (!grants_.For(CanonicalName(name)).has_value()) return Hide(name);
  return inner_.Find(name);
}

absl::StatusOr<Catalog::Opened> RuledCatalog::Open(absl::string_view name) {
  const std::string canonical = CanonicalName(name);
  const std::optional<ClientGrants::Decision> decision = grants_.For(canonical);
  if (!decision.has_value()) return Hide(name);
  const Grant& grant = decision->grant;
  absl::StatusOr<Opened> opened =
      grant.mode == Grant::Mode::kReadWrite ||
              (!copy_.has_value() && grant.mode != Grant::Mode::kReadOnly)
          ? inner_.Open(name)
          : inner_.OpenReadOnly(name);
  if (!opened.ok()) return opened;
  // Nothing is served by the rule of another name.
  if (opened->name != canonical) return Hide(name);
  if (grant.mode == Grant::Mode::kPrivateCopy && copy_.has_value()) {
    opened->target = PromiseOfCopy(std::move(opened->target));
  }
  if (grant.exclusive.value_or(Exclusive::kOff) != Exclusive::kOff &&
      opened->target->shares_description()) {
    return absl::InternalError(
        absl::StrCat("exclusive= can't lock ", Quoted(opened->target->path()),
                     ", which was handed over, and whose locks are shared"));
  }
  opened->exclusive = grant.exclusive;
  opened->rule = grants_.PlaceOf(decision->line);
  return opened;
}

absl::StatusOr<std::shared_ptr<Export>> RuledCatalog::Reserve(
    std::shared_ptr<Export> target, const std::string& name,
    const Claimant& claimant) {
  const std::optional<ClientGrants::Decision> decision = grants_.For(name);
  claimed_mode_ = decision.has_value()
                      ? decision->grant.mode.value_or(Grant::Mode::kReadOnly)
                      : Grant::Mode::kReadOnly;
  return inner_.Reserve(std::move(target), name, claimant);
}

absl::StatusOr<std::shared_ptr<Export>> RuledCatalog::Claim(
    std::shared_ptr<Export> reserved) {
  absl::StatusOr<std::shared_ptr<Export>> claimed =
      inner_.Claim(std::move(reserved));
  if (!claimed.ok()) return claimed;
  if (claimed_mode_ == Grant::Mode::kReadOnly) {
    // What is served may be another export than the one that was opened: a kept
    // copy, for example.
    if ((*claimed)->facts().read_only) return claimed;
    return std::make_shared<ReadOnly>(*std::move(claimed));
  }
  if (claimed_mode_ != Grant::Mode::kPrivateCopy || !copy_.has_value()) {
    return claimed;
  }
  PrivateCopy copy = *std::move(copy_);
  copy_.reset();
  return std::move(copy).Of(*std::move(claimed));
}

absl::Status RuledCatalog::List(Visitor visit) {
  const absl::Status status =
      inner_.List([&](absl::string_view name, absl::string_view description) {
        return !grants_.For(name).has_value() || visit(name, description);
      });
  return grants_.empty() ? absl::OkStatus() : status;
}

}  // namespace nbdinetd
