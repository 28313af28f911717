// An export whose changes go to a copy: what is written lands in the copy,
// block by block, and the export below is only read.
//
// A block that is written in part is completed from below first. A block is
// either below or in the copy, and never returns. Threads: see Export.
#ifndef NBDINETD_EXPORT_OVERLAY_H_
#define NBDINETD_EXPORT_OVERLAY_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <vector>

#include "absl/types/span.h"
#include "export/block_map.h"
#include "export/layer.h"

namespace nbdinetd {

class Overlay : public Layer {
 public:
  struct Copy {
    std::unique_ptr<Export> target;  // writable, and as large as the base
    // A bit for each block: each block that is set is in the copy.
    std::unique_ptr<BlockMap> copied;
    uint64_t block_bytes;  // a power of 2, and no less than a page
  };
  // `facts` are those of `base` but for what the copy changes.
  Overlay(std::shared_ptr<Export> base, Facts facts, Copy copy);

  std::optional<Location> Locate(uint64_t offset,
                                 uint64_t length) const override;
  // Of what hasn't been written.
  std::optional<Origin> FindOrigin(uint64_t offset,
                                   uint64_t length) const override;
  size_t ReadCached(uint64_t offset, absl::Span<char> out) override;
  bool IsCached(uint64_t offset, uint64_t length) override;
  StorageError Read(uint64_t offset, absl::Span<char> out,
                    size_t* done) override;
  int Write(uint64_t offset, absl::Span<const char> data,
            bool durable) override;
  bool writes_busy() const override {
    return copy_->writes_busy() ||
           changes_.load(std::memory_order_relaxed) != 0;
  }
  bool WriteWouldWait(uint64_t offset, uint64_t length) override;
  int Flush() override { return copy_->Flush(); }
  // Makes the whole blocks of the range zeroes, and gives their storage back.
  int Trim(uint64_t offset, uint64_t length) override;
  int Zero(uint64_t offset, uint64_t length, Hole hole, Speed speed,
           const std::atomic<bool>* cut_short) override;
  int Prefetch(uint64_t offset, uint64_t length) override;
  int FindExtents(uint64_t offset, uint64_t length, size_t limit,
                  const std::atomic<bool>* cut_short, Extents* out) override;
  bool finding_extents_may_sync() const override {
    return base().finding_extents_may_sync() ||
           copy_->finding_extents_may_sync();
  }

 protected:
  Export& copy() const { return *copy_; }
  uint64_t block_bytes() const { return block_bytes_; }
  // The blocks of [begin, end), whose data is in the copy, are in the copy from
  // now on. 0 or an errno value: they aren't.
  virtual int SetCopied(uint64_t begin, uint64_t end);

 private:
  // The start of a range that lies in one of the two exports.
  struct Run {
    Export& in;
    uint64_t length;
  };
  Run RunAt(uint64_t offset, uint64_t length) const;

  // What a range changes: parts of the blocks at its ends, and whole blocks.
  // The last block of the export may be shorter than the others.
  struct Parts {
    uint64_t head;   // bytes of a block that begins before the range
    uint64_t whole;  // bytes of whole blocks
    uint64_t tail;   // bytes of a block that ends behind the range
  };
  Parts PartsOf(uint64_t offset, uint64_t length) const;

  // Makes a change of whole blocks in the copy: `change` returns an errno
  // value. They are in the copy afterwards.
  template <typename Change>
  int ChangeBlocks(uint64_t offset, uint64_t length, Change change);
  // Changes a part of one block: writes `data`, or zeroes if it is nullptr.
  int ChangePart(uint64_t offset, uint64_t length, const char* data,
                 bool durable);
  // Brings a block of the export below into the page cache, if reads stay
  // there.
  void ReadAhead(uint64_t block);
  // As FindExtents(), at any byte.
  int AppendExtents(uint64_t offset, uint64_t length, size_t limit,
                    const std::atomic<bool>* cut_short, Extents* out);
  int CompleteBlock(uint64_t offset, uint64_t length, const char* data,
                    bool durable);

  const std::unique_ptr<Export> copy_;
  const std::unique_ptr<BlockMap> copied_;
  const uint64_t block_bytes_;
  // Exclusive while a block is completed: a change of the whole block that came
  // in between would be lost.
  std::shared_mutex blocks_;
  // Threads that have blocks_, or wait for it.
  std::atomic<int> changes_ = 0;
  std::vector<char> block_;  // while a block is completed
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_OVERLAY_H_
