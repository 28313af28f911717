#!/usr/bin/python3
"""--max-rate and --max-iops: how much a client may transfer. A limit is a bound from above, on a busy
machine, too; what it must not do is to hold up flushes, shutdowns, or the other direction."""

import signal
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402
from limit_signals import *  # noqa: E402

KIB = 1 << 10


def seconds_of(function):
    since = time.monotonic()
    function()
    return time.monotonic() - since


def pipeline(client, command, count, length, payload=b""):
    """The answers to `count` requests that are all sent before one is waited for."""
    cookies = [client.request(command, i * length, length, payload=payload) for i in range(count)]
    return [client.answer(cookie).check() for cookie in cookies]


def held(t, image=None):
    """A server and a client that may transfer one byte a second, so that the second request is held for an
    hour. Returns (process, client)."""
    process, client = t.activated("--max-rate=1:1", image or t.pattern_image(MIB))
    client.start()
    return process, client


def request_all(client, count, command=NBD_CMD_READ, payload=b""):
    """Sends `count` requests of 4096 bytes, and a flush, which is answered whatever is held. Returns
    their cookies."""
    cookies = [client.request(command, i * 4096, 4096, payload=payload) for i in range(count)]
    client.flush()
    return cookies


def end(process, client):
    """A shutdown, which holds up nothing either."""
    process.signal(signal.SIGTERM)
    client.read_to_end()
    process.expect(EX_OK)


@test("--max-rate limits reads and writes together, and each if given twice", waits=True)
def _(t):
    image = t.pattern_image(4 * MIB)
    reads = lambda c: pipeline(c, NBD_CMD_READ, 32, 64 * KIB)  # noqa: E731
    writes = lambda c: pipeline(c, NBD_CMD_WRITE, 32, 64 * KIB, bytes(64 * KIB))  # noqa: E731
    # 2 MiB at 4 MiB/s, less a burst of 0.1 s and one request.
    least = (2 - 0.4 - 0.07) / 4
    for options, work, limited in (
            (["--max-rate=4M"], reads, True),
            (["--max-rate=4M"], writes, True),
            (["--max-rate=4M", "--max-rate=0"], reads, True),
            (["--max-rate=4M", "--max-rate=0"], writes, False),
            (["--max-rate=0", "--max-rate=4M"], reads, False),
            (["--max-rate=0", "--max-rate=4M"], writes, True),
            (["--max-iops=64:1"], reads, None),
            (["--max-rate=4M:64M"], reads, None)):
        process, client = t.activated(*options, image)
        client.start()
        took = seconds_of(lambda: work(client))
        if limited:
            assert took >= least, f"{options}: 2 MiB took {took:.3f} s"
        if options == ["--max-iops=64:1"]:
            assert took >= 30 / 64, f"{options}: 32 requests took {took:.3f} s"
        client.disconnect()
        process.expect(EX_OK)


@test("what a limit holds is right and complete, for reads and writes mixed, and in any order")
def _(t):
    image = t.pattern_image(MIB)
    process, client = t.activated("--max-rate=8M:16K", "--max-iops=2000:8", image)
    client.start()
    cookies = []
    for i in range(128):
        if i % 2:
            cookies.append((i, client.request(NBD_CMD_WRITE, i * 4096, 4096, payload=b"w" * 4096)))
        else:
            cookies.append((i, client.request(NBD_CMD_READ, i * 4096, 4096)))
    for i, cookie in reversed(cookies):
        answer = client.answer(cookie).check()
        if i % 2 == 0:
            eq(answer.data, pattern(i * 4096, 4096), f"read {i}")
    client.flush()
    for i in range(128):
        eq(client.read(i * 4096, 4096), b"w" * 4096 if i % 2 else pattern(i * 4096, 4096), str(i))
    client.disconnect()
    process.expect(EX_OK)


@test("a flush isn't held up: it is answered before reads and writes that came earlier")
def _(t):
    for command, payload in ((NBD_CMD_READ, b""), (NBD_CMD_WRITE, b"x" * 4096)):
        process, client = held(t)
        request_all(client, 32, command, payload)
        end(process, client)


