/* What a sender that does nothing else reaches: the reference for the copies.
 *
 *   sender nbd sendfile|write (--unix PATH | --port PORT) FILE
 *       Serves FILE to the client that the servers get too, with just enough
 * NBD for it: fixed answers to the options, no check of a request, reads only,
 * a process per connection. Who asks for structured replies gets them, as from
 * each server: a content chunk and a final chunk, since it could still fail to
 * read while it sends the former. With --anywhere it listens on every address,
 * and not on the loopback alone. sender nbd memory (--unix PATH | --port PORT)
 * FILE The same with answers that are ready: whatever bytes, and the file isn't
 * read. It never sleeps while requests come, answers all that have come
 * together by one system call, and needs no final chunk. For small
 * requests. sender raw
 * sendfile|write (--unix | --tcp) --connections N --seconds S FILE No protocol
 * at all: each of N processes sends its share of FILE over and over to a
 *       process that receives it into a buffer and drops it. Prints one line of
 * JSON.
 *
 * `nbd` is what a server can be held against, since the client's cost is the
 * same; `raw` says how much of the time is the client's. */
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "nbd_client.h"

enum {
  kChunk =
      128 *
      1024, /* stays in the second-level cache between the read and the send */
  kReceiveBuffer = 256 * 1024,
  kMaxRequests = 512,
  kGatherNs = 10 * 1000, /* as nbdinetd does, for it helps */
  kIdleNs = 100 * 1000 * 1000,
};

struct options {
  bool use_sendfile, from_memory, tcp, anywhere;
  const char* unix_path;
  unsigned port, connections;
  double seconds;
  int file;
  uint64_t size;
};

/* The content chunk of a read, up to its data. */
struct content_chunk {
  struct nbd_chunk chunk;
  uint64_t offset;
} __attribute__((packed));

/* One buffer for each process: room for the end of a reply and the header of
 * the next one before the data. */
static unsigned char
    buffer[sizeof(struct nbd_chunk) + sizeof(struct content_chunk) + kChunk];

static bool send_all(int socket, const void* data, size_t length, int flags) {
  for (size_t done = 0; done < length;) {
    ssize_t sent = send(socket, (const char*)data + done, length - done,
                        flags | MSG_NOSIGNAL);
    if (sent <= 0) return false;
    done += (size_t)sent;
  }
  return true;
}

/* Sends `header_length` bytes from the front of the buffer, then the file's
 * range. */
static bool send_range(const struct options* options, int socket,
                       size_t header_length, uint64_t offset, uint64_t length) {
  if (options->use_sendfile) {
    if (header_length > 0 && !send_all(socket, buffer, header_length, MSG_MORE))
      return false;
    off_t at = (off_t)offset;
    while (length > 0) {
      ssize_t sent = sendfile(socket, options->file, &at, length);
      if (sent <= 0) return false;
      length -= (uint64_t)sent;
    }
    return true;
  }
  while (length > 0) {
    size_t piece = length < kChunk ? (size_t)length : kChunk;
    ssize_t got =
        pread(options->file, buffer + header_length, piece, (off_t)offset);
    if (got <= 0) return false;
    if (!send_all(socket, buffer, header_length + (size_t)got, 0)) return false;
    offset += (uint64_t)got;
    length -= (uint64_t)got;
    header_length = 0;
  }
  return true;
}

/* ---- nbd ---- */

static void reply_to_option(int socket, uint32_t option, uint32_t type,
                            const void* payload, uint32_t length) {
  struct nbd_option_reply reply = {htobe64(NBD_OPTION_REPLY_MAGIC),
                                   htobe32(option), htobe32(type),
                                   htobe32(length)};
  write_exactly(socket, &reply, sizeof reply);
  if (length > 0) write_exactly(socket, payload, length);
}

