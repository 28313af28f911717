#include "base/utf8.h"

#include <cstdint>

namespace nbdinetd {
namespace {

// The length in bytes of the sequence that starts with `lead` (0 if none does),
// and the range of its second byte. All later bytes are 0x80..0xbf.
struct Sequence {
  size_t length;
  uint8_t second_min;
  uint8_t second_max;
};

Sequence SequenceOf(uint8_t lead) {
  if (lead < 0x80) return {1, 0, 0};
  if (lead < 0xc2) return {0, 0, 0};
  if (lead < 0xe0) return {2, 0x80, 0xbf};
  if (lead == 0xe0) return {3, 0xa0, 0xbf};
  if (lead == 0xed) return {3, 0x80, 0x9f};
  if (lead < 0xf0) return {3, 0x80, 0xbf};
  if (lead == 0xf0) return {4, 0x90, 0xbf};
  if (lead < 0xf4) return {4, 0x80, 0xbf};
  if (lead == 0xf4) return {4, 0x80, 0x8f};
  return {0, 0, 0};
}

}  // namespace

size_t CharacterLength(absl::string_view text) {
  if (text.empty()) return 0;
  const Sequence sequence = SequenceOf(static_cast<uint8_t>(text[0]));
  if (text.size() < sequence.length) return 0;
  for (size_t k = 1; k < sequence.length; ++k) {
    const auto byte = static_cast<uint8_t>(text[k]);
    const uint8_t min = k == 1 ? sequence.second_min : uint8_t{0x80};
    const uint8_t max = k == 1 ? sequence.second_max : uint8_t{0xbf};
    if (byte < min || byte > max) return 0;
  }
  return sequence.length;
}

char32_t TakeCharacter(absl::string_view text, size_t* i) {
  const auto lead = static_cast<unsigned char>(text[(*i)++]);
  if (lead < 0x80) return lead;
  const int more = lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
  char32_t character = lead & (0x3f >> more);
  for (int k = 0; k < more; ++k) {
    character =
        character << 6 | (static_cast<unsigned char>(text[(*i)++]) & 0x3f);
  }
  return character;
}

bool IsValidUtf8(absl::string_view text) {
  while (!text.empty()) {
    const size_t length = CharacterLength(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

}  // namespace nbdinetd
