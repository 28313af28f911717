#!/usr/bin/python3
"""Each pair of features that can meet on one connection keeps what both of them promise; a pair that
can't meet is an error that says so.

The file named after a feature tests the feature alone. A test here is about faults between two: a
setting that is handed on by one way and not by the other, a message that reaches the client.
feature_pairs_access_test.py has the pairs of rules, and feature_pairs_limits_test.py those of limits. The check
that no pair is missing is here, and covers all of these files.

It is longer than 500 lines because it has 91 pairs.
"""

import itertools
import os
import signal
import socket
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from feature_pairs import *  # noqa: E402

# ------------------------------------------------------------------ TLS

@pair(TLS, EXCLUSIVE, "a second client over TLS is refused, and several connections aren't promised")
def _(t):
    image = t.pattern_image(MIB)
    options = [*certificates(t), image]
    _, first = t.activated("--exclusive", *options)
    first = over_tls(first).start()
    eq(first.flags & NBD_FLAG_CAN_MULTI_CONN, 0, "NBD_FLAG_CAN_MULTI_CONN")
    process, second = t.activated("--exclusive", *options)
    second = over_tls(second).start_tls()
    expect_in_use(second)
    # In plain text it is the same lock.
    _, third = t.activated("--exclusive", image)
    third.handshake()
    expect_in_use(third)
    # One that waits has it when the first has left.
    _, waiting = t.activated("--exclusive=wait", *options)
    waiting = over_tls(waiting).start_tls()
    waiting.option(NBD_OPT_GO, Client.info_bytes())
    leave(first)
    eq(waiting.option_reply(NBD_OPT_GO)[0], NBD_REP_INFO)
    eq(waiting.option_reply(NBD_OPT_GO)[0], NBD_REP_ACK)
    expect_in_use(second)
    second.haggle(NBD_OPT_ABORT)
    process.expect(EX_UNAVAILABLE)
    good(waiting)
    # And one that takes it over.
    _, taker = t.activated("--exclusive=takeover", *options)
    taker = over_tls(taker).start_tls()
    taker.option(NBD_OPT_GO, Client.info_bytes())
    waiting.expect_end()
    eq(waiting.close_notify, True, "close_notify of the server")
    eq(taker.option_reply(NBD_OPT_GO)[0], NBD_REP_INFO)
    eq(taker.option_reply(NBD_OPT_GO)[0], NBD_REP_ACK)
    good(taker)
    leave(taker)


@pair(TLS, DIRECTORY, "names are told, files found and served over TLS, and not in plain text where "
                      "it is required")
def _(t):
    path = exports(t, "disk", "other")
    process, client = t.activated(*certificates(t), f"--directory={path}")
    client.handshake()
    for option, data in ((NBD_OPT_LIST, b""), (NBD_OPT_INFO, Client.info_bytes("disk")),
                         (NBD_OPT_GO, Client.info_bytes("missing"))):
        eq(client.haggle(option, data)[-1][0], NBD_REP_ERR_TLS_REQD)
    client = over_tls(client)
    client.ask_for_tls()
    client.begin_tls()
    client.shake_hands()
    eq([name for name, _ in client.list_exports()], ["disk", "other"])
    eq(refusal(client, "missing")[0], NBD_REP_ERR_UNKNOWN)
    client.info("other")
    client.go("disk")
    good(client)
    client.write(0, b"w" * 512)
    leave(client)
    process.expect(EX_OK)
    eq(Path(path, "disk").read_bytes()[:512], b"w" * 512)
    matches(r'serving export "disk".*, TLS \(', process.stderr())


@pair(TLS, READ_ONLY, "the flag is there over TLS, and nothing that writes has an effect")
def _(t):
    image = t.pattern_image(MIB)
    process, client = t.activated("-r", *certificates(t), image)
    client = over_tls(client).start()
    expect_read_only(client, image)
    leave(client)
    process.expect(EX_OK)


@pair(TLS, PIPES, "TLS goes over a pair of pipes, and ends with a close_notify")
def _(t):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        process, client = piped(t, *certificates(t), t.pattern_image(MIB))
        client = over_tls(client).start(tls=client_context(version=version))
        client.write(0, b"w" * 300000)
        eq(client.read(0, 300000) == b"w" * 300000, True, "the bytes")
        leave(client)
        process.expect(EX_OK)


@pair(TLS, STANDARD_ERROR, "no message gets between the records, or into the plain text before them")
def _(t):
    for failing in (False, True):
        image = t.pattern_image(MIB)
        process, client = on_the_client(t, "-v", *certificates(t), image)
        client = over_tls(client).start()
        only_nbd(client)
        if failing:
            os.truncate(image, 0)  # a storage error, which is logged
            eq(client.call(NBD_CMD_READ, 0, 512).error, NBD_EIO)
        else:
            good(client)
        leave(client)
        process.expect(EX_OK)
    # A handshake that fails is logged, too.
    process, client = on_the_client(t, "-v", *certificates(t), t.pattern_image(MIB))
    client.handshake()
    client = over_tls(client)
    client.ask_for_tls()
    client.send_raw(b"GET / HTTP/1.0\r\n\r\n")
    rest = client.read_to_end()
    process.expect(EX_NOPERM)
    ALERT = 21
    eq(rest == b"" or rest[0] == ALERT and len(rest) == 7, True, f"nothing but an alert: {rest!r}")


@pair(TLS, RUN, "the command finds its server by TLS, and its end drains with a close_notify")
def _(t):
    server = Running(t, *certificates(t), t.pattern_image(MIB))
    eq(server.uri(), f"nbds+unix:///?socket={server.path}")
    plain = server.client()
    plain.handshake()
    eq(refusal(plain)[0], NBD_REP_ERR_TLS_REQD)
    client = over_tls(server.client()).start()
    good(client)
    server.end()
    client.expect_end()
    eq(client.close_notify, True, "close_notify of the server")
    # Where it may be had or left, the URI is one for everybody.
    server = Running(t, "--tls=on", f"--tls-certificates={authority().server_files(t)}",
                     t.pattern_image(MIB))
    eq(server.uri(), f"nbd+unix:///?socket={server.path}")
    server.end()


@pair(TLS, SIGNALS, "SIGTERM drains, and says goodbye with a close_notify")
def _(t):
    image = t.pattern_image(MIB)
    for number in (signal.SIGTERM, signal.SIGINT):
        process, client = t.activated(*certificates(t), image)
        client = over_tls(client).start()
        drained(process, client, number)
        eq(client.close_notify, True, "close_notify of the server")
        # Between two options over TLS.
        process, client = t.activated(*certificates(t), image)
        client = over_tls(client).start_tls()
        client.list_exports()
        process.signal(number)
        client.expect_end()
        eq(client.close_notify, True, "close_notify of the server")
        process.expect(EX_OK)


@pair(TLS, SANDBOX, "keys are read before, and all of TLS is spoken within")
def _(t):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        process, client = t.activated("--sandbox=require", *certificates(t), t.pattern_image(MIB),
                                      family="tcp")
        client = over_tls(client).start_tls(client_context(version=version))
        shut_in(process.pid, 1)
        client.start()
        good(client, 0, MIB)
        shut_in(process.pid, 2)
        client.write(0, b"w" * 300000)
        leave(client)
        process.expect(EX_OK)


