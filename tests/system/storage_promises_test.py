#!/usr/bin/python3
"""What is promised of an export, by what stores it and by --shared: NBD_FLAG_CAN_MULTI_CONN, the lock of
--exclusive where other hosts could serve it, the default of --cache, and what --check says of all that.

File systems that this kernel lacks are those that fstatfs(2) claims, by tests/support/faulty_calls.c."""

import errno
import json
import os
import stat
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from failing_calls import Faults, library_path
from faults import FailingFs, LoopDevice, need_privilege
from file_systems import ROWS
from harness import *

NFS, CEPH, GFS2, ZFS, UNKNOWN = 0x6969, 0x00c36400, 0x01161970, 0x2fc12fc1, 0x12345678
EXT4, TMPFS = 0xef53, 0x01021994


def claimed(magic):
    """The environment in which all files are on the file system with this magic."""
    require(library_path() is not None, "needs tests/support/faulty_calls.so")
    return {"LD_PRELOAD": library_path(), "NBDINETD_FILE_SYSTEM": str(magic),
            "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"}


def checked(t, *arguments, env=None, status=EX_OK):
    """The export in the report of --check=json."""
    process = t.run([NBDINETD, "--check=json", *arguments], env=env, status=status)
    return json.loads(process.stdout())["exports"][0]


def words(t, *arguments, env=None, status=EX_OK):
    return t.run([NBDINETD, "--check", *arguments], env=env, status=status).stdout()


def is_promised(t, *arguments, env=None, name=""):
    """Whether a client is told NBD_FLAG_CAN_MULTI_CONN, which NBD_OPT_INFO, NBD_OPT_GO and --check agree on."""
    process, client = t.activated(*arguments, env=env)
    client.handshake()
    client.info(name)
    before = bool(client.flags & NBD_FLAG_CAN_MULTI_CONN)
    client.go(name)
    told = bool(client.flags & NBD_FLAG_CAN_MULTI_CONN)
    client.disconnect()
    process.expect(EX_OK)
    eq(before, told, "INFO and GO")
    eq(checked(t, *arguments, env=env)["multi_conn"], told, "--check")
    contains(f"clients may {'' if told else 'not '}use several connections", words(t, *arguments, env=env))
    return told


# ------------------------------------------------------------------ several connections

@test("--shared says whether other hosts serve an export, and --multi-conn has the last word")
def _(t):
    path = t.pattern_image(MIB)
    for arguments, wanted in (([], True), (["--shared=auto"], True), (["--shared=no"], True), (["--shared=yes"], False),
                              (["--shared=yes", "--multi-conn=on"], True), (["--shared=no", "--multi-conn=off"], False),
                              (["--shared=no", "--exclusive"], False), (["--shared=no", "--cow", "--cow-dir=memory"], False)):
        eq(is_promised(t, *arguments, path, env=claimed(EXT4)), wanted, arguments)


@test("without --shared, the file system decides")
def _(t):
    path = t.pattern_image(MIB)
    for magic, by_itself, alone, shared in ((EXT4, True, True, False), (NFS, False, True, False), (CEPH, True, True, True),
                                            (GFS2, True, True, True), (UNKNOWN, False, True, False), (TMPFS, True, True, False)):
        for arguments, wanted in (([], by_itself), (["--shared=no"], alone), (["--shared=yes"], shared)):
            eq(is_promised(t, *arguments, path, env=claimed(magic)), wanted, f"{magic:x} {arguments}")


@test("the export of a directory has the same promises")
def _(t):
    os.mkdir(t.path("images"))
    t.pattern_image(MIB, "images/disk")
    folder = f"--directory={t.path('images')}"
    for magic, wanted in ((EXT4, True), (NFS, False), (CEPH, True), (UNKNOWN, False)):
        eq(is_promised(t, folder, env=claimed(magic), name="disk"), wanted, f"{magic:x}")
        eq(is_promised(t, "--shared=no", folder, env=claimed(magic), name="disk"), True, f"{magic:x}")


def on_real_storage(name, storage, hosts):
    @test(f"a file on {name} has the promises of {storage}")
    def _(t):
        row, = (row for row in ROWS if row.name == name)
        place = row.place(t)
        place.fresh(MIB)
        got = checked(t, place.export)
        eq((got["storage"], got["other_hosts"]), (storage, hosts))
        eq(is_promised(t, place.export), hosts == "no")


for NAME, STORAGE, HOSTS in (("ext2", "ext2, ext3 or ext4", "no"), ("ext4", "ext2, ext3 or ext4", "no"), ("XFS", "XFS", "no"),
                             ("btrfs", "btrfs", "no"), ("tmpfs", "tmpfs", "no"), ("ramfs", "ramfs", "no"),
                             ("overlayfs over ext3", "overlayfs", "no"), ("FUSE, bindfs", "a FUSE file system", "yes")):
    on_real_storage(NAME, STORAGE, HOSTS)


