#!/usr/bin/python3
"""Every NBD client in Debian against nbdinetd behind `systemd-socket-activate --accept`.

Each test also proves that every process that served one of its connections has ended with status 0
and logged that: a client may have succeeded while its server failed. The file is long because there
are many clients. Each test stands alone.
"""

import json
import os
import random
import re
import sys
import threading
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
from clients import (ModelChecker, SocketActivate, allocated_bytes, connect_libnbd, error_of,
                     has_extended_headers, holes_of, import_libnbd, merged, program_output,
                     read_file, same_content, shows_preallocated_as_data, sparse_image,
                     system_python_environment, unix_and_tcp)
from harness import Skip, contains, eq, main, matches, need, require, test

MIB = 1 << 20
# Data at both ends and in the middle, holes between, and a size that is no multiple of a block.
RANGES = ((0, MIB), (3 * MIB, 64 << 10), (6 * MIB, 2 * MIB), (16 * MIB - 4096, 4096 + 517))
SIZE = 16 * MIB + 517

CAPABILITIES = ("cache", "df", "fast-zero", "flush", "fua", "multi-conn", "read", "trim", "write",
                "zero", "structured-reply")


def the_image(context, name="disk"):
    return sparse_image(context, name, SIZE, RANGES)


# ------------------------------------------------------------------ nbdinfo

def _check_info_json(text, uri, read_only=False):
    info = json.loads(text)
    eq(info["protocol"], "newstyle-fixed")
    eq(info["TLS"], False)
    eq(info["structured"], True)
    eq(len(info["exports"]), 1, "exports")
    export = info["exports"][0]
    eq(export["export-size"], SIZE)
    eq(export["uri"], uri)
    eq(export["contexts"], ["base:allocation"])
    eq(export["is_read_only"], read_only)
    for capability in ("can_cache", "can_df", "can_flush", "can_fua", "can_multi_conn"):
        eq(export[capability], True, capability)
    eq(export["block_size_minimum"], 1)
    preferred = export["block_size_preferred"]
    if preferred < 512 or preferred & (preferred - 1):
        raise AssertionError(f"{preferred} is no preferred block size")
    eq(export["block_size_maximum"], 32 * MIB)
    return export


@test("nbdinfo --json shows size, capabilities, block sizes and contexts, over Unix and TCP")
def _(context):
    nbdinfo = need("nbdinfo")
    image = the_image(context)
    for server in unix_and_tcp(context, image):
        export = _check_info_json(
            program_output(context, [nbdinfo, "--json", server.uri()]), server.uri())
        for capability in ("can_fast_zero", "can_trim", "can_zero"):
            eq(export[capability], True, capability)
        server.expect_clean()


@test("nbdinfo --json shows a read-only export as such")
def _(context):
    nbdinfo = need("nbdinfo")
    server = SocketActivate(context, "-r", the_image(context))
    _check_info_json(program_output(context, [nbdinfo, "--json", server.uri()]), server.uri(),
                     read_only=True)
    context.run([nbdinfo, "--can", "write", server.uri()], status=2)
    context.run([nbdinfo, "--is", "readonly", server.uri()], status=0)
    server.expect_clean(3)
    contains("read-only", server.serving_lines()[0])


@test("--block-size is what nbdinfo shows, and nbdcopy and qemu-img keep to it")
def _(context):
    nbdinfo, nbdcopy, qemu_img = need("nbdinfo"), need("nbdcopy"), need("qemu-img")
    content = Path(the_image(context)).read_bytes()[:16 * MIB]
    image = context.image(content, "source")
    other = b"\xff" * len(content)
    target = context.image(other, "target")
    server = SocketActivate(context, "--block-size=4K:64K:1M", target)
    info = json.loads(program_output(context, [nbdinfo, "--json", server.uri()]))
    shown = {name: info["exports"][0][f"block_size_{name}"] for name in ("minimum", "preferred", "maximum")}
    eq(shown, {"minimum": 4096, "preferred": 65536, "maximum": MIB})
    # Less than the preferred size, and more than the maximum, is theirs to mend.
    context.run([nbdcopy, f"--request-size={MIB}", image, server.uri()])
    eq(Path(target).read_bytes() == content, True, "written by nbdcopy")
    Path(target).write_bytes(other)
    context.run([qemu_img, "convert", "-n", "-f", "raw", "-O", "raw", image, server.uri()])
    eq(Path(target).read_bytes() == content, True, "written by qemu-img")
    copy = context.path("copy")
    context.run([qemu_img, "convert", "-f", "raw", "-O", "raw", server.uri(), copy])
    eq(Path(copy).read_bytes() == content, True, "read by qemu-img")
    server.expect_clean(4)
    for line in re.findall(r"^.* ended: .*$", server.log(), re.MULTILINE):
        contains(" 0 errors", line)


@test("nbdinfo without options tells a person the same, and what the content is")
def _(context):
    nbdinfo = need("nbdinfo")
    for server in unix_and_tcp(context, the_image(context)):
        text = program_output(context, [nbdinfo, server.uri()])
        # libnbd since 1.18 asks for extended headers.
        matches(r"^protocol: newstyle-fixed without TLS, using (structured|extended) packets$", text)
        matches(rf"^\s*export-size: {SIZE}\b", text)
        matches(r"^\s*content: data$", text)
        matches(r"^\s*base:allocation$", text)
        # libnbd 1.22 adds a short form.
        matches(rf"^\s*block_size_maximum: {32 * MIB}( \(32M\))?$", text)
        server.expect_clean()


@test("nbdinfo --size prints the size to the byte")
def _(context):
    nbdinfo = need("nbdinfo")
    for server in unix_and_tcp(context, the_image(context)):
        eq(program_output(context, [nbdinfo, "--size", server.uri()]), f"{SIZE}\n")
        server.expect_clean()


