#!/usr/bin/python3
"""A connection's process under Accept=yes sends WATCHDOG=1 in every phase that can last: else a
WatchdogSec= in nbdinetd@.service would end clients that only wait. The listener's WATCHDOG=1 is in
listener_test.py, and both under a real systemd in systemd_test.py and listen_units_test.py."""

import os
import signal
import struct
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402
from listening import *  # noqa: E402
from faults import *  # noqa: E402

# The interval is half of it. How late one comes on a busy machine is not looked at, only that they
# go on coming while nothing else happens.
WATCHDOG_USEC = 200_000
SEVERAL = 4

# No phase may end by itself while it is looked at.
PATIENT = ["--handshake-timeout=10min", "--stall-timeout=10min"]


class Watched:
    """A connection's process that a watchdog watches, and the watchdog."""

    def __init__(self, t, *arguments, start=None, env=None, **how):
        self.notify = NotifySocket(t)
        self.process, self.client = (start or t.activated)(
            *PATIENT, *arguments, env={"NOTIFY_SOCKET": self.notify.path,
                                       "WATCHDOG_USEC": str(WATCHDOG_USEC), **(env or {})}, **how)

    def count(self):
        return len([1 for sender, state in self.notify.messages()
                    if sender == self.process.pid and state.get("WATCHDOG") == "1"])

    def is_heard(self, phase):
        """Several come, and the process lives."""
        since = self.count()
        wait_until(lambda: self.count() >= since + SEVERAL or self.process.poll() is not None,
                   f"WATCHDOG=1 {phase}")
        eq(self.process.poll(), None, f"the end of the process {phase}")


def negotiated(t, *arguments, **how):
    watched = Watched(t, *arguments, **how)
    watched.client.start()
    return watched


@test("WATCHDOG=1 goes on coming during negotiation, whatever of it is awaited", waits=True)
def _(t):
    image = t.pattern_image(MIB)
    for start in (t.activated, t.inetd):
        watched = Watched(t, image, start=start)
        watched.is_heard("before the client's flags")
        watched.client.handshake()
        watched.is_heard("between two options")
        watched.client.send(struct.pack(">QII", 0x49484156454F5054, NBD_OPT_GO, 100) + bytes(50))
        watched.is_heard("inside an option")
        watched.client.close()
        watched.process.wait()


@test("WATCHDOG=1 goes on coming over a pair of pipes, as from ssh", waits=True)
def _(t):
    watched = Watched(t, "-s", t.pattern_image(MIB), start=t.piped)
    watched.is_heard("before the client's flags")
    watched.client.start()
    watched.is_heard("while the client is idle")
    watched.client.disconnect()
    watched.process.expect(EX_OK)


@test("WATCHDOG=1 goes on coming during the TLS handshake", waits=True)
def _(t):
    image, keys = t.pattern_image(MIB), t.image(b"alice:" + b"ab" * 32 + b"\n")
    probe = t.run([NBDINETD, "--check", f"--tls-psk={keys}", image], status=None)
    if "without OpenSSL" in probe.stderr():
        raise Skip("nbdinetd was built without OpenSSL")
    watched = Watched(t, "--tls=require", f"--tls-psk={keys}", image)
    watched.client.handshake()
    eq(watched.client.haggle(NBD_OPT_STARTTLS), [(NBD_REP_ACK, b"")])
    watched.is_heard("before the ClientHello")
    watched.client.send(b"\x16\x03\x01\x02\x00\x01")
    watched.is_heard("inside the ClientHello")
    watched.client.close()
    watched.process.wait()


@test("WATCHDOG=1 goes on coming while the export is another client's, with --exclusive=wait and "
      "takeover", waits=True)
def _(t):
    image = t.pattern_image(MIB)
    holder, first = t.activated("--exclusive", image)
    first.start()
    # It is asked to leave, and can't hear it.
    holder.signal(signal.SIGSTOP)
    wait_until(lambda: state_of(holder.pid) == "T", "the holder to be stopped")
    for mode in ("wait", "takeover"):
        watched = Watched(t, f"--exclusive={mode}", image)
        watched.client.handshake()
        watched.client.option(NBD_OPT_GO, Client.info_bytes(""))
        watched.is_heard(f"with --exclusive={mode}")
        watched.client.close()
        watched.process.wait()
    holder.signal(signal.SIGKILL)
    holder.wait()


@test("WATCHDOG=1 goes on coming during transmission: idle, busy, inside a request, and while the "
      "client reads no replies", waits=True)
def _(t):
    for family in ("socketpair", "tcp"):
        watched = negotiated(t, t.pattern_image(16 * MIB), family=family)
        client = watched.client
        watched.is_heard("while the client is idle")
        since = watched.count()
        while watched.count() < since + SEVERAL:
            eq(client.read(0, 512), pattern(0, 512))
        request = client.request_bytes(NBD_CMD_WRITE, 0, 1024, cookie=7, payload=bytes(1024))
        client.send(request[:10])
        watched.is_heard("inside a request's header")
        client.send(request[10:500])
        watched.is_heard("inside a payload")
        client.send(request[500:])
        eq(struct.unpack(">IHHQI", client.receive(20))[3], 7, "the cookie of the reply")
        # One reply that fills every buffer, and more behind it.
        client.send(client.request_bytes(NBD_CMD_READ, 0, 16 * MIB) * 4)
        watched.is_heard("while the client reads no replies")
        client.close()
        watched.process.wait()


@test("WATCHDOG=1 goes on coming while the storage is waited for, and during the last flush",
      waits=True)
def _(t):
    need_privilege("fuse")
    with FailingFs(t.path("."), pattern(0, 4 * MIB)) as storage:
        for operation, ask in (("read", lambda c: c.request(NBD_CMD_READ, 0, 512)),
                               ("sync", lambda c: c.request(NBD_CMD_FLUSH)),
                               ("write", lambda c: c.request(NBD_CMD_WRITE, 0, payload=bytes(512),
                                                             flags=NBD_CMD_FLAG_FUA))):
            watched = negotiated(t, storage.disk)
            storage.rule(operation, "hold")
            cookie = ask(watched.client)
            storage.wait_held(1)
            watched.is_heard(f"while a {operation} waits")
            storage.release()
            eq(watched.client.answer(cookie).error, NBD_SUCCESS)
            watched.client.disconnect()
            watched.process.expect(EX_OK)
        # Nobody is left to be served, and the process is still what the watchdog watches: after a
        # takeover its unit isn't being stopped.
        watched = negotiated(t, "--exclusive=takeover", storage.disk)
        watched.client.write(0, b"\x29" * 4096)
        storage.rule("sync", "hold")
        watched.process.signal(signal.SIGURG)
        storage.wait_held(1)
        watched.is_heard("during the last flush")
        storage.release()
        watched.process.expect(EX_OK)


@test("no WATCHDOG=1 without a watchdog, and none for that of another process", waits=True)
def _(t):
    image = t.pattern_image(MIB)
    for env in ({"WATCHDOG_USEC": None}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "nonsense"},
                {"WATCHDOG_PID": str(os.getpid())}, {"WATCHDOG_PID": ""}):
        watched = negotiated(t, image, env=env)
        # A status tells that what comes is heard.
        watched.notify.wait("STATUS", "serving")
        for _ in range(200):
            watched.client.read(0, 512)
        time.sleep(2.5 * WATCHDOG_USEC / 1e6)
        watched.client.disconnect()
        watched.process.expect(EX_OK)
        eq(watched.count(), 0, f"WATCHDOG=1 with {env}")


if __name__ == "__main__":
    main()
