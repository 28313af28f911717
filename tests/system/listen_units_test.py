#!/usr/bin/python3
"""nbdinetd with the listening socket (Accept=no), and its units, under a real systemd with a real
journald: activation, what it tells systemd, the watchdog, leaving when idle, handing over, stopping.

Everything runs in namespaces of its own (see support/private_systemd.py), here with a network of its
own too, so that port 10809 on every address is free and nobody outside can reach it. It is one file,
of more than 500 lines, because all tests share the one systemd.
"""

import ctypes
import fcntl
import os
import re
import shutil
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import private_systemd  # noqa: E402
from harness import *  # noqa: E402
from private_systemd import InstalledUnits, _setting, visible_paths  # noqa: E402

ERROR, WARNING, INFO = "3", "4", "6"

systemd = None  # the PrivateSystemd, once we are inside


def holds(pid, path):
    """Whether a process has the file open. (Its path may look another in the process's namespace.)"""
    wanted = os.stat(path)
    return any(os.path.samestat(os.stat(f"/proc/{pid}/fd/{fd}"), wanted) for fd in descriptors_of(pid))


def servers():
    """The nbdinetd processes below the manager: listening ones, and those of connections."""
    return servers_below(systemd.manager_pid)


class ListenUnits:
    """The shipped nbdinetd-listen.socket and nbdinetd-listen.service with drop-ins: the built program
    in place of the installed one, addresses of the tests', and what `socket` and `service` add."""

    def __init__(self, context, export, listen, options="", socket="", service="",
                 program=NBDINETD, name="nbdinetd-listen"):
        self.name, self._context = name, context
        self.socket, self.service = f"{name}.socket", f"{name}.service"
        self.program, self._extra = program, service
        self._service_text = shipped("nbdinetd-listen.service")
        self.serve(export, options)
        self._write(self.socket, shipped("nbdinetd-listen.socket"), "[Socket]\nListenStream=\n"
                    + "".join(f"ListenStream={address}\n" for address in listen) + socket)
        self.set_service(service)
        context.defer(self._remove)
        systemd.systemctl("start", self.socket)

    def serve(self, export, options=""):
        """Writes the file that the service reads. Takes effect when the service starts."""
        (systemd.base / "default" / self.name).write_text(
            f'NBDINETD_EXPORT="{export}"\nNBDINETD_OPTIONS="{options}"\n')

    def set_service(self, extra=""):
        """Writes the drop-in of the service, and makes the manager read it."""
        # Only the program and the directory differ, so that the words of the shipped lines are tried.
        command = _setting(self._service_text, "ExecStart")
        command = f"{self.program}{command[len(command.split()[0]):]}"
        environment = re.sub(r"^(-?).*/", rf"\1{systemd.base}/default/",
                             _setting(self._service_text, "EnvironmentFile"))
        # A user's systemd makes a user namespace for each process of a service (since 254): that of
        # ExecReload= may not use the IPC namespace of the first, and fails.
        self._write(self.service, self._service_text,
                    f"[Service]\nEnvironmentFile=\nEnvironmentFile={environment}\nPrivateIPC=no\n"
                    f"ExecStart=\nExecStart={command}\n{visible_paths(self._context, systemd)}"
                    + extra)
        systemd.systemctl("daemon-reload")

    @staticmethod
    def _write(unit, text, drop_in):
        (systemd.units / unit).write_text(text)
        directory = systemd.units / (unit + ".d")
        directory.mkdir(exist_ok=True)
        (directory / "test.conf").write_text(drop_in)

    def _remove(self):
        systemd.systemctl("stop", self.socket, self.service, check=False)
        # Connections that a hand-over has left behind.
        systemd.systemctl("kill", "--signal=SIGKILL", self.service, check=False)
        wait_until(lambda: not self.processes(), "the processes to be gone")
        for unit in (self.socket, self.service):
            (systemd.units / unit).unlink()
            shutil.rmtree(systemd.units / (unit + ".d"))
        systemd.systemctl("reset-failed", check=False)
        systemd.systemctl("daemon-reload")

    def processes(self):
        """All of the service, those included that a hand-over has left behind."""
        group = self.show("ControlGroup")
        try:
            return Path(f"/sys/fs/cgroup{group}/cgroup.procs").read_text().split() if group else []
        except FileNotFoundError:
            return []

    def show(self, name, unit=None):
        return systemd.systemctl("show", "--value", f"--property={name}",
                                 unit or self.service).strip()

    def main_pid(self):
        return systemd.main_pid(self.service)

    def status(self):
        return self.show("StatusText")

    def wait_for_status(self, wanted):
        try:
            wait_until(lambda: self.status() == wanted, "the status")
        except HangGuard:
            eq(self.status(), wanted, f"after {GUARD:g} s, the status")

    def wait_inactive(self):
        wait_until(lambda: self.show("ActiveState") == "inactive", f"{self.service} to be inactive")


