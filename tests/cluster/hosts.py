"""Hosts of a cluster: each has namespaces for its network, its mounts, its process ids and its name. ceph-fuse mounts the
cluster's file system there.

    run()               the end of a file of tests: starts the network and the cluster, and then the tests
    Host(t, "a")        a machine that is switched on by boot(), serves by serve(), and can be cut off and killed

    the tests, the clients, the cluster   10.98.0.1 at the bridge
    hosts a, b, ...                       10.98.0.11, 10.98.0.12, ... each at the other end of a veth pair

The tests run in a process beside the cluster's, since the end of each test ends all that it has started.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
from ceph import CLIENT, Cluster, PROGRAMS, end_with_parent
from far_client import enter_network
from faults import private_mounts
from harness import *
from listening import set_loopback

ADDRESS = "10.98.0.1"
BRIDGE = "cluster"
PORT = 10809
MAX_MEMORY_KIB = 2 << 20  # of the cluster
SERVICE = "nbdinetd-listen.service"

_cluster = None


def cluster():
    """The cluster of this file's tests."""
    return _cluster


# ------------------------------------------------------------------ a file of tests

def reason_against():
    """Why no cluster can be started here, or None."""
    if os.geteuid() != 0:
        return "needs root, for namespaces and mounts"
    for program in (*PROGRAMS, "ceph-fuse", "ip", "nsenter"):
        if not find_tool(program):
            return f"{program} is not installed; ./quickstart cluster installs it"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "needs /dev/fuse"
    return None


def ip(*arguments):
    subprocess.run([find_tool("ip"), *map(str, arguments)], stdin=subprocess.DEVNULL, check=True)


def _make_network():
    enter_network()
    set_loopback(True)
    ip("link", "add", "name", BRIDGE, "type", "bridge")
    ip("addr", "add", f"{ADDRESS}/24", "dev", BRIDGE)
    ip("link", "set", BRIDGE, "up")


