#!/usr/bin/python3
"""The shipped units under a real systemd with a real journald, both in namespaces of their own (see
support/private_systemd.py)."""

import ctypes
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import private_systemd  # noqa: E402
from harness import *  # noqa: E402
from private_systemd import InstalledUnits  # noqa: E402

DURATION = r"[0-9][0-9a-z. ]*"
ERROR, WARNING, INFO, DEBUG = "3", "4", "6", "7"

systemd = None  # the PrivateSystemd, once we are inside


def wait_for_entries(since, count, *wanted):
    """journald is told asynchronously; nbdinetd may be gone before its last word is written."""
    return wait_until(lambda: (lambda e: e if len(e) >= count else None)(
        systemd.log(since, *wanted)), f"{count} entries in the journal")


def session(address, reads=0):
    """One whole connection of an honest client. Returns the client's (host, port) or None."""
    connection = connect(address)
    name = connection.getsockname()
    client = Client(connection).start()
    for number in range(reads):
        client.read(number * 512, 512)
    client.disconnect()
    return name


def sockets_of(pid):
    """The descriptors of journald that are not files: its own sockets, and one stream for each unit
    that writes to it."""
    return [d for d, target in descriptors_of(pid).items() if target.startswith("socket:")]


def priorities(entries):
    return [entry["PRIORITY"] for entry in entries]


@test("systemd-analyze verify finds nothing in the shipped units")
def _(t):
    need("systemd-analyze")
    for name in ("nbdinetd.socket", "nbdinetd@.service"):
        text = re.sub(r"^(ExecStart=)\S+", lambda m: m[1] + NBDINETD, shipped(name),
                      flags=re.MULTILINE)
        t.image(text.encode(), name)
    # An instance, since a template by itself is not checked.
    os.symlink("nbdinetd@.service", t.path("nbdinetd@instance.service"))
    verify = ["systemd-analyze", "--man=no", "verify"]
    result = systemd.run(*verify, t.path("nbdinetd.socket"), t.path("nbdinetd@instance.service"))
    eq(result.stdout + result.stderr, "", "systemd-analyze verify")
    # And it does look: the same with a word that is none.
    broken = Path(t.path("nbdinetd.socket"))
    broken.write_text(broken.read_text().replace("Accept=yes", "Accept=perhaps"))
    contains("perhaps", systemd.run(*verify, str(broken), check=False).stderr)


@test("nbdinfo and nbdcopy are served on TCP and on a Unix socket, and checksums are equal")
def _(t):
    image = t.random_image(8 * MIB)
    port, path = free_port(), t.path("nbd.sock")
    units = InstalledUnits(t, systemd, image, listen=[f"127.0.0.1:{port}", path])
    for address in (("127.0.0.1", port), path):
        eq(t.run(["nbdinfo", "--size", uri(address)]).stdout().strip(), str(8 * MIB))
        out = t.fresh(".out")
        t.run(["nbdcopy", "--connections=4", uri(address), out])
        eq(checksum(out), checksum(image), "what nbdcopy has read")
        other = t.random_image(8 * MIB, seed=len(out))
        t.run(["nbdcopy", "--flush", "--connections=4", other, uri(address)])
        eq(checksum(image), checksum(other), "what nbdcopy has written")
    units.idle()
    eq(systemd.failed(), [], "failed units")


@test("options and a path with spaces come from the environment file, and a change there holds for "
      "the next connection")
def _(t):
    image = t.pattern_image(MIB, "an image with spaces.img")
    path = t.path("nbd.sock")
    units = InstalledUnits(t, systemd, image, listen=[path],
                           options="--readonly --description='two words'")
    client = Client(connect(path)).start(requests=[NBD_INFO_DESCRIPTION])
    eq(client.infos.get(NBD_INFO_DESCRIPTION), b"two words")
    assert client.flags & NBD_FLAG_READ_ONLY
    client.disconnect()
    other = t.pattern_image(2 * MIB)
    (systemd.base / "default" / "nbdinetd").write_text(f"NBDINETD_EXPORT={other}\n")
    client = Client(connect(path)).start()
    eq(client.size, 2 * MIB)
    assert not client.flags & NBD_FLAG_READ_ONLY
    client.disconnect()
    eq(units.ended(2), ["success exited 0"] * 2)