def session(address, name=""):
    """One whole connection of an honest client."""
    client = Client(connect(address)).start(name)
    eq(client.read(4096, 512), pattern(4096, 512))
    client.disconnect()


def description(client):
    """The description that a client has seen which has asked for it."""
    return client.infos.get(NBD_INFO_DESCRIPTION, b"").decode()


def start(address):
    return Client(connect(address)).start(requests=[NBD_INFO_DESCRIPTION])


class Load:
    """Clients that connect all the time, each for one short session. Whatever goes wrong for one of
    them is kept; `seen` counts the sessions by the description of the export."""

    def __init__(self, addresses, threads=3):
        self.seen = {}
        self.errors = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(addresses, n), daemon=True)
                         for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self, addresses, number):
        while not self._stop.wait(0.002):
            number += 1
            try:
                client = start(addresses[number % len(addresses)])
                eq(client.read(4096, 512), pattern(4096, 512))
                seen = description(client)
                client.disconnect()
                with self._lock:
                    self.seen[seen] = self.seen.get(seen, 0) + 1
            except Exception as error:
                with self._lock:
                    self.errors.append(repr(error))

    def finish(self):
        self._stop.set()
        for thread in self._threads:
            thread.join(GUARD)
            if thread.is_alive():
                self.errors.append("a client hangs")


# ------------------------------------------------------------------ the units' texts

@test("systemd-analyze verify finds nothing in all the shipped units")
def _(t):
    need("systemd-analyze")
    for name in ("nbdinetd.socket", "nbdinetd@.service", "nbdinetd-listen.socket",
                 "nbdinetd-listen.service"):
        text = re.sub(r"^(ExecStart=)\S+", lambda m: m[1] + NBDINETD, shipped(name),
                      flags=re.MULTILINE)
        t.image(text.encode(), name)
    # An instance, since a template by itself is not checked.
    os.symlink("nbdinetd@.service", t.path("nbdinetd@instance.service"))
    verify = ["systemd-analyze", "--man=no", "verify"]
    listen = Path(t.path("nbdinetd-listen.service"))
    for units in (("nbdinetd.socket", "nbdinetd@instance.service"),
                  ("nbdinetd-listen.socket", listen.name)):
        result = systemd.run(*verify, *map(t.path, units))
        eq(result.stdout + result.stderr, "", f"systemd-analyze verify {' '.join(units)}")
    # And it does look: the same with a time that is none.
    listen.write_text(re.sub("^WatchdogSec=.*$", "WatchdogSec=sometimes", listen.read_text(),
                             flags=re.MULTILINE))
    contains("sometimes", systemd.run(*verify, str(listen), check=False).stderr)


