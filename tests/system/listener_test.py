#!/usr/bin/python3
"""The listener: sockets of every kind from a service manager, a process for each connection, limits,
and faults of the listener and its connections. Tests with many connections are in
listener_load_test.py.

It is longer than 500 lines because there are many kinds of fault. Each test stands alone.
"""

import os
import random
import re
import resource
import select
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402
from listening import *  # noqa: E402


def expect_shut(connection):
    """The connection ends without a byte."""
    client = Client(connection)
    client.expect_end()
    eq(bytes(client.received), b"", "what the client has got")


def lines_with(process, words):
    return [line for line in process.stderr().splitlines() if re.search(words, line)]


def one_child_more(process, before=()):
    """The process of the connection that has just been made."""
    return wait_until(lambda: set(children_of(process.pid)) - set(before), "a child").pop()


# ------------------------------------------------------------------ sockets

@test("a listening socket of each kind is served, with a process for each connection, and the "
      "listener goes on")
def _(t):
    image = t.pattern_image(MIB)
    for kind in Door.KINDS:
        door = Door(t, kind)
        process = activate(t, image, inherited=[door])
        for way in range(len(door.addresses)):
            clients = [door.client(way).start() for _ in range(3)]
            eq(len(children_of(process.pid)), 3, f"processes of three connections by {kind}")
            for client in clients:
                eq(client.read(4096, 512), pattern(4096, 512))
            for client in clients:
                client.disconnect()
            wait_alone(process)
        eq(len(lines_with(process, r"serving export .* to ")), 3 * len(door.addresses))
        stop(process)


@test("a vsock listener is served")
def _(t):
    need_vsock_loopback()
    door = Door(t, "vsock")
    process = activate(t, t.pattern_image(MIB), inherited=[door])
    visit(door.client())
    wait_alone(process)
    matches(r"to vsock:\d+:\d+: ", process.stderr())
    stop(process)


@test("a vsock listener is recognised, also where no client can reach it")
def _(t):
    try:
        door = Door(t, "vsock")
    except (OSError, AttributeError) as error:
        raise Skip(f"this kernel has no vsock: {error}") from error
    notify, other = NotifySocket(t), Door(t)
    process = activate(t, t.pattern_image(MIB), inherited=[door, other],
                       env={"NOTIFY_SOCKET": notify.path})
    notify.wait("READY", "1")
    visit(other.client())
    stop(process)


@test("listeners of every kind at once are all served, by one listener")
def _(t):
    doors = [Door(t, kind) for kind in (*Door.KINDS, "tcp", "unix")]
    process = activate(t, t.pattern_image(MIB), inherited=doors)
    clients = [door.client(way).start() for door in doors for way in range(len(door.addresses))]
    eq(len(children_of(process.pid)), len(clients))
    for client in reversed(clients):
        eq(client.read(8192, 8), pattern(8192, 8))
        client.disconnect()
    wait_alone(process)
    stop(process)


@test("peers are named by where they come from: TCP address and port, or a Unix peer's credentials")
def _(t):
    image = t.pattern_image(MIB)
    for kind in Door.KINDS:
        door = Door(t, kind)
        process = activate(t, image, inherited=[door])
        for way in range(len(door.addresses)):
            connection = door.connect(way)
            name = connection.getsockname()
            visit(Client(connection))
            wait_alone(process)
            peer = (f"unix:pid={os.getpid()},uid={os.getuid()},gid={os.getgid()}"
                    if connection.family == socket.AF_UNIX else
                    f"[{name[0]}]:{name[1]}" if connection.family == socket.AF_INET6 else
                    f"{name[0]}:{name[1]}")
            contains(f' to {peer}: "{image}"', process.stderr(), f"by {kind}")
        stop(process)


@test("LISTEN_FDS for another process is ignored: a listener there is not touched")
def _(t):
    image, door, own = t.pattern_image(MIB), Door(t), t.path("own.sock")
    process = t.spawn([NBDINETD, "-f", "-U", own, image], fds={3: door}, listen_fds=1,
                      listen_pid=os.getpid())
    # -U would be an error under socket activation.
    wait_listening(own)
    visit(Client(connect(own)))
    client = door.client()
    visit(Client(connect(own)))
    eq((door.waiting(), client.ended()), (True, False), "somebody still waits to be accepted")
    stop(process)


@test("two listening processes that share sockets never get stuck in accept, whoever is faster")
def _(t):
    image = t.pattern_image(MIB)
    doors = [Door(t, "tcp"), Door(t, "unix")]
    for door in doors:
        door.socket.setblocking(True)
    processes = [activate(t, image, inherited=doors) for _ in range(3)]
    for number in range(60):
        visit(doors[number % 2].client())
    for process in processes:
        wait_alone(process)
        stop(process)
    eq(sum(len(lines_with(p, "serving export")) for p in processes), 60, "connections")


