"""What the benchmark takes from the machine, and gives back: a working directory, the C programs,
files with certain contents, loop devices, the page cache, and what a machine says about itself.

Everything that lives longer than a call is registered with the Lab's exit stack, so that it is
undone in reverse order however the run ends.
"""

import array
import contextlib
import ctypes
import datetime
import fcntl
import mmap
import os
import platform
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
SOURCES = Path(__file__).resolve().parent
LINK_SERVER = "10.99.0.1"  # the address that link.c gives to the server
BLKFLSBUF = 0x1261  # linux/fs.h: write back and drop a block device's pages

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int,
                       ctypes.c_int, ctypes.c_long]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Unavailable(Exception):
    """This machine can't do it, and here is why."""


class Unsupported(Unavailable):
    """No package and no privilege would help: the kernel, or the container around it, lacks it."""


def find_program(name):
    """The path of a program, or None; the system's directories count even for a plain user."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin")


def need_program(name):
    path = find_program(name)
    if path is None:
        raise Unavailable(f"{name} is not installed")
    return path


def adopt_orphans():
    """Processes that daemonize become ours, so that we can reap them and know that they ended."""
    PR_SET_CHILD_SUBREAPER = 36
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent():
    """For a child before exec: a benchmark that is killed takes its servers along."""
    PR_SET_PDEATHSIG = 1
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def run_client(command, seconds):
    """Runs a client to its end and returns its standard output."""
    command = [str(word) for word in command]
    # A session of its own, so that its children end with it, and ^C comes to us alone.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, start_new_session=True)
    try:
        output, errors = process.communicate(timeout=60 + 10 * seconds)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stderr.close()
        if isinstance(error, subprocess.TimeoutExpired):
            raise RuntimeError(f"'{' '.join(command)}' did not end") from None
        raise
    if process.returncode != 0:
        said = (errors or output).decode(errors="replace").strip()
        raise RuntimeError(f"'{' '.join(command)}' failed ({process.returncode}): {said[-400:]}")
    return output.decode()


def reap_orphans(spared):
    """Reaps those of our dead children that have become ours, see adopt_orphans()."""
    try:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    except OSError:
        return
    for pid in set(map(int, children)) - spared:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass


class Lab:
    """The working directory and what is in it. Use as a context manager."""

    def __init__(self, directory, file_bytes, nbdinetd):
        self.base_directory = directory
        self.file_bytes = file_bytes
        self.nbdinetd = nbdinetd
        self._made = {}

    def __enter__(self):
        self._stack = contextlib.ExitStack()
        self.directory = Path(tempfile.mkdtemp(prefix="nbdinetd-bench-", dir=self.base_directory))
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        # A Unix socket's path has 107 bytes at most.
        self.socket_directory = self.directory
        if len(str(self.directory)) > 80:
            self.socket_directory = Path(tempfile.mkdtemp(prefix="nbdinetd-bench-", dir="/tmp"))
            self._stack.callback(shutil.rmtree, self.socket_directory, ignore_errors=True)
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def _once(self, name, make):
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    # ---- programs ----

    def program(self, name, *flags):
        """The path of one of the C programs here, compiled when it is first asked for."""
        def compile_it():
            compiler = os.environ.get("CC") or "cc"
            need_program(compiler.split()[0])
            output = self.directory / ("-".join([name, *flags]))
            run_client([*compiler.split(), "-O2", "-std=gnu17", "-Wall", "-Wextra", *flags,
                        "-o", output, SOURCES / f"{name}.c"], 10)
            return output
        return self._once(("program", name, flags), compile_it)

    def openssl_program(self, name):
        try:
            return self.program(name, "-Wl,--no-as-needed", "-lssl", "-lcrypto")
        except RuntimeError as error:
            raise Unavailable(f"{name}.c needs OpenSSL's headers: {error}") from error

    # ---- TLS ----

    def psk_file(self):
        """The key of one user, alice, as nbdkit and libnbd want it."""
        def make():
            path = self.directory / "keys.psk"
            path.write_text(f"alice:{os.urandom(32).hex()}\n")
            return path
        return self._once("psk", make)

    def certificates(self):
        """A directory with a server's certificate and key, and the authority's certificate."""
        def make():
            directory = self.directory / "pki"
            directory.mkdir()
            openssl = need_program("openssl")
            new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
            authority = [directory / "ca-cert.pem", directory / "ca-key.pem"]
            run_client([openssl, "req", "-x509", *new_key, "-subj", "/CN=bench", "-days", "2",
                        "-keyout", authority[1], "-out", authority[0]], 10)
            run_client([openssl, "req", *new_key, "-subj", "/CN=localhost",
                        "-addext", f"subjectAltName=DNS:localhost,IP:{LINK_SERVER}",
                        "-keyout", directory / "server-key.pem", "-out", directory / "csr"], 10)
            run_client([openssl, "x509", "-req", "-in", directory / "csr", "-days", "2",
                        "-CA", authority[0], "-CAkey", authority[1], "-CAcreateserial",
                        "-copy_extensions", "copy", "-out", directory / "server-cert.pem"], 10)
            return directory
        return self._once("pki", make)

    # ---- files ----

    def random_file(self, name):
        """A file of random bytes on stable storage and in the page cache. Rows that read, rows
        that write and rows that drop caches have a file each, so that none spoils another's.

        It is written in small pieces, because a write makes folios of its own size where the
        file system has large ones, and what a later 4 KiB write costs the kernel grows with the
        folio: on ext4 of Linux 6.18 a bare pwrite does 1000 k/s after pieces of 4 KiB, 330 k/s
        after 64 KiB, and 30 k/s after 16 MiB or readahead, when no server matters any more."""
        def make():
            path = self.directory / name
            self._fill(path)
            return path
        return self._once(name, make)

    def _fill(self, path):
        with open(path, "wb", buffering=0) as file:
            for start in range(0, self.file_bytes, MIB):
                data = memoryview(os.urandom(min(MIB, self.file_bytes - start)))
                for piece in range(0, len(data), 64 * KIB):
                    file.write(data[piece:piece + 64 * KIB])
            os.fsync(file.fileno())

    def fragmented_file(self, extents):
        """Blocks of data and of hole in turn, so that each is an extent. The blocks are written:
        space that is only allocated reads as a hole to SEEK_DATA."""
        def make():
            path = self.directory / "fragmented.img"
            block = os.statvfs(self.directory).f_bsize
            data = os.urandom(block)
            with open(path, "wb") as file:
                os.ftruncate(file.fileno(), extents * block)
                for number in range(0, extents, 2):
                    os.pwrite(file.fileno(), data, number * block)
                os.fsync(file.fileno())
            return path
        return self._once(("fragmented", extents), make)

    def scattered_file(self, size, data_bytes):
        """A sparse file with its data in pieces of 1 MiB at even distances."""
        def make():
            path = self.directory / "scattered.img"
            pieces = max(1, data_bytes // MIB)
            with open(path, "wb") as file:
                os.ftruncate(file.fileno(), size)
                for piece in range(pieces):
                    os.pwrite(file.fileno(), os.urandom(MIB), size // pieces * piece // MIB * MIB)
                os.fsync(file.fileno())
            return path
        return self._once(("scattered", size), make)

    @contextlib.contextmanager
    def sparse_file(self, size):
        """An empty file that exists for the length of a with statement."""
        path = self.directory / "sparse.img"
        try:
            with open(path, "wb") as file:
                os.ftruncate(file.fileno(), size)
            yield path
        finally:
            path.unlink(missing_ok=True)

    def loop_device(self, backing):
        """A block device over the file that bypasses the file's own page cache."""
        def make():
            losetup = need_program("losetup")
            try:
                device = run_client([losetup, "--find", "--show", "--direct-io=on", backing],
                                    1).strip()
            except RuntimeError as error:
                raise Unavailable(f"no loop device: {error}") from None
            self._stack.callback(subprocess.run, [losetup, "--detach", device], check=False)
            return Path(device)
        return self._once(("loop", backing), make)

    # ---- page cache ----

    def warm(self, path):
        """Has a random_file() in the page cache, in the way that it was made."""
        if resident_share(path) < 0.999:
            self._fill(path)
        with open(path, "rb", buffering=0) as file:
            buffer = bytearray(4 * MIB)
            while file.readinto(buffer):
                pass

    def sync(self, path):
        """Leaves nothing for writeback to do during the next sample."""
        with open(path, "rb") as file:
            os.fsync(file.fileno())

    def drop_cache(self, path, backing=None):
        """Leaves nothing of the file or device in the page cache, or says that it can't."""
        for each in filter(None, (backing, path)):
            with open(each, "rb") as file:
                os.fsync(file.fileno())
                if Path(each).is_block_device():
                    fcntl.ioctl(file.fileno(), BLKFLSBUF)
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        # The advice may leave pages; only then is it worth to empty everybody's cache.
        if resident_share(path) > 0.01:
            try:
                Path("/proc/sys/vm/drop_caches").write_text("1")
            except OSError as error:
                raise Unavailable(f"can't drop the page cache: {error}") from None
        if resident_share(path) > 0.01:
            raise Unavailable(f"{path} does not leave the page cache")


