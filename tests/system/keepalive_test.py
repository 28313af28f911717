#!/usr/bin/python3
"""A TCP client whose machine can't be reached: --keepalive ends the connection of a silent one,
--stall-timeout that of one with a reply on its way, and a client whose link comes back before that
keeps its connection. Also how a long request ends whose client is gone.

The client's machine is a network namespace at the other end of a veth link. The link goes down there,
so that the server receives nothing any more, as after a loss of power or of the network. All cases
share the same two failures of the link, since each takes seconds.
"""

import fcntl
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from far_client import Machines, enter_network  # noqa: E402
from faults import FailingFs, need_privilege  # noqa: E402
from harness import *  # noqa: E402
from listening import *  # noqa: E402

SERVER, CLIENT = "10.99.0.1", "10.99.0.2"
is_private = False  # the network


def ip(*words):
    subprocess.run([need("ip"), *words], check=True, stdin=subprocess.DEVNULL)


class Link(Machines):
    """A link to a machine of its own, on which clients are."""

    def __init__(self, t):
        require(is_private, "needs a network of its own")
        server = os.open("/proc/self/ns/net", os.O_RDONLY)
        enter_network()
        client = os.open("/proc/self/ns/net", os.O_RDONLY)
        enter_network(server)
        super().__init__(t, server, client, SERVER)
        target = f"/proc/{os.getpid()}/fd/{client}"
        made = subprocess.run([need("ip"), "link", "add", "here", "type", "veth", "peer", "name",
                               "there", "netns", target], check=False, capture_output=True)
        if made.returncode:
            raise Skip(f"this kernel has no veth: {made.stderr.decode()}")
        t.defer(ip, "link", "delete", "here")
        ip("address", "add", f"{SERVER}/24", "dev", "here")
        ip("link", "set", "here", "up")
        self.there(ip, "address", "add", f"{CLIENT}/24", "dev", "there")
        self.set_up(True)

    def set_up(self, up):
        self.there(ip, "link", "set", "there", "up" if up else "down")


class Connection:
    """A client there, served here, and how long ago its machine was surely reachable."""

    def __init__(self, t, link, *arguments, kernel=None, structured=True, disk=None):
        """With `kernel`, keepalive is on as a .socket unit may have it: (idle, interval, probes)."""
        ours, theirs = link.connection()
        t.defer(ours.close)
        if kernel:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in zip((socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL,
                                      socket.TCP_KEEPCNT), kernel):
                theirs.setsockopt(socket.IPPROTO_TCP, option, value)
        self.process = t.spawn([NBDINETD, *arguments, disk or t.pattern_image(MIB)], fds={3: theirs},
                               listen_fds=1, listen_pid="own")
        theirs.close()
        self.client = Client(ours).start(structured=structured)
        self.arguments = arguments
        self.heard = time.monotonic()

    def exchange(self):
        self.heard = time.monotonic()
        eq(self.client.read(4096, 512), pattern(4096, 512))

    def ask_unanswered(self):
        """The machine goes while a reply is on its way: the request is there, and the server reads it
        when the link is down. To be followed by answer()."""
        self.process.signal(signal.SIGSTOP)
        wait_until(lambda: state_of(self.process.pid) == "T", "the server to be stopped")
        self.client.send(self.client.request_bytes(NBD_CMD_READ, 0, 512))
        TIOCOUTQ = 0x5411
        wait_until(lambda: fcntl.ioctl(self.client._rfd, TIOCOUTQ, b"\0" * 4) == b"\0" * 4,
                   "the request to be there")

    def answer(self):
        self.heard = time.monotonic()
        self.process.signal(signal.SIGCONT)

    def given_up(self, seconds, words):
        """It ends with the link still down, and not before that time."""
        self.process.expect(EX_TIMED_OUT)
        elapsed = time.monotonic() - self.heard
        assert elapsed >= seconds, f"{self.arguments}: after {elapsed:.2f} s already"
        matches(rf" ended: client vanished: the connection timed out{words}; ",
                self.process.stderr())

    def is_served(self):
        eq(self.process.poll(), None, f"{self.arguments}: the end")
        self.exchange()
        self.client.disconnect()
        self.process.expect(EX_OK)


