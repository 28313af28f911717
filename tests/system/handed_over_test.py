#!/usr/bin/python3
"""Files and block devices that are handed over as descriptors, as systemd's OpenFile= does: exports
under their LISTEN_FDNAMES names, with no path and no right to open anything."""

import fcntl
import os
import shutil
import signal
import stat
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from faults import LoopDevice, need_privilege  # noqa: E402
from harness import *  # noqa: E402
from listening import *  # noqa: E402

NOBODY = 64322  # a user that owns nothing


def beside_connection(t, *arguments, files, first=True, **how):
    """nbdinetd with a connection and files. Returns (process, client)."""
    ours, theirs = t.connection()
    process = activate(t, *arguments, inherited=[("connection", theirs), *files] if first
                       else [*files, ("connection", theirs)], **how)
    theirs.close()
    return process, Client(ours)


def names_of(client):
    """The exports that a client may choose from, before it has chosen."""
    return [name for name, _ in client.list_exports()]


def refused_with(process, *words, status=EX_USAGE, client=None):
    if client:
        client.expect_end()
        eq(bytes(client.received), b"", "what the client has got")
    process.expect(status)
    for word in words:
        matches(word, process.stderr())


# ------------------------------------------------------------------ names

@test("a file beside a connection is the export of its LISTEN_FDNAMES name, and, as the only "
      "one, of the empty name")
def _(t):
    path = t.pattern_image(MIB)
    for first in (True, False):
        for asked in ("disk", ""):
            process, client = beside_connection(t, files=[("disk", opened(t, path))], first=first)
            client.handshake()
            eq(names_of(client), ["disk"])
            client.structured_replies()
            client.go(asked, [NBD_INFO_NAME])
            eq(client.infos.get(NBD_INFO_NAME), b"disk", "the canonical name")
            eq(client.read(4096, 512), pattern(4096, 512))
            client.write(0, b"\x11" * 512)
            client.flush()
            client.disconnect()
            process.expect(EX_OK)
            matches(r'serving export "\w*" to unix:.*: "disk", 1048576 bytes \(1 MiB\), read-write',
                    process.stderr())
            with open(path, "rb") as file:
                eq(file.read(512), b"\x11" * 512, "what the file holds")


@test("another name than a handed-over file's is unknown, and the client may ask again")
def _(t):
    process, client = beside_connection(t, files=[("disk", opened(t, t.pattern_image(MIB)))])
    client.handshake()
    for wrong in ("Disk", "disk2", "connection", "/proc/self/fd/4"):
        try:
            client.go(wrong)
        except OptionError as error:
            eq(error.reply, NBD_REP_ERR_UNKNOWN, wrong)
        else:
            raise AssertionError(f"{wrong} has been served")
    client.go("disk")
    client.disconnect()
    process.expect(EX_OK)


@test("several files are exports under their own names, and none of them is the default export")
def _(t):
    sizes = {"alpha": MIB, "beta-2": 2 * MIB, "g.a_m m+a": 3 * MIB}
    files = [(name, opened(t, t.pattern_image(size))) for name, size in sizes.items()]
    for name, size in sizes.items():
        process, client = beside_connection(t, files=files)
        client.handshake()
        eq(names_of(client), list(sizes))
        try:
            client.go("")
        except OptionError as error:
            eq(error.reply, NBD_REP_ERR_UNKNOWN)
        else:
            raise AssertionError("the empty name has been served")
        client.go(name)
        eq(client.size, size, name)
        eq(client.read(size - 8, 8), pattern(size - 8, 8))
        client.disconnect()
        process.expect(EX_OK)


@test("files beside listeners are served to every connection, in whatever order the descriptors "
      "come")
def _(t):
    one, two = opened(t, t.pattern_image(MIB)), opened(t, t.pattern_image(2 * MIB))
    doors = [Door(t, "unix"), Door(t, "tcp")]
    process = activate(t, inherited=[("one", one), ("nbd.socket", doors[0]), ("two", two),
                                     ("nbd.socket", doors[1])])
    clients = [(door.client(), name, size) for door in doors
               for name, size in (("one", MIB), ("two", 2 * MIB))]
    for client, name, size in clients:
        client.start(name)
        eq(client.size, size, name)
    clients[0][0].write(0, b"shared..")
    eq(clients[2][0].read(0, 8), b"shared..", "the same file on another connection")
    for client, _, _ in clients:
        client.disconnect()
    wait_alone(process)
    stop(process)


