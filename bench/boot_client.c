/* Diskless machines that boot at once, each over a connection of its own.
 *
 *   boot_client --host IP --port PORT --machines N --trace FILE [--depth N]
 *               [--from IP] [--spread SECONDS] [--psk USER:HEXKEY | --ca FILE]
 *               [--then-port PORT]
 *
 * Each machine is a process. It connects from an address of its own, --from or
 * one of those behind it, and asks for what a machine has asked for when it
 * booted: the trace, line by line, --depth requests at once, without the time
 * that the machine itself took. A line is r or w, the first block, and the
 * number of blocks, each of 4 KiB.
 *
 * Lines of standard input lead through it; each is answered by a line of JSON.
 *
 *   1. The machines begin, all at once or at random moments of --spread, and
 *      boot. The answer comes when the last one has booted or failed. They keep
 *      their connections.
 *   2. The answer comes when the server has closed all of these, and each
 *      machine has connected to --then-port and has read a block.
 *
 * It ends with its standard input. A connection that is refused, or closed
 * before the export is ready, is tried again after kPauseMs.
 *
 * Data is checked: a block of the image begins with its number, and a block
 * that a machine has written begins with that and the machine's number. One
 * read in kCheckOneIn is checked, and the bytes of the others are dropped in
 * the kernel, since the clients leave the processors to the server. A machine
 * reads back some of what it has written when all have booted. */
#include <getopt.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "latency_histogram.h"
#include "nbd_client.h"

enum {
  kBlock = 4096,
  kMostBlocks = 8192, /* of a line: 32 MiB */
  kCheckOneIn = 16,
  kReadBack = 16, /* writes */
  kPauseMs = 100,
  NBD_OPT_STARTTLS = 5,
};

struct step {
  uint64_t block;
  uint32_t blocks;
  bool write;
  bool overwritten; /* a write of the trace hits what this read returns */
};

static struct {
  const char *host, *psk, *ca;
  unsigned port, then_port, machines, depth;
  uint32_t from; /* in host order; 0 for any */
  double spread;
} options = {.depth = 4};

static struct step* steps;
static unsigned step_count;
static SSL_CTX* tls_context;

/* What a machine has measured, in memory that it shares with the first process;
 * latencies are of the time from the machine's own start, or from the loss of
 * its connection. */
struct result {
  uint64_t reads, writes, bytes_read, bytes_written;
  struct histogram ready, boot, read, write, again;
};

/* What all processes share; counters change by atomic operations. */
static struct {
  uint64_t start_ns;
  unsigned booted, checked, back, failed, refused, wrong;
  char complaint[200]; /* the first one */
  struct result results[];
} * shared;

static struct machine {
  unsigned number;
  int fd;
  SSL* tls;
  bool read_only;
  unsigned char buffer[kMostBlocks * kBlock];
} self;

static struct result* own;

static void give_up(const char* what) {
  if (__atomic_fetch_add(&shared->failed, 1, __ATOMIC_RELAXED) == 0)
    snprintf(shared->complaint, sizeof shared->complaint, "machine %u: %s",
             self.number, what);
  for (;;) pause();
}

/* ---- the stream; false when it has ended ---- */

static bool receive(void* buffer, size_t length) {
  for (size_t done = 0; done < length;) {
    size_t got = 0;
    if (self.tls != NULL) {
      if (!SSL_read_ex(self.tls, (char*)buffer + done, length - done, &got))
        return false;
    } else {
      ssize_t result = read(self.fd, (char*)buffer + done, length - done);
      if (result <= 0) return false;
      got = (size_t)result;
    }
    done += got;
  }
  return true;
}

/* Drops what comes, without a copy where the kernel has it in plain text. */
static bool drop(size_t length) {
  if (self.tls != NULL) return receive(self.buffer, length);
  while (length > 0) {
    ssize_t got = recv(self.fd, NULL, length, MSG_TRUNC);
    if (got <= 0) return false;
    length -= (size_t)got;
  }
  return true;
}