@pair(TLS, HANDED_OVER, "files under their names, found and served over TLS")
def _(t):
    image = t.pattern_image(MIB)
    process, client = handed_over(t, *certificates(t), files=[
        ("disk", opened(t, image)), ("other", opened(t, t.pattern_image(2 * MIB), os.O_RDONLY))])
    client = over_tls(client).start_tls()
    eq(sorted(name for name, _ in client.list_exports()), ["disk", "other"])
    client.info("other")
    eq(client.size, 2 * MIB)
    client.go("disk")
    client.write(0, b"w" * 512)
    leave(client)
    process.expect(EX_OK)
    eq(Path(image).read_bytes()[:512], b"w" * 512)


# ------------------------------------------------------------------ exclusive

@pair(EXCLUSIVE, DIRECTORY, "each file is locked by itself, when it is chosen")
def _(t):
    path = exports(t, "disk", "other")
    def begin():
        process, client = t.activated("--exclusive", f"--directory={path}")
        client.handshake()
        return process, client
    _, first = begin()
    first.go("disk")
    eq(first.flags & NBD_FLAG_CAN_MULTI_CONN, 0, "NBD_FLAG_CAN_MULTI_CONN")
    _, second = begin()
    second.info("disk")  # to ask is no use
    expect_in_use(second, "disk")
    second.go("other")
    _, third = begin()
    expect_in_use(third, "disk")
    expect_in_use(third, "other")
    leave(first)
    wait_until(lambda: third.haggle(NBD_OPT_GO, Client.info_bytes("disk"))[-1][0] == NBD_REP_ACK,
               "the lock to be gone")
    good(third)


@pair(EXCLUSIVE, READ_ONLY, "readers exclude each other and writers, and can write no more for it")
def _(t):
    image = t.pattern_image(MIB)
    for options in (["-r"], []):
        process, first = t.activated("--exclusive", *options, image)
        first.start()
        eq(first.flags & NBD_FLAG_CAN_MULTI_CONN, 0, "NBD_FLAG_CAN_MULTI_CONN")
        if options:
            expect_read_only(first, image)
        for others in (["-r"], []):
            _, second = t.activated("--exclusive", *others, image)
            second.handshake()
            expect_in_use(second)
        leave(first)
        process.expect(EX_OK)


@pair(EXCLUSIVE, PIPES, "a client on pipes has the lock, and one on a socket is refused, and the other "
                        "way round")
def _(t):
    image = t.pattern_image(MIB)
    ways = (lambda: piped(t, "--exclusive", image), lambda: t.activated("--exclusive", image))
    for one, other in (ways, ways[::-1], (ways[0], ways[0])):
        process, first = one()
        first.start()
        refused, second = other()
        second.handshake()
        expect_in_use(second)
        second.haggle(NBD_OPT_ABORT)
        refused.expect(EX_UNAVAILABLE)
        good(first)
        leave(first)
        process.expect(EX_OK)


@pair(EXCLUSIVE, STANDARD_ERROR, "the client that is refused gets the reply, and not the message as "
                                 "well")
def _(t):
    image = t.pattern_image(MIB)
    _, first = t.activated("--exclusive", image)
    first.start()
    for mode in ("refuse", "wait"):
        process, second = on_the_client(t, "-v", f"--exclusive={mode}", "--handshake-timeout=300ms",
                                        image)
        second.handshake()
        eq(refusal(second)[0], NBD_REP_ERR_POLICY)
        only_nbd(second)
        if mode == "refuse":
            second.close()
        else:
            second.expect_end()
        process.expect(EX_UNAVAILABLE)


@pair(EXCLUSIVE, RUN, "of the clients of one server the first has it; the exit status stays the "
                      "command's")
def _(t):
    server = Running(t, "--exclusive", t.pattern_image(MIB))
    first = server.client().start()
    eq(first.flags & NBD_FLAG_CAN_MULTI_CONN, 0, "NBD_FLAG_CAN_MULTI_CONN")
    second = server.client()
    second.handshake()
    expect_in_use(second)
    leave(first)
    wait_until(lambda: second.haggle(NBD_OPT_GO, Client.info_bytes())[-1][0] == NBD_REP_ACK,
               "the lock to be gone")
    good(second)
    server.end()
    second.expect_end()


@pair(EXCLUSIVE, SIGNALS, "SIGTERM drains and gives the lock up, also of one that waits for it; a "
                          "takeover drains in the same way")
def _(t):
    image = t.pattern_image(MIB)
    process, first = t.activated("--exclusive", image)
    first.start()
    # One that waits for as long as it takes, and says nothing more.
    waiting_process, waiting = t.activated("--exclusive=wait", "--handshake-timeout=0", image)
    waiting.handshake()
    waiting.option(NBD_OPT_GO, Client.info_bytes())
    # One that has been refused, and stays.
    refused_process, refused = t.activated("--exclusive", "--handshake-timeout=0", image)
    refused.handshake()
    expect_in_use(refused)
    for its_process, client in ((waiting_process, waiting), (refused_process, refused)):
        its_process.signal(signal.SIGTERM)
        client.read_to_end()
        its_process.expect(EX_OK)
        matches(" ended: the server is shutting down\n", its_process.stderr())
    drained(process, first)
    process, second = t.activated("--exclusive", image)
    second.start()
    eq(second.read(8192, 4096), b"d" * 4096, "what was written at last")
    taker_process, taker = t.activated("--exclusive=takeover", image)
    taker.start()
    second.expect_end()
    process.expect(EX_OK)
    contains("another takes over the export", process.stderr())
    leave(taker)
    taker_process.expect(EX_OK)


@pair(EXCLUSIVE, SANDBOX, "the lock is had, waited for and taken over from within")
def _(t):
    image = t.pattern_image(MIB)
    first_process, first = t.activated("--sandbox=require", "--exclusive", image)
    first.start()
    good(first)
    shut_in(first_process.pid)
    process, second = t.activated("--sandbox=require", "--exclusive", image)
    second.handshake()
    shut_in(process.pid, 1)
    expect_in_use(second)
    taker_process, taker = t.activated("--sandbox=require", "--exclusive=takeover", image)
    taker.start()
    first_process.expect(EX_OK)
    good(taker)
    shut_in(taker_process.pid)
    _, waiting = t.activated("--sandbox=require", "--exclusive=wait", "-r", image)
    waiting.handshake()
    waiting.option(NBD_OPT_GO, Client.info_bytes())
    leave(taker)
    eq(waiting.option_reply(NBD_OPT_GO)[0], NBD_REP_INFO)
    leave_kind = waiting.option_reply(NBD_OPT_GO)[0]
    eq(leave_kind, NBD_REP_ACK)


@pair(EXCLUSIVE, HANDED_OVER, "a file that is handed over is the same file for the lock; one that "
                              "can't be opened anew is refused")
def _(t):
    image = t.pattern_image(MIB)
    process, first = handed_over(t, "--exclusive", files=[("disk", opened(t, image))])
    first.start("disk")
    eq(first.flags & NBD_FLAG_CAN_MULTI_CONN, 0, "NBD_FLAG_CAN_MULTI_CONN")
    for second in (t.activated("--exclusive", image)[1],
                   handed_over(t, "--exclusive", files=[("disk", opened(t, image))])[1]):
        second.handshake()
        expect_in_use(second)
    leave(first)
    process.expect(EX_OK)
    need_root("to hand over what the process may not open")
    os.chmod(image, 0o600)
    process, client = handed_over(
        t, "--exclusive", files=[("disk", opened(t, image))],
        prefix=as_user(4001))
    client.expect_end()
    process.expect(EX_USAGE)
    contains("--exclusive can't lock \"disk\", which was handed over", process.stderr())


# ------------------------------------------------------------------ directory

