// Comparison and printing of extents, for readable failures.
#ifndef NBDINETD_TESTS_SUPPORT_EXTENT_H_
#define NBDINETD_TESTS_SUPPORT_EXTENT_H_

#include <ostream>

#include "export/extents.h"

namespace nbdinetd {

inline bool operator==(const Extent& a, const Extent& b) {
  return a.length_bytes == b.length_bytes && a.hole == b.hole;
}
inline void PrintTo(const Extent& extent, std::ostream* out) {
  *out << (extent.hole ? "hole " : "data ") << extent.length_bytes;
}

}  // namespace nbdinetd

#endif  // NBDINETD_TESTS_SUPPORT_EXTENT_H_