static bool transmit(const void* buffer, size_t length) {
  for (size_t done = 0; done < length;) {
    size_t put = 0;
    if (self.tls != NULL) {
      if (!SSL_write_ex(self.tls, (const char*)buffer + done, length - done,
                        &put))
        return false;
    } else {
      ssize_t result = send(self.fd, (const char*)buffer + done, length - done,
                            MSG_NOSIGNAL);
      if (result <= 0) return false;
      put = (size_t)result;
    }
    done += put;
  }
  return true;
}

/* ---- a connection ---- */

static unsigned give_key(SSL* ssl, const char* hint, char* identity,
                         unsigned identity_room, unsigned char* key,
                         unsigned key_room) {
  (void)ssl, (void)hint;
  const char* colon = strchr(options.psk, ':');
  if (colon == NULL || (size_t)(colon - options.psk) >= identity_room) return 0;
  memcpy(identity, options.psk, (size_t)(colon - options.psk));
  identity[colon - options.psk] = 0;
  unsigned length = 0, byte;
  for (const char* at = colon + 1;
       length < key_room && sscanf(at, "%2x", &byte) == 1; at += 2)
    key[length++] = (unsigned char)byte;
  return length;
}

/* Once, before there are machines: each has what it needs in common memory. */
static void prepare_tls(void) {
  if (options.psk == NULL && options.ca == NULL) return;
  tls_context = SSL_CTX_new(TLS_client_method());
  if (options.psk != NULL) {
    SSL_CTX_set_psk_client_callback(tls_context, give_key);
  } else {
    if (!SSL_CTX_load_verify_locations(tls_context, options.ca, NULL))
      fail("%s: %s", options.ca, ERR_reason_error_string(ERR_get_error()));
    SSL_CTX_set_verify(tls_context, SSL_VERIFY_PEER, NULL);
  }
}

