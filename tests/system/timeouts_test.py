#!/usr/bin/python3
"""The deadlines for a client: for the handshake, for progress inside a message, and for being idle;
and the options of TCP that find a dead peer. Each leads to exit status 75 and a log line that names
the deadline."""

import os
import signal
import socket
import struct
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402
from listening import *  # noqa: E402

WAYS = ("activated", "inetd", "piped")
SHORT = 1.0  # seconds of the options' 1s: a deadline that is to pass
LONG = 2.0   # a deadline that isn't to pass; the client is never silent for a tenth of it

is_private = False  # the network


def start(t, way, *arguments, **how):
    """nbdinetd by one of three ways, with its log in a file. Returns (process, client)."""
    if way == "inetd":
        how.setdefault("stderr", "file")
    single = ["-s"] if way == "piped" else []
    return getattr(t, way)(*single, *arguments, **how)


def cut(process, client, reason, since=None, seconds=0.0):
    """The server ends the connection: exit status 75, one log line, not before the deadline."""
    client.read_to_end()
    process.expect(EX_TIMED_OUT)
    if since is not None:
        assert time.monotonic() - since >= seconds, f"cut after {time.monotonic() - since:.3f} s"
    lines = [line for line in process.stderr().splitlines() if " ended: " in line]
    eq(len(lines), 1, "lines about the end")
    matches(rf" ended: {reason}(; \d+ requests?, .*)?$", lines[0])


# ------------------------------------------------------------------ the handshake

@test("a client that sends nothing is disconnected at --handshake-timeout", waits=True)
def _(t):
    image = t.pattern_image(MIB)
    for way in WAYS:
        since = time.monotonic()
        process, client = start(t, way, "--handshake-timeout=1s", image)
        client.greeting()
        cut(process, client, "client didn't finish the handshake within 1s", since, SHORT)
        eq(bytes(client.received), NBDMAGIC + IHAVEOPT + b"\0\3", "nothing but the greeting")


@test("a client that stops anywhere in the handshake is disconnected at --handshake-timeout",
      waits=True)
def _(t):
    image = t.pattern_image(MIB)
    flags = struct.pack(">I", 3)
    go = Client.option_bytes(NBD_OPT_GO, Client.info_bytes("disk"))
    stops = [flags[:2], flags, flags + go[:3], flags + go[:16], flags + go[:-1],
             flags + Client.option_bytes(NBD_OPT_LIST),
             flags + Client.option_bytes(77, bytes(9))[:-4],
             # A payload that is too long, and is discarded.
             flags + IHAVEOPT + struct.pack(">II", NBD_OPT_GO, 1 << 30) + bytes(100000)]
    running = []
    for sent in stops:
        since = time.monotonic()
        process, client = start(t, "activated", "--handshake-timeout=1s", image)
        client.send(sent)
        running.append((process, client, since))
    for process, client, since in running:
        cut(process, client, "client didn't finish the handshake within 1s", since, SHORT)


@test("single bytes and repeated options don't extend the time for the handshake",
      waits=True)
def _(t):
    image = t.pattern_image(MIB)
    process, client = start(t, "activated", "--handshake-timeout=1s", image)
    asking, asker = start(t, "activated", "--handshake-timeout=1s", image)
    asker.handshake()
    since = time.monotonic()
    name = Client.option_bytes(NBD_OPT_INFO, Client.info_bytes("n" * 4000))
    try:
        for byte in struct.pack(">I", 3) + name:
            client.send(bytes([byte]))
            time.sleep(0.02)
            asker.haggle(NBD_OPT_LIST)
    except (BrokenPipeError, ConnectionResetError, Disconnected):
        pass
    for one in ((process, client), (asking, asker)):
        cut(*one, "client didn't finish the handshake within 1s")
    assert time.monotonic() - since < len(name) * 0.02, "the deadline never came"


@test("a client that doesn't read its option replies is disconnected at --handshake-timeout, too",
      waits=True)
def _(t):
    process, client = start(t, "activated", "--handshake-timeout=1s", t.pattern_image(MIB))
    client.handshake()
    name = Client.option_bytes(NBD_OPT_INFO, Client.info_bytes("n" * 4000, [NBD_INFO_NAME] * 100))
    # The client never reads, so that its writes block once the buffers are full.
    os.set_blocking(client._wfd, False)
    try:
        while process.poll() is None:
            try:
                os.write(client._wfd, name)
            except BlockingIOError:
                time.sleep(0.01)
    except (BrokenPipeError, ConnectionResetError):
        pass
    cut(process, client, "client didn't finish the handshake within 1s")


