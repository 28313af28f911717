#!/usr/bin/python3
"""Two hosts serve one image of a CephFS at the same time: what one has written is what the other reads, and tells
of holes.

ceph-fuse knows when another host changes a file, but the kernel's page cache above it doesn't: pages that have been
read stay as they are. Two ways around it are tested, `--cache=none` and a mount without that cache, and that nothing is promised
where neither is used.

NBDINETD_CLUSTER_SECONDS says how long the random requests of each kind of connection go on."""

import os
import random
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from harness import *
from hosts import Host, PORT, boot_two, run

SECONDS = float(os.environ.get("NBDINETD_CLUSTER_SECONDS", "9"))
TORTURE = BUILDDIR / "tests" / "torture" / "torture_test"
SIZE = 16 * MIB + 512 + 101
ROUNDS = 300
# A few bytes, a page, what is sent from the page cache without a copy where that is used, and more than a reply's chunk.
LENGTHS = (1, 200, 512, 4096, 12345, 64 << 10, 300 << 10, MIB)

# What excludes the page cache: options of ceph-fuse, and of nbdinetd, which can't see those of ceph-fuse.
NO_PAGE_CACHE = {
    "--cache=none": ((), ("--cache=none",)),
    "a mount without page cache": (("--fuse_disable_pagecache=true",), ("--cache=writeback", "--multi-conn=on")),
}
DEFAULTS = ((), ())


def serve_both(t, way, content=None):
    """Two hosts that serve the image "disk" with this content."""
    fuse_options, options = way
    hosts = boot_two(t, fuse_options=fuse_options)
    with open(hosts[0].path("disk"), "wb") as file:
        file.write(content if content is not None else b"")
        file.truncate(SIZE)
    for host in hosts:
        host.serve(*options, export="disk")
    return hosts


def is_zero_or(got, old, what):
    """Each byte is the old one or zero, as after a trim."""
    for at, (new, before) in enumerate(zip(got, old)):
        if new not in (0, before):
            raise AssertionError(f"{what}: byte {at} is {new}, neither 0 nor {before}")


def write_here_read_there(t, way):
    """Every range is read by the reader before the other host writes it, so that what a host has kept would show."""
    clients = [host.client() for host in serve_both(t, way)]
    generator = random.Random(1)
    flags = clients[0].flags & clients[1].flags
    eq(flags & NBD_FLAG_CAN_MULTI_CONN, NBD_FLAG_CAN_MULTI_CONN, "CAN_MULTI_CONN")
    for writer, reader in (clients, reversed(clients)):
        for number in range(ROUNDS):
            length = LENGTHS[number % len(LENGTHS)]
            offset = generator.randrange(SIZE - length + 1)
            if generator.random() < 0.5:
                offset -= offset % 512
            reader.read(offset, length)
            data = generator.randbytes(length)
            # A flush, or a write that is one.
            if number % 2:
                writer.write(offset, data)
                writer.flush()
            else:
                writer.write(offset, data, NBD_CMD_FLAG_FUA)
            same_bytes(reader.read(offset, length), data, offset, f"write {number} of {length} bytes")
    for client in clients:
        client.disconnect()


def on_its_way(t, way):
    """A reply that waits for a client that reads slowly: what the other host changes meanwhile may be in it, and
    nothing else may."""
    data = random.Random(2).randbytes(2 * MIB).replace(b"\0", b"\1")
    offset, length = 20001, 5000
    here, there = serve_both(t, way, data)
    for change in (lambda client: client.write(offset, b"\2" * length), lambda client: client.trim(offset, length),
                   lambda client: client.write_zeroes(offset, length)):
        slow, other = here.client(), there.client()
        other.write(0, data)
        other.flush()
        cookies = [slow.request(NBD_CMD_READ, 0, MIB) for _ in range(8)]
        change(other)
        other.flush()
        for cookie in cookies:
            got = slow.answer(cookie).check().data
            same_bytes(got[:offset], data[:offset], 0, "before the change")
            same_bytes(got[offset + length:], data[offset + length:MIB], offset + length, "behind the change")
        for client in (slow, other):
            client.disconnect()


def check_holes(client, content, what):
    """The block status has no hole but where the content is zeroes; a read agrees. Returns how much it told."""
    offset, told = 0, 0
    while offset < SIZE:
        for length, state in client.block_status(offset, SIZE - offset):
            eq(state in (0, NBD_STATE_HOLE | NBD_STATE_ZERO), True, f"{what}: the state {state} of an extent")
            if state:
                told += length
                if content.count(0, offset, offset + length) != length:
                    raise AssertionError(f"{what}: a hole is told at {offset}, length {length}, and there is data")
            offset += length
    return told


