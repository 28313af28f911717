// What an input of the fuzz targets that simulate a connection is made of.
//
//     12 bytes   settings: what is served, and how client and storage behave
//      4 bytes   how long each tape is
//      4 tapes   decisions, a byte each, in the order in which they come up
//     the rest   what the client sends
//
// Every sequence of bytes is an input, since settings that are missing are 0
// and tapes end where the input does. A tape that has run out gives 0, the
// decision of a machine where nothing goes wrong, so that recorded traffic is
// an input once sixteen zeroes stand before it.
//
// A long payload stands in the input by its first kSampleBytes bytes, which
// repeat: the corpus stays small, and long payloads are tried at the price of
// short ones.

#ifndef NBDINETD_TESTS_FUZZ_INPUT_H_
#define NBDINETD_TESTS_FUZZ_INPUT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace nbdfuzz {

// What is longer than this is a long payload: of an option, which may have
// names in it, and of a write.
inline constexpr size_t kVerbatimOptionBytes = 6000;
inline constexpr size_t kVerbatimWriteBytes = 64;
inline constexpr size_t kSampleBytes = 16;
// Longer payloads aren't expanded: all that follows is their beginning.
inline constexpr uint64_t kExpandedBytes = 3 << 20;

// How many bytes of the input stand for a payload of `length` bytes, of which
// so many would be verbatim.
constexpr uint64_t StoredBytes(size_t verbatim, uint64_t length) {
  return length > verbatim && length <= kExpandedBytes ? kSampleBytes : length;
}
// The payload of `length` bytes that `stored` stands for; shorter when the
// input ends inside it.
std::string Expand(size_t verbatim, std::string_view stored, uint64_t length);

// Decisions.
class Tape {
 public:
  Tape() = default;
  explicit Tape(std::string_view bytes) : rest_(bytes) {}
  uint8_t Next() {
    if (rest_.empty()) return 0;
    const auto byte = static_cast<uint8_t>(rest_[0]);
    rest_.remove_prefix(1);
    return byte;
  }

 private:
  std::string_view rest_;
};

struct Input {
  enum Setting {
    kWhat,        // bits of what is served; each target has its own
    kHow,         // more of them
    kSize,        // the export's size
    kLayout,      // its holes
    kCache,       // what of it is in the page cache
    kFileSystem,  // what its file system can't do
    kEnd,         // what the client does last
    kShutdown,    // at which call of poll() the process should end; 0: never
    kFlagsHigh,   // transmission flags
    kFlagsLow,
    kTimes,  // how long a peer may take
    kSpare,
    kSettings,
  };
  enum TapeName { kReceive, kSend, kStorage, kSchedule, kTapes };

  std::array<uint8_t, kSettings> settings = {};
  std::array<std::string, kTapes> tapes;  // at most 255 bytes each
  std::string stream;

  static Input Parse(std::string_view bytes);
  std::string Serialize() const;

  bool bit(Setting setting, int number) const {
    return (settings[setting] >> number & 1) != 0;
  }
};

}  // namespace nbdfuzz

#endif  // NBDINETD_TESTS_FUZZ_INPUT_H_
