/* A link of a certain length, rate and loss between two network namespaces.
 *
 *   link [--rate MBIT] [--rtt MS] [--loss PERCENT] [--segments]
 *        [--queue KIB]
 *
 * Makes two namespaces with a TUN interface and a loopback in each, 10.99.0.1
 * for the server and 10.99.0.2 for the client, prints
 * "/proc/PID/fd/N /proc/PID/fd/M", the server's and the client's namespace for
 * nsenter(1), and carries packets between them until standard input ends. The
 * namespaces are gone when the last process in them is, however this one ends.
 * /proc/PID/net is that of the server's.
 *
 * The sockets at both ends are the kernel's own. Each direction has a queue of
 * --queue (the product of rate and round trip, at least 1 MiB, drops at its
 * end), leaves it at --rate (1000), which counts what an Ethernet frame adds,
 * and arrives half of --rtt later. --loss is that of each direction by itself;
 * the sequence of losses is the same in each run.
 *
 * Why not netem: it isn't in every kernel, and as a queueing discipline of the
 * sender's own interface it has a part in how much that sender queues. With
 * offloads, which make a link of 1 Gbit/s cheap enough to run beside a server
 * and a client, a packet here is up to 64 KiB, as it is there, and a loss takes
 * all of it; --segments turns them off, for one packet of 1500 bytes a segment.
 *
 * It runs with real-time scheduling where it may: a link doesn't depend on the
 * load of the machines at its ends. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
  kMtu = 1500,
  kFrameBytes = 14 + 4 + 8 + 12, /* header, checksum, preamble, gap */
  kMaxPacket = 65536 + 64,
  kReadsInARow = 64,
  kInterfaceQueue = 10000,
};

struct options {
  double rate; /* bytes a nanosecond */
  uint64_t delay_ns;
  double loss; /* 0 to 1 */
  double queue_bytes;
  bool segments;
};

struct packet {
  struct packet* next;
  uint64_t due_ns;
  size_t length;
  unsigned char bytes[]; /* with its virtio_net_hdr */
};

/* One direction. Packets leave in the order in which they came. */
struct direction {
  int from, to;
  uint64_t free_ns; /* when all of the queue has left */
  uint64_t random;
  uint64_t refused; /* packets that the kernel hasn't taken */
  struct packet *first, **last;
};

static void fail(const char* format, ...)
    __attribute__((noreturn, format(printf, 1, 2)));

