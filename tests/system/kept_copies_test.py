#!/usr/bin/python3
"""Kept copies (--cow=keep): a client that comes back finds what it has written."""

import ctypes
import errno
import fcntl
import itertools
import json
import os
import random
import re
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from faults import FailingFs, LoopDevice, Mount, need_privilege, private_mounts
from file_systems import has_file_system, need_in_kernel
from harness import *
from kept_headers import SLOT, begun, change_headers, crc64
from tls import TlsClient, authority, client_context, main_with_tls

BLOCK = 4096
ENOUGH = 320 * MIB  # for the smallest file systems


def folder_of(t):
    path = Path(t.fresh(".copies"))
    path.mkdir()
    return path


def kept(t, folder, *arguments, address="127.0.0.1", **how):
    """(process, client) of a client at this IP address, before its first byte."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        ours = socket.socket()
        ours.bind((address, 0))
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
    process = t.spawn([NBDINETD, "--cow=keep", "--cow-key=peer-address", f"--cow-dir={folder}",
                       "--log=stderr", *arguments], fds={3: theirs}, listen_fds=1, listen_pid="own", **how)
    theirs.close()
    client = Client(ours)
    t.defer(client.close)
    return process, client


def started(t, folder, *arguments, name="", contexts=(), **how):
    process, client = kept(t, folder, *arguments, **how)
    client.start(name, contexts=list(contexts))
    return process, client


def copies_in(folder):
    return sorted(entry.name for entry in Path(folder).iterdir())


def ended_by(process, client):
    """What the process says after it has refused its client."""
    client.expect_end()
    process.wait()
    return process.stderr()


def refuses_option(error, client, name=""):
    try:
        client.go(name)
    except OptionError as found:
        eq(found.reply, error, str(found))
        return
    raise AssertionError(f"{name!r} is served")


def refused(t, folder, *arguments, error=NBD_REP_ERR_POLICY, name="", **how):
    """The log of a process that refuses the export."""
    process, client = kept(t, folder, *arguments, **how)
    client.handshake()
    refuses_option(error, client, name)
    client.close()
    process.wait()
    return process.stderr()


# ------------------------------------------------------------------ what clients find

@test("a client that comes back finds what it has written, flushed or not; the file stays as it is")
def _(t):
    path, folder = t.pattern_image(4 * MIB + 512), folder_of(t)
    whole = bytearray(pattern(0, 4 * MIB + 512))
    for round_ in range(4):
        process, client = started(t, folder, path)
        eq(client.flags & (NBD_FLAG_READ_ONLY | NBD_FLAG_CAN_MULTI_CONN), 0)
        eq(client.read(0, client.size), bytes(whole), f"round {round_}")
        for offset, data, flags in ((1000 + round_ * 9000, b"%d" % round_ * 5000, 0),
                                    (4 * MIB, b"%d" % round_ * 512, NBD_CMD_FLAG_FUA),
                                    (MIB * round_ + 77, b"x" * 100, NBD_CMD_FLAG_FUA)):
            client.write(offset, data, flags)
            whole[offset:offset + len(data)] = data
        client.write_zeroes(2 * MIB + round_ * 100001, 100000)
        whole[2 * MIB + round_ * 100001:2 * MIB + round_ * 100001 + 100000] = bytes(100000)
        client.trim(3 * MIB, 65536)
        whole[3 * MIB:3 * MIB + 65536] = bytes(65536)
        if round_ % 2:
            client.flush()
        leave(process, client)
        contains("kept copy-on-write", process.stderr())
    eq(Path(path).read_bytes(), pattern(0, 4 * MIB + 512))
    eq(len(copies_in(folder)), 1)


@test("two clients, and two exports of one, have copies of their own")
def _(t):
    folder, files = folder_of(t), Path(t.fresh(".exports"))
    files.mkdir()
    for name in ("a", "b", ".hidden", "x@y+z"):
        (files / name).write_bytes(pattern(0, MIB))
    owners = [(name, address) for name in ("a", "b", ".hidden", "x@y+z") for address in ("127.0.0.1", "127.0.0.2")]
    for number, (name, address) in enumerate(owners):
        process, client = started(t, folder, f"--directory={files}", name=name, address=address)
        eq(client.read(0, MIB), pattern(0, MIB), f"{name} of {address}")
        client.write(BLOCK, b"%d" % number * 100)
        leave(process, client)
    eq(len(copies_in(folder)), len(owners))
    eq([name for name in copies_in(folder) if name.startswith(".") or not name.endswith(".copy")], [])
    for number, (name, address) in enumerate(owners):
        process, client = started(t, folder, f"--directory={files}", name=name, address=address)
        eq(client.read(BLOCK, 100), b"%d" % number * 100, f"{name} of {address}")
        leave(process, client)


@test("an export without a name of its own is known by its file, however a client calls it")
def _(t):
    folder, one, other = folder_of(t), t.pattern_image(MIB), t.pattern_image(MIB, "other.img")
    for path, name in ((one, "disk"), (one, ""), (other, "disk")):
        process, client = started(t, folder, path, name=name)
        eq(client.read(0, 1) == b"\xff", path == one and name == "", f"{path} as {name}")
        client.write(0, b"\xff")
        leave(process, client)
    eq(len(copies_in(folder)), 2)


@test("TLS identities: each certificate has a copy, and a client without one has none")
def _(t):
    path, folder = t.pattern_image(MIB), folder_of(t)
    ca = authority()
    ca.issue("carol", "/CN=carol")

    def connection(name=None, *options):
        process, client = t.activated("--cow=keep", f"--cow-dir={folder}", "--log=stderr", "--tls=require",
                                      f"--tls-certificates={ca.server_files(t)}", *options, path)
        return process, TlsClient.of(client), client_context(certificate=(ca, name) if name else None)

    for name, wanted in (("alice", None), ("carol", None), ("alice", b"alice"), ("carol", b"carol")):
        process, client, context = connection(name, "--tls-verify-peer")
        client.start(tls=context)
        if wanted:
            eq(client.read(0, 5), wanted)
        else:
            eq(client.read(0, MIB), pattern(0, MIB))
            client.write(0, name.encode())
        client.disconnect_and_wait()
        process.expect(EX_OK)
    eq(copies_in(folder)[1].count("cert+CN%3dcarol"), 1, copies_in(folder))
    process, client, context = connection()
    client.start_tls(context)
    refuses_option(NBD_REP_ERR_POLICY, client)
    client.close()
    process.wait()
    contains("belongs to a client that TLS has identified", process.stderr())
    # Where TLS would help, the client is told so.
    process, client = t.activated("--cow=keep", f"--cow-dir={folder}", "--tls=on", "--tls-verify-peer",
                                  f"--tls-certificates={ca.server_files(t)}", path)
    client.handshake()
    refuses_option(NBD_REP_ERR_TLS_REQD, client)


@test("a client without an IP address has no copy by it")
def _(t):
    path, folder = t.pattern_image(MIB), folder_of(t)
    process, client = t.activated("--cow=keep", "--cow-key=peer-address", f"--cow-dir={folder}", path)
    client.handshake()
    refuses_option(NBD_REP_ERR_POLICY, client)
    client.close()
    process.wait()
    contains("belongs to an IP address, and this client has none", process.stderr())
    eq(copies_in(folder), [])


@test("a client that only asks has no copy")
def _(t):
    path, folder = t.pattern_image(MIB), folder_of(t)
    process, client = kept(t, folder, path)
    client.handshake()
    client.info("")
    client.close()
    process.wait()
    eq(copies_in(folder), [])


# ------------------------------------------------------------------ one connection for each copy

@test("a second connection of a client takes its copy over; with --exclusive=refuse it is refused")
def _(t):
    path, folder = t.pattern_image(MIB), folder_of(t)
    first, one = started(t, folder, path)
    one.write(0, b"first")
    _, neighbour = started(t, folder, path, address="127.0.0.2")
    second, two = started(t, folder, path)
    one.expect_end()
    first.expect(EX_OK)
    contains("another takes over the export", first.stderr())
    eq(two.read(0, 5), b"first")
    two.write(0, b"second")
    log = refused(t, folder, "--exclusive=refuse", path)
    contains("is in use (exclusive)", log)
    eq(neighbour.read(0, 5), pattern(0, 5))
    leave(second, two)
    process, client = started(t, folder, "--exclusive=refuse", path)
    eq(client.read(0, 6), b"second")
    leave(process, client)


@test("a copy that is discarded while a client waits for it begins anew")
def _(t):
    path, folder = t.pattern_image(MIB), folder_of(t)
    first, one = started(t, folder, path)
    one.write(0, b"first")
    process, client = kept(t, folder, "--exclusive=wait", path)
    client.handshake()
    client.send(client.option_bytes(NBD_OPT_GO, client.info_bytes("")))
    copy, = folder.iterdir()
    wait_until(lambda: any(os.path.realpath(f"/proc/{process.pid}/fd/{fd}") == str(copy)
                           for fd in descriptors_of(process.pid)), "it waits for the copy")
    copy.unlink()
    leave(first, one)
    while client.option_reply(NBD_OPT_GO)[0] != NBD_REP_ACK:
        pass
    eq(client.read(0, 5), pattern(0, 5))
    client.write(0, b"anew")
    leave(process, client)
    process, client = started(t, folder, path)
    eq(client.read(0, 4), b"anew")
    leave(process, client)


# ------------------------------------------------------------------ the base

@test("a base that has changed is refused with what has changed, or the copy begins anew")
def _(t):
    path, folder = t.pattern_image(4 * MIB), folder_of(t)

    def with_time_kept(change):
        before = os.stat(path)
        change()
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def write_at(offset):
        with open(path, "r+b") as file:
            file.seek(offset)
            file.write(os.urandom(16))

    def replaced():
        content = Path(path).read_bytes()
        Path(path + ".new").write_bytes(content)
        os.rename(path + ".new", path)

    for change, words in (
            (lambda: os.utime(path), "(the time of its last change)"),
            (lambda: with_time_kept(lambda: write_at(5)), "(its first MiB)"),
            (lambda: with_time_kept(lambda: write_at(4 * MIB - 16)), "(its last MiB)"),
            (lambda: with_time_kept(replaced), "(the file (its inode))"),
            (lambda: os.truncate(path, 3 * MIB), "(its size, the time of its last change and its last MiB)")):
        process, client = started(t, folder, "--cow-stale=discard", path)
        client.write(100, b"mine")
        leave(process, client)
        process, client = started(t, folder, path)
        eq(client.read(100, 4), b"mine")
        leave(process, client)
        change()
        log = refused(t, folder, path)
        contains("is stale: its base", log)
        contains(words, log)
        contains("nbdinetctl copies", log)
        contains("--cow-stale=discard", log)
        eq(len(copies_in(folder)), 1)
    process, client = started(t, folder, "--cow-stale=discard", path)
    eq(client.size, 3 * MIB)
    eq(client.read(0, 3 * MIB), Path(path).read_bytes())
    leave(process, client)
    eq(len(copies_in(folder)), 1)


@test("a damaged copy, another's, or what is no copy is refused, and stays")
def _(t):
    path, folder = t.pattern_image(MIB), folder_of(t)
    process, client = started(t, folder, path)
    leave(process, client)
    copy, = folder.iterdir()
    good = copy.read_bytes()
    for bad, words in ((good[:-2 * SLOT] + bytes(2 * SLOT), "it is no copy that this version"),
                       (good[:-SLOT + 900] + b"\xff" + good[-SLOT + 901:], "its header is damaged"),
                       (b"\0" * BLOCK + good, "its size isn't what its header says"),
                       (b"", "it is too small"), (b"x" * 100000, "it is no copy that this version")):
        copy.write_bytes(bad)
        process, client = kept(t, folder, path)
        client.handshake()
        refuses_option(NBD_REP_ERR_PLATFORM, client)
        contains(words, ended_by(process, client))
        eq(copy.read_bytes(), bad)
    copy.write_bytes(good)
    other = folder / copy.name.replace("127.0.0.1", "127.0.0.9")
    other.write_bytes(good)
    process, client = kept(t, folder, path, address="127.0.0.9")
    client.handshake()
    refuses_option(NBD_REP_ERR_PLATFORM, client)
    contains('it belongs to addr "127.0.0.1"', ended_by(process, client))
    other.unlink()
    os.mkfifo(other)
    process, client = kept(t, folder, path, address="127.0.0.9")
    client.handshake()
    refuses_option(NBD_REP_ERR_PLATFORM, client)
    contains("no regular file", ended_by(process, client))
    other.unlink()
    # A link leads nowhere.
    other.symlink_to("/etc/passwd")
    process, client = kept(t, folder, path, address="127.0.0.9")
    client.handshake()
    refuses_option(NBD_REP_ERR_PLATFORM, client)
    ended_by(process, client)


@test("parts of one file are different exports, and a part that has moved is a stale base")
def _(t):
    path, folder = t.image(bytes(2 * MIB)), folder_of(t)
    for round_ in range(2):
        for begin in (0, MIB):
            process, client = started(t, folder, f"--offset={begin}", f"--length={MIB}", path)
            eq(client.read(BLOCK, 1), b"x" if round_ and begin else b"\0")
            client.write(BLOCK if begin else BLOCK * 2, b"x")
            leave(process, client)
    process, client = started(t, folder, "-e", "disk", f"--length={MIB}", path, name="disk")
    client.write(0, b"x")
    leave(process, client)
    process, client = kept(t, folder, "-e", "disk", f"--offset={MIB}", path)
    client.handshake()
    refuses_option(NBD_REP_ERR_POLICY, client, "disk")
    contains("its place in the file: from byte 0 to byte 1048576", ended_by(process, client))


@test("after a restart of the machine, what was flushed holds, by the client or at the connection's end")
def _(t):
    path, folder = t.pattern_image(MIB), folder_of(t)
    process, client = started(t, folder, path)
    client.write(0, b"flushed")
    client.write(BLOCK * 10, b"durable", NBD_CMD_FLAG_FUA)
    client.flush()
    client.write(BLOCK * 20, b"lost")
    process.signal(signal.SIGKILL)
    process.wait()
    copy, = folder.iterdir()
    # The identity of the machine's start is a text of the header; a header without it is what another
    # start would see. The checksum goes with it, so that the header is made anew as the program does.
    forget_boot(copy)
    process, client = started(t, folder, path)
    eq(client.read(0, 7), b"flushed")
    eq(client.read(BLOCK * 10, 7), b"durable")
    eq(client.read(BLOCK * 20, 4), pattern(BLOCK * 20, 4))
    client.write(BLOCK * 20, b"anew")
    leave(process, client)
    forget_boot(copy)
    process, client = started(t, folder, path)
    eq(client.read(BLOCK * 20, 4), b"anew")
    leave(process, client)


def forget_boot(copy):
    """Makes the headers those of another start of the machine."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().encode()
    content = bytearray(copy.read_bytes())
    changed = 0
    for begin in (len(content) - 2 * SLOT, len(content) - SLOT):
        slot = content[begin:begin + SLOT]
        if boot not in slot:
            continue
        slot = slot.replace(boot, b"0" * len(boot))
        slot[-8:] = struct.pack(">Q", crc64(bytes(slot[:-8])))
        content[begin:begin + SLOT] = slot
        changed += 1
    require(changed, "the identity of the machine's start can be read")
    copy.write_bytes(content)


