#!/usr/bin/python3
"""The page of memory with a connection's statistics: what it holds while the connection is served."""

import os
import struct
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from harness import *
from listening import Door, NotifySocket, activate, stop

PAGE = "/memfd:nbdinetd-statistics (deleted)"
COMMANDS = ("read", "write", "flush", "trim", "cache", "write_zeroes", "block_status")
# Bounds are the first one times powers of two; one more bucket has the rest.
LATENCIES, SIZES = 27 + 1, 24 + 1
LENGTH = 16 + 8 * (6 + len(COMMANDS) * (LATENCIES + 1 + SIZES + 1))


class Histogram:
    def __init__(self, words):
        *self.counts, self.sum = words
        self.count = sum(self.counts)


class Page:
    """One reading."""

    def __init__(self, data):
        eq(struct.unpack_from("=8sII", data), (b"nbdstats", 1, LENGTH), "the header")
        eq(len(data), LENGTH)
        words = struct.unpack_from(f"={(LENGTH - 16) // 8}Q", data, 16)
        self.requests, self.read, self.written, _, self.errors, self.longest = words[:6]
        self.latency, self.size = {}, {}
        for i, command in enumerate(COMMANDS):
            at = 6 + i * (LATENCIES + SIZES + 2)
            self.latency[command] = Histogram(words[at:at + LATENCIES + 1])
            self.size[command] = Histogram(words[at + LATENCIES + 1:at + LATENCIES + SIZES + 2])

    def counts(self):
        return {command: h.count for command, h in self.latency.items() if h.count}


def page_of(pid):
    """The path of the page among the descriptors of the process; None without one."""
    found = [d for d, target in descriptors_of(pid).items() if target == PAGE]
    assert len(found) <= 1, found
    return f"/proc/{pid}/fd/{found[0]}" if found else None


def reading(pid):
    return Page(Path(page_of(pid)).read_bytes())


def need_root():
    # The process isn't dumpable: only root sees its descriptors.
    require(os.geteuid() == 0, "needs root")


@test("the page has each request in the histograms of its command, while the connection is served")
def _(t):
    need_root()
    notify = NotifySocket(t)
    process, client = t.activated(t.pattern_image(4 * MIB), env={"NOTIFY_SOCKET": notify.path})
    client.start(contexts=("base:allocation",))
    eq(reading(process.pid).counts(), {})
    reads = [512] * 5 + [4096] * 3 + [4097, MIB, 3 * MIB]
    for length in reads:
        client.read(0, length)
    writes = [1, 512, 513, 2 * MIB]
    for length in writes:
        client.write(0, bytes(length))
        client.write(0, bytes(length), flags=NBD_CMD_FLAG_FUA)
    client.flush()
    client.trim(0, MIB)
    client.cache(0, 8192)
    client.write_zeroes(0, 4096)
    client.block_status(0, 4 * MIB)
    eq(client.call(NBD_CMD_READ, 4 * MIB, 1).error, NBD_EINVAL)
    # The reply to the last one may be here before it is counted.
    page = wait_until(lambda: (lambda p: p if p.counts().get("read") == len(reads) + 1 else None)(
        reading(process.pid)), "all requests in the page")
    eq(page.counts(), {"read": len(reads) + 1, "write": 2 * len(writes), "flush": 1, "trim": 1, "cache": 1,
                       "write_zeroes": 1, "block_status": 1})
    eq((page.requests, page.errors), (len(reads) + 1 + 2 * len(writes) + 5, 1))
    # Of those that succeeded.
    eq((page.size["read"].count, page.size["read"].sum, page.read), (len(reads), sum(reads), sum(reads)))
    eq((page.size["write"].count, page.size["write"].sum, page.written),
       (2 * len(writes), 2 * sum(writes), 2 * sum(writes)))
    eq(page.size["read"].counts[:5], [5, 0, 0, 3, 1])
    eq(page.size["write"].counts[:2], [4, 2])
    eq(page.size["flush"].count, 0)
    eq([page.size[command].sum for command in ("trim", "cache", "write_zeroes", "block_status")],
       [MIB, 8192, 4096, 4 * MIB])
    for command, latency in page.latency.items():
        # The sum lies between those of the lower and of the upper bounds.
        lower = sum(count * (1000 << i - 1 if i else 0) for i, count in enumerate(latency.counts))
        upper = sum(count * (1000 << i) for i, count in enumerate(latency.counts))
        assert lower < latency.sum and (latency.counts[-1] or latency.sum <= upper), (command, latency.counts)
    client.read(0, 512)
    wait_until(lambda: reading(process.pid).counts()["read"] == len(reads) + 2, "one more")
    client.disconnect()
    process.expect(EX_OK)


@test("the longest latency lies in the highest bucket, also where all requests are answered from the page cache")
def _(t):
    need_root()
    notify = NotifySocket(t)
    process, client = t.activated(t.pattern_image(MIB), env={"NOTIFY_SOCKET": notify.path})
    client.start()
    for _ in range(100):
        client.read(0, 4096)
    page = wait_until(lambda: (lambda p: p if p.counts().get("read") == 100 else None)(reading(process.pid)),
                      "all requests in the page")
    highest = max(i for i, count in enumerate(page.latency["read"].counts) if count)
    assert page.longest > (1000 << highest - 1 if highest else 0), (page.longest, highest)
    assert highest == LATENCIES - 1 or page.longest <= 1000 << highest, (page.longest, highest)
    client.disconnect()
    process.expect(EX_OK)


@test("a request that the rate limit holds counts with the time for which it is held")
def _(t):
    need_root()
    notify = NotifySocket(t)
    process, client = t.activated("--max-iops=10:1", t.pattern_image(MIB), env={"NOTIFY_SOCKET": notify.path})
    client.start()
    for _ in range(4):
        client.read(0, 512)
    page = wait_until(lambda: (lambda p: p if p.counts().get("read") == 4 else None)(reading(process.pid)),
                      "all requests in the page")
    # Three of them wait for a tenth of a second each.
    assert page.latency["read"].sum > 200_000_000, page.latency["read"].sum
    client.disconnect()
    process.expect(EX_OK)


@test("without a service manager, and in the processes of a listener, there is no page")
def _(t):
    need_root()
    image = t.pattern_image(MIB)
    process, client = t.activated(image)
    client.start()
    client.read(0, 512)
    eq(page_of(process.pid), None)
    client.disconnect()
    process.expect(EX_OK)
    # Only the listener talks to the service manager.
    notify, door = NotifySocket(t), Door(t)
    process = activate(t, image, inherited=[door], env={"NOTIFY_SOCKET": notify.path})
    client = door.client().start()
    client.read(0, 512)
    child, = children_of(process.pid)
    eq((page_of(process.pid), page_of(child)), (None, None))
    client.disconnect()
    stop(process)


@test("without a memfd, a connection is served all the same")
def _(t):
    notify = NotifySocket(t)
    for call in ("memfd_create:error=ENOSYS", "memfd_create:error=EMFILE", "ftruncate:error=EPERM:when=1"):
        name, trace = call.partition(":")[0], t.fresh(".trace")
        process, client = t.inetd(t.pattern_image(MIB), env={"NOTIFY_SOCKET": notify.path}, prefix=[
            need("strace"), "-f", "-qq", "-e", "signal=none", "-e", f"trace={name}", "-o", trace,
            "-e", f"inject={call}"])
        client.start()
        eq(client.read(0, 4096), pattern(0, 4096))
        client.disconnect()
        process.expect(EX_OK)
        contains("(INJECTED)", Path(trace).read_text())


if __name__ == "__main__":
    main()
