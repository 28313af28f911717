"""Clients on another machine: a network namespace of their own, at the other end of a veth pair, or of a
link that delays, limits and loses (bench/link.c)."""

import ctypes
import os
import signal
import socket
import subprocess
from pathlib import Path

from harness import BUILDDIR, GUARD, Skip, require, wait_until

_libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000


def enter_network(namespace=None):
    """Enters the namespace of a descriptor, or a new one."""
    if (_libc.unshare(CLONE_NEWNET) if namespace is None else
            _libc.setns(namespace, CLONE_NEWNET)) != 0:
        raise OSError(ctypes.get_errno(), "a network namespace")


class Machines:
    """Two namespaces with a link between them, given as descriptors. This process stays in the
    server's until the test ends."""

    def __init__(self, t, server, client, address):
        self._server, self._client, self.address = server, client, address
        for descriptor in (server, client):
            t.defer(os.close, descriptor)

    def there(self, function, *arguments):
        """Calls it on the client's machine. A socket that it makes stays there."""
        enter_network(self._client)
        try:
            return function(*arguments)
        finally:
            enter_network(self._server)

    def connection(self):
        """(client's end, server's end)"""
        with socket.create_server((self.address, 0)) as listener:
            client = self.there(socket.socket)
            client.settimeout(GUARD)
            client.connect(listener.getsockname())
            server, _ = listener.accept()
        return client, server


class Wire(Machines):
    """The machines at the ends of a link of bench/link.c with these options."""

    def __init__(self, t, *options):
        program = BUILDDIR / "bench" / "link"
        require(os.access(program, os.X_OK), "needs bench/link")
        # Not require(): no package and no privilege gives a kernel what it was built without.
        if not Path("/dev/net/tun").exists():
            raise Skip("this kernel has no TUN interfaces")
        link = subprocess.Popen([program, *map(str, options)], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._link = link
        t.defer(self._end, link)
        namespaces = link.stdout.readline().decode().split()
        if not namespaces:
            reason = link.stderr.read().decode()
            require("No such device" in reason, f"no link: {reason}")
            raise Skip(f"this kernel has no TUN interfaces: {reason}")
        here = os.open("/proc/self/ns/net", os.O_RDONLY)
        server, client = (os.open(name, os.O_RDONLY) for name in namespaces)
        super().__init__(t, server, client, "10.99.0.1")
        t.defer(os.close, here)
        t.defer(enter_network, here)
        enter_network(server)

    @staticmethod
    def _end(link):
        link.stdin.close()
        # It may be stopped.
        link.send_signal(signal.SIGCONT)
        try:
            link.wait(GUARD)
        finally:
            link.kill()
            link.wait()
            link.stdout.close()
            link.stderr.close()

    def stand_still(self, until, what):
        """Carries nothing, in either direction, until the condition is true."""
        self._link.send_signal(signal.SIGSTOP)
        try:
            wait_until(until, what)
        finally:
            self._link.send_signal(signal.SIGCONT)
