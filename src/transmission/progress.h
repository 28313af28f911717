// The STATUS= of a connection's process: who is served what, and how much so
// far.
#ifndef NBDINETD_TRANSMISSION_PROGRESS_H_
#define NBDINETD_TRANSMISSION_PROGRESS_H_

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "base/service_manager.h"
#include "transmission/statistics.h"

namespace nbdinetd {

// Tells the service manager at most once a second, and only what is new.
class Progress {
 public:
  // `manager` and `statistics` are borrowed. `what` says who is served what.
  Progress(ServiceManager& manager, const Statistics& statistics,
           std::string what)
      : manager_(manager), statistics_(statistics), what_(std::move(what)) {}

  // Tells what is new, if it is time to. Returns when this should be called
  // again at the latest: InfiniteFuture() when there is nothing new, or nobody
  // to tell. Without anybody to tell it costs a comparison.
  absl::Time Tell();

 private:
  ServiceManager& manager_;
  const Statistics& statistics_;
  const std::string what_;
  bool told_ = false;
  uint64_t told_sum_ = 0;
  absl::Time next_ = absl::InfinitePast();
};

}  // namespace nbdinetd

#endif  // NBDINETD_TRANSMISSION_PROGRESS_H_
