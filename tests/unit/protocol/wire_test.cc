#include "protocol/wire.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

namespace nbdinetd {
namespace {

TEST(Store, WritesTheHighestByteFirst) {
  char bytes[14];
  char* end = Store(bytes, uint16_t{0x0102});
  end = Store(end, uint32_t{0xa1a2a3a4});
  end = Store(end, uint64_t{0xf1f2f3f4f5f6f7f8});
  EXPECT_EQ(end, bytes + sizeof(bytes));
  EXPECT_EQ(std::string(bytes, sizeof(bytes)),
            "\x01\x02\xa1\xa2\xa3\xa4\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8");
}

TEST(Store, TouchesNoByteBehindTheNumber) {
  char bytes[] = "xxxxxxxxxx";
  Store(bytes, uint32_t{0});
  EXPECT_EQ(std::string(bytes + 4, 6), "xxxxxx");
}

TEST(Load, ReadsWhatIsNotAligned) {
  const std::string bytes = "x\x01\x02\x03\x04\x05\x06\x07\x08";
  EXPECT_EQ(Load<uint16_t>(bytes.data() + 1), 0x0102);
  EXPECT_EQ(Load<uint32_t>(bytes.data() + 1), 0x01020304u);
  EXPECT_EQ(Load<uint64_t>(bytes.data() + 1), 0x0102030405060708u);
}

TEST(WireReader, ReadsAMessageFromItsFirstByteToItsLast) {
  WireReader reader(
      absl::string_view("\x00\x07\x00\x00\x00\x03"
                        "abc\x80\0\0\0\0\0\0\x01",
                        17));
  EXPECT_EQ(reader.remaining(), 17u);
  EXPECT_EQ(reader.Read<uint16_t>(), 7);
  EXPECT_EQ(reader.Read<uint32_t>(), 3u);
  EXPECT_EQ(reader.ReadBytes(3), "abc");
  EXPECT_EQ(reader.remaining(), 8u);
  EXPECT_FALSE(reader.ReadExactly());
  EXPECT_EQ(reader.Read<uint64_t>(), 0x8000000000000001u);
  EXPECT_EQ(reader.remaining(), 0u);
  EXPECT_TRUE(reader.ReadExactly());
}

TEST(WireReader, ReadingNothingOfAnEmptyMessageIsExact) {
  WireReader reader("");
  EXPECT_EQ(reader.ReadBytes(0), "");
  EXPECT_TRUE(reader.ReadExactly());
}

TEST(WireReader, AMessageWithBytesLeftWasNotReadExactly) {
  WireReader reader("abcde");
  reader.Read<uint32_t>();
  EXPECT_FALSE(reader.ReadExactly());
  EXPECT_EQ(reader.remaining(), 1u);
}

TEST(WireReader, AFieldThatRunsPastTheEndIsZeroAndRemembered) {
  for (size_t size = 0; size < 8; ++size) {
    const std::string message(size, '\xff');
    WireReader reader(message);
    EXPECT_EQ(reader.Read<uint64_t>(), 0u) << size;
    EXPECT_FALSE(reader.ReadExactly()) << size;
    EXPECT_EQ(reader.remaining(), 0u) << size;
  }
}

// A decoder that checks once, at the end, must not read good values after a bad
// one.
TEST(WireReader, NothingIsReadAnyMoreAfterAnOverrun) {
  WireReader reader("\x01\x02\x03");
  EXPECT_EQ(reader.Read<uint32_t>(), 0u);
  EXPECT_EQ(reader.Read<uint16_t>(), 0u);
  EXPECT_EQ(reader.ReadBytes(1), "");
  EXPECT_EQ(reader.ReadBytes(0), "");
  EXPECT_FALSE(reader.ReadExactly());
}

TEST(WireReader, ALengthNearTheGreatestOneIsAnOverrun) {
  for (const size_t length :
       {size_t{4}, SIZE_MAX, SIZE_MAX - 2, size_t{1} << 63}) {
    WireReader reader("abc");
    EXPECT_EQ(reader.ReadBytes(length), "") << length;
    EXPECT_FALSE(reader.ReadExactly()) << length;
  }
}

TEST(WireReader, BorrowsFromTheMessage) {
  const std::string message = "abcdef";
  WireReader reader(message);
  reader.ReadBytes(2);
  EXPECT_EQ(reader.ReadBytes(2).data(), message.data() + 2);
}

TEST(WireWriter, AppendsInNetworkByteOrder) {
  WireWriter writer;
  writer.Write(uint16_t{0x0102}).Write(uint32_t{0x03040506}).WriteBytes("abc");
  writer.Write(uint64_t{0x0708090a0b0c0d0e});
  EXPECT_EQ(writer.bytes(),
            "\x01\x02\x03\x04\x05\x06"
            "abc\x07\x08\x09\x0a\x0b\x0c\x0d\x0e");
}

TEST(WireWriter, KeepsNulBytes) {
  EXPECT_EQ(WireWriter()
                .WriteBytes(absl::string_view("\0a\0", 3))
                .Write(uint16_t{0})
                .bytes(),
            std::string("\0a\0\0\0", 5));
}

}  // namespace
}  // namespace nbdinetd
