// The administrator's choices for all exports, and what is known of them before
// the sandbox. Plain values.
#ifndef NBDINETD_EXPORT_EXPORT_SETTINGS_H_
#define NBDINETD_EXPORT_EXPORT_SETTINGS_H_

#include <cstdint>
#include <optional>

#include "base/block_sizes.h"
#include "export/storage.h"
#include "partition/partition_name.h"

namespace nbdinetd {

// A part of a file or block device, in bytes.
struct Part {
  uint64_t offset = 0;
  std::optional<uint64_t> length = std::nullopt;  // nullopt: up to the end
};

// A size in place of the one that a file, a block device, or a part has.
struct SizeChange {
  // A size of `bytes`, or the next multiple of `bytes` that is no smaller (kUp)
  // or no larger (kDown).
  enum class Kind { kExactly, kUp, kDown };
  Kind kind = Kind::kExactly;
  uint64_t bytes = 0;  // not 0 for kUp and kDown
};

// How the page cache is used.
enum class CacheMode {
  kWriteback,     // a write is there when it is answered, and stored at a flush
  kWritethrough,  // stored when it is answered
  kDrop,          // nothing stays in it
  kNone,          // requests pass by it; stored at a flush
  kDirectsync,    // the same, and stored when it is answered
};

struct ExportSettings {
  bool read_only = false;
  // nullopt: kNone where the storage needs it (StoragePromises), else
  // kWriteback.
  std::optional<CacheMode> cache = std::nullopt;
  std::optional<Part> part = std::nullopt;
  // In place of `part`: a partition by the table in the file.
  std::optional<PartitionName> partition = std::nullopt;
  std::optional<SizeChange> size = std::nullopt;
  // Without them, the storage decides what is preferred.
  std::optional<BlockSizes> block_sizes = std::nullopt;
  // Whether other hosts serve the same file or device; nullopt: the storage
  // decides (--shared).
  std::optional<bool> shared = std::nullopt;
  // Set by a catalog that opens exports in the sandbox.
  std::optional<KnownStorage> known_storage = std::nullopt;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_EXPORT_SETTINGS_H_
