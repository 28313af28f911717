#include "export/checksum.h"

#include <array>
#include <cstddef>

namespace nbdinetd {
namespace {

// ECMA-182, reflected.
constexpr uint64_t kPolynomial = 0xc96c5795d7870f42;

constexpr std::array<uint64_t, 256> MakeTable() {
  std::array<uint64_t, 256> table = {};
  for (size_t i = 0; i < table.size(); ++i) {
    uint64_t value = i;
    for (int bit = 0; bit < 8; ++bit) {
      value = (value & 1) != 0 ? (value >> 1) ^ kPolynomial : value >> 1;
    }
    table[i] = value;
  }
  return table;
}

constexpr std::array<uint64_t, 256> kTable = MakeTable();

}  // namespace

uint64_t Checksum(absl::string_view bytes, uint64_t before) {
  uint64_t value = ~before;
  for (const char byte : bytes) {
    value = kTable[(value ^ static_cast<unsigned char>(byte)) & 0xff] ^
            (value >> 8);
  }
  return ~value;
}

}  // namespace nbdinetd
