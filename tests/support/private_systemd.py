"""A real systemd with a real journald, in namespaces of its own, for the tests of one file.

    outer process      a mount namespace; a cgroup; waits, then takes the cgroup away again
    └─ middle          enters the cgroup, so that this is the root of the cgroup namespace
       └─ init         process 1 of a PID namespace: mounts, starts the others, reaps
          ├─ systemd-journald
          ├─ systemd --user
          └─ the tests

Nothing of this can be seen from the machine outside, and nothing can survive: when process 1 of a
PID namespace ends, the kernel ends the rest. The cgroup is needed because systemd moves every
process of its root cgroup into a scope of its own; without one for the tests alone, that would be
whatever else runs on the machine.

systemd --user stands in for the system's: Accept=yes, JOURNAL_STREAM, drop-ins, CollectMode= and
the journal work there in the same way, without being process 1.
"""

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import surroundings
from harness import (NBDINETD, become, find_tool, interrupt_on_term, is_listening, note, shipped, skip_all,
                     wait_until)

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _CLONE_NEWPID, _CLONE_NEWCGROUP = 0x00020000, 0x20000000, 0x02000000
_MS_BIND, _MS_MOVE, _MS_REC, _MS_PRIVATE, _MS_SHARED = 4096, 8192, 16384, 1 << 18, 1 << 20
_PR_SET_PDEATHSIG = 1

SYSTEMD = "/usr/lib/systemd/systemd"
JOURNALD = "/usr/lib/systemd/systemd-journald"


def _check(result, what):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _unshare(flags):
    _check(_libc.unshare(flags), "unshare")


def _mount(source, target, kind=None, flags=0, data=None):
    arguments = [a.encode() if a is not None else None
                 for a in (str(source), str(target), kind, data)]
    _check(_libc.mount(arguments[0], arguments[1], arguments[2], flags, arguments[3]),
           f"mount {kind or ''} {target}")


def _die_with_parent():
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _inaccessible_nodes():
    """What the system's manager makes when the machine starts, and every manager mounts over what
    ProtectKernelLogs= and its like hide."""
    base = Path("/run/systemd/inaccessible")
    base.mkdir(mode=0o755)
    (base / "reg").touch(mode=0)
    (base / "dir").mkdir(mode=0)


def _private_dev(base):
    """A /dev with a /dev/log that is the private journald's. The real one must not get it."""
    dev = base / "dev"
    dev.mkdir()
    _mount("tmpfs", dev, "tmpfs", data="mode=0755")
    for name in ("null", "zero", "full", "random", "urandom", "tty", "fuse", "loop-control",
                 "shm", "pts"):
        real, ours = Path("/dev") / name, dev / name
        if real.is_dir():
            ours.mkdir()
        elif real.exists():
            ours.touch()
        else:
            continue
        _mount(real, ours, flags=_MS_BIND | _MS_REC)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"),
                         ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2"),
                         ("ptmx", "pts/ptmx"), ("log", "/run/systemd/journal/dev-log")):
        (dev / name).symlink_to(target)
    _mount(dev, "/dev", flags=_MS_MOVE)