@test("without LISTEN_FDNAMES the only file answers to the empty name, and two are an error")
def _(t):
    one, two = opened(t, t.pattern_image(MIB)), opened(t, t.pattern_image(MIB))
    door = Door(t)
    process = activate(t, inherited=[door, one])
    visit(door.client())
    stop(process)
    process = activate(t, inherited=[door, one, two])
    refused_with(process, "two of the files .* have the name")


@test("two files of the same name are an error that tells the name")
def _(t):
    one, two = opened(t, t.pattern_image(MIB)), opened(t, t.pattern_image(MIB))
    process, client = beside_connection(t, files=[("same", one), ("same", two)])
    refused_with(process, r'"same"', client=client)


@test("-e names the only file anew, and is an error with several")
def _(t):
    one, two = opened(t, t.pattern_image(MIB)), opened(t, t.pattern_image(MIB))
    process, client = beside_connection(t, "-e", "golden", files=[("disk", one)])
    client.handshake()
    eq(names_of(client), ["golden"])
    client.go("golden")
    client.disconnect()
    process.expect(EX_OK)
    process, client = beside_connection(t, "-e", "golden", files=[("disk", one), ("other", two)])
    refused_with(process, "--exportname", client=client)


@test("FILE beside files that are handed over is an error: one or the other")
def _(t):
    image = t.pattern_image(MIB)
    process, client = beside_connection(t, image, files=[("disk", opened(t, image))])
    refused_with(process, "FILE", client=client)


@test("neither FILE nor a file handed over is an error, with a connection and with a listener")
def _(t):
    process, client = beside_connection(t, files=[])
    refused_with(process, "FILE", client=client)
    refused_with(activate(t, inherited=[Door(t)]), "FILE")


@test("--description and -r hold for each file that is handed over")
def _(t):
    files = [(name, opened(t, t.pattern_image(MIB))) for name in ("a", "b")]
    process, client = beside_connection(t, "-r", "--description=golden image", files=files)
    client.handshake()
    eq(client.list_exports(), [("a", "golden image"), ("b", "golden image")])
    for name in ("a", "b"):
        client.info(name, [NBD_INFO_DESCRIPTION])
        eq(client.infos[NBD_INFO_DESCRIPTION], b"golden image")
        assert client.flags & NBD_FLAG_READ_ONLY
    client.go("b")
    eq(client.call(NBD_CMD_WRITE, 0, payload=b"x").error, NBD_EPERM)
    client.disconnect()
    process.expect(EX_OK)


@test("--check tells of each file that is handed over")
def _(t):
    files = [(name, opened(t, t.pattern_image(MIB))) for name in ("a", "b")]
    process = activate(t, "--check", inherited=files)
    process.expect(EX_OK)
    for name in ("a", "b"):
        matches(rf'^would serve "{name}": 1048576 bytes, read-write', process.stdout())


# ------------------------------------------------------------------ no path, no rights

@test("a file that has been deleted is served and written to")
def _(t):
    path = t.pattern_image(MIB)
    descriptor = opened(t, path)
    os.unlink(path)
    door = Door(t)
    process = activate(t, inherited=[("gone", descriptor), ("nbd.socket", door)])
    for number in range(2):
        client = door.client().start("gone", contexts=["base:allocation"])
        client.write(number * 512, b"\x77" * 512)
        client.flush()
        client.disconnect()
    eq(os.pread(descriptor, 1024, 0), b"\x77" * 1024)
    stop(process)


@test("a file that never had a name is served and written to")
def _(t):
    descriptor = os.memfd_create("nameless")
    t.defer(os.close, descriptor)
    os.write(descriptor, pattern(0, MIB))
    process, client = beside_connection(t, files=[("memory", descriptor)])
    client.start("memory")
    eq(client.read(0, 4096), pattern(0, 4096))
    client.write(0, bytes(4096))
    client.disconnect()
    process.expect(EX_OK)
    eq(os.pread(descriptor, 4096, 0), bytes(4096))


