#!/usr/bin/python3
"""nbdinetd closes each descriptor that it inherits without having been given it: neither a connection's
process, nor the listener, nor the command of --run has it."""

import os
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from harness import *
from listening import *

SECRETS = (9, 150, 1000)  # where they are


class Careless:
    """A parent whose children have its secret as descriptors 9, 150 and 1000."""

    def __init__(self, t):
        self.t = t
        self.path = t.image(b"secret", "secret")
        self.fds = {number: opened(t, self.path) for number in SECRETS}

    def expect_gone(self, pid, known):
        """A process has these descriptors of a superserver's, and none of the secrets. What it has
        opened itself is an anonymous inode, a socket, or one of these files."""
        descriptors = descriptors_of(pid)
        eq([number for number in known if number not in descriptors], [], "descriptors that it needs")
        eq([number for number, target in descriptors.items() if target == self.path], [],
           f"secrets in {descriptors}")


def starts(t, image, careless):
    """(name, how it is started: gives (process, client, the descriptors that it needs))"""
    def activated():
        return *t.activated(image, fds=careless.fds), (0, 1, 2, 3)

    def inetd():
        # As inetd and xinetd do it, and with a second descriptor of the same connection.
        ours, theirs = t.connection()
        process = t.spawn([NBDINETD, image], fds={0: theirs, 1: theirs, 2: theirs, 7: theirs,
                                                  **careless.fds})
        theirs.close()
        return process, Client(ours), (0, 1, 2)

    def piped():
        their_input, our_output = os.pipe()
        our_input, their_output = os.pipe()
        process = t.spawn([NBDINETD, "-s", image],
                          fds={0: their_input, 1: their_output, **careless.fds})
        os.close(their_input)
        os.close(their_output)
        client = Client(our_input, our_output)
        t.defer(client.close)
        return process, client, (0, 1, 2)
    return (("systemd, Accept=yes", activated), ("inetd", inetd), ("ssh", piped))


@test("a connection's process has no descriptor that it wasn't given: systemd, inetd, ssh")
def _(t):
    image, careless = t.pattern_image(MIB), Careless(t)
    for name, start in starts(t, image, careless):
        process, client, known = start()
        client.start()
        client.read(0, 512)
        careless.expect_gone(process.pid, known)
        # Nor has it what it was given and doesn't need.
        eq([descriptors_of(process.pid)[number] for number in (0, 1)], ["/dev/null"] * 2, name)
        if name == "inetd":
            sockets = [target for target in descriptors_of(process.pid).values()
                       if target.startswith("socket:")]
            eq(len(sockets), len(set(sockets)), f"a socket twice: {sockets}")
        client.disconnect()
        process.expect(EX_OK)


@test("a listener and the processes that it forks have no such descriptor: systemd, "
      "stand-alone, in the background")
def _(t):
    image, careless = t.pattern_image(MIB), Careless(t)
    door = Door(t)
    process = t.spawn([NBDINETD, image], fds={3: door, **careless.fds}, listen_fds=1,
                      listen_pid="own")
    client = door.client().start()
    careless.expect_gone(process.pid, (0, 1, 2, 3))
    careless.expect_gone(children_of(process.pid)[0], (0, 1, 2))
    client.disconnect()
    stop(process)

    path = t.fresh(".sock")
    process = t.spawn([NBDINETD, "-f", "-U", path, image], fds=careless.fds)
    wait_listening(path)
    client = Client(connect(path)).start()
    careless.expect_gone(process.pid, (0, 1, 2))
    careless.expect_gone(children_of(process.pid)[0], (0, 1, 2))
    client.disconnect()
    stop(process)

    path, pidfile = t.fresh(".sock"), t.fresh(".pid")
    t.run([NBDINETD, "-U", path, "-P", pidfile, image], fds=careless.fds)
    pid = int(Path(pidfile).read_text())
    careless.expect_gone(pid, (0, 1, 2))
    client = Client(connect(path)).start()
    careless.expect_gone(children_of(pid)[0], (0, 1, 2))
    client.disconnect()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: state_of(pid) in (None, "Z"), "the server's end")


@test("the command of --run has standard input, output and error, and nothing else")
def _(t):
    image, careless = t.pattern_image(MIB), Careless(t)
    source = opened(t, t.image(b"for the command\n"))
    process = t.run([NBDINETD, "--run", "cat; ls /proc/$$/fd", image],
                    fds={0: source, **careless.fds})
    # dash keeps 10 for itself where it is interactive; here it isn't.
    eq(process.stdout().split("\n"), ["for the command", "0", "1", "2", ""])


@test("without close_range the descriptors in /proc are closed, and without /proc all numbers")
def _(t):
    image, careless = t.pattern_image(MIB), Careless(t)
    need_root("to be without /proc")
    without_proc = ["/usr/bin/unshare", "--mount", "--", "/bin/sh", "-c",
                    "mount -t tmpfs none /proc && exec \"$0\" \"$@\""]
    for error in ("ENOSYS", "EPERM"):
        for how in ([], without_proc):
            prefix = [need("strace"), "-f", "-qq", "-e", "signal=none", "-e", "trace=close_range",
                      "-o", "/dev/null", "-e", f"inject=close_range:error={error}", *how]
            ours, theirs = t.connection()
            process = t.spawn([*prefix, NBDINETD, "-s", image],
                              fds={0: theirs, 1: theirs, **careless.fds})
            theirs.close()
            client = Client(ours).start()
            server, = servers_below(process.pid)
            careless.expect_gone(server, (0, 1, 2))
            client.disconnect()
            process.expect(EX_OK)


@test("a descriptor that an option names stays, and is served")
def _(t):
    image, careless = t.pattern_image(MIB), Careless(t)
    file = opened(t, image)
    os.mkdir(t.path("exports"))
    t.pattern_image(MIB, "exports/disk")
    folder = opened(t, t.path("exports"), os.O_RDONLY)
    for argument, source, name in (("/dev/fd/20", file, ""), ("/proc/self/fd/20", file, ""),
                                   ("/dev/fd/0", file, ""), ("/dev/stdin", file, ""),
                                   ("--directory=/dev/fd/20", folder, "disk"),
                                   ("/dev/fd/20/disk", folder, "")):
        at = 0 if argument.endswith(("0", "stdin")) and not argument.endswith("20") else 20
        process, client = t.activated(argument, fds={**careless.fds, at: source})
        visit(client, name)
        process.expect(EX_OK)
        path = t.fresh(".sock")
        process = t.spawn([NBDINETD, "-f", "-U", path, argument],
                          fds={**careless.fds, at: source})
        wait_listening(path, process)
        for _ in range(2):
            visit(Client(connect(path)), name)
        careless.expect_gone(process.pid, (0, 1, 2, at))
        stop(process)


if __name__ == "__main__":
    main()
