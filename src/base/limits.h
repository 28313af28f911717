// Every bound on what one peer can make a process hold or do.
//
// SECURITY.md lists all of them, and a test compares the two. A name ends in
// its unit, or its type is one. A bound that an option sets
// (--handshake-timeout, --max-connections) has its default here.
#ifndef NBDINETD_BASE_LIMITS_H_
#define NBDINETD_BASE_LIMITS_H_

#include <cstddef>
#include <cstdint>

#include "absl/time/time.h"

namespace nbdinetd {

// ---- Messages

// An export name, a description, a metadata context query ("Conventions").
inline constexpr size_t kMaxStringBytes = 4096;
// An option's payload: the longest name, and more information requests or
// metadata context queries than any client sends. A longer payload is
// discarded, and the option is refused.
inline constexpr uint32_t kMaxOptionBytes = 64 << 10;
// The data that one request reads or writes.
inline constexpr uint32_t kMaxPayloadBytes = 64 << 20;
// The maximum payload that is advertised ("Size constraints").
inline constexpr uint32_t kAdvertisedPayloadBytes = 32 << 20;
// A reply without its data; a block status may be longer.
inline constexpr size_t kMaxReplyBytes = 512;
// The message in an error reply; a longer one is truncated.
inline constexpr size_t kMaxSentenceBytes = kMaxReplyBytes - 64;
// Block status descriptors in one reply; the client requests the rest from the
// end of this reply.
inline constexpr size_t kMaxDescriptors = 8192;
// How often one block status request looks into the map of the file, in which
// any number of extents may be one for the client. kMaxDescriptors extents need
// fewer looks.
inline constexpr size_t kMaxExtentLooks = 1 << 15;

// Exports in a reply to NBD_OPT_LIST. The names are sorted in memory: at most
// 32 MiB. A directory with more files can't be listed; each export can still be
// opened by its name.
inline constexpr size_t kMaxListedExports = 1 << 17;
// Replies to an option that are gathered before they are sent; the last one may
// exceed it.
inline constexpr size_t kOptionRepliesBytes = 64 << 10;

// ---- Memory

// The part of a request that is read or written at once, and the longest read
// or write whose data a task carries: it fits into the processor's L2 cache.
inline constexpr size_t kPieceBytes = 256 << 10;
// The input buffer, and the longest receive: a whole request of any common
// client (nbdcopy: 256 KiB) and the requests before it.
inline constexpr size_t kInputBytes = kPieceBytes + (16 << 10);
// The output buffer: one piece, its header, and small replies before it.
inline constexpr size_t kOutputBytes = kPieceBytes + (16 << 10);
// The part of a trim or of a request for zeroes that is carried out at once;
// after it, a shutdown can end the request. A longer request has longer parts,
// so that it has no more than kMaxTaskPieces: one of 64 TiB.
inline constexpr uint64_t kTaskPieceBytes = 256 << 20;
inline constexpr uint64_t kMaxTaskPieces = 1 << 18;
// What --cache=drop writes before it begins to write it back, in one piece or
// in scattered ones. Up to three times as much is in the page cache: what is
// dropped once it has been written back, what is being written back, and what
// has been written since. The memory of dropped pages is used for the next
// ones, and little of it stays in the processor's cache; scattered pages are
// written back in one pass over the file, which is worth more of them.
inline constexpr uint64_t kWriteBackBytes = 2 << 20;
inline constexpr uint64_t kScatteredWriteBackBytes = 16 << 20;
// The buffer of a thread for reads and writes beside the page cache
// (--cache=none) that aren't aligned to the blocks of the storage.
inline constexpr size_t kBounceBytes = 64 << 10;
// The map of the blocks that are in a private copy (--cow); there is another
// one with --cow-size. A larger export has larger blocks than pages: one of
// more than 2 TiB, with pages of 4 KiB.
inline constexpr uint64_t kMaxCopyMapBytes = 64 << 20;
// The largest blocks of a private copy; an export that needs larger ones, of
// more than 512 TiB, can't have one.
inline constexpr uint64_t kMaxCopyBlockBytes = 1 << 20;
static_assert(kMaxCopyMapBytes * 8 * kMaxCopyBlockBytes == uint64_t{1} << 49);
// Requests that wait for the storage. At this number nothing more is received
// from the client until some of them are done.
inline constexpr size_t kMaxTasks = 1024;
// The data of those requests; the last one may exceed it.
inline constexpr size_t kMaxTaskBytes = 32 << 20;
// Requests that a limit of the rate holds (--max-rate, --max-iops), and what
// the writes among them have written. At these numbers nothing more is received
// from the client until some of them go on; writes that workers have by then
// may exceed them.
inline constexpr size_t kMaxHeldRequests = 1024;
inline constexpr uint64_t kMaxHeldBytes = 1 << 20;

// ---- Partition tables

// Partitions of one table, and the largest number of one: as many as the kernel
// has for a disk. Others are left out.
inline constexpr size_t kMaxPartitions = 255;
// What the process that reads the tables may use in all: address space, besides
// that of the program, and, in seconds, processor time.
inline constexpr uint64_t kTableMemoryBytes = 256 << 20;
inline constexpr uint64_t kTableCpuSeconds = 10;
// How long it may take for one table, while nothing else happens on the
// connection; afterwards it is asked no more.
inline constexpr absl::Duration kTablePatience = absl::Seconds(10);
// And for the end of that process.
inline constexpr absl::Duration kTableEndPatience = absl::Seconds(1);

// ---- Rules

// The file of --rules, which each connection reads: its bytes, its lines, and
// the bytes of a line.
inline constexpr size_t kMaxRulesBytes = 16 << 20;
inline constexpr uint32_t kMaxRuleLines = 1 << 17;
inline constexpr size_t kMaxRuleLineBytes = 4096;
// The patterns for exports in all of its lines.
inline constexpr uint32_t kMaxRuleExports = 1 << 18;
// A pattern for names, and one for a value in a certificate's subject: the
// longest name of a file, or of a unit.
inline constexpr size_t kMaxGlobBytes = 255;
// The attributes of a pattern for a certificate's subject or issuer.
inline constexpr size_t kMaxPatternAttributes = 64;

// ---- TLS

// The longest receive from a TLS client, several records, and the bytes that
// may wait for decryption.
inline constexpr size_t kTlsInputBytes = 128 << 10;
// Receives of that size before signals and deadlines are checked. A client may
// send only requests for new keys (KeyUpdate), which OpenSSL answers by itself;
// each answer takes longer than sending the request.
inline constexpr int kTlsReceivesInARow = 4;
// Encrypted bytes that may wait for a client that doesn't read: nine of the
// longest records. With four, reads take 10 % more processor time.
inline constexpr size_t kTlsOutputBytes = 9 * (16384 + 2048 + 5);
// The certificates that a client sends: its own and those of its chain.
inline constexpr size_t kMaxCertificateBytes = 100 << 10;

// ---- The end

// Unread bytes from a client that are discarded at the end of its connection.
inline constexpr size_t kMaxDiscardedBytes = 8 << 20;

// ---- Threads

// Workers of a connection; clients keep about as many reads in flight.
inline constexpr size_t kMaxThreads = 32;
// Workers that are reserved for each kind of request. Without this, a client
// that keeps reading from a slow storage would occupy all workers, and a flush
// would find none.
inline constexpr size_t kReservedThreads = 1;
// How long reads wait behind a slow one before another worker starts.
inline constexpr absl::Duration kReadPatience = absl::Milliseconds(2);
// The stack of a worker. A task only makes a few shallow calls of the C
// library.
inline constexpr size_t kThreadStackBytes = 128 << 10;

// ---- Log

// Storage errors that one connection logs, since a failing disk would fill the
// journal; further ones are only counted.
inline constexpr int kMaxStorageErrorsLogged = 10;
// Exports of a directory that can't be opened, logged by one negotiation (a
// connection with TLS has two). A client may request such an export any number
// of times.
inline constexpr int kMaxOpenErrorsLogged = 10;
// Refusals by --allow and --deny that a listener logs one by one in an
// interval; one message then counts the others.
inline constexpr int kMaxDenialsLogged = 10;
inline constexpr absl::Duration kDenialsInterval = absl::Seconds(10);
// Connections that a listener can't serve, and killed processes of connections,
// that it logs one by one in an interval; one message then counts the others.
inline constexpr int kMaxFaultsLogged = 10;
inline constexpr absl::Duration kFaultsInterval = absl::Seconds(10);
// How long messages to a log daemon or service manager that doesn't read wait
// in all, in an interval; then they are dropped.
inline constexpr absl::Duration kMessagePatience = absl::Seconds(1);
inline constexpr absl::Duration kMessagePatienceInterval = absl::Seconds(60);
// How long a process that ends waits for journald to receive its messages.
inline constexpr absl::Duration kLastMessagePatience = absl::Seconds(5);
// The time between two status messages to the service manager.
inline constexpr absl::Duration kStatusInterval = absl::Seconds(1);

// ---- Time

// From the start of a connection to the end of the handshake.
inline constexpr absl::Duration kHandshakeTimeout = absl::Seconds(10);
// For a client that makes no progress inside a message, in either direction.
inline constexpr absl::Duration kStallTimeout = absl::Seconds(60);
// Checks of such a client within that time; the connection may end one interval
// late.
inline constexpr int kStallLooks = 16;
// After SIGTERM: the time for a client to receive NBD_REP_ERR_SHUTDOWN; it ends
// every wait of the handshake.
inline constexpr absl::Duration kShutdownGrace = absl::Milliseconds(250);
// After SIGTERM: the time without a request after which the connection is
// closed. Requests until then fail with NBD_ESHUTDOWN.
inline constexpr absl::Duration kShutdownIdle = absl::Milliseconds(250);
// After SIGTERM: the time limit for a client that keeps sending requests or
// data, or reads no replies.
inline constexpr absl::Duration kShutdownLimit = absl::Seconds(1);
// While a connection drains: the time limit for the client to send the rest of
// a message and to read its replies, and for trims and zeroings, which then end
// early and aren't answered. It begins anew when the storage has finished a
// request, for the client alone.
inline constexpr absl::Duration kDrainPatience = absl::Seconds(5);
// For a silent TCP peer whose machine doesn't answer: it is suspended or off,
// or the network is down.
inline constexpr absl::Duration kKeepalive = absl::Seconds(120);
// Keepalive probes in the second half of that time; one answer keeps the
// connection.
inline constexpr int kKeepaliveProbes = 6;

// ---- nbdinetctl probe

// The addresses of a name that are tried.
inline constexpr size_t kMaxProbedAddresses = 16;
// The replies of a server to one option, the bytes of each, and those of a
// sector.
inline constexpr int kMaxProbeReplies = 64;
inline constexpr uint32_t kMaxProbeReplyBytes = 64 << 10;

// ---- The listener

// Connections that are accepted from one socket before signals and other
// sockets are checked.
inline constexpr int kAcceptsInARow = 64;
// How long a connection beyond --max-connections is kept before it is refused,
// since another one may end.
inline constexpr absl::Duration kReapGrace = absl::Milliseconds(50);
// Connections that are kept this way at once; one more makes the oldest be
// refused.
inline constexpr size_t kMaxWaiting = 64;
// How long connections may drain after SIGTERM to the listener; then they are
// killed.
inline constexpr absl::Duration kDrainLimit = absl::Seconds(10);

}  // namespace nbdinetd

#endif  // NBDINETD_BASE_LIMITS_H_
