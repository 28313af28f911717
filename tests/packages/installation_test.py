#!/usr/bin/python3
"""The Debian package from installation to purge, under a systemd that is process 1 (see support/pid1.py):
dist/*.deb as `make debs` has left it, and the same with a higher version."""

import os
import random
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import pid1  # noqa: E402
from harness import *  # noqa: E402

# Inside: the package, and its successor.
FIRST, SECOND = "/opt/packages/first.deb", "/opt/packages/second.deb"
CONFFILES = {"/etc/default/nbdinetd", "/etc/needrestart/conf.d/nbdinetd.conf", "/etc/xinetd.d/nbdinetd"}
ONE, LISTEN, EXPORT, LISTENING_EXPORT = (("127.0.0.1", port) for port in (10809, 10810, 10811, 10812))
ADDRESSES = (ONE, LISTEN, EXPORT, LISTENING_EXPORT)
LISTENERS = ("nbdinetd-listen.service", "nbdinetd-listening.service")
# What dpkg and systemd write about any package.
BOOKKEEPING = re.compile(r"/var/(lib/dpkg|log|cache)(/|$)|/var/lib/systemd/catalog(/|$)|/var/tmp(/|$)|"
                         r"/etc/(passwd|group|shadow|gshadow)-?$|/etc/\.pwd\.lock$|/root(/|$)|/opt(/|$)")

machine = None  # the pid1.Machine


# ------------------------------------------------------------------ the packages

def built_package():
    found = sorted((BUILDDIR / "dist").glob("nbdinetd_*.deb"))
    if len(found) != 1:
        raise AssertionError(f"dist/ has {len(found)} packages of nbdinetd; `make debs` makes one")
    return found[0]


def stage(directory):
    """The packages, in place of what make install has made."""
    place = directory / "opt/packages"
    shutil.copytree(SRCDIR / "debian/tests", place / "tests")
    shutil.copy(built_package(), directory / FIRST[1:])
    tree = directory.parent / "second"
    subprocess.run(["dpkg-deb", "--raw-extract", directory / FIRST[1:], tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"^(Version: .*)$", r"\1+second", control.read_text(), count=1, flags=re.MULTILINE))
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, directory / SECOND[1:]],
                   check=True, stdout=subprocess.DEVNULL)


def dpkg(*arguments):
    """Runs dpkg in the system as apt does, without its waits for the disk."""
    return machine.run("env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--force-unsafe-io", *arguments,
                       timeout=TEST_GUARD).stdout


def status():
    """What dpkg has of the package: "ii", "rc", or "" for nothing."""
    return machine.run("dpkg-query", "-W", "-f", "${db:Status-Abbrev}", "nbdinetd", check=False).stdout.strip()


def written():
    """The paths of what is in the system and isn't in the machine's root, or is other there."""
    upper = machine.base / "layer/upper"
    found = set()
    for directory, folders, files in os.walk(upper):
        inside = "/" + str(Path(directory).relative_to(upper))
        for name in folders + files:
            path = os.path.join(inside, name).replace("//", "/")
            real = Path(directory, name)
            is_whiteout = real.is_char_device()
            is_copied_folder = real.is_dir() and not real.is_symlink() and os.path.isdir(path)
            if not is_whiteout and not is_copied_folder and not BOOKKEEPING.match(path):
                found.add(path)
    return found


# ------------------------------------------------------------------ what is served

