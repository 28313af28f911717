#include "ctl/copy_merge.h"

#include <sys/stat.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "base/file_status.h"
#include "ctl/copy_base.h"
#include "ctl/exports.h"
#include "ctl/output.h"
#include "export/export.h"
#include "export/kept_copy.h"
#include "export/kept_merge.h"
#include "export/kept_name.h"

namespace nbdinetd::ctl {
namespace {

absl::Status Refused(const CopyFile& copy, absl::string_view why) {
  return absl::FailedPreconditionError(
      absl::StrCat(Quoted(copy.path()), " isn't merged: ", why));
}

// The base, and all directories that may have copies of it.
struct FoundBase {
  std::shared_ptr<Export> base;
  std::vector<std::string> directories;
};

void AddDirectory(const std::string& directory,
                  std::vector<std::string>& directories) {
  for (const std::string& known : directories) {
    if (IsSameDirectory(known, directory)) return;
  }
  directories.push_back(directory);
}

absl::StatusOr<FoundBase> FindBase(const CommandLine& line,
                                   const CopyFile& copy,
                                   const KeptHeader& header) {
  FoundBase found;
  found.directories.push_back(copy.directory);
  if (!line.base.empty()) {
    absl::StatusOr<std::shared_ptr<Export>> base =
        OpenNamedBase(line.base, header);
    if (!base.ok()) return base.status();
    found.base = *std::move(base);
    return found;
  }
  const absl::StatusOr<BusAndExports> exports = OpenBusAndExports(line.where);
  if (!exports.ok()) {
    return absl::Status(
        exports.status().code(),
        absl::StrCat("the units, which say what the base is, can't be read: ",
                     exports.status().message(), "; --base=FILE names it"));
  }
  absl::StatusOr<std::shared_ptr<Export>> base =
      OpenDefinedBase(exports->exports, line.where, copy.directory, header);
  if (!base.ok()) return base.status();
  found.base = *std::move(base);
  for (const ManagedExport& target : exports->exports) {
    const std::string directory = CopyDirectoryOf(target, line.where);
    if (!directory.empty()) AddDirectory(directory, found.directories);
  }
  return found;
}

// Whether a copy is of bytes of `base`, or of bytes beside them in the same
// file, whose time of change is the same.
bool IsOf(const KeptHeader& header, const Export& base) {
  struct stat other, ours;
  if (stat(header.base_path.c_str(), &other) != 0 ||
      FileStatus(base.lock_fd(), &ours) != 0) {
    return false;
  }
  if (!S_ISBLK(ours.st_mode)) {
    return other.st_dev == ours.st_dev && other.st_ino == ours.st_ino;
  }
  const Export::Origin place = PlaceOf(base);
  return S_ISBLK(other.st_mode) && other.st_rdev == ours.st_rdev &&
         header.base_offset < place.offset + place.length &&
         place.offset < header.base_offset + header.base_bytes;
}

// How many other copies a merge makes stale. FailedPrecondition: another merge
// into the base was cut short.
absl::StatusOr<size_t> CountOthers(const FoundBase& found,
                                   const CopyFile& copy) {
  size_t count = 0;
  for (const std::string& directory : found.directories) {
    const absl::StatusOr<std::vector<CopyFile>> copies = CopiesIn(directory);
    if (!copies.ok()) continue;
    for (CopyFile other : *copies) {
      if (directory == copy.directory && other.name == copy.name) continue;
      LookAt(other);
      if (!other.header.has_value() || !IsOf(*other.header, *found.base)) {
        continue;
      }
      if (other.state == "merging") {
        return Refused(copy, absl::StrCat("a merge of ", Quoted(other.path()),
                                          " into the same base was cut short, "
                                          "and has to be repeated first"));
      }
      if (other.state == "kept" || other.state == "in use") ++count;
    }
  }
  return count;
}

std::string OtherCopies(size_t count) {
  return count == 1 ? "another copy" : absl::StrCat(count, " other copies");
}

// Whether the merge may make `count` copies stale; with `is_forced`, those that
// show it.
absl::Status CheckOthers(const CopyFile& copy, const Export& base, size_t count,
                         bool is_forced) {
  if (count == 0) return absl::OkStatus();
  const std::string others = OtherCopies(count);
  const std::string path = Quoted(base.path());
  if (base.facts().block_device) {
    // Their clients would be served what never was.
    return Refused(copy,
                   absl::StrCat("there ", count == 1 ? "is " : "are ", others,
                                " of ", path,
                                ", and a block device doesn't show that it has "
                                "changed: export or discard the others first"));
  }
  if (is_forced) return absl::OkStatus();
  return Refused(copy,
                 absl::StrCat(others, " of ", path,
                              " would be stale, and their clients be refused: "
                              "--force merges all the same"));
}

}  // namespace

absl::Status MergeCopy(const CommandLine& line, const CopyFile& copy) {
  absl::StatusOr<LockedCopy> locked = LockCopy(copy);
  if (!locked.ok()) return locked.status();
  FoundHeader& found = locked->found;
  const bool goes_on = found.header.merge.has_value();
  if (KeptNameOf(found.header.owner) != copy.name) {
    return Refused(copy, absl::StrCat("its name isn't that of its owner, ",
                                      Quoted(KeptNameOf(found.header.owner))));
  }
  const absl::StatusOr<FoundBase> base = FindBase(line, copy, found.header);
  if (!base.ok()) return base.status();
  const absl::StatusOr<UniqueFd> alone = LockBaseAlone(*base->base);
  if (!alone.ok()) return alone.status();
  const absl::StatusOr<size_t> others = CountOthers(*base, copy);
  if (!others.ok()) return others.status();
  absl::Status allowed =
      CheckOthers(copy, *base->base, *others, line.force || goes_on);
  if (!allowed.ok()) return allowed;
  absl::Status merged =
      MergeIntoBase(locked->fd.get(), found, *base->base, ReadBootId());
  if (!merged.ok()) {
    const bool may_be_changed =
        found.header.merge.has_value() && !absl::IsFailedPrecondition(merged);
    return absl::Status(
        merged.code(),
        absl::StrCat(Quoted(copy.path()), " isn't merged: ", merged.message(),
                     may_be_changed
                         ? "; the base may be changed in part, until the merge "
                           "is repeated"
                         : ""));
  }
  if (*others != 0) {
    Warn(absl::StrCat(OtherCopies(*others), " of ", Quoted(base->base->path()),
                      *others == 1 ? " is" : " are", " stale now"));
  }
  return DeleteCopy(copy);
}

}  // namespace nbdinetd::ctl
