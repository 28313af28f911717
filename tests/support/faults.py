"""Helpers of the tests of faults: mounts, loop devices, a failing file system.

Each is a context manager, and each also ends with this process if it is killed: mounts are made in a
mount namespace of our own (`private_mounts`), loop devices are held open with the autoclear flag, and
the failing file system ends at end of file on its standard input.
"""

import array
import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import select
import struct
import subprocess
import sys
import time

from harness import GUARD, require, wait_until

_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE = 0x4C82, 0x4C0A
_LO_FLAGS_READ_ONLY, _LO_FLAGS_AUTOCLEAR, _LO_FLAGS_PARTSCAN = 1, 4, 8
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS, _FS_IMMUTABLE_FL = 0x80086601, 0x40086602, 0x10
_BLKROSET, _BLKGETSIZE64, _BLKPG, _BLKPG_ADD_PARTITION = 0x125D, 0x80081272, 0x1269, 1

_libc = ctypes.CDLL(None, use_errno=True)
_have_private_mounts = False


def _check(result, what):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def private_mounts():
    """Gives this process a mount namespace of its own; what it mounts nobody else sees.

    To be called from the main thread, before another is started. Later calls do nothing.
    """
    global _have_private_mounts
    if not _have_private_mounts:
        _check(_libc.unshare(_CLONE_NEWNS), "unshare")
        _check(_libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None),
               "making / private")
        _have_private_mounts = True


def need_privilege(*needs):
    """The test can't run without these: "root", "loop" and "fuse"."""
    for thing in needs:
        if thing == "root":
            require(os.geteuid() == 0, "needs root")
        elif thing == "loop":
            require(os.access("/dev/loop-control", os.R_OK | os.W_OK), "needs loop devices")
        elif thing == "fuse":
            require(os.access("/dev/fuse", os.R_OK | os.W_OK), "needs /dev/fuse")
            require(eio_fs_path() is not None,
                    "needs tests/support/eio_fs, which is built where libfuse3 is found")


class Mount:
    """A mount in our own namespace; `path` is where."""

    def __init__(self, source, path, kind, options="", read_only=False):
        self.source, self.path, self.kind = source, path, kind
        self.options, self.read_only = options, read_only

    def __enter__(self):
        private_mounts()
        os.makedirs(self.path, exist_ok=True)
        flags = _MS_RDONLY if self.read_only else 0
        _check(_libc.mount(self.source.encode(), self.path.encode(), self.kind.encode(),
                           ctypes.c_ulong(flags), self.options.encode()),
               f"mount {self.kind} on {self.path}")
        return self

    def __exit__(self, *unused):
        # Lazily: a server that a failed test left behind must not keep us from going on.
        _libc.umount2(self.path.encode(), _MNT_DETACH)


def tmpfs(path, size_bytes):
    return Mount("tmpfs", path, "tmpfs", f"size={size_bytes},mode=755")


def bind(source, path, recursive=False):
    """Shows the directory `source` again at `path`, for as long as our namespace lasts."""
    private_mounts()
    os.makedirs(path, exist_ok=True)
    _check(_libc.mount(source.encode(), path.encode(), None,
                       ctypes.c_ulong(_MS_BIND | (_MS_REC if recursive else 0)), None),
           f"binding {source} to {path}")


class ReadOnlyBind:
    """Shows the directory `source` again at `path`, read-only."""

    def __init__(self, source, path):
        self.source, self.path = source, path

    def __enter__(self):
        bind(self.source, self.path)
        _check(_libc.mount(None, self.path.encode(), None,
                           ctypes.c_ulong(_MS_BIND | _MS_REMOUNT | _MS_RDONLY), None),
               "bind read-only")
        return self

    def __exit__(self, *unused):
        _libc.umount2(self.path.encode(), _MNT_DETACH)


