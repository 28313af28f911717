"""The kernel's NBD client, set up by netlink (linux/nbd-netlink.h): a device that waits for a new connection
when its own has ended. `nbd-client -persist` doesn't do that (reconnect_test.py)."""

import select
import socket
import struct
import threading
import time
from pathlib import Path

from harness import GUARD, Client, Disconnected, HangGuard, OptionError, connect, wait_until

_NETLINK_GENERIC, _SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 16, 270, 1
_NLMSG_ERROR, _NLM_F_REQUEST, _NLM_F_ACK = 2, 1, 4
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY = 16, 3
_CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME, _CTRL_ATTR_MCAST_GROUPS, _CTRL_ATTR_MCAST_GRP_ID = 1, 2, 7, 2
_CONNECT, _DISCONNECT, _RECONFIGURE, _LINK_DEAD = 1, 2, 3, 4
_INDEX, _SIZE_BYTES, _BLOCK_SIZE_BYTES, _TIMEOUT, _SERVER_FLAGS, _SOCKETS, _DEAD_CONN_TIMEOUT = 1, 2, 3, 4, 5, 7, 8
_SOCK_ITEM = _SOCK_FD = 1


def _attribute(kind, form, *values):
    """One attribute; its value is packed in this form, or is bytes."""
    data = struct.pack("=" + form, *values) if values else form
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _attributes(data):
    """{kind: value} of attributes in a row."""
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3:]
    return found


class Netlink:
    """The kernel's generic netlink family "nbd"."""

    def __init__(self):
        self._socket = self._open()
        found = _attributes(self._request(_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY,
                                          _attribute(_CTRL_ATTR_FAMILY_NAME, b"nbd\0"))[0][4:])
        self._family, = struct.unpack("=H", found[_CTRL_ATTR_FAMILY_ID])
        group, = _attributes(found[_CTRL_ATTR_MCAST_GROUPS]).values()
        # Apart from answers.
        self._events = self._open()
        self._events.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP,
                                struct.unpack("=I", _attributes(group)[_CTRL_ATTR_MCAST_GRP_ID])[0])

    @staticmethod
    def _open():
        result = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_GENERIC)
        result.bind((0, 0))  # only a socket with an address receives events
        result.settimeout(GUARD)
        return result

    @staticmethod
    def _messages(data):
        """(type, content) of each message."""
        while data:
            length, kind = struct.unpack_from("=IH", data)
            yield kind, data[16:length]
            data = data[(length + 3) & ~3:]

    def _request(self, family, command, attributes):
        """Returns the answers; OSError where the kernel refuses."""
        content = struct.pack("=BBxx", command, 1) + attributes
        self._socket.send(struct.pack("=IHHII", 16 + len(content), family, _NLM_F_REQUEST | _NLM_F_ACK, 0, 0)
                          + content)
        answers = []
        while True:
            for kind, data in self._messages(self._socket.recv(1 << 16)):
                if kind != _NLMSG_ERROR:
                    answers.append(data)
                    continue
                error, = struct.unpack_from("=i", data)
                if error:
                    raise OSError(-error, f"netlink command {command}")
                return answers

    def request(self, command, attributes):
        return self._request(self._family, command, attributes)

    def has_event(self, command, seconds):
        """Whether the kernel tells of this within so many seconds."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and select.select([self._events], [], [], left)[0]:
            if any(kind == self._family and data[0] == command
                   for kind, data in self._messages(self._events.recv(1 << 16))):
                return True
        return False

    def wait_for(self, command):
        """Until the kernel tells of this."""
        while not any(kind == self._family and data[0] == command
                      for kind, data in self._messages(self._events.recv(1 << 16))):
            pass

    def close(self):
        self._socket.close()
        self._events.close()


class LastingDevice:
    """/dev/nbd1, whose requests wait while it has no connection. With a timeout in seconds, the kernel also
    repeats a request that has been sent and not answered for so long."""

    PATH = "/dev/nbd1"

    def __init__(self, context, name, address, timeout=0):
        self._name, self._address = name, address
        self.reconnections = 0
        self._netlink = Netlink()
        context.defer(self._netlink.close)
        with self._connection() as (client, sockets):
            self._netlink.request(_CONNECT, b"".join((
                _attribute(_INDEX, "I", 1), _attribute(_SIZE_BYTES, "Q", client.size),
                _attribute(_BLOCK_SIZE_BYTES, "Q", 512), _attribute(_SERVER_FLAGS, "Q", client.flags),
                _attribute(_TIMEOUT, "Q", timeout), _attribute(_DEAD_CONN_TIMEOUT, "Q", int(GUARD)), sockets)))
        self._attached, self._keeper = True, None
        context.defer(self.detach)
        wait_until(lambda: int(Path("/sys/block/nbd1/size").read_text()) > 0, "the device to have a size")

    def _connection(self):
        return _Connection(self._name, self._address)

    def reconnect(self):
        """Waits until the kernel has seen the end of its connection, and gives it a new one."""
        self._netlink.wait_for(_LINK_DEAD)
        self._connect_again()

    def _connect_again(self):
        with self._connection() as (_, sockets):
            self._netlink.request(_RECONFIGURE, _attribute(_INDEX, "I", 1) + sockets)
        self.reconnections += 1

    def keep(self):
        """From now on, a thread reconnects the device whenever it has lost its connection."""
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def _keep(self):
        while self._attached:
            if not self._netlink.has_event(_LINK_DEAD, 0.5):
                continue
            while self._attached:
                try:
                    self._connect_again()
                    break
                except (Disconnected, OptionError, HangGuard, OSError):
                    time.sleep(0.5)

    def detach(self):
        if self._attached:
            self._attached = False
            if self._keeper:
                self._keeper.join()
            self._netlink.request(_DISCONNECT, _attribute(_INDEX, "I", 1))


class _Connection:
    """A connection in the transmission phase, until the kernel has it."""

    def __init__(self, name, address):
        self._socket = connect(address)
        self._client = Client(self._socket).start(name, structured=False)

    def __enter__(self):
        item = _attribute(_SOCK_FD, "I", self._socket.fileno())
        return self._client, _attribute(_SOCKETS, _attribute(_SOCK_ITEM, item))

    def __exit__(self, *_):
        self._socket.close()
