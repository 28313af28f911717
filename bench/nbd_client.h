/* The part of NBD that the benchmark's C programs share: the specification's
 * constants, exact blocking I/O, and option haggling as a plain client does it,
 * one option at a time.
 *
 * It is a header with static functions, so that each program is compiled from
 * one file with one call of cc. Anything that goes wrong ends the program with
 * a sentence on standard error: a benchmark has nothing to recover. */
#ifndef BENCH_NBD_CLIENT_H_
#define BENCH_NBD_CLIENT_H_

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define NBDMAGIC UINT64_C(0x4e42444d41474943)
#define IHAVEOPT UINT64_C(0x49484156454f5054)
#define NBD_OPTION_REPLY_MAGIC UINT64_C(0x3e889045565a9)
#define NBD_REQUEST_MAGIC UINT32_C(0x25609513)
#define NBD_SIMPLE_REPLY_MAGIC UINT32_C(0x67446698)
#define NBD_STRUCTURED_REPLY_MAGIC UINT32_C(0x668e33ef)
#define NBD_EXTENDED_REQUEST_MAGIC UINT32_C(0x21e41c71)
#define NBD_EXTENDED_REPLY_MAGIC UINT32_C(0x6e8a278c)

enum {
  NBD_FLAG_FIXED_NEWSTYLE = 1 << 0,
  NBD_FLAG_NO_ZEROES = 1 << 1,

  NBD_FLAG_HAS_FLAGS = 1 << 0,
  NBD_FLAG_READ_ONLY = 1 << 1,
  NBD_FLAG_SEND_FLUSH = 1 << 2,
  NBD_FLAG_CAN_MULTI_CONN = 1 << 8,

  NBD_OPT_EXPORT_NAME = 1,
  NBD_OPT_ABORT = 2,
  NBD_OPT_GO = 7,
  NBD_OPT_STRUCTURED_REPLY = 8,
  NBD_OPT_SET_META_CONTEXT = 10,
  NBD_OPT_EXTENDED_HEADERS = 11,

  NBD_REP_ACK = 1,
  NBD_REP_INFO = 3,
  NBD_REP_META_CONTEXT = 4,

  NBD_INFO_EXPORT = 0,

  NBD_CMD_READ = 0,
  NBD_CMD_WRITE = 1,
  NBD_CMD_DISC = 2,
  NBD_CMD_FLUSH = 3,
  NBD_CMD_BLOCK_STATUS = 7,

  NBD_CMD_FLAG_PAYLOAD_LEN = 1 << 5,

  NBD_REPLY_FLAG_DONE = 1 << 0,
  NBD_REPLY_TYPE_NONE = 0,
  NBD_REPLY_TYPE_OFFSET_DATA = 1,
  NBD_REPLY_TYPE_OFFSET_HOLE = 2,
  NBD_REPLY_TYPE_BLOCK_STATUS = 5,
};
#define NBD_REP_ERROR_BIT UINT32_C(0x80000000)
#define NBD_REPLY_TYPE_ERROR_BIT (1u << 15)

struct nbd_request {
  uint32_t magic;
  uint16_t flags, type;
  uint64_t cookie, offset;
  uint32_t length;
} __attribute__((packed));

/* The fields before the length are those of a compact request. */
struct nbd_extended_request {
  uint32_t magic;
  uint16_t flags, type;
  uint64_t cookie, offset, length;
} __attribute__((packed));

struct nbd_simple_reply {
  uint32_t magic, error;
  uint64_t cookie;
} __attribute__((packed));

struct nbd_chunk {
  uint32_t magic;
  uint16_t flags, type;
  uint64_t cookie;
  uint32_t length;
} __attribute__((packed));

struct nbd_extended_chunk {
  uint32_t magic;
  uint16_t flags, type;
  uint64_t cookie, offset, length;
} __attribute__((packed));

struct nbd_option {
  uint64_t magic;
  uint32_t option, length;
} __attribute__((packed));

struct nbd_option_reply {
  uint64_t magic;
  uint32_t option, type, length;
} __attribute__((packed));

/* What haggling has agreed on. */
struct session {
  int fd;
  uint64_t size;
  uint16_t flags;
  bool structured;
  bool extended;     /* in: wanted */
  bool block_status; /* base:allocation is selected */
};

