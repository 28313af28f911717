#!/usr/bin/python3
"""Private copies (--cow): each client writes into a copy of its own, and the file stays as it is."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from faults import Immutable, LoopDevice, Mount, need_privilege
from harness import *

ENOUGH = 320 * MIB  # for the smallest file systems


def connected(t, *arguments, **how):
    """(process, client), in transmission."""
    process, client = t.activated(*arguments, **how)
    client.start(contexts=["base:allocation"])
    return process, client


def copy_of(process):
    """(path, stat) of the private copy: the only file of the process that has no name."""
    found = []
    for entry in Path(f"/proc/{process.pid}/fd").iterdir():
        target = os.readlink(entry)
        if target.endswith("(deleted)"):
            found.append((target, os.stat(entry)))
    eq(len(found), 1, f"files without a name: {found}")
    return found[0]


# ------------------------------------------------------------------ what clients see

@test("each client writes into a copy of its own; the file stays as it is, and so does what the next client gets")
def _(t):
    path = t.pattern_image(4 * MIB + 512)
    whole = pattern(0, 4 * MIB + 512)
    one = connected(t, "--cow", path)
    other = connected(t, "--cow", path)
    for (_, client), byte in ((one, b"1"), (other, b"2")):
        eq(client.flags & NBD_FLAG_READ_ONLY, 0)
        eq(client.flags & NBD_FLAG_CAN_MULTI_CONN, 0)
        eq(client.read(0, client.size), whole)
        client.write(1000, byte * 5000)
        client.write(4 * MIB, byte * 512, NBD_CMD_FLAG_FUA)
        client.write_zeroes(MIB + 5, 100000)
        client.trim(2 * MIB, MIB)
        client.flush()
    for (process, client), byte in ((one, b"1"), (other, b"2")):
        eq(client.read(1000, 5000), byte * 5000)
        eq(client.read(0, 1000), whole[:1000])
        eq(client.read(6000, 5000), whole[6000:11000])
        eq(client.read(4 * MIB, 512), byte * 512)
        eq(client.read(MIB, 5) + client.read(MIB + 100005, 7), whole[MIB:MIB + 5] + whole[MIB + 100005:MIB + 100012])
        eq(client.read(MIB + 5, 100000), bytes(100000))
        eq(client.read(2 * MIB, MIB), bytes(MIB))
        leave(process, client)
    contains(", copy-on-write, structured replies", process.stderr())
    eq(Path(path).read_bytes(), whole)
    process, client = connected(t, "--cow", path)
    eq(client.read(0, client.size), whole)
    leave(process, client)


@test("a file that can't be opened for writing has writable copies, without a notice")
def _(t):
    need_root("to make a file immutable")
    path = t.pattern_image(MIB)
    with Immutable(path):
        process, client = connected(t, "--cow", path)
        client.write(0, b"x" * 4096)
        eq(client.read(0, 4096), b"x" * 4096)
        leave(process, client)
    eq("read-only" in process.stderr(), False, process.stderr())


@test("block status tells of holes in the file, and of what has become data or a hole in the copy")
def _(t):
    path = t.path("sparse.img")
    with open(path, "wb") as file:
        file.truncate(16 * MIB)
        file.seek(4 * MIB)
        file.write(pattern(0, MIB))
    process, client = connected(t, "--cow", "--cow-dir=memory", path)
    client.write(8 * MIB, b"x" * MIB)
    client.write_zeroes(4 * MIB, MIB // 2)
    HOLE = NBD_STATE_HOLE | NBD_STATE_ZERO
    extents = []
    for length, flags in client.block_status(0, 16 * MIB):
        if extents and extents[-1][1] == flags:
            length += extents.pop()[0]
        extents.append((length, flags))
    eq(extents, [(4 * MIB + MIB // 2, HOLE), (MIB // 2, 0), (3 * MIB, HOLE), (MIB, 0), (7 * MIB, HOLE)])
    leave(process, client)


@test("exports of a directory, and files handed over, have copies as well; asking about many makes none")
def _(t):
    folder = Path(t.fresh(".exports"))
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_bytes(pattern(0, MIB))
    process, client = t.activated("--cow", f"--directory={folder}")
    client.handshake()
    for name in ("a", "b", "a"):
        client.info(name)
    eq(copy_of(process)[1].st_size, 0)
    client.go("b")
    eq(copy_of(process)[1].st_size, MIB)
    client.write(0, b"x" * 4096)
    eq(client.read(0, 8192), b"x" * 4096 + pattern(4096, 4096))
    leave(process, client)
    eq((folder / "b").read_bytes(), pattern(0, MIB))


@test("a block device has copies")
def _(t):
    need_privilege("root", "loop")
    path = t.pattern_image(4 * MIB)
    with LoopDevice(path) as device:
        process, client = connected(t, "--cow", device.path)
        client.write(5000, b"x" * 10000)
        client.trim(MIB, MIB)
        eq(client.read(4096, 12000), pattern(4096, 904) + b"x" * 10000 + pattern(15000, 1096))
        eq(client.read(MIB, MIB), bytes(MIB))
        leave(process, client)
    eq(Path(path).read_bytes(), pattern(0, 4 * MIB))


# ------------------------------------------------------------------ where copies are, and how large

@test("the copy has no name, and lies in --cow-dir, in $STATE_DIRECTORY or $RUNTIME_DIRECTORY, or in memory")
def _(t):
    path = t.pattern_image(MIB)
    folders = {name: t.fresh(f".{name}") for name in ("given", "state", "runtime")}
    for folder in folders.values():
        os.mkdir(folder)
    env = {"STATE_DIRECTORY": f"{folders['state']}:/nowhere", "RUNTIME_DIRECTORY": folders["runtime"]}
    for arguments, variables, place in (
            ([f"--cow-dir={folders['given']}"], env, folders["given"]),
            ([], env, folders["state"]),
            ([], {"RUNTIME_DIRECTORY": folders["runtime"]}, folders["runtime"]),
            ([], {}, "/var/tmp"),
            (["--cow-dir=memory"], env, "/memfd:nbdinetd-copy")):
        process, client = connected(t, "--cow", *arguments, path, env=variables)
        client.write(0, b"x" * 4096)
        name, status = copy_of(process)
        eq(name.startswith(place), True, name)
        if not name.startswith("/memfd:"):
            eq((status.st_nlink, status.st_mode & 0o777), (0, 0o600))
        leave(process, client)
    for folder in folders.values():
        eq(os.listdir(folder), [])


@test("a directory that can't have copies is exit status 73, and --check says so too")
def _(t):
    path = t.pattern_image(MIB)
    missing = t.path("missing")
    process, client = t.activated("--cow", f"--cow-dir={missing}", path)
    process.expect(EX_CANTCREAT)
    client.close()
    contains(f'failed to make a file for a private copy in "{missing}": No such file', process.stderr())
    t.run([NBDINETD, "--check", "--cow", f"--cow-dir={missing}", path], EX_CANTCREAT)
    process = t.run([NBDINETD, "--check", "--cow", "--cow-dir=memory", path])
    contains("each client would write into a private copy in memory, which is deleted when the connection ends\n",
             process.stdout())
    report = json.loads(t.run([NBDINETD, "--check=json", "--cow", path]).stdout())
    eq((report["cow"], report["exports"][0]["mode"]), ("discard", "read-write"))


@test("--cow-size bounds what a copy occupies: more is ENOSPC to that client alone, and a trim makes room")
def _(t):
    path = t.pattern_image(4 * MIB)
    arguments = ("--cow", "--cow-size=1M", path)
    one, other = connected(t, *arguments), connected(t, *arguments)
    one[1].write(0, b"x" * MIB)
    refuses(NBD_ENOSPC, one[1].write, MIB, b"y" * 4096)
    refuses(NBD_ENOSPC, one[1].write, 2 * MIB + 7, b"y")
    refuses(NBD_ENOSPC, one[1].write_zeroes, MIB, 4096, NBD_CMD_FLAG_NO_HOLE)
    other[1].write(MIB, b"z" * MIB)
    one[1].write(100, b"again")
    one[1].write_zeroes(3 * MIB, MIB)
    one[1].trim(0, 8192)
    one[1].write(MIB, b"y" * 4096)
    one[1].write(2 * MIB + 7, b"y")
    refuses(NBD_ENOSPC, one[1].write, 2 * MIB - 7, b"y")
    eq(one[1].read(MIB, 4097), b"y" * 4096 + pattern(MIB + 4096, 1))
    eq(one[1].read(3 * MIB, MIB), bytes(MIB))
    for process, client in (one, other):
        assert copy_of(process)[1].st_blocks * 512 <= MIB, "what the copy occupies"
        leave(process, client)
    eq(Path(path).read_bytes(), pattern(0, 4 * MIB))


@test("what a client asks to be durable costs no sync")
def _(t):
    path, trace = t.pattern_image(MIB), t.path("trace")
    process, client = t.inetd("--cow", path, prefix=[
        need("strace"), "-f", "-qq", "-o", trace, "-e",
        "trace=fsync,fdatasync,sync_file_range,pwritev2,pwrite64"])
    client.start()
    client.write(0, b"x" * 4096, NBD_CMD_FLAG_FUA)
    client.write_zeroes(8192, 8192, NBD_CMD_FLAG_FUA)
    client.trim(8192, 8192, NBD_CMD_FLAG_FUA)
    client.flush()
    leave(process, client)
    calls = set(re.findall(r"^\d+ +(\w+)\(", Path(trace).read_text(), re.MULTILINE))
    eq("pwrite64" in calls, True, calls)
    eq(calls & {"fsync", "fdatasync", "sync_file_range", "pwritev2"}, set())


# ------------------------------------------------------------------ clones

def _clones(kind, *make):
    @test(f"on {kind} the copy is a clone, which occupies nothing until it is written to", waits=True)
    def _(t):
        need_privilege("root", "loop", "mount")
        disk, folder = t.path(f"{kind}.disk"), t.path(f"{kind}.mounted")
        with open(disk, "wb") as file:
            file.truncate(ENOUGH)
        made = subprocess.run([need(make[0]), *make[1:], disk], capture_output=True, text=True, check=False)
        eq(made.returncode, 0, made.stderr)
        os.mkdir(folder)
        with LoopDevice(disk) as device, Mount(device.path, folder, kind):
            path = Path(folder, "base.img")
            path.write_bytes(pattern(0, 8 * MIB + 100))
            os.sync()
            free = os.statvfs(folder).f_bfree
            process, client = connected(t, "--cow", f"--cow-dir={folder}", "--cow-size=2M", str(path))
            status = copy_of(process)[1]
            eq(status.st_size, 8 * MIB + 100)
            assert status.st_blocks * 512 >= 8 * MIB, "a clone has all blocks at once"
            block = os.statvfs(folder).f_bsize
            assert (free - os.statvfs(folder).f_bfree) * block < 4 * MIB, "a clone shares its blocks"
            client.write(3000, b"x" * 5000)
            eq(client.read(0, 16384), pattern(0, 3000) + b"x" * 5000 + pattern(8000, 8384))
            eq(client.read(8 * MIB, 100), pattern(8 * MIB, 100))
            client.write(4 * MIB, b"y" * (MIB + MIB // 2))
            refuses(NBD_ENOSPC, client.write, 6 * MIB, b"z" * MIB)
            leave(process, client)
            eq(path.read_bytes(), pattern(0, 8 * MIB + 100))
            # A part that begins at no block of the file system isn't cloned, and is served all the same.
            process, client = connected(t, "--cow", f"--cow-dir={folder}", "--offset=512", str(path))
            eq(copy_of(process)[1].st_blocks, 0)
            client.write(0, b"x" * 512)
            eq(client.read(0, 4096), b"x" * 512 + pattern(1024, 3584))
            leave(process, client)


_clones("xfs", "mkfs.xfs", "-q", "-m", "reflink=1")
_clones("btrfs", "mkfs.btrfs", "-q")


# ------------------------------------------------------------------ wrong use

@test("what doesn't fit together with --cow is told with the reason")
def _(t):
    path = t.pattern_image(MIB)
    for arguments, words in (
            (["--cow", "--readonly"], "--cow and --readonly can't be used together"),
            (["--cow=maybe"], '--cow="maybe": use discard'),
            (["--cow", "--multi-conn=on"], "each connection has a copy of its own"),
            (["--cow-size=1G"], "--cow-size needs --cow"),
            (["--cow-dir=/tmp"], "--cow-dir needs --cow"),
            (["--cow", "--cow-size=much"], "this is no number of bytes"),
            (["--cow", "--cow-dir="], "--cow-dir is empty")):
        process = t.run([NBDINETD, "--check", *arguments, path], EX_USAGE)
        contains(words, process.stderr())


if __name__ == "__main__":
    main()
