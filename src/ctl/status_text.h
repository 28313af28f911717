// Parses the STATUS= of a connection's process, whose grammar
// nbdinetd.journal-fields(7) documents.
#ifndef NBDINETD_CTL_STATUS_TEXT_H_
#define NBDINETD_CTL_STATUS_TEXT_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace nbdinetd::ctl {

// The counters of a connection so far.
struct Counters {
  uint64_t requests = 0;
  uint64_t bytes_read = 0;
  uint64_t bytes_written = 0;
  uint64_t errors = 0;
};

struct StatusText {
  std::string peer;
  // Not set during negotiation.
  std::optional<Counters> counters;
  std::string export_name;  // the name that the client asked for
  std::string identity;     // empty without one
};

// nullopt for a text of another form, as from another version of nbdinetd.
std::optional<StatusText> ParseStatusText(absl::string_view text);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_STATUS_TEXT_H_
