/* A small fast NBD client, for the work that neither fio nor nbdcopy can do:
 * mixed reads, writes and flushes with a latency of each kind, hundreds of
 * connections from one thread, connections per second, idle connections that
 * are held, and a whole allocation map.
 *
 *   blaster COMMAND (--unix PATH | --port PORT) [OPTIONS]
 *
 *   run      random or sequential requests for --seconds
 *   connect  connect, haggle, read 4 KiB and leave, again and again for
 *            --seconds
 *   hold     open --connections, then wait for the end of standard input
 *   extents  ask for the allocation of the whole export
 *   info     what the server offers
 *
 * Every command prints one line of JSON. `run --staged` prints one more, when
 * it is connected, waits for a line on standard input before it starts, and
 * keeps its connections until standard input ends, so that the cost of the
 * three can be told apart. `run --extended` speaks with extended headers.
 * `run --fill` writes each byte once before, and `run --once` ends when each
 * block was requested once, for exports that do more for a first write.
 *
 * The client is one thread that takes all the replies that one recv brings and
 * sends all the requests that they free with one sendmsg, so that the server is
 * what limits. Payload is received and dropped; its length is checked, its
 * bytes are not, that is what the tests are for.
 *
 * It is longer than 500 lines because it is compiled as one file, with one call
 * of cc. */
#include <fcntl.h>
#include <getopt.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "latency_histogram.h"
#include "nbd_client.h"

enum { kReceiveBuffer = 256 * 1024, kMaxIovecs = 512 };

struct options {
  const char* unix_path;
  unsigned port;
  const char* export_name;
  unsigned connections, depth;
  uint32_t size;
  unsigned read_percent, flush_every;
  uint64_t span;
  double seconds;
  bool sequential, simple, extended, staged, fill, once;
};

