// An export that a client may only read, on one that may be writable for
// others. Threads: see Export.
#ifndef NBDINETD_EXPORT_READ_ONLY_H_
#define NBDINETD_EXPORT_READ_ONLY_H_

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <memory>

#include "absl/types/span.h"
#include "export/layer.h"

namespace nbdinetd {

// The client is told that the export is read-only, and its writes are refused
// before they get here; what would get here all the same changes nothing.
class ReadOnly : public Layer {
 public:
  explicit ReadOnly(std::shared_ptr<Export> base)
      : Layer(base, FactsOf(base->facts())) {}

  // Locks are those of a reader.
  bool lock_fd_is_read_only() const override { return true; }
  int Write(uint64_t, absl::Span<const char>, bool) override { return EPERM; }
  int Trim(uint64_t, uint64_t) override { return EPERM; }
  int Zero(uint64_t, uint64_t, Hole, Speed, const std::atomic<bool>*) override {
    return EPERM;
  }

 private:
  static Facts FactsOf(Facts facts) {
    facts.read_only = true;
    return facts;
  }
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_READ_ONLY_H_