@test("a link that is down: a silent client is given up after --keepalive, one to which a reply is on "
      "its way after --stall-timeout, exit status 75; and none before, or for one lost probe")
def _(t):
    link = Link(t)
    # Silent. With --keepalive=3s: one second, and two probes.
    gone = Connection(t, link, "--keepalive=3s", "--stall-timeout=1s")
    staying = [Connection(t, link, "--stall-timeout=1s"),
               Connection(t, link, "--keepalive=infinity", "--stall-timeout=1s"),
               Connection(t, link, "--keepalive=1min", "--stall-timeout=1s"),
               # Many probes are lost. What a .socket unit says of its socket holds.
               Connection(t, link, "--keepalive=2s", "--stall-timeout=1s", kernel=(1, 1, 100))]
    gone_by_unit = Connection(t, link, "--keepalive=infinity", kernel=(1, 1, 2))
    # A reply on its way: as small as can be, or more than the kernel holds.
    small = Connection(t, link, "--keepalive=infinity", "--stall-timeout=2s")
    quick = Connection(t, link, "--stall-timeout=1s")
    patient = [Connection(t, link, "--keepalive=2s", "--stall-timeout=10min"),
               Connection(t, link, "--keepalive=infinity", "--stall-timeout=0")]
    for one in (gone, gone_by_unit, *staying):
        one.exchange()
    asked = [small, quick, *patient]
    for one in asked:
        one.ask_unanswered()
    link.set_up(False)
    for one in asked:
        one.answer()
    quick.given_up(1, ", nothing was acknowledged for 1s")
    small.given_up(2, ", nothing was acknowledged for 2s")
    gone.given_up(2.9, "")
    gone_by_unit.given_up(2.9, "")
    link.set_up(True)
    for one in patient:
        # What was lost is sent again.
        data = one.client.receive(20 + 8 + 512)
        eq(data[28:], pattern(0, 512))
    for one in (*staying, *patient):
        one.is_served()


@test("a link that goes down in the middle of long replies: given up after --stall-timeout, and nothing "
      "is lost if it comes back before")
def _(t):
    link, replies, length = Link(t), 32, 16 + MIB
    ended = Connection(t, link, "--keepalive=infinity", "--stall-timeout=2s", structured=False)
    going_on = Connection(t, link, "--keepalive=2s", "--stall-timeout=10min", structured=False)
    for one in (ended, going_on):
        one.client.send(one.client.request_bytes(NBD_CMD_READ, 0, MIB) * replies)
    for _ in range(2):
        for one in (going_on, ended):
            one.heard = time.monotonic()
            eq(one.client.receive(length)[16:], pattern(0, MIB))
    link.set_up(False)
    ended.process.expect(EX_TIMED_OUT)
    elapsed = time.monotonic() - ended.heard
    assert elapsed >= 2, f"after {elapsed:.2f} s already"
    matches(r" ended: client (read no replies for|vanished: .*) 2s; ", ended.process.stderr())
    link.set_up(True)
    for _ in range(replies - 2):
        eq(going_on.client.receive(length)[16:], pattern(0, MIB))
    going_on.is_served()


# ------------------------------------------------------------------ a long request

PIECE = 256 * MIB  # kTaskPieceBytes
ESTABLISHED, CLOSE_WAIT = 1, 8  # of linux/tcp.h