static double cpu_seconds(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static struct session open_session(const struct options* options,
                                   bool block_status) {
  struct session session = {.extended = options->extended};
  session.fd = options->unix_path ? connect_unix(options->unix_path)
                                  : connect_loopback(options->port);
  read_greeting(session.fd);
  haggle(&session, options->export_name, !options->simple, block_status);
  return session;
}

/* ---- run ---- */

struct slot {
  uint16_t type; /* NBD_CMD_* */
  bool failed, done;
  uint32_t received; /* bytes that data and hole chunks have accounted for */
  uint64_t started_ns;
  uint32_t length;
  union {
    struct nbd_request compact;
    struct nbd_extended_request extended;
  } request;
};

struct connection {
  struct session session;
  struct slot* slots;
  unsigned* free_slots;
  unsigned free_count;
  /* What waits to be sent, [head, tail). */
  struct iovec* queue;
  unsigned head, tail;
  bool watching_output;
  /* What has been received and not parsed; the payload still to be dropped
   * belongs to slot. */
  unsigned char* buffer;
  size_t filled;
  size_t to_drop;
  struct slot* slot;
  uint64_t next_offset;
};

static struct {
  const struct options* options;
  int epoll;
  uint64_t random_state;
  uint64_t blocks; /* in the span, of options->size each */
  unsigned char* payload;
  unsigned outstanding;
  bool stopping;
  unsigned writes_since_flush;
  uint64_t reads, writes, flushes, errors, bytes_read, bytes_written;
  uint64_t last_reply_ns;
  struct histogram read_latency, write_latency, flush_latency;
} run;

static uint64_t next_random(void) { /* xorshift64* */
  run.random_state ^= run.random_state >> 12;
  run.random_state ^= run.random_state << 25;
  run.random_state ^= run.random_state >> 27;
  return run.random_state * UINT64_C(0x2545f4914f6cdd1d);
}

static uint16_t choose_type(void) {
  const struct options* options = run.options;
  if (options->flush_every > 0 &&
      run.writes_since_flush >= options->flush_every) {
    run.writes_since_flush = 0;
    return NBD_CMD_FLUSH;
  }
  if ((next_random() >> 32) % 100 < options->read_percent) return NBD_CMD_READ;
  run.writes_since_flush++;
  return NBD_CMD_WRITE;
}

static void queue_requests(struct connection* connection, uint64_t now) {
  const struct options* options = run.options;
  if (connection->head == connection->tail)
    connection->head = connection->tail = 0;
  /* Each slot has at most a header and a payload in the queue, so when what is
   * left of it moves to the front, there is room for all the others. */
  if (connection->head > 0 && connection->free_count > 0) {
    memmove(connection->queue, connection->queue + connection->head,
            (connection->tail - connection->head) * sizeof *connection->queue);
    connection->tail -= connection->head;
    connection->head = 0;
  }
  while (!run.stopping && connection->free_count > 0) {
    if (options->once && connection->next_offset == run.blocks) break;
    unsigned index = connection->free_slots[--connection->free_count];
    struct slot* slot = &connection->slots[index];
    uint16_t type = choose_type();
    uint64_t offset = 0;
    uint32_t length = 0;
    if (type != NBD_CMD_FLUSH) {
      length = options->size;
      uint64_t block = options->sequential
                           ? connection->next_offset++ % run.blocks
                           : next_random() % run.blocks;
      offset = block * length;
    }
    *slot = (struct slot){.type = type, .started_ns = now, .length = length};
    slot->request.compact = make_request(type, index, offset, length);
    if (options->extended) {
      slot->request.extended.magic = htobe32(NBD_EXTENDED_REQUEST_MAGIC);
      slot->request.extended.length = htobe64(length);
      if (type == NBD_CMD_WRITE)
        slot->request.extended.flags = htobe16(NBD_CMD_FLAG_PAYLOAD_LEN);
    }
    connection->queue[connection->tail++] = (struct iovec){
        &slot->request, options->extended ? sizeof slot->request.extended
                                          : sizeof slot->request.compact};
    if (type == NBD_CMD_WRITE)
      connection->queue[connection->tail++] =
          (struct iovec){run.payload, length};
    run.outstanding++;
  }
}

static void watch_output(struct connection* connection, bool watch) {
  if (connection->watching_output == watch) return;
  connection->watching_output = watch;
  struct epoll_event event = {.events = EPOLLIN | (watch ? EPOLLOUT : 0),
                              .data.ptr = connection};
  epoll_ctl(run.epoll, EPOLL_CTL_MOD, connection->session.fd, &event);
}

static void send_queue(struct connection* connection) {
  while (connection->head < connection->tail) {
    unsigned count = connection->tail - connection->head;
    struct msghdr message = {
        .msg_iov = connection->queue + connection->head,
        .msg_iovlen = count < kMaxIovecs ? count : kMaxIovecs};
    ssize_t sent = sendmsg(connection->session.fd, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) break;
    if (sent < 0) fail("send to the server: %s", strerror(errno));
    for (size_t left = (size_t)sent; left > 0;) {
      struct iovec* first = &connection->queue[connection->head];
      size_t piece = left < first->iov_len ? left : first->iov_len;
      first->iov_base = (char*)first->iov_base + piece;
      first->iov_len -= piece;
      left -= piece;
      if (first->iov_len == 0) connection->head++;
    }
  }
  watch_output(connection, connection->head < connection->tail);
}

static void complete(struct connection* connection, struct slot* slot,
                     uint64_t now) {
  uint64_t latency = now - slot->started_ns;
  uint32_t length = slot->length;
  if (slot->type == NBD_CMD_READ && slot->received != length)
    slot->failed = true;
  if (slot->failed) {
    run.errors++;
  } else if (slot->type == NBD_CMD_READ) {
    run.reads++;
    run.bytes_read += length;
    histogram_add(&run.read_latency, latency);
  } else if (slot->type == NBD_CMD_WRITE) {
    run.writes++;
    run.bytes_written += length;
    histogram_add(&run.write_latency, latency);
  } else {
    run.flushes++;
    histogram_add(&run.flush_latency, latency);
  }
  run.last_reply_ns = now;
  run.outstanding--;
  connection->free_slots[connection->free_count++] =
      (unsigned)(slot - connection->slots);
}

static struct slot* slot_of(struct connection* connection, uint64_t cookie) {
  if (cookie >= run.options->depth)
    fail("a reply to a cookie that was never sent");
  return &connection->slots[cookie];
}

/* Reads one header at `at`; returns its length, 0 when more bytes are needed.
 */
static size_t parse_header(struct connection* connection,
                           const unsigned char* at, size_t length) {
  uint32_t magic;
  if (length < sizeof(struct nbd_simple_reply)) return 0;
  memcpy(&magic, at, sizeof magic);
  if (be32toh(magic) == NBD_SIMPLE_REPLY_MAGIC) {
    struct nbd_simple_reply reply;
    memcpy(&reply, at, sizeof reply);
    struct slot* slot = connection->slot =
        slot_of(connection, be64toh(reply.cookie));
    slot->done = true;
    slot->failed = reply.error != 0;
    if (slot->type == NBD_CMD_READ && !slot->failed)
      slot->received = slot->length;
    connection->to_drop = slot->received;
    return sizeof reply;
  }
  bool extended = run.options->extended;
  if (be32toh(magic) !=
      (extended ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC))
    fail("not a reply: magic %#x", be32toh(magic));
  struct nbd_chunk chunk;
  const size_t header =
      extended ? sizeof(struct nbd_extended_chunk) : sizeof chunk;
  if (length < header) return 0;
  memcpy(&chunk, at, sizeof chunk);
  uint16_t type = be16toh(chunk.type);
  uint32_t payload = be32toh(chunk.length);
  if (extended) memcpy(&payload, at + header - sizeof payload, sizeof payload);
  if (extended) payload = be32toh(payload);
  size_t used = header;
  struct slot* slot = slot_of(connection, be64toh(chunk.cookie));
  if (type == NBD_REPLY_TYPE_OFFSET_HOLE) {
    uint32_t hole;
    if (length < header + 12) return 0;
    memcpy(&hole, at + header + 8, sizeof hole);
    slot->received += be32toh(hole);
    used += 12;
    payload = 0;
  } else if (type == NBD_REPLY_TYPE_OFFSET_DATA) {
    if (payload < 8) fail("a data chunk without an offset");
    slot->received += payload - 8;
  } else if (type != NBD_REPLY_TYPE_NONE) {
    slot->failed = true;
  }
  slot->done = be16toh(chunk.flags) & NBD_REPLY_FLAG_DONE;
  connection->slot = slot;
  connection->to_drop = payload;
  return used;
}

static void parse_replies(struct connection* connection, uint64_t now) {
  size_t at = 0;
  for (;;) {
    if (connection->slot != NULL) {
      size_t left = connection->filled - at;
      size_t piece = connection->to_drop < left ? connection->to_drop : left;
      connection->to_drop -= piece;
      at += piece;
      if (connection->to_drop > 0) break;
      struct slot* slot = connection->slot;
      connection->slot = NULL;
      if (slot->done) complete(connection, slot, now);
    }
    size_t used = parse_header(connection, connection->buffer + at,
                               connection->filled - at);
    if (used == 0) break;
    at += used;
  }
  connection->filled -= at;
  memmove(connection->buffer, connection->buffer + at, connection->filled);
}

static void receive(struct connection* connection) {
  size_t room = kReceiveBuffer - connection->filled;
  ssize_t got =
      recv(connection->session.fd, connection->buffer + connection->filled,
           room, MSG_DONTWAIT);
  if (got == 0) fail("the server closed the connection");
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got < 0) fail("receive from the server: %s", strerror(errno));
  connection->filled += (size_t)got;
  uint64_t now = now_ns();
  parse_replies(connection, now);
  queue_requests(connection, now);
}

