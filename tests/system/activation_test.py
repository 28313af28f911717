#!/usr/bin/python3
"""How nbdinetd gets its client, its errors for wrong ways to be started, the destination of its
messages, and its exit status."""

import os
import pty
import queue
import re
import resource
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402
from listening import Syslog  # noqa: E402


# Runs the program where there is neither a journal nor a syslog socket, whatever the machine has.
NO_LOG_DAEMON = ["/usr/bin/unshare", "--mount", "--", "/bin/sh", "-c",
                 'mount -t tmpfs tmpfs /run/systemd && '
                 '{ [ ! -S /dev/log ] || mount --bind /dev/null /dev/log; } && exec "$0" "$@"']


def without_log_daemons():
    need_root("to hide the machine's journal")
    need("unshare")
    require(os.path.isdir("/run/systemd"), "this machine has no /run/systemd to hide")
    return NO_LOG_DAEMON


def served(process, client, size=MIB):
    """The client is served from beginning to end."""
    client.start()
    eq(client.size, size)
    client.read(0, 512)
    client.disconnect()
    process.expect(EX_OK)


def refused(process, status=EX_USAGE, client=None):
    """The process ends with this status, and has not said a word to the client. Returns what it
    has told standard error."""
    if client:
        client.expect_end()
        eq(bytes(client.received), b"", "what the client has got")
    process.expect(status)
    text = process.stderr()
    matches(r"\Anbdinetd: .+\n\Z", text, "one line on standard error")
    return text


# ------------------------------------------------------------------ LISTEN_FDS

@test("a connection in LISTEN_FDS is served, whatever family its socket has")
def _(t):
    image = t.pattern_image(MIB)
    for family in ("socketpair", "unix", "tcp", "tcp6"):
        served(*t.activated(image, family=family))


@test("LISTEN_FDS for another process is ignored")
def _(t):
    image = t.pattern_image(MIB)
    ours, theirs = t.connection()
    process = t.spawn([NBDINETD, "--single", image], fds={3: theirs}, listen_fds=1,
                      listen_pid=os.getpid())
    theirs.close()
    refused(process, client=Client(ours))

    # What was meant for somebody else is not mistaken for the client on standard input, either.
    ours, theirs = t.connection()
    other, _ = t.connection()
    process = t.spawn([NBDINETD, image], fds={0: theirs, 3: other}, listen_fds=1,
                      listen_pid=os.getpid())
    theirs.close()
    served(process, Client(ours))


@test("LISTEN_FDS without LISTEN_PID, LISTEN_PID without LISTEN_FDS and LISTEN_FDS=0 are ignored")
def _(t):
    image = t.pattern_image(MIB)
    for how in ({"listen_fds": 1}, {"listen_pid": "own"}, {"listen_fds": 0, "listen_pid": "own"}):
        ours, theirs = t.connection()
        process = t.spawn([NBDINETD, "--single", image], fds={3: theirs}, **how)
        theirs.close()
        refused(process, client=Client(ours))
        ours, theirs = t.connection()
        process = t.spawn([NBDINETD, image], fds={0: theirs}, **how)
        theirs.close()
        served(process, Client(ours))


@test("a LISTEN_FDS that is no number, or counts descriptors that are not there, is an error and "
      "not a crash")
def _(t):
    image = t.pattern_image(MIB)
    for count in ("x", "-1", "2", "1000000", "99999999999999999999"):
        ours, theirs = t.connection()
        process = t.spawn([NBDINETD, image], fds={3: theirs}, listen_fds=count, listen_pid="own")
        theirs.close()
        refused(process, client=Client(ours))


@test("a descriptor in LISTEN_FDS that can't be served is an error that names its number and "
      "its kind")
def _(t):
    image = t.pattern_image(MIB)
    datagram = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    packet = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pipe = os.pipe()
    terminal = pty.openpty()
    directory = os.open(t.dir, os.O_RDONLY)
    null = os.open("/dev/null", os.O_RDWR)
    for resource_ in (udp, *datagram, *packet):
        t.defer(resource_.close)
    for descriptor in (*pipe, *terminal, directory, null):
        t.defer(os.close, descriptor)
    for wrong, words in ((datagram[0], r"socket.*stream"),
                         (udp, r"socket.*stream"),
                         (packet[0], r"socket.*stream"),
                         (pipe[0], r"pipe"),
                         (terminal[1], r"terminal"),
                         (directory, r"directory"),
                         (null, r"character device")):
        # Alone, as the second of two, and as the first of two: it is the one that is named.
        process = t.spawn([NBDINETD, image], fds={3: wrong}, listen_fds=1, listen_pid="own")
        matches(rf"descriptor 3 is .*{words}", refused(process))
        for descriptor in (3, 4):
            ours, theirs = t.connection()
            process = t.spawn([NBDINETD, image], fds={descriptor: wrong, 7 - descriptor: theirs},
                              listen_fds=2, listen_pid="own")
            theirs.close()
            matches(rf"descriptor {descriptor} is .*{words}",
                    refused(process, client=Client(ours)))


@test("two connections in LISTEN_FDS are an error that names the second, and both clients see the "
      "end")
