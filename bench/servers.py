"""The servers that are compared, and how each is started and stopped.

A Server knows its command line; start() gives a Running one, which knows its address and its
cost. Whatever is started is ended by its process id, and its whole tree is gone before the next
one starts.
"""

import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import accounting
import lab

EXPORT = "bench"  # a name that every server takes; nbd-server has no default one
START_GUARD = 30.0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class TcpAddress(NamedTuple):
    host: str
    port: int


class Place:
    """Where servers run, and how a client there or elsewhere reaches them by TCP."""

    enter = []                    # the beginning of a command that runs there
    listens_on = "127.0.0.1"
    host = "127.0.0.1"            # of URIs
    tcp_table = "/proc/net/tcp"   # its sockets


HERE = Place()


class Server:
    """One way to serve a file. `key` names it in options and in the JSON."""

    is_peer = True         # somebody else's server
    is_subject = False     # what the goals are about
    has_tls = False        # takes nbdkit's options for it
    superserver = False  # the first process is not the server's own

    def __init__(self, key, title):
        self.key = key
        self.title = title

    def unavailable(self, bench_lab):
        """Why it can't be started here, or None."""
        return None

    def command(self, bench_lab, file, unix_path, tcp):
        raise NotImplementedError

    def daemon_pid_file(self, bench_lab):
        """Where it writes its pid, when it goes into the background."""
        return None

    def surroundings(self, bench_lab):
        """The beginning of a command that starts this server, or what starts it."""
        return []

    def with_tls(self, command, options):
        """The command with nbdkit's options for TLS. Only where has_tls is true."""
        raise NotImplementedError

    def start(self, bench_lab, file, transport="unix", tls=(), place=HERE):
        return Running(self, bench_lab, file, transport, tls, place)


def _missing(*programs):
    for program in programs:
        if lab.find_program(str(program)) is None:
            return f"{program} is not installed"
    return None


class SocketActivated(Server):
    """A process for each connection, started by systemd-socket-activate."""

    superserver = True

    def superserver_command(self, unix_path, tcp, *options):
        return [lab.need_program("systemd-socket-activate"), "--accept", *options,
                "--listen", unix_path or f"{tcp.host}:{tcp.port}"]


class NbdinetdAccept(SocketActivated):
    has_tls = True
    is_peer = False
    is_subject = True

    def program(self, bench_lab):
        return [bench_lab.nbdinetd]

    def unavailable(self, bench_lab):
        return _missing("systemd-socket-activate", self.program(bench_lab)[0])

    def command(self, bench_lab, file, unix_path, tcp):
        return [*self.superserver_command(unix_path, tcp), *self.program(bench_lab), file]

    def with_tls(self, command, options):
        return [*command[:-1], *options, command[-1]]


class NbdinetdVariant(NbdinetdAccept):
    """Another build of nbdinetd, or other options, to compare beside the one with the goals."""

    is_subject = False

    def __init__(self, name, words):
        super().__init__(name, f"nbdinetd, {name}")
        self.words = words

    def program(self, bench_lab):
        return self.words


class NbdinetdAsKernel(NbdinetdAccept):
    """The same program on a kernel that hides the newer system calls (as_kernel.c)."""

    is_subject = False

    def __init__(self, version):
        super().__init__(f"nbdinetd-{version}", f"nbdinetd, as on {version}")
        self.version = version

    def unavailable(self, bench_lab):
        missing = super().unavailable(bench_lab)
        if missing:
            return missing
        done = subprocess.run([*self.surroundings(bench_lab), "true"], stderr=subprocess.PIPE,
                              check=False)
        return done.stderr.decode(errors="replace").strip() or None

    def surroundings(self, bench_lab):
        # Before the superserver, so that no connection pays for the start of as_kernel.
        return [bench_lab.program("as_kernel"), self.version]


class NbdinetdListener(Server):
    has_tls = True
    is_peer = False
    is_subject = True

    def unavailable(self, bench_lab):
        missing = _missing(bench_lab.nbdinetd)
        if missing:
            return missing
        usage = subprocess.run([bench_lab.nbdinetd, "--help"], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, check=False).stdout
        return None if b"--unix" in usage else "this nbdinetd does not listen by itself"

    def command(self, bench_lab, file, unix_path, tcp):
        where = ["-U", unix_path] if unix_path else ["-i", tcp.host, "-p", tcp.port]
        return [bench_lab.nbdinetd, "-f", *where, file]

    def with_tls(self, command, options):
        return [*command[:-1], *options, command[-1]]


