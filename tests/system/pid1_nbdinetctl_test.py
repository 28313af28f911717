#!/usr/bin/python3
"""nbdinetctl under a systemd that is process 1 (see support/pid1.py): every verb, on units written by hand,
on a listening service, and as JSON, which is held to the recorded schema."""

import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import errno  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import textwrap  # noqa: E402
import threading  # noqa: E402
import unicodedata  # noqa: E402
import failing_calls  # noqa: E402
import faults  # noqa: E402
import pid1  # noqa: E402
from harness import *  # noqa: E402
from kept_headers import begun, change_headers  # noqa: E402

PORT = ("127.0.0.1", 10809)
LISTEN_PORT = ("127.0.0.1", 10909)
IMAGE = "/srv/nbd/export.img"
SCHEMA = json.loads((Path(__file__).resolve().parents[1] / "support" / "nbdinetctl_schema.json").read_text())

machine = None  # the pid1.Machine


def ctl(*argv, status=0):
    """Runs nbdinetctl inside; what it printed."""
    result = machine.run("nbdinetctl", *argv, check=False)
    if status is not None and result.returncode != status:
        raise AssertionError(f"nbdinetctl {' '.join(argv)}: exit status {result.returncode}, wanted {status}: "
                             f"{result.stdout}{result.stderr}")
    return result


def rows(verb, *argv, status=0):
    """The objects of --json, each held to the schema of its verb."""
    found = json.loads(ctl(verb, *argv, "--json=short", status=status).stdout)
    for row in found:
        hold_to_schema(verb, row)
    return found


def hold_to_schema(verb, row):
    schema = SCHEMA[verb]
    types = {"string": str, "number": int, "strings": list, "commands": dict}
    for name, value in row.items():
        if name not in schema["names"]:
            raise AssertionError(f"{verb}: {name} is not in the schema: {row}")
        if type(value) is not types[schema["names"][name]]:
            raise AssertionError(f"{verb}: {name} is not of the type in the schema: {row}")
    for name in schema["always"]:
        if name not in row:
            raise AssertionError(f"{verb}: {name} is missing: {row}")
    for command, numbers in row.get("commands", {}).items():
        matches("^(read|write|flush|trim|cache|write_zeroes|block_status)$", command)
        for name in ("latency_usec", "size_bytes"):
            if name == "size_bytes" and name not in numbers:
                continue
            for bucket in numbers[name]:
                assert set(bucket) in ({"le", "count"}, {"count"}), bucket
                assert all(type(value) is int for value in bucket.values()), bucket
            assert type(numbers[f"{name}_sum"]) is int, numbers
        eq(numbers["count"], sum(bucket["count"] for bucket in numbers["latency_usec"]))


def row_of(verb, export, *argv):
    found = [row for row in rows(verb, *argv) if row["export"] == export]
    eq(len(found), 1, f"rows of {export}")
    return found[0]


def serve(image, options="", listener=False):
    """Lets the shipped units serve this, from the next connection on."""
    name = "nbdinetd-listen" if listener else "nbdinetd"
    machine.write(f"{pid1.configured('sysconfdir')}/default/{name}",
                  f'NBDINETD_EXPORT="{image}"\nNBDINETD_OPTIONS="{options}"\n')


def start_shipped(t, options="--readonly"):
    """The shipped units for one process a connection, listening."""
    machine.write(IMAGE, pattern(0, MIB))
    serve(IMAGE, options)
    machine.systemctl("start", "nbdinetd.socket")
    t.defer(end_all)


