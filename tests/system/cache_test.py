#!/usr/bin/python3
"""How the page cache is used (--cache): what clients get is the same, what stays in it isn't."""

import itertools
import os
import random
import re
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from faults import FailingFs, LoopDevice, drop_caches, need_privilege
from harness import *

MODES = ("writeback", "writethrough", "drop", "none", "directsync")


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
    for mode, block_size in itertools.product(MODES, (0, 4096)):
        with open(backing, "r+b") as file:
            file.write(pattern(0, 2 * MIB))
        with LoopDevice(backing, block_size=block_size) as device:
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


@test("with --cache=none, a copy in, a copy out and requests at any byte leave nothing in the page cache")
def _(t):
    size = 16 * MIB + 700
    path = t.path("disk")
    Path(path).write_bytes(pattern(0, size))
    for arguments in (["--cache=none"], ["--cache=directsync"], ["--cache=direct", "--offset=515"]):
        os.truncate(path, size)
        drop_caches(path)
        process, client = connected(t, *arguments, path)
        served = size - (515 if len(arguments) > 1 else 0)
        cookies = [client.request(NBD_CMD_READ, offset, min(MIB, served - offset))
                   for offset in range(0, served, MIB)]
        for cookie in cookies:
            client.answer(cookie).check()
        for offset in range(0, served - MIB, MIB):
            client.write(offset, pattern(offset, MIB))
            client.write(offset + 77, b"x" * 1000)
            client.write_zeroes(offset + 5000, 70000, NBD_CMD_FLAG_NO_HOLE)
        client.write(served - 1, b"x")
        client.cache(0, served)
        eq(cached_bytes(path), 0, str(arguments))
        leave(process, client)
        eq(cached_bytes(path), 0, str(arguments))


@test("with --cache=drop, a client that leaves with reads under way leaves nothing in the page cache")
def _(t):
    size = 32 * MIB
    path = t.pattern_image(size)
    for length, structured in ((4096, False), (256 * 1024, True), (2 * MIB, True), (2 * MIB, False)):
        drop_caches(path)
        process, client = t.activated("--cache=drop", path)
        client.start(structured=structured)
        for offset in range(0, min(size, 256 * length), length):
            client.request(NBD_CMD_READ, offset, length)
        client.close()
        process.wait()
        assert cached_bytes(path) <= MIB, f"{cached_bytes(path)} bytes after reads of {length}"


@test("with --cache=drop, what somebody else has read stays in the page cache, and nothing else does")
def _(t):
    size = 8 * MIB
    path = t.pattern_image(size)
    for arguments in ([], ["--offset=4096"], ["--cow", "--cow-dir=memory"]):
        drop_caches(path)
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            for offset in range(0, size, MIB):
                os.pread(file.fileno(), MIB // 2, offset)
        before = cached_bytes(path)
        eq(before, size // 2)
        process, client = connected(t, "--cache=drop", *arguments, path)
        # Whole pieces that are there, or aren't.
        for offset in range(0, size - MIB, MIB // 4):
            client.read(offset, 4096)
        eq(cached_bytes(path), before, str(arguments))
        leave(process, client)


def bytes_read(trace):
    # The loader reads less at once; a call that another thread interrupts in the trace ends in a
    # line of its own.
    return sum(map(int, re.findall(r"pread(?:64|v2).* = (\d{4,})\n", Path(trace).read_text())))


@test("with --cache=drop and none, a long read fetches each byte once, in every reply style")
def _(t):
    size = 8 * MIB
    for mode in ("drop", "none"):
        for structured in (False, True):
            image = t.pattern_image(size)
            drop_caches(image)
            trace = t.path("trace")
            process, client = t.inetd(f"--cache={mode}", image, prefix=[
                need("strace"), "-f", "-qq", "-o", trace, "-e", "trace=pread64,preadv2"])
            client.start(structured=structured)
            eq(client.read(0, size) == pattern(0, size), True)
            leave(process, client)
            eq(bytes_read(trace), size, f"{mode}, structured: {structured}")


@test("with --cache=directsync, a write past the page cache is stored when it is answered")
def _(t):
    trace = t.path("trace")
    process, client = t.inetd("--cache=directsync", t.pattern_image(MIB), prefix=[
        need("strace"), "-f", "-qq", "-o", trace, "-e", "trace=pwrite64,pwritev2,fdatasync"])
    client.start()
    client.write(0, b"x" * 4096)
    matches(r"pwritev2\(.*RWF_DSYNC", Path(trace).read_text())
    eq("fdatasync(" in Path(trace).read_text(), False)
    client.write(4096, b"x" * 4000)
    eq("fdatasync(" in Path(trace).read_text(), True)
    leave(process, client)


@test("with --cache=none, a file system that has only the page cache is named")
def _(t):
    need_privilege("root", "mount")
    folder = t.fresh(".ramfs")
    os.mkdir(folder)
    script = (f"mount -t ramfs none '{folder}' && truncate -s 1M '{folder}/disk' && "
              f"exec '{NBDINETD}' --check --cache=none '{folder}/disk'")
    process = t.run([need("unshare"), "--mount", "--", "/bin/sh", "-c", script], EX_NOINPUT)
    matches("failed to open .*disk.* with --cache=none: ramfs can't .*use --cache=drop", process.stderr())


@test("with --cow, --cache=none is for the original, which is only read")
def _(t):
    size = 2 * MIB + 700
    image = t.path("disk")
    Path(image).write_bytes(pattern(0, size))
    for place in ("memory", t.path("")):
        drop_caches(image)
        process, client = connected(t, "--sandbox=require", "--cache=none", "--cow", f"--cow-dir={place}", image)
        exercise(client, size)
        eq(cached_bytes(image), 0)
        leave(process, client)
        eq(Path(image).read_bytes() == pattern(0, size), True)


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
    contains("use writeback, writethrough, drop, none (or direct) or directsync", process.stderr())


@test("a file system that bypasses the page cache is asked for each READ, whatever the page cache holds")
def _(t):
    need_privilege("root", "fuse")
    lengths = (512, 65536, 300000, MIB)
    for mode in MODES:
        with FailingFs(t.fresh(".fs"), pattern(0, MIB), direct_io=True) as fs:
            for arguments, name in (([fs.disk], ""), ([f"--directory={fs.mountpoint}"], "disk")):
                process, client = t.activated("--sandbox=require", f"--cache={mode}", *arguments, family="tcp")
                client.start(name)
                for turn in range(4):
                    # Others change what it shows.
                    content = random.Random(turn).randbytes(MIB)
                    with open(fs.backing, "r+b") as backing:
                        backing.write(content)
                    for length in lengths:
                        what = f"{mode}, {arguments}, turn {turn}, READ of {length}"
                        eq(client.read(MIB - length, length) == content[MIB - length:], True, what)
                        # Fills the page cache; the kernel reads ahead no more at once.
                        for offset in range(0, MIB, 128 << 10):
                            client.cache(offset, 128 << 10)
                leave(process, client)


if __name__ == "__main__":
    main()
