#!/usr/bin/python3
"""SIGUSR1 drains: a server goes and another one comes in its place, again and again, and clients that connect again see no
error and lose no write. The limit of the rate keeps requests under way whenever the signal comes.

tests/protocol/drain_test.cc has the bytes, pid1_nbdinetctl_test.py the command."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
from harness import *
from harness import (MIB, NBDINETD, Client, children_of, connect, contains, eq, main, need, test, wait_listening, wait_until)

SWAPS = 3
BLOCK = 16384
WRITES = 240
# Between two swaps: more than a client has under way, so that it has connected again by then.
FURTHER = 40


class Pair:
    """Two servers of one image, one after the other at one address."""

    def __init__(self, t, options=("--max-iops=100:10",)):
        self.t = t
        self.path = t.path("nbd.sock")
        self.image = t.sparse_image(4 * MIB)
        self.options = options
        self.logs = []
        self.begin()

    def begin(self):
        self.server = self.t.spawn([NBDINETD, "-f", f"--unix={self.path}", *self.options, self.image])
        wait_listening(self.path, self.server)

    def swap(self):
        self.server.signal(signal.SIGUSR1)
        self.server.expect(0)
        self.logs.append(self.server.stderr())
        self.begin()

    def check_drained(self):
        """Each server had a client when it was told to drain."""
        for log in self.logs:
            contains("ended: the connection has been drained", log)

    def check_writes(self):
        with open(self.image, "rb") as image:
            for number in range(WRITES):
                eq(image.read(BLOCK), bytes([number % 255 + 1]) * BLOCK, f"write {number}")


@test("qemu with reconnect-delay sees no error, and each write is there", waits=True)
def _(t):
    qemu_io = need("qemu-io")
    pair = Pair(t)
    options = f"driver=nbd,server.type=unix,server.path={pair.path},reconnect-delay=60"
    client = subprocess.Popen([qemu_io, "-t", "none", "--image-opts", options], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    t.defer(client.kill)

    def feed():
        for number in range(WRITES):
            client.stdin.write(f"aio_write -P {number % 255 + 1} {number * BLOCK} {BLOCK}\n")
        client.stdin.write("aio_flush\nflush\n")
        client.stdin.close()
    said = []

    def read():
        for line in client.stdout:
            said.append(line)
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    threading.Thread(target=feed, daemon=True).start()

    def wrote():
        return sum(line.count(f"wrote {BLOCK}/{BLOCK} bytes") for line in said)
    for _ in range(SWAPS):
        wait_until(lambda count=wrote() + FURTHER: wrote() >= count or client.poll() is not None, "writes")
        pair.swap()
    eq(client.wait(), 0, "".join(said)[-2000:])
    reader.join()
    eq(wrote(), WRITES, "".join(said)[-2000:])
    eq(re.search(r"error|fail", "".join(said), re.IGNORECASE), None)
    pair.check_drained()
    pair.check_writes()


@test("nbdkit's retry filter sees no error, and each write is there", waits=True)
def _(t):
    nbdkit = need("nbdkit")
    pair = Pair(t)
    front = t.path("front.sock")
    process = t.spawn([nbdkit, "-f", "--unix", front, "--filter=retry", "nbd", f"socket={pair.path}", "retries=60",
                       "retry-delay=1", "retry-exponential=no"])
    wait_listening(front, process)
    client = Client(connect(front)).start()
    t.defer(client.close)
    done = []

    def write():
        for number in range(WRITES):
            client.write(number * BLOCK, bytes([number % 255 + 1]) * BLOCK)
            done.append(number)
        client.flush()
        done.append("flush")
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    for _ in range(SWAPS):
        wait_until(lambda count=len(done) + FURTHER: len(done) >= count or not writer.is_alive(), "writes")
        pair.swap()
    writer.join()
    eq(done[-1], "flush")
    pair.check_drained()
    pair.check_writes()


@test("a listener that drains answers all that its clients have sent, refuses nothing, and ends with status 0")
def _(t):
    pair = Pair(t, ("--max-iops=20:1",))
    clients = [Client(connect(pair.path)).start() for _ in range(3)]
    cookies = [[client.request(0, 4096 * number, 4096) for number in range(50)] for client in clients]
    for client, sent in zip(clients, cookies):
        client.answer(sent[0]).check()
    pair.server.signal(signal.SIGUSR1)
    for client, sent in zip(clients, cookies):
        for cookie in sent[1:]:
            client.answer(cookie).check()
        client.expect_end()
        client.close()
    pair.server.expect(0)
    pair.logs.append(pair.server.stderr())
    pair.check_drained()


@test("SIGTERM after SIGUSR1 ends a listener whose clients stay")
def _(t):
    pair = Pair(t, ())
    client = Client(connect(pair.path)).start()
    # More than the sockets hold, and nobody reads.
    for _ in range(64):
        client.request(0, 0, MIB)
    wait_until(lambda: children_of(pair.server.pid), "the connection's process")
    pair.server.signal(signal.SIGUSR1)
    wait_until(lambda: not os.path.exists(pair.path), "the listener to have heard it")
    pair.server.signal(signal.SIGTERM)
    pair.server.expect(0)
    contains(" ended: ", pair.server.stderr())
    client.close()


if __name__ == "__main__":
    main()