static void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("link: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- The namespaces ---- */

static void configure(int control, unsigned long call, struct ifreq* request) {
  if (ioctl(control, call, request) != 0)
    fail("failed to configure %s: %s", request->ifr_name, strerror(errno));
}

static void set_up(int control, const char* name) {
  struct ifreq request = {0};
  strcpy(request.ifr_name, name);
  configure(control, SIOCGIFFLAGS, &request);
  request.ifr_flags |= IFF_UP;
  configure(control, SIOCSIFFLAGS, &request);
}

static struct ifreq with_address(const char* name, const char* address) {
  struct ifreq request = {0};
  struct sockaddr_in where = {.sin_family = AF_INET};
  strcpy(request.ifr_name, name);
  inet_pton(AF_INET, address, &where.sin_addr);
  memcpy(&request.ifr_addr, &where, sizeof where);
  return request;
}

/* Enters a new namespace, and makes its end of the link. */
static int make_end(const char* address, const char* peer, bool segments) {
  if (unshare(CLONE_NEWNET) != 0)
    fail("failed to make a network namespace: %s", strerror(errno));
  int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (tun < 0) fail("failed to open /dev/net/tun: %s", strerror(errno));
  struct ifreq request = {.ifr_name = "link",
                          .ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
  if (ioctl(tun, TUNSETIFF, &request) != 0)
    fail("failed to make a TUN interface: %s", strerror(errno));
  if (!segments && ioctl(tun, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) != 0)
    fail("failed to set the interface's offloads: %s", strerror(errno));
  int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (control < 0) fail("socket: %s", strerror(errno));
  request = with_address("link", address);
  configure(control, SIOCSIFADDR, &request);
  request = with_address("link", peer);
  configure(control, SIOCSIFDSTADDR, &request);
  request.ifr_mtu = kMtu;
  configure(control, SIOCSIFMTU, &request);
  request.ifr_qlen = kInterfaceQueue;
  configure(control, SIOCSIFTXQLEN, &request);
  set_up(control, "link");
  set_up(control, "lo");
  close(control);
  return tun;
}

static int this_namespace(void) {
  int fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("failed to open the namespace: %s", strerror(errno));
  return fd;
}

/* ---- The link ---- */

/* xorshift64*: a number from 0 to 1. */
static double next_random(uint64_t* state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return (double)((*state * UINT64_C(2685821657736338717)) >> 11) /
         (double)(UINT64_C(1) << 53);
}

/* What a packet takes of the wire: with offloads it is several frames. */
static double wire_bytes(const struct packet* packet) {
  struct virtio_net_hdr header;
  memcpy(&header, packet->bytes, sizeof header);
  const size_t bytes = packet->length - sizeof header;
  if (header.gso_type == VIRTIO_NET_HDR_GSO_NONE || header.gso_size == 0)
    return (double)(bytes + kFrameBytes);
  const size_t headers = header.hdr_len;
  const size_t payload = bytes > headers ? bytes - headers : 0;
  const size_t frames = (payload + header.gso_size - 1) / header.gso_size;
  return (double)(payload + frames * (headers + kFrameBytes));
}

static void take(struct direction* direction, const struct options* options,
                 struct packet* packet) {
  const uint64_t now = now_ns();
  if (direction->free_ns < now) direction->free_ns = now;
  const double queued = (double)(direction->free_ns - now) * options->rate;
  if (next_random(&direction->random) < options->loss ||
      queued > options->queue_bytes) {
    free(packet);
    return;
  }
  direction->free_ns += (uint64_t)(wire_bytes(packet) / options->rate);
  packet->due_ns = direction->free_ns + options->delay_ns;
  packet->next = NULL;
  *direction->last = packet;
  direction->last = &packet->next;
}

static void receive(struct direction* direction,
                    const struct options* options) {
  static unsigned char buffer[kMaxPacket];
  for (int i = 0; i < kReadsInARow; i++) {
    ssize_t got = read(direction->from, buffer, sizeof buffer);
    if (got <= (ssize_t)sizeof(struct virtio_net_hdr)) return;
    struct packet* packet = malloc(sizeof *packet + (size_t)got);
    if (packet == NULL) fail("out of memory");
    packet->length = (size_t)got;
    memcpy(packet->bytes, buffer, packet->length);
    take(direction, options, packet);
  }
}

/* Delivers what is due; returns when the next packet is. */
static uint64_t deliver(struct direction* direction) {
  while (direction->first != NULL) {
    struct packet* packet = direction->first;
    if (packet->due_ns > now_ns()) return packet->due_ns;
    /* What the kernel doesn't take, as when it is short of memory, is lost. */
    if (write(direction->to, packet->bytes, packet->length) < 0 &&
        direction->refused++ == 0)
      fprintf(stderr, "link: a packet is lost: %s\n", strerror(errno));
    direction->first = packet->next;
    if (direction->first == NULL) direction->last = &direction->first;
    free(packet);
  }
  return UINT64_MAX;
}

static void carry(struct direction directions[2],
                  const struct options* options) {
  for (;;) {
    uint64_t due = UINT64_MAX;
    for (int i = 0; i < 2; i++) {
      const uint64_t next = deliver(&directions[i]);
      if (next < due) due = next;
    }
    const uint64_t now = now_ns();
    const uint64_t left = due > now ? due - now : 0;
    struct timespec timeout = {(time_t)(left / 1000000000u),
                               (long)(left % 1000000000u)};
    struct pollfd fds[] = {{directions[0].from, POLLIN, 0},
                           {directions[1].from, POLLIN, 0},
                           {STDIN_FILENO, POLLIN, 0}};
    if (ppoll(fds, 3, due == UINT64_MAX ? NULL : &timeout, NULL) < 0 &&
        errno != EINTR)
      fail("poll: %s", strerror(errno));
    if (fds[2].revents != 0) return;
    for (int i = 0; i < 2; i++)
      if (fds[i].revents != 0) receive(&directions[i], options);
  }
}

static double number(const char* text, double most) {
  char* end;
  double value = strtod(text, &end);
  if (end == text || *end != '\0' || !(value >= 0 && value <= most))
    fail("'%s' is not a number up to %g", text, most);
  return value;
}

static struct options parse_options(int argc, char** argv) {
  static const struct option long_options[] = {
      {"rate", required_argument, NULL, 'r'},
      {"rtt", required_argument, NULL, 't'},
      {"loss", required_argument, NULL, 'l'},
      {"queue", required_argument, NULL, 'q'},
      {"segments", no_argument, NULL, 's'},
      {NULL, 0, NULL, 0}};
  struct options options = {.rate = 1000.0 / 8 / 1e3};
  double rtt_ns = 0, queue_kib = 0;
  for (int letter;
       (letter = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
    if (letter == 'r')
      options.rate = number(optarg, 1e5) / 8 / 1e3;
    else if (letter == 't')
      rtt_ns = number(optarg, 1e4) * 1e6;
    else if (letter == 'l')
      options.loss = number(optarg, 100) / 100;
    else if (letter == 'q')
      queue_kib = number(optarg, 1e6);
    else if (letter == 's')
      options.segments = true;
    else
      exit(64);
  }
  if (optind != argc || options.rate <= 0)
    fail(
        "usage: link [--rate MBIT] [--rtt MS] [--loss PERCENT] [--segments] "
        "[--queue KIB]");
  options.delay_ns = (uint64_t)(rtt_ns / 2);
  const double product = options.rate * rtt_ns;
  options.queue_bytes = product > 1 << 20 ? product : 1 << 20;
  if (queue_kib > 0) options.queue_bytes = queue_kib * 1024;
  return options;
}

int main(int argc, char** argv) {
  const struct options options = parse_options(argc, argv);
  const int client = make_end("10.99.0.2", "10.99.0.1", options.segments);
  const int client_namespace = this_namespace();
  const int server = make_end("10.99.0.1", "10.99.0.2", options.segments);
  const int server_namespace = this_namespace();
  struct direction directions[] = {
      {.from = server, .to = client, .random = 88172645463325252u},
      {.from = client, .to = server, .random = 36243606936911u}};
  for (int i = 0; i < 2; i++) directions[i].last = &directions[i].first;
  prctl(PR_SET_TIMERSLACK, 1UL);
  const struct sched_param priority = {.sched_priority = 1};
  sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &priority);
  printf("/proc/%d/fd/%d /proc/%d/fd/%d\n", (int)getpid(), server_namespace,
         (int)getpid(), client_namespace);
  fflush(stdout);
  carry(directions, &options);
  return 0;
}