class LoopDevice:
    """A loop device over `backing`; `path` is its node in /dev.

    It is set up by ioctl and not by losetup because that way it is marked autoclear from its
    first moment, and the kernel takes it down with its last descriptor whatever happens to us.
    """

    def __init__(self, backing, read_only=False, block_size=0, partitions=False, offset=0,
                 size_limit=0):
        self.backing, self.read_only, self.block_size = backing, read_only, block_size
        self.partitions, self.offset, self.size_limit = partitions, offset, size_limit
        self.path = None
        self._fd = -1

    def __enter__(self):
        flags = _LO_FLAGS_AUTOCLEAR
        flags |= _LO_FLAGS_READ_ONLY if self.read_only else 0
        flags |= _LO_FLAGS_PARTSCAN if self.partitions else 0
        backing_fd = os.open(self.backing, os.O_RDONLY if self.read_only else os.O_RDWR)
        # struct loop_config: fd, block_size, struct loop_info64, eight reserved words.
        info = struct.pack("=QQQQQIIII64s64s32sQQ", 0, 0, 0, self.offset, self.size_limit,
                           0, 0, 0, flags, b"", b"", b"", 0, 0)
        config = struct.pack("=II", backing_fd, self.block_size) + info + bytes(64)
        try:
            self._configure(config)
        finally:
            os.close(backing_fd)
        return self

    def _configure(self, config):
        # Between "which is free" and "take it" another process may be faster, and udev may look at it
        # for the last time.
        for _ in range(100):
            with open("/dev/loop-control", "rb+", buffering=0) as control:
                number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            self.path = f"/dev/loop{number}"
            fd = os.open(self.path, os.O_RDWR)
            try:
                # udev leaves a locked device alone. Otherwise it would read it, and bring into the
                # page cache what a test wants to be read later.
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.ioctl(fd, _LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(fd)
                if error.errno not in (errno.EBUSY, errno.EWOULDBLOCK):
                    raise
                time.sleep(0.01)
                continue
            self._fd = fd
            # An earlier user of the device may have left it read-only ('blockdev --setro').
            fcntl.ioctl(fd, _BLKROSET, struct.pack("i", self.read_only))
            return
        raise OSError(errno.EBUSY, "no loop device could be taken")

    def __exit__(self, *unused):
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def size(self):
        return struct.unpack("Q", fcntl.ioctl(self._fd, _BLKGETSIZE64, bytes(8)))[0]

    def add_partition(self, start_bytes, length_bytes):
        """Makes partition 1 and returns its node in /dev; the device needs `partitions`.

        The kernel is told outright: one that can read no partition table can do this still.
        """
        partition = ctypes.create_string_buffer(
            struct.pack("=qqi64s64s4x", start_bytes, length_bytes, 1, b"", b""))
        fcntl.ioctl(self._fd, _BLKPG,
                    struct.pack("iiiP", _BLKPG_ADD_PARTITION, 0, len(partition) - 1,
                                ctypes.addressof(partition)))
        return wait_until(lambda: os.path.exists(self.path + "p1") and self.path + "p1",
                          "the partition's node")

    def queue(self, name):
        """What /sys says of the device, e.g. queue("rotational")."""
        with open(f"/sys/block/{os.path.basename(self.path)}/queue/{name}",
                  encoding="ascii") as file:
            return int(file.read())

    def sync(self):
        """Brings what is in the device's page cache to the backing file."""
        os.fsync(self._fd)


def eio_fs_path():
    """The failing file system's program, or None where it wasn't built."""
    for top in (os.environ.get("NBDINETD_BUILDDIR"),
                os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")):
        if top:
            path = os.path.join(top, "tests", "support", "eio_fs")
            if os.access(path, os.X_OK):
                return os.path.abspath(path)
    return None


class FailingFs:
    """The file system of tests/support/eio_fs.c, mounted; `disk` is the file that it shows.

    See there for the rules. `stable`, where it was asked for, is the file that gets what was
    synced: what a power cut would leave. With `direct_io`, read(2) and write(2) bypass the page cache.
    With `fresh_attributes`, each stat(2) asks the file system.
    """

    def __init__(self, directory, content, fallocate=True, lseek=True, stable=False,
                 direct_io=False, fresh_attributes=False):
        self.backing = os.path.join(directory, "backing")
        self.mountpoint = os.path.join(directory, "mountpoint")
        self.stable = os.path.join(directory, "stable") if stable else None
        self.disk = os.path.join(self.mountpoint, "disk")
        self._content = content
        self._options = [] if fallocate else ["--no-fallocate"]
        self._options += [] if lseek else ["--no-lseek"]
        self._options += ["--direct-io"] if direct_io else []
        self._options += ["--fresh-attributes"] if fresh_attributes else []
        self._process = None

    def __enter__(self):
        if os.geteuid() == 0:
            private_mounts()
        os.makedirs(self.mountpoint)
        for path in filter(None, (self.backing, self.stable)):
            with open(path, "wb") as file:
                file.write(self._content)
        options = self._options + ([f"--stable={self.stable}"] if self.stable else [])
        self._process = subprocess.Popen(
            [eio_fs_path(), *options, self.backing, self.mountpoint],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            line = self._answer()
            if line != "ready":
                raise OSError(f"eio_fs didn't start: it said '{line}'")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *unused):
        self._process.stdin.close()
        try:
            self._process.wait(GUARD)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _answer(self):
        # The pipe is read without a buffer in between, so that select tells the truth.
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], GUARD)[0]:
                raise TimeoutError("eio_fs doesn't answer")
            byte = os.read(self._process.stdout.fileno(), 1)
            if not byte:
                break
            line += byte
        return line.decode().rstrip("\n")

    def _command(self, line):
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def rule(self, operation, action, start=0, end=None, count=None):
        """From now on `operation` within start..end meets `action`, the first `count` times."""
        end = (1 << 63) if end is None else end
        words = f"rule {operation} {action} {start} {end}" + ("" if count is None else f" {count}")
        answer = self._command(words)
        if answer != "ok":
            raise ValueError(answer)

    def release(self, operation=None):
        """Lets go what is held (of one operation), and holds no more."""
        assert self._command("release" + (f" {operation}" if operation else "")) == "ok"

    def clear(self):
        """Forgets all rules and lets go what is held."""
        assert self._command("clear") == "ok"

    def count(self, what):
        """How many "reads", "writes", "syncs", "fallocates", "lseeks" there were, are "held"."""
        words = self._command("count").split()
        return int(dict(zip(words[::2], words[1::2]))[what])

    def wait_held(self, number):
        """Waits until at least `number` requests are held, and so have surely been started."""
        wait_until(lambda: self.count("held") >= number, f"{number} requests held")


