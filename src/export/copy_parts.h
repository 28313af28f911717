// What private copies have in common, whether they are kept or not. Threads:
// one.
#ifndef NBDINETD_EXPORT_COPY_PARTS_H_
#define NBDINETD_EXPORT_COPY_PARTS_H_

#include <cstdint>
#include <memory>

#include "export/block_map.h"
#include "export/export.h"

namespace nbdinetd {

// The facts of a private copy of an export with `facts`.
Export::Facts CopyFacts(Export::Facts facts);

// Makes the empty file `to` a clone of what `base` has in one piece of a file.
// False, and `to` is empty, where that isn't possible.
bool CloneInto(const Export& base, int to);

// The clone `copy` of `base` as an export with `facts`. It keeps the base open,
// which has locks.
std::shared_ptr<Export> CloneOf(std::shared_ptr<Export> base,
                                std::unique_ptr<Export> copy,
                                Export::Facts facts);

// Whether the file system can give storage back that a file occupies: tried
// behind `end_bytes`, the end of the file or later, where it changes nothing.
bool CanPunchHoles(int fd, uint64_t end_bytes);

// nullptr: there is no memory.
std::unique_ptr<BlockMap> MapOfBlocks(uint64_t size_bytes,
                                      uint64_t block_bytes);

// The smallest blocks, so that little has to be copied up, that need no larger
// map than allowed. More than kMaxCopyBlockBytes: the export is too large.
uint64_t CopyBlockBytes(uint64_t size_bytes);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_COPY_PARTS_H_
