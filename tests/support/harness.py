"""What the system tests of nbdinetd share.

A test file registers its tests with @test and ends with main(), which prints TAP. Each test gets a
Test object: a temporary directory, ways to start nbdinetd as a superserver would, and a list of things
to undo. The end of a test ends its processes and undoes its mounts and files, also after a failure.
NBDINETD_TEST_TIMES=1 prints the seconds that each test took.

A test file imports everything from here, the client in nbd_client.py included.

It is longer than 500 lines because main() has to be able to end everything that Test starts.
"""

# pylint: disable=wrong-import-position
import surroundings
surroundings.settle()

import array
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import random
import re
import resource
import select
import shutil
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import client_root
from nbd_client import *
from nbd_client import GUARD, PATIENCE, Client, HangGuard

# ------------------------------------------------------------------ surroundings

CI = os.environ.get("CI", "") not in ("", "0", "false")
SRCDIR = Path(os.environ.get("NBDINETD_SRCDIR", Path(__file__).resolve().parents[2]))
BUILDDIR = Path(os.environ.get("NBDINETD_BUILDDIR", SRCDIR))
NBDINETD = os.environ.get("NBDINETD", str(BUILDDIR / "src" / "nbdinetd"))
TOOLS = Path(os.environ.get("NBDINETD_TOOLS", BUILDDIR / ".tools"))

TEST_GUARD = 90.0 * PATIENCE  # of one test; see GUARD
TIMES = os.environ.get("NBDINETD_TEST_TIMES") == "1"  # prints the seconds that each test took

MIB = 1 << 20

# sysexits.h, as far as nbdinetd uses it.
EX_OK = 0
EX_USAGE = 64
EX_NOINPUT = 66
EX_UNAVAILABLE = 69
EX_OSERR = 71
EX_CANTCREAT = 73
EX_TEMPFAIL = EX_TIMED_OUT = 75
EX_PROTOCOL = 76
EX_NOPERM = 77
EX_CONFIG = 78


# ------------------------------------------------------------------ the tests of a file

class Skip(Exception):
    """This test can't run here, and here is why."""


_tests = []


def test(name, guard=TEST_GUARD, waits=False):
    """Registers a test. The name is the behaviour that it proves. A test that `waits` for time to
    pass most of the time runs in a process of its own, at the same time as the others of its kind
    and before the rest of the file: their times of waiting then pass together."""
    def register(function):
        _tests.append((name, function, guard, waits))
        return function
    return register


def require(condition, reason):
    """What a test needs from the machine. A test that can't run in CI has failed there."""
    if condition:
        return
    if CI:
        raise AssertionError(f"this machine can't run the test: {reason}")
    raise Skip(reason)


def find_tool(name, *directories):
    """The path of a program, or None. The tools directory comes before PATH."""
    for directory in (TOOLS / "usr" / "sbin", TOOLS / "usr" / "bin", *map(Path, directories)):
        candidate = directory / name
        if os.access(candidate, os.X_OK):
            return str(candidate)
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def need(name, *directories):
    """The path of a program without which the test can't run."""
    path = find_tool(name, *directories)
    require(path is not None, f"{name} is not installed")
    return path


def need_beside_server(name):
    """The path of a program that runs with nbdinetd in its command, as a superserver does."""
    if not client_root.is_entered():
        return need(name)
    path = f"/usr/bin/{name}"
    require(client_root.is_program_outside(path), f"{name} is not installed")
    return path


def as_kernel(what):
    """The beginning of a command that runs a program as an older Linux would: a version, or names of
    what is missing (bench/as_kernel.c)."""
    program = BUILDDIR / "bench" / "as_kernel"
    require(os.access(program, os.X_OK), "needs bench/as_kernel")
    return [str(program), what]


def configured(name):
    """A directory of this build as configure has set it, e.g. configured("sbindir")."""
    makefile = (BUILDDIR / "Makefile").read_text()
    def value(variable):
        found = re.search(rf"^{variable} = (.*)$", makefile, re.MULTILINE)
        if not found:
            raise AssertionError(f"no {variable} in {BUILDDIR}/Makefile")
        return re.sub(r"\$[{(](\w+)[)}]", lambda m: value(m[1]), found[1])
    return value(name)


def need_root(why):
    require(os.geteuid() == 0, f"needs root, {why}")