@pair(DIRECTORY, READ_ONLY, "-r holds for each file, also after another one")
def _(t):
    path = exports(t, "disk", "other")
    process, client = t.activated("-r", f"--directory={path}")
    client.handshake()
    client.info("other")
    eq(bool(client.flags & NBD_FLAG_READ_ONLY), True, "NBD_FLAG_READ_ONLY")
    client.go("disk")
    expect_read_only(client, os.path.join(path, "disk"))
    descriptor, = [number for number, target in process.descriptors().items()
                   if target == os.path.join(path, "disk")]
    flags = int(matches(r"^flags:\s+(\d+)$",
                        Path(f"/proc/{process.pid}/fdinfo/{descriptor}").read_text())[1], 8)
    eq(flags & os.O_ACCMODE, os.O_RDONLY, "how the file is open")
    leave(client)
    process.expect(EX_OK)


@pair(DIRECTORY, PIPES, "files are listed and served over pipes")
def _(t):
    path = exports(t, "disk", "other")
    process, client = piped(t, f"--directory={path}")
    client.handshake()
    eq([name for name, _ in client.list_exports()], ["disk", "other"])
    eq(refusal(client, "missing")[0], NBD_REP_ERR_UNKNOWN)
    client.go("other")
    good(client)
    client.write(0, b"w" * 512)
    leave(client)
    process.expect(EX_OK)
    eq(Path(path, "other").read_bytes()[:512], b"w" * 512)


@pair(DIRECTORY, STANDARD_ERROR, "why a file can't be opened is for the log and never for the client")
def _(t):
    path = exports(t, "disk")
    os.symlink("../disk", os.path.join(path, "link"))
    process, client = on_the_client(t, "-v", f"--directory={path}")
    client.handshake()
    for name in ("link", "missing", "a/b"):
        eq(refusal(client, name)[0], NBD_REP_ERR_UNKNOWN)
    os.chmod(os.path.join(path, "disk"), 0)
    client.list_exports()
    eq(refusal(client, "disk")[0], NBD_REP_ERR_POLICY)
    only_nbd(client)
    client.close()
    process.expect(EX_OK)
    # A directory that isn't there ends the process before the greeting.
    process, client = on_the_client(t, "-v", f"--directory={path}/missing")
    client.expect_end()
    process.expect(EX_NOINPUT)


@pair(DIRECTORY, RUN, "the command's URI leads to the default export, and other clients to each file")
def _(t):
    path = exports(t, "disk", "other")
    server = Running(t, f"--directory={path}", "-e", "disk")
    eq(server.uri(), f"nbd+unix:///disk?socket={server.path}")
    for name in ("", "disk", "other"):
        client = server.client().start(name)
        good(client)
        leave(client)
    client = server.client().start("other")
    server.end()
    client.expect_end()


@pair(DIRECTORY, SIGNALS, "SIGTERM drains a file that was chosen, and ends a client that looks around")
def _(t):
    path = exports(t, "disk")
    process, client = t.activated(f"--directory={path}")
    client.start("disk")
    drained(process, client)
    eq(Path(path, "disk").read_bytes()[8192:12288], b"d" * 4096)
    process, client = t.activated(f"--directory={path}")
    client.handshake()
    client.list_exports()
    client.info("disk")
    process.signal(signal.SIGTERM)
    client.expect_end()
    process.expect(EX_OK)


@pair(DIRECTORY, SANDBOX, "files are found, listed and opened from within, also new ones, and no other "
                          "directory's")
def _(t):
    path = exports(t, "disk")
    os.symlink(t.pattern_image(MIB), os.path.join(path, "outside"))
    process, client = t.activated("--sandbox=require", f"--directory={path}")
    client.handshake()
    shut_in(process.pid, 1)
    Path(path, "new").write_bytes(pattern(0, MIB))
    eq([name for name, _ in client.list_exports()], ["disk", "new"])
    for name in ("outside", "../" + os.path.basename(path), "missing"):
        eq(refusal(client, name)[0], NBD_REP_ERR_UNKNOWN)
    client.info("disk")
    client.go("new")
    client.write(0, b"w" * 512)
    shut_in(process.pid)
    leave(client)
    process.expect(EX_OK)


@pair(DIRECTORY, HANDED_OVER, "they can't meet: both say what is served")
def _(t):
    path = exports(t, "disk")
    process, client = handed_over(t, f"--directory={path}",
                                  files=[("disk", opened(t, t.pattern_image(MIB)))])
    client.expect_end()
    process.expect(EX_USAGE)
    contains("both --directory and files handed over as descriptors", process.stderr())


# ------------------------------------------------------------------ read-only

@pair(READ_ONLY, PIPES, "the flag is there, and nothing that writes has an effect")
def _(t):
    image = t.pattern_image(MIB)
    process, client = piped(t, "-r", image)
    client.start()
    expect_read_only(client, image)
    leave(client)
    process.expect(EX_OK)


@pair(READ_ONLY, STANDARD_ERROR, "that a file is read-only, and why, is for the log and never for the "
                                 "client")
def _(t):
    image = t.path("busy")
    # A program that runs can't be opened for writing.
    Path(image).write_bytes(Path(need("sleep")).read_bytes())
    os.chmod(image, 0o755)
    t.spawn([image, "1000"])
    wait_until(lambda: not _can_write(image), "the program to run")
    for way in (t.inetd, lambda *arguments: piped(t, *arguments, stderr="client")):
        process, client = way("-v", image)
        client.start()
        eq(bool(client.flags & NBD_FLAG_READ_ONLY), True, "NBD_FLAG_READ_ONLY")
        eq(client.call(*WRITING[0]).error, NBD_EPERM)
        only_nbd(client)
        leave(client)
        process.expect(EX_OK)


def _can_write(path):
    try:
        os.close(os.open(path, os.O_WRONLY))
        return True
    except OSError:
        return False


@pair(READ_ONLY, RUN, "the command's server is read-only for every client")
def _(t):
    image = t.pattern_image(MIB)
    server = Running(t, "-r", image)
    for _ in range(2):
        client = server.client().start()
        eq(bool(client.flags & NBD_FLAG_CAN_MULTI_CONN), True, "NBD_FLAG_CAN_MULTI_CONN")
        expect_read_only(client, image)
    server.end()
    client.expect_end()


@pair(READ_ONLY, SIGNALS, "SIGTERM ends it though nothing is to be flushed")
def _(t):
    image = t.pattern_image(MIB)
    for number in (signal.SIGTERM, signal.SIGINT):
        process, client = t.activated("-r", image)
        client.start()
        good(client)
        process.signal(number)
        wait_until(lambda c=client: c.call(NBD_CMD_READ, 0, 512).error == NBD_ESHUTDOWN,
                   "requests to be refused")
        # That it is over comes before that it isn't allowed.
        eq(client.call(*WRITING[0]).error, NBD_ESHUTDOWN)
        client.expect_end()
        process.expect(EX_OK)
    eq(Path(image).read_bytes() == pattern(0, MIB), True, "the file is as it was")


@pair(READ_ONLY, SANDBOX, "the process can't write, whatever it wants: it has no way to, and is open for "
                          "reading only")
def _(t):
    image = t.pattern_image(MIB)
    process, client = t.activated("--sandbox=require", "-r", image)
    client.start()
    expect_read_only(client, image)
    shut_in(process.pid)
    descriptor, = [number for number, target in process.descriptors().items() if target == image]
    flags = int(matches(r"^flags:\s+(\d+)$",
                        Path(f"/proc/{process.pid}/fdinfo/{descriptor}").read_text())[1], 8)
    eq(flags & os.O_ACCMODE, os.O_RDONLY, "how the file is open")
    leave(client)
    process.expect(EX_OK)


@pair(READ_ONLY, HANDED_OVER, "-r, or a descriptor open for reading only, is a read-only export of the "
                              "one file and of no other")
