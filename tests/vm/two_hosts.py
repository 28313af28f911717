"""Two hosts that mount the same file system, as namespaces of one machine, and what doc/storage-promises.md says of
such a file system: each of these functions is the test of a column.

nbdinetd is behind a Unix socket on each, so that the tests' clients reach a host that is cut off from its storage."""

import os
import random
import subprocess
import time
from pathlib import Path

# pylint: disable=wildcard-import,unused-wildcard-import
from harness import *

ROOT = Path("/mnt")  # where each host has the mount
SIZE = 4 * MIB
ROUNDS, LOST_ROUNDS = 120, 400
BRIDGE = "bridge"


def ip(*arguments):
    subprocess.run(["ip", *map(str, arguments)], check=True)


def make_bridge(address):
    ip("link", "add", "name", BRIDGE, "type", "bridge")
    ip("addr", "add", f"{address}/24", "dev", BRIDGE)
    ip("link", "set", BRIDGE, "up")


class Host:
    """A machine that serves the image "disk"."""

    def __init__(self, t, name, address, mount):
        """`mount` is the command that mounts the file system at ROOT."""
        self.t, self.name = t, name
        self._socket = None
        self._init = t.spawn(["unshare", "--net", "--mount", "--uts", "sh", "-ec",
                              f"echo host-{name} >/proc/sys/kernel/hostname; exec sleep infinity"])
        wait_until(lambda: os.readlink(f"/proc/{self._init.pid}/ns/uts") != os.readlink("/proc/self/ns/uts"), "unshare")
        self._link = f"host-{name}"
        ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self._init.pid)
        t.defer(ip, "link", "del", self._link)
        ip("link", "set", self._link, "master", BRIDGE, "up")
        self.run(["sh", "-ec", f"ip link set lo up; ip addr add {address}/24 dev eth0; ip link set eth0 up"])
        self.run([*mount, ROOT])
        t.defer(self.run, ["umount", "-f", ROOT])

    @property
    def _prefix(self):
        return ["nsenter", f"--target={self._init.pid}", "--net", "--mount", "--uts", "--"]

    def run(self, argv, **how):
        return self.t.run([*self._prefix, *argv], **how)

    def path(self, name):
        return Path(f"/proc/{self._init.pid}/root{ROOT}/{name}")

    def check(self, *options):
        """What `nbdinetd --check` says of the image."""
        return self.run([NBDINETD, "--check", *options, ROOT / "disk"]).stdout()

    def serve(self, *options):
        self._socket = self.t.fresh(".sock")
        service = self.t.spawn([*self._prefix, NBDINETD, "-f", "-U", self._socket, *options, ROOT / "disk"])

        def is_up():
            eq(service.poll(), None, service.stderr())
            try:
                self.connect().close()
                return True
            except OSError:
                return False
        # /proc/net/unix has only the sockets of this network.
        wait_until(is_up, f"host {self.name}")
        return self

    def connect(self):
        return connect(self._socket)

    def client(self, **how):
        return Client(self.connect()).start("disk", **how)

    def cut(self):
        """The network cable is pulled."""
        ip("link", "set", self._link, "down")

    def heal(self):
        ip("link", "set", self._link, "up")

    def operations(self, name):
        """How many requests of this name an NFS mount has sent."""
        text = Path(f"/proc/{self._init.pid}/mountstats").read_text().partition(f" mounted on {ROOT} ")[2]
        line, = [line for line in text.splitlines() if line.strip().startswith(f"{name}: ")]
        return int(line.split()[1])


def serve_both(hosts, *options):
    """An empty image at both."""
    with open(hosts[0].path("disk"), "wb") as file:
        file.truncate(SIZE)
    return [host.serve(*options) for host in hosts]


def promise_is(clients, promised):
    for client in clients:
        eq(bool(client.flags & NBD_FLAG_CAN_MULTI_CONN), promised, "CAN_MULTI_CONN")


# ------------------------------------------------------------------ hosts, hosts without cache

def _whole_blocks(number):
    return number % 120 * 16384, 4096 * (1 + number % 4)


def _parts_of_blocks(number):
    return number % 120 * 16384 + 100 * (number % 7), 200 + number


def _count_stale(clients, range_of):
    stale = 0
    for number in range(ROUNDS):
        offset, length = range_of(number)
        writer, reader = clients if number % 2 else reversed(clients)
        reader.read(offset, length)
        data = random.Random(number).randbytes(length)
        writer.write(offset, data)
        writer.flush()
        stale += reader.read(offset, length) != data
    return stale


