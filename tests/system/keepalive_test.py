#!/usr/bin/python3
"""A TCP client whose machine can't be reached: --keepalive ends the connection of a silent one,
--stall-timeout that of one with a reply on its way, and a client whose link comes back before that
keeps its connection.

The client's machine is a network namespace at the other end of a veth link. The link goes down there,
so that the server receives nothing any more, as after a loss of power or of the network. All cases
share the same two failures of the link, since each takes seconds.
"""

import ctypes
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402
from listening import *  # noqa: E402

SERVER, CLIENT = "10.99.0.1", "10.99.0.2"
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
is_private = False  # the network


def ip(*words):
    subprocess.run([need("ip"), *words], check=True, stdin=subprocess.DEVNULL)


class Link:
    """A link to a machine of its own, on which clients are."""

    def __init__(self, t):
        require(is_private, "needs a network of its own")
        self._server_ns = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._enter(None)
        self._client_ns = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._enter(self._server_ns)
        for descriptor in (self._server_ns, self._client_ns):
            t.defer(os.close, descriptor)
        target = f"/proc/{os.getpid()}/fd/{self._client_ns}"
        made = subprocess.run([need("ip"), "link", "add", "here", "type", "veth", "peer", "name",
                               "there", "netns", target], check=False, capture_output=True)
        if made.returncode:
            raise Skip(f"this kernel has no veth: {made.stderr.decode()}")
        t.defer(ip, "link", "delete", "here")
        ip("address", "add", f"{SERVER}/24", "dev", "here")
        ip("link", "set", "here", "up")
        self.there(ip, "address", "add", f"{CLIENT}/24", "dev", "there")
        self.set_up(True)

    def _enter(self, namespace):
        if (_libc.unshare(CLONE_NEWNET) if namespace is None else
                _libc.setns(namespace, CLONE_NEWNET)) != 0:
            raise OSError(ctypes.get_errno(), "a network namespace")

    def there(self, function, *arguments):
        """Calls it on the client's machine. A socket that it makes stays there."""
        self._enter(self._client_ns)
        try:
            return function(*arguments)
        finally:
            self._enter(self._server_ns)

    def set_up(self, up):
        self.there(ip, "link", "set", "there", "up" if up else "down")

    def connection(self):
        """(client's end, server's end)"""
        with socket.create_server((SERVER, 0)) as listener:
            client = self.there(socket.socket)
            client.settimeout(GUARD)
            client.connect(listener.getsockname())
            server, _ = listener.accept()
        return client, server


class Connection:
    """A client there, served here, and how long ago its machine was surely reachable."""

    def __init__(self, t, link, *arguments, kernel=None, structured=True):
        """With `kernel`, keepalive is on as a .socket unit may have it: (idle, interval, probes)."""
        ours, theirs = link.connection()
        t.defer(ours.close)
        if kernel:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in zip((socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL,
                                      socket.TCP_KEEPCNT), kernel):
                theirs.setsockopt(socket.IPPROTO_TCP, option, value)
        self.process = t.spawn([NBDINETD, *arguments, t.pattern_image(MIB)], fds={3: theirs},
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


if __name__ == "__main__":
    is_private = private_network()
    main()
