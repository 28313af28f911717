"""File systems and devices to serve a file from, each in an image of its own: the rows of
tests/torture/file_systems_test.py.

A file system that the kernel lacks is skipped by name; in CI it is a failure unless it is known to be
missing there (KNOWN_MISSING). The end of the test takes everything down. The mounts are in a mount
namespace of the tests' own.
"""

import fcntl
import os
import shlex
import struct
from pathlib import Path

from faults import LoopDevice, Mount, eio_fs_path, need_privilege, nonzero_pattern, private_mounts
from harness import *

# What the kernel of CI's machine has not. A skip for anything else is a failure there.
KNOWN_MISSING = ("exfat", "iso9660", "vfat")
IMAGE_BYTES = 512 * MIB  # sparse; XFS and btrfs want some hundred MiB


# ------------------------------------------------------------------ what the machine can do

def has_file_system(name):
    """Whether the kernel knows the file system, if need be when it has loaded the module."""
    def known():
        return name in Path("/proc/filesystems").read_text(encoding="ascii").split()
    modprobe = find_tool("modprobe")
    if not known() and modprobe:
        os.spawnv(os.P_WAIT, modprobe, ["modprobe", "-q", name])
    return known()


def need_in_kernel(name, there):
    if there:
        return
    if CI and name not in KNOWN_MISSING:
        raise AssertionError(f"in CI the kernel has to have {name}")
    raise Skip(f"this kernel has no {name}")


def need_file_systems(*names):
    need_privilege("root")
    for name in names:
        need_in_kernel(name, has_file_system(name))


# ------------------------------------------------------------------ places

class Place:
    """What a row serves.

    `export` is the file or device; `source` the file that its bytes are put into first, where that
    is another one; `fresh(size)` makes the export anew, of `size` bytes (a device has its own) and
    nearly all hole; `hook` has lines of shell for what torture_test asks for (see its GivenDisk).
    """

    def __init__(self, export, source=None, fresh=None, hook=None):
        self.export, self.source, self.hook = export, source, hook or {}
        self.fresh = fresh or self._fresh_file

    def _fresh_file(self, size):
        if os.path.exists(self.export):
            os.unlink(self.export)
        with open(self.export, "wb") as file:
            file.truncate(size)


def shell(t, line):
    """Runs a line of shell."""
    t.run([need("sh"), "-ec", line])


def unmounted_at_the_end(t, directory):
    os.makedirs(directory, exist_ok=True)
    t.defer(lambda: Mount(None, directory, None).__exit__())


def mounted(t, kind, source, name="mnt", options=""):
    """Mounts it at a directory of the test. Returns (directory, what mounts it again)."""
    private_mounts()
    directory = t.path(name)
    unmounted_at_the_end(t, directory)
    again = shlex.join(["mount", "-t", kind, *(["-o", options] if options else []), source,
                        directory])
    shell(t, again)
    return directory, f"umount {directory}; {again}"


def device_over(t, path, **how):
    device = LoopDevice(path, **how)
    t.defer(device.__exit__)
    device.__enter__()
    return device.path


def on_image(t, kind, mkfs, name="mnt", options="", prepare=""):
    """A file in a new file system on a loop device; `prepare` is shell for the directory."""
    image = t.sparse_image(IMAGE_BYTES)
    t.run([*shlex.split(mkfs), image])
    directory, again = mounted(t, kind, device_over(t, image), name, options)
    if prepare:
        shell(t, f"cd {directory}; {prepare}")
    return Place(f"{directory}/disk", hook={"remount": again})


class Row:
    """A file system or device, and what is known of it. `tells_holes` is when a hole must be told as
    such: "always", or "clean", when nothing is left to be written back. `sizes` are those of the
    export with which random requests are tried; None is the usual one."""

    def __init__(self, name, make, kernel, tools, needs, tells_holes, read_only, sizes):
        self.name, self._make = name, make
        self._kernel, self._tools, self._needs = kernel, tools, needs
        self.tells_holes, self.read_only, self.sizes = tells_holes, read_only, sizes

    def place(self, t):
        """Makes what is to be served, for the test `t`, or skips the test."""
        need_file_systems(*self._kernel)
        need_privilege("root", *self._needs)
        for tool in self._tools:
            need(tool)
        return self._make(t)


ROWS = []