/* Writes the first `bytes` of the export, with nothing else under way. */
static void fill(const struct session* session, uint64_t bytes) {
  enum { kPiece = 1 << 20 };
  unsigned char* data = malloc(kPiece);
  if (data == NULL) fail("out of memory");
  for (unsigned i = 0; i < kPiece; i++)
    data[i] = (unsigned char)(next_random() >> 56);
  for (uint64_t offset = 0; offset < bytes; offset += kPiece) {
    uint64_t left = bytes - offset;
    uint32_t length = left < kPiece ? (uint32_t)left : kPiece;
    struct nbd_request request = make_request(NBD_CMD_WRITE, 1, offset, length);
    write_exactly(session->fd, &request, sizeof request);
    write_exactly(session->fd, data, length);
    /* A chunk without data is as long as a simple reply and a length. */
    struct nbd_chunk chunk;
    read_exactly(session->fd, &chunk, sizeof(struct nbd_simple_reply));
    struct nbd_simple_reply reply;
    memcpy(&reply, &chunk, sizeof reply);
    bool failed = reply.error != 0;
    if (be32toh(chunk.magic) == NBD_STRUCTURED_REPLY_MAGIC) {
      read_exactly(session->fd, (char*)&chunk + sizeof reply,
                   sizeof chunk - sizeof reply);
      failed = be16toh(chunk.type) != NBD_REPLY_TYPE_NONE;
    }
    if (failed) fail("the write at %ju failed", (uintmax_t)offset);
  }
  free(data);
}

