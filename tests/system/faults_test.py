#!/usr/bin/python3
"""Faults of storage, files and peers: the client gets the NBD error that fits, the log gets a line,
the connection goes on where the specification allows it, no signal ends the process, and no wrong
byte is sent as a good one.

The file is long because there are many faults. Each test stands alone.
"""

import fcntl
import functools
import os
import random
import re
import resource
import select
import shutil
import signal
import socket
import struct
import sys
import time
from contextlib import contextmanager
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from clients import (ModelChecker, SocketActivate, allocated_bytes, connect_libnbd, holes_of,
                     read_file)
from faults import (FailingFs, Immutable, LoopDevice, Mount, ReadOnlyBind, drop_caches, ext4_image,
                    kept_in_cache, need_privilege, nonzero_pattern, tmpfs)
from harness import *
from listening import state_of, waits_of

PAGE = 4096
LOGGED_ERRORS = 10  # of the storage by one connection; kMaxStorageErrorsLogged


@functools.lru_cache(maxsize=8)
def image_bytes(length):
    """Never zero, and nowhere the same: bytes from the wrong place, and bytes made up, show."""
    return nonzero_pattern(0, length)


def serve(context, path, *arguments, structured=True, contexts=(), **how):
    """(process, client in the transmission phase) of one connection to the file."""
    process, client = context.activated(*arguments, path, **how)
    client.start(structured=structured, contexts=contexts)
    return process, client


@contextmanager
def failing_disk(context, content, *arguments, rule=None, stable=False, fallocate=True, **how):
    """(file system, process, client): a connection to a file with this content on a FailingFs. The
    rule is set before the server starts; the other arguments are serve()'s."""
    need_privilege("fuse")
    with FailingFs(context.fresh("fs"), content, fallocate, stable=stable) as fs:
        if rule:
            fs.rule(*rule)
        yield fs, *serve(context, fs.disk, *arguments, **how)


@contextmanager
def failing_device(context, content, *arguments, **how):
    """The same with a loop device over that file. Its first MiB stays in the page cache: a loop device does one
    thing after the other, so that a read of what isn't cached would wait for what is held."""
    need_privilege("root", "loop", "fuse")
    with FailingFs(context.fresh("fs"), content) as fs, LoopDevice(fs.disk) as device, \
            kept_in_cache(device.path, MIB):
        yield fs, *serve(context, device.path, *arguments, **how)


def finish(process, client, status=EX_OK):
    """Leaves as a client should, and holds the server to its exit status."""
    client.disconnect()
    process.expect(status)


def expect_error(answer, error):
    eq(answer.error, error, "error of the reply")
    if answer.chunks[-1].kind is not None and not answer.message:
        raise AssertionError("an error reply without a sentence for a person")


def logged(process, *patterns):
    """The log has one line, written as nbdinetd writes them, that matches all the patterns."""
    for line in process.stderr().splitlines():
        if line.startswith("nbdinetd: ") and all(re.search(p, line, re.I) for p in patterns):
            return
    raise AssertionError(f"no line that matches all of {patterns} in {process.stderr()!r}")


def reported_errors(process):
    """How many errors the log's last line counts."""
    return int(matches(r"ended: .* (\d+) errors?, in ", process.stderr())[1])


def expect_good_bytes(answer, content):
    """What a structured read brought as data is the data, up to where its error says otherwise.

    A server that has promised one chunk and then fails must pad it; the error chunk then names
    the offset from which on the padding begins, and the client knows what not to take for good.
    """
    bad_from = min((struct.unpack(">Q", chunk.payload[-8:])[0] for chunk in answer.chunks
                    if chunk.kind == NBD_REPLY_TYPE_ERROR_OFFSET), default=None)
    for chunk in answer.chunks:
        if chunk.kind == NBD_REPLY_TYPE_OFFSET_HOLE:
            start, length = struct.unpack(">QI", chunk.payload)
            eq(any(content[start:start + length]), False, f"data where a hole was sent, {start}")
            eq(start + length <= len(content), True, "a hole beyond the end of the file")
        if chunk.kind != NBD_REPLY_TYPE_OFFSET_DATA:
            continue
        start, = struct.unpack_from(">Q", chunk.payload)
        data = chunk.payload[8:]
        if bad_from is not None and start <= bad_from < start + len(data):
            data = data[:bad_from - start]
        if data != content[start:start + len(data)]:
            raise AssertionError(f"wrong bytes as good ones in the chunk of {len(data)} bytes at "
                                 f"{start}; error offset: {bad_from}")
    return bad_from


# ------------------------------------------------------------------ no space left

def _fill_up(context, path, free_space, structured):
    """Writes into the holes of `path` until the file system is full; `free_space` makes room."""
    process, client = serve(context, path, structured=structured)
    block = b"\x42" * MIB
    written = 0
    while True:
        answer = client.call(NBD_CMD_WRITE, written * MIB, payload=block)
        if answer.error:
            break
        written += 1
        eq(written * MIB < client.size, True, "the file system has become full")
    expect_error(answer, NBD_ENOSPC)
    eq(written > 0, True, "something could be written before")

    # The connection goes on: what is there can be read, and written over, and flushed.
    eq(client.read((written - 1) * MIB, MIB) == block, True, "the block before")
    client.write(0, b"\x43" * MIB)
    client.flush()
    # Requests that fail and such that succeed, in one go.
    refused = [client.request(NBD_CMD_WRITE, (written + 1 + i) * MIB, payload=block)
               for i in range(4)]
    reads = [client.request(NBD_CMD_READ, i * PAGE, PAGE) for i in range(4)]
    for cookie in refused:
        expect_error(client.answer(cookie), NBD_ENOSPC)
    for cookie in reads:
        eq(client.answer(cookie).check().data, b"\x43" * PAGE)
    # Running out of space has lost nothing, so that a flush has nothing to confess.
    client.flush()
    logged(process, "no space left on device", "write", re.escape(os.path.basename(path)))

    free_space()
    client.write((written + 1) * MIB, block)
    client.flush()
    eq(client.read((written + 1) * MIB, MIB) == block, True, "what was written at last")
    finish(process, client)
    eq(reported_errors(process), 5, "errors in the log's last line")


@test("a full tmpfs gives NBD_ENOSPC and a line in the log, and room made later is used")
def _(context):
    need_privilege("root")
    for structured in (True, False):
        with tmpfs(context.path("full"), 8 * MIB) as mount:
            ballast = context.sparse_image(0, "full/ballast")
            Path(ballast).write_bytes(bytes(3 * MIB))
            path = context.sparse_image(32 * MIB, "full/disk")
            _fill_up(context, path, lambda: os.unlink(ballast), structured)
            eq(mount.path, context.path("full"))


@test("a full ext4 gives NBD_ENOSPC and a line in the log, and room made later is used")
def _(context):
    need_privilege("root", "loop")
    need("mkfs.ext4")
    for structured in (True, False):
        image = context.fresh(".ext4")
        ext4_image(image, 16 * MIB)
        with LoopDevice(image) as device, Mount(device.path, context.path("full"), "ext4"):
            ballast = context.image(bytes(4 * MIB), "full/ballast")
            path = context.sparse_image(64 * MIB, "full/disk")
            _fill_up(context, path, lambda: os.unlink(ballast), structured)


@test("zeroes with NO_HOLE and writes with FUA on a full ext4 give NBD_ENOSPC, a trim makes room")
def _(context):
    need_privilege("root", "loop")
    need("mkfs.ext4")
    image = context.path("image")
    ext4_image(image, 16 * MIB)
    with LoopDevice(image) as device, Mount(device.path, context.path("full"), "ext4"):
        path = context.sparse_image(64 * MIB, "full/disk")
        process, client = serve(context, path)
        client.write(0, b"\x11" * 8 * MIB)
        client.flush()
        expect_error(client.call(NBD_CMD_WRITE_ZEROES, 16 * MIB, 32 * MIB, NBD_CMD_FLAG_NO_HOLE),
                     NBD_ENOSPC)
        answers = [client.call(NBD_CMD_WRITE, (48 + i) * MIB, flags=NBD_CMD_FLAG_FUA,
                               payload=b"\x22" * MIB) for i in range(12)]
        errors = {answer.error for answer in answers} - {0}
        eq(errors, {NBD_ENOSPC}, "errors of writes with FUA")
        client.flush()
        eq(client.read(0, 8 * MIB) == b"\x11" * 8 * MIB, True, "what was there before")
        client.trim(0, 6 * MIB)
        client.flush()
        client.write(32 * MIB, b"\x33" * 2 * MIB, NBD_CMD_FLAG_FUA)
        eq(client.read(32 * MIB, 2 * MIB) == b"\x33" * 2 * MIB, True, "what was written at last")
        finish(process, client)


@test("writing beyond RLIMIT_FSIZE gives NBD_ENOSPC, and SIGXFSZ does not kill the server")
def _(context):
    path = context.sparse_image(4 * MIB, "disk")
    for structured in (True, False):
        process, client = serve(context, path, structured=structured,
                                limits={resource.RLIMIT_FSIZE: MIB})
        client.write(0, b"\x77" * MIB)
        for flags in (0, NBD_CMD_FLAG_FUA):
            for offset, length in ((2 * MIB, PAGE), (MIB - 100, 200), (MIB - 100, MIB)):
                answer = client.call(NBD_CMD_WRITE, offset, flags=flags, payload=b"\x01" * length)
                expect_error(answer, NBD_ENOSPC)
        client.write(0, b"\x78" * 100)
        eq(client.read(0, 101), b"\x78" * 100 + b"\x77")
        client.flush()
        finish(process, client)
        logged(process, "file too large")


# ------------------------------------------------------------------ read errors

READ = 32 * MIB
BAD = 20 * MIB + 2 * PAGE  # the page that can't be read


