#include "partition/table_answer.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/ascii.h"
#include "base/utf8.h"

namespace nbdinetd {
namespace {

constexpr uint64_t kSectorBytes = 512;

struct Head {
  uint32_t outcome;
  int32_t error_number;
  uint32_t kind;
  uint32_t sector_bytes;
  uint32_t count;  // of the partitions that follow
  uint32_t text_bytes;
};
static_assert(sizeof(Head) == kAnswerHeadBytes);

struct Entry {
  uint32_t number;
  uint32_t extended;
  uint64_t start_sectors;  // of 512 bytes
  uint64_t size_sectors;
  char label[kAnswerLabelBytes];  // padded with NUL, and ending in one
  char uuid[kAnswerUuidBytes];
};
static_assert(sizeof(Entry) == kAnswerPartitionBytes);

template <size_t n>
void Store(absl::string_view text, char (&field)[n]) {
  std::memcpy(field, text.data(), std::min(text.size(), n - 1));
}

template <size_t n>
std::string TextIn(const char (&field)[n]) {
  return std::string(field, strnlen(field, n));
}

bool IsUuid(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isxdigit(static_cast<unsigned char>(c)) || c == '-';
  });
}

bool IsText(absl::string_view text) {
  return IsValidUtf8(text) &&
         std::none_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_iscntrl(static_cast<unsigned char>(c));
         });
}

absl::Status Broken() {
  return absl::InternalError(
      "the process that reads partition tables gave an answer that makes no "
      "sense");
}

uint64_t BytesOf(uint64_t sectors) {
  return sectors > Partition::kMaxBytes / kSectorBytes ? Partition::kMaxBytes
                                                       : sectors * kSectorBytes;
}

absl::StatusOr<Partition> PartitionOf(const Entry& entry, uint32_t previous) {
  Partition partition;
  partition.number = entry.number;
  partition.extended = entry.extended != 0;
  partition.start_bytes = BytesOf(entry.start_sectors);
  partition.size_bytes = BytesOf(entry.size_sectors);
  partition.label = TextIn(entry.label);
  partition.uuid = TextIn(entry.uuid);
  if (partition.number <= previous || partition.number > kMaxPartitions ||
      !IsValidUtf8(partition.label) || !IsUuid(partition.uuid)) {
    return Broken();
  }
  return partition;
}

}  // namespace

std::string Encode(const TableAnswer& answer) {
  const std::string text = answer.text.substr(0, kMaxSentenceBytes);
  const size_t count =
      std::min<size_t>(answer.table.partitions.size(), kMaxPartitions);
  const Head head = {static_cast<uint32_t>(answer.outcome),
                     answer.error_number,
                     static_cast<uint32_t>(answer.table.kind),
                     answer.table.sector_bytes,
                     static_cast<uint32_t>(count),
                     static_cast<uint32_t>(text.size())};
  std::string bytes(reinterpret_cast<const char*>(&head), sizeof(head));
  bytes += text;
  for (size_t i = 0; i < count; ++i) {
    const Partition& partition = answer.table.partitions[i];
    Entry entry = {};
    entry.number = partition.number;
    entry.extended = partition.extended ? 1 : 0;
    entry.start_sectors = partition.start_bytes / kSectorBytes;
    entry.size_sectors = partition.size_bytes / kSectorBytes;
    Store(partition.label, entry.label);
    Store(partition.uuid, entry.uuid);
    bytes.append(reinterpret_cast<const char*>(&entry), sizeof(entry));
  }
  return bytes;
}

absl::StatusOr<TableAnswer> Decode(absl::string_view bytes) {
  Head head;
  if (bytes.size() < sizeof(head)) return Broken();
  std::memcpy(&head, bytes.data(), sizeof(head));
  bytes.remove_prefix(sizeof(head));
  using Kind = PartitionTable::Kind;
  if (head.outcome > static_cast<uint32_t>(TableAnswer::Outcome::kReadError) ||
      head.kind > static_cast<uint32_t>(Kind::kBrokenGpt) ||
      head.count > kMaxPartitions || head.text_bytes > kMaxSentenceBytes ||
      bytes.size() != head.text_bytes + head.count * sizeof(Entry)) {
    return Broken();
  }
  TableAnswer answer;
  answer.outcome = static_cast<TableAnswer::Outcome>(head.outcome);
  answer.error_number = head.error_number;
  answer.text = std::string(bytes.substr(0, head.text_bytes));
  if (!IsText(answer.text)) return Broken();
  bytes.remove_prefix(head.text_bytes);
  answer.table.kind = static_cast<Kind>(head.kind);
  answer.table.sector_bytes = head.sector_bytes;
  uint32_t previous = 0;
  for (uint32_t i = 0; i < head.count; ++i) {
    Entry entry;
    std::memcpy(&entry, bytes.data() + i * sizeof(entry), sizeof(entry));
    absl::StatusOr<Partition> partition = PartitionOf(entry, previous);
    if (!partition.ok()) return partition.status();
    previous = partition->number;
    answer.table.partitions.push_back(*std::move(partition));
  }
  return answer;
}

}  // namespace nbdinetd
