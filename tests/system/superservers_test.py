#!/usr/bin/python3
"""Each superserver starts nbdinetd, and every client is served. The client gets NBD and nothing else,
whatever fails: inetd and xinetd make standard error the client's socket, too."""

import os
import pwd
import re
import socket
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402

ME = pwd.getpwuid(os.geteuid()).pw_name


def shipped_for(name):
    """The text of a file in units/ with the built program in it."""
    return re.sub(r"(?<=[\s=])\S*/nbdinetd(?=\s)", lambda _: NBDINETD, shipped(name))


class Superserver:
    """A running superserver: its process, and the address of each of its services."""

    def __init__(self, process, addresses):
        self.process = process
        self.addresses = addresses
        for address in addresses.values():
            wait_until(lambda a=address: is_listening(a) or process.poll() is not None,
                       f"{process.argv} to listen")
            if process.poll() is not None:
                raise AssertionError(f"{process.argv} has ended: {process.stderr()}")

    def connect(self, service="image"):
        return Client(connect(self.addresses[service]))

    def idle(self):
        """No handler is left, not even as a zombie."""
        wait_until(lambda: not children_of(self.process.pid), "the handlers to be gone")


class SocketActivate(Superserver):
    """systemd-socket-activate --accept, one for each service. With to_client, standard error is
    made the client's socket, as a unit may do with StandardInput=socket."""

    def __init__(self, context, services, inetd=False, to_client=False):
        tool = need("systemd-socket-activate")
        self.others = {}
        addresses = {}
        descriptor = 0 if inetd else 3
        prefix = ["/bin/sh", "-c", f'exec "$0" "$@" 2>&{descriptor}'] if to_client else []
        for service, arguments in services.items():
            # One kind of socket for each way to start, so that both are tried.
            address = ("127.0.0.1", free_port()) if inetd else context.fresh(".sock")
            listen = address if isinstance(address, str) else "{}:{}".format(*address)
            self.others[service] = context.spawn(
                [tool, "--accept", *(["--inetd"] if inetd else []), "--listen=" + listen,
                 *prefix, NBDINETD, *arguments])
            addresses[service] = address
        super().__init__(self.others[next(iter(services))], addresses)

    def idle(self):
        for process in self.others.values():
            wait_until(lambda p=process: not children_of(p.pid), "the handlers to be gone")


class Xinetd(Superserver):
    def __init__(self, context, services):
        tool = need("xinetd")
        need_root("to start services as somebody")
        addresses = {service: ("127.0.0.1", free_port()) for service in services}
        text = "defaults\n{\n\tcps = 10000 1\n}\n"
        for service, arguments in services.items():
            text += (f"service nbd-{service}\n{{\n"
                     f"\ttype = UNLISTED\n\tsocket_type = stream\n\tprotocol = tcp\n\twait = no\n"
                     f"\tuser = {ME}\n\tbind = 127.0.0.1\n\tport = {addresses[service][1]}\n"
                     f"\tserver = {NBDINETD}\n\tserver_args = {' '.join(arguments)}\n}}\n")
        super().__init__(self.start(context, tool, text), addresses)

    @staticmethod
    def start(context, tool, text):
        config = context.image(text.encode(), "xinetd.conf")
        return context.spawn([tool, "-f", config, "-dontfork", "-stayalive", "-pidfile",
                              context.path("xinetd.pid"), "-filelog", context.path("xinetd.log")])


class OpenbsdInetd(Superserver):
    def __init__(self, context, services):
        tool = need("inetd")
        need_root("to start services as somebody")
        addresses = {service: ("127.0.0.1", free_port()) for service in services}
        text = "".join(
            f"127.0.0.1:{addresses[service][1]} stream tcp nowait {ME} {NBDINETD} "
            f"{' '.join(['nbdinetd', *arguments])}\n" for service, arguments in services.items())
        super().__init__(self.start(context, tool, text), addresses)

    @staticmethod
    def start(context, tool, text):
        config = context.image(text.encode(), "inetd.conf")
        # It writes /run/inetd.pid and can't be told not to; the machine may have an inetd of its
        # own.
        return context.spawn(["unshare", "--mount", "--", "/bin/sh", "-c",
                              'mount -t tmpfs tmpfs /run && exec "$0" "$@"', tool, "-i", config])