@test("a connection that is reset before it is accepted is nobody's trouble")
def _(t):
    door = Door(t, "tcp")
    process = activate(t, t.pattern_image(MIB), inherited=[door])
    before = warmed_up(process, door)
    process.signal(signal.SIGSTOP)
    wait_until(lambda: state_of(process.pid) == "T", "the listener to be stopped")
    for _ in range(50):
        connection = door.connect()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    after = door.client()
    process.signal(signal.SIGCONT)
    visit(after)
    wait_alone(process)
    eq(process.descriptors(), before, "the listener's descriptors")
    eq(lines_with(process, "signal"), [])
    stop(process)


@test("accept failing with the fate of one connection, ECONNABORTED or a network error, costs "
      "nobody else anything")
def _(t):
    strace = need("strace")
    image = t.pattern_image(MIB)
    for error in ("ECONNABORTED", "EPROTO", "ENETDOWN", "EHOSTUNREACH", "ETIMEDOUT", "EPERM",
                  "EINTR"):
        door = Door(t, "tcp")
        # -D: strace is not the parent, so that LISTEN_PID stays right.
        process = activate(t, image, inherited=[door], prefix=[
            strace, "-D", "-qq", "-o", t.fresh(".trace"), "-e", "trace=accept4", "-e",
            f"inject=accept4:error={error}:when=1..3", "--"],
            # A sanitizer's leak check can't run in a process that is traced.
            env={"ASAN_OPTIONS": "detect_leaks=0"})
        visit(door.client())
        visit(door.client())
        eq(lines_with(process, "refusing"), [], f"after {error}")
        stop(process)


@test("a process of a connection has no socket of the listener, and both have everything "
      "close-on-exec")
def _(t):
    doors = [Door(t, "tcp"), Door(t, "unix")]
    process = activate(t, t.pattern_image(MIB), inherited=doors)
    warmed_up(process, doors[0])
    client = doors[0].client().start()
    child = one_child_more(process)
    wait_until(lambda: len([what for what in process.descriptors().values()
                            if what.startswith("socket:")]) == 2, "the fork to be done")
    theirs, ours = process.descriptors(), descriptors_of(child)
    sockets = {what for what in theirs.values() if what.startswith("socket:")}
    eq(len(sockets), 2, f"the listener's sockets among {theirs}")
    eq(sockets & set(ours.values()), set(), "sockets of both")
    for pid, descriptors in ((process.pid, theirs), (child, ours)):
        for number in descriptors:
            if number > 2:
                eq(close_on_exec(pid, number), True, f"close-on-exec of {descriptors[number]}")
    client.disconnect()
    wait_alone(process)
    stop(process)


@test("the listener never opens the export, and stays single-threaded")
def _(t):
    door, image = Door(t), t.pattern_image(MIB)
    process = activate(t, image, inherited=[door])
    clients = [door.client().start() for _ in range(5)]
    assert image not in process.descriptors().values(), process.descriptors()
    eq(os.listdir(f"/proc/{process.pid}/task"), [str(process.pid)], "threads")
    for client in clients:
        client.disconnect()
    stop(process)


@test("a missing FILE is logged at the start, and its clients' connections end until it is "
      "there")
def _(t):
    door, image = Door(t), t.path("late.img")
    process = activate(t, image, inherited=[door])
    wait_until(lambda: lines_with(process, "late.img"), "a word on it")
    expect_shut(door.connect())
    t.pattern_image(MIB, "late.img")
    visit(door.client())
    stop(process)


@test("no FILE at all is wrong usage, and told at the start")
def _(t):
    process = activate(t, inherited=[Door(t)])
    process.expect(EX_USAGE)
    contains("FILE", process.stderr())


@test("a FILE that is replaced is served anew to the next connection")
def _(t):
    door, image = Door(t), t.pattern_image(MIB, "disk.img")
    process = activate(t, image, inherited=[door])
    old = door.client().start()
    os.rename(t.pattern_image(2 * MIB), image)
    new = door.client().start()
    eq((old.size, new.size), (MIB, 2 * MIB))
    eq(old.read(0, 512), new.read(0, 512))
    # And one that is gone fails the connection alone.
    os.rename(image, image + ".away")
    expect_shut(door.connect())
    os.rename(image + ".away", image)
    visit(door.client(), size=2 * MIB)
    stop(process)