def row(name, kernel=(), tools=(), tells_holes=None, read_only=False, sizes=(None,), needs=("loop",)):
    """Registers a row."""
    def register(make):
        ROWS.append(Row(name, make, kernel, tools, needs, tells_holes, read_only, sizes))
        return make
    return register


# ------------------------------------------------------------------ ext2, ext3, ext4

MKFS_EXT = "-q -F -m 0 -E lazy_itable_init=0,lazy_journal_init=0"


@row("ext2", ("ext4",), ("mkfs.ext2",), "clean")
def _(t):
    return on_image(t, "ext4", f"mkfs.ext2 {MKFS_EXT}")


@row("ext3", ("ext4",), ("mkfs.ext3",), "clean")
def _(t):
    return on_image(t, "ext4", f"mkfs.ext3 {MKFS_EXT}")


@row("ext4", ("ext4",), ("mkfs.ext4",), "always")
def _(t):
    return on_image(t, "ext4", f"mkfs.ext4 {MKFS_EXT}")


@row("ext4 without extents", ("ext4",), ("mkfs.ext4",), "clean")
def _(t):
    return on_image(t, "ext4", f"mkfs.ext4 {MKFS_EXT} -O ^extents,^64bit")


@row("ext4, a file without extents (chattr -e)", ("ext4",), ("mkfs.ext4", "chattr", "lsattr"),
     "clean")
def _(t):
    place = on_image(t, "ext4", f"mkfs.ext4 {MKFS_EXT}")
    anew = f"rm -f {place.export}; touch {place.export}; chattr -e {place.export}"
    is_without = f"test -z \"$(lsattr {place.export} | cut -d ' ' -f 1 | tr -d -- -)\""

    def fresh(size):
        shell(t, anew)
        os.truncate(place.export, size)
        shell(t, is_without)
    place.fresh = fresh
    place.hook.update(begin=anew, ready=is_without)
    return place


@row("ext4, blocks of 1 KiB", ("ext4",), ("mkfs.ext4",), "always")
def _(t):
    return on_image(t, "ext4", f"mkfs.ext4 {MKFS_EXT} -b 1024")


@row("ext4, data=journal", ("ext4",), ("mkfs.ext4",), "always")
def _(t):
    return on_image(t, "ext4", f"mkfs.ext4 {MKFS_EXT}", options="data=journal")


@row("ext4, bigalloc", ("ext4",), ("mkfs.ext4",), "always")
def _(t):
    return on_image(t, "ext4", f"mkfs.ext4 {MKFS_EXT} -O bigalloc -C 65536")


# A file that lies in its inode is small.
@row("ext4, inline_data", ("ext4",), ("mkfs.ext4",), sizes=(None, 150, 3000))
def _(t):
    return on_image(t, "ext4", f"mkfs.ext4 {MKFS_EXT} -O inline_data -I 512")


# ------------------------------------------------------------------ XFS, btrfs

def reflinked(t, place):
    """Shares each block of the file with another one, which is kept."""
    share = f"cp --reflink=always {place.export} {place.export}.twin"
    file_of_holes = place.fresh

    def fresh(size):
        file_of_holes(size)
        with open(place.export, "rb+") as file:
            for offset in range(0, size, MIB):
                file.seek(offset)
                file.write(nonzero_pattern(offset, 4096))
        shell(t, share)
    place.fresh = fresh
    place.hook["ready"] = share
    return place


@row("XFS", ("xfs",), ("mkfs.xfs",), "always")
def _(t):
    return on_image(t, "xfs", "mkfs.xfs -q")


@row("XFS, blocks of 1 KiB, a reflinked file", ("xfs",), ("mkfs.xfs",), "always")
def _(t):
    return reflinked(t, on_image(t, "xfs", "mkfs.xfs -q -b size=1024 -m reflink=1"))


@row("XFS, a reflinked file", ("xfs",), ("mkfs.xfs",), "always")
def _(t):
    return reflinked(t, on_image(t, "xfs", "mkfs.xfs -q -m reflink=1"))


@row("btrfs", ("btrfs",), ("mkfs.btrfs",), "always", sizes=(None, 1500))
def _(t):
    return on_image(t, "btrfs", "mkfs.btrfs -q")


@row("btrfs, compressed", ("btrfs",), ("mkfs.btrfs",), "always", sizes=(None, 1500))
def _(t):
    return on_image(t, "btrfs", "mkfs.btrfs -q", options="compress-force=zstd")


