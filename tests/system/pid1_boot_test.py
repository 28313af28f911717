#!/usr/bin/python3
"""The installed build from boot to shutdown, under a systemd that is process 1 (see support/pid1.py):
the shipped units as they are, enabled as an administrator enables them."""

import os
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import pid1  # noqa: E402
from harness import *  # noqa: E402

PORT = ("127.0.0.1", 10809)

machine = None  # the pid1.Machine


def serve(image, options=""):
    """Lets nbdinetd.socket serve this, from the next connection on."""
    machine.write(f"{pid1.configured('sysconfdir')}/default/nbdinetd",
                  f'NBDINETD_EXPORT="{image}"\nNBDINETD_OPTIONS="{options}"\n')


@test("after make install and systemctl enable --now, and after each boot, a client is served")
def _(t):
    machine.write("/srv/nbd/export.img", pattern(0, MIB))
    serve("/srv/nbd/export.img", "--readonly")
    machine.systemctl("enable", "--now", "nbdinetd.socket")
    for boot in range(2):
        client = Client(connect(PORT)).start()
        eq(client.read(4096, 512), pattern(4096, 512))
        client.disconnect()
        if not boot:
            machine.boot_for(t)
    wait_until(lambda: not machine.instances(), "the connections' units to be gone")
    eq(machine.failed(), [])
    machine.systemctl("disable", "nbdinetd.socket")


def tests(booted):
    global machine
    machine = booted
    main()


if __name__ == "__main__":
    pid1.run(tests)
