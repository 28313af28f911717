#!/usr/bin/python3
"""The kernel's own client, nbd.ko, set up by nbd-client: what it makes of an export, file systems on it, and
what it survives. Runs in a machine of its own (machine.py); the server is what the machine's systemd has
made of two files in /etc/nbdinetd when it booted."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
from clients import allocated_bytes, program_output
from harness import *
from machine import run_inside
from nbd_netlink import LastingDevice

FOLDER = Path("/srv/nbd")
# Each file of FOLDER under its name; a process for each connection, and a listening service.
CONNECTIONS, LISTENER = 10809, 10810
TREE = "/usr/lib/systemd"
# A file system's size is what its mkfs wants at least.
FILE_SYSTEMS = {
    "ext4": (64 * MIB, ["mkfs.ext4", "-q"], ["e2fsck", "-fn"]),
    "xfs": (320 * MIB, ["mkfs.xfs", "-q"], ["xfs_repair", "-n"]),
}


def prepare(payload):
    payload.write("root/etc/modules-load.d/nbd.conf", "nbd\n")
    for name, mode, port in (("connections", "connection", CONNECTIONS), ("listener", "listener", LISTENER)):
        payload.write(f"root/etc/nbdinetd/{name}.export",
                      f"[Export]\nDirectory={FOLDER}\nMode={mode}\n[Socket]\nListenStream=127.0.0.1:{port}\n")
    (payload.root / FOLDER.relative_to("/")).mkdir(parents=True)


class Device:
    """/dev/nbd0, attached to an export."""

    PATH = "/dev/nbd0"

    def __init__(self, context, name, *arguments):
        self._context = context
        context.run(["nbd-client", "-N", name, "127.0.0.1", CONNECTIONS, self.PATH, *arguments])
        self._attached = True
        context.defer(self.detach)
        wait_until(lambda: self.sectors() > 0, "the device to have a size")

    def sectors(self):
        return int(Path("/sys/block/nbd0/size").read_text())

    def setting(self, name):
        return Path("/sys/block/nbd0", name).read_text().strip()

    def detach(self):
        if self._attached:
            self._attached = False
            self._context.run(["nbd-client", "-d", self.PATH])
            wait_until(lambda: self.sectors() == 0, "the device to be detached")


class Mounted:
    """A device's file system."""

    def __init__(self, context, device, kind):
        self._context = context
        self.path = Path(context.fresh(".mnt"))
        self.path.mkdir()
        context.run(["mount", "-t", kind, device.PATH, self.path])
        self._mounted = True
        context.defer(self.unmount)

    def unmount(self):
        if self._mounted:
            self._mounted = False
            self._context.run(["umount", self.path])


def new_export(context, name, size):
    """An empty file to serve."""
    path = FOLDER / name
    with open(path, "wb") as file:
        file.truncate(size)
    context.defer(path.unlink)
    return path


def drop_caches():
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def systemctl(*arguments):
    subprocess.run(["systemctl", *arguments], check=True)


def connections_of(service):
    """How many processes a listening service has beside itself."""
    group = subprocess.run(["systemctl", "show", "--value", "--property=TasksCurrent", service], check=True,
                           capture_output=True, text=True).stdout
    return int(group) - 1


def requests_of(name):
    """How many requests each connection to an export has made, once they have ended."""
    def log():
        subprocess.run(["journalctl", "--sync"], check=True)
        return subprocess.run(["journalctl", "-b", "-q", "-o", "cat", "-t", "nbdinetd"], check=True,
                              capture_output=True, text=True).stdout
    peers = re.findall(rf'serving export "{name}" to (\S+):', log())

    def ended():
        return [int(re.search(rf"^{peer} ended: .*?; (\d+) requests", log(), re.MULTILINE)[1]) for peer in peers
                if f"{peer} ended" in log()]
    wait_until(lambda: len(ended()) == len(peers), "the connections to end")
    return ended()


def failed_units():
    return subprocess.run(["systemctl", "list-units", "--failed", "--plain", "--no-legend"], check=True,
                          capture_output=True, text=True).stdout


@test("the kernel sees size, flush, FUA, trim and many connections of an export")
def _(context):
    new_export(context, "disk", 64 * MIB)
    device = Device(context, "disk", "-C", "4")
    eq(device.sectors() * 512, 64 * MIB)
    eq(device.setting("ro"), "0")
    eq(device.setting("queue/write_cache"), "write back")
    eq(device.setting("queue/fua"), "1")
    if int(device.setting("queue/discard_max_bytes")) == 0:
        raise AssertionError("the kernel trims nothing")
    # One unit for each connection.
    units = subprocess.run(["systemctl", "list-units", "--plain", "--no-legend",
                            "nbdinetd-connections@*.service"], capture_output=True, text=True, check=True)
    eq(len(units.stdout.splitlines()), 4, "connections")


@test("an export of files that nobody may write is a read-only device")
def _(context):
    path = new_export(context, "golden", MIB)
    path.chmod(0o444)
    # Root may write to it all the same, but not through a connection that has given up its capabilities.
    path.write_bytes(pattern(0, MIB))
    os.chown(path, 1, 1)
    device = Device(context, "golden")
    eq(device.setting("ro"), "1")
    eq(Path(device.PATH).read_bytes(), pattern(0, MIB))