@test("a connection beside a listener is an error that names both descriptors")
def _(t):
    image, door = t.pattern_image(MIB), Door(t)
    for order in (0, 1):
        ours, theirs = t.connection()
        process = activate(t, image, inherited=[door, theirs] if order else [theirs, door])
        theirs.close()
        expect_shut(ours)
        process.expect(EX_USAGE)
        matches(rf"descriptor {3 + order} is a connected socket: .*descriptor {4 - order}",
                process.stderr())


@test("a descriptor beside a listener that is no stream socket, file or block device is an "
      "error that names it")
def _(t):
    image, door = t.pattern_image(MIB), Door(t)
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    pipe = os.pipe()
    directory, null = opened(t, t.dir, os.O_RDONLY), opened(t, "/dev/null")
    t.defer(datagram.close)
    for end in pipe:
        t.defer(os.close, end)
    for wrong, words in ((datagram, "stream"), (pipe[0], "pipe"), (directory, "directory"),
                         (null, "character device")):
        process = activate(t, image, inherited=[door, wrong])
        process.expect(EX_USAGE)
        matches(rf"descriptor 4 is .*{words}", process.stderr())


@test("options that ask for a socket of one's own are errors beside a listener that name the "
      "option, and -f is not one")
def _(t):
    image, door = t.pattern_image(MIB), Door(t)
    for option, name in ((["-p", "10809"], "--port"), (["--port=10809"], "--port"),
                         (["-i", "127.0.0.1"], "--ipaddr"), (["-U", t.path("u")], "--unix"),
                         (["-U", "-"], "--unix"), (["--vsock"], "--vsock"),
                         (["--run", "true"], "--run"), (["-s"], "--single")):
        process = activate(t, *option, image, inherited=[door])
        process.expect(EX_USAGE)
        matches(rf"^nbdinetd: {name} .*activation", process.stderr())
    assert not os.path.exists(t.path("u"))
    process = activate(t, "-f", image, inherited=[door])
    visit(door.client())
    stop(process)


@test("-u and -g hold under activation, too: for a listener, its connections, and a single "
      "connection")
def _(t):
    need_root("to become another user")
    image, door = t.pattern_image(MIB), Door(t)

    def ids(pid):
        text = open(f"/proc/{pid}/status", encoding="ascii").read()
        return [set(map(int, matches(rf"^{name}:[ \t]*(.*)$", text)[1].split()))
                for name in ("Uid", "Gid", "Groups")]
    arguments = ["-r", "-u", "64326", "-g", "64327", image]
    wanted = [{64326}, {64327}, {64327}]
    process = activate(t, *arguments, inherited=[door])
    client = door.client().start()
    for pid in (process.pid, one_child_more(process)):
        eq(ids(pid), wanted)
    client.disconnect()
    stop(process)
    for start in (t.activated, t.inetd):
        process, client = start(*arguments)
        client.start()
        eq(ids(process.pid), wanted)
        client.disconnect()
        process.expect(EX_OK)


@test("-P holds under activation, too, and what -P doesn't write it doesn't remove")
def _(t):
    image, door, pidfile = t.pattern_image(MIB), Door(t), t.path("nbd.pid")
    process = activate(t, "-P", pidfile, image, inherited=[door])
    visit(door.client())
    with open(pidfile, encoding="ascii") as file:
        eq(file.read(), f"{process.pid}\n")
    stop(process)
    process = activate(t, "-P", t.path("missing/pid"), image, inherited=[door])
    process.expect(73)
    contains("missing/pid", process.stderr())


# ------------------------------------------------------------------ limits

@test("--max-connections=N serves N at once, ends one more at once without a byte, and logs "
      "that once")
def _(t):
    door = Door(t)
    process = activate(t, "--max-connections=3", t.pattern_image(MIB), inherited=[door])
    for round_ in (1, 2):
        clients = [door.client().start() for _ in range(3)]
        for _ in range(5):
            expect_shut(door.connect())
        eq(len(lines_with(process, r"refusing .*--max-connections")), round_, "lines")
        # Those that were there before have not noticed.
        for client in clients:
            eq(client.read(0, 512), pattern(0, 512))
        clients.pop().disconnect()
        wait_until(lambda: len(children_of(process.pid)) == 2, "room for another")
        clients.append(door.client().start())
        for client in clients:
            client.disconnect()
        wait_alone(process)
    stop(process)


@test("--max-connections counts half-open handshakes, too, and a wrong number is wrong usage")
def _(t):
    image, door = t.pattern_image(MIB), Door(t)
    process = activate(t, "--max-connections=1", image, inherited=[door])
    half_open = door.client()
    half_open.greeting()
    expect_shut(door.connect())
    stop(process)
    for wrong in ("0", "-1", "x", "", "1x", "99999999999999999999"):
        process = activate(t, f"--max-connections={wrong}", image, inherited=[door])
        process.expect(EX_USAGE)
        contains("--max-connections", process.stderr())


