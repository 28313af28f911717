#!/usr/bin/python3
"""Parts and other sizes of an export (--offset, --length, --size), whether clients may open several
connections (--multi-conn), and what a client sees of a file or device that grows."""

import fcntl
import os
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from faults import LoopDevice
from harness import *

LOOP_SET_CAPACITY = 0x4C07


def connected(t, *arguments):
    """(process, client), in transmission."""
    process, client = t.activated(*arguments)
    client.start(contexts=["base:allocation"])
    return process, client


# ------------------------------------------------------------------ parts

@test("a part is an export of its own: its bytes and no others are read, written, trimmed and zeroed")
def _(t):
    begin, length = 3 * MIB + 512, MIB + 1024
    path = t.pattern_image(8 * MIB)
    process, client = connected(t, f"--offset={begin}", f"--length={length}", path)
    eq(client.size, length)
    eq(client.read(0, length), pattern(begin, length))
    eq(client.read(length - 512, 512), pattern(begin + length - 512, 512))
    refuses(NBD_EINVAL, client.read, length - 511, 512)
    client.write(512, b"x" * 512)
    client.trim(0, length)
    client.write_zeroes(0, length)
    client.flush()
    eq(client.read(0, length), bytes(length))
    client.disconnect()
    process.expect(EX_OK)
    content = Path(path).read_bytes()
    eq(content[:begin], pattern(0, begin), "before the part")
    eq(content[begin:begin + length], bytes(length))
    eq(content[begin + length:], pattern(begin + length, len(content) - begin - length), "behind the part")


@test("without a length, a part goes to the end; a part that isn't there is an error with the figures")
def _(t):
    path = t.pattern_image(MIB)
    process, client = connected(t, "--offset=1000K", path)
    eq(client.size, 24 << 10)
    eq(client.read(0, 512), pattern(1000 << 10, 512))
    client.disconnect()
    process.expect(EX_OK)
    for arguments, words in ((["--offset=2M"], "has 1048576 bytes, and --offset is 2097152"),
                             (["--offset=1M", "--length=1"], "0 of them from --offset on"),
                             (["--length=2M"], "--length is 2097152")):
        process = t.spawn([NBDINETD, "--check", *arguments, path])
        process.expect(EX_NOINPUT)
        contains(words, process.stderr())


# ------------------------------------------------------------------ sizes

@test("--size cuts an export, or adds zeroes in which nothing can be stored, and the file keeps its size")
def _(t):
    path = t.pattern_image(MIB + 517)
    for option, size in (("up:512", MIB + 1024), ("down:512", MIB + 512), ("1M", MIB), ("2M", 2 * MIB)):
        process, client = connected(t, f"--size={option}", path)
        eq(client.size, size, option)
        known = min(size, MIB + 517)
        eq(client.read(0, size), pattern(0, known) + bytes(size - known), option)
        if size > known:
            refuses(NBD_ENOSPC, client.write, known - 5, b"12345x")
            eq(client.read(known - 5, 5), pattern(known - 5, 5), "after a refused write")
            client.write(known - 5, pattern(known - 5, 5) + bytes(size - known))
            client.write_zeroes(known, size - known)
            refuses(NBD_ENOSPC, client.write_zeroes, known, size - known, NBD_CMD_FLAG_NO_HOLE)
        client.disconnect()
        process.expect(EX_OK)
        eq(os.path.getsize(path), MIB + 517, option)


@test("with --directory, --size holds for each file")
def _(t):
    folder = Path(t.fresh(".exports"))
    folder.mkdir()
    for name, size in (("a", 1), ("b", 1024), ("c", 1025)):
        (folder / name).write_bytes(b"x" * size)
    process, client = t.activated(f"--directory={folder}", "--size=up:512")
    client.handshake()
    for name, size in (("a", 512), ("b", 1024), ("c", 1536)):
        client.info(name)
        eq(client.size, size, name)
    client.haggle(NBD_OPT_ABORT)
    process.expect(EX_OK)


@test("wrong parts and sizes are told with what is right")
def _(t):
    path = t.pattern_image(MIB)
    for option, words in (("--offset=x", "this is no number of bytes"), ("--offset=-1", "this is no number of bytes"),
                          ("--length=1X", "this is no number of bytes"), ("--size=up:0", "use 1 or more"),
                          ("--size=", "this is no number of bytes"), ("--size=round:512", "this is no number of bytes"),
                          ("--length=8388608T", "no file is so large"), ("--multi-conn=maybe", "use auto, on or off")):
        process = t.spawn([NBDINETD, "--check", option, path])
        process.expect(EX_USAGE)
        contains(words, process.stderr())


# ------------------------------------------------------------------ several connections

@test("--multi-conn decides whether clients may open several connections; --exclusive lets them by itself not")
def _(t):
    path = t.pattern_image(MIB)
    for arguments, wanted in (([], True), (["--multi-conn=auto"], True), (["--multi-conn=off"], False),
                              (["--exclusive"], False), (["--exclusive", "--multi-conn=on"], True)):
        process, client = connected(t, *arguments, path)
        eq(bool(client.flags & NBD_FLAG_CAN_MULTI_CONN), wanted, arguments)
        client.disconnect()
        process.expect(EX_OK)


# ------------------------------------------------------------------ sizes that move

def sees_growth(t, path, grow):
    """The size that a connected client keeps, and the one that the next client gets."""
    process, client = connected(t, path)
    before = client.size
    grow()
    eq(client.read(before - 512, 512), pattern(before - 512, 512))
    refuses(NBD_EINVAL, client.read, before, 512)
    refuses(NBD_ENOSPC, client.write, before, b"x" * 512)
    late, other = connected(t, path)
    other.write(other.size - 512, b"y" * 512)
    eq(client.size, before)
    for one in (client, other):
        one.disconnect()
    process.expect(EX_OK)
    late.expect(EX_OK)
    return before, other.size


@test("a file that has grown is seen whole by the next connection, and at its size before by a connected client")
def _(t):
    path = t.pattern_image(MIB)
    eq(sees_growth(t, path, lambda: os.truncate(path, 2 * MIB)), (MIB, 2 * MIB))


@test("a block device that has grown is seen whole by the next connection, and at its size before by a connected "
      "client")
def _(t):
    need_root("to set up a loop device")
    path = t.pattern_image(MIB)
    with LoopDevice(path) as device:
        def grow():
            os.truncate(path, 2 * MIB)
            with open(device.path, "rb") as opened:
                fcntl.ioctl(opened, LOOP_SET_CAPACITY)
        eq(sees_growth(t, device.path, grow), (MIB, 2 * MIB))


main()