# ------------------------------------------------------------------ where, and how large

@test("copies need a directory that stays, and options go together")
def _(t):
    path, folder = t.pattern_image(MIB), folder_of(t)
    for arguments, words in (
            (["--cow=keep"], "knows a client by TLS"),
            (["--cow=keep", "--cow-key=peer-address"], "needs --cow-dir=DIR"),
            (["--cow=keep", "--cow-key=peer-address", "--cow-dir=memory"], "nothing is kept there"),
            (["--cow", "--cow-key=tls"], "--cow-key needs --cow=keep"),
            (["--cow-stale=discard"], "--cow-stale needs --cow=keep"),
            (["--cow=keep", "--cow-key=name"], "use tls or peer-address"),
            (["--cow=keep", "--cow-stale=no"], "use refuse or discard"),
            (["--cow=stay"], "use discard or keep"),
            (["--cow=keep", "--cow-key=peer-address", "--multi-conn=on"], "--multi-conn=on")):
        process = t.run([NBDINETD, "--check", *arguments, path], EX_USAGE, env={"RUNTIME_DIRECTORY": str(folder)})
        contains(words, process.stderr())
    process = t.run([NBDINETD, "--check=json", "--cow=keep", "--cow-key=peer-address", path],
                    env={"STATE_DIRECTORY": str(folder)})
    report = json.loads(process.stdout())
    eq((report["cow"], report["exclusive"]), ("keep", "takeover"))
    process = t.run([NBDINETD, "--check", "--cow=keep", "--cow-key=peer-address", f"--cow-dir={folder}", path])
    contains("each client, known by its IP address, would write into a copy of its own in", process.stdout())
    contains("and the kept copies", process.stdout())
    process = t.run([NBDINETD, "--check", "--cow=keep", "--cow-key=peer-address", f"--cow-dir={folder}/none", path],
                    EX_CANTCREAT)
    contains("for kept copies: No such file", process.stderr())
    eq(copies_in(folder), [])


