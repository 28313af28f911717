// Mutations that speak NBD: messages are inserted, removed, doubled, moved and
// changed field by field, with the values at which servers break; their lengths
// and magics stay right most of the time. libFuzzer's own mutations have their
// share, on payloads, on tapes, and on the whole.

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "fuzz/input.h"
#include "fuzz/messages.h"
#include "fuzz/sizes.h"
#include "support/wire.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace nbdfuzz {
namespace {

using namespace nbdtest;  // NOLINT: the words of the protocol.

class Mutator {
 public:
  Mutator(Input& input, unsigned seed) : input_(input), random_(seed) {}

  void Mutate() {
    std::vector<Message> messages = TakeApart(kFuzzedPhase, input_.stream);
    for (int turns = 1 + static_cast<int>(Below(3)); turns > 0; --turns) {
      if (OneIn(6)) {
        MutateSettings();
        FitHeaders(messages);
      } else if (OneIn(5)) {
        MutateTape();
      } else {
        MutateMessages(messages);
      }
    }
    input_.stream = PutTogether(messages);
  }

  // The beginning of this one, and the end of the other.
  void Cross(const Input& other) {
    std::vector<Message> messages = TakeApart(kFuzzedPhase, input_.stream);
    const std::vector<Message> more = TakeApart(kFuzzedPhase, other.stream);
    messages.resize(Below(messages.size() + 1));
    messages.insert(messages.end(),
                    more.begin() + static_cast<long>(Below(more.size() + 1)),
                    more.end());
    for (size_t i = 0; i < input_.tapes.size(); ++i) {
      if (OneIn(2)) input_.tapes[i] = other.tapes[i];
    }
    for (size_t i = 0; i < input_.settings.size(); ++i) {
      if (OneIn(3)) input_.settings[i] = other.settings[i];
    }
    FitHeaders(messages);
    input_.stream = PutTogether(messages);
  }

  bool OneIn(size_t n) { return Below(n) == 0; }

 private:
  size_t Below(size_t n) { return n == 0 ? 0 : random_() % n; }
  template <typename T, size_t n>
  T OneOf(const T (&values)[n]) {
    return values[Below(n)];
  }
  uint64_t AnyNumber() {
    return (uint64_t{random_()} << 32 | random_()) >> Below(64);
  }

  // Gives all requests the kind of header that the settings ask for.
  void FitHeaders(std::vector<Message>& messages) {
    const bool extended = HasExtendedHeaders(input_);
    for (Message& message : messages) {
      if (message.kind != Message::kRequest || message.extended() == extended) {
        continue;
      }
      if (!extended) {
        message.magic = kRequestMagic;
        message.flags =
            static_cast<uint16_t>(message.flags & ~kCmdFlagPayloadLen);
        message.length = static_cast<uint32_t>(message.length);
      } else if (message.magic == kRequestMagic) {
        message.magic = kExtendedRequestMagic;
        if (message.type == kCmdWrite) message.flags |= kCmdFlagPayloadLen;
      }
    }
  }

  // ---- Settings and tapes ----

  void MutateSettings() {
    const size_t which = Below(Input::kSettings);
    uint8_t& setting = input_.settings[which];
    switch (Below(3)) {
      case 0:
        setting = 0;
        break;
      case 1:
        setting = static_cast<uint8_t>(setting ^ 1u << Below(8));
        break;
      default:
        // Small numbers choose; a shutdown comes early or never.
        setting = static_cast<uint8_t>(Below(OneIn(2) ? 16 : 256));
    }
  }

  void MutateTape() {
    std::string& tape = input_.tapes[Below(Input::kTapes)];
    if (OneIn(8)) {
      tape.clear();
    } else if (OneIn(3) && !tape.empty()) {
      tape = Raw(tape, 255);
    } else if (OneIn(3) && !tape.empty()) {
      tape[Below(tape.size())] = static_cast<char>(Below(256));
    } else if (tape.size() < 200) {
      // Something at one moment, and all well before it.
      tape.insert(Below(tape.size() + 1), Below(12), '\0');
      tape.push_back(static_cast<char>(Below(256)));
    }
  }

