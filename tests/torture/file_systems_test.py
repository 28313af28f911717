#!/usr/bin/python3
"""What is written is what is read, and no hole is told where there is data: on each file system.

A row is a file system, or a device, in an image of its own (tests/support/file_systems.py). Three
tests each: one asks and reads right behind a write, before anything has been flushed; one looks at
what is on its way to a client when others change what is beside it; and one lets
tests/torture/torture_test send random requests, and then compares the bytes in the page cache, and those
that are there when the file system has been mounted again. What is read-only is read and flushed.

NBDINETD_FILE_SYSTEMS_SECONDS says how long the random requests of a row go on ('make
torture-file-systems' takes a minute); NBDINETD_TORTURE_SEED repeats them. What the kernel lacks is
skipped; in CI only what is known to be missing there (KNOWN_MISSING).
"""

import errno
import fcntl
import os
import struct
import sys
import tempfile
from pathlib import Path
from termios import FIONREAD

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from failing_calls import Faults, library_path
from faults import FailingFs, LoopDevice, need_privilege, nonzero_pattern
from file_systems import MIB, ROWS, zram
from harness import *

# On a disk rather than in /tmp, which is often a tmpfs.
tempfile.tempdir = os.environ.get("TMPDIR", "/var/tmp")

SECONDS = float(os.environ.get("NBDINETD_FILE_SYSTEMS_SECONDS", "2"))
ROW_GUARD = TEST_GUARD + 4 * SECONDS
TORTURE = BUILDDIR / "tests" / "torture" / "torture_test"
SIZE = 8 * MIB  # of the export of the tests without chance


# ------------------------------------------------------------------ tests of a row

def serve(t, path, structured=True):
    process, client = t.activated(path)
    client.start(structured=structured, contexts=("base:allocation",) if structured else ())
    return process, client


def finish(process, client):
    client.disconnect()
    process.expect(EX_OK)


def no_hole_in(client, content, flags=0, offset=0):
    """The block status from `offset` on has no hole but where the content is zeroes. Returns how
    many bytes it has told to be hole."""
    holes = 0
    content = bytes(content)
    while offset < len(content):
        length = len(content) - offset
        for length, state in client.block_status(offset, length, flags):
            if state:
                eq(state, NBD_STATE_HOLE | NBD_STATE_ZERO, "state of an extent")
                told = content[offset:offset + length]
                if told.count(0) != len(told):
                    first = len(told) - len(told.lstrip(b"\0"))
                    raise AssertionError(f"a hole is told at {offset}, length {length}, and there "
                                         f"is data at {offset + first}")
                holes += len(told)
            offset += length
    return holes


def check(client, content, what, ranges):
    """Block statuses and reads of what the content is, in this order: nothing here asks for anything
    to be written back. Returns how many bytes were told to be hole."""
    holes = 0
    if client.structured:
        holes = no_hole_in(client, content)
        no_hole_in(client, content, NBD_CMD_FLAG_REQ_ONE)
    for begin, length in ranges:
        for flags in (0, NBD_CMD_FLAG_DF) if client.structured else (0,):
            same_bytes(client.read(begin, length, flags), content[begin:begin + length], begin,
                 f"{what}: READ of {length} at {begin}, flags {flags}")
    return holes