def _(t):
    image, other = t.pattern_image(MIB), t.pattern_image(MIB)
    process, client = handed_over(t, "-r", files=[("disk", opened(t, image))])
    client.start("disk")
    expect_read_only(client, image)
    leave(client)
    process.expect(EX_OK)
    eq("is served read-only" in process.stderr(), False, "an excuse for what was asked for")
    files = [("disk", opened(t, image, os.O_RDONLY)), ("other", opened(t, other))]
    process, client = handed_over(t, files=files)
    client.start("disk")
    expect_read_only(client, image)
    leave(client)
    process.expect(EX_OK)
    matches(r'"disk" is served read-only.*open for reading only', process.stderr())
    process, client = handed_over(t, files=files)
    client.start("other")
    eq(client.flags & NBD_FLAG_READ_ONLY, 0, "NBD_FLAG_READ_ONLY")
    client.write(0, b"w" * 512)
    leave(client)
    process.expect(EX_OK)


# ------------------------------------------------------------------ pipes

@pair(PIPES, STANDARD_ERROR, "where standard error is the pipe to the client, it gets no message")
def _(t):
    image = t.pattern_image(MIB)
    process, client = piped(t, "-v", image, stderr="client")
    client.start()
    good(client)
    os.truncate(image, 0)
    eq(client.call(NBD_CMD_READ, 0, 512).error, NBD_EIO)
    only_nbd(client)
    leave(client)
    process.expect(EX_OK)
    process, client = piped(t, "-v", image + ".missing", stderr="client")
    eq(client.received == b"", True)
    process.expect(EX_NOINPUT)
    client._take()  # pylint: disable=protected-access
    eq(bytes(client.received), b"", "what the client has got")


@pair(PIPES, RUN, "they can't meet: one client, or a command that listens for many")
def _(t):
    process, client = piped(t, "--run", "true", t.pattern_image(MIB))
    process.expect(EX_USAGE)
    matches(r"--run.*(-s|--single)|(-s|--single).*--run", process.stderr())
    client._take()  # pylint: disable=protected-access
    eq(bytes(client.received), b"", "what the client has got")


@pair(PIPES, SIGNALS, "SIGTERM drains, the client sees the end, and the pipes are left as they were")
def _(t):
    image = t.pattern_image(MIB)
    their_input, our_output = os.pipe()
    our_input, their_output = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT):
        process, client = t.piped("-s", image)
        client.start()
        drained(process, client, number)
    eq(Path(image).read_bytes()[8192:12288], b"d" * 4096)
    process = t.spawn([NBDINETD, "-s", image], fds={0: their_input, 1: their_output})
    client = Client(our_input, our_output).start()
    process.signal(signal.SIGTERM)
    process.expect(EX_OK)
    eq((os.get_blocking(their_input), os.get_blocking(their_output)), (True, True), "blocking")
    for descriptor in (their_input, their_output):
        os.close(descriptor)
    client.expect_end()
    client.close()


@pair(PIPES, SANDBOX, "all that a client may ask is done from within")
def _(t):
    process, client = piped(t, "--sandbox=require", t.pattern_image(MIB))
    client.handshake()
    shut_in(process.pid, 1)
    client.structured_replies()
    client.meta_contexts()
    client.go()
    good(client, 0, MIB)
    shut_in(process.pid)
    client.write(0, b"w" * 300000, NBD_CMD_FLAG_FUA)
    client.trim(65536, 65536)
    client.write_zeroes(131072, 65536)
    client.block_status(0, MIB)
    client.flush()
    leave(client)
    process.expect(EX_OK)


@pair(PIPES, HANDED_OVER, "a file beside a pair of pipes is its export")
def _(t):
    image = t.pattern_image(MIB)
    for stderr in ("file", "client"):
        process, client = piped(t, fds={3: opened(t, image)}, listen_fds=1, stderr=stderr,
                                env={"LISTEN_FDNAMES": "disk"})
        client.handshake()
        eq([name for name, _ in client.list_exports()], ["disk"])
        client.go("disk")
        good(client)
        client.write(0, b"w" * 512)
        leave(client)
        process.expect(EX_OK)
    eq(Path(image).read_bytes()[:512], b"w" * 512)


# ------------------------------------------------------------------ standard error

@pair(STANDARD_ERROR, RUN, "messages of its connections go to the server's standard error, a socket as "
                           "well, and to no client")
def _(t):
    ours, theirs = t.connection()
    server = Running(t, t.pattern_image(MIB), fds={2: theirs})
    theirs.close()
    client = server.client().start()
    good(client)
    only_nbd(client)
    leave(client)
    server.end()
    text = Client(ours).read_to_end().decode()
    matches(r"^nbdinetd: serving export ", text)
    matches(r"^nbdinetd: .* ended: client disconnected", text)


@pair(STANDARD_ERROR, SIGNALS, "a client that is drained hears NBD_ESHUTDOWN, and no message")
def _(t):
    for way in (t.inetd, lambda *arguments: piped(t, *arguments, stderr="client")):
        process, client = way("-v", t.pattern_image(MIB))
        client.start()
        if way == t.inetd:
            drained(process, client)
        else:
            process.signal(signal.SIGTERM)
            process.expect(EX_OK)
            client._take()  # pylint: disable=protected-access
        only_nbd(client)
        # While it haggles.
        process, client = way("-v", t.pattern_image(MIB))
        client.handshake()
        client.list_exports()
        process.signal(signal.SIGTERM)
        process.expect(EX_OK)
        client._take()  # pylint: disable=protected-access
        only_nbd(client)


@pair(STANDARD_ERROR, SANDBOX, "messages go to the system log from within, and none to the client")
def _(t):
    log = Syslog(t)
    image = t.pattern_image(MIB)
    process, client = on_the_client(t, "--sandbox=require", image, prefix=log.prefix)
    client.start()
    log.wait("serving export")
    os.truncate(image, 0)
    eq(client.call(NBD_CMD_READ, 0, 512).error, NBD_EIO)
    log.wait("the file has been truncated")
    only_nbd(client)
    leave(client)
    process.expect(EX_OK)
    log.wait("ended: client disconnected")
    # A sandbox that can't be had where it is required: the client isn't even greeted.
    strace = [need("strace"), "-f", "-qq", "-e", "signal=none", "-e", "trace=seccomp", "-o",
              "/dev/null", "-e", "inject=seccomp:error=ENOSYS:when=1+"]
    process, client = on_the_client(t, "--sandbox=require", image, prefix=strace)
    client.expect_end()
    process.expect(EX_OSERR)


@pair(STANDARD_ERROR, HANDED_OVER, "what is wrong with a file is no message to the client")
def _(t):
    image = t.pattern_image(MIB)
    pipe = os.pipe()
    for descriptor in pipe:
        t.defer(os.close, descriptor)
    for file, status in ((opened(t, image, os.O_RDONLY), EX_OK), (pipe[0], EX_USAGE)):
        ours, theirs = t.connection()
        process = t.spawn([NBDINETD, "-v"], fds={0: theirs, 1: theirs, 2: theirs, 3: file},
                          env={"LISTEN_FDNAMES": "disk"}, listen_fds=1, listen_pid="own")
        theirs.close()
        client = Client(ours)
        if status == EX_OK:
            client.start("disk")
            expect_read_only(client, image)
            only_nbd(client)
            leave(client)
        else:
            client.expect_end()
        process.expect(status)


# ------------------------------------------------------------------ --run

