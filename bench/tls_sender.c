/* What a sender over TLS that does nothing else reaches: the reference for the
 * rows with TLS on a link.
 *
 *   tls_sender --port PORT --certificates DIR FILE
 *
 * Serves FILE on every address to the client that the servers get too, in plain
 * text or after NBD_OPT_STARTTLS, with just enough NBD for it: fixed answers to
 * the options, no check of a request, reads only, simple replies, a process per
 * connection. DIR has nbdkit's file names. It takes the same cipher as
 * nbdinetd, AES-128-GCM in TLS 1.3, encrypts by the same library, and sends the
 * replies to all requests that have come together by one system call, or as
 * many as fit into its buffer. */
#include <fcntl.h>
#include <getopt.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <sys/stat.h>

#include "nbd_client.h"

enum {
  NBD_OPT_STARTTLS = 5,
  kBuffer = 256 * 1024,
  kRequests = 16 * 1024, /* a record of TLS */
};

struct peer {
  int fd;
  SSL* tls; /* NULL: plain text */
};

static struct {
  int file;
  uint64_t size;
  SSL_CTX* context;
} served;

static void get(const struct peer* peer, void* data, size_t length) {
  if (peer->tls == NULL) {
    read_exactly(peer->fd, data, length);
    return;
  }
  for (size_t done = 0; done < length;) {
    size_t got;
    if (SSL_read_ex(peer->tls, (char*)data + done, length - done, &got) != 1)
      exit(0);
    done += got;
  }
}

static void put(const struct peer* peer, const void* data, size_t length) {
  size_t sent;
  if (peer->tls == NULL)
    write_exactly(peer->fd, data, length);
  else if (SSL_write_ex(peer->tls, data, length, &sent) != 1 ||
           BIO_flush(SSL_get_wbio(peer->tls)) != 1)
    exit(0);
}

static void start_tls(struct peer* peer) {
  peer->tls = SSL_new(served.context);
  /* All records of a write leave by one system call. */
  BIO* gathered = BIO_new(BIO_f_buffer());
  BIO_set_write_buffer_size(gathered, 2 * kBuffer);
  BIO_push(gathered, BIO_new_socket(peer->fd, BIO_NOCLOSE));
  SSL_set_bio(peer->tls, BIO_new_socket(peer->fd, BIO_NOCLOSE), gathered);
  if (SSL_accept(peer->tls) != 1) fail("the TLS handshake failed");
}

static void reply_to_option(const struct peer* peer, uint32_t option,
                            uint32_t type, const void* payload,
                            uint32_t length) {
  unsigned char message[sizeof(struct nbd_option_reply) + 64];
  struct nbd_option_reply reply = {htobe64(NBD_OPTION_REPLY_MAGIC),
                                   htobe32(option), htobe32(type),
                                   htobe32(length)};
  memcpy(message, &reply, sizeof reply);
  if (length > 0) memcpy(message + sizeof reply, payload, length);
  put(peer, message, sizeof reply + length);
}

static void answer_go(const struct peer* peer) {
  struct __attribute__((packed)) {
    uint16_t type;
    uint64_t size;
    uint16_t flags;
  } info = {htobe16(NBD_INFO_EXPORT), htobe64(served.size),
            htobe16(NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY |
                    NBD_FLAG_CAN_MULTI_CONN)};
  reply_to_option(peer, NBD_OPT_GO, NBD_REP_INFO, &info, sizeof info);
  reply_to_option(peer, NBD_OPT_GO, NBD_REP_ACK, NULL, 0);
}

static void answer_options(struct peer* peer) {
  static const unsigned char greeting[18] = "NBDMAGICIHAVEOPT\0\3";
  uint32_t client_flags;
  put(peer, greeting, sizeof greeting);
  get(peer, &client_flags, sizeof client_flags);
  for (;;) {
    struct nbd_option header;
    unsigned char payload[4096];
    get(peer, &header, sizeof header);
    const uint32_t option = be32toh(header.option);
    const uint32_t length = be32toh(header.length);
    if (length > sizeof payload) fail("an option of %u bytes", length);
    get(peer, payload, length);
    if (option == NBD_OPT_GO) {
      answer_go(peer);
      return;
    }
    if (option == NBD_OPT_STARTTLS && peer->tls == NULL) {
      reply_to_option(peer, option, NBD_REP_ACK, NULL, 0);
      start_tls(peer);
      continue;
    }
    reply_to_option(peer, option, NBD_REP_ERROR_BIT | 1, NULL, 0);
    if (option == NBD_OPT_ABORT) exit(0);
  }
}

/* What is to be sent with the next system call. */
static unsigned char output[kBuffer];
static size_t filled;