/* Returns whether replies have to be structured. */
static bool answer_options(const struct options* options, int socket) {
  bool structured = false;
  static const unsigned char greeting[18] = "NBDMAGICIHAVEOPT\0\3";
  uint32_t client_flags;
  write_exactly(socket, greeting, sizeof greeting);
  read_exactly(socket, &client_flags, sizeof client_flags);
  for (;;) {
    struct nbd_option header;
    read_exactly(socket, &header, sizeof header);
    uint32_t option = be32toh(header.option);
    discard_exactly(socket, be32toh(header.length));
    if (option == NBD_OPT_GO) {
      struct {
        uint16_t type;
        uint64_t size;
        uint16_t flags;
      } __attribute__((packed)) info;
      info.type = htobe16(NBD_INFO_EXPORT);
      info.size = htobe64(options->size);
      info.flags = htobe16(NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY |
                           NBD_FLAG_CAN_MULTI_CONN);
      reply_to_option(socket, option, NBD_REP_INFO, &info, sizeof info);
      reply_to_option(socket, option, NBD_REP_ACK, NULL, 0);
      return structured;
    }
    if (option == NBD_OPT_STRUCTURED_REPLY) {
      structured = true;
      reply_to_option(socket, option, NBD_REP_ACK, NULL, 0);
      continue;
    }
    reply_to_option(socket, option, NBD_REP_ERROR_BIT | 1, NULL, 0);
    if (option == NBD_OPT_ABORT) exit(0);
  }
}

static bool send_pieces(int socket, struct iovec* pieces, size_t count) {
  while (count > 0) {
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = count};
    ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    if (sent <= 0) return false;
    for (; count > 0 && (size_t)sent >= pieces->iov_len; pieces++, count--)
      sent -= (ssize_t)pieces->iov_len;
    if (count > 0) {
      pieces->iov_base = (char*)pieces->iov_base + sent;
      pieces->iov_len -= (size_t)sent;
    }
  }
  return true;
}

static struct content_chunk content_chunk_of(const struct nbd_request* request,
                                             uint16_t flags) {
  const uint32_t length = be32toh(request->length);
  return (struct content_chunk){
      {htobe32(NBD_STRUCTURED_REPLY_MAGIC), htobe16(flags),
       htobe16(NBD_REPLY_TYPE_OFFSET_DATA), request->cookie,
       htobe32(length + (uint32_t)sizeof request->offset)},
      request->offset};
}

static void serve_from_memory(const struct options* options, int socket) {
  static struct nbd_request requests[kMaxRequests];
  static struct content_chunk chunks[kMaxRequests];
  static struct nbd_simple_reply replies[kMaxRequests];
  static struct iovec pieces[2 * kMaxRequests];
  const bool structured = answer_options(options, socket);
  size_t filled = 0;
  bool gather = false;
  for (uint64_t last = now_ns();;) {
    for (uint64_t start = now_ns(); gather && now_ns() < start + kGatherNs;) {
    }
    ssize_t got =
        recv(socket, (char*)requests + filled, sizeof requests - filled,
             now_ns() < last + kIdleNs ? MSG_DONTWAIT : 0);
    if (got < 0 && errno == EAGAIN) continue;
    if (got <= 0) return;
    last = now_ns();
    filled += (size_t)got;
    const size_t count = filled / sizeof requests[0];
    gather = count > 1;
    for (size_t i = 0; i < count; i++) {
      const struct nbd_request* request = &requests[i];
      const uint32_t length = be32toh(request->length);
      if (be16toh(request->type) != NBD_CMD_READ || length > sizeof buffer)
        return;
      chunks[i] = content_chunk_of(request, NBD_REPLY_FLAG_DONE);
      replies[i] = (struct nbd_simple_reply){htobe32(NBD_SIMPLE_REPLY_MAGIC), 0,
                                             request->cookie};
      pieces[2 * i] = structured
                          ? (struct iovec){&chunks[i], sizeof chunks[i]}
                          : (struct iovec){&replies[i], sizeof replies[i]};
      pieces[2 * i + 1] = (struct iovec){buffer, length};
    }
    if (!send_pieces(socket, pieces, 2 * count)) return;
    filled -= count * sizeof requests[0];
    memmove(requests, requests + count, filled);
  }
}