@test("--cow-size counts what a copy already stores when its client comes back")
def _(t):
    path, folder = t.pattern_image(MIB), folder_of(t)
    process, client = started(t, folder, "--cow-size=64K", path)
    client.write(0, b"x" * 49152)
    leave(process, client)
    process, client = started(t, folder, "--cow-size=64K", path)
    client.write(49152, b"y" * 16384)
    refuses(NBD_ENOSPC, client.write, 65536, b"z")
    client.write(100, b"again")
    client.flush()
    leave(process, client)
    # Less than it stores: nothing more, but what is there can be changed.
    process, client = started(t, folder, "--cow-size=16K", path)
    refuses(NBD_ENOSPC, client.write, 65536, b"z")
    client.write(100, b"thrice")
    eq(client.read(100, 6), b"thrice")
    leave(process, client)


def come_back(t, folder, path):
    process, client = started(t, folder, path, contexts=["base:allocation"])
    client.write(5000, b"first" * 1000)
    client.write_zeroes(MIB, MIB)
    client.flush()
    client.write(100, b"second")
    leave(process, client)
    process, client = started(t, folder, path, contexts=["base:allocation"])
    whole = bytearray(pattern(0, 4 * MIB))
    whole[5000:10000] = b"first" * 1000
    whole[MIB:2 * MIB] = bytes(MIB)
    whole[100:106] = b"second"
    eq(client.read(0, 4 * MIB), bytes(whole))
    eq(sum(length for length, _ in client.block_status(0, 4 * MIB)), 4 * MIB)
    leave(process, client)
    eq(Path(path).read_bytes(), pattern(0, 4 * MIB))


