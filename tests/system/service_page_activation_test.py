#!/usr/bin/python3
"""The promises of a page about running an NBD server as a service, sentence by sentence: starting it,
and socket activation. Each test is named by the sentence that it proves. The sentences on units are in
service_page_systemd_test.py, those on messages in service_page_logging_test.py."""

import os
import re
import signal
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402
from listening import *  # noqa: E402


def listening_inodes(pid):
    """The inodes of a process's sockets that listen, of whatever family."""
    listening = set()
    for table, column, state, inode in (("tcp", 3, "0A", 9), ("tcp6", 3, "0A", 9),
                                        ("unix", 5, "01", 6)):
        path = Path("/proc/net") / table
        for line in path.read_text().splitlines()[1:] if path.exists() else []:
            fields = line.split()
            SO_ACCEPTCON = 0x10000
            if fields[column] == state and (table != "unix" or int(fields[3], 16) & SO_ACCEPTCON):
                listening.add(fields[inode])
    ours = {matches(r"^socket:\[(\d+)\]$", what)[1] for what in descriptors_of(pid).values()
            if what.startswith("socket:")}
    return ours & listening


def manual():
    """The source of nbdinetd-service(8)."""
    for path in (SRCDIR / "man" / "nbdinetd-service.8.in", BUILDDIR / "man" / "nbdinetd-service.8",
                 SRCDIR / "man" / "nbdinetd-service.8"):
        if path.exists():
            return path.read_text()
    raise AssertionError("there is no man/nbdinetd-service.8")


# ------------------------------------------------------------------ DESCRIPTION

@test("Most people start nbdinetd from the command line or run it from another program.")
def _(t):
    image, path = t.pattern_image(MIB), t.path("nbd.sock")
    # A command line, which is the user's again at once.
    pidfile = t.path("nbd.pid")
    t.run(["/bin/sh", "-c", f"{NBDINETD} -P {pidfile} -U {path} {image} && echo ready"])
    visit(Client(connect(path)))
    pid = int(Path(pidfile).read_text())
    os.kill(pid, signal.SIGTERM)
    eq(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), EX_OK)
    # Another program: one that nbdinetd runs, and one that runs nbdinetd. nbdinfo does so with a
    # listening socket, by socket activation.
    need("nbdinfo")
    process = t.run([NBDINETD, "--run", 'nbdinfo --size "$uri"', image])
    eq(process.stdout(), f"{MIB}\n")
    process = t.run(["nbdinfo", "--size", "--", "[", NBDINETD, "-r", image, "]"])
    eq(process.stdout(), f"{MIB}\n")
    ours, theirs = t.connection()
    process = t.spawn([NBDINETD, "-s", image], fds={0: theirs, 1: theirs})
    theirs.close()
    visit(Client(ours))
    process.expect(EX_OK)


@test("It is also possible to run nbdinetd as a standalone service, which is what this page "
      "describes.")
def _(t):
    image, path, pidfile = t.pattern_image(MIB), t.path("nbd.sock"), t.path("nbd.pid")
    t.run([NBDINETD, "-P", pidfile, "-U", path, image])
    pid = int(Path(pidfile).read_text())
    # Clients at once, one after the other, and one that is at fault.
    clients = [Client(connect(path)).start() for _ in range(5)]
    wrong = Client(connect(path))
    wrong.send(bytes(4) + b"not an option at all")
    wrong.read_to_end()
    for client in clients:
        eq(client.read(512, 512), pattern(512, 512))
        client.disconnect()
    for _ in range(5):
        visit(Client(connect(path)))
    os.kill(pid, signal.SIGTERM)
    eq(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), EX_OK)
    eq([name for name in (path, pidfile) if os.path.exists(name)], [], "left behind")
    matches(r"^\.Nd .*service", manual()[:1000], "what nbdinetd-service(8) describes")


# ------------------------------------------------------------------ SOCKET ACTIVATION

@test("nbdinetd supports socket activation (sometimes called systemd socket activation).")
def _(t):
    program = need("systemd-socket-activate")
    image = t.pattern_image(MIB)
    unix, port = t.path("nbd.sock"), free_port()
    process = t.spawn([program, "-l", unix, "-l", f"127.0.0.1:{port}", NBDINETD, image])
    for address in (unix, ("127.0.0.1", port)):
        wait_until(lambda: is_listening(address), "systemd-socket-activate to listen")
    # It becomes nbdinetd when the first client comes.
    for address in (unix, ("127.0.0.1", port)) * 3:
        visit(Client(connect(address)))
    eq(Path(f"/proc/{process.pid}/comm").read_text(), "nbdinetd\n")
    stop(process)


@test("This is a simple protocol where instead of nbdinetd itself opening the listening "
      "socket(s), the parent process (typically systemd) passes in pre-opened file descriptors.")
def _(t):
    image = t.pattern_image(MIB)
    for kinds in (["unix"], ["tcp"], ["unix", "tcp", "tcp", "unix"]):
        doors = [Door(t, kind) for kind in kinds]
        wanted = {matches(r"^socket:\[(\d+)\]$", os.readlink(f"/proc/self/fd/{door.fileno()}"))[1]
                  for door in doors}
        process = activate(t, image, inherited=doors)
        for door in doors:
            visit(door.client())
        eq(listening_inodes(process.pid), wanted, "the sockets that it listens on")
        stop(process)
        # They were never its own: whoever has opened them has them still.
        for door in doors:
            door.connect()