  // ---- Messages ----

  void MutateMessages(std::vector<Message>& messages) {
    const size_t count = messages.size();
    const size_t at = Below(count);
    switch (Below(10)) {
      case 0:
      case 1:
        messages.insert(messages.begin() + static_cast<long>(Below(count + 1)),
                        NewMessage());
        break;
      case 2:
        messages.push_back(NewMessage());
        break;
      case 3:
        if (count > 0) messages.erase(messages.begin() + static_cast<long>(at));
        break;
      case 4:
        if (count > 0 && count < 200) {
          const Message copy = messages[at];
          const size_t copies = 1 + Below(OneIn(4) ? 40 : 3);
          messages.insert(messages.begin() + static_cast<long>(at), copies,
                          copy);
        }
        break;
      case 5:
        if (count > 1) std::swap(messages[at], messages[Below(count)]);
        break;
      default:
        if (count > 0) MutateMessage(messages[at]);
    }
  }

  Message NewMessage() {
    Message message;
    if (kFuzzedPhase == Phase::kNegotiation) {
      message.kind = Message::kOption;
      message.magic = kIHaveOpt;
      message.type = OptionType();
      SetPayload(message, OptionPayload(message.type));
    } else {
      message.kind = Message::kRequest;
      message.magic =
          HasExtendedHeaders(input_) ? kExtendedRequestMagic : kRequestMagic;
      message.cookie = Below(1000);
      message.type = static_cast<uint32_t>(Below(8));
      message.flags = CommandFlags(message.type);
      PlaceRequest(message);
      FillPayload(message);
    }
    return message;
  }

  void MutateMessage(Message& message) {
    switch (message.kind) {
      case Message::kClientFlags:
        message.stored = Writer().U32(ClientFlags()).bytes();
        break;
      case Message::kOption:
        MutateOption(message);
        break;
      case Message::kRequest:
        MutateRequest(message);
        break;
      case Message::kRest:
        message.stored = Raw(message.stored, 64);
        break;
    }
  }

  uint32_t ClientFlags() {
    constexpr uint32_t kFlags[] = {3, 3, 1, 2, 0, 4, 0xffffffff};
    return OneOf(kFlags);
  }

  // ---- Options ----

  uint32_t OptionType() {
    constexpr uint32_t kTypes[] = {1, 2, 3, 5,  6,  7,  8, 9,  10, 11,        6,
                                   7, 8, 9, 10, 10, 10, 4, 11, 12, 0xffffffff};
    return OneOf(kTypes);
  }

  std::string Name() {
    const std::string kNames[] = {"",
                                  "disk",
                                  "a",
                                  "b",
                                  "only",
                                  "\xc3\xbc",
                                  "",
                                  "disk",
                                  std::string(kMaxString, 'n'),
                                  std::string(kMaxString + 1, 'n'),
                                  "none",
                                  std::string("a\0b", 3),
                                  "\xff\xfe",
                                  "../a",
                                  "\xed\xa0\x80",
                                  "\xf4\x8f\xbf\xbf"};
    return kNames[Below(std::size(kNames))];
  }

  std::string OptionPayload(uint32_t type) {
    switch (type) {
      case kOptExportName:
        return Name();
      case kOptInfo:
      case kOptGo: {
        std::vector<uint16_t> infos;
        for (size_t n = Below(6); n > 0; --n) {
          infos.push_back(
              static_cast<uint16_t>(OneIn(8) ? Below(65536) : Below(5)));
        }
        return InfoPayload(Name(), infos);
      }
      case kOptListMetaContext:
      case kOptSetMetaContext: {
        const std::string kQueries[] = {"base:allocation",
                                        "base:allocation",
                                        "base:",
                                        "base:other",
                                        "qemu:dirty-bitmap:x",
                                        "x-none:",
                                        ":",
                                        "none",
                                        "",
                                        std::string(kMaxString, ':'),
                                        std::string(kMaxString + 1, 'q')};
        std::vector<std::string> queries;
        for (size_t n = Below(5); n > 0; --n) {
          queries.push_back(kQueries[Below(std::size(kQueries))]);
        }
        return MetaContextPayload(Name(), queries);
      }
      default:
        return OneIn(4) ? std::string(Below(40), 'x') : "";
    }
  }

