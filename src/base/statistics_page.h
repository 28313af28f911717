// The statistics of a connection in a page of memory that nbdinetctl reads
// while the connection is served: no signal to the process, and no system call
// of it.
//
// The page is a memfd of the name kStatisticsPageName, which a reader finds
// among the descriptors of the process. Threads: as Counter.
#ifndef NBDINETD_BASE_STATISTICS_PAGE_H_
#define NBDINETD_BASE_STATISTICS_PAGE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/strings/string_view.h"
#include "base/statistics.h"
#include "base/unique_fd.h"

namespace nbdinetd {

inline constexpr char kStatisticsPageName[] = "nbdinetd-statistics";

// What the page holds. Numbers have the byte order of the machine.
struct StatisticsLayout {
  // A change of the layout, of the bounds of a histogram or of the meaning of a
  // number makes a new version.
  static constexpr uint32_t kVersion = 1;

  std::array<char, 8> magic = {'n', 'b', 'd', 's', 't', 'a', 't', 's'};
  uint32_t version = kVersion;
  uint32_t length_bytes = 0;  // of the layout
  Statistics statistics;
};
static_assert(sizeof(StatisticsLayout) <= 4096);

class StatisticsPage {
 public:
  // `shared`: others may want to read it. Memory of this process takes the
  // place of a page that can't be had: the connection is served all the same.
  // Makes four system calls, some of which the sandbox doesn't allow.
  explicit StatisticsPage(bool shared);
  ~StatisticsPage();
  StatisticsPage(const StatisticsPage&) = delete;
  StatisticsPage& operator=(const StatisticsPage&) = delete;

  Statistics& statistics() { return layout_->statistics; }
  bool shared() const { return fd_.valid(); }

 private:
  // Maps a new memfd; nullptr if that fails.
  StatisticsLayout* Map();

  UniqueFd fd_;  // invalid without a memfd
  std::unique_ptr<StatisticsLayout> own_;
  StatisticsLayout* layout_;
};

// The statistics in the bytes of such a page; nullopt if another version wrote
// it, or no nbdinetd did. Each number may be any number.
std::optional<Statistics> ParseStatisticsPage(absl::string_view page);

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_STATISTICS_PAGE_H_
