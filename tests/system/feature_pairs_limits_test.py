#!/usr/bin/python3
"""The pairs of features of which one is limits (--max-rate, --max-iops): see feature_pairs_test.py, which
checks that no pair is missing.

Nothing here takes time: a client may transfer one byte a second, and has taken thousands at once, so that
what comes behind is held until the test ends the connection or lifts the limit.
"""

import os
import signal
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from feature_pairs import *  # noqa: E402
from limit_signals import IS_LIMIT, MORE, READS_BURST, TOGETHER, change_limits, no_signal_waits  # noqa: E402
from rules import rules  # noqa: E402

SLOW = "--max-rate=1:1"
MAX_HELD = 1024  # requests; those behind them aren't received
COUNT = 4  # requests of 4096 bytes
WRITTEN = 512 << 10  # where the writes of hold() go


class Held:
    """The requests that hold() has sent."""

    def __init__(self, reads, writes):
        self.reads, self.writes = reads, writes


def hold(client, first=True, write_error=NBD_SUCCESS):
    """Sends reads and writes that the limit holds, behind a read that takes all it gives for an hour. A flush
    behind them is answered."""
    if first:
        good(client, 4096, 4096)
    held = Held([client.request(NBD_CMD_READ, i * 4096, 4096) for i in range(COUNT)],
                [client.request(NBD_CMD_WRITE, WRITTEN + i * 4096, payload=b"h" * 4096) for i in range(COUNT)])
    held.write_error = write_error
    expect_held(client, held)
    return held


def expect_held(client, held):
    client.flush()
    eq([client.is_answered(cookie) for cookie in held.reads + held.writes], [False] * 2 * COUNT, "answered requests")


def lift(process, client, held):
    """Without the limit all of them are answered."""
    change_limits(process, IS_LIMIT | TOGETHER | 0)
    for i, cookie in enumerate(held.reads):
        eq(client.answer(cookie).check().data == pattern(i * 4096, 4096), True, "the bytes")
    for cookie in held.writes:
        eq(client.answer(cookie).error, held.write_error)


def let_go(client, held):
    """The server shuts down: what hasn't begun is refused, and what is done is answered, all at once."""
    for cookie in held.reads:
        eq(client.answer(cookie).error, NBD_ESHUTDOWN)
    for cookie in held.writes:
        eq(client.answer(cookie).error, held.write_error)
    client.expect_end()


def expect_written(path, offset=0):
    """The bytes of the held writes are in the file."""
    with open(path, "rb") as file:
        file.seek(offset + WRITTEN)
        eq(file.read(COUNT * 4096) == b"h" * COUNT * 4096, True, "what was written")


@pair(TLS, LIMITS, "the handshake isn't counted, and held replies are encrypted and sent before the close_notify")
def _(t):
    image = t.pattern_image(MIB)
    for end in ("shutdown", "shutdown with a change", "change"):
        process, client = t.activated(SLOW, *certificates(t), image)
        client = over_tls(client).start_tls()
        for _ in range(20):
            client.list_exports()
        client.choose()
        held = hold(client)
        if end == "change":
            lift(process, client, held)
            client.send(client.request_bytes(NBD_CMD_DISC))
            client.expect_end()
        else:
            process.signal(signal.SIGTERM)
            if end == "shutdown with a change":
                # It holds nothing.
                change_limits(process, IS_LIMIT | MORE | TOGETHER | 1, IS_LIMIT | READS_BURST | 1)
            let_go(client, held)
        eq(client.close_notify, True, "close_notify of the server")
        process.expect(EX_OK)
        expect_written(image)


@pair(EXCLUSIVE, LIMITS, "the next holder doesn't wait for what the limit of the last one holds, and has its own")
def _(t):
    image = t.pattern_image(MIB)
    process, holder = t.activated("--exclusive", SLOW, image)
    holder.start()
    held = hold(holder)
    # It would have its replies in some hours.
    holder.send(holder.request_bytes(NBD_CMD_DISC))
    taker_process, taker = t.activated("--exclusive=takeover", SLOW, image)
    taker.start()
    let_go(holder, held)
    process.expect(EX_OK)
    eq(taker.read(WRITTEN, 4096), b"h" * 4096)
    held = hold(taker, first=False)
    waiting_process, waiting = t.activated("--exclusive=wait", image)
    waiting.handshake()
    waiting.option(NBD_OPT_GO, Client.info_bytes())
    # The lock goes with the client, and not with the replies to it.
    taker.send(taker.request_bytes(NBD_CMD_DISC))
    taker.close()
    eq(waiting.option_reply(NBD_OPT_GO)[0], NBD_REP_INFO)
    eq(waiting.option_reply(NBD_OPT_GO)[0], NBD_REP_ACK)
    taker_process.expect(EX_OK)
    good(waiting)
    leave(waiting)
    waiting_process.expect(EX_OK)