for _kind, (_size, _make, _check) in FILE_SYSTEMS.items():
    @test(f"{_kind} on four connections: a tree is copied and compared, trimmed space is free, and the check "
          "finds nothing")
    def _(context, kind=_kind, size=_size, make=_make, check=_check):
        path = new_export(context, kind, size)
        device = Device(context, kind, "-C", "4")
        context.run([*make, device.PATH])
        mounted = Mounted(context, device, kind)
        tree = mounted.path / "tree"
        context.run(["cp", "-a", TREE, tree])
        drop_caches()
        eq(program_output(context, ["diff", "-r", "--no-dereference", TREE, str(tree)]), "")
        full, size_of_tree = allocated_bytes(path), sum(file.stat().st_size for file in tree.rglob("*"))
        shutil.rmtree(tree)
        os.sync()  # ext4 frees blocks when it commits
        context.run(["fstrim", mounted.path])
        os.sync()
        if allocated_bytes(path) > full - size_of_tree // 2:
            raise AssertionError(f"{full} bytes allocated, and {allocated_bytes(path)} after fstrim")
        mounted.unmount()
        context.run([*check, device.PATH])
        device.detach()
        context.run([*check, path])
        requests = requests_of(kind)
        eq(len(requests), 4, "connections")
        eq(0 in requests, False, f"a connection without a request: {requests}")
        eq(failed_units(), "")


@test("a mounted file system goes on through restarts of the listening service")
def _(context):
    size, make, check = FILE_SYSTEMS["ext4"]
    path = new_export(context, "lasting", size)
    device = LastingDevice(context, "lasting", ("127.0.0.1", LISTENER))
    context.run([*make, device.PATH])
    mounted = Mounted(context, device, "ext4")
    names = [f"{number}" for number in range(4)]
    for number, name in enumerate(names):
        (mounted.path / name).write_bytes(pattern(number * MIB, MIB))
        os.sync()
        if number == len(names) - 1:
            break
        # A request that comes while the server ends gets NBD_ESHUTDOWN, as the specification says, and the kernel's
        # client doesn't repeat it.
        context.run(["fsfreeze", "--freeze", mounted.path])
        systemctl("restart", "nbdinetd-listener.service")
        device.reconnect()
        context.run(["fsfreeze", "--unfreeze", mounted.path])
    drop_caches()
    for number, name in enumerate(names):
        eq((mounted.path / name).read_bytes(), pattern(number * MIB, MIB), f"file {name}")
    mounted.unmount()
    context.run([*check, device.PATH])
    device.detach()
    wait_until(lambda: connections_of("nbdinetd-listener.service") == 0, "the connection to end")
    context.run([*check, path])
    eq(failed_units(), "")


# ------------------------------------------------------------------ a root directory

def root_with(programs, folder):
    """A root directory with these programs and their libraries."""
    for program in programs:
        linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for path in {program, *re.findall(r"(/\S+) \(0x", linked)}:
            target = folder / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    for name in ("dev", "proc"):
        (folder / name).mkdir()


def main_processes():
    """{unit: process id} of the connections."""
    units = subprocess.run(["systemctl", "show", "--property=Id,MainPID", "nbdinetd-connections@*.service"],
                           capture_output=True, text=True, check=True).stdout
    pairs = (dict(line.split("=", 1) for line in block.splitlines()) for block in units.strip().split("\n\n"))
    return {pair["Id"]: pair["MainPID"] for pair in pairs if pair}


@test("what runs from a root directory on an export goes on through its server's daemon-reexec")
def _(context):
    folder, path = Path(context.fresh(".root")), FOLDER / "root"
    folder.mkdir()
    root_with(["/bin/sh", "/bin/sync", "/bin/sleep", "/bin/date", "/bin/cat"], folder)
    new_export(context, "root", 64 * MIB)
    context.run(["mkfs.ext4", "-q", "-d", folder, path])
    device = Device(context, "root", "-C", "4")
    mounted = Mounted(context, device, "ext4")
    before = main_processes()
    eq(len(before), 4, "connections")
    inside = context.spawn(["unshare", "--mount", "--pid", "--fork", "--kill-child", "chroot", mounted.path, "/bin/sh",
                            "-ec", "n=0; while :; do n=$((n + 1)); echo $n >count; sync; cat count; sleep 0.1; done"])

    def count():
        return int(inside.stdout().split()[-1] if inside.stdout() else 0)
    for _round in range(2):
        systemctl("daemon-reexec")
        # Programs come over the network again.
        drop_caches()
        reached = count()
        wait_until(lambda reached=reached: count() > reached + 3, "the system to go on")
        context.run(["chroot", mounted.path, "/bin/date"])
    eq(main_processes(), before, "processes of the connections")
    eq(inside.stderr(), "")
    inside.stop()
    mounted.unmount()
    context.run(["e2fsck", "-fn", device.PATH])
    device.detach()
    eq(failed_units(), "")


# The kernel uses as many connections as it has processors.
run_inside(prepare, processors=4)