class Nbdkit(Server):
    has_tls = True

    def unavailable(self, bench_lab):
        return _missing("nbdkit")

    def command(self, bench_lab, file, unix_path, tcp):
        where = ["-U", unix_path] if unix_path else ["-i", tcp.host, "-p", tcp.port]
        return [lab.need_program("nbdkit"), "-f", *where, "file", file]

    def with_tls(self, command, options):
        return [*command[:-2], *options, *command[-2:]]


class NbdkitSingle(SocketActivated):
    has_tls = True

    def unavailable(self, bench_lab):
        return _missing("systemd-socket-activate", "nbdkit")

    def command(self, bench_lab, file, unix_path, tcp):
        return [*self.superserver_command(unix_path, tcp, "--inetd"),
                lab.need_program("nbdkit"), "-s", "file", file]

    def with_tls(self, command, options):
        return [*command[:-2], *options, *command[-2:]]


class QemuNbd(Server):
    def unavailable(self, bench_lab):
        return _missing("qemu-nbd")

    def command(self, bench_lab, file, unix_path, tcp):
        where = ["-k", unix_path] if unix_path else ["-b", tcp.host, "-p", tcp.port]
        return [lab.need_program("qemu-nbd"), "--persistent", "--shared=0", "-f", "raw",
                "-x", EXPORT, *where, file]


class NbdServer(Server):
    """The reference server. Without its going into the background it serves one client only."""

    def unavailable(self, bench_lab):
        return _missing("nbd-server")

    def daemon_pid_file(self, bench_lab):
        return bench_lab.directory / "nbd-server.pid"

    def command(self, bench_lab, file, unix_path, tcp):
        where = (f"unixsock = {unix_path}" if unix_path
                 else f"listenaddr = {tcp.host}\nport = {tcp.port}")
        config = bench_lab.directory / "nbd-server.conf"
        config.write_text(f"[generic]\n{where}\nallowlist = true\n\n[{EXPORT}]\n"
                          f"exportname = {file}\nflush = true\nfua = true\ntrim = true\n")
        return [lab.need_program("nbd-server"), "-C", config,
                "-p", self.daemon_pid_file(bench_lab)]


class NbdinetdCopies(NbdinetdAccept):
    """A private copy for each client, in a file or in memory."""

    def __init__(self, key, title, in_memory):
        super().__init__(key, title)
        self.in_memory = in_memory

    def command(self, bench_lab, file, unix_path, tcp):
        place = "memory" if self.in_memory else bench_lab.directory
        return [*super().command(bench_lab, file, unix_path, tcp)[:-1],
                "--cow", f"--cow-dir={place}", file]


class NbdkitCopy(Nbdkit):
    def surroundings(self, bench_lab):
        return ["env", f"TMPDIR={bench_lab.directory}"]

    def command(self, bench_lab, file, unix_path, tcp):
        return [*super().command(bench_lab, file, unix_path, tcp)[:-2], "--filter=cow", "file", file]


class QemuNbdSnapshot(QemuNbd):
    def surroundings(self, bench_lab):
        return ["env", f"TMPDIR={bench_lab.directory}"]

    def command(self, bench_lab, file, unix_path, tcp):
        return [*super().command(bench_lab, file, unix_path, tcp)[:-1], "--snapshot", file]


class NbdServerCopies(NbdServer):
    def command(self, bench_lab, file, unix_path, tcp):
        command = super().command(bench_lab, file, unix_path, tcp)
        config = bench_lab.directory / "nbd-server.conf"
        config.write_text(f"{config.read_text()}copyonwrite = true\ncowdir = {bench_lab.directory}\n")
        return command


class NbdinetdCached(NbdinetdAccept):
    """With --cache."""

    def __init__(self, mode):
        super().__init__(f"nbdinetd-{mode}", f"nbdinetd --cache={mode}")
        self.mode = mode

    def command(self, bench_lab, file, unix_path, tcp):
        return [*super().command(bench_lab, file, unix_path, tcp)[:-1], f"--cache={self.mode}", file]


class NbdkitUncached(Nbdkit):
    def command(self, bench_lab, file, unix_path, tcp):
        return [*super().command(bench_lab, file, unix_path, tcp), "cache=none"]


class QemuNbdCached(QemuNbd):
    def __init__(self, key, *options):
        super().__init__(key, f"qemu-nbd {' '.join(options)}")
        self.options = options

    def command(self, bench_lab, file, unix_path, tcp):
        return [*super().command(bench_lab, file, unix_path, tcp)[:-1], *self.options, file]