static bool open_socket(unsigned port) {
  self.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (self.fd < 0) return false;
  struct sockaddr_in address = {.sin_family = AF_INET};
  if (options.from != 0) {
    address.sin_addr.s_addr = htonl(options.from + self.number);
    int on = 1;
    setsockopt(self.fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(self.fd, (struct sockaddr*)&address, sizeof address) != 0)
      return false;
  }
  address.sin_port = htons((uint16_t)port);
  if (inet_pton(AF_INET, options.host, &address.sin_addr) != 1) return false;
  int on = 1;
  setsockopt(self.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return connect(self.fd, (struct sockaddr*)&address, sizeof address) == 0;
}

static bool ask(uint32_t option, const void* payload, uint32_t length) {
  unsigned char message[sizeof(struct nbd_option) + 16];
  struct nbd_option header = {htobe64(IHAVEOPT), htobe32(option),
                              htobe32(length)};
  memcpy(message, &header, sizeof header);
  if (length > 0) memcpy(message + sizeof header, payload, length);
  return transmit(message, sizeof header + length);
}

/* The type of the next reply; 0 when there is none. */
static uint32_t next_reply(void) {
  struct nbd_option_reply reply;
  unsigned char payload[4096] = {0};
  if (!receive(&reply, sizeof reply)) return 0;
  uint32_t length = be32toh(reply.length);
  if (length > sizeof payload || !receive(payload, length)) return 0;
  if (be32toh(reply.type) == NBD_REP_INFO && payload[1] == NBD_INFO_EXPORT)
    self.read_only = payload[11] & NBD_FLAG_READ_ONLY;
  return be32toh(reply.type);
}

static bool start_tls(void) {
  if (!ask(NBD_OPT_STARTTLS, NULL, 0) || next_reply() != NBD_REP_ACK)
    return false;
  SSL* tls = SSL_new(tls_context);
  SSL_set_fd(tls, self.fd);
  if (SSL_connect(tls) != 1) {
    SSL_free(tls);
    return false;
  }
  self.tls = tls;
  return true;
}

static bool negotiate(void) {
  unsigned char greeting[18];
  uint32_t flags = htobe32(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
  if (!receive(greeting, sizeof greeting) || !transmit(&flags, sizeof flags))
    return false;
  if (tls_context != NULL && !start_tls()) return false;
  static const unsigned char default_export[6];
  if (!ask(NBD_OPT_GO, default_export, sizeof default_export)) return false;
  uint32_t type;
  while ((type = next_reply()) == NBD_REP_INFO) {
  }
  return type == NBD_REP_ACK;
}

static void hang_up(void) {
  if (self.tls != NULL) SSL_free(self.tls);
  self.tls = NULL;
  if (self.fd >= 0) close(self.fd);
}

static void connect_until_ready(unsigned port) {
  while (!open_socket(port) || !negotiate()) {
    hang_up();
    __atomic_fetch_add(&shared->refused, 1, __ATOMIC_RELAXED);
    usleep(kPauseMs * 1000);
  }
}

/* ---- requests ---- */

/* What a block that this machine has written begins with. */
static uint64_t own_mark(uint64_t block) {
  return block | (uint64_t)(self.number + 1) << 40;
}

static void check_blocks(uint64_t first, uint32_t blocks, bool written) {
  for (uint32_t i = 0; i < blocks; i++) {
    uint64_t mark;
    memcpy(&mark, self.buffer + (size_t)i * kBlock, sizeof mark);
    if (le64toh(mark) == (written ? own_mark(first + i) : first + i)) continue;
    __atomic_fetch_add(&shared->wrong, 1, __ATOMIC_RELAXED);
  }
}

static bool send_request(const struct step* step, uint64_t cookie) {
  struct nbd_request request =
      make_request(step->write ? NBD_CMD_WRITE : NBD_CMD_READ, cookie,
                   step->block * kBlock, step->blocks * kBlock);
  if (!transmit(&request, sizeof request)) return false;
  if (!step->write) return true;
  for (uint32_t i = 0; i < step->blocks; i++) {
    uint64_t mark = htole64(own_mark(step->block + i));
    memcpy(self.buffer + (size_t)i * kBlock, &mark, sizeof mark);
  }
  return transmit(self.buffer, (size_t)step->blocks * kBlock);
}

/* The step that the next reply is to, after its bytes; NULL on an error. */
static const struct step* take_reply(bool check, bool written) {
  struct nbd_simple_reply reply;
  if (!receive(&reply, sizeof reply) || reply.error != 0 ||
      be32toh(reply.magic) != NBD_SIMPLE_REPLY_MAGIC ||
      be64toh(reply.cookie) >= step_count)
    return NULL;
  const struct step* step = &steps[be64toh(reply.cookie)];
  size_t bytes = (size_t)step->blocks * kBlock;
  if (step->write && !written) return step;
  check = check && (written || !step->overwritten);
  if (check ? !receive(self.buffer, bytes) : !drop(bytes)) return NULL;
  if (check) check_blocks(step->block, step->blocks, written);
  return step;
}

static bool replay(void) {
  uint64_t* began = calloc(step_count, sizeof *began);
  unsigned next = 0, in_flight = 0, taken = 0;
  for (;;) {
    while (next < step_count && in_flight < options.depth) {
      const struct step* step = &steps[next];
      if (step->write && self.read_only) {
        next++;
        continue;
      }
      began[next] = now_ns();
      if (!send_request(step, next++)) return false;
      in_flight++;
    }
    if (in_flight == 0) break;
    const struct step* step =
        take_reply((taken++ + self.number) % kCheckOneIn == 0, false);
    if (step == NULL) return false;
    in_flight--;
    uint64_t took = now_ns() - began[step - steps];
    histogram_add(step->write ? &own->write : &own->read, took);
    *(step->write ? &own->writes : &own->reads) += 1;
    *(step->write ? &own->bytes_written : &own->bytes_read) +=
        (uint64_t)step->blocks * kBlock;
  }
  free(began);
  return true;
}

/* Some writes, as far apart as the trace allows: each machine has its own. */
static bool read_back(void) {
  if (self.read_only) return true;
  unsigned writes = 0, seen = 0;
  for (unsigned i = 0; i < step_count; i++) writes += steps[i].write;
  for (unsigned i = 0; i < step_count; i++) {
    if (!steps[i].write) continue;
    if (seen++ % (writes / kReadBack + 1) != 0) continue;
    const struct step step = {.block = steps[i].block,
                              .blocks = steps[i].blocks};
    if (!send_request(&step, i) || take_reply(true, true) == NULL) return false;
  }
  return true;
}

/* ---- a machine ---- */

/* Until so many machines have done it, or have failed. */
static void wait_for(const unsigned* counter, unsigned pause_ms) {
  while (__atomic_load_n(counter, __ATOMIC_RELAXED) +
             __atomic_load_n(&shared->failed, __ATOMIC_RELAXED) <
         options.machines)
    usleep(pause_ms * 1000);
}

static void add_one(unsigned* counter) {
  __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

static void wait_for_end_of_connection(void) {
  struct pollfd event = {.fd = self.fd, .events = POLLIN};
  char byte[256];
  /* Over TLS, what comes first may be tickets or an alert. */
  do {
    poll(&event, 1, -1);
  } while (recv(self.fd, byte, sizeof byte, 0) > 0);
}

static bool come_back(void) {
  wait_for_end_of_connection();
  uint64_t lost = now_ns();
  hang_up();
  connect_until_ready(options.then_port);
  const struct step first = {.block = steps[0].block, .blocks = 1};
  steps[0].blocks = 1;
  if (!send_request(&first, 0) || take_reply(false, false) == NULL)
    return false;
  histogram_add(&own->again, now_ns() - lost);
  return true;
}

/* Until its process is killed. */
static void be_machine(unsigned number, int gate) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  self.number = number;
  own = &shared->results[number];
  char byte;
  while (read(gate, &byte, 1) > 0) {
  }
  srand48(number + 1);
  usleep((useconds_t)(drand48() * options.spread * 1e6));
  uint64_t began = now_ns();
  connect_until_ready(options.port);
  histogram_add(&own->ready, now_ns() - began);
  if (!replay()) give_up("the connection has ended, or a request has failed");
  histogram_add(&own->boot, now_ns() - began);
  add_one(&shared->booted);
  /* Behind the last write of all, which can't be each machine's own. */
  wait_for(&shared->booted, kPauseMs);
  if (!read_back()) give_up("what it has written can't be read back");
  add_one(&shared->checked);
  if (options.then_port == 0) pause();
  if (!come_back()) give_up("the second server doesn't serve it");
  add_one(&shared->back);
  pause();
}

/* ---- the first process ---- */

static void read_trace(const char* path) {
  FILE* file = fopen(path, "r");
  if (file == NULL) fail("%s: %s", path, strerror(errno));
  char kind, line[80];
  unsigned long long block;
  unsigned blocks;
  while (fgets(line, sizeof line, file) != NULL) {
    if (line[0] == '#') continue;
    if (sscanf(line, "%c %llu %u", &kind, &block, &blocks) != 3 ||
        (kind != 'r' && kind != 'w') || blocks == 0 || blocks > kMostBlocks)
      fail("%s: what is: %s", path, line);
    steps = realloc(steps, (step_count + 1) * sizeof *steps);
    if (steps == NULL) fail("out of memory");
    steps[step_count++] =
        (struct step){.block = block, .blocks = blocks, .write = kind == 'w'};
  }
  fclose(file);
  if (step_count == 0 || steps[0].write) fail("%s begins with no read", path);
  for (unsigned i = 0; i < step_count; i++)
    for (unsigned j = 0; j < step_count && !steps[i].write; j++)
      if (steps[j].write && steps[j].block < steps[i].block + steps[i].blocks &&
          steps[i].block < steps[j].block + steps[j].blocks)
        steps[i].overwritten = true;
}

static bool wait_for_line(void) {
  char byte;
  fflush(stdout);
  while (read(STDIN_FILENO, &byte, 1) > 0)
    if (byte == '\n') return true;
  return false;
}

static void print_counts(const char* name, const unsigned* counter,
                         uint64_t end_ns) {
  printf(
      "{\"seconds\": %.6f, \"%s\": %u, \"failed\": %u, \"refused\": %u, "
      "\"wrong\": %u, \"complaint\": \"%s\"",
      (double)(end_ns - shared->start_ns) / 1e9, name, *counter, shared->failed,
      __atomic_exchange_n(&shared->refused, 0, __ATOMIC_RELAXED), shared->wrong,
      shared->complaint);
}

static void print_boot(uint64_t end_ns) {
  static struct result sum;
  for (unsigned i = 0; i < options.machines; i++) {
    const struct result* result = &shared->results[i];
    sum.reads += result->reads;
    sum.writes += result->writes;
    sum.bytes_read += result->bytes_read;
    sum.bytes_written += result->bytes_written;
    histogram_merge(&sum.ready, &result->ready);
    histogram_merge(&sum.boot, &result->boot);
    histogram_merge(&sum.read, &result->read);
    histogram_merge(&sum.write, &result->write);
  }
  print_counts("booted", &shared->booted, end_ns);
  printf(
      ", \"reads\": %ju, \"writes\": %ju, \"bytes_read\": %ju, "
      "\"bytes_written\": %ju",
      (uintmax_t)sum.reads, (uintmax_t)sum.writes, (uintmax_t)sum.bytes_read,
      (uintmax_t)sum.bytes_written);
  print_histogram("ready_us", &sum.ready);
  print_histogram("boot_us", &sum.boot);
  print_histogram("read_us", &sum.read);
  print_histogram("write_us", &sum.write);
  printf("}\n");
}

static void print_back(uint64_t end_ns) {
  static struct histogram again;
  for (unsigned i = 0; i < options.machines; i++)
    histogram_merge(&again, &shared->results[i].again);
  print_counts("back", &shared->back, end_ns);
  print_histogram("again_us", &again);
  printf("}\n");
}

static unsigned positive(const char* text) {
  char* end;
  unsigned long value = strtoul(text, &end, 10);
  if (*end != '\0' || value == 0 || value > 65535)
    fail("%s is no number from 1 to 65535", text);
  return (unsigned)value;
}

static void parse_options(int argc, char** argv) {
  static const struct option known[] = {
      {"host", 1, NULL, 'h'},   {"port", 1, NULL, 'p'},
      {"from", 1, NULL, 'f'},   {"machines", 1, NULL, 'm'},
      {"trace", 1, NULL, 't'},  {"depth", 1, NULL, 'd'},
      {"spread", 1, NULL, 's'}, {"psk", 1, NULL, 'k'},
      {"ca", 1, NULL, 'c'},     {"then-port", 1, NULL, 'n'},
      {NULL, 0, NULL, 0}};
  struct in_addr address;
  for (int letter; (letter = getopt_long(argc, argv, "", known, NULL)) != -1;) {
    if (letter == 'h')
      options.host = optarg;
    else if (letter == 'p')
      options.port = positive(optarg);
    else if (letter == 'f' && inet_pton(AF_INET, optarg, &address) == 1)
      options.from = ntohl(address.s_addr);
    else if (letter == 'm')
      options.machines = positive(optarg);
    else if (letter == 't')
      read_trace(optarg);
    else if (letter == 'd')
      options.depth = positive(optarg);
    else if (letter == 's')
      options.spread = atof(optarg);
    else if (letter == 'k')
      options.psk = optarg;
    else if (letter == 'c')
      options.ca = optarg;
    else if (letter == 'n')
      options.then_port = positive(optarg);
    else
      exit(64);
  }
  if (!options.host || !options.port || !options.machines || !steps)
    fail("give --host, --port, --machines and --trace");
}

int main(int argc, char** argv) {
  parse_options(argc, argv);
  signal(SIGPIPE, SIG_IGN);
  prepare_tls();
  shared =
      mmap(NULL, sizeof *shared + options.machines * sizeof *shared->results,
           PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) fail("mmap: %s", strerror(errno));
  int gate[2];
  if (pipe(gate) != 0) fail("pipe: %s", strerror(errno));
  for (unsigned i = 0; i < options.machines; i++) {
    pid_t pid = fork();
    if (pid < 0) fail("fork: %s", strerror(errno));
    if (pid > 0) continue;
    close(gate[1]);
    be_machine(i, gate[0]);
  }
  if (!wait_for_line()) return 0;
  shared->start_ns = now_ns();
  close(gate[1]); /* the machines begin */
  wait_for(&shared->booted, 1);
  const uint64_t booted_ns = now_ns();
  wait_for(&shared->checked, 1);
  print_boot(booted_ns);
  if (options.then_port != 0 && wait_for_line()) {
    shared->start_ns = now_ns();
    wait_for(&shared->back, 1);
    print_back(now_ns());
  }
  while (wait_for_line()) {
  }
  return 0; /* the machines end with their parent */
}
