#!/usr/bin/python3
"""The command line of a nbdkit user, and what nbdinetd says about it: the options that do what they do
there, where a server listens, the file of --log, no FILE, an empty FILE."""

import ctypes
import os
import signal
import socket
import sys
import urllib.parse
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402
from listening import *  # noqa: E402


def client_of(uri):
    """A client at a URI, as nbdinetd prints it."""
    parts = urllib.parse.urlsplit(uri.strip())
    if parts.scheme == "nbd+unix":
        query = dict(item.split("=") for item in parts.query.split("&"))
        return Client(connect(urllib.parse.unquote(query["socket"])))
    eq(parts.scheme, "nbd")
    return Client(socket.create_connection((parts.hostname, parts.port), timeout=GUARD))


def said(process):
    """The URI in the message of a server that says where it listens."""
    wait_until(lambda: "listening on" in process.stderr(), "a word on where it listens")
    return matches(r"^nbdinetd: listening on .*; clients on this machine use (nbd\S+)$",
                   process.stderr())[1]


def listeners_of(pid):
    """The families of a process's listening sockets."""
    pidfd_getfd = 438
    process = os.pidfd_open(pid)
    families = []
    for number in listening_sockets(pid):
        with socket.socket(fileno=ctypes.CDLL(None).syscall(pidfd_getfd, process, number, 0)) as one:
            families.append(one.family.name)
    os.close(process)
    return sorted(families)


# ------------------------------------------------------------------ no FILE, an empty FILE

@test("without a FILE the exit status is 64 in every mode, and the message says what to do")
def _(t):
    port = free_port()
    for arguments in (["-f", "-p", port], ["-p", port], ["-U", "-"], ["--check"], ["--run", "true"],
                      ["-f", "-p", port, ""]):
        process = t.run([NBDINETD, *arguments], status=EX_USAGE)
        matches(r"\Anbdinetd: there is no FILE .*--directory=DIR.*NBDINETD_EXPORT=.*--help\n\Z",
                process.stderr())
        eq(is_listening(("", port)), False)
    for process, client in (t.activated(), t.inetd("-r", stderr="file"), t.piped("-s")):
        process.expect(EX_USAGE)
        client.expect_end()
        eq(bytes(client.received), b"", "what the client has got")
        contains("there is no FILE", process.stderr())
    process = activate(t, inherited=[Door(t)])
    process.expect(EX_USAGE)
    contains("there is no FILE", process.stderr())


@test("an empty FILE gets a notice, and is served")
def _(t):
    empty, full = t.image(b""), t.image(b"x")
    for image in (empty, full):
        process, client = t.activated("-r", image)
        client.start()
        eq(client.size, os.path.getsize(image))
        client.disconnect()
        process.expect(EX_OK)
        eq("is empty" in process.stderr(), image == empty, process.stderr())
    matches(r"is empty: .*truncate", t.run([NBDINETD, "--check", empty]).stderr())


# ------------------------------------------------------------------ where it listens

@test("-f and -U - say where they listen, on standard error, and clients find them there")
def _(t):
    image = t.pattern_image(MIB)
    for options in (["-f", "-U", t.path("nbd.sock")], ["-f", "-p", free_port()],
                    ["-f", "-i", "127.0.0.1", "-p", free_port()], ["-f", "-U", "-"],
                    ["--exit-with-parent", "-U", "-"]):
        process = t.spawn([NBDINETD, *options, image])
        visit(client_of(said(process)))
        eq(process.stdout(), "")
        stop(process)
    # In the background, the path that was made up is said to who has started it.
    pidfile = t.path("pid")
    process = t.run([NBDINETD, "-U", "-", "-P", pidfile, image])
    t.defer(os.kill, int(Path(pidfile).read_text()), signal.SIGTERM)
    visit(client_of(said(process)))


@test("a server in the background on an address of its user's, and one with --run, say nothing")
def _(t):
    image, pidfile = t.pattern_image(MIB), t.path("pid")
    process = t.run([NBDINETD, "-U", t.path("nbd.sock"), "-P", pidfile, image])
    t.defer(os.kill, int(Path(pidfile).read_text()), signal.SIGTERM)
    eq(process.stderr() + process.stdout(), "")
    for options in ([], ["-f"], ["-U", "-"]):
        process = t.run([NBDINETD, "--run", "true", *options, image])
        eq(process.stderr() + process.stdout(), "")