def _in_child(function):
    """Runs it in a process of its own, which ends with us; returns the process's exit status."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        def child():
            end_with_parent()
            function()
        become(child)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def run(tests=harness.main):
    """Starts the network and the cluster, runs the tests that are registered, or others, and exits with their status."""
    global _cluster
    if reason := reason_against():
        skip_all(reason)

    interrupt_on_term()
    began = time.monotonic()
    folder = tempfile.mkdtemp(prefix="nbdinetd-ceph-")
    status = 1
    try:
        private_mounts()
        _make_network()
        _cluster = Cluster(folder, ADDRESS)
        try:
            _cluster.start()
            note(f"the cluster has started in {time.monotonic() - began:.0f} s")
            status = _in_child(tests)
            memory_kib = _cluster.peak_kib()
            note(f"the cluster's daemons had at most {memory_kib >> 10} MiB")
            if memory_kib > MAX_MEMORY_KIB:
                note("that is more than they may have")
                status = status or 1
        finally:
            _cluster.stop()
    finally:
        if os.environ.get("NBDINETD_CLUSTER_KEEP") != "1":
            shutil.rmtree(folder, ignore_errors=True)
        note(f"all of it took {time.monotonic() - began:.0f} s")
    sys.exit(status)


# ------------------------------------------------------------------ hosts

class Host:
    """A machine that mounts the cluster's file system and serves images of it."""

    def __init__(self, t, name, fuse_options=()):
        """`name` is a small letter. Tests that run at the same time need different ones."""
        self.t, self.name = t, name
        self.address = f"10.98.0.{11 + ord(name) - ord('a')}"
        self.root = Path(t.path(f"host-{name}"))  # the mount point, in the host's namespace
        self._interface = f"host-{name}"
        self._fuse_options = fuse_options
        self._init = None  # the process whose end is the end of the host
        self._processes = []
        self._services = []
        self.fuse = self.service = None
        self._was_on = self._wired = False
        self._make_network()
        t.defer(self.off)

    def _make_network(self):
        here = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._here = here
        self.t.defer(os.close, here)
        enter_network()
        set_loopback(True)
        self._network = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.t.defer(os.close, self._network)
        enter_network(here)
        there = f"/proc/{os.getpid()}/fd/{self._network}"
        ip("link", "add", "name", self._interface, "type", "veth", "peer", "name", f"{self._interface}-0")
        self._wired = True
        # ip(8) wants a process or a name for a namespace.
        subprocess.run([find_tool("ip"), "link", "set", f"{self._interface}-0", "netns", there], check=True)
        ip("link", "set", self._interface, "master", BRIDGE, "up")
        self.there(ip, "link", "set", f"{self._interface}-0", "name", "eth0")
        self.there(ip, "addr", "add", f"{self.address}/24", "dev", "eth0")
        self.there(ip, "link", "set", "eth0", "up")

    def there(self, function, *arguments):
        """Calls it in the host's network. A socket that it makes, and a program that it starts, stay there."""
        enter_network(self._network)
        try:
            return function(*arguments)
        finally:
            enter_network(self._here)

    # -------------------------------------------------------------- power

    def boot(self):
        """Mounts the file system."""
        self.root.mkdir(exist_ok=True)
        ready = self.t.fresh(".ready")
        os.mkfifo(ready)
        # Process 1 of the host. What is started there later begins with `prefix`.
        waits = self.t.spawn([
            find_tool("nsenter"), f"--net=/proc/{os.getpid()}/fd/{self._network}", "--",
            find_tool("unshare"), "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc", "--",
            "/bin/sh", "-c", 'echo "$1" >/proc/sys/kernel/hostname && echo >"$0" && exec sleep infinity',
            ready, f"host-{self.name}"])
        Path(ready).read_bytes()
        self._init, self._was_on = only_child(waits), True
        self._processes.append(waits)
        self.fuse = self.spawn([
            find_tool("ceph-fuse"), "-f", "-c", cluster().client_conf, "-n", CLIENT, "-k", cluster().keyring,
            "--log-file=", "--log-to-stderr=true", *self._fuse_options, self.root])
        wait_until(lambda: os.path.ismount(self.path("")) or self._check_mount(), "the mount")
        return self

    def _check_mount(self):
        if self.fuse.poll() is not None:
            raise AssertionError(f"ceph-fuse has ended: {self.fuse.stderr()}")

    @property
    def prefix(self):
        """The beginning of a command that runs on the host: as a child of the process that a test has started,
        since only a child can be in another namespace of process ids."""
        return [find_tool("nsenter"), f"--target={self._init}", "--net", "--mount", "--pid", "--uts", "--"]

    def spawn(self, argv, **how):
        """Starts a program there."""
        process = self.t.spawn([*self.prefix, *argv], **how)
        self._processes.append(process)
        # Last registered, first called.
        self.t.defer(self.off)
        return process

    def run(self, argv, **how):
        """Runs a program there to its end."""
        return self.t.run([*self.prefix, *argv], **how)

    def path(self, name):
        """The host's file of this name, as a path for this process."""
        return f"/proc/{self._init}/root{self.root}/{name}"

    def cut(self):
        """The network cable is pulled: what is on its way is lost, and nobody is told."""
        ip("link", "set", self._interface, "down")

    def heal(self):
        ip("link", "set", self._interface, "up")

    def signal(self, number):
        """To all of its processes."""
        for pid in descendants_of(os.getpid()):
            if self._has(pid):
                os.kill(pid, number)

    def _has(self, pid):
        try:
            return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{self._init}/ns/pid")
        except FileNotFoundError:
            return False

    def freeze(self):
        self.signal(signal.SIGSTOP)

    def thaw(self):
        self.signal(signal.SIGCONT)
        # nsenter(1) has stopped itself with its child.
        for process in self._processes:
            process.signal(signal.SIGCONT)

    def kill(self):
        """All of its processes end at once, and with them its sockets and mounts."""
        os.kill(self._init, signal.SIGKILL)
        for process in self._processes:
            process.signal(signal.SIGCONT)
            process.wait()
        self._processes, self._init, self.fuse, self.service = [], None, None, None

    def off(self):
        """Switches it off for good. The next host must not wait for what this one has left in the cluster."""
        if self._init is not None:
            self.kill()
        if self._was_on:
            self._was_on = False
            cluster().evict(self.address)
        if self._wired:
            self._wired = False
            ip("link", "del", self._interface)

    # -------------------------------------------------------------- NBD

    def serve(self, *options, export=None, port=PORT):
        """The shipped listening service, with these options and this file."""
        argv = service_command(options, self.root / export if export else "")
        with self.there(lambda: socket.create_server((self.address, port), backlog=512)) as door:
            # LISTEN_PID is the process's id as the host knows it.
            self.service = self.spawn(["/bin/sh", "-c", 'LISTEN_PID=$$; export LISTEN_PID; exec "$0" "$@"', *argv],
                                      fds={3: door}, listen_fds=1)
        self._services.append(self.service)
        return self

    def services(self):
        """The processes of serve() that run."""
        return [service for service in self._services if service.poll() is None]

    def connect(self):
        return connect((self.address, PORT))

    def client(self, export="", **how):
        """A client in the transmission phase."""
        return Client(self.connect()).start(export, **how)

    def connections(self):
        """The processes that serve a connection."""
        return children_of(only_child(self.service))


def only_child(process):
    """The process id of the one child."""
    child, = wait_until(lambda: children_of(process.pid), "a child")
    return child


def service_command(options, export):
    """ExecStart= of the shipped listening service for this export."""
    line, = [line for line in shipped(SERVICE).splitlines() if line.startswith("ExecStart=")]
    words = line.partition("=")[2].split()
    result = [NBDINETD]
    for word in words[1:]:
        if word == "$NBDINETD_OPTIONS":
            result += options
        elif word == "${NBDINETD_EXPORT}":
            result += [str(export)] if export else []
        else:
            result.append(word)
    return result


def boot_two(t, names="ab", **how):
    """Two hosts that are switched on."""
    return tuple(Host(t, name, **how).boot() for name in names)
