// What a client sends, taken apart into messages and put together again.
//
// Taking apart never fails and loses nothing: a message with a wrong magic, or
// one that the input cuts short, is still a message. What follows a message
// whose length lies is taken for whatever stands there, as the server does.

#ifndef NBDINETD_TESTS_FUZZ_MESSAGES_H_
#define NBDINETD_TESTS_FUZZ_MESSAGES_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nbdfuzz {

enum class Phase { kNegotiation, kTransmission };
// Which one a fuzz target is about; each target defines it.
extern const Phase kFuzzedPhase;

struct Message {
  enum Kind { kClientFlags, kOption, kRequest, kRest };
  Kind kind = kRest;
  uint64_t magic = 0;
  uint32_t type = 0;   // of option or request
  uint16_t flags = 0;  // of a request
  uint64_t cookie = 0;
  uint64_t offset = 0;
  uint64_t length = 0;  // as it says itself
  // Its payload as it stands in the input (see input.h); all of it for the
  // client's flags and the rest.
  std::string stored;

  // A request with an extended header, as its magic says.
  bool extended() const;
  // Whether `length` tells of a payload.
  bool has_payload() const;
  // How many bytes of the input stand for it; and all of it.
  uint64_t stored_bytes() const;
  std::string Payload() const;
};

std::vector<Message> TakeApart(Phase phase, std::string_view stored);
std::string PutTogether(const std::vector<Message>& messages);

// The client's bytes as they go over the wire, with long payloads in full.
std::string ExpandOptions(std::string_view stored);
// The same; and each request gets a cookie of its own, made of the one it has
// and its number, since a client that reuses one can't tell its replies apart.
std::string ExpandRequests(std::string_view stored);

}  // namespace nbdfuzz

#endif  // NBDINETD_TESTS_FUZZ_MESSAGES_H_
