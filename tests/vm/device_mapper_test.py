#!/usr/bin/python3
"""Devices of the device mapper as exports: dm-linear, dm-crypt and snapshots of LVM, on which no read can be
told not to wait (RWF_NOWAIT); and devices that fail or go away under load. Runs in a machine of its own
(machine.py)."""

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
from clients import ModelChecker, SocketActivate, connect_libnbd, import_libnbd
from faults import LoopDevice
from harness import *
from machine import run_inside

SIZE = 32 * MIB
SECTOR = 512


def run(*command, **how):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True, **how).stdout


class Mapped:
    """A device of the device mapper."""

    def __init__(self, context, name, table):
        self.name, self.path = name, f"/dev/mapper/{name}"
        # Returns when udev has done with the new device. udev as a whole never settles here: it waits for the
        # loop devices, which are locked.
        run("dmsetup", "create", name, "--table", table)
        context.defer(self.remove)

    def load(self, table):
        """Replaces what the device does."""
        run("dmsetup", "load", self.name, "--table", table)
        # Without waiting for what is under way, and for a file system: there is none.
        run("dmsetup", "resume", "--noflush", "--nolockfs", self.name)

    def remove(self):
        run("dmsetup", "remove", "--retry", "--force", self.name)


def backing(context, size=SIZE):
    """A loop device of this size."""
    device = LoopDevice(context.sparse_image(size)).__enter__()
    context.defer(device.__exit__, None, None, None)
    return device


def linear(context, name="linear", size=SIZE):
    return Mapped(context, name, f"0 {size // SECTOR} linear {backing(context, size).path} 0")


def check_by_model(context, path, requests=400, unit=1):
    """Random requests on two connections, each with its half."""
    server = SocketActivate(context, path)
    handles = [connect_libnbd(server) for _ in range(2)]
    eq(handles[0].get_size(), SIZE)
    half = SIZE // 2
    for number, handle in enumerate(handles):
        ModelChecker(handle, number * half, 4 * MIB, seed=number, unit=unit).run(requests)
    for handle in handles:
        handle.flush()
        handle.shutdown()
    server.expect_clean(2)


@test("requests to a dm-linear device do what a model says")
def _(context):
    check_by_model(context, linear(context).path)


@test("requests to a dm-crypt device do what a model says, and what is below is encrypted")
def _(context):
    below = backing(context)
    mapped = Mapped(context, "crypt", f"0 {SIZE // SECTOR} crypt aes-xts-plain64 {'5a' * 64} 0 {below.path} 0")
    server = SocketActivate(context, mapped.path)
    handle = connect_libnbd(server)
    # What was never written is anything.
    handle.zero(SIZE, 0)
    check_by_model(context, mapped.path)
    handle.pwrite(pattern(0, MIB), 0)
    handle.flush()
    handle.shutdown()
    server.expect_clean()
    eq(pattern(4096, 64) in Path(below.path).open("rb").read(MIB), False, "plain text below")


@test("a snapshot of LVM is an export that stays as it was while clients write to its origin")
def _(context):
    below = backing(context, 128 * MIB)
    run("pvcreate", "-q", "-y", below.path)
    run("vgcreate", "-q", "vm", below.path)
    context.defer(lambda: run("vgremove", "-q", "-f", "-y", "vm"))
    run("lvcreate", "-q", "-y", "-Wn", "-n", "origin", "-L", f"{SIZE}b", "vm")
    origin = SocketActivate(context, "/dev/vm/origin")
    writer = connect_libnbd(origin)
    writer.pwrite(pattern(0, 16 * MIB), 0)
    writer.flush()
    run("lvcreate", "-q", "-y", "-s", "-n", "frozen", "-L", "40M", "vm/origin")
    frozen = SocketActivate(context, "-r", "/dev/vm/frozen")
    reader = connect_libnbd(frozen)
    eq(reader.get_size(), SIZE)
    for offset in range(0, 16 * MIB, 4 * MIB):
        writer.pwrite(b"\xff" * MIB, offset)
        writer.zero(MIB, offset + MIB)
        writer.trim(MIB, offset + 2 * MIB)
        eq(bytes(reader.pread(4 * MIB, offset)), pattern(offset, 4 * MIB), "the snapshot")
    writer.flush()
    eq(bytes(writer.pread(MIB, 0)), b"\xff" * MIB, "the origin")
    # A snapshot that is writable leaves its origin alone.
    scratch = connect_libnbd(SocketActivate(context, "/dev/vm/frozen"))
    scratch.pwrite(b"\xee" * MIB, 3 * MIB)
    scratch.flush()
    eq(bytes(writer.pread(MIB, 3 * MIB)), pattern(3 * MIB, MIB), "the origin")
    for handle in (scratch, reader, writer):
        handle.shutdown()
    origin.expect_clean()
    frozen.expect_clean()