def _(t):
    image = t.pattern_image(MIB)
    first, second = t.connection(), t.connection("tcp")
    process = t.spawn([NBDINETD, image], fds={3: first[1], 4: second[1]}, listen_fds=2,
                      listen_pid="own")
    for _, theirs in (first, second):
        theirs.close()
    matches(r"descriptor 4 is .*connect", refused(process, client=Client(first[0])))
    Client(second[0]).expect_end()


@test("-s together with LISTEN_FDS is an error, -f is not")
def _(t):
    image = t.pattern_image(MIB)
    process, client = t.activated("-s", image)
    contains("single", refused(process, client=client))
    served(*t.activated("-f", image))


@test("the descriptors in LISTEN_FDS come before a socket on standard input")
def _(t):
    image = t.pattern_image(MIB)
    ours, theirs = t.connection()
    other_ours, other_theirs = t.connection()
    process = t.spawn([NBDINETD, image], fds={0: other_theirs, 3: theirs}, listen_fds=1,
                      listen_pid="own")
    theirs.close()
    other_theirs.close()
    served(process, Client(ours))
    Client(other_ours).expect_end()


# ------------------------------------------------------------------ standard input

@test("a connected socket as standard input is served, whatever standard output and error are")
def _(t):
    image = t.pattern_image(MIB)
    unrelated = os.pipe()
    t.defer(os.close, unrelated[0])
    t.defer(os.close, unrelated[1])
    for family in ("socketpair", "unix", "tcp", "tcp6"):
        for stdout in ("socket", "file", CLOSED, unrelated[1]):
            for stderr in ("socket", "file", CLOSED):
                for arguments in ([image], ["-s", image]):
                    served(*t.inetd(*arguments, family=family, stdout=stdout, stderr=stderr))


@test("-s serves a pair of pipes, and refuses half a pair")
def _(t):
    image = t.pattern_image(MIB)
    for stderr in ("file", "stdout"):
        served(*t.piped("-s", image, stderr=stderr))
    reading, writing = os.pipe()
    t.defer(os.close, reading)
    t.defer(os.close, writing)
    process = t.spawn([NBDINETD, "-s", image], fds={0: reading})
    matches(r"descriptor 1 is .*regular file", refused(process))
    process = t.spawn([NBDINETD, "-s", image], fds={1: writing})
    matches(r"descriptor 0 is .*character device", refused(process))


@test("-s on a terminal, a file, a directory, a listener or a datagram socket is an error "
      "that names the kind")
def _(t):
    image = t.pattern_image(MIB)
    listener = socket.create_server(("127.0.0.1", 0))
    datagram = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    leader, terminal = pty.openpty()
    regular = os.open(image, os.O_RDWR)
    directory = os.open(t.dir, os.O_RDONLY)
    for resource_ in (listener, *datagram):
        t.defer(resource_.close)
    for descriptor in (leader, terminal, regular, directory):
        t.defer(os.close, descriptor)
    for wrong, words in ((terminal, "terminal"), (regular, "regular file"),
                         (directory, "directory"), (listener, "listening socket"),
                         (datagram[0], "socket.*stream")):
        process = t.spawn([NBDINETD, "-s", image], fds={0: wrong, 1: wrong})
        matches(rf"descriptor 0 is .*{words}", refused(process))
    eq(Path(image).read_bytes(), pattern(0, MIB), "the file that was standard output")


@test("a listening socket beside a connection is an error that names both")
def _(t):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for descriptor in (3, 4):
            ours, theirs = t.connection()
            process = t.spawn([NBDINETD, t.pattern_image(MIB)],
                              fds={descriptor: listener, 7 - descriptor: theirs},
                              listen_fds=2, listen_pid="own")
            theirs.close()
            matches(rf"descriptor {7 - descriptor} is a connected socket.*"
                    rf"listening socket.*descriptor {descriptor}",
                    refused(process, client=Client(ours)))


@test("a listening socket as standard input, inetd's wait, is an error that says nowait")
def _(t):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = t.spawn([NBDINETD, t.pattern_image(MIB)], fds={0: listener})
        matches(r"descriptor 0 is a listening socket.*nowait", refused(process))


# ------------------------------------------------------------------ descriptors

@test("every descriptor but 0, 1 and 2 is close-on-exec while a client is served")
def _(t):
    image = t.pattern_image(MIB)
    for process, client in (t.activated(image), t.inetd(image), t.piped("-s", image)):
        client.start()
        # Have it start what it starts only when first needed.
        client.flush()
        client.write(0, bytes(512), NBD_CMD_FLAG_FUA)
        descriptors = process.descriptors()
        assert any(target == image for target in descriptors.values()), descriptors
        eq({d for d in descriptors if d > 2 and not close_on_exec(process.pid, d)}, set(),
           f"descriptors that a program would inherit, of {descriptors}")
        client.disconnect()
        process.expect(EX_OK)


