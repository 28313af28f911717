// How similar two words are, for "did you mean".
#ifndef NBDINETD_BASE_EDIT_DISTANCE_H_
#define NBDINETD_BASE_EDIT_DISTANCE_H_

#include <cstddef>

#include "absl/strings/string_view.h"

namespace nbdinetd {

// The distance of Damerau and Levenshtein between two words, as optimal string
// alignment: the number of characters that are inserted, left out, replaced or
// swapped with their neighbour. The time is the product of their lengths.
size_t EditDistance(absl::string_view a, absl::string_view b);

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_EDIT_DISTANCE_H_