@pair(RUN, SIGNALS, "each signal that ends the server ends its command and drains its connections")
def _(t):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        image = t.pattern_image(MIB)
        server = Running(t, image, command="trap 'exit 9' TERM;")
        command = server.command()
        client = server.client().start()
        drained(server.process, client, number, status=9)
        eq(state_of(command), None, "the command")
        eq(os.path.exists(server.path), False, "the socket")
        eq(Path(image).read_bytes()[8192:12288], b"d" * 4096)


@pair(RUN, SANDBOX, "the connections' processes are shut in, and the command isn't")
def _(t):
    mark = t.path("mark")
    server = Running(t, "--sandbox=require", t.pattern_image(MIB),
                     command=f"grep ^Seccomp: /proc/self/status >{mark};")
    client = server.client().start()
    good(client)
    wait_until(lambda: os.path.exists(mark) and Path(mark).read_text(), "the command")
    eq(Path(mark).read_text().split()[1], "0", "the command's filters")
    command = server.command()
    handler, = [pid for pid in children_of(server.process.pid) if pid != command]
    shut_in(handler)
    leave(client)
    server.end()


@pair(RUN, HANDED_OVER, "the command is served the file under its name, and doesn't get its descriptor")
def _(t):
    image, told = t.pattern_image(MIB), t.path("fds")
    server = Running(t, command=f"ls -l /proc/self/fd >{told}; env >>{told};",
                     fds={3: opened(t, image)}, env={"LISTEN_FDNAMES": "disk"}, listen_fds=1,
                     listen_pid="own")
    for name in ("disk", ""):
        client = server.client().start(name)
        good(client)
        leave(client)
    wait_until(lambda: os.path.exists(told) and "\nuri=" in Path(told).read_text(), "the command")
    eq(image in Path(told).read_text(), False, "the file is the command's, too")
    eq("LISTEN_" in Path(told).read_text(), False, "the command is activated, too")
    server.end()


# ------------------------------------------------------------------ signals and what is left

@pair(SIGNALS, SANDBOX, "SIGTERM drains from within, also while requests wait for the storage")
def _(t):
    for number in (signal.SIGTERM, signal.SIGINT):
        image = t.pattern_image(MIB)
        process, client = t.activated("--sandbox=require", image)
        client.start()
        client.flush()  # there are workers then
        shut_in(process.pid)
        drained(process, client, number)
        eq(Path(image).read_bytes()[8192:12288], b"d" * 4096)
        process, client = t.activated("--sandbox=require", image)
        client.handshake()
        process.signal(number)
        client.expect_end()
        process.expect(EX_OK)


@pair(SIGNALS, HANDED_OVER, "what was written to the file is there, and a listener that hands over "
                            "leaves its connections the file")
def _(t):
    image = t.pattern_image(MIB)
    process, client = handed_over(t, files=[("disk", opened(t, image))])
    client.start("disk")
    drained(process, client)
    eq(Path(image).read_bytes()[8192:12288], b"d" * 4096)
    door = Door(t)
    process = activate(t, inherited=[door, ("disk", opened(t, image))])
    client = door.client().start("disk")
    process.signal(signal.SIGHUP)
    process.expect(EX_OK)
    client.write(0, b"w" * 512)
    client.flush()
    leave(client)
    eq(Path(image).read_bytes()[:512], b"w" * 512)


@pair(SANDBOX, HANDED_OVER, "the file is served from within, opened anew or as it was handed over")
def _(t):
    image = t.pattern_image(MIB)
    nobody = []
    if os.geteuid() == 0:
        os.chmod(image, 0o600)
        nobody = as_user(64322)
    for prefix in ([], nobody):
        process, client = handed_over(t, "--sandbox=require", files=[("disk", opened(t, image))],
                                      prefix=prefix)
        client.start("disk")
        good(client)
        shut_in(process.pid)
        client.write(0, pattern(0, 512), NBD_CMD_FLAG_FUA)
        client.flush()
        leave(client)
        process.expect(EX_OK)


# ------------------------------------------------------------------ private copies

@pair(TLS, COPIES, "each client over TLS has a copy of its own")
def _(t):
    image = t.pattern_image(MIB)
    clients = []
    for _ in range(2):
        process, client = t.activated("--cow", *certificates(t), image)
        clients.append((process, over_tls(client).start()))
        expect_copy(clients[-1][1], image)
    for process, client in clients:
        leave(client)
        process.expect(EX_OK)


@pair(EXCLUSIVE, COPIES, "the file has one client at a time, whose copy begins when it has the lock")
def _(t):
    image = t.pattern_image(MIB)
    process, first = t.activated("--exclusive", "--cow", image)
    first.start()
    expect_copy(first, image)
    _, second = t.activated("--exclusive", "--cow", image)
    second.handshake()
    expect_in_use(second)
    _, waiting = t.activated("--exclusive=wait", "--cow", image)
    waiting.handshake()
    waiting.option(NBD_OPT_GO, Client.info_bytes())
    with open(image, "r+b") as file:
        file.write(b"new")
    leave(first)
    process.expect(EX_OK)
    eq(waiting.option_reply(NBD_OPT_GO)[0], NBD_REP_INFO)
    eq(waiting.option_reply(NBD_OPT_GO)[0], NBD_REP_ACK)
    eq(waiting.read(0, 3), b"new")
    leave(waiting)


@pair(DIRECTORY, COPIES, "the client has a copy of the file that it chose")
def _(t):
    path = exports(t, "disk", "other")
    process, client = t.activated("--cow", f"--directory={path}")
    client.handshake()
    client.info("other")
    client.go("disk")
    expect_copy(client, os.path.join(path, "disk"))
    eq(Path(path, "other").read_bytes() == pattern(0, MIB), True, "the other file")
    leave(client)
    process.expect(EX_OK)


@pair(READ_ONLY, COPIES, "they exclude each other")
def _(t):
    process = t.run([NBDINETD, "--check", "-r", "--cow", t.pattern_image(MIB)], EX_USAGE)
    contains("--cow and --readonly can't be used together", process.stderr())


@pair(PIPES, COPIES, "a client on pipes has a copy")
def _(t):
    image = t.pattern_image(MIB)
    process, client = piped(t, "--cow", image)
    client.start()
    expect_copy(client, image)
    leave(client)
    process.expect(EX_OK)


@pair(STANDARD_ERROR, COPIES, "why there can't be a copy is for the log and never for the client")
def _(t):
    image = t.pattern_image(MIB)
    for arguments, status in (([], EX_OK), ([f"--cow-dir={image}"], EX_CANTCREAT)):
        process, client = on_the_client(t, "-v", "--cow", *arguments, image)
        if status == EX_OK:
            client.start()
            expect_copy(client, image)
            only_nbd(client)
            leave(client)
        else:
            client.expect_end()
            eq(bytes(client.received), b"", "what the client has got")
        process.expect(status)


@pair(RUN, COPIES, "each client of the command's server has a copy of its own")
def _(t):
    image = t.pattern_image(MIB)
    server = Running(t, "--cow", image)
    clients = [server.client().start() for _ in range(2)]
    for client in clients:
        expect_copy(client, image)
    server.end()
    for client in clients:
        client.expect_end()


@pair(SIGNALS, COPIES, "SIGTERM ends it, and the copy goes")
def _(t):
    image, folder = t.pattern_image(MIB), t.fresh(".copies")
    os.mkdir(folder)
    for number in (signal.SIGTERM, signal.SIGINT):
        process, client = t.activated("--cow", f"--cow-dir={folder}", image)
        client.start()
        expect_copy(client, image)
        drained(process, client, number)
        eq(os.listdir(folder), [])
    eq(Path(image).read_bytes() == pattern(0, MIB), True, "the file is as it was")


