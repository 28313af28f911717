#!/usr/bin/python3
"""The listener under many connections: at once, one after the other, half-open, and while one
instance hands over to the next."""

import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402
from listening import *  # noqa: E402

MANY = 1000
PAGE = 4096


def pss_kib(pid):
    """The proportional set size: what a process costs, shared pages divided by their users."""
    return int(matches(r"^Pss:\s+(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text())[1])


def anonymous_kib(pid):
    """The memory of its own that a process has touched."""
    return int(matches(r"^RssAnon:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text())[1])


def expect_none_left(process, before):
    """A listener is as it was before the first connection."""
    wait_alone(process)
    eq(process.descriptors(), before, "the listener's descriptors")
    eq(os.listdir(f"/proc/{process.pid}/task"), [str(process.pid)], "the listener's threads")


@test("1,000 connections at once, each doing I/O, are all served, and none is left behind")
def _(t):
    allow_descriptors(MANY + 200)
    image = t.pattern_image(MIB)
    door = Door(t)
    process = activate(t, image, inherited=[door])
    before = warmed_up(process, door)
    os.truncate(image, MANY * PAGE)
    clients = [door.client().start() for _ in range(MANY)]
    children = children_of(process.pid)
    eq(len(children), MANY, "processes")

    # Every request is on its way before the first reply is looked at.
    def page_of(number):
        return number.to_bytes(8, "big") * (PAGE // 8)
    writes = [client.request(NBD_CMD_WRITE, n * PAGE, payload=page_of(n))
              for n, client in enumerate(clients)]
    for client, cookie in zip(clients, writes):
        client.answer(cookie).check()
    # Each reads what another one has written.
    others = [(n * 7 + 1) % MANY for n in range(MANY)]
    reads = [client.request(NBD_CMD_READ, other * PAGE, PAGE)
             for client, other in zip(clients, others)]
    for client, cookie, other in zip(clients, reads, others):
        eq(client.answer(cookie).check().data == page_of(other), True, f"the page of {other}")
    for client in clients:
        client.flush()

    shares = sorted(pss_kib(pid) for pid in children)
    note(f"memory of {MANY} idle connections, KiB (Pss): median {shares[MANY // 2]}, most "
         f"{shares[-1]}; the listener {pss_kib(process.pid)}")
    for client in clients:
        client.disconnect()
    expect_none_left(process, before)
    eq([pid for pid in children if state_of(pid)], [], "processes of connections")
    log = process.stderr()
    eq(log.count("serving export"), MANY + 1, "lines of starts")
    eq(len(re.findall(r" ended: client disconnected; 3 requests, 4 KiB read, 4 KiB "
                      r"written, 0 errors, ", log)), MANY, "lines of ends")
    stop(process)


@test("3,000 connections one after the other leave no descriptor, no zombie and no memory behind")
def _(t):
    door = Door(t)
    process = activate(t, "--log=null", t.pattern_image(MIB), inherited=[door])

    def knock():
        """From connect to greeting, and away again."""
        client = door.client()
        client.handshake()
        client.option(NBD_OPT_ABORT)
        eq(client.option_reply(NBD_OPT_ABORT), (NBD_REP_ACK, b""))
        client.expect_end()
    for _ in range(200):
        knock()
    wait_alone(process)
    before, memory = process.descriptors(), anonymous_kib(process.pid)
    started = time.monotonic()
    count = 3000
    for _ in range(count):
        knock()
    seconds = time.monotonic() - started
    expect_none_left(process, before)
    after = anonymous_kib(process.pid)
    note(f"{count} connections one after the other: {count / seconds:.0f} in a second; the "
         f"listener's own memory was {memory} KiB and is {after} KiB")
    # malloc's smallest block, 32 bytes, for each connection would be 94 KiB. A sanitizer's allocator
    # keeps freed memory on purpose.
    if "asan" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert after < memory + 64, f"the listener has grown from {memory} to {after} KiB"
    visit(door.client())
    stop(process)


@test("1,000 half-open handshakes keep nobody else from being served, and are cut at their "
      "deadline")
def _(t):
    allow_descriptors(MANY + 200)
    door = Door(t, "tcp")
    process = activate(t, "--handshake-timeout=8s", t.pattern_image(MIB), inherited=[door])
    before = warmed_up(process, door)
    half_open = []
    for number in range(MANY):
        client = door.client()
        # Some say nothing, some stop inside the client flags, some inside an option's header, some
        # inside its payload.
        client.send([b"", bytes(2), bytes([0, 0, 0, 3]) + IHAVEOPT[:5],
                     bytes([0, 0, 0, 3]) + client.option_bytes(NBD_OPT_GO, bytes(60))[:-30]]
                    [number % 4])
        half_open.append(client)
        if number % 100 == 99:
            visit(door.client())
    for _ in range(20):
        visit(door.client())
    for client in half_open:
        eq(client.read_to_end(), NBDMAGIC + IHAVEOPT + b"\0\3", "what a half-open one has got")
    expect_none_left(process, before)
    log = process.stderr()
    cut = r" ended: client didn't finish the handshake within 8s\n"
    eq(len(re.findall(cut, log)), MANY)
    eq(len(re.findall(r" ended: client disconnected; 1 request, ", log)), 31)
    stop(process)


@test("new instances take over under load, old connections live on with the old ones, and no "
      "connection is refused")
def _(t):
    doors = [Door(t, "unix"), Door(t, "tcp")]
    image = t.pattern_image(MIB)
    generations = 15
    stay, failures, visits = threading.Event(), [], [0, 0]

    def keep_visiting(door, index):
        try:
            while not stay.is_set():
                visit(door.client())
                visits[index] += 1
        except BaseException as error:  # told by the main thread
            failures.append(error)
    threads = [threading.Thread(target=keep_visiting, args=(door, index), daemon=True)
               for index, door in enumerate(doors)]
    old_connections = []
    process = None
    for generation in range(generations):
        if process:
            process.signal(signal.SIGHUP)
            process.expect(EX_OK)
        process = activate(t, f"--description={generation}", image, inherited=doors)
        if generation == 0:
            for thread in threads:
                thread.start()
        # Its own, so that the connection belongs to this instance.
        client = doors[generation % 2].client()
        old_connections.append(client.start(requests=[NBD_INFO_DESCRIPTION]))
        eq(client.infos[NBD_INFO_DESCRIPTION], str(generation).encode(), "who serves it")
        goal = [count + 10 for count in visits]
        wait_until(lambda: failures or all(c >= g for c, g in zip(visits, goal)), "visits")
    stay.set()
    for thread in threads:
        thread.join(GUARD)
    eq(failures, [], "connections refused or broken")
    for number, client in enumerate(old_connections):
        eq(client.read(number * 512, 512), pattern(number * 512, 512))
        client.disconnect()
    stop(process)
    note(f"{sum(visits)} connections while {generations} instances followed each other")


@test("a stop in the middle of a crowd ends all of them, and leaves nobody behind")
def _(t):
    crowd = 200
    door = Door(t, "tcp")
    process = activate(t, t.pattern_image(MIB), inherited=[door])
    clients = [door.client() for _ in range(crowd)]
    for client in clients[::2]:
        client.start()
    children = wait_until(lambda: (lambda c: c if len(c) == crowd else None)(
        children_of(process.pid)), f"{crowd} processes")
    stop(process)
    eq([pid for pid in children if state_of(pid)], [], "processes of connections")
    for client in clients:
        client.read_to_end()
    assert "killing" not in process.stderr(), process.stderr()[-500:]


if __name__ == "__main__":
    private_network()
    main()
