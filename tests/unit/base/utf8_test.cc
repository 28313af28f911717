#include "base/utf8.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

namespace nbdinetd {
namespace {

// The encoding of any number by the scheme of UTF-8, also where UTF-8 forbids
// the number or a shorter form exists.
std::string Encode(uint32_t point, int length) {
  if (length == 1) return std::string(1, static_cast<char>(point));
  std::string text;
  const uint32_t marks[] = {0, 0, 0xc0, 0xe0, 0xf0, 0xf8, 0xfc};
  text.push_back(
      static_cast<char>(marks[length] | (point >> (6 * (length - 1)))));
  for (int i = length - 2; i >= 0; --i) {
    text.push_back(static_cast<char>(0x80 | ((point >> (6 * i)) & 0x3f)));
  }
  return text;
}

int ShortestLength(uint32_t point) {
  return point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
}

TEST(Utf8, TheEmptyStringIsValid) { EXPECT_TRUE(IsValidUtf8("")); }

TEST(Utf8, NulIsWellFormed) {
  EXPECT_TRUE(IsValidUtf8(absl::string_view("a\0b", 3)));
}

TEST(Utf8, EveryScalarValueInItsShortestFormIsValidAndSurrogatesAreNot) {
  for (uint32_t point = 0; point <= 0x10ffff; ++point) {
    const bool surrogate = point >= 0xd800 && point <= 0xdfff;
    ASSERT_EQ(IsValidUtf8(Encode(point, ShortestLength(point))), !surrogate)
        << std::hex << point;
  }
}

TEST(Utf8, NothingAboveTheLastCodePointIsValid) {
  for (const uint32_t point :
       {0x110000u, 0x110001u, 0x13ffffu, 0x140000u, 0x1fffffu}) {
    EXPECT_FALSE(IsValidUtf8(Encode(point, 4))) << std::hex << point;
  }
  EXPECT_FALSE(IsValidUtf8(Encode(0x200000, 5)));
  EXPECT_FALSE(IsValidUtf8(Encode(0x4000000, 6)));
}

TEST(Utf8, NoOverlongFormIsValid) {
  for (uint32_t point = 0; point < 0x10000; ++point) {
    for (int length = ShortestLength(point) + 1; length <= 4; ++length) {
      ASSERT_FALSE(IsValidUtf8(Encode(point, length)))
          << std::hex << point << " in " << length;
    }
  }
}

TEST(Utf8, NoByteOutOfRangeStandsAlone) {
  for (int byte = 0x80; byte <= 0xff; ++byte) {
    const std::string text(1, static_cast<char>(byte));
    EXPECT_FALSE(IsValidUtf8(text)) << std::hex << byte;
    EXPECT_FALSE(IsValidUtf8("a" + text + "a")) << std::hex << byte;
  }
}

TEST(Utf8, ATruncatedSequenceIsInvalidWhereverItIsCut) {
  for (const uint32_t point :
       {0x80u, 0x7ffu, 0x800u, 0xffffu, 0x10000u, 0x10ffffu}) {
    const std::string whole = Encode(point, ShortestLength(point));
    for (size_t size = 1; size < whole.size(); ++size) {
      EXPECT_FALSE(IsValidUtf8(whole.substr(0, size)))
          << std::hex << point << " at " << size;
      EXPECT_FALSE(IsValidUtf8(whole.substr(0, size) + "abc"))
          << std::hex << point;
      EXPECT_FALSE(IsValidUtf8(whole.substr(0, size) + whole))
          << std::hex << point;
    }
  }
}

TEST(Utf8, EveryContinuationByteMustBeOne) {
  for (const uint32_t point : {0xe4u, 0x20acu, 0x1f4beu}) {
    const std::string whole = Encode(point, ShortestLength(point));
    for (size_t i = 1; i < whole.size(); ++i) {
      for (const int byte : {0x00, 0x41, 0x7f, 0xc0, 0xff}) {
        std::string broken = whole;
        broken[i] = static_cast<char>(byte);
        EXPECT_FALSE(IsValidUtf8(broken))
            << std::hex << point << ", byte " << i;
      }
    }
  }
}

TEST(Utf8, TextIsTakenApartByCharacters) {
  for (const uint32_t point : {0x41u, 0xe4u, 0x20acu, 0x1f4beu}) {
    const std::string whole = Encode(point, ShortestLength(point));
    EXPECT_EQ(CharacterLength(whole + "\xff"), whole.size());
    const std::string text = "\xc3\xa4" + whole;
    size_t i = 2;
    EXPECT_EQ(TakeCharacter(text, &i), point);
    EXPECT_EQ(i, text.size());
  }
  EXPECT_EQ(CharacterLength(""), 0u);
  EXPECT_EQ(CharacterLength("\xe2\x82"), 0u);
  EXPECT_EQ(CharacterLength("\xff-"), 0u);
}

TEST(Utf8, AFaultIsFoundBehindValidText) {
  const std::string text = "images/\xc3\xa4\xe2\x82\xac\xf0\x9f\x92\xbe";
  EXPECT_TRUE(IsValidUtf8(text));
  EXPECT_FALSE(IsValidUtf8(text + "\xff"));
  EXPECT_FALSE(IsValidUtf8(text + "\xe2\x82"));
}

}  // namespace
}  // namespace nbdinetd
