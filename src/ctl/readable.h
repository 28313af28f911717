// Sizes, times and names as people read them in tables.
#ifndef NBDINETD_CTL_READABLE_H_
#define NBDINETD_CTL_READABLE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace nbdinetd::ctl {

// "0", "512", "1.5K", "40.0G": units of 1024.
std::string ReadableBytes(uint64_t bytes);

// "350ms", "12s", "2min 5s", "3h 20min", "2d 3h": at most two units of
// systemd.time(7), rounded down.
std::string ReadableSpan(absl::Duration span);

// "2min 5s ago"; "now" below a second, and for a time in the future.
std::string ReadableAge(absl::Time then, absl::Time now);

// "Fri 2026-11-27 09:12".
std::string ReadableTime(absl::Time time, absl::TimeZone zone);

// `text` for a terminal: as it is when every character is visible and it is
// UTF-8, with escapes otherwise. Names come from clients and files.
std::string Visible(absl::string_view text);

// The columns that a terminal needs for UTF-8 text: two for most characters of
// Chinese, Japanese and Korean, none for combining ones. The widths are those
// of wcwidth() in the locale of the process; a character that the locale
// doesn't have counts as one.
size_t WidthOf(absl::string_view text);

// `text` cut to `width` columns at most, the last of them then "…". `width` is
// at least 1.
std::string Ellipsized(absl::string_view text, size_t width);

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_READABLE_H_