@pair(DIRECTORY, LIMITS, "a client may look for a file as often as it likes, and is limited whichever it chooses")
def _(t):
    path = exports(t, "disk", "other")
    for name in ("disk", "other"):
        process, client = t.activated(SLOW, "--max-iops=1:1", f"--directory={path}")
        client.handshake()
        for _ in range(20):
            client.list_exports()
            client.info("other")
            eq(refusal(client, "missing")[0], NBD_REP_ERR_UNKNOWN)
        client.choose(name)
        held = hold(client)
        process.signal(signal.SIGTERM)
        let_go(client, held)
        process.expect(EX_OK)
        expect_written(os.path.join(path, name))


@pair(READ_ONLY, LIMITS, "requests to write are refused as late as they would be answered, and flushes aren't held")
def _(t):
    image = t.pattern_image(MIB)
    for lifted in (False, True):
        process, client = t.activated("-r", SLOW, image)
        client.start()
        held = hold(client, write_error=NBD_EPERM)
        others = [client.request(*request) for request in WRITING]
        expect_held(client, held)
        eq([client.is_answered(cookie) for cookie in others], [False] * 3, "answered requests")
        if lifted:
            lift(process, client, held)
            eq([client.answer(cookie).error for cookie in others], [NBD_EPERM] * 3)
            leave(client)
        else:
            process.signal(signal.SIGTERM)
            for cookie, error in zip(others, (NBD_EPERM, NBD_ESHUTDOWN, NBD_ESHUTDOWN)):
                eq(client.answer(cookie).error, error)
            let_go(client, held)
        process.expect(EX_OK)
    eq(Path(image).read_bytes() == pattern(0, MIB), True, "the file is as it was")


@pair(PIPES, LIMITS, "a client that has said all gets its held replies, and one that is gone keeps no process")
def _(t):
    image = t.pattern_image(MIB)
    process, client = piped(t, SLOW, image)
    client.start()
    held = hold(client)
    client.shut_down_writing()
    lift(process, client, held)
    client.expect_end()
    process.expect(EX_OK)
    expect_written(image)
    image = t.pattern_image(MIB)
    process, client = piped(t, SLOW, image)
    client.start()
    hold(client)
    client.close()
    process.expect(EX_PROTOCOL)


@pair(STANDARD_ERROR, LIMITS, "neither a wrong limit nor a request that fails while it is held is told to the client")
def _(t):
    image = t.pattern_image(MIB)
    for option in ("--max-rate=fast", "--max-iops=1:0"):
        for way in (on_the_client, lambda t, *arguments: piped(t, *arguments, stderr="client")):
            process, client = way(t, "-v", option, image)
            expect_gone(process, client, EX_USAGE)
    process, client = on_the_client(t, "-v", SLOW, image)
    client.start()
    held = hold(client)
    os.truncate(image, 0)
    failing = client.request(NBD_CMD_READ, 0, 512)
    client.flush()
    eq(client.is_answered(failing), False)
    only_nbd(client)
    change_limits(process, IS_LIMIT | TOGETHER | 0)
    for cookie in (*held.reads, failing):
        eq(client.answer(cookie).error, NBD_EIO)
    for cookie in held.writes:
        client.answer(cookie).check()
    only_nbd(client)
    leave(client)
    process.expect(EX_OK)


@pair(RUN, LIMITS, "each client of the command's server is limited by itself, and the command's end waits for none")
def _(t):
    image = t.pattern_image(MIB)
    server = Running(t, SLOW, image)
    clients = []
    for _ in range(2):
        client = server.client().start()
        clients.append((client, hold(client)))
    server.end()
    for client, held in clients:
        let_go(client, held)
    expect_written(image)


@pair(SIGNALS, LIMITS, "a signal ends what is held and what waits behind it; a listener that hands over leaves its "
                       "clients their limits")