@test("--print-uri prints the URI alone on standard output, once a client can connect")
def _(t):
    image = t.pattern_image(MIB)
    for options in (["-U", t.path("a socket")], ["-p", free_port(), "-e", "a name"], ["-U", "-"]):
        process = t.spawn([NBDINETD, "-f", "--log=null", "--print-uri", *options, image])
        wait_until(lambda: process.stdout().endswith("\n"), "the URI")
        eq(process.stdout().count("\n"), 1)
        visit(client_of(process.stdout()))
        eq("a%20name" in process.stdout(), "-e" in options, process.stdout())
        stop(process)
    pidfile = t.path("pid")
    process = t.run([NBDINETD, "--print-uri", "-P", pidfile, "-U", t.path("nbd.sock"), image])
    t.defer(os.kill, int(Path(pidfile).read_text()), signal.SIGTERM)
    visit(client_of(process.stdout()))
    process = t.run([NBDINETD, "--print-uri", "--run", 'echo "$uri"', image])
    one, other = process.stdout().splitlines()
    eq(one, other)


@test("-4 and -6 listen on one family alone, and the last one holds")
def _(t):
    require(has_ipv6(), "the machine has no IPv6")
    image = t.pattern_image(MIB)
    for options, families in (([], ["AF_INET", "AF_INET6"]), (["-4"], ["AF_INET"]),
                              (["-6"], ["AF_INET6"]), (["-4", "-6"], ["AF_INET6"]),
                              (["--ipv6-only", "--ipv4-only"], ["AF_INET"]),
                              (["-4", "-i", "127.0.0.1"], ["AF_INET"])):
        port = free_port()
        process = t.spawn([NBDINETD, "-f", *options, "-p", port, image])
        uri = said(process)
        eq(listeners_of(process.pid), families, f"{options}")
        if "-6" not in options:
            visit(client_of(uri))
        stop(process)
    process = t.run([NBDINETD, "-f", "-4", "-i", "::1", "-p", free_port(), image],
                    status=EX_CANTCREAT)
    contains("of IPv4", process.stderr())


# ------------------------------------------------------------------ the parent

PARENT = """
import os, subprocess, sys
server = subprocess.Popen(sys.argv[1:], start_new_session=True)
print(server.pid, flush=True)
server.wait()
"""


@test("--exit-with-parent: the server stays in the foreground, and ends when its parent is killed, "
      "also after a change of user")
def _(t):
    image, users = t.pattern_image(MIB), [[]]
    if os.geteuid() == 0:
        os.chmod(image, 0o666)
        users.append(["-u", "nobody"])
    for user in users:
        path = t.fresh(".sock")
        parent = t.spawn([sys.executable, "-c", PARENT, NBDINETD, "--exit-with-parent", *user, "-U",
                          path, image])
        wait_listening(path, parent)
        server = int(wait_until(parent.stdout, "the server's process id"))
        eq(children_of(parent.pid), [server], "the server is a child of its parent")
        # The process of a connection isn't a child of the parent, but ends with the listener.
        client = Client(connect(path)).start()
        parent.signal(signal.SIGKILL)
        parent.wait()
        client.expect_end()
        wait_until(lambda: not is_listening(path), "the server to end")
        wait_until(lambda: os.waitpid(server, os.WNOHANG)[0] == server, "its end")
        # "nobody" may not remove it.
        eq(os.path.exists(path), bool(user), "the socket is there")


@test("without --exit-with-parent, the server stays when its parent is killed")
def _(t):
    image, path = t.pattern_image(MIB), t.path("nbd.sock")
    parent = t.spawn([sys.executable, "-c", PARENT, NBDINETD, "-f", "-U", path, image])
    wait_listening(path, parent)
    server = int(wait_until(parent.stdout, "the server's process id"))
    parent.signal(signal.SIGKILL)
    parent.wait()
    visit(Client(connect(path)))
    os.kill(server, signal.SIGTERM)
    wait_until(lambda: os.waitpid(server, os.WNOHANG)[0] == server, "its end")


@test("--exit-with-parent asks for no listening: without a connection the exit status is 64")
def _(t):
    t.run([NBDINETD, "--exit-with-parent", t.pattern_image(MIB)], status=EX_USAGE)


