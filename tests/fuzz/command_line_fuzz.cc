// The command line, and the times in it: whatever is asked, the answer is
// options that keep their promises, or a sentence.

#include <getopt.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/time_span.h"
#include "fuzz/simulation.h"
#include "options.h"
#include "support/wire.h"

namespace {

using nbdfuzz::Require;

void TryTimeSpan(const std::string& text) {
  const absl::optional<absl::Duration> time = nbdinetd::ParseTimeSpan(text);
  if (!time.has_value()) return;
  Require(*time > absl::ZeroDuration(), "a time is not positive");
  // Blanks around it change nothing, and twice as long is no shorter.
  const std::string padded = " " + text + "\t";
  Require(nbdinetd::ParseTimeSpan(padded) == time, "blanks change a time");
  const bool is_word = text.find_first_of("0123456789") == std::string::npos;
  if (is_word || *time == absl::InfiniteDuration()) return;
  const auto longer = nbdinetd::ParseTimeSpan(text + " 1s");
  Require(!longer.has_value() || *longer > *time ||
              *time > absl::Hours(uint64_t{1} << 40),
          "a second more is not longer");
}

void TryCommandLine(std::string_view bytes) {
  std::vector<std::string> words = {"nbdinetd"};
  while (!bytes.empty() && words.size() < 64) {
    const size_t end = std::min(bytes.find('\0'), bytes.size());
    words.emplace_back(bytes.substr(0, end));
    bytes.remove_prefix(std::min(end + 1, bytes.size()));
  }
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  optind = 0;  // getopt(3): "reinitialize"
  nbdinetd::Options options;
  const absl::Status status = nbdinetd::ParseOptions(
      static_cast<int>(words.size()), argv.data(), &options);
  for (const absl::Duration time :
       {options.timeouts.handshake, options.timeouts.stall,
        options.timeouts.idle}) {
    Require(time > absl::ZeroDuration(), "a timeout is not positive");
  }
  if (!status.ok()) {
    Require(status.code() == absl::StatusCode::kInvalidArgument,
            "a wrong command line is not called that");
    Require(!status.message().empty(), "no word about what is wrong");
    return;
  }
  Require(options.listen.vsock || options.listen.port <= 65535,
          "a port out of range");
  Require(nbdtest::IsProtocolString(options.description) &&
              nbdtest::IsProtocolString(options.export_name.value_or("")),
          "a string that NBD doesn't allow");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  if (bytes.empty()) return 0;
  if (bytes[0] == 't') {
    TryTimeSpan(bytes.substr(1));
  } else {
    TryCommandLine(std::string_view(bytes).substr(1));
  }
  return 0;
}