class Ssh(Superserver):
    """What `ssh HOST nbdinetd -s FILE` gives: a pipe for each direction. With to_client, standard
    error is the pipe to the client too."""

    def __init__(self, context, services, to_client=False):
        self.context, self.services = context, services
        self.stderr = "stdout" if to_client else "file"
        self.processes = []

    def connect(self, service="image"):
        process, client = self.context.piped("-s", *self.services[service], stderr=self.stderr)
        self.processes.append(process)
        return client

    def idle(self):
        for process in self.processes:
            process.wait()


SUPERSERVERS = {
    "systemd-socket-activate --accept": SocketActivate,
    "systemd-socket-activate --accept --inetd":
        lambda context, services: SocketActivate(context, services, inetd=True),
    "xinetd": Xinetd,
    "openbsd-inetd": OpenbsdInetd,
}

# Where descriptor 2 is what the client reads.
TO_CLIENT = {
    "systemd-socket-activate --accept with the socket as standard error":
        lambda context, services: SocketActivate(context, services, to_client=True),
    "systemd-socket-activate --accept --inetd with the socket as standard error":
        lambda context, services: SocketActivate(context, services, inetd=True, to_client=True),
    "xinetd": Xinetd,
    "openbsd-inetd": OpenbsdInetd,
    "a pair of pipes with standard error on the second":
        lambda context, services: Ssh(context, services, to_client=True),
}


def round_trip(t, address, image, connections):
    """nbdinfo describes the export, nbdcopy carries it out and another image in."""
    size = os.path.getsize(image)
    eq(t.run(["nbdinfo", "--size", uri(address)]).stdout().strip(), str(size), "nbdinfo --size")
    t.run(["nbdcopy", f"--connections={connections}", uri(address), t.path("out.img")])
    eq(checksum(t.path("out.img")), checksum(image), "what nbdcopy has read")
    other = t.random_image(size, seed=2)
    t.run(["nbdcopy", "--flush", f"--connections={connections}", other, uri(address)])
    eq(checksum(image), checksum(other), "what nbdcopy has written")


def serves_real_clients(kind):
    def run(t):
        image = t.random_image(8 * MIB)
        server = SUPERSERVERS[kind](t, {"image": [image]})
        round_trip(t, server.addresses["image"], image, connections=4)
        server.idle()
        eq(server.process.poll(), None, "the superserver's exit status")
    return run


def serves_many_at_once(kind):
    def run(t):
        image = t.pattern_image(MIB)
        server = SUPERSERVERS[kind](t, {"image": [image]})
        clients = [server.connect().start() for _ in range(16)]
        eq(len(servers_below(server.process.pid)), 16, "handlers")
        for number, client in enumerate(clients):
            eq(client.read(number * 8, 64), pattern(number * 8, 64))
        # Half of them leave as they should, the others just vanish.
        for client in clients[::2]:
            client.disconnect()
        for client in clients[1::2]:
            client.close()
        server.idle()
    return run


for kind in SUPERSERVERS:
    test(f"{kind}: nbdinfo and nbdcopy are served, checksums are equal, no process is left")(
        serves_real_clients(kind))
    test(f"{kind}: sixteen connections at once are sixteen processes, and none afterwards")(
        serves_many_at_once(kind))


@test("a pair of pipes, as from ssh: nbdinfo and nbdcopy are served and checksums are equal")
def _(t):
    image = t.random_image(8 * MIB)
    for arguments in (["nbdinfo", "--size"], ["nbdcopy", "--connections=1"]):
        relay = PipeRelay(t, [NBDINETD, "-s", image])
        thread = relay.start()
        target = [t.path("out.img")] if arguments[0] == "nbdcopy" else []
        client = t.run([*arguments, uri(relay.address), *target])
        thread.join(GUARD)
        eq(len(relay.processes), 1)
        relay.processes[0].expect(EX_OK)
    eq(checksum(t.path("out.img")), checksum(image))
    other = t.random_image(8 * MIB, seed=2)
    relay = PipeRelay(t, [NBDINETD, "-s", image])
    relay.start()
    t.run(["nbdcopy", "--flush", "--connections=1", other, uri(relay.address)])
    wait_until(lambda: relay.processes, "the handler")
    relay.processes[0].expect(EX_OK)
    eq(checksum(image), checksum(other))


