#!/usr/bin/python3
"""The lines of a connection in the journal of a whole system (see support/pid1.py): how many there are,
how to have fewer, and what `journalctl -x` says of them once nbdinetd is installed."""

import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
import pid1
from harness import *

PORT = ("127.0.0.1", 10809)

machine = None  # the pid1.Machine


def visit():
    """A client that is served."""
    client = Client(connect(PORT)).start()
    client.read(0, 512)
    client.disconnect()


def intrude():
    """A peer that is no NBD client."""
    client = Client(connect(PORT))
    client.greeting()
    client.send(b"GET / HTTP/1.1\r\n")
    client.read_to_end()
    client.close()


def lines(act):
    """The lines of one connection: those of nbdinetd, and those of systemd about its unit."""
    wait_until(lambda: not machine.instances(), "the units of earlier connections to be gone")
    since = machine.now_us()
    act()
    wait_until(lambda: not machine.instances(), "the connection's unit to be gone")
    # What journald was told before this has been written by then.
    machine.run("journalctl", "--sync")
    return [e["MESSAGE"] for e in machine.journal(since)
            if e.get("SYSLOG_IDENTIFIER") == "nbdinetd" or e.get("UNIT", "").startswith("nbdinetd@")]


def expect_lines(got, *patterns):
    """One line for each pattern, in whatever order two processes have told them."""
    eq(len(got), len(patterns), f"lines: {got}")
    for pattern_ in patterns:
        matches(pattern_, "\n".join(got))


@test("an orderly connection is four lines, two of them systemd's; with LogLevelMax=notice there is none, "
      "and what went wrong is still told")
def _(t):
    machine.write("/srv/nbd/export.img", pattern(0, MIB))
    machine.write(f"{pid1.configured('sysconfdir')}/default/nbdinetd",
                  'NBDINETD_EXPORT="/srv/nbd/export.img"\nNBDINETD_OPTIONS="--readonly"\n')
    machine.systemctl("start", "nbdinetd.socket")
    t.defer(machine.systemctl, "stop", "nbdinetd.socket")
    visit()  # the first one also makes the units' slice
    expect_lines(lines(visit), r"^Started nbdinetd@", r"^serving export ", r" ended: client disconnected; ",
                 r"^nbdinetd@\S+: Deactivated successfully\.$")
    expect_lines(lines(intrude), r"^Started nbdinetd@", r" ended: not an NBD client: ",
                 r"^nbdinetd@\S+: Deactivated successfully\.$")

    machine.write("/etc/systemd/system/nbdinetd@.service.d/quiet.conf", "[Service]\nLogLevelMax=notice\n")
    machine.systemctl("daemon-reload")
    expect_lines(lines(visit))
    got = lines(intrude)
    eq([line for line in got if "Main process exited" not in line],
       [line for line in got if " ended: not an NBD client: " in line])
    eq(len(got) in (1, 2), True, f"lines: {got}")


@test("after the installation, journalctl -x explains the messages")
def _(t):
    since = machine.now_us()
    machine.systemctl("start", "nbdinetd.socket")
    t.defer(machine.systemctl, "stop", "nbdinetd.socket")
    machine.run("journalctl", "--update-catalog")
    intrude()
    machine.wait_for_message(since, " ended: not an NBD client: ")
    entry = machine.log(since)[-1]
    shown = machine.run("journalctl", "-x", "--no-pager", "-n1", f"--cursor={entry['__CURSOR']}").stdout
    contains("Subject: A peer is no NBD client", shown)


def tests(booted):
    global machine
    machine = booted
    main()


if __name__ == "__main__":
    pid1.run(tests)