@test("a file that the program's user may neither read nor write nor find is served read-write")
def _(t):
    prefix = as_user(NOBODY)
    path = t.pattern_image(MIB)
    os.chmod(path, 0o600)
    # The same user can't open it by its name.
    t.run([*prefix, NBDINETD, "--check", path], status=EX_NOINPUT)
    door = Door(t)
    process = activate(t, inherited=[("nbd.socket", door), ("disk", opened(t, path))],
                       prefix=prefix)
    visit(door.client(), "disk")
    clients = [door.client().start("disk") for _ in range(3)]
    for number, client in enumerate(clients):
        client.write(number * 4096, bytes([number + 1]) * 4096)
        client.write_zeroes(65536 * (number + 1), 4096)
        client.trim(65536 * (number + 4), 4096)
        client.flush()
    for client in clients:
        eq(client.read(0, 3 * 4096), b"".join(bytes([n + 1]) * 4096 for n in range(3)))
        client.disconnect()
    assert "read-only" not in process.stderr(), process.stderr()
    stop(process)
    process, client = beside_connection(t, files=[("disk", opened(t, path))], prefix=prefix)
    client.start("disk")
    eq(client.read(0, 4096), b"\1" * 4096)
    client.disconnect()
    process.expect(EX_OK)


def status_flags(descriptor):
    """What all who share the open file description share, but for the file's offset."""
    return fcntl.fcntl(descriptor, fcntl.F_GETFL)


def has_no_append(t):
    """Whether the kernel has RWF_NOAPPEND (Linux 6.9)."""
    RWF_NOAPPEND = 0x20
    try:
        os.preadv(opened(t, t.pattern_image(512)), [bytearray(1)], 0, RWF_NOAPPEND)
    except OSError:
        return False
    return True


@test("a file that is handed over with O_APPEND is written at the client's offset, and keeps "
      "the flag for its other users; where that isn't possible, an error explains it")
def _(t):
    for prefix in ([], as_user(NOBODY)):
        path = t.pattern_image(MIB)
        os.chmod(path, 0o600)
        descriptor = opened(t, path, os.O_RDWR | os.O_APPEND)
        before = status_flags(descriptor)
        process, client = beside_connection(t, files=[("disk", descriptor)], prefix=prefix)
        if prefix and not has_no_append(t):
            refused_with(process, '"disk".*O_APPEND.*--readonly', status=EX_NOINPUT, client=client)
            eq(status_flags(descriptor), before)
            continue
        client.start("disk")
        client.write(4096, b"\x33" * 512)
        client.write(65536, b"\x44" * 512, NBD_CMD_FLAG_FUA)
        client.write(131072 - 7, b"\x55" * 300000)
        eq(client.read(4096, 512) == b"\x33" * 512, True, "what was written is read")
        eq(status_flags(descriptor), before, "while it is served")
        client.disconnect()
        process.expect(EX_OK)
        eq(status_flags(descriptor), before, "afterwards")
        eq(os.path.getsize(path), MIB, "the file's size")
        with open(path, "rb") as file:
            content = file.read()
        eq((content[4096:4608], content[65536:66048]), (b"\x33" * 512, b"\x44" * 512))
        eq(content[131072 - 7:][:300000], b"\x55" * 300000)


@test("a file that is handed over open for appending is served read-only on any kernel")
def _(t):
    path = t.pattern_image(MIB)
    os.chmod(path, 0o600)
    process, client = beside_connection(
        t, "-r", files=[("disk", opened(t, path, os.O_RDWR | os.O_APPEND))], prefix=as_user(NOBODY))
    client.start("disk")
    eq(client.read(4096, 512), pattern(4096, 512))
    client.disconnect()
    process.expect(EX_OK)


@test("--cache=none is refused for a file that can't be opened anew")
def _(t):
    path = t.pattern_image(MIB)
    os.chmod(path, 0o600)
    process, client = beside_connection(
        t, "--cache=none", files=[("disk", opened(t, path, os.O_RDWR))], prefix=as_user(NOBODY))
    refused_with(process, '"disk".*--cache=none needs.*open.*anew', status=EX_NOINPUT, client=client)


