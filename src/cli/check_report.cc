#include "cli/check_report.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "base/json.h"
#include "protocol/option.h"
#include "protocol/transmission_flags.h"

namespace nbdinetd {
namespace {

// Collects the members of an object.
class Object {
 public:
  // `json` is a value in JSON.
  void Add(absl::string_view name, absl::string_view json) {
    members_.push_back(absl::StrCat(JsonString(name), ": ", json));
  }
  void AddText(absl::string_view name, absl::string_view text) {
    if (!text.empty()) Add(name, JsonString(text));
  }
  template <typename Value, typename Function>
  void AddList(absl::string_view name, const std::vector<Value>& values,
               Function to_json) {
    if (values.empty()) return;
    Add(name,
        absl::StrCat("[",
                     absl::StrJoin(values, ", ",
                                   [&](std::string* out, const Value& value) {
                                     absl::StrAppend(out, to_json(value));
                                   }),
                     "]"));
  }
  std::string Json() const {
    return absl::StrCat("{", absl::StrJoin(members_, ", "), "}");
  }

 private:
  std::vector<std::string> members_;
};

absl::string_view Mode(bool writes) {
  return writes ? "read-write" : "read-only";
}

std::string UserJson(const ImageUser& user) {
  Object object;
  if (user.process.has_value()) {
    object.Add("pid", absl::StrCat(user.process->pid));
    object.AddText("program", user.process->program);
  }
  object.AddText("mode", Mode(user.writes));
  return object.Json();
}

void AddPromises(const Promises& promises, Object& object) {
  object.Add("transmission_flags", absl::StrCat(promises.transmission_flags));
  object.AddList("transmission_flag_names",
                 TransmissionFlagNames(promises.transmission_flags),
                 JsonString);
  Object block_size;
  block_size.Add("minimum", absl::StrCat(promises.block_sizes.minimum));
  block_size.Add("preferred", absl::StrCat(promises.block_sizes.preferred));
  block_size.Add("maximum",
                 absl::StrCat(promises.block_sizes.advertised_payload));
  object.Add("block_size", block_size.Json());
  if (!promises.block_status) return;
  Object contexts;
  contexts.Add(kBaseAllocation, absl::StrCat(kBaseAllocationId));
  object.Add("metadata_contexts", contexts.Json());
}

void AddBoolean(absl::string_view name, bool value, Object& object) {
  object.Add(name, value ? "true" : "false");
}

void AddStorage(const StorageReport& storage, Object& object) {
  object.AddText("storage", storage.name);
  object.AddText("other_hosts", storage.other_hosts);
  AddBoolean("multi_conn", storage.multi_conn, object);
  object.AddText("multi_conn_reason", storage.multi_conn_reason);
  if (storage.locks_reach_all.has_value()) {
    AddBoolean("exclusive_on_all_hosts", *storage.locks_reach_all, object);
    object.AddText("exclusive_reason", storage.locks_reason);
  }
  object.AddText("refusal", storage.refusal);
  object.AddText("flush", storage.flush);
  AddBoolean("holes", storage.holes, object);
}

std::string ServedJson(const CheckReport::Served& served) {
  Object object;
  if (served.name.has_value()) object.Add("export", JsonString(*served.name));
  object.AddText("file", served.file);
  object.Add("size", absl::StrCat(served.size_bytes));
  object.AddText("mode", Mode(!served.read_only));
  object.AddText("reason", served.read_only_reason);
  if (served.user.has_value()) object.Add("used_by", UserJson(*served.user));
  AddStorage(served.storage, object);
  if (served.promises.has_value()) AddPromises(*served.promises, object);
  return object.Json();
}

std::string LeftOutJson(const CheckReport::LeftOut& left_out) {
  Object object;
  object.AddText("export", left_out.name);
  object.AddText("reason", left_out.reason);
  return object.Json();
}

std::string AskedJson(const CheckReport::Asked& asked) {
  Object object;
  object.Add("export", JsonString(asked.name));
  object.AddText("mode", asked.mode);
  object.AddText("exclusive", asked.exclusive);
  object.AddText("limits", asked.limits);
  object.AddText("rule", asked.rule);
  object.AddText("reason", asked.reason);
  return object.Json();
}

}  // namespace

std::string ToJson(const CheckReport& report) {
  Object object;
  object.Add("exit_status", absl::StrCat(static_cast<int>(report.exit_status)));
  object.AddText("reason", report.reason);
  object.AddList("exports", report.exports, ServedJson);
  object.AddList("left_out", report.left_out, LeftOutJson);
  object.AddText("tls", report.tls);
  object.AddText("cow", report.cow);
  object.AddText("exclusive", report.exclusive);
  object.AddText("sandbox", report.sandbox);
  object.AddText("sandbox_reason", report.sandbox_reason);
  object.AddList("access", report.access, JsonString);
  object.AddText("rules", report.rules);
  object.AddText("as", report.asked_who);
  object.AddText("as_reason", report.asked_reason);
  object.AddList("as_exports", report.asked, AskedJson);
  object.AddList("hints", report.hints, JsonString);
  object.AddList("unit_hints", report.unit_hints, JsonString);
  return object.Json() + "\n";
}

}  // namespace nbdinetd