static void flush(const struct peer* peer) {
  if (filled > 0) put(peer, output, filled);
  filled = 0;
}

static void answer(const struct peer* peer, const struct nbd_request* request) {
  struct nbd_simple_reply reply = {htobe32(NBD_SIMPLE_REPLY_MAGIC), 0,
                                   request->cookie};
  uint64_t offset = be64toh(request->offset);
  size_t left = be32toh(request->length);
  if (be16toh(request->type) != NBD_CMD_READ) exit(0);
  if (sizeof output - filled < sizeof reply) flush(peer);
  memcpy(output + filled, &reply, sizeof reply);
  filled += sizeof reply;
  while (left > 0) {
    if (filled == sizeof output) flush(peer);
    const size_t room = sizeof output - filled;
    ssize_t got = pread(served.file, output + filled, left < room ? left : room,
                        (off_t)offset);
    if (got <= 0) exit(1);
    filled += (size_t)got;
    offset += (uint64_t)got;
    left -= (size_t)got;
  }
}

/* As many bytes as come by one receive. */
static size_t receive(const struct peer* peer, unsigned char* data,
                      size_t length) {
  size_t got = 0;
  if (peer->tls == NULL) {
    ssize_t received = recv(peer->fd, data, length, 0);
    got = received > 0 ? (size_t)received : 0;
  } else if (SSL_read_ex(peer->tls, data, length, &got) != 1) {
    got = 0;
  }
  if (got == 0) exit(0);
  return got;
}

static void serve(struct peer* peer) {
  static unsigned char requests[kRequests];
  answer_options(peer);
  for (size_t kept = 0;;) {
    kept += receive(peer, requests + kept, sizeof requests - kept);
    size_t at = 0;
    for (; kept - at >= sizeof(struct nbd_request);
         at += sizeof(struct nbd_request)) {
      struct nbd_request request;
      memcpy(&request, requests + at, sizeof request);
      answer(peer, &request);
    }
    kept -= at;
    memmove(requests, requests + at, kept);
    flush(peer);
  }
}

static void load(const char* directory) {
  char certificate[4096], key[4096];
  snprintf(certificate, sizeof certificate, "%s/server-cert.pem", directory);
  snprintf(key, sizeof key, "%s/server-key.pem", directory);
  served.context = SSL_CTX_new(TLS_server_method());
  SSL_CTX_set_min_proto_version(served.context, TLS1_3_VERSION);
  SSL_CTX_set_options(served.context, SSL_OP_NO_TICKET);
  SSL_CTX_set_read_ahead(served.context, 1);
  if (SSL_CTX_set_ciphersuites(served.context, "TLS_AES_128_GCM_SHA256") != 1 ||
      SSL_CTX_use_certificate_file(served.context, certificate,
                                   SSL_FILETYPE_PEM) != 1 ||
      SSL_CTX_use_PrivateKey_file(served.context, key, SSL_FILETYPE_PEM) != 1)
    fail("%s: %s", directory, ERR_reason_error_string(ERR_peek_error()));
}

static void listen_and_serve(unsigned port) {
  struct sockaddr_in address = {.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)port)};
  int on = 1;
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener, (struct sockaddr*)&address, sizeof address) != 0 ||
      listen(listener, 256) != 0)
    fail("port %u: %s", port, strerror(errno));
  signal(SIGCHLD, SIG_IGN); /* the connections' processes need no reaping */
  signal(SIGPIPE, SIG_IGN);
  for (;;) {
    struct peer peer = {.fd = accept(listener, NULL, NULL)};
    if (peer.fd < 0) continue;
    setsockopt(peer.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (fork() == 0) {
      serve(&peer);
      _exit(0);
    }
    close(peer.fd);
  }
}

int main(int argc, char** argv) {
  static const struct option options[] = {
      {"port", required_argument, NULL, 'p'},
      {"certificates", required_argument, NULL, 'c'},
      {NULL, 0, NULL, 0}};
  const char* directory = NULL;
  unsigned port = 0;
  for (int letter;
       (letter = getopt_long(argc, argv, "", options, NULL)) != -1;) {
    if (letter == 'p')
      port = (unsigned)atoi(optarg);
    else if (letter == 'c')
      directory = optarg;
    else
      return 64;
  }
  struct stat status;
  if (optind != argc - 1 || directory == NULL || port == 0)
    fail("usage: tls_sender --port PORT --certificates DIR FILE");
  served.file = open(argv[optind], O_RDONLY | O_CLOEXEC);
  if (served.file < 0 || fstat(served.file, &status) != 0)
    fail("%s: %s", argv[optind], strerror(errno));
  served.size = (uint64_t)status.st_size;
  load(directory);
  listen_and_serve(port);
}