@test("no message ever gets into an export that was opened while 0, 1 or 2 were closed")
def _(t):
    for closed in ({0}, {1}, {2}, {0, 1}, {1, 2}, {0, 2}, {0, 1, 2}):
        image = t.pattern_image(MIB)
        ours, theirs = t.connection()
        process = t.spawn([NBDINETD, "-v", "--log=stderr", image], listen_fds=1, listen_pid="own",
                          fds={3: theirs, **{number: CLOSED for number in closed}})
        theirs.close()
        client = Client(ours).start()
        # The first bytes, since a message would be written at the file's offset, which is 0.
        eq(client.read(0, 4096), pattern(0, 4096))
        eq(client.call(NBD_CMD_READ, MIB, 1).error, NBD_EINVAL)
        client.send(client.request_bytes(NBD_CMD_READ, 0, 1, magic=0xBAD))
        client.expect_end()
        client.close()
        process.expect(EX_PROTOCOL)
        eq(checksum(image), checksum(t.pattern_image(MIB)), f"the image with {closed} closed")


@test("TCP_NODELAY and keepalive are set on an inherited TCP socket")
def _(t):
    image = t.pattern_image(MIB)
    for family in ("tcp", "tcp6"):
        for inetd in (False, True):
            ours, theirs = t.connection(family)
            eq(theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), 0)
            eq(theirs.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), 0)
            process = (t.spawn([NBDINETD, image], fds={0: theirs}) if inetd else
                       t.spawn([NBDINETD, image], fds={3: theirs}, listen_fds=1, listen_pid="own"))
            client = Client(ours).start()
            # Our descriptor is of the same socket.
            eq(bool(theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)), True)
            eq(bool(theirs.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)), True)
            # As long as we hold it, there is no end of file.
            theirs.close()
            client.disconnect()
            process.expect(EX_OK)


# ------------------------------------------------------------------ who the peer is

def lines_of(process):
    """(start line, end line) without the "nbdinetd: " of a plain standard error."""
    lines = process.stderr().splitlines()
    eq(len(lines), 2, f"lines of a connection: {lines}")
    for line in lines:
        matches("^nbdinetd: ", line)
    return tuple(line.removeprefix("nbdinetd: ") for line in lines)


def peer_of(process):
    start, end = lines_of(process)
    peer = matches(r'^serving export ".*" to (.+?): "/', start)[1]
    matches(rf"^{re.escape(peer)} ended: ", end)
    return peer


@test("the peer is named by its socket: address and port, or a Unix peer's credentials")
def _(t):
    image = t.pattern_image(MIB)
    for family in ("tcp", "tcp6", "unix", "socketpair"):
        ours, theirs = t.connection(family)
        name = ours.getsockname()
        wanted = {"tcp": lambda: f"127.0.0.1:{name[1]}", "tcp6": lambda: f"[::1]:{name[1]}"}.get(
            family, lambda: f"unix:pid={os.getpid()},uid={os.getuid()},gid={os.getgid()}")()
        process = t.spawn([NBDINETD, image], fds={3: theirs}, listen_fds=1, listen_pid="own",
                          # What the environment says is only for who has no socket to ask.
                          env={"REMOTE_ADDR": "192.0.2.99", "REMOTE_PORT": "99"})
        theirs.close()
        served(process, Client(ours))
        eq(peer_of(process), wanted)


@test("an IPv4 client of an IPv6 socket is named by its IPv4 address")
def _(t):
    listener = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    ours = connect(("127.0.0.1", listener.getsockname()[1]))
    theirs, _ = listener.accept()
    listener.close()
    process = t.spawn([NBDINETD, t.pattern_image(MIB)], fds={3: theirs}, listen_fds=1,
                      listen_pid="own")
    theirs.close()
    name = ours.getsockname()
    served(process, Client(ours))
    eq(peer_of(process), f"127.0.0.1:{name[1]}")


@test("a peer without a name of its own is REMOTE_ADDR and REMOTE_PORT, and else a pipe")
def _(t):
    image = t.pattern_image(MIB)
    for env, wanted in (({"REMOTE_ADDR": "192.0.2.7", "REMOTE_PORT": "4711"}, "192.0.2.7:4711"),
                        ({"REMOTE_ADDR": "192.0.2.7"}, "192.0.2.7"),
                        ({"REMOTE_ADDR": "2001:db8::1", "REMOTE_PORT": "4711"},
                         "[2001:db8::1]:4711"),
                        ({}, "pipe")):
        process, client = t.piped("-s", image, env=env)
        served(process, client)
        eq(peer_of(process), wanted)


# ------------------------------------------------------------------ what is logged

@test("the start and the end of a connection are one line each, with what was done")
def _(t):
    image = t.pattern_image(MIB)
    process, client = t.inetd(image, family="tcp", stderr="file")
    client.start(name="disk")
    client.read(0, 1000)
    client.read(4096, 24)
    client.write(0, bytes(512))
    # In pieces, and durably.
    client.write(0, bytes(MIB))
    client.write(0, bytes(MIB), NBD_CMD_FLAG_FUA)
    client.write(0, bytes(512), NBD_CMD_FLAG_FUA)
    eq(client.call(NBD_CMD_READ, MIB, 1).error, NBD_EINVAL)
    eq(client.call(0x7777).error, NBD_EINVAL)
    client.disconnect()
    process.expect(EX_OK)
    start, end = lines_of(process)
    matches(rf'^serving export "disk" to 127\.0\.0\.1:\d+: "{image}", {MIB} bytes \(1 MiB\), '
            r"read-write, structured replies$", start)
    # NBD_CMD_DISC isn't counted.
    matches(r"^127\.0\.0\.1:\d+ ended: client disconnected; 8 requests, 1 KiB read, "
            r"2 MiB written, 2 errors, in [0-9][0-9a-z. ]*$", end)