def _expect_failing_large_read(client, content, flags=0, exact=True):
    answer = client.call(NBD_CMD_READ, 0, READ, flags)
    expect_error(answer, NBD_EIO)
    bad_from = expect_good_bytes(answer, content)
    if bad_from is not None and not (BAD if exact else 0) <= bad_from < BAD + PAGE:
        raise AssertionError(f"the error is said to be at {bad_from}, it is at {BAD}")
    if bad_from is None:
        for chunk in answer.chunks:
            if chunk.kind == NBD_REPLY_TYPE_OFFSET_DATA:
                start, = struct.unpack_from(">Q", chunk.payload)
                eq(start <= BAD < start + len(chunk.payload) - 8, False,
                   "the bad page sent as data")


@test("a bad page inside a read of 32 MiB: structured replies bring an error chunk, and no byte "
      "that is wrong")
def _(context):
    content = image_bytes(40 * MIB)
    with failing_disk(context, content,
                      rule=("read", "eio", BAD, BAD + PAGE)) as (fs, process, client):
        for flags in (0, NBD_CMD_FLAG_DF, 0):
            _expect_failing_large_read(client, content, flags)
        # Around the bad page all is well.
        eq(client.read(BAD - 100, 100), content[BAD - 100:BAD])
        eq(client.read(BAD + PAGE, 100), content[BAD + PAGE:BAD + PAGE + 100])
        for offset, length in ((BAD, 1), (BAD - 1, 2), (BAD + PAGE - 1, 2)):
            answer = client.call(NBD_CMD_READ, offset, length)
            expect_error(answer, NBD_EIO)
            expect_good_bytes(answer, content)
        # The disk recovers, and the server does not hold its past against it.
        fs.clear()
        eq(client.read(0, READ) == content[:READ], True, "the read after recovery")
        finish(process, client)
        logged(process, "input/output error", "read")


@test("a bad page inside a read of 32 MiB: simple replies bring an error or the end, and no byte "
      "that is wrong")
def _(context):
    need_privilege("fuse")
    content = image_bytes(40 * MIB)
    with FailingFs(context.path(""), content) as fs:
        fs.rule("read", "eio", BAD, BAD + PAGE)
        for warm_up in (False, True):
            process, client = serve(context, fs.disk, structured=False)
            if warm_up:
                # All but the bad page is in the page cache now, and the server may think more.
                client.read(0, BAD)
                client.read(BAD + PAGE, READ - BAD - PAGE)
            client.request(NBD_CMD_READ, 0, READ)
            magic, error, _ = struct.unpack(">IIQ", client.receive(16))
            eq(magic, NBD_SIMPLE_REPLY_MAGIC)
            if error:
                eq(error, NBD_EIO)
                eq(Client.read(_restarted(client), BAD - PAGE, PAGE), content[BAD - PAGE:BAD])
                finish(process, client)
            else:
                # The header has promised a success that can't be kept: a hard disconnect is all
                # that is left, and it has to come before the first wrong byte.
                rest = client.read_to_end()
                eq(len(rest) < READ, True, "the whole payload of a read that has failed")
                eq(rest == content[:len(rest)], True, "bytes sent before the disconnect")
                eq(process.wait() not in (EX_OK, EX_PROTOCOL), True, "blames itself")
            logged(process, "input/output error", "read")


def _restarted(client):
    """The client again, without the request whose reply was read by hand."""
    client._pending.clear()  # pylint: disable=protected-access
    return client


@test("a bad page that is read again and again is an error each time, by simple replies, too")
def _(context):
    need_privilege("root", "loop", "fuse")
    content = image_bytes(2 * MIB)
    with FailingFs(context.path(""), content) as fs:
        bad = 256 * 1024
        fs.rule("read", "eio", bad, bad + PAGE)
        with LoopDevice(fs.disk) as device:
            for path in (fs.disk, device.path):
                # The next connection finds in the page cache what the one before left there.
                for _ in range(2):
                    process, client = serve(context, path, structured=False)
                    for length in (64 * 1024, 128 * 1024, MIB):
                        for _ in range(3):
                            eq(client.call(NBD_CMD_READ, bad - PAGE, length).error, NBD_EIO)
                    finish(process, client)


@test("one read among many fails, and its neighbours don't")
def _(context):
    content = image_bytes(2 * MIB)
    for structured in (True, False):
        with failing_disk(context, content, structured=structured,
                          rule=("read", "eio", 5 * 65536, 5 * 65536 + PAGE)
                          ) as (_, process, client):
            cookies = [client.request(NBD_CMD_READ, i * 64 * 1024, 64 * 1024) for i in range(32)]
            for i, cookie in enumerate(cookies):
                answer = client.answer(cookie)
                if i == 5:
                    expect_error(answer, NBD_EIO)
                else:
                    eq(answer.check().data == content[i * 65536:(i + 1) * 65536], True, f"{i}")
            finish(process, client)
            eq(reported_errors(process), 1, "errors in the log's last line")


@test("a bad sector of a block device gives NBD_EIO, and the connection goes on")
def _(context):
    need_privilege("root", "loop", "fuse")
    content = image_bytes(40 * MIB)
    for structured in (True, False):
        with FailingFs(context.fresh("fs"), content) as fs:
            with LoopDevice(fs.disk) as device:
                fs.rule("read", "eio", BAD, BAD + PAGE)
                process, client = serve(context, device.path, structured=structured)
                if structured:
                    # The kernel may give up a run of pages for the one that is bad.
                    _expect_failing_large_read(client, content, exact=False)
                expect_error(client.call(NBD_CMD_READ, BAD, PAGE), NBD_EIO)
                eq(client.read(MIB, MIB) == content[MIB:2 * MIB], True, "another read")
                fs.clear()
                eq(client.read(0, READ) == content[:READ], True, "the read after recovery")
                finish(process, client)
                logged(process, "input/output error", "read")


@test("a thousand errors of a disk make ten lines in the log")
def _(context):
    with failing_disk(context, image_bytes(MIB), rule=("read", "eio")) as (_, process, client):
        cookies = [client.request(NBD_CMD_READ, (i % 256) * PAGE, PAGE) for i in range(1000)]
        for cookie in cookies:
            expect_error(client.answer(cookie), NBD_EIO)
        finish(process, client)
        eq(reported_errors(process), 1000, "errors in the log's last line")
        lines = [line for line in process.stderr().splitlines() if "Input/output error" in line]
        eq(len(lines), LOGGED_ERRORS, "lines for a thousand errors")
        for number, line in enumerate(lines, 1):
            matches(r'^nbdinetd: "[^"]+": read of 4096 bytes at offset \d+ failed: '
                    r"Input/output error"
                    + ("; further errors are only counted$" if number == LOGGED_ERRORS else "$"),
                    line)


@test("fewer errors than are logged one by one don't mention further errors")
def _(context):
    with failing_disk(context, image_bytes(MIB), rule=("read", "eio")) as (_, process, client):
        for i in range(LOGGED_ERRORS - 1):
            expect_error(client.call(NBD_CMD_READ, i * PAGE, PAGE), NBD_EIO)
        finish(process, client)
        eq(process.stderr().count("Input/output error"), LOGGED_ERRORS - 1)
        eq("further errors" in process.stderr(), False, "a word on further errors")


# ------------------------------------------------------------------ write errors

@test("a write that fails gives NBD_EIO and a line in the log, the others succeed")
def _(context):
    content = image_bytes(4 * MIB)
    for structured in (True, False):
        with failing_disk(context, content, structured=structured,
                          rule=("write", "eio", MIB, MIB + PAGE)) as (fs, process, client):
            for offset, length in ((MIB, 10), (MIB - 100, 200), (0, 2 * MIB)):
                expect_error(client.call(NBD_CMD_WRITE, offset, payload=b"\1" * length), NBD_EIO)
            client.write(3 * MIB, b"\2" * MIB)
            eq(client.read(3 * MIB, MIB) == b"\2" * MIB, True, "the write that succeeded")
            eq(client.read(MIB, PAGE) == content[MIB:MIB + PAGE], True, "what could not be written")
            fs.clear()
            client.write(MIB, b"\3" * PAGE)
            client.flush()
            finish(process, client)
            logged(process, "input/output error", "write")


@test("EDQUOT and EFBIG reach the client as NBD_ENOSPC, EROFS as NBD_EPERM")
def _(context):
    with failing_disk(context, image_bytes(MIB)) as (fs, process, client):
        for name, wanted in (("edquot", NBD_ENOSPC), ("efbig", NBD_ENOSPC),
                             ("enospc", NBD_ENOSPC), ("erofs", NBD_EPERM), ("eio", NBD_EIO)):
            fs.rule("write", name)
            expect_error(client.call(NBD_CMD_WRITE, 0, payload=b"x"), wanted)
            fs.clear()
        finish(process, client)


@test("trim and zeroes whose fallocate fails give NBD_EIO")
def _(context):
    with failing_disk(context, image_bytes(MIB)) as (fs, process, client):
        fs.rule("fallocate", "eio")
        expect_error(client.call(NBD_CMD_TRIM, 0, PAGE), NBD_EIO)
        expect_error(client.call(NBD_CMD_WRITE_ZEROES, 0, PAGE), NBD_EIO)
        fs.clear()
        client.write_zeroes(0, PAGE)
        eq(client.read(0, PAGE + 1), bytes(PAGE) + image_bytes(MIB)[PAGE:PAGE + 1])
        finish(process, client)


@test("fast zeroes whose flush fails with EOPNOTSUPP give NBD_EIO, and not NBD_ENOTSUP")
def _(context):
    with failing_disk(context, image_bytes(MIB)) as (fs, process, client):
        fs.rule("sync", "eopnotsupp")
        expect_error(client.call(NBD_CMD_WRITE_ZEROES, 0, PAGE,
                                 NBD_CMD_FLAG_FAST_ZERO | NBD_CMD_FLAG_FUA), NBD_EIO)
        eq(client.read(0, PAGE), bytes(PAGE))
        finish(process, client)


# ------------------------------------------------------------------ flush errors

def _expect_no_more_promises(client):
    """After a flush has failed, this connection is never told again that all is on the disk."""
    for _ in range(3):
        expect_error(client.call(NBD_CMD_FLUSH), NBD_EIO)
    for command, length, payload in ((NBD_CMD_WRITE, 0, b"x" * 100), (NBD_CMD_TRIM, PAGE, b""),
                                     (NBD_CMD_WRITE_ZEROES, PAGE, b"")):
        expect_error(client.call(command, 0, length, NBD_CMD_FLAG_FUA, payload), NBD_EIO)
    expect_error(client.call(NBD_CMD_WRITE, 0, 0, NBD_CMD_FLAG_FUA, b"y" * MIB), NBD_EIO)