@row("btrfs, a reflinked file", ("btrfs",), ("mkfs.btrfs",), "always")
def _(t):
    return reflinked(t, on_image(t, "btrfs", "mkfs.btrfs -q"))


# ------------------------------------------------------------------ in memory

@row("tmpfs", ("tmpfs",), (), "always", needs=())
def _(t):
    return Place(mounted(t, "tmpfs", "none")[0] + "/disk")


@row("ramfs", ("ramfs",), (), needs=())
def _(t):
    return Place(mounted(t, "ramfs", "none")[0] + "/disk")


# ------------------------------------------------------------------ FAT

@row("vfat", ("vfat",), ("mkfs.vfat",))
def _(t):
    return on_image(t, "vfat", "mkfs.vfat -F 32")


@row("exfat", ("exfat",), ("mkfs.exfat",))
def _(t):
    return on_image(t, "exfat", "mkfs.exfat")


# ------------------------------------------------------------------ one above another

def overlay(t, below, lower="", upper="upper"):
    directory = t.path("merged")
    unmounted_at_the_end(t, directory)
    options = f"lowerdir={lower or below + '/lower'},upperdir={below}/{upper},workdir={below}/work"
    again = f"mount -t overlay -o {options} none {directory}"
    return directory, again


@row("overlayfs over ext3", ("ext4", "overlay"), ("mkfs.ext3",))
def _(t):
    below = on_image(t, "ext4", f"mkfs.ext3 {MKFS_EXT}", prepare="mkdir lower upper work")
    directory, mount = overlay(t, os.path.dirname(below.export))
    shell(t, mount)
    return Place(f"{directory}/disk",
                 hook={"remount": f"umount {directory}; {below.hook['remount']}; {mount}"})


@row("overlayfs over ext3, a file that was copied up", ("ext4", "overlay"), ("mkfs.ext3",))
def _(t):
    below = on_image(t, "ext4", f"mkfs.ext3 {MKFS_EXT}", prepare="mkdir lower upper work")
    base = os.path.dirname(below.export)
    directory, mount = overlay(t, base)
    begin = (f"! mountpoint -q {directory} || umount {directory}; cd {base}; rm -rf upper work; "
             "mkdir upper work")

    def fresh(size):
        shell(t, begin)
        with open(f"{base}/lower/disk", "wb") as file:
            file.truncate(size)
        shell(t, mount)
    return Place(f"{directory}/disk", source=f"{base}/lower/disk", fresh=fresh,
                 # Copying up, overlayfs itself believes SEEK_DATA, which misses dirty pages here.
                 hook={"begin": begin, "ready": f"sync {base}/lower/disk; {mount}",
                       "remount": f"umount {directory}; {below.hook['remount']}; {mount}"})


@row("FUSE, bindfs", ("fuse",), ("bindfs",), needs=("fuse",))
def _(t):
    private_mounts()
    directory, below = t.path("mnt"), t.path("below")
    unmounted_at_the_end(t, directory)
    os.mkdir(below)
    mount = f"bindfs {below} {directory}"
    shell(t, mount)
    return Place(f"{directory}/disk", hook={"remount": f"umount {directory}; {mount}"})


def passed_on(t, *options):
    """A file system by FUSE that asks the file below, in an ext3, where data is (SEEK_DATA). Its
    sync is one of that file, too; of one whose sync does nothing (libfuse's passthrough.c) no
    block status can be right, unless all is called data."""
    below = on_image(t, "ext4", f"mkfs.ext3 {MKFS_EXT}")
    directory = t.path("fuse")
    unmounted_at_the_end(t, directory)
    below.fresh(MIB)
    # The end of its standard input ends it.
    unread, theirs = os.pipe()
    t.defer(os.close, theirs)
    t.spawn([eio_fs_path(), *options, below.export, directory], fds={0: unread})
    os.close(unread)
    wait_until(lambda: os.path.exists(f"{directory}/disk"), "the file system")

    def fresh(size):
        os.truncate(f"{directory}/disk", 0)
        os.truncate(f"{directory}/disk", size)
    return Place(f"{directory}/disk", fresh=fresh)


@row("FUSE that passes on where data is, over ext3", ("fuse", "ext4"), ("mkfs.ext3",),
     needs=("fuse", "loop"))
def _(t):
    return passed_on(t, "--sync")