  void MutateOption(Message& message) {
    switch (Below(7)) {
      case 0:
        message.type = OptionType();
        if (OneIn(2)) SetPayload(message, OptionPayload(message.type));
        break;
      case 1:
      case 2:
      case 3:
        SetPayload(message, OptionPayload(message.type));
        break;
      case 4:
        SetPayload(message, Raw(message.stored, kVerbatimOptionBytes));
        break;
      case 5: {
        // Around what an option, a string and the input buffer may be long.
        constexpr uint32_t kLengths[] = {4096,   4097,   65536,  65537,
                                         278511, 278512, 278513, 300000};
        message.length = OneOf(kLengths);
        message.stored.resize(message.stored_bytes(), 'p');
        break;
      }
      default:
        Break(message);
    }
  }

  // ---- Requests ----

  uint16_t CommandFlags(uint32_t type) {
    constexpr uint16_t kUsual[] = {0, 0, kCmdFlagFua};
    unsigned flags = OneOf(kUsual);
    if (type == kCmdRead && OneIn(3)) flags = kCmdFlagDf;
    if (type == kCmdBlockStatus && OneIn(2)) flags |= kCmdFlagReqOne;
    if (type == kCmdWriteZeroes && OneIn(2)) flags |= kCmdFlagNoHole;
    if (type == kCmdWriteZeroes && OneIn(2)) flags |= kCmdFlagFastZero;
    if (HasExtendedHeaders(input_) &&
        (type == kCmdWrite ? !OneIn(10)
                           : OneIn(type == kCmdBlockStatus ? 2 : 10))) {
      flags |= kCmdFlagPayloadLen;
    }
    if (OneIn(20)) flags = static_cast<unsigned>(AnyNumber());
    return static_cast<uint16_t>(flags);
  }

  void PlaceRequest(Message& message) {
    constexpr uint64_t kLengths[] = {
        0,      1,      2,       511,       512,        513,
        4095,   4096,   4097,    8192,      65535,      65536,
        65537,  100000, 262143,  262144,    262145,     300001,
        524288, 524289, 1048576, 32u << 20, 0xfffffe00, 0xffffffff};
    constexpr uint64_t kLongLengths[] = {
        (32u << 20) + 1,         (256u << 20) + 1,  uint64_t{1} << 32,
        uint64_t{5} << 30,       uint64_t{1} << 40, uint64_t{16} << 40,
        (uint64_t{1} << 63) - 1, uint64_t{1} << 63, ~uint64_t{0}};
    const uint64_t size = SizeOf(input_);
    message.length =
        message.extended() && OneIn(3) ? OneOf(kLongLengths) : OneOf(kLengths);
    switch (Below(7)) {
      case 0:
        message.offset = 0;
        break;
      case 1:
        message.offset = size - message.length;
        break;
      case 2:
        message.offset = size - Below(4096);
        break;
      case 3:
        message.offset = AnyNumber();
        break;
      case 4:
        message.offset = size == 0 ? 0 : AnyNumber() % size / 4096 * 4096;
        break;
      default:
        message.offset = size == 0 ? 0 : AnyNumber() % size;
    }
    if (message.type == kCmdFlush && !OneIn(8)) {
      message.offset = 0;
      message.length = 0;
    }
    if (message.offset < size && size - message.offset < message.length &&
        !OneIn(4)) {
      message.length = message.extended()
                           ? size - message.offset
                           : static_cast<uint32_t>(size - message.offset);
    }
  }