@test("an empty file is an export of size 0")
def _(context):
    nbdinfo, nbdcopy = need("nbdinfo"), need("nbdcopy")
    server = SocketActivate(context, context.image(b"", "empty"))
    eq(program_output(context, [nbdinfo, "--size", server.uri()]), "0\n")
    target = context.path("copy")
    context.run([nbdcopy, server.uri(), target])
    eq(os.path.getsize(target), 0)
    server.expect_clean(2)


@test("nbdinfo --can says yes to every capability")
def _(context):
    nbdinfo = need("nbdinfo")
    server = SocketActivate(context, the_image(context))
    for capability in CAPABILITIES:
        context.run([nbdinfo, "--can", capability, server.uri()], status=0)
    # 2 is nbdinfo's word for no.
    context.run([nbdinfo, "--is", "readonly", server.uri()], status=2)
    context.run([nbdinfo, "--is", "tls", server.uri()], status=2)
    server.expect_clean(len(CAPABILITIES) + 2)


@test("nbdinfo --map shows the holes where the file system has them")
def _(context):
    nbdinfo = need("nbdinfo")
    image = the_image(context)
    require(any(hole for _, _, hole in holes_of(image)), "the file system has no holes")
    for server in unix_and_tcp(context, image):
        extents = json.loads(program_output(context, [nbdinfo, "--map", "--json", server.uri()]))
        eq(merged((e["offset"], e["length"], e["type"]) for e in extents),
           [(start, length, 3 if hole else 0) for start, length, hole in holes_of(image)])
        server.expect_clean()


@test("nbdinfo --list shows the export's name and description")
def _(context):
    nbdinfo = need("nbdinfo")
    name = "root disk of wüste"
    for server in unix_and_tcp(context, "-e", name, "--description=the old one, été 1999",
                               the_image(context)):
        info = json.loads(program_output(context, [nbdinfo, "--list", "--json", server.uri()]))
        eq(len(info["exports"]), 1, "exports")
        eq(info["exports"][0]["export-name"], name)
        eq(info["exports"][0]["description"], "the old one, été 1999")
        eq(info["exports"][0]["export-size"], SIZE)
        server.expect_clean()


@test("a named export answers to its name and to the empty one, and to no other")
def _(context):
    nbdinfo = need("nbdinfo")
    server = SocketActivate(context, "--exportname=backup", the_image(context))
    eq(program_output(context, [nbdinfo, "--size", server.uri("backup")]), f"{SIZE}\n")
    eq(program_output(context, [nbdinfo, "--size", server.uri()]), f"{SIZE}\n")
    # Since libnbd 1.22 nbdinfo doesn't pass on what the server says; nbdcopy does.
    context.run([nbdinfo, "--size", server.uri("backup2")], status=1)
    refused = context.run([need("nbdcopy"), server.uri("backup2"), "null:"], status=1)
    contains("backup2", refused.stderr())
    # That a client asks for what isn't there is no fault of the service.
    eq(set(server.statuses()), {"0"})


@test("an export without a name answers to any name")
def _(context):
    nbdinfo = need("nbdinfo")
    server = SocketActivate(context, the_image(context))
    for name in ("", "x", "any/thing%20at%20all"):
        eq(program_output(context, [nbdinfo, "--size", server.uri(name)]), f"{SIZE}\n")
    server.expect_clean(3)


# ------------------------------------------------------------------ nbdcopy

def _nbdcopy_out(context, server, image, connections, requests):
    target = context.fresh(".copy")
    # nbdcopy never opens more connections than it has threads, which are as many as the cores.
    context.run([need("nbdcopy"), f"--threads={connections}", f"--connections={connections}",
                 f"--requests={requests}", server.uri(), target])
    same_content(target, image)
    server.expect_clean()
    return target


@test("nbdcopy reads an image out over one connection, with 1 and with 64 requests in flight")
def _(context):
    image = the_image(context)
    for server in unix_and_tcp(context, image):
        for requests in (1, 64):
            _nbdcopy_out(context, server, image, 1, requests)
        eq(len(server.serving_lines()), 2, "connections served")


@test("nbdcopy reads an image out over four connections, each with a process of its own")
def _(context):
    image = the_image(context)
    for server in unix_and_tcp(context, image):
        _nbdcopy_out(context, server, image, 4, 64)
        eq(len(server.serving_lines()), 4, "connections served")
        eq(len(server.statuses()), 4, "processes")


