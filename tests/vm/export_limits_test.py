#!/usr/bin/python3
"""What limits all connections of an export together, as nbdinetd.export(5) says in LIMITS OF AN EXPORT: control
groups, with the kernel's io and memory controllers, and what the page cache does to their limits. Runs in a
machine of its own (machine.py), whose disks nobody else uses.

A limit is compared with what the same machine does without one, and with what its control group counts."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
from harness import *
from machine import is_inside, run_inside

FOLDER, XFS_FOLDER, DEVICE = "/srv/nbd", "/srv/xfs", "/dev/nvme0n5"
# In the order of the machine's disks. A file system's size is what its mkfs wants at least.
FILE_SYSTEMS = {FOLDER: ("/dev/nvme0n3", ["mkfs.ext4", "-q"]), XFS_FOLDER: ("/dev/nvme0n4", ["mkfs.xfs", "-q"])}
DISKS = (256 * MIB, 320 * MIB, 64 * MIB)
SECTION = "LIMITS OF AN EXPORT"

LIMIT = 1_000_000  # bytes in a second; small, so that the emulated machine is much faster without it
SIZE = 8 * MIB
WRITTEN = 4 * MIB
LARGE = 48 * MIB
KEPT = "24M"  # MemoryMax= for that
# What a file system reads or writes besides the export: its inode, the map of its blocks.
METADATA = 256 << 10
TRIES = 10

# {export: (file or device, lines of the file, whether its slice has the limits of the manual)}
EXPORTS = {
    "golden": (f"{FOLDER}/golden.img", "", True),
    "free": (f"{FOLDER}/golden.img", "", False),
    "uncached": (f"{FOLDER}/golden.img", "Cache=none\n", True),
    "large": (f"{FOLDER}/large.img", "", False),
    "bounded": (f"{FOLDER}/large.img", "", False),
    "ext4": (f"{FOLDER}/written.img", "", True),
    "xfs": (f"{XFS_FOLDER}/written.img", "", True),
    "device": (DEVICE, "", True),
    "single": (f"{FOLDER}/golden.img", "", False),
    "listener": (f"{FOLDER}/golden.img", "Mode=listener\n", False),
}
PORTS = {name: 10811 + number for number, name in enumerate(EXPORTS)}
IN_SERVICE = ("single", "listener")  # these have a limit in [Service]


def drop_in(name):
    return Path(f"/etc/systemd/system/system-nbdinetd-{name}.slice.d/limits.conf")


def page():
    return next(Path("/usr").glob("**/man5/nbdinetd.export.5"))


def prepare(payload):
    for name, (path, lines, _) in EXPORTS.items():
        payload.write(f"root/etc/nbdinetd/{name}.export",
                      f"[Export]\nFile={path}\n{lines}[Socket]\nListenStream=127.0.0.1:{PORTS[name]}\n"
                      "IPAccounting=yes\n"
                      + (f"[Service]\nIOReadBandwidthMax={FOLDER} 3M\n" if name in IN_SERVICE else ""))


# ------------------------------------------------------------------ the machine

def run(*command):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def show(unit, name):
    return run("systemctl", "show", "--value", f"--property={name}", unit).strip()


def slice_of(name):
    return f"system-nbdinetd-{name}.slice"


def group_of(unit):
    """The folder of a unit's control group."""
    return Path(f"/sys/fs/cgroup{show(unit, 'ControlGroup')}")


def number_of(path):
    """The number of a block device, or of that of a file system, as the control groups name it."""
    status = os.stat(path)
    number = status.st_rdev or status.st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def of_device(file, path):
    """The line of a device in io.max or io.stat, as {name: text}."""
    for line in file.read_text().splitlines():
        number, *fields = line.split()
        if number == number_of(path):
            return dict(field.split("=") for field in fields)
    return {}