@test("once a flush has failed, every later flush and FUA of the connection fails, reads don't")
def _(context):
    content = image_bytes(2 * MIB)
    for structured in (True, False):
        with failing_disk(context, content, structured=structured) as (fs, process, client):
            client.write(PAGE, b"lost?")
            # The kernel, too, reports a lost write once, and succeeds from then on.
            fs.rule("sync", "eio", count=1)
            expect_error(client.call(NBD_CMD_FLUSH), NBD_EIO)
            _expect_no_more_promises(client)
            eq(client.read(MIB, 100), content[MIB:MIB + 100])
            finish(process, client)
            logged(process, "input/output error", "flush")
            # A new connection starts with a clean slate.
            process, client = serve(context, fs.disk, structured=structured)
            client.flush()
            client.write(0, b"z", NBD_CMD_FLAG_FUA)
            finish(process, client)


@test("once a request with FUA has failed to reach the disk, every later flush fails")
def _(context):
    for command, length, payload in ((NBD_CMD_WRITE, 0, b"x" * 100), (NBD_CMD_TRIM, PAGE, b""),
                                     (NBD_CMD_WRITE, 0, b"x" * MIB),
                                     (NBD_CMD_WRITE_ZEROES, PAGE, b"")):
        with failing_disk(context, image_bytes(2 * MIB)) as (fs, process, client):
            fs.rule("sync", "eio", count=1)
            expect_error(client.call(command, 0, length, NBD_CMD_FLAG_FUA, payload), NBD_EIO)
            _expect_no_more_promises(client)
            finish(process, client)


@test("a sync for FUA that fails with ENOSPC makes every later flush fail, too")
def _(context):
    # That the sync failed, and not the write, makes all the difference: what was acknowledged
    # before may be lost, and the kernel won't say so a second time.
    with failing_disk(context, image_bytes(2 * MIB)) as (fs, process, client):
        client.write(PAGE, b"acknowledged")
        fs.rule("sync", "enospc", count=1)
        expect_error(client.call(NBD_CMD_WRITE, 0, 0, NBD_CMD_FLAG_FUA, b"x" * 100), NBD_ENOSPC)
        answer = client.call(NBD_CMD_FLUSH)
        eq(answer.error in (NBD_EIO, NBD_ENOSPC), True,
           f"the flush after a sync that failed: error {answer.error}, wanted EIO or ENOSPC")
        finish(process, client)


@test("a write that a block device loses in write-back fails the flush, and all later ones")
def _(context):
    with failing_device(context, image_bytes(4 * MIB)) as (fs, process, client):
        client.write(0, b"kept" * 1024)
        client.flush()
        fs.rule("write", "eio", MIB, MIB + PAGE)
        # The page cache takes it: the error is still to come.
        client.write(MIB, b"lost" * 1024)
        expect_error(client.call(NBD_CMD_FLUSH), NBD_EIO)
        fs.clear()
        _expect_no_more_promises(client)
        eq(client.read(2 * MIB, 100), image_bytes(4 * MIB)[2 * MIB:2 * MIB + 100])
        finish(process, client)
        logged(process, "input/output error", "flush")


# ------------------------------------------------------------------ slow storage

def _no_reply_yet(client, cookie):
    """Nothing of an answer has come. A quick wrong answer would be seen; and whatever is said
    here may only be too kind to a server, never unjust."""
    deadline = time.monotonic() + 0.15
    while time.monotonic() < deadline:
        client._take()  # pylint: disable=protected-access
        time.sleep(0.01)
    eq(len(client._unread), 0, "bytes of a reply that could not be known yet")
    eq(client._pending[cookie].chunks, [])


def _answered_while(fs, client, slow, quick):
    """`quick` requests get their answers while the `slow` one is held; then that one, too."""
    held = client.request(*slow)
    fs.wait_held(1)
    for request in quick:
        client.call(*request).check()
    _no_reply_yet(client, held)
    fs.release()
    return client.answer(held).check()


def hold_much(client):
    """From now on the client's socket takes some megabytes from it that the server doesn't read."""
    SO_SNDBUFFORCE = 32
    client._socket.setsockopt(socket.SOL_SOCKET,  # pylint: disable=protected-access
                              SO_SNDBUFFORCE, 8 * MIB)


def unread_by_the_server(client):
    """What of the client's bytes still lies in its socket, more or less."""
    SIOCOUTQ = 0x5411
    return fcntl.ioctl(client._wfd, SIOCOUTQ, bytes(4))  # pylint: disable=protected-access


@test("SIGTERM, once or more, during slow storage requests: these are answered, then the "
      "connection ends")
def _(context):
    content = image_bytes(4 * MIB)
    requests = {
        "a read": ("read", (NBD_CMD_READ, MIB, PAGE)),
        "a long read": ("read", (NBD_CMD_READ, MIB, MIB)),
        "a flush": ("sync", (NBD_CMD_FLUSH,)),
        "a durable write": ("sync", (NBD_CMD_WRITE, 0, 0, NBD_CMD_FLAG_FUA, b"x" * PAGE)),
        "nothing but the last flush": ("sync", None),
    }
    for name, (operation, request) in requests.items():
        for times in (1, 3):
            with failing_disk(context, content) as (fs, process, client):
                client.write(2 * MIB, b"y" * PAGE)
                fs.rule(operation, "hold")
                held = client.request(*request) if request else None
                if request:
                    fs.wait_held(1)
                for _ in range(times):
                    process.signal(signal.SIGTERM)
                # Until its last flush, or, for certain, not before what is under way.
                if not request:
                    fs.wait_held(1)
                    process.signal(signal.SIGTERM)
                eq(process.poll(), None, f"{name}: the end")
                fs.release()
                if request:
                    client.answer(held).check()
                client.expect_end()
                process.expect(EX_OK)


@test("a slow read does not hold up the reads behind it")
def _(context):
    content = image_bytes(4 * MIB)
    for structured in (True, False):
        with failing_disk(context, content, structured=structured,
                          rule=("read", "hold", MIB, MIB + PAGE)) as (fs, process, client):
            for length in (PAGE, MIB):
                fs.rule("read", "hold", MIB, MIB + PAGE)
                slow = client.request(NBD_CMD_READ, MIB, length)
                fs.wait_held(1)
                for offset in (0, 2 * MIB, 3 * MIB):
                    eq(client.read(offset, 1000), content[offset:offset + 1000])
                _no_reply_yet(client, slow)
                fs.release()
                eq(client.answer(slow).check().data == content[MIB:MIB + length], True, "at last")
                client.call(NBD_CMD_READ, MIB, PAGE).check()
                # The page is cached now, and would be held no more.
                finish(process, client)
                drop_caches(fs.disk)
                process, client = serve(context, fs.disk, structured=structured)
            finish(process, client)


@test("sixty-four slow reads do not hold up a read of what is in the page cache")
def _(context):
    content = image_bytes(8 * MIB)
    for structured in (True, False):
        with failing_device(context, content, structured=structured) as (fs, process, client):
            eq(client.read(0, MIB) == content[:MIB], True, "the warm part")
            fs.rule("read", "hold", 4 * MIB)
            slow = [client.request(NBD_CMD_READ, 4 * MIB + i * 60000, PAGE) for i in range(64)]
            fs.wait_held(1)
            for i in range(64):
                eq(client.read(i * PAGE, PAGE), content[i * PAGE:(i + 1) * PAGE])
            eq(client.read(0, 512 * 1024) == content[:512 * 1024], True, "a longer warm read")
            fs.release()
            for i, cookie in enumerate(slow):
                offset = 4 * MIB + i * 60000
                eq(client.answer(cookie).check().data, content[offset:offset + PAGE])
            finish(process, client)


@test("a slow flush holds up neither reads nor writes behind it")
def _(context):
    with failing_device(context, image_bytes(4 * MIB)) as (fs, process, client):
        client.read(0, MIB)
        client.write(0, b"a" * PAGE)
        fs.rule("sync", "hold")
        _answered_while(fs, client, (NBD_CMD_FLUSH,),
                        [(NBD_CMD_READ, 0, PAGE), (NBD_CMD_READ, 0, MIB),
                         (NBD_CMD_WRITE, 8 * PAGE, 0, 0, b"b" * PAGE)])
        finish(process, client)


@test("a slow write with FUA does not hold up the reads behind it")
def _(context):
    content = image_bytes(4 * MIB)
    with failing_disk(context, content) as (fs, process, client):
        for payload in (b"x" * 100, b"y" * MIB):
            fs.rule("sync", "hold")
            _answered_while(fs, client, (NBD_CMD_WRITE, 0, 0, NBD_CMD_FLAG_FUA, payload),
                            [(NBD_CMD_READ, 2 * MIB, PAGE), (NBD_CMD_READ, 3 * MIB, PAGE)])
        finish(process, client)


@test("a slow trim and slow zeroes do not hold up the reads behind them")
def _(context):
    need_privilege("root", "loop", "fuse")
    need("mkfs.ext4")
    # An ext4 that has just been mounted must read its block bitmap before it can free a block.
    # (A block device won't do: while it discards, the kernel lets nobody read it, cached or not.)
    image = context.path("image")
    ext4_image(image, 32 * MIB)
    with LoopDevice(image) as device, Mount(device.path, context.path("filled"), "ext4"):
        context.image(image_bytes(4 * MIB), "filled/disk")
    for command in (NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES):
        with FailingFs(context.fresh("fs"), Path(image).read_bytes()) as fs, \
                LoopDevice(fs.disk) as device, \
                Mount(device.path, context.path("mounted"), "ext4", "no_prefetch_block_bitmaps"):
            process, client = serve(context, context.path("mounted/disk"))
            with kept_in_cache(context.path("mounted/disk")):
                fs.rule("read", "hold")
                _answered_while(fs, client, (command, 2 * MIB, MIB),
                                [(NBD_CMD_READ, 0, PAGE), (NBD_CMD_READ, 0, MIB),
                                 (NBD_CMD_READ, 3 * MIB, MIB)])
            eq(client.read(3 * MIB, MIB) == image_bytes(4 * MIB)[3 * MIB:], True, "the content")
            finish(process, client)


