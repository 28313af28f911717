#!/usr/bin/python3
"""--allow and --deny in the real program: a refused client is disconnected before the greeting, in
each way to start nbdinetd. tests/unit/server/access_test.cc has the rules themselves."""

import os
import signal
import socket
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402
from listening import *  # noqa: E402



def refused(process, client, reason):
    """Not a byte for the client, status 77, and one line that says whom and why."""
    eq(client.read_to_end(), b"", "bytes for a client that is refused")
    process.expect(EX_NOPERM)
    lines = process.stderr().splitlines()
    eq(len(lines), 1, "lines in the log")
    matches(r"^nbdinetd: refusing \S+: " + re.escape(reason) + "$", lines[0])


def shut(connection):
    """The end of the connection, and nothing before it."""
    try:
        eq(connection.recv(1), b"", "bytes for a client that is refused")
    except ConnectionResetError:
        pass


def as_user(t, uid, gid, groups, door):
    """Connects to a Unix door as somebody else; returns what came within the first read."""
    readable, writable = os.pipe()
    os.chmod(door.addresses[0][1], 0o777)
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            connection = door.connect()
            try:
                os.write(writable, b"+" if connection.recv(18) else b"-")
            except ConnectionResetError:
                os.write(writable, b"-")
        finally:
            os._exit(0)
    os.close(writable)
    os.waitpid(pid, 0)
    answer = os.read(readable, 1)
    os.close(readable)
    return {b"+": True, b"-": False}[answer]


@test("a connection that is handed over is refused before the greeting, with status 77 and one line")
def _(t):
    image = t.pattern_image(MIB)
    for family, rule, reason in (
            ("tcp", "--deny=127.0.0.0/8", "by --deny=127.0.0.0/8"),
            ("tcp", "--allow=192.0.2.0/24", "no --allow for IPv4 clients matches it"),
            ("tcp", "--allow=unix:", "no --allow or --deny names IPv4 clients"),
            ("unix", "--allow=127.0.0.1", "no --allow or --deny names Unix clients"),
            ("unix", f"--deny=uid:{os.getuid()}", f"by --deny=uid:{os.getuid()}")):
        process, client = t.activated(rule, image, family=family)
        refused(process, client, reason)
        process, client = t.inetd(rule, image, family=family, stderr="file")
        refused(process, client, reason)
    if has_ipv6():
        process, client = t.activated("--deny=::1", image, family="tcp6")
        refused(process, client, "by --deny=::1")
        process, client = t.activated("--deny=127.0.0.1", image, family="tcp6")
        refused(process, client, "no --allow or --deny names IPv6 clients")


@test("a refused client doesn't learn whether the export exists")
def _(t):
    process, client = t.activated("--deny=all", t.path("missing.img"))
    refused(process, client, "by --deny=all")


@test("an allowed client is served, in each family")
def _(t):
    image = t.pattern_image(MIB)
    families = [("tcp", "127.0.0.1"), ("tcp", "127.0.0.0/8"), ("tcp", "anyipv4"),
                ("unix", "unix:"), ("unix", f"uid:{os.getuid()}"), ("unix", f"gid:{os.getgid()}")]
    if has_ipv6():
        families += [("tcp6", "::1"), ("tcp6", "::/64")]
    for family, who in families:
        for start in (t.activated, t.inetd):
            process, client = start(f"--allow={who}", "--deny=any", image, family=family)
            visit(client)
            process.expect(EX_OK)


@test("pipes are refused if there is a rule, whatever the environment names as the peer")
def _(t):
    image = t.pattern_image(MIB)
    for rules in (["--allow=any"], ["--allow=127.0.0.1"], ["--deny=192.0.2.7"]):
        process, client = t.piped("-s", *rules, image, env={"REMOTE_ADDR": "127.0.0.1"})
        refused(process, client, "it can't be identified, and --allow or --deny is given")


@test("an IPv4 client of an IPv6 socket is an IPv4 client")
def _(t):
    image = t.pattern_image(MIB)
    for rules, ipv4, ipv6 in ((["--allow=127.0.0.1"], True, False),
                              (["--allow=::ffff:127.0.0.1"], True, False),
                              (["--allow=::/0"], False, True),
                              (["--deny=127.0.0.1"], False, False),
                              (["--deny=127.0.0.1", "--allow=anyipv6"], False, True)):
        door = Door(t, "dual")
        process = activate(t, *rules, image, inherited=[door])
        for way, allowed in ((1, ipv4), (0, ipv6)):
            if allowed:
                visit(door.client(way))
            else:
                shut(door.connect(way))
        stop(process)


@test("Unix clients are told apart by user, primary group and supplementary groups")
def _(t):
    need_root("to connect as other users")
    image = t.pattern_image(MIB)
    door = Door(t, "unix")
    process = activate(t, "--allow=uid:4001", "--allow=gid:5001", "--deny=gid:5002",
                       "--deny=uid:4003", image, inherited=[door])
    for uid, gid, groups, allowed in (
            (4001, 1, [], True), (4002, 1, [], False), (4002, 5001, [], True),
            (4002, 1, [5001], True), (4002, 1, [7, 8, 5001, 9], True),
            (4002, 1, list(range(6000, 6500)) + [5001], True),
            (4002, 5001, [5002], False), (4002, 5002, [5001], False),
            (4001, 5002, [], True), (4003, 5001, [], False), (0, 0, [], False)):
        eq(as_user(t, uid, gid, groups, door), allowed, f"{uid}:{gid}:{groups[:5]}")
    stop(process)