class PrivateSystemd:
    """The manager as the tests see it."""

    def __init__(self, base):
        self.base = base
        self.units = base / "config" / "systemd" / "user"
        self.environment = {
            name: value for name, value in os.environ.items()
            # Builds for coverage and with sanitizers are told by these where to write.
            if name.startswith(("ASAN_", "UBSAN_", "LSAN_", "TSAN_", "GCOV_"))}
        self.environment.update(
            PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            LC_ALL="C.UTF-8", HOME=str(base), XDG_RUNTIME_DIR=str(base / "run"),
            XDG_CONFIG_HOME=str(base / "config"), XDG_DATA_HOME=str(base / "data"),
            XDG_CACHE_HOME=str(base / "cache"), XDG_STATE_HOME=str(base / "state"))
        self.manager_pid = self.journald_pid = None

    # -------------------------------------------------------------- in process 1

    def start(self):
        base = self.base
        _mount("proc", "/proc", "proc")
        # The kernel doesn't mount cgroup2 right over cgroup2, which the machine's systemd has mounted.
        _mount("tmpfs", "/sys/fs/cgroup", "tmpfs")
        _mount("cgroup2", "/sys/fs/cgroup", "cgroup2")
        for directory in ("/run/systemd", "/run/log"):
            os.makedirs(directory, exist_ok=True)
            _mount("tmpfs", directory, "tmpfs", data="mode=0755")
        _private_dev(base)
        # As on every machine with systemd: it mounts credentials in a namespace of their own.
        _mount("none", "/", flags=_MS_REC | _MS_SHARED)
        # Journal files are kept under the machine's id; with one of our own, theirs can't be meant.
        machine_id = base / "machine-id"
        machine_id.write_text(os.urandom(16).hex() + "\n")
        _mount(machine_id, "/etc/machine-id", flags=_MS_BIND)

        for directory in ("/run/systemd/system", "/run/systemd/journal",
                          "/run/systemd/journald.conf.d", self.units, base / "data",
                          base / "cache", base / "state", base / "default"):
            os.makedirs(directory)
        _inaccessible_nodes()
        (base / "run").mkdir(mode=0o700)
        # systemctl and the libraries take this directory as the sign that systemd runs. Volatile:
        # not in /var/log. No kernel messages, no audit: those are the machine's.
        Path("/run/systemd/journald.conf.d/test.conf").write_text(
            "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\nRateLimitIntervalSec=0\n"
            "RateLimitBurst=0\nForwardToWall=no\nForwardToSyslog=no\nForwardToConsole=no\n")
        self.journald_pid = self._spawn([JOURNALD])
        wait_until(lambda: os.path.exists("/run/systemd/journal/stdout")
                   and is_listening("/run/systemd/journal/stdout"), "systemd-journald")

        # A target with nothing in it: the units of whatever is installed here are not to run.
        (self.units / "nothing.target").write_text("[Unit]\nDefaultDependencies=no\n")
        self.manager_pid = self._spawn(
            [SYSTEMD, "--user", "--unit=nothing.target", "--log-target=journal"])
        wait_until(lambda: is_listening(self.environment["XDG_RUNTIME_DIR"] + "/systemd/private"),
                   "systemd --user")

    def _spawn(self, argv):
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return pid
        try:
            null = os.open("/dev/null", os.O_RDWR)
            log = os.open(self.base / (Path(argv[0]).name + ".log"),
                          os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            for source, target in ((null, 0), (log, 1), (log, 2)):
                os.dup2(source, target)
            os.closerange(3, 1024)
            surroundings.default_signals()
            os.execve(argv[0], argv, self.environment)
        finally:
            os._exit(127)

    # -------------------------------------------------------------- in the tests

    def run(self, *argv, check=True):
        """Runs a program beside the manager. Returns the finished process."""
        result = subprocess.run([find_tool(argv[0]) or argv[0], *argv[1:]], timeout=60, text=True,
                                env=self.environment, stdin=subprocess.DEVNULL,
                                capture_output=True, check=False)
        if check and result.returncode != 0:
            raise AssertionError(f"{' '.join(argv)}: exit status {result.returncode}: "
                                 f"{result.stdout}{result.stderr}")
        return result

    def systemctl(self, *argv, check=True):
        return self.run("systemctl", "--user", "--no-pager", "--plain", "--no-legend", *argv,
                        check=check).stdout

    def journal(self, since, *wanted):
        """The entries of the journal, oldest first, that were received since then (from now_us())
        and have the fields in `wanted` ("NAME=VALUE")."""
        text = self.run("journalctl", "--directory=/run/log/journal", "--output=json", "--all",
                        "--no-pager", "--quiet", *wanted, check=False).stdout
        entries = [json.loads(line) for line in text.splitlines()]
        return [e for e in entries if int(e["__REALTIME_TIMESTAMP"]) >= since]

    def log(self, since, *wanted):
        """The entries of nbdinetd."""
        return self.journal(since, "SYSLOG_IDENTIFIER=nbdinetd", *wanted)

    def messages(self, since):
        """The texts of log()."""
        return [entry["MESSAGE"] for entry in self.log(since)]

    @staticmethod
    def now_us():
        return time.time_ns() // 1000

    def instances(self, name="nbdinetd"):
        """The units of the connections, in whatever state."""
        return [line.split()[0] for line in
                self.systemctl("list-units", "--all", f"{name}@*.service").splitlines()]

    def failed(self):
        return self.systemctl("list-units", "--all", "--state=failed").split()

    def main_pid(self, unit):
        return int(self.systemctl("show", "--property=MainPID", "--value", unit))


def visible_paths(context, systemd):
    """Lines of a drop-in for a service with systemd's hardening, which sees neither /tmp nor /home: what
    the tests have there, the manager's socket for sd_notify, and where builds with sanitizers write to."""
    return "".join(f"BindPaths={path}\n" for path in
                   (context.dir, systemd.base / "run" / "systemd",
                    os.path.dirname(os.path.realpath(NBDINETD))))


class InstalledUnits:
    """The shipped nbdinetd.socket and nbdinetd@.service with drop-ins: the built program in place
    of the installed one, addresses of the tests', and what `socket` and `service` add; `strict` adds the
    shipped strict.conf. As nbdinetd@.service says, a copy of both under another name is a second
    export."""

    def __init__(self, context, systemd, export, options="", listen=(), name="nbdinetd",
                 socket="", service="", strict=False):
        self.context, self.systemd, self.name = context, systemd, name
        self.results = Path(context.fresh(".results"))
        self.results.touch()
        socket_text, service_text = shipped("nbdinetd.socket"), shipped("nbdinetd@.service")
        (systemd.base / "default" / name).write_text(
            f'NBDINETD_EXPORT="{export}"\nNBDINETD_OPTIONS="{options}"\n')
        # Only the program and the directory differ, so that the words of the shipped line are
        # tried.
        command = _setting(service_text, "ExecStart")
        command = NBDINETD + command[len(command.split()[0]):]
        environment = re.sub(r"^(-?).*/", rf"\1{systemd.base}/default/",
                             _setting(service_text, "EnvironmentFile"))
        self._write(f"{name}.socket", socket_text,
                    "[Socket]\nListenStream=\n"
                    + "".join(f"ListenStream={address}\n" for address in listen) + socket)
        if strict:
            service = visible_paths(context, systemd) + \
                shipped("nbdinetd@.service.d/strict.conf").split("[Service]\n")[1] + service
        # ExecStopPost= is told by the manager how the process has ended, which nothing tells
        # afterwards: the unit is forgotten.
        self._write(f"{name}@.service", service_text,
                    f"[Service]\nEnvironmentFile=\nEnvironmentFile={environment}\n"
                    f"ExecStart=\nExecStart={command}\n"
                    "ExecStopPost=/bin/sh -c 'echo \"$SERVICE_RESULT $EXIT_CODE $EXIT_STATUS\" "
                    f">>{self.results}'\n" + service)
        context.defer(self._remove)
        systemd.systemctl("daemon-reload")
        systemd.systemctl("start", f"{name}.socket")

    def _write(self, unit, text, drop_in):
        (self.systemd.units / unit).write_text(text)
        directory = self.systemd.units / (unit + ".d")
        directory.mkdir()
        (directory / "test.conf").write_text(drop_in)

    def _remove(self):
        self.systemd.systemctl("stop", f"{self.name}.socket", f"{self.name}@*.service", check=False)
        for unit in (f"{self.name}.socket", f"{self.name}@.service"):
            (self.systemd.units / unit).unlink()
            shutil.rmtree(self.systemd.units / (unit + ".d"))
        self.systemd.systemctl("reset-failed", check=False)
        self.systemd.systemctl("daemon-reload")

    def idle(self):
        """Waits until the manager knows no connection any more."""
        wait_until(lambda: not self.systemd.instances(self.name),
                   "the connections' units to be gone")

    def ended(self, count=1):
        """Waits until so many connections have ended; returns what ExecStopPost= was told of each:
        "result code status", oldest first."""
        lines = wait_until(
            lambda: (lambda all_: all_ if len(all_) >= count else None)(
                self.results.read_text().splitlines()), f"{count} connections to end")
        self.idle()
        return lines


def _setting(text, name):
    values = re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)
    if len(values) != 1:
        raise AssertionError(f"{len(values)} lines with {name}= in a shipped unit")
    return values[0]


