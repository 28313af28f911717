#!/usr/bin/python3
"""The file status flags of the client's descriptors, which everybody shares who holds a duplicate,
are as they were found: before, while a client is served, and after each kind of end. (Files that are
handed over: handed_over_test.py.)"""

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
    """Reads of each kind, a write, and the end."""
    for length in (512, 200000, MIB):
        eq(client.read(0, length), pattern(0, length))
    # More than any socket takes at once.
    cookies = [client.request(NBD_CMD_READ, 0, MIB) for _ in range(16)]
    for cookie in cookies:
        eq(client.answer(cookie).check().data, pattern(0, MIB))
    client.write(0, pattern(0, 200000))
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


@test("the flags of a socket are left alone, in plain text and over TLS")
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


@test("the flags of pipes are left alone, whether or not they can be opened anew")
def _(t):
    image = t.pattern_image(MIB)
    os.chmod(image, 0o666)
    prefixes = [[]]
    if os.geteuid() == 0:
        # A pipe is its maker's; another user may not open it, nor anybody without /proc.
        prefixes.append([need("setpriv"), f"--reuid={NOBODY}", f"--regid={NOBODY}",
                         "--clear-groups", "--"])
    for prefix in prefixes:
        for end in ENDS:
            process, client, shared = piped(t, image, prefix=prefix)
            check(t, client.start(), process, shared, flags_of(*shared), end)


@test("a shell that shares its pipe goes on with it after nbdinetd")
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


@test("a listening socket blocks again for whoever gets it next")
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
    # Two at the same time: the first sets it back while the second has it.
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