@pair(SANDBOX, COPIES, "the copy is made and written to from within")
def _(t):
    image = t.pattern_image(MIB)
    for place in (f"--cow-dir={t.path('')}", "--cow-dir=memory"):
        process, client = t.activated("--sandbox=require", "--cow", place, "--cow-size=1M", image)
        client.start()
        expect_copy(client, image)
        client.write_zeroes(0, 65536)
        client.trim(0, 65536)
        shut_in(process.pid)
        leave(client)
        process.expect(EX_OK)


@pair(HANDED_OVER, COPIES, "a file handed over is never written to, whether it can be opened anew or not")
def _(t):
    image = t.pattern_image(MIB)
    nobody = []
    if os.geteuid() == 0:
        os.chmod(image, 0o600)
        nobody = as_user(64322)
    for prefix in ([], nobody):
        process, client = handed_over(t, "--cow", "--cow-dir=memory", files=[("disk", opened(t, image))],
                                      prefix=prefix)
        client.start("disk")
        expect_copy(client, image)
        leave(client)
        process.expect(EX_OK)


# ------------------------------------------------------------------ kept copies

@pair(TLS, KEPT, "each certificate has a copy, and a client in plain text is told to use TLS")
def _(t):
    image, options = t.pattern_image(MIB), keeping(t)
    for expect in (expect_copy, expect_kept):
        for who in ("alice", "carol"):
            authority().issue("carol", "/CN=carol")
            process, client = t.activated(*options, image)
            client = known(client, who)
            expect(client, image)
            leave(client)
            process.expect(EX_OK)
    _, client = t.activated(*options, "--tls=on", image)
    client.handshake()
    eq(refusal(client)[0], NBD_REP_ERR_TLS_REQD)


@pair(EXCLUSIVE, KEPT, "two connections of one client can't have its copy; other clients aren't affected")
def _(t):
    image, options = t.pattern_image(MIB), keeping(t)
    authority().issue("carol", "/CN=carol")
    process, first = t.activated(*options, "--exclusive", image)
    first = known(first)
    expect_copy(first, image)
    _, second = t.activated(*options, "--exclusive", image)
    second = over_tls(second).start_tls(client_context(certificate=(authority(), "alice")))
    expect_in_use(second)
    _, other = t.activated(*options, "--exclusive", image)
    expect_copy(known(other, "carol"), image)
    _, waiting = t.activated(*options, "--exclusive=wait", image)
    waiting = over_tls(waiting).start_tls(client_context(certificate=(authority(), "alice")))
    waiting.option(NBD_OPT_GO, Client.info_bytes())
    leave(first)
    process.expect(EX_OK)
    eq(waiting.option_reply(NBD_OPT_GO)[0], NBD_REP_INFO)
    eq(waiting.option_reply(NBD_OPT_GO)[0], NBD_REP_ACK)
    expect_kept(waiting, image)
    leave(waiting)


@pair(DIRECTORY, KEPT, "the client has a copy of each file that it chooses")
def _(t):
    path, options = exports(t, "disk", "other"), keeping(t)
    for name, expect in (("disk", expect_copy), ("other", expect_copy), ("disk", expect_kept)):
        process, client = t.activated(*options, f"--directory={path}")
        client = known(client, name=name)
        expect(client, os.path.join(path, name))
        leave(client)
        process.expect(EX_OK)


@pair(READ_ONLY, KEPT, "they exclude each other")
def _(t):
    process = t.run([NBDINETD, "--check", "-r", *keeping(t), t.pattern_image(MIB)], EX_USAGE)
    contains("--cow and --readonly can't be used together", process.stderr())


@pair(PIPES, KEPT, "a client on pipes comes back to its copy")
def _(t):
    image, options = t.pattern_image(MIB), keeping(t)
    for expect in (expect_copy, expect_kept):
        process, client = piped(t, *options, image)
        client = known(client)
        expect(client, image)
        leave(client)
        process.expect(EX_OK)


@pair(STANDARD_ERROR, KEPT, "why there can't be a copy is for the log and never for the client")
def _(t):
    image, options = t.pattern_image(MIB), keeping(t)
    for arguments, status in (([], EX_OK), ([f"--cow-dir={image}"], EX_CANTCREAT)):
        process, client = on_the_client(t, "-v", *options, *arguments, image)
        if status == EX_OK:
            client = known(client)
            expect_copy(client, image)
            leave(client)
        else:
            client.expect_end()
            eq(bytes(client.received), b"", "what the client has got")
        process.expect(status)


@pair(RUN, KEPT, "the clients of the command's server come back to their copies, and so do those of the next")
def _(t):
    image, options = t.pattern_image(MIB), keeping(t)
    for expect in (expect_copy, expect_kept):
        server = Running(t, *options, image)
        client = known(server.client())
        expect(client, image)
        leave(client)
        client = known(server.client())
        expect_kept(client, image)
        server.end()
        client.expect_end()


@pair(SIGNALS, KEPT, "SIGTERM ends it, and the copy stays")
def _(t):
    image, options = t.pattern_image(MIB), keeping(t)
    for number, expect in ((signal.SIGTERM, expect_copy), (signal.SIGINT, expect_kept)):
        process, client = t.activated(*options, image)
        client = known(client)
        expect(client, image)
        process.signal(number)
        wait_until(lambda c=client: c.call(NBD_CMD_READ, 0, 512).error == NBD_ESHUTDOWN, "requests to be refused")
        client.expect_end()
        process.expect(EX_OK)


@pair(SANDBOX, KEPT, "the copy is found, made and written to from within")
def _(t):
    image, options = t.pattern_image(MIB), keeping(t)
    for expect in (expect_copy, expect_kept):
        process, client = t.activated("--sandbox=require", *options, "--cow-size=1M", image)
        client = known(client)
        expect(client, image)
        client.write_zeroes(512 * 1024, 65536)
        client.trim(512 * 1024, 65536)
        client.write(512 * 1024, b"x" * 100, NBD_CMD_FLAG_FUA)
        shut_in(process.pid)
        leave(client)
        process.expect(EX_OK)


@pair(HANDED_OVER, KEPT, "a file handed over has copies under its name, whether it can be opened anew or not")
def _(t):
    image = t.pattern_image(MIB)
    nobody = []
    if os.geteuid() == 0:
        os.chmod(image, 0o600)
        nobody = as_user(64322)
    for prefix in ([], nobody):
        options = keeping(t)
        keys = next(option for option in options if option.startswith("--tls-certificates=")).partition("=")[2]
        for file in Path(keys).iterdir():
            file.chmod(0o644)
        for expect in (expect_copy, expect_kept):
            process, client = handed_over(t, *options, files=[("disk", opened(t, image, os.O_RDONLY))],
                                           prefix=prefix)
            client = known(client, name="disk")
            expect(client, image)
            leave(client)
            process.expect(EX_OK)
    process, _ = handed_over(t, *keeping(t), files=[("disk", opened(t, image))])
    process.expect(EX_USAGE)
    contains("was handed over open for writing", process.stderr())


@pair(COPIES, KEPT, "the option says one thing: the last mode holds")
def _(t):
    image, options = t.pattern_image(MIB), keeping(t)
    for _ in range(2):
        process, client = t.activated(*options, "--cow=discard", "--tls-verify-peer", image)
        if process.poll() is None:
            client = known(client)
            expect_copy(client, image)
            leave(client)
        process.expect(EX_OK)


# ------------------------------------------------------------------ partitions

