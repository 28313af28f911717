"""A Ceph cluster with a CephFS of the tests' own: one monitor, one manager, two OSDs that keep their objects in
memory, one metadata server, with authentication.

All of it is in one folder, listens on one address of the network that it is started in, and ends with this process.
It needs Debian's ceph-mon, ceph-mgr, ceph-osd, ceph-mds and ceph-common, no systemd, and some 500 MiB of memory.
"""

import ctypes
import json
import os
import re
import signal
import socket
import struct
import subprocess
import uuid
from pathlib import Path

from harness import GUARD, clean_environment, find_tool, wait_until
import surroundings

DAEMONS = ("ceph-mon", "ceph-mgr", "ceph-osd", "ceph-mds")
PROGRAMS = (*DAEMONS, "ceph", "ceph-authtool", "monmaptool")
MONITOR_PORT = 6789
OSDS = 2
OSD_BYTES = 1 << 30
# Of the mount of a host; it isn't the administrator.
CLIENT = "client.nbd"
# The smallest value that the monitor takes.
SESSION_TIMEOUT_S = 30

_PR_SET_PDEATHSIG = 1

_CLIENT_CONF = """
[global]
fsid = {fsid}
mon host = v1:{address}:{port}
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
ms bind msgr2 = false
keyring = {folder}/{keyring}
log file = {folder}/$name.log
admin socket =
{more}
"""

_CONF = """
public addr = {address}
osd pool default size = {osds}
osd pool default min size = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon data avail crit = 1
mon data avail warn = 2
mon allow pool size one = true
run dir = {folder}/run
admin socket = {folder}/run/$name.asok
[mon.a]
host = localhost
mon data = {folder}/mon.a
[mgr.x]
mgr data = {folder}/mgr.x
mgr initial modules =
[osd]
osd objectstore = memstore
memstore device bytes = {bytes}
osd data = {folder}/$name
[mds.a]
mds data = {folder}/mds.a
"""

_KEYS = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mds": "allow *", "mgr": "allow *"},
    CLIENT: {"mon": "allow r", "mds": "allow rw", "osd": "allow rw tag cephfs data=cephfs"},
    "mgr.x": {"mon": "allow profile mgr", "osd": "allow *", "mds": "allow *"},
    "mds.a": {"mon": "allow profile mds", "osd": "allow rwx", "mds": "allow *", "mgr": "allow profile mds"},
    **{f"osd.{n}": {"mon": "allow profile osd", "osd": "allow *", "mgr": "allow profile osd"} for n in range(OSDS)},
}


class Daemon:
    """A process of the cluster. It writes what it has to say to a file of its name."""

    def __init__(self, folder, name, argv):
        self.name = name
        self._output = open(folder / f"{name}.out", "wb")
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output, preexec_fn=_settle,
            env=_environment())
        self.pid = self._process.pid

    def has_ended(self):
        return self._process.poll() is not None

    def peak_kib(self):
        """The most memory that it ever had resident."""
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        return int(found[1]) if found else 0

    def kill(self):
        # Nothing of what it keeps is needed again.
        self._process.kill()
        self._process.wait()
        self._output.close()


def end_with_parent():
    """In a child: it is killed when its parent ends, however that may be."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _settle():
    """In the daemon's process before it starts: it ends with us."""
    end_with_parent()
    surroundings.default_signals()
    os.setsid()


def _environment():
    """Ceph's programs are Debian's Python and look for its modules."""
    return clean_environment({"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"})