def resident_share(path):
    """How much of the file is in the page cache, from 0 to 1."""
    with open(path, "rb") as file:
        size = os.lseek(file.fileno(), 0, os.SEEK_END)
        pages = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE
        address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
        if address in (None, ctypes.c_void_p(-1).value):
            raise OSError(ctypes.get_errno(), "mmap")
        try:
            states = array.array("B", bytes(pages))
            if _libc.mincore(address, size, states.buffer_info()[0]) != 0:
                raise OSError(ctypes.get_errno(), "mincore")
        finally:
            _libc.munmap(address, size)
    return states.tobytes().count(1) / pages


class InFlight:
    """How many requests a block device has had under way, on average, between two moments."""

    def __init__(self, path):
        status = os.stat(path)
        number = status.st_rdev if Path(path).is_block_device() else status.st_dev
        self._stat = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat")
        self._start = self._read()

    def _read(self):
        try:
            # Documentation/block/stat.rst: the 11th field is the time in queue of all requests,
            # in milliseconds.
            return int(self._stat.read_text().split()[10])
        except (OSError, IndexError):
            return None

    def average(self, seconds):
        end = self._read()
        if self._start is None or end is None:
            return None
        return (end - self._start) / 1000 / seconds


# ---- what the machine is ----

def _first_line(command):
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              stdin=subprocess.DEVNULL, timeout=10, check=False)
        return done.stdout.decode(errors="replace").strip().splitlines()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return None