@test("a loop device is served as one that only this host has, until --shared=yes")
def _(t):
    need_privilege("root", "loop")
    path = t.pattern_image(MIB)
    with LoopDevice(path) as device:
        got = checked(t, device.path)
        eq((got["storage"], got["other_hosts"], got["holes"]), ("a loop device", "unknown", False))
        eq(is_promised(t, device.path), True)
        eq(is_promised(t, "--shared=yes", device.path), False)
        # Below it, there is the page cache of a file.
        eq(is_promised(t, "--shared=yes", "--cache=none", "--block-size=4096:4096:32M", device.path), False)


@test("a FUSE file system is found as the directory's own, and below it has the careful answer")
def _(t):
    need_privilege("fuse")
    images = Path(t.path("images"))
    (images / "other").mkdir(parents=True)
    (images / "here").write_bytes(bytes(MIB))
    (images / "link").symlink_to("other/mountpoint/disk")
    with FailingFs(str(images / "other"), bytes(MIB)) as other:
        for arguments, name in (([f"--directory={other.mountpoint}"], "disk"), ([other.disk], "")):
            got = checked(t, *arguments)
            eq((got["storage"], got["other_hosts"]), ("a FUSE file system", "yes"))
            eq(is_promised(t, *arguments, name=name), False)
        text = words(t, f"--directory={images}")
        contains(f'"{images}/link": on a FUSE file system, which other hosts may serve, too', text)
        contains(f'"{images}/here": on ', text)
        process, client = t.activated(f"--directory={images}")
        client.start("link")
        eq(client.flags & NBD_FLAG_CAN_MULTI_CONN, 0)
        client.disconnect()
        process.expect(EX_OK)


# ------------------------------------------------------------------ one client in the cluster

def answer(t, *arguments, env=None, status=EX_UNAVAILABLE):
    """The error that the client gets for the export."""
    process, client = t.activated(*arguments, env=env)
    client.handshake()
    (kind, text), = client.haggle(NBD_OPT_GO, client.info_bytes())[-1:]
    client.close()
    process.expect(status)
    return kind, text.decode(), process.stderr()


@test("--exclusive-scope=cluster refuses an export whose lock other hosts don't see, with what to do")
def _(t):
    path = t.pattern_image(MIB)
    cluster = ["--exclusive", "--exclusive-scope=cluster"]
    for magic, arguments, why in ((UNKNOWN, [], "a lock on a file system that nbdinetd doesn't know"),
                                  (EXT4, ["--shared=yes"], "a lock on ext2, ext3 or ext4")):
        kind, text, log = answer(t, *cluster, *arguments, path, env=claimed(magic))
        eq(kind, NBD_REP_ERR_POLICY)
        contains("other hosts could use the export", text)
        contains(why, log)
        contains("--shared=no, if no other host serves it", log)
        got = checked(t, *cluster, *arguments, path, env=claimed(magic), status=EX_UNAVAILABLE)
        eq(got["exclusive_on_all_hosts"], False)
        contains("--exclusive-scope=cluster", got["refusal"])
        contains("would refuse it to every client",
                 words(t, *cluster, *arguments, path, env=claimed(magic), status=EX_UNAVAILABLE))
    for magic, arguments in ((EXT4, []), (CEPH, []), (NFS, []), (UNKNOWN, ["--shared=no"])):
        process, client = t.activated(*cluster, *arguments, path, env=claimed(magic))
        client.start()
        client.write(0, b"x")
        # The lock is there.
        _, text, _ = answer(t, *cluster, *arguments, path, env=claimed(magic))
        contains("another client uses it", text)
        client.disconnect()
        process.expect(EX_OK)
        eq(checked(t, *cluster, *arguments, path, env=claimed(magic))["exclusive_on_all_hosts"], True)


@test("without it, the export is served, and --check says where the lock doesn't hold")
def _(t):
    path = t.pattern_image(MIB)
    for arguments in (["--exclusive"], ["--exclusive", "--exclusive-scope=host"]):
        process, client = t.activated(*arguments, path, env=claimed(UNKNOWN))
        client.start()
        client.disconnect()
        process.expect(EX_OK)
        got = checked(t, *arguments, path, env=claimed(UNKNOWN))
        eq((got["exclusive_on_all_hosts"], "refusal" in got), (False, False))
        contains("doesn't reach other hosts", got["exclusive_reason"])
        contains("the lock of --exclusive holds on this host alone", words(t, *arguments, path, env=claimed(UNKNOWN)))
        contains("the lock of --exclusive holds on every host", words(t, *arguments, path, env=claimed(CEPH)))
    eq("exclusive_on_all_hosts" in checked(t, path), False)