@test("--max-connections doesn't count a client that has seen the end of its connection and "
      "comes back at once")
def _(t):
    door, visits, refused = Door(t), 200, 0
    process = activate(t, "--max-connections=1", t.pattern_image(MIB), inherited=[door])
    for _ in range(visits):
        try:
            visit(door.client())
        except (Disconnected, BrokenPipeError, ConnectionResetError):
            refused += 1
    stop(process)
    note(f"{refused} of {visits} that came back at once were refused")
    # The kernel closes the connection a little before it tells that the process is gone.
    assert refused <= visits // 20, f"{refused} of {visits} were refused"


@test("a burst beyond --max-connections costs the listener one wait for room, not one for each")
def _(t):
    door, burst = Door(t), 600
    allow_descriptors(burst + 100)
    process = activate(t, "--max-connections=1", "--handshake-timeout=10min", t.pattern_image(MIB),
                       inherited=[door])
    client = door.client().start()
    process.signal(signal.SIGSTOP)
    wait_until(lambda: state_of(process.pid) == "T", "the listener to be stopped")
    crowd = [door.connect() for _ in range(burst)]
    before = waits_of(process.pid)
    process.signal(signal.SIGCONT)
    for connection in crowd:
        expect_shut(connection)
    count = waits_of(process.pid) - before
    note(f"{burst} were refused with {count} waits")
    assert count <= burst // 10, f"{count} waits for {burst} connections"
    eq(client.read(0, 512), pattern(0, 512))
    client.disconnect()
    wait_alone(process)
    visit(door.client())
    stop(process)


@test("a refused client sees the end also right after another was served: no other process "
      "holds its connection")
def _(t):
    door, both = Door(t), 0
    process = activate(t, "--max-connections=1", "--handshake-timeout=10min", t.pattern_image(MIB),
                       inherited=[door])
    for _ in range(40):
        first = door.client().start()
        waiting = [door.connect() for _ in range(4)]
        first.send(first.request_bytes(NBD_CMD_DISC))
        # Those who come while it ends are served or refused; the one that is served stays.
        got = [connection.recv(18) for connection in waiting]
        eq({len(greeting) for greeting in got} <= {0, 18}, True, f"got {got}")
        both += any(got)
        assert sum(map(bool, got)) <= 1, f"several were served at once: {got}"
        for connection in waiting:
            connection.close()
        wait_alone(process)
    note(f"in {both} of 40 rounds one was served, and the others refused")
    stop(process)


@test("--exit-idle=TIME ends an activated listener, exit status 0, after that time without a "
      "connection, and not during one", waits=True)
def _(t):
    image, door = t.pattern_image(MIB), Door(t)
    # Nobody ever comes.
    started = time.monotonic()
    process = activate(t, "--exit-idle=1s", image, inherited=[door])
    process.expect(EX_OK)
    assert time.monotonic() - started >= 1
    # Somebody stays for longer than that, without a word.
    process = activate(t, "--exit-idle=1s", image, inherited=[door])
    client = door.client().start()
    time.sleep(2)
    eq(process.poll(), None, "the listener's end while somebody is connected")
    eq(client.read(0, 512), pattern(0, 512))
    left = time.monotonic()
    client.disconnect()
    process.expect(EX_OK)
    assert time.monotonic() - left >= 1, "the time counts from when the last one has left"
    contains("1s", process.stderr())


@test("a connection that arrives while an idle listener ends isn't lost: the next activation "
      "serves it", guard=120, waits=True)
def _(t):
    image, door = t.pattern_image(MIB), Door(t)
    visits, failures = 100, []

    def keep_visiting(seed):
        pauses = random.Random(seed)
        try:
            for _ in range(visits):
                visit(door.client())
                # Around the time after which the listener leaves.
                time.sleep(pauses.uniform(0.005, 0.035))
        except BaseException as error:  # told by the main thread
            failures.append(error)
    visitor = threading.Thread(target=keep_visiting, args=(1,), daemon=True)
    visitor.start()
    # As systemd does: whenever somebody waits and the service doesn't run, start it.
    activations, served = 0, 0
    while visitor.is_alive():
        if not select.select([door], [], [], 0.05)[0]:
            continue
        process = activate(t, "--exit-idle=20ms", image, inherited=[door])
        activations += 1
        process.expect(EX_OK)
        served += len(lines_with(process, "serving export"))
    eq(failures, [])
    eq(served, visits, "connections served")
    note(f"{activations} activations for {visits} connections")
    assert activations > 5, "the listener has hardly ever left, which proves nothing"