@test("nbdcopy makes a copy as sparse as the export")
def _(context):
    image = the_image(context)
    require(allocated_bytes(image) < SIZE // 2, "the file system has no holes")
    server = SocketActivate(context, image)
    for connections in (1, 4):
        target = _nbdcopy_out(context, server, image, connections, 16)
        # A block here and there is the file system's own business.
        if allocated_bytes(target) > allocated_bytes(image) + (64 << 10):
            raise AssertionError(f"the copy has {allocated_bytes(target)} bytes, the image "
                                 f"{allocated_bytes(image)}")


@test("nbdcopy writes an image in over one connection and over four, and it is there")
def _(context):
    nbdcopy = need("nbdcopy")
    source = the_image(context, "source")
    for connections, requests, tcp in ((1, 1, False), (1, 64, True), (4, 64, False), (4, 8, True)):
        target = context.random_image(SIZE, f"target{connections}.{requests}", seed=3)
        server = SocketActivate(context, target, tcp=tcp)
        context.run([nbdcopy, "--flush", f"--threads={connections}",
                     f"--connections={connections}", f"--requests={requests}", source,
                     server.uri()])
        server.expect_clean()
        eq(len(server.serving_lines()), connections, "connections served")
        same_content(target, source)


@test("nbdcopy makes an export as sparse as its source, though the export was full")
def _(context):
    nbdcopy = need("nbdcopy")
    source = the_image(context, "source")
    require(allocated_bytes(source) < SIZE // 2, "the file system has no holes")
    target = context.random_image(SIZE, "target", seed=4)
    server = SocketActivate(context, target)
    context.run([nbdcopy, "--threads=4", "--connections=4", source, server.uri()])
    server.expect_clean()
    same_content(target, source)
    # nbdcopy looks for zeroes in units of its own, and partial blocks at the edges of a hole
    # stay; but nearly all of the holes has to be there again.
    if allocated_bytes(target) > allocated_bytes(source) + MIB:
        raise AssertionError(f"the export has {allocated_bytes(target)} bytes, the source "
                             f"{allocated_bytes(source)}")


@test("nbdcopy --allocated writes the zeroes out, and no block of the export is a hole")
def _(context):
    nbdcopy = need("nbdcopy")
    source = the_image(context, "source")
    target = context.sparse_image(SIZE, "target")
    server = SocketActivate(context, target)
    context.run([nbdcopy, "--allocated", source, server.uri()])
    server.expect_clean()
    same_content(target, source)
    if allocated_bytes(target) < SIZE:
        raise AssertionError(f"{allocated_bytes(target)} bytes are allocated, of {SIZE}")
    if shows_preallocated_as_data(context):
        eq([hole for _, _, hole in holes_of(target) if hole], [], "holes")


@test("nbdcopy copies from one export to another, synchronously and with large requests")
def _(context):
    nbdcopy = need("nbdcopy")
    image = the_image(context)
    source = SocketActivate(context, "--readonly", image)
    for options in (["--synchronous"], ["--request-size=33554432", "--requests=2"],
                    ["--request-size=4096", "--connections=4"]):
        target = context.random_image(SIZE, context.fresh("target").rpartition("/")[2], seed=5)
        server = SocketActivate(context, target, tcp=True)
        context.run([nbdcopy, "--threads=4", *options, source.uri(), server.uri()])
        server.expect_clean()
        same_content(target, image)
    source.expect_clean(3)


@test("sixteen clients at once get sixteen correct copies")
def _(context):
    nbdcopy = need("nbdcopy")
    image = the_image(context)
    server = SocketActivate(context, image, tcp=True)
    copies = [context.path(f"copy{i}") for i in range(16)]
    clients = [context.spawn([nbdcopy, "--threads=2", "--connections=2", server.uri(), copy])
               for copy in copies]
    for client in clients:
        client.expect(0)
    for copy in copies:
        same_content(copy, image)
    server.expect_clean(32)


# ------------------------------------------------------------------ libnbd

NBDSH_SCRIPT = r"""
assert h.get_size() == 1048576, h.get_size()
assert not h.is_read_only()
assert h.get_protocol() == "newstyle-fixed", h.get_protocol()
assert h.get_structured_replies_negotiated()
for i in range(256):
    h.pwrite(bytes([i]) * 333, i * 4001)
for i in range(256):
    data = h.pread(335, i * 4001 - 1 if i else 0)
    assert (data[1:334] if i else data[:333]) == bytes([i]) * 333, i
h.flush()
h.zero(4001, 4001 * 3)
assert h.pread(4001, 4001 * 3) == bytes(4001)
h.pwrite(b"end", 1048573, flags=nbd.CMD_FLAG_FUA)
try:
    h.pwrite(b"beyond", 1048573)
except nbd.Error as error:
    assert error.errno in ("EINVAL", "ENOSPC"), error
else:
    raise AssertionError("a write beyond the end was taken")
assert h.pread(3, 1048573) == b"end"
h.shutdown()
print("all is well")
"""


@test("an nbdsh script writes, reads, zeroes and flushes, over Unix and TCP")
def _(context):
    nbdsh = need("nbdsh")
    import_libnbd()
    script = context.image(NBDSH_SCRIPT.encode(), "script.py")
    for tcp in (False, True):
        image = context.sparse_image(MIB)
        server = SocketActivate(context, image, tcp=tcp)
        with open(script, "rb") as text:
            eq(program_output(context, [nbdsh, "-u", server.uri(), "-c", "-"], fds={0: text},
                              env=system_python_environment()), "all is well\n")
        server.expect_clean()
        eq(read_file(image, 4001 * 100, 333), bytes([100]) * 333)
        eq(read_file(image, 4001 * 3, 4001), bytes(4001))
        eq(read_file(image, MIB - 3, 3), b"end")


@test("nbdsh run as one-liners sees what the one before has written")
def _(context):
    nbdsh = need("nbdsh")
    import_libnbd()
    server = SocketActivate(context, context.sparse_image(MIB))
    environment = system_python_environment()
    context.run([nbdsh, "-u", server.uri(), "-c", "h.pwrite(b'from the first', 70000)"],
                env=environment)
    eq(program_output(context, [nbdsh, "-u", server.uri(), "-c",
                                "print(h.pread(14, 70000).decode())"], env=environment),
       "from the first\n")
    # Both were written before their client had gone: neither process may call that a fault.
    eq(len(server.statuses()), 2)


@test("libnbd's structured reads tell holes from data, and piece the export together")
def _(context):
    nbd = import_libnbd()
    image = the_image(context)
    content = Path(image).read_bytes()
    server = SocketActivate(context, image)
    handle = connect_libnbd(server)
    for flags in (0, nbd.CMD_FLAG_DF):
        for offset, length in ((0, SIZE), (MIB - 1, 2), (MIB, 2 * MIB), (SIZE - 1, 1),
                               (3 * MIB - 100, 70000)):
            chunks = []

            def chunk(data, start, status, error, chunks=chunks):
                chunks.append((start, bytes(data), status, error.value))
            data = handle.pread_structured(length, offset, chunk, flags=flags)
            eq(data == content[offset:offset + length], True, f"{length} bytes at {offset}")
            eq({error for _, _, _, error in chunks}, {0}, "errors of chunks")
            if flags:
                eq(len(chunks), 1, "chunks of a read with DF")
                eq(chunks[0][2], nbd.READ_DATA)
            position = offset
            for start, part, status, _ in sorted(chunks):
                eq(start, position, "the next chunk's offset")
                wanted = content[start:start + len(part)] if status == nbd.READ_DATA else b""
                if status == nbd.READ_HOLE:
                    eq(any(content[start:start + len(part)]), False, "data in a hole")
                else:
                    eq(part == wanted, True, f"the chunk at {start}")
                position += len(part)
            eq(position, offset + length, "end of the last chunk")
    handle.shutdown()
    server.expect_clean()


@test("libnbd's block status is the file's map, and one extent under REQ_ONE")
def _(context):
    nbd = import_libnbd()
    image = the_image(context)
    server = SocketActivate(context, image)
    handle = connect_libnbd(server)
    eq(handle.can_meta_context("base:allocation"), True)
    wanted = holes_of(image)

    def walk(step, flags):
        result, position = [], 0
        while position < SIZE:
            length = min(step, SIZE - position)
            entries = []

            def extent(_name, offset, got, error, position=position, entries=entries):
                eq((offset, error.value), (position, 0))
                entries.extend(got)
            handle.block_status(length, position, extent, flags=flags)
            if flags:
                eq(len(entries), 2, "numbers in the answer under REQ_ONE")
                if entries[0] > length:
                    raise AssertionError(f"{entries[0]} bytes of status, {length} asked")
            before = position
            for run, status in zip(entries[::2], entries[1::2]):
                result.append((position, run, status))
                position += run
            if position <= before or position > SIZE:
                raise AssertionError(f"status from {before} leads to {position}")
        return merged(result)

    for step in (SIZE, 1000 * 1000):
        for flags in (0, nbd.CMD_FLAG_REQ_ONE):
            eq(walk(step, flags),
               [(start, length, nbd.STATE_HOLE | nbd.STATE_ZERO if hole else 0)
                for start, length, hole in wanted], f"the map in steps of {step}")
    handle.shutdown()
    server.expect_clean()


@test("zeroes written through libnbd read as zeroes, unaligned, as holes or allocated as asked")
def _(context):
    nbd = import_libnbd()
    image = context.image(b"\xff" * SIZE, "disk")
    content = bytearray(b"\xff" * SIZE)
    server = SocketActivate(context, image)
    handle = connect_libnbd(server)
    for offset, length, flags in ((0, 1, 0), (4095, 2, 0), (MIB, 2 * MIB, 0),
                                  (4 * MIB + 1, MIB + 77, 0), (SIZE - 4000, 4000, 0),
                                  (6 * MIB, MIB, nbd.CMD_FLAG_NO_HOLE),
                                  (8 * MIB + 123, MIB + 5, nbd.CMD_FLAG_NO_HOLE),
                                  (10 * MIB, MIB, nbd.CMD_FLAG_FUA)):
        handle.zero(length, offset, flags=flags)
        content[offset:offset + length] = bytes(length)
    handle.flush()
    eq(bytes(handle.pread(SIZE, 0)) == content, True, "the export's content")
    eq(Path(image).read_bytes() == content, True, "the file's content")
    holes = [(start, start + length) for start, length, hole in holes_of(image) if hole]
    for offset, length in ((6 * MIB, MIB), (8 * MIB + 123, MIB + 5)):
        for start, end in holes if shows_preallocated_as_data(context) else []:
            if start < offset + length and offset < end:
                raise AssertionError(f"a hole at {start} where NO_HOLE was asked at {offset}")
    if any(start <= MIB and 3 * MIB <= end for start, end in holes) is False:
        # A file system may refuse to punch holes; this one makes them when it is asked itself.
        probe = context.image(b"\xff" * MIB, "probe")
        punched = context.run([need("fallocate"), "-p", "-o", "0", "-l", str(MIB), probe],
                              status=None)
        if punched.poll() == 0:
            raise AssertionError("zeroes without NO_HOLE made no hole")
    handle.shutdown()
    server.expect_clean()


@test("a fast zero either zeroes or fails with ENOTSUP and changes nothing")
def _(context):
    nbd = import_libnbd()
    image = context.image(b"\xaa" * MIB * 4, "disk")
    server = SocketActivate(context, image)
    handle = connect_libnbd(server)
    eq(handle.can_fast_zero(), True)
    for offset, length, flags in ((0, MIB, 0), (MIB, MIB, nbd.CMD_FLAG_NO_HOLE),
                                  (2 * MIB + 7, 300001, 0),
                                  (3 * MIB + 7, 300001, nbd.CMD_FLAG_NO_HOLE)):
        before = bytes(handle.pread(4 * MIB, 0))
        failed = error_of(handle.zero, length, offset, flags=flags | nbd.CMD_FLAG_FAST_ZERO)
        if failed is None:
            wanted = before[:offset] + bytes(length) + before[offset + length:]
        else:
            eq(failed, "ENOTSUP")
            wanted = before
        eq(bytes(handle.pread(4 * MIB, 0)) == wanted, True, f"content after zero at {offset}")
    handle.shutdown()
    server.expect_clean()


@test("a trim through libnbd gives the space back and touches nothing beside it")
def _(context):
    image = context.image(b"\x55" * 8 * MIB, "disk")
    before = allocated_bytes(image)
    server = SocketActivate(context, image)
    handle = connect_libnbd(server)
    handle.trim(4 * MIB, 2 * MIB)
    handle.trim(100, 1000)
    handle.flush()
    content = Path(image).read_bytes()
    for start, end in ((0, 1000), (1100, 2 * MIB), (6 * MIB, 8 * MIB)):
        eq(content[start:end].count(0x55), end - start, f"bytes kept from {start} on")
    for byte in set(content):
        contains(byte, (0x55, 0), "a byte of the trimmed file")
    if allocated_bytes(image) > before - 3 * MIB:
        probe = context.image(b"\xff" * MIB, "probe")
        if context.run([need("fallocate"), "-p", "-o", "0", "-l", str(MIB), probe],
                       status=None).poll() == 0:
            raise AssertionError(f"{before} bytes before the trim, {allocated_bytes(image)} after")
    handle.shutdown()
    server.expect_clean()


@test("a cache request through libnbd succeeds within the export and fails beyond it")
def _(context):
    image = the_image(context)
    server = SocketActivate(context, image)
    handle = connect_libnbd(server, strict=False)
    handle.cache(SIZE, 0)
    handle.cache(1, SIZE - 1)
    eq(error_of(handle.cache, 2, SIZE - 1), "EINVAL")
    eq(bytes(handle.pread(SIZE, 0)) == Path(image).read_bytes(), True, "content after a cache")
    handle.shutdown()
    server.expect_clean()


@test("libnbd's flags of an export fit what the export then does")
def _(context):
    image = context.sparse_image(MIB)
    server = SocketActivate(context, image, tcp=True)
    handle = connect_libnbd(server)
    for flag in ("can_cache", "can_df", "can_fast_zero", "can_flush", "can_fua",
                 "can_multi_conn", "can_trim", "can_zero"):
        eq(getattr(handle, flag)(), True, flag)
    eq(handle.is_read_only(), False)
    eq(handle.get_export_name(), "")
    nbd = import_libnbd()
    handle.pwrite(b"x" * 512, 512, flags=nbd.CMD_FLAG_FUA)
    handle.flush()
    handle.trim(512, 0, flags=nbd.CMD_FLAG_FUA)
    handle.shutdown()
    server.expect_clean()


@test("a read-only export refuses what writes with EPERM and goes on, and keeps its bytes")
def _(context):
    image = the_image(context)
    before = Path(image).read_bytes()
    server = SocketActivate(context, "-r", image)
    handle = connect_libnbd(server, strict=False)
    eq(handle.is_read_only(), True)
    eq(error_of(handle.pwrite, b"x" * 10, 0), "EPERM")
    eq(error_of(handle.zero, 10, 0), "EPERM")
    eq(error_of(handle.trim, 10, 0), "EPERM")
    eq(bytes(handle.pread(100, 0)), before[:100])
    handle.shutdown()
    server.expect_clean()
    eq(Path(image).read_bytes() == before, True, "the file's content")


@test("one connection reads at once what another has written and flushed (multi-conn)")
def _(context):
    image = context.sparse_image(MIB)
    for server in unix_and_tcp(context, image):
        first, second = connect_libnbd(server), connect_libnbd(server)
        eq(len(server.handlers()), 2, "processes")
        eq(first.can_multi_conn() and second.can_multi_conn(), True)
        for round_ in range(50):
            data = bytes([round_ + 1]) * 4096
            first.pwrite(data, round_ * 4096)
            first.flush()
            eq(bytes(second.pread(4096, round_ * 4096)) == data, True, f"round {round_}")
            first, second = second, first
        # One connection's flush covers what the other has written.
        second.pwrite(b"q" * 100, 999999)
        first.flush()
        eq(read_file(image, 999999, 100), b"q" * 100)
        first.shutdown()
        second.shutdown()
        server.expect_clean(2)


@test("with extended headers libnbd reads, writes and asks as with structured replies")
def _(context):
    nbd = import_libnbd()
    if not has_extended_headers(nbd):
        raise Skip("this libnbd has no extended headers")
    image = the_image(context)
    wanted = holes_of(image)
    for extended in (True, False):
        server = SocketActivate(context, image)
        handle = connect_libnbd(server, extended=extended)
        eq(handle.get_extended_headers_negotiated(), extended)
        eq(handle.get_structured_replies_negotiated(), True)
        eq(handle.can_block_status_payload(), extended)
        eq(bytes(handle.pread(SIZE, 0)) == Path(image).read_bytes(), True, "all of it")
        entries = []

        def extent(_name, offset, got, error, entries=entries):
            eq((offset, error.value), (0, 0))
            entries.extend(got)
        handle.block_status_64(SIZE, 0, extent)
        asked = [list(entries)]
        if extended:
            entries.clear()
            handle.block_status_filter(SIZE, 0, ["base:allocation"], extent)
            asked.append(list(entries))
        for told in asked:
            eq([(length, status != 0) for length, status in told],
               [(length, hole) for _start, length, hole in wanted])
        handle.shutdown()
        server.expect_clean()
        matches("extended replies$" if extended else "structured replies$",
                server.serving_lines()[0])


@test("with extended headers one request of libnbd trims, zeroes, caches or maps 16 TiB")
def _(context):
    nbd = import_libnbd()
    if not has_extended_headers(nbd):
        raise Skip("this libnbd has no extended headers")
    # As large as a file can be on ext4.
    size = (16 << 40) - MIB
    image = sparse_image(context, "huge", size, ((5 << 40, MIB),))
    server = SocketActivate(context, image)
    handle = connect_libnbd(server)
    eq(handle.get_size(), size)
    hole = nbd.STATE_HOLE | nbd.STATE_ZERO
    entries = []

    def extent(_name, offset, got, error):
        eq((offset, error.value), (0, 0))
        entries[:] = got
    handle.block_status_64(size, 0, extent)
    eq(entries, [(5 << 40, hole), (MIB, 0), (size - (5 << 40) - MIB, hole)])
    handle.cache(size, 0)
    handle.zero(size, 0)
    eq(bytes(handle.pread(MIB, 5 << 40)) == bytes(MIB), True, "zeroes")
    handle.pwrite(b"x" * 4096, 5 << 40, nbd.CMD_FLAG_FUA)
    handle.trim(size, 0, nbd.CMD_FLAG_FUA)
    handle.block_status_64(size, 0, extent)
    eq(entries, [(size, hole)])
    eq(error_of(handle.pread, 128 * MIB, 0) is not None, True, "a read that is too long")
    handle.shutdown()
    server.expect_clean()


@test("a client that wants no structured replies gets simple ones, and the right bytes")
def _(context):
    image = the_image(context)
    content = Path(image).read_bytes()
    server = SocketActivate(context, image)
    handle = connect_libnbd(server, structured=False)
    eq(handle.get_structured_replies_negotiated(), False)
    for offset, length in ((0, SIZE), (MIB - 3, 7), (SIZE - 1, 1)):
        eq(bytes(handle.pread(length, offset)) == content[offset:offset + length], True,
           f"{length} bytes at {offset}")
    handle.pwrite(b"simple", 5 * MIB)
    handle.flush()
    eq(bytes(handle.pread(6, 5 * MIB)), b"simple")
    handle.shutdown()
    server.expect_clean()
    matches(r"simple replies$", server.serving_lines()[0])


@test("old-style clients that enter by NBD_OPT_EXPORT_NAME can read, write and flush")
def _(context):
    nbd = import_libnbd()
    image = context.random_image(2 * MIB, "disk")
    content = bytearray(Path(image).read_bytes())
    for server in unix_and_tcp(context, image):
        # Without FIXED_NEWSTYLE libnbd sends this one option; without NO_ZEROES it wants the
        # 124 bytes after the answer, and would take them for replies if they were wrong.
        for flags in (0, nbd.HANDSHAKE_FLAG_NO_ZEROES):
            for name in ("", "whatever"):
                handle = connect_libnbd(server, name, structured=False, handshake_flags=flags)
                eq(handle.get_protocol(), "newstyle")
                eq(handle.get_size(), 2 * MIB)
                eq(handle.can_flush() and handle.can_trim() and handle.can_multi_conn(), True)
                eq(bytes(handle.pread(2 * MIB, 0)) == content, True, "content")
                patch = random.randbytes(1000)
                handle.pwrite(patch, 77777)
                content[77777:78777] = patch
                handle.flush()
                handle.shutdown()
        server.expect_clean(4)
    eq(Path(image).read_bytes() == content, True, "the file's content")


@test("an old-style client that asks for a name which is not there is disconnected")
def _(context):
    import_libnbd()
    server = SocketActivate(context, "-e", "here", context.sparse_image(MIB))
    failed = error_of(connect_libnbd, server, "there", structured=False, handshake_flags=0)
    if failed is None:
        raise AssertionError("the server let a client in that had asked for another name")
    handle = connect_libnbd(server, "here", structured=False, handshake_flags=0)
    eq(handle.get_size(), MIB)
    handle.shutdown()
    eq(server.statuses()[-1], "0")


@test("concurrent random requests, many in flight, have the result that a model predicts")
def _(context):
    seed = 20240229
    for structured, tcp in ((True, False), (False, True)):
        image = context.random_image(2 * MIB + 333, seed=9)
        content = Path(image).read_bytes()
        server = SocketActivate(context, image, tcp=tcp)
        handle = connect_libnbd(server, structured=structured)
        checker = ModelChecker(handle, 0, len(content), seed, content)
        checker.run(1500)
        handle.shutdown()
        server.expect_clean()


# ------------------------------------------------------------------ qemu

@test("qemu-img info shows format and size of an export, and of a qcow2 image in one")
def _(context):
    qemu_img = need("qemu-img")
    image = context.random_image(MIB + 512)
    for server in unix_and_tcp(context, image):
        info = json.loads(program_output(context, [qemu_img, "info", "--output=json",
                                                   server.uri()]))
        eq((info["format"], info["virtual-size"]), ("raw", MIB + 512))
        server.expect_clean()
    qcow2 = context.path("disk.qcow2")
    context.run([qemu_img, "convert", "-O", "qcow2", image, qcow2])
    server = SocketActivate(context, "-r", qcow2)
    info = json.loads(program_output(context, [qemu_img, "info", "--output=json",
                                               server.uri()]))
    eq((info["format"], info["virtual-size"]), ("qcow2", MIB + 512))
    context.run([qemu_img, "compare", image, server.uri()])
    server.expect_clean(2)


@test("qemu-img convert copies out of an export, in and out of order, and keeps it sparse")
def _(context):
    qemu_img = need("qemu-img")
    # A size that qemu takes as it is: whole sectors.
    image = sparse_image(context, "disk", 16 * MIB + 512, RANGES[:3])
    for server in unix_and_tcp(context, image):
        for options in ([], ["-W", "-m", "16"]):
            target = context.fresh(".raw")
            context.run([qemu_img, "convert", *options, "-f", "raw", "-O", "raw", server.uri(),
                         target])
            same_content(target, image)
            if allocated_bytes(target) > allocated_bytes(image) + MIB:
                raise AssertionError(f"the copy has {allocated_bytes(target)} bytes, the image "
                                     f"{allocated_bytes(image)}")
        server.expect_clean(2)


@test("qemu-img convert copies into an export that was full of other bytes")
def _(context):
    qemu_img = need("qemu-img")
    source = sparse_image(context, "source", 16 * MIB + 512, RANGES[:3])
    for tcp in (False, True):
        for options in ([], ["-W", "-m", "16"], ["-S", "0"]):
            target = context.random_image(16 * MIB + 512, seed=11)
            server = SocketActivate(context, target, tcp=tcp)
            context.run([qemu_img, "convert", "-n", *options, "-f", "raw", "-O", "raw", source,
                         server.uri()])
            server.expect_clean()
            same_content(target, source)


@test("qemu-img compare finds an export the same as its file, and finds one byte that differs")
def _(context):
    qemu_img = need("qemu-img")
    image = the_image(context)
    other = the_image(context, "other")
    with open(other, "r+b") as file:
        file.seek(6 * MIB + 4321)
        byte = file.read(1)
        file.seek(6 * MIB + 4321)
        file.write(bytes([byte[0] ^ 1]))
    for server in unix_and_tcp(context, image):
        same = context.run([qemu_img, "compare", "-f", "raw", "-F", "raw", image, server.uri()])
        contains("identical", same.stdout())
        differs = context.run([qemu_img, "compare", "-f", "raw", "-F", "raw", other,
                               server.uri()], status=1)
        contains("mismatch", differs.stdout())
        server.expect_clean(2)


@test("qemu-img map of an export is that of its file")
def _(context):
    qemu_img = need("qemu-img")
    image = the_image(context)

    def zero_map(*arguments):
        extents = json.loads(program_output(
            context, [qemu_img, "map", "--output=json", "-f", "raw", *arguments]))
        return merged((e["start"], e["length"], (e["zero"], e["data"])) for e in extents)

    wanted = zero_map(image)
    for server in unix_and_tcp(context, image):
        eq(zero_map(server.uri()), wanted)
        server.expect_clean()


@test("qemu-nbd --list shows the export with its flags, sizes and context")
def _(context):
    qemu_nbd = need("qemu-nbd")
    server = SocketActivate(context, "-e", "slow disk", "--description=kept for old times",
                            the_image(context))
    text = program_output(context, [qemu_nbd, "--list", "-k", server.address])
    matches(r"^ export: 'slow disk'$", text)
    matches(r"^  description: kept for old times$", text)
    matches(rf"^  size:  {SIZE}$", text)
    flags = matches(r"^  flags: 0x\w+ \( (.*) \)$", text)[1].split()
    for flag in ("flush", "fua", "trim", "zeroes", "df", "multi", "cache", "fast-zero"):
        contains(flag, flags, "flags")
    matches(r"^  min block: 1$", text)
    matches(rf"^  max block: {32 * MIB}$", text)
    matches(r"^   base:allocation$", text)
    server.expect_clean()


def _qemu_io(context, server, *commands, cache="writeback"):
    arguments = [need("qemu-io"), "-f", "raw", "-t", cache]
    for command in commands:
        arguments += ["-c", command]
    text = context.run([*arguments, server.uri()], status=None)
    output = text.stdout() + text.stderr()
    eq(text.poll(), 0, f"qemu-io's status, having said {output}")
    # qemu-io has ended with status 0 after wrong bytes in some of its versions.
    for word in ("failed", "error", "rror:"):
        if word in output:
            raise AssertionError(f"qemu-io says: {output}")
    return output


@test("qemu-io reads back the patterns that it has written, aligned or not")
def _(context):
    for server in unix_and_tcp(context, context.sparse_image(8 * MIB)):
        _qemu_io(context, server,
                 "write -P 0xa5 0 64k", "write -P 0x5a 64k 64k", "write -P 0x11 1000 1",
                 "write -P 0x12 131071 4097", "read -P 0xa5 0 1000", "read -P 0x11 1000 1",
                 "read -P 0xa5 1001 64535", "read -P 0x5a 64k 65535",
                 "read -P 0x12 131071 4097", "read -P 0 135168 1M", "flush",
                 "write -P 0x77 4M 4M", "read -P 0x77 4M 4M")
        server.expect_clean()
        # Another connection, and so another process, finds it.
        _qemu_io(context, server, "read -P 0x77 4M 4M", "read -P 0x12 131071 4097")
        server.expect_clean(2)


@test("qemu-io's zeroes and discards leave zeroes in their range and patterns around it")
def _(context):
    server = SocketActivate(context, context.image(b"\x33" * 4 * MIB, "disk"))
    _qemu_io(context, server,
             "write -z 64k 64k", "read -P 0x33 0 64k", "read -P 0 64k 64k",
             "read -P 0x33 128k 128k", "write -z -u 1M 512k", "read -P 0 1M 512k",
             "write -z 2000001 333", "read -P 0x33 2000000 1", "read -P 0 2000001 333",
             "read -P 0x33 2000334 1", "discard 3M 64k", "read -P 0x33 3211264 64k",
             "read -P 0x33 3080192 64k", "flush", "write -z -f 3M 64k", "read -P 0 3M 64k")
    server.expect_clean()


@test("qemu-io's FUA writes and asynchronous requests all succeed")
def _(context):
    image = context.sparse_image(4 * MIB)
    for server in unix_and_tcp(context, image):
        writes = [f"aio_write -P {i + 1} {i * 65536 + 7} 65000" for i in range(32)]
        reads = [f"aio_read -P {i + 1} {i * 65536 + 7} 65000" for i in range(32)]
        # Write-through makes every write one with FUA.
        _qemu_io(context, server, *writes, "aio_flush", *reads, "aio_flush",
                 "write -f -P 0xee 3M 4k", cache="writethrough")
        server.expect_clean()
        eq(read_file(image, 3 * MIB, 4096), b"\xee" * 4096)
        eq(read_file(image, 31 * 65536 + 7, 65000), bytes([32]) * 65000)


@test("a qcow2 image that lives in an export is written, read and found sound by qemu")
def _(context):
    qemu_img, qemu_io = need("qemu-img"), need("qemu-io")
    image = context.path("disk.qcow2")
    context.run([qemu_img, "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", image,
                 "8M"])
    with open(image, "r+b") as file:
        file.truncate(16 * MIB)
    server = SocketActivate(context, image)
    context.run([qemu_io, "-f", "qcow2", "-c", "write -P 0x42 1M 3M", "-c", "write -z 2M 64k",
                 "-c", "read -P 0x42 1M 1M", "-c", "flush", server.uri()])
    found = context.run([qemu_io, "-f", "qcow2", "-r", "-c", "read -P 0 2M 64k", "-c",
                         "read -P 0x42 3M 1M", server.uri()], status=None)
    eq(found.poll(), 0, f"qemu-io's status, having said {found.stdout()}{found.stderr()}")
    contains("No errors", program_output(context, [qemu_img, "check", "-f", "qcow2",
                                                   server.uri()]))
    server.expect_clean(3)


# ------------------------------------------------------------------ nbd-client and others

@test("nbd-client -l lists an export by its name and description, over TCP and Unix")
def _(context):
    nbd_client = need("nbd-client")
    unix, tcp = unix_and_tcp(context, "-e", "backup", "--description=the weekly one",
                             the_image(context))
    for server, where in ((unix, ["-u", unix.address]), (tcp, ["127.0.0.1", tcp.address[1]])):
        listing = program_output(context, [nbd_client, "-l", *where])
        matches(r"^backup\b.*$", listing)
        contains("the weekly one", listing)
        server.expect_clean(0)
        eq(set(server.statuses()), {"0"})


@test("nbd-client -l of an export without a name ends well")
def _(context):
    nbd_client = need("nbd-client")
    for_unix, for_tcp = unix_and_tcp(context, the_image(context))
    context.run([nbd_client, "-l", "-u", for_unix.address])
    context.run([nbd_client, "-l", "127.0.0.1", for_tcp.address[1]])
    for server in (for_unix, for_tcp):
        eq(server.statuses(), ["0"])


@test("nbddump prints an export's bytes")
def _(context):
    nbddump = need("nbddump")
    server = SocketActivate(context, context.image(b"What hath God wrought? " * 3, "disk"))
    listing = program_output(context, [nbddump, server.uri()])
    matches(r"^0000000000: 57 68 61 74 20 68 61 74 ", listing)
    contains("|What hath God wr|", listing)
    server.expect_clean()


@test("nbdfuse shows an export as a file that can be read and written")
def _(context):
    nbdfuse = need("nbdfuse")
    require(os.access("/dev/fuse", os.R_OK | os.W_OK), "/dev/fuse can't be used")
    image = context.random_image(4 * MIB + 100, "disk")
    server = SocketActivate(context, image)
    mountpoint = context.path("mountpoint")
    os.mkdir(mountpoint)
    shown = os.path.join(mountpoint, "nbd")
    # nbdfuse runs the command, unmounts and ends with its status.
    content = Path(image).read_bytes()
    fuse = context.spawn([nbdfuse, "--pidfile", context.path("pid"), shown, server.uri()])
    unmount = [need("fusermount3"), "-u", mountpoint]
    context.defer(lambda: context.run([*unmount[:1], "-u", "-z", mountpoint], status=None))
    for _ in range(3000):
        if os.path.exists(context.path("pid")) or fuse.poll() is not None:
            break
        threading.Event().wait(0.01)
    eq(fuse.poll(), None, f"nbdfuse's status, having said {fuse.stderr()}")
    eq(Path(shown).read_bytes() == content, True, "the content")
    with open(shown, "r+b", buffering=0) as file:
        file.seek(2 * MIB + 3)
        file.write(b"through a file")
        os.fsync(file.fileno())
    eq(read_file(image, 2 * MIB + 3, 14), b"through a file")
    context.run(unmount)
    fuse.expect(0)
    server.expect_clean()


# ------------------------------------------------------------------ fio

FIO_JOBS = """\
[global]
ioengine=nbd
uri={uri}
randrepeat=1
randseed=4711
verify=crc32c
verify_state_save=0
verify_fatal=1
group_reporting=0

# Random writes of all sizes, unaligned, flushed now and then, then read and verified.
[writes]
rw=randwrite
offset=0
size=12m
bsrange=512-64k
bs_unaligned=1
iodepth=16
fsync=64

# Random reads mixed with writes, which are verified when they come round again.
[mixed]
rw=randrw
offset=16m
size=12m
bs=8k
iodepth=16
verify_backlog=64

# A block is trimmed, then written; one at a time, for the two may not be in flight together.
[trims-and-writes]
rw=trimwrite
offset=32m
size=6m
bs=4k
iodepth=1

# Trims alone, into a part that was full; what they leave is checked afterwards.
[trims]
rw=randtrim
offset=48m
size=8m
bs=16k
iodepth=16
verify=null
"""


@test("fio verifies random writes, reads and trims on four connections while zeroes are written "
      "on a fifth")
def _(context):
    fio = need("fio")
    engines = program_output(context, [fio, "--enghelp"])
    require(re.search(r"^\s*nbd\s*$", engines, re.MULTILINE), "fio has no nbd engine")
    import_libnbd()
    for tcp in (False, True):
        image = context.sparse_image(80 * MIB, f"disk{tcp}")
        with open(image, "r+b") as file:
            file.seek(48 * MIB)
            file.write(b"\x99" * 16 * MIB)
        server = SocketActivate(context, image, tcp=tcp)
        jobs = context.image(FIO_JOBS.format(uri=server.uri()).encode(), f"jobs{tcp}.fio")

        failures = []
        fifth = connect_libnbd(server)
        zeroer = ModelChecker(fifth, 64 * MIB, 8 * MIB, 13)

        def write_zeroes(zeroer=zeroer, failures=failures):
            try:
                zeroer.run(1200)
            except BaseException as failure:  # told by the thread that can fail the test
                failures.append(failure)
        thread = threading.Thread(target=write_zeroes)
        ran = context.spawn([fio, "--output-format=json", jobs])
        thread.start()
        ran.wait(60)
        thread.join(60)
        eq(thread.is_alive(), False, "the writer of zeroes still runs")
        if failures:
            raise failures[0]
        eq(ran.poll(), 0, f"fio's status, having said {ran.stdout()[-3000:]}{ran.stderr()}")
        text = ran.stdout()
        results = {job["jobname"]: job for job in json.loads(text[text.index("{"):])["jobs"]}
        eq({name: job["error"] for name, job in results.items()},
           dict.fromkeys(("writes", "mixed", "trims-and-writes", "trims"), 0), "errors by job")
        # The jobs have done what their names say; without that no verification means much.
        for name in ("writes", "trims-and-writes"):
            written = results[name]["write"]["io_bytes"]
            eq(results[name]["read"]["io_bytes"], written, f"bytes verified by {name}")
            eq(written >= 5 * MIB, True, f"{name} have written enough")
        eq(results["trims-and-writes"]["trim"]["io_bytes"], 6 * MIB, "trimmed and written")
        eq(results["trims"]["trim"]["io_bytes"], 8 * MIB, "trimmed")
        for kind in ("zero", "write", "trim"):
            eq(zeroer.counts[kind] > 50, True, f"requests of kind {kind} beside fio")

        fifth.shutdown()
        server.expect_clean(5)
        with open(image, "rb") as file:
            file.seek(48 * MIB)
            contains(bytes(set(file.read(8 * MIB))), (b"\0", b"\x99", b"\0\x99", b"\x99\0"),
                     "what the trims have left")
            eq(file.read(8 * MIB).count(0x99), 8 * MIB, "bytes beyond the trims")


if __name__ == "__main__":
    main()