@test("a read-only export and simple replies are logged as such, and so is why it is read-only")
def _(t):
    image = t.pattern_image(MIB)
    process, client = t.inetd("-r", image, stderr="file")
    client.start(structured=False)
    assert client.flags & NBD_FLAG_READ_ONLY
    client.disconnect()
    process.expect(EX_OK)
    contains("read-only, simple replies", lines_of(process)[0])

    # A file that can't be opened for writing even by root.
    need_root("to mount")
    os.mkdir(t.path("read-only"))
    readonly = t.path("read-only/disk.img")
    prefix = ["/usr/bin/unshare", "--mount", "--", "/bin/sh", "-c",
              f'mount --bind {t.dir} {t.path("read-only")} && '
              f'mount -o remount,bind,ro {t.path("read-only")} && exec "$0" "$@"']
    os.rename(image, t.path("disk.img"))
    process, client = t.inetd(readonly, stderr="file", prefix=prefix)
    client.start()
    assert client.flags & NBD_FLAG_READ_ONLY
    eq(client.call(NBD_CMD_WRITE, 0, payload=b"x").error, NBD_EPERM)
    client.disconnect()
    process.expect(EX_OK)
    matches(r"read-only.*(Read-only file system)", process.stderr(), "the reason")


@test("a name from the client can't break a line, fake one, or reach a terminal as it is")
def _(t):
    image = t.pattern_image(MIB)
    # The control characters of ASCII and of U+0080 to U+009F, which terminals obey as well.
    name = "a\nnbdinetd: fake\n<0>fake\r\x1b[2J\x7f\u0085\u009b2J\"\\"
    for arguments in ([], ["-v"]):
        process, client = t.inetd(*arguments, image, stderr="file")
        client.start(name=name)
        client.disconnect()
        process.expect(EX_OK)
        text = process.stderr()
        contains("serving export ", text)
        for line in text.rstrip("\n").split("\n"):
            matches(r"\Anbdinetd: (?!fake)", line)
            eq([c for c in line if ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0], [],
               "control characters in a line")


@test("standard error that is a file or a pipe gets plain lines, also with a JOURNAL_STREAM that "
      "is another one")
def _(t):
    image = t.pattern_image(MIB)
    for env in ({}, {"JOURNAL_STREAM": "1:1"}, {"JOURNAL_STREAM": "nonsense"},
                {"JOURNAL_STREAM": ""}, {"JOURNAL_STREAM": ":"}):
        for arguments in ([], ["--log=stderr"]):
            process, client = t.inetd(*arguments, image, stderr="file", env=env)
            served(process, client)
            lines_of(process)
    reading, writing = os.pipe()
    t.defer(os.close, reading)
    process, client = t.inetd(image, stderr=writing)
    os.close(writing)
    served(process, client)
    text = os.read(reading, 1 << 16).decode()
    eq([line.partition(" ")[0] for line in text.splitlines()], ["nbdinetd:"] * 2)


def journal_stream(descriptor):
    status = os.fstat(descriptor)
    return {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}


@test("standard error that is the journal's stream gets <N> prefixes with --log=stderr, and where "
      "the journal's socket can't be reached")
def _(t):
    image = t.pattern_image(MIB)
    for arguments, prefix in ((["--log=stderr"], []), ([], without_log_daemons()),
                              (["--log=stderr"], without_log_daemons())):
        reading, writing = os.pipe()
        t.defer(os.close, reading)
        process, client = t.activated(*arguments, image, fds={2: writing}, prefix=prefix,
                                      env=journal_stream(writing))
        os.close(writing)
        served(process, client)
        lines = os.read(reading, 1 << 16).decode().splitlines()
        eq([line[:3] for line in lines], ["<6>", "<6>"], str(lines))
        matches("^<6>serving export", lines[0])

        reading, writing = os.pipe()
        t.defer(os.close, reading)
        process, client = t.activated("-v", *arguments, image, fds={2: writing}, prefix=prefix,
                                      env=journal_stream(writing))
        os.close(writing)
        client.start()
        client.send(client.request_bytes(NBD_CMD_READ, 0, 1, magic=0xBAD))
        client.expect_end()
        process.expect(EX_PROTOCOL)
        lines = os.read(reading, 1 << 16).decode().splitlines()
        assert all(re.match(r"<[3-7]>[^<\s]", line) for line in lines), lines
        assert any(line.startswith("<7>") for line in lines), lines
        matches(r"^<4>.* ended: ", "\n".join(lines))

        reading, writing = os.pipe()
        t.defer(os.close, reading)
        process, client = t.activated(*arguments, image + ".missing", fds={2: writing},
                                      prefix=prefix, env=journal_stream(writing))
        os.close(writing)
        client.expect_end()
        process.expect(EX_NOINPUT)
        matches(r"\A<3>.*missing.*\n\Z", os.read(reading, 1 << 16).decode())


