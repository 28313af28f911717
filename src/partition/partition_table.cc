#include "partition/partition_table.h"

#include <cstddef>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/errors.h"

namespace nbdinetd {
namespace {

// The most partitions that a message lists.
constexpr size_t kMaxNamed = 16;

absl::string_view NameOf(PartitionTable::Kind kind) {
  return kind == PartitionTable::Kind::kGpt ? "GPT" : "MBR";
}

absl::Status NoPartition(absl::string_view what) {
  return absl::NotFoundError(what);
}

// "1 to 3, 5": runs of numbers.
std::string NumbersInWords(const std::vector<Partition>& partitions) {
  std::string words;
  for (size_t i = 0; i < partitions.size();) {
    size_t last = i;
    while (last + 1 < partitions.size() &&
           partitions[last + 1].number == partitions[last].number + 1) {
      ++last;
    }
    absl::StrAppend(&words, words.empty() ? "" : ", ", partitions[i].number);
    if (last > i) {
      absl::StrAppend(&words, last == i + 1 ? ", " : " to ",
                      partitions[last].number);
    }
    i = last + 1;
  }
  return words;
}

// `1 ("EFI", 6d0b...), 2`: what the partitions can be named by.
std::string NamesInWords(const std::vector<Partition>& partitions) {
  std::string words;
  for (size_t i = 0; i < partitions.size(); ++i) {
    if (i == kMaxNamed) return absl::StrCat(words, ", ...");
    const Partition& partition = partitions[i];
    absl::StrAppend(&words, i == 0 ? "" : ", ", partition.number);
    if (partition.label.empty() && partition.uuid.empty()) continue;
    absl::StrAppend(
        &words, " (", partition.label.empty() ? "" : Quoted(partition.label),
        partition.label.empty() || partition.uuid.empty() ? "" : ", ",
        partition.uuid, ")");
  }
  return words;
}

std::string TableOf(const PartitionTable& table, absl::string_view path) {
  return absl::StrCat("the ", NameOf(table.kind), " of ", Quoted(path));
}

// Why `table` has no partitions to serve. OK if it may have some.
absl::Status CheckTable(const PartitionTable& table, uint64_t file_bytes,
                        absl::string_view path) {
  // 2^32 sectors of 512 bytes.
  constexpr uint64_t kMbrBytes = uint64_t{512} << 32;
  switch (table.kind) {
    case PartitionTable::Kind::kNone:
      return NoPartition(
          absl::StrCat(Quoted(path),
                       " has no partition table that can be read (GPT or MBR): "
                       "serve all of it, or a part by --offset and --length"));
    case PartitionTable::Kind::kBrokenGpt:
      return NoPartition(absl::StrCat(
          Quoted(path),
          " has an MBR that protects a GPT, and no GPT that is valid: is the "
          "file shorter than its disk was? 'sgdisk --verify' tells what is "
          "wrong"));
    case PartitionTable::Kind::kGpt:
      break;
    case PartitionTable::Kind::kMbr:
      // Older versions of libblkid count it in sectors of 512 bytes with 32
      // bits, whatever its sectors are.
      if (table.sector_bytes == 512 || file_bytes <= kMbrBytes) break;
      return NoPartition(absl::StrCat(
          TableOf(table, path), " counts in sectors of ", table.sector_bytes,
          " bytes on a disk of more than 2 TiB, which isn't supported: serve a "
          "part by --offset and --length"));
  }
  return absl::OkStatus();
}

// The partition of this name. NotFound if there isn't exactly one.
absl::StatusOr<const Partition*> Lookup(const PartitionTable& table,
                                        const PartitionName& name,
                                        absl::string_view path) {
  std::vector<Partition> others;  // what can be named instead
  std::vector<const Partition*> found;
  for (const Partition& partition : table.partitions) {
    const bool matches =
        name.number.has_value()
            ? partition.number == *name.number
            : (!partition.label.empty() && partition.label == name.text) ||
                  (!partition.uuid.empty() &&
                   absl::EqualsIgnoreCase(partition.uuid, name.text));
    if (matches) found.push_back(&partition);
    if (!partition.extended) others.push_back(partition);
  }
  if (found.size() == 1) return found[0];
  if (found.size() > 1) {
    std::vector<Partition> candidates;
    for (const Partition* partition : found) candidates.push_back(*partition);
    return NoPartition(absl::StrCat(
        "several partitions in ", TableOf(table, path), " have the name ",
        Quoted(name.text), ": ", NamesInWords(candidates),
        "; choose one by its number or its UUID"));
  }
  const std::string which =
      name.number.has_value()
          ? absl::StrCat("partition ", *name.number)
          : absl::StrCat("a partition with the label or UUID ",
                         Quoted(name.text));
  return NoPartition(
      absl::StrCat(which, " isn't in ", TableOf(table, path), ", which has ",
                   others.empty()            ? "none"
                   : name.number.has_value() ? NumbersInWords(others)
                                             : NamesInWords(others)));
}

bool Overlap(const Partition& a, const Partition& b) {
  return a.start_bytes < b.start_bytes + b.size_bytes &&
         b.start_bytes < a.start_bytes + a.size_bytes;
}

// A partition that shares bytes with `partition`; nullptr for none. A logical
// partition lies in the extended one.
const Partition* FindOverlapping(const PartitionTable& table,
                                 const Partition& partition) {
  constexpr uint32_t kFirstLogical = 5;
  const bool is_logical = table.kind == PartitionTable::Kind::kMbr &&
                          partition.number >= kFirstLogical;
  for (const Partition& other : table.partitions) {
    if (&other == &partition || (is_logical && other.extended)) continue;
    if (Overlap(partition, other)) return &other;
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<PartitionRange> FindPartition(const PartitionTable& table,
                                             const PartitionName& name,
                                             uint64_t file_bytes,
                                             absl::string_view path) {
  if (absl::Status status = CheckTable(table, file_bytes, path); !status.ok()) {
    return status;
  }
  const absl::StatusOr<const Partition*> found = Lookup(table, name, path);
  if (!found.ok()) return found.status();
  const Partition& partition = **found;
  const std::string which =
      absl::StrCat("partition ", partition.number, " of ", Quoted(path));
  if (partition.extended) {
    return NoPartition(absl::StrCat(
        which,
        " is an extended partition, which only contains others: choose one of "
        "them, whose numbers are 5 and up"));
  }
  if (partition.start_bytes == 0) {
    return NoPartition(absl::StrCat(
        which,
        " begins where the table itself is: a client could change the table; "
        "correct it, or serve a part by --offset and --length"));
  }
  if (partition.start_bytes > file_bytes ||
      partition.size_bytes > file_bytes - partition.start_bytes) {
    return NoPartition(absl::StrCat(
        which, " begins at ", partition.start_bytes, " and has ",
        partition.size_bytes, " bytes, which is beyond the file's ", file_bytes,
        ": is the file shorter than its disk was?"));
  }
  if (const Partition* other = FindOverlapping(table, partition)) {
    return NoPartition(absl::StrCat(
        which, " overlaps partition ", other->number,
        ": a client of one would destroy the other; correct the table, or "
        "serve a part by --offset=",
        partition.start_bytes, " and --length=", partition.size_bytes));
  }
  return PartitionRange{partition.start_bytes, partition.size_bytes};
}

}  // namespace nbdinetd
