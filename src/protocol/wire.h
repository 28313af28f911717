// Reads and writes integers in network byte order.
//
// WireReader reads a received message and records reads past its end, so that a
// decoder checks only once, after its last field. WireWriter appends to a
// string, for messages of the handshake. Store() is for the transmission phase,
// which allocates nothing.
#ifndef NBDINETD_PROTOCOL_WIRE_H_
#define NBDINETD_PROTOCOL_WIRE_H_

#include <endian.h>

#include <concepts>
#include <cstdint>
#include <cstring>
#include <string>

#include "absl/strings/string_view.h"

namespace nbdinetd {

template <std::unsigned_integral T>
T SwapIfLittleEndian(T value) {
  if constexpr (sizeof(T) == 2) return htobe16(value);
  if constexpr (sizeof(T) == 4) return htobe32(value);
  if constexpr (sizeof(T) == 8) return htobe64(value);
}

// Writes `value` at `out` and returns the address after it.
template <std::unsigned_integral T>
char* Store(char* out, T value) {
  const T wire = SwapIfLittleEndian(value);
  std::memcpy(out, &wire, sizeof(wire));
  return out + sizeof(wire);
}

template <std::unsigned_integral T>
T Load(const char* in) {
  T wire;
  std::memcpy(&wire, in, sizeof(wire));
  return SwapIfLittleEndian(wire);
}

class WireReader {
 public:
  explicit WireReader(absl::string_view bytes) : rest_(bytes) {}

  // The next integer; 0 past the end of the message.
  template <std::unsigned_integral T>
  T Read() {
    const absl::string_view bytes = ReadBytes(sizeof(T));
    return bytes.size() == sizeof(T) ? Load<T>(bytes.data()) : T{0};
  }

  // The next `n` bytes, borrowed; empty past the end of the message.
  absl::string_view ReadBytes(size_t n) {
    if (n > rest_.size()) {
      overrun_ = true;
      rest_ = {};
      return {};
    }
    const absl::string_view bytes = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return bytes;
  }

  size_t remaining() const { return rest_.size(); }
  // True if no read went past the end of the message, and no bytes are left.
  bool ReadExactly() const { return !overrun_ && rest_.empty(); }

 private:
  absl::string_view rest_;
  bool overrun_ = false;
};

class WireWriter {
 public:
  template <std::unsigned_integral T>
  WireWriter& Write(T value) {
    const T wire = SwapIfLittleEndian(value);
    bytes_.append(reinterpret_cast<const char*>(&wire), sizeof(wire));
    return *this;
  }
  WireWriter& WriteBytes(absl::string_view bytes) {
    bytes_.append(bytes.data(), bytes.size());
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

}  // namespace nbdinetd

#endif  // NBDINETD_PROTOCOL_WIRE_H_