@test("a listener without a free descriptor ends new connections, logs that once, and goes on "
      "when it has some again")
def _(t):
    door = Door(t)
    process = activate(t, t.pattern_image(MIB), inherited=[door])
    used = set(warmed_up(process, door))
    client = door.client().start()
    # The listener's copy of the connection is closed after the fork.
    wait_until(lambda: set(process.descriptors()) == used, "the listener to be done with it")
    limit = next(n for n in range(1024) if n not in used)
    eq(used, set(range(limit)), "descriptors without a gap, the spare one included")
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (limit, hard))
    for _ in range(5):
        expect_shut(door.connect())
    eq(len(lines_with(process, "refusing .*Too many open files")), 1, "lines")
    eq(client.read(0, 512), pattern(0, 512))
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (hard, hard))
    visit(door.client())
    client.disconnect()
    wait_alone(process)
    eq(set(process.descriptors()), used, "descriptors")
    stop(process)


@test("a system without a free file sheds who comes in the same way")
def _(t):
    strace = need("strace")
    door = Door(t)
    # The first accept and the one with the spare descriptor given up: nothing can be shed then.
    process = activate(t, t.pattern_image(MIB), inherited=[door], prefix=[
        strace, "-D", "-qq", "-o", t.fresh(".trace"), "-e", "trace=accept4", "-e",
        "inject=accept4:error=ENFILE:when=1", "--"], env={"ASAN_OPTIONS": "detect_leaks=0"})
    expect_shut(door.connect())
    eq(len(lines_with(process, "refusing .*Too many open files in system")), 1)
    visit(door.client())
    stop(process)


@test("a listener without even the spare descriptor waits, doesn't spin, and goes on "
      "afterwards", waits=True)
def _(t):
    door = Door(t)
    process = activate(t, t.pattern_image(MIB), inherited=[door])
    visit(door.client())
    wait_alone(process)
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, hard))
    waiting = door.connect()
    before, started = cpu_seconds(process.pid), time.monotonic()
    time.sleep(1.5)
    share = (cpu_seconds(process.pid) - before) / (time.monotonic() - started)
    eq(process.poll(), None, "the listener's end")
    note(f"processor share of a listener without descriptors: {share:.2f}")
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (hard, hard))
    # Whoever waited is served or shed, but not forgotten.
    try:
        visit(Client(waiting))
    except Disconnected as end:
        eq(end.got, b"")
    visit(door.client())
    # The spare descriptor is there again.
    wait_alone(process)
    used = set(process.descriptors())
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (len(used), hard))
    expect_shut(door.connect())
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (hard, hard))
    visit(door.client())
    stop(process)
    assert share < 0.3, f"it has used {share:.0%} of a processor for nothing"


@test("a socket that another process has shut down makes the listener neither spin nor end",
      waits=True)
def _(t):
    for kind in ("tcp", "unix"):
        dead, alive = Door(t, kind), Door(t, kind)
        process = activate(t, t.pattern_image(MIB), inherited=[dead, alive])
        visit(dead.client())
        wait_alone(process)
        dead.socket.shutdown(socket.SHUT_RDWR)
        before, started = cpu_seconds(process.pid), time.monotonic()
        time.sleep(1)
        share = (cpu_seconds(process.pid) - before) / (time.monotonic() - started)
        visit(alive.client())
        stop(process)
        assert share < 0.3, f"it has used {share:.0%} of a processor for nothing"


@test("a failing fork ends the connection, with one line in the log, and the next is served "
      "when forks succeed again")
def _(t):
    need_root("to run the listener as a user whose processes can be limited")
    door = Door(t)
    # As a user of its own, since nobody else's processes then count against the limit, which root's
    # would not heed at all.
    become = as_user(64321)
    process = activate(t, "-r", t.pattern_image(MIB), inherited=[door],
                       prefix=[need("prlimit"), "--nproc=1:100", *become])
    for _ in range(5):
        expect_shut(door.connect())
    eq(len(lines_with(process, "refusing .*fork.*Resource temporarily unavailable")), 1)
    # By the same user: to change another's limits takes a capability that not every root has.
    t.run([*become, need("prlimit"), f"--pid={process.pid}", "--nproc=100:100"])
    visit(door.client())
    wait_alone(process)
    t.run([*become, need("prlimit"), f"--pid={process.pid}", "--nproc=1:100"])
    expect_shut(door.connect())
    eq(len(lines_with(process, "refusing .*fork")), 2, "lines, for it is a new trouble")
    stop(process)


# ------------------------------------------------------------------ what befalls connections