@test("the units of nbdkit-service(1) work as they stand, with nbdinetd in ExecStart")
def _(t):
    image = t.pattern_image(MIB)
    # The page's two units, all of them; the one word that is changed is the program's.
    units = {
        "nbdkit.socket": """\
[Unit]
Description=NBDKit Network Block Device server

[Socket]
ListenStream=10809

[Install]
WantedBy=sockets.target
""",
        "nbdkit.service": f"""\
[Service]
ExecStart={NBDINETD} {image}
"""}

    def remove():
        systemd.systemctl("disable", "--now", "nbdkit.socket", check=False)
        systemd.systemctl("stop", "nbdkit.service", check=False)
        for name in units:
            (systemd.units / name).unlink()
        systemd.systemctl("daemon-reload")
    for name, text in units.items():
        (systemd.units / name).write_text(text)
    t.defer(remove)
    systemd.systemctl("daemon-reload")
    systemd.systemctl("enable", "--now", "nbdkit.socket")
    assert (systemd.units / "sockets.target.wants" / "nbdkit.socket").is_symlink()
    # Without anybody who wants it, it does not run.
    eq(servers(), [], "processes before the first connection")

    since = systemd.now_us()
    clients = [Client(socket.create_connection((host, 10809), timeout=GUARD)).start()
               for host in ("127.0.0.1", "::1", "127.0.0.1")]
    for client in clients:
        eq(client.read(4096, 512), pattern(4096, 512))
    eq(systemd.systemctl("is-active", "nbdkit.service").strip(), "active")
    listener = systemd.main_pid("nbdkit.service")
    # It doesn't fork into the background: the process that systemd has started is the one that listens.
    eq(len(servers()), 4, "the listening process, and one for each connection")
    eq(sorted(set(servers()) - {listener}), children_of(listener))
    eq(t.run(["nbdinfo", "--size", "nbd://127.0.0.1"]).stdout().strip(), str(MIB))
    # nbdinfo may leave before NBD_OPT_GO.
    clients.append(Client(socket.create_connection(("127.0.0.1", 10809), timeout=GUARD)).start())
    # What it has to say reaches the journal by standard error.
    wait_until(lambda: sum(m.startswith("serving export") for m in systemd.messages(since)) >= 4,
               "four lines in the journal")
    eq({e.get("_SYSTEMD_UNIT") for e in systemd.log(since)}, {"nbdkit.service"})
    # KillMode= is systemd's default here: every process gets SIGTERM.
    systemd.systemctl("stop", "nbdkit.socket", "nbdkit.service")
    for client in clients:
        client.expect_end()
    eq(servers(), [], "processes after the stop")
    eq(systemd.failed(), [], "failed units")


@test("a socket of our own is an error under activation, which names the option and fails the unit")
def _(t):
    image = t.pattern_image(MIB)
    units = ListenUnits(t, image, [t.path("nbd.sock")], service="Restart=no\n")
    for options, named in (("-p 10810", "--port"), ("-i 127.0.0.1", "--ipaddr"), ("-s", "--single"),
                           ("-U -", "--unix"), ("--vsock", "--vsock"), ("--run=true", "--run")):
        units.serve(image, options)
        since = systemd.now_us()
        # Type=notify: this waits until the service is ready, or isn't.
        systemd.systemctl("start", units.service, check=False)
        eq((units.show("Result"), units.show("ExecMainStatus")), ("exit-code", str(EX_USAGE)), options)
        message, = wait_until(lambda: systemd.messages(since), "a message")
        matches(rf"{named}\b.*socket activation", message, options)
    units.serve(image, "-f")
    systemd.systemctl("start", units.service)


@test("one service serves any number of sockets of any kind, with a process for each connection")
def _(t):
    image = t.pattern_image(MIB, "an image with spaces.img")
    path, abstract = t.path("nbd.sock"), f"\0nbdinetd-{os.getpid()}"
    addresses = [("127.0.0.1", free_port()), path, abstract]
    listen = [f"127.0.0.1:{addresses[0][1]}", f"[::1]:{addresses[0][1] ^ 1}", path,
              "@" + abstract[1:]]
    try:
        # A connection needs a hypervisor or vsock_loopback; to be handed over it needs neither.
        with socket.socket(socket.AF_VSOCK) as probe:
            probe.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
            listen.append(f"vsock::{probe.getsockname()[1]}")
    except OSError as error:
        note(f"vsock is left out: {error}")
    units = ListenUnits(t, image, listen, options="--readonly --description='two words'")
    eq(units.show("ActiveState"), "inactive", "before the first connection")

    since = systemd.now_us()
    clients = [start(address) for address in addresses for _ in range(3)]
    clients.append(Client(socket.create_connection(
        ("::1", addresses[0][1] ^ 1), timeout=GUARD)).start(requests=[NBD_INFO_DESCRIPTION]))
    for client in clients:
        eq(client.read(4096, 512), pattern(4096, 512))
        eq(description(client), "two words")
        assert client.flags & NBD_FLAG_READ_ONLY
    listener = units.main_pid()
    eq(sorted(set(servers()) - {listener}), children_of(listener))
    eq(len(children_of(listener)), len(clients))
    eq(len(listening_sockets(listener)), len(listen), "sockets that listen")
    # The listening process touches no export; those of the connections don't listen.
    eq(holds(listener, image), False, "the listening process has the export open")
    for pid in children_of(listener):
        eq(holds(pid, image), True, f"process {pid} has the export open")
        eq(listening_sockets(pid), [], "sockets that listen in a connection's process")
    for client in clients:
        client.disconnect()
    wait_until(lambda: not children_of(listener), "the processes to be gone")
    eq(units.main_pid(), listener)
    entries = wait_until(lambda: (lambda e: e if len(e) >= 2 * len(clients) else None)(
        systemd.log(since)), "two lines for each connection")
    eq({e["PRIORITY"] for e in entries}, {INFO})
    # A line each, and each by the process of the connection.
    eq(len({e["_PID"] for e in entries}), len(clients))
    eq([e for e in entries if int(e["_PID"]) == listener], [])


