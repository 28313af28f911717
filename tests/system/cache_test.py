#!/usr/bin/python3
"""How the page cache is used (--cache): what clients get is the same, what stays in it isn't."""

import os
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from faults import LoopDevice, drop_caches, need_privilege
from harness import *

MODES = ("writeback", "writethrough", "drop")


def cached_bytes(path):
    done = subprocess.run([need("fincore"), "--bytes", "--noheadings", "--output", "RES", path],
                          stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


def connected(t, *arguments, **how):
    process, client = t.activated(*arguments, **how)
    client.start(contexts=["base:allocation"])
    return process, client


def exercise(client, size):
    """Reads and writes at odd places; returns what the export must hold then."""
    wanted = bytearray(pattern(0, size))
    eq(client.read(0, size) == wanted, True)
    for offset, length in ((0, 512), (1, 1), (4095, 2), (5000, 300000), (size - 700, 700), (size - 1, 1), (8192, 4096)):
        data = os.urandom(length)
        client.write(offset, data, NBD_CMD_FLAG_FUA if offset % 2 else 0)
        wanted[offset:offset + length] = data
    client.write_zeroes(70001, 100000)
    wanted[70001:170001] = bytes(100000)
    client.write_zeroes(200000, 5000, NBD_CMD_FLAG_NO_HOLE)
    wanted[200000:205000] = bytes(5000)
    client.cache(0, size)
    for offset, length in ((0, size), (1, 5000), (size - 1, 1), (69999, 5)):
        eq(client.read(offset, length) == wanted[offset:offset + length], True, (offset, length))
    client.flush()
    return bytes(wanted)


@test("a client gets and stores the same with each --cache, of files, directories and devices, in the sandbox")
def _(t):
    size = 2 * MIB + 700
    for mode in MODES:
        folder = Path(t.fresh(".exports"))
        folder.mkdir()
        path = folder / "disk"
        path.write_bytes(pattern(0, size))
        process, client = connected(t, "--sandbox=require", f"--cache={mode}", str(path))
        wanted = exercise(client, size)
        leave(process, client)
        eq(path.read_bytes() == wanted, True, mode)
        path.write_bytes(pattern(0, size))
        process, client = t.activated("--sandbox=require", f"--cache={mode}", f"--directory={folder}")
        client.start("disk", contexts=["base:allocation"])
        wanted = exercise(client, size)
        leave(process, client)
        eq(path.read_bytes() == wanted, True, mode)
    need_privilege("root", "loop")
    backing = t.pattern_image(2 * MIB)
    for mode in MODES:
        with open(backing, "r+b") as file:
            file.write(pattern(0, 2 * MIB))
        with LoopDevice(backing) as device:
            process, client = connected(t, "--sandbox=require", f"--cache={mode}", device.path)
            wanted = exercise(client, 2 * MIB)
            leave(process, client)
            eq(Path(device.path).read_bytes() == wanted, True, mode)


@test("with --cache=drop, a copy in and a copy out leave nothing in the page cache")
def _(t):
    size = 64 * MIB
    path = t.pattern_image(size)
    drop_caches(path)
    process, client = connected(t, "--cache=drop", path)
    cookies = [client.request(NBD_CMD_READ, offset, MIB) for offset in range(0, size, MIB)]
    for cookie in cookies:
        client.answer(cookie).check()
    assert cached_bytes(path) <= MIB, f"{cached_bytes(path)} bytes after reading"
    for offset in range(0, size, MIB):
        client.write(offset, pattern(offset, MIB))
        assert cached_bytes(path) <= 33 * MIB, f"{cached_bytes(path)} bytes while writing"
    client.flush()
    assert cached_bytes(path) <= MIB, f"{cached_bytes(path)} bytes after a flush"
    leave(process, client)
    assert cached_bytes(path) <= MIB, f"{cached_bytes(path)} bytes in the end"


@test("with --cache=writethrough, a write is stored when it is answered")
def _(t):
    trace = t.path("trace")
    process, client = t.inetd("--cache=writethrough", t.pattern_image(MIB), prefix=[
        need("strace"), "-f", "-qq", "-o", trace, "-e", "trace=pwrite64,pwritev2,fdatasync"])
    client.start()
    client.write(0, b"x" * 4096)
    text = Path(trace).read_text()
    eq("pwrite64(" in text, False)
    matches(r"pwritev2\(.*RWF_DSYNC", text)
    eq("fdatasync(" in text, False)
    client.trim(8192, 8192)
    eq("fdatasync(" in Path(trace).read_text(), True)
    leave(process, client)


@test("another --cache is told what there is")
def _(t):
    process = t.run([NBDINETD, "--check", "--cache=all", t.pattern_image(MIB)], EX_USAGE)
    contains("use writeback, writethrough or drop", process.stderr())


if __name__ == "__main__":
    main()