def _field(path, pattern):
    try:
        found = re.search(pattern, Path(path).read_text(), re.MULTILINE)
    except OSError:
        return None
    return found.group(1) if found else None


def _file_system_of(directory):
    number = os.stat(directory).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == device:
            return fields[fields.index("-") + 1]
    return "an unknown file system"


def busy_cores(seconds):
    """How many cores are at work while this program sleeps: other people's load, which makes
    figures worthless."""
    def ticks():
        # user, nice, system, idle, iowait, irq, softirq, steal: proc(5)
        values = [int(word) for word in Path("/proc/stat").read_text().split()[1:9]]
        return sum(values) - values[3] - values[4]
    before = ticks()
    time.sleep(seconds)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds


def describe_machine(directory, nbdinetd):
    versions = {}
    for name, command in {"nbdinetd": [nbdinetd, "--version"],
                          "nbdkit": ["nbdkit", "--version"],
                          "qemu-nbd": ["qemu-nbd", "--version"],
                          "nbd-server": ["nbd-server", "-V"],
                          "fio": ["fio", "--version"],
                          "nbdcopy": ["nbdcopy", "--version"],
                          "systemd": ["systemd-socket-activate", "--version"],
                          "cc": [os.environ.get("CC", "cc"), "--version"]}.items():
        program = find_program(str(command[0]))
        line = _first_line([program, *command[1:]]) if program else None
        if line:
            found = re.search(r"\d+(\.\d+)+|\d+", line)
            versions[name] = found.group(0) if found else line
    virtual = _first_line(["systemd-detect-virt", "--vm"])
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _field("/proc/cpuinfo", r"^model name\s*:\s*(.*)$") or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "kernel": platform.release(),
        "system": _field("/etc/os-release", r'^PRETTY_NAME="?([^"\n]*)') or platform.system(),
        "file_system": _file_system_of(directory),
        "virtual_machine": None if virtual in (None, "none") else virtual,
        "versions": versions,
    }