@test("a slow block status does not hold up the reads behind it")
def _(context):
    content = image_bytes(4 * MIB)
    with failing_disk(context, content, contexts=["base:allocation"]) as (fs, process, client):
        fs.rule("lseek", "hold")
        answer = _answered_while(fs, client, (NBD_CMD_BLOCK_STATUS, 0, 4 * MIB),
                                 [(NBD_CMD_READ, 2 * MIB, PAGE), (NBD_CMD_READ, 3 * MIB, PAGE)])
        eq(answer.extents[0][1], [(4 * MIB, 0)])
        finish(process, client)


@test("more slow requests of one kind than there are workers hold up no other kind")
def _(context):
    size = 48 * MIB
    read, long_read = (NBD_CMD_READ, 40 * MIB, PAGE), (NBD_CMD_READ, 44 * MIB, MIB)
    flush, trim = (NBD_CMD_FLUSH,), (NBD_CMD_TRIM, 47 * MIB, PAGE)
    status, cache = (NBD_CMD_BLOCK_STATUS, 0, PAGE), (NBD_CMD_CACHE, 46 * MIB, PAGE)
    durable = (NBD_CMD_WRITE, 45 * MIB, 0, NBD_CMD_FLAG_FUA, b"x" * PAGE)
    # What the kernel itself lets wait for the slow ones isn't asked for: they hold the inode's lock.
    rows = [
        ("reads", "read", lambda i: (NBD_CMD_READ, i * 65536, PAGE), [long_read, flush, trim, status,
                                                                      cache, durable]),
        ("long reads", "read", lambda i: (NBD_CMD_READ, i * 524288, 524288), [read, flush, trim, status,
                                                                              cache, durable]),
        ("flushes", "sync", lambda i: (NBD_CMD_FLUSH,), [read, long_read, cache]),
        ("block statuses", "lseek", lambda i: (NBD_CMD_BLOCK_STATUS, i * PAGE, PAGE),
         [read, long_read, cache]),
        ("trims", "fallocate", lambda i: (NBD_CMD_TRIM, i * PAGE, PAGE), [read, long_read, cache]),
        ("zeroes", "fallocate", lambda i: (NBD_CMD_WRITE_ZEROES, i * PAGE, PAGE),
         [read, long_read, cache]),
    ]
    for name, operation, slow, others in rows:
        with failing_disk(context, bytes(size),
                          contexts=["base:allocation"]) as (fs, process, client):
            fs.rule(operation, "hold", 0, 32 * MIB)
            cookies = [client.request(*slow(i)) for i in range(60)]
            fs.wait_held(1)
            for request in others:
                client.call(*request).check()
            fs.release()
            for cookie in cookies:
                client.answer(cookie).check()
            note(f"{name}: answered meanwhile: {len(others)}")
            finish(process, client)


@test("a slow block status behind one that was slow holds up nothing, either")
def _(context):
    content = image_bytes(4 * MIB)
    with failing_disk(context, content, contexts=["base:allocation"]) as (fs, process, client):
        client.read(0, 4 * MIB)
        for _ in range(3):
            # That one was slow is known when it has ended.
            fs.rule("lseek", "hold")
            answer = _answered_while(fs, client, (NBD_CMD_BLOCK_STATUS, 0, 4 * MIB),
                                     [(NBD_CMD_READ, 2 * MIB, PAGE), (NBD_CMD_READ, 0, MIB)])
            eq(answer.extents[0][1], [(4 * MIB, 0)])
        finish(process, client)


@test("a slow block status behind quick ones holds up no answer to what is under way")
def _(context):
    need_privilege("root", "loop", "fuse")
    need("mkfs.ext4")
    # A file of so many extents that ext4 keeps them in several blocks, each of which it reads when it
    # is asked for what is in it.
    # With a journal: without one, fdatasync(2) of what was only overwritten sends the device no flush
    # on Linux 6.1.
    image, size = context.path("image"), 16 * MIB
    ext4_image(image, 64 * MIB, journal=True)
    with LoopDevice(image) as device, Mount(device.path, context.path("filled"), "ext4"):
        with open(context.path("filled/disk"), "wb") as file:
            file.truncate(size)
            for offset in range(0, size, 2 * PAGE):
                file.seek(offset)
                file.write(image_bytes(PAGE))
                file.flush()
    with FailingFs(context.fresh("fs"), Path(image).read_bytes()) as fs, \
            LoopDevice(fs.disk) as device, \
            Mount(device.path, context.path("mounted"), "ext4", "no_prefetch_block_bitmaps"):
        process, client = serve(context, context.path("mounted/disk"), contexts=["base:allocation"])
        # As long as they are quick, nobody else is asked. (One that isn't, on a busy machine, makes
        # this easier for the server, and no harder.)
        for _ in range(20):
            client.block_status(0, 4 * PAGE, NBD_CMD_FLAG_REQ_ONE)
        client.write(0, b"w" * PAGE)
        fs.rule("sync", "hold")
        flush = client.request(NBD_CMD_FLUSH)
        fs.wait_held(1)
        fs.rule("read", "hold")
        status = client.request(NBD_CMD_BLOCK_STATUS, size - 4 * PAGE, 4 * PAGE)
        wait_steady(lambda: waits_of(process.pid))
        fs.release("sync")
        client.answer(flush).check()
        # Else this proves nothing.
        fs.wait_held(1)
        eq(client._pending[status].chunks, [])  # pylint: disable=protected-access
        fs.release()
        client.answer(status).check()
        finish(process, client)


@test("a client is not idle while an answer is owed to it")
def _(context):
    content = image_bytes(4 * MIB)
    for command, kind in ((NBD_CMD_READ, "read"), (NBD_CMD_FLUSH, "sync")):
        with failing_disk(context, content, "--idle-timeout=200ms",
                          "--stall-timeout=200ms") as (fs, process, client):
            client.read(MIB, PAGE)
            fs.rule(kind, "hold")
            slow = client.request(command, 0, PAGE if command == NBD_CMD_READ else 0)
            fs.wait_held(1)
            time.sleep(0.6)  # that is what must not matter
            eq(client.ended(), False, "the connection")
            # It is listened to as well.
            eq(client.call(NBD_CMD_READ, MIB, PAGE).check().data, content[MIB:MIB + PAGE])
            fs.release()
            client.answer(slow).check()
            client.read_to_end()
            process.expect(75)
            matches(r"ended: client was idle for 200ms", process.stderr())


@test("a write to a part of a page that has to be read first holds up nothing behind it")
def _(context):
    content = bytearray(image_bytes(8 * MIB))
    with failing_device(context, content) as (fs, process, client):
        client.read(0, MIB)
        for number, (offset, length) in enumerate((
                (4 * MIB + 1, 100),  # inside of a page
                (5 * MIB, 100),  # its first bytes
                (6 * MIB - 100, 100),  # its last
                (6 * MIB + 512, 3 * PAGE))):  # two halves, and whole ones between them
            fs.rule("read", "hold", 4 * MIB)
            payload = bytes([number + 1]) * length
            content[offset:offset + length] = payload
            _answered_while(fs, client, (NBD_CMD_WRITE, offset, 0, 0, payload),
                            [(NBD_CMD_READ, 0, PAGE), (NBD_CMD_READ, 0, 512 * 1024)])
        client.flush()
        eq(client.read(0, 8 * MIB) == bytes(content), True, "all that is there afterwards")
        finish(process, client)


@test("a long write that has to wait for a slow trim or slow zeroes holds up no answer that comes "
      "meanwhile")
def _(context):
    content = bytearray(image_bytes(8 * MIB))
    for command in (NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES):
        for length in (PAGE, 200 * 1024, 2 * MIB):
            with failing_disk(context, content) as (fs, process, client):
                hold_much(client)
                fs.rule("read", "hold", MIB, MIB + PAGE)
                fs.rule("fallocate", "hold")
                read = client.request(NBD_CMD_READ, MIB, PAGE)
                fs.wait_held(1)
                slow = client.request(command, 6 * MIB, MIB)
                fs.wait_held(2)
                written = image_bytes(4 * MIB)[-length:]
                write = client.request(NBD_CMD_WRITE, 4 * MIB, payload=written)
                # The server has got as much of it as it wants then.
                wait_steady(lambda: unread_by_the_server(client))
                _no_reply_yet(client, slow)
                fs.release("read")
                eq(client.answer(read).check().data, content[MIB:MIB + PAGE])
                eq(client._pending[slow].chunks, [])  # pylint: disable=protected-access
                fs.release()
                client.answer(slow).check()
                client.answer(write).check()
                eq(client.read(4 * MIB, length) == written, True, "what was written")
                finish(process, client)


@test("requests that wait for a slow storage are dropped when nobody is there to be answered")
def _(context):
    content = b"\x5a" * (64 * MIB)
    # Calls for each request: this file system is read page by page; a block status looks for data,
    # and then for a hole.
    for command, kind, calls in ((NBD_CMD_READ, "read", 100), (NBD_CMD_BLOCK_STATUS, "lseek", 2)):
        with failing_disk(context, content, contexts=["base:allocation"]) as (fs, process, client):
            client.read(0, 4 * MIB)
            fs.rule(kind, "hold", 4 * MIB)
            # A worker for each of the first; the others stay where they are.
            for i in range(100):
                client.request(command, 4 * MIB + i * 512 * 1024, 400 * 1024)
            fs.wait_held(1)
            wait_steady(lambda: fs.count("held"))
            before = fs.count(kind + "s")
            # More replies than a socket holds, none of which is read.
            for _ in range(8):
                client.request(NBD_CMD_READ, 0, 4 * MIB)
            wait_steady(lambda: (waits_of(process.pid), state_of(process.pid)))
            waits = waits_of(process.pid)
            client.close()
            # It has heard of that when it has slept once more.
            wait_until(lambda: waits_of(process.pid) > waits and state_of(process.pid) == "S",
                       "the server to notice")
            fs.release()
            process.expect(EX_PROTOCOL)
            # Those under way go on to their ends, and no other begins.
            more = fs.count(kind + "s") - before
            eq(more < 50 * calls, True, f"{more} more {kind}s for nobody")


