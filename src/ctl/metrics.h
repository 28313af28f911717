// The text format of Prometheus, and the HTTP by which it is fetched.
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

enum class HttpMethod { kNone, kGet, kHead };

// The method of a request whose header is complete; kNone for another text, and
// for a method that isn't served.
HttpMethod MethodOf(absl::string_view request);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_METRICS_H_
