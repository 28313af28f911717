// How large the export of an input is, and whether its client uses extended
// headers.

#ifndef NBDINETD_TESTS_FUZZ_SIZES_H_
#define NBDINETD_TESTS_FUZZ_SIZES_H_

#include <cstdint>
#include <iterator>

#include "fuzz/input.h"

namespace nbdfuzz {

inline uint64_t SizeOf(const Input& input) {
  constexpr uint64_t kSizes[] = {1 << 20,
                                 300'000,
                                 0,
                                 1,
                                 4095,
                                 64 << 10,
                                 (512 << 10) + 77,
                                 40 << 20,
                                 uint64_t{5} << 30,
                                 uint64_t{1} << 40,
                                 (uint64_t{1} << 63) - 1};
  return kSizes[input.settings[Input::kSize] % std::size(kSizes)];
}

// For the target of the transmission phase; of Input::kWhat.
inline constexpr int kExtendedBit = 5;
inline bool HasExtendedHeaders(const Input& input) {
  return input.bit(Input::kWhat, kExtendedBit);
}

}  // namespace nbdfuzz

#endif  // NBDINETD_TESTS_FUZZ_SIZES_H_