def fill(path, size):
    block = os.urandom(MIB)
    with open(path, "wb") as file:
        for _ in range(size // MIB):
            file.write(block)


def drop_caches():
    """Then no file is cached, and the kernel has forgotten who has written it."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def uncache(name):
    """The file of an export is no longer cached; the programs of the machine are."""
    with open(EXPORTS[name][0], "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_limits(name):
    """The drop-in of the manual, with a smaller limit, for the disk of this export."""
    path = EXPORTS[name][0]
    text = recipe(page(), SECTION, "IOReadBandwidthMax=/srv/nbd")
    disk = path if path.startswith("/dev/") else os.path.dirname(path)
    drop_in(name).parent.mkdir(parents=True, exist_ok=True)
    drop_in(name).write_text(text.replace("/srv/nbd", disk).replace("20M", str(LIMIT)))


def set_up():
    """The disks, the files, and the limits of all tests."""
    for folder, (device, make) in FILE_SYSTEMS.items():
        run(*make, device)
        Path(folder).mkdir(parents=True)
        run("mount", device, folder)
    fill(f"{FOLDER}/golden.img", SIZE)
    fill(f"{FOLDER}/large.img", LARGE)
    fill(f"{FOLDER}/written.img", WRITTEN)
    fill(f"{XFS_FOLDER}/written.img", WRITTEN)
    for name, (_, _, has_limits) in EXPORTS.items():
        if has_limits:
            write_limits(name)
    for name in ("free", "large", "bounded"):
        drop_in(name).parent.mkdir(parents=True)
        drop_in(name).write_text("[Slice]\nIOAccounting=yes\n")
    with drop_in("bounded").open("a") as file:
        file.write(f"MemoryMax={KEPT}\n")
    run("systemctl", "daemon-reload")


# ------------------------------------------------------------------ clients

def connected(context, name, count=1):
    clients = [Client(connect(("127.0.0.1", PORTS[name]))).start() for _ in range(count)]
    for client in clients:
        context.defer(client.close)
    return clients


def together(clients, size, function):
    """Each client does function(client, offset) for each MiB of its part, all of them at once. Returns the
    time that they have taken."""
    part = size // len(clients)
    errors = []

    def work(client, start):
        try:
            for offset in range(start, start + part, MIB):
                function(client, offset)
        except Exception as error:  # to be raised by the main thread
            errors.append(error)
    threads = [threading.Thread(target=work, args=(client, number * part)) for number, client in enumerate(clients)]
    since = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error
    return time.monotonic() - since


def read_all(clients, size=SIZE):
    return together(clients, size, lambda client, offset: client.read(offset, MIB))


def write_all(clients, size=WRITTEN):
    return together(clients, size, lambda client, offset: client.write(offset, os.urandom(4096) * (MIB // 4096)))


class Counted:
    """What reaches the disk of an export from its connections, since this object was made."""

    def __init__(self, name):
        self._stat, self._path = group_of(slice_of(name)) / "io.stat", EXPORTS[name][0]
        self._before = self._now()

    def _now(self):
        return of_device(self._stat, self._path)

    def _grown(self, name):
        return int(self._now().get(name, 0)) - int(self._before.get(name, 0))

    @property
    def read(self):
        return self._grown("rbytes")

    @property
    def written(self):
        return self._grown("wbytes")


def at_least(got, wanted, what):
    if got < wanted:
        raise AssertionError(f"{what}: {got}, wanted at least {wanted}")


def at_most(got, wanted, what):
    if got > wanted:
        raise AssertionError(f"{what}: {got}, wanted at most {wanted}")


def is_limited(seconds, size, free, what):
    """`seconds` is what the limit makes of this size; free() does the same without it, and returns its time. A
    busy machine can make anything slow, so free() has several tries; nothing makes a limited one fast."""
    at_least(seconds, 0.8 * size / LIMIT, f"{what}: the seconds")
    without = free()
    for _ in range(TRIES - 1):
        if 2 * without <= seconds:
            break
        without = min(without, free())
    note(f"{what}: {seconds:.2f} s, and {without:.2f} s without the limit")
    at_least(seconds, 2 * without, what)


# ------------------------------------------------------------------ tests

@test("a slice has the limits of the manual's drop-in; set-property changes them for clients that are connected")
def _(context):
    client, = connected(context, "golden")
    group = group_of(slice_of("golden"))
    eq(group.parent.name, "system-nbdinetd.slice")
    limits = of_device(group / "io.max", FOLDER)
    eq((limits["rbps"], limits["wbps"]), (str(LIMIT), str(LIMIT)))
    eq((group / "cpu.weight").read_text().strip(), "50")
    eq((group / "cpu.max").read_text().split()[0], (group / "cpu.max").read_text().split()[1], "a quota of 100%")
    # As it is written there.
    text = recipe(page(), SECTION, "IOReadBandwidthMax=/srv/nbd")
    run("systemctl", "set-property", "--runtime", slice_of("golden"),
        *re.findall(r"^IO\w+BandwidthMax=.*$", text, re.MULTILINE))
    limits = of_device(group / "io.max", FOLDER)
    eq((limits["rbps"], limits["wbps"]), ("20000000", "20000000"))
    run("systemctl", "set-property", "--runtime", slice_of("golden"), f"IOReadBandwidthMax={FOLDER} {LIMIT}",
        f"IOWriteBandwidthMax={FOLDER} {LIMIT}")
    eq(of_device(group / "io.max", FOLDER), limits | {"rbps": str(LIMIT), "wbps": str(LIMIT)})
    client.disconnect()


@test("a drop-in that is written while a client is connected is in force after daemon-reload")
def _(context):
    client, = connected(context, "single")
    group = group_of(slice_of("single"))
    write_limits("single")
    run("systemctl", "daemon-reload")
    eq(of_device(group / "io.max", FOLDER).get("rbps"), str(LIMIT))
    client.disconnect()


@test("in [Service], limits hold for each connection by itself, and for all together with Mode=listener")
def _(context):
    first, second = connected(context, "single", 2)
    units = run("systemctl", "list-units", "--plain", "--no-legend", "nbdinetd-single@*").split("\n")[:2]
    groups = {group_of(line.split()[0]) for line in units}
    eq(len(groups), 2, "control groups of two connections")
    for group in groups:
        eq(of_device(group / "io.max", FOLDER).get("rbps"), "3000000")
    third, fourth = connected(context, "listener", 2)
    group = group_of("nbdinetd-listener.service")
    eq(of_device(group / "io.max", FOLDER).get("rbps"), "3000000")
    # Nobody of them is in a group inside.
    eq(len((group / "cgroup.procs").read_text().split()), 3)
    for client in (first, second, third, fourth):
        client.disconnect()


@test("two connections together read from a cold cache as much as the limit says; what is cached, by whomever, isn't "
      "limited")
def _(context):
    free, golden = connected(context, "free", 2), connected(context, "golden", 2)
    uncache("golden")
    counted = Counted("golden")
    cold = read_all(golden)
    at_least(counted.read, SIZE, "bytes read from the disk")
    counted = Counted("golden")
    transferred = [SIZE]

    def read_again():
        transferred[0] += SIZE
        return read_all(golden)
    is_limited(cold, SIZE, read_again, "the read from the disk, and that from the cache")
    at_most(counted.read, METADATA, "bytes read from the disk for what is cached")

    def read_cold():
        uncache("free")
        return read_all(free)
    is_limited(cold, SIZE, read_cold, "a cold read of two connections")
    # What the other export has read is cached for this one.
    counted = Counted("golden")
    read_again()
    at_most(counted.read, METADATA, "bytes read from the disk for what others have read")
    # nbdinetctl knows what the clients got; systemd, what came from the disk.
    wait_until(lambda: sum(row.get("bytes_read", 0) for row in json.loads(
        run("nbdinetctl", "connections", "golden", "--json=short"))) == transferred[0], "nbdinetctl to count all")
    from_disk = int(show(slice_of("golden"), "IOReadBytes"))
    at_least(from_disk, SIZE, "IOReadBytes=")
    at_most(from_disk, SIZE + MIB, "IOReadBytes=")


@test("with Cache=none every read is limited, whatever is cached, and every write before it is answered")
def _(context):
    free, uncached = connected(context, "free", 2), connected(context, "uncached", 2)
    read_all(free)
    counted = Counted("uncached")
    seconds = read_all(uncached)
    at_least(counted.read, SIZE, "bytes read from the disk")
    is_limited(seconds, SIZE, lambda: read_all(free), "a read past the cache")
    counted = Counted("uncached")
    seconds = write_all(uncached)
    at_least(counted.written, WRITTEN, "bytes written to the disk without a flush")
    is_limited(seconds, WRITTEN, lambda: write_all(free), "writes past the cache")
    free[0].flush()


@test("with MemoryMax= the connections keep no more than that in the page cache, and read from the disk again")
def _(context):
    for name in ("large", "bounded"):
        client, = connected(context, name)
        uncache(name)
        counted = Counted(name)
        read_all([client], LARGE)
        at_least(counted.read, LARGE, f"bytes read from the disk for {name}")
        counted = Counted(name)
        read_all([client], LARGE)
        note(f"{name}: {counted.read} bytes read from the disk again")
        if name == "large":
            at_most(counted.read, METADATA, "without a limit")
        else:
            at_least(counted.read, LARGE // 2, "with MemoryMax=")
    group = group_of(slice_of("bounded"))
    eq((group / "memory.max").read_text().strip(), str(24 * MIB))
    at_most(int((group / "memory.current").read_text()), 24 * MIB, "memory.current")
    contains("oom_kill 0\n", (group / "memory.events").read_text())
    # What others have read counts as theirs.
    client, other = connected(context, "bounded") + connected(context, "large")
    uncache("large")
    read_all([other], LARGE)
    counted = Counted("bounded")
    read_all([client], LARGE)
    at_most(counted.read, METADATA, "what another export has read")


@test("writes are answered without a limit, and limited when a flush or a sync of another program writes them back: on "
      "ext4, on XFS and on a block device")
def _(context):
    for name in ("ext4", "xfs", "device"):
        drop_caches()
        clients = connected(context, name, 2)
        counted = Counted(name)
        since = time.monotonic()
        write_all(clients)
        clients[0].flush()
        seconds = time.monotonic() - since
        at_least(counted.written, WRITTEN, f"{name}: bytes written by a flush")
        is_limited(seconds, WRITTEN, lambda: write_all(clients), f"{name}: writes with a flush, and writes alone")
        clients[0].flush()
        counted = Counted(name)
        write_all(clients)
        os.sync()
        at_least(counted.written, WRITTEN, f"{name}: bytes written by sync()")
        for client in clients:
            client.disconnect()


@test("a file that another program has written counts as that program's at first")
def _(context):
    drop_caches()
    fill(EXPORTS["ext4"][0], WRITTEN)
    os.sync()
    # Not before: a connection that updates the time of the last access makes the file its slice's.
    client, = connected(context, "ext4")
    counted = Counted("ext4")
    write_all([client])
    client.flush()
    at_most(counted.written, WRITTEN // 2, "bytes written by a flush")
    client.disconnect()
    drop_caches()
    client, = connected(context, "ext4")
    counted = Counted("ext4")
    write_all([client])
    client.flush()
    at_least(counted.written, WRITTEN, "bytes written by a flush, after the kernel has forgotten")


@test("the socket unit counts the bytes of the network, and the manual's commands of tc(8) limit them, cached or not")
def _(context):
    clients = connected(context, "free", 2)
    read_all(clients)
    before = int(show("nbdinetd-free.socket", "IPEgressBytes"))
    without = min(read_all(clients) for _ in range(TRIES))
    at_least(int(show("nbdinetd-free.socket", "IPEgressBytes")) - before, SIZE, "IPEgressBytes=")
    commands = recipe(page(), SECTION, "tc").replace("eth0", "lo").replace("10809", str(PORTS["free"]))
    commands = commands.replace("100mbit", f"{8 * LIMIT}bit")
    context.defer(lambda: run("tc", "qdisc", "del", "dev", "lo", "root"))
    for command in commands.strip().split("\n"):
        run(*command.split())
    is_limited(read_all(clients), SIZE, lambda: without, "a read from the cache by a port that tc limits")
    sent = re.search(r"Sent (\d+) bytes", run("tc", "-s", "class", "show", "dev", "lo"))
    at_least(int(sent[1]), SIZE, "bytes sent in the class")


if is_inside():
    set_up()
run_inside(prepare, disks=DISKS)
