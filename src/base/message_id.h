// The kind of each message, as the journal's field MESSAGE_ID (128 bits, in hex
// digits; sd-id128(3)).
//
// Each id has an entry in units/nbdinetd.catalog, which `journalctl -x` shows,
// and in nbdinetd.journal-fields(7). An id and its meaning never change: other
// programs search the journal for them.
#ifndef NBDINETD_BASE_MESSAGE_ID_H_
#define NBDINETD_BASE_MESSAGE_ID_H_

#include "absl/strings/string_view.h"

namespace nbdinetd {

struct MessageId {
  absl::string_view hex;

  bool operator==(const MessageId&) const = default;
};

namespace message_id {

// A client has chosen an export.
inline constexpr MessageId kServing{"f9ff224377464cdabbb6d9629f288f7e"};
// A connection has ended, and neither side was at fault.
inline constexpr MessageId kEnded{"51cd921de3704886882a0adf280ca8dc"};
// The server didn't serve a client: by its rules, by its limits, or because the
// export is in use.
inline constexpr MessageId kRefused{"30158f8ed82842ea9e40b9d0fd15cfcd"};
// The client asked for an export that doesn't exist.
inline constexpr MessageId kUnknownExport{"2de2a8aaea7c4b3f982a6ae53070d2e2"};
// The client broke the protocol, or left inside a message.
inline constexpr MessageId kBrokenProtocol{"4f4ce47a77324e468dc5aca255bc0c02"};
// The client exceeded a time limit.
inline constexpr MessageId kTimedOut{"d9867c801508416790fd7625f1d05c28"};
// A request failed, or a connection ended, because of the storage.
inline constexpr MessageId kStorageError{"988f41c02ef74ffe823ee3301409c755"};
// Written bytes may be lost: the flush at the end of a connection failed.
inline constexpr MessageId kFailedFlush{"d9e5c7c5ac114b03bd37d2fb5b259e16"};
// An export is read-only without --readonly.
inline constexpr MessageId kReadOnly{"b520fabee9a0422cabe0dbddfe7a9fd5"};
// An export can't be opened.
inline constexpr MessageId kNotOpened{"f26725a160ae4e01b83e0095fd66be7d"};
// A request failed since the storage is full.
inline constexpr MessageId kOutOfSpace{"091d853ca0554296840c340ea9d8e9bd"};
// A client without TLS, with a failed TLS handshake, or with an identity that
// may not connect.
inline constexpr MessageId kTlsRefused{"ebe1a30629da437db0a021372ae7d89e"};
// The kernel lacks a part of the sandbox.
inline constexpr MessageId kSandboxIncomplete{
    "6bd6a757324145f4abf2b9d33ba29c29"};
// The first bytes of the client belong to another protocol.
inline constexpr MessageId kNotAnNbdClient{"657589ab6bc5495a93f60857c47e3208"};
// Other users of the machine can access the keys.
inline constexpr MessageId kKeyWarning{"34bad22b8df54379b4b1ff60a47d4513"};

// The last message of a connection that chose an export has one of these, and
// the fields NBD_EXPORT, NBD_REQUESTS and NBD_EXIT_STATUS.
inline constexpr MessageId kEndsOfServed[] = {kEnded,       kBrokenProtocol,
                                              kTimedOut,    kStorageError,
                                              kFailedFlush, kSandboxIncomplete};

}  // namespace message_id

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_MESSAGE_ID_H_
