#!/usr/bin/python3
"""The promises of a page about running an NBD server as a service, sentence by sentence: its units,
under a real systemd in namespaces of its own. Each test is named by the sentence that it proves."""

import random
import socket
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import private_systemd  # noqa: E402
from harness import *  # noqa: E402
from listening import *  # noqa: E402

systemd = None  # the PrivateSystemd, once we are inside
is_private = False  # the network

# The page's own units, word for word, with one name changed.
SOCKET = """\
[Unit]
Description=nbdinetd Network Block Device server

[Socket]
ListenStream=10809

[Install]
WantedBy=sockets.target
"""
SERVICE = """\
[Service]
ExecStart=/usr/sbin/nbdinetd file /path/to/serve
"""
PAGE_ADDRESSES = (("127.0.0.1", 10809), ("::1", 10809))


class Units:
    """nbdinetd.socket and nbdinetd.service, with the built program and an image for the paths."""

    def __init__(self, t, image, socket_text=SOCKET, service_text=SERVICE):
        service_text = service_text.replace("/usr/sbin/nbdinetd", NBDINETD)
        self._paths = []
        t.defer(self._remove)
        for name, text in (("nbdinetd.socket", socket_text),
                           ("nbdinetd.service", service_text.replace("/path/to/serve", image))):
            path = systemd.units / name
            path.write_text(text)
            self._paths.append(path)
        systemd.systemctl("daemon-reload")

    def _remove(self):
        systemd.systemctl("disable", "nbdinetd.socket", check=False)
        systemd.systemctl("stop", "nbdinetd.socket", "nbdinetd.service", check=False)
        for path in self._paths:
            path.unlink()
        systemd.systemctl("reset-failed", check=False)
        systemd.systemctl("daemon-reload")

    @staticmethod
    def state():
        return systemd.systemctl("is-active", "nbdinetd.service", check=False).strip()

    @staticmethod
    def expect_healthy():
        eq(systemd.systemctl("is-active", "nbdinetd.socket").strip(), "active", "the socket")
        eq(systemd.failed(), [], "failed units")


def dial(address):
    """A connection to (host, port) of either family, or to a Unix path or abstract name."""
    family = (socket.AF_UNIX if isinstance(address, str) else
              socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    connection = socket.socket(family)
    connection.settimeout(GUARD)
    connection.connect(address)
    return Client(connection)


def page_addresses():
    require(is_private, "needs a network of its own, where port 10809 is free")
    return PAGE_ADDRESSES if has_ipv6() else PAGE_ADDRESSES[:1]


@test('To use nbdinetd with socket activation from systemd, create a unit file ending in '
      '".socket" (eg. "/etc/systemd/system/nbdinetd.socket") containing: [Unit] '
      'Description=nbdinetd Network Block Device server [Socket] ListenStream=10809 [Install] '
      'WantedBy=sockets.target')
def _(t):
    addresses = page_addresses()
    units = Units(t, t.pattern_image(MIB), service_text="[Service]\n"
                  "ExecStart=/usr/sbin/nbdinetd /path/to/serve\n")
    # As [Install] says, it belongs to sockets.target.
    systemd.systemctl("enable", "--now", "nbdinetd.socket")
    contains("nbdinetd.socket", systemd.systemctl("show", "-P", "Wants", "sockets.target"))
    eq(units.state(), "inactive", "the service before the first client")
    for address in addresses:
        visit(dial(address))
    eq(units.state(), "active", "the service afterwards")
    contains("Network Block Device", systemd.systemctl("status", "nbdinetd.socket"))
    units.expect_healthy()


@test('Also create a service unit (eg. "/etc/systemd/system/nbdinetd.service") containing: '
      '[Service] ExecStart=/usr/sbin/nbdinetd file /path/to/serve')
def _(t):
    addresses = page_addresses()
    units = Units(t, t.pattern_image(MIB))
    systemd.systemctl("start", "nbdinetd.socket")
    # Many clients at once, one process of the service for each.
    clients = [dial(address).start() for address in addresses * 4]
    main_pid = systemd.main_pid("nbdinetd.service")
    eq(len(children_of(main_pid)), len(clients))
    for client in clients:
        eq(client.read(4096, 512), pattern(4096, 512))
        client.write(0, pattern(0, 512))
        client.flush()
        client.disconnect()
    wait_until(lambda: not children_of(main_pid), "the connections to end")
    eq(units.state(), "active")
    # Stopped, it ends as it should, and the next client starts it again.
    systemd.systemctl("stop", "nbdinetd.service")
    eq(systemd.systemctl("show", "-P", "Result", "nbdinetd.service").strip(), "success")
    visit(dial(addresses[0]))
    units.expect_healthy()


@test('There are various formats for the "ListenStream" key.')
def _(t):
    page_addresses()
    path, abstract = t.path("nbd.sock"), t.path("abstract")
    ways = {"10809": ("127.0.0.1", 10809), "127.0.0.1:10811": ("127.0.0.1", 10811),
            "0.0.0.0:10812": ("127.0.0.1", 10812), path: path, "@" + abstract: "\0" + abstract}
    if has_ipv6():
        ways |= {"[::1]:10813": ("::1", 10813), "[::]:10814": ("127.0.0.1", 10814)}
    # vsock is listened on wherever the kernel has it, but reached only where it has a loopback.
    has_vsock = True
    try:
        socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
        vsock_port = random.randrange(1 << 16, 1 << 30)  # not of a private network
        ways[f"vsock::{vsock_port}"] = None
    except (OSError, AttributeError):
        has_vsock = False
    text = SOCKET.replace("ListenStream=10809\n", "".join(f"ListenStream={way}\n" for way in ways))
    units = Units(t, t.pattern_image(MIB), text, SERVICE.replace(" file ", " "))
    systemd.systemctl("start", "nbdinetd.socket")
    for way, address in ways.items():
        if address is not None:
            visit(dial(address))
        elif has_vsock_loopback():
            with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as connection:
                connection.settimeout(GUARD)
                connection.connect((VMADDR_CID_LOCAL, vsock_port))
                visit(Client(connection))
        else:
            note(f"{way} is listened on, but this kernel has no vsock loopback to reach it by")
    # All of them by one process.
    main_pid = systemd.main_pid("nbdinetd.service")
    sockets = [what for what in descriptors_of(main_pid).values() if what.startswith("socket:")]
    assert len(set(sockets)) >= len(ways), f"{len(set(sockets))} sockets for {list(ways)}"
    if not has_vsock:
        note("this kernel has no vsock")
    units.expect_healthy()


@test("Socket activation lets you serve infrequent NBD requests using a superserver without "
      "needing nbdinetd to be running the whole time. (With systemd as the superserver.)")
def _(t):
    path = t.path("nbd.sock")
    units = Units(t, t.pattern_image(MIB), SOCKET.replace("10809", path),
                  SERVICE.replace(" file ", " --exit-idle=200ms "))
    systemd.systemctl("start", "nbdinetd.socket")
    pids = set()
    for _ in range(3):
        wait_until(lambda: units.state() == "inactive", "the service to be inactive")
        client = dial(path).start()
        eq(units.state(), "active", "the service while somebody is connected")
        pids.add(systemd.main_pid("nbdinetd.service"))
        eq(client.read(0, 512), pattern(0, 512))
        client.disconnect()
    wait_until(lambda: units.state() == "inactive", "the service to be inactive")
    eq(len(pids), 3, "processes, one for each time")
    units.expect_healthy()


def tests(private):
    global systemd
    systemd = private
    main()


if __name__ == "__main__":
    is_private = private_network()
    private_systemd.run(tests)
