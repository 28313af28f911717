"""A system with a real systemd as its process 1, for the tests of one file.

    outer process      namespaces for mounts and the network, and an overlay of this machine's root
    ├─ middle          a cgroup of its own
    │  └─ systemd      process 1 of a PID namespace; its root directory is the overlay
    └─ the tests       outside of the system, in the same network, whose only interface is lo

The system has what `make install` installs from this build: the program, the units as they are. It
boots in some 3 s. The tests reach it by commands that run inside (Machine.run), by its files
(Machine.path), and by its network. What it writes goes to a tmpfs and is lost with it.

The machine outside must not suffer. Therefore these are the system's own:
  /tmp, /var/tmp    systemd-tmpfiles empties them when it boots
  /run, /dev/shm    sockets of the machine's services, D-Bus and journald among them
  /dev              /dev/log leads to the machine's journal
  /proc, /sys       systemd changes limits of the kernel; here it sees them read-only
  the cgroup        systemd moves every process of its root cgroup
  the PID namespace the kernel ends every process in it when its process 1 ends
  the network       two systems can listen on the same port
  the machine's id  journal files are kept under it

`tests/support/pid1 COMMAND` runs a command in such a system by hand.

It is longer than 500 lines because a Machine is made, booted, used and taken away by one object.
"""

import ctypes
import fcntl
import json
import os
import pickle
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import surroundings
from harness import BUILDDIR, GUARD, become, configured, find_tool, interrupt_on_term, note, skip_all, wait_until

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _CLONE_NEWCGROUP, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
_CLONE_NEWPID, _CLONE_NEWNET = 0x20000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 8, 32, 4096
_MS_REC, _MS_PRIVATE, _MS_SHARED = 16384, 1 << 18, 1 << 20
_MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1
_SYS_PIVOT_ROOT = {"x86_64": 155}.get(os.uname().machine, 41)
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1

SYSTEMD = "/lib/systemd/systemd"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Where systemd looks for what is installed, by the word in front of the last part.
_SEARCHED = re.compile(r"^(/usr/local|/usr)?/lib/systemd/")
# Of no use here; some of them are slow, or would change the machine.
_MASKED = (
    "dev-hugepages.mount", "getty@tty1.service", "ldconfig.service", "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
    "systemd-binfmt.service", "systemd-boot-update.service", "systemd-firstboot.service",
    "systemd-hwdb-update.service", "systemd-logind.service", "systemd-modules-load.service",
    "systemd-networkd.service", "systemd-pcrphase-sysinit.service", "systemd-random-seed.service",
    "systemd-resolved.service", "systemd-sysctl.service", "systemd-timesyncd.service",
    "systemd-udev-settle.service", "systemd-udev-trigger.service", "systemd-udevd.service",
    "systemd-update-utmp.service")


# ------------------------------------------------------------------ system calls

def _check(result, what):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _unshare(flags):
    _check(_libc.unshare(flags), "unshare")


def _mount(source, target, kind=None, flags=0, data=None):
    arguments = [str(a).encode() if a is not None else None for a in (source, target, kind, data)]
    _check(_libc.mount(arguments[0], arguments[1], arguments[2], ctypes.c_ulong(flags), arguments[3]),
           f"mount {kind or ''} {target}")


def _set_up_loopback():
    """lo of a new network namespace, with 127.0.0.1 and ::1."""
    with socket.socket() as any_socket:
        request = struct.pack("16sH22x", b"lo", 0)
        flags, = struct.unpack_from("H", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))


def _in_child(function):
    """Forks; the child becomes function() and exits with what it returns. It ends with us."""
    sys.stdout.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid

    def child():
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() not in (parent, 0):  # 0: it is in another PID namespace
            os._exit(1)
        return function()
    become(child)


