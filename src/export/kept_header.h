// The header of a kept copy: whose copy it is, of what, and in which state.
//
// The file of a copy has the data first, each byte where it is in the export:
//
//     data, and nothing up to a multiple of 4 KiB
//     live map, durable map      one bit for each block; both absent in a clone
//     slot, slot                 of kHeaderSlotBytes, at the end of the file
//
// A slot has a header with a checksum. A change writes the older slot, and the
// newer one stays as it is: power may fail in between, and one slot is always
// whole. The header with the higher sequence number holds.
//
// A file of others, or a damaged one, gives an error, and nothing outside of it
// is ever accessed: all places follow from the size of the export and of the
// blocks, and have to add up to the file's size. Threads: one.
#ifndef NBDINETD_EXPORT_KEPT_HEADER_H_
#define NBDINETD_EXPORT_KEPT_HEADER_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "export/base_facts.h"
#include "export/kept_name.h"

namespace nbdinetd {

inline constexpr uint64_t kHeaderSlotBytes = 16 << 10;
inline constexpr uint64_t kTrailerAlignment = 4096;

// Where what is in a copy's file.
struct KeptLayout {
  uint64_t map_bytes;  // of each of the two maps, allocated
  uint64_t live_map;   // offsets in bytes
  uint64_t durable_map;
  uint64_t slots;
  uint64_t file_bytes;
};

struct KeptHeader {
  // Longer texts can't be stored.
  static constexpr size_t kMaxText = 4096;
  // More than are ever written: a header with a higher number is a forged one,
  // behind which none would be newer.
  static constexpr uint64_t kMaxSequence = uint64_t{1} << 62;

  // The number of its writing: later ones are higher.
  uint64_t sequence = 0;
  uint64_t size_bytes = 0;  // of the export
  // A power of 2; 0 for a clone, which has no maps.
  uint64_t block_bytes = 0;
  BaseFacts base;
  // The file of the base: absolute, or a name for messages.
  std::string base_path;
  // Where the export begins in that file, and how much of it lies there in one
  // piece; 0 bytes of an export that has some: nobody knows.
  uint64_t base_offset = 0;
  uint64_t base_bytes = 0;
  KeptOwner owner;
  int64_t created = 0;  // in seconds since 1970
  // The start of the machine, in whose page cache the live map may be; empty if
  // it isn't known.
  std::string boot_id;

  // What a merge remembers of the base before it changes the first byte
  // (kept_merge.h). None of it is changed by that.
  struct Merge {
    uint64_t file_bytes = 0;  // of the whole file or device
    // Of the file's inode, which differs from that of a later file with the
    // same number; 0 where the file system has none.
    uint64_t generation = 0;
    // Of what the client sees in the first and in the last MiB.
    uint64_t first_digest = 0;
    uint64_t last_digest = 0;
  };
  // Why the storage has lost something that the client had written, as an errno
  // value; 0 if it hasn't.
  int lost_error = 0;
  // A merge has begun, and its end isn't known: the base may be changed in
  // part.
  std::optional<Merge> merge;

  KeptLayout layout() const;
};

// The bytes of a slot. InvalidArgument for a text that is too long.
absl::StatusOr<std::string> EncodeHeader(const KeptHeader& header);
// What a slot has. DataLoss: no header; it is damaged, or that of another
// program.
absl::StatusOr<KeptHeader> DecodeHeader(absl::string_view slot);

// The header of the copy that `fd` has, and its slot. DataLoss as above, also
// for a file whose size isn't what the header says; Unavailable when it can't
// be read.
struct FoundHeader {
  KeptHeader header;
  int slot = 0;  // 0 or 1
};
absl::StatusOr<FoundHeader> ReadHeader(int fd);

// Writes `header` into the slot that `found` isn't in, with the next sequence
// number, and waits until it is durable; `found` becomes what has been written.
// 0 or an errno value; EOVERFLOW: there is no higher number.
int ReplaceHeader(int fd, FoundHeader& found);

// Says in the header, in both slots as far as the storage takes it, that the
// storage has lost something that the client had written, for `error`, an errno
// value. `found` becomes what has been written.
void MarkLost(int fd, FoundHeader& found, int error);
// As SyncData(). The kernel reports a lost write once, and then calls what the
// storage lacks clean: if this fails, MarkLost() says so to all later ones.
int SyncCopy(int fd, FoundHeader& found);

// Reads or writes all bytes at `offset`. 0 or an errno value: EIO at the end of
// the file.
int ReadAll(int fd, uint64_t offset, char* out, size_t size);
int WriteAll(int fd, uint64_t offset, absl::string_view bytes);
// Waits until what was written to the file is on stable storage. 0 or an errno
// value.
int SyncData(int fd);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_KEPT_HEADER_H_
