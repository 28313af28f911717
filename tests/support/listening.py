"""Helpers of the tests of listeners and of the stand-alone server: the listening sockets that a service
manager would hold, the manager's end of sd_notify, a private /dev/log and a private network."""

import ctypes
import errno
import fcntl
import os
import re
import resource
import select
import signal
import socket
import struct
from pathlib import Path

from harness import (GUARD, MIB, NBDINETD, Client, Skip, children_of, eq, need, need_root, pattern,
                     require, wait_until)

BACKLOG = 4096
VMADDR_CID_ANY, VMADDR_CID_LOCAL = 0xFFFFFFFF, 1

_libc = ctypes.CDLL(None, use_errno=True)


# ------------------------------------------------------------------ sockets

def has_vsock_loopback():
    """Whether the kernel has vsock with its loopback transport. Only with that may the local CID be
    bound; connecting to it without would send packets to the hypervisor."""
    try:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as probe:
            probe.bind((VMADDR_CID_LOCAL, socket.VMADDR_PORT_ANY))
            return True
    except (OSError, AttributeError):
        return False


def need_vsock_loopback():
    # Not require(): no package and no privilege gives a kernel what it was built without, so that
    # CI can't be asked for it.
    if not has_vsock_loopback():
        raise Skip("this kernel has no vsock loopback (CONFIG_VSOCKETS_LOOPBACK)")


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
            return True
    except OSError:
        return False


class Door:
    """A listening socket as a service manager holds it, and the way to it. Families: those of
    Test.connection, and "dual" (an IPv6 socket that takes IPv4 too), "abstract", "vsock"."""

    KINDS = ("tcp", "tcp6", "dual", "unix", "abstract")  # what every machine has

    def __init__(self, context, family="unix", backlog=BACKLOG):
        self.family = family
        if family in ("tcp6", "dual") and not has_ipv6():
            raise Skip("this machine has no IPv6")
        if family == "unix":
            self.socket, name = socket.socket(socket.AF_UNIX), context.fresh(".door")
        elif family == "abstract":
            self.socket = socket.socket(socket.AF_UNIX)
            name = "\0" + context.fresh(".door")
        elif family == "vsock":
            self.socket = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            name = (VMADDR_CID_ANY, socket.VMADDR_PORT_ANY)
        elif family == "tcp":
            self.socket, name = socket.socket(socket.AF_INET), ("127.0.0.1", 0)
        else:
            self.socket = socket.socket(socket.AF_INET6)
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, family == "tcp6")
            name = ("::1" if family == "tcp6" else "::", 0)
        context.defer(self.socket.close)
        self.socket.bind(name)
        self.socket.listen(backlog)
        # Where clients find it, for each family that they may come by.
        port = self.socket.getsockname()[1] if not isinstance(name, str) else None
        self.addresses = {
            "unix": [(socket.AF_UNIX, name)],
            "abstract": [(socket.AF_UNIX, name)],
            "vsock": [(socket.AF_VSOCK, (VMADDR_CID_LOCAL, port))],
            "tcp": [(socket.AF_INET, ("127.0.0.1", port))],
            "tcp6": [(socket.AF_INET6, ("::1", port))],
            "dual": [(socket.AF_INET6, ("::1", port)), (socket.AF_INET, ("127.0.0.1", port))],
        }[family]

    def fileno(self):
        return self.socket.fileno()

    def close(self):
        """The manager's own end, so that only the service has the socket."""
        self.socket.close()

    def waiting(self):
        """Whether a connection waits to be accepted."""
        return bool(select.select([self.socket], [], [], 0)[0])

    def connect(self, way=0):
        family, address = self.addresses[way]
        connection = socket.socket(family, socket.SOCK_STREAM)  # closed with its last reference
        connection.settimeout(GUARD)
        connection.connect(address)
        return connection

    def client(self, way=0):
        return Client(self.connect(way))


