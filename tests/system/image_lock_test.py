#!/usr/bin/python3
"""QEMU's image locks are honoured and taken: an image that a virtual machine has to itself isn't served
for writing, and one that is served for writing isn't given to a virtual machine."""

import fcntl
import os
import struct
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from faults import FailingFs, need_privilege
from harness import *

F_OFD_GETLK, F_OFD_SETLK = 36, 37
READING, WRITING, NO_OTHER_WRITER = 100, 101, 201


def lock(path, *ranges):
    """Locks (start, length) as QEMU does; the lock goes with the returned descriptor."""
    fd = os.open(path, os.O_RDWR)
    for start, length in ranges:
        fcntl.fcntl(fd, F_OFD_SETLK, struct.pack("hhqqixxxx", fcntl.F_RDLCK, 0, start, length, 0))
    return fd


def locked(path, byte):
    """Whether another description has locked the byte."""
    with open(path, "rb") as file:
        answer = fcntl.fcntl(file.fileno(), F_OFD_GETLK, struct.pack(
            "hhqqixxxx", fcntl.F_WRLCK, 0, byte, 1, 0))
    return struct.unpack("hhqqixxxx", answer)[0] != fcntl.F_UNLCK


def qcow2(t):
    """An image that QEMU lets nobody else write to while it is open for writing, raw or not."""
    path = t.path("disk.qcow2")
    t.run([need("qemu-img"), "create", "-q", "-f", "qcow2", path, "8M"])
    return path


class Qemu:
    """A program of QEMU's that has the image open."""

    def __init__(self, t, path, *options):
        reading, self._writing = os.pipe()
        self._process = t.spawn([need("qemu-io"), *options, "-f", "qcow2", path], fds={0: reading})
        os.close(reading)
        wait_until(lambda: locked(path, READING) or self._process.poll() is not None, "QEMU to lock the image")

    def leave(self):
        os.close(self._writing)
        self._process.wait()


def refused(t, *arguments):
    """The reply to NBD_OPT_GO and its sentence; and what the server says."""
    process, client = t.activated(*arguments)
    client.handshake()
    try:
        client.go()
    except OptionError as error:
        client.haggle(NBD_OPT_ABORT)
        process.expect(EX_UNAVAILABLE)
        return error.reply, error.message, process.stderr()
    raise AssertionError("the export is given")


def served(t, *arguments):
    process, client = t.activated(*arguments)
    client.start()
    return process, client


@test("an image that QEMU writes to and shares with nobody isn't served for writing, with the reason")
def _(t):
    path = qcow2(t)
    qemu = Qemu(t, path)
    reply, sentence, said = refused(t, path)
    eq(reply, NBD_REP_ERR_POLICY)
    eq(sentence, "another program has the image to itself, such as a virtual machine")
    matches(r'the image of export "" is in use: QEMU, .*--readonly, --cow or --force-share', said)
    eq((locked(path, READING), locked(path, NO_OTHER_WRITER)), (True, True), "QEMU's own locks")
    for arguments in (["-r"], ["--force-share"], ["--cow", "--cow-dir=memory"]):
        leave(*served(t, *arguments, path))
    qemu.leave()
    leave(*served(t, path))


@test("QEMU doesn't open an image for writing while a client may write to it, and reads it")
def _(t):
    path = qcow2(t)
    program = [need("qemu-io"), "-f", "qcow2", "-c", "write 0 512", path]
    for arguments, opens in (([], False), (["--force-share"], True), (["-r"], True),
                             (["--cow", "--cow-dir=memory"], True)):
        process, client = served(t, *arguments, path)
        done = subprocess.run(program, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        eq(done.returncode == 0, opens, f"{arguments}: {done.stdout}{done.stderr}")
        if not opens:
            contains('Failed to get', done.stdout + done.stderr)
        leave(process, client)
    t.run(program)


@test("several connections write to one image, and --check doesn't take them for a virtual machine")
def _(t):
    path = t.pattern_image(MIB)
    first, second = served(t, path), served(t, path)
    eq((locked(path, READING), locked(path, WRITING), locked(path, NO_OTHER_WRITER)), (True, True, False))
    eq("QEMU" in t.run([NBDINETD, "--check", path]).stderr(), False)
    leave(*first)
    eq(locked(path, WRITING), True)
    leave(*second)
    eq(locked(path, WRITING), False)


@test("locks of others that aren't QEMU's, and of programs that let others write, keep nobody out")
def _(t):
    path = t.pattern_image(MIB)
    for ranges in (((READING, 2),), ((0, 0),), ((0, 1000),), ((202, 2),)):
        descriptor = lock(path, *ranges)
        leave(*served(t, path))
        os.close(descriptor)
    descriptor = lock(path, (NO_OTHER_WRITER, 1))
    eq(refused(t, path)[0], NBD_REP_ERR_POLICY)
    os.close(descriptor)


@test("a file that was handed over and can't be opened anew keeps no lock when the client has left")
def _(t):
    need_root("to run the program as a user without rights")
    path = t.pattern_image(MIB)
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        for _ in range(2):
            ours, theirs = t.connection()
            process = t.spawn([*as_user(64322), NBDINETD], fds={3: theirs, 4: file}, listen_fds=2,
                              listen_pid="own", env={"LISTEN_FDNAMES": "connection:disk"})
            theirs.close()
            client = Client(ours)
            client.start("disk")
            leave(process, client)
            eq(locked(path, WRITING), False)
        other = lock(path, (NO_OTHER_WRITER, 1))
        ours, theirs = t.connection()
        process = t.spawn([*as_user(64322), NBDINETD], fds={3: theirs, 4: file}, listen_fds=2,
                          listen_pid="own", env={"LISTEN_FDNAMES": "connection:disk"})
        theirs.close()
        client = Client(ours)
        client.handshake()
        try:
            client.go("disk")
            raise AssertionError("the export is given")
        except OptionError as error:
            eq(error.reply, NBD_REP_ERR_POLICY)
        client.close()
        process.wait()
        os.close(other)


@test("an export of a directory is locked when a client has chosen it, and not when it asks")
def _(t):
    folder = Path(t.fresh(".exports"))
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_bytes(bytes(4096))
    other = lock(folder / "a", (NO_OTHER_WRITER, 1))
    process, client = t.activated(f"--directory={folder}")
    client.handshake()
    client.info("a")
    try:
        client.go("a")
        raise AssertionError("the export is given")
    except OptionError as error:
        eq(error.reply, NBD_REP_ERR_POLICY)
    eq(locked(folder / "b", WRITING), False)
    client.go("b")
    eq(locked(folder / "b", WRITING), True)
    leave(process, client)
    os.close(other)


@test("--check finds who uses an image, whatever storage others have files on that doesn't answer any more")
def _(t):
    need_privilege("fuse")
    image = t.pattern_image(MIB)
    with FailingFs(t.path("mnt"), bytes(MIB), fresh_attributes=True) as silent, open(silent.disk, "rb"):
        holder = lock(image, (READING, 1))
        silent.rule("getattr", "hold")
        contains(f"is in use by QEMU (process {os.getpid()}, ", t.run([NBDINETD, "--check", image]).stderr())
        os.close(holder)


if __name__ == "__main__":
    main()
