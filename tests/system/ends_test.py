#!/usr/bin/python3
"""The client of a connection that nbdinetd ends sees the end, for each reason of an end, although
another process holds a duplicate of its socket, as a service manager does; and it gets all that was
sent before.

Each test here holds a duplicate, so that close(2) alone would tell the client nothing.
"""

import array
import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys
import termios
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402
from listening import *  # noqa: E402
from tls import TlsClient, authority  # noqa: E402

FAMILIES = ("socketpair", "unix", "tcp")
OVER = "has been shut down already"


class Kept:
    """A connection of which the test keeps the server's end, too."""

    def __init__(self, t, family="socketpair"):
        self.t = t
        ours, self.theirs = t.connection(family)
        self.client = Client(ours)

    def serve(self, *arguments, way="activated", listen_fds=1, env=None, prefix=()):
        """Starts nbdinetd on it; the log is in a file."""
        command = [*prefix, NBDINETD, *arguments]
        if way == "inetd":
            return self.t.spawn(command, fds={0: self.theirs, 1: self.theirs}, env=env)
        return self.t.spawn(command, fds={3: self.theirs}, listen_fds=listen_fds,
                            listen_pid="own", env=env)

    def expect_end(self):
        """The client sees the end, and what comes before it."""
        return self.client.read_to_end()

    def expect_over(self, *arguments, **how):
        """A process that is started on it afterwards says one line, and nothing to the client."""
        before = bytes(self.client.received)
        process = self.serve(*arguments, **how)
        process.expect(EX_OK)
        lines = process.stderr().splitlines()
        eq(len(lines), 1, lines)
        contains(OVER, lines[0])
        self.expect_end()
        eq(bytes(self.client.received), before, "what the client has got")


def start(client):
    client.start()
    return client


def flood(client):
    """More than is read before it is found wrong."""
    client.handshake()
    try:
        client.send(bytes(400000))
    except (BrokenPipeError, ConnectionResetError):
        pass


def haggle(client):
    client.handshake()
    client.list_exports()


# Name, options, what the client does, exit status. None of the options: the image.
ENDS = [
    ("NBD_CMD_DISC", (), lambda c, p: start(c).send(c.request_bytes(NBD_CMD_DISC)), EX_OK),
    ("NBD_OPT_ABORT", (), lambda c, p: (c.handshake(), c.haggle(NBD_OPT_ABORT)), EX_OK),
    ("half a connection", (), lambda c, p: start(c).shut_down_writing(), EX_OK),
    ("SIGTERM, idle", (), lambda c, p: (start(c), p.signal(signal.SIGTERM)), EX_OK),
    ("SIGTERM, haggling", (), lambda c, p: (haggle(c), p.signal(signal.SIGTERM)), EX_OK),
    ("a wrong magic", (), lambda c, p: start(c).send(bytes(28)), EX_PROTOCOL),
    ("a wrong option", (), lambda c, p: (c.handshake(), c.send(bytes(16))), EX_PROTOCOL),
    ("unread input", (), lambda c, p: flood(c), EX_PROTOCOL),
    ("an unknown export", ("-e", "disk"),
     lambda c, p: (c.handshake(), c.option(NBD_OPT_EXPORT_NAME, b"tape")), EX_OK),
    ("no handshake", ("--handshake-timeout=200ms",), lambda c, p: c.greeting(), EX_TIMED_OUT),
    ("a stall", ("--stall-timeout=200ms",), lambda c, p: start(c).send(bytes(9)), EX_TIMED_OUT),
    ("an idle client", ("--idle-timeout=200ms",), lambda c, p: start(c), EX_TIMED_OUT),
    ("no reader", ("--stall-timeout=200ms",),
     lambda c, p: start(c).send(c.request_bytes(NBD_CMD_READ, 0, MIB) * 64), EX_TIMED_OUT),
    # Before there is a word.
    ("--allow", ("--allow=192.0.2.7",), None, EX_NOPERM),
    ("a missing export", ("/nonexistent/image",), None, EX_NOINPUT),
    ("no TLS files", ("--tls=require", "--tls-certificates=/nonexistent"), None, EX_CONFIG),
    ("a wrong option of ours", ("--no-such-option",), None, EX_USAGE),
    ("a wrong user", ("--user=no-such-user",), None, None),
    ("a contradiction", ("--directory=/srv",), None, EX_USAGE),
    ("an option for a listener", ("--port=10809",), None, EX_USAGE),
]