@test("--handshake-timeout doesn't count after the handshake",
      waits=True)
def _(t):
    image = t.pattern_image(MIB)
    running = [start(t, way, "--handshake-timeout=1s", image) for way in WAYS]
    for _, client in running:
        client.start()
    time.sleep(SHORT * 3)
    for process, client in running:
        eq(client.read(0, 512), pattern(0, 512))
        client.disconnect()
        process.expect(EX_OK)


@test("--handshake-timeout is 10 s by default", waits=True)
def _(t):
    since = time.monotonic()
    process, client = start(t, "activated", t.pattern_image(MIB))
    client.greeting()
    cut(process, client, "client didn't finish the handshake within 10s", since, 10)


@test("--handshake-timeout=0, off and infinity take the deadline away", waits=True)
def _(t):
    image = t.pattern_image(MIB)
    running = [start(t, "activated", f"--handshake-timeout={off}", image)
               for off in ("0", "off", "infinity")]
    for _, client in running:
        client.greeting()
    time.sleep(SHORT)
    for process, client in running:
        eq(process.poll(), None, "the end")
        client.send(struct.pack(">I", 3))
        client.go()
        client.disconnect()
        process.expect(EX_OK)


# ------------------------------------------------------------------ inside a message

@test("a client that stops inside a request is disconnected at --stall-timeout", waits=True)
def _(t):
    image = t.pattern_image(MIB)
    header = Client.request_bytes(NBD_CMD_WRITE, 0, 100000)
    read = Client.request_bytes(NBD_CMD_READ, 0, 512)
    # The end of the input is in a header, in a payload, in a second request, in a payload of a
    # refused request.
    for sent in (header[:1], header[:-1], header, header + bytes(99999), read + read[:5],
                 Client.request_bytes(NBD_CMD_WRITE, MIB, 100000) + bytes(500),
                 Client.request_bytes(NBD_CMD_WRITE, 0, 1 << 31) + bytes(500)):
        for way in WAYS if sent == header else WAYS[:1]:
            process, client = start(t, way, "--stall-timeout=1s", image)
            client.start()
            since = time.monotonic()
            client.send(sent)
            cut(process, client, "client stopped inside a request for 1s", since, SHORT)


@test("a client that stops reading its replies is disconnected at --stall-timeout", waits=True)
def _(t):
    # After a longer time on TCP the other deadline may be first: nothing was acknowledged.
    image = t.pattern_image(32 * MIB)
    for family in ("socketpair", "tcp"):
        for structured in (True, False):
            process, client = t.activated("--stall-timeout=300ms", image, family=family)
            client.start(structured=structured)
            since = time.monotonic()
            client.send(client.request_bytes(NBD_CMD_READ, 0, 32 * MIB) * 2)
            process.expect(EX_TIMED_OUT)
            assert time.monotonic() - since >= 0.3
            matches(r" ended: client read no replies for 300ms; \d requests?, ", process.stderr())
    process, client = t.piped("-s", "--stall-timeout=300ms", image)
    client.start()
    client.send(client.request_bytes(NBD_CMD_READ, 0, 32 * MIB))
    process.expect(EX_TIMED_OUT)
    matches(r" ended: client read no replies for 300ms; 1 request, ", process.stderr())


