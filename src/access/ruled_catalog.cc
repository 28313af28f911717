#include "access/ruled_catalog.h"

#include <algorithm>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "access/rule_line.h"
#include "base/errors.h"
#include "export/base_lock.h"
#include "export/copy_on_write.h"
#include "export/exclusive.h"
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

// The stronger of two locks. nullopt is what --exclusive says: at least off.
std::optional<Exclusive> StrongerOf(std::optional<Exclusive> one,
                                    std::optional<Exclusive> other) {
  if (one.has_value() && other.has_value()) return std::max(*one, *other);
  const std::optional<Exclusive> given = one.has_value() ? one : other;
  return given == Exclusive::kOff ? std::nullopt : given;
}

absl::Status NoCopy() {
  return absl::InternalError("there is no private copy for this client");
}

}  // namespace

std::optional<ClientGrants::Decision> DecisionFor(const ClientGrants& grants,
                                                  const Catalog& catalog,
                                                  absl::string_view name) {
  std::optional<ClientGrants::Decision> decision = grants.For(name);
  if (!decision.has_value()) return std::nullopt;
  const std::string whole_name = catalog.WholeOf(name);
  const std::optional<ClientGrants::Decision> whole =
      whole_name.empty() ? std::nullopt : grants.For(whole_name);
  if (whole.has_value()) {
    const std::optional<Exclusive> exclusive =
        StrongerOf(decision->grant.exclusive, whole->grant.exclusive);
    if (whole->grant.mode < decision->grant.mode) decision = whole;
    decision->grant.exclusive = exclusive;
  }
  const bool is_kept = catalog.copies_fd() >= 0;
  if (is_kept && decision->grant.exclusive == Exclusive::kOff) {
    decision->grant.exclusive.reset();
  }
  return decision;
}

TransferLimits LimitsFor(const ClientGrants& grants, const Catalog& catalog,
                         absl::string_view name) {
  const auto limits_of = [&grants](absl::string_view granted) {
    const std::optional<ClientGrants::Decision> decision = grants.For(granted);
    return decision.has_value() ? TransferLimitsIn(decision->grant.limits)
                                : TransferLimits();
  };
  const std::string whole = catalog.WholeOf(name);
  return Replaced(whole.empty() ? TransferLimits() : limits_of(whole),
                  limits_of(name));
}

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
  if (!DecisionFor(grants_, inner_, CanonicalName(name)).has_value()) {
    return Hide(name);
  }
  return inner_.Find(name);
}

absl::StatusOr<Catalog::Opened> RuledCatalog::Open(absl::string_view name) {
  const std::string canonical = CanonicalName(name);
  const std::optional<ClientGrants::Decision> decision =
      DecisionFor(grants_, inner_, canonical);
  if (!decision.has_value()) return Hide(name);
  const Grant& grant = decision->grant;
  const Grant::Mode mode = grant.mode.value_or(Grant::Mode::kReadOnly);
  if (MakesCopy(mode) && !copy_.file.has_value()) return NoCopy();
  absl::StatusOr<Opened> opened =
      mode == Grant::Mode::kReadOnly || MakesCopy(mode)
          ? inner_.OpenReadOnly(name)
          : inner_.Open(name);
  if (!opened.ok()) return opened;
  // Nothing is served by the rule of another name.
  if (opened->name != canonical) return Hide(name);
  if (MakesCopy(mode)) {
    opened->target = PromiseOfCopy(std::move(opened->target));
  }
  if (grant.exclusive.value_or(Exclusive::kOff) != Exclusive::kOff &&
      opened->target->shares_locks()) {
    return absl::InternalError(
        absl::StrCat("exclusive= can't lock ", Quoted(opened->target->path()),
                     ", which was handed over, and whose locks are shared"));
  }
  opened->exclusive = grant.exclusive;
  opened->limits = LimitsFor(grants_, inner_, canonical);
  opened->rule = grants_.PlaceOf(decision->line);
  return opened;
}

absl::StatusOr<std::shared_ptr<Export>> RuledCatalog::Reserve(
    std::shared_ptr<Export> target, const std::string& name,
    const Claimant& claimant) {
  const std::optional<ClientGrants::Decision> decision =
      DecisionFor(grants_, inner_, name);
  claimed_mode_ = decision.has_value()
                      ? decision->grant.mode.value_or(Grant::Mode::kReadOnly)
                      : Grant::Mode::kReadOnly;
  return inner_.Reserve(std::move(target), name, claimant);
}

absl::StatusOr<std::shared_ptr<Export>> RuledCatalog::Claim(
    std::shared_ptr<Export> reserved) {
  if (MakesCopy(claimed_mode_)) {
    if (!copy_.file.has_value()) return NoCopy();
    if (absl::Status status = LockBaseOfCopy(*reserved); !status.ok()) {
      return status;
    }
  }
  absl::StatusOr<std::shared_ptr<Export>> claimed =
      inner_.Claim(std::move(reserved));
  if (!claimed.ok()) return claimed;
  if (claimed_mode_ == Grant::Mode::kReadOnly) {
    // The served export may be another one than the one that was opened: a kept
    // copy, for example.
    if ((*claimed)->facts().read_only) return claimed;
    return std::make_shared<ReadOnly>(*std::move(claimed));
  }
  if (!MakesCopy(claimed_mode_)) return claimed;
  PrivateCopy copy = *std::move(copy_.file);
  copy_.file.reset();
  return std::move(copy).Of(*std::move(claimed));
}

absl::Status RuledCatalog::List(Visitor visit) {
  bool has_time = true, wants_more = true;
  const auto visit_shown = [&](absl::string_view name,
                               absl::string_view description) {
    has_time = goes_on_();
    if (has_time && grants_.For(name).has_value()) {
      wants_more = visit(name, description);
    }
    return has_time && wants_more;
  };
  absl::Status status;
  if (grants_.has_patterns()) {
    grants_.PrepareForMany();
    status = inner_.List(visit_shown);
  } else {
    for (const std::string& name : grants_.PlainNames()) {
      has_time = goes_on_();
      if (!has_time || !wants_more) break;
      inner_.ListOne(name, visit_shown);
    }
  }
  return has_time ? status : absl::CancelledError("the handshake has no time");
}

}  // namespace nbdinetd