/* Puts what is sent before the next data into the buffer; returns `length`. */
static size_t put(size_t at, const void* data, size_t length) {
  memcpy(buffer + at, data, length);
  return length;
}

static void serve(const struct options* options, int socket) {
  static unsigned char requests[kMaxRequests * sizeof(struct nbd_request)];
  size_t filled = 0;
  if (options->from_memory) {
    serve_from_memory(options, socket);
    return;
  }
  const bool structured = answer_options(options, socket);
  for (;;) {
    ssize_t got = recv(socket, requests + filled, sizeof requests - filled, 0);
    if (got <= 0) return;
    filled += (size_t)got;
    size_t at = 0;
    size_t header_length = 0; /* of what waits in the buffer to be sent */
    for (; filled - at >= sizeof(struct nbd_request);
         at += sizeof(struct nbd_request)) {
      struct nbd_request request;
      memcpy(&request, requests + at, sizeof request);
      if (be16toh(request.type) != NBD_CMD_READ) return;
      const struct nbd_simple_reply reply = {htobe32(NBD_SIMPLE_REPLY_MAGIC), 0,
                                             request.cookie};
      const struct content_chunk content = content_chunk_of(&request, 0);
      header_length += structured ? put(header_length, &content, sizeof content)
                                  : put(header_length, &reply, sizeof reply);
      if (!send_range(options, socket, header_length, be64toh(request.offset),
                      be32toh(request.length)))
        return;
      const struct nbd_chunk last = {
          htobe32(NBD_STRUCTURED_REPLY_MAGIC), htobe16(NBD_REPLY_FLAG_DONE),
          htobe16(NBD_REPLY_TYPE_NONE), request.cookie, 0};
      header_length = structured ? put(0, &last, sizeof last) : 0;
    }
    if (header_length > 0 && !send_all(socket, buffer, header_length, 0))
      return;
    filled -= at;
    memmove(requests, requests + at, filled);
  }
}

static void listen_and_serve(const struct options* options) {
  int listener;
  if (options->unix_path != NULL) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(options->unix_path) >= sizeof address.sun_path)
      fail("the path is too long");
    strcpy(address.sun_path, options->unix_path);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listener, (struct sockaddr*)&address, sizeof address) != 0)
      fail("bind to %s: %s", options->unix_path, strerror(errno));
  } else {
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)options->port),
        .sin_addr.s_addr =
            htonl(options->anywhere ? INADDR_ANY : INADDR_LOOPBACK)};
    int on = 1;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr*)&address, sizeof address) != 0)
      fail("bind to port %u: %s", options->port, strerror(errno));
  }
  if (listen(listener, 256) != 0) fail("listen: %s", strerror(errno));
  signal(SIGCHLD, SIG_IGN); /* the connections' processes need no reaping */
  for (;;) {
    int socket = accept(listener, NULL, NULL);
    if (socket < 0) continue;
    int on = 1;
    if (options->port != 0)
      setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    pid_t child = fork();
    if (child == 0) {
      serve(options, socket);
      _exit(0);
    }
    close(socket);
  }
}

/* ---- raw ---- */