@test("a copy of both units under another name is a second export")
def _(t):
    first, second = t.path("first.sock"), t.path("second.sock")
    ListenUnits(t, t.pattern_image(MIB), [first])
    ListenUnits(t, t.pattern_image(3 * MIB), [second], name="golden")
    for path, size in ((first, MIB), (second, 3 * MIB)):
        client = Client(connect(path)).start()
        eq(client.size, size)
        client.disconnect()


@test("starting the service itself gets the socket, too")
def _(t):
    path = t.path("nbd.sock")
    units = ListenUnits(t, t.pattern_image(MIB), [path])
    systemd.systemctl("stop", units.socket)
    systemd.systemctl("start", units.service)
    session(path)


# ------------------------------------------------------------------ what systemd is told

@test("the service is active once it accepts, and its status counts connections now, served and "
      "refused")
def _(t):
    path = t.path("nbd.sock")
    units = ListenUnits(t, t.pattern_image(MIB), [path], options="--max-connections=2")
    # Type=notify: systemctl returns when READY=1 has come.
    systemd.systemctl("start", units.service)
    eq(units.show("SubState"), "running")
    eq(units.status(), "0 connections now, 0 served, 0 refused")
    first, second = (Client(connect(path)).start() for _ in range(2))
    units.wait_for_status("2 connections now, 2 served, 0 refused")
    since = systemd.now_us()
    for _ in range(3):
        refused = Client(connect(path))
        refused.expect_end()
        refused.close()
    units.wait_for_status("2 connections now, 2 served, 3 refused")
    eq([e["PRIORITY"] for e in systemd.log(since) if "--max-connections" in e["MESSAGE"]],
       [WARNING], "refused for one reason: one line")
    first.disconnect()
    units.wait_for_status("1 connection now, 2 served, 3 refused")
    session(path)
    units.wait_for_status("1 connection now, 3 served, 3 refused")
    eq(second.read(4096, 512), pattern(4096, 512))
    second.disconnect()
    units.wait_for_status("0 connections now, 3 served, 3 refused")


@test("a connection's process doesn't overwrite the service's status with its own")
def _(t):
    path = t.path("nbd.sock")
    # systemd would listen to it.
    units = ListenUnits(t, t.pattern_image(MIB), [path], service="NotifyAccess=all\n")
    client = Client(connect(path)).start()
    for wait in (0, 1.2):  # more than the time after which progress would be told
        time.sleep(wait)
        eq(client.read(4096, 512), pattern(4096, 512))
    units.wait_for_status("1 connection now, 1 served, 0 refused")
    client.disconnect()
    units.wait_for_status("0 connections now, 1 served, 0 refused")


@test("the status of a connection's own unit (Accept=yes) has the client, the export and the "
      "amounts")