@test("how a connection has ended has its priority: a client's fault is a warning, our own an error")
def _(t):
    image = t.pattern_image(MIB)
    _, holder = t.activated("--exclusive", image)
    holder.start()

    def fault(client):
        client.start()
        client.send(client.request_bytes(NBD_CMD_READ, 0, 1, magic=0xBAD))

    def in_vain(client):
        client.handshake()
        client.option(NBD_OPT_EXPORT_NAME, b"")
    for arguments, act, status, priority in (
            ([], lambda client: client.start().close(), EX_OK, 6),
            (["--exclusive"], in_vain, 69, 4),
            (["--handshake-timeout=100ms"], lambda client: client.greeting(), 75, 4),
            ([], fault, EX_PROTOCOL, 4),
            (["--deny=all"], lambda client: None, 77, 4)):
        reading, writing = os.pipe()
        t.defer(os.close, reading)
        process, client = t.activated("--log=stderr", *arguments, image, fds={2: writing},
                                      env=journal_stream(writing))
        os.close(writing)
        act(client)
        process.expect(status)
        lines = os.read(reading, 1 << 16).decode().splitlines()
        matches(rf"^<{priority}>.*( ended: |refusing )", lines[-1], f"exit status {status}")


@test("standard error that is the journal's stream is upgraded to the journal's native protocol, "
      "with fields")
def _(t):
    need_root("to put a socket where the journal's is")
    image = t.pattern_image(MIB)
    # A journald that only listens: what matters is what is sent.
    journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    t.defer(journal.close)
    journal.bind(t.path("socket"))
    entries = queue.SimpleQueue()

    def read():
        """Until the test stops it. As journald does, it ignores empty datagrams."""
        while (data := journal.recv(1 << 16)) != b"stop":
            if data:
                entries.put(data)
    reader = threading.Thread(target=read)
    reader.start()

    def stop():
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(b"stop", t.path("socket"))
        reader.join()
    t.defer(stop)
    require(os.path.isdir("/run/systemd"), "this machine has no /run/systemd to hide")
    prefix = ["/usr/bin/unshare", "--mount", "--", "/bin/sh", "-c",
              "mount -t tmpfs tmpfs /run/systemd && mkdir /run/systemd/journal && "
              f'mount --bind {t.dir} /run/systemd/journal && exec "$0" "$@"']

    def entry():
        """{field: value} of one datagram; a value with a newline has a length before it."""
        data, fields = entries.get(timeout=GUARD), {}
        while data:
            line, _, rest = data.partition(b"\n")
            name, equals, value = line.partition(b"=")
            if not equals:
                length, = struct.unpack_from("<Q", rest)
                value, rest = rest[8:8 + length], rest[8 + length + 1:]
            fields[name.decode()] = value.decode()
            data = rest
        return fields

    reading, writing = os.pipe()
    t.defer(os.close, reading)
    for arguments, descriptor in (([], writing), (["--log=journal"], writing),
                                  (["--log=journal"], None)):
        process, client = t.activated(
            *arguments, image, family="tcp", prefix=prefix,
            fds={2: descriptor} if descriptor else {}, env=journal_stream(writing))
        client.start(name="disk")
        client.read(0, 512)
        client.disconnect()
        process.expect(EX_OK)
        start, end = entry(), entry()
        for fields in (start, end):
            eq(fields["PRIORITY"], "6")
            eq(fields["SYSLOG_IDENTIFIER"], "nbdinetd")
            eq(fields["NBD_EXPORT"], "disk")
            matches(r"^127\.0\.0\.1:\d+$", fields["NBD_PEER"])
        matches(r'^serving export "disk" to ', start["MESSAGE"])
        eq((end["NBD_BYTES_READ"], end["NBD_BYTES_WRITTEN"], end["NBD_ERRORS"]), ("512", "0", "0"))
        matches(r"^\d+$", end["NBD_DURATION_USEC"])
        eq(process.stderr(), "", "standard error")
    os.set_blocking(reading, False)
    try:
        got = os.read(reading, 1 << 16)
    except BlockingIOError:
        got = b""
    eq(got, b"", "what went to the stream as well")

    # The client's socket as standard error, and the journal at hand: its messages go there.
    process, client = t.inetd("-v", image, family="tcp", prefix=prefix)
    client.start()
    client.disconnect()
    process.expect(EX_OK)
    seen = [entry()["MESSAGE"]]
    while " ended: " not in seen[-1]:
        seen.append(entry()["MESSAGE"])
    assert any(message.startswith("serving export ") for message in seen), seen


@test("--log=null logs nothing, and -v still writes debug messages to standard error")
def _(t):
    image = t.pattern_image(MIB)
    process, client = t.inetd("--log=null", image, stderr="file")
    served(process, client)
    eq(process.stderr(), "")
    process, client = t.inetd("--log=null", image + ".missing", stderr="file")
    client.expect_end()
    process.expect(EX_NOINPUT)
    eq(process.stderr(), "")
    process, client = t.inetd("--log=null", "-v", image, stderr="file")
    served(process, client)
    text = process.stderr()
    matches(r"\A(nbdinetd: .+\n)+\Z", text)
    assert "serving export" not in text and " ended: " not in text, text