class BareSender(Server):
    """sender.c: no server, but the most that one can reach."""

    is_peer = False

    def __init__(self, key, title, how):
        super().__init__(key, title)
        self.how = how

    def command(self, bench_lab, file, unix_path, tcp):
        where = [f"--unix={unix_path}"] if unix_path else [f"--port={tcp.port}"]
        if tcp and tcp.host != HERE.host:
            where.append("--anywhere")
        return [bench_lab.program("sender"), "nbd", self.how, *where, file]


class TlsSender(Server):
    """tls_sender.c: the same over TLS, by certificates."""

    is_peer = False

    def command(self, bench_lab, file, unix_path, tcp):
        return [bench_lab.openssl_program("tls_sender"), f"--port={tcp.port}", file]

    def with_tls(self, command, options):
        directory = next(option.partition("=")[2] for option in options
                         if option.startswith("--tls-certificates="))
        return [*command[:-1], f"--certificates={directory}", command[-1]]


NBDINETD = "nbdinetd"
NBDINETD_LISTENER = "nbdinetd-listener"
NBDKIT_SINGLE = "nbdkit-s"

SERVERS = [
    NbdinetdAccept(NBDINETD, "nbdinetd, Accept=yes"),
    NbdinetdListener(NBDINETD_LISTENER, "nbdinetd, listener"),
    Nbdkit("nbdkit", "nbdkit"),
    NbdkitSingle(NBDKIT_SINGLE, "nbdkit -s"),
    QemuNbd("qemu-nbd", "qemu-nbd"),
    NbdServer("nbd-server", "nbd-server"),
]
BARE_SENDERS = [
    BareSender("sender-sendfile", "bare sender, sendfile", "sendfile"),
    BareSender("sender-write", "bare sender, write", "write"),
]
# What the rows of private copies compare.
COPYING = [
    NbdinetdCopies("nbdinetd-cow", "nbdinetd --cow", in_memory=False),
    NbdinetdCopies("nbdinetd-cow-memory", "nbdinetd --cow --cow-dir=memory", in_memory=True),
    NbdkitCopy("nbdkit-cow", "nbdkit --filter=cow"),
    QemuNbdSnapshot("qemu-nbd-snapshot", "qemu-nbd --snapshot"),
    NbdServerCopies("nbd-server-cow", "nbd-server, copyonwrite"),
]
# What the rows of each --cache compare. nbdkit's cache=none uses the page cache and leaves nothing there.
CACHING = {
    "none": [NbdinetdCached("none"),
             *(QemuNbdCached(f"qemu-nbd-{aio}", "--cache=none", f"--aio={aio}")
               for aio in ("threads", "native", "io_uring"))],
    "writethrough": [NbdinetdCached("writethrough"),
                     QemuNbdCached("qemu-nbd-writethrough", "--cache=writethrough")],
    "drop": [NbdinetdCached("drop"), NbdkitUncached("nbdkit-uncached", "nbdkit, cache=none")],
}
READY_SENDER = BareSender("sender-memory", "a sender that has all answers ready", "memory")
TLS_SENDER = TlsSender("sender-tls", "bare sender, TLS")
BY_KEY = {server.key: server
          for server in [*SERVERS, *COPYING, *sum(CACHING.values(), []), *BARE_SENDERS, READY_SENDER,
                         TLS_SENDER]}


def add_variant(name, words):
    variant = NbdinetdVariant(name, words)
    if name in BY_KEY:
        raise ValueError(f"there is a server '{name}' already")
    SERVERS.append(variant)
    BY_KEY[name] = variant


def add_as_kernel(version):
    server = NbdinetdAsKernel(version)
    if server.key in BY_KEY:
        raise ValueError(f"there is a server '{server.key}' already")
    SERVERS.append(server)
    BY_KEY[server.key] = server