@test("a copy of both units under another name is a second export")
def _(t):
    first, second = t.path("first.sock"), t.path("second.sock")
    InstalledUnits(t, systemd, t.pattern_image(MIB), listen=[first])
    InstalledUnits(t, systemd, t.pattern_image(3 * MIB), listen=[second], name="golden")
    for path, size in ((first, MIB), (second, 3 * MIB)):
        client = Client(connect(path)).start()
        eq(client.size, size)
        client.disconnect()


# ------------------------------------------------------------------ the journal

@test("a TCP connection logs one line at its start and one at its end, with fields and PRIORITY=6")
def _(t):
    image = t.random_image(MIB)
    port = free_port()
    units = InstalledUnits(t, systemd, image, listen=[f"127.0.0.1:{port}"])
    since = systemd.now_us()
    connection = connect(("127.0.0.1", port))
    peer = "{}:{}".format(*connection.getsockname())
    client = Client(connection).start(name="disk", structured=True)
    client.read(0, 4096)
    client.read(8192, 512)
    client.write(0, bytes(1000))
    client.flush()
    eq(client.call(NBD_CMD_READ, MIB, 1).error, NBD_EINVAL)
    wait_for_entries(since, 1)
    client.disconnect()
    eq(units.ended(1), ["success exited 0"])
    start, end = wait_for_entries(since, 2)

    for entry in (start, end):
        eq(entry["PRIORITY"], INFO, entry["MESSAGE"])
        eq(entry["_TRANSPORT"], "journal")
        eq(entry["SYSLOG_IDENTIFIER"], "nbdinetd")
        eq(entry["NBD_EXPORT"], "disk")
        eq(entry["NBD_PEER"], peer)
        matches(r"^nbdinetd@.*\.service$", entry["_SYSTEMD_UNIT"])
    eq(start["_PID"], end["_PID"])
    eq(start["MESSAGE"], f'serving export "disk" to {peer}: "{image}", {MIB} bytes (1 MiB), '
                         "read-write, structured replies")
    for entry in (start, end):
        eq((entry["NBD_FILE"], entry["NBD_MODE"]), (image, "read-write"))
    assert "NBD_REQUESTS" not in start
    # Four requests and one that failed; NBD_CMD_DISC isn't counted.
    matches(rf"^{re.escape(peer)} ended: client disconnected; 5 requests, 4\.5 KiB read, "
            rf"1000 bytes written, 1 error, in {DURATION}$", end["MESSAGE"])
    eq((end["NBD_REQUESTS"], end["NBD_BYTES_READ"], end["NBD_BYTES_WRITTEN"], end["NBD_ERRORS"]),
       ("5", "4608", "1000", "1"), "the exact numbers")
    eq((end["NBD_REASON"], end["NBD_EXIT_STATUS"]), ("client disconnected", "0"))
    assert int(end["NBD_LONGEST_REQUEST_USEC"]) < int(end["NBD_DURATION_USEC"])
    assert 0 < int(end["NBD_DURATION_USEC"]) < 10**9, end["NBD_DURATION_USEC"]
    eq(len(systemd.log(since)), 2, "lines of one connection")