@test("a connection's process that is killed by a signal is logged with it, and nobody else "
      "notices")
def _(t):
    door = Door(t)
    process = activate(t, t.pattern_image(MIB), inherited=[door],
                       limits={resource.RLIMIT_CORE: 0})
    other = door.client().start()
    before = children_of(process.pid)
    for number, name in ((signal.SIGSEGV, "Segmentation fault"), (signal.SIGKILL, "Killed"),
                         (signal.SIGABRT, "Aborted")):
        victim = door.client().start()
        child = one_child_more(process, before)
        os.kill(child, number)
        victim.expect_end()
        wait_until(lambda: children_of(process.pid) == before, "the dead child to be reaped")
        wait_until(lambda: lines_with(process, f"{child}, .*signal {number:d} .{name}"),
                   "the line about it")
        eq(other.read(0, 512), pattern(0, 512))
        visit(door.client())
        # Else the process of that visit, which is still ending, could pass for the next victim's.
        wait_until(lambda: children_of(process.pid) == before, "the visitor's process to end")
    other.disconnect()
    wait_alone(process)
    stop(process)


@test("a client's fault ends its own process only, and is logged with the client's name")
def _(t):
    door = Door(t, "tcp")
    process = activate(t, t.pattern_image(MIB), inherited=[door])
    other = door.client().start()
    connection = door.connect()
    peer = "{}:{}".format(*connection.getsockname())
    wrong = Client(connection)
    wrong.handshake()
    wrong.send(b"GET / HTTP/1.0\r\n\r\n")
    wrong.expect_end()
    wait_until(lambda: lines_with(process, f"{peer} ended: .*option magic"), "the line about it")
    eq(other.read(0, 512), pattern(0, 512))
    visit(door.client())
    other.disconnect()
    stop(process)


@test("a client that never reads its replies delays no other", waits=True)
def _(t):
    door = Door(t)
    process = activate(t, "--stall-timeout=2s", t.pattern_image(32 * MIB), inherited=[door])
    wedged = door.client().start()
    for _ in range(8):
        wedged.send(wedged.request_bytes(NBD_CMD_READ, 0, 32 * MIB))
    for _ in range(20):
        visit(door.client(), size=32 * MIB)
    wait_until(lambda: lines_with(process, "ended: client read no replies for 2s"),
               "the one that doesn't read to be given up")
    wait_alone(process)
    stop(process)


# ------------------------------------------------------------------ the end

@test("SIGTERM and SIGINT stop accepting and drain the connections: requests under way are "
      "answered, exit status 0")
def _(t):
    for number in (signal.SIGTERM, signal.SIGINT):
        door, image = Door(t), t.pattern_image(MIB)
        process = activate(t, image, inherited=[door])
        idle, haggling, writing = door.client().start(), door.client(), door.client().start()
        haggling.handshake()
        payload = b"\x5a" * 65536
        writing.send(writing.request_bytes(NBD_CMD_WRITE, 4096, len(payload), cookie=7)
                     + payload[:1000])
        children = wait_until(lambda: (lambda c: c if len(c) == 3 else None)(
            children_of(process.pid)), "three children")
        time.sleep(0.1)  # so that the beginning of the write has surely arrived
        process.signal(number)
        time.sleep(0.05)
        waiting = door.client()  # comes too late for this instance
        writing.send(payload[1000:])
        magic, flags, kind, cookie, length = struct.unpack(">IHHQI", writing.receive(20))
        eq((magic, flags, kind, cookie, length),
           (NBD_STRUCTURED_REPLY_MAGIC, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, 7, 0),
           "the reply to the write under way")
        for client in (idle, haggling, writing):
            client.read_to_end()
        process.expect(EX_OK)
        eq([pid for pid in children if state_of(pid)], [], "children after the listener's end")
        with open(image, "rb") as file:
            eq(file.read()[4096:4096 + len(payload)] == payload, True, "the write is in the file")
        # Who came too late has been told nothing, and is served by the next instance.
        eq(bytes(waiting.received), b"")
        process = activate(t, "-r", image, inherited=[door])
        eq(waiting.start().size, MIB)
        waiting.disconnect()
        stop(process)


@test("a connection's process that doesn't end is killed at the deadline, and the listener's "
      "exit status is 0 all the same", waits=True)
def _(t):
    door = Door(t)
    process = activate(t, t.pattern_image(MIB), inherited=[door])
    client = door.client().start()
    child = one_child_more(process)
    os.kill(child, signal.SIGSTOP)
    other = door.client().start()
    process.signal(signal.SIGTERM)
    other.expect_end()
    process.signal(signal.SIGTERM)  # an impatient administrator changes nothing
    client.expect_end()
    process.expect(EX_OK)
    eq(state_of(child), None)
    matches(r"^nbdinetd: 1 connections? .*killing", process.stderr())