class Cluster:
    """A running cluster, from start() to stop(). `client_conf` and `keyring` are what a host mounts it with."""

    def __init__(self, folder, address):
        self.folder, self.address = Path(folder), address
        self.client_conf, self.keyring = self.folder / "host.conf", self.folder / "host.keyring"
        self._daemons = []

    # -------------------------------------------------------------- start and end

    def start(self):
        self._configure()
        self._daemon("mon.a", "ceph-mon", "-i", "a", "--public-addr", f"{self.address}:{MONITOR_PORT}")
        wait_until(lambda: self._ceph("--connect-timeout", "2", "mon", "stat").returncode == 0 or self._check(),
                   "the monitor")
        for number in range(OSDS):
            identity = str(uuid.uuid4())
            self._run("ceph-osd", "-c", self.folder / "ceph.conf", "-i", number, "--mkfs", "--osd-uuid", identity)
            self.ceph("osd", "new", identity, number)
            self._daemon(f"osd.{number}", "ceph-osd", "-i", number)
        self._daemon("mgr.x", "ceph-mgr", "-i", "x")
        self._daemon("mds.a", "ceph-mds", "-i", "a")
        for pool in ("cephfs.meta", "cephfs.data"):
            self.ceph("osd", "pool", "create", pool, 8)
        self.ceph("fs", "new", "cephfs", "cephfs.meta", "cephfs.data")
        self.ceph("fs", "set", "cephfs", "session_timeout", SESSION_TIMEOUT_S)
        wait_until(lambda: "up:active" in self.ceph("mds", "stat") or self._check(), "the metadata server")

    def stop(self):
        for daemon in reversed(self._daemons):
            daemon.kill()

    def _check(self):
        """Raises if a daemon has ended."""
        for daemon in self._daemons:
            if daemon.has_ended():
                raise AssertionError(f"{daemon.name} has ended:\n" +
                                     (self.folder / f"{daemon.name}.out").read_text(errors="replace")[-2000:])

    def _configure(self):
        fsid, keys = str(uuid.uuid4()), self.folder / "keyring"
        for name in ("run", "mon.a", "mgr.x", "mds.a", *(f"osd.{n}" for n in range(OSDS))):
            (self.folder / name).mkdir()
        common = {"fsid": fsid, "address": self.address, "port": MONITOR_PORT, "folder": self.folder}
        for name, keyring in (("admin.conf", keys.name), (self.client_conf.name, self.keyring.name)):
            (self.folder / name).write_text(_CLIENT_CONF.format(**common, keyring=keyring, more=""))
        (self.folder / "ceph.conf").write_text(_CLIENT_CONF.format(
            **common, keyring=keys.name, more=_CONF.format(**common, osds=OSDS, bytes=OSD_BYTES)))
        keys.touch(0o600)
        for entity, caps in _KEYS.items():
            words = [word for cap in caps.items() for word in ("--cap", *cap)]
            self._run("ceph-authtool", keys, "--gen-key", "-n", entity, *words)
        key = self._run("ceph-authtool", keys, "--print-key", "-n", CLIENT).strip()
        self.keyring.write_text(f"[{CLIENT}]\nkey = {key}\n")
        self.keyring.chmod(0o600)
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v1:{self.address}:{MONITOR_PORT}]",
                  self.folder / "monmap")
        # The monitor takes over all keys of this file.
        self._run("ceph-mon", "-c", self.folder / "ceph.conf", "--mkfs", "-i", "a", "--monmap",
                  self.folder / "monmap", "--keyring", keys)

    def _daemon(self, name, program, *arguments):
        self._daemons.append(Daemon(self.folder, name, [
            find_tool(program), *map(str, arguments), "-c", self.folder / "ceph.conf", "-f"]))

    def _run(self, program, *arguments):
        done = subprocess.run([find_tool(program), *map(str, arguments)], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, check=False, env=_environment())
        if done.returncode != 0:
            raise AssertionError(f"{program} {arguments} has failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    # -------------------------------------------------------------- what an administrator does

    def _ceph(self, *arguments):
        return subprocess.run([find_tool("ceph"), "-c", self.folder / "admin.conf", *map(str, arguments)],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                              timeout=4 * GUARD, env=_environment())

    def ceph(self, *arguments):
        """What a command of ceph(8) prints."""
        done = self._ceph(*arguments)
        if done.returncode != 0:
            self._check()
            raise AssertionError(f"ceph {arguments} has failed:\n{done.stderr}")
        return done.stdout

    def ask(self, daemon, command, **arguments):
        """`ceph daemon NAME COMMAND` by the daemon's socket, without the half second that ceph(8) takes to start:
        a command with its terminator, and back a length and a text."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(4 * GUARD)
            connection.connect(str(self.folder / "run" / f"{daemon}.asok"))
            connection.sendall(json.dumps({"prefix": command, **arguments}).encode() + b"\0")
            with connection.makefile("rb") as answer:
                length, = struct.unpack(">I", answer.read(4))
                return json.loads(answer.read(length) or b"null")

    def set_mds(self, name, value):
        """Sets an option of the metadata server while it runs."""
        self.ask("mds.a", "config set", var=name, val=[str(value)])

    def sessions(self, address):
        """The sessions that the metadata server has with the clients at this address."""
        return [session for session in self.ask("mds.a", "session ls")
                if session["entity"]["addr"]["addr"].partition(":")[0] == address]

    def blocklist(self):
        """The clients, ADDRESS:PORT/NONCE, that may do nothing to an object any more."""
        return re.findall(r"^(\S+:\d+/\d+) ", self.ceph("osd", "blocklist", "ls"), re.MULTILINE)

    def evict(self, address):
        """Ends the sessions of the clients at this address for good, as an administrator does with those of a host
        that is known to be dead."""
        for session in self.sessions(address):
            self.ask("mds.a", "session evict", filters=[f"id={session['id']}"])

    def peak_kib(self):
        return sum(daemon.peak_kib() for daemon in self._daemons)