def ext4_image(path, size_bytes, journal=False):
    """Makes an ext4 image, by default without a journal: the smallest that holds a file."""
    with open(path, "wb") as file:
        file.truncate(size_bytes)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-O",
                    "has_journal" if journal else "^has_journal", "-E", "lazy_itable_init=0", path],
                   check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


class Immutable:
    """Sets the immutable flag of a file for as long as the block lasts."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        self._change(lambda flags: flags | _FS_IMMUTABLE_FL)
        return self

    def __exit__(self, *unused):
        self._change(lambda flags: flags & ~_FS_IMMUTABLE_FL)

    def _change(self, change):
        fd = os.open(self.path, os.O_RDONLY)
        try:
            flags = struct.unpack("l", fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(8)))[0]
            fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("l", change(flags)))
        finally:
            os.close(fd)


def nonzero_pattern(offset, length):
    """Bytes that are never zero and tell where they belong: wrong bytes can't pass as right."""
    first = offset // 8
    words = array.array("Q", [word * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF | 0x0101010101010101
                              for word in range(first, first + (length + 15) // 8 + 1)])
    if sys.byteorder == "big":
        words.byteswap()
    skip = offset % 8
    return words.tobytes()[skip:skip + length]


@contextlib.contextmanager
def kept_in_cache(path, length=0):
    """The first `length` bytes, or the whole file, are in the page cache, and stay there: the kernel may
    otherwise drop clean pages at any time (drop_caches, memory.reclaim, DAMON)."""
    with open(path, "r+b") as file:
        memory = mmap.mmap(file.fileno(), length)
    first = ctypes.c_char.from_buffer(memory)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlock(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(len(memory))) != 0:
        raise OSError(ctypes.get_errno(), f"mlock of {path}")
    try:
        yield
    finally:
        del first
        memory.close()


def drop_caches(path):
    """What is in the page cache of this file is gone afterwards, as far as it is clean."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
