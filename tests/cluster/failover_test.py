#!/usr/bin/python3
"""HAProxy in front of two hosts, with a real NBD handshake as its health check: a host is killed while clients write,
they reconnect and go on at the other one, and every write that a flush has acknowledged is there.

The clients: one that speaks NBD by hand and repeats what no flush has covered, as a file system's journal or a copying program
would; and qemu's and nbdkit's, which repeat the one request that they have no answer to, and no other. For those a
host must have stored a write before it answers (--cache=directsync): a flush at the other host doesn't cover it.

--exclusive=wait keeps a second host from serving an export as long as the first one may still write to it: until the
cluster has evicted the host that is dead. The metadata server does that by itself after its session_timeout, or at once when
told to, as by a fencing agent; the thirty kills are with one, and one kill is without.

NBDINETD_KILLS says how many hosts are killed."""

import csv
import os
import random
import re
import signal
import socket
import statistics
import struct
import sys
import threading
import time
import traceback
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from harness import *
from ceph import SESSION_TIMEOUT_S
from hosts import ADDRESS, PORT, Host, boot_two, cluster, only_child, run

KILLS = int(os.environ.get("NBDINETD_KILLS", "30"))
DRAINS = max(1, KILLS // 3)
SYNC_PORT = PORT + 1  # of the service that stores each write before it answers
BLOCK, BLOCKS = 16 << 10, 64
WRITES = 4  # in a round, which ends with a flush
FAILOVER_GUARD = 120 * PATIENCE
IMAGES = ("hand", "qemu", "nbdkit")


# ------------------------------------------------------------------ HAProxy

_HAPROXY = """
global
  external-check
  insecure-fork-wanted
  stats socket {stats} mode 600 level admin
defaults
  mode tcp
  timeout connect 2s
  timeout check 20s
  timeout client 1h
  timeout server 1h
  option redispatch
  retries 3
  balance source
  default-server inter 1s fall 2 rise 1 on-marked-down shutdown-sessions
listen nbd
  bind {address}:{port}
  option external-check
  external-check path "/usr/bin:/bin"
  external-check command {probe}
  server a {a}:{port} check
  server b {b}:{port} check
listen nbd-sync
  bind {address}:{sync_port}
  server a {a}:{sync_port} track nbd/a
  server b {b}:{sync_port} track nbd/b
"""

NBDINETCTL = BUILDDIR / "src" / "nbdinetctl"


def write_probe(path):
    """A program that HAProxy runs to learn whether a server serves the export "health"."""
    Path(path).write_text("#!/bin/sh\n"
                          f'exec {NBDINETCTL} probe "nbd://$HAPROXY_SERVER_ADDR:$HAPROXY_SERVER_PORT/health"\n')
    os.chmod(path, 0o755)


class HAProxy:
    """Debian's HAProxy, whose health check is a handshake for an export of its own, which nobody writes to: it doesn't
    wait for what a dead host has left."""

    def __init__(self, t, a, b):
        self._stats, probe, config = t.fresh(".stats"), t.fresh(".probe"), t.fresh(".cfg")
        write_probe(probe)
        Path(config).write_text(_HAPROXY.format(stats=self._stats, address=ADDRESS, port=PORT, sync_port=SYNC_PORT,
                                                probe=probe, a=a.address, b=b.address))
        self.process = t.spawn([need("haproxy"), "-db", "-f", config])
        wait_until(lambda: os.path.exists(self._stats) or self.process.poll() is not None, "HAProxy")
        eq(self.process.poll(), None, self.process.stderr())
        for host in (a, b):
            self.wait(host, "UP")

    def command(self, line):
        """What it answers to a command of its administrator."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self._stats)
            connection.sendall(line.encode() + b"\n")
            with connection.makefile("r") as answer:
                return answer.read()

    def _servers(self):
        """Rows of servers: (listen, server) to the columns of HAProxy's statistics."""
        rows = csv.DictReader(self.command("show stat -1 4 -1").lstrip("# ").splitlines())
        return {(row["pxname"], row["svname"]): row for row in rows}

    def state(self, host):
        return self._servers()["nbd", host.name]["status"].split()[0]

    def sessions(self, host):
        """How many clients it has passed to the host, and are there."""
        return sum(int(row["scur"]) for (_, server), row in self._servers().items() if server == host.name)

    def wait(self, host, state):
        wait_until(lambda: self.state(host) == state, f"HAProxy to find host {host.name} {state}", FAILOVER_GUARD)


# ------------------------------------------------------------------ clients

class Writer(threading.Thread):
    """Writes rounds of a few blocks and a flush until it is told to stop. Every block says its number and the round."""

    def __init__(self, t, name):
        super().__init__(daemon=True)
        self.t, self.name = t, name
        self.process = None
        self.rounds = 0
        self.trouble = None
        self.longest_pause = 0.0  # between two answers
        self.retried = 0
        self.written = [0] * BLOCKS  # the round that each block is of
        self._random = random.Random(name)
        self._stop_asked = False
        self._answered_at = None

    def run(self):
        try:
            self.open()
            self._answered_at = time.monotonic()
            while not self._stop_asked:
                self.round(self._random.sample(range(BLOCKS), WRITES), self.rounds + 1)
                self.rounds += 1
            self.close()
        except BaseException:
            self.trouble = traceback.format_exc()

    def finish(self):
        self._stop_asked = True
        self.join(FAILOVER_GUARD)
        self.check()
        eq(self.is_alive(), False, f"{self.name} still runs")

    def check(self):
        if self.trouble:
            raise AssertionError(f"{self.name}: {self.trouble}")

    def note_answer(self):
        now = time.monotonic()
        self.longest_pause = max(self.longest_pause, now - self._answered_at)
        self._answered_at = now

    def last_words(self):
        """What may tell why it doesn't go on."""
        return f"{self.rounds} rounds; {self.process.stderr()[-1000:]}" if self.process else f"{self.rounds} rounds"

    def pause_since(self):
        """The longest pause since this was last asked."""
        result, self.longest_pause = self.longest_pause, 0.0
        return result

    @staticmethod
    def content(block, number):
        """The bytes of a block that was written in this round; of zero, nothing was."""
        return struct.pack(">II", block + 1, number) * (BLOCK // 8) if number else bytes(BLOCK)

    def image(self):
        return b"".join(self.content(block, number) for block, number in enumerate(self.written))


class ByHand(Writer):
    """Knows which writes a flush has covered, and repeats the others after a reconnection."""

    def open(self):
        self._client = None
        self._uncovered = {}  # block: rounds since the last flush
        self._reconnect()

    def _reconnect(self):
        """Connects as often as it takes, and looks whether all that was flushed is there."""
        while True:
            try:
                self._client = Client(connect((ADDRESS, PORT))).start("hand")
                for block in range(BLOCKS):
                    self._check_block(block)
                return
            except (Disconnected, OptionError, HangGuard, OSError):
                self._client = None
            time.sleep(0.1)

    def _check_block(self, block):
        got = self._client.read(block * BLOCK, BLOCK)
        allowed = [self.written[block], *self._uncovered.get(block, [])]
        if not any(got == self.content(block, number) for number in allowed):
            found = struct.unpack(">II", got[:8])
            raise AssertionError(f"block {block} is {found}, and not of a round of {allowed}")

    def _try(self, action):
        """Does it, on new connections as long as one ends within it."""
        while True:
            try:
                return action()
            except (Disconnected, HangGuard, OSError):
                self._reconnect()
                for block, numbers in self._uncovered.items():
                    self.retried += len(numbers)

    def round(self, blocks, number):
        for block in blocks:
            self._uncovered.setdefault(block, []).append(number)

        def write_all():
            cookies = [self._client.request(NBD_CMD_WRITE, block * BLOCK, payload=self.content(block, numbers[-1]))
                       for block, numbers in self._uncovered.items()]
            cookies.append(None)
            for cookie in cookies[:-1]:
                self._client.answer(cookie).check()
                self.note_answer()
            self._client.flush()
            self.note_answer()
        self._try(write_all)
        for block, numbers in self._uncovered.items():
            self.written[block] = numbers[-1]
        self._uncovered = {}

        def read_one():
            self._check_block(blocks[0])
            self.note_answer()
        self._try(read_one)

    def close(self):
        self._client.disconnect()


class ThroughNbdkit(Writer):
    """nbdkit's retry filter is the client of HAProxy. Nothing that fails there comes here."""

    def open(self):
        self._client = Client(connect(self.path)).start()

    def start(self):
        self.path = self.t.fresh(".sock")
        self.process = self.t.spawn([
            need("nbdkit"), "-f", "-v", "-U", self.path, "--filter=retry", "nbd", f"hostname={ADDRESS}", f"port={SYNC_PORT}",
            "export=nbdkit", "retries=1000", "retry-delay=1", "retry-exponential=no"])
        wait_listening(self.path, self.process)
        super().start()

    def _call(self, *request):
        """The answer, for which it waits as long as the cluster may need to give up a host."""
        cookie = self._client.request(*request)
        end = time.monotonic() + 10 * FAILOVER_GUARD
        while True:
            try:
                answer = self._client.answer(cookie).check()
                self.note_answer()
                return answer
            except HangGuard:
                if time.monotonic() > end:
                    raise

    def round(self, blocks, number):
        for block in blocks:
            self._call(NBD_CMD_WRITE, block * BLOCK, 0, 0, self.content(block, number))
            self.written[block] = number
        self._call(NBD_CMD_FLUSH)
        block = self._random.randrange(BLOCKS)
        got = self._call(NBD_CMD_READ, block * BLOCK, BLOCK).data
        eq(got == self.content(block, self.written[block]), True, f"block {block}")

    def close(self):
        self._client.disconnect()
        self.retried = len(re.findall(r"retry \d+: waiting", self.process.stderr()))


class ByQemu(Writer):
    """qemu-io with reconnect-delay. It writes bytes that are all the same, and checks what it reads."""

    def start(self):
        reading, writing = os.pipe()
        self._commands = os.fdopen(writing, "w", buffering=1)
        self.t.defer(self._commands.close)
        options = (f"driver=nbd,server.type=inet,server.host={ADDRESS},server.port={SYNC_PORT},export=qemu,"
                   f"reconnect-delay={int(10 * FAILOVER_GUARD)}")
        # To a file it would write what it prints when a buffer is full.
        self.process = self.t.spawn([need("stdbuf"), "-oL", need("qemu-io"), "--image-opts", options], fds={0: reading})
        os.close(reading)
        super().start()

    def open(self):
        self._prompts = 0
        self._wait_for_prompt()

    def _wait_for_prompt(self):
        self._prompts += 1

        def has_come():
            text = self.process.stdout()
            if "fail" in text or self.process.poll() is not None:
                raise AssertionError(f"qemu-io says: {text[-500:]} {self.process.stderr()[-500:]}")
            return text.count("qemu-io> ") >= self._prompts
        wait_until(has_come, "qemu-io", 10 * FAILOVER_GUARD)

    def _command(self, line):
        """One after the other: of two lines that have come together, it would look at the second only with the third."""
        self._commands.write(line + "\n")
        self._wait_for_prompt()
        self.note_answer()

    @staticmethod
    def content(block, number):
        return bytes([(block + number) % 255 + 1 if number else 0]) * BLOCK

    def round(self, blocks, number):
        for block in blocks:
            self._command(f"write -q -P {self.content(block, number)[0]} {block * BLOCK} {BLOCK}")
            self.written[block] = number
        self._command("flush")
        block = self._random.randrange(BLOCKS)
        self._command(f"read -P {self.content(block, self.written[block])[0]} {block * BLOCK} {BLOCK}")

    def close(self):
        self._commands.write("quit\n")
        self.process.expect(0)


# ------------------------------------------------------------------ the test's machines

def serve(host):
    # ceph-fuse keeps what is written until a flush.
    host.serve("--exclusive=wait", "--cache=writeback", f"--directory={host.root}")
    host.serve("--exclusive=wait", "--cache=directsync", f"--directory={host.root}", port=SYNC_PORT)


def start(t):
    """(hosts, HAProxy), with empty images."""
    hosts = boot_two(t, fuse_options=("--fuse_disable_pagecache=true",))
    for name in (*IMAGES, "health"):
        with open(hosts[0].path(name), "wb") as file:
            file.truncate(BLOCKS * BLOCK)
    for host in hosts:
        serve(host)
    return hosts, HAProxy(t, *hosts)


def wait_for_rounds(writers, more, what):
    """Every writer comes so much further."""
    wanted = {writer: writer.rounds + more for writer in writers}

    def reached():
        for writer in writers:
            writer.check()
        return all(writer.rounds >= number for writer, number in wanted.items())
    try:
        wait_until(reached, what, FAILOVER_GUARD)
    except HangGuard as hang:
        late = [f"{writer.name}: {writer.last_words()}" for writer in writers if writer.rounds < wanted[writer]]
        raise HangGuard(f"{hang}; {late}") from None


def host_in_use(hosts, haproxy):
    return wait_until(lambda: next((host for host in hosts if haproxy.sessions(host)), None), "a host in use")


def check_images(t, writers):
    """A third host finds what the writers have written, to the last byte."""
    judge = Host(t, "c").boot()
    lost = 0
    for writer in writers:
        got, wanted = Path(judge.path(writer.name)).read_bytes(), writer.image()
        lost += sum(got[at:at + BLOCK] != wanted[at:at + BLOCK] for at in range(0, len(wanted), BLOCK))
    note(f"{sum(writer.rounds for writer in writers) * WRITES} writes, lost: {lost}")
    eq(lost, 0, "lost writes")


def figures(name, seconds):
    return (f"{name}: median {statistics.median(seconds):.1f} s, most {max(seconds):.1f} s")


# ------------------------------------------------------------------ the tests

@test(f"{KILLS} hosts are killed while clients write: they go on at the other, and no flushed write is lost",
      guard=TEST_GUARD + KILLS * FAILOVER_GUARD)
def _(t):
    hosts, haproxy = start(t)
    writers = [ByHand(t, "hand"), ByQemu(t, "qemu"), ThroughNbdkit(t, "nbdkit")]
    for writer in writers:
        writer.start()
    gaps, detections = {writer.name: [] for writer in writers}, []
    chance = random.Random(1)
    for number in range(KILLS):
        wait_for_rounds(writers, 2, "all clients to write")
        victim = host_in_use(hosts, haproxy)
        time.sleep(chance.random() / 10)  # anywhere within a round
        for writer in writers:
            writer.pause_since()
        began = time.monotonic()
        # The power fails, and nobody hears of it; or its processes end, and its kernel closes their connections.
        if number % 2:
            victim.cut()
        victim.kill()
        haproxy.wait(victim, "DOWN")
        detections.append(time.monotonic() - began)
        cluster().evict(victim.address)
        wait_for_rounds(writers, 2, "all clients to go on")
        for writer in writers:
            gaps[writer.name].append(writer.pause_since())
        victim.heal()
        victim.boot()
        serve(victim)
        haproxy.wait(victim, "UP")
    for writer in writers:
        writer.finish()
    note(figures("until HAProxy finds the host dead", detections))
    for writer in writers:
        note(figures(f"gap of the client {writer.name}", gaps[writer.name]) +
             (f"; {writer.retried} requests retried" if writer.retried else ""))
    check_images(t, writers)


@test("without anybody's help, the metadata server gives up a dead host, and the client goes on",
      guard=TEST_GUARD + FAILOVER_GUARD + 4 * SESSION_TIMEOUT_S)
def _(t):
    hosts, haproxy = start(t)
    writer = ByHand(t, "hand")
    writer.start()
    wait_for_rounds([writer], 2, "the client to write")
    victim = host_in_use(hosts, haproxy)
    sessions = cluster().sessions(victim.address)
    writer.pause_since()
    victim.cut()
    victim.kill()
    wait_for_rounds([writer], 2, "the client to go on")
    note(f"gap: {writer.pause_since():.0f} s, session_timeout {SESSION_TIMEOUT_S} s")
    eq(cluster().sessions(victim.address), [], "sessions of the dead host")
    address = sessions[0]["entity"]["addr"]
    contains(f"{address['addr']}/{address['nonce']}", cluster().blocklist())
    writer.finish()
    check_images(t, [writer])


@test(f"{DRAINS} times a host is drained for maintenance: no client sees an error",
      guard=TEST_GUARD + DRAINS * FAILOVER_GUARD)
def _(t):
    hosts, haproxy = start(t)
    writers = [ByHand(t, "hand"), ByQemu(t, "qemu"), ThroughNbdkit(t, "nbdkit")]
    for writer in writers:
        writer.start()
    gaps = {writer.name: [] for writer in writers}
    for _ in range(DRAINS):
        wait_for_rounds(writers, 2, "all clients to write")
        host = host_in_use(hosts, haproxy)
        for writer in writers:
            writer.pause_since()
        # As an agent tells HAProxy, and `nbdinetctl drain` the services.
        for listen in ("nbd", "nbd-sync"):
            haproxy.command(f"set server {listen}/{host.name} state drain")
        services = host.services()
        for service in services:
            os.kill(only_child(service), signal.SIGUSR1)
        for service in services:
            service.expect(EX_OK)
        wait_for_rounds(writers, 2, "all clients to go on")
        for writer in writers:
            gaps[writer.name].append(writer.pause_since())
        serve(host)
        for listen in ("nbd", "nbd-sync"):
            haproxy.command(f"set server {listen}/{host.name} state ready")
        haproxy.wait(host, "UP")
    for writer in writers:
        writer.finish()
        note(figures(f"gap of the client {writer.name}", gaps[writer.name]) +
             (f"; {writer.retried} requests repeated" if writer.retried else ""))
    check_images(t, writers)


if __name__ == "__main__":
    run()