def _(t):
    image = t.random_image(4 * MIB)
    path = t.path("nbd.sock")
    InstalledUnits(t, systemd, image, listen=[path], options="-e 'my disk'")
    client = Client(connect(path)).start("my disk")
    unit, = systemd.instances()

    def status():
        return systemd.systemctl("show", "--value", "--property=StatusText", unit).strip()
    who = rf'^serving "my disk" to unix:pid={os.getpid()},uid=\d+,gid=\d+: '
    wait_until(lambda: re.match(who + "0 requests, 0 bytes read, 0 bytes written, 0 errors$", status()),
               "the first status")
    eq(client.read(0, MIB), Path(image).read_bytes()[:MIB])
    wait_until(lambda: re.match(who + r"1 request, 1048576 bytes \(1 MiB\) read, "
                                "0 bytes written, 0 errors$", status()), "the status after a read")
    time.sleep(1.1)  # so that the next one is told at once, before the request is done
    client.write(0, bytes(1536), flags=NBD_CMD_FLAG_FUA)
    eq(client.call(NBD_CMD_READ, 4 * MIB, 1).error, NBD_EINVAL)
    wait_until(lambda: re.match(who + r"3 requests, 1048576 bytes \(1 MiB\) read, "
                                r"1536 bytes \(1\.5 KiB\) written, 1 error$", status()), "the status after a write and an error")
    eq(systemd.systemctl("show", "--value", "--property=SubState", unit).strip(), "running")
    client.disconnect()