def _systems(kind, *make):
    @test(f"copies on {kind}")
    def _(t):
        need_privilege("root", "loop", "mount")
        need_in_kernel(kind, has_file_system(kind))
        disk, mounted = t.path(f"{kind}.disk"), t.path(f"{kind}.mounted")
        with open(disk, "wb") as file:
            file.truncate(ENOUGH)
        t.run([need(make[0]), *make[1:], disk])
        with LoopDevice(disk) as device, Mount(device.path, mounted, kind):
            folder = Path(mounted) / "copies"
            folder.mkdir()
            path = Path(mounted) / "disk.img"
            path.write_bytes(pattern(0, 4 * MIB))
            come_back(t, folder, str(path))
            eq(len(copies_in(folder)), 1)


_systems("ext4", "mkfs.ext4", "-q")
_systems("xfs", "mkfs.xfs", "-q", "-m", "reflink=1")
_systems("btrfs", "mkfs.btrfs", "-q")
# It has neither files without a name nor links.
_systems("vfat", "mkfs.vfat")
_systems("exfat", "mkfs.exfat")


@test("where a new copy has a hidden name at first, one that a killed process has left is deleted, and one in use isn't")
def _(t):
    need_privilege("root")
    require(os.access("/dev/fuse", os.R_OK | os.W_OK), "needs /dev/fuse")
    private_mounts()
    below, mounted, path = t.fresh(".below"), t.fresh(".mounted"), t.pattern_image(MIB)
    for folder in (below, mounted):
        os.mkdir(folder)
    # It can't make files without a name.
    t.spawn([need("bindfs"), "-f", below, mounted])
    wait_until(lambda: os.path.ismount(mounted), "the mount")
    t.defer(t.run, ["umount", mounted])
    process, client = kept(t, mounted, path)
    client.handshake()  # so that the file is there
    hidden, = copies_in(mounted)
    eq(hidden.startswith(".nbdinetd-new-"), True, hidden)
    second, two = started(t, mounted, path, address="127.0.0.2")
    eq(hidden in copies_in(mounted), True)
    process.signal(signal.SIGKILL)
    process.wait()
    client.close()
    leave(second, two)
    eq(hidden in copies_in(mounted), True)
    # Not at once: the locks of other machines may not be visible here.
    third, three = started(t, mounted, path, address="127.0.0.2")
    leave(third, three)
    eq(hidden in copies_in(mounted), True)
    os.utime(Path(mounted, hidden), (0, time.time() - 2 * 60 * 60))
    third, three = started(t, mounted, path, address="127.0.0.3")
    leave(third, three)
    eq([name for name in copies_in(mounted) if name.startswith(".")], [])
    eq(len(copies_in(mounted)), 2)


@test("copies in memory, on tmpfs, and on overlayfs")
def _(t):
    need_privilege("root", "mount")
    with Mount("none", t.path("mnt"), "tmpfs", "size=64M") as mount:
        parts = {name: os.path.join(mount.path, name) for name in ("lower", "upper", "work", "merged", "copies")}
        for part in parts.values():
            os.mkdir(part)
        path = t.pattern_image(4 * MIB)
        come_back(t, parts["copies"], path)
        options = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['work']}"
        with Mount("none", parts["merged"], "overlay", options):
            come_back(t, parts["merged"], path)
        eq(len(copies_in(parts["upper"])), 1)


# ------------------------------------------------------------------ nbdinetctl copies

NBDINETCTL = str(BUILDDIR / "src" / "nbdinetctl")


def ctl(t, folder, *arguments, status=0):
    require(os.access(NBDINETCTL, os.X_OK), "needs nbdinetctl")
    return t.run([NBDINETCTL, "copies", *arguments, f"--directory={folder}"], status)


def written(t, folder, path, *arguments, offset=5000, data=b"mine", **how):
    """A copy of a client that has left. Returns its name."""
    before = set(copies_in(folder))
    process, client = started(t, folder, path, *arguments, **how)
    client.write(offset, data)
    client.flush()
    leave(process, client)
    return (set(copies_in(folder)) - before or before).pop()


@test("nbdinetctl copies lists whose copies there are, and their state")
def _(t):
    schema = json.loads((SRCDIR / "tests/support/nbdinetctl_schema.json").read_text())["copies"]
    path, folder = t.pattern_image(MIB), folder_of(t)
    contains("there are no kept copies", ctl(t, folder).stderr())
    name = written(t, folder, path)
    process, client = started(t, folder, path, address="127.0.0.2")
    (folder / "bad@x.copy").write_bytes(b"x")
    (folder / "other file").write_bytes(b"x")
    rows = {row["copy"]: row for row in json.loads(ctl(t, folder, "list", "--json").stdout())}
    for row in rows.values():
        eq(set(schema["always"]) - set(row), set())
        eq({name: type(value).__name__ for name, value in row.items()},
           {name: {"string": "str", "number": "int"}[schema["names"][name]] for name in row})
    eq(len(rows), 3)
    row = rows[name]
    eq((row["export_name"], row["identity"], row["key"], row["size"], row["state"], row["file"], row["directory"]),
       (path, "127.0.0.1", "addr", MIB, "kept", path, str(folder)))
    assert abs(row["created"] / 1e6 - time.time()) < 100 and abs(row["last_used"] / 1e6 - time.time()) < 100, row
    assert 4096 <= row["stored"] < MIB, row
    used, = (row for row in rows.values() if row.get("identity") == "127.0.0.2")
    eq((used["state"], used["pid"]), ("in use", process.pid))
    eq((rows["bad@x.copy"]["state"], rows["bad@x.copy"]["reason"]), ("damaged", "it is too small for a copy"))
    table = ctl(t, folder, "--no-legend").stdout()
    contains("kept", table)
    contains(str(process.pid), table)
    leave(process, client)
    os.utime(path)
    row = {row["copy"]: row for row in json.loads(ctl(t, folder, "--json").stdout())}[name]
    eq((row["state"], row["reason"]), ("stale", "its base has changed: the time of its last change"))
    ctl(t, "/no/such/directory", status=3)
    for wrong in (["lst"], ["discard"], ["discard", "a", "b"], ["merge"], ["merge", name, "x"], ["export", name],
                  ["list", name]):
        contains("usage: nbdinetctl copies", ctl(t, folder, *wrong, status=64).stderr())
    for wrong in (["list", "--force"], ["discard", name, f"--base={path}"]):
        contains("is for copies merge, not for copies", ctl(t, folder, *wrong, status=64).stderr())