def _wait(pid):
    """Waits for a child; the exit status to pass on."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status if status >= 0 else 128 - status


# ------------------------------------------------------------------ the cgroup

def _own_cgroup(mount_point):
    """An empty cgroup below our own. Returns its path."""
    mount_point.mkdir()
    _mount("cgroup2", mount_point, "cgroup2")
    here = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    if not here:
        raise OSError("there is no cgroup2")
    cgroup = mount_point / here[1] / f"nbdinetd-pid1-{os.getpid()}-{mount_point.parent.name}"
    cgroup.mkdir()
    return cgroup


def _empty_cgroup(path):
    """Removes the cgroups that systemd has made in this one; all their processes have been killed, but not
    all of them may be gone yet."""
    def is_empty():
        for directory, _, _ in os.walk(path, topdown=False):
            try:
                if directory != str(path):
                    os.rmdir(directory)
            except OSError:
                pass
        return not any(entry.is_dir() for entry in path.iterdir())
    wait_until(is_empty, f"the cgroups in {path} to be empty")


# ------------------------------------------------------------------ the installed build

def stage(directory, target="install"):
    """`make install` of this build into a directory."""
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")}
    result = subprocess.run(["make", "-s", "-C", str(BUILDDIR), target, f"DESTDIR={directory}"],
                            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                            env=environment)
    if result.returncode != 0:
        raise AssertionError(f"make install has failed:\n{result.stdout}{result.stderr}")


def _environment():
    """That of a command inside, as an administrator has it, who finds what is installed."""
    places = [configured("bindir"), configured("sbindir"), *_PATH.split(":")]
    return {"PATH": ":".join(dict.fromkeys(places)), "HOME": "/root", "LC_ALL": "C.UTF-8"}


def place_units(root):
    """With a prefix where systemd doesn't look, an administrator copies the units."""
    units = Path(configured("systemdsystemunitdir"))
    if not _SEARCHED.match(str(units)):
        shutil.copytree(f"{root}{units.parent}", root / "usr/local/lib/systemd", symlinks=True,
                        dirs_exist_ok=True)


# ------------------------------------------------------------------ the system

class BootFailure(Exception):
    """systemd is process 1, but the system doesn't come up."""