@test("a client that doesn't read can't delay the drain", waits=True)
def _(t):
    door = Door(t)
    process = activate(t, t.pattern_image(32 * MIB), inherited=[door])
    client = door.client().start()
    client.send(client.request_bytes(NBD_CMD_READ, 0, 32 * MIB) * 4)
    child = one_child_more(process)
    time.sleep(0.2)
    stop(process)
    eq(state_of(child), None)
    eq(lines_with(process, "killing"), [], "it has ended by itself")


@test("SIGHUP hands over: the listener exits at once with status 0, its connections go on, the "
      "next instance serves those that come")
def _(t):
    door = Door(t)
    process = activate(t, "--description=old", t.pattern_image(MIB), inherited=[door])
    old = door.client().start()
    child = one_child_more(process)
    process.signal(signal.SIGHUP)
    process.expect(EX_OK)
    waiting = door.client()
    eq(old.read(0, 512), pattern(0, 512))
    process = activate(t, "--description=new", "-r", t.pattern_image(2 * MIB), inherited=[door])
    waiting.start(requests=[NBD_INFO_DESCRIPTION])
    eq((waiting.size, waiting.infos[NBD_INFO_DESCRIPTION]), (2 * MIB, b"new"))
    # `systemctl kill --signal=HUP` and `systemctl reload` reach every process of the unit.
    os.kill(child, signal.SIGHUP)
    old.write(0, bytes(512))
    eq(old.read(0, 512), bytes(512))
    old.disconnect()
    waiting.disconnect()
    eq(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), EX_OK,
       "the exit status of the old connection's process")
    stop(process)


@test("connections outlive even a listener that is killed")
def _(t):
    door = Door(t)
    process = activate(t, t.pattern_image(MIB), inherited=[door])
    client = door.client().start()
    child = one_child_more(process)
    process.signal(signal.SIGKILL)
    process.expect(-signal.SIGKILL)
    eq(client.read(0, 512), pattern(0, 512))
    client.disconnect()
    eq(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), EX_OK)


# ------------------------------------------------------------------ sd_notify

@test("the listener alone sends the service manager READY, a STATUS that counts connections "
      "now, served and refused, and STOPPING")
def _(t):
    notify, door = NotifySocket(t), Door(t)
    process = activate(t, "--max-connections=2", t.pattern_image(MIB), inherited=[door],
                       env={"NOTIFY_SOCKET": notify.path})
    notify.wait("READY", "^1$")
    eq(list(notify.messages()[0][1]), ["READY", "STATUS"], "the first message")
    clients = [door.client().start() for _ in range(2)]
    expect_shut(door.connect())
    notify.wait("STATUS", r"^2 connections now, 2 served, 1 refused$")
    clients.pop().disconnect()
    notify.wait("STATUS", r"^1 connections? now, 2 served, 1 refused$")
    eq(notify.values("STOPPING"), [])
    stop(process)
    eq(notify.values("STOPPING"), ["1"])
    eq(notify.values("READY"), ["1"])
    eq({sender for sender, _ in notify.messages()}, {process.pid}, "who has spoken")


@test("the STATUS doesn't count a connection as served that ends without an export", waits=True)
def _(t):
    notify, door = NotifySocket(t), Door(t)
    process = activate(t, "-e", "disk", t.pattern_image(MIB), inherited=[door],
                       env={"NOTIFY_SOCKET": notify.path})

    def leaves(client):
        client.greeting()

    def is_no_client(client):
        client.greeting()
        client.send(b"GET / HTTP/1.1\r\n")

    def asks_for_another(client):
        client.handshake()
        client.option(NBD_OPT_EXPORT_NAME, b"tape")
    for act in (leaves, is_no_client, asks_for_another):
        client = door.client()
        act(client)
        client.shut_down_writing()
        client.read_to_end()
    door.client().start("disk").disconnect()
    wait_alone(process)
    notify.wait("STATUS", r"^0 connections now, 1 served, 0 refused$")
    stop(process)