def count_stale(clients):
    """How often what one host has written and flushed isn't what the other one reads, which had read the old bytes:
    (of whole blocks, of parts of blocks)."""
    result = tuple(_count_stale(clients, range_of) for range_of in (_whole_blocks, _parts_of_blocks))
    note(f"of {ROUNDS} reads were stale: {result[0]} of whole blocks, {result[1]} of parts of blocks")
    return result


def count_lost(clients):
    """Both hosts write parts of the same blocks at the same time: how often one of them is missing in the end."""
    def part(number, side):
        return bytes([1 + (number + 50 * side) % 255]) * 256
    cookies = [(client, client.request(NBD_CMD_WRITE, number * 4096 + 256 * side, payload=part(number, side)))
               for number in range(LOST_ROUNDS) for side, client in enumerate(clients)]
    for client, cookie in cookies:
        client.answer(cookie).check()
    for client in clients:
        client.flush()
    lost = sum(client.read(number * 4096, 512) != part(number, 0) + part(number, 1)
               for number in range(LOST_ROUNDS) for client in clients)
    note(f"{lost} of {2 * LOST_ROUNDS} reads of a block that both hosts wrote to lacked a part")
    return lost


# ------------------------------------------------------------------ holes

def check_holes(clients):
    """Each change of one host shows in what the other one tells of holes: only where there are zeroes. Returns how
    many bytes were told to be in holes."""
    content, generator, told = bytearray(SIZE), random.Random(3), 0
    for number in range(16):
        here, there = clients if number % 2 else reversed(clients)
        length = generator.choice((4096, 65536, 524288))
        offset = generator.randrange(SIZE - length + 1) // 4096 * 4096
        if number // 2 % 2:
            here.trim(offset, length)
            content[offset:offset + length] = bytes(length)
        else:
            data = generator.randbytes(length).replace(b"\0", b"\1")
            here.write(offset, data)
            content[offset:offset + length] = data
        here.flush()
        same_bytes(there.read(0, SIZE), content, 0, f"after change {number}")
        at = 0
        while at < SIZE:
            for length, state in there.block_status(at, SIZE - at):
                if state:
                    told += length
                    eq(content.count(0, at, at + length), length, f"zeroes in the hole at {at} after change {number}")
                at += length
    note(f"{told} bytes were told to be in holes, while {SIZE * 16} were asked for")
    return told


# ------------------------------------------------------------------ locks; the hosts serve with --exclusive

def _asked(host):
    """(type of the last reply to NBD_OPT_GO, the client)"""
    client = Client(host.connect())
    client.handshake()
    client.option(NBD_OPT_GO, Client.info_bytes("disk"))
    while (reply := client.option_reply(NBD_OPT_GO))[0] == NBD_REP_INFO:
        pass
    return reply[0], client


def _served_at_last(host):
    def ask():
        kind, client = _asked(host)
        if kind == NBD_REP_ACK:
            return client
        client.close()
        return None
    return wait_until(ask, f"host {host.name} to serve")


def one_client_at_a_time(hosts):
    for here, there in (hosts, reversed(hosts)):
        client = _served_at_last(here)
        eq(_asked(there)[0], NBD_REP_ERR_POLICY, f"the answer of host {there.name}")
        client.disconnect()


def cut_off_host_writes_no_more(hosts):
    """One host is cut off from the storage while it writes. The other one serves when the storage has given the first
    one up. When the network is back, writes of the first one change nothing, and its client hears of that."""
    (a, b), length = hosts, 65536
    old = _served_at_last(a)
    old.write(0, b"1" * length)
    old.flush()
    a.cut()
    late = old.request(NBD_CMD_WRITE, 0, payload=b"2" * length)
    began = time.monotonic()
    new = _served_at_last(b)
    note(f"the other host serves after {time.monotonic() - began:.1f} s")
    new.write(0, b"3" * length)
    new.flush()
    a.heal()
    began = time.monotonic()
    errors = [old.answer(late).error]
    for command, payload in ((NBD_CMD_WRITE, b"4" * length), (NBD_CMD_FLUSH, b"")):
        errors.append(old.answer(old.request(command, 0, payload=payload)).error)
    note(f"errors of its late write, a later one and a flush: {errors}, {time.monotonic() - began:.1f} s after the "
         "network is back")
    eq(0 in errors[:2] and errors[2] == 0, False, "a flush has succeeded after a write that was lost")
    eq(new.read(0, length) == b"3" * length, True, "what the new host has written is there")