def written_is_seen(t, place, tells_holes):
    data = random.Random(1).randbytes(SIZE).replace(b"\0", b"\1")
    # The first is that of the fault that began this; then what may lie in an inode, parts of blocks,
    # the end, and much.
    for offset, length in ((5 * MIB, 64 * 1024), (0, 40), (3 * MIB + 123, 5000), (SIZE - 100, 100),
                           (2 * MIB - 1, 3 * MIB)):
        for structured in (True, False):
            place.fresh(SIZE)
            what = f"{length} bytes at {offset}"
            content = bytearray(Path(place.export).read_bytes())
            process, client = serve(t, place.export, structured)
            eq(client.size, len(content), "size")
            around = max(0, offset - MIB)
            longer = (around, min(2 * MIB + length, SIZE - around))

            def write(at, count):
                content[at:at + count] = data[at:at + count]
                client.write(at, data[at:at + count])

            write(offset, length)
            # Near it, which may share what has been reserved for it.
            beside = min(offset + length + 8192, SIZE - 300)
            write(beside, 300)
            holes = check(client, content, f"{what}, before a flush",
                          ((0, 6 * MIB), longer, (offset, length), (beside // 512 * 512, 512)))
            if structured and tells_holes == "always":
                eq(holes >= SIZE // 2, True, f"{holes} bytes told to be holes after {what}")
            client.flush()
            holes = check(client, content, f"{what}, after a flush", ((0, 6 * MIB),))
            if structured and tells_holes:
                eq(holes >= SIZE // 2, True,
                   f"{holes} bytes told to be holes after {what} and a flush")
            # Beside what is stored, and into what was taken away.
            write(offset // 2 + 100, 70)
            check(client, content, f"{what}, and more", (longer, (offset // 2, MIB)))
            client.write_zeroes(offset, length)
            content[offset:offset + length] = bytes(length)
            check(client, content, f"{what}, zeroed", (longer,))
            write(offset + length // 2, 20)
            check(client, content, f"{what}, zeroed and written", (longer,))
            finish(process, client)


def beside_it_is_kept(t, place):
    """A client that is slow to read may be given pages of the page cache: what others change at the
    same time then may be seen, but nothing that nobody has changed."""
    offset, length = 20001, 5000
    data = random.Random(2).randbytes(2 * MIB).replace(b"\0", b"\1")
    for change in (lambda client: client.trim(offset, length),
                   lambda client: client.write_zeroes(offset, length),
                   lambda client: client.write_zeroes(offset, length, NBD_CMD_FLAG_NO_HOLE)):
        place.fresh(SIZE)
        process, client = serve(t, place.export)
        client.write(0, data)
        client.flush()
        finish(process, client)
        ours, theirs = t.connection("tcp")
        reader = t.spawn([NBDINETD, place.export], fds={3: theirs}, listen_fds=1, listen_pid="own")
        theirs.close()
        slow = Client(ours).start()
        slow.read(0, len(data))
        asked = slow.request(NBD_CMD_READ, 0, 192 * 1024)
        wait_until(lambda: waiting_bytes(ours) > offset + 4 * length, "the reply")
        process, client = serve(t, place.export)
        change(client)
        got = slow.answer(asked).check().data
        same_bytes(got[:offset], data[:offset], 0, "before what was trimmed or zeroed")
        same_bytes(got[offset + length:], data[offset + length:len(got)], offset + length,
             "behind what was trimmed or zeroed")
        finish(process, client)
        finish(reader, slow)


def waiting_bytes(connection):
    """How much has arrived and hasn't been read yet."""
    return struct.unpack("i", fcntl.ioctl(connection, FIONREAD, bytes(4)))[0]


def hooks(t, place):
    """A program that does what torture_test asks for, as GivenDisk has it; also to be called."""
    path = t.fresh(".sh")
    cases = "".join(f"{occasion}) {line} ;;\n" for occasion, line in place.hook.items())
    Path(path).write_text(f"#!/bin/sh\nset -e\nexec >&2\ncase $1 in\n{cases}esac\n",
                          encoding="utf-8")
    os.chmod(path, 0o700)
    run = lambda occasion: t.run([path, occasion])  # pylint: disable=unnecessary-lambda-assignment
    run.path = path
    return run


def torture(t, place, size):
    require(TORTURE.exists(), "needs tests/torture/torture_test, which is built where GoogleTest is found")
    environment = {
        "NBDINETD_TORTURE_EXPORT": place.export,
        "NBDINETD_TORTURE_SOURCE": place.source,
        "NBDINETD_TORTURE_HOOK": hooks(t, place).path,
        "NBDINETD_TORTURE_BYTES": size,
        "NBDINETD_TORTURE_SECONDS": SECONDS if size is None else SECONDS / 4,
    }
    process = t.spawn([TORTURE, "--gtest_filter=Torture.*"], env=environment)
    status = process.wait(ROW_GUARD)
    if status != 0:
        raise AssertionError(f"torture_test of {place.export}: exit status {status}\n"
                             f"{process.stdout()}{process.stderr()}")
    for line in process.stdout().splitlines():
        if " requests on " in line:
            note(line[2:] + (f" (of {size} bytes)" if size else ""))


# ------------------------------------------------------------------ the tests of each row

def _tests_of(row):
    name = row.name

    @test(f"{name}: what was just written is read, and is told to be no hole", guard=ROW_GUARD)
    def _(t):
        written_is_seen(t, row.place(t), row.tells_holes)

    @test(f"{name}: a trim and zeroes change nothing beside them, even on its way", guard=ROW_GUARD)
    def _(t):
        beside_it_is_kept(t, row.place(t))

    @test(f"{name}: random requests, and what is stored after them", guard=ROW_GUARD)
    def _(t):
        made = row.place(t)
        for size in row.sizes:
            torture(t, made, size)


def _read_only_tests_of(row):
    name = row.name

    @test(f"{name}: a flush succeeds, and no storage error is logged", guard=ROW_GUARD)
    def _(t):
        made = row.place(t)
        content = bytes(2 * MIB) + nonzero_pattern(0, MIB + 77) + bytes(MIB)
        hooks(t, made)("begin")
        Path(made.source).write_bytes(content)
        hooks(t, made)("ready")
        for structured in (True, False):
            process, client = serve(t, made.export, structured)
            eq(client.flags & NBD_FLAG_READ_ONLY, NBD_FLAG_READ_ONLY)
            for _ in range(2):
                client.flush()
                eq(client.read(0, len(content)) == content, True, "the bytes")
            if structured:
                no_hole_in(client, content)
            finish(process, client)
            eq([line for line in process.stderr().splitlines() if "failed" in line], [])

    @test(f"{name}: random requests that change nothing", guard=ROW_GUARD)
    def _(t):
        torture(t, row.place(t), None)


for each in ROWS:
    if each.read_only:
        _read_only_tests_of(each)
    else:
        _tests_of(each)


# ------------------------------------------------------------------ devices that may wait

def _threads(process):
    return len(os.listdir(f"/proc/{process.pid}/task"))


@test("a read of zram, which can't be read without waiting, goes to a worker")
def _(t):
    path = zram(t, 16 * MIB)
    content = nonzero_pattern(0, MIB)
    Path(path).open("rb+").write(content)  # pylint: disable=consider-using-with
    fd = os.open(path, os.O_RDWR)
    t.defer(os.close, fd)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    process, client = serve(t, path)
    before = _threads(process)
    same_bytes(client.read(0, 4096), content[:4096], 0, "zram")
    eq(_threads(process) > before, True, "there is a thread more after a read of the device")
    finish(process, client)


@test("a slow read of a device that can't be read without waiting holds up nobody else")
def _(t):
    need_privilege("root", "loop", "fuse")
    require(library_path() is not None, "needs tests/support/faulty_calls.so")
    content = nonzero_pattern(0, 4 * MIB)
    slow = 2 * MIB
    with FailingFs(t.path(""), content) as fs, LoopDevice(fs.disk) as device:
        faults = Faults(t)
        # As zram and many a device-mapper target answers.
        faults.arm("preadv2", errno.EOPNOTSUPP, 1, 1 << 40)
        process, client = t.activated(device.path, env=faults.environment())
        client.start(contexts=("base:allocation",))
        # The device does one thing at a time: what is read meanwhile is in the page cache.
        client.read(0, 4096)
        fs.rule("read", "hold", slow, slow + MIB)
        held = client.request(NBD_CMD_READ, slow, 4096)
        fs.wait_held(1)
        same_bytes(client.read(0, 4096), content[:4096], 0, "a read meanwhile")
        fs.release()
        same_bytes(client.answer(held).check().data, content[slow:slow + 4096], slow, "the slow read")
        eq(faults.fired > 0, True, "a read without waiting was tried")
        finish(process, client)


if __name__ == "__main__":
    main()
