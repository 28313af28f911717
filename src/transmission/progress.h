// The STATUS= of a connection's process: the client, its export, and the bytes
// so far. Its grammar is documented in nbdinetd.journal-fields(7), since
// programs parse it.
#ifndef NBDINETD_TRANSMISSION_PROGRESS_H_
#define NBDINETD_TRANSMISSION_PROGRESS_H_

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "base/service_manager.h"
#include "base/statistics.h"

namespace nbdinetd {

// Sends a status to the service manager when it has changed, at most once a
// second. Threads: one.
class Progress {
 public:
  // `manager` and `statistics` are borrowed. `what` names the client and its
  // export.
  Progress(ServiceManager& manager, const Statistics& statistics,
           std::string what)
      : manager_(manager), statistics_(statistics), what_(std::move(what)) {}

  // Sends the status if it has changed and the second is over. Returns the time
  // of the next call at the latest; InfiniteFuture() if nothing has changed or
  // there is no service manager, when it costs one comparison.
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