@test("without RWF_NOAPPEND a shared file that is open for appending is refused, and left as it is")
def _(t):
    strace = [need("strace"), "-f", "-qq", "-e", "signal=none", "-e", "trace=preadv2", "-e",
              "inject=preadv2:error=EOPNOTSUPP", "-o", "/dev/null"]
    path = t.pattern_image(MIB)
    os.chmod(path, 0o600)
    descriptor = opened(t, path, os.O_RDWR | os.O_APPEND)
    before = status_flags(descriptor)
    ours, theirs = t.connection()
    # The shell may have no way to where the program is built.
    program = t.path("nbdinetd")
    shutil.copy(NBDINETD, program)
    os.chmod(program, 0o755)
    process = t.spawn([*as_user(NOBODY), *strace, "/bin/sh", "-c", 'LISTEN_PID=$$ exec "$0" "$@"',
                       program], fds={0: theirs, 1: theirs, 3: descriptor}, listen_fds=1,
                      env={"LISTEN_FDNAMES": "disk"})
    theirs.close()
    refused_with(process, '"disk".*O_APPEND.*open the file anew.*--readonly', status=EX_NOINPUT,
                 client=Client(ours))
    eq(status_flags(descriptor), before)


@test("a file that is handed over for unbuffered access is read and written at any offset, or refused "
      "with a sentence where it can't be opened anew; it stays as it is")
def _(t):
    for prefix in ([], as_user(NOBODY)):
        path = t.pattern_image(MIB)
        os.chmod(path, 0o600)
        try:
            descriptor = opened(t, path, os.O_RDWR | os.O_DIRECT)
        except OSError as error:
            raise Skip(f"{t.dir} is on a file system without O_DIRECT") from error
        before = status_flags(descriptor)
        for readonly in ([], ["-r"]):
            process, client = beside_connection(t, *readonly, files=[("disk", descriptor)],
                                                prefix=prefix)
            if prefix:
                refused_with(process, '"disk".*O_DIRECT.*open the file anew', status=EX_NOINPUT,
                             client=client)
                eq(status_flags(descriptor), before)
                continue
            client.start("disk")
            eq(client.read(513, 1001), pattern(513, 1001))
            if not readonly:
                client.write(77, b"odd")
            eq(client.read(70, 20), pattern(70, 7) + b"odd" + pattern(80, 10))
            client.disconnect()
            process.expect(EX_OK)
            eq(status_flags(descriptor), before)


@test("serving a file moves nobody's offset in it")
def _(t):
    for prefix in ([], as_user(NOBODY)):
        # On tmpfs, which tells its holes by lseek(2) only.
        descriptor = os.memfd_create("disk")
        t.defer(os.close, descriptor)
        os.fchmod(descriptor, 0o600)
        os.truncate(descriptor, 4 * MIB)
        os.pwrite(descriptor, b"data", 2 * MIB)
        os.lseek(descriptor, 12345, os.SEEK_SET)
        process, client = beside_connection(t, files=[("disk", descriptor)], prefix=prefix)
        client.start("disk", contexts=["base:allocation"])
        client.block_status(0, 4 * MIB)
        client.read(0, 4 * MIB)
        client.write(0, bytes(512 << 10))
        client.write_zeroes(MIB, MIB)
        client.flush()
        client.block_status(0, 4 * MIB)
        eq(os.lseek(descriptor, 0, os.SEEK_CUR), 12345, "while it is served")
        client.disconnect()
        process.expect(EX_OK)
        eq(os.lseek(descriptor, 0, os.SEEK_CUR), 12345, "afterwards")


@test("the descriptor itself is served where there is no /proc either")
def _(t):
    need_root("to hide /proc")
    need("unshare")
    prefix = ["/usr/bin/unshare", "--mount", "--", "/bin/sh", "-c",
              'mount -t tmpfs tmpfs /proc && exec "$0" "$@"']
    path = t.pattern_image(MIB)
    descriptor = opened(t, path)
    os.lseek(descriptor, 12345, os.SEEK_SET)
    os.unlink(path)
    door = Door(t)
    process = activate(t, inherited=[("nbd.socket", door), ("disk", descriptor)], prefix=prefix)
    # All processes share one file description now: its offset must not matter.
    clients = [door.client().start("disk", contexts=["base:allocation"]) for _ in range(4)]
    reads = [(c, c.request(NBD_CMD_READ, n * 4096, 256), n) for n in range(100) for c in clients]
    for client, cookie, n in reads:
        eq(client.answer(cookie).check().data, pattern(n * 4096, 256))
    for client in clients:
        eq(client.block_status(0, MIB)[0][1], 0)
        client.disconnect()
    stop(process)


@test("a file stays handed over to a listener as it was, also when its name stands for another "
      "file")