def as_user(number):
    """The beginning of a command that runs a program as this user and group, who need no name."""
    need_root("to run the program as another user")
    return [need("setpriv"), f"--reuid={number}", f"--regid={number}", "--clear-groups", "--"]


def note(text):
    """A TAP diagnostic."""
    for line in str(text).splitlines():
        print(f"# {line}", flush=True)


def interrupt_on_term():
    """From now on SIGTERM raises KeyboardInterrupt, so that everything is cleaned up."""
    def on_term(_signal, _frame):
        raise KeyboardInterrupt("terminated")
    signal.signal(signal.SIGTERM, on_term)


def become(function):
    """In a forked child: calls the function, and exits with what it returns (None: 0), without the exit handlers, which
    are the parent's."""
    status = 1
    try:
        status = function()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        note(traceback.format_exc())
    finally:
        sys.stdout.flush()
        os._exit(status or 0)


def same_bytes(got, wanted, offset, what):
    """Says where bytes from this offset on differ first."""
    if got == wanted:
        return
    at = next(i for i, pair in enumerate(zip(got, wanted)) if pair[0] != pair[1])
    raise AssertionError(f"{what}: byte {offset + at} is {got[at]}, not {wanted[at]}")


def wait_until(condition, what, timeout=GUARD):
    """Polls until condition() is true and returns what it returned."""
    deadline = time.monotonic() + timeout
    pause = 0.001
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise HangGuard(f"waited {timeout:g} s for {what}")
        time.sleep(pause)
        pause = min(pause * 2, 0.05 * PATIENCE)


def wait_steady(value):
    """Waits until what value() returns stays the same for a while, and returns it. If that comes too
    early, a test sees less than it could, and never what isn't there."""
    samples = []

    def steady():
        samples.append(value())
        return len(samples) >= 8 and len(set(map(str, samples[-8:]))) == 1
    wait_until(steady, "something to stay as it is")
    return samples[-1]


def matches(pattern, text, what=""):
    """The match of a regular expression that has to be somewhere in the text."""
    found = re.search(pattern, text, re.MULTILINE)
    if not found:
        raise AssertionError(f"{what + ': ' if what else ''}no match for {pattern!r} in {text!r}")
    return found


def contains(needle, text, what=""):
    if needle not in text:
        raise AssertionError(f"{what + ': ' if what else ''}{needle!r} is not in {text!r}")


# ------------------------------------------------------------------ processes

CLOSED = object()  # in Test.spawn's fds: a descriptor that the program does not get at all