def _(t):
    for number in (signal.SIGTERM, signal.SIGINT):
        image = t.pattern_image(MIB)
        process, client = t.activated(SLOW, image)
        client.start()
        held = hold(client)
        behind = [client.request(NBD_CMD_READ, 0, 512) for _ in range(MAX_HELD + 40)]
        flush = client.request(NBD_CMD_FLUSH)
        process.signal(number)
        eq({client.answer(cookie).error for cookie in behind}, {NBD_ESHUTDOWN})
        eq(client.answer(flush).error, NBD_ESHUTDOWN)
        let_go(client, held)
        process.expect(EX_OK)
        expect_written(image)
    image = t.pattern_image(MIB)
    door = Door(t)
    listener = activate(t, SLOW, image, inherited=[door])
    client = door.client().start()
    handler, = children_of(listener.pid)
    held = hold(client)
    listener.signal(signal.SIGHUP)
    listener.expect(EX_OK)
    expect_held(client, held)
    os.kill(handler, signal.SIGTERM)
    let_go(client, held)
    # The listener's own end is no different.
    listener = activate(t, SLOW, image, inherited=[door])
    client = door.client().start()
    held = hold(client)
    listener.signal(signal.SIGTERM)
    let_go(client, held)
    listener.expect(EX_OK)


@pair(SANDBOX, LIMITS, "requests wait, go on, and have other limits from within")
def _(t):
    image = t.pattern_image(MIB)
    process, client = t.activated("--sandbox=require", "--max-rate=16M:16K", "--max-iops=4000:8", image)
    client.start()
    # Each of these waits for its time, but the first few.
    cookies = [client.request(NBD_CMD_READ, i * 4096, 4096) for i in range(128)]
    shut_in(process.pid)
    for i, cookie in enumerate(cookies):
        eq(client.answer(cookie).check().data == pattern(i * 4096, 4096), True, "the bytes")
    change_limits(process, IS_LIMIT | MORE | TOGETHER | 1, IS_LIMIT | READS_BURST | 1)
    wait_until(lambda: no_signal_waits(process), "the signal to be taken")
    # The bucket that is left may let this one pass. The flush lets the server see it before the others, with
    # which it might pass a write instead.
    last = client.request(NBD_CMD_READ, 0, 4096)
    client.flush()
    held = hold(client, first=False)
    shut_in(process.pid)
    lift(process, client, held)
    client.answer(last).check()
    change_limits(process, IS_LIMIT | MORE | TOGETHER | 1, IS_LIMIT | READS_BURST | 1)
    process.signal(signal.SIGTERM)
    client.read_to_end()
    process.expect(EX_OK)


@pair(HANDED_OVER, LIMITS, "what a held reply is about is in the file, whether it is opened anew or not")
def _(t):
    nobody = []
    image = t.pattern_image(MIB)
    if os.geteuid() == 0:
        os.chmod(image, 0o600)
        nobody = as_user(64322)
    for prefix in ([], nobody):
        with open(image, "r+b") as file:
            file.write(pattern(0, MIB))
        process, client = handed_over(t, SLOW, files=[("disk", opened(t, image))], prefix=prefix)
        client.start("disk")
        held = hold(client)
        expect_written(image)
        process.signal(signal.SIGTERM)
        let_go(client, held)
        process.expect(EX_OK)


@pair(COPIES, LIMITS, "a write whose reply is held is in the copy, which goes with its client")
def _(t):
    image, folder = t.pattern_image(MIB), t.fresh(".copies")
    os.mkdir(folder)
    for place in ("memory", folder):
        process, client = t.activated("--cow", f"--cow-dir={place}", SLOW, image)
        client.start()
        held = hold(client)
        lift(process, client, held)
        eq(client.read(WRITTEN, COUNT * 4096) == b"h" * COUNT * 4096, True, "what was written")
        change_limits(process, IS_LIMIT | MORE | TOGETHER | 1, IS_LIMIT | READS_BURST | 1)
        leave(client)
        process.expect(EX_OK)
        process, client = t.activated("--cow", f"--cow-dir={place}", SLOW, image)
        client.start()
        held = hold(client)
        client.close()
        process.expect(EX_PROTOCOL)
    eq(os.listdir(folder), [])
    eq(Path(image).read_bytes() == pattern(0, MIB), True, "the file is as it was")


