#!/usr/bin/python3
"""The kernel's own client and two hosts that serve one image, with a balancer before them: the host in use is killed,
or drained, while a program writes to the device. Some ways of setting up the device hide that from the program, and
others don't (nbdinetd-cluster(8), CLIENTS).

The hosts are two listening services on two addresses of one machine: their kernel keeps what they have written.
tests/cluster/failover_test.py has hosts that lose their memory.

NBDINETD_KILLS says how many hosts are killed."""

import errno
import mmap
import os
import random
import signal
import socket
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
from machine import run_inside
from nbd_netlink import LastingDevice

KILLS = int(os.environ.get("NBDINETD_KILLS") or 6)
DRAINS = 4
PORT = 10809
BLOCK, BLOCKS = 16 << 10, 64
WRITES = 4  # in a round, which ends with fsync(2)
# The kernel repeats a request that has no answer for so long. A host that is slower than that is left, too.
REQUEST_TIMEOUT_S = 5
RECONNECT_GUARD = 6 * GUARD


def prepare(payload):
    payload.write("root/etc/modules-load.d/nbd.conf", "nbd\n")


# ------------------------------------------------------------------ hosts and balancer

class Host:
    """A listening service with an address of its own."""

    def __init__(self, t, address, image):
        self._t, self.address, self._image = t, address, image
        self._service = None

    def start(self):
        with socket.create_server((self.address, PORT), backlog=64) as door:
            self._service = self._t.spawn([NBDINETD, "--exclusive=wait", self._image], fds={3: door}, listen_fds=1,
                                          listen_pid="own")

    def kill(self):
        """All of its processes at once; then nobody listens there."""
        for pid in (self._service.pid, *children_of(self._service.pid)):
            os.kill(pid, signal.SIGKILL)
        self._service.wait()

    def drain(self):
        self._service.signal(signal.SIGUSR1)
        self._service.expect(EX_OK)


class Balancer:
    """Passes each client to the host that it used last, or to the other one when that refuses."""

    ADDRESS = ("127.0.0.1", PORT)

    def __init__(self, t, hosts):
        self._hosts, self.current = list(hosts), None
        self._door = socket.create_server(self.ADDRESS)
        t.defer(self._close)
        threading.Thread(target=self._accept, daemon=True).start()

    def _close(self):
        # accept(2) would keep it open.
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._door.accept()
            except OSError:
                return
            server = self._connect()
            if server is None:
                client.close()
                continue
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _connect(self):
        for host in list(self._hosts):
            try:
                server = socket.create_connection((host.address, PORT))
            except OSError:
                self._hosts.reverse()
                continue
            self.current = host
            return server
        return None

    @staticmethod
    def _pump(source, target):
        """Both connections end when one of them does."""
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Cluster:
    def __init__(self, t):
        self.image = t.sparse_image(BLOCK * BLOCKS)
        self.hosts = [Host(t, f"127.0.0.{2 + number}", self.image) for number in range(2)]
        for host in self.hosts:
            host.start()
        self.balancer = Balancer(t, self.hosts)


# ------------------------------------------------------------------ a program that writes