@test("a client that closes its direction may read its replies; one that leaves without them ends with 76")
def _(context):
    content = b"\x5a" * (8 * MIB)
    for reads_it in (True, False):
        with failing_disk(context, content) as (fs, process, client):
            client.read(0, PAGE)
            fs.rule("read", "hold", 4 * MIB)
            cookie = client.request(NBD_CMD_READ, 4 * MIB, PAGE)
            fs.wait_held(1)
            wait_steady(lambda: (waits_of(process.pid), state_of(process.pid)))
            waits = waits_of(process.pid)
            client._socket.shutdown(socket.SHUT_WR)  # pylint: disable=protected-access
            wait_until(lambda: waits_of(process.pid) > waits and state_of(process.pid) == "S",
                       "the server to notice")
            if not reads_it:
                client.close()
            fs.release()
            if reads_it:
                eq(client.answer(cookie).check().data, content[:PAGE])
            process.expect(0 if reads_it else EX_PROTOCOL)


@test("NBD_CMD_DISC waits for the write before it, whose bytes are in the file")
def _(context):
    with failing_disk(context, image_bytes(MIB), stable=True) as (fs, process, client):
        fs.rule("sync", "hold")
        client.request(NBD_CMD_WRITE, 1000, flags=NBD_CMD_FLAG_FUA, payload=b"the last words")
        fs.wait_held(1)
        client.send(client.request_bytes(NBD_CMD_DISC))
        _no_end_yet(process)
        fs.release()
        process.expect(EX_OK)
        eq(read_file(fs.stable, 1000, 14), b"the last words")


def _no_end_yet(process):
    time.sleep(0.1)
    eq(process.poll(), None, "exit status while a write is under way")


# ------------------------------------------------------------------ durability

@test("a flush is answered when what was written before it is on the disk, and not earlier")
def _(context):
    with failing_disk(context, image_bytes(MIB), stable=True) as (fs, process, client):
        client.write(0, b"first")
        client.write(MIB - 5, b"final")
        fs.rule("sync", "hold")
        cookie = client.request(NBD_CMD_FLUSH)
        fs.wait_held(1)
        _no_reply_yet(client, cookie)
        fs.release()
        client.answer(cookie).check()
        eq(read_file(fs.stable, 0, 5), b"first")
        eq(read_file(fs.stable, MIB - 5, 5), b"final")
        finish(process, client)


@test("a request with FUA is answered when it is on the disk, whichever command it is")
def _(context):
    content = image_bytes(4 * MIB)
    for structured in (True, False):
        with failing_disk(context, content, stable=True,
                          structured=structured) as (fs, process, client):
            place = 0
            for command, length, payload, wanted in (
                    (NBD_CMD_WRITE, 0, b"s" * 10, b"s" * 10),
                    (NBD_CMD_WRITE, 0, b"l" * MIB, b"l" * MIB),
                    (NBD_CMD_WRITE_ZEROES, 5000, b"", bytes(5000)),
                    (NBD_CMD_TRIM, PAGE, b"", None)):
                fs.rule("sync", "hold")
                offset = place
                cookie = client.request(command, offset, length, NBD_CMD_FLAG_FUA, payload)
                fs.wait_held(1)
                _no_reply_yet(client, cookie)
                fs.release()
                client.answer(cookie).check()
                got = read_file(fs.stable, offset, max(length, len(payload)))
                if wanted is None:  # a trim leaves the old bytes or zeroes
                    wanted = bytes(PAGE) if got[0] == 0 else content[offset:offset + PAGE]
                eq(got == wanted, True, f"what command {command} has left on the disk")
                place += MIB + 8192
            finish(process, client)


@test("kill -9 of the server in mid-write: all that it called durable is there")
def _(context):
    generator = random.Random(42)
    for last_reply in (1, 7, 20, 33, 60):
        with failing_disk(context, bytes(8 * MIB), stable=True,
                          structured=last_reply % 2 == 0) as (fs, process, client):
            expected = _write_until(process, client, generator, last_reply)
            eq(process.wait(), -signal.SIGKILL)
            on_disk = Path(fs.stable).read_bytes()
            for offset, data, how in expected:
                eq(on_disk[offset:offset + len(data)] == data, True,
                   f"{len(data)} bytes at {offset}, durable by {how}, "
                   f"kill after reply {last_reply}")


def _write_until(process, client, generator, last_reply):
    """Keeps writes with and without FUA and flushes in flight, and kills the server after so
    many replies. Returns what has to be on the disk: [(offset, data, why)]."""
    writes, flushes = {}, {}
    acknowledged, durable = [], []
    replies = 0
    slots = list(range(128))
    generator.shuffle(slots)
    while replies < last_reply:
        while len(writes) + len(flushes) < 16:
            if generator.random() < 0.15:
                # A flush covers the writes that were acknowledged before it was sent.
                flushes[client.request(NBD_CMD_FLUSH)] = len(acknowledged)
                continue
            offset = slots.pop() * 65536 + generator.randrange(100)
            data = generator.randbytes(generator.choice((512, 5000, 60000)))
            flags = generator.choice((0, NBD_CMD_FLAG_FUA))
            cookie = client.request(NBD_CMD_WRITE, offset, flags=flags, payload=data)
            writes[cookie] = (offset, data, flags)
        answer = client.reply()
        if not answer.complete:
            continue
        replies += 1
        eq(answer.error, 0)
        if answer.cookie in flushes:
            covered = flushes.pop(answer.cookie)
            durable += [(*write, "a flush") for write in acknowledged[:covered]]
        else:
            offset, data, flags = writes.pop(answer.cookie)
            acknowledged.append((offset, data))
            if flags:
                durable.append((offset, data, "FUA"))
    os.kill(process.pid, signal.SIGKILL)
    return durable


@test("kill -9 of the server loses no write that it has acknowledged while the machine lives")
def _(context):
    generator = random.Random(43)
    for kill_after in (3, 40):
        path = context.sparse_image(16 * MIB)
        process, client = serve(context, path)
        cookies = {}
        for i in range(kill_after + 60):
            data = generator.randbytes(30000)
            cookies[client.request(NBD_CMD_WRITE, i * 100003, payload=data)] = (i * 100003, data)
        acknowledged = []
        while len(acknowledged) < kill_after:
            answer = client.reply()
            if answer.complete:
                eq(answer.error, 0)
                acknowledged.append(cookies[answer.cookie])
        os.kill(process.pid, signal.SIGKILL)
        eq(process.wait(), -signal.SIGKILL)
        for offset, data in acknowledged:
            eq(read_file(path, offset, len(data)) == data, True, f"the write at {offset}")


# ------------------------------------------------------------------ clients that vanish

