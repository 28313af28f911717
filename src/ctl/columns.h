// The columns of each verb's output: headers of tables and names in JSON.
//
// nbdinetctl(1) has a paragraph for each name, and a test holds it to these
// tables. Names in JSON are those of the journal's fields in lower case without
// "NBD_".
#ifndef NBDINETD_CTL_COLUMNS_H_
#define NBDINETD_CTL_COLUMNS_H_

#include "absl/types/span.h"
#include "ctl/table.h"

namespace nbdinetd::ctl {

// The columns of a verb, by the verb's name.
absl::Span<const Column> ListColumns();
absl::Span<const Column> ConnectionColumns();
absl::Span<const Column> HistoryColumns();
absl::Span<const Column> DisconnectColumns();
// enable, disable, start, stop
absl::Span<const Column> ActionColumns();
absl::Span<const Column> CheckColumns();
absl::Span<const Column> ProbeColumns();
// copies list
absl::Span<const Column> CopyColumns();

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_COLUMNS_H_