def by_fuse_on_image(t, mkfs, mount):
    """A file system in an image that a program mounts. On a device, so that its end is waited
    for."""
    private_mounts()
    image = t.sparse_image(IMAGE_BYTES)
    device = device_over(t, image)
    t.run([*shlex.split(mkfs), device])
    directory = t.path("mnt")
    unmounted_at_the_end(t, directory)
    shell(t, f"{mount} {device} {directory}")
    return Place(f"{directory}/disk",
                 hook={"remount": f"umount {directory}; {mount} {device} {directory}"})


@row("FUSE, ntfs-3g", ("fuse", "fuseblk"), ("mkntfs", "ntfs-3g"), needs=("loop", "fuse"))
def _(t):
    return by_fuse_on_image(t, "mkntfs -Q -F -q", "ntfs-3g")


@row("FUSE, exfat", ("fuse", "fuseblk"), ("mkfs.exfat", "mount.exfat-fuse"),
     needs=("loop", "fuse"))
def _(t):
    return by_fuse_on_image(t, "mkfs.exfat", "mount.exfat-fuse")


# ------------------------------------------------------------------ block devices

BLKDISCARD, BLKZEROOUT, BLKGETSIZE64 = 0x1277, 0x127F, 0x80081272


def zeroed(path):
    with open(path, "rb+", buffering=0) as device:
        size = struct.unpack("Q", fcntl.ioctl(device, BLKGETSIZE64, bytes(8)))[0]
        fcntl.ioctl(device, BLKZEROOUT, struct.pack("QQ", 0, size))


def on_device(path):
    return Place(path, fresh=lambda size: zeroed(path),
                 hook={"remount": f"blockdev --flushbufs {path}"})


for sector in (512, 4096):
    @row(f"a loop device with sectors of {sector} bytes", tools=("blockdev",))
    def _(t, bytes_each=sector):
        return on_device(device_over(t, t.sparse_image(16 * MIB), block_size=bytes_each))


def zram(t, size):
    """A zram device of our own; its path."""
    need_privilege("root")
    control = Path("/sys/class/zram-control")
    modprobe = find_tool("modprobe")
    if not control.exists() and modprobe:
        os.spawnv(os.P_WAIT, modprobe, ["modprobe", "-q", "zram"])
    need_in_kernel("zram", control.exists())
    number = (control / "hot_add").read_text(encoding="ascii").strip()
    t.defer((control / "hot_remove").write_text, number)
    path = f"/dev/zram{number}"
    Path(f"/sys/block/zram{number}/disksize").write_text(str(size), encoding="ascii")
    wait_until(lambda: os.path.exists(path), path)
    return path


@row("zram", tools=("blockdev",), needs=())
def _(t):
    return on_device(zram(t, 16 * MIB))


# ------------------------------------------------------------------ what can only be read

def packed(t, kind, pack):
    """A file in an image that `pack` makes of a directory, which it gets before its image."""
    private_mounts()
    os.mkdir(t.path("content"))
    directory, image = t.path("mnt"), t.path("image")
    unmounted_at_the_end(t, directory)
    source = t.path("content/disk")
    line = pack.format(directory=t.path("content"), image=image)
    mount = f"mount -t {kind} -o ro,loop {image} {directory}" if kind else ""
    return Place(f"{directory}/disk", source=source,
                 hook={"begin": f"! mountpoint -q {directory} || umount {directory}; rm -f {image}",
                       "ready": f"{line} >/dev/null; {mount}",
                       "remount": f"umount {directory}; {mount}"})


@row("erofs", ("erofs",), ("mkfs.erofs",), read_only=True)
def _(t):
    return packed(t, "erofs", "mkfs.erofs {image} {directory}")


@row("erofs, compressed", ("erofs",), ("mkfs.erofs",), read_only=True)
def _(t):
    return packed(t, "erofs", "mkfs.erofs -zlz4 {image} {directory}")


@row("erofs, with holes", ("erofs",), ("mkfs.erofs",), read_only=True)
def _(t):
    return packed(t, "erofs", "mkfs.erofs --chunksize=4096 {image} {directory}")


@row("squashfs", ("squashfs",), ("mksquashfs",), read_only=True)
def _(t):
    return packed(t, "squashfs", "mksquashfs {directory} {image} -noappend -quiet -no-progress")


@row("iso9660", ("iso9660",), ("xorrisofs",), read_only=True)
def _(t):
    return packed(t, "iso9660", "xorrisofs -quiet -R -o {image} {directory}")