def _client_process(connection, script):
    """Runs script(client) in a process of its own, which then waits for its death. Returns its
    pid once the script is through."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            script(Client(connection))
            os.write(writer, b"x")
            while True:
                time.sleep(60)
        finally:
            os._exit(1)
    os.close(writer)
    connection.close()
    poller = select.poll()
    poller.register(reader, select.POLLIN)
    came = poller.poll(GUARD * 1000)
    word = os.read(reader, 1) if came else b""
    os.close(reader)
    if word != b"x":
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise AssertionError("the client's script has failed")
    return pid


def _kill_client(context, path, script, family):
    """(server process) after kill -9 of a client that has run the script."""
    ours, theirs = context.connection(family)
    process = context.spawn([NBDINETD, path], fds={3: theirs}, listen_fds=1, listen_pid="own")
    theirs.close()
    pid = _client_process(ours, script)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return process


@test("kill -9 of the client in mid-write: exit status 76, and what was flushed is on the disk")
def _(context):
    need_privilege("fuse")
    content = image_bytes(4 * MIB)
    for family in ("socketpair", "unix", "tcp"):
        for sent in (0, 1, 100000, MIB - 1):
            with FailingFs(context.fresh("fs"), content, stable=True) as fs:
                def script(client, sent=sent):
                    client.start()
                    client.write(PAGE, b"flushed" * 1000)
                    client.flush()
                    client.send(client.request_bytes(NBD_CMD_WRITE, 2 * MIB, MIB))
                    client.send(b"\xff" * sent)
                process = _kill_client(context, fs.disk, script, family)
                process.expect(EX_PROTOCOL)
                matches(r"^nbdinetd: .* ended: .*", process.stderr())
                eq(read_file(fs.stable, PAGE, 7000), b"flushed" * 1000)
                disk = Path(fs.backing).read_bytes()
                wanted = bytearray(content)
                wanted[PAGE:PAGE + 7000] = b"flushed" * 1000
                eq(disk[:2 * MIB] == wanted[:2 * MIB], True, "before the unfinished write")
                eq(disk[3 * MIB:] == wanted[3 * MIB:], True, "behind the unfinished write")
                # Within it each byte is the old or the new one, and no more than was sent.
                for i in range(2 * MIB, 3 * MIB, 509):
                    ok = disk[i] == content[i] or (disk[i] == 0xff and i < 2 * MIB + sent)
                    eq(ok, True, f"byte {i} of the unfinished write")


@test("kill -9 of the client inside a request's header: exit status 76")
def _(context):
    path = context.sparse_image(MIB)
    for family in ("socketpair", "tcp"):
        for sent in (1, 4, 27):
            def script(client, sent=sent):
                client.start()
                client.send(client.request_bytes(NBD_CMD_READ, 0, 512)[:sent])
            process = _kill_client(context, path, script, family)
            process.expect(EX_PROTOCOL)


@test("kill -9 of a client that is between requests: exit status 0")
def _(context):
    path = context.sparse_image(MIB)
    for family in ("socketpair", "unix", "tcp"):
        def script(client):
            client.start()
            client.write(0, b"done")
        process = _kill_client(context, path, script, family)
        process.expect(EX_OK)
        eq(read_file(path, 0, 4), b"done")


@test("kill -9 of a client that never reads its replies ends the server, and not by a signal")
def _(context):
    path = context.image(image_bytes(8 * MIB), "disk")
    for family in ("socketpair", "tcp"):
        def script(client):
            client.start()
            for _ in range(8):
                client.send(client.request_bytes(NBD_CMD_READ, 0, 8 * MIB))
        process = _kill_client(context, path, script, family)
        eq(process.wait() in (EX_OK, EX_PROTOCOL), True,
           f"exit status {process.poll()}, wanted 0 or 76; log: {process.stderr()}")


@test("kill -9 of a client while its writes wait for a slow disk: they are carried out")
def _(context):
    need_privilege("fuse")
    with FailingFs(context.path(""), bytes(MIB), stable=True) as fs:
        fs.rule("sync", "hold")

        def script(client):
            client.start()
            client.request(NBD_CMD_WRITE, 5000, flags=NBD_CMD_FLAG_FUA, payload=b"slow but sure")
        process = _kill_client(context, fs.disk, script, "unix")
        fs.wait_held(1)
        fs.release()
        eq(process.wait() in (EX_OK, EX_PROTOCOL), True, f"exit status {process.poll()}")
        eq(read_file(fs.stable, 5000, 13), b"slow but sure")


# ------------------------------------------------------------------ files that change

@test("reads beyond the end of a file that has been truncated fail with NBD_EIO")
def _(context):
    content = image_bytes(4 * MIB)
    cut = MIB + 100
    for structured in (True, False):
        path = context.image(content)
        process, client = serve(context, path, structured=structured)
        eq(client.read(3 * MIB, 100), content[3 * MIB:3 * MIB + 100])
        os.truncate(path, cut)
        eq(client.read(0, cut) == content[:cut], True, "what is left of the file")
        for offset, length in ((cut, 1), (3 * MIB, PAGE), (4 * MIB - 1, 1), (2 * MIB, 2 * MIB)):
            expect_error(client.call(NBD_CMD_READ, offset, length), NBD_EIO)
        # The size that was agreed on stays the size.
        expect_error(client.call(NBD_CMD_READ, 4 * MIB, 1), NBD_EINVAL)
        eq(client.read(cut - 10, 10), content[cut - 10:cut])
        client.flush()
        finish(process, client)
        logged(process, "truncated|shrunk|end of (the )?file|shorter")


@test("a read across the end of a truncated file fails, and no byte of it is wrong")
def _(context):
    content = image_bytes(4 * MIB)
    cut = 2 * MIB + 100
    path = context.image(content)
    process, client = serve(context, path)
    os.truncate(path, cut)
    for offset, length in ((cut - 1, 2), (MIB, 2 * MIB), (0, 4 * MIB)):
        for flags in (0, NBD_CMD_FLAG_DF):
            answer = client.call(NBD_CMD_READ, offset, length, flags)
            expect_error(answer, NBD_EIO)
            expect_good_bytes(answer, content[:cut])
    finish(process, client)


@test("a simple read across the end of a truncated file fails, or ends with a hard disconnect")
def _(context):
    content = image_bytes(4 * MIB)
    cut = 2 * MIB + 100
    for offset, length in ((cut - 1, 2), (MIB, 2 * MIB), (0, 4 * MIB)):
        path = context.image(content)
        process, client = serve(context, path, structured=False)
        os.truncate(path, cut)
        client.request(NBD_CMD_READ, offset, length)
        _, error, _ = struct.unpack(">IIQ", client.receive(16))
        if error:
            eq(error, NBD_EIO)
            eq(_restarted(client).read(0, 100), content[:100])
            finish(process, client)
        else:
            rest = client.read_to_end()
            eq(len(rest) < length and rest == content[offset:offset + len(rest)], True,
               "bytes sent before the disconnect")
            process.expect(EX_OSERR)


@test("a sparse file that has been truncated is not said to have holes beyond its end")
def _(context):
    content = bytes(MIB) + image_bytes(MIB) + bytes(2 * MIB)
    path = context.sparse_image(4 * MIB, "disk")
    with open(path, "r+b") as file:
        file.seek(MIB)
        file.write(image_bytes(MIB))
    require(any(hole for _, _, hole in holes_of(path)), "the file system has no holes")
    cut = MIB + 512 * 1024
    process, client = serve(context, path, contexts=["base:allocation"])
    eq(client.read(0, 4 * MIB) == content, True, "the whole file")
    os.truncate(path, cut)
    drop_caches(path)
    for offset, length in ((0, 4 * MIB), (cut, PAGE), (3 * MIB, MIB), (cut - 100, 200)):
        answer = client.call(NBD_CMD_READ, offset, length)
        if not answer.error:
            raise AssertionError(f"{length} bytes at {offset} were read as good from a file of "
                                 f"{cut} bytes")
        expect_error(answer, NBD_EIO)
        expect_good_bytes(answer, content[:cut])
    # A client copies by the map: what it says are zeroes is never read at all.
    for offset, length in ((0, 4 * MIB), (cut, PAGE), (3 * MIB, MIB)):
        answer = client.call(NBD_CMD_BLOCK_STATUS, offset, length)
        position = offset
        for run, status in (answer.extents[0][1] if not answer.error else []):
            if position + run > cut and status & NBD_STATE_ZERO:
                raise AssertionError(f"{run} bytes at {position} are said to be zeroes in a file "
                                     f"of {cut} bytes")
            position += run
    finish(process, client)


@test("a file truncated in the middle of a 32 MiB read sends no byte that was not there")
def _(context):
    content = image_bytes(40 * MIB)
    middle = 16 * MIB
    for structured in (True, False):
        with failing_disk(context, content, structured=structured,
                          rule=("read", "hold", middle, middle + PAGE)) as (fs, process, client):
            cookie = client.request(NBD_CMD_READ, 0, READ)
            fs.wait_held(1)
            os.truncate(fs.backing, middle)
            fs.release()
            if structured:
                answer = client.answer(cookie)
                expect_error(answer, NBD_EIO)
                expect_good_bytes(answer, content[:middle])
                eq(client.read(0, 100), content[:100])
                finish(process, client)
            else:
                _, error, _ = struct.unpack(">IIQ", client.receive(16))
                if not error:
                    rest = client.read_to_end()
                    eq(len(rest) <= middle and rest == content[:len(rest)], True,
                       "bytes sent before the disconnect")
                else:
                    eq(error, NBD_EIO)
                    eq(_restarted(client).read(0, 100), content[:100])
                    finish(process, client)


@test("a file truncated to nothing and written again is served as it then is")
def _(context):
    path = context.image(image_bytes(MIB))
    process, client = serve(context, path)
    os.truncate(path, 0)
    expect_error(client.call(NBD_CMD_READ, 0, 1), NBD_EIO)
    client.flush()
    with open(path, "r+b") as file:
        file.write(b"N" * MIB)
    eq(client.read(0, MIB) == b"N" * MIB, True, "the new content")
    client.write(MIB - 1, b"!")
    eq(client.read(MIB - 2, 2), b"N!")
    finish(process, client)


@test("a file that grows during service keeps the size that was agreed on")
def _(context):
    content = image_bytes(MIB)
    path = context.image(content)
    process, client = serve(context, path, contexts=["base:allocation"])
    with open(path, "ab") as file:
        file.write(b"G" * MIB)
    for command, payload, error in ((NBD_CMD_READ, b"", NBD_EINVAL),
                                    (NBD_CMD_WRITE, b"xx", NBD_ENOSPC),
                                    (NBD_CMD_WRITE_ZEROES, b"", NBD_ENOSPC),
                                    (NBD_CMD_TRIM, b"", NBD_EINVAL),
                                    (NBD_CMD_CACHE, b"", NBD_EINVAL),
                                    (NBD_CMD_BLOCK_STATUS, b"", NBD_EINVAL)):
        expect_error(client.call(command, MIB - 1, 2, payload=payload), error)
    eq(client.read(0, MIB) == content, True, "the content")
    # A server may tell the status of more than was asked, but not of more than there is.
    eq(sum(length for length, _ in client.block_status(0, 512)) <= MIB, True, "extent of status")
    finish(process, client)
    eq(read_file(path, MIB - 1, 2), content[-1:] + b"G")
    process, client = serve(context, path)
    eq(client.size, 2 * MIB)
    eq(client.read(2 * MIB - 1, 1), b"G")
    finish(process, client)


@test("a file that is renamed or deleted during service is served to the end")
def _(context):
    path = context.image(image_bytes(MIB))
    process, client = serve(context, path)
    os.rename(path, path + ".renamed")
    eq(client.read(0, MIB) == image_bytes(MIB), True, "the content of the renamed file")
    client.write(0, b"still")
    eq(read_file(path + ".renamed", 0, 5), b"still")
    os.unlink(path + ".renamed")
    client.write(5, b" here", NBD_CMD_FLAG_FUA)
    eq(client.read(0, 10), b"still here")
    finish(process, client)


# ------------------------------------------------------------------ file systems that can less

@test("without fallocate trims are taken as hints, zeroes are written, fast zeroes are refused")
def _(context):
    content = image_bytes(MIB)
    with failing_disk(context, content, fallocate=False) as (_, process, client):
        client.trim(0, 64 * 1024)
        got = client.read(0, 64 * 1024)
        eq(got in (content[:64 * 1024], bytes(64 * 1024)), True, "what the trim has left")
        for flags in (0, NBD_CMD_FLAG_NO_HOLE):
            for offset, length in ((128 * 1024, 4096), (128 * 1024 + 100, 100000)):
                before = client.read(offset, length)
                expect_error(client.call(NBD_CMD_WRITE_ZEROES, offset, length,
                                         NBD_CMD_FLAG_FAST_ZERO | flags), NBD_ENOTSUP)
                eq(client.read(offset, length) == before, True, "nothing has changed")
            # Within two pages to write them is as fast as it can be.
            client.write_zeroes(128 * 1024 + 100, 4000, NBD_CMD_FLAG_FAST_ZERO | flags)
            eq(client.read(128 * 1024 + 100, 4000) == bytes(4000), True, "zeroes at last")
        for offset, length, flags in ((256 * 1024 + 1, 300000, 0), (900000, 1, 0),
                                      (600000, 77, NBD_CMD_FLAG_NO_HOLE)):
            client.write_zeroes(offset, length, flags)
            eq(client.read(offset - 1, length + 2),
               content[offset - 1:offset] + bytes(length)
               + content[offset + length:offset + length + 1], f"zeroes at {offset}")
        finish(process, client)
        # That zeroes can't be had fast is an answer, and no fault of the storage.
        eq("failed" in process.stderr(), False, process.stderr())


@test("random requests on a file system without fallocate have the result that a model "
      "predicts")
def _(context):
    need_privilege("fuse")
    content = image_bytes(MIB)
    with FailingFs(context.path(""), content, fallocate=False) as fs:
        server = SocketActivate(context, fs.disk)
        handle = connect_libnbd(server)
        ModelChecker(handle, 0, len(content), 5, content).run(500)
        handle.shutdown()
        server.expect_clean()


@test("block status is all data where lseek finds no holes, and reads succeed where it fails")
def _(context):
    need_privilege("fuse")
    # Half of it is a hole, which only the file system knows.
    content = image_bytes(MIB) + bytes(MIB)
    for lseek, rule in ((False, None), (True, "einval"), (True, "eopnotsupp"), (True, "eio")):
        with FailingFs(context.fresh("fs"), content, lseek=lseek) as fs:
            with open(fs.backing, "r+b") as file:
                file.truncate(MIB)
                file.truncate(2 * MIB)
            if rule:
                fs.rule("lseek", rule)
            process, client = serve(context, fs.disk, contexts=["base:allocation"])
            answer = client.call(NBD_CMD_BLOCK_STATUS, 0, 2 * MIB)
            if rule == "eio" and answer.error:
                expect_error(answer, NBD_EIO)
            else:
                eq(answer.check().extents[0][1][0], (2 * MIB, 0), "the first extent")
            if rule != "eio":
                eq(client.read(0, 2 * MIB) == content, True, f"content, lseek: {lseek} {rule}")
            client.read(0, 100)
            finish(process, client)


@test("tmpfs, which has no FALLOC_FL_ZERO_RANGE, zeroes and trims exactly")
def _(context):
    need_privilege("root")
    with tmpfs(context.path("memory"), 32 * MIB):
        content = image_bytes(2 * MIB + 777)
        path = context.image(content, "memory/disk")
        server = SocketActivate(context, path)
        handle = connect_libnbd(server)
        ModelChecker(handle, 0, len(content), 6, content).run(1000)
        handle.shutdown()
        server.expect_clean()
        process, client = serve(context, path)
        client.write(0, b"\x6d" * 2 * MIB)
        before = allocated_bytes(path)
        client.write_zeroes(0, MIB)
        eq(before - allocated_bytes(path) >= MIB - 2 * PAGE, True, "space given back")
        client.write_zeroes(0, MIB, NBD_CMD_FLAG_NO_HOLE)
        eq(allocated_bytes(path) >= MIB, True, "space allocated again")
        eq(any(client.read(0, MIB)), False, "content after zeroes")
        finish(process, client)


# ------------------------------------------------------------------ block devices

def _block_sizes(client):
    return struct.unpack(">III", client.infos[NBD_INFO_BLOCK_SIZE])


@test("a block device is served with its size, its block size and its rotation")
def _(context):
    need_privilege("root", "loop")
    backing = context.image(image_bytes(4 * MIB))
    for block_size in (512, 4096):
        with LoopDevice(backing, block_size=block_size) as device:
            process, client = context.activated(device.path)
            client.start(requests=[NBD_INFO_BLOCK_SIZE])
            eq(client.size, 4 * MIB)
            minimum, preferred, maximum = _block_sizes(client)
            eq((minimum, maximum), (1, 32 * MIB))
            eq(preferred % device.queue("physical_block_size"), 0, "preferred block size")
            eq(bool(client.flags & NBD_FLAG_ROTATIONAL), bool(device.queue("rotational")))
            eq(bool(client.flags & NBD_FLAG_READ_ONLY), False)
            eq(client.read(0, 4 * MIB) == image_bytes(4 * MIB), True, "the content")
            client.cache(0, 4 * MIB)
            finish(process, client)
            logged(process, "serving export", f"{4 * MIB} bytes", "read-write")


@test("data written and flushed to a block device is in its backing file")
def _(context):
    need_privilege("root", "loop")
    content = bytearray(image_bytes(4 * MIB))
    backing = context.image(content)
    with LoopDevice(backing) as device:
        process, client = serve(context, device.path, contexts=["base:allocation"])
        for offset, length in ((0, 1), (511, 2), (PAGE, PAGE), (MIB + 3, 300001),
                               (4 * MIB - 1, 1)):
            data = random.randbytes(length)
            client.write(offset, data)
            content[offset:offset + length] = data
        client.flush()
        eq(Path(backing).read_bytes() == content, True, "the backing file after a flush")
        client.write(2 * MIB + 5, b"forced", NBD_CMD_FLAG_FUA)
        content[2 * MIB + 5:2 * MIB + 11] = b"forced"
        eq(Path(backing).read_bytes() == content, True, "the backing file after FUA")
        eq(client.read(0, 4 * MIB) == content, True, "what is read back")
        position = 0
        while position < 4 * MIB:
            for run, status in client.block_status(position, 4 * MIB - position):
                if status & NBD_STATE_ZERO:
                    eq(any(content[position:position + run]), False, "data said to be zeroes")
                position += run
        eq(position, 4 * MIB, "the end of the map")
        finish(process, client)


@test("trims and zeroes on a block device make holes in its backing file, and hit nothing else")
def _(context):
    need_privilege("root", "loop")
    content = bytearray(b"\x5c" * 8 * MIB)
    backing = context.image(content)
    before = allocated_bytes(backing)
    with LoopDevice(backing) as device:
        process, client = serve(context, device.path)
        client.trim(MIB, MIB)
        client.write_zeroes(3 * MIB, MIB)
        client.flush()
        freed = before - allocated_bytes(backing)
        if freed < 2 * MIB - 16 * PAGE:
            probe = context.image(b"\1" * MIB)
            if context.run([need("fallocate"), "-p", "-o", "0", "-l", str(MIB), probe],
                           status=None).poll() == 0:
                raise AssertionError(f"{freed} bytes freed by a trim and zeroes of 1 MiB each")
        client.write_zeroes(5 * MIB, MIB, NBD_CMD_FLAG_NO_HOLE)
        content[3 * MIB:4 * MIB] = bytes(MIB)
        content[5 * MIB:6 * MIB] = bytes(MIB)
        # To the byte, though the device can only do whole blocks.
        for offset, length in ((100, 1), (511, 2), (6 * MIB + 1, 1022), (7 * MIB - 513, 70001)):
            client.write_zeroes(offset, length)
            content[offset:offset + length] = bytes(length)
        client.trim(10001, 30000)
        client.flush()
        got = Path(backing).read_bytes()
        for start, end in ((0, 10001), (40001, MIB), (2 * MIB, 8 * MIB)):
            eq(got[start:end] == content[start:end], True, f"bytes from {start} to {end}")
        for start, end in ((10001, 40001), (MIB, 2 * MIB)):
            eq(set(got[start:end]) <= {0, 0x5c}, True, "bytes of the trimmed parts")
        eq(client.read(2 * MIB, 6 * MIB) == content[2 * MIB:], True, "what is read back")
        finish(process, client)


@test("random requests on block devices of 512 and 4096 byte blocks have the result that a "
      "model predicts")
def _(context):
    need_privilege("root", "loop")
    for block_size in (512, 4096):
        content = image_bytes(2 * MIB)
        backing = context.image(content)
        with LoopDevice(backing, block_size=block_size) as device:
            server = SocketActivate(context, device.path)
            handle = connect_libnbd(server)
            checker = ModelChecker(handle, 0, len(content), block_size, content)
            checker.run(1200)
            handle.flush()
            handle.shutdown()
            server.expect_clean()
            # And once more from the device itself, with nothing of it in the page cache.
            device.sync()
            drop_caches(device.path)
            server = SocketActivate(context, device.path)
            handle = connect_libnbd(server)
            checker.use(handle)
            checker.check_all()
            handle.shutdown()


@test("a fast zero that a block device refuses loses nothing that was written before")
def _(context):
    need_privilege("root", "loop", "fuse")
    # The device seems to know how to write zeroes, until it is asked to.
    for fallocate in (True, False):
        with FailingFs(context.fresh("fs"), image_bytes(2 * MIB), fallocate=fallocate) as fs, \
                LoopDevice(fs.disk) as device:
            process, client = serve(context, device.path)
            for flags in (0, NBD_CMD_FLAG_NO_HOLE):
                data = random.randbytes(256 * 1024)
                client.write(64 * 1024, data)  # dirty, in the page cache only
                answer = client.call(NBD_CMD_WRITE_ZEROES, 64 * 1024 + 1000, 100000,
                                     NBD_CMD_FLAG_FAST_ZERO | flags)
                if answer.error:
                    expect_error(answer, NBD_ENOTSUP)
                    wanted = data
                else:
                    wanted = data[:1000] + bytes(100000) + data[101000:]
                eq(client.read(64 * 1024, len(data)) == wanted, True,
                   f"content after a fast zero with error {answer.error}, flags {flags}")
            finish(process, client)


@test("zeroes on a block device that can't make them are written, and trims are taken as hints")
def _(context):
    need_privilege("root", "loop", "fuse")
    content = bytearray(image_bytes(2 * MIB))
    with FailingFs(context.path(""), content, fallocate=False) as fs, \
            LoopDevice(fs.disk) as device:
        process, client = serve(context, device.path)
        for offset, length, flags in ((1000, 200000, 0), (MIB, 64 * 1024, NBD_CMD_FLAG_NO_HOLE),
                                      (MIB + 200001, 33, 0)):
            client.write_zeroes(offset, length, flags)
            content[offset:offset + length] = bytes(length)
        client.trim(2 * MIB - 8192, 8192)
        eq(client.read(0, 2 * MIB - 8192) == content[:-8192], True, "the content")
        client.flush()
        finish(process, client)


@test("a block device whose size is no multiple of a page is served to its last sector")
def _(context):
    need_privilege("root", "loop")
    sectors = 2048 + 3
    # A few bytes more than whole sectors, which the device leaves out.
    backing = context.image(image_bytes(sectors * 512 + 100))
    with LoopDevice(backing) as device:
        eq(device.size(), sectors * 512, "the device's size")
        process, client = serve(context, device.path)
        eq(client.size, sectors * 512)
        eq(client.read(0, sectors * 512) == image_bytes(sectors * 512), True, "the content")
        client.write(sectors * 512 - 1, b"E")
        client.write_zeroes(sectors * 512 - 600, 100)
        client.flush()
        expect_error(client.call(NBD_CMD_READ, sectors * 512 - 1, 2), NBD_EINVAL)
        expect_error(client.call(NBD_CMD_WRITE, sectors * 512, payload=b"x"), NBD_ENOSPC)
        eq(client.read(sectors * 512 - 1, 1), b"E")
        finish(process, client)
    eq(read_file(backing, sectors * 512 - 1, 2),
       b"E" + image_bytes(sectors * 512 + 100)[sectors * 512:sectors * 512 + 1])
    eq(read_file(backing, sectors * 512 - 600, 100), bytes(100))


@test("a partition is served by itself, and what lies around it is left alone")
def _(context):
    need_privilege("root", "loop")
    content = bytearray(image_bytes(4 * MIB))
    backing = context.image(content)
    start, length = MIB + 512, 1001 * 512
    with LoopDevice(backing, partitions=True) as device:
        partition = device.add_partition(start, length)
        process, client = serve(context, partition)
        eq(client.size, length)
        eq(client.read(0, length) == content[start:start + length], True, "the content")
        client.write(0, b"P" * 1000)
        client.write(length - 7, b"the end")
        client.write_zeroes(4000, 9000)
        client.trim(100 * 512, 64 * 512)
        client.flush()
        expect_error(client.call(NBD_CMD_WRITE, length - 1, payload=b"xx"), NBD_ENOSPC)
        finish(process, client)
    content[start:start + 1000] = b"P" * 1000
    content[start + length - 7:start + length] = b"the end"
    content[start + 4000:start + 13000] = bytes(9000)
    got = Path(backing).read_bytes()
    trimmed = start + 100 * 512, start + 164 * 512
    eq(got[:trimmed[0]] == content[:trimmed[0]], True, "up to the trimmed part")
    eq(got[trimmed[1]:] == content[trimmed[1]:], True, "behind the trimmed part")


@test("a read-only block device is exported read-only, and the log says why")
def _(context):
    need_privilege("root", "loop")
    backing = context.image(image_bytes(MIB))
    with LoopDevice(backing, read_only=True) as device:
        process, client = serve(context, device.path)
        eq(bool(client.flags & NBD_FLAG_READ_ONLY), True)
        for command, payload in ((NBD_CMD_WRITE, b"x"), (NBD_CMD_WRITE_ZEROES, b""),
                                 (NBD_CMD_TRIM, b"")):
            expect_error(client.call(command, 0, 1, payload=payload), NBD_EPERM)
        eq(client.read(0, MIB) == image_bytes(MIB), True, "the content")
        finish(process, client)
        logged(process, "read-only", "opened|device|permission", re.escape(device.path))
    eq(Path(backing).read_bytes() == image_bytes(MIB), True, "the backing file")


@test("-r on a writable block device exports it read-only, without a line in the log")
def _(context):
    need_privilege("root", "loop")
    with LoopDevice(context.image(image_bytes(MIB))) as device:
        process, client = serve(context, device.path, "-r")
        eq(bool(client.flags & NBD_FLAG_READ_ONLY), True)
        expect_error(client.call(NBD_CMD_WRITE, 0, payload=b"x"), NBD_EPERM)
        finish(process, client)
        logged(process, "serving export", "read-only")
        eq("can't be opened" in process.stderr(), False, "an excuse in the log")


# ------------------------------------------------------------------ permissions

NOBODY = 65534


def _as_nobody(context):
    """(path of a copy of the program that any user may run, the prefix that runs it as nobody)."""
    program = context.path("nbdinetd")
    shutil.copy(NBDINETD, program)
    os.chmod(program, 0o755)
    return program, as_user(NOBODY)


def _spawn_activated(context, argv):
    """(process, client) of a program other than NBDINETD itself."""
    ours, theirs = context.connection()
    process = context.spawn(argv, fds={3: theirs}, listen_fds=1, listen_pid="own")
    theirs.close()
    return process, Client(ours)


def _expect_read_only(process, client, content, reason):
    client.start()
    eq(bool(client.flags & NBD_FLAG_READ_ONLY), True, "NBD_FLAG_READ_ONLY")
    eq(client.read(0, len(content)) == content, True, "the content")
    expect_error(client.call(NBD_CMD_WRITE, 0, payload=b"x"), NBD_EPERM)
    client.flush()
    finish(process, client)
    logged(process, "read-only", reason)
    logged(process, "serving export", "read-only")


@test("a file that its user may only read becomes read-only, and the log says why")
def _(context):
    program, prefix = _as_nobody(context)
    path = context.image(image_bytes(MIB), "disk")
    os.chmod(path, 0o444)
    process, client = _spawn_activated(context, [*prefix, program, path])
    _expect_read_only(process, client, image_bytes(MIB), "permission denied")
    # -r asks for a read-only export, so that the log explains nothing.
    process, client = _spawn_activated(context, [*prefix, program, "-r", path])
    client.start()
    finish(process, client)
    eq("ermission denied" in process.stderr(), False, "an excuse in the log")


@test("a file that its user may not read is refused with exit status 66, before any byte")
def _(context):
    program, prefix = _as_nobody(context)
    secret = context.image(b"secret" * 1000, "secret")
    os.chmod(secret, 0)
    write_only = context.image(b"letters" * 1000, "letterbox")
    os.chmod(write_only, 0o222)
    os.mkdir(context.path("locked"), 0o700)
    hidden = context.image(b"hidden" * 1000, "locked/hidden")
    for path in (secret, write_only, hidden):
        process, client = _spawn_activated(context, [*prefix, program, path])
        client.expect_end()
        process.expect(EX_NOINPUT)
        logged(process, re.escape(path), "permission denied")


@test("a file on a read-only mount becomes read-only, and the log says why")
def _(context):
    need_privilege("root")
    os.mkdir(context.path("source"))
    context.image(image_bytes(MIB), "source/disk")
    with ReadOnlyBind(context.path("source"), context.path("bound")):
        process, client = context.activated(context.path("bound/disk"))
        _expect_read_only(process, client, image_bytes(MIB), "read-only file system")


@test("an immutable file becomes read-only, and the log says why")
def _(context):
    need_privilege("root", "loop")
    need("mkfs.ext4")
    image = context.path("image")
    ext4_image(image, 8 * MIB)
    with LoopDevice(image) as device, Mount(device.path, context.path("mounted"), "ext4"):
        path = context.image(image_bytes(MIB), "mounted/disk")
        with Immutable(path):
            process, client = context.activated(path)
            _expect_read_only(process, client, image_bytes(MIB), "operation not permitted")


@test("--check prints that a file would be served read-only")
def _(context):
    program, prefix = _as_nobody(context)
    path = context.image(image_bytes(MIB), "disk")
    os.chmod(path, 0o444)
    checked = context.run([*prefix, program, "--check", path])
    contains("read-only", checked.stdout())
    matches("(?i)permission denied", checked.stdout() + checked.stderr())


# ------------------------------------------------------------------ what is no export

@test("FIFOs, character devices, directories, sockets and dangling links are refused at once")
def _(context):
    fifo = context.path("fifo")
    os.mkfifo(fifo)
    os.mkdir(context.path("directory"))
    unix = context.path("socket")
    listener = socket.socket(socket.AF_UNIX)
    context.defer(listener.close)
    listener.bind(unix)
    os.symlink("nowhere", context.path("dangling"))
    os.symlink("loop", context.path("loop"))
    for path in (fifo, "/dev/null", "/dev/zero", "/dev/tty", context.path("directory"), unix,
                 context.path("dangling"), context.path("loop"), context.path("missing"), ""):
        for options in ([], ["-r"]):
            process, client = context.activated(*options, path)
            client.expect_end()
            # A FIFO without a writer would keep an open for reading waiting; wait() has a guard.
            eq(process.wait() in ((EX_NOINPUT,) if path else (EX_NOINPUT, EX_USAGE)), True,
               f"exit status {process.poll()} for {path!r}")
            eq(process.stderr().startswith("nbdinetd: "), True, f"stderr {process.stderr()!r}")
            contains(path, process.stderr())
    # What the bad links lead to may still be good.
    path = context.image(image_bytes(PAGE), "real")
    os.symlink("real", context.path("link"))
    process, client = serve(context, context.path("link"))
    eq(client.read(0, PAGE), image_bytes(PAGE))
    finish(process, client)
    eq(read_file(path, 0, PAGE), image_bytes(PAGE))


@test("a block device that nothing is attached to has size 0 or is refused")
def _(context):
    need_privilege("root", "loop")
    with LoopDevice(context.image(bytes(MIB))) as device:
        path = device.path
    wait_until(lambda: _loop_is_free(path), "the loop device's end")
    process, client = context.activated(path)
    try:
        client.start()
    except Disconnected as gone:
        eq(gone.got, b"")
        process.expect(EX_NOINPUT)
        return
    eq(client.size, 0)
    expect_error(client.call(NBD_CMD_READ, 0, 1), NBD_EINVAL)
    finish(process, client)


def _loop_is_free(path):
    return not os.path.exists(f"/sys/block/{os.path.basename(path)}/loop/backing_file")


if __name__ == "__main__":
    main()