class Running:
    """A started server. Use as a context manager, or call stop()."""

    def __init__(self, server, bench_lab, file, transport, tls, place):
        self.server = server
        self._place = place
        self._lab = bench_lab
        self._log_path = bench_lab.directory / "server.log"
        self._pid_file = server.daemon_pid_file(bench_lab)
        self._daemon = None
        self.unix_path = self.tcp = None
        if transport == "unix":
            self.unix_path = str(bench_lab.socket_directory / "socket")
            Path(self.unix_path).unlink(missing_ok=True)
            self.uri = f"nbd+unix:///{EXPORT}?socket={self.unix_path}"
            self.address = ["--unix", self.unix_path]
        else:
            self.tcp = TcpAddress(place.listens_on, free_port())
            self.uri = f"nbd://{place.host}:{self.tcp.port}/{EXPORT}"
            self.address = ["--port", str(self.tcp.port)]
        command = server.command(bench_lab, str(file), self.unix_path, self.tcp)
        if tls:
            command = server.with_tls(command, tls)
        self._account = accounting.open_account()
        try:
            self._spawn([str(word) for word in [*place.enter, *server.surroundings(bench_lab),
                                          *command]])
            self.offers = self._wait_until_it_serves()
            self._resting = self._rest()
        except BaseException:
            self.stop()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stop()

    def _spawn(self, command):
        def in_the_child():
            self._account.enter()
            lab.die_with_parent()
        if self._pid_file:
            self._pid_file.unlink(missing_ok=True)
        self._process = None
        with open(self._log_path, "wb") as log:
            # A session of its own keeps ^C for this program, which then ends the server.
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                             stderr=log, start_new_session=True,
                                             preexec_fn=in_the_child)
        self._account.started(self._process.pid)

    def _wait_until_it_serves(self):
        """A client's handshake proves that it does, and says what the server offers."""
        deadline = time.monotonic() + START_GUARD
        blaster = self._lab.program("blaster")
        problem = None
        while True:
            self._look_for_daemon()
            if self._process.poll() is not None and not self._pid_file:
                raise RuntimeError(f"{self.server.title} ended: {self.log_tail()}")
            if self._can_connect():
                try:
                    return json.loads(lab.run_client([*self._place.enter, blaster, "info",
                                                      *self.address], 1))
                except RuntimeError as error:
                    # Who listens should serve; a second more is for one that is not ready.
                    deadline = min(deadline, time.monotonic() + 1)
                    problem = f"{error}; {self.log_tail()}"
            if time.monotonic() > deadline:
                raise RuntimeError(problem or f"{self.server.title} does not listen: "
                                   f"{self.log_tail()}")
            time.sleep(0.005)

    def _look_for_daemon(self):
        if self._pid_file and self._daemon is None:
            try:
                self._daemon = int(self._pid_file.read_text())
                self._account.started(self._daemon)
            except (OSError, ValueError):
                pass

    def _can_connect(self):
        """Whether something listens, without connecting: that would start a server."""
        if self._pid_file and self._daemon is None:
            return False
        if self.unix_path:
            # The flag is __SO_ACCEPTCON.
            return re.search(rf"00010000 .* {re.escape(self.unix_path)}$",
                             Path("/proc/net/unix").read_text(), re.MULTILINE) is not None
        address = socket.inet_aton(self.tcp.host)[::-1].hex().upper()
        table = Path(self._place.tcp_table).read_text()
        return f" {address}:{self.tcp.port:04X} 00000000:0000 0A " in table

    def _rest(self):
        """The processes when no client is there."""
        pids = self._account.pids()
        deadline = time.monotonic() + 2
        while len(pids) > 1 and time.monotonic() < deadline:
            time.sleep(0.005)
            pids = self._account.pids()
        return set(pids)

    def settle(self):
        """Waits until the processes of connections that have ended are gone, so that what
        their end costs is counted, and counted here."""
        deadline = time.monotonic() + 2
        while set(self._account.pids()) - self._resting and time.monotonic() < deadline:
            time.sleep(0.002)

    def cpu_seconds(self):
        return self._account.cpu_seconds()

    def pss_kib(self):
        """Of the server's processes; a superserver is the system's, not the server's."""
        pids = self._account.pids()
        if self.server.superserver:
            pids = [pid for pid in pids if pid != self._process.pid]
        return accounting.pss_kib(pids)

    def log_tail(self):
        try:
            return self._log_path.read_text(errors="replace").strip()[-400:] or "it said nothing"
        except OSError:
            return "it left no log"

    def stop(self):
        self._look_for_daemon()
        ours = {pid for pid in (self._process and self._process.pid, self._daemon) if pid}
        started = time.monotonic()
        sent = {}  # pid: the last signal it got
        while True:
            alive = set(self._account.pids())
            if not alive:
                break
            waited = time.monotonic() - started
            # First the server itself; it ends its children. Then those who are left.
            targets = alive & ours if waited < 1 and alive & ours else alive
            wanted = signal.SIGTERM if waited < 5 else signal.SIGKILL
            for pid in targets:
                if sent.get(pid) != wanted:
                    sent[pid] = wanted
                    try:
                        os.kill(pid, wanted)
                    except ProcessLookupError:
                        pass
            self._reap()
            time.sleep(0.002)
            if waited > 20:
                break
        self._reap()
        self._account.close()
        if self.unix_path:
            Path(self.unix_path).unlink(missing_ok=True)

    def _reap(self):
        if self._process:
            self._process.poll()
        lab.reap_orphans(spared={self._process.pid} if self._process else set())
