// Numbers, sizes and times for people.
#ifndef NBDINETD_BASE_AMOUNTS_H_
#define NBDINETD_BASE_AMOUNTS_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace nbdinetd {

// "1 request", "2 requests".
std::string Counted(uint64_t number, absl::string_view noun);

// A size with at most four digits: "1 byte", "1023 bytes", "64 MiB", "1.5 GiB".
std::string Amount(uint64_t bytes);

// The exact size, and from 1024 bytes on also Amount():
// "1610612736 bytes (1.5 GiB)".
std::string ExactAmount(uint64_t bytes);

// A time of which only the first figures matter: "350 us", "1.2 s",
// "4 min 12 s", "3 h 5 min", "2 d 7 h".
std::string RoughTime(absl::Duration duration);

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_AMOUNTS_H_