@pair(KEPT, LIMITS, "what was held when its client left is in the copy to which it comes back, with nothing to pay")
def _(t):
    image, options = t.pattern_image(MIB), keeping(t)
    process, client = t.activated(*options, SLOW, image)
    client = known(client)
    held = hold(client)
    client.close()
    process.expect(EX_PROTOCOL)
    process, client = t.activated(*options, SLOW, image)
    client = known(client)
    eq(client.read(WRITTEN, COUNT * 4096) == b"h" * COUNT * 4096, True, "what was written")
    held = hold(client, first=False)
    process.signal(signal.SIGTERM)
    let_go(client, held)
    process.expect(EX_OK)
    eq(Path(image).read_bytes() == pattern(0, MIB), True, "the file is as it was")


@pair(PARTITIONS, LIMITS, "what is held is about the partition, and what is outside of it counts like all that fails")
def _(t):
    disk = partitioned(t)
    for lifted in (False, True):
        process, client = t.activated("--partition=1", SLOW, disk)
        client.start()
        held = hold(client)
        outside = client.request(NBD_CMD_READ, MIB - 511, 512)
        expect_held(client, held)
        eq(client.is_answered(outside), False)
        if lifted:
            lift(process, client, held)
            eq(client.answer(outside).error, NBD_EINVAL)
            leave(client)
        else:
            process.signal(signal.SIGTERM)
            eq(client.answer(outside).error, NBD_ESHUTDOWN)
            let_go(client, held)
        process.expect(EX_OK)
        expect_written(disk, MIB)
        content = Path(disk).read_bytes()
        eq((content[512:MIB], content[2 * MIB:]) == (bytes(MIB - 512), bytes(2 * MIB)), True, "the rest of the disk")


@pair(NEGOTIATED, LIMITS, "the first byte counts: one request is carried out, and the next ones are held")
def _(t):
    image = t.pattern_image(MIB)
    process, client = t.activated(STYLE, SLOW, image)
    held = hold(negotiated(client))
    status = client.request(NBD_CMD_BLOCK_STATUS, 0, MIB)
    expect_held(client, held)
    eq(client.is_answered(status), False)
    process.signal(signal.SIGTERM)
    eq(client.answer(status).error, NBD_ESHUTDOWN)
    let_go(client, held)
    process.expect(EX_OK)
    expect_written(image)


@pair(RULES, LIMITS, "the clients of all lines are limited, a takeover by a line doesn't wait, and a line has limits of its "
      "own, which a change of the others leaves as they are")
def _(t):
    image = t.pattern_image(MIB)
    option = rules(t, "127.0.0.1 * ro exclusive=off\nunix: * rw exclusive=takeover\n")
    process, reader = t.activated(option, SLOW, image, family="tcp")
    reader.start()
    of_reader = hold(reader, write_error=NBD_EPERM)
    holder_process, holder = t.activated(option, SLOW, "--sandbox=require", image)
    holder.start()
    held = hold(holder)
    taker_process, taker = t.activated(option, SLOW, "--sandbox=require", image)
    taker.start()
    let_go(holder, held)
    holder_process.expect(EX_OK)
    eq(taker.read(WRITTEN, 4096), b"h" * 4096)
    # A change of the file changes nothing of what is held.
    rules(t, "* -\n")
    expect_held(reader, of_reader)
    lift(process, reader, of_reader)
    for its_process, client in ((process, reader), (taker_process, taker)):
        leave(client)
        its_process.expect(EX_OK)
    copy_process, client = t.activated(rules(t, "unix: * cow\n"), SLOW, t.pattern_image(MIB, "base"))
    client.start()
    held = hold(client)
    copy_process.signal(signal.SIGTERM)
    let_go(client, held)
    copy_process.expect(EX_OK)
    eq(Path(t.path("base")).read_bytes() == pattern(0, MIB), True, "the file is as it was")
    # The line's in place of the option's, of each kind.
    process, client = t.activated(rules(t, "unix: * rw max-rate=0\n"), SLOW, image)
    client.start()
    for _ in range(2):
        good(client)
    leave(client)
    process.expect(EX_OK)
    option = rules(t, "unix: * rw max-rate=1:1\n")
    for others in (["--max-rate=0"], ["--max-iops=1000000"], []):
        process, client = t.activated(option, *others, image)
        client.start()
        held = hold(client)
        change_limits(process, IS_LIMIT | TOGETHER | 0)
        wait_until(lambda: no_signal_waits(process), "the process to take the signal")
        expect_held(client, held)
        process.signal(signal.SIGTERM)
        let_go(client, held)
        process.expect(EX_OK)


if __name__ == "__main__":
    main_with_tls()