@test("the status of a connection's unit also counts a slow request, once it is done")
def _(t):
    image = t.random_image(4 * MIB)
    path = t.path("nbd.sock")
    InstalledUnits(t, systemd, image, listen=[path])
    client = Client(connect(path)).start()
    unit, = systemd.instances()
    time.sleep(1.2)  # the first status has been told for longer than a second
    client.write(0, bytes(3 * MIB // 2), flags=NBD_CMD_FLAG_FUA)
    wanted = "1 request, 0 bytes read, 1572864 bytes (1.5 MiB) written, 0 errors"

    def status():
        return systemd.systemctl("show", "--value", "--property=StatusText", unit).strip()
    wait_until(lambda: status().endswith(wanted), f"{wanted!r} in the status", timeout=10)
    client.disconnect()


@test("WATCHDOG: a listening process that hangs is started anew, its connections live on, and those "
      "that wait are served")
def _(t):
    image = t.pattern_image(MIB)
    path = t.path("nbd.sock")
    units = ListenUnits(t, image, [path], service="WatchdogSec=3s\nRestartSec=100ms\n")
    client = Client(connect(path)).start()
    pid = units.main_pid()
    # It reports, idle as it is: for longer than two such times nothing happens.
    time.sleep(6.5)
    eq((units.main_pid(), units.show("NRestarts"), units.show("SubState")), (pid, "0", "running"))
    os.kill(pid, signal.SIGSTOP)
    since = systemd.now_us()
    waiting = connect(path)
    wait_until(lambda: units.main_pid() not in (0, pid), "a new listening process")
    eq(units.show("NRestarts"), "1")
    waiting = Client(waiting).start()
    eq(waiting.read(4096, 512), pattern(4096, 512))
    eq(client.read(0, 512), pattern(0, 512), "the old connection")
    matches("(?i)watchdog timeout", "\n".join(
        e["MESSAGE"] for e in systemd.journal(since) if isinstance(e["MESSAGE"], str)))
    for one in (client, waiting):
        one.disconnect()


CLOCK = """
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec* time) {
  const int result = (int)syscall(SYS_clock_gettime, clock, time);
  if (clock == CLOCK_REALTIME && access(SET_BACK, F_OK) == 0) time->tv_sec -= 3600;
  if (clock == CLOCK_REALTIME && access(SET_FORWARD, F_OK) == 0) time->tv_sec += 3600;
  return result;
}
"""


@test("setting the clock, back or forward, affects neither the watchdog nor a deadline, and "
      "an idle service still ends")
def _(t):
    compiler = need("cc")
    require(b"libasan" not in Path(NBDINETD).read_bytes(),
            "a build with sanitizers can't load another library first")
    back, forward, library = t.path("back"), t.path("forward"), t.path("clock.so")
    source = t.image(CLOCK.encode(), "clock.c")
    t.run([compiler, "-shared", "-fPIC", "-o", library, source, f'-DSET_BACK="{back}"',
           f'-DSET_FORWARD="{forward}"'])
    path = t.path("nbd.sock")
    units = ListenUnits(t, t.pattern_image(MIB), [path], options="--exit-idle=1s",
                        service=f"WatchdogSec=3s\nEnvironment=LD_PRELOAD={library}\n")
    client = Client(connect(path)).start()
    haggling = Client(connect(path))
    haggling.handshake()
    inside = Client(connect(path)).start()
    inside.send(inside.request_bytes(NBD_CMD_READ, 0, 512)[:-1])
    pid = units.main_pid()
    Path(forward).touch()
    time.sleep(1.5)
    # Each of them is still there. What it does next makes its process look at the clock.
    haggling.structured_replies()
    haggling.go()
    eq([one.ended() for one in (client, haggling, inside)], [False] * 3)
    os.unlink(forward)
    Path(back).touch()
    time.sleep(4.5)
    eq((units.main_pid(), units.show("NRestarts")), (pid, "0"))
    for one in (client, haggling):
        eq(one.read(4096, 512), pattern(4096, 512))
        one.disconnect()
    inside.close()
    units.wait_inactive()
    eq(units.show("Result"), "success")


# ------------------------------------------------------------------ faults

@test("a connection's process that crashes is logged, and neither the service nor other connections "
      "notice")
def _(t):
    path = t.path("nbd.sock")
    units = ListenUnits(t, t.pattern_image(MIB), [path], service="LimitCORE=0\n")
    other = Client(connect(path)).start()
    pid = units.main_pid()
    before = set(children_of(pid))
    since = systemd.now_us()
    for number in (signal.SIGSEGV, signal.SIGKILL):
        victim = Client(connect(path)).start()
        child, = set(children_of(pid)) - before
        os.kill(child, number)
        victim.expect_end()
        victim.close()
        wait_until(lambda: any(str(child) in e["MESSAGE"] and e["PRIORITY"] == ERROR
                               for e in systemd.log(since)), f"a line about signal {number}")
    eq(other.read(4096, 512), pattern(4096, 512))
    session(path)
    eq((units.main_pid(), units.show("ActiveState")), (pid, "active"))
    eq(systemd.failed(), [], "failed units")
    other.disconnect()


@test("a missing export ends its clients' connections, with the reason in the log, and the "
      "service stays; the first client after it has appeared is served")
def _(t):
    path, missing = t.path("nbd.sock"), t.path("late.img")
    units = ListenUnits(t, missing, [path])
    since = systemd.now_us()
    for _ in range(7):
        Client(connect(path)).expect_end()
    wait_until(lambda: len([m for m in systemd.messages(since) if missing in m]) >= 8,
               "a line at the start, and one for each client")
    eq({e["PRIORITY"] for e in systemd.log(since)}, {ERROR})
    eq((units.show("ActiveState"), units.show("NRestarts")), ("active", "0"))
    eq(units.show("ActiveState", units.socket), "active")
    t.pattern_image(MIB, "late.img")
    client = Client(connect(path)).start()
    eq(client.read(4096, 512), pattern(4096, 512))
    client.disconnect()
    eq(systemd.failed(), [], "failed units")


# ------------------------------------------------------------------ coming and going

@test("a service without connections ends with exit status 0, and the next connection starts "
      "it again: none is lost, however close to that moment it comes")
def _(t):
    idle = 0.12
    port, path = free_port(), t.path("nbd.sock")
    units = ListenUnits(t, t.pattern_image(MIB), [f"127.0.0.1:{port}", path],
                        options=f"--exit-idle={idle * 1000:.0f}ms")
    since = systemd.now_us()
    session(path)
    units.wait_inactive()
    eq((units.show("Result"), units.show("ExecMainStatus"), units.show("NRestarts")),
       ("success", "0", "0"))
    eq(units.show("ActiveState", units.socket), "active")
    eq(servers(), [])

    # From 8 ms before the moment at which it leaves, as far as we know it, to 12 ms after it.
    cycles = 60
    for number in range(cycles):
        # Several at once: the first may be there before that moment, and the others after it.
        clients = []
        for n in range(3):
            clients.append(Client(connect(path if (number + n) % 2 else ("127.0.0.1", port))))
            time.sleep(0.0005)
        for client in clients:
            eq(client.start().read(4096, 512), pattern(4096, 512))
        for client in clients:
            client.disconnect()
        time.sleep(idle - 0.008 + 0.020 * number / cycles)
    # A connection keeps it, however long it is silent.
    client = Client(connect(path)).start()
    pid = units.main_pid()
    time.sleep(4 * idle)
    eq(units.main_pid(), pid)
    eq(client.read(4096, 512), pattern(4096, 512))
    client.disconnect()
    units.wait_inactive()
    connections = 3 * cycles + 2
    found = wait_until(lambda: (lambda m: m if sum(" ended: " in x for x in m) >= connections
                                else None)(systemd.messages(since)), "the lines of all connections")
    left = [m for m in found if "leaving the socket" in m]
    note(f"{connections} connections were served in {len(left)} runs of the service")
    assert 3 <= len(left) <= connections, found
    eq(systemd.failed(), [], "failed units")


@test("a reload hands over: a new program and new units take over under load, nobody is refused, and "
      "old connections live on")
def _(t):
    image = t.pattern_image(MIB)
    scratch = t.sparse_image(MIB)
    program = t.path("nbdinetd")
    port, path = free_port(), t.path("nbd.sock")
    addresses = [("127.0.0.1", port), path]
    shutil.copy(NBDINETD, program)
    units = ListenUnits(t, scratch, [f"127.0.0.1:{port}", path], program=program)
    old = start(("127.0.0.1", port))
    old_pid, = children_of(units.main_pid())
    executable = os.stat(f"/proc/{old_pid}/exe").st_ino
    units.serve(image, "--description=first")
    systemd.systemctl("reload", units.service)

    since = systemd.now_us()
    load = Load(addresses)
    t.defer(load.finish)
    generations = ["first"]
    for number in range(1, 6):
        before = sum(load.seen.values())
        wait_until(lambda: sum(load.seen.values()) > before + 20 or load.errors, "the load")
        generation = f"generation-{number}"
        generations.append(generation)
        # What an upgrade does: another file under the same name.
        shutil.copy(NBDINETD, program + ".new")
        os.rename(program + ".new", program)
        if number % 2:
            units.serve(image, f"--description={generation}")
        else:
            # By the unit this time; the file says nothing of it.
            units.serve(image)
            units.set_service(f"ExecStart=\nExecStart={program} --description={generation} "
                              "$NBDINETD_OPTIONS -- ${NBDINETD_EXPORT}\n")
        systemd.systemctl("reload", units.service)
        # When reload has returned, every new connection gets what is new.
        client = start(addresses[number % 2])
        eq(description(client), generation)
        eq(os.stat(f"/proc/{units.main_pid()}/exe").st_ino, os.stat(program).st_ino, "the program")
        client.disconnect()
        if number % 2 == 0:
            units.set_service()
        # And who was there before is served on, by the process and program of then.
        old.write(number * 512, bytes([number]) * 512, flags=NBD_CMD_FLAG_FUA)
        eq(old.read(0, 4096), b"".join(bytes([n if n <= number else 0]) * 512 for n in range(8)))
        eq(os.stat(f"/proc/{old_pid}/exe").st_ino, executable, "the old program")
    load.finish()
    note(f"sessions under load: {load.seen}")
    if load.errors:
        # What the server says of it is told, too.
        said = [line for line in systemd.messages(since) if "client disconnected" not in line]
        raise AssertionError(f"{load.errors}; {said[-200:]}")
    assert set(load.seen) == set(generations), load.seen
    with open(scratch, "rb") as file:
        file.seek(5 * 512)
        eq(file.read(512), bytes([5]) * 512)
    old.disconnect()
    wait_until(lambda: not os.path.exists(f"/proc/{old_pid}"), "the old process to be gone")
    eq({e["PRIORITY"] for e in systemd.log(since)}, {INFO})
    eq(systemd.failed(), [], "failed units")
    eq(units.show("NRestarts"), "0")


@test("after a reload with nobody connected the socket goes on alone; a service that doesn't run can't "
      "be reloaded")
def _(t):
    path = t.path("nbd.sock")
    units = ListenUnits(t, t.pattern_image(MIB), [path])
    session(path)
    pid = units.main_pid()
    systemd.systemctl("reload", units.service)
    eq((units.main_pid(), units.show("ActiveState"), units.show("Result")),
       (0, "inactive", "success"))
    eq(units.show("ActiveState", units.socket), "active")
    assert systemd.run("systemctl", "--user", "reload", units.service, check=False).returncode != 0
    session(path)
    assert units.main_pid() not in (0, pid)


@test("systemctl stop drains: requests under way are answered, what was written is there, the unit has "
      "not failed, and the next connection starts it again")
def _(t):
    image = t.sparse_image(64 * MIB)
    path = t.path("nbd.sock")
    units = ListenUnits(t, image, [path])
    since = systemd.now_us()
    client, idle, haggling = (Client(connect(path)) for _ in range(3))
    client.start()
    idle.start()
    haggling.handshake()
    pid = units.main_pid()
    eq(len(children_of(pid)), 3)
    block = os.urandom(MIB)
    cookies = [client.request(NBD_CMD_WRITE, n * MIB, payload=block) for n in range(32)]
    eq(client.answer(cookies[0]).error, NBD_SUCCESS)
    systemd.systemctl("stop", "--no-block", units.service)
    answers = {0: NBD_SUCCESS}
    try:
        for number, cookie in enumerate(cookies[1:], 1):
            answers[number] = client.answer(cookie).error
    except Disconnected as end:
        eq(end.got, b"", "a part of a reply")
    assert set(answers.values()) <= {NBD_SUCCESS, NBD_ESHUTDOWN}, answers
    client.expect_end()
    idle.expect_end()
    eq(haggling.read_to_end(), b"", "what a client that haggles gets")
    units.wait_inactive()
    eq((units.show("Result"), units.show("ExecMainStatus")), ("success", "0"))
    eq(servers(), [], "processes after the stop")
    for one in (client, idle, haggling):
        one.close()
    with open(image, "rb") as file:
        for number in [n for n, error in answers.items() if error == NBD_SUCCESS]:
            file.seek(number * MIB)
            eq(file.read(MIB) == block, True, f"block {number} is in the file")
    ends = wait_until(lambda: (lambda e: e if len(e) >= 3 else None)(
        [e for e in systemd.log(since) if " ended: " in e["MESSAGE"]]), "three end lines")
    eq({e["PRIORITY"] for e in ends}, {INFO})
    # The socket has not been stopped.
    again = Client(connect(path)).start()
    eq(again.size, 64 * MIB)
    again.disconnect()


@test("systemctl kill drains connections from before a reload, too, also while no service runs")
def _(t):
    image = t.sparse_image(MIB)
    path = t.path("nbd.sock")
    units = ListenUnits(t, image, [path])
    oldest = Client(connect(path)).start()
    systemd.systemctl("reload", units.service)
    newer = Client(connect(path)).start()
    systemd.systemctl("stop", units.service)
    newer.expect_end()
    newer.close()
    oldest.write(0, b"\xa5" * 512)
    eq(units.show("ActiveState"), "inactive")
    since = systemd.now_us()
    systemd.systemctl("kill", units.service)
    oldest.expect_end()
    oldest.close()
    eq(Path(image).read_bytes()[:512], b"\xa5" * 512)
    wait_until(lambda: not servers(), "the process to be gone")
    wait_until(lambda: [e for e in systemd.log(since) if "shutting down" in e["MESSAGE"]
                        and e["PRIORITY"] == INFO], "its end line")


# ------------------------------------------------------------------ the network

def own_network():
    """A network namespace for this process and all that it starts, with a loopback interface."""
    if os.geteuid() != 0:
        return  # private_systemd says what is missing
    libc = ctypes.CDLL(None, use_errno=True)
    CLONE_NEWNET, SIOCSIFFLAGS, IFF_UP = 0x40000000, 0x8914, 1
    if libc.unshare(CLONE_NEWNET) != 0:
        skip_all(f"can't make a network namespace: {os.strerror(ctypes.get_errno())}")
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP))


def tests(private):
    global systemd
    systemd = private
    main()


if __name__ == "__main__":
    own_network()
    private_systemd.run(tests)