static void make_pair(bool tcp, int pair[2]) {
  if (!tcp) {
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
      fail("socketpair: %s", strerror(errno));
    return;
  }
  struct sockaddr_in address = {.sin_family = AF_INET,
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (bind(listener, (struct sockaddr*)&address, sizeof address) != 0 ||
      listen(listener, 1) != 0 ||
      getsockname(listener, (struct sockaddr*)&address, &length) != 0)
    fail("a listener on the loopback: %s", strerror(errno));
  pair[1] = connect_loopback(ntohs(address.sin_port));
  pair[0] = accept(listener, NULL, NULL);
  if (pair[0] < 0) fail("accept: %s", strerror(errno));
  close(listener);
}

static pid_t fork_or_fail(void) {
  pid_t child = fork();
  if (child < 0) fail("fork: %s", strerror(errno));
  return child;
}

/* A pipe carries each receiver's count back to the parent. */
static void receive_all(int socket, int counts) {
  static unsigned char sink[kReceiveBuffer];
  uint64_t total = 0;
  for (;;) {
    ssize_t got = recv(socket, sink, sizeof sink, 0);
    if (got <= 0) break;
    total += (uint64_t)got;
  }
  _exit(write(counts, &total, sizeof total) == sizeof total ? 0 : 1);
}

static void measure_raw(const struct options* options) {
  int counts[2];
  if (pipe(counts) != 0) fail("pipe: %s", strerror(errno));
  uint64_t start = now_ns(),
           deadline = start + (uint64_t)(options->seconds * 1e9);
  uint64_t share = options->size / options->connections;
  for (unsigned i = 0; i < options->connections; i++) {
    int pair[2];
    make_pair(options->tcp, pair);
    if (fork_or_fail() == 0) {
      close(pair[1]);
      /* The deadline is looked at after each 4 MiB, so that the processes end
       * together. */
      uint64_t step = share < (4u << 20) ? share : 4u << 20;
      for (uint64_t at = 0; now_ns() < deadline;
           at = at + 2 * step <= share ? at + step : 0)
        if (!send_range(options, pair[0], 0, i * share + at, step)) _exit(1);
      _exit(0);
    }
    if (fork_or_fail() == 0) {
      close(pair[0]);
      receive_all(pair[1], counts[1]);
    }
    close(pair[0]);
    close(pair[1]);
  }
  uint64_t total = 0;
  for (unsigned i = 0; i < options->connections; i++) {
    uint64_t count;
    read_exactly(counts[0], &count, sizeof count);
    total += count;
  }
  printf("{\"seconds\": %.6f, \"bytes\": %ju}\n",
         (double)(now_ns() - start) / 1e9, (uintmax_t)total);
  while (wait(NULL) > 0) {
  }
}

int main(int argc, char** argv) {
  static const struct option long_options[] = {
      {"unix", optional_argument, NULL, 'u'},
      {"port", required_argument, NULL, 'p'},
      {"tcp", no_argument, NULL, 't'},
      {"anywhere", no_argument, NULL, 'a'},
      {"connections", required_argument, NULL, 'c'},
      {"seconds", required_argument, NULL, 's'},
      {NULL, 0, NULL, 0}};
  if (argc < 4)
    fail("usage: sender nbd|raw sendfile|write|memory OPTIONS FILE");
  bool raw = strcmp(argv[1], "raw") == 0;
  struct options options = {.use_sendfile = strcmp(argv[2], "sendfile") == 0,
                            .from_memory = strcmp(argv[2], "memory") == 0,
                            .connections = 1,
                            .seconds = 1};
  int letter;
  optind = 3;
  while ((letter = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
    switch (letter) {
      case 'u':
        options.unix_path = optarg;
        break;
      case 'p':
        options.port = (unsigned)strtoul(optarg, NULL, 10);
        break;
      case 't':
        options.tcp = true;
        break;
      case 'a':
        options.anywhere = true;
        break;
      case 'c':
        options.connections = (unsigned)strtoul(optarg, NULL, 10);
        break;
      case 's':
        options.seconds = strtod(optarg, NULL);
        break;
      default:
        return 64;
    }
  }
  if (optind != argc - 1 || options.connections < 1) fail("one FILE, please");
  options.file = open(argv[optind], O_RDONLY | O_CLOEXEC);
  struct stat status;
  if (options.file < 0 || fstat(options.file, &status) != 0)
    fail("%s: %s", argv[optind], strerror(errno));
  options.size = (uint64_t)status.st_size;
  if (raw)
    measure_raw(&options);
  else
    listen_and_serve(&options);
  return 0;
}