def start_listener(t):
    """The shipped units for one listening service, on a port of its own."""
    machine.write(IMAGE, pattern(0, MIB))
    serve(IMAGE, "--readonly", listener=True)
    machine.write("/etc/systemd/system/nbdinetd-listen.socket.d/port.conf",
                  "[Socket]\nListenStream=\nListenStream=10909\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "nbdinetd-listen.socket")
    t.defer(end_all)


def end_all():
    machine.systemctl("stop", "nbdinetd.socket", "nbdinetd-listen.socket", "nbdinetd-listen.service",
                      "nbdinetd@*.service", check=False)
    machine.systemctl("reset-failed", check=False)
    wait_until(lambda: not machine.instances(), "the connections' units to be gone")


def client_of(t, port=PORT, read=4096):
    """A client that is served and has read so many bytes."""
    connection = connect(port)
    t.defer(connection.close)
    client = Client(connection).start()
    client.name = "127.0.0.1:%d" % connection.getsockname()[1]
    if read:
        eq(client.read(0, read), pattern(0, read))
    return client


def install_ssh(t):
    """An ssh that runs the command on this machine, whatever the host."""
    machine.write("/usr/local/bin/ssh", "#!/bin/sh\necho \"$@\" >>/run/ssh.log\n"
                  "while [ \"$1\" != -- ]; do shift; done\nshift 2\nexec \"$@\"\n", mode=0o755)
    t.defer(lambda: machine.path("/usr/local/bin/ssh").unlink())


def columns_of(text):
    """How many columns of a terminal the text takes."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def peer_of(client):
    return client.name


@test("list shows the shipped units as exports: address, file, size, clients, and bytes so far")
def _(t):
    start_shipped(t)
    client = client_of(t)
    row = wait_until(lambda: (lambda r: r if r.get("bytes_read") == 4096 else None)(row_of("list", "nbdinetd")),
                     "the counters of the connection")
    eq((row["state"], row["addresses"], row["file"], row["size"], row["clients"]),
       ("listening", ["[::]:10809"], IMAGE, MIB, 1))
    eq((row["unit"], row["service"], row["bytes_written"], row["errors"], row["requests"]),
       ("nbdinetd.socket", "nbdinetd@.service", 0, 0, 1))
    table = ctl("--interval=off").stdout.splitlines()
    matches(r"^EXPORT +STATE +ADDRESS +FILE +SIZE +CLIENTS +READ +WRITTEN$", table[0])
    matches(r"^nbdinetd +listening +\[::\]:10809 +/srv/nbd/export.img +1\.0M +1 +- +-$", "\n".join(table))
    # A rate is measured while a client reads.
    reading = threading.Event()

    def read_on():
        while not reading.wait(0.01):
            client.read(0, 65536)
    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        wait_until(lambda: row_of("list", "nbdinetd", "--interval=2s").get("read_rate"), "a rate of reads")
        # A table without --interval= waits for reports.
        wait_until(lambda: re.search(r"^nbdinetd +listening .* 1 +[1-9]\S*/s +0$", ctl("list", "--no-legend").stdout,
                                     re.MULTILINE), "a rate in a table")
    finally:
        reading.set()
        reader.join()
    client.disconnect()


@test("connections shows the peer, the bytes, since when, and the unit; history has it once it has ended")
def _(t):
    start_shipped(t)
    began = machine.now_us()
    client = client_of(t, read=8192)
    peer = peer_of(client)
    row = wait_until(lambda: (lambda r: r if r.get("bytes_read") == 8192 else None)(
        row_of("connections", "nbdinetd", "nbdinetd")), "the counters of the connection")
    eq((row["peer"], row["state"], row["requests"], row["bytes_written"], row["errors"]),
       (peer, "serving", 1, 0, 0))
    # Read from the process itself, and therefore exact.
    eq(sorted(row["commands"]), ["read"])
    read = row["commands"]["read"]
    eq((read["count"], read["size_bytes"], read["size_bytes_sum"]), (1, [{"le": 8192, "count": 1}], 8192))
    assert read["latency_usec_sum"] > 0, read
    eq(machine.instances(), [row["unit"]])
    if not began <= row["since"] <= machine.now_us():
        raise AssertionError(f"since {row['since']}, began {began}")
    matches(rf"^nbdinetd +{peer} +- +\S.* 8\.0K +0 +0 +nbdinetd@", ctl("connections").stdout)
    client.disconnect()
    wait_until(lambda: rows("history", "nbdinetd", f"--peer={peer}"), "the journal to have its end")
    row, = rows("history", f"--peer={peer}", f"--since=@{began // 10**6}")
    eq((row["export"], row["peer"], row["bytes_read"], row["bytes_written"], row["errors"], row["file"]),
       ("nbdinetd", peer, 8192, 0, 0, IMAGE))
    eq((row["exit_status"], row["reason"], row["until"] - row["since"]),
       (0, "client disconnected", row["duration_usec"]))
    eq(rows("history", f"--peer={peer}", "--until=1h ago"), [])
    eq(rows("history", "--peer=192.0.2.1"), [])
    table = ctl("history").stdout
    matches(rf"^[A-Z][a-z][a-z] \d{{4}}-\d\d-\d\d \d\d:\d\d +nbdinetd +{peer} +- .* client disconnected$", table)
    # A time as the table has it can be given back.
    when = re.search(rf"^(.*?)  +nbdinetd +{peer} ", table, re.MULTILINE)[1]
    eq([row["peer"] for row in rows("history", f"--peer={peer}", f"--since={when}")], [peer])


@test("a connection whose process was killed is in the history, and one that lives is not")
def _(t):
    for start, port, reason in ((start_shipped, PORT, "no last message: nbdinetd was ended by a signal"),
                                (start_listener, LISTEN_PORT, "no last message: killed, or crashed")):
        start(t)
        began = machine.now_us()
        killed, alive = client_of(t, port), client_of(t, port)
        row, = wait_until(lambda: [row for row in rows("connections") if row.get("peer") == peer_of(killed)],
                          "the peer")
        machine.run("kill", "-KILL", row["pid"])
        killed.expect_end()
        found, = wait_until(lambda: rows("history", f"--peer={peer_of(killed)}"), "the killed connection")
        eq({name: found.get(name) for name in ("export", "unit", "pid", "file", "mode", "reason", "requests", "exit_status")},
           {"export": row["export"], "unit": row["unit"], "pid": row["pid"], "file": IMAGE, "mode": "read-only",
            "reason": reason, "requests": None, "exit_status": None})
        if not began <= found["since"] <= found.get("until", machine.now_us()) <= machine.now_us():
            raise AssertionError(found)
        eq(rows("history", f"--peer={peer_of(alive)}"), [])
        eq(rows("history", f"--peer={peer_of(killed)}", f"--until=@{began // 1000000}"), [])
        contains(reason, ctl("history", row["export"]).stdout)
        # Beside it stand connections with a last message, each once.
        alive.disconnect()
        ended, = wait_until(lambda: rows("history", f"--peer={peer_of(alive)}"), "the end of the other")
        eq((ended["reason"], ended["requests"]), ("client disconnected", 1))


@test("a client that has not chosen an export is negotiating")
def _(t):
    start_shipped(t)
    negotiating = connect(PORT)
    t.defer(negotiating.close)
    negotiating.recv(18)
    peer = "127.0.0.1:%d" % negotiating.getsockname()[1]
    row = wait_until(lambda: (lambda r: r if r.get("peer") else None)(row_of("connections", "nbdinetd")),
                     "the status of the connection")
    eq((row["peer"], row["state"]), (peer, "negotiating"))
    if "bytes_read" in row:
        raise AssertionError(row)


@test("disconnect ends the connections of a peer or of an export, and says what they have transferred")
def _(t):
    start_shipped(t)
    first, second, third = (client_of(t) for _ in range(3))
    row, = rows("disconnect", peer_of(first))
    eq((row["peer"], row["result"], row["bytes_read"]), (peer_of(first), "disconnected", 4096))
    first.expect_end()
    eq(sorted(r["peer"] for r in wait_until(
        lambda: (lambda r: r if len(r) == 2 else None)(rows("connections")), "two connections")),
       sorted(map(peer_of, (second, third))))
    table = ctl("disconnect", "nbdinetd").stdout
    for client in (second, third):
        matches(rf"^nbdinetd +{peer_of(client)} +- +4\.0K +0 +0 +disconnected$", table)
        client.expect_end()
    # An export without clients is as it was asked for; a peer that isn't there is not.
    contains("has no clients", ctl("disconnect", "nbdinetd").stderr)
    contains("no connected client", ctl("disconnect", "192.0.2.1", status=3).stderr)


@test("a listening service: clients and peers come from its processes and the journal, and can be disconnected")
def _(t):
    start_listener(t)
    first, second = (client_of(t, LISTEN_PORT) for _ in range(2))
    found = wait_until(lambda: (lambda r: r if len([x for x in r if "peer" in x]) == 2 else None)(
        rows("connections", "nbdinetd-listen")), "both peers")
    eq(sorted(row["peer"] for row in found), sorted(map(peer_of, (first, second))))
    eq({(row["unit"], row["state"]) for row in found}, {("nbdinetd-listen.service", "serving")})
    if any("bytes_read" in row for row in found):
        raise AssertionError(found)
    eq(row_of("list", "nbdinetd-listen")["clients"], 2)
    install_ssh(t)
    contains("on its own machine",
             ctl("-H", "localhost", "disconnect", "nbdinetd-listen", status=1).stderr)
    row, = rows("disconnect", peer_of(first))
    eq((row["peer"], row["result"]), (peer_of(first), "disconnected"))
    first.expect_end()
    eq(second.read(0, 512), pattern(0, 512))
    eq([row["peer"] for row in rows("connections")], [peer_of(second)])
    row, = rows("disconnect", "nbdinetd-listen")
    eq(row["result"], "disconnected")


@test("the processes of a listening service drain at the same time")
def _(t):
    start_listener(t)
    clients = {client.name: client for client in (client_of(t, LISTEN_PORT) for _ in range(4))}
    found = wait_until(lambda: (lambda r: r if len([x for x in r if "peer" in x]) == 4 else None)(
        rows("connections", "nbdinetd-listen")), "all peers")
    # Whichever comes first: one that can't end yet doesn't keep others waiting.
    held = [found[0], found[-1]]
    for row in held:
        machine.run("kill", "-STOP", row["pid"])
    command = machine.popen("nbdinetctl", "disconnect", "nbdinetd-listen", "--json=short", stdout=subprocess.PIPE)
    try:
        for row in found[1:-1]:
            clients[row["peer"]].expect_end()
        eq(command.poll(), None)
    finally:
        for row in held:
            machine.run("kill", "-CONT", row["pid"])
        printed = command.communicate()[0]
    eq((command.returncode, [row["result"] for row in json.loads(printed)]), (0, ["disconnected"] * 4))


def undrain_all():
    machine.run("nbdinetctl", "undrain", "--all", check=False)


def drop_in_of(unit, directory="/etc"):
    return machine.path(f"{directory}/systemd/system/{unit}.d/50-nbdinetctl-drain.conf")


def refuses_connections(port):
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return True
    return False


def is_drained(name, port):
    eq(row_of("list", name)["state"], "drained")
    eq(refuses_connections(port), True)
    contains(f"'nbdinetctl undrain {name}' ends that", ctl("start", name, status=1).stderr)
    machine.systemctl("start", f"{name}.socket", check=False)
    eq(row_of("list", name)["state"], "drained")


@test("drain answers what clients have sent, refuses nothing, and lets nobody in until undrain")
def _(t):
    start_shipped(t)
    t.defer(undrain_all)
    clients = [client_of(t) for _ in range(3)]
    sent = [[client.request(0, 4096 * number, 4096) for number in range(20)] for client in clients]
    result = ctl("drain", "nbdinetd", "--json=short")
    found = json.loads(result.stdout)
    for row in found:
        hold_to_schema("drain", row)
    eq(sorted((row["peer"], row["result"]) for row in found),
       sorted((peer_of(client), "disconnected") for client in clients))
    matches(r"^nbdinetctl: drained: 3 clients left in \d", result.stderr)
    for client, cookies in zip(clients, sent):
        for cookie in cookies:
            client.answer(cookie).check()
        client.expect_end()
    is_drained("nbdinetd", PORT)
    eq(drop_in_of("nbdinetd.socket").exists(), True)
    # Again: nothing is lost of what undrain has to know.
    contains("nobody was connected", ctl("drain", "nbdinetd", "--runtime").stderr)
    machine.systemctl("daemon-reload")
    is_drained("nbdinetd", PORT)
    contains("started nbdinetd.socket", ctl("undrain", "nbdinetd").stdout)
    eq([drop_in_of("nbdinetd.socket", directory).exists() for directory in ("/etc", "/run")], [False, False])
    client_of(t)
    contains("it wasn't drained", ctl("undrain", "nbdinetd").stdout)


@test("drain of an export that doesn't listen keeps it from being started, and undrain doesn't start it")
def _(t):
    start_shipped(t)
    t.defer(undrain_all)
    machine.systemctl("stop", "nbdinetd.socket")
    ctl("drain", "nbdinetd", "--runtime")
    eq([drop_in_of("nbdinetd.socket", directory).exists() for directory in ("/etc", "/run")], [False, True])
    is_drained("nbdinetd", PORT)
    contains("wasn't listening", ctl("undrain", "nbdinetd").stdout)
    eq(row_of("list", "nbdinetd")["state"], "stopped")


@test("drain of a listening service: its connections' processes drain, and so does a service that can't hand over")
def _(t):
    start_listener(t)
    t.defer(undrain_all)
    for hands_over in (True, False):
        if not hands_over:
            machine.write("/etc/systemd/system/nbdinetd-listen.service.d/kill.conf", "[Service]\nKillMode=mixed\n")
            t.defer(lambda: machine.path("/etc/systemd/system/nbdinetd-listen.service.d/kill.conf").unlink())
            machine.systemctl("daemon-reload")
        clients = [client_of(t, LISTEN_PORT) for _ in range(2)]
        sent = [client.request(0, 0, MIB) for client in clients]
        eq([row["result"] for row in rows("drain", "nbdinetd-listen")], ["disconnected"] * 2)
        for client, cookie in zip(clients, sent):
            client.answer(cookie).check()
            client.expect_end()
        eq(row_of("list", "nbdinetd-listen")["state"], "drained")
        eq(refuses_connections(LISTEN_PORT), True)
        contains("started nbdinetd-listen.socket", ctl("undrain", "nbdinetd-listen").stdout)
    client_of(t, LISTEN_PORT)


@test("drain --all drains every export, and the agent says so until undrain --all")
def _(t):
    start_shipped(t)
    start_listener(t)
    t.defer(undrain_all)
    client_of(t), client_of(t, LISTEN_PORT)
    uri = "nbd://127.0.0.1/"
    eq(ctl("probe", "--agent", uri).stdout, "ready up\n")
    eq(sorted(row["export"] for row in rows("drain", "--all")), ["nbdinetd", "nbdinetd-listen"])
    eq(ctl("probe", "--agent", uri).stdout, "drain\n")
    eq({row["state"] for row in rows("list")}, {"drained"})
    ctl("undrain", "--all")
    eq(ctl("probe", "--agent", uri).stdout, "ready up\n")
    client_of(t), client_of(t, LISTEN_PORT)
    for argv in ([], ["--all", "nbdinetd"]):
        contains("--all", ctl("drain", *argv, status=64).stderr)
    contains("no export", ctl("drain", "no-such-export", status=3).stderr)


@test("drain tells of a client that hasn't left in time, and is a failure then")
def _(t):
    start_shipped(t)
    t.defer(undrain_all)
    client = client_of(t)
    # More than the sockets hold: it has some seconds to read all that.
    for _ in range(64):
        client.request(0, 0, MIB)
    result = ctl("drain", "nbdinetd", "--timeout=1ms", "--json=short", status=1)
    contains("still drains", json.loads(result.stdout)[0]["result"])
    contains("0 of 1 client left", result.stderr)
    eq([row["result"] for row in rows("drain", "nbdinetd")], ["disconnected"])


@test("disconnect --drain lets a client come back, and refuses none of its requests")
def _(t):
    start_shipped(t)
    client, other = client_of(t), client_of(t)
    cookies = [client.request(0, 4096 * number, 4096) for number in range(20)]
    eq([row["result"] for row in rows("disconnect", "--drain", peer_of(client))], ["disconnected"])
    for cookie in cookies:
        client.answer(cookie).check()
    client.expect_end()
    eq(other.read(0, 512), pattern(0, 512))
    client_of(t)
    install_ssh(t)
    contains("run nbdinetctl there", ctl("-H", "localhost", "disconnect", "--drain", "nbdinetd", status=1).stderr)
    contains("run nbdinetctl there", ctl("-H", "localhost", "drain", "nbdinetd", status=1).stderr)


@test("more connections than the limit of descriptors are disconnected, and drained, all the same")
def _(t):
    start_listener(t)
    for verb in (["disconnect"], ["disconnect", "--drain"]):
        clients = [client_of(t, LISTEN_PORT) for _ in range(40)]
        result = machine.run("prlimit", "--nofile=24:4096", "nbdinetctl", *verb, "nbdinetd-listen", "--json=short")
        eq([row["result"] for row in json.loads(result.stdout)], ["disconnected"] * len(clients))


@test("a connection whose process has the number of an earlier one doesn't get its peer, nor its end")
def _(t):
    start_listener(t)
    first = client_of(t, LISTEN_PORT)
    row = wait_until(lambda: (lambda r: r if "peer" in r else None)(row_of("connections", "nbdinetd-listen")), "the peer")
    pid = row["pid"]
    ctl("disconnect", peer_of(first))
    wait_until(lambda: rows("history", f"--peer={peer_of(first)}"), "its end in the journal")
    machine.shell("mkdir -p /run/proc; mountpoint -q /run/proc || mount -t proc proc /run/proc")

    def same_number():
        machine.shell(f"echo {pid - 2} >/run/proc/sys/kernel/ns_last_pid")
        for _ in range(4):
            connection = connect(LISTEN_PORT)
            t.defer(connection.close)
            connection.recv(18)
        found = rows("connections", "nbdinetd-listen")
        if any(row["pid"] == pid for row in found):
            return found
        ctl("disconnect", "nbdinetd-listen")
        return None
    found = wait_until(same_number, "a process with the number of the first")
    eq([row.get("peer") for row in found], [None] * 4)


@test("a copy of the units under another name is an export, too, and one with another program is not")
def _(t):
    start_shipped(t)
    units = Path(pid1.configured("systemdsystemunitdir"))

    def undo():
        machine.shell("rm -rf /etc/systemd/system/second* /etc/systemd/system/other*")
        machine.systemctl("daemon-reload")
    t.defer(undo)
    for suffix in (".socket", "@.service"):
        text = machine.shell(f"cat {units}/nbdinetd{suffix}")
        machine.write(f"/etc/systemd/system/second{suffix}", text.replace("10809", "/run/second.sock"))
    machine.write(f"{pid1.configured('sysconfdir')}/default/second",
                  'NBDINETD_EXPORT="/srv/nbd/missing.img"\n')
    machine.write("/etc/systemd/system/other.socket", "[Socket]\nListenStream=/run/other\nAccept=yes\n")
    machine.write("/etc/systemd/system/other@.service", "[Service]\nExecStart=/bin/cat\nStandardInput=socket\n")
    machine.systemctl("daemon-reload")
    names = {row["export"]: row for row in rows("list")}
    eq(sorted(set(names) & {"second", "other", "nbdinetd"}),
       ["nbdinetd", "second"])
    # It isn't loaded until it is used, and its file isn't there.
    eq((names["second"]["state"], names["second"]["addresses"], names["second"]["file"],
        names["second"]["reason"]),
       ("stopped", ["/run/second.sock"], "/srv/nbd/missing.img", "no such file"))
    ctl("start", "second")
    eq(row_of("list", "second")["state"], "listening")
    eq(machine.show("second.socket", "ActiveState"), "active")
    ctl("stop", "second.socket")
    eq(machine.show("second.socket", "ActiveState"), "inactive")
    ctl("enable", "second", "--now")
    eq(machine.show("second.socket", "ActiveState", "UnitFileState"), ["active", "enabled"])
    ctl("disable", "second", "--now")
    eq(machine.show("second.socket", "ActiveState", "UnitFileState"), ["inactive", "disabled"])
    ctl("start", "third", status=3)


@test("a unit that starts is activating, and one that is reloaded still runs")
def _(t):
    machine.write(IMAGE, pattern(0, MIB))
    machine.write("/etc/systemd/system/slow.service", "[Service]\nExecStartPre=/bin/cat /run/slow.fifo\n"
                  f"ExecStart={pid1.configured('sbindir')}/nbdinetd -f -p 10995 -r {IMAGE}\n"
                  "ExecReload=/bin/cat /run/slow.fifo\n")
    machine.shell("mkfifo /run/slow.fifo")

    def undo():
        machine.systemctl("kill", "--signal=KILL", "slow.service", check=False)
        machine.shell("rm -f /etc/systemd/system/slow.service /run/slow.fifo")
        machine.systemctl("daemon-reload")
    t.defer(undo)
    machine.systemctl("daemon-reload")

    def state():
        return row_of("list", "slow")["state"]
    machine.systemctl("start", "--no-block", "slow.service")
    wait_until(lambda: machine.show("slow.service", "SubState") == "start-pre", "the start to wait")
    eq(state(), "activating")
    machine.shell(": >/run/slow.fifo")
    wait_until(lambda: state() == "running", "the start")
    machine.systemctl("reload", "--no-block", "slow.service")
    wait_until(lambda: machine.show("slow.service", "ActiveState") == "reloading", "the reload to wait")
    eq(state(), "running")
    machine.shell(": >/run/slow.fifo")


@test("stop says that clients stay connected; start reports what fails, and why to look")
def _(t):
    start_shipped(t)
    client = client_of(t)
    contains("1 client stays connected", ctl("stop", "nbdinetd").stdout)
    eq(client.read(0, 512), pattern(0, 512))
    with socket.socket(socket.AF_INET6) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("::", 10809))
        holder.listen(1)
        contains("journalctl -u nbdinetd.socket", ctl("start", "nbdinetd", status=1).stderr)
        row = row_of("list", "nbdinetd")
        eq((row["state"], row["reason"]), ("failed", "the socket could not be opened"))
    client.disconnect()


@test("stop of a listening service leaves its clients connected, and refuses where the service can't")
def _(t):
    start_listener(t)
    client = client_of(t, LISTEN_PORT)
    contains("1 client stays connected", ctl("stop", "nbdinetd-listen").stdout)
    eq(client.read(0, 512), pattern(0, 512))
    eq([machine.show(f"nbdinetd-listen.{kind}", "ActiveState") for kind in ("socket", "service")], ["inactive"] * 2)
    eq([row["result"] for row in rows("disconnect", "nbdinetd-listen")], ["disconnected"])
    # Without a reload that hands over, stopping would end the client.
    drop_in(t, "nbdinetd-listen.service", "[Service]\nExecReload=\n")
    ctl("start", "nbdinetd-listen")
    client = client_of(t, LISTEN_PORT)
    contains("nbdinetctl disconnect nbdinetd-listen", ctl("stop", "nbdinetd-listen", status=1).stderr)
    eq(client.read(0, 512), pattern(0, 512))
    eq(machine.show("nbdinetd-listen.socket", "ActiveState"), "active")
    ctl("disconnect", "nbdinetd-listen")
    ctl("stop", "nbdinetd-listen")
    eq([machine.show(f"nbdinetd-listen.{kind}", "ActiveState") for kind in ("socket", "service")], ["inactive"] * 2)


@test("drain ends a listening service whose sandbox can't be set up again, and undrain starts its socket")
def _(t):
    machine.shell("mkdir -p /opt/gone")
    t.defer(machine.shell, "rm -rf /opt/gone")
    drop_in(t, "nbdinetd-listen.service", "[Service]\nReadWritePaths=/opt/gone\n")
    start_listener(t)
    t.defer(undrain_all)
    client = client_of(t, LISTEN_PORT)
    machine.shell("rmdir /opt/gone")
    eq(machine.run("systemctl", "reload", "nbdinetd-listen.service", check=False).returncode, 1)
    eq([row["result"] for row in rows("drain", "nbdinetd-listen")], ["disconnected"])
    client.expect_end()
    is_drained("nbdinetd-listen", LISTEN_PORT)
    ctl("undrain", "nbdinetd-listen")
    eq(row_of("list", "nbdinetd-listen")["state"], "listening")


@test("list says why a file can't be looked at")
def _(t):
    machine.write("/etc/nbdinetd/circle.export", "[Export]\nFile=/srv/circle/a\n[Socket]\nListenStream=/run/circle\n")
    machine.shell("mkdir /srv/circle && ln -s a /srv/circle/a")

    def undo():
        machine.shell("rm -r /etc/nbdinetd/circle.export /srv/circle")
        machine.systemctl("daemon-reload")
    t.defer(undo)
    machine.systemctl("daemon-reload")
    contains(os.strerror(errno.ELOOP), row_of("list", "circle")["reason"])


@test("a user without rights reads the units, and is told why the rest is refused")
def _(t):
    start_shipped(t)
    client_of(t)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]

    def as_nobody(*argv):
        return machine.run(*nobody, "nbdinetctl", *argv, check=False)
    result = as_nobody("list", "--json=short")
    eq(result.returncode, 0, result.stderr)
    machine.write("/etc/nbdinetd/writable.export", f"[Export]\nFile={IMAGE}\n[Socket]\nListenStream=10996\n")
    machine.shell("chown -R nobody /etc/nbdinetd")
    t.defer(machine.shell, "rm -rf /etc/nbdinetd")
    # The action of polkit is that of the call which was refused.
    for argv, action in ((("disconnect", "nbdinetd"), "manage-units"), (("stop", "nbdinetd"), "manage-units"),
                         (("enable", "nbdinetd"), "manage-unit-files"), (("disable", "nbdinetd"), "manage-unit-files"),
                         (("enable", "writable"), "reload-daemon")):
        result = as_nobody(*argv)
        eq(result.returncode, 1)
        matches(rf"Run nbdinetctl as root, .* org\.freedesktop\.systemd1\.{action} \(", result.stderr)
    result = as_nobody("history")
    eq(result.returncode, 1)
    contains("systemd-journal", result.stderr)
    eq(len(rows("connections")), 1)


def findings(export, *, status):
    """{level: [messages]} of check."""
    found = json.loads(ctl("check", export, "--json=short", status=status).stdout)
    for row in found:
        hold_to_schema("check", row)
    return {level: [row["message"] for row in found if row["level"] == level] for level in ("ok", "warning", "error")}


def drop_in(t, unit, text):
    path = f"/etc/systemd/system/{unit}.d/check.conf"
    machine.write(path, text)
    machine.systemctl("daemon-reload")

    def undo():
        machine.path(path).unlink(missing_ok=True)
        machine.systemctl("daemon-reload")
    t.defer(undo)


@test("check says ok of an export that clients reach, and finds a missing file, a taken port, an unknown user")
def _(t):
    start_shipped(t)
    found = findings("nbdinetd", status=0)
    eq((len(found["ok"]), found["error"]), (1, []))
    contains(IMAGE, found["ok"][0])
    contains("nbdinetd ", ctl("check").stdout)
    serve("/srv/nbd/missing.img")
    contains("/srv/nbd/missing.img", findings("nbdinetd", status=1)["error"][0])
    serve(IMAGE, "--tls=require --tls-psk=/etc/nothing")
    contains("/etc/nothing", findings("nbdinetd", status=1)["error"][0])
    serve(IMAGE, "--readonly")
    ctl("stop", "nbdinetd")
    with socket.socket(socket.AF_INET6) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("::", 10809))
        holder.listen(1)
        contains("another process listens on [::]:10809", findings("nbdinetd", status=1)["error"][0])
    drop_in(t, "nbdinetd@.service", "[Service]\nUser=nosuchuser\n")
    contains("no such user", findings("nbdinetd", status=1)["error"][0])
    ctl("check", "nothing", status=3)


@test("check sees an export with the eyes of its unit: its user, its devices, its credentials, what it hides")
def _(t):
    start_shipped(t)
    machine.path(IMAGE).chmod(0o600)
    drop_in(t, "nbdinetd@.service", "[Service]\nUser=nobody\n")
    contains("Permission denied", " ".join(findings("nbdinetd", status=1)["error"]))
    drop_in(t, "nbdinetd@.service", "[Service]\nLoadCredential=key:/etc/missing.key\n")
    contains("/etc/missing.key", " ".join(findings("nbdinetd", status=1)["error"]))
    drop_in(t, "nbdinetd@.service", "[Service]\nProtectHome=yes\n")
    machine.write("/home/a.img", pattern(0, MIB))
    serve("/home/a.img", "--readonly")
    contains("ProtectHome=yes hides", " ".join(findings("nbdinetd", status=1)["error"]))
    device = next((str(p) for p in Path("/dev").glob("loop*") if p.is_block_device()), None)
    require(device, "there is no loop device")
    drop_in(t, "nbdinetd@.service", "[Service]\nDevicePolicy=closed\nDeviceAllow=\nDeviceAllow=/dev/null rw\n")
    serve(device, "--readonly")
    contains(f"add DeviceAllow={device} r", " ".join(findings("nbdinetd", status=1)["error"]))


@test("check opens the file with the rights of the unit: its groups, no capabilities, a user by number")
def _(t):
    machine.write("/data/a.img", pattern(0, MIB))
    image = machine.path("/data/a.img")
    start_shipped(t)
    serve("/data/a.img", "--readonly")
    # Hints on what other units would lack are no warnings of this one.
    found = findings("nbdinetd", status=0)
    eq((len(found["ok"]), found["warning"]), (1, []))
    os.chown(image, 65534, 65534)
    image.chmod(0o600)
    contains("Permission denied", " ".join(findings("nbdinetd", status=1)["error"]))
    drop_in(t, "nbdinetd@.service", "[Service]\nUser=65534\n")
    eq(len(findings("nbdinetd", status=0)["ok"]), 1)
    disk = int(machine.shell("getent group disk").split(":")[2])
    os.chown(image, 0, disk)
    image.chmod(0o640)
    contains("Permission denied", " ".join(findings("nbdinetd", status=1)["error"]))
    drop_in(t, "nbdinetd@.service", "[Service]\nUser=nobody\nSupplementaryGroups=disk\n")
    eq(len(findings("nbdinetd", status=0)["ok"]), 1)
    drop_in(t, "nbdinetd@.service", "[Service]\nUser=nobody\nGroup=disk\n")
    eq(len(findings("nbdinetd", status=0)["ok"]), 1)
    drop_in(t, "nbdinetd@.service", "[Service]\nDynamicUser=yes\n")
    found = findings("nbdinetd", status=0)
    eq((found["ok"], "DynamicUser=yes" in " ".join(found["warning"])), ([], True))
    drop_in(t, "nbdinetd@.service", "[Service]\nUser=root\n")
    result = machine.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", "nbdinetctl", "check",
                         "nbdinetd", check=False)
    contains("run nbdinetctl as root", result.stdout)


@test("check of kept copies by TLS identity needs no keys that systemd would load")
def _(t):
    machine.write("/data/kept.img", pattern(0, MIB))
    machine.write("/etc/nbdinetd/keys.psk", "alice:" + "ab" * 32 + "\n", 0o600)
    path = "/etc/nbdinetd/kept.export"
    keys = "TLS=require\nTLSPreSharedKeys=/etc/nbdinetd/keys.psk\n"

    def undo():
        machine.shell("rm -rf /etc/nbdinetd")
        machine.systemctl("daemon-reload")
    t.defer(undo)
    for key in ("", "CowKey=tls\n"):
        machine.write(path, f"[Export]\nFile=/data/kept.img\nCow=keep\n{key}{keys}[Socket]\nListenStream=10996\n")
        machine.systemctl("daemon-reload")
        contains("keys.psk", machine.shell("systemctl cat nbdinetd-kept@.service"))
        found = findings("kept", status=0)
        eq((len(found["ok"]), found["warning"], found["error"]), (1, [], []), key)


@test("check --as says what a client would get, by the rules that the unit has")
def _(t):
    machine.write("/etc/nbdinetd/rules", "psk:alice * ro\n192.0.2.0/24 * rw exclusive=wait\n* -\n")
    start_shipped(t)
    serve(IMAGE, "--rules=/etc/nbdinetd/rules")
    eq(ctl("check", "nbdinetd", "--as=psk:alice").stdout.count("read-only"), 1)

    def answers(*asked, status):
        found = json.loads(ctl("check", "nbdinetd", "--json=short", *asked, status=status).stdout)
        for row in found:
            hold_to_schema("check", row)
        return [(row["level"], row["message"]) for row in found]
    eq(answers("--as=psk:alice", status=0),
       [("ok", 'would let "psk:alice" use export "" read-only, by "/etc/nbdinetd/rules:1"')])
    eq(answers("--as=192.0.2.7", status=0),
       [("ok", 'would let "192.0.2.7" use export "" read-write, exclusive=wait, by "/etc/nbdinetd/rules:2"')])
    eq(answers("--as=192.0.2.7", "--as=psk:alice", status=0)[0][1].count("rules:1"), 1)
    eq(answers("--as=uid:0", status=1),
       [("error", 'would refuse "uid:0": by line 3 of "/etc/nbdinetd/rules"')])
    contains("several clients", answers("--as=any", status=1)[0][1])
    machine.write("/etc/nbdinetd/rules", "* * rx\n")
    contains('"/etc/nbdinetd/rules" line 1', findings("nbdinetd", status=1)["error"][0])
    contains("--as is for check", ctl("list", "--as=uid:0", status=64).stderr)


@test("check of a file needs no installed export, and names file and line")
def _(_t):
    machine.write("/root/good.export", "[Export]\nFile=/srv/nbd/export.img\n")
    machine.write("/root/bad.export", "[Export]\nFile=/srv/nbd/export.img\nnonsense\n")
    row, = rows("check", "/root/good.export")
    eq((row["export"], row["level"]), ("good", "ok"))
    contains("/root/bad.export:3:", findings("/root/bad.export", status=1)["error"][0])
    # Without a slash, a name with the suffix is a file of the current folder.
    eq(machine.run("sh", "-c", "cd /root && nbdinetctl check good.export").returncode, 0)
    contains("/root/none.export", ctl("check", "/root/none.export", status=3).stderr)


@test("what a client chose as a name comes back from the journal byte by byte, and as escapes in a table")
def _(t):
    start_shipped(t)
    names = ["two\nlines=1\nMESSAGE_ID=x", "\u00fc\u202e", "tab\tquote\"\\", "x" * 4096, "\u78c1\u76d8", "e\u0301"]
    for name in names:
        # An earlier client may have had the same port.
        known = len(rows("history", "--since=1h ago"))
        connection = connect(PORT)
        peer = "127.0.0.1:%d" % connection.getsockname()[1]
        Client(connection).start(name).disconnect()
        # One after the other: a journald that is slow today loses no message.
        row, = wait_until(
            lambda: [row for row in rows("history", "--since=1h ago")[known:] if row["peer"] == peer],
            "the connection's end in the journal")
        eq(row.get("export_name"), name)
    lines = ctl("history").stdout.splitlines()
    for line in lines:
        matches(r"^(WHEN|[A-Z][a-z][a-z] \d{4}-)", line)
    # In any locale, a column begins at the same place of a terminal, whatever the name before it.
    lines = machine.run("env", "LC_ALL=C", "nbdinetctl", "history", "--no-legend").stdout.splitlines()
    eq(len({columns_of(line.partition("127.0.0.1:")[0]) for line in lines}), 1)


@test("messages that journald receives late belong to their export: their process has waited for it")
def _(t):
    start_shipped(t)
    client_of(t).disconnect()
    wait_until(lambda: not machine.instances(), "the first connection's unit to be gone")
    known = len(rows("history"))
    journald = machine.show("systemd-journald.service", "MainPID")
    since = machine.now_us()
    machine.run("kill", "-STOP", journald)
    t.defer(lambda: machine.run("kill", "-CONT", journald))
    connection = connect(PORT)
    peer = "127.0.0.1:%d" % connection.getsockname()[1]
    Client(connection).start().disconnect()
    # A process that doesn't wait is gone by now.
    machine.shell("sleep 0.3")
    machine.run("kill", "-CONT", journald)
    wait_until(lambda: not machine.instances(), "the connection's unit to be gone")
    machine.run("journalctl", "--sync")
    units = [entry.get("_SYSTEMD_UNIT", "none") for entry in machine.log(since, f"NBD_PEER={peer}")]
    eq((len(units) >= 2, {unit.partition("@")[0] for unit in units}), (True, {"nbdinetd"}))
    eq([row["peer"] for row in rows("history")[known:]], [peer])


@test("the connection's program loads no library of systemd's, and nbdinetctl does")
def _(_t):
    readelf = need("readelf")

    def needed(program):
        text = subprocess.run([readelf, "--dynamic", program], capture_output=True, text=True, check=True).stdout
        return set(re.findall(r"\(NEEDED\).*\[(.*)\]", text))
    contains("libsystemd.so.0", needed(str(BUILDDIR / "src" / "nbdinetctl")))
    eq({name for name in needed(NBDINETD) if not re.match(r"(libc|libm|libstdc\+\+|libgcc_s|ld-linux.*|libabsl_.*)\.so", name)},
       set())


@test("an export whose storage doesn't answer any more is listed, says so, and keeps no other from it")
def _(t):
    program = faults.eio_fs_path()
    require(program and os.access("/dev/fuse", os.R_OK | os.W_OK), "needs tests/support/eio_fs, and /dev/fuse")
    machine.write("/root/eio_fs", Path(program).read_bytes(), 0o755)
    machine.write("/root/backing", bytes(MIB))
    machine.shell("mkdir -p /mnt/silent")
    daemon = machine.popen("/root/eio_fs", "--fresh-attributes", "/root/backing", "/mnt/silent",
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    eq(daemon.stdout.readline(), "ready\n")

    def end():
        daemon.communicate(timeout=GUARD)
        machine.shell("rm -f /etc/nbdinetd/silent*.export /etc/nbdinetd/talking.export")
        machine.systemctl("daemon-reload")
    t.defer(end)
    machine.write(IMAGE, bytes(MIB))
    names = [f"silent{number}" for number in range(8)]
    for name in names:
        machine.write(f"/etc/nbdinetd/{name}.export", "[Export]\nFile=/mnt/silent/disk\n[Socket]\nListenStream=10998\n")
    machine.write("/etc/nbdinetd/talking.export", f"[Export]\nFile={IMAGE}\n[Socket]\nListenStream=10999\n")
    machine.systemctl("daemon-reload")
    eq(row_of("list", "silent0")["size"], MIB)
    daemon.stdin.write("rule getattr hold\n")
    daemon.stdin.flush()
    eq(daemon.stdout.readline(), "ok\n")
    for name in names:
        row = row_of("list", name)
        eq((row["reason"], row.get("size")), ("the storage doesn't answer", None))
    eq(row_of("list", "talking")["size"], MIB)


@test("an .export file is listed by its name, enabled and disabled by a drop-in, and has a history when it is gone")
def _(t):
    machine.write(IMAGE, pattern(0, MIB))
    path = "/etc/nbdinetd/golden.export"
    machine.write(path, f"[Export]\nFile={IMAGE}\nReadOnly=yes\nEnabled=no\n[Socket]\nListenStream=10810\n")

    def undo():
        machine.systemctl("stop", "nbdinetd-golden.socket", "nbdinetd-golden@*.service", check=False)
        machine.shell("rm -rf /etc/nbdinetd")
        machine.systemctl("daemon-reload")
    t.defer(undo)
    row = row_of("list", "golden")
    eq((row["state"], "daemon-reload" in row["reason"]), ("stopped", True))
    found = findings("golden", status=0)
    eq((found["ok"], found["warning"], found["error"]), ([], [row["reason"]], []))
    machine.systemctl("daemon-reload")
    row = row_of("list", "golden")
    eq((row["state"], row["file"], row["addresses"], row["source"], row["unit"]),
       ("stopped", IMAGE, ["[::]:10810"], path, "nbdinetd-golden.socket"))
    drop_in_path = "/etc/nbdinetd/golden.export.d/50-enabled.conf"
    link = "/run/systemd/generator/sockets.target.wants/nbdinetd-golden.socket"
    contains(drop_in_path, ctl("enable", "golden", "--now").stdout)
    contains("[Export]\nEnabled=yes\n", machine.path(drop_in_path).read_text())
    eq((machine.path(link).is_symlink(), row_of("list", "golden")["state"]), (True, "listening"))
    client = client_of(t, ("127.0.0.1", 10810))
    eq([row["export"] for row in rows("connections", "golden")], ["golden"])
    eq([row["result"] for row in rows("disconnect", peer_of(client))], ["disconnected"])
    eq(findings("golden", status=0)["error"], [])
    ctl("disable", "golden", "--now")
    contains("[Export]\nEnabled=no\n", machine.path(drop_in_path).read_text())
    eq((machine.path(link).is_symlink(), row_of("list", "golden")["state"]), (False, "stopped"))
    # An error is found before a reload, which would take the units away.
    machine.write(path, f"[Export]\nFile={IMAGE}\nReadOnly=maybe\n")
    error, = findings("golden", status=1)["error"]
    contains(f"{path}:3", error)
    machine.systemctl("daemon-reload")
    row = row_of("list", "golden")
    eq((row["state"], row["reason"].split(": ")[0]), ("failed", f"{path}:3"))
    eq(findings("golden", status=1)["error"], [row["reason"]])
    contains(f"{path}:3", ctl("start", "golden", status=1).stderr)
    machine.shell("rm -rf /etc/nbdinetd")
    machine.systemctl("daemon-reload")
    ctl("connections", "golden", status=3)
    eq({row["peer"] for row in rows("history", "golden")}, {peer_of(client)})
    ctl("history", "never-was", status=3)


@test("enable and disable say when they have no effect: no [Install], a later drop-in, an error in the file")
def _(t):
    machine.write(IMAGE, pattern(0, MIB))
    units = Path(pid1.configured("systemdsystemunitdir"))
    for suffix in (".socket", "@.service"):
        text = machine.shell(f"cat {units}/nbdinetd{suffix}").replace("10809", "/run/bare.sock")
        machine.write(f"/etc/systemd/system/bare{suffix}", text.split("[Install]")[0])
    for name, port in (("late", 10997), ("twin", 10998)):
        machine.write(f"/etc/nbdinetd/{name}.export", f"[Export]\nFile={IMAGE}\n[Socket]\nListenStream={port}\n")
    drop_ins = "/etc/nbdinetd/late.export.d"

    def undo():
        machine.shell("rm -rf /etc/nbdinetd /etc/systemd/system/bare*")
        machine.systemctl("daemon-reload")
    t.defer(undo)
    machine.systemctl("daemon-reload")
    contains("has no [Install] section", ctl("enable", "bare", status=1).stderr)
    machine.write(f"{drop_ins}/90-later.conf", "[Export]\nEnabled=no\n")
    contains(f"{drop_ins}/90-later.conf:2: Enabled=no is read later", ctl("enable", "late", status=1).stderr)
    eq(machine.shell(f"ls {drop_ins}"), "90-later.conf\n", "it stays as it was")
    ctl("disable", "late")
    for text in ("Enabled=yes", "Enabled="):
        machine.write(f"{drop_ins}/90-later.conf", f"[Export]\n{text}\n")
        ctl("enable", "late")
        contains('would not disable "late"', ctl("disable", "late", status=1).stderr)
        contains("Enabled=yes", machine.shell(f"cat {drop_ins}/50-enabled.conf"))
    machine.shell(f"rm -r {drop_ins}")
    ctl("disable", "late")
    machine.write("/etc/nbdinetd/twin.export", f"[Export]\nFile={IMAGE}\n[Socket]\nListenStream=10997\n")
    ctl("disable", "twin")
    ctl("enable", "late")
    contains("/etc/nbdinetd/twin.export:4", ctl("enable", "twin", status=1).stderr)
    contains("Enabled=no", machine.shell("cat /etc/nbdinetd/twin.export.d/50-enabled.conf"))


@test("metrics is Prometheus text, and --http answers a request")
def _(t):
    start_shipped(t)
    client = client_of(t)
    text = wait_until(lambda: (lambda m: m if re.search(r"_read_bytes_total\{.*\} 4096\n", m) else None)(
        ctl("metrics").stdout), "the counters")
    for line in text.splitlines():
        matches(r'^(# (HELP|TYPE) nbdinetd_\w+ .*|nbdinetd_\w+\{(\w+="[^"]*",?)+\} \d+(\.\d+)?)$', line)
    matches(r'^nbdinetd_export_up\{export="nbdinetd"\} 1$', text)
    matches(r'^nbdinetd_export_connections\{export="nbdinetd"\} 1$', text)
    matches(r'^nbdinetd_connection_read_bytes_total\{export="nbdinetd",identity="",unit="nbdinetd@.*"\} 4096$', text)
    labels = r'\{export="nbdinetd",identity="",unit="nbdinetd@.*",command="read"'
    for name, bound in (("duration_seconds", "0.000001"), ("size_bytes", "512")):
        matches(rf'^nbdinetd_request_{name}_bucket{labels},le="{bound}"\}} 0$', text)
        matches(rf'^nbdinetd_request_{name}_bucket{labels},le="\+Inf"\}} 1$', text)
        matches(rf'^nbdinetd_request_{name}_count{labels}\}} 1$', text)
    matches(rf'^nbdinetd_request_size_bytes_sum{labels}\}} 4096$', text)
    # The units of the manual.
    manual = (BUILDDIR / "man" / "nbdinetctl.1").read_text()
    for name, text in re.findall(r"^\.Pa (nbdinetctl-metrics\S+)\n\.Bd [^\n]*\n(.*?)^\.Ed$", manual, re.MULTILINE | re.DOTALL):
        # The D-Bus daemon of this system doesn't find out the name of a dynamic user, and closes the connection.
        machine.write(f"/etc/systemd/system/{name}", text.replace("DynamicUser=yes", "User=nobody"))
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "nbdinetctl-metrics.socket")
    t.defer(machine.systemctl, "stop", "nbdinetctl-metrics.socket")
    address = ("127.0.0.1", 9818)
    eq(machine.show("nbdinetctl-metrics.socket", "Listen"), "127.0.0.1:9818 (Stream)")

    def answer_to(request):
        with connect(address) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        return answer.decode().partition("\r\n\r\n")
    head, _, body = answer_to(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    matches(r"^HTTP/1.1 200 OK\r$", head)
    matches(rf"^Content-Length: {len(body)}\r$", head)
    matches(r'^nbdinetd_export_connections\{export="nbdinetd"\} 1$', body)
    # It isn't root, and may read no process of it.
    eq([line for line in body.splitlines() if line.startswith("nbdinetd_request_")], [])
    head, _, body = answer_to(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    matches(r"^Content-Length: [1-9]", head)
    eq(body, "")
    # A port scanner, and another protocol: neither makes a failed unit.
    since = machine.now_us()
    eq(answer_to(b"")[0], "")
    for wrong in (b"\x16\x03\x01\x02\x00", b"POST / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n"):
        matches(r"^HTTP/1.1 400 ", answer_to(wrong)[0])
    wait_until(lambda: not machine.instances("nbdinetctl-metrics"), "the units' end")
    eq([entry["MESSAGE"] for entry in machine.journal(since, "_PID=1")
        if "nbdinetctl-metrics" in entry.get("UNIT", "") and "Failed" in entry["MESSAGE"]], [])


@test("disconnect tells a failed last flush from a good end, of a unit and of a process of a listener")
def _(t):
    require(failing_calls.library_path(), "needs tests/support/faulty_calls.so")
    shutil.copy(failing_calls.library_path(), machine.path("/srv/faulty_calls.so"))
    start_shipped(t, "")
    faults = "[Service]\nEnvironment=LD_PRELOAD=/srv/faulty_calls.so NBDINETD_FAULTS=/srv/faults\n"
    for unit, export, port in (("nbdinetd@.service", "nbdinetd", PORT),
                               ("nbdinetd-listen.service", "nbdinetd-listen", LISTEN_PORT)):
        if export == "nbdinetd-listen":
            start_listener(t)
            serve(IMAGE, listener=True)
        faulty = failing_calls.Faults(t, machine.path("/srv/faults"))
        faulty.arm("fdatasync", errno.EIO, 1, 100)
        drop_in(t, unit, faults)
        client = client_of(t, port)
        client.write(0, b"x" * 512)
        row, = rows("disconnect", export, status=1)
        contains("ended with a failure (", row["result"])
        contains(f"journalctl -u {row['unit']}", row["result"])


def keeping_export(t, name, port, lines):
    """Defines an export that keeps copies, and starts it."""
    machine.write(f"/etc/nbdinetd/{name}.export", f"[Export]\n{lines}Cow=keep\nCowKey=peer-address\n"
                  f"[Socket]\nListenStream=127.0.0.1:{port}\n")

    def undo():
        machine.systemctl("stop", f"nbdinetd-{name}.socket", f"nbdinetd-{name}@*.service", check=False)
        machine.shell(f"rm -rf /etc/nbdinetd/{name}.export /var/lib/nbdinetd/{name} /var/lib/private/nbdinetd/{name}")
        machine.systemctl("daemon-reload")
    t.defer(undo)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", f"nbdinetd-{name}.socket")


@test("copies merge writes to the file, and the part of it, of the export's unit, whatever the copy says")
def _(t):
    machine.write("/srv/nbd/base.img", pattern(0, 2 * MIB))
    machine.write("/srv/nbd/vict.img", pattern(0, 2 * MIB))
    machine.shell("mkdir -p /srv/nbd/images && cp /srv/nbd/base.img /srv/nbd/images/disk")
    # By its file; by a name of its own, and a part; by its name in a directory.
    for number, (name, lines) in enumerate((
            ("plain", "File=/srv/nbd/base.img\nOffset=1M\nLength=512K\n"),
            ("named", "File=/srv/nbd/base.img\nExportName=disk\n"),
            ("folder", "Directory=/srv/nbd/images\n"))):
        port = 10970 + number
        keeping_export(t, name, port, lines)
        client = Client(connect(("127.0.0.1", port))).start("" if name == "plain" else "disk")
        client.write(5000, f"from {name}".encode())
        contains("is in use by process", ctl("copies", "merge", rows("copies")[0]["copy"], status=1).stderr)
        client.disconnect()
        client.expect_end()
        wait_until(lambda: not machine.instances(), "the connection's unit to be gone")
        copy, = rows("copies")
        eq(copy["state"], "kept")
        if name == "named":
            # The file that the header names, and no other.
            file = machine.path(f"{copy['directory']}/{copy['copy']}")
            change_headers(file, lambda slot: slot.replace(b"/srv/nbd/base.img", b"/srv/nbd/vict.img"))
        ctl("copies", "merge", copy["copy"])
        eq(rows("copies"), [])
        base = machine.path("/srv/nbd/images/disk" if name == "folder" else "/srv/nbd/base.img").read_bytes()
        at = 5000 + (MIB if name == "plain" else 0)
        eq(base[at:at + 5 + len(name)], f"from {name}".encode())
        eq(base[:5000] == pattern(0, 5000), True)
    eq(machine.path("/srv/nbd/vict.img").read_bytes() == pattern(0, 2 * MIB), True)


@test("copies merge finds the copies of its file in all units' directories, and believes no mark of another file's copy")
def _(t):
    machine.write("/srv/nbd/base.img", pattern(0, 2 * MIB))
    machine.write("/srv/nbd/vict.img", pattern(0, 2 * MIB))
    copies = []
    for number, (name, file) in enumerate((("first", "base"), ("second", "base"), ("third", "vict"))):
        keeping_export(t, name, 10970 + number, f"File=/srv/nbd/{file}.img\nExportName=disk\n")
        client = Client(connect(("127.0.0.1", 10970 + number))).start("disk")
        client.write(5000, f"from {name}".encode())
        client.disconnect()
        client.expect_end()
        wait_until(lambda: not machine.instances(), "the connection's unit to be gone")
        copies += [row for row in rows("copies") if row["directory"] not in [copy["directory"] for copy in copies]]
    files = [machine.path(f"{copy['directory']}/{copy['copy']}") for copy in copies]

    def merge(*options, status=0):
        return ctl("copies", "merge", f"{copies[0]['directory']}/{copies[0]['copy']}", *options, status=status).stderr

    # The third is of another file, whatever it says.
    change_headers(files[2], lambda slot: begun(slot.replace(b"/srv/nbd/vict.img", b"/srv/nbd/base.img"), "disk"))
    for options in ([], ["--base=/srv/nbd/base.img"]):
        log = merge(*options, status=1)
        contains(f'{copies[2]["copy"]}" says that a merge of it into', log)
        contains("but isn't a copy of that: ignored", log)
        contains("another copy of", log)
    # The second is of the same.
    change_headers(files[1], lambda slot: begun(slot, "disk"))
    for options in ([], ["--base=/srv/nbd/base.img"]):
        contains("has to be repeated first", merge("--force", *options, status=1))
    eq(machine.path("/srv/nbd/base.img").read_bytes() == pattern(0, 2 * MIB), True)
    files[1].unlink()
    merge()
    eq(machine.path("/srv/nbd/base.img").read_bytes()[5000:5010], b"from first")


@test("clients of an .export file that is deleted are shown, and can be disconnected")
def _(t):
    machine.write(IMAGE, pattern(0, MIB))
    for name, more in (("gone", ""), ("gone2", "Mode=listener\n")):
        port = 10811 + (name == "gone2")
        machine.write(f"/etc/nbdinetd/{name}.export", f"[Export]\nFile={IMAGE}\nReadOnly=yes\n{more}"
                      f"[Socket]\nListenStream=\nListenStream={port}\n")

    def undo():
        machine.shell("rm -rf /etc/nbdinetd")
        machine.systemctl("stop", "nbdinetd-gone*", check=False)
        machine.systemctl("daemon-reload")
    t.defer(undo)
    machine.systemctl("daemon-reload")
    clients = {}
    for name, port in (("gone", 10811), ("gone2", 10812)):
        ctl("start", name)
        clients[name] = client_of(t, ("127.0.0.1", port))
    machine.shell("rm -rf /etc/nbdinetd")
    machine.systemctl("daemon-reload")
    for name, client in clients.items():
        row = row_of("list", name)
        eq((row["state"], row["clients"]), ("removed", 1))
        contains("is gone", ctl("start", name, status=1).stderr)
        contains("disconnect", findings(name, status=0)["warning"][0])
        row, = rows("disconnect", name)
        eq((row["result"], row.get("peer")), ("disconnected", peer_of(client)))
        client.expect_end()
        ctl("stop", name)
        eq([row for row in rows("list") if row["export"] == name], [])


@test("-H reaches another machine's manager by ssh, and says what only that machine can do")
def _(t):
    start_shipped(t)
    client_of(t)
    install_ssh(t)
    row = wait_until(lambda: (lambda r: r if r.get("bytes_read") == 4096 else None)(
        row_of("list", "nbdinetd", "-H", "root@storage")), "the counters")
    contains("root@storage", machine.path("/run/ssh.log").read_text())
    # Files and environment files are the other machine's.
    eq((row["state"], row["clients"], "size" in row, "file" in row), ("listening", 1, False, False))
    row, = rows("connections", "-H", "root@storage")
    contains("127.0.0.1:", row["peer"])
    refusal = ctl("history", "-H", "root@storage", status=1).stderr
    contains("ssh root@storage nbdinetctl history", refusal)
    contains("on this machine only", refusal)
    row, = rows("disconnect", "nbdinetd", "-H", "root@storage")
    eq(row["result"], "disconnected")


def start_users_manager(t):
    """Root's. Without PAM's module of systemd, nothing else tells it its runtime directory."""
    machine.write("/etc/systemd/system/user@0.service.d/runtime.conf",
                  "[Service]\nEnvironment=XDG_RUNTIME_DIR=/run/user/0\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "user@0.service")
    t.defer(machine.systemctl, "stop", "user@0.service")


@test("--user has the exports of the user's manager")
def _(t):
    machine.write("/srv/nbd/export.img", pattern(0, MIB))
    machine.write("/root/.config/systemd/user/mine.socket",
                  "[Socket]\nListenStream=/run/user/0/mine.sock\nAccept=yes\n")
    machine.write("/root/.config/systemd/user/mine@.service",
                  f"[Service]\nExecStart={pid1.configured('sbindir')}/nbdinetd -r {IMAGE}\nNotifyAccess=main\n"
                  "CollectMode=inactive-or-failed\n")
    start_users_manager(t)

    def user_ctl(*argv):
        return machine.run("env", "XDG_RUNTIME_DIR=/run/user/0", "nbdinetctl", "--user", *argv)
    user_ctl("start", "mine")
    client = Client(machine.connect("/run/user/0/mine.sock")).start()
    eq(client.read(0, 4096), pattern(0, 4096))
    row, = json.loads(user_ctl("connections", "--json=short").stdout)
    matches(r"^unix:pid=\d+,uid=0,gid=0$", row["peer"])
    eq(row["export"], "mine")
    row, = json.loads(user_ctl("disconnect", row["peer"], "--json=short").stdout)
    eq(row["result"], "disconnected")
    wait_until(lambda: json.loads(user_ctl("history", "mine", "--json=short").stdout), "its end in the journal")


@test("what a user's manager runs is in the history of that user, and not in the system's")
def _(t):
    start_users_manager(t)
    ended = re.search(r'kEnded{"(\w+)"}', (SRCDIR / "src" / "base" / "message_id.h").read_text())[1]
    # The sender stays: of a process that is gone, journald no longer knows the unit.
    machine.write("/run/forge", textwrap.dedent(f"""\
        import signal, socket
        entry = b"MESSAGE_ID={ended}\\nMESSAGE=x\\nNBD_REQUESTS=1\\nNBD_PEER=192.0.2.99:1\\n"
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(entry, "/run/systemd/journal/socket")
        signal.pause()
        """))
    user = ["env", "XDG_RUNTIME_DIR=/run/user/0"]
    # By a file, since systemd-run needs the user's D-Bus, which not every system has.
    machine.write("/root/.config/systemd/user/nbdinetd-forged.service",
                  "[Service]\nExecStart=/usr/bin/python3 /run/forge\n")
    machine.run(*user, "systemctl", "--user", "daemon-reload")
    machine.run(*user, "systemctl", "--user", "start", "nbdinetd-forged.service")
    wait_until(lambda: json.loads(machine.run(*user, "nbdinetctl", "--user", "history", "--peer=192.0.2.99",
                                              "--json=short").stdout), "the entry in the user's history")
    eq(rows("history", "--peer=192.0.2.99"), [])


def completed(*words):
    """What bash offers for the last word of a nbdinetctl command."""
    script = (BUILDDIR / "completions/bash/nbdinetctl").read_text()
    line = " ".join(("nbdinetctl", *words))
    return machine.run("bash", "-c", f"{script}\nCOMP_LINE='{line}' COMP_POINT={len(line)} COMP_CWORD={len(words)}\n"
                       f"COMP_WORDS=({' '.join(repr(word) for word in ('nbdinetctl', *words))})\n"
                       "_nbdinetctl; printf '%s\\n' \"${COMPREPLY[@]}\"").stdout.split()


@test("bash completes verbs, options, exports and peers")
def _(t):
    start_shipped(t)
    client = client_of(t)
    wait_until(lambda: row_of("connections", "nbdinetd").get("peer"), "the status of the connection")
    eq(completed("disc"), ["disconnect"])
    eq(completed("list", "--no-l"), ["--no-legend"])
    contains("nbdinetd", completed("stop", "nbdi"))
    eq(completed("disconnect", "127"), [peer_of(client)])


@test("a container that isn't there, and a host that can't be reached, are a sentence")
def _(t):
    contains('failed to reach the service manager of the container "nothing"',
             ctl("-M", "nothing", "list", status=1).stderr)
    machine.write("/usr/local/bin/ssh", "#!/bin/sh\nexit 255\n", mode=0o755)
    t.defer(lambda: machine.path("/usr/local/bin/ssh").unlink())
    contains('failed to reach the service manager of "storage"', ctl("-H", "storage", status=1).stderr)
@test("what a client chose as a name is no command to the completion of a shell, and peers are completed")
def _(t):
    start_shipped(t)
    connection = connect(PORT)
    t.defer(connection.close)
    Client(connection).start("$(touch${IFS}/run/by-a-client)`touch${IFS}/run/by-a-client`")
    peer = "127.0.0.1:%d" % connection.getsockname()[1]
    wait_until(lambda: row_of("connections", "nbdinetd").get("export_name"), "the status of the connection")
    # An earlier test may have left a second export.
    eq(sorted(set(completed("disconnect", "")) - {"nbdinetd-listen"}), [peer, "nbdinetd"])
    eq(machine.path("/run/by-a-client").exists(), False)


@test("output that can't be written is a failure")
def _(t):
    start_shipped(t)
    for arguments in ("list", "list --json", "connections --json", "history --json", "check", "metrics", "--help"):
        result = machine.run("sh", "-c", f"exec nbdinetctl {arguments} >/dev/full", check=False)
        eq(result.returncode, 1, arguments)
        contains("failed to write to standard output", result.stderr)


@test("wrong usage is status 64, and names what is right")
def _(t):
    for argv, words in ((["lst"], "did you mean list?"), (["--nonsense"], "--nonsense"),
                        (["list", "x"], "usage: nbdinetctl list"), (["disconnect"], "usage: nbdinetctl disconnect"),
                        (["--json=xml"], "pretty"), (["history", "--since=soon"], "systemd.time(7)"),
                        (["--now", "list"], "--now is for enable and disable"),
                        (["-H", "x", "--user"], "--user")):
        contains(words, ctl(*argv, status=64).stderr)
    contains("usage: nbdinetctl", ctl("--help").stdout)
    matches(r"^nbdinetctl \d", ctl("--version").stdout)


def tests(booted):
    global machine
    machine = booted
    main()


if __name__ == "__main__":
    pid1.run(tests)