@test("whatever ends a connection, its client sees the end though its socket has a duplicate")
def _(t):
    image = t.pattern_image(MIB)
    for family in FAMILIES:
        running = []
        for name, options, act, status in ENDS:
            kept = Kept(t, family)
            arguments = [*options, image]
            if "/nonexistent/image" in options:
                arguments = options
            process = kept.serve(*arguments)
            if act:
                act(kept.client, process)
            running.append((name, kept, process, status))
        for name, kept, process, status in running:
            process.wait()
            if status is not None:
                eq(process.poll(), status, f"{family}: {name}: {process.stderr()}")
            try:
                kept.expect_end()
            except HangGuard:
                raise AssertionError(f"{family}: {name}: the client sees no end") from None
            kept.expect_over(image)


@test("the same as inetd starts it, and from a listener")
def _(t):
    image = t.pattern_image(MIB)
    for arguments, act in ((["--allow=192.0.2.7", image], None), (["/nonexistent"], None), ([image], start)):
        kept = Kept(t)
        process = kept.serve(*arguments, way="inetd")
        if act:
            act(kept.client).send(kept.client.request_bytes(NBD_CMD_DISC))
        process.wait()
        kept.expect_end()
        kept.expect_over(image, way="inetd")
    door = Door(t)
    listener = activate(t, image, inherited=[door])
    client = door.client().start()
    server, = servers_below(listener.pid)
    duplicates = duplicates_of(t, server)
    client.send(client.request_bytes(NBD_CMD_DISC))
    client.expect_end()
    assert duplicates
    stop(listener)


def duplicates_of(t, pid):
    """All sockets of a process, also in this one."""
    pidfd_getfd = 438
    process, copies = os.pidfd_open(pid), []
    for number, what in descriptors_of(pid).items():
        if what.startswith("socket:"):
            copy = ctypes.CDLL(None, use_errno=True).syscall(pidfd_getfd, process, number, 0)
            assert copy >= 0, os.strerror(ctypes.get_errno())
            copies.append(copy)
            t.defer(os.close, copy)
    os.close(process)
    return copies


@test("a connection that can't be served since its sandbox is required and incomplete ends, too")
def _(t):
    strace = [need("strace"), "-f", "-qq", "-e", "signal=none", "-e", "trace=seccomp", "-e",
              "inject=seccomp:error=ENOSYS", "-o", "/dev/null"]
    kept = Kept(t)
    process = kept.serve("--sandbox=require", t.pattern_image(MIB), prefix=strace,
                         way="inetd")
    process.expect(EX_OSERR)
    eq(kept.expect_end(), b"")


@test("connections that are handed over together, or under wrong names, are all ended")
def _(t):
    image = t.pattern_image(MIB)
    first, second = Kept(t), Kept(t, "tcp")
    process = t.spawn([NBDINETD, image], fds={3: first.theirs, 4: second.theirs}, listen_fds=2,
                      listen_pid="own")
    process.expect(EX_USAGE)
    for kept in (first, second):
        eq(kept.expect_end(), b"")
    kept, door = Kept(t), Door(t)
    process = t.spawn([NBDINETD, image], fds={3: kept.theirs, 4: door}, listen_fds=2,
                      listen_pid="own")
    process.expect(EX_USAGE)
    eq(kept.expect_end(), b"")
    # A listening socket is left as it is: others may go on with it.
    door.client().close()
    kept = Kept(t)
    process = kept.serve(image, env={"LISTEN_FDNAMES": "one:two"})
    process.expect(EX_USAGE)
    eq(kept.expect_end(), b"")


@test("a TLS client gets a close_notify, and then the end")
def _(t):
    files = authority().server_files(t)
    for family in FAMILIES:
        for end in ("disconnect", "SIGTERM"):
            kept = Kept(t, family)
            client = TlsClient.of(kept.client)
            process = kept.serve("--tls=require", f"--tls-certificates={files}",
                                 t.pattern_image(MIB))
            client.start()
            if end == "SIGTERM":
                process.signal(signal.SIGTERM)
            else:
                client.send(client.request_bytes(NBD_CMD_DISC))
            process.expect(EX_OK)
            client.expect_end()
            assert client.close_notify, "no close_notify"
            eq(client._socket.recv(1), b"", "what comes behind it")  # pylint: disable=W0212