  // The payload of a write or of a block status; another one, if the flags say
  // so.
  void FillPayload(Message& message) {
    message.stored.clear();
    if (!message.has_payload()) return;
    if (message.type == kCmdBlockStatus && !OneIn(8)) {
      std::vector<uint32_t> ids(OneIn(4) ? Below(4) : 1);
      for (uint32_t& id : ids)
        id = OneIn(8) ? static_cast<uint32_t>(Below(4)) : 1;
      SetPayload(message, StatusPayload(message.length, ids));
      return;
    }
    if (message.length > kExpandedBytes) message.length %= 70000;
    while (message.stored.size() < message.stored_bytes()) {
      message.stored.push_back(static_cast<char>(Below(256)));
    }
  }

  void MutateRequest(Message& message) {
    switch (Below(7)) {
      case 0:
        message.type =
            static_cast<uint32_t>(OneIn(10) ? AnyNumber() & 0xffff : Below(8));
        break;
      case 1:
        message.flags = CommandFlags(message.type);
        if (!message.extended()) return;
        break;
      case 2:
      case 3:
        PlaceRequest(message);
        break;
      case 4:
        message.offset += AnyNumber() % 3 - 1;
        return;
      case 5:
        message.length += AnyNumber() % 3 - 1;
        if (!message.extended()) {
          message.length = static_cast<uint32_t>(message.length);
        }
        break;
      default:
        Break(message);
        return;
    }
    if (message.has_payload()) {
      FillPayload(message);
    } else if (!OneIn(10)) {
      message.stored.clear();
    }
  }

  // ---- Both ----

  void SetPayload(Message& message, std::string payload) {
    message.length = payload.size();
    message.stored = std::move(payload);
    message.stored.resize(message.stored_bytes());
  }

  void Break(Message& message) {
    switch (Below(4)) {
      case 0:
        if (OneIn(4)) message.magic ^= uint64_t{1} << Below(64);
        break;
      case 1:
        message.length = message.extended()
                             ? AnyNumber()
                             : static_cast<uint32_t>(AnyNumber());
        break;
      case 2:
        message.stored.resize(Below(message.stored.size() + 1));
        break;
      default:
        message.stored = Raw(message.stored, kVerbatimOptionBytes);
    }
  }

  std::string Raw(std::string bytes, size_t limit) {
    const size_t size = bytes.size();
    const size_t room = std::max(size, std::min(limit, size * 2 + 16));
    bytes.resize(room);
    bytes.resize(
        LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(bytes.data()), size, room));
    return bytes;
  }

  Input& input_;
  std::minstd_rand random_;
};

size_t Store(const std::string& bytes, uint8_t* data, size_t max_size) {
  const size_t size = std::min(bytes.size(), max_size);
  std::copy_n(bytes.begin(), size, data);
  return size;
}

Input ParseBytes(const uint8_t* data, size_t size) {
  return Input::Parse({reinterpret_cast<const char*>(data), size});
}

}  // namespace
}  // namespace nbdfuzz

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size,
                                          size_t max_size, unsigned seed) {
  nbdfuzz::Input input = nbdfuzz::ParseBytes(data, size);
  nbdfuzz::Mutator mutator(input, seed);
  if (mutator.OneIn(20)) return LLVMFuzzerMutate(data, size, max_size);
  mutator.Mutate();
  return nbdfuzz::Store(input.Serialize(), data, max_size);
}

extern "C" size_t LLVMFuzzerCustomCrossOver(const uint8_t* a, size_t a_size,
                                            const uint8_t* b, size_t b_size,
                                            uint8_t* out, size_t max_size,
                                            unsigned seed) {
  nbdfuzz::Input input = nbdfuzz::ParseBytes(a, a_size);
  nbdfuzz::Mutator(input, seed).Cross(nbdfuzz::ParseBytes(b, b_size));
  return nbdfuzz::Store(input.Serialize(), out, max_size);
}
