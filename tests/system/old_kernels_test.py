#!/usr/bin/python3
"""nbdinetd on the kernels of Debian 12 (6.1) and RHEL 9 (5.14), and where a kernel refuses an answer.

bench/as_kernel hides the newer system calls. missing_calls_test.py runs other tests with one of them
missing at a time.
"""

import os
import resource
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from failing_calls import Faults, library_path
from harness import *

OLD = ("5.14", "6.1")
SOMEBODY, NOBODY = 64321, 64322  # users that own nothing else
THIS = "landlock=7"  # lacks nothing that the tests look at


def counting(t):
    require(library_path() is not None, "needs tests/support/faulty_calls.so")
    faults = Faults(t)
    # Of whatever user.
    os.chmod(faults.path, 0o666)
    return faults


def read_all(client, size=MIB):
    """Reads the pattern image in long requests, and checks it."""
    for offset in range(0, size, size // 4):
        eq(client.read(offset, size // 4) == pattern(offset, size // 4), True,
           f"the bytes at {offset}")


def expect_sendfile(t, prefix, *arguments, name=""):
    """Serves a cached image of 1 MiB, and returns how often each function was called."""
    faults = counting(t)
    process, client = t.activated("--sandbox=require", *arguments, prefix=prefix,
                                  env=faults.environment())
    client.start(name)
    read_all(client)
    client.disconnect()
    process.expect(EX_OK)
    counts = faults.counts()
    eq(counts.get("sendfile", 0) > 0, True, f"sendfile() is used: {counts}")
    # What isn't sent by sendfile() is read; a worker is for what isn't cached.
    eq(counts.get("pread", 0), 0, "nothing is read")
    eq(counts.get("pthread_create", 0), 0, "workers")
    return counts


@test("without cachestat(2), mincore(2) tells what is cached, and long reads go out by sendfile(2)")
def _(t):
    image = t.pattern_image(MIB)
    for kernel in OLD:
        for options in ((), ("-r",)):
            counts = expect_sendfile(t, as_kernel(kernel), *options, image)
            eq((counts.get("mmap", 0), counts.get("mincore", 0) > 0), (1, True), "mappings")


@test("an export of a directory is mapped when it is opened, in the sandbox")
def _(t):
    os.mkdir(t.path("exports"))
    t.pattern_image(MIB, "exports/disk")
    for kernel in OLD:
        counts = expect_sendfile(t, as_kernel(kernel), f"--directory={t.path('exports')}",
                                 name="disk")
        eq((counts.get("mmap", 0), counts.get("mincore", 0) > 0), (1, True), "mappings")


@test("a file of another user that may only be read goes out by sendfile(2), too")
def _(t):
    image = t.pattern_image(MIB)
    os.chmod(image, 0o644)
    user = as_user(NOBODY)
    for kernel in (THIS, *OLD):
        expect_sendfile(t, [*as_kernel(kernel), *user], image)
    # Root loses the right to ask with its capabilities.
    os.chown(image, SOMEBODY, SOMEBODY)
    for kernel in (THIS, *OLD):
        expect_sendfile(t, as_kernel(kernel), "-r", image)
        expect_sendfile(t, [*as_kernel(kernel), *as_user(SOMEBODY)], image)


@test("without cachestat(2) and mincore(2) long reads still go out by sendfile(2)")
def _(t):
    expect_sendfile(t, as_kernel("cachestat,mincore"), t.pattern_image(MIB))


@test("an unaligned write to a cached page doesn't wait for a worker")
def _(t):
    for what in (*OLD, "cachestat,mincore"):
        faults = counting(t)
        process, client = t.activated(t.pattern_image(MIB), prefix=as_kernel(what),
                                      env=faults.environment())
        client.start()
        for offset in (1, 5000, 100_003):
            client.write(offset, b"x" * 1000)
        client.disconnect()
        process.expect(EX_OK)
        eq(faults.counts().get("pthread_create", 0), 0, "workers")


@test("a limit on the address space leaves a large export without a mapping, and the process alive")
def _(t):
    image = t.sparse_image(1 << 40)
    with open(image, "r+b") as file:
        file.write(pattern(0, MIB))
    for kernel in OLD:
        faults = counting(t)
        process, client = t.activated("--sandbox=require", image, prefix=as_kernel(kernel),
                                      env=faults.environment(),
                                      limits={resource.RLIMIT_AS: 1 << 30})
        client.start()
        read_all(client)
        client.write(1 << 39, b"far away" * 1000)
        eq(client.read(1 << 39, 8000), b"far away" * 1000)
        client.disconnect()
        process.expect(EX_OK)
        eq(faults.counts().get("mincore", 0), 0, "calls of mincore()")


@test("a file that grows and shrinks while it is mapped is served to its present end")
def _(t):
    for kernel in OLD:
        image = t.pattern_image(4 * MIB)
        process, client = t.activated("-r", image, prefix=as_kernel(kernel))
        client.start()
        read_all(client, 4 * MIB)
        os.truncate(image, MIB)
        read_all(client)
        answer = client.call(NBD_CMD_READ, MIB - 4096, MIB)
        eq(answer.error, NBD_EIO, "a read beyond the end")
        os.truncate(image, 8 * MIB)
        eq(client.read(MIB, MIB), bytes(MIB))
        client.disconnect()
        process.expect(EX_OK)


@test("the whole sandbox is there with the Landlock of each kernel since 5.14")
def _(t):
    image = t.pattern_image(MIB)
    for kernel in (*OLD, "5.15", "6.6", "6.12", *(f"landlock={n}" for n in range(1, 7))):
        process, client = t.activated("--sandbox=require", image, prefix=as_kernel(kernel))
        client.start()
        client.disconnect()
        process.expect(EX_OK)
    # 5.10 has no Landlock on most systems.
    process, client = t.activated("--sandbox=require", image, prefix=as_kernel("5.10"))
    client.expect_end()
    process.expect(EX_OSERR)
    contains("(Landlock): Function not implemented", process.stderr())


@test("where the kernel is older than the one asked for, its own Landlock is used")
def _(t):
    prefix = [*as_kernel("landlock=2"), *as_kernel("6.12")]
    process, client = t.activated("--sandbox=require", t.pattern_image(MIB), prefix=prefix)
    client.start()
    client.disconnect()
    process.expect(EX_OK)


@test("without openat2(2) --directory says that it needs it, and a file is served")
def _(t):
    process, client = t.activated(f"--directory={t.dir}", prefix=as_kernel("openat2"))
    client.expect_end()
    process.expect(EX_OSERR)
    contains("has no openat2(2), which --directory needs", process.stderr())
    expect_sendfile(t, as_kernel("openat2"), t.pattern_image(MIB))


@test("without pidfds a takeover is refused at once, with the reason")
def _(t):
    image = t.pattern_image(MIB)
    _, first = t.activated("--exclusive", image)
    first.start()
    _, second = t.activated("--exclusive=takeover", image, prefix=as_kernel("pidfd"))
    try:
        second.start()
        raise AssertionError("the second client is served")
    except OptionError as error:
        eq(error.reply, NBD_REP_ERR_POLICY)
        contains("can't be asked to end: Function not implemented", str(error))
    eq(first.read(0, 512), pattern(0, 512))


if __name__ == "__main__":
    main()