@test("a client of whom the kernel doesn't tell all is refused, whatever it doesn't tell")
def _(t):
    need_root("to belong to a group")
    need("strace")
    image = t.pattern_image(MIB)
    groups = os.getgroups()
    os.setgroups([5002])
    t.defer(os.setgroups, groups)
    trace = t.fresh(".trace")
    failed = 0
    for number in range(1, 100):
        process, client = t.inetd("--allow=unix:", "--deny=gid:5002", image, family="unix", prefix=[
            "strace", "-qq", "-o", trace, "-e", "trace=getsockopt", "-e",
            f"inject=getsockopt:error=EPERM:when={number}"])
        eq(client.read_to_end(), b"", f"bytes when getsockopt() fails for the {number}. time")
        process.wait()
        if "(INJECTED)" not in Path(trace).read_text():
            break
        failed += "SO_PEERGROUPS" in re.search(r".*\(INJECTED\)", Path(trace).read_text())[0]
    eq(failed, 1, "calls for the groups that failed")


@test("a listener refuses without a process, keeps the places of --max-connections, and counts")
def _(t):
    image = t.pattern_image(MIB)
    tcp, unix = Door(t, "tcp"), Door(t, "unix")
    notify = NotifySocket(t)
    process = activate(t, "--allow=unix:", "--max-connections=1", image, inherited=[tcp, unix],
                       env={"NOTIFY_SOCKET": notify.path})
    client = unix.client()
    client.start()
    child, = children_of(process.pid)
    for _ in range(3):
        shut(tcp.connect())
    eq(children_of(process.pid), [child], "processes")
    client.disconnect()
    notify.wait("STATUS", "1 served, 3 refused")
    lines = [line for line in process.stderr().splitlines() if "refusing" in line]
    eq(len(lines), 3, "lines about refused clients")
    for line in lines:
        matches(r"refusing 127\.0\.0\.1:\d+: no --allow or --deny names IPv4 clients$", line)
    stop(process)


@test("a flood of refused clients is ten lines in the log and a number, and nobody else waits")
def _(t):
    image = t.pattern_image(MIB)
    tcp, unix = Door(t, "tcp"), Door(t, "unix")
    process = activate(t, "--allow=unix:", image, inherited=[tcp, unix])
    for _ in range(500):
        shut(tcp.connect())
    visit(unix.client())
    stop(process)
    log = process.stderr()
    lines = re.findall(r"refusing ", log)
    told = sum(int(n) for n in re.findall(r"refused (\d+) more connections by --allow", log))
    # On a machine that is slow today the flood may take more than one interval.
    eq(len(lines) % 10, 0, "lines, by tens")
    assert len(lines) < 250, f"{len(lines)} lines for 500 refused connections"
    eq(len(lines) + told, 500, "refused clients that the log tells of")


@test("the stand-alone server refuses, too")
def _(t):
    image = t.pattern_image(MIB)
    path = t.fresh(".sock")
    process = t.spawn([NBDINETD, "-f", "-U", path, "--deny=unix:", image])
    wait_listening(path)
    shut(connect(path))
    stop(process)
    matches(r"refusing unix:pid=\d+,uid=\d+,gid=\d+: by --deny=unix:$", process.stderr())


@test("vsock clients are told apart by their CID")
def _(t):
    need_vsock_loopback()
    image = t.pattern_image(MIB)
    for rule, allowed in (("--allow=vsock:", True), (f"--allow=vsock:{VMADDR_CID_LOCAL}", True),
                          ("--allow=vsock:77", False), ("--allow=unix:", False)):
        door = Door(t, "vsock")
        process = activate(t, rule, image, inherited=[door])
        if allowed:
            visit(door.client())
        else:
            shut(door.connect())
        stop(process)


@test("a malformed WHO is a usage error that explains it")
def _(t):
    image = t.pattern_image(MIB)
    for option, words in (("--allow=example.com", "this is no address"),
                          ("--deny=192.0.2.0/40", "prefix is a number from 0 to 32"),
                          ("--allow=uid:no-such-user", "there is no such user"),
                          ("--deny=unix:/run/x.sock", "no path of its own")):
        process = t.run([NBDINETD, option, "--check", image], status=EX_USAGE)
        contains(words, process.stderr())
        # To a client, not a byte.
        process, client = t.activated(option, image)
        eq(client.read_to_end(), b"")
        process.expect(EX_USAGE)


@test("--check describes who would be let in")
def _(t):
    image = t.pattern_image(MIB)
    process = t.run([NBDINETD, "--check", "--allow=192.0.2.0/24", "--deny=192.0.2.7", image])
    for line in ("would let in IPv4 clients in 192.0.2.0/24 (--allow=192.0.2.0/24)",
                 "would refuse the IPv4 client 192.0.2.7 (--deny=192.0.2.7)",
                 "would refuse other IPv4 clients",
                 "would refuse Unix clients, since no rule names them"):
        contains(line + "\n", process.stdout())
    process = t.run([NBDINETD, "--check", "--sandbox=off", image])
    matches(r"\Awould serve .*\n(?:(?!would ).*\n)*in no sandbox\n\Z", process.stdout(), "without rules")


@test("without names of users and groups, nothing that looks them up is loaded or asked")
def _(t):
    need("strace")
    image = t.pattern_image(MIB)
    for who, asked in (("uid:0,gid:0,127.0.0.1,unix:", False), ("uid:root", True)):
        trace = t.fresh(".trace")
        t.run(["strace", "-f", "-o", trace, "-e", "trace=openat,connect", NBDINETD,
               f"--allow={who}", "--check", image])
        eq("nsswitch" in Path(trace).read_text(), asked, f"a look-up for {who}")


private_network()
main()