def _(t):
    path, door = t.pattern_image(MIB, "disk.img"), Door(t)
    process = activate(t, inherited=[("nbd.socket", door), ("disk", opened(t, path))])
    os.rename(t.pattern_image(2 * MIB), path)
    visit(door.client(), "disk")
    stop(process)


# ------------------------------------------------------------------ ways to be open

@test("a descriptor that is open for reading only makes a read-only export, and the log says why")
def _(t):
    process, client = beside_connection(
        t, files=[("disk", opened(t, t.pattern_image(MIB), os.O_RDONLY))])
    client.start("disk")
    assert client.flags & NBD_FLAG_READ_ONLY
    eq(client.call(NBD_CMD_WRITE, 0, payload=b"x").error, NBD_EPERM)
    client.disconnect()
    process.expect(EX_OK)
    matches(r'"disk" is served read-only, .*open for reading only', process.stderr())


@test("a descriptor that can't be read from is an error that names it")
def _(t):
    process, client = beside_connection(
        t, files=[("disk", opened(t, t.pattern_image(MIB), os.O_WRONLY))])
    refused_with(process, '"disk"', status=EX_NOINPUT, client=client)
    # Which tells where a file is, and gives no right to read it.
    path = t.pattern_image(MIB)
    os.chmod(path, 0o600)
    process, client = beside_connection(t, files=[("disk", opened(t, path, os.O_PATH))],
                                        prefix=as_user(NOBODY))
    refused_with(process, '"disk"', status=EX_NOINPUT, client=client)


@test("a directory, a pipe or a character device beside a connection is an error that names it")
def _(t):
    pipe = os.pipe()
    for end in pipe:
        t.defer(os.close, end)
    for wrong, words in ((opened(t, t.dir, os.O_RDONLY), "directory"), (pipe[0], "pipe"),
                         (opened(t, "/dev/null"), "character device")):
        process, client = beside_connection(t, files=[("disk", wrong)])
        refused_with(process, rf"descriptor 4 is .*{words}", client=client)


@test("a block device is handed over with its size, and can be written to by a user who may not "
      "open it")
def _(t):
    need_privilege("root", "loop")
    with LoopDevice(t.pattern_image(4 * MIB)) as device:
        for prefix in ([], as_user(NOBODY)):
            descriptor = os.open(device.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                eq(stat.S_ISBLK(os.fstat(descriptor).st_mode), True)
                process, client = beside_connection(t, files=[("disk", descriptor)], prefix=prefix)
                client.start("disk")
                eq(client.size, 4 * MIB)
                eq(client.read(2 * MIB, 4096), pattern(2 * MIB, 4096))
                client.write(0, b"\x55" * 4096)
                client.flush()
                client.disconnect()
                process.expect(EX_OK)
                eq(os.pread(descriptor, 4096, 0), b"\x55" * 4096)
            finally:
                os.close(descriptor)


# ------------------------------------------------------------------ without a socket in LISTEN_FDS

@test("files alone go with a connection on standard input")
def _(t):
    descriptor = opened(t, t.pattern_image(MIB))
    for arguments in ([], ["-s"]):
        ours, theirs = t.connection()
        process = t.spawn([NBDINETD, *arguments], fds={0: theirs, 1: theirs, 2: theirs,
                                                       3: descriptor},
                          env={"LISTEN_FDNAMES": "disk"}, listen_fds=1, listen_pid="own")
        theirs.close()
        visit(Client(ours), "disk")
        process.expect(EX_OK)


@test("files alone go with a socket of one's own, in the foreground and in the background")
def _(t):
    path = t.pattern_image(MIB)
    descriptor = opened(t, path)
    os.unlink(path)
    for arguments in (["-f"], []):
        address, pidfile = t.fresh(".sock"), t.fresh(".pid")
        process = activate(t, *arguments, "-U", address, "-P", pidfile,
                           inherited=[("disk", descriptor)])
        if arguments:
            wait_listening(address)
        else:
            process.expect(EX_OK)
        for _ in range(2):
            visit(Client(connect(address)), "disk")
        with open(pidfile, encoding="ascii") as file:
            pid = int(file.read())
        eq(pid == process.pid, bool(arguments))
        os.kill(pid, signal.SIGTERM)
        if arguments:
            process.expect(EX_OK)
        else:
            eq(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), EX_OK)


if __name__ == "__main__":
    main()
