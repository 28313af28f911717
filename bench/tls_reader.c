/* A client that reads over TLS and decrypts nothing, so that the server is what
 * limits: no client that decrypts can be fast enough to say how fast a server
 * encrypts.
 *
 *   tls_reader (--unix PATH | --port PORT) [--psk USER:HEXKEY] [--seconds S]
 * [--size BYTES]
 *              [--depth N]
 *
 * It begins TLS and haggles by OpenSSL. Then it keeps --depth reads under way,
 * in sequence, and looks only at the headers of the records that come: with
 * simple replies, whose length is known, the sum of what is in them says how
 * many replies have come. That only TLS 1.3 is spoken, with a cipher that adds
 * 16 bytes to each record, is checked. It prints one line of JSON. */
#include <getopt.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include "nbd_client.h"

enum {
  kHeader = 5,
  kAdded = 17 /* a tag and the type of the content */,
  kReceive = 1 << 20
};
enum { NBD_OPT_STARTTLS = 5, kApplicationData = 23 };

static SSL* tls;

static const char* psk; /* user:hexkey */

static unsigned give_key(SSL* ssl, const char* hint, char* identity,
                         unsigned identity_room, unsigned char* key,
                         unsigned key_room) {
  (void)ssl, (void)hint;
  const char* colon = strchr(psk, ':');
  if (colon == NULL || (size_t)(colon - psk) >= identity_room)
    fail("--psk wants USER:HEXKEY");
  memcpy(identity, psk, (size_t)(colon - psk));
  identity[colon - psk] = 0;
  unsigned length = 0, byte;
  for (const char* at = colon + 1;
       length < key_room && sscanf(at, "%2x", &byte) == 1; at += 2)
    key[length++] = (unsigned char)byte;
  return length;
}

static void check(int result, const char* what) {
  if (result > 0) return;
  unsigned long error = ERR_get_error();
  fail("%s: %s", what,
       error ? ERR_reason_error_string(error)
             : "the server closed the connection");
}

static void tls_read(void* buffer, size_t length) {
  for (size_t done = 0; done < length;) {
    size_t got = 0;
    check(SSL_read_ex(tls, (char*)buffer + done, length - done, &got),
          "read over TLS");
    done += got;
  }
}

static void tls_write(const void* buffer, size_t length) {
  size_t put;
  check(SSL_write_ex(tls, buffer, length, &put), "write over TLS");
}

/* The export "" by NBD_OPT_GO, with simple replies; its size. */
static uint64_t go(void) {
  struct {
    struct nbd_option header;
    uint32_t name_length;
    uint16_t requests;
  } __attribute__((packed)) option;
  memset(&option, 0, sizeof option);
  option.header.magic = htobe64(IHAVEOPT);
  option.header.option = htobe32(NBD_OPT_GO);
  option.header.length = htobe32(6);
  tls_write(&option, sizeof option);
  uint64_t size = 0;
  for (;;) {
    struct nbd_option_reply reply;
    unsigned char info[4096] = {0};
    tls_read(&reply, sizeof reply);
    uint32_t length = be32toh(reply.length);
    if (length > sizeof info) fail("a reply of %u bytes", length);
    tls_read(info, length);
    if (be32toh(reply.type) == NBD_REP_ACK) return size;
    if (be32toh(reply.type) != NBD_REP_INFO)
      fail("the server refuses the export");
    if (info[0] == 0 && info[1] == NBD_INFO_EXPORT) {
      memcpy(&size, info + 2, 8);
      size = be64toh(size);
    }
  }
}

