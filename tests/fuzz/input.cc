#include "input.h"

#include <algorithm>

namespace nbdfuzz {

std::string Expand(size_t verbatim, std::string_view stored, uint64_t length) {
  if (StoredBytes(verbatim, length) == length || stored.size() < kSampleBytes) {
    return std::string(
        stored.substr(0, std::min<uint64_t>(length, stored.size())));
  }
  std::string payload;
  payload.reserve(length + kSampleBytes);
  while (payload.size() < length)
    payload.append(stored.substr(0, kSampleBytes));
  payload.resize(length);
  return payload;
}

Input Input::Parse(std::string_view bytes) {
  Input input;
  const auto take = [&bytes](size_t n) {
    const std::string_view taken = bytes.substr(0, n);
    bytes.remove_prefix(taken.size());
    return taken;
  };
  const std::string_view settings = take(kSettings);
  std::copy(settings.begin(), settings.end(), input.settings.begin());
  const std::string_view lengths = take(kTapes);
  for (size_t i = 0; i < lengths.size(); ++i) {
    input.tapes[i] = take(static_cast<uint8_t>(lengths[i]));
  }
  input.stream = bytes;
  return input;
}

std::string Input::Serialize() const {
  std::string bytes(settings.begin(), settings.end());
  for (const std::string& tape : tapes) {
    bytes.push_back(static_cast<char>(std::min<size_t>(tape.size(), 255)));
  }
  for (const std::string& tape : tapes) bytes += tape.substr(0, 255);
  return bytes + stream;
}

}  // namespace nbdfuzz