static void open_connection(struct connection* connection, unsigned number) {
  const struct options* options = run.options;
  connection->session = open_session(options, false);
  connection->slots = calloc(options->depth, sizeof *connection->slots);
  connection->free_slots =
      calloc(options->depth, sizeof *connection->free_slots);
  connection->queue = calloc(2u * options->depth, sizeof *connection->queue);
  connection->buffer = malloc(kReceiveBuffer);
  if (!connection->slots || !connection->free_slots || !connection->queue ||
      !connection->buffer)
    fail("out of memory");
  for (unsigned i = 0; i < options->depth; i++) connection->free_slots[i] = i;
  connection->free_count = options->depth;
  if (run.blocks == 0) {
    uint64_t span = connection->session.size;
    if (options->span > 0 && options->span < span) span = options->span;
    run.blocks = span / options->size;
    if (run.blocks == 0) fail("the export is smaller than one request");
  }
  if (options->fill) fill(&connection->session, run.blocks * options->size);
  /* Connections that read in sequence start at places of their own. */
  connection->next_offset = run.blocks / options->connections * number;
  fcntl(connection->session.fd, F_SETFL, O_NONBLOCK);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
  if (epoll_ctl(run.epoll, EPOLL_CTL_ADD, connection->session.fd, &event) != 0)
    fail("epoll_ctl: %s", strerror(errno));
}

static void make_payload(uint32_t size) {
  run.payload = malloc(size);
  if (run.payload == NULL) fail("out of memory");
  for (uint32_t i = 0; i < size; i++)
    run.payload[i] = (unsigned char)(next_random() >> 56);
}

/* Until a line has come, or standard input has ended. */
static void wait_for_line(void) {
  char byte;
  fflush(stdout);
  while (read(STDIN_FILENO, &byte, 1) > 0 && byte != '\n') {
  }
}

