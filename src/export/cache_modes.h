// How an export uses the page cache (--cache): layers directly on a file or
// block device. Threads: see Export.
#ifndef NBDINETD_EXPORT_CACHE_MODES_H_
#define NBDINETD_EXPORT_CACHE_MODES_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/types/span.h"
#include "export/blocks.h"
#include "export/layer.h"
#include "export/stored_export.h"

namespace nbdinetd {

// Each change is on stable storage when it is answered.
class WriteThrough : public Layer {
 public:
  explicit WriteThrough(std::shared_ptr<Export> base)
      : Layer(std::move(base)) {}

  int Write(uint64_t offset, absl::Span<const char> data, bool) override {
    return Layer::Write(offset, data, /*durable=*/true);
  }
  // Every write waits for the storage.
  bool writes_busy() const override { return true; }
  bool WriteWouldWait(uint64_t, uint64_t) override { return true; }
  int Trim(uint64_t offset, uint64_t length) override {
    const int error = Layer::Trim(offset, length);
    return error != 0 ? error : Flush();
  }
  int Zero(uint64_t offset, uint64_t length, Hole hole, Speed speed,
           const std::atomic<bool>* cut_short) override {
    const int error = Layer::Zero(offset, length, hole, speed, cut_short);
    return error != 0 ? error : Flush();
  }
};

// Drops from the page cache each page that it brings there by a read or a
// write. It uses pages that are there already, and leaves them there. It
// switches readahead off.
//
// The kernel does that for reads, if it can (StoredExport::ReadOnce()), and
// ReadCached() then starts them. Otherwise Read() looks what is cached, and
// drops the rest.
class DropBehind : public Layer {
 public:
  // Switches readahead off for the descriptor of `base`.
  explicit DropBehind(std::shared_ptr<StoredExport> base);
  ~DropBehind() override;

  // In no file: the kernel can't drop pages that sendfile(2) still sends.
  std::optional<Location> Locate(uint64_t, uint64_t) const override {
    return std::nullopt;
  }
  bool caches_reads() const override { return false; }
  bool begins_reads() const override { return stored_.reads_once(); }
  size_t ReadCached(uint64_t offset, absl::Span<char> out) override;
  StorageError Read(uint64_t offset, absl::Span<char> out,
                    size_t* done) override;
  int Write(uint64_t offset, absl::Span<const char> data,
            bool durable) override;
  bool WriteWouldWait(uint64_t offset, uint64_t length) override;
  int Flush() override;
  // The range would stay in the page cache.
  int Prefetch(uint64_t, uint64_t) override { return 0; }

 private:
  // Writes that haven't begun to be written back.
  struct Written {
    uint64_t begin = 0;  // of the first byte
    uint64_t end = 0;    // of the last one
    uint64_t bytes = 0;  // of all writes

    void Add(Range range);
    // Whether it is time to write them back.
    bool is_enough() const;
    Range range() const { return {begin, end - begin}; }
  };

  // Begins to write back what has been written, if that is enough. Waits for
  // what it began to write back before, and drops it.
  int AdvanceWriteBack();

  StoredExport& stored_;  // base()

  // Of written_, which is what was written since the last flush or
  // AdvanceWriteBack().
  std::mutex written_mutex_;
  Written written_;

  // Of AdvanceWriteBack(). Its holder waits for the storage.
  std::mutex write_back_mutex_;
  // What is being written back. Guarded by write_back_mutex_.
  Range writing_back_ = {0, 0};
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_CACHE_MODES_H_
