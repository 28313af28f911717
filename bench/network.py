"""A link of a certain length between two network namespaces (link.c), and what runs at its ends."""

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import lab
import servers

CLOSED_PORT = 9

_libc = ctypes.CDLL(None, use_errno=True)


def _inside(namespace, function):
    """What the function returns in that network namespace: a thread of its own is there."""
    outcome = []

    def work():
        CLONE_NEWNET = 0x40000000
        descriptor = os.open(namespace, os.O_RDONLY)
        try:
            if _libc.setns(descriptor, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns to {namespace}")
            outcome.append(function())
        except OSError as error:
            outcome.append(error)
        finally:
            os.close(descriptor)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(outcome[0], OSError):
        raise outcome[0]
    return outcome[0]


def _shortest_round_trip(tries=10):
    """Seconds until a port at which nobody listens refuses a connection."""
    taken = []
    for _ in range(tries):
        with socket.socket() as probe, contextlib.suppress(ConnectionRefusedError):
            start = time.perf_counter()
            probe.connect((lab.LINK_SERVER, CLOSED_PORT))
        taken.append(time.perf_counter() - start)
    return min(taken)


class Link:
    """Use as a context manager. The link and its namespaces end with it, and also when this process
    ends without leaving it."""

    def __init__(self, bench_lab, rtt_ms, mbit=1000):
        nsenter = lab.need_program("nsenter")
        if os.geteuid() != 0:
            raise lab.Unavailable("needs root, for network namespaces")
        self._process = subprocess.Popen(
            [str(word) for word in (bench_lab.program("link"), "--rtt", rtt_ms, "--rate", mbit)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True, preexec_fn=lab.die_with_parent)
        try:
            self._namespaces = self._process.stdout.readline().decode().split()
            if not self._namespaces:
                self._give_up(self._process.stderr.read().decode(errors="replace").strip())
        except BaseException:
            self._end()
            raise
        self.server = servers.Place()
        self.server.enter, self.client = ([nsenter, f"--net={namespace}"]
                                          for namespace in self._namespaces)
        self.server.listens_on, self.server.host = "0.0.0.0", lab.LINK_SERVER
        self.server.tcp_table = f"/proc/{self._process.pid}/net/tcp"

    @staticmethod
    def _give_up(reason):
        if not Path("/dev/net/tun").exists() or "No such device" in reason:
            raise lab.Unsupported(f"this kernel has no TUN interfaces: {reason}")
        raise lab.Unavailable(reason)

    def round_trip_ms(self):
        """What it is with nothing else under way, of the tries the shortest."""
        return _inside(self._namespaces[1], _shortest_round_trip) * 1e3

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        ended = self._process.poll() is not None
        said = self._end()
        if said:
            print(said, file=sys.stderr, flush=True)
        if ended:
            raise RuntimeError(f"the link ended before its time: {said}") from error

    def _end(self):
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        said = self._process.stderr.read().decode(errors="replace").strip()
        self._process.stdout.close()
        self._process.stderr.close()
        return said