static void command_run(const struct options* options) {
  run.options = options;
  run.random_state = UINT64_C(0x9e3779b97f4a7c15);
  run.epoll = epoll_create1(EPOLL_CLOEXEC);
  make_payload(options->size);
  struct connection* connections =
      calloc(options->connections, sizeof *connections);
  if (connections == NULL) fail("out of memory");
  for (unsigned i = 0; i < options->connections; i++)
    open_connection(&connections[i], i);
  if (options->flush_every > 0 &&
      !(connections[0].session.flags & NBD_FLAG_SEND_FLUSH))
    fail("the server does not offer NBD_CMD_FLUSH");

  if (options->staged) {
    printf("{\"connected\": %u}\n", options->connections);
    wait_for_line();
  }
  uint64_t start = now_ns(),
           deadline = start + (uint64_t)(options->seconds * 1e9);
  for (unsigned i = 0; i < options->connections; i++) {
    queue_requests(&connections[i], start);
    send_queue(&connections[i]);
  }
  while (run.outstanding > 0) {
    struct epoll_event events[64];
    int count = epoll_wait(run.epoll, events, 64, 30000);
    if (count == 0) fail("the server has not answered for 30 s");
    for (int i = 0; i < count; i++) {
      struct connection* connection = events[i].data.ptr;
      if (events[i].events & ~(unsigned)EPOLLOUT) receive(connection);
      send_queue(connection);
    }
    if (!run.stopping && now_ns() >= deadline) run.stopping = true;
  }

  double seconds = (double)(run.last_reply_ns - start) / 1e9;
  printf(
      "{\"seconds\": %.6f, \"reads\": %ju, \"writes\": %ju, \"flushes\": %ju, "
      "\"errors\": %ju, "
      "\"bytes_read\": %ju, \"bytes_written\": %ju, \"client_cpu\": %.6f",
      seconds, (uintmax_t)run.reads, (uintmax_t)run.writes,
      (uintmax_t)run.flushes, (uintmax_t)run.errors, (uintmax_t)run.bytes_read,
      (uintmax_t)run.bytes_written, cpu_seconds());
  print_histogram("read_us", &run.read_latency);
  print_histogram("write_us", &run.write_latency);
  print_histogram("flush_us", &run.flush_latency);
  printf("}\n");
  if (options->staged) wait_for_line();
  for (unsigned i = 0; i < options->connections; i++)
    send_disconnect(&connections[i].session);
}

/* ---- connect ---- */

struct connect_result {
  struct histogram greeting, first_read;
};

static void connect_again_and_again(const struct options* options,
                                    struct connect_result* result) {
  uint64_t deadline = now_ns() + (uint64_t)(options->seconds * 1e9);
  for (uint64_t start = now_ns(); start < deadline; start = now_ns()) {
    struct session session = {0};
    session.fd = options->unix_path ? connect_unix(options->unix_path)
                                    : connect_loopback(options->port);
    read_greeting(session.fd);
    histogram_add(&result->greeting, now_ns() - start);
    haggle(&session, options->export_name, !options->simple, false);
    read_once(&session, 0, 4096);
    histogram_add(&result->first_read, now_ns() - start);
    send_disconnect(&session);
    close(session.fd);
  }
}

/* --connections clients at once are that many processes: each is mostly asleep.
 */