int main(int argc, char** argv) {
  static const struct option options[] = {
      {"unix", 1, NULL, 'u'},    {"port", 1, NULL, 'p'},
      {"seconds", 1, NULL, 't'}, {"size", 1, NULL, 's'},
      {"depth", 1, NULL, 'd'},   {"psk", 1, NULL, 'k'},
      {"host", 1, NULL, 'h'},    {"random", 0, NULL, 'r'},
      {NULL, 0, NULL, 0}};
  const char *path = NULL, *host = "127.0.0.1";
  bool at_random = false;
  unsigned port = 0, depth = 8;
  uint32_t size = 256 << 10;
  double seconds = 1;
  for (int letter;
       (letter = getopt_long(argc, argv, "", options, NULL)) != -1;) {
    if (letter == 'u')
      path = optarg;
    else if (letter == 'p')
      port = (unsigned)atoi(optarg);
    else if (letter == 't')
      seconds = atof(optarg);
    else if (letter == 's')
      size = (uint32_t)atoi(optarg);
    else if (letter == 'd')
      depth = (unsigned)atoi(optarg);
    else if (letter == 'h')
      host = optarg;
    else if (letter == 'r')
      at_random = true;
    else if (letter == 'k')
      psk = optarg;
    else
      return 64;
  }
  int fd = path ? connect_unix(path) : connect_tcp(host, port);
  read_greeting(fd);
  uint32_t flags = htobe32(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
  write_exactly(fd, &flags, sizeof flags);
  unsigned char payload[64];
  send_option(fd, NBD_OPT_STARTTLS, NULL, 0);
  if (read_option_reply(fd, NBD_OPT_STARTTLS, payload, sizeof payload) !=
      NBD_REP_ACK)
    fail("the server refuses TLS");

  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
  if (psk != NULL) SSL_CTX_set_psk_client_callback(context, give_key);
  tls = SSL_new(context);
  SSL_set_fd(tls, fd);
  check(SSL_connect(tls), "the TLS handshake");
  const char* cipher = SSL_get_cipher(tls);
  if (strstr(cipher, "GCM") == NULL && strstr(cipher, "POLY1305") == NULL)
    fail("the length of records of %s is unknown", cipher);
  uint64_t blocks = go() / size;
  if (blocks == 0) fail("the export is smaller than one request");

  /* From here on OpenSSL only sends; it has read no byte ahead. */
  static unsigned char buffer[kReceive];
  const uint64_t reply_bytes = sizeof(struct nbd_simple_reply) + size;
  uint64_t asked = 0, answered = 0, plain = 0, next = 0;
  size_t filled = 0, left = 0;
  const uint64_t start = now_ns();
  const uint64_t deadline = start + (uint64_t)(seconds * 1e9);
  for (;;) {
    const bool stop = now_ns() >= deadline;
    if (stop && answered == asked) break;
    struct nbd_request requests[64];
    unsigned count = 0;
    while (!stop && asked < answered + depth && count < 64) {
      next = at_random ? next * 6364136223846793005u + 1442695040888963407u
                       : next + 1;
      const uint64_t block = (at_random ? next >> 24 : next) % blocks;
      requests[count++] =
          make_request(NBD_CMD_READ, asked++, block * size, size);
    }
    if (count > 0) tls_write(requests, count * sizeof *requests);
    ssize_t got = read(fd, buffer + filled, sizeof buffer - filled);
    if (got <= 0) fail("the server closed the connection");
    filled += (size_t)got;
    size_t at = 0;
    while (filled - at > 0) {
      if (left > 0) {
        size_t piece = left < filled - at ? left : filled - at;
        left -= piece;
        at += piece;
        continue;
      }
      if (filled - at < kHeader) break;
      if (buffer[at] != kApplicationData)
        fail("a record of type %u", buffer[at]);
      left = (size_t)buffer[at + 3] << 8 | buffer[at + 4];
      at += kHeader;
      plain += left - kAdded;
    }
    memmove(buffer, buffer + at, filled - at);
    filled -= at;
    /* A record that has begun is as good as there. */
    answered = plain / reply_bytes;
    if (answered > asked) fail("more replies than requests");
  }
  const double elapsed = (double)(now_ns() - start) / 1e9;
  printf(
      "{\"bytes\": %llu, \"operations\": %llu, \"seconds\": %.6f, \"cipher\": "
      "\"%s\"}\n",
      (unsigned long long)(answered * size), (unsigned long long)answered,
      elapsed, cipher);
  return 0;
}