@test("a shutdown isn't held up: held reads get NBD_ESHUTDOWN, and writes that are done succeed")
def _(t):
    image = t.pattern_image(MIB)
    process, client = held(t, image)
    # This one takes all that the limit allows for an hour.
    eq(client.read(0, 4096), pattern(0, 4096))
    reads = [client.request(NBD_CMD_READ, i * 4096, 4096) for i in range(8)]
    writes = [client.request(NBD_CMD_WRITE, i * 4096, 4096, payload=b"x" * 4096) for i in range(8)]
    client.flush()
    process.signal(signal.SIGTERM)
    for cookie in reads:
        refuses(NBD_ESHUTDOWN, client.answer(cookie).check)
    for cookie in writes:
        client.answer(cookie).check()
    client.read_to_end()
    process.expect(EX_OK)
    with open(image, "rb") as file:
        eq(file.read(8 * 4096), b"x" * 8 * 4096)


@test("a client that leaves doesn't keep its process: nothing that is held goes on")
def _(t):
    process, client = held(t)
    request_all(client, 64)
    client.close()
    process.expect(EX_PROTOCOL)


@test("a client that disconnects with held requests, and is gone, doesn't keep its process")
def _(t):
    # A TCP client may have closed its direction alone, and read on: its end shows at the next reply, or
    # in the answer to a keepalive probe.
    process, client = held(t)
    request_all(client, 8)
    client.send(client.request_bytes(NBD_CMD_DISC))
    client.close()
    process.expect(EX_OK)


@test("a client that sends more than a limit lets it have is not received from, and keeps its place")
def _(t):
    image = t.pattern_image(16 * MIB)
    process, client = t.activated("--max-rate=64M:64K", image)
    client.start()
    # Each is longer than what may be held, so that the next one waits in the socket.
    pipeline(client, NBD_CMD_WRITE, 8, 2 * MIB, b"y" * (2 * MIB))
    client.flush()
    eq(client.read(14 * MIB, 4096), b"y" * 4096)
    client.disconnect()
    process.expect(EX_OK)


@test("a signal changes the limits of a connection while it is served, also of what is held")
def _(t):
    image = t.pattern_image(MIB)
    for options in ([], ["--max-rate=1:1"], ["--exclusive"]):
        process, client = t.activated(*options, image)
        client.start()
        eq(client.read(0, 512), pattern(0, 512))
        change_limits(process, IS_LIMIT | MORE | TOGETHER | 1, IS_LIMIT | READS_BURST | 1)
        # The signal is there before what comes behind, which the process reads when it has taken the signal.
        wait_until(lambda: no_signal_waits(process), "the signal to be taken")
        cookies = request_all(client, 4)
        assert not client.is_answered(cookies[-1]), options
        # One that means nothing changes nothing.
        change_limits(process, 0, IS_LIMIT | 9 << 58 | 1)
        wait_until(lambda: no_signal_waits(process), "the signal to be taken")
        client.flush()
        assert not client.is_answered(cookies[-1]), options
        change_limits(process, IS_LIMIT | TOGETHER | 0)
        for i, cookie in enumerate(cookies):
            eq(client.answer(cookie).check().data, pattern(i * 4096, 4096))
        # A shutdown is still seen beside them.
        change_limits(process, IS_LIMIT | MORE | REQUESTS | READS | 1000, IS_LIMIT | REQUESTS | WRITES | 1000)
        end(process, client)


@test("a signal that changes limits during the handshake holds when transmission starts")
def _(t):
    image = t.pattern_image(MIB)
    process, client = t.activated(image)
    client.handshake()
    change_limits(process, IS_LIMIT | MORE | TOGETHER | 1, IS_LIMIT | READS_BURST | 1)
    client.structured_replies()
    client.go()
    cookies = request_all(client, 2)
    assert not client.is_answered(cookies[-1])
    end(process, client)


@test("a wrong limit, and a third one, are usage errors that say what is wanted")
def _(t):
    image = t.pattern_image(4096)
    for option in ("--max-rate=fast", "--max-rate=", "--max-rate=1M:", "--max-rate=1M:0",
                   "--max-iops=-1", "--max-iops=1:x"):
        process = t.run([NBDINETD, option, image], status=EX_USAGE)
        contains("this is no limit", process.stderr())
    process = t.run([NBDINETD, "--max-rate=1", "--max-rate=2", "--max-rate=3", image],
                    status=EX_USAGE)
    contains("given twice already", process.stderr())


if __name__ == "__main__":
    main()