@test("the lock of a kept copy is on the copy, whatever stores what it is of")
def _(t):
    need_privilege("root", "loop")
    image = t.pattern_image(MIB)
    os.mkdir(t.path("copies"))
    copies = [f"--cow-dir={t.path('copies')}", "--cow=keep", "--cow-key=peer-address", "--exclusive-scope=cluster"]
    with LoopDevice(image) as device:
        kind, _, _ = answer(t, "--exclusive", "--exclusive-scope=cluster", device.path)
        eq(kind, NBD_REP_ERR_POLICY)
        process, client = t.activated(*copies, device.path, family="tcp")
        client.start()
        client.write(0, b"x")
        client.disconnect()
        process.expect(EX_OK)
    eq(len(os.listdir(t.path("copies"))), 1)


@test("wrong words are told with the right ones, and a scope needs a lock")
def _(t):
    path = t.pattern_image(MIB)
    for arguments, right in ((["--shared=maybe"], "use auto, yes or no"),
                             (["--exclusive", "--exclusive-scope=all"], "use host or cluster"),
                             (["--exclusive-scope=cluster"], "needs --exclusive")):
        process = t.run([NBDINETD, "--check", *arguments, path], status=EX_USAGE)
        contains(right, process.stderr())


# ------------------------------------------------------------------ the page cache

def opens_direct(t, *arguments, env):
    """Whether a connection has the image open beside the page cache."""
    process, client = t.activated(*arguments, env=env)
    client.start()
    found = False
    for fd in os.listdir(f"/proc/{process.pid}/fdinfo"):
        info = Path(f"/proc/{process.pid}/fdinfo/{fd}").read_text(encoding="ascii")
        is_file = stat.S_ISREG(os.stat(f"/proc/{process.pid}/fd/{fd}").st_mode)
        found |= is_file and bool(int(re.search(r"^flags:\s*(\d+)", info, re.MULTILINE)[1], 8) & os.O_DIRECT)
    if not client.flags & NBD_FLAG_READ_ONLY:
        client.write(100, b"what")
        client.flush()
    client.read(0, 512)
    client.disconnect()
    process.expect(EX_OK)
    return found


@test("on NFS, requests pass by the page cache, unless nothing is written or the administrator says otherwise")
def _(t):
    path = t.pattern_image(MIB)
    if t.run([NBDINETD, "--check", "--cache=none", path], status=None).wait() != EX_OK:
        raise Skip("the file system of the tests has no O_DIRECT")
    for arguments, wanted in (([], True), (["-r"], False), (["--shared=no"], False), (["--shared=yes"], True),
                              (["--cache=writeback"], False), (["--cow", "--cow-dir=memory"], False)):
        eq(opens_direct(t, *arguments, path, env=claimed(NFS)), wanted, arguments)
    for magic in (CEPH, UNKNOWN, EXT4):
        eq(opens_direct(t, path, env=claimed(magic)), False, f"{magic:x}")


@test("where it can't be, a sentence says so, and the page cache is used")
def _(t):
    path = t.pattern_image(MIB)
    faults = Faults(t)
    said = 0
    for nth in range(1, 12):
        faults.arm("open", errno.EINVAL, nth)
        process = t.run([NBDINETD, "--check=json", path], env={**claimed(NFS), **faults.environment()}, status=None)
        if "which can't be written to beside the page cache" not in process.stderr():
            continue
        said += 1
        process.expect(EX_OK)
        eq(json.loads(process.stdout())["exports"][0]["mode"], "read-write")
    eq(said, 1)


# ------------------------------------------------------------------ holes and flushes

def holes(t, path, env):
    process, client = t.activated(path, env=env)
    client.start(contexts=["base:allocation"])
    extents = client.block_status(0, MIB)
    client.disconnect()
    process.expect(EX_OK)
    return [extent for extent in extents if extent[1]]


@test("holes that may hold data are reported as data, and --check says so")
def _(t):
    path = t.sparse_image(MIB)
    eq(len(holes(t, path, claimed(UNKNOWN))), 1)
    eq(holes(t, path, claimed(ZFS)), [])
    for magic, told in ((UNKNOWN, True), (ZFS, False)):
        eq(checked(t, path, env=claimed(magic))["holes"], told)
    contains("block status reports everything as data", words(t, path, env=claimed(ZFS)))


@test("--check says what a flush is worth")
def _(t):
    path = t.pattern_image(MIB)
    for magic, word, sentence in ((EXT4, "stable", None), (NFS, "server", "what stores the data says that it is durable"),
                                  (TMPFS, "nothing", "nothing is left after a loss of power")):
        eq(checked(t, path, env=claimed(magic))["flush"], word)
        text = words(t, path, env=claimed(magic))
        if sentence:
            contains(sentence, text)
        else:
            eq("durable" in text or "loss of power" in text, False)


@test("--check tells once what all exports of a directory have")
def _(t):
    os.mkdir(t.path("images"))
    for name in ("a", "b", "c"):
        t.pattern_image(MIB, f"images/{name}")
    text = words(t, f"--directory={t.path('images')}", env=claimed(EXT4))
    eq(text.count("\non ext2, ext3 or ext4, which no other host serves\n"), 1)
    eq(text.count("NBD_FLAG_CAN_MULTI_CONN"), 1)


if __name__ == "__main__":
    main()
