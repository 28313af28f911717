#include "base/byte_size.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>

namespace nbdinetd {
namespace {

TEST(ByteSize, IsANumberWithAUnitOrWithout) {
  const struct {
    const char* text;
    uint64_t bytes;
  } rows[] = {
      {"0", 0},
      {"1", 1},
      {"512", 512},
      {"4K", 4096},
      {"32M", 32 << 20},
      {"1G", 1 << 30},
      {"16T", uint64_t{16} << 40},
      {"007", 7},
      {"18446744073709551615", UINT64_MAX},
      {"16777215T", uint64_t{16777215} << 40},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(ParseByteSize(row.text), row.bytes) << row.text;
  }
}

TEST(ByteSize, AnythingElseIsNone) {
  for (const char* text :
       {"", "K", " 4K", "4K ", "4 K", "4k", "4KB", "4KK", "+4", "-4", "0x10",
        "1e3", "1.5K", "four", "18446744073709551616", "16777216T",
        "18014398509481984K"}) {
    EXPECT_EQ(ParseByteSize(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace nbdinetd