# ------------------------------------------------------------------ --log=/PATH

@test("--log=/PATH appends the lines of the server and of its connections to the file, with time "
      "and process")
def _(t):
    image, log, path = t.pattern_image(MIB), t.path("nbd.log"), t.path("nbd.sock")
    Path(log).write_text("before\n")
    process = t.spawn([NBDINETD, "-f", f"--log={log}", "-U", path, image])
    wait_listening(path, process)
    visit(Client(connect(path)))
    wait_until(lambda: "ended" in Path(log).read_text(), "the last line of the connection")
    stop(process)
    eq(process.stderr(), "")
    lines = Path(log).read_text().splitlines()
    eq(lines[0], "before")
    ids = [matches(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d nbdinetd\[(\d+)\]: \S", line)[1]
           for line in lines[1:]]
    eq([ids[0], ids[1] == ids[2] != ids[0]], [str(process.pid), True], lines)
    # As a connection's process that somebody else has started.
    process, client = t.activated("-r", "--sandbox=require", f"--log={log}", image)
    visit(client)
    process.expect(EX_OK)
    eq(process.stderr(), "")
    eq(len([line for line in Path(log).read_text().splitlines() if f"[{process.pid}]" in line]), 2)


@test("--log=/PATH: when the file is renamed, the listener and later connections go on in a new one")
def _(t):
    image, log, path = t.pattern_image(MIB), t.path("nbd.log"), t.path("nbd.sock")
    process = t.spawn([NBDINETD, "-f", f"--log={log}", "-U", path, image])
    wait_listening(path, process)
    old = Client(connect(path)).start()
    os.rename(log, log + ".1")
    visit(Client(connect(path)))
    wait_until(lambda: os.path.exists(log) and "ended" in Path(log).read_text(), "a new file")
    eq(Path(log).read_text().count("serving export"), 1)
    # The old connection's process can't open a file any more.
    old.disconnect()
    wait_until(lambda: "ended" in Path(log + ".1").read_text(), "the end of the old connection")
    stop(process)


@test("a file of --log that can't be opened is status 73, whatever is asked, and the message names it")
def _(t):
    image = t.pattern_image(MIB)
    for log in (t.path("no/file"), str(t.dir)):
        for arguments in (["-f", "-U", t.path("sock"), image], ["--check", image]):
            process = t.run([NBDINETD, f"--log={log}", *arguments], status=EX_CANTCREAT)
            matches(rf'\Anbdinetd: failed to open log file "{log}": .*\n\Z', process.stderr())
    process, client = t.activated(f"--log={t.path('no/file')}", image)
    process.expect(EX_CANTCREAT)
    client.expect_end()


@test("a forgotten argument of --log costs no image: wrong usage writes to no file")
def _(t):
    image = t.pattern_image(MIB)
    for arguments in (["--log", image], ["--log", image, "--nonsense", image], ["--log", image, "a", "b"]):
        process = t.run([NBDINETD, "-f", *arguments], status=EX_USAGE)
        eq((Path(image).read_bytes() == pattern(0, MIB), process.stderr() != ""), (True, True))


@test("--log=/PATH in the background, with another user: the file is opened before the change of user")
def _(t):
    need_root("to change the user")
    image, log, path, pidfile = t.pattern_image(MIB), t.path("nbd.log"), t.path("sock"), t.path("pid")
    os.chmod(image, 0o666)
    t.run([NBDINETD, f"--log={log}", "-u", "nobody", "-U", path, "-P", pidfile, image])
    t.defer(os.kill, int(Path(pidfile).read_text()), signal.SIGTERM)
    visit(Client(connect(path)))
    wait_until(lambda: "ended" in Path(log).read_text(), "the connection's lines")


# ------------------------------------------------------------------ a command line of nbdkit's

@test("nbdkit's command line works with the name of the program changed")
def _(t):
    image, path = t.pattern_image(MIB), t.path("nbd.sock")
    for arguments in (["file", image], ["file", f"file={image}"], ["-n", "-t", "4", f"file={image}"],
                      ["--newstyle", "--threads=1", "--read-only", "--no-fork", "file", image]):
        process = t.spawn([NBDINETD, "-f", "-U", path, *arguments])
        wait_listening(path, process)
        visit(Client(connect(path)))
        stop(process)


if __name__ == "__main__":
    main()
