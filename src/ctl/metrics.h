// The text format of Prometheus.
#ifndef NBDINETD_CTL_METRICS_H_
#define NBDINETD_CTL_METRICS_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "ctl/connections.h"
#include "ctl/exports.h"

namespace nbdinetd::ctl {

// A value of a label, escaped: backslash, quote and newline. Bytes that aren't
// UTF-8 become U+FFFD.
std::string LabelValue(absl::string_view text);

// `local`: sizes of files are those of this machine.
std::string MetricsText(absl::Span<const ManagedExport> exports,
                        absl::Span<const LiveConnection> connections,
                        bool local);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_METRICS_H_