@test("a client that is slow, but makes progress, is not disconnected, in either direction", waits=True)
def _(t):
    image = t.pattern_image(4 * MIB)
    argument = f"--stall-timeout={LONG:g}s"
    # On TCP the server also watches how much the client has not acknowledged.
    pairs = [t.activated(argument, image, family=family) for family in ("socketpair", "tcp")]
    readers = [client for _, client in pairs]
    writing, writer = t.activated(argument, image)
    writer.start()
    for reader in readers:
        reader.start(structured=False)
        reader.send(reader.request_bytes(NBD_CMD_READ, 0, 4 * MIB))
    write = writer.request_bytes(NBD_CMD_WRITE, 0, 64, cookie=5, payload=b"\x2a" * 64)
    got = [b"" for _ in readers]

    def read_some(most):
        # Not Client.receive(), which takes in all that there is.
        for index, reader in enumerate(readers):
            if len(got[index]) < 16 + 4 * MIB:
                reader._poll(True, False)
                got[index] += os.read(reader._rfd, most)
    since = time.monotonic()
    for number in range(len(write)):
        writer.send(write[number:number + 1])
        read_some(16384)
        time.sleep(LONG / 30)
    seconds = time.monotonic() - since
    assert seconds > LONG * 2, f"{seconds:.1f} s are not long"
    eq(struct.unpack(">IHHQI", writer.receive(20))[3], 5, "the reply's cookie")
    while min(map(len, got)) < 16 + 4 * MIB:
        read_some(MIB)
    for data in got:
        eq(data[16:] == pattern(0, 4 * MIB), True, "what the slow reader has got")
    for process, client in (*pairs, (writing, writer)):
        client.disconnect()
        process.expect(EX_OK)


@test("a TCP client that acknowledges nothing of a reply in the kernel's buffer is disconnected at "
      "--stall-timeout",
      waits=True)
def _(t):
    image = t.pattern_image(MIB)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.socket()
        # Its window is far smaller than the reply, and the server's buffer is larger.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
    process = t.spawn([NBDINETD, "--stall-timeout=1s", image], fds={3: theirs}, listen_fds=1,
                      listen_pid="own")
    theirs.close()
    client = Client(ours).start()
    since = time.monotonic()
    client.send(client.request_bytes(NBD_CMD_READ, 0, 64 << 10))
    process.expect(EX_TIMED_OUT)
    assert time.monotonic() - since >= SHORT
    matches(r" ended: client vanished: .* nothing was acknowledged for 1s; ", process.stderr())


@test("--stall-timeout doesn't disconnect a client between requests", waits=True)
def _(t):
    running = [t.activated("--stall-timeout=1s", t.pattern_image(MIB), family=family)
               for family in ("socketpair", "tcp")]
    for _, client in running:
        client.start()
    for _ in range(2):
        time.sleep(SHORT * 3)
        for _, client in running:
            eq(client.read(0, 512), pattern(0, 512))
    for process, client in running:
        client.disconnect()
        process.expect(EX_OK)


# ------------------------------------------------------------------ idle

@test("a client that sends no request is disconnected at --idle-timeout", waits=True)
def _(t):
    image = t.pattern_image(MIB)
    for way in WAYS:
        process, client = start(t, way, "--idle-timeout=1s", image)
        client.start()
        since = time.monotonic()
        cut(process, client, "client was idle for 1s", since, SHORT * 0.9)


@test("each request starts --idle-timeout anew, and the data written before the end stays written",
      waits=True)
def _(t):
    image = t.pattern_image(MIB)
    process, client = t.activated(f"--idle-timeout={LONG:g}s", image)
    client.start()
    since = time.monotonic()
    while time.monotonic() - since < LONG * 1.5:
        client.write(0, b"\x66" * 512)
        time.sleep(LONG / 10)
    since = time.monotonic() - LONG / 10
    cut(process, client, f"client was idle for {LONG:g}s", since, LONG * 0.9)
    with open(image, "rb") as file:
        eq(file.read(512), b"\x66" * 512)


@test("a silent client stays connected without --idle-timeout, and with 0", waits=True)
def _(t):
    image = t.pattern_image(MIB)
    running = [t.activated(*arguments, "--handshake-timeout=1s", "--stall-timeout=1s", image)
               for arguments in ([], ["--idle-timeout=0"])]
    for _, client in running:
        client.start()
    time.sleep(SHORT * 2)
    for process, client in running:
        eq(client.read(0, 512), pattern(0, 512))
        client.disconnect()
        process.expect(EX_OK)


@test("each connection of a listener has its own deadline, and ends alone",
      waits=True)
def _(t):
    door = Door(t)
    process = activate(t, "--idle-timeout=2s", t.pattern_image(MIB), inherited=[door])
    silent, busy = door.client().start(), door.client().start()
    while not silent.ended():
        eq(busy.read(0, 512), pattern(0, 512))
        time.sleep(0.02)
    matches(r"ended: client was idle for 2s", process.stderr())
    eq(busy.read(0, 512), pattern(0, 512))
    busy.disconnect()
    wait_alone(process)
    stop(process)


# ------------------------------------------------------------------ spelling