@test("libnbd can start nbdinetd itself, with one socket as standard input and output")
def _(t):
    image = t.random_image(2 * MIB)
    # A process of its own: libnbd forks and reaps.
    program = (f"import nbd; h = nbd.NBD(); h.connect_command({[NBDINETD, '-s', image]!r}); "
               f"open({t.path('out.img')!r}, 'wb').write(h.pread({2 * MIB}, 0)); h.shutdown()")
    python = t.run(["/usr/bin/python3", "-c", program], status=None)
    require("No module named" not in python.stderr(), "python3-libnbd is not installed")
    python.expect(0)
    eq(checksum(t.path("out.img")), checksum(image))


# ------------------------------------------------------------------ no byte but NBD

# Every one of these has something to say, and may not say it to the client.
TROUBLE = {
    "verbose": lambda image: ["-v", image],
    "stderr": lambda image: ["-v", "--log=stderr", image],
    "syslog": lambda image: ["-v", "--log=syslog", image],
    "journal": lambda image: ["-v", "--log=journal", image],
    "null": lambda image: ["-v", "--log=null", image],
}
REFUSAL = {
    "missing": lambda image: ["-v", "--log=stderr", image + ".is-missing"],
    "option": lambda image: ["--no-such-option", image],
    "letter": lambda image: ["-Z", image],
    "nothing": lambda image: [],
    "two": lambda image: [image, image],
    "log": lambda image: ["--log=somewhere", image],
}