@pair(TLS, PARTITIONS, "the partition is served over TLS, and the process that reads the table has no key")
def _(t):
    disk = partitioned(t)
    process, client = t.activated("--partition=1", *certificates(t), disk)
    client = over_tls(client).start()
    expect_partition(client, disk)
    leave(client)
    process.expect(EX_OK)
    folder = exports(t)
    partitioned(t, os.path.join(folder, "disk"))
    process, client = t.activated("--partitions", f"--directory={folder}", *certificates(t))
    reader = wait_until(lambda: children_of(process.pid), "the process that reads the table")[0]
    eq("libssl" in Path(f"/proc/{reader}/maps").read_text(), False, "OpenSSL is loaded there")
    client = over_tls(client).start("disk:1")
    expect_partition(client, os.path.join(folder, "disk"))
    leave(client)
    process.expect(EX_OK)


@pair(EXCLUSIVE, PARTITIONS, "the lock is on the whole disk, whichever partition has a client")
def _(t):
    disk = partitioned(t)
    process, first = t.activated("--exclusive", "--partition=1", disk)
    first.start()
    expect_partition(first, disk)
    for arguments in (["--partition=1"], ["--partition=2"], []):
        _, second = t.activated("--exclusive", *arguments, disk)
        second.handshake()
        expect_in_use(second)
    leave(first)
    process.expect(EX_OK)


@pair(DIRECTORY, PARTITIONS, "--partitions makes them exports, and --partition is about one file")
def _(t):
    folder = exports(t, "plain")
    disk = partitioned(t, os.path.join(folder, "disk"))
    process, client = t.activated("--partitions", f"--directory={folder}")
    client.handshake()
    eq([name for name, _ in client.list_exports()], ["disk", "plain"])
    client.choose("disk:1")
    expect_partition(client, disk)
    leave(client)
    process.expect(EX_OK)
    process = t.run([NBDINETD, "--check", "--partition=1", f"--directory={folder}"], EX_USAGE)
    contains("--partition and --directory can't be used together", process.stderr())


@pair(READ_ONLY, PARTITIONS, "nothing is written to the disk")
def _(t):
    disk = partitioned(t)
    process, client = t.activated("-r", "--partition=1", disk)
    client.start()
    expect_partition(client, disk, writes=False)
    expect_read_only(client, disk)
    leave(client)
    process.expect(EX_OK)


@pair(PIPES, PARTITIONS, "the partition is served on pipes, which no other process holds")
def _(t):
    disk = partitioned(t)
    process, client = piped(t, "--partition=1", disk)
    client.start()
    expect_partition(client, disk)
    leave(client)
    process.expect(EX_OK)


@pair(STANDARD_ERROR, PARTITIONS, "why there is no partition is for the log and never for the client")
def _(t):
    disk = partitioned(t)
    for number, status in ((1, EX_OK), (3, EX_NOINPUT)):
        process, client = on_the_client(t, "-v", f"--partition={number}", disk)
        if status == EX_OK:
            client.start()
            expect_partition(client, disk)
            only_nbd(client)
            leave(client)
        else:
            client.expect_end()
            eq(bytes(client.received), b"", "what the client has got")
        process.expect(status)


@pair(RUN, PARTITIONS, "the command's clients have the partition, and its server keeps no other process")
def _(t):
    disk = partitioned(t)
    server = Running(t, "--partition=1", disk)
    client = server.client().start()
    expect_partition(client, disk)
    leave(client)
    wait_until(lambda: children_of(server.process.pid) == [server.command()], "the end of all others")
    server.end()


@pair(SIGNALS, PARTITIONS, "SIGTERM drains its client, and ends both processes while one is chosen")
def _(t):
    folder = exports(t)
    disk = partitioned(t, os.path.join(folder, "disk"))
    for number in (signal.SIGTERM, signal.SIGINT):
        process, client = t.activated("--partition=1", disk)
        client.start()
        drained(process, client, number)
        process, client = t.activated("--partitions", f"--directory={folder}")
        client.handshake()
        reader, = children_of(process.pid)
        process.signal(number)
        client.expect_end()
        process.expect(EX_OK)
        wait_until(lambda pid=reader: state_of(pid) in (None, "Z"), "the end of the other process")


@pair(SANDBOX, PARTITIONS, "the table is read from a sandbox, and the partition is chosen from within")
def _(t):
    folder = exports(t)
    disk = partitioned(t, os.path.join(folder, "disk"))
    process, client = t.activated("--sandbox=require", "--partitions", f"--directory={folder}")
    client.handshake()
    reader, = children_of(process.pid)
    shut_in(process.pid, 1)
    # It has answered, and the process has answered a request: both are in their sandboxes by then.
    client.info("disk:1")
    shut_in(reader, 1)
    client.choose("disk:1")
    expect_partition(client, disk)
    shut_in(process.pid)
    leave(client)
    process.expect(EX_OK)


@pair(HANDED_OVER, PARTITIONS, "a disk that was handed over is opened anew for its table, and its offset stays")
def _(t):
    disk = partitioned(t)
    file = opened(t, disk)
    process, client = handed_over(t, "--partition=1", files=[("disk", file)])
    client.start("disk")
    expect_partition(client, disk)
    eq(os.lseek(file, 0, os.SEEK_CUR), 0, "the offset")
    leave(client)
    process.expect(EX_OK)


@pair(COPIES, PARTITIONS, "the copy is one of the partition")
def _(t):
    disk = partitioned(t)
    before = Path(disk).read_bytes()
    for place in ("--cow-dir=memory", f"--cow-dir={t.path('')}"):
        process, client = t.activated("--partition=1", "--cow", place, disk)
        client.start()
        expect_partition(client, disk, writes=False)
        client.write(0, b"w" * 4096)
        eq(client.read(0, 4096), b"w" * 4096)
        leave(client)
        process.expect(EX_OK)
        eq(Path(disk).read_bytes() == before, True, "the disk")


@pair(KEPT, PARTITIONS, "the kept copy is one of the partition")
def _(t):
    disk = partitioned(t)
    before = Path(disk).read_bytes()
    options = keeping(t)
    for round_ in range(2):
        process, client = t.activated("--partition=1", *options, disk)
        client = known(client)
        eq(client.size, MIB)
        if round_ == 0:
            client.write(4096, b"w" * 4096)
        eq(client.read(4096, 4096), b"w" * 4096)
        eq(client.read(0, 4096), pattern(0, 4096))
        leave(client)
        process.expect(EX_OK)
        eq(Path(disk).read_bytes() == before, True, "the disk")
    folder = exports(t)
    disk = partitioned(t, os.path.join(folder, "disk"))
    options = keeping(t)
    for round_ in range(2):
        process, client = t.activated("--sandbox=require", "--partitions", f"--directory={folder}", *options)
        client = known(client, name="disk:1")
        if round_ == 0:
            client.write(4096, b"v" * 4096)
        eq(client.read(4096, 4096), b"v" * 4096)
        eq(children_of(process.pid), [], "the process that reads tables has ended")
        leave(client)
        process.expect(EX_OK)


# ------------------------------------------------------------------ negotiated by another program

@pair(TLS, NEGOTIATED, "they can't meet: TLS begins while a client negotiates")
def _(t):
    for mode in ("on", "require"):
        contains("--negotiated can't be used with TLS", cant_meet(t, *certificates(t), f"--tls={mode}",
                                                                  t.pattern_image(MIB)))
    process, client = t.activated(STYLE, "--tls=off", t.pattern_image(MIB))
    good(negotiated(client))
    leave(client)
    process.expect(EX_OK)


@pair(EXCLUSIVE, NEGOTIATED, "a second client is refused without a byte, waits with its first request sent, or takes "
                             "the export over")