@test("nbdinetctl copies discards a copy, and none that is in use")
def _(t):
    path, folder = t.pattern_image(MIB), folder_of(t)
    name = written(t, folder, path)
    process, client = started(t, folder, path)
    contains(f"is in use by process {process.pid}", ctl(t, folder, "discard", name, status=1).stderr())
    contains("is in use", ctl(t, folder, "export", name, t.path("new.img"), status=1).stderr())
    leave(process, client)
    t.run([NBDINETCTL, "copies", "discard", str(folder / name)])
    eq(copies_in(folder), [])
    contains("there is no copy", ctl(t, folder, "discard", name, status=3).stderr())
    process, client = started(t, folder, path)
    eq(client.read(5000, 4), pattern(5000, 4))
    leave(process, client)


@test("nbdinetctl copies writes a copy to a new image, and over no file")
def _(t):
    path, folder = t.pattern_image(MIB + 100), folder_of(t)
    name = written(t, folder, path)
    process, client = started(t, folder, path)
    client.write_zeroes(65536, 65536)
    leave(process, client)
    whole = bytearray(pattern(0, MIB + 100))
    whole[5000:5004] = b"mine"
    whole[65536:131072] = bytes(65536)
    image = Path(t.path("new.img"))
    ctl(t, folder, "export", name, str(image))
    eq(image.read_bytes(), bytes(whole))
    contains("exists", ctl(t, folder, "export", name, str(image), status=1).stderr())
    eq(image.read_bytes(), bytes(whole))
    eq(Path(path).read_bytes(), pattern(0, MIB + 100))
    # With a part and with more than the file has, as it was served.
    other = written(t, folder, path, "--offset=512", "--length=4096", "--size=16K", offset=10, address="127.0.0.3")
    second = Path(t.path("second.img"))
    ctl(t, folder, "export", other, str(second))
    eq(second.read_bytes(), pattern(512, 10) + b"mine" + pattern(526, 4096 - 14) + bytes(12288))
    os.utime(path)
    contains("the base has changed", ctl(t, folder, "export", name, t.path("third.img")).stderr())


@test("nbdinetctl copies exports what was served beside the page cache, too")
def _(t):
    path, folder = t.pattern_image(2 * MIB + 512), folder_of(t)
    for i, (cache, offset, length, size) in enumerate(itertools.product(
            ("drop", "none", "directsync", "writethrough"), (0, 4096), (None, MIB), (None, 2 * MIB + 8192))):
        arguments = [f"--cache={cache}", f"--offset={offset}"]
        arguments += [f"--length={length}"] if length else []
        arguments += [f"--size={size}"] if size else []
        whole = bytearray(pattern(offset, length or 2 * MIB + 512 - offset))
        whole += bytes((size or len(whole)) - len(whole))
        address = f"127.0.1.{i + 1}"
        process, client = started(t, folder, *arguments, path, address=address)
        for start, data in ((5000, b"mine"), (65536, bytes(4096)), (MIB - 4096, b"x" * 4096)):
            client.write(start, data)
            whole[start:start + len(data)] = data
        leave(process, client)
        name, = (name for name in copies_in(folder) if f"{address}." in name)
        row, = (row for row in json.loads(ctl(t, folder, "--json").stdout()) if row["copy"] == name)
        eq((row["state"], row.get("reason")), ("kept", None), arguments)
        image = Path(t.path(f"export{i}.img"))
        ctl(t, folder, "export", name, str(image))
        eq(image.read_bytes() == bytes(whole), True, f"export with {arguments}")
    eq(Path(path).read_bytes(), pattern(0, 2 * MIB + 512))


@test("nbdinetctl copies writes no image of a base whose place isn't known")
def _(t):
    path, folder = t.path("empty.img"), folder_of(t)
    Path(path).write_bytes(b"")
    process, client = started(t, folder, "--size=64K", path)
    eq(client.read(0, 100), bytes(100))
    leave(process, client)
    name, = copies_in(folder)
    contains("the place of the base", json.loads(ctl(t, folder, "--json").stdout())[0]["reason"])
    contains("isn't known", ctl(t, folder, "export", name, t.path("new.img"), status=1).stderr())
    eq(os.path.exists(t.path("new.img")), False)