def serve():
    """Four exports that can be written to: those of the two shipped pairs of units, and two of .export files."""
    for number in range(4):
        machine.write(f"/srv/nbd/{number}.img", bytes(MIB))
    machine.write("/etc/default/nbdinetd", "NBDINETD_EXPORT=/srv/nbd/0.img\n# mine\n")
    machine.write("/etc/default/nbdinetd-listen", "NBDINETD_EXPORT=/srv/nbd/1.img\n")
    machine.write("/etc/systemd/system/nbdinetd-listen.socket.d/port.conf",
                  "[Socket]\nListenStream=\nListenStream=127.0.0.1:10810\n")
    machine.write("/etc/nbdinetd/single.export",
                  "[Export]\nFile=/srv/nbd/2.img\n[Socket]\nListenStream=127.0.0.1:10811\n")
    machine.write("/etc/nbdinetd/listening.export",
                  "[Export]\nFile=/srv/nbd/3.img\nMode=listener\n[Socket]\nListenStream=127.0.0.1:10812\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("enable", "--now", "nbdinetd.socket")
    machine.systemctl("start", "nbdinetd-listen.socket", "nbdinetd-single.socket", "nbdinetd-listening.socket")


def enter(address):
    client = Client(connect(address)).start()
    eq(client.size, MIB)
    return client


class Busy:
    """A thread that calls step() again and again until it is told to stop."""

    def __init__(self, t, step):
        self.steps, self._step, self._trouble = 0, step, None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        t.defer(self._stop.set)

    def _run(self):
        try:
            while not self._stop.is_set():
                self._step()
                self.steps += 1
                self._stop.wait(0.02)  # leaves the processors to dpkg
        except BaseException as error:
            self._trouble = error

    def wait_for_more(self, count):
        """Waits until it has made so many steps more."""
        wanted = self.steps + count
        wait_until(lambda: self.steps >= wanted or self._trouble, f"{count} steps of a client")
        if self._trouble:
            raise self._trouble

    def finish(self):
        self._stop.set()
        self._thread.join()
        if self._trouble:
            raise self._trouble


def writer(client, seed):
    """A step of a client that writes, and reads what it has written."""
    choice = random.Random(seed)

    def step():
        # The first half: newcomers read the second one.
        offset, data = choice.randrange(MIB // 2 - 4096), choice.randbytes(4096)
        client.write(offset, data)
        eq(client.read(offset, 4096), data)
    return step


def newcomer(address):
    """A step in which a new client comes, reads and leaves."""
    def step():
        client = enter(address)
        eq(client.read(MIB // 2, 512), bytes(512))
        client.disconnect()
        client.close()
    return step


def programs():
    """{process id in the system: whether its program has been replaced} of every nbdinetd."""
    lines = machine.shell("for exe in /proc/[0-9]*/exe; do echo \"$exe $(readlink $exe)\"; done").splitlines()
    found = [re.fullmatch(r"/proc/(\d+)/exe /usr/sbin/nbdinetd( \(deleted\))?", line) for line in lines]
    return {int(match[1]): bool(match[2]) for match in found if match}


def is_refused(address):
    try:
        connect(address).close()
    except ConnectionRefusedError:
        return True
    return False


def main_process(unit):
    return int(machine.show(unit, "MainPID"))


# ------------------------------------------------------------------ the tests, in this order

before = set()


@test("after an installation nothing is enabled, nothing listens, and everything is in place")
def _(t):
    before.update(written())
    dpkg("-i", FIRST)
    eq(status(), "ii")
    for unit in ("nbdinetd.socket", "nbdinetd-listen.socket"):
        eq(machine.systemctl("is-enabled", unit, check=False).strip(), "disabled", unit)
        eq(machine.show(unit, "LoadState", "ActiveState"), ["loaded", "inactive"], unit)
    eq([is_refused(address) for address in ADDRESSES], [True] * 4)
    eq(programs(), {})
    eq(machine.failed(), [])
    conffiles = machine.run("dpkg-query", "-W", "-f", "${Conffiles}", "nbdinetd").stdout
    eq({line.split()[0] for line in conffiles.splitlines() if line.strip()}, CONFFILES)
    contains("disable\t\t= yes", machine.path("/etc/xinetd.d/nbdinetd").read_text())
    eq(machine.run("getent", "passwd", "nbd").stdout.split(":")[0], "nbd")
    contains("nbdinetd: A client uses an export", machine.run("journalctl", "--list-catalog").stdout)
    new = written() - before
    listed = set(machine.run("dpkg", "-L", "nbdinetd").stdout.splitlines())
    eq(sorted(path for path in new if path not in listed and os.path.realpath(path) not in listed and
              path.removeprefix("/usr") not in listed and not path.startswith("/var/lib/systemd/deb-systemd-helper")),
       [], "files that are not the package's")


@test("the tests in debian/tests pass with the installed package")
def _(t):
    need("nbdcopy")
    for name in ("command", "units"):
        result = machine.run(f"/opt/packages/tests/{name}", check=False)
        eq(result.returncode, 0, f"{name}:\n{result.stdout}{result.stderr}")


@test("an upgrade ends no connection and refuses none; new connections get the new program")
def _(t):
    serve()
    clients = [enter(address) for address in ADDRESSES]
    old = programs()
    eq(len(old), 6, "processes: four connections and two listeners")
    busy = [Busy(t, writer(client, seed)) for seed, client in enumerate(clients)]
    newcomers = [Busy(t, newcomer(address)) for address in ADDRESSES]
    sockets = ("nbdinetd.socket", "nbdinetd-listen.socket", "nbdinetd-single.socket", "nbdinetd-listening.socket")
    since = [machine.show(unit, "ActiveEnterTimestampMonotonic") for unit in sockets]
    for one in busy + newcomers:
        one.wait_for_more(3)

    dpkg("-i", SECOND)
    contains("+second", machine.run("dpkg-query", "-W", "-f", "${Version}", "nbdinetd").stdout)
    for one in busy + newcomers:
        one.wait_for_more(3)
    for one in busy + newcomers:
        one.finish()
    eq([machine.show(unit, "ActiveEnterTimestampMonotonic") for unit in sockets], since)
    eq(machine.systemctl("is-enabled", "nbdinetd.socket").strip(), "enabled")
    eq(machine.failed(), [])

    # The newcomers have left: there are the four old connections, and the listeners that the newcomers started.
    wait_until(lambda: len(programs()) == 6, "the newcomers' processes to be gone")
    now = programs()
    eq(sorted(now.values()), [False, False, True, True, True, True], "programs that were replaced")
    eq([now[main_process(unit)] for unit in LISTENERS], [False, False])
    eq(len(set(now) & set(old)), 4, "processes that were there before")
    contains("# mine", machine.path("/etc/default/nbdinetd").read_text())
    for client in clients:
        client.disconnect()


@test("an upgrade honours a policy-rc.d that forbids the reload")
def _(t):
    client = enter(LISTEN)
    client.write(0, b"p" * 512)
    policy = machine.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
    t.defer(policy.unlink)
    listener = main_process("nbdinetd-listen.service")
    dpkg("-i", SECOND)
    eq(main_process("nbdinetd-listen.service"), listener)
    policy.write_text("#!/bin/sh\nexit 0\n")
    dpkg("-i", SECOND)
    wait_until(lambda: main_process("nbdinetd-listen.service") == 0, "the handover")
    eq(client.read(0, 512), b"p" * 512)
    client.disconnect()


@test("an upgrade leaves a service alone that can't hand over: it would refuse clients, or end them")
def _(t):
    own = ("127.0.0.1", 10813)
    path = machine.write("/etc/systemd/system/own-nbd.service",
                         "[Service]\nExecStart=/usr/sbin/nbdinetd -f -i 127.0.0.1 -p 10813 /srv/nbd/0.img\n"
                         "ExecReload=/bin/kill -HUP $MAINPID\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "own-nbd.service")

    def remove():
        machine.systemctl("stop", "own-nbd.service")
        path.unlink()
        machine.systemctl("daemon-reload")
    t.defer(remove)
    wait_until(lambda: not is_refused(own), "the service to listen")
    client = enter(own)
    before_upgrade = main_process("own-nbd.service")
    dpkg("-i", SECOND)
    eq(main_process("own-nbd.service"), before_upgrade)
    enter(own).disconnect()
    client.disconnect()


@test("a removal drains every connection, those from before a handover as well, and leaves only settings")
def _(t):
    clients = [enter(address) for address in ADDRESSES]
    # A listener that has handed over to another one, and one that has exited.
    machine.systemctl("reload", *LISTENERS)
    clients.append(enter(LISTEN))
    for client in clients:
        client.write(4096, b"before the removal")
    # The administrator's own, with such a name.
    backup = machine.write("/etc/systemd/system/nbdinetd-backup.service", "[Service]\nExecStart=/bin/sleep infinity\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "nbdinetd-backup.service")
    dpkg("-r", "nbdinetd")
    eq(status(), "rc")
    eq(machine.systemctl("is-active", "nbdinetd-backup.service").strip(), "active")
    machine.systemctl("stop", "nbdinetd-backup.service")
    backup.unlink()
    machine.systemctl("daemon-reload")
    for client in clients:
        client.expect_end()
        client.close()
    wait_until(lambda: not programs(), "the last process to exit")
    eq([is_refused(address) for address in ADDRESSES], [True] * 4)
    eq([machine.path(f"/srv/nbd/{number}.img").read_bytes()[4096:4114] for number in range(4)],
       [b"before the removal"] * 4)
    eq(machine.systemctl("list-units", "--all", "nbdinetd*", "system-nbdinetd*", "--state=active,failed"), "")
    eq(sorted(path for path in written() - before if not path.startswith(("/etc/", "/srv/"))
              and not path.startswith("/var/lib/systemd/deb-systemd-helper")), [], "files")
    contains("# mine", machine.path("/etc/default/nbdinetd").read_text())


@test("a package that is installed again has the settings from before")
def _(t):
    dpkg("-i", FIRST)
    eq(machine.systemctl("is-enabled", "nbdinetd.socket").strip(), "enabled")
    contains("# mine", machine.path("/etc/default/nbdinetd").read_text())
    machine.systemctl("start", "nbdinetd.socket", "nbdinetd-listening.socket")
    for address in (ONE, LISTENING_EXPORT):
        enter(address).disconnect()


@test("after a purge nothing is left but what the administrator and clients have made")
def _(t):
    machine.write("/var/lib/nbdinetd/single/copy", b"a client's")
    dpkg("-P", "nbdinetd")
    eq(status(), "")
    wait_until(lambda: not programs(), "the last process to exit")
    left = {path for path in written() - before if not path.startswith("/srv/")}
    eq(sorted(left), sorted({
        "/etc/default/nbdinetd-listen", "/etc/nbdinetd", "/etc/nbdinetd/listening.export",
        "/etc/nbdinetd/single.export", "/etc/systemd/system/nbdinetd-listen.socket.d",
        "/etc/systemd/system/nbdinetd-listen.socket.d/port.conf", "/var/lib/nbdinetd",
        "/var/lib/nbdinetd/single", "/var/lib/nbdinetd/single/copy"}))
    eq(machine.run("getent", "passwd", "nbd").stdout.split(":")[0], "nbd")


def tests(booted):
    global machine
    machine = booted
    # Images of containers forbid all services. man-db's index has nothing to do with the package, and is slow.
    for path in ("/usr/sbin/policy-rc.d", "/var/lib/man-db/auto-update"):
        machine.path(path).unlink(missing_ok=True)
    main()


if __name__ == "__main__":
    pid1.run(tests, stage)