def _(t):
    image = t.pattern_image(MIB)
    first_process, first = t.activated("--exclusive", STYLE, image)
    good(negotiated(first))
    process, second = t.activated("--exclusive", STYLE, image)
    expect_gone(process, second, EX_UNAVAILABLE)
    contains('export "" is in use (exclusive): another client uses it', process.stderr())
    # The lock is the one of clients that negotiate.
    _, third = t.activated("--exclusive", image)
    third.handshake()
    expect_in_use(third)
    process, waiting = t.activated("--exclusive=wait", STYLE, image)
    cookie = negotiated(waiting).request(NBD_CMD_READ, 0, 512)
    leave(first)
    first_process.expect(EX_OK)
    eq(waiting.answer(cookie).check().data, pattern(0, 512))
    taker_process, taker = t.activated("--exclusive=takeover", STYLE, image)
    cookie = negotiated(taker).request(NBD_CMD_READ, 0, 512)
    # The holder, which has --exclusive=wait, leaves.
    waiting.expect_end()
    process.expect(EX_OK)
    eq(taker.answer(cookie).check().data, pattern(0, 512))
    # A wait ends with the time of the handshake, and with the client.
    process, late = t.activated("--exclusive=wait", "--handshake-timeout=100ms", STYLE, image)
    expect_gone(process, late, EX_UNAVAILABLE)
    process, gone = t.activated("--exclusive=wait", STYLE, image)
    gone.shut_down_writing()
    expect_gone(process, gone, EX_UNAVAILABLE)
    leave(taker)
    taker_process.expect(EX_OK)


@pair(DIRECTORY, NEGOTIATED, "they can't meet: the name that the client has chosen isn't known")
def _(t):
    contains("--negotiated can't be used with --directory", cant_meet(t, f"--directory={exports(t, 'disk')}"))


@pair(READ_ONLY, NEGOTIATED, "nothing that writes has an effect, whatever the client was promised")
def _(t):
    image = t.pattern_image(MIB)
    process, client = t.activated("-r", STYLE, image)
    negotiated(client)
    for request in WRITING:
        eq(client.call(*request).error, NBD_EPERM, "the error")
    good(client)
    eq(Path(image).read_bytes() == pattern(0, MIB), True, "the file is as it was")
    leave(client)
    process.expect(EX_OK)


@pair(PIPES, NEGOTIATED, "transmission begins on a pair of pipes")
def _(t):
    process, client = piped(t, STYLE, t.pattern_image(MIB))
    good(negotiated(client))
    leave(client)
    process.expect(EX_OK)


@pair(STANDARD_ERROR, NEGOTIATED, "where standard error is the client's socket, it gets replies and no message")
def _(t):
    image = t.pattern_image(MIB)
    process, client = on_the_client(t, "-v", STYLE, image)
    good(negotiated(client))
    os.truncate(image, 0)
    eq(client.call(NBD_CMD_READ, 0, 512).error, NBD_EIO)
    only_nbd(client)
    leave(client)
    process.expect(EX_OK)
    for arguments in ([STYLE, t.path("missing")], [STYLE, "--tls=on", image], ["--negotiated=none", image]):
        process, client = on_the_client(t, "-v", *arguments)
        client.expect_end()
        eq(bytes(client.received), b"", "what the client has got")
        process.wait()


@pair(RUN, NEGOTIATED, "they can't meet: clients of a socket that listens have negotiated nothing")
def _(t):
    image = t.pattern_image(MIB)
    for options, word in ((["--run", "true"], "--run"), (["-U", "-"], "--unix"), (["-f"], "--foreground")):
        process = t.run([NBDINETD, STYLE, *options, image], status=EX_USAGE)
        contains(f"--negotiated can't be used with {word}", process.stderr())


@pair(SIGNALS, NEGOTIATED, "SIGTERM drains, and ends a wait for the lock")
def _(t):
    image = t.pattern_image(MIB)
    for number in (signal.SIGTERM, signal.SIGINT):
        process, client = t.activated(STYLE, image)
        drained(process, negotiated(client), number)
    image = t.pattern_image(MIB)
    holder_process, holder = t.activated("--exclusive", STYLE, image)
    good(negotiated(holder))
    process, waiting = t.activated("--exclusive=wait", "--handshake-timeout=1h", STYLE, image)
    wait_until(lambda: state_of(process.pid) == "S" and shut(process.pid), "the wait for the lock")
    process.signal(signal.SIGTERM)
    expect_gone(process, waiting, EX_OK)
    good(holder)
    leave(holder)
    holder_process.expect(EX_OK)


def shut(pid):
    """Whether the process has entered its sandbox."""
    return "Seccomp_filters:\t1" in Path(f"/proc/{pid}/status").read_text()


@pair(SANDBOX, NEGOTIATED, "all of it happens within, both steps have been taken before the first reply")
def _(t):
    for options in ([], ["--exclusive"], ["--cow", "--cow-dir=memory"]):
        process, client = t.activated("--sandbox=require", STYLE, *options, t.pattern_image(MIB))
        good(negotiated(client))
        shut_in(process.pid)
        client.write(0, b"w" * 4096, NBD_CMD_FLAG_FUA)
        client.write_zeroes(4096, 4096)
        client.trim(0, 8192)
        eq(sum(length for length, _ in client.block_status(0, MIB)), MIB)
        leave(client)
        process.expect(EX_OK)


@pair(HANDED_OVER, NEGOTIATED, "a file beside the connection is the export, and several can't be")
def _(t):
    image = t.pattern_image(MIB)
    process, client = handed_over(t, STYLE, files=[("disk", opened(t, image))])
    good(negotiated(client))
    leave(client)
    process.expect(EX_OK)
    contains('serving export "disk"', process.stderr())
    process, client = handed_over(t, STYLE, files=[("a", opened(t, image)), ("b", opened(t, image))])
    expect_gone(process, client, EX_USAGE)
    contains("--negotiated can't be used with several files", process.stderr())
    door = Door(t)
    process = activate(t, STYLE, image, inherited=[door])
    process.expect(EX_USAGE)
    contains("a listening socket, whose clients have negotiated nothing", process.stderr())


@pair(COPIES, NEGOTIATED, "the client has a copy")
def _(t):
    image = t.pattern_image(MIB)
    for place in ("--cow-dir=memory", f"--cow-dir={t.path('')}"):
        process, client = t.activated("--cow", place, STYLE, image)
        expect_copy(negotiated(client), image)
        leave(client)
        process.expect(EX_OK)


@pair(KEPT, NEGOTIATED, "a client that is known by its address comes back to its copy")
def _(t):
    image = t.pattern_image(MIB)
    os.mkdir(folder := t.fresh(".copies"))
    options = ["--cow=keep", "--cow-key=peer-address", f"--cow-dir={folder}"]
    for expect in (expect_copy, expect_kept):
        process, client = t.activated(*options, STYLE, image, family="tcp")
        expect(negotiated(client), image)
        leave(client)
        process.expect(EX_OK)
    # Nobody is known by a socket pair.
    process, client = t.activated(*options, STYLE, image)
    expect_gone(process, client, EX_NOPERM)
    contains("--cow=keep knows a client by TLS", cant_meet(t, "--cow=keep", image))


@pair(PARTITIONS, NEGOTIATED, "the partition is served")
def _(t):
    disk = partitioned(t)
    process, client = t.activated("--partition=1", STYLE, disk)
    expect_partition(negotiated(client), disk)
    leave(client)
    process.expect(EX_OK)


# ------------------------------------------------------------------ the table

@test("each of the pairs has a test, and only one")
def _(_t):
    eq(sorted(map(sorted, pairs_with_tests())), sorted(map(sorted, itertools.combinations(FEATURES, 2))))


if __name__ == "__main__":
    main_with_tls()