static void command_connect(const struct options* options) {
  struct connect_result* results =
      mmap(NULL, options->connections * sizeof *results, PROT_READ | PROT_WRITE,
           MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (results == MAP_FAILED) fail("mmap: %s", strerror(errno));
  uint64_t start = now_ns();
  for (unsigned i = 0; i < options->connections; i++) {
    pid_t child = fork();
    if (child < 0) fail("fork: %s", strerror(errno));
    if (child == 0) {
      connect_again_and_again(options, &results[i]);
      _exit(0);
    }
  }
  int status;
  while (wait(&status) > 0)
    if (status != 0) fail("one of the clients failed");
  double seconds = (double)(now_ns() - start) / 1e9;
  for (unsigned i = 1; i < options->connections; i++) {
    histogram_merge(&results[0].greeting, &results[i].greeting);
    histogram_merge(&results[0].first_read, &results[i].first_read);
  }
  printf("{\"seconds\": %.6f, \"connects\": %ju", seconds,
         (uintmax_t)results[0].first_read.total);
  print_histogram("greeting_us", &results[0].greeting);
  print_histogram("first_read_us", &results[0].first_read);
  printf("}\n");
}

/* ---- hold, extents, info ---- */

static void command_hold(const struct options* options) {
  struct session* sessions = calloc(options->connections, sizeof *sessions);
  if (sessions == NULL) fail("out of memory");
  for (unsigned i = 0; i < options->connections; i++)
    sessions[i] = open_session(options, false);
  printf("{\"held\": %u}\n", options->connections);
  wait_for_line();
  for (unsigned i = 0; i < options->connections; i++)
    send_disconnect(&sessions[i]);
}

struct map {
  uint64_t offset, extents, data_bytes, requests;
  uint32_t last_flags;
};

/* Takes the descriptors of one reply in pieces; neighbours of one kind count as
 * one extent, so that servers that cut the map differently come to the same
 * number. */
static void take_extents(int fd, uint32_t length, struct map* map,
                         uint64_t end) {
  static struct {
    uint32_t length;
    uint32_t flags;
  } descriptors[8192];
  while (length > 0) {
    uint32_t piece = length < sizeof descriptors ? length : sizeof descriptors;
    read_exactly(fd, descriptors, piece);
    length -= piece;
    for (uint32_t i = 0; i < piece / sizeof descriptors[0]; i++) {
      uint64_t extent = be32toh(descriptors[i].length);
      uint32_t flags = be32toh(descriptors[i].flags);
      if (map->offset + extent > end) extent = end - map->offset;
      if (map->extents == 0 || flags != map->last_flags) map->extents++;
      if (!(flags & 1)) map->data_bytes += extent;
      map->last_flags = flags;
      map->offset += extent;
    }
  }
}

static void ask_for_extents(const struct session* session, struct map* map) {
  uint64_t left = session->size - map->offset, before = map->offset;
  uint32_t most = UINT32_C(0xffff0000);
  struct nbd_request request =
      make_request(NBD_CMD_BLOCK_STATUS, 1, map->offset,
                   left < most ? (uint32_t)left : most);
  write_exactly(session->fd, &request, sizeof request);
  map->requests++;
  for (bool done = false; !done;) {
    struct nbd_chunk chunk;
    read_exactly(session->fd, &chunk, sizeof chunk);
    uint32_t length = be32toh(chunk.length);
    done = be16toh(chunk.flags) & NBD_REPLY_FLAG_DONE;
    if (be32toh(chunk.magic) != NBD_STRUCTURED_REPLY_MAGIC)
      fail("not a structured reply");
    if (be16toh(chunk.type) == NBD_REPLY_TYPE_BLOCK_STATUS && length >= 4) {
      discard_exactly(session->fd,
                      4); /* the metadata context's id: only one is selected */
      take_extents(session->fd, length - 4, map, session->size);
    } else if (be16toh(chunk.type) & NBD_REPLY_TYPE_ERROR_BIT) {
      fail("NBD_CMD_BLOCK_STATUS failed at %ju", (uintmax_t)before);
    } else {
      discard_exactly(session->fd, length);
    }
  }
  if (map->offset == before)
    fail("NBD_CMD_BLOCK_STATUS gave no extent at %ju", (uintmax_t)before);
}

static void command_extents(const struct options* options) {
  struct session session = open_session(options, true);
  if (!session.block_status) fail("the server does not offer base:allocation");
  struct map map = {0};
  uint64_t start = now_ns();
  while (map.offset < session.size) ask_for_extents(&session, &map);
  printf(
      "{\"seconds\": %.6f, \"extents\": %ju, \"data_bytes\": %ju, "
      "\"requests\": %ju}\n",
      (double)(now_ns() - start) / 1e9, (uintmax_t)map.extents,
      (uintmax_t)map.data_bytes, (uintmax_t)map.requests);
  send_disconnect(&session);
}

static void command_info(const struct options* options) {
  struct session session = open_session(options, true);
  printf(
      "{\"size\": %ju, \"structured\": %s, \"block_status\": %s, \"flush\": "
      "%s, "
      "\"multi_conn\": %s, \"read_only\": %s}\n",
      (uintmax_t)session.size, session.structured ? "true" : "false",
      session.block_status ? "true" : "false",
      session.flags & NBD_FLAG_SEND_FLUSH ? "true" : "false",
      session.flags & NBD_FLAG_CAN_MULTI_CONN ? "true" : "false",
      session.flags & NBD_FLAG_READ_ONLY ? "true" : "false");
  send_disconnect(&session);
}

/* ---- Command line ---- */

static const struct command {
  const char* name;
  void (*function)(const struct options*);
} commands[] = {{"run", command_run},
                {"connect", command_connect},
                {"hold", command_hold},
                {"extents", command_extents},
                {"info", command_info}};

static uint64_t number(const char* text, uint64_t least, uint64_t most) {
  char* end;
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  if (errno != 0 || end == text || *end != '\0' || value < least ||
      value > most)
    fail("'%s' is not a number from %ju to %ju", text, (uintmax_t)least,
         (uintmax_t)most);
  return value;
}

static struct options parse_options(int argc, char** argv) {
  static const struct option long_options[] = {
      {"unix", required_argument, NULL, 'u'},
      {"port", required_argument, NULL, 'p'},
      {"export", required_argument, NULL, 'e'},
      {"connections", required_argument, NULL, 'c'},
      {"depth", required_argument, NULL, 'd'},
      {"size", required_argument, NULL, 's'},
      {"read-percent", required_argument, NULL, 'r'},
      {"flush-every", required_argument, NULL, 'f'},
      {"span", required_argument, NULL, 'n'},
      {"seconds", required_argument, NULL, 't'},
      {"sequential", no_argument, NULL, 'q'},
      {"simple", no_argument, NULL, 'm'},
      {"extended", no_argument, NULL, 'x'},
      {"staged", no_argument, NULL, 'g'},
      {"fill", no_argument, NULL, 'i'},
      {"once", no_argument, NULL, 'o'},
      {NULL, 0, NULL, 0}};
  struct options options = {.export_name = "bench",
                            .connections = 1,
                            .depth = 1,
                            .size = 4096,
                            .read_percent = 100,
                            .seconds = 1};
  int letter;
  while ((letter = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
    switch (letter) {
      case 'u':
        options.unix_path = optarg;
        break;
      case 'p':
        options.port = (unsigned)number(optarg, 1, 65535);
        break;
      case 'e':
        options.export_name = optarg;
        break;
      case 'c':
        options.connections = (unsigned)number(optarg, 1, 4096);
        break;
      case 'd':
        options.depth = (unsigned)number(optarg, 1, 4096);
        break;
      case 's':
        options.size = (uint32_t)number(optarg, 1, 32u << 20);
        break;
      case 'r':
        options.read_percent = (unsigned)number(optarg, 0, 100);
        break;
      case 'f':
        options.flush_every = (unsigned)number(optarg, 0, 1u << 30);
        break;
      case 'n':
        options.span = number(optarg, 1, UINT64_MAX);
        break;
      case 't':
        options.seconds = strtod(optarg, NULL);
        break;
      case 'q':
        options.sequential = true;
        break;
      case 'm':
        options.simple = true;
        break;
      case 'x':
        options.extended = true;
        break;
      case 'g':
        options.staged = true;
        break;
      case 'i':
        options.fill = true;
        break;
      case 'o':
        options.once = options.sequential = true;
        break;
      default:
        exit(64);
    }
  }
  if ((options.unix_path != NULL) == (options.port != 0))
    fail("give --unix or --port");
  return options;
}

int main(int argc, char** argv) {
  if (argc < 2)
    fail("usage: blaster COMMAND (--unix PATH | --port PORT) [OPTIONS]");
  for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
    if (strcmp(argv[1], commands[i].name) != 0) continue;
    struct options options = parse_options(argc - 1, argv + 1);
    if (options.extended && strcmp(argv[1], "run") != 0)
      fail("--extended is for the command run");
    if (options.extended && options.fill)
      fail("--fill speaks without extended headers");
    if (options.once && options.connections > 1)
      fail("--once is for one connection");
    commands[i].function(&options);
    return 0;
  }
  fail("blaster has no command '%s'", argv[1]);
}