@test("a Unix peer is logged by its credentials, a read-only export and simple replies as such")
def _(t):
    image = t.random_image(MIB)
    path = t.path("nbd.sock")
    InstalledUnits(t, systemd, image, listen=[path], options="--readonly -e golden")
    since = systemd.now_us()
    client = Client(connect(path)).start(name="golden", structured=False)
    client.disconnect()
    start, end = wait_for_entries(since, 2)
    peer = f"unix:pid={os.getpid()},uid={os.getuid()},gid={os.getgid()}"
    eq((start["NBD_PEER"], end["NBD_PEER"]), (peer, peer))
    eq(start["MESSAGE"], f'serving export "golden" to {peer}: "{image}", {MIB} bytes (1 MiB), read-only, '
                         "simple replies")


@test("an IPv6 peer is logged in brackets")
def _(t):
    require(os.path.exists("/proc/net/if_inet6")
            and "00000000000000000000000000000001" in Path("/proc/net/if_inet6").read_text(),
            "this machine has no ::1")
    port = free_port()
    InstalledUnits(t, systemd, t.random_image(MIB), listen=[f"[::1]:{port}"])
    since = systemd.now_us()
    connection = socket.create_connection(("::1", port), timeout=GUARD)
    name = connection.getsockname()
    Client(connection).start().disconnect()
    eq(wait_for_entries(since, 2)[0]["NBD_PEER"], f"[::1]:{name[1]}")


@test("an export name with control characters neither breaks a line of the journal nor fakes one")
def _(t):
    path = t.path("nbd.sock")
    InstalledUnits(t, systemd, t.random_image(MIB), listen=[path])
    since = systemd.now_us()
    name = "a\nPRIORITY=0\nMESSAGE=fake\n<0>b\x1b[2J\"\\"
    Client(connect(path)).start(name=name).disconnect()
    entries = wait_for_entries(since, 2)
    eq(len(entries), 2)
    eq(priorities(entries), [INFO, INFO])
    for entry in entries:
        # journalctl gives a field with control characters as a list of numbers.
        assert isinstance(entry["MESSAGE"], str), entry["MESSAGE"]
        assert entry["MESSAGE"].isprintable(), entry["MESSAGE"]
        # A field of its own can hold any name as it is, and be searched for by that.
        eq(entry["NBD_EXPORT"], list(name.encode()))