def holes(t, way):
    generator = random.Random(3)
    content = bytearray(SIZE)
    content[MIB:3 * MIB] = generator.randbytes(2 * MIB).replace(b"\0", b"\1")
    hosts = serve_both(t, way, bytes(content))
    clients = [host.client(contexts=("base:allocation",)) for host in hosts]
    told = 0
    for number in range(40):
        here, there = clients if number % 2 else reversed(clients)
        told += check_holes(there, content, f"before change {number}")
        length = generator.choice((4096, 64 << 10, MIB))
        offset = generator.randrange(SIZE - length + 1) // 4096 * 4096
        kind = number // 2 % 3
        if kind == 0:
            data = generator.randbytes(length).replace(b"\0", b"\1")
            here.write(offset, data)
            content[offset:offset + length] = data
        elif kind == 1:
            here.write_zeroes(offset, length)
            content[offset:offset + length] = bytes(length)
        else:
            here.trim(offset, length)
        here.flush()
        if kind == 2:
            got = there.read(offset, length)
            is_zero_or(got, content[offset:offset + length], f"trim {number}")
            content[offset:offset + length] = got
            same_bytes(here.read(offset, length), got, offset, f"trim {number} at both hosts")
        told += check_holes(there, content, f"after change {number}")
        same_bytes(there.read(0, SIZE), content, 0, f"after change {number}")
    note(f"{told} bytes were told to be holes")
    for client in clients:
        client.disconnect()


def torture(t, way):
    require(TORTURE.exists(), "needs tests/torture/torture_test, which is built where GoogleTest is found")
    hosts = serve_both(t, way)
    # A third one compares what there is in the end, and nothing that it has seen before.
    judge = Host(t, "c", fuse_options=NO_PAGE_CACHE["a mount without page cache"][0]).boot()
    environment = {
        "NBDINETD_TORTURE_EXPORT": judge.root / "disk",
        "NBDINETD_TORTURE_SERVERS": " ".join(f"{host.address}:{PORT}" for host in hosts),
        "NBDINETD_TORTURE_SECONDS": SECONDS,
    }
    process = judge.spawn([TORTURE, "--gtest_filter=Torture.*"], env=environment)
    status = process.wait(TEST_GUARD + 4 * SECONDS)
    if status != 0:
        raise AssertionError(f"torture_test: exit status {status}\n{process.stdout()}{process.stderr()}")
    for line in process.stdout().splitlines():
        if " requests on " in line:
            note(line[2:])


def _tests_of(name, way):
    @test(f"{name}: what is flushed at one host is read at the other, {ROUNDS} times in each direction")
    def _(t):
        write_here_read_there(t, way)

    @test(f"{name}: a change at one host shows in a reply that is on its way, and changes nothing beside it")
    def _(t):
        on_its_way(t, way)

    @test(f"{name}: a hole is told only where there are zeroes, whichever host made it")
    def _(t):
        holes(t, way)

    @test(f"{name}: random requests at both hosts against the model", guard=2 * TEST_GUARD + 4 * SECONDS)
    def _(t):
        torture(t, way)


for each in NO_PAGE_CACHE.items():
    _tests_of(*each)


@test("with the defaults of both, a host promises CAN_MULTI_CONN only if it shows what the other has written")
def _(t):
    clients = [host.client() for host in serve_both(t, DEFAULTS)]
    stale = 0
    for number in range(60):
        writer, reader = clients if number % 2 else reversed(clients)
        length, offset = LENGTHS[number % len(LENGTHS)], number * 4096
        reader.read(offset, length)
        data = random.Random(number).randbytes(length)
        writer.write(offset, data)
        writer.flush()
        stale += reader.read(offset, length) != data
    note(f"{stale} of 60 reads were stale")
    for client in clients:
        eq(bool(client.flags & NBD_FLAG_CAN_MULTI_CONN) and stale > 0, False, "promised and not kept")
        client.disconnect()


@test("with the defaults of both, one client after the other reads what was flushed, while a health check asks")
def _(t):
    hosts = serve_both(t, DEFAULTS)
    block, stale = bytes(4096), 0
    for number in range(40):
        here, there = hosts if number % 2 else reversed(hosts)
        client = here.client()
        # It opens the image at the other host, and so does the host that is served next.
        checker = Client(there.connect())
        checker.handshake()
        checker.info()
        stale += client.read(0, 4096) != block
        block = random.Random(number).randbytes(4096)
        client.write(0, block)
        client.flush()
        client.disconnect()
        checker.close()
        wait_until(lambda: not here.connections() and not there.connections(), "the connections to end")  # pylint: disable=W0640
    eq(stale, 0, "stale reads of 40")


if __name__ == "__main__":
    run()