@test("the STATUS has the last error of the server, and none of a client's faults", waits=True)
def _(t):
    notify, door, image = NotifySocket(t), Door(t), t.path("late.img")
    process = activate(t, image, inherited=[door], env={"NOTIFY_SOCKET": notify.path})
    none = r"^0 connections now, 0 served, 0 refused; last error: "
    notify.wait("STATUS", none + f'failed to open "{re.escape(image)}": No such file or directory$')
    door.client().read_to_end()
    notify.wait("STATUS", none + r"the process of a connection, \d+, ended with status 66, an "
                r"export can't be opened$")
    Path(image).write_bytes(bytes(MIB))
    client = door.client().start()
    client.send(bytes(28))  # a wrong magic
    client.read_to_end()
    client = door.client().start()
    child, = wait_until(lambda: (lambda c: c if len(c) == 1 else None)(children_of(process.pid)),
                        "the process of the connection")
    os.kill(child, signal.SIGKILL)
    client.read_to_end()
    notify.wait("STATUS", r"^0 connections now, 2 served, 0 refused; last error: the process of a "
                rf"connection, {child}, was killed by signal 9 \(Killed\)$")
    assert not [s for s in notify.values("STATUS") if "status 76" in s], "a client's fault"
    stop(process)


@test("STOPPING is sent also without a connection: on SIGTERM, and when an idle listener ends")
def _(t):
    image, door = t.pattern_image(MIB), Door(t)
    for arguments in ([], ["--exit-idle=100ms"]):
        notify = NotifySocket(t)
        process = activate(t, *arguments, image, inherited=[door],
                           env={"NOTIFY_SOCKET": notify.path})
        notify.wait("READY", "1")
        if not arguments:
            process.signal(signal.SIGTERM)
        process.expect(EX_OK)
        eq(notify.values("STOPPING"), ["1"], f"STOPPING with {arguments}")


@test("a STATUS is sent at most once a second, however many connections come and go, and the "
      "last one is right", waits=True)
def _(t):
    notify, door = NotifySocket(t), Door(t)
    process = activate(t, t.pattern_image(MIB), inherited=[door],
                       env={"NOTIFY_SOCKET": notify.path})
    notify.wait("READY", "1")
    started = time.monotonic()
    for _ in range(300):
        visit(door.client())
    wait_alone(process)
    notify.wait("STATUS", r"^0 connections now, 300 served, 0 refused$")
    seconds = time.monotonic() - started
    count = len(notify.values("STATUS"))
    assert count <= seconds + 3, f"{count} messages in {seconds:.1f} s"
    # And nothing at all while nothing changes.
    time.sleep(1.5)
    eq(len(notify.values("STATUS")), count)
    stop(process)


@test("WATCHDOG=1 comes at least twice in WATCHDOG_USEC, busy or idle, and only when it is "
      "asked for")
def _(t):
    image, door = t.pattern_image(MIB), Door(t)
    for mine in (True, False):
        notify = NotifySocket(t)
        process = activate(t, image, inherited=[door], prefix=(
            ["/bin/sh", "-c", 'WATCHDOG_PID=$$ exec "$0" "$@"'] if mine else []),
            env={"NOTIFY_SOCKET": notify.path, "WATCHDOG_USEC": "400000",
                 "WATCHDOG_PID": str(os.getpid())})
        notify.wait("READY", "1")
        started = time.monotonic()
        while time.monotonic() - started < 1:
            visit(door.client())
        time.sleep(1)
        seconds = time.monotonic() - started
        count = len(notify.values("WATCHDOG"))
        stop(process)
        if mine:
            # 0.2 s is half of it; a machine under load may be late, but not as a rule.
            assert seconds / 0.4 <= count <= seconds / 0.2 + 2, f"{count} in {seconds:.1f} s"
        else:
            eq(count, 0, "for another process's watchdog")


@test("STATUS with Accept=yes has the client, the export and the amounts, at most once a "
      "second, and only after a change", waits=True)
def _(t):
    notify, image = NotifySocket(t), t.pattern_image(4 * MIB)
    process, client = t.activated(image, env={"NOTIFY_SOCKET": notify.path})
    client.start("disk")
    notify.wait("STATUS", r'^serving "disk" to unix:pid=.*: 0 requests, ')
    matches("^negotiating with unix:pid=", notify.values("STATUS")[0], "before an export is chosen")
    started = time.monotonic()
    while time.monotonic() - started < 2:
        client.read(0, MIB)
        client.write(0, pattern(0, 512))
    seconds = time.monotonic() - started
    last = notify.wait("STATUS", r": [1-9]\d* requests, \d+ bytes \([\d.]+ [MG]iB\) read, "
                       r"\d+ bytes( \([\d.]+ [KMG]iB\))? written, 0 errors$")
    note(last)
    time.sleep(1.2)  # the last word on it
    count = len(notify.values("STATUS"))
    assert 3 <= count <= seconds + 4, f"{count} messages in {seconds:.1f} s"
    time.sleep(1.2)
    eq(len(notify.values("STATUS")), count, "messages while nothing happens")
    client.disconnect()
    process.expect(EX_OK)


if __name__ == "__main__":
    private_network()
    main()
