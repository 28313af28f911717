#include "ctl/copy_merge.h"

#include <sys/stat.h>

#include <cerrno>
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
#include "ctl/stat_in_time.h"
#include "ctl/where.h"
#include "export/base_facts.h"
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
  // Those that the units define; if these can't be read, why.
  absl::StatusOr<std::vector<ManagedExport>> exports;
};

void AddDirectory(const std::string& directory,
                  std::vector<std::string>& directories) {
  for (const std::string& known : directories) {
    if (IsSameDirectory(known, directory)) return;
  }
  directories.push_back(directory);
}

absl::StatusOr<std::vector<ManagedExport>> ExportsOf(const Where& where) {
  absl::StatusOr<BusAndExports> found = OpenBusAndExports(where);
  if (!found.ok()) return found.status();
  return std::move(found->exports);
}

absl::StatusOr<FoundBase> FindBase(const CommandLine& line,
                                   const CopyFile& copy,
                                   const KeptHeader& header) {
  FoundBase found = {nullptr, {copy.directory}, ExportsOf(line.where)};
  if (!found.exports.ok() && line.base.empty()) {
    return absl::Status(
        found.exports.status().code(),
        absl::StrCat("the units, which say what the base is, can't be read: ",
                     found.exports.status().message(),
                     "; --base=FILE names it"));
  }
  absl::StatusOr<std::shared_ptr<Export>> base =
      line.base.empty()
          ? OpenDefinedBase(*found.exports, line.where, copy.directory, header)
          : OpenNamedBase(line.base, header);
  if (!base.ok()) return base.status();
  found.base = *std::move(base);
  if (!found.exports.ok()) return found;
  for (const ManagedExport& target : *found.exports) {
    const std::string directory = CopyDirectoryOf(target, line.where);
    if (!directory.empty()) AddDirectory(directory, found.directories);
  }
  return found;
}

// Tells which copies concern a merge into a base.
class Others {
 public:
  explicit Others(Export& base)
      : base_(base), place_(PlaceOf(base)), facts_(ReadBaseFacts(base)) {}

  // Whether a copy is of bytes of the base, or of bytes beside them in the same
  // file, whose time of change is the same. Of a device, also if that can't be
  // told.
  bool Concerns(const KeptHeader& header) const;
  // Whether a copy that concerns the base is served, and so would become stale,
  // or wrong.
  bool IsServed(const CopyFile& copy) const {
    return copy.state == "kept" || copy.state == "in use" ||
           (copy.state == "stale" && WouldBeServed(*copy.header));
  }

 private:
  // Whether a device would be served as the base of this copy, whatever path it
  // had.
  bool WouldBeServed(const KeptHeader& header) const {
    return base_.facts().block_device && header.base.inode == 0 &&
           header.size_bytes == base_.facts().size_bytes &&
           header.base_offset == place_.offset &&
           header.base_bytes == place_.length &&
           // A base that can't be read may be the same.
           (!facts_.ok() || ChangesOf(header.base, *facts_).empty());
  }

  Export& base_;
  const Export::Origin place_;
  const absl::StatusOr<BaseFacts> facts_;
};

bool Others::Concerns(const KeptHeader& header) const {
  struct stat other, ours;
  const int error = StatInTime(header.base_path, &other);
  if (error == ETIMEDOUT) return true;
  const bool is_there = error == 0;
  if (FileStatus(base_.lock_fd(), &ours) != 0) return true;
  if (!S_ISBLK(ours.st_mode)) {
    return is_there && other.st_dev == ours.st_dev &&
           other.st_ino == ours.st_ino;
  }
  if (WouldBeServed(header)) return true;
  const bool may_be_same =
      is_there ? S_ISBLK(other.st_mode) && other.st_rdev == ours.st_rdev
               : header.base.inode == 0;
  return may_be_same && header.base_offset < place_.offset + place_.length &&
         place_.offset < header.base_offset + header.base_bytes;
}

// Whether `other`, which concerns the base, really is one that a merge has
// begun with. Its header may be forged, to keep merges of other exports away.
bool IsHalfMerged(const CopyFile& other, const FoundBase& found,
                  const Where& where) {
  const KeptOwner& owner = other.header->owner;
  if (KeptNameOf(owner) == other.name &&
      (!found.exports.ok() ||
       MayBeCopyOf(*found.exports, where, other.directory, owner,
                   *found.base))) {
    return true;
  }
  Warn(absl::StrCat(Quoted(other.path()), " says that a merge of it into ",
                    Quoted(found.base->path()),
                    " was cut short, but isn't a copy of that: ignored"));
  return false;
}

// How many other copies a merge makes stale. FailedPrecondition: another merge
// into the base was cut short. Other errors: nobody knows.
absl::StatusOr<size_t> CountOthers(const FoundBase& found, const Where& where,
                                   const CopyFile& copy) {
  const Others others(*found.base);
  size_t count = 0;
  for (const std::string& directory : found.directories) {
    const absl::StatusOr<std::vector<CopyFile>> copies = CopiesIn(directory);
    if (absl::IsNotFound(copies.status())) continue;
    if (!copies.ok()) return copies.status();
    for (CopyFile other : *copies) {
      if (directory == copy.directory && other.name == copy.name) continue;
      LookAt(other);
      if (!other.header.has_value() || !others.Concerns(*other.header)) {
        continue;
      }
      if (other.state == "merging" && IsHalfMerged(other, found, where)) {
        return Refused(copy, absl::StrCat("a merge of ", Quoted(other.path()),
                                          " into the same base was cut short, "
                                          "and has to be repeated first"));
      }
      if (others.IsServed(other)) ++count;
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
  if (base->base->facts().block_device && !base->exports.ok() && !line.force) {
    return Refused(copy,
                   absl::StrCat("the units, which say where there may be other "
                                "copies of the block device, can't be read: ",
                                base->exports.status().message(),
                                "; --force merges if there are none"));
  }
  const absl::StatusOr<size_t> others = CountOthers(*base, line.where, copy);
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
  return DeleteCopy(copy, locked->fd.get());
}

}  // namespace nbdinetd::ctl
