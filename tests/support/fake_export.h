// An export without a file, for tests of what only asks it for its facts, or
// that want to decide how its trims and zeroings go.

#ifndef NBDINETD_TESTS_SUPPORT_FAKE_EXPORT_H_
#define NBDINETD_TESTS_SUPPORT_FAKE_EXPORT_H_

#include <utility>

#include "export/stored_export.h"

namespace nbdtest {

class FakeExport : public nbdinetd::StoredExport {
 public:
  explicit FakeExport(Facts facts) : FakeExport(nbdinetd::UniqueFd(), facts) {}
  // Reads, writes and flushes go to the descriptor, whatever it is.
  FakeExport(nbdinetd::UniqueFd fd, Facts facts)
      : StoredExport("/no/such/file", std::move(fd), facts) {}

  int Trim(uint64_t, uint64_t) override { return 0; }
  int Zero(uint64_t, uint64_t, Hole, Speed, const std::atomic<bool>*) override {
    return 0;
  }
};

}  // namespace nbdtest

#endif  // NBDINETD_TESTS_SUPPORT_FAKE_EXPORT_H_
