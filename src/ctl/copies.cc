#include <algorithm>
#include <iterator>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "ctl/columns.h"
#include "ctl/copy_base.h"
#include "ctl/copy_files.h"
#include "ctl/copy_merge.h"
#include "ctl/exports.h"
#include "ctl/output.h"
#include "ctl/verbs.h"

namespace nbdinetd::ctl {
namespace {

// The directories of the copies: what the command line says, or those of the
// exports with --cow=keep.
absl::StatusOr<std::vector<std::string>> Directories(const CommandLine& line) {
  if (!line.where.local()) {
    return absl::UnimplementedError(
        "copies are files of the exports' own machine: run nbdinetctl there");
  }
  if (!line.directory.empty()) return std::vector{line.directory};
  const absl::StatusOr<BusAndExports> found = OpenBusAndExports(line.where);
  if (!found.ok()) return found.status();
  std::set<std::string> directories;
  for (const ManagedExport& target : found->exports) {
    const std::string directory = CopyDirectoryOf(target, line.where);
    if (!directory.empty()) directories.insert(directory);
  }
  return std::vector<std::string>(directories.begin(), directories.end());
}

// All copies; none has been looked at.
absl::StatusOr<std::vector<CopyFile>> FindAll(const CommandLine& line) {
  const absl::StatusOr<std::vector<std::string>> directories =
      Directories(line);
  if (!directories.ok()) return directories.status();
  std::vector<CopyFile> all;
  for (const std::string& directory : *directories) {
    absl::StatusOr<std::vector<CopyFile>> copies = CopiesIn(directory);
    // Made when the first client comes.
    if (absl::IsNotFound(copies.status()) && line.directory.empty()) continue;
    if (!copies.ok()) return copies.status();
    std::move(copies->begin(), copies->end(), std::back_inserter(all));
  }
  return all;
}

// The copy that `name` names: as `list` shows it, or by its path.
absl::StatusOr<CopyFile> FindOne(const CommandLine& line,
                                 const std::string& name) {
  CommandLine where = line;
  std::string file = name;
  const size_t slash = name.rfind('/');
  if (slash != std::string::npos) {
    where.directory = slash == 0 ? "/" : name.substr(0, slash);
    file = name.substr(slash + 1);
  }
  absl::StatusOr<std::vector<CopyFile>> all = FindAll(where);
  if (!all.ok()) return all.status();
  std::vector<CopyFile> found;
  for (CopyFile& copy : *all) {
    if (copy.name == file) found.push_back(std::move(copy));
  }
  if (found.size() == 1) return std::move(found[0]);
  return absl::NotFoundError(
      found.empty()
          ? absl::StrCat("there is no copy ", Quoted(name),
                         ": 'nbdinetctl copies list' shows the names of all")
          : absl::StrCat("several directories have a copy ", Quoted(name),
                         ": use its path, or --directory=DIR"));
}

constexpr int64_t kMicroseconds = 1'000'000;

std::vector<Cell> RowOf(const CopyFile& copy) {
  Cell export_name, identity, key, size, created, pid, base;
  if (copy.header.has_value()) {
    const KeptHeader& header = *copy.header;
    export_name = header.owner.export_name;
    identity = header.owner.identity;
    key = std::string(WordOf(header.owner.kind));
    size = header.size_bytes;
    created = static_cast<uint64_t>(header.created * kMicroseconds);
    base = header.base_path;
  }
  if (copy.holder.value_or(0) > 0) pid = static_cast<uint64_t>(*copy.holder);
  return {copy.name,
          export_name,
          identity,
          key,
          size,
          copy.stored_bytes,
          created,
          static_cast<uint64_t>(copy.last_used * kMicroseconds),
          copy.state,
          pid,
          copy.directory,
          base,
          TextCell(copy.reason)};
}

absl::StatusOr<int> ListCopies(const CommandLine& line) {
  absl::StatusOr<std::vector<CopyFile>> copies = FindAll(line);
  if (!copies.ok()) return copies.status();
  Table table(CopyColumns());
  for (CopyFile& copy : *copies) {
    LookAt(copy);
    table.AddRow(RowOf(copy));
  }
  if (absl::Status status = PrintTable(line, table); !status.ok()) {
    return status;
  }
  if (table.empty() && line.json == Json::kOff) {
    Warn("there are no kept copies (--cow=keep)");
  }
  return kSuccess;
}

absl::Status Act(const CommandLine& line, const std::string& action,
                 const CopyFile& copy) {
  if (action == "discard") return DiscardCopy(copy);
  if (action == "merge") return MergeCopy(line, copy);
  std::string warning;
  const absl::Status status = ExportCopy(copy, line.arguments[2], &warning);
  if (!warning.empty()) Warn(warning);
  return status;
}

}  // namespace

absl::StatusOr<int> Copies(const CommandLine& line) {
  const std::string action =
      line.arguments.empty() ? "list" : line.arguments[0];
  const size_t wanted = action == "list"                           ? 1
                        : action == "discard" || action == "merge" ? 2
                        : action == "export"                       ? 3
                                                                   : 0;
  if (wanted != std::max<size_t>(line.arguments.size(), 1)) {
    return absl::InvalidArgumentError(
        "usage: nbdinetctl copies [list|discard COPY|merge COPY|"
        "export COPY FILE]");
  }
  if (action != "merge" && (!line.base.empty() || line.force)) {
    return absl::InvalidArgumentError(
        absl::StrCat(line.force ? "--force" : "--base",
                     " is for copies merge, not for ", "copies ", action));
  }
  if (action == "list") return ListCopies(line);
  const absl::StatusOr<CopyFile> copy = FindOne(line, line.arguments[1]);
  if (!copy.ok()) return copy.status();
  const absl::Status status = Act(line, action, *copy);
  if (!status.ok()) return status;
  return kSuccess;
}

}  // namespace nbdinetd::ctl