def opens_of(path, action):
    """How often a file is opened while `action` runs."""
    libc = ctypes.CDLL(None, use_errno=True)
    with os.fdopen(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as watch:
        in_open = 0x20
        assert libc.inotify_add_watch(watch.fileno(), os.fsencode(path), in_open) >= 0, os.strerror(ctypes.get_errno())
        action()
        return len(watch.read(65536) or b"") // 16


@test("nbdinetctl copies opens no base but a file or a block device, and discard none")
def _(t):
    path, folder = t.pattern_image(MIB), folder_of(t)
    name = written(t, folder, path)
    assert opens_of(path, lambda: ctl(t, folder)) > 0

    def is_left_alone():
        row, = json.loads(ctl(t, folder, "--json").stdout())
        eq((row["state"], row["file"]), ("kept", path))
        contains("is neither a regular file nor a block device", row["reason"])
        contains("is neither a regular file nor a block device",
                 ctl(t, folder, "export", name, t.path("new.img"), status=1).stderr())
        eq(os.path.exists(t.path("new.img")), False)

    away = t.path("away.img")
    os.rename(path, away)
    os.mkfifo(path)
    eq(opens_of(path, is_left_alone), 0)
    for other in ("/dev/zero", str(folder)):
        os.unlink(path)
        os.symlink(other, path)
        is_left_alone()
    os.unlink(path)
    os.rename(away, path)
    eq(opens_of(path, lambda: ctl(t, folder, "discard", name)), 0)
    eq(copies_in(folder), [])


@test("a copy of which the storage has lost a part is refused and listed as damaged, and can be exported and discarded")
def _(t):
    path, folder = t.pattern_image(MIB), folder_of(t)
    name = written(t, folder, path)

    def mark(slot):
        # Behind the last text, the export's name, and the five numbers of a merge.
        at = slot.rindex(path.encode()) + len(path) + 5 * 8
        return slot[:at] + struct.pack(">Q", errno.EIO) + slot[at + 8:]

    change_headers(folder / name, mark)
    contains("the storage has lost something that the client had written (Input/output error)",
             refused(t, folder, "--cow-stale=discard", path))
    row, = json.loads(ctl(t, folder, "--json").stdout())
    eq((row["state"], row["reason"]),
       ("damaged", "the storage has lost something that was written: Input/output error"))
    contains("has lost something", ctl(t, folder, "merge", name, f"--base={path}", status=1).stderr())
    image = Path(t.path("left.img"))
    contains("has lost something", ctl(t, folder, "export", name, str(image)).stderr())
    eq(image.read_bytes()[5000:5004], b"mine")
    ctl(t, folder, "discard", name)
    eq(copies_in(folder), [])


# ------------------------------------------------------------------ nbdinetctl copies merge

F_OFD_SETLK = 37
BASE_BYTE = (1 << 63) - 1 - 0xfe00  # src/export/base_lock.cc


def lock_base(path, kind):
    """The file, open, with the lock of a copy's connection (F_RDLCK) or of a merge (F_WRLCK) on it."""
    file = open(path, "r+b")
    fcntl.fcntl(file, F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, BASE_BYTE, 1, 0))
    return file


def with_base_path(slot, old, new):
    """The header, with another path of the base; the owner's export, the last text, stays."""
    text, other = (struct.pack(">Q", len(path)) + path.encode() for path in (old, new))
    begin = slot.index(text)
    assert begin != slot.rindex(text)
    return (slot[:begin] + other + slot[begin + len(text):]).ljust(len(slot), b"\0")[:len(slot)]


def state_of(t, folder, name):
    row, = (row for row in json.loads(ctl(t, folder, "--json").stdout()) if row["copy"] == name)
    return row["state"]


@test("nbdinetctl copies merges a copy into its file, of which it then is none")
def _(t):
    path, folder = t.pattern_image(2 * MIB + 100), folder_of(t)
    name = written(t, folder, path)
    process, client = started(t, folder, path)
    client.write_zeroes(65536, 65536)
    client.write(2 * MIB + 96, b"tail")
    leave(process, client)
    whole = bytearray(pattern(0, 2 * MIB + 100))
    whole[5000:5004], whole[65536:131072], whole[2 * MIB + 96:] = b"mine", bytes(65536), b"tail"
    ctl(t, folder, "merge", name, f"--base={path}")
    eq(Path(path).read_bytes() == bytes(whole), True)
    eq(copies_in(folder), [])
    process, client = started(t, folder, path)
    eq(client.read(0, client.size) == bytes(whole), True)
    leave(process, client)


@test("a merge doesn't wait for storage that others have files on, and that doesn't answer any more")
def _(t):
    need_privilege("root", "fuse")
    path, folder = t.pattern_image(MIB), folder_of(t)
    name = written(t, folder, path)
    with FailingFs(t.path("mnt"), bytes(MIB), fresh_attributes=True) as silent, open(silent.disk, "rb"):
        silent.rule("getattr", "hold")
        ctl(t, folder, "merge", name, f"--base={path}")
    eq(Path(path).read_bytes()[5000:5004], b"mine")


@test("nbdinetctl copies merges only while nobody else uses the file or the copy")
def _(t):
    path, folder, other_folder = t.pattern_image(MIB), folder_of(t), Path(t.fresh(".others"))
    other_folder.mkdir()
    name = written(t, folder, path)

    def is_refused(words):
        contains(words, ctl(t, folder, "merge", name, f"--base={path}", status=1).stderr())
        eq((Path(path).read_bytes() == pattern(0, MIB), state_of(t, folder, name)), (True, "kept"))

    process, client = started(t, folder, path)
    contains("is in use by process", ctl(t, folder, "merge", name, f"--base={path}", status=1).stderr())
    leave(process, client)
    # Copies of others, private ones, and connections without.
    process, client = started(t, other_folder, path)
    is_refused("is in use by connections with --cow")
    leave(process, client)
    for options, words in ((["--cow"], "connections with --cow"), (["--readonly"], "in use by process "),
                           (["--exclusive=refuse"], "(--exclusive)"), ([], "a connection or a virtual machine")):
        process, client = t.activated(*options, path)
        client.start()
        is_refused(words)
        leave(process, client)
    with open(path, "rb"):
        is_refused(f"in use by process {os.getpid()}")
    with lock_base(path, fcntl.F_RDLCK):
        is_refused("is in use by connections with --cow")
    ctl(t, folder, "merge", name, f"--base={path}")
    eq(Path(path).read_bytes()[5000:5004], b"mine")


@test("while a merge writes to a file, clients of copies of it are refused")
def _(t):
    path, folder = t.pattern_image(MIB), folder_of(t)
    with lock_base(path, fcntl.F_WRLCK):
        log = refused(t, folder, path)
        contains("'nbdinetctl copies merge' writes to", log)
        for options in (["--cow"], [], ["--readonly"], ["--force-share"], ["--exclusive=refuse"],
                        ["--readonly", "--exclusive=wait"], ["--sandbox=require"]):
            process, client = t.activated(*options, "--log=stderr", path)
            client.handshake()
            refuses_option(NBD_REP_ERR_POLICY, client)
            contains("'nbdinetctl copies merge' writes to", ended_by(process, client))
    eq(copies_in(folder), [])
    written(t, folder, path)


