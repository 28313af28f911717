// The message by which the process that reads partition tables answers.
//
// That process has handled a hostile image, and may be under its control:
// Decode() takes any bytes, and what it returns has the form that is promised
// below, whatever its content.
#ifndef NBDINETD_PARTITION_TABLE_ANSWER_H_
#define NBDINETD_PARTITION_TABLE_ANSWER_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/limits.h"
#include "partition/partition_table.h"

namespace nbdinetd {

struct TableAnswer {
  enum class Outcome : uint32_t {
    kTable,      // `table`, perhaps without partitions
    kNoLibrary,  // libblkid can't be loaded; `text` says why
    kNoSandbox,  // a sandbox is required, and can't be entered; `text` says why
    kReadError,  // the file can't be read; `error_number`
  };
  Outcome outcome = Outcome::kTable;
  int error_number = 0;
  // Valid UTF-8 without control characters, of no more than kMaxSentenceBytes.
  std::string text;
  // At most kMaxPartitions, with ascending numbers from 1 to kMaxPartitions;
  // labels are valid UTF-8, UUIDs have digits and hyphens, and no start or size
  // is above Partition::kMaxBytes.
  PartitionTable table;
};

// Fixed sizes in bytes: a label has 36 units of UTF-16, at most 108 bytes.
inline constexpr size_t kAnswerHeadBytes = 24;
inline constexpr size_t kAnswerLabelBytes = 112;
inline constexpr size_t kAnswerUuidBytes = 40;
inline constexpr size_t kAnswerPartitionBytes =
    24 + kAnswerLabelBytes + kAnswerUuidBytes;
inline constexpr size_t kMaxAnswerBytes =
    kAnswerHeadBytes + kMaxPartitions * kAnswerPartitionBytes;

// What is too long is cut, and what is too much is left out.
std::string Encode(const TableAnswer& answer);
// Internal when `bytes` isn't what Encode() makes.
absl::StatusOr<TableAnswer> Decode(absl::string_view bytes);

}  // namespace nbdinetd

#endif  // NBDINETD_PARTITION_TABLE_ANSWER_H_