__attribute__((noreturn, format(printf, 1, 2))) static inline void fail(
    const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  exit(1);
}

static inline uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void read_exactly(int fd, void* buffer, size_t length) {
  for (size_t done = 0; done < length;) {
    ssize_t got = read(fd, (char*)buffer + done, length - done);
    if (got == 0) fail("the server closed the connection");
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("read from the server: %s", strerror(errno));
    done += (size_t)got;
  }
}

static inline void write_exactly(int fd, const void* buffer, size_t length) {
  for (size_t done = 0; done < length;) {
    ssize_t put =
        send(fd, (const char*)buffer + done, length - done, MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail("send to the server: %s", strerror(errno));
    done += (size_t)put;
  }
}

static inline void discard_exactly(int fd, size_t length) {
  static char sink[65536];
  while (length > 0) {
    size_t piece = length < sizeof sink ? length : sizeof sink;
    read_exactly(fd, sink, piece);
    length -= piece;
  }
}

static inline int connect_unix(const char* path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path)
    fail("%s is too long for a socket", path);
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) fail("socket: %s", strerror(errno));
  if (connect(fd, (struct sockaddr*)&address, sizeof address) != 0)
    fail("connect to %s: %s", path, strerror(errno));
  return fd;
}

static inline int connect_tcp(const char* host, unsigned port) {
  struct sockaddr_in address = {.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)port)};
  if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
    fail("%s is no IPv4 address", host);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) fail("socket: %s", strerror(errno));
  if (connect(fd, (struct sockaddr*)&address, sizeof address) != 0)
    fail("connect to %s, port %u: %s", host, port, strerror(errno));
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

static inline int connect_loopback(unsigned port) {
  return connect_tcp("127.0.0.1", port);
}

static inline void send_option(int fd, uint32_t option, const void* payload,
                               uint32_t length) {
  unsigned char message[sizeof(struct nbd_option) + 4096];
  if (length > 4096) fail("an option of %u bytes is too long", length);
  struct nbd_option header = {htobe64(IHAVEOPT), htobe32(option),
                              htobe32(length)};
  memcpy(message, &header, sizeof header);
  if (length > 0) memcpy(message + sizeof header, payload, length);
  write_exactly(fd, message, sizeof header + length);
}

/* Reads one reply to an option; up to `room` bytes of payload are kept, the
 * rest is dropped. */
static inline uint32_t read_option_reply(int fd, uint32_t option, void* payload,
                                         size_t room) {
  struct nbd_option_reply reply;
  read_exactly(fd, &reply, sizeof reply);
  if (be64toh(reply.magic) != NBD_OPTION_REPLY_MAGIC ||
      be32toh(reply.option) != option)
    fail("not a reply to option %u", option);
  size_t length = be32toh(reply.length);
  size_t kept = length < room ? length : room;
  read_exactly(fd, payload, kept);
  discard_exactly(fd, length - kept);
  return be32toh(reply.type);
}

static inline void read_greeting(int fd) {
  struct {
    uint64_t magic, version;
    uint16_t flags;
  } __attribute__((packed)) greeting;
  read_exactly(fd, &greeting, sizeof greeting);
  if (be64toh(greeting.magic) != NBDMAGIC ||
      be64toh(greeting.version) != IHAVEOPT)
    fail("not the greeting of a newstyle server");
}

/* Everything after the greeting, up to transmission. A server without
 * structured replies is served as it is; one that refuses the export is an
 * error. */