@test("a merge finds users of the file whom /proc doesn't show, such as a loop device")
def _(t):
    need_privilege("root", "loop")
    path, folder = t.pattern_image(MIB), folder_of(t)
    with open(path, "r+b") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError:
            require(False, "needs leases")
    name = written(t, folder, path)
    device = t.run([need("losetup"), "--find", "--show", path]).stdout().strip()
    try:
        contains("that isn't visible here", ctl(t, folder, "merge", name, f"--base={path}", status=1).stderr())
        eq(Path(path).read_bytes() == pattern(0, MIB), True)
    finally:
        t.run(["losetup", "--detach", device])
    wait_until(lambda: not Path(f"/sys/block/{Path(device).name}/loop").exists(), "the device is detached")
    ctl(t, folder, "merge", name, f"--base={path}")
    eq(Path(path).read_bytes()[5000:5004], b"mine")


@test("a merge that makes other copies stale needs --force")
def _(t):
    path, folder = t.pattern_image(MIB), folder_of(t)
    name, other = written(t, folder, path), written(t, folder, path, address="127.0.0.2")
    written(t, folder, t.pattern_image(MIB, "other.img"), address="127.0.0.3")
    contains("another copy of", ctl(t, folder, "merge", name, f"--base={path}", status=1).stderr())
    eq(Path(path).read_bytes() == pattern(0, MIB), True)
    contains(f'another copy of "{path}" is stale now', ctl(t, folder, "merge", name, f"--base={path}", "--force").stderr())
    eq(state_of(t, folder, other), "stale")
    contains("is stale", refused(t, folder, path, address="127.0.0.2"))
    contains("the copy is stale", ctl(t, folder, "merge", other, f"--base={path}", "--force", status=1).stderr())
    eq(Path(path).read_bytes()[5000:5004], b"mine")


@test("on a block device, which doesn't show a change, --force merges under no other copy")
def _(t):
    need_privilege("root", "loop")
    disk, folder = t.pattern_image(4 * MIB), folder_of(t)
    device = t.run([need("losetup"), "--find", "--show", disk]).stdout().strip()
    t.defer(t.run, ["losetup", "--detach", device])
    name, other = written(t, folder, device), written(t, folder, device, address="127.0.0.2")

    def is_refused(words, *options):
        contains(words, ctl(t, folder, "merge", name, f"--base={device}", *options, status=1).stderr())
        eq(Path(device).read_bytes() == pattern(0, 4 * MIB), True)

    # Where no system manager says which units there are, nobody knows where there may be other copies.
    is_refused("which say where there may be other copies of the block device, can't be read")
    is_refused("a block device doesn't show that it has changed", "--force")
    # Nor if the other's header says that its device is elsewhere, or gone, or if the merge goes on.
    whole = (folder / other).read_bytes()
    for path in ("/no/such/dev", "/dev/zero", t.pattern_image(4 * MIB, "another.img")):
        change_headers(folder / other, lambda slot, path=path: with_base_path(slot, device, path))
        is_refused("a block device doesn't show that it has changed", "--force")
        (folder / other).write_bytes(whole)
    change_headers(folder / name, lambda slot: begun(slot, device))
    is_refused("a block device doesn't show that it has changed", "--force")
    ctl(t, folder, "discard", name)
    ctl(t, folder, "discard", other)
    name = written(t, folder, device)
    with open(device, "rb"):
        is_refused("in use by process", "--force")
    ctl(t, folder, "merge", name, f"--base={device}", "--force")
    eq(copies_in(folder), [])
    eq(Path(device).read_bytes() == pattern(0, 5000) + b"mine" + pattern(5004, 4 * MIB - 5004), True)


@test("a merge never writes to the file, or the place in it, that only the copy names")
def _(t):
    path, folder = t.pattern_image(MIB), folder_of(t)
    victim = t.pattern_image(MIB, "vict.img")  # a path of the same length
    os.link(path, t.path("base.img"))
    path = t.path("base.img")
    eq(len(victim), len(path))
    os.utime(victim, ns=(0, os.stat(path).st_mtime_ns))
    name = written(t, folder, path)
    change_headers(folder / name, lambda slot: slot.replace(path.encode(), victim.encode()))
    # Its owner is the export of that path, by the name that it has now.
    renamed = name.replace("base", "vict")
    os.rename(folder / name, folder / renamed)
    ctl(t, folder, "merge", renamed, f"--base={path}")
    eq(Path(victim).read_bytes() == pattern(0, MIB), True)
    eq(Path(path).read_bytes()[5000:5004], b"mine")
    # A part of the file, which only the header would know.
    name = written(t, folder, path, "--offset=512", "--length=65536")
    contains("isn't one of all of", ctl(t, folder, "merge", name, f"--base={path}", status=1).stderr())
    # No other name, no other file, and none but files and devices.
    os.rename(folder / name, folder / "x@y.copy")
    contains("its name isn't that of its owner", ctl(t, folder, "merge", "x@y.copy", f"--base={path}", status=1).stderr())
    os.rename(folder / "x@y.copy", folder / name)
    other = written(t, folder, path, address="127.0.0.2")
    contains("is stale", ctl(t, folder, "merge", other, f"--base={victim}", "--force", status=1).stderr())
    os.mkfifo(t.path("fifo"))
    contains("is neither a regular file nor a block device",
             ctl(t, folder, "merge", other, f"--base={t.path('fifo')}", status=1).stderr())
    ctl(t, folder, "merge", other, f"--base={t.path('none')}", status=3)


