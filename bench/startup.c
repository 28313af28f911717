/* How long a connection waits for a server that is started for it: from before
 * the fork to the greeting, and to the first 4 KiB of data. The superserver is
 * left out, since it is the same for all: this program does what it would do, a
 * fork and an exec with a connected socket.
 *
 *   startup --how HOW [--count N] [--greeting-only] -- PROGRAM ARGUMENTS...
 *   startup greet
 *
 * HOW is listen-fds (systemd with Accept=yes: the socket is descriptor 3) or
 * inetd (the socket is descriptors 0 and 1). Prints one line of JSON with all
 * the samples, in microseconds. `greet` is the floor to compare with: a program
 * that writes a greeting and ends; to descriptor 3 where systemd passes one. */
#include <fcntl.h>
#include <getopt.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "nbd_client.h"

struct sample {
  double greeting_us, first_read_us, cpu_us;
};

static void become_server(int socket, bool inetd, char** command) {
  if (inetd) {
    dup2(socket, 0);
    dup2(socket, 1);
  } else if (socket == 3) {
    fcntl(3, F_SETFD, 0);
  } else {
    dup2(socket, 3);
  }
  if (!inetd) {
    char pid[32];
    snprintf(pid, sizeof pid, "%ld", (long)getpid());
    setenv("LISTEN_FDS", "1", 1);
    setenv("LISTEN_PID", pid, 1);
    setenv("LISTEN_FDNAMES", "connection", 1);
  }
  /* Log lines cost the same everywhere: nothing. */
  dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), 2);
  execvp(command[0], command);
  _exit(127);
}

static struct sample spawn_once(bool inetd, bool greeting_only,
                                char** command) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
    fail("socketpair: %s", strerror(errno));
  /* A server that hangs must not hang the benchmark. */
  struct timeval guard = {.tv_sec = 30};
  setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &guard, sizeof guard);

  struct sample sample = {0};
  uint64_t start = now_ns();
  pid_t child = fork();
  if (child < 0) fail("fork: %s", strerror(errno));
  if (child == 0) become_server(pair[1], inetd, command);
  close(pair[1]);

  struct session session = {.fd = pair[0]};
  read_greeting(session.fd);
  sample.greeting_us = (double)(now_ns() - start) / 1e3;
  if (!greeting_only) {
    haggle(&session, "bench", true, false);
    read_once(&session, 0, 4096);
    sample.first_read_us = (double)(now_ns() - start) / 1e3;
    send_disconnect(&session);
  }
  close(session.fd);

  struct rusage usage;
  int status;
  if (wait4(child, &status, 0, &usage) != child)
    fail("wait4: %s", strerror(errno));
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    fail("%s ended with wait status %#x", command[0], (unsigned)status);
  sample.cpu_us =
      (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
      (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
  return sample;
}

int main(int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "greet") == 0) {
    static const unsigned char greeting[18] = "NBDMAGICIHAVEOPT\0\3";
    int fd = getenv("LISTEN_FDS") != NULL ? 3 : STDOUT_FILENO;
    return write(fd, greeting, sizeof greeting) == sizeof greeting ? 0 : 1;
  }

  static const struct option long_options[] = {
      {"how", required_argument, NULL, 'h'},
      {"count", required_argument, NULL, 'c'},
      {"greeting-only", no_argument, NULL, 'g'},
      {NULL, 0, NULL, 0}};
  const char* how = "";
  bool greeting_only = false;
  long count = 100;
  int letter;
  while ((letter = getopt_long(argc, argv, "+", long_options, NULL)) != -1) {
    switch (letter) {
      case 'h':
        how = optarg;
        break;
      case 'c':
        count = strtol(optarg, NULL, 10);
        break;
      case 'g':
        greeting_only = true;
        break;
      default:
        return 64;
    }
  }
  bool inetd = strcmp(how, "inetd") == 0;
  if (!inetd && strcmp(how, "listen-fds") != 0)
    fail("--how is listen-fds or inetd");
  if (optind == argc || count < 1 || count > 1000000) fail("nothing to start");

  struct sample* samples = calloc((size_t)count, sizeof *samples);
  if (samples == NULL) fail("out of memory");
  for (long i = 0; i < count; i++)
    samples[i] = spawn_once(inetd, greeting_only, argv + optind);
  printf("{\"greeting_us\": [");
  for (long i = 0; i < count; i++)
    printf("%s%.1f", i ? ", " : "", samples[i].greeting_us);
  printf("], \"first_read_us\": [");
  for (long i = 0; i < count && !greeting_only; i++)
    printf("%s%.1f", i ? ", " : "", samples[i].first_read_us);
  printf("], \"cpu_us\": [");
  for (long i = 0; i < count; i++)
    printf("%s%.1f", i ? ", " : "", samples[i].cpu_us);
  printf("]}\n");
  return 0;
}