def provoke(client, image, structured):
    """Every kind of error of one connection, with the strict parser of Client looking at each
    byte that comes back."""
    size = os.path.getsize(image)
    client.handshake()
    for option, data, wanted in (
            (0x7FFF, b"x" * 100, NBD_REP_ERR_UNSUP),
            (NBD_OPT_EXTENDED_HEADERS, b"data", NBD_REP_ERR_INVALID),
            (NBD_OPT_STARTTLS, b"", NBD_REP_ERR_UNSUP),
            (NBD_OPT_LIST, b"data", NBD_REP_ERR_INVALID),
            (NBD_OPT_INFO, b"y" * (100 << 10), NBD_REP_ERR_TOO_BIG),
            (NBD_OPT_INFO, b"\xff", NBD_REP_ERR_INVALID)):
        eq(client.haggle(option, data)[-1][0], wanted, f"the reply to option {option}")
    if structured:
        client.structured_replies()
    client.go()
    for command, offset, length, flags, payload, wanted in (
            (0x7777, 0, 0, 0, b"", NBD_EINVAL),
            (NBD_CMD_READ, size, 1, 0, b"", NBD_EINVAL),
            (NBD_CMD_READ, 0, 1, 1 << 15, b"", NBD_EINVAL),
            (NBD_CMD_WRITE, size - 1, 0, 0, b"two", NBD_ENOSPC),
            (NBD_CMD_TRIM, size - 1, 2, 0, b"", NBD_EINVAL),
            (NBD_CMD_BLOCK_STATUS, 0, 1, 0, b"", NBD_EINVAL)):
        eq(client.call(command, offset, length, flags, payload).error, wanted,
           f"the error of command {command}")
    # The file shrinks while it is served: what is gone can only be an error of the server.
    os.truncate(image, size // 2)
    eq(client.call(NBD_CMD_READ, size - 4096, 4096).error, NBD_EIO, "a read of what is gone")
    eq(len(client.read(0, 4096)), 4096)
    os.truncate(image, size)
    client.flush()
    client.disconnect()


def only_nbd(kind):
    def run(t):
        image = t.random_image(MIB)
        services = {name: make(image) for name, make in {**TROUBLE, **REFUSAL}.items()}
        if kind != "a pair of pipes with standard error on the second":
            services["nothing"] = ["--log=stderr"]  # xinetd has no way to write "no arguments"
        server = TO_CLIENT[kind](t, services)
        for name in TROUBLE:
            for structured in (True, False):
                provoke(server.connect(name), image, structured)

            # Hard disconnects: wrong magic as an option and as a request, unknown client flags.
            client = server.connect(name)
            client.handshake()
            client.send(b"GET / HT" + bytes(8))
            client.expect_end()
            client.close()
            client = server.connect(name)
            client.handshake(1 << 31)
            client.expect_end()
            client.close()
            client = server.connect(name).start()
            client.send(client.request_bytes(NBD_CMD_READ, 0, 1, magic=0x12345678))
            client.expect_end()
            client.close()

            # The client says nothing more in the middle of a message, but still listens.
            client = server.connect(name)
            client.handshake()
            client.send(client.option_bytes(NBD_OPT_GO, bytes(6))[:11])
            client.shut_down_writing()
            client.expect_end()
            client.close()
            client = server.connect(name).start()
            client.send(client.request_bytes(NBD_CMD_WRITE, 0, 4096, payload=b"some"))
            client.shut_down_writing()
            client.expect_end()
            client.close()
        for name in REFUSAL:
            client = server.connect(name)
            client.expect_end()
            eq(bytes(client.received), b"", f"what the client of {services[name]} got")
            client.close()
        server.idle()
    return run


for kind in TO_CLIENT:
    test(f"{kind}: whatever goes wrong, the client gets no byte but NBD")(only_nbd(kind))


@test("inetd's three descriptors on one socket: the client gets no byte but NBD on TCP, Unix and "
      "anonymous sockets, and the exit status is right")
def _(t):
    image = t.random_image(MIB)
    for family in ("tcp", "tcp6", "unix", "socketpair"):
        for make in TROUBLE.values():
            process, client = t.inetd(*make(image), family=family)
            provoke(client, image, structured=True)
            process.expect(EX_OK)
        for name, make in REFUSAL.items():
            process, client = t.inetd(*make(image), family=family)
            client.expect_end()
            eq(bytes(client.received), b"")
            process.expect(EX_NOINPUT if name == "missing" else EX_USAGE)


@test("the socket as standard error is noticed through a duplicate as well, also beside a "
      "descriptor from LISTEN_FDS")
def _(t):
    image = t.random_image(MIB)
    for arguments in (["-v", image], ["-v", "--log=stderr", image]):
        ours, theirs = t.connection("tcp")
        # A duplicate has another number; a file description of its own would need /proc/self/fd.
        with socket.socket(fileno=os.dup(theirs.fileno())) as duplicate:
            process = t.spawn([NBDINETD, *arguments],
                              fds={1: duplicate, 2: duplicate, 3: theirs},
                              listen_fds=1, listen_pid="own")
        theirs.close()
        provoke(Client(ours), image, structured=True)
        process.expect(EX_OK)


# ------------------------------------------------------------------ the files that are shipped

@test("the shipped xinetd entry works once it is switched on")
def _(t):
    tool = need("xinetd")
    need_root("to start services as somebody")
    image = t.random_image(8 * MIB)
    port = free_port()
    text = shipped_for("nbdinetd.xinetd")
    # What the entry's comments say a user has to do, and an address and port of our own.
    for pattern_, replacement in ((r"^(\s*disable\s*=).*", r"\1 no"),
                                  (r"^(\s*port\s*=).*", rf"\1 {port}\n\tbind = 127.0.0.1"),
                                  (r"^(\s*user\s*=).*", rf"\1 {ME}"),
                                  (r"^(\s*server_args\s*=).*", rf"\1 {image}")):
        text, count = re.subn(pattern_, replacement, text, flags=re.MULTILINE)
        eq(count, 1, f"lines that match {pattern_}")
    server = Superserver(Xinetd.start(t, tool, text), {"image": ("127.0.0.1", port)})
    round_trip(t, server.addresses["image"], image, connections=4)
    server.idle()


@test("the shipped inetd.conf line works once it is uncommented")
def _(t):
    tool = need("inetd")
    need_root("to start services as somebody")
    image = t.random_image(8 * MIB)
    port = free_port()
    lines = re.findall(r"^#?(nbd\s+stream\s+tcp\s.*)$", shipped_for("nbdinetd.inetd"), re.MULTILINE)
    eq(len(lines), 1, "inetd.conf lines for TCP on IPv4")
    fields = lines[0].split()
    fields[0] = f"127.0.0.1:{port}"
    fields[4] = ME
    eq(fields[5], NBDINETD, "the program of the line")
    text = "\t".join(fields[:7] + [image]) + "\n"
    server = Superserver(OpenbsdInetd.start(t, tool, text), {"image": ("127.0.0.1", port)})
    round_trip(t, server.addresses["image"], image, connections=4)
    server.idle()


if __name__ == "__main__":
    main()