class Machine:
    """The system: an overlay that lasts as long as this object, and a systemd that boots in it, any
    number of times. All mounts are in the mount namespace of the process that made it."""

    def __init__(self, base):
        """base: an empty directory. `stage` in it, if there, is what make install has made."""
        self.base = Path(base)
        self.root = self.base / "root"
        self.init = None  # systemd's process id, outside, while it runs
        self._middle = self._pidfd = None
        layer = self.base / "layer"
        for directory in (self.root, layer):
            directory.mkdir()
        _mount("pid1", layer, "tmpfs", data="mode=0755")
        for name in ("upper", "work"):
            (layer / name).mkdir(mode=0o755)
        _mount("overlay", self.root, "overlay",
               data=f"lowerdir=/,upperdir={layer}/upper,workdir={layer}/work")
        self._settle()
        self._cgroup = _own_cgroup(self.base / "cgroup")

    def _settle(self):
        """The root directory of a system on which nothing is enabled."""
        units = self.root / "etc/systemd/system"
        units.mkdir(parents=True, exist_ok=True)
        for directory in units.iterdir():
            if directory.is_dir() and not directory.is_symlink():
                shutil.rmtree(directory)
        for path in ("etc/fstab", "etc/.updated", "var/.updated"):
            (self.root / path).write_text("")
        machine_id = self.root / "etc/machine-id"
        machine_id.unlink(missing_ok=True)
        machine_id.write_text(os.urandom(16).hex() + "\n")
        # Volatile: in /run. And no messages of the kernel, which are the machine's.
        shutil.rmtree(self.root / "var/log/journal", ignore_errors=True)
        journald = self.root / "etc/systemd/journald.conf.d"
        journald.mkdir(exist_ok=True)
        (journald / "pid1.conf").write_text("[Journal]\nReadKMsg=no\nAudit=no\n")
        for unit in _MASKED:
            path = units / unit
            path.unlink(missing_ok=True)
            path.symlink_to("/dev/null")
        # As on any machine, minus what would be enabled there.
        (units / "pid1.target").write_text(
            "[Unit]\nRequires=basic.target\nWants=dbus.service\nAfter=basic.target dbus.service\n"
            "AllowIsolate=yes\n")

    def install(self, stage):
        """Unpacks what make install has made, following the links of the system's root directory."""
        archive = subprocess.Popen(["tar", "-C", str(stage), "-c", "."], stdout=subprocess.PIPE)
        with archive:
            unpack = subprocess.run(["chroot", str(self.root), "tar", "-C", "/", "-x",
                                     "--keep-directory-symlink", "--no-same-owner"],
                                    stdin=archive.stdout, check=False, capture_output=True, text=True)
        if unpack.returncode or archive.returncode:
            raise AssertionError(f"installing has failed: {unpack.stderr}")
        place_units(self.root)

    # -------------------------------------------------------------- booting and ending

    def boot(self, target="pid1.target"):
        """Boots systemd, and waits until the target is reached. /run and /tmp are empty. An OSError tells
        that systemd can't even be started, a BootFailure that the system doesn't reach the target."""
        assert self.init is None, "the system is up"
        read, write = os.pipe()
        held_read, held = os.pipe()
        self._middle = _in_child(lambda: self._be_middle(write, (held_read, held), target))
        os.close(write)
        os.close(held_read)
        with os.fdopen(read) as pipe:
            told = pipe.read().split("\n", 1)
        if told[0].isdigit() and not told[1]:
            self.init = int(told[0])
            self._pidfd = os.pidfd_open(self.init)
        os.close(held)
        if self._pidfd is None:
            self.kill()
            raise OSError("the system can't be started: " + " ".join(told))
        deadline = time.monotonic() + GUARD
        while True:
            if self._has_ended():
                raise BootFailure(f"systemd has ended by itself\n{self._early_log()}")
            # In this order: a system that is up has nothing more to do for the target.
            system = self.run("systemctl", "is-system-running", check=False).stdout.strip()
            state = self.run("systemctl", "is-active", target, check=False).stdout.strip()
            if state == "active":
                return self
            if system in ("running", "degraded", "maintenance"):
                raise BootFailure(f"{target} is {state}, and the system {system}\n{self._early_log()}")
            if time.monotonic() > deadline:
                raise BootFailure(f"{target} is {state or 'unknown'} after {GUARD:g} s\n{self._early_log()}")
            time.sleep(0.05)

    def _be_middle(self, write, held, target):
        """The parent of process 1: nobody but it is in the new cgroup. Tells process 1's id, which stays
        that of process 1, even if that ends, until our parent closes the pipe `held`."""
        os.close(held[1])
        try:
            (self._cgroup / "cgroup.procs").write_text(str(os.getpid()))
            _unshare(_CLONE_NEWNS | _CLONE_NEWCGROUP | _CLONE_NEWPID | _CLONE_NEWUTS | _CLONE_NEWIPC)
            init = _in_child(lambda: self._be_init(write, target))
        except OSError as error:
            os.write(write, str(error).encode())
            return 1
        # Told when the pipe is closed by execve().
        os.write(write, f"{init}\n".encode())
        os.close(write)
        os.read(held[0], 1)
        return _wait(init)

    def _be_init(self, write, target):
        try:
            self._mount_all()
            os.chdir(self.root)
            # A root that is a mount, as on a machine: services' mount namespaces then copy no mount of
            # the machine outside. In a root that is no mount itself, only chroot() is possible.
            if _libc.syscall(_SYS_PIVOT_ROOT, b".", b".") == 0:
                _check(_libc.umount2(b".", _MNT_DETACH), "umount of the machine's root")
            else:
                os.chroot(".")
            os.chdir("/")
            # As systemd itself does where it is not in a container.
            try:
                _mount("none", "/", flags=_MS_REC | _MS_SHARED)
            except OSError:
                pass
            os.umask(0o022)
            null = os.open("/dev/null", os.O_RDWR)
            for descriptor in range(3):
                os.dup2(null, descriptor)
            surroundings.default_signals()
            os.set_inheritable(write, False)
            os.closerange(3, write)
            os.closerange(write + 1, 1024)
            os.execve(SYSTEMD, [SYSTEMD, "--system", f"--unit={target}", "--log-target=journal",
                                "--show-status=no"],
                      {"container": "other", "PATH": _PATH})
        except OSError as error:
            os.write(write, f"{error}\n".encode())
        return 1

    def _mount_all(self):
        root = self.root
        safe = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
        for path in ("dev", "run", "tmp", "var/tmp"):
            mode = "1777" if path.endswith("tmp") else "0755"
            _mount("tmpfs", root / path, "tmpfs", _MS_NOSUID | (_MS_NODEV if path != "dev" else 0),
                   f"mode={mode}")
        self._make_dev(root / "dev")
        _mount("proc", root / "proc", "proc", safe)
        _mount(root / "proc/sys", root / "proc/sys", flags=_MS_BIND)
        _mount("none", root / "proc/sys", flags=_MS_BIND | _MS_REMOUNT | _MS_RDONLY | safe)
        _mount("sysfs", root / "sys", "sysfs", safe | _MS_RDONLY)
        _mount("cgroup2", root / "sys/fs/cgroup", "cgroup2", safe)

    @staticmethod
    def _make_dev(dev):
        for name in ("null", "zero", "full", "random", "urandom", "tty", "kmsg", "fuse", "autofs",
                     *(path.name for path in Path("/dev").glob("loop*") if path.is_block_device())):
            if (Path("/dev") / name).exists():
                (dev / name).touch()
                _mount(Path("/dev") / name, dev / name, flags=_MS_BIND)
        for name, kind, data in (("pts", "devpts", "newinstance,ptmxmode=0666,mode=620"),
                                 ("shm", "tmpfs", "mode=1777")):
            (dev / name).mkdir()
            _mount(kind, dev / name, kind, _MS_NOSUID | _MS_NOEXEC, data)
        for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"),
                             ("stderr", "fd/2"), ("ptmx", "pts/ptmx"), ("core", "/proc/kcore")):
            (dev / name).symlink_to(target)

    def _has_ended(self):
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return bool(poller.poll(0))

    def _early_log(self):
        log = f"/proc/{self.init}/root/run/log/journal"
        return subprocess.run(["journalctl", f"--directory={log}", "--no-pager", "--quiet", "--lines=20"],
                              capture_output=True, text=True, check=False).stdout

    def boot_for(self, context):
        """For a test that needs a system of its own: boots it anew. It ends with the test."""
        self.kill()
        context.defer(self.kill)
        return self.boot()

    def power_off(self):
        """Shuts the system down as an administrator does, and waits for its end."""
        self.run("systemctl", "--no-block", "poweroff")
        self.wait_for_end()

    def wait_for_end(self):
        wait_until(self._has_ended, "the system to shut down")
        self.kill()

    def kill(self):
        """Ends the system at once, as a power cut does, by killing its process 1."""
        if self._pidfd is not None:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
            wait_until(self._has_ended, "the end of process 1")
            os.close(self._pidfd)
        if self._middle is not None:
            try:
                if self.init is None:
                    os.kill(self._middle, signal.SIGKILL)
                _wait(self._middle)
            except (ChildProcessError, ProcessLookupError):
                pass  # it was another process that has booted the system
        self.init = self._middle = self._pidfd = None
        _empty_cgroup(self._cgroup)

    def remove(self):
        """Ends it and takes its mounts away."""
        self.kill()
        self._cgroup.rmdir()
        for name in ("cgroup", "root", "layer"):
            _libc.umount2(str(self.base / name).encode(), _MNT_DETACH)

    # -------------------------------------------------------------- inside

    def path(self, inside):
        """A file of the system, as a path for this process. While the system runs, this is what its
        process 1 sees, /run, /tmp and /proc included."""
        root = Path(f"/proc/{self.init}/root") if self.init else self.root
        return root / str(inside).lstrip("/")

    def write(self, inside, text, mode=0o644):
        """Makes a file of the system, and the directories above it."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return path

    def _enter(self):
        return ["nsenter", f"--target={self.init}", "--mount", "--uts", "--ipc", "--pid", "--cgroup",
                "--root", "--wd", "--"]

    def popen(self, *argv, **how):
        """Starts a command inside, as root; its process is subprocess.Popen's."""
        how = {"stdin": subprocess.DEVNULL, "env": _environment(), "text": True, **how}
        return subprocess.Popen([*self._enter(), *map(str, argv)], **how)

    def run(self, *argv, check=True, stdin="", timeout=GUARD):
        """Runs a command inside, as root. Returns the finished process."""
        result = subprocess.run([*self._enter(), *map(str, argv)], text=True, env=_environment(),
                                input=stdin, capture_output=True, check=False, timeout=timeout)
        if check and result.returncode != 0:
            raise AssertionError(f"{' '.join(map(str, argv))}: exit status {result.returncode}: "
                                 f"{result.stdout}{result.stderr}")
        return result

    def shell(self, script, check=True):
        """Runs lines of shell inside; what they print."""
        return self.run("/bin/sh", "-euc", script, check=check).stdout

    def call(self, function, *arguments):
        """function(*arguments) in a process inside; what it returns, or its exception."""
        read, write = os.pipe()

        def inside():
            os.close(read)
            target = os.pidfd_open(self.init)
            root = os.open(f"/proc/{self.init}/root", os.O_RDONLY | os.O_DIRECTORY)
            _check(_libc.setns(target, _CLONE_NEWNS | _CLONE_NEWCGROUP | _CLONE_NEWPID |
                               _CLONE_NEWUTS | _CLONE_NEWIPC), "setns")
            os.fchdir(root)
            os.chroot(".")

            def member():  # of the PID namespace, which a child of ours is the first to be
                try:
                    result = True, function(*arguments)
                except BaseException as error:
                    error.__traceback__ = None
                    result = False, error
                with os.fdopen(write, "wb") as pipe:
                    pickle.dump(result, pipe)
            return _wait(_in_child(member))
        child = _in_child(inside)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            data = pipe.read()
        _wait(child)
        if not data:
            raise AssertionError("the process inside has ended without a result")
        good, result = pickle.loads(data)
        if not good:
            raise result
        return result

    def connect(self, inside, user=0):
        """A connection to a Unix socket of the system, made by a process of this user inside: systemd accepts
        none whose peer's process id it doesn't know."""
        ours, theirs = socket.socketpair()

        def make():
            os.seteuid(user)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(inside))
                socket.send_fds(theirs, [b"."], [connection.fileno()])
        with ours, theirs:
            self.call(make)
            return socket.socket(fileno=socket.recv_fds(ours, 1, 1)[1][0])

    # -------------------------------------------------------------- systemd and its journal

    def systemctl(self, *argv, check=True):
        return self.run("systemctl", "--no-pager", "--plain", "--no-legend", *argv, check=check).stdout

    def show(self, unit, *properties):
        """The values of a unit's properties."""
        lines = self.systemctl("show", *(f"--property={name}" for name in properties), unit).splitlines()
        values = dict(line.split("=", 1) for line in lines if "=" in line)
        found = [values.get(name, "") for name in properties]
        return found[0] if len(found) == 1 else found

    @staticmethod
    def now_us():
        return time.time_ns() // 1000

    def journal(self, since, *wanted):
        """The entries of the journal, oldest first, that were received since then (from now_us()) and
        match the arguments of journalctl (e.g. "NAME=VALUE", "--unit=nbdinetd.socket")."""
        text = self.run("journalctl", "--output=json", "--all", "--no-pager", "--quiet", *wanted,
                        check=False).stdout
        entries = [json.loads(line) for line in text.splitlines()]
        return [e for e in entries if int(e["__REALTIME_TIMESTAMP"]) >= since]

    def log(self, since, *wanted):
        """The entries of nbdinetd."""
        return self.journal(since, "SYSLOG_IDENTIFIER=nbdinetd", *wanted)

    def messages(self, since):
        """The texts of log()."""
        return [entry["MESSAGE"] for entry in self.log(since)]

    def wait_for_message(self, since, words):
        """Waits for messages of nbdinetd with these words; journald is told asynchronously."""
        return wait_until(lambda: [m for m in self.messages(since) if words in m],
                          f"{words!r} in the journal")

    def instances(self, name="nbdinetd"):
        """The units of the connections, in whatever state."""
        return [line.split()[0] for line in
                self.systemctl("list-units", "--all", f"{name}@*.service").splitlines()]

    def failed(self):
        return self.systemctl("list-units", "--all", "--state=failed").split()

    def process_of(self, unit):
        """The /proc directory of a service's main process, as a path for this process."""
        return self.path(f"/proc/{self.show(unit, 'MainPID')}")


