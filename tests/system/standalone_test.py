#!/usr/bin/python3
"""nbdinetd as a stand-alone server: its addresses, in the foreground and in the background, with a
command, a pidfile and another user, and options that exclude each other.

It is longer than 500 lines because there are many options.
"""

import errno
import fcntl
import grp
import os
import pty
import pwd
import random
import signal
import socket
import stat
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402
from listening import *  # noqa: E402
from tls import authority  # noqa: E402

NBD_PORT = 10809

is_private = False  # the network


def foreground(t, *arguments, address, prefix=(), **how):
    """A stand-alone server in the foreground that listens on the address now."""
    process = t.spawn([*prefix, NBDINETD, "-f", *arguments], **how)
    wait_listening(address, process)
    if process.poll() is not None:
        raise AssertionError(f"exit status {process.poll()}: {process.stderr()}")
    return process


class Background:
    """A stand-alone server in the background. Its parent has exited with 0."""

    def __init__(self, t, *arguments, prefix=(), pidfile=None, **how):
        self.pidfile = pidfile or t.fresh(".pid")
        self.parent = t.run([*prefix, NBDINETD, "-P", self.pidfile, *arguments], **how)
        self.pid = int(Path(self.pidfile).read_text())
        t.defer(self._end)

    def _end(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def stop(self, number=signal.SIGTERM):
        """We are the reaper of what the parent has left, so that the exit status comes to us."""
        os.kill(self.pid, number)
        eq(self.status(), EX_OK, "the exit status of the background process")

    def status(self):
        def ended():
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            return pid and (os.waitstatus_to_exitcode(status),)
        return wait_until(ended, "the background process to end")[0]


def tcp(host, port):
    """A connection, or None when it is refused."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    connection = socket.socket(family)
    connection.settimeout(GUARD)
    try:
        connection.connect((host, port))
    except (ConnectionRefusedError, OSError):
        connection.close()
        return None
    return connection


def reachable(host, port):
    """A client is served there."""
    connection = tcp(host, port)
    if connection is None:
        return False
    visit(Client(connection))
    return True


def in_directory(path):
    """Runs a program with this current folder."""
    return ["/bin/sh", "-c", 'cd "$0" && exec "$@"', path]


def ids(pid):
    """((real, effective, saved, file-system) uid, the same gid, [supplementary groups])"""
    text = Path(f"/proc/{pid}/status").read_text()
    return tuple([int(n) for n in matches(rf"^{name}:[ \t]*(.*)$", text)[1].split()]
                 for name in ("Uid", "Gid", "Groups"))


# ------------------------------------------------------------------ who asks for it

def nothing_listens():
    """In a network of our own: no server on the port where one without options would be."""
    return not is_private or (tcp("127.0.0.1", NBD_PORT), tcp("::1", NBD_PORT)) == (None, None)


def not_asked(process, found, listen_fds="not set"):
    """It ends at once, and its one sentence says what it looked for, what it found and what to do."""
    process.expect(EX_USAGE)
    matches(rf"\Anbdinetd: .*LISTEN_FDS.* is {listen_fds}, .*standard input.* is {found}; "
            r".*nbdinetd\.socket.* -f, .*\n\Z", process.stderr())
    eq(nothing_listens(), True, "nobody listens")
    wait_until(lambda: all(state_of(pid) in ("Z", None) for pid in servers_below(os.getpid())),
               "every process to be gone")


def terminal(t):
    """A terminal that is nobody's controlling one."""
    leader, follower = pty.openpty()
    t.defer(os.close, leader)
    t.defer(os.close, follower)
    return follower


@test("without a connection, and without being asked to, it never listens: exit status 64, and the "
      "message says what was looked for, what is there, and what to do")
def _(t):
    image = t.pattern_image(MIB)
    reading, writing = os.pipe()
    regular, folder = os.open(image, os.O_RDWR), os.open(t.dir, os.O_RDONLY)
    for descriptor in (reading, writing, regular, folder):
        t.defer(os.close, descriptor)
    # A pipeline, a service, a cron job, a shell's "&", and no standard input at all.
    for how, found in (({"fds": {0: reading, 1: writing}}, "a pipe"), ({}, "/dev/null.*"),
                       ({"fds": {0: CLOSED}}, "/dev/null.*"), ({"fds": {0: regular}}, "a regular file"),
                       ({"fds": {0: folder}}, "a directory"),
                       # That standard output is one says nothing.
                       ({"fds": {1: terminal(t), 0: reading}}, "a pipe")):
        for options in ([], ["-r", "-P", t.path("pid"), "--max-connections=3", "--log=stderr"]):
            not_asked(t.spawn([NBDINETD, *options, image], **how), found)
    eq(os.path.exists(t.path("pid")), False, "the pidfile")
    process = t.run(["/bin/sh", "-c", f"sleep 0 | {NBDINETD} {image} | cat; "
                     f"nohup {NBDINETD} {image} & wait $!; echo $?"])
    eq(process.stdout(), f"{EX_USAGE}\n")
    eq(process.stderr().count("ask for it by -f"), 2, process.stderr())


@test("by hand at a terminal it listens without being asked, in the background")
def _(t):
    require(is_private, "needs a network of its own, where port 10809 is free")
    image, ours = t.pattern_image(MIB), terminal(t)
    reading, writing = os.pipe()
    t.defer(os.close, reading)
    t.defer(os.close, writing)
    # Standard input decides: `nbdinetd disk.img | tee log` is by hand, too.
    for output in (ours, writing):
        server = Background(t, image, fds={0: ours, 1: output, 2: output})
        eq(reachable("127.0.0.1", NBD_PORT), True)
        server.stop()
    # And what a service manager says that has nothing to do with this process changes nothing.
    server = Background(t, image, fds={0: ours}, listen_fds=1, listen_pid=os.getpid())
    eq(reachable("127.0.0.1", NBD_PORT), True)
    server.stop()


@test("-p, -i, -U, --vsock, --run and -f ask for it, whatever standard input is")
def _(t):
    image, path = t.pattern_image(MIB), t.path("nbd.sock")
    reading, writing = os.pipe()
    t.defer(os.close, reading)
    t.defer(os.close, writing)
    for standard_input in (reading, CLOSED, terminal(t)):
        fds = {0: standard_input}
        for options, address in ((["-p", port := free_port()], ("127.0.0.1", port)),
                                 (["-i", "127.0.0.1", "-p", port := free_port()],
                                  ("127.0.0.1", port)), (["-U", path], path)):
            server = Background(t, *options, image, fds=fds)
            visit(Client(connect(address)))
            server.stop()
        if is_private:
            for options in (["-f"], ["-i", "127.0.0.1", "-f"]):
                process = t.spawn([NBDINETD, *options, image], fds=fds)
                wait_listening(("127.0.0.1", NBD_PORT))
                eq(reachable("127.0.0.1", NBD_PORT), True)
                stop(process)
        t.run([NBDINETD, "--run", "true", image], fds=fds)
        # Where there is no vsock this fails for that reason.
        process = t.spawn([NBDINETD, "--vsock", "-p", random.randrange(1 << 17, 1 << 31),
                           "--run", "true", image], fds=fds)
        eq(process.wait() in (EX_OK, EX_CANTCREAT), True, process.stderr())


@test("a socket in LISTEN_FDS that is for another process is never served, never left open, and a "
      "reason not to listen even at a terminal")
def _(t):
    image, path = t.pattern_image(MIB), t.path("nbd.sock")
    door, other = Door(t), os.getpid()
    for standard_input in (None, terminal(t)):
        ours, theirs = t.connection()
        process = t.spawn([NBDINETD, image], listen_fds=2, listen_pid=other,
                          fds={3: door, 4: theirs, **({} if standard_input is None else
                                                      {0: standard_input})})
        theirs.close()
        not_asked(process, "a terminal" if standard_input else "/dev/null.*",
                  rf"for process {other}, not for this process {process.pid}")
        client = Client(ours)
        client.expect_end()
        eq(bytes(client.received), b"", "what the client has got")
    # One that listens by itself has them no more; what is no socket may be anybody's.
    file, (ours, theirs) = opened(t, image), t.connection()
    process = foreground(t, "-U", path, image, address=path, listen_fds=3, listen_pid=other,
                         fds={3: door, 4: file, 5: theirs})
    theirs.close()
    Client(ours).expect_end()
    descriptors = process.descriptors()
    eq(len([what for what in descriptors.values() if what.startswith("socket:")]), 1,
       f"its own listening socket alone is a socket of {descriptors}")
    eq(listening_sockets(process.pid) != [3], True)
    client = door.client()
    visit(Client(connect(path)))
    eq((door.waiting(), client.ended()), (True, False), "somebody still waits to be accepted")
    stop(process)


@test("a shell between systemd-socket-activate and nbdinetd makes no server: LISTEN_PID is the "
      "shell's, and the client sees the end")
def _(t):
    program = need("systemd-socket-activate")
    image, path = t.pattern_image(MIB), t.path("nbd.sock")
    for accept in ([], ["--accept"]):
        process = t.spawn([program, *accept, "-l", path, "/bin/sh", "-c",
                           f"{NBDINETD} {image}; echo status $?; exit 3"])
        wait_until(lambda: is_listening(path), "systemd-socket-activate to listen")
        client = Client(connect(path))
        client.expect_end()
        eq(bytes(client.received), b"", "what the client has got")
        wait_until(lambda: "status" in process.stdout(), "nbdinetd to end")
        matches(rf"^status {EX_USAGE}$", process.stdout())
        matches(r"^nbdinetd: .*LISTEN_FDS.*for process \d+", process.stderr())
        eq(nothing_listens(), True, "nobody listens")
        process.stop()
        os.unlink(path)


# ------------------------------------------------------------------ where

@test("without a socket option it listens on TCP port 10809, IPv4 and IPv6")
def _(t):
    require(is_private, "needs a network of its own, where port 10809 is free")
    process = foreground(t, t.pattern_image(MIB), address=("", NBD_PORT))
    eq((reachable("127.0.0.1", NBD_PORT), reachable("::1", NBD_PORT)), (True, has_ipv6()))
    stop(process)
    eq(tcp("127.0.0.1", NBD_PORT), None)


@test("-p listens on that port, IPv4 and IPv6")
def _(t):
    image = t.pattern_image(MIB)
    for option in (["-p", ""], ["--port="]):
        port = free_port()
        process = foreground(t, *option[:-1], option[-1] + str(port), image, address=("", port))
        eq((reachable("127.0.0.1", port), reachable("::1", port)), (True, has_ipv6()))
        stop(process)


@test("-i listens on that address alone")
def _(t):
    image = t.pattern_image(MIB)
    addresses = ["127.0.0.1", "127.0.0.2"] + (["::1"] if has_ipv6() else [])
    for chosen in addresses:
        port = free_port()
        process = foreground(t, "-i", chosen, "-p", port, image, address=("", port))
        for address in addresses:
            eq(reachable(address, port), address == chosen, f"{address} with -i {chosen}")
        stop(process)
    port = free_port()
    process = foreground(t, "--ipaddr=127.0.0.1", "-p", port, image, address=("", port))
    eq(reachable("127.0.0.1", port), True)
    stop(process)


@test("-U listens on a Unix socket, and removes it at the end")
def _(t):
    image = t.pattern_image(MIB)
    for option in (["-U"], ["--unix"]):
        path = t.fresh(".sock")
        process = foreground(t, *option, path, image, address=path)
        visit(Client(connect(path)))
        eq(stat.S_ISSOCK(os.stat(path).st_mode), True)
        stop(process)
        eq(os.path.exists(path), False, "the socket after the end")


@test("-U replaces a socket that nobody listens on, but neither one in use nor another file")
def _(t):
    image, path = t.pattern_image(MIB), t.path("nbd.sock")
    process = foreground(t, "-U", path, image, address=path)
    process.signal(signal.SIGKILL)
    process.wait()
    eq(os.path.exists(path), True, "a socket is left over")
    process = foreground(t, "-U", path, image, address=path)
    second = t.run([NBDINETD, "-f", "-U", path, image], status=EX_CANTCREAT)
    contains(path, second.stderr())
    visit(Client(connect(path)))
    stop(process)
    precious = t.image(b"precious", "precious")
    t.run([NBDINETD, "-f", "-U", precious, image], status=EX_CANTCREAT)
    with open(precious, "rb") as file:
        eq(file.read(), b"precious")


@test("exactly one of two servers that start together on one path succeeds, with a left-over "
      "socket and without, and clients reach it")
def _(t):
    image, path, port = t.pattern_image(MIB), t.path("nbd.sock"), free_port()
    # At first what is done between the name and the first client takes long, so that the other one
    # surely finds a socket there that doesn't listen yet.
    strace = [need("strace"), "-D", "-f", "-qq", "-o", t.path("trace"), "-e", "trace=listen", "-e",
              "inject=listen:delay_enter=300000", "--"]
    for number in range(53):
        # Every fifth time on a port, where it is the kernel that decides.
        arguments, address = ((["-i", "127.0.0.1", "-p", port], ("127.0.0.1", port))
                              if number % 5 == 4 else (["-U", path], path))
        both = [t.spawn([*(strace if number < 3 else []), NBDINETD, "-f", *arguments, image],
                        env={"ASAN_OPTIONS": "detect_leaks=0"}) for _ in range(2)]
        wait_until(lambda: any(one.poll() is not None for one in both), "one of them to fail")
        loser = both[0] if both[0].poll() is not None else both[1]
        winner, = [one for one in both if one is not loser]
        loser.expect(EX_CANTCREAT)
        matches(r"^nbdinetd: .*(nbd\.sock|127\.0\.0\.1 port \d+).*in use", loser.stderr())
        wait_until(lambda: is_listening(address) or winner.poll() is not None, "the other to listen")
        for _ in range(2):
            visit(Client(connect(address)))
        eq(winner.poll(), None, "the winner's end")
        # A socket is left over every other time.
        winner.signal(signal.SIGKILL if number % 2 else signal.SIGTERM)
        wait_until(lambda: winner.poll() is not None, "its end")
        # The other one has looked whether the socket is left over, by a connection. The process forked for that may live
        # on after SIGKILL, and has the socket in its first moment.
        wait_until(lambda: not is_listening(address), "its socket to be closed")
    stop(foreground(t, "-U", path, image, address=path))
    eq([name for name in os.listdir(t.dir) if name.startswith("nbd.sock")], [], "left behind")


@test("a server's end removes its own Unix socket, never another file in its place")
def _(t):
    image, path = t.pattern_image(MIB), t.path("nbd.sock")

    def start():
        process = t.spawn([NBDINETD, "-f", "-U", path, image])
        wait_until(lambda: listening_sockets(process.pid) and os.path.exists(path),
                   "the server to listen")
        return process
    for make in (start,
                 lambda: Path(path).write_text("precious"), lambda: os.symlink(image, path),
                 lambda: os.mkdir(path)):
        old = start()
        os.unlink(path)
        successor = make()
        stop(old)
        eq(os.path.lexists(path), True, "what is there now")
        if successor and not isinstance(successor, int):
            visit(Client(connect(path)))
            stop(successor)
            eq(os.path.exists(path), False, "the successor's socket after its end")
        else:
            eq(Path(image).stat().st_size, MIB)
            os.rmdir(path) if os.path.isdir(path) else os.unlink(path)


@test("a lock file that somebody holds, or that is left over, beside a Unix socket")
def _(t):
    image, path = t.pattern_image(MIB), t.path("nbd.sock")
    lock = Path(path + ".nbdinetd-lock")
    lock.touch()
    with open(lock, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = t.run([NBDINETD, "-f", "-U", path, image], status=EX_CANTCREAT)
        matches(r"nbd\.sock.*in use", process.stderr())
    # Nobody holds it, as after a crash.
    process = foreground(t, "-U", path, image, address=path)
    wait_until(lambda: not lock.exists(), "the lock file to be gone")
    # What is held when it ends keeps it from nothing.
    lock.touch()
    with open(lock, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        stop(process)
    eq((os.path.exists(path), lock.exists()), (False, True))
    # And it is never followed.
    lock.unlink()
    os.symlink(image, lock)
    t.run([NBDINETD, "-f", "-U", path, image], status=EX_CANTCREAT)


@test("a path too long for a Unix socket is an error and not another path")
def _(t):
    path = t.path("x" * 120)
    process = t.run([NBDINETD, "-f", "-U", path, t.pattern_image(MIB)], status=EX_CANTCREAT)
    contains(path, process.stderr())
    eq([name for name in os.listdir(t.dir) if name.startswith("xxx")], [])


@test("--vsock listens on that vsock port, whatever the order of the options")
def _(t):
    try:
        socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
    except (OSError, AttributeError) as error:
        raise Skip(f"this kernel has no vsock: {error}") from error
    image = t.pattern_image(MIB)

    def is_taken(port):
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((VMADDR_CID_ANY, port))
                return False
            except OSError as error:
                eq(error.errno, errno.EADDRINUSE)
                return True
    # A vsock port has 32 bits.
    for order in (lambda p: ["--vsock", "-p", p], lambda p: ["-p", p, "--vsock"]):
        port = random.randrange(1 << 17, 1 << 31)
        process = t.spawn([NBDINETD, "-f", *order(port), image])
        wait_until(lambda: is_taken(port) or process.poll() is not None, "the server to listen")
        eq(process.poll(), None, "the server's end")
        if has_vsock_loopback():
            connection = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            connection.settimeout(GUARD)
            connection.connect((VMADDR_CID_LOCAL, port))
            visit(Client(connection))
        stop(process)
        wait_until(lambda: not is_taken(port), "the port to be free")


@test("a port in use, an address of another machine, a missing folder: exit status 73, and "
      "the error names it")
def _(t):
    image = t.pattern_image(MIB)
    taken = socket.create_server(("127.0.0.1", 0))
    t.defer(taken.close)
    port = taken.getsockname()[1]
    for arguments, words in ((["-p", port], rf"{port}.*in use"),
                             (["-i", "127.0.0.1", "-p", port], rf"127\.0\.0\.1.*{port}.*in use"),
                             (["-i", "192.0.2.1", "-p", port], r"192\.0\.2\.1"),
                             (["-i", "not.an.address.invalid", "-p", port], "not.an.address"),
                             (["-U", t.path("missing/nbd.sock")], "missing/nbd.sock")):
        process = t.run([NBDINETD, "-f", *arguments, image], status=EX_CANTCREAT)
        matches(rf"\Anbdinetd: .*{words}.*\n\Z", process.stderr())


@test("a server that is started anew gets its port at once, though connections of the old one "
      "linger")
def _(t):
    image, port = t.pattern_image(MIB), free_port()
    for _ in range(3):
        process = foreground(t, "-p", port, image, address=("", port))
        clients = [Client(tcp("127.0.0.1", port)).start() for _ in range(3)]
        # It is the server that closes, so that its end has TIME_WAIT.
        stop(process)
        for client in clients:
            client.read_to_end()


@test("after SIGHUP a new server takes the port or the path while old connections live on")
def _(t):
    image, port, path = t.pattern_image(MIB), free_port(), t.path("nbd.sock")
    for arguments, address in ((["-p", port], ("127.0.0.1", port)), (["-U", path], path)):
        process = foreground(t, *arguments, image, address=address)
        old = Client(connect(address)).start()
        process.signal(signal.SIGHUP)
        process.expect(EX_OK)
        process = foreground(t, *arguments, "--description=new", image, address=address)
        client = Client(connect(address)).start(requests=[NBD_INFO_DESCRIPTION])
        eq(client.infos[NBD_INFO_DESCRIPTION], b"new")
        client.disconnect()
        eq(old.read(0, 512), pattern(0, 512))
        old.disconnect()
        stop(process)


@test("each connection has a process of its own, and --max-connections bounds them")
def _(t):
    path = t.path("nbd.sock")
    process = foreground(t, "--max-connections=2", "-U", path, t.pattern_image(MIB), address=path)
    clients = [Client(connect(path)).start() for _ in range(2)]
    eq(len(children_of(process.pid)), 2)
    refused = Client(connect(path))
    refused.expect_end()
    eq(bytes(refused.received), b"")
    for client in clients:
        client.disconnect()
    wait_alone(process)
    visit(Client(connect(path)))
    stop(process)


# ------------------------------------------------------------------ the background

@test("in the background the parent exits with 0 only when a client that connects at once is "
      "served")
def _(t):
    image = t.pattern_image(MIB)
    for number in range(15):
        port, path = free_port(), t.fresh(".sock")
        server = Background(t, *(["-p", port] if number % 2 else ["-U", path]), image)
        # No second try.
        visit(Client(connect(("127.0.0.1", port) if number % 2 else path)))
        eq(server.parent.stderr(), "")
        server.stop()


@test("in the background the parent exits with 1, and the error on its standard error, when it "
      "can't be ready")
def _(t):
    image = t.pattern_image(MIB)
    taken, path = socket.create_server(("127.0.0.1", 0)), t.path("nbd.sock")
    t.defer(taken.close)
    port = taken.getsockname()[1]
    busy = socket.socket(socket.AF_UNIX)
    t.defer(busy.close)
    busy.bind(t.path("busy.sock"))
    busy.listen()
    for arguments, words in ((["-p", port], "in use"), (["-U", t.path("busy.sock")], "in use"),
                             (["-U", path, "-P", t.path("missing/pid")], "missing/pid"),
                             (["-U", path, "-u", "no-such-user"], "no-such-user"),
                             (["-U", path, "-g", "no-such-group"], "no-such-group")):
        process = t.run([NBDINETD, *arguments, image], status=1)
        matches(rf"\Anbdinetd: .*{words}.*\n\Z", process.stderr())
        eq(os.path.exists(path), False, "a socket after it has failed")
    wait_until(lambda: all(state_of(pid) in ("Z", None) for pid in servers_below(os.getpid())),
               "every process to be gone")


@test("a FILE that can't be served is an error at the start, in the foreground and in the "
      "background")
def _(t):
    path, image = t.path("nbd.sock"), t.pattern_image(MIB)
    for arguments in ([], ["-f"]):
        process = t.run([NBDINETD, *arguments, "-U", path, t.path("missing.img")], status=None)
        # 1 is what the background promises for whatever goes wrong.
        eq(process.wait(), EX_NOINPUT if arguments else 1, "exit status")
        contains("missing.img", process.stderr())
        eq(os.path.exists(path), False)
    if os.geteuid() == 0:
        # As the user that will serve it.
        os.chmod(image, 0o600)
        for arguments in ([], ["-f"]):
            process = t.run([NBDINETD, *arguments, "-U", path, "-u", "nobody", image],
                            status=EX_NOINPUT if arguments else 1)
            contains(image, process.stderr())
            eq(is_listening(path), False)


@test("the background process leaves the terminal, the folder and the standard descriptors behind")
def _(t):
    path = t.path("nbd.sock")
    read, write = os.pipe()
    t.defer(os.close, read)
    server = Background(t, "-U", path, t.pattern_image(MIB), fds={1: write, 2: write})
    os.close(write)
    # Whoever reads what it says, as `$(nbdinetd ...)` does, comes to the end.
    eq(os.read(read, 1), b"")
    eq(os.readlink(f"/proc/{server.pid}/cwd"), "/")
    eq({n: what for n, what in descriptors_of(server.pid).items() if n <= 2},
       {0: "/dev/null", 1: "/dev/null", 2: "/dev/null"})
    assert os.getsid(server.pid) != os.getsid(0), "it is in our session"
    eq(Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[4], "0", "terminal")
    visit(Client(connect(path)))
    server.stop()


@test("relative paths mean the folder that it was started in, also after it has left it")
def _(t):
    t.pattern_image(MIB, "disk.img")
    os.mkdir(t.path("copies"))
    process = t.run([*in_directory(t.dir), NBDINETD, "-U", "nbd.sock", "-P", "nbd.pid", "--cow", "--cow-dir=copies",
                     "disk.img"])
    pid = int(Path(t.path("nbd.pid")).read_text())
    eq(process.stderr(), "")
    for _ in range(2):
        visit(Client(connect(t.path("nbd.sock"))))
    os.kill(pid, signal.SIGTERM)
    eq(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), EX_OK)
    eq([name for name in os.listdir(t.dir) if name.startswith("nbd.")], [], "left behind")


@test("relative paths of keys and certificates, which each connection reads anew, mean that "
      "folder, too")
def _(t):
    if "built without OpenSSL" in t.run([NBDINETD, "--check", "--tls-psk=/nonexistent",
                                         t.pattern_image(MIB, "disk.img")], status=None).stderr():
        raise Skip("nbdinetd was built without OpenSSL")
    Path(t.path("keys.psk")).write_text("alice:0123456789abcdef\n")
    os.rename(authority().server_files(t), t.path("pki"))
    for number, tls in enumerate((["--tls-psk=keys.psk"], ["--tls-certificates=pki"])):
        name = f"nbd{number}.sock"
        t.run([*in_directory(t.dir), NBDINETD, "-U", name, "-P", "nbd.pid", "--tls=require", *tls,
               "disk.img"])
        pid = int(Path(t.path("nbd.pid")).read_text())
        t.defer(lambda p=pid: os.path.exists(f"/proc/{p}") and os.kill(p, signal.SIGKILL))
        for _ in range(2):
            client = Client(connect(t.path(name)))
            client.handshake()
            eq(client.haggle(NBD_OPT_STARTTLS), [(NBD_REP_ACK, b"")])
            client.close()
        os.kill(pid, signal.SIGTERM)
        eq(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), EX_OK)


@test("SIGTERM ends the background process, too: connections are drained, the socket is removed")
def _(t):
    path = t.path("nbd.sock")
    server = Background(t, "-U", path, t.pattern_image(MIB))
    client = Client(connect(path)).start()
    client.write(0, b"\x18" * 512)
    child, = children_of(server.pid)
    server.stop()
    client.read_to_end()
    eq(state_of(child), None)
    eq(os.path.exists(path), False)


@test("-f stays in the foreground, until SIGTERM or SIGINT")
def _(t):
    for number in (signal.SIGTERM, signal.SIGINT):
        for option in ("-f", "--foreground"):
            path = t.fresh(".sock")
            process = t.spawn([NBDINETD, option, "-U", path, t.pattern_image(MIB)])
            wait_listening(path)
            visit(Client(connect(path)))
            eq(process.poll(), None)
            process.signal(number)
            process.expect(EX_OK)
            eq(os.path.exists(path), False)


# ------------------------------------------------------------------ pidfile, user and group

@test("-P holds the process id of the listener before the parent exits, and is removed at the end")
def _(t):
    image, path, pidfile = t.pattern_image(MIB), t.path("nbd.sock"), t.path("nbd.pid")
    # An old one is overwritten, however long it was.
    Path(pidfile).write_text("123456789 and more\n")
    process = foreground(t, "-P", pidfile, "-U", path, image, address=path)
    wait_until(lambda: Path(pidfile).read_text() == f"{process.pid}\n", "the pidfile")
    stop(process)
    eq(os.path.exists(pidfile), False)

    server = Background(t, "-U", path, image)
    eq(Path(server.pidfile).read_text(), f"{server.pid}\n")
    eq(Path(f"/proc/{server.pid}/comm").read_text(), "nbdinetd\n")
    server.stop()
    eq(os.path.exists(server.pidfile), False)


@test("with -u a pidfile is removed where that user may, and else it is emptied: it never names a "
      "process that is gone")
def _(t):
    need_root("to become another user")
    image, path = t.pattern_image(MIB), t.path("nbd.sock")
    nobody = pwd.getpwnam("nobody").pw_uid
    theirs = Path(t.path("theirs"))
    theirs.mkdir()
    os.chown(theirs, nobody, -1)
    for pidfile, is_removed in ((theirs / "pid", True), (Path(t.path("pid")), False)):
        for how in ("foreground", "background", "activated"):
            if how == "background":
                server = Background(t, "-u", "nobody", "-U", path, image, pidfile=pidfile)
                server.stop()
            else:
                process = (activate(t, "-P", pidfile, "-u", "nobody", image, inherited=[Door(t)])
                           if how == "activated" else
                           foreground(t, "-P", pidfile, "-u", "nobody", "-U", path, image,
                                      address=path))
                wait_until(lambda: pidfile.exists() and pidfile.read_text() == f"{process.pid}\n",
                           "the pidfile")
                wait_until(lambda: ids(process.pid)[0][0] == nobody, "the change")
                stop(process)
            eq(pidfile.exists() and pidfile.read_text(), False if is_removed else "",
               f"{pidfile} after the end, {how}")
            if how != "activated":
                # As the socket, which the next one replaces.
                eq(os.path.exists(path), True)
    # The next server takes an emptied one as it takes any.
    process = foreground(t, "-P", t.path("pid"), "-U", path, image, address=path)
    wait_until(lambda: Path(t.path("pid")).read_text() == f"{process.pid}\n", "the pidfile")
    stop(process)
    eq(os.path.exists(t.path("pid")), False)


@test("a pidfile that another process has written over, or replaced, is not removed; nor is one of "
      "a server that couldn't start left behind")
def _(t):
    image, pidfile = t.pattern_image(MIB), Path(t.path("pid"))
    for number, change in enumerate((lambda: pidfile.write_text("4711\n"),
                                     lambda: (pidfile.unlink(), pidfile.write_text("4711\n")),
                                     lambda: (pidfile.rename(t.path("moved")),
                                              os.symlink(t.path("moved"), pidfile)))):
        path = t.fresh(".sock")
        process = foreground(t, "-P", pidfile, "-U", path, image, address=path)
        wait_until(lambda: pidfile.exists() and pidfile.read_text() == f"{process.pid}\n",
                   "the pidfile")
        change()
        stop(process)
        eq(pidfile.read_text(), "4711\n" if number < 2 else f"{process.pid}\n", f"change {number}")
        pidfile.unlink()
    for arguments in (["-U", t.path("s"), t.path("missing.img")], ["-U", t.path("s"), "--tls=on",
                      "--tls-certificates", t.path("missing"), image]):
        t.run([NBDINETD, "-f", "-P", pidfile, *arguments], status=None)
        eq((pidfile.exists(), os.path.exists(t.path("s"))), (False, False), str(arguments))
    for arguments in ([], ["--tls=on", "--tls-certificates", t.path("missing"), image]):
        process = activate(t, "-P", pidfile, *arguments, inherited=[Door(t)])
        assert process.wait() != EX_OK
        eq(pidfile.exists(), False, f"activated with {arguments}")


@test("the process of a connection holds neither the pidfile nor its folder open")
def _(t):
    image, path, folder = t.pattern_image(MIB), t.path("nbd.sock"), Path(t.path("run"))
    folder.mkdir()
    process = foreground(t, "-P", folder / "pid", "-U", path, image, address=path)
    client = Client(connect(path)).start()
    child, = children_of(process.pid)
    eq([what for what in descriptors_of(child).values() if what.startswith(str(folder))], [])
    client.disconnect()
    stop(process)


@test("a pidfile that can't be written is exit status 73 in the foreground")
def _(t):
    process = t.run([NBDINETD, "-f", "-U", t.path("s"), "-P", t.path("missing/pid"),
                     t.pattern_image(MIB)], status=EX_CANTCREAT)
    contains("missing/pid", process.stderr())
    eq(os.path.exists(t.path("s")), False, "the socket")


@test("a pidfile is never written through a link, and what is in its place stays as it is")
def _(t):
    image, precious = t.pattern_image(MIB), Path(t.path("precious"))
    precious.write_text("precious")
    cases = {"symlink": lambda path: os.symlink(precious, path),
             "dangling": lambda path: os.symlink(t.path("missing/file"), path),
             "link": lambda path: os.link(precious, path), "fifo": os.mkfifo, "folder": os.mkdir}
    for name, make in cases.items():
        pidfile = t.path(name)
        make(pidfile)
        for foreground_option in (["-f"], []):
            process = t.run([NBDINETD, *foreground_option, "-U", t.path("s"), "-P", pidfile, image],
                            status=EX_CANTCREAT if foreground_option else 1)
            contains(pidfile, process.stderr())
            eq(os.path.lexists(pidfile), True, f"the {name} is there")
            eq(precious.read_text(), "precious")


@test("-u and -g change user and group of the listener and its connections for good, by name "
      "and by number")
def _(t):
    need_root("to become another user")
    image = t.pattern_image(MIB)
    nobody, group = pwd.getpwnam("nobody"), grp.getgrnam("daemon")
    for user in (["-u", "nobody"], [f"--user={nobody.pw_uid}"]):
        for of_group in ([], ["-g", "daemon"], [f"--group={group.gr_gid}"]):
            path = t.fresh(".sock")
            process = foreground(t, *user, *of_group, "-U", path, image, address=path)
            wait_until(lambda: ids(process.pid)[0][0] == nobody.pw_uid, "the change")
            client = Client(connect(path)).start()
            gid = group.gr_gid if of_group else nobody.pw_gid
            for pid in (process.pid, *children_of(process.pid)):
                uids, gids, groups = ids(pid)
                eq((uids, gids), ([nobody.pw_uid] * 4, [gid] * 4), f"{user} {of_group}")
                eq(0 in groups, False, f"root's group among {groups}")
                text = Path(f"/proc/{pid}/status").read_text()
                eq(int(matches(r"^CapEff:\s+(\S+)$", text)[1], 16), 0, "capabilities")
            client.disconnect()
            stop(process)


@test("-g alone changes the group and drops the others")
def _(t):
    need_root("to change the group")
    group = grp.getgrnam("daemon").gr_gid
    path = t.path("nbd.sock")
    process = foreground(t, "-g", "daemon", "-U", path, t.pattern_image(MIB), address=path)
    wait_until(lambda: ids(process.pid)[1] == [group] * 4, "the change")
    eq(set(ids(process.pid)[2]) <= {group}, True, f"groups {ids(process.pid)[2]}")
    visit(Client(connect(path)))
    stop(process)


@test("with -u alone the user's other groups come along; -g drops them")
def _(t):
    need_root("to become another user")
    need("unshare")
    image = t.pattern_image(MIB)
    extra, chosen = grp.getgrnam("games").gr_gid, grp.getgrnam("daemon").gr_gid
    own = pwd.getpwnam("nobody").pw_gid
    groups = Path(t.path("group"))
    groups.write_text("".join(line + ("nobody" if line.startswith("games:") else "") + "\n"
                              for line in Path("/etc/group").read_text().splitlines()))
    prefix = ["/usr/bin/unshare", "--mount", "--", "/bin/sh", "-c",
              f"mount --bind {groups} /etc/group && exec \"$0\" \"$@\""]
    for of_group, expected in ((["-g", "daemon"], {chosen}), ([], {own, extra})):
        path = t.fresh(".sock")
        process = foreground(t, "-u", "nobody", *of_group, "-U", path, image, address=path,
                             prefix=prefix)
        wait_until(lambda: ids(process.pid)[0][0] == pwd.getpwnam("nobody").pw_uid, "the change")
        eq(set(ids(process.pid)[2]), expected, f"groups with {of_group}")
        visit(Client(connect(path)))
        stop(process)


@test("a user that is a number without an entry never keeps root's groups")
def _(t):
    need_root("to become another user")
    path = t.path("nbd.sock")
    process = t.spawn([NBDINETD, "-f", "-u", "64324", "-U", path, t.pattern_image(MIB)])
    wait_until(lambda: process.poll() is not None or ids(process.pid)[0] == [64324] * 4,
               "the change, or an error")
    if process.poll() is None:
        uids, gids, groups = ids(process.pid)
        eq((0 in gids, 0 in groups), (False, False), f"gids {gids}, groups {groups}")
        stop(process)
    else:
        matches(r"^nbdinetd: .*64324", process.stderr())
    # With a group there is nothing to guess.
    process = foreground(t, "-u", "64324", "-g", "64325", "-U", path, t.pattern_image(MIB),
                         address=path)
    wait_until(lambda: ids(process.pid) == ([64324] * 4, [64325] * 4, [64325]), "the change")
    visit(Client(connect(path)))
    stop(process)


@test("an unknown user or group is an error that names it, and so is a change without the right to")
def _(t):
    image, path = t.pattern_image(MIB), t.path("nbd.sock")
    for arguments in (["-u", "no-such-user"], ["-g", "no-such-group"], ["-u", "-1"], ["-u", "x1"],
                      # What setuid() and others take for "no change".
                      ["-u", "4294967295"], ["-g", "4294967295"]):
        process = t.run([NBDINETD, "-f", *arguments, "-U", path, image], status=EX_USAGE)
        contains(arguments[1], process.stderr())
        eq(os.path.exists(path), False, "the socket")
    process = t.run([*as_user(64324), NBDINETD, "-f", "-u", "nobody", "-p", str(free_port()), image],
                    status=EX_OSERR)
    contains("nobody", process.stderr())


# ------------------------------------------------------------------ --run

@test("--run runs the command by the shell and exits with its status")
def _(t):
    image = t.pattern_image(MIB)
    for command, status in (("true", 0), ("exit 3", 3), ("false || exit 255", 255),
                            ("/no/such/program", 127), ("kill -TERM $$", 128 + signal.SIGTERM)):
        t.run([NBDINETD, "--run", command, image], status=status)
    process = t.run([NBDINETD, "--run=echo \"it's $((6 * 7))\"; echo error >&2", image])
    eq((process.stdout(), process.stderr()), ("it's 42\n", "error\n"))


VARIABLES = r'printf "%s\n" "$nbd" "$port" "$unixsocket" "$uri" "$exportname"'


@test("--run has a private Unix socket by default, as has -U -, and removes it with its folder")
def _(t):
    image = t.pattern_image(MIB)
    for arguments in ([], ["-U", "-"], ["--unix=-"]):
        process = t.run([NBDINETD, *arguments, "--run",
                         VARIABLES + '; stat -c "%a" "$(dirname "$unixsocket")"; '
                         'nbdinfo --size "$uri"', image])
        nbd, port, path, uri_, name, mode, size = process.stdout().splitlines()
        eq((nbd, port, uri_, name), (f"nbd:unix:{path}", "", f"nbd+unix:///?socket={path}", ""))
        eq((mode, size), ("700", str(MIB)))
        assert path.startswith("/"), path
        eq((os.path.exists(path), os.path.exists(os.path.dirname(path))), (False, False))


@test("--run goes with -p, -i, -U and --exportname, and its variables lead to the export")
def _(t):
    need("nbdinfo")
    need("qemu-img")
    image, path = t.pattern_image(MIB), t.path("nbd.sock")
    cases = [(["-p", free_port()], {}), (["-i", "127.0.0.1", "-p", free_port()], {}),
             (["-i", "127.0.0.2", "-p", free_port()], {}), (["-U", path], {})]
    if is_private:
        cases.append((["-i", "127.0.0.1"], {}))
    if has_ipv6():
        cases.append((["-i", "::1", "-p", free_port()], {}))
    names = ("", "disk", "a b/c?d#e%f\"'$&ü:=")
    for arguments, _ in cases:
        for name in names:
            process = t.run([NBDINETD, *arguments, *(["-e", name] if name else []), "--run",
                             VARIABLES + '; nbdinfo --size "$uri"; qemu-img info "$nbd"', image])
            nbd, port, unixsocket, uri_, exportname, size = process.stdout().splitlines()[:6]
            eq((exportname, size), (name, str(MIB)), f"with {arguments}")
            matches(r"^virtual size: 1 MiB", process.stdout(), f"qemu-img info {nbd}")
            eq(unixsocket, path if "-U" in arguments else "")
            eq(port, "" if "-U" in arguments else
               str(arguments[arguments.index("-p") + 1]) if "-p" in arguments else str(NBD_PORT))


@test("--run goes with --vsock in any order, and its variables lead to the export")
def _(t):
    try:
        socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
    except (OSError, AttributeError) as error:
        raise Skip(f"this kernel has no vsock: {error}") from error
    image, port = t.pattern_image(MIB), random.randrange(1 << 17, 1 << 31)
    for arguments, wanted in ((["--vsock", "-p", port, "--run", VARIABLES], port),
                              (["--run", VARIABLES, "-p", port, "--vsock"], port),
                              (["--run", VARIABLES, "--vsock"], NBD_PORT)):
        process = t.run([NBDINETD, *arguments, image], status=None)
        if wanted == NBD_PORT and "Address already in use" in process.stderr():
            continue  # the port is the machine's, in whatever network
        process.expect(0)
        eq(process.stdout().splitlines(),
           ["", str(wanted), "", f"nbd+vsock://{VMADDR_CID_LOCAL}:{wanted}/", ""])


@test("the command of --run gets no descriptor of the server's, its signals as usual, and no "
      "activation variables")
def _(t):
    image = t.pattern_image(MIB)
    process = t.run([NBDINETD, "-p", free_port(), "--run",
                     "ls -l /proc/self/fd; grep ^Sig /proc/self/status; env", image],
                    env={"LISTEN_FDS": "1", "LISTEN_PID": "1"})
    text = process.stdout()
    eq([line for line in text.splitlines() if "socket:" in line or "anon_inode" in line], [])
    eq(int(matches(r"^SigBlk:\s+(\S+)$", text)[1], 16), 0, "blocked signals")
    SIGPIPE_BIT = 1 << (signal.SIGPIPE - 1)
    eq(int(matches(r"^SigIgn:\s+(\S+)$", text)[1], 16) & SIGPIPE_BIT, 0, "SIGPIPE is ignored")


@test("the end of --run's command drains the connections, and its exit status is the server's")
def _(t):
    path, go = t.path("nbd.sock"), t.path("go")
    process = t.spawn([NBDINETD, "-U", path, "--run",
                       f"while [ ! -e {go} ]; do sleep 0.05; done; exit 5", t.pattern_image(MIB)])
    wait_listening(path)
    client = Client(connect(path)).start()
    client.write(0, b"\x21" * 512)
    Path(go).touch()
    client.read_to_end()
    process.expect(5)
    eq(os.path.exists(path), False)


@test("SIGTERM ends --run with its command")
def _(t):
    path = t.path("nbd.sock")
    process = t.spawn([NBDINETD, "-U", path, "--run", "exec sleep 1000", t.pattern_image(MIB)])
    wait_listening(path)
    command = wait_until(lambda: children_of(process.pid), "the command")[0]
    visit(Client(connect(path)))
    process.signal(signal.SIGTERM)
    process.wait()
    eq(state_of(command), None, "the command")
    eq(os.path.exists(path), False)


@test("SIGHUP ends --run, too, since no instance could take over: the command gets SIGTERM, "
      "connections are drained, and the exit status is the command's")
def _(t):
    path, ready = t.path("nbd.sock"), t.path("ready")
    process = t.spawn([NBDINETD, "-U", path, "--run",
                       f"trap 'exit 9' TERM; touch {ready}; while :; do sleep 0.05; done",
                       t.pattern_image(MIB)])
    wait_until(lambda: os.path.exists(ready) and is_listening(path), "the command")
    command = children_of(process.pid)[0]
    client = Client(connect(path)).start()
    client.write(0, b"\x21" * 512)
    process.signal(signal.SIGHUP)
    client.read_to_end()
    process.expect(9)
    eq(state_of(command), None, "the command")
    eq(os.path.exists(path), False, "the socket")


@test("a command of --run that ignores SIGTERM is killed in the end, and so is the process of a "
      "connection that doesn't end")
def _(t):
    started = []
    for number in (signal.SIGTERM, signal.SIGHUP):
        path, ready = t.fresh(".sock"), t.fresh(".ready")
        process = t.spawn([NBDINETD, "-U", path, "--run",
                           f"trap '' TERM HUP; touch {ready}; while :; do sleep 0.05; done",
                           t.pattern_image(MIB)])
        wait_until(lambda: os.path.exists(ready) and is_listening(path), "the command")
        command = children_of(process.pid)[0]
        client = Client(connect(path)).start()
        handler = next(pid for pid in children_of(process.pid) if pid != command)
        os.kill(handler, signal.SIGSTOP)
        process.signal(number)
        started.append((process, path, command, handler))
    for process, path, command, handler in started:
        # The shell's status for a command that SIGKILL has ended.
        process.expect(128 + signal.SIGKILL)
        eq((state_of(command), state_of(handler)), (None, None))
        eq(os.path.exists(path), False, "the socket")
        contains("didn't end in time: killing", process.stderr())


@test("an error before the command of --run is the exit status of that error, and the command "
      "doesn't run")
def _(t):
    image, mark = t.pattern_image(MIB), t.path("mark")
    t.run([NBDINETD, "-U", t.path("missing/s"), "--run", f"touch {mark}", image],
          status=EX_CANTCREAT)
    t.run([NBDINETD, "--run", f"touch {mark}", image + ".missing"], status=EX_NOINPUT)
    t.run([NBDINETD, "--run", f"touch {mark}"], status=EX_USAGE)
    eq(os.path.exists(mark), False)


@test("the command of --run reaches the export also when -u changes the user, and nothing is "
      "left behind")
def _(t):
    need_root("to become another user")
    for arguments in ([], ["-U", "-"], ["-U", t.path("nbd.sock")], ["-p", free_port()]):
        process = t.run([NBDINETD, "-u", "nobody", "-P", t.fresh(".pid"), *arguments, "--run",
                         'echo "$unixsocket"; nbdinfo --size "$uri"', t.pattern_image(MIB)],
                        status=None)
        path, *rest = process.stdout().splitlines()
        eq((rest, process.wait()), ([str(MIB)], 0), process.stderr())
        if path and "-U" not in arguments or "-" in arguments:
            eq(os.path.exists(os.path.dirname(path)), False, "the private folder")


# ------------------------------------------------------------------ messages

@test("in the foreground messages go to standard error, and after going into the background to "
      "syslog")
def _(t):
    log, image = Syslog(t), t.pattern_image(MIB)
    path = t.path("nbd.sock")
    process = foreground(t, "-U", path, image, address=path, prefix=log.prefix)
    visit(Client(connect(path)))
    stop(process)
    matches(r'^nbdinetd: serving export "" to unix:.*\nnbdinetd: unix:.* ended: ', process.stderr())
    eq(log.messages(), [])

    server = Background(t, "--max-connections=1", "-U", path, image, prefix=log.prefix)
    client = Client(connect(path)).start()
    child, = children_of(server.pid)
    refused = Client(connect(path))
    refused.expect_end()
    client.send(client.request_bytes(NBD_CMD_READ, 0, 1, magic=0xBAD))
    client.expect_end()
    for words, priority, sender in (("^serving export", 6, child), (" ended: .*magic", 4, child),
                                    ("^refusing .*--max-connections", 4, server.pid)):
        eq(log.wait(words)[:2], (priority, sender), words)
    server.stop()
    eq((server.parent.stdout(), server.parent.stderr()), ("", ""))


@test("-f and --run keep messages on standard error")
def _(t):
    log, image = Syslog(t), t.pattern_image(MIB)
    process = t.run([*log.prefix, NBDINETD, "--run", 'nbdcopy "$uri" null: && echo copied', image])
    eq(process.stdout(), "copied\n")
    contains("serving export", process.stderr())
    eq(log.messages(), [])


# ------------------------------------------------------------------ what can't be combined

@test("options that exclude each other are wrong usage that names both")
def _(t):
    image, path = t.pattern_image(MIB), t.path("u")
    for arguments, names in ((["-U", path, "-p", "1234"], ("--unix", "--port")),
                             (["-p", "1234", "-U", path], ("--unix", "--port")),
                             (["-U", path, "-i", "127.0.0.1"], ("--unix", "--ipaddr")),
                             (["-U", path, "--vsock"], ("--unix", "--vsock")),
                             (["--vsock", "-i", "127.0.0.1"], ("--vsock", "--ipaddr")),
                             (["-s", "-p", "1234"], ("--single", "--port")),
                             (["-s", "-i", "::1"], ("--single", "--ipaddr")),
                             (["-s", "-U", path], ("--single", "--unix")),
                             (["-s", "--vsock"], ("--single", "--vsock")),
                             (["-s", "--run", "true"], ("--single", "--run")),
                             (["-f", "-U", path, "--exit-idle=1s"], ("--exit-idle",))):
        process = t.run([NBDINETD, *arguments, image], status=EX_USAGE)
        for name in names:
            contains(name, process.stderr(), " ".join(arguments))
        eq(len(process.stderr().splitlines()), 1, "lines")
    eq(os.path.exists(path), False)


@test("a wrong port is a usage error, and two FILEs, or none, are")
def _(t):
    image = t.pattern_image(MIB)
    for port in ("0", "65536", "-1", "nbd!", "", "10809x", "4294967296", " "):
        process = t.run([NBDINETD, "-f", "-p", port, image], status=EX_USAGE)
        contains("--port", process.stderr())
    t.run([NBDINETD, "-f", "-U", t.path("u"), image, image], status=EX_USAGE)
    contains("FILE", t.run([NBDINETD, "-f", "-U", t.path("u")], status=EX_USAGE).stderr())


@test("a connection on standard input is served, unless an option asks for a socket of one's own")
def _(t):
    image, path = t.pattern_image(MIB), t.path("nbd.sock")
    process, client = t.inetd(image)
    visit(client)
    process.expect(EX_OK)
    ours, theirs = t.connection()
    process = t.spawn([NBDINETD, "-f", "-U", path, image], fds={0: theirs})
    theirs.close()
    wait_listening(path)
    visit(Client(connect(path)))
    ours.setblocking(False)
    try:
        eq(ours.recv(100), b"", "what the client on standard input has got")
    except BlockingIOError:
        pass
    stop(process)


if __name__ == "__main__":
    is_private = private_network()
    main()