def merge_with_kills(t, kills, seed=1):
    path, folder, chance = t.pattern_image(32 * MIB), folder_of(t), random.Random(seed)
    name = written(t, folder, path, offset=MIB, data=b"x" * (16 * MIB))
    process, client = started(t, folder, path)
    client.write_zeroes(2 * MIB, MIB)
    client.write(20 * MIB, b"y" * (8 * MIB))
    whole = client.read(0, 32 * MIB)
    leave(process, client)
    copy = folder / name
    kept_copy, time_before = copy.read_bytes(), os.stat(path).st_mtime_ns
    marked = begun = 0

    def slots():
        try:
            with open(copy, "rb") as file:
                file.seek(-2 * SLOT, os.SEEK_END)
                return file.read()
        except FileNotFoundError:
            return b""

    for _round in range(kills):
        before = slots()
        process = t.spawn([NBDINETCTL, "copies", "merge", name, f"--directory={folder}", f"--base={path}"])
        if chance.random() < 0.7:
            wait_until(lambda: not copy.exists() or slots() != before, "the merge has begun")
            time.sleep(chance.uniform(0, 0.03))
        else:
            time.sleep(chance.uniform(0, 0.1))
        process.signal(signal.SIGKILL)
        process.wait()
        if not copy.exists():
            eq(Path(path).read_bytes() == whole, True)
            Path(path).write_bytes(pattern(0, 32 * MIB))
            os.utime(path, ns=(time_before, time_before))
            copy.write_bytes(kept_copy)
            continue
        merging = state_of(t, folder, name) == "merging"
        changed = Path(path).read_bytes() != pattern(0, 32 * MIB)
        assert merging or not changed, "the base was changed before the copy was marked"
        marked, begun = marked + merging, begun + changed
        if merging:
            contains("a merge of it into its base was cut short", refused(t, folder, path))
            image = Path(t.path("now.img"))
            ctl(t, folder, "export", name, str(image))
            eq(image.read_bytes() == whole, True)
            image.unlink()
    ctl(t, folder, "merge", name, f"--base={path}")
    eq(Path(path).read_bytes() == whole, True)
    eq(copies_in(folder), [])
    note(f"{kills} kills: {marked} in a merge, {begun} of them with a changed base")


@test("a copy whose merge was cut short can be discarded, and other merges wait for it")
def _(t):
    path, folder = t.pattern_image(MIB), folder_of(t)
    name, other = written(t, folder, path), written(t, folder, path, address="127.0.0.2")
    change_headers(folder / name, lambda slot: begun(slot, path))
    eq(state_of(t, folder, name), "merging")
    contains("has to be repeated first", ctl(t, folder, "merge", other, f"--base={path}", "--force", status=1).stderr())
    # What the header remembers of the base isn't so.
    contains("isn't the base that an earlier merge began to change",
             ctl(t, folder, "merge", name, f"--base={path}", status=1).stderr())
    contains("a merge of it into its base was cut short", refused(t, folder, "--cow-stale=discard", path))
    # Whoever writes a header can't keep merges away from an export that isn't the owner's.
    os.rename(folder / name, folder / "x@y.copy")
    log = ctl(t, folder, "merge", other, f"--base={path}").stderr()
    contains("x@y.copy\" says that a merge of it into", log)
    contains("was cut short, but isn't a copy of that: ignored", log)
    eq(Path(path).read_bytes()[5000:5004], b"mine")
    ctl(t, folder, "discard", "x@y.copy")
    eq(copies_in(folder), [])


@test("the example of nbdinetd-cow(8) deletes copies that nobody has used for long, and no others")
def _(t):
    manual = (BUILDDIR / "man/nbdinetd-cow.8").read_text()
    line, = re.findall(r"^e /var/lib/nbdinetd/diskless .*$", manual, re.MULTILINE)
    path, folder = t.pattern_image(MIB), folder_of(t)
    old, new = written(t, folder, path), written(t, folder, path, address="127.0.0.2")
    settings = t.path("copies.conf")
    Path(settings).write_text(line.replace("/var/lib/nbdinetd/diskless", str(folder)) + "\n")
    long_ago = time.time() - 91 * 24 * 3600
    os.utime(folder / old, (long_ago, long_ago))
    t.run([need("systemd-tmpfiles"), "--clean", settings], None)
    eq(copies_in(folder), [new])


# ------------------------------------------------------------------ kill -9

def kill_at_random(t, kills, seed=None):
    """A client whose server is killed again and again finds every write that was answered."""
    path, folder = t.pattern_image(8 * MIB), folder_of(t)
    chance = random.Random(seed)
    model = bytearray(pattern(0, 8 * MIB))
    unsure = []  # (offset, length) of the writes under way
    kinds = {"negotiation": 0, "writes": 0}
    for round_ in range(kills):
        process, client = kept(t, folder, path)
        # Some are killed while they make or read the copy, before they serve it.
        early = chance.random() < 0.25
        killer = threading.Timer(chance.uniform(0, 0.01 if early else 0.05), os.kill, (process.pid, signal.SIGKILL))
        if early:
            killer.start()
        served = False
        try:
            client.start("")
            served = True
            if not early:
                killer.start()
            # What is read must be what was answered, or what was asked for last.
            found = client.read(0, 8 * MIB)
            for offset, length in unsure:
                model[offset:offset + length] = found[offset:offset + length]
            unsure = []
            eq(found == bytes(model), True, f"round {round_}: first difference at "
               f"{next((i for i in range(len(model)) if found[i] != model[i]), None)}")
            while True:
                length = chance.choice((1, 100, 512, 4096, 5000, 70000))
                offset = chance.randrange(8 * MIB - length)
                data = bytes([chance.randrange(256)]) * length
                unsure = [(offset, length)]
                if chance.random() < 0.2:
                    client.write_zeroes(offset, length)
                    data = bytes(length)
                else:
                    client.write(offset, data, NBD_CMD_FLAG_FUA if chance.random() < 0.1 else 0)
                model[offset:offset + length] = data
                unsure = []
                if chance.random() < 0.05:
                    client.flush()
        except (Disconnected, OSError):
            pass
        kinds["writes" if served else "negotiation"] += 1
        if killer.ident:
            killer.join()
        client.close()
        process.wait()
    process, client = started(t, folder, path)
    found = client.read(0, 8 * MIB)
    for offset, length in unsure:
        model[offset:offset + length] = found[offset:offset + length]
    eq(found == bytes(model), True, "at the end")
    leave(process, client)
    eq(len(copies_in(folder)), 1, copies_in(folder))
    note(f"{kills} kills: {kinds}")


KILLS = int(os.environ.get("NBDINETD_KILLS", "10"))


@test("what was answered survives kill -9 at random moments", guard=TEST_GUARD + 3 * KILLS)
def _(t):
    kill_at_random(t, KILLS)


@test("a merge survives kill -9 at random moments", guard=TEST_GUARD + 3 * KILLS)
def _(t):
    merge_with_kills(t, KILLS, seed=None)


if __name__ == "__main__":
    main_with_tls()