# ------------------------------------------------------------------ the processes

def _remove_cgroup(path):
    """The manager has made cgroups below; all their processes have been killed, but not all of them
    may be gone yet."""
    deadline = time.monotonic() + 30
    while path.exists():
        for directory, _, _ in os.walk(path, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                pass
        if path.exists():
            if time.monotonic() > deadline:
                note(f"the cgroup {path} could not be removed")
                return
            time.sleep(0.02)


def _wait(pid):
    """Waits for a child; the exit status to pass on."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status if status >= 0 else 128 - status


def _init(base, tests):
    """Process 1 of the PID namespace. Returns the tests' exit status."""
    systemd = PrivateSystemd(base)
    try:
        systemd.start()
    except Exception as error:  # whatever it is, it is why none of the tests can run
        logs = "".join(p.read_text() for p in base.glob("*.log"))
        skip_all(f"can't start systemd and journald in namespaces: {error}\n{logs}")
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        tests(systemd)
        return 0
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            status = os.waitstatus_to_exitcode(status)
            return status if status >= 0 else 128 - status
        if ended in (systemd.manager_pid, systemd.journald_pid):
            note(f"{'systemd' if ended == systemd.manager_pid else 'journald'} has ended by itself")


def _in_child(function):
    """Forks; the child becomes function() and exits with what it returns."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid

    def child():
        _die_with_parent()
        return function()
    become(child)


def run(tests):
    """Calls tests(systemd) inside, and exits with its status."""
    if os.geteuid() != 0:
        skip_all("needs root, to make namespaces with a systemd of its own")
    for program in (SYSTEMD, JOURNALD):
        if not os.access(program, os.X_OK):
            skip_all(f"{program} is not installed")
    for program in ("systemctl", "journalctl"):
        if not find_tool(program):
            skip_all(f"{program} is not installed")

    interrupt_on_term()

    base = Path(tempfile.mkdtemp(prefix="nbdinetd-systemd-"))
    cgroup = None
    child = None
    status = 1
    try:
        try:
            _unshare(_CLONE_NEWNS)
            _mount("none", "/", flags=_MS_REC | _MS_PRIVATE)
            (base / "cgroup").mkdir()
            _mount("cgroup2", base / "cgroup", "cgroup2")
            here = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)[1]
            cgroup = base / "cgroup" / here / f"nbdinetd-test-{os.getpid()}"
            cgroup.mkdir()
        except (OSError, TypeError) as error:
            skip_all(f"can't make a mount namespace with a cgroup: {error}")

        def middle():
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))
            _unshare(_CLONE_NEWCGROUP | _CLONE_NEWPID)
            return _wait(_in_child(lambda: _init(base, tests)))
        child = _in_child(middle)
        status = _wait(child)
        child = None
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            _wait(child)
        if cgroup:
            _remove_cgroup(cgroup)
            _libc.umount2(str(base / "cgroup").encode(), 0)
        shutil.rmtree(base, ignore_errors=True)
    sys.exit(status)