def activate(context, *arguments, inherited, env=None, prefix=(), limits=None):
    """nbdinetd as systemd starts it, with descriptors from 3 on: each is something with a
    descriptor, or a pair of its name and that. Without any pair, LISTEN_FDNAMES is not set."""
    pairs = [item if isinstance(item, tuple) else ("nbdinetd.socket", item) for item in inherited]
    environment = {}
    if any(isinstance(item, tuple) for item in inherited):
        environment["LISTEN_FDNAMES"] = ":".join(name for name, _ in pairs)
    return context.spawn([*prefix, NBDINETD, *arguments],
                         fds={3 + i: item for i, (_, item) in enumerate(pairs)},
                         env={**environment, **(env or {})}, listen_fds=len(pairs),
                         listen_pid="own", limits=limits)


def opened(context, path, flags=os.O_RDWR):
    """A descriptor of a file, to be handed over."""
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    context.defer(os.close, descriptor)
    return descriptor


def visit(client, export="", size=MIB):
    """One whole connection of an honest client to an export with the pattern."""
    client.start(export)
    eq(client.size, size)
    eq(client.read(size // 2, 512), pattern(size // 2, 512))
    client.disconnect()


def warmed_up(process, door):
    """A listener's descriptors once it has served somebody: what it will have ever after."""
    visit(door.client())
    wait_alone(process)
    return process.descriptors()


def wait_alone(process):
    """Waits until a listener has no child left, zombies included."""
    wait_until(lambda: not children_of(process.pid), "every connection's process to be gone")


def stop(process, status=0):
    """SIGTERM, and the end that it has to lead to."""
    process.signal(signal.SIGTERM)
    # Of a process that is traced, the end can be seen before its status can be had.
    wait_until(lambda: process.poll() is not None, "the listener to end")
    process.expect(status)


def state_of(pid):
    """"R", "S", "T", "Z" ..., or None when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def waits_of(pid):
    """How often the main thread of a process has waited for something, or None when it is gone."""
    try:
        status = Path(f"/proc/{pid}/task/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)$", status, re.MULTILINE)
    return int(found[1]) if found else None


def cpu_seconds(pid):
    """The processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def allow_descriptors(count):
    """Lets this process have so many descriptors; a test with many clients holds their ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        hard = count
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    except (ValueError, PermissionError):
        require(False, f"{count} descriptors at once are more than the hard limit allows")


# ------------------------------------------------------------------ sd_notify

class NotifySocket:
    """The service manager's end of sd_notify(3)."""

    def __init__(self, context):
        self.path = context.fresh(".notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        context.defer(self._socket.close)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.setblocking(False)
        self._socket.bind(self.path)
        self._taken = []

    def messages(self):
        """[(sender's process id, {variable: value})], oldest first, all up to now."""
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(1 << 16, socket.CMSG_SPACE(12))
            except BlockingIOError:
                return self._taken
            sender = next(struct.unpack("3i", payload[:12])[0]
                          for level, kind, payload in ancillary
                          if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS))
            self._taken.append((sender, dict(line.split("=", 1) for line in
                                             data.decode().splitlines())))

    def discard(self, datagram):
        """Reads as long as it gets these datagrams, which no manager understands."""
        try:
            while self._socket.recv(len(datagram), socket.MSG_PEEK) == datagram:
                self._socket.recv(len(datagram))
        except BlockingIOError:
            pass

    def values(self, variable):
        """What was sent of one variable, oldest first."""
        return [state[variable] for _, state in self.messages() if variable in state]

    def wait(self, variable, words=""):
        """Waits for a value of the variable that holds these words; returns the first."""
        return wait_until(lambda: next((value for value in self.values(variable)
                                        if re.search(words, value)), None),
                          f"{variable}={words} from sd_notify")


# ------------------------------------------------------------------ syslog

LOG_DAEMON = 3  # of syslog.h, without its shift


class Syslog:
    """A system log that only what is started with `prefix` can reach: a mount namespace in which
    /dev holds the null devices and our socket, since the machine's own /dev/log, if there is one,
    must not get a test's messages. Nor must its journal, whose socket is hidden."""

    def __init__(self, context):
        need_root("to put a socket where syslog's is")
        need("unshare")
        directory = Path(context.fresh(".syslog"))
        directory.mkdir(mode=0o755)
        self.path = path = str(directory / "log")
        self._context, self._socket, self._connections = context, None, []
        self._taken = []
        self.restart()
        devices = "null zero full random urandom tty"
        self.prefix = [
            "/usr/bin/unshare", "--mount", "--", "/bin/sh", "-c",
            f"mkdir {directory}/dev && mount -t tmpfs -o mode=755 tmpfs {directory}/dev && "
            f"for n in {devices}; do : >{directory}/dev/$n && "
            f"mount --bind /dev/$n {directory}/dev/$n || exit; done && "
            f"ln -s {path} {directory}/dev/log && mount --move {directory}/dev /dev && "
            f"rmdir {directory}/dev && "
            "{ [ ! -d /run/systemd/journal ] || mount -t tmpfs tmpfs /run/systemd/journal; } && "
            "exec \"$0\" \"$@\""]

    def close(self):
        """The daemon has gone."""
        for end in (self._socket, *self._connections):
            end.close()
        self._connections = []

    def restart(self, kind=socket.SOCK_DGRAM):
        """A new daemon in the place of the one that there was. What that has not read is lost."""
        if self._socket is not None:
            self.close()
            os.unlink(self.path)
        self._socket = socket.socket(socket.AF_UNIX, kind)
        self._context.defer(self._socket.close)
        self._socket.setblocking(False)
        self._socket.bind(self.path)
        os.chmod(self.path, 0o666)
        if kind == socket.SOCK_STREAM:
            self._socket.listen()

    def _receive(self):
        """What has come since the last time, as messages."""
        if self._socket.type == socket.SOCK_DGRAM:
            return [self._socket.recv(1 << 16).decode()]
        try:
            while True:
                self._connections.append(self._socket.accept()[0])
                self._connections[-1].setblocking(False)
        except BlockingIOError:
            pass
        for connection in self._connections:
            try:
                # Short messages come whole, and each has its end.
                *messages, rest = connection.recv(1 << 16).decode().split("\0")
            except BlockingIOError:
                continue
            eq(rest, "", "a message without an end")
            if messages:
                return messages
        raise BlockingIOError

    def messages(self):
        """[(priority without facility, process id, text)], oldest first, all up to now."""
        while True:
            try:
                received = self._receive()
            except BlockingIOError:
                return self._taken
            for data in received:
                found = re.fullmatch(r"<(\d+)>.*? nbdinetd\[(\d+)\]: (.*)", data, re.DOTALL)
                if not found:
                    raise AssertionError(f"not a message of nbdinetd: {data!r}")
                eq(int(found[1]) >> 3, LOG_DAEMON, "facility")
                self._taken.append((int(found[1]) & 7, int(found[2]), found[3]))

    def text(self):
        return "\n".join(text for _, _, text in self.messages())

    def wait(self, words):
        """Waits for a message that holds these words; returns it."""
        return wait_until(
            lambda: next((m for m in self.messages() if re.search(words, m[2])), None),
            f"{words} in the system log")


# ------------------------------------------------------------------ a network of our own

def private_network():
    """Gives this process, and what it starts, a network with nothing but a loopback interface,
    where every port is free. False where that is not allowed; the machine's is used then."""
    CLONE_NEWNET = 0x40000000
    if _libc.unshare(CLONE_NEWNET) != 0:
        if ctypes.get_errno() in (errno.EPERM, errno.ENOSYS, errno.EINVAL, errno.ENOSPC):
            return False
        raise OSError(ctypes.get_errno(), "unshare")
    set_loopback(True)
    return True


def set_loopback(up):
    """Only in a private network: takes the loopback interface up or down. While it is down, whoever
    is on the other side of a TCP connection is silent, as after a loss of power."""
    SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        flags, = struct.unpack_from("H", request, 16)
        flags = flags | IFF_UP if up else flags & ~IFF_UP
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags))