@test("times are spelled as in systemd; any other value is a usage error that names the option")
def _(t):
    image = t.pattern_image(MIB)
    options = ("--handshake-timeout", "--stall-timeout", "--idle-timeout", "--exit-idle",
               "--keepalive")
    good = ("10s", "2min", "1h 30min", "1min30s", "500ms", "1.5s", "5", "0", "infinity", " 3 sec ",
            "2 hours", "1d", "250000us", "1w")
    bad = ("", " ", "s", "-1", "-1s", "10x", "10 s s", "1e3", "0x10", "ten", "nan", "inf", "1..5s",
           "s10", "10s,")
    for option in options:
        for value in good:
            t.run([NBDINETD, "--check", f"{option}={value}", image])
        for value in bad:
            process = t.run([NBDINETD, "--check", f"{option}={value}", image], status=EX_USAGE)
            matches(rf"^nbdinetd: .*{option}", process.stderr(), repr(value))


@test("a time too long for any clock is no error, and no deadline that passes at once")
def _(t):
    image = t.pattern_image(MIB)
    for value in ("99999999d", "1000000000000000000s", "99999999999999999999999999h"):
        process, client = t.activated(f"--handshake-timeout={value}", f"--stall-timeout={value}",
                                      f"--idle-timeout={value}", f"--keepalive={value}", image,
                                      family="tcp")
        client.start()
        client.read(0, 512)
        time.sleep(0.1)
        client.read(0, 512)
        client.disconnect()
        process.expect(EX_OK)


# ------------------------------------------------------------------ TCP

@test("nbdinetd sets TCP keepalive to --keepalive where it is off, and no TCP_USER_TIMEOUT, whatever "
      "--stall-timeout is")
def _(t):
    image = t.pattern_image(MIB)

    def options_of(server):
        return tuple(server.getsockopt(*option) for option in (
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL), (socket.IPPROTO_TCP, socket.TCP_KEEPCNT)))
    cases = [([], (60, 10, 6)), (["--keepalive=2min"], (60, 10, 6)), (["--keepalive=1s"], (1, 1, 1)),
             (["--keepalive=2s"], (1, 1, 1)), (["--keepalive=2500ms"], (1, 1, 2)),
             (["--keepalive=7s"], (1, 1, 6)), (["--keepalive=25s"], (13, 2, 6)),
             (["--keepalive=1h"], (1800, 300, 6)), (["--keepalive=18h"], (32400, 5400, 6)),
             (["--keepalive=19h"], None), (["--keepalive=0"], None), (["--keepalive=infinity"], None),
             (["--stall-timeout=5s"], (60, 10, 6)), (["--stall-timeout=0"], (60, 10, 6))]
    for arguments, wanted in cases:
        for family in ("tcp", "tcp6"):
            for given in (None, (11, 12, 13)):
                # Our own copy of the server's end: the options belong to the socket.
                ours, theirs = t.connection(family)
                if given:
                    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    for option, value in zip((socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL,
                                              socket.TCP_KEEPCNT), given):
                        theirs.setsockopt(socket.IPPROTO_TCP, option, value)
                before = options_of(theirs)
                process = t.spawn([NBDINETD, *arguments, image], fds={3: theirs}, listen_fds=1,
                                  listen_pid="own")
                client = Client(ours).start()
                eq(options_of(theirs), before if given or not wanted else (1, *wanted),
                   f"keepalive with {arguments}")
                eq(theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT), 0)
                client.send(client.request_bytes(NBD_CMD_DISC))
                process.expect(EX_OK)


@test("a TCP peer that vanished is found while a reply is on its way to it")
def _(t):
    require(is_private, "needs a network of its own, whose loopback interface can be taken down")
    process, client = t.activated("--stall-timeout=1s", t.pattern_image(MIB), family="tcp")
    client.start()
    # The request arrives, the reply can't any more: the server is stopped in between.
    process.signal(signal.SIGSTOP)
    wait_until(lambda: state_of(process.pid) == "T", "the server to stop")
    client.send(client.request_bytes(NBD_CMD_READ, 0, 4096))
    set_loopback(False)
    t.defer(set_loopback, True)
    process.signal(signal.SIGCONT)
    process.expect(EX_TIMED_OUT)
    matches(r" ended: .*tim(ed|e) ?out", process.stderr())


if __name__ == "__main__":
    is_private = private_network()
    main()