@test("a client's fault has PRIORITY=4, the server's own trouble PRIORITY=3")
def _(t):
    image = t.random_image(MIB)
    path = t.path("nbd.sock")
    units = InstalledUnits(t, systemd, image, listen=[path])

    since = systemd.now_us()
    client = Client(connect(path)).start()
    client.send(client.request_bytes(NBD_CMD_READ, 0, 1, magic=0xBAD))
    client.expect_end()
    client.close()
    eq(units.ended(1)[-1], "success exited 76")
    entries = wait_for_entries(since, 2)
    eq(priorities(entries), [INFO, WARNING])
    contains(" ended: ", entries[1]["MESSAGE"])
    assert "NBD_REQUESTS" in entries[1]

    since = systemd.now_us()
    client = Client(connect(path)).start()
    os.truncate(image, MIB // 2)
    eq(client.call(NBD_CMD_READ, MIB - 4096, 4096).error, NBD_EIO)
    client.disconnect()
    eq(units.ended(2)[-1], "success exited 0")
    entries = wait_for_entries(since, 3)
    eq([(e["PRIORITY"] == ERROR) for e in entries].count(True), 1, "errors in the journal")
    trouble = [e for e in entries if e["PRIORITY"] == ERROR][0]
    matches(r" \w+ ", trouble["MESSAGE"], "a sentence")
    eq(trouble["NBD_EXPORT"], "")

    since = systemd.now_us()
    os.unlink(image)
    client = Client(connect(path))
    client.expect_end()
    client.close()
    eq(units.ended(3)[-1], "exit-code exited 66")
    entry = wait_for_entries(since, 1)[0]
    eq(entry["PRIORITY"], ERROR)
    contains(image, entry["MESSAGE"])
    eq(systemd.failed(), [], "failed units")


@test("--log=journal, syslog, stderr and null each reach the journal in their own way, or not at "
      "all")
def _(t):
    image = t.random_image(MIB)
    for option, extra, transport in (
            ("", "", "journal"),
            ("--log=journal", "", "journal"),
            # The journal as such needs no standard error.
            ("--log=journal", "StandardError=null\n", "journal"),
            ("--log=syslog", "", "syslog"),
            # Lines with a <N> prefix, which journald takes off again.
            ("--log=stderr", "", "stdout"),
            ("--log=null", "", None)):
        path = t.fresh(".sock")
        units = InstalledUnits(t, systemd, image, listen=[path], options=option, service=extra,
                               name=f"way{option.partition('=')[2]}{len(extra)}")
        since = systemd.now_us()
        session(path)
        units.ended(1)
        client = Client(connect(path)).start()
        client.send(client.request_bytes(NBD_CMD_READ, 0, 1, magic=0xBAD))
        client.expect_end()
        client.close()
        eq(units.ended(2), ["success exited 0", "success exited 76"], option)
        # A later message of somebody else: what was sent before it has arrived by then.
        marker = f"marker-{t.fresh('')}".replace("/", "-")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
            log.sendto(f"<6>{marker}".encode(), "/dev/log")
        wait_until(lambda: [e for e in systemd.journal(since) if marker in e["MESSAGE"]], "marker")
        entries = [e for e in systemd.journal(since)
                   if e.get("_COMM") == "nbdinetd" or e.get("SYSLOG_IDENTIFIER") == "nbdinetd"]
        if transport is None:
            eq(entries, [], option)
            continue
        entries = wait_for_entries(since, 4)
        eq({e["_TRANSPORT"] for e in entries}, {transport}, option + extra)
        eq(priorities(entries), [INFO, INFO, INFO, WARNING], option + extra)
        matches(r"^serving export", entries[0]["MESSAGE"], option)
        matches(r" ended: .*; 0 requests, ", entries[3]["MESSAGE"], option)


@test("-v sends debug messages to standard error as PRIORITY=7, also with --log=syslog, and none "
      "without -v")
def _(t):
    image = t.random_image(MIB)
    for options, debug in (("-v", True), ("-v --log=syslog", True), ("", False)):
        path = t.fresh(".sock")
        units = InstalledUnits(t, systemd, image, listen=[path], options=options,
                               name=f"verbose{len(options)}")
        since = systemd.now_us()
        session(path)
        units.ended(1)
        entries = wait_for_entries(since, 3 if debug else 2)
        assert (DEBUG in priorities(entries)) == debug, priorities(entries)
        eq(priorities(entries).count(INFO), 2)
        if "syslog" in options:
            eq({e["_TRANSPORT"] == "syslog" for e in entries if e["PRIORITY"] == DEBUG}, {False})
            eq({e["_TRANSPORT"] for e in entries if e["PRIORITY"] == INFO}, {"syslog"})


@test("with StandardInput=socket and all three descriptors on the client, messages go to the "
      "journal and no byte of them to the client")
def _(t):
    image = t.random_image(MIB)
    path = t.path("nbd.sock")
    units = InstalledUnits(
        t, systemd, image, listen=[path], options="-v --log=stderr",
        service="StandardInput=socket\nStandardOutput=inherit\nStandardError=inherit\n")
    since = systemd.now_us()
    client = Client(connect(path)).start()
    eq(client.read(0, 512), Path(image).read_bytes()[:512])
    eq(client.call(NBD_CMD_READ, MIB, 1).error, NBD_EINVAL)
    client.disconnect()
    eq(units.ended(1), ["success exited 0"])
    entries = [e for e in wait_for_entries(since, 2) if e["PRIORITY"] == INFO]
    eq([e["_TRANSPORT"] for e in entries], ["journal", "journal"])
    os.unlink(image)
    client = Client(connect(path))
    client.expect_end()
    eq(bytes(client.received), b"")
    client.close()
    eq(units.ended(2)[-1], "exit-code exited 66")
    wait_until(lambda: [e for e in systemd.log(since) if e["PRIORITY"] == ERROR],
               "the error in the journal")


# ------------------------------------------------------------------ a connection's unit by hand

@test("systemctl stop of a connection's unit ends the connection for its client")
def _(t):
    image = t.pattern_image(MIB)
    port, path = free_port(), t.path("nbd.sock")
    units = InstalledUnits(t, systemd, image, listen=[f"127.0.0.1:{port}", path])
    for number, address in enumerate((("127.0.0.1", port), path), 1):
        client = Client(connect(address)).start()
        unit, = systemd.instances()
        systemd.systemctl("stop", unit)
        client.expect_end()
        client.close()
        eq(len(units.ended(number)), number)


@test("a client sees the end of its connection though systemd keeps the socket until the unit is gone")
def _(t):
    image, leave = t.pattern_image(MIB), Path(t.path("leave"))
    port, path = free_port(), t.path("nbd.sock")
    units = InstalledUnits(t, systemd, image, listen=[f"127.0.0.1:{port}", path],
                           service="ExecStopPost=/bin/sh -c 'until test -e "
                                   f"{leave}; do sleep 0.02; done'\n")
    for number, address in enumerate((("127.0.0.1", port), path), 1):
        client = Client(connect(address)).start()
        unit, = systemd.instances()
        systemd.systemctl("stop", "--no-block", unit)
        client.expect_end()
        client.close()
        contains("deactivating", systemd.systemctl("list-units", "--all", unit))
        leave.touch()
        units.ended(number)
        leave.unlink()


@test("systemctl restart of a connection's unit ends the connection, and starts no second dialogue")
def _(t):
    image = t.pattern_image(MIB)
    port, path = free_port(), t.path("nbd.sock")
    units = InstalledUnits(t, systemd, image, listen=[f"127.0.0.1:{port}", path])
    for number, address in enumerate((("127.0.0.1", port), path), 1):
        since = systemd.now_us()
        client = Client(connect(address)).start()
        cookie = client.request(NBD_CMD_READ, 0, 512)
        unit, = systemd.instances()
        systemd.systemctl("restart", unit)
        answer = client.answer(cookie)
        # A process that the scheduler has kept waiting sees the signal before the request.
        if answer.error != NBD_ESHUTDOWN:
            eq(answer.check().data, pattern(0, 512))
        # The second process has the same socket, and says nothing.
        eq(units.ended(2 * number)[-2:], ["success exited 0"] * 2)
        client.expect_end()
        client.close()
        messages = [entry["MESSAGE"] for entry in wait_for_entries(since, 3)]
        eq(len(messages), 3, messages)
        contains("serving export", messages[0])
        contains("ended: the server is shutting down", messages[1])
        contains("has been shut down already", messages[2])
    eq(systemd.failed(), [])


# ------------------------------------------------------------------ many, and faulty ones

@test("64 connections at once are 64 processes, and afterwards no process, unit or descriptor is "
      "left")
def _(t):
    image = t.pattern_image(MIB)
    port, path = free_port(), t.path("nbd.sock")
    units = InstalledUnits(t, systemd, image, listen=[f"127.0.0.1:{port}", path])
    # One connection first: what the manager and journald keep from the first one is no leak.
    session(("127.0.0.1", port))
    session(path)
    units.ended(2)
    manager, journald = systemd.manager_pid, systemd.journald_pid
    eq(servers_below(manager), [], "handlers at the beginning")
    before, streams = descriptors_of(manager), sockets_of(journald)

    since = systemd.now_us()
    clients = []
    for number in range(64):
        address = path if number % 2 else ("127.0.0.1", port)
        clients.append(Client(connect(address)).start(name=f"n{number}"))
    for number, client in enumerate(clients):
        eq(client.read(number * 512, 512), pattern(number * 512, 512))
    eq(len(servers_below(manager)), 64, "handlers")
    eq(len(systemd.instances()), 64, "units")
    for client in clients[::2]:
        client.disconnect()
    for client in clients[1::2]:
        client.close()
    eq(units.ended(66)[2:], ["success exited 0"] * 64)

    wait_until(lambda: not servers_below(manager), "the handlers to be gone")
    eq(systemd.instances(), [], "units")
    eq(systemd.failed(), [], "failed units")
    # A systemctl that has just ended may still have its connection to the manager for a moment.
    wait_until(lambda: len(descriptors_of(manager)) <= len(before),
               f"the manager to have no more than the {len(before)} descriptors it had")
    wait_until(lambda: len(sockets_of(journald)) <= len(streams),
               f"journald to have no more than the {len(streams)} sockets it had")

    entries = wait_for_entries(since, 128)
    eq(len(entries), 128, "lines of 64 connections")
    for number in range(64):
        mine = [e["MESSAGE"] for e in entries if e["NBD_EXPORT"] == f"n{number}"]
        eq(len(mine), 2, f"lines of connection {number}")
        matches("^serving export", mine[0])
        matches(" ended: ", mine[1])
    eq(len({e["_PID"] for e in entries}), 64, "processes in the journal")


@test("no fault of a client leaves a failed unit or a process, and the socket keeps listening")
def _(t):
    image = t.random_image(4 * MIB)
    port = free_port()
    address = ("127.0.0.1", port)
    units = InstalledUnits(t, systemd, image, listen=[f"127.0.0.1:{port}"])

    def raw():
        client = Client(connect(address))
        client.handshake()
        return client

    def drop(client):
        client.close()

    def end_of_input(client):
        client.shut_down_writing()
        client.expect_end()
        client.close()

    def bad_option_magic():
        client = raw()
        client.send(b"BADMAGIC" + bytes(8))
        client.expect_end()
        client.close()

    def bad_request_magic():
        client = Client(connect(address)).start()
        client.send(client.request_bytes(NBD_CMD_READ, 0, 1, magic=0))
        client.expect_end()
        client.close()

    def bad_client_flags():
        client = Client(connect(address))
        client.handshake(0x80)
        client.expect_end()
        client.close()

    def vanishes_in_an_option(how):
        client = raw()
        client.send(client.option_bytes(NBD_OPT_GO, bytes(6))[:-1])
        how(client)

    def vanishes_in_a_request(how):
        client = Client(connect(address)).start()
        client.send(client.request_bytes(NBD_CMD_READ, 0, 1)[:-1])
        how(client)

    def vanishes_in_a_write(how):
        client = Client(connect(address)).start()
        client.send(client.request_bytes(NBD_CMD_WRITE, 0, MIB, payload=bytes(MIB // 2)))
        how(client)

    def is_killed_in_a_write():
        # A process of its own, so that the kernel closes the socket as it does for a killed one.
        pid = os.fork()
        if pid == 0:
            try:
                vanishes_in_a_write(lambda client: signal.pause())
            finally:
                os._exit(1)
        wait_until(lambda: servers_below(systemd.manager_pid), "the handler")
        time.sleep(0.05)  # somewhere in its write; where doesn't matter
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def probes():
        connect(address).close()

    def leaves_between_requests():
        client = Client(connect(address)).start()
        client.read(0, 512)
        client.close()

    count = 0
    for fault, wanted in (
            (bad_option_magic, 76), (bad_request_magic, 76), (bad_client_flags, 76),
            (lambda: vanishes_in_an_option(end_of_input), 76),
            (lambda: vanishes_in_a_request(end_of_input), 76),
            (lambda: vanishes_in_a_write(end_of_input), 76),
            (lambda: vanishes_in_an_option(drop), 76),
            (lambda: vanishes_in_a_request(drop), 76),
            (lambda: vanishes_in_a_write(drop), 76),
            (is_killed_in_a_write, 76),
            (probes, 0), (leaves_between_requests, 0)):
        count += 1
        fault()
        eq(units.ended(count)[-1], f"success exited {wanted}", f"fault no. {count}")
        eq(systemd.failed(), [], f"failed units after fault no. {count}")
        eq(servers_below(systemd.manager_pid), [], f"handlers after fault no. {count}")
    session(address)
    eq(units.ended(count + 1)[-1], "success exited 0")
    eq(systemd.systemctl("is-active", "nbdinetd.socket").strip(), "active")


@test("a handler that could not serve is forgotten too: its failure is in the journal, not in "
      "systemctl --failed")
def _(t):
    path = t.path("nbd.sock")
    units = InstalledUnits(t, systemd, t.path("missing.img"), listen=[path], options="--nonsense")
    for _ in range(3):
        client = Client(connect(path))
        client.expect_end()
        client.close()
    eq(units.ended(3), ["exit-code exited 64"] * 3)
    eq(systemd.failed(), [], "failed units")
    eq(systemd.instances(), [], "units")


@test("an instance that is started by hand has no connection and makes no server: exit status 64, and "
      "the journal says to start the socket")
def _(t):
    path = t.path("nbd.sock")
    units = InstalledUnits(t, systemd, t.pattern_image(MIB), listen=[path])
    since = systemd.now_us()
    systemd.systemctl("start", "nbdinetd@by-hand.service", check=False)
    eq(units.ended(1), [f"exit-code exited {EX_USAGE}"])
    entry, = wait_for_entries(since, 1)
    eq(entry["PRIORITY"], ERROR)
    matches(r"LISTEN_FDS.* not set.* standard input.* /dev/null.* start nbdinetd\.socket",
            entry["MESSAGE"])
    # As if nothing had happened.
    session(path)


@test("WATCHDOG: with WatchdogSec= an idle client stays connected, and only a process that hangs is "
      "killed")
def _(t):
    path, watchdog_us = t.path("nbd.sock"), 3_000_000
    units = InstalledUnits(t, systemd, t.pattern_image(MIB), listen=[path],
                           service="WatchdogSec=3s\nLimitCORE=0\n")
    client = Client(connect(path)).start()
    unit, = systemd.instances()

    def heard_us():
        return int(systemd.systemctl("show", "--value", "--property=WatchdogTimestampMonotonic",
                                     unit) or 0)
    # systemd itself says when it has heard from it: without a word it would be dead by now.
    since = heard_us()
    assert since > 0, "systemd watches it"
    wait_until(lambda: heard_us() > since + 2 * watchdog_us or not systemd.instances(),
               "two such times to pass")
    eq(systemd.instances(), [unit])
    eq(client.read(4096, 512), pattern(4096, 512))
    os.kill(systemd.main_pid(unit), signal.SIGSTOP)
    client.expect_end()
    eq(units.ended(1), ["watchdog killed ABRT"])


# ------------------------------------------------------------------ the socket, and stopping

def socket_option(pid, local_port, level, option):
    """getsockopt on a TCP socket of another process."""
    pidfd = os.pidfd_open(pid)
    try:
        for descriptor, target in descriptors_of(pid).items():
            if not target.startswith("socket:"):
                continue
            SYS_pidfd_getfd = 438
            duplicate = ctypes.CDLL(None, use_errno=True).syscall(SYS_pidfd_getfd, pidfd,
                                                                  descriptor, 0)
            if duplicate < 0:
                raise OSError(ctypes.get_errno(), "pidfd_getfd")
            with socket.socket(fileno=duplicate) as theirs:
                if theirs.family == socket.AF_INET and theirs.getsockname()[1] == local_port:
                    return theirs.getsockopt(level, option)
    finally:
        os.close(pidfd)
    raise AssertionError(f"process {pid} has no TCP socket on port {local_port}")


@test("TCP_NODELAY and keepalive are on, also where the socket unit doesn't set them; the times are those "
      "of --keepalive unless the socket unit has its own")
def _(t):
    image = t.random_image(MIB)
    own = "KeepAlive=yes\nKeepAliveTimeSec=77\n"
    for name, extra, options, idle in (("nbdinetd", "", "", 60),
                                       ("plain", "KeepAlive=no\nNoDelay=no\n", "", 60),
                                       ("longer", "", "--keepalive=1h", 1800),
                                       ("units", own, "--keepalive=1h", 77)):
        port = free_port()
        InstalledUnits(t, systemd, image, listen=[f"127.0.0.1:{port}"], name=name, socket=extra,
                       options=options)
        client = Client(connect(("127.0.0.1", port))).start()
        pid = systemd.main_pid(systemd.instances(name)[0])
        for level, option in ((socket.IPPROTO_TCP, socket.TCP_NODELAY),
                              (socket.SOL_SOCKET, socket.SO_KEEPALIVE)):
            eq(bool(socket_option(pid, port, level, option)), True, f"{name}: option {option}")
        # Not the kernel's two hours.
        eq(socket_option(pid, port, socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), idle, name)
        client.disconnect()


@test("systemctl stop drains: requests under way are answered, what was written is there, the exit "
      "status is 0")
def _(t):
    image = t.sparse_image(64 * MIB)
    path = t.path("nbd.sock")
    units = InstalledUnits(t, systemd, image, listen=[path])
    since = systemd.now_us()
    client = Client(connect(path)).start()
    idle = Client(connect(path)).start()
    haggling = Client(connect(path))
    haggling.handshake()
    block = os.urandom(MIB)
    cookies = [client.request(NBD_CMD_WRITE, n * MIB, payload=block) for n in range(32)]
    eq(client.answer(cookies[0]).error, NBD_SUCCESS)
    systemd.systemctl("stop", "--no-block", "nbdinetd@*.service")
    # From here on, every request is answered: done, or refused with NBD_ESHUTDOWN. Or the
    # connection has ended, but only between two replies.
    answers = {0: NBD_SUCCESS}
    try:
        for number, cookie in enumerate(cookies[1:], 1):
            answers[number] = client.answer(cookie).error
    except Disconnected as end:
        eq(end.got, b"", "a part of a reply")
    assert set(answers.values()) <= {NBD_SUCCESS, NBD_ESHUTDOWN}, answers
    client.expect_end()
    idle.expect_end()
    # A client that is still haggling may be told, and is then left.
    rest = haggling.read_to_end()
    eq(rest, b"", "what a client that haggles gets")
    for one in (client, idle, haggling):
        one.close()
    eq(units.ended(3), ["success exited 0"] * 3)
    done = [number for number, error in answers.items() if error == NBD_SUCCESS]
    with open(image, "rb") as file:
        for number in done:
            file.seek(number * MIB)
            eq(file.read(MIB) == block, True, f"block {number} is in the file")
    note(f"{len(done)} writes were answered by success, "
         f"{list(answers.values()).count(NBD_ESHUTDOWN)} by NBD_ESHUTDOWN")
    ends = [e for e in wait_for_entries(since, 4) if " ended: " in e["MESSAGE"]]
    eq({e["PRIORITY"] for e in ends}, {INFO})
    eq(systemd.failed(), [], "failed units")


@test("stopping the socket leaves connections alone")
def _(t):
    image = t.pattern_image(MIB)
    path = t.path("nbd.sock")
    units = InstalledUnits(t, systemd, image, listen=[path])
    client = Client(connect(path)).start()
    systemd.systemctl("stop", "nbdinetd.socket")
    eq(client.read(4096, 512), pattern(4096, 512))
    client.disconnect()
    eq(units.ended(1), ["success exited 0"])


def tests(private):
    global systemd
    systemd = private
    main()


if __name__ == "__main__":
    private_systemd.run(tests)