@test("Socket activation lets you serve infrequent NBD requests using a superserver without "
      "needing nbdinetd to be running the whole time.")
def _(t):
    image, door = t.pattern_image(MIB), Door(t)
    for _ in range(3):
        eq(servers_below(os.getpid()), [], "nbdinetd runs while nobody wants it")
        # Now somebody does, and the superserver sees it.
        client = door.client()
        eq(door.waiting(), True)
        process = activate(t, "--exit-idle=100ms", image, inherited=[door])
        visit(client)
        process.expect(EX_OK)


@test('Socket activation is triggered when both the "LISTEN_FDS" and "LISTEN_PID" environment '
      'variables are set.')
def _(t):
    image, path = t.pattern_image(MIB), t.path("nbd.sock")
    door = Door(t)
    # Both: the socket is taken.
    process = activate(t, image, inherited=[door])
    visit(door.client())
    stop(process)
    # One of them, or the other process's: -U is no error, and the socket is left alone.
    for how in ({"listen_fds": 1}, {"listen_pid": "own"}, {"listen_fds": 0, "listen_pid": "own"},
                {"listen_fds": 1, "listen_pid": os.getpid()}, {}):
        process = t.spawn([NBDINETD, "-f", "-U", path, image], fds={3: door}, **how)
        wait_until(lambda: is_listening(path), f"a socket of its own with {how}")
        visit(Client(connect(path)))
        stop(process)
    client = door.client()
    eq((door.waiting(), bytes(client.received)), (True, b""), "who waits at the socket, still")


@test("In this mode using -i, -p, --run, -s or -U flags on the command line is illegal and will "
      "cause an error.")
def _(t):
    image, door = t.pattern_image(MIB), Door(t)
    for flags, name in ((["-i", "127.0.0.1"], "--ipaddr"), (["-p", str(free_port())], "--port"),
                        (["--run", f"touch {t.path('run')}"], "--run"), (["-s"], "--single"),
                        (["-U", t.path("unix")], "--unix")):
        for place in ([*flags, image], [image, *flags]):
            process = activate(t, *place, inherited=[door])
            process.expect(EX_USAGE)
            matches(rf"\Anbdinetd: {name} .*socket activation: .*\n\Z", process.stderr())
    eq([name for name in ("run", "unix") if os.path.exists(t.path(name))], [], "done all the same")


@test("Also in this mode nbdinetd does not fork into the background (ie. -f is implied).")
def _(t):
    image, door = t.pattern_image(MIB), Door(t)
    for arguments in ([], ["-f"]):
        process = activate(t, *arguments, image, inherited=[door])
        visit(door.client())
        wait_alone(process)
        eq(process.poll(), None, "the end of the process that was started")
        eq(os.getsid(process.pid), os.getsid(0), "its session")
        # And it is this process that serves, not one that it has left behind.
        eq(servers_below(os.getpid()), [process.pid], "processes")
        stop(process)


@test("See systemd.socket(5) for more information.")
def _(t):
    eq(bool(re.search(r"^\.Xr systemd\.socket 5", manual(), re.MULTILINE)), True,
       "nbdinetd-service(8) refers to it")


@test("For more information on systemd and socket activation, see "
      "http://0pointer.de/blog/projects/socket-activation.html")
def _(t):
    eq("0pointer.de/blog/projects/socket-activation.html" in manual(), True,
       "nbdinetd-service(8) refers to it")


# ------------------------------------------------------------------ ENVIRONMENT VARIABLES

@test('"LISTEN_FDS", "LISTEN_PID": If present in the environment when nbdinetd starts up, these '
      'trigger "SOCKET ACTIVATION".')
def _(t):
    image, doors = t.pattern_image(MIB), [Door(t) for _ in range(3)]
    # As many descriptors as LISTEN_FDS says, and no more.
    process = t.spawn([NBDINETD, image], fds={3 + n: door for n, door in enumerate(doors)},
                      listen_fds=2, listen_pid="own")
    for door in doors[:2]:
        visit(door.client())
    client = doors[2].client()
    visit(doors[0].client())
    eq((doors[2].waiting(), bytes(client.received)), (True, b""), "who waits at the third socket")
    stop(process)
    # Set, but to something that can't be: an error, and not a server of another kind.
    for fds in ("x", "-1", "4", "99999999999999999999", ""):
        process = t.spawn([NBDINETD, "-f", "-U", t.path("u"), image],
                          fds={3 + n: door for n, door in enumerate(doors)},
                          listen_fds=fds, listen_pid="own")
        process.expect(EX_USAGE)
        eq(os.path.exists(t.path("u")), False)
    # The command of --run is not led to believe that it is activated.
    text = t.run([NBDINETD, "--run", "env", image], fds={3: doors[0]}, listen_fds=1,
                 listen_pid=os.getpid()).stdout()
    eq(re.findall(r"^LISTEN_\w+", text, re.MULTILINE), [], "variables of the command of --run")


if __name__ == "__main__":
    private_network()
    main()
