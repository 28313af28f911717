// The file of a kept copy that remembers, in its header, that the storage has
// lost something which a client had written.
//
// The kernel reports a lost write once, and the page cache may show what the
// storage lacks. The client that comes back, perhaps after a restart of the
// machine, would otherwise read what it has never written. Threads: see Export.
#ifndef NBDINETD_EXPORT_LOSS_MARK_H_
#define NBDINETD_EXPORT_LOSS_MARK_H_

#include <cstdint>
#include <memory>
#include <mutex>

#include "absl/types/span.h"
#include "export/kept_header.h"
#include "export/layer.h"

namespace nbdinetd {

class LossMark : public Layer {
 public:
  enum class AtEnd { kFlush, kNothing };
  // `file` is that of the copy, whose header is `found.header`. With kFlush,
  // the destructor flushes: a loss that nobody has asked for is then noticed at
  // the latest.
  LossMark(std::shared_ptr<Export> file, FoundHeader found, AtEnd at_end);
  ~LossMark() override;

  int Write(uint64_t offset, absl::Span<const char> data,
            bool durable) override;
  int Flush() override;

 private:
  void Mark(int error);

  const AtEnd at_end_;
  std::mutex mutex_;
  FoundHeader found_;  // needs mutex_
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_LOSS_MARK_H_
