// The names of transmission flags, for programs and people.
#ifndef NBDINETD_PROTOCOL_TRANSMISSION_FLAGS_H_
#define NBDINETD_PROTOCOL_TRANSMISSION_FLAGS_H_

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"

namespace nbdinetd {

// The specification's names of the flags that are set, without
// "NBD_FLAG_", in the order of their bits. `flags` has only flags of nbd.h.
std::vector<absl::string_view> TransmissionFlagNames(uint16_t flags);

}  // namespace nbdinetd

#endif  // NBDINETD_PROTOCOL_TRANSMISSION_FLAGS_H_