class LongTrim(Connection):
    """A connection whose trim of four pieces is inside of its first one."""

    def __init__(self, t, link, *arguments):
        need_privilege("fuse")
        self.fs = FailingFs(t.fresh("fs"), b"")
        self.fs.__enter__()
        t.defer(self.fs.__exit__)
        os.truncate(self.fs.backing, 4 * PIECE)
        super().__init__(t, link, *arguments, disk=self.fs.disk)
        self.fs.rule("fallocate", "hold", 0, None, 1)
        self.port = self.client._socket.getsockname()[1]
        self.heard = time.monotonic()
        self.trim = self.client.request(NBD_CMD_TRIM, 0, 4 * PIECE)
        self.fs.wait_held(1)
        wait_steady(lambda: (waits_of(self.process.pid), state_of(self.process.pid)))
        self.waits = waits_of(self.process.pid)

    def state(self):
        """Of the server's socket; None when the kernel has given the connection up."""
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[2].partition(":")[2], 16) == self.port:
                return int(fields[3], 16)
        return None

    def wait_noticed(self):
        """The server has woken up since the trim began, and sleeps again."""
        wait_until(lambda: waits_of(self.process.pid) > self.waits
                   and state_of(self.process.pid) == "S", "the server to notice")
        self.waits = waits_of(self.process.pid)

    def wait_given_up(self):
        wait_until(lambda: self.state() is None, "the end of the connection")
        self.wait_noticed()

    def ends(self, status, words, pieces):
        self.fs.release()
        self.process.expect(status)
        eq(self.fs.count("fallocates"), pieces, f"{self.arguments}: pieces that were begun")
        matches(words, self.process.stderr())

    def is_answered(self):
        self.fs.release()
        self.client.answer(self.trim).check()
        eq(self.fs.count("fallocates"), 4, f"{self.arguments}: pieces")


@test("a link that goes down during a long trim: after --keepalive it ends before its next piece, with "
      "status 75, and not before that time")
def _(t):
    link = Link(t)
    gone, patient = (LongTrim(t, link, f"--keepalive={time_}") for time_ in ("3s", "1min"))
    link.set_up(False)
    gone.wait_given_up()
    elapsed = time.monotonic() - gone.heard
    gone.ends(EX_TIMED_OUT, "ended: client vanished: the connection timed out; ", pieces=1)
    assert elapsed >= 2.9, f"after {elapsed:.2f} s already"
    eq(patient.state(), ESTABLISHED)
    link.set_up(True)
    patient.is_answered()
    patient.client.disconnect()
    patient.process.expect(EX_OK)


@test("a TCP client that is killed during a long trim: one that leaves bytes unread ends it at once; "
      "otherwise the client's machine answers keepalive probes until it has forgotten the connection")
def _(t):
    link = Link(t)
    # How long that machine remembers it: net.ipv4.tcp_fin_timeout of ip(7), 60 s.
    link.there(Path("/proc/sys/net/ipv4/tcp_fin_timeout").write_text, "1")
    reset = LongTrim(t, link, "--keepalive=infinity")
    reset.client._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reset.client.close()
    reset.wait_given_up()
    reset.ends(EX_PROTOCOL, "ended: client vanished: the connection was reset; ", pieces=1)

    killed, half_closed = LongTrim(t, link, "--keepalive=2s"), LongTrim(t, link, "--keepalive=2s")
    never = LongTrim(t, link, "--keepalive=infinity")
    half_closed.client._socket.shutdown(socket.SHUT_WR)
    for one in (killed, never):
        one.client.close()
    for one in (killed, half_closed, never):
        one.wait_noticed()
    killed.wait_given_up()
    killed.ends(EX_PROTOCOL, "ended: client left without reading its replies; ", pieces=1)
    # Nothing asks that client's machine. And one that still reads answers.
    for one in (half_closed, never):
        eq(one.state(), CLOSE_WAIT, f"{one.arguments}: state")
    never.ends(EX_OK, "ended: client closed the connection; ", pieces=4)
    half_closed.is_answered()
    half_closed.process.expect(EX_OK)


if __name__ == "__main__":
    is_private = private_network()
    main()