# ------------------------------------------------------------------ a file of tests

def reason_against():
    """Why this machine can't boot a system, or None."""
    if os.geteuid() != 0:
        return "needs root, to boot a systemd in namespaces"
    for program in (SYSTEMD, "/lib/systemd/systemd-journald"):
        if not os.access(program, os.X_OK):
            return f"{program} is not installed"
    for program in ("systemctl", "journalctl", "nsenter", "make", "tar", "chroot"):
        if not find_tool(program):
            return f"{program} is not installed"
    if "overlay" not in Path("/proc/filesystems").read_text():
        subprocess.run(["modprobe", "overlay"], capture_output=True, check=False)
    if not re.search(r"\boverlay$", Path("/proc/filesystems").read_text(), re.MULTILINE):
        return "the kernel has no overlayfs"
    return None


def _boot(machine):
    """Boots the system with this build. If that fails, the same without the build tells whose fault it is:
    the machine's is a skip."""
    try:
        machine.boot()
    except OSError as error:
        skip_all(f"can't start a systemd in namespaces: {error}")
    except BootFailure as failure:
        machine.kill()
        bare = machine.base / "bare"
        bare.mkdir()
        without = Machine(bare)
        try:
            without.boot()
        except (OSError, BootFailure) as error:
            skip_all(f"can't boot a systemd in namespaces: {error}")
        finally:
            without.remove()
        raise AssertionError(f"the system doesn't boot with this build, but without it: {failure}") from None


def run(tests, stage=stage):
    """Boots a system with this build, calls tests(machine), and exits with its status. stage(directory)
    installs the build there."""
    if reason := reason_against():
        skip_all(reason)

    interrupt_on_term()

    base = Path(tempfile.mkdtemp(prefix="nbdinetd-pid1-"))
    machine, child, status = None, None, 1
    try:
        base.chmod(0o755)
        # Before the namespaces, since this may compile.
        (base / "stage").mkdir()
        stage(base / "stage")
        try:
            _unshare(_CLONE_NEWNS | _CLONE_NEWNET)
            _mount("none", "/", flags=_MS_REC | _MS_PRIVATE)
            _set_up_loopback()
            machine = Machine(base)
        except OSError as error:
            skip_all(f"can't make the namespaces and mounts of a system: {error}")
        machine.install(base / "stage")
        _boot(machine)
        child = _in_child(lambda: tests(machine))
        status = _wait(child)
        child = None
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            _wait(child)
        if machine:
            machine.remove()
        shutil.rmtree(base, ignore_errors=True)
    sys.exit(status)