class Writer(threading.Thread):
    """Writes rounds of a few blocks and an fsync(2) to a device until it is told to stop. Every block says its number
    and the round."""

    def __init__(self, path):
        super().__init__(daemon=True)
        # Each write is a request, and its error the writer's.
        self._file = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        self.rounds, self.trouble, self.written = 0, None, [0] * BLOCKS
        self.longest_pause = 0.0  # between two answers
        self._random, self._buffer = random.Random(path), mmap.mmap(-1, BLOCK)
        self._answered_at, self._stop_asked = time.monotonic(), False

    @staticmethod
    def content(block, number):
        return struct.pack(">II", block + 1, number) * (BLOCK // 8) if number else bytes(BLOCK)

    def run(self):
        try:
            while not self._stop_asked:
                self._round(self.rounds + 1)
                self.rounds += 1
        except OSError as error:
            self.trouble = error
        except BaseException:
            self.trouble = traceback.format_exc()
        finally:
            os.close(self._file)

    def _round(self, number):
        blocks = self._random.sample(range(BLOCKS), WRITES)
        for block in blocks:
            self._buffer[:] = self.content(block, number)
            self._note_answer(os.pwritev(self._file, [self._buffer], block * BLOCK))
        os.fsync(self._file)
        for block in blocks:
            self.written[block] = number
        block = self._random.randrange(BLOCKS)
        self._note_answer(os.preadv(self._file, [self._buffer], block * BLOCK))
        same_bytes(bytes(self._buffer), self.content(block, self.written[block]), block * BLOCK, f"round {number}")

    def _note_answer(self, length):
        eq(length, BLOCK)
        now = time.monotonic()
        self.longest_pause = max(self.longest_pause, now - self._answered_at)
        self._answered_at = now

    def wait_for_rounds(self, more):
        wanted = self.rounds + more
        wait_until(lambda: self.rounds >= wanted or self.trouble, "the program to write", RECONNECT_GUARD)
        eq(self.trouble, None)

    def finish(self):
        self._stop_asked = True
        self.join(RECONNECT_GUARD)
        eq(self.is_alive(), False, "the program still writes")
        eq(self.trouble, None)


def end_hosts(cluster, writer, number, end):
    """Ends the host in use so many times, by end(host), while the program writes, and starts it anew. Returns the
    longest pause of each time, in seconds."""
    pauses, chance = [], random.Random(number)
    for _ in range(number):
        writer.wait_for_rounds(2)
        time.sleep(chance.random() / 5)  # anywhere within a round
        writer.longest_pause = 0.0
        host = cluster.balancer.current
        end(host)
        writer.wait_for_rounds(2)
        if cluster.balancer.current is host:
            raise AssertionError("the balancer has not gone to the other host")
        pauses.append(writer.longest_pause)
        host.start()
    return pauses


def kill_and_drain(t, device, path):
    """Every write is there in the end, and the program has seen no error."""
    cluster = Cluster(t)
    device = device(cluster)
    writer = Writer(path)
    writer.start()
    for what, number, end in (("killed", KILLS, Host.kill), ("drained", DRAINS, Host.drain)):
        pauses = end_hosts(cluster, writer, number, end)
        note(f"{number} hosts {what}; the longest pause of each, in s: {' '.join(f'{pause:.1f}' for pause in pauses)}")
    writer.finish()
    note(f"{writer.rounds * WRITES} writes")
    got = Path(cluster.image).read_bytes()
    for block, number in enumerate(writer.written):
        offset = block * BLOCK
        same_bytes(got[offset:offset + BLOCK], writer.content(block, number), offset, f"block {block}")
    return device


# ------------------------------------------------------------------ the tests

@test(f"a device that a program reconnects by netlink: {KILLS} hosts are killed and {DRAINS} drained, no write fails",
      guard=(KILLS + DRAINS) * RECONNECT_GUARD)
def _(t):
    def device(_cluster):
        result = LastingDevice(t, "", Balancer.ADDRESS, REQUEST_TIMEOUT_S)
        result.keep()
        return result
    used = kill_and_drain(t, device, LastingDevice.PATH)
    note(f"{used.reconnections} reconnections")
    eq(used.reconnections >= KILLS + DRAINS, True, "reconnections")
    used.detach()


@test(f"a device of qemu-nbd's with reconnect-delay: {KILLS} hosts are killed and {DRAINS} drained, no write fails",
      guard=(KILLS + DRAINS) * RECONNECT_GUARD)
def _(t):
    path = "/dev/nbd2"

    def device(_cluster):
        host, port = Balancer.ADDRESS
        # Without -v, it would leave the foreground.
        result = t.spawn([need("qemu-nbd"), f"--connect={path}", "-v", "--cache=none", "--image-opts",
                          f"driver=raw,file.driver=nbd,file.server.type=inet,file.server.host={host},"
                          f"file.server.port={port},file.reconnect-delay={int(RECONNECT_GUARD)}"])
        wait_until(lambda: Path("/sys/block/nbd2/size").read_text() != "0\n" or result.poll() is not None, "the device")
        eq(result.poll(), None, result.stderr())
        return result
    used = kill_and_drain(t, device, path)
    t.run([need("qemu-nbd"), "--disconnect", path])
    used.expect(0)


def fails_after_kill(t, path, *options):
    """A program that writes to a device of `nbd-client -persist` gets EIO when the host in use is killed. Returns that
    nbd-client."""
    cluster = Cluster(t)
    client = t.spawn(["nbd-client", "-persist", "-timeout", REQUEST_TIMEOUT_S, *options, *Balancer.ADDRESS, path])
    wait_until(lambda: int(Path("/sys/block", Path(path).name, "size").read_text()) > 0, "the device to have a size")
    t.defer(t.run, ["nbd-client", "-d", path], None)
    writer = Writer(path)
    writer.start()
    writer.wait_for_rounds(2)
    cluster.balancer.current.kill()
    wait_until(lambda: writer.trouble, "an error", RECONNECT_GUARD)
    if not isinstance(writer.trouble, OSError):
        raise AssertionError(f"the program has ended by something else: {writer.trouble}")
    writer.join()
    eq(errno.errorcode[writer.trouble.errno], "EIO", "the program's error")
    return client


# These hold the manual, which says so, to what there is.

@test("nbd-client -persist sets up a device by netlink and ends: its requests fail when the host in use is killed")
def _(t):
    fails_after_kill(t, "/dev/nbd3").expect(0)


@test("nbd-client -persist -nonetlink ends when the host in use is killed: its device is gone, and requests fail")
def _(t):
    fails_after_kill(t, "/dev/nbd4", "-nonetlink", "-nofork").expect(0)


run_inside(prepare, processors=2)