@test("a snapshot of LVM for each connection, as nbdinetd-cow(8) makes it, is removed when its client leaves")
def _(context):
    # The recipe's snapshots have 1 GiB each.
    run("vgcreate", "-q", "vg0", backing(context, 3 << 30).path)
    context.defer(lambda: run("vgremove", "-q", "-f", "-y", "vg0"))
    run("lvcreate", "-q", "-y", "-Wn", "-n", "golden", "-L", f"{SIZE}b", "vg0")
    with open("/dev/vg0/golden", "r+b") as volume:
        volume.write(pattern(0, MIB))
    port = free_port()
    page = next(Path("/usr").glob("**/man8/nbdinetd-cow.8"))
    Path("/etc/nbdinetd").mkdir(exist_ok=True)
    Path("/etc/nbdinetd/lvm.export").write_text(
        f"{recipe(page, 'SNAPSHOTS', 'lvcreate')}\n[Socket]\nListenStream=127.0.0.1:{port}\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "start", "nbdinetd-lvm.socket")
    context.defer(lambda: run("systemctl", "stop", "nbdinetd-lvm.socket"))

    def snapshots():
        return [name for name in run("lvs", "--noheadings", "-o", "lv_name", "vg0").split() if name != "golden"]

    clients = [Client(connect(("127.0.0.1", port))).start() for _ in range(2)]
    for number, client in enumerate(clients):
        eq((client.size, client.flags & NBD_FLAG_CAN_MULTI_CONN), (SIZE, 0))
        client.write(4096, bytes([number]) * 4096, NBD_CMD_FLAG_FUA)
    for number, client in enumerate(clients):
        eq(client.read(0, 12288), pattern(0, 4096) + bytes([number]) * 4096 + pattern(8192, 4096))
    eq(len(snapshots()), 2)
    with open("/dev/vg0/golden", "rb") as volume:
        eq(volume.read(MIB), pattern(0, MIB))
    for client in clients:
        client.disconnect()
    wait_until(lambda: not snapshots(), "the snapshots to go")


class Load:
    """Clients that read and write random places until told to stop, and count what fails."""

    def __init__(self, server, connections=3):
        self.handles = [connect_libnbd(server) for _ in range(connections)]
        self.succeeded, self.errors = 0, []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number, handle), daemon=True)
                         for number, handle in enumerate(self.handles)]
        for thread in self._threads:
            thread.start()

    def _run(self, seed, handle):
        nbd = import_libnbd()
        choose = random.Random(seed)
        while not self._stop.is_set():
            offset = choose.randrange(SIZE // 4096) * 4096
            try:
                if choose.random() < 0.5:
                    handle.pread(4096, offset)
                else:
                    handle.pwrite(bytes(4096), offset, flags=nbd.CMD_FLAG_FUA)
                self.succeeded += 1
            except nbd.Error as error:
                self.errors.append(error.errno or error.string)

    def wait(self, condition, what):
        wait_until(condition, what)

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join(GUARD)


@test("a device that fails under load gives EIO to its clients, whose connections go on when it is back")
def _(context):
    below = backing(context)
    working, broken = (f"0 {SIZE // SECTOR} {kind}" for kind in (f"linear {below.path} 0", "error"))
    mapped = Mapped(context, "failing", working)
    server = SocketActivate(context, mapped.path)
    load = Load(server)
    wait_until(lambda: load.succeeded > 50, "requests to succeed")
    mapped.load(broken)
    wait_until(lambda: len(load.errors) > 50, "requests to fail")
    eq(set(load.errors), {"EIO"})
    mapped.load(working)
    before = load.succeeded
    wait_until(lambda: load.succeeded > before + 50, "requests to succeed again")
    load.stop()
    for handle in load.handles:
        handle.shutdown()
    # The kernel told of lost writes: a flush says so, and no connection has ended.
    server.expect_clean(3)


@test("a device that is gone under load gives EIO to its clients, and none to those of others")
def _(context):
    disk = linear(context, "doomed")
    other = linear(context, "other")
    server, beside = SocketActivate(context, disk.path), SocketActivate(context, other.path)
    load, others = Load(server), Load(beside, 1)
    wait_until(lambda: load.succeeded > 50 and others.succeeded > 10, "requests to succeed")
    # As a removal that is forced does it: the table is replaced by one that fails.
    subprocess.run(["dmsetup", "wipe_table", "--noflush", "--nolockfs", disk.name], check=True)
    wait_until(lambda: len(load.errors) > 50, "requests to fail")
    count = others.succeeded
    wait_until(lambda: others.succeeded > count + 10, "the other device's requests")
    for one in (load, others):
        one.stop()
        for handle in one.handles:
            handle.shutdown()
    eq(set(load.errors), {"EIO"})
    eq(others.errors, [])
    server.expect_clean(3)
    beside.expect_clean(1)


@test("a device that hangs delays its own connection only, and SIGTERM ends that when it is back")
def _(context):
    disk = linear(context, "hanging")
    server = SocketActivate(context, disk.path)
    handle = connect_libnbd(server)
    handle.pwrite(pattern(0, MIB), 0)
    handle.flush()
    nbd = import_libnbd()
    run("dmsetup", "suspend", "--nolockfs", disk.name)
    resumed = False
    try:
        cookie = handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"x" * 4096)), 0, flags=nbd.CMD_FLAG_FUA)
        # What the page cache holds is answered meanwhile.
        eq(bytes(handle.pread(4096, MIB // 2)), pattern(MIB // 2, 4096))
        eq(handle.aio_command_completed(cookie), False)
        pid, = server.handlers()
        os.kill(pid, signal.SIGTERM)
        run("dmsetup", "resume", disk.name)
        resumed = True
        while not handle.aio_command_completed(cookie):
            handle.poll(-1)
    finally:
        if not resumed:
            run("dmsetup", "resume", disk.name)
    wait_until(lambda: not server.handlers(), "the connection to end")
    eq(set(server.statuses()), {"0"})
    eq(Path(disk.path).open("rb").read(4), b"xxxx")


run_inside()
