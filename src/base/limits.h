// What one peer can make a process hold or do at most: every bound, in one
// place.
//
// Whoever takes something from a peer, or waits for one, has its bound from
// here. SECURITY.md lists them all, and a test compares the two. A name ends in
// its unit, or its type is one. Bounds that the user sets (--handshake-timeout,
// --max-connections) have their default here.
#ifndef NBDINETD_BASE_LIMITS_H_
#define NBDINETD_BASE_LIMITS_H_

#include <cstddef>
#include <cstdint>

#include "absl/time/time.h"

namespace nbdinetd {

// ---- Messages

// An export name, a description, a metadata context query ("Conventions").
inline constexpr size_t kMaxStringBytes = 4096;
// An option's payload: a longest name and a list of information requests or
// metadata context queries that no client comes near. What is longer is read
// away and refused.
inline constexpr uint32_t kMaxOptionBytes = 64 << 10;
// What one request reads or writes at most.
inline constexpr uint32_t kMaxPayloadBytes = 64 << 20;
// What is advertised of it ("Size constraints"). Clients that don't ask send
// more.
inline constexpr uint32_t kAdvertisedPayloadBytes = 32 << 20;
// A reply without its data, and but for a block status.
inline constexpr size_t kMaxReplyBytes = 512;
// The sentence that an error reply carries; more is cut.
inline constexpr size_t kMaxSentenceBytes = kMaxReplyBytes - 64;
// Block status descriptors in one reply; a client asks for the rest from where
// the reply ends.
inline constexpr size_t kMaxDescriptors = 8192;

// What NBD_OPT_LIST tells of, and so the names that it sorts: at most 32 MiB of
// them. A directory with more files can't be listed, only asked for each by its
// name.
inline constexpr size_t kMaxListedExports = 1 << 17;
// Option replies that are gathered before they are sent; the last one may go
// beyond it.
inline constexpr size_t kOptionRepliesBytes = 64 << 10;

// ---- Memory

// The largest piece of a request that is read or written at once, and the
// longest read or write that a task carries the bytes of: it stays in the
// processor's L2 cache on its way.
inline constexpr size_t kPieceBytes = 256 << 10;
// The input buffer, what is received at once at most: a whole request of any
// common client (nbdcopy: 256 KiB) beside the requests before it.
inline constexpr size_t kInputBytes = kPieceBytes + (16 << 10);
// The output buffer: one piece, its header, and small replies before it.
inline constexpr size_t kOutputBytes = kPieceBytes + (16 << 10);
// Requests that wait for the storage. A client that keeps more is read from
// again when some of them are done.
inline constexpr size_t kMaxTasks = 1024;
// What those requests hold; the last one may go beyond it.
inline constexpr size_t kMaxTaskBytes = 32 << 20;

// ---- TLS

// What is received from a TLS client at once, some records, and may wait to be
// decrypted.
inline constexpr size_t kTlsInputBytes = 128 << 10;
// How often so much is received until the signals and the time have their turn:
// a client may send nothing but wishes for new keys, which OpenSSL grants by
// itself, and each of them takes longer than to send it.
inline constexpr int kTlsReceivesInARow = 4;
// Encrypted bytes that may wait for a client that doesn't read: nine of the
// longest records. With four, reads take a tenth more of the processor.
inline constexpr size_t kTlsOutputBytes = 9 * (16384 + 2048 + 5);
// A client's certificate and those that it sends with it.
inline constexpr size_t kMaxCertificateBytes = 100 << 10;

// ---- The end

// What a client has sent, and is read away unseen at the end of its connection.
inline constexpr size_t kMaxDiscardedBytes = 8 << 20;

// ---- Threads

// Workers of a connection: as many reads in flight as clients keep.
inline constexpr size_t kMaxThreads = 32;
// Those of them that each kind of request finds, whatever the other kinds do: a
// client that goes on reading from a slow storage would otherwise keep them
// all, and a flush never find one.
inline constexpr size_t kReservedThreads = 1;
// How long reads may wait behind a slow one until they get one more worker.
inline constexpr absl::Duration kReadPatience = absl::Milliseconds(2);
// The stack of a worker: a task calls a few functions of the C library, nothing
// deep.
inline constexpr size_t kThreadStackBytes = 128 << 10;

// ---- Log

// Storage errors that one connection logs, since a failing disk would fill the
// journal; further ones are only counted.
inline constexpr int kMaxStorageErrorsLogged = 10;
// Exports of a directory that can't be opened, of which one negotiation logs
// the reason (with TLS there are two); a client may ask for them again and
// again.
inline constexpr int kMaxOpenErrorsLogged = 10;
// Peers whom --allow and --deny refuse, and whom a listener logs one by one in
// an interval; of the others it logs the number.
inline constexpr int kMaxDenialsLogged = 10;
inline constexpr absl::Duration kDenialsInterval = absl::Seconds(10);
// Connections that a listener can't serve, and processes of connections that
// were killed, which it logs one by one in an interval; of the others the
// number.
inline constexpr int kMaxFaultsLogged = 10;
inline constexpr absl::Duration kFaultsInterval = absl::Seconds(10);
// How long messages to a log daemon or service manager that has no room for
// more may wait in all, in an interval; then they are lost.
inline constexpr absl::Duration kMessagePatience = absl::Seconds(1);
inline constexpr absl::Duration kMessagePatienceInterval = absl::Seconds(60);
// How often a connection or the listener tells the service manager its status.
inline constexpr absl::Duration kStatusInterval = absl::Seconds(1);

// ---- Time

// From the start of a connection to the end of negotiation.
inline constexpr absl::Duration kHandshakeTimeout = absl::Seconds(10);
// Without progress in the middle of a message, in either direction.
inline constexpr absl::Duration kStallTimeout = absl::Seconds(60);
// How often within that time the peer is looked at: it may be given up by one
// look later than the time says.
inline constexpr int kStallLooks = 16;
// After SIGTERM: how long a client has to hear NBD_REP_ERR_SHUTDOWN; the end of
// every wait in the handshake.
inline constexpr absl::Duration kShutdownGrace = absl::Milliseconds(250);
// After SIGTERM: how long without a request until the connection is closed. The
// client hears NBD_ESHUTDOWN meanwhile.
inline constexpr absl::Duration kShutdownIdle = absl::Milliseconds(250);
// After SIGTERM: how long a client that goes on asking is answered, one that
// goes on sending is read from, and one that doesn't read is waited for.
inline constexpr absl::Duration kShutdownLimit = absl::Seconds(1);
// A TCP peer that is silent, and whose machine doesn't answer: a suspended or
// dead one, or a link that is down.
inline constexpr absl::Duration kKeepalive = absl::Seconds(120);
// Keepalive probes in the second half of that time; each may be lost, but not
// all.
inline constexpr int kKeepaliveProbes = 6;

// ---- The listener

// Connections that are accepted from one socket before the signals and the
// other sockets have their turn.
inline constexpr int kAcceptsInARow = 64;
// How long a connection beyond --max-connections is kept before it is refused:
// the process of another may be about to end.
inline constexpr absl::Duration kReapGrace = absl::Milliseconds(50);
// So many of them at once; with one more the oldest is refused.
inline constexpr size_t kMaxWaiting = 64;
// How long the connections' processes may drain until they are killed.
inline constexpr absl::Duration kDrainLimit = absl::Seconds(10);

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_LIMITS_H_