@test("--log=syslog and --log=journal without a daemon reach neither the client nor, for syslog, "
      "standard error")
def _(t):
    image = t.pattern_image(MIB)
    prefix = without_log_daemons()
    for log in ("syslog", "journal"):
        for stderr in ("socket", "file"):
            for verbose in ([], ["-v"]):
                process, client = t.inetd(f"--log={log}", *verbose, image, stderr=stderr,
                                          prefix=prefix)
                served(process, client)
                if log == "syslog" and not verbose:
                    eq(process.stderr(), "")
                process, client = t.inetd(f"--log={log}", *verbose, image + ".missing",
                                          stderr=stderr, prefix=prefix)
                client.expect_end()
                eq(bytes(client.received), b"")
                process.expect(EX_NOINPUT)


@test("--log=syslog sends to /dev/log, with nbdinetd's name and the priority, and debug messages "
      "stay on standard error")
def _(t):
    log, image = Syslog(t), t.pattern_image(MIB)
    for verbose in ([], ["-v"]):
        before = len(log.messages())
        process, client = t.inetd("--log=syslog", *verbose, image, stderr="file", prefix=log.prefix)
        client.start()
        client.send(client.request_bytes(NBD_CMD_READ, 0, 1, magic=0xBAD))
        client.expect_end()
        process.expect(EX_PROTOCOL)
        messages = log.messages()[before:]
        eq([(priority, pid) for priority, pid, _ in messages], [(6, process.pid), (4, process.pid)])
        for (_, _, text), words in zip(messages, ("serving export", " ended: ")):
            contains(words, text)
        eq("nbdinetd: " in process.stderr(), bool(verbose), "debug messages on standard error")
        assert "serving export" not in process.stderr()


# ------------------------------------------------------------------ the exit status

@test("exit status 0: served to the end, a client that leaves between requests or options, a probe")
def _(t):
    image = t.pattern_image(MIB)

    def disconnects(client):
        client.start().disconnect()

    def leaves_between_requests(client):
        client.start().read(0, 512)
        client.close()

    def leaves_between_options(client):
        client.handshake()
        client.structured_replies()
        client.close()

    def aborts(client):
        client.handshake()
        eq(client.haggle(NBD_OPT_ABORT), [(NBD_REP_ACK, b"")])
        client.expect_end()

    def aborts_and_leaves(client):
        client.handshake()
        client.option(NBD_OPT_ABORT)
        client.close()

    def probes(client):
        client.close()

    def listens_and_leaves(client):
        client.greeting()
        client.close()

    def shuts_down_writing(client):
        client.greeting()
        client.shut_down_writing()
        client.expect_end()

    for session in (disconnects, leaves_between_requests, leaves_between_options, aborts,
                    aborts_and_leaves, probes, listens_and_leaves, shuts_down_writing):
        for family in ("socketpair", "tcp"):
            process, client = t.inetd(image, family=family, stderr="file")
            session(client)
            process.expect(EX_OK)


@test("exit status 64: wrong usage, with a line on standard error that names it")
def _(t):
    image = t.pattern_image(MIB)
    for arguments, words in ((["--no-such-option", image], "--no-such-option"),
                             (["-Z", image], "-Z"),
                             (["-rZv", image], "-Z"),
                             (["--log=somewhere", image], "somewhere"),
                             (["--log", image], "FILE"),
                             (["--readonly=yes", image], "--readonly"),
                             (["-e"], "-e"),
                             (["--exportname"], "--exportname"),
                             (["--description"], "--description"),
                             (["-e", "x" * 4097, image], "4096"),
                             (["-e", b"\xff\xfe".decode("utf-8", "surrogateescape"), image],
                              "UTF-8"),
                             ([image, image], "FILE"),
                             ([], "FILE"),
                             (["--"], "FILE")):
        for start in (t.activated, lambda *a: t.inetd(*a, stderr="file")):
            process, client = start(*arguments)
            matches(words, refused(process, client=client))


@test("options follow getopt_long: bundled letters, --name=value, -- before a FILE that begins "
      "with a dash, abbreviations, options after FILE")
def _(t):
    image = t.pattern_image(MIB)
    os.rename(image, t.path("-v"))
    for arguments in (["-rv", "-egolden", "--", "./-v"],
                      ["--readonly", "--exportname=golden", "--", "-v"],
                      ["--reado", "--exportname", "golden", "--", "-v"],
                      ["./-v", "-r", "-e", "golden"]):
        process, client = t.inetd(*arguments, stderr="file",
                                  prefix=["/bin/sh", "-c", f'cd {t.dir} && exec "$0" "$@"'])
        client.start(name="golden")
        assert client.flags & NBD_FLAG_READ_ONLY
        client.disconnect()
        process.expect(EX_OK)
        eq("nbdinetd: " in process.stderr() and len(process.stderr().splitlines()) > 2,
           "-rv" in arguments, "debug messages")