# ------------------------------------------------------------------ what was sent arrives

def tcp_with_room(t):
    """(client's end, server's end): the server's takes in a MiB that nobody reads."""
    SO_RCVBUFFORCE = 33
    need_root("to have a large receive buffer")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 * MIB)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    for end in (ours, theirs):
        t.defer(end.close)
    return ours, theirs


def unsent(connection):
    """What the other machine hasn't taken of what was sent."""
    count = array.array("i", [0])
    fcntl.ioctl(connection, termios.TIOCOUTQ, count)
    return count[0]


@test("replies arrive though the client has sent more than was read")
def _(t):
    image = t.pattern_image(MIB)
    for keep in (False, True):
        for family in ("tcp", "unix"):
            ours, theirs = tcp_with_room(t) if family == "tcp" else t.connection("unix")
            process = t.spawn([NBDINETD, image], fds={3: theirs}, listen_fds=1, listen_pid="own")
            if not keep:
                theirs.close()
            client = Client(ours).start()
            # What is sent now is there as a whole before any of it is read.
            process.signal(signal.SIGSTOP)
            wait_until(lambda: "T" == Path(f"/proc/{process.pid}/stat").read_text().rpartition(
                ") ")[2][0], "the server to stop")
            # More than the client's side takes in before it reads.
            cookies = [client.request(NBD_CMD_READ, 0, 64 << 10) for _ in range(6)]
            client.send(client.request_bytes(NBD_CMD_DISC))
            if family == "tcp":
                client.send(bytes(700000))
                wait_until(lambda: unsent(ours) == 0, "the server's machine to have all")
            else:
                client.send(bytes(20000))
            process.signal(signal.SIGCONT)
            process.expect(EX_OK)
            for cookie in cookies:
                eq(client.answer(cookie).check().data, pattern(0, 64 << 10))
            client.expect_end()


@test("a client that has sent all its requests, and shut down its direction, gets all replies")
def _(t):
    image = t.pattern_image(MIB)
    dialogue = (struct.pack(">I", 3) + Client.option_bytes(NBD_OPT_GO, Client.info_bytes())
                + Client.request_bytes(NBD_CMD_READ, 4096, 512, cookie=1)
                + Client.request_bytes(NBD_CMD_WRITE, 0, 4, cookie=2, payload=b"data")
                + Client.request_bytes(NBD_CMD_DISC))
    for family in FAMILIES:
        for way in ("activated", "inetd"):
            kept = Kept(t, family)
            kept.client.send(dialogue)
            kept.client.shut_down_writing()
            process = kept.serve(image, way=way)
            process.expect(EX_OK)
            contains(pattern(4096, 512), kept.expect_end())
            with open(image, "rb") as file:
                eq(file.read(4), b"data")
    process, client = t.piped("-s", image)
    client.send(dialogue)
    client.shut_down_writing()
    process.expect(EX_OK)
    contains(pattern(4096, 512), client.read_to_end())


# ------------------------------------------------------------------ connections that are over

@test("a process on a connection that its client has left logs one line, and ends with status "
      "0")
def _(t):
    image = t.pattern_image(MIB)
    for family in FAMILIES:
        for reset in (False, True):
            kept = Kept(t, family)
            if reset:
                kept.client._socket.setsockopt(  # pylint: disable=W0212
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            kept.client.close()
            process = kept.serve(image)
            process.expect(EX_OK)
            eq(len(process.stderr().splitlines()), 1, process.stderr())


@test("--help, --version and --check leave a socket alone that isn't theirs")
def _(t):
    image = t.pattern_image(MIB)
    for arguments in (["--help"], ["--version"], ["--check", image]):
        kept = Kept(t)
        kept.serve(*arguments, way="inetd").expect(EX_OK)
        kept.theirs.sendall(b"still there")
        eq(kept.client.receive(11), b"still there")
        process = kept.serve(image)
        kept.client.start().disconnect()
        process.expect(EX_OK)


main()
