#!/usr/bin/python3
"""The installed build from boot to shutdown, under a systemd that is process 1 (see support/pid1.py):
the shipped units as they are, enabled as an administrator enables them."""

import json
import os
import shutil
import stat
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import pid1  # noqa: E402
from faults import LoopDevice, Mount, need_privilege  # noqa: E402
from harness import *  # noqa: E402

PORT = ("127.0.0.1", 10809)

machine = None  # the pid1.Machine


def serve(image, options=""):
    """Lets nbdinetd.socket serve this, from the next connection on."""
    machine.write(f"{pid1.configured('sysconfdir')}/default/nbdinetd",
                  f'NBDINETD_EXPORT="{image}"\nNBDINETD_OPTIONS="{options}"\n')


@test("after make install and systemctl enable --now, and after each boot, a client is served")
def _(t):
    machine.write("/srv/nbd/export.img", pattern(0, MIB))
    serve("/srv/nbd/export.img", "--readonly")
    machine.systemctl("enable", "--now", "nbdinetd.socket")
    for boot in range(2):
        client = Client(connect(PORT)).start()
        eq(client.read(4096, 512), pattern(4096, 512))
        client.disconnect()
        if not boot:
            machine.boot_for(t)
    wait_until(lambda: not machine.instances(), "the connections' units to be gone")
    eq(machine.failed(), [])
    machine.systemctl("disable", "nbdinetd.socket")


def mount_data(t, loop):
    """Mounts the disk on /data; a connection requires it."""
    machine.write("/etc/systemd/system/data.mount",
                  "[Mount]\nWhat=/dev/disk-of-test\nWhere=/data\nType=ext4\n")
    os.mknod(machine.path("/dev/disk-of-test"), 0o600 | stat.S_IFBLK, os.stat(loop.path).st_rdev)
    drop_in = machine.root / "etc/systemd/system/nbdinetd@.service.d"
    machine.write("/etc/systemd/system/nbdinetd@.service.d/data.conf", "[Unit]\nRequiresMountsFor=/data\n")
    t.defer(shutil.rmtree, drop_in, True)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "data.mount")


@test("a shutdown drains a live client, flushes the export, and only then unmounts what it is on")
def _(t):
    """The image is on a file system of its own, as on a disk; what isn't flushed when that goes away
    is lost with the loop device's cache."""
    need_privilege("root", "loop")
    need("mkfs.ext4")
    disk = t.sparse_image(64 * MIB)
    t.run(["mkfs.ext4", "-q", "-F", disk])
    machine.boot_for(t)
    with LoopDevice(disk) as loop:
        machine.write("/etc/systemd/journald.conf.d/persistent.conf", "[Journal]\nStorage=persistent\n")
        machine.systemctl("restart", "systemd-journald")
        machine.run("journalctl", "--flush")
        mount_data(t, loop)
        machine.write("/data/export.img", bytes(16 * MIB))
        machine.run("sync")
        serve("/data/export.img")
        since = machine.now_us()
        machine.systemctl("start", "nbdinetd.socket")
        client = Client(connect(PORT)).start()
        for number in range(16):
            client.write(number * MIB, pattern(number * MIB, MIB))
        machine.power_off()
        client.expect_end()
        client.close()
        # Whoever has unmounted it has written everything, so look at the order, too.
        with Mount(loop.path, t.path("mounted"), "ext4") as mount:
            eq(Path(mount.path, "export.img").read_bytes(), pattern(0, 16 * MIB))
    text = t.run(["journalctl", f"--directory={machine.root}/var/log/journal", "--output=json",
                  "--no-pager"]).stdout()
    entries = [entry for entry in map(json.loads, text.splitlines())
               if int(entry["__REALTIME_TIMESTAMP"]) >= since]
    words = [str(entry["MESSAGE"]) for entry in entries]
    ended = [n for n, word in enumerate(words) if " ended: the server is shutting down; 16 requests" in word]
    unmounted = [n for n, word in enumerate(words) if "Unmounting data.mount" in word]
    eq((len(ended), len(unmounted)), (1, 1), "\n".join(words))
    assert ended < unmounted, "\n".join(words)


@test("a power cut loses no answered write that was flushed, and the next boot serves again")
def _(t):
    """The disk after the cut is a copy of what it had when the answer came: all that the kernel has not
    yet written to it is lost."""
    need_privilege("root", "loop")
    need("mkfs.ext4")
    disk = t.sparse_image(64 * MIB)
    t.run(["mkfs.ext4", "-q", "-F", disk])
    machine.boot_for(t)
    serve("/data/export.img")
    machine.systemctl("enable", "nbdinetd.socket")
    with LoopDevice(disk) as loop:
        mount_data(t, loop)
        machine.write("/data/export.img", bytes(MIB))
        machine.run("sync")
        machine.systemctl("start", "nbdinetd.socket")
        client = Client(connect(PORT)).start()
        client.write(4096, b"w" * 512, NBD_CMD_FLAG_FUA)
        after_fua, after_flush = t.fresh(".disk"), t.fresh(".disk")
        shutil.copyfile(disk, after_fua)
        client.write(8192, b"f" * 512)
        client.flush()
        shutil.copyfile(disk, after_flush)
        machine.kill()
        client.expect_end()
        client.close()
    with LoopDevice(after_fua) as loop, Mount(loop.path, t.path("mounted"), "ext4") as mount:
        eq(Path(mount.path, "export.img").read_bytes()[4096:4608], b"w" * 512)
    with LoopDevice(after_flush) as loop:
        machine.boot_for(t)
        mount_data(t, loop)
        client = Client(connect(PORT)).start()
        eq((client.read(4096, 512), client.read(8192, 512)), (b"w" * 512, b"f" * 512))
        client.disconnect()
        machine.systemctl("disable", "--now", "nbdinetd.socket")
        machine.kill()


@test("a build with which the system doesn't boot is a failure; a machine on which none boots is a skip")
def _(t):
    """Each in a system inside of these namespaces."""
    drop_in = "basic.target.d/broken.conf", "[Unit]\nRequires=broken.service\nAfter=broken.service\n"
    broken = "broken.service", "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/bin/false\n"
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(pid1.__file__).parent)!r})
import pid1
def stage(directory):
    units = directory / pid1.configured("systemdsystemunitdir").lstrip("/")
    for name, text in {(drop_in, broken)!r}:
        path = units / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
pid1.SYSTEMD = sys.argv[1]
pid1.run(lambda machine: print("booted"), stage)
"""
    failed = t.run([sys.executable, "-B", "-c", script, pid1.SYSTEMD], 1)
    eq(failed.stdout(), "")
    contains("the system doesn't boot with this build, but without it: pid1.target is inactive", failed.stderr())
    skipped = t.run([sys.executable, "-B", "-c", script, "/bin/false"], env={"CI": None})
    contains("1..0 # SKIP can't boot a systemd in namespaces: systemd has ended by itself", skipped.stdout())


def tests(booted):
    global machine
    machine = booted
    main()


if __name__ == "__main__":
    pid1.run(tests)