static inline void haggle(struct session* session, const char* export_name,
                          bool structured, bool block_status) {
  unsigned char payload[4096];
  uint32_t flags = htobe32(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
  write_exactly(session->fd, &flags, sizeof flags);

  if (session->extended) {
    send_option(session->fd, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
    if (read_option_reply(session->fd, NBD_OPT_EXTENDED_HEADERS, payload,
                          sizeof payload) != NBD_REP_ACK)
      fail("the server has no extended headers");
  } else if (structured) {
    send_option(session->fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
    session->structured =
        read_option_reply(session->fd, NBD_OPT_STRUCTURED_REPLY, payload,
                          sizeof payload) == NBD_REP_ACK;
  }

  uint32_t name_length = (uint32_t)strlen(export_name);
  if (name_length > 1024) fail("the export's name is too long");
  uint32_t encoded_length = htobe32(name_length);
  memcpy(payload, &encoded_length, 4);
  memcpy(payload + 4, export_name, name_length);
  unsigned char* end = payload + 4 + name_length;

  if (block_status && session->structured) {
    static const char context[] = "base:allocation";
    uint32_t count = htobe32(1), context_length = htobe32(sizeof context - 1);
    memcpy(end, &count, 4);
    memcpy(end + 4, &context_length, 4);
    memcpy(end + 8, context, sizeof context - 1);
    send_option(session->fd, NBD_OPT_SET_META_CONTEXT, payload,
                (uint32_t)(end - payload) + 8 + sizeof context - 1);
    unsigned char answer[64];
    uint32_t type;
    while ((type = read_option_reply(session->fd, NBD_OPT_SET_META_CONTEXT,
                                     answer, sizeof answer)) ==
           NBD_REP_META_CONTEXT)
      session->block_status = true;
    if (type != NBD_REP_ACK) session->block_status = false;
  }

  uint16_t no_requests = 0;
  memcpy(end, &no_requests, 2);
  send_option(session->fd, NBD_OPT_GO, payload, (uint32_t)(end - payload) + 2);
  unsigned char info[64] = {0};
  uint32_t type;
  while ((type = read_option_reply(session->fd, NBD_OPT_GO, info,
                                   sizeof info)) == NBD_REP_INFO) {
    uint16_t kind, transmission_flags;
    memcpy(&kind, info, 2);
    if (be16toh(kind) != NBD_INFO_EXPORT) continue;
    memcpy(&session->size, info + 2, 8);
    memcpy(&transmission_flags, info + 10, 2);
    session->size = be64toh(session->size);
    session->flags = be16toh(transmission_flags);
  }
  if (type != NBD_REP_ACK)
    fail("the server refuses the export '%s': reply %#x", export_name, type);
}

static inline struct nbd_request make_request(uint16_t type, uint64_t cookie,
                                              uint64_t offset,
                                              uint32_t length) {
  return (struct nbd_request){.magic = htobe32(NBD_REQUEST_MAGIC),
                              .type = htobe16(type),
                              .cookie = htobe64(cookie),
                              .offset = htobe64(offset),
                              .length = htobe32(length)};
}

static inline void send_disconnect(const struct session* session) {
  struct nbd_extended_request request = {
      .magic = htobe32(session->extended ? NBD_EXTENDED_REQUEST_MAGIC
                                         : NBD_REQUEST_MAGIC),
      .type = htobe16(NBD_CMD_DISC)};
  size_t size = session->extended ? sizeof request : sizeof(struct nbd_request);
  /* A server that has gone already is no error here. */
  if (send(session->fd, &request, size, MSG_NOSIGNAL) < 0) return;
}

/* One read with nothing else under way; the data is dropped. */
static inline void read_once(const struct session* session, uint64_t offset,
                             uint32_t length) {
  struct nbd_request request = make_request(NBD_CMD_READ, 1, offset, length);
  write_exactly(session->fd, &request, sizeof request);
  for (;;) {
    struct nbd_chunk chunk;
    read_exactly(session->fd, &chunk, sizeof(struct nbd_simple_reply));
    if (be32toh(chunk.magic) == NBD_SIMPLE_REPLY_MAGIC) {
      struct nbd_simple_reply reply;
      memcpy(&reply, &chunk, sizeof reply);
      if (reply.error != 0)
        fail("the read failed with error %u", be32toh(reply.error));
      discard_exactly(session->fd, length);
      return;
    }
    if (be32toh(chunk.magic) != NBD_STRUCTURED_REPLY_MAGIC) fail("not a reply");
    read_exactly(session->fd, (char*)&chunk + sizeof(struct nbd_simple_reply),
                 sizeof chunk - sizeof(struct nbd_simple_reply));
    if (be16toh(chunk.type) & NBD_REPLY_TYPE_ERROR_BIT) fail("the read failed");
    discard_exactly(session->fd, be32toh(chunk.length));
    if (be16toh(chunk.flags) & NBD_REPLY_FLAG_DONE) return;
  }
}

#endif