@test("exit status 66: a FILE that is missing, before any byte is read from the client")
def _(t):
    image = t.pattern_image(MIB)
    os.symlink(t.path("nowhere"), t.path("dangling"))
    for missing in (t.path("missing.img"), t.path("no/such/directory.img"), image + "/below",
                    t.path("dangling"), ""):
        for start in (t.activated, lambda *a: t.inetd(*a, stderr="file")):
            process, client = start(missing)
            # Sent at once; a server that had read it would have answered.
            try:
                client.send(struct.pack(">I", 3) + client.option_bytes(NBD_OPT_LIST))
            except (BrokenPipeError, ConnectionResetError):
                pass
            status = EX_NOINPUT if missing else EX_USAGE
            text = refused(process, status, client)
            contains(missing, text)


@test("a FILE that is neither a regular file nor a block device is an error that names its "
      "kind")
def _(t):
    os.mkfifo(t.path("fifo"))
    os.mkdir(t.path("directory"))
    bound = socket.socket(socket.AF_UNIX)
    t.defer(bound.close)
    bound.bind(t.path("socket"))
    for wrong in (t.path("fifo"), t.path("directory"), t.path("socket"), "/dev/null", "/dev/zero"):
        process, client = t.activated(wrong)
        client.expect_end()
        eq(bytes(client.received), b"")
        # A FIFO without a writer must not hold the process up.
        status = process.wait()
        assert status in (EX_USAGE, EX_NOINPUT), f"{wrong}: {status}"
        contains(wrong, process.stderr())


@test("exit status 71: no descriptors left")
def _(t):
    image = t.pattern_image(MIB)
    seen = set()
    for limit in range(4, 24):
        process, client = t.activated(image, limits={resource.RLIMIT_NOFILE: limit})
        try:
            client.handshake()
            client.structured_replies()
            client.go()
            eq(client.read(0, 4096), pattern(0, 4096))
            client.disconnect()
        except (Disconnected, BrokenPipeError, ConnectionResetError):
            client.read_to_end()
            client.close()
        status = process.wait()
        # Below a certain number not even the loader can open its libraries: 127.
        assert status in (EX_OK, EX_OSERR, 127), (limit, status, process.stderr())
        if status == EX_OSERR:
            matches(r"\Anbdinetd: .*Too many open files", process.stderr())
        seen.add(status)
    assert {EX_OK, EX_OSERR} <= seen, seen


@test("exit status 76: the peer breaks the protocol, or vanishes inside a message")
def _(t):
    image = t.pattern_image(MIB)

    def bad_client_flags(client):
        client.handshake(0x80000000)

    def bad_option_magic(client):
        client.handshake()
        client.send(b"NOTMAGIC" + struct.pack(">II", NBD_OPT_LIST, 0))

    def bad_request_magic(client):
        client.start()
        client.send(client.request_bytes(NBD_CMD_FLUSH, magic=NBD_REQUEST_MAGIC + 1))

    def unknown_export_name(client):
        client.handshake()
        client.option(NBD_OPT_EXPORT_NAME, b"\xff")

    for session in (bad_client_flags, bad_option_magic, bad_request_magic, unknown_export_name):
        process, client = t.inetd(image, stderr="file")
        session(client)
        client.expect_end()
        process.expect(EX_PROTOCOL)

    # The end of the stream at every place where a message is not complete.
    whole = struct.pack(">I", 3) + Client.option_bytes(NBD_OPT_GO, Client.info_bytes())
    request = Client.request_bytes(NBD_CMD_WRITE, 0, 16, cookie=1, payload=bytes(16))
    for cut in range(len(whole) + len(request)):
        process, client = t.inetd(image, stderr="file")
        client.greeting()
        client.send((whole + request)[:cut])
        client.shut_down_writing()
        client.read_to_end()
        between = cut in (0, 4, len(whole))
        process.expect(EX_OK if between else EX_PROTOCOL)


# ------------------------------------------------------------------ asked to leave

