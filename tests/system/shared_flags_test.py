#!/usr/bin/python3
"""nbdinetd leaves the file status flags of the client's descriptors as it finds them, since all
duplicates of a descriptor share them: while a client is served, and after each kind of end.
handed_over_test.py has the same for files that are handed over."""

import fcntl
import os
import signal
import struct
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402
from listening import *  # noqa: E402
from tls import TlsClient, authority  # noqa: E402

NOBODY = 64322
ENDS = ("NBD_CMD_DISC", "a wrong magic", "SIGTERM", "SIGKILL")


def flags_of(*descriptors):
    return [fcntl.fcntl(d, fcntl.F_GETFL) for d in descriptors]


def serve(client, process, end):
    """Does reads of each kind and a write, yields, ends the connection, and yields again."""
    content = pattern(0, MIB)
    for length in (512, 200000, MIB):
        eq(client.read(0, length), content[:length])
    # The replies are more than any socket takes at once.
    cookies = [client.request(NBD_CMD_READ, 0, MIB) for _ in range(16)]
    for cookie in cookies:
        eq(client.answer(cookie).check().data == content, True, "the data of a READ")
    client.write(0, content[:200000])
    yield
    if end == "NBD_CMD_DISC":
        client.send(client.request_bytes(NBD_CMD_DISC))
    elif end == "a wrong magic":
        client.send(bytes(28))
    else:
        process.signal(signal.SIGTERM if end == "SIGTERM" else signal.SIGKILL)
    process.wait()
    yield


def check(t, client, process, shared, before, end):
    stages = serve(client, process, end)
    for when in ("while it is served", f"after {end}"):
        next(stages)
        eq(flags_of(*shared), before, when)


@test("nbdinetd changes no flags of a socket, in plain text and over TLS")
def _(t):
    files, image = authority().server_files(t), t.pattern_image(MIB)
    for family in ("socketpair", "tcp"):
        for end in ENDS:
            for tls in ([], ["--tls=require", f"--tls-certificates={files}"]):
                ours, theirs = t.connection(family)
                before = flags_of(theirs)
                process = t.spawn([NBDINETD, *tls, image], fds={3: theirs}, listen_fds=1,
                                  listen_pid="own")
                client = Client(ours)
                if tls:
                    client = TlsClient.of(client)
                check(t, client.start(), process, [theirs], before, end)


def piped(t, *arguments, prefix=()):
    """(process, client, [its ends of the pipes])"""
    their_input, our_output = os.pipe()
    our_input, their_output = os.pipe()
    process = t.spawn([*prefix, NBDINETD, "-s", *arguments], fds={0: their_input, 1: their_output})
    for end in (their_input, their_output):
        t.defer(os.close, end)
    client = Client(our_input, our_output)
    t.defer(client.close)
    return process, client, [their_input, their_output]


@test("nbdinetd changes no flags of pipes, whether or not it can open them anew")
def _(t):
    image = t.pattern_image(MIB)
    os.chmod(image, 0o666)
    prefixes = [[]]
    if os.geteuid() == 0:
        # Another user than the maker of a pipe may not open it anew.
        prefixes.append(as_user(NOBODY))
    for prefix in prefixes:
        for end in ENDS:
            process, client, shared = piped(t, image, prefix=prefix)
            check(t, client.start(), process, shared, flags_of(*shared), end)


@test("a shell can read on from a pipe that it shared with nbdinetd")
def _(t):
    image = t.pattern_image(MIB)
    their_input, our_output = os.pipe()
    our_input, their_output = os.pipe()
    process = t.spawn(["/bin/sh", "-c", f"{NBDINETD} -s {image}; read word; echo got $word"],
                      fds={0: their_input, 1: their_output})
    os.close(their_input)
    os.close(their_output)
    client = Client(our_input, our_output)
    t.defer(client.close)
    client.start()
    client.send(client.request_bytes(NBD_CMD_DISC))
    wait_until(lambda: not servers_below(process.pid), "nbdinetd to end")
    client.send(b"more\n")
    eq(client.read_to_end(), b"got more\n")
    process.expect(EX_OK)


@test("a listening socket is left in blocking mode when the listener ends")
def _(t):
    image = t.pattern_image(MIB)
    for number in (signal.SIGTERM, signal.SIGHUP):
        door = Door(t)
        before = flags_of(door.fileno())
        eq(before[0] & os.O_NONBLOCK, 0, "a socket that blocks")
        process = activate(t, image, inherited=[door])
        visit(door.client())
        process.signal(number)
        process.expect(EX_OK)
        eq(flags_of(door.fileno()), before)
    # Of two listeners on one socket, the first sets the flag back while the second still accepts.
    door = Door(t)
    first = activate(t, image, inherited=[door])
    visit(door.client())
    second = activate(t, image, inherited=[door])
    visit(door.client())
    stop(first)
    for _ in range(3):
        visit(door.client())
    stop(second)
    eq(flags_of(door.fileno())[0] & os.O_NONBLOCK, 0)


main()