def descriptors_of(pid):
    """{descriptor: what it is} of a process, {} when it is gone."""
    result = {}
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                result[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
            except FileNotFoundError:
                pass
    except (FileNotFoundError, ProcessLookupError):
        pass
    return result


def listening_sockets(pid):
    """The descriptors of a process that are listening sockets."""
    pidfd_getfd = 438
    result = []
    process = os.pidfd_open(pid)
    try:
        for number, target in sorted(descriptors_of(pid).items()):
            if target.startswith("socket:"):
                copy = ctypes.CDLL(None, use_errno=True).syscall(pidfd_getfd, process, number, 0)
                if copy < 0 and ctypes.get_errno() == errno.EBADF:
                    continue  # it was closed since
                assert copy >= 0, os.strerror(ctypes.get_errno())
                with socket.socket(fileno=copy) as one:
                    if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        result.append(number)
    finally:
        os.close(process)
    return result


def _stat_fields(pid):
    """(command, state, parent) of a process, or None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command is in parentheses and may itself hold spaces and parentheses.
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return head.partition("(")[2], fields[0], int(fields[1])


def children_of(pid):
    """Process ids of the children of a process, zombies included."""
    result = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _stat_fields(int(name))
            if fields and fields[2] == pid:
                result.append(int(name))
    return sorted(result)


def descendants_of(pid):
    result = []
    for child in children_of(pid):
        result.append(child)
        result.extend(descendants_of(child))
    return result


def servers_below(pid):
    """Process ids of the descendants of a process that run (or ran, if zombies) nbdinetd."""
    return [p for p in descendants_of(pid) if (_stat_fields(p) or ("",))[0] == "nbdinetd"]


def close_on_exec(pid, descriptor):
    """Whether a descriptor of another process has FD_CLOEXEC."""
    text = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text()
    flags = int(matches(r"^flags:\s+([0-7]+)$", text)[1], 8)
    return bool(flags & os.O_CLOEXEC)


def whereabouts(pid):
    """What the threads of a process do: state, processor time in ticks, system call, place in the kernel."""
    found = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*")):
        with contextlib.suppress(OSError):
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            found.append(f"{task.name} {fields[0]} {fields[11]}+{fields[12]} in {(task / 'syscall').read_text().strip()} "
                         f"({(task / 'wchan').read_text()})")
    return ", ".join(found) or "gone"


class Process:
    """A child of the test, known by its process id, with what it wrote to files."""

    def __init__(self, pid, argv, stdout_path, stderr_path):
        self.pid = pid
        self.argv = argv
        self._pidfd = os.pidfd_open(pid)
        self._status = None
        self.core_dumped = None  # whether, once it has ended by a signal
        self._stdout_path = stdout_path
        self._stderr_path = stderr_path

    def poll(self):
        """The exit status, minus the number of the signal that ended it, or None."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid == self.pid:
                self._status = os.waitstatus_to_exitcode(status)
                self.core_dumped = os.WIFSIGNALED(status) and os.WCOREDUMP(status)
                os.close(self._pidfd)
                self._pidfd = -1
        return self._status

    def wait(self, timeout=GUARD):
        if self.poll() is None:
            poller = select.poll()
            poller.register(self._pidfd, select.POLLIN)
            if not poller.poll(timeout * 1000):
                raise HangGuard(f"{Path(self.argv[0]).name} (pid {self.pid}) has not ended in "
                                f"{timeout:g} s, and is {whereabouts(self.pid)}; stderr: {self.stderr()!r}")
        return self.poll()

    def expect(self, status):
        """Waits for the end, which has to be with this exit status."""
        got = self.wait()
        if got != status:
            raise AssertionError(f"{' '.join(map(str, self.argv))}: exit status {got}, wanted "
                                 f"{status}; stderr: {self.stderr()!r}")

    def signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def stop(self):
        """Ends it for certain. For cleaning up, not for testing how it ends."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)
            try:
                self.wait(2)
            except HangGuard:
                os.kill(self.pid, signal.SIGKILL)
                self.wait()

    def stdout(self):
        return Path(self._stdout_path).read_text(errors="replace")

    def stderr(self):
        return Path(self._stderr_path).read_text(errors="replace")

    def descriptors(self):
        return descriptors_of(self.pid)


def clean_environment(changes=None):
    """Our environment, which holds nothing of a superserver's (see surroundings.py), with changes;
    None deletes a variable."""
    result = dict(os.environ)
    for name, value in (changes or {}).items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = str(value)
    return result


_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def _exec_child(argv, fds, environment, listen_fds, listen_pid, limits, outlives, outside):
    """In the child: arranges the descriptors and becomes the program. Never returns."""
    try:
        if outside:
            client_root.leave()
        if not outlives:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # Move every source out of the way first: a source may sit on another one's target.
        moved = {target: fcntl.fcntl(source, fcntl.F_DUPFD, 200)
                 for target, source in fds.items() if source is not CLOSED}
        for target, source in moved.items():
            os.dup2(source, target, inheritable=True)
        last = 0
        for target in sorted(moved):
            if last < target:  # os.closerange(0, 0) closes everything in Python 3.11
                os.closerange(last, target)
            last = target + 1
        os.closerange(last, 1024)
        if listen_fds is not None:
            environment["LISTEN_FDS"] = str(listen_fds)
        if listen_pid == "own":
            environment["LISTEN_PID"] = str(os.getpid())
        elif listen_pid is not None:
            environment["LISTEN_PID"] = str(listen_pid)
        surroundings.default_signals()
        for which, value in limits.items():
            resource.setrlimit(which, (value, value))
        os.execve(argv[0], argv, environment)
    finally:
        os._exit(127)


# ------------------------------------------------------------------ one test

class Test:
    """What one running test owns. Cleanup runs newest first."""

    def __init__(self, name):
        self.name = name
        self.dir = Path(tempfile.mkdtemp(prefix="nbdinetd-test-"))
        # A superserver may run the handler as somebody else.
        self.dir.chmod(0o755)
        self._undo = []
        self._count = 0

    def defer(self, function, *arguments):
        self._undo.append((function, arguments))

    def path(self, name):
        return str(self.dir / name)

    def fresh(self, suffix):
        """A path that nothing uses yet."""
        self._count += 1
        return self.path(f"{self._count}{suffix}")

    def finish(self):
        problems = []
        for function, arguments in reversed(self._undo):
            try:
                function(*arguments)
            except Exception:  # one failed cleanup must not keep the others from running
                problems.append(traceback.format_exc())
        _end_descendants()
        shutil.rmtree(self.dir, ignore_errors=True)
        return problems

    # -------------------------------------------------------------- images

    def image(self, content, name=None):
        """A file with this content."""
        path = self.path(name) if name else self.fresh(".img")
        Path(path).write_bytes(content)
        return path

    def sparse_image(self, size, name=None):
        """A file that is one hole."""
        path = self.path(name) if name else self.fresh(".img")
        with open(path, "wb") as file:
            file.truncate(size)
        return path

    def random_image(self, size, name=None, seed=1):
        return self.image(random.Random(seed).randbytes(size), name)

    def pattern_image(self, size, name=None):
        """A file in which every eight bytes are their own offset, so that bytes in the wrong
        place show as such."""
        return self.image(pattern(0, size), name)

    # -------------------------------------------------------------- processes

    def spawn(self, argv, fds=None, env=None, listen_fds=None, listen_pid=None, limits=None):
        """Starts a program. It gets exactly these descriptors: by default /dev/null as 0 and
        files as 1 and 2, anything in fds instead or besides, and nothing for CLOSED."""
        argv = [str(a) for a in argv]
        # In the root of another release only clients are that release's.
        outside = client_root.is_entered() and NBDINETD in argv
        if "/" not in argv[0]:
            argv[0] = need(argv[0])
        elif not (client_root.is_program_outside(argv[0]) if outside
                  else os.access(argv[0], os.X_OK)):
            raise AssertionError(f"there is no program {argv[0]}")
        stdout_path, stderr_path = self.fresh(".stdout"), self.fresh(".stderr")
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        out = os.open(stdout_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        err = os.open(stderr_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        placed = {0: null, 1: out, 2: err}
        for target, source in (fds or {}).items():
            placed[target] = source if source is CLOSED or isinstance(source, int) \
                else source.fileno()
        environment = clean_environment(env)
        # Even when this process is killed, nothing is to be left. But what the kernel looks at is
        # the thread that forks: in any other than the main one it would end the program too early.
        outlives = threading.current_thread() is not threading.main_thread()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            _exec_child(argv, placed, environment, listen_fds, listen_pid, limits or {}, outlives,
                        outside)
        for descriptor in (null, out, err):
            os.close(descriptor)
        process = Process(pid, argv, stdout_path, stderr_path)
        self.defer(process.stop)
        return process

    def run(self, argv, status=0, **how):
        """Runs a program to its end, and returns it. status None takes any."""
        process = self.spawn(argv, **how)
        if status is None:
            process.wait()
        else:
            process.expect(status)
        return process

    # -------------------------------------------------------------- nbdinetd

    def connection(self, family="socketpair"):
        """(client's end, server's end) of a connected stream socket."""
        if family == "socketpair":
            ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        else:
            if family == "unix":
                listener = socket.socket(socket.AF_UNIX)
                address = self.fresh(".sock")
            else:
                listener = socket.socket(socket.AF_INET6 if family == "tcp6" else socket.AF_INET)
                address = ("::1" if family == "tcp6" else "127.0.0.1", 0)
            with listener:
                listener.bind(address)
                listener.listen(1)
                client = socket.socket(listener.family)
                client.connect(listener.getsockname())
                server, _ = listener.accept()
            ends = client, server
        for end in ends:
            self.defer(end.close)
        return ends

    def inetd(self, *arguments, family="socketpair", stdout="socket", stderr="socket", env=None,
              prefix=(), limits=None):
        """nbdinetd as inetd starts it: descriptors 0, 1 and 2 are the client's socket. With
        "file" for stdout or stderr that one is a file instead. Returns (process, client)."""
        ours, theirs = self.connection(family)
        fds = {0: theirs}
        for number, kind in ((1, stdout), (2, stderr)):
            if kind == "socket":
                fds[number] = theirs
            elif kind != "file":
                fds[number] = kind
        process = self.spawn([*prefix, NBDINETD, *arguments], fds=fds, env=env, limits=limits)
        theirs.close()
        return process, Client(ours)

    def activated(self, *arguments, family="socketpair", fds=None, env=None, prefix=(),
                  limits=None):
        """nbdinetd as systemd starts it with Accept=yes: the connection is descriptor 3.
        Returns (process, client)."""
        ours, theirs = self.connection(family)
        process = self.spawn([*prefix, NBDINETD, *arguments], fds={3: theirs, **(fds or {})},
                             env=env, listen_fds=1, listen_pid="own", limits=limits)
        theirs.close()
        return process, Client(ours)

    def piped(self, *arguments, stderr="file", env=None, prefix=()):
        """nbdinetd as ssh may start it, with two pipes as descriptors 0 and 1. With "stdout"
        for stderr, descriptor 2 is the pipe to the client too. Returns (process, client)."""
        their_input, our_output = os.pipe()
        our_input, their_output = os.pipe()
        fds = {0: their_input, 1: their_output}
        if stderr == "stdout":
            fds[2] = their_output
        process = self.spawn([*prefix, NBDINETD, *arguments], fds=fds, env=env)
        os.close(their_input)
        os.close(their_output)
        client = Client(our_input, our_output)
        self.defer(client.close)
        return process, client


def _end_descendants():
    """Ends what a test has left running. We are their reaper (see main), so that even the
    orphans of a superserver come to us; all of them were started by this file's tests."""
    deadline = time.monotonic() + GUARD
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            for child in children_of(os.getpid()):
                try:
                    os.kill(child, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if time.monotonic() > deadline:
                return
            time.sleep(0.005)


def _run(number, name, function, guard):
    """Runs one test and prints its result. Returns whether it has failed."""
    context = Test(name)
    verdict, directive, trouble = "ok", "", ""
    stop = None
    began = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, guard)
        function(context)
    except Skip as skip:
        directive = f" # SKIP {skip}"
    except KeyboardInterrupt as interrupt:
        verdict, trouble, stop = "not ok", "interrupted", interrupt
    except BaseException:
        verdict, trouble = "not ok", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        problems = context.finish()
    if problems and verdict == "ok":
        verdict, trouble = "not ok", "cleaning up failed:\n" + "\n".join(problems)
    # A "#" in a name would begin a directive.
    print(f"{verdict} {number} - {name.replace('#', 'no. ')}{directive}", flush=True)
    if TIMES:
        note(f"{time.monotonic() - began:.2f} s")
    note(trouble)
    if stop:
        raise stop
    return verdict != "ok"


def _become_subreaper():
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _run_together(entries):
    """Runs tests at the same time, each in a child. Entries are (number, name, function, guard).
    Returns {number: (what the test printed, whether it has failed)}."""
    running = []
    for number, *entry in entries:
        output = tempfile.TemporaryFile("w+")
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            failed = True
            try:
                _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                _become_subreaper()
                os.dup2(output.fileno(), 1)
                failed = _run(number, *entry)
            finally:
                # Without the exit handlers, which are the parent's.
                os._exit(1 if failed else 0)
        running.append((number, entry[0], pid, output))
    results = {}
    for number, name, pid, output in running:
        _, status = os.waitpid(pid, 0)
        with output:
            output.seek(0)
            text = output.read()
        if os.WIFSIGNALED(status):
            text += f"not ok {number} - {name}\n# its process ended by a signal: {status}\n"
        results[number] = text, status != 0
    return results


def main():
    """Runs the registered tests and prints TAP. Arguments choose tests by parts of names."""
    chosen = [entry for entry in _tests
              if not sys.argv[1:] or any(part in entry[0] for part in sys.argv[1:])]
    _become_subreaper()

    def on_alarm(_signal, _frame):
        raise HangGuard("the test has hung")
    signal.signal(signal.SIGALRM, on_alarm)
    interrupt_on_term()

    print(f"1..{len(chosen)}", flush=True)
    numbered = [(number, *entry) for number, entry in enumerate(chosen, 1)]
    results = _run_together([entry[:-1] for entry in numbered if entry[-1]])
    failures = 0
    for number, name, function, guard, waits in numbered:
        if waits:
            text, failed = results[number]
            print(text, end="", flush=True)
        else:
            failed = _run(number, name, function, guard)
        failures += failed
    sys.exit(1 if failures else 0)


def skip_all(reason):
    """For a file none of whose tests can run here."""
    if CI:
        print("1..1\nnot ok 1 - this machine can run these tests", flush=True)
        note(reason)
        sys.exit(1)
    print(f"1..0 # SKIP {reason}", flush=True)
    sys.exit(0)


# ------------------------------------------------------------------ bytes and places

def pattern(offset, length):
    """The bytes of a pattern image from offset on."""
    first, last = offset // 8, (offset + length + 7) // 8
    words = array.array("Q", range(first * 8, last * 8, 8))
    if sys.byteorder == "little":
        words.byteswap()
    return words.tobytes()[offset - first * 8:][:length]


def shipped(name):
    """The text of a file in units/: as configure has made it, or else its template with the usual
    directories."""
    for path in (BUILDDIR / "units" / name, SRCDIR / "units" / name,
                 SRCDIR / "units" / (name + ".in")):
        if path.exists():
            text = path.read_text()
            return text.replace("@sbindir@", "/usr/sbin").replace("@sysconfdir@", "/etc")
    raise AssertionError(f"units/{name} is missing")


def leave(process, client):
    """The client disconnects, and its process ends well."""
    client.disconnect()
    process.expect(EX_OK)


def recipe(page, section, word):
    """What the manual page shows with this word, in this section: a file, or commands."""
    text = Path(page).read_text()
    _, _, text = text.partition(f"\n.Sh {section}\n")
    text, _, _ = text.partition("\n.Sh ")
    found = [block for block in re.findall(r"^\.Bd -literal[^\n]*\n(.*?)^\.Ed$", text, re.MULTILINE | re.DOTALL)
             if f"{word} " in block]
    eq(len(found), 1, f"recipes with {word}")
    return found[0]


def checksum(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def free_port():
    """A loopback TCP port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_listening(address):
    """Whether somebody listens on a Unix path or on (host, port), without connecting: a
    connection would start a handler that the test has not asked for."""
    if isinstance(address, str):
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
            fields = line.split(maxsplit=7)
            SO_ACCEPTCON = 0x10000
            if len(fields) == 8 and fields[7] == address and int(fields[3], 16) & SO_ACCEPTCON:
                return True
        return False
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not os.path.exists(table):
            continue
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            TCP_LISTEN = "0A"
            if int(fields[1].rpartition(":")[2], 16) == address[1] and fields[3] == TCP_LISTEN:
                return True
    return False


def wait_listening(address, process=None):
    """Waits until somebody listens there, or the process has ended."""
    wait_until(lambda: is_listening(address) or process and process.poll() is not None,
               "the server to listen")


def connect(address):
    """A connection to a Unix path or (host, port)."""
    connection = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    connection.settimeout(GUARD)
    connection.connect(address)
    return connection


def uri(address, export=""):
    """The NBD URI of a Unix path or (host, port)."""
    if isinstance(address, str):
        return f"nbd+unix:///{export}?socket={address}"
    return f"nbd://{address[0]}:{address[1]}/{export}"


class PipeRelay:
    """Lets clients that want a socket reach a server on two pipes: listens on a Unix path, and
    for each connection starts the program with a pipe for each direction, as ssh does."""

    def __init__(self, context, argv):
        self.context = context
        self.argv = argv
        self.address = context.fresh(".sock")
        self.processes = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address)
        self._listener.listen(16)
        context.defer(self._listener.close)

    def serve(self, connections):
        """Accepts so many connections and carries their bytes until both sides have closed.
        Runs in a thread beside the client, which is why the processes are made here and
        waited for by the test."""
        pumps = []
        for _ in range(connections):
            connection, _ = self._listener.accept()
            their_input, our_output = os.pipe()
            our_input, their_output = os.pipe()
            self.processes.append(
                self.context.spawn(self.argv, fds={0: their_input, 1: their_output}))
            os.close(their_input)
            os.close(their_output)
            for source, target, end in (
                    (connection.fileno(), our_output, lambda: None),
                    (our_input, connection.fileno(),
                     lambda c=connection: c.shutdown(socket.SHUT_WR))):
                pumps.append(threading.Thread(target=self._pump, args=(source, target, end),
                                              daemon=True))
                pumps[-1].connection = connection
                pumps[-1].start()
        for pump in pumps:
            pump.join(GUARD)

    @staticmethod
    def _pump(source, target, end):
        try:
            while block := os.read(source, 1 << 16):
                while block:
                    block = block[os.write(target, block):]
        except OSError:
            pass
        # The pipe has a descriptor of its own; the socket is shared by the two directions.
        if stat.S_ISFIFO(os.fstat(target).st_mode):
            os.close(target)
        try:
            end()
        except OSError:
            pass

    def start(self, connections=1):
        thread = threading.Thread(target=self.serve, args=(connections,), daemon=True)
        thread.start()
        return thread