def state_of(process):
    """One letter, as ps has it."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2][0]


def while_stopped(process, act, number=signal.SIGTERM):
    """Lets the process find the signal and what act() sends in the same moment."""
    # All that it was sent so far must be done with: it sleeps until there is something new.
    wait_until(lambda: state_of(process) == "S", "the process to wait")
    os.kill(process.pid, signal.SIGSTOP)
    wait_until(lambda: state_of(process) == "T", "the process to stop")
    try:
        process.signal(number)
        return act()
    finally:
        os.kill(process.pid, signal.SIGCONT)


@test("SIGTERM and SIGINT end the connection of an idle client and of one that negotiates, "
      "exit status 0")
def _(t):
    image = t.pattern_image(MIB)
    for number in (signal.SIGTERM, signal.SIGINT):
        for begin in (Client.start, Client.handshake, Client.greeting):
            process, client = t.inetd(image, stderr="file")
            begin(client)
            process.signal(number)
            client.expect_end()
            process.expect(EX_OK)
            contains(" ended: ", process.stderr())


@test("after SIGTERM requests get NBD_ESHUTDOWN and options NBD_REP_ERR_SHUTDOWN, and no write of "
      "them is done")
def _(t):
    image = t.pattern_image(MIB)
    for structured in (False, True):
        process, client = t.inetd(image, stderr="file")
        client.start(structured=structured)
        cookies = while_stopped(process, lambda c=client: [
            c.request(NBD_CMD_WRITE, 0, payload=b"too late"), c.request(NBD_CMD_READ, 0, 512),
            c.request(NBD_CMD_FLUSH), c.request(NBD_CMD_TRIM, 0, 4096)])
        eq([client.answer(cookie).error for cookie in cookies], [NBD_ESHUTDOWN] * 4)
        client.expect_end()
        process.expect(EX_OK)
    process, client = t.inetd(image, stderr="file")
    client.handshake()
    while_stopped(process, lambda: client.option(NBD_OPT_GO, client.info_bytes()))
    eq(client.option_reply(NBD_OPT_GO)[0], NBD_REP_ERR_SHUTDOWN)
    client.expect_end()
    process.expect(EX_OK)
    eq(checksum(image), checksum(t.pattern_image(MIB)), "the image")


@test("a write that was under way when SIGTERM came is finished and answered")
def _(t):
    image = t.sparse_image(4 * MIB)
    for size in (4096, 3 * MIB):
        data = os.urandom(size)
        process, client = t.inetd(image, stderr="file")
        client.start()
        # What is sent at once with the read has been taken in when the read is answered.
        cookie = 0x7777
        read = client.request_bytes(NBD_CMD_READ, 0, 512, cookie=1)
        write = client.request_bytes(NBD_CMD_WRITE, 0, size, cookie=cookie, payload=data)
        client.send(read + write[:28 + 1000])
        client.receive(20 + 8 + 512)
        while_stopped(process, lambda: None)
        client.send(write[28 + 1000:])
        eq(client.receive(20), struct.pack(">IHHQI", NBD_STRUCTURED_REPLY_MAGIC,
                                           NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, cookie, 0))
        client.expect_end()
        process.expect(EX_OK)
        eq(Path(image).read_bytes()[:size] == data, True, "the data is in the file")


@test("each of many writes that SIGTERM finds is either done or refused")
def _(t):
    image = t.sparse_image(16 * MIB)
    process, client = t.inetd(image, stderr="file")
    client.start()
    block = os.urandom(MIB)
    cookies = [client.request(NBD_CMD_WRITE, n * MIB, payload=block) for n in range(8)]
    eq(client.answer(cookies[0]).error, NBD_SUCCESS)
    process.signal(signal.SIGTERM)
    answers = [client.answer(cookie).error for cookie in cookies[1:]]
    assert set(answers) <= {NBD_SUCCESS, NBD_ESHUTDOWN}, answers
    client.expect_end()
    process.expect(EX_OK)
    content = Path(image).read_bytes()
    for number, error in enumerate(answers, 1):
        if error == NBD_SUCCESS:
            eq(content[number * MIB:(number + 1) * MIB] == block, True, f"block {number}")


@test("a client that never stops asking can't keep the process from leaving on SIGTERM")
def _(t):
    process, client = t.inetd(t.pattern_image(MIB), stderr="file")
    client.start()
    many = b"".join(client.request_bytes(NBD_CMD_FLUSH, cookie=n) for n in range(1000))
    process.signal(signal.SIGTERM)
    deadline = time.monotonic() + GUARD
    try:
        while not client.ended():
            client.send(many)
            client.forget()
            if time.monotonic() > deadline:
                raise HangGuard(f"still being answered {GUARD:g} s after SIGTERM")
    except (BrokenPipeError, ConnectionResetError):
        pass
    process.expect(EX_OK)


# ------------------------------------------------------------------ without a client

@test("--version, --help and --check need no client, and print to standard output")
def _(t):
    image = t.pattern_image(MIB)
    for option in ("-V", "--version"):
        process = t.run([NBDINETD, option])
        matches(r"\Anbdinetd [0-9]+\.[0-9.]+\n\Z", process.stdout())
        eq(process.stderr(), "")
    process = t.run([NBDINETD, "--help"])
    eq(process.stderr(), "")
    for option in ("-r, --readonly", "-e, --exportname=", "--description=", "-s, --single",
                   "-f, --foreground", "--log=", "-v, --verbose", "--check", "-V, --version",
                   "--help"):
        contains(option, process.stdout())

    process = t.run([NBDINETD, "--check", image])
    matches(rf"{re.escape(image)}.* {MIB} bytes.*read-write", process.stdout())
    process = t.run([NBDINETD, "--check", "-r", "-e", "golden", image])
    matches(rf"{re.escape(image)}.* {MIB} bytes.*read-only.*golden", process.stdout())
    process = t.run([NBDINETD, "--check", image + ".missing"], status=EX_NOINPUT)
    contains(image + ".missing", process.stderr())
    eq(process.stdout(), "")
    t.run([NBDINETD, "--check"], status=EX_USAGE)
    t.run([NBDINETD, "--check", "--nonsense", image], status=EX_USAGE)
    eq(checksum(image), checksum(t.pattern_image(MIB)), "the image")


@test("--version, --help and --check where the client is standard output tell the client nothing")
def _(t):
    image = t.pattern_image(MIB)
    for arguments in (["--version"], ["--help"], ["--check", image]):
        for start in (t.inetd, t.activated, lambda *a: t.piped("-s", *a)):
            process, client = start(*arguments)
            client.expect_end()
            eq(bytes(client.received), b"", f"what the client got of {arguments}")
            process.wait()


if __name__ == "__main__":
    main()
