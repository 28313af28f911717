"""Helpers of the tests of nbdinetctl probe: the probe, and servers to be probed."""

import socket
import threading

from harness import *
from harness import BUILDDIR, MIB, NBDINETD, eq, free_port, main, skip_all, wait_listening

NBDINETCTL = BUILDDIR / "src" / "nbdinetctl"


def probe(t, *argv, status=0, **how):
    return t.run([NBDINETCTL, "probe", *argv], status, **how)


def refused(t, *argv):
    """The sentence about a server that doesn't serve."""
    process = probe(t, *argv, status=1)
    eq(process.stdout(), "")
    eq(process.stderr().count("\n"), 1, process.stderr())
    return process.stderr()


def serve(t, *options, size=4 * MIB, address=None):
    """nbdinetd listening; its address."""
    address = address or ("127.0.0.1", free_port())
    where = [f"--unix={address}"] if isinstance(address, str) else ["-i", address[0], "-p", str(address[1])]
    image = t.sparse_image(size)
    process = t.spawn([NBDINETD, "-f", *where, *options, image])
    wait_listening(address, process)
    return address


def server_that(t, answer):
    """The address of a server that does this with each connection."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(5)
    # shutdown() ends an accept() that is under way, and close() doesn't.
    t.defer(listener.close)
    t.defer(listener.shutdown, socket.SHUT_RDWR)

    def accept():
        try:
            while True:
                connection, _ = listener.accept()
                with connection:
                    answer(connection)
        except OSError:
            pass
    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()


def main_with_nbdinetctl(run=main):
    """main(), unless there is no nbdinetctl."""
    if not NBDINETCTL.exists():
        skip_all("nbdinetctl isn't built")
    run()
