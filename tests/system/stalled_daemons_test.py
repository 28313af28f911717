#!/usr/bin/python3
"""A journal, a syslogd or a service manager that has stopped reading delays no connection: connections
are served and end, and the listener goes on accepting. The queue of each one's socket is full before
nbdinetd starts."""

import os
import socket
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from harness import *
from listening import *

NOBODY = 64322  # a user that owns nothing


class StalledSyslog(Syslog):
    def __init__(self, t):
        super().__init__(t)
        self.options = ["--log=syslog"]
        self.filler = fill(t, self.path)


class StalledJournal:
    """The same for the journal's native protocol."""

    def __init__(self, t):
        need_root("to put a socket where the journal's is")
        need("unshare")
        directory = Path(t.fresh(".run"))
        (directory / "systemd/journal").mkdir(parents=True)
        self.path = str(directory / "systemd/journal/socket")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        t.defer(self._socket.close)
        self._socket.bind(self.path)
        self.prefix = ["/usr/bin/unshare", "--mount", "--", "/bin/sh", "-c",
                       f"mount --bind {directory} /run && exec \"$0\" \"$@\""]
        self.options = ["--log=journal"]
        self.filler = fill(t, self.path)


def fill(t, path):
    """Leaves no room in a datagram socket; the socket that did so."""
    filler = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    t.defer(filler.close)
    filler.setblocking(False)
    filler.connect(path)
    expect_full(filler, 1 << 16)
    return filler


def expect_full(filler, attempts=1):
    for _ in range(attempts):
        try:
            filler.send(b"filler")
        except BlockingIOError:
            return
    raise AssertionError("there is room: somebody has read")


def misuse(client):
    """A connection that ends with a warning."""
    client.start()
    client.send(client.request_bytes(NBD_CMD_READ, 0, 1, magic=0xBAD))
    client.expect_end()


def _tests_of(kind):
    @test(f"a connection is served and ends, whoever accepted it: {kind.__name__}",
          waits=True)
    def _(t):
        image = t.pattern_image(MIB)
        daemon = kind(t)
        for start in (t.activated, t.inetd):
            process, client = start(*daemon.options, image, prefix=daemon.prefix)
            visit(client)
            process.expect(EX_OK)
        expect_full(daemon.filler)

    @test(f"a connection that could log much waits once, not for each message: {kind.__name__}",
          waits=True)
    def _(t):
        # Files of a directory that can't be opened are logged, ten of them, while the handshake has
        # as many seconds.
        os.mkdir(t.path("exports"))
        for i in range(10):
            os.chmod(t.pattern_image(MIB, f"exports/{i}"), 0o600)
            os.chown(t.path(f"exports/{i}"), NOBODY, NOBODY)
        daemon = kind(t)
        process, client = t.activated("--sandbox=require", *daemon.options,
                                      f"--directory={t.path('exports')}", prefix=daemon.prefix)
        client.handshake()
        for i in range(10):
            eq([kind for kind, _ in client.haggle(NBD_OPT_INFO, client.info_bytes(str(i)))],
               [NBD_REP_ERR_POLICY], "a file that can't be opened")
        client.haggle(NBD_OPT_ABORT)
        client.expect_end()
        process.expect(EX_OK)
        expect_full(daemon.filler)

    @test(f"the listener goes on accepting, and its connections are served: {kind.__name__}",
          waits=True)
    def _(t):
        daemon = kind(t)
        door = Door(t)
        process = activate(t, *daemon.options, "--max-connections=1", t.pattern_image(MIB),
                           inherited=[door], prefix=daemon.prefix)
        for _ in range(3):
            first = door.client().start()
            # A line of the listener's own: --max-connections.
            refused = door.client()
            refused.expect_end()
            first.disconnect()
            wait_alone(process)
        misuse(door.client())
        wait_alone(process)
        stop(process)
        expect_full(daemon.filler)


_tests_of(StalledSyslog)
_tests_of(StalledJournal)


@test("a service manager that doesn't read delays no connection, and gets READY=1 once it "
      "reads", waits=True)
def _(t):
    image = t.pattern_image(MIB)
    manager = NotifySocket(t)
    filler = fill(t, manager.path)
    door = Door(t)
    process = activate(t, image, inherited=[door], env={"NOTIFY_SOCKET": manager.path})
    for _ in range(3):
        visit(door.client())
        wait_alone(process)
    expect_full(filler)
    manager.discard(b"filler")
    # Without another connection.
    manager.wait("READY")
    matches("3 served", manager.wait("STATUS", "3 served"))
    stop(process)
    manager.wait("STOPPING")

    filler = fill(t, manager.path)
    process, client = t.activated(image, env={"NOTIFY_SOCKET": manager.path})
    visit(client)
    process.expect(EX_OK)
    expect_full(filler)


@test("the listener logs to a syslogd that is started again, also by a stream socket")
def _(t):
    log = Syslog(t)
    taken = 0
    door = Door(t)
    process = activate(t, "--log=syslog", "--max-connections=1", t.pattern_image(MIB),
                       inherited=[door], prefix=log.prefix)
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_DGRAM):
        log.restart(kind)
        # A line of the listener's own, and those of a connection that was forked after it.
        first = door.client().start()
        door.client().expect_end()
        first.disconnect()
        taken += 3
        wait_until(lambda: len(log.messages()) >= taken, "three messages of each daemon")
        eq([words for words in ("refusing ", "serving export", " ended: ")
            if words in " ".join(text for _, _, text in log.messages()[-3:])],
           ["refusing ", "serving export", " ended: "])
        wait_alone(process)
    stop(process)


if __name__ == "__main__":
    main()
