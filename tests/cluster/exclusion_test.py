#!/usr/bin/python3
"""One writer in the whole cluster: --exclusive between two hosts that share a CephFS, and what keeps a host that lost
its network, or that slept, from writing when it comes back.

The lock is the metadata server's. It ends with the process that holds it or with the whole host: then the metadata server
evicts the host's client, which the OSDs refuse from then on (their blocklist)."""

import os
import random
import select
import signal
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from harness import *
from ceph import SESSION_TIMEOUT_S
from hosts import Host, boot_two, cluster, only_child, run

SIZE = 4 * MIB
BLOCK = 64 << 10
HALF = 0.25  # seconds without a byte; a longer time would find more faults, never a false one
# Until the metadata server gives up a host that doesn't answer, and more.
EVICTION_GUARD = 4 * SESSION_TIMEOUT_S * PATIENCE
WITHOUT_PAGE_CACHE = ("--fuse_disable_pagecache=true",)


def serve_both(t, *options, images=("disk",), fuse_options=(), names="ab"):
    """Two hosts that serve a directory with these images, which have the pattern."""
    hosts = boot_two(t, names, fuse_options=fuse_options)
    # Other tests may have theirs in the same file system at the same time.
    directory = f"exclusion-{names}"
    os.makedirs(hosts[0].path(directory), exist_ok=True)
    for image in images:
        Path(hosts[0].path(f"{directory}/{image}")).write_bytes(pattern(0, SIZE))
    for host in hosts:
        host.serve(*options, f"--directory={host.root}/{directory}")
    return hosts


def asking(host, name="disk"):
    """A client that has sent NBD_OPT_GO and hasn't looked at the answer."""
    client = Client(host.connect())
    client.handshake()
    client.option(NBD_OPT_GO, Client.info_bytes(name))
    return client


def answer(client):
    """The last reply to NBD_OPT_GO: (type, text)."""
    while True:
        kind, data = client.option_reply(NBD_OPT_GO)
        if kind != NBD_REP_INFO:
            return kind, data.decode()


def refused(host, words):
    client = asking(host)
    kind, text = answer(client)
    eq(kind, NBD_REP_ERR_POLICY, f"the answer of host {host.name}")
    contains(words, text)
    client.close()


def served(client):
    eq(answer(client), (NBD_REP_ACK, ""), "the answer to NBD_OPT_GO")
    return client


def retried(host, name="disk"):
    """A client that asks again until it is served."""
    def go():
        client = asking(host, name)
        if answer(client)[0] == NBD_REP_ACK:
            return client
        client.close()
        return None
    return wait_until(go, f"host {host.name} to serve")


def is_silent(client):
    return not select.select([client._rfd], [], [], HALF)[0]  # pylint: disable=protected-access


# ------------------------------------------------------------------ refuse, wait, takeover

@test("--exclusive=refuse: a client at one host keeps the other host's clients out, and nobody when it has left")
def _(t):
    for read_only in ((), ("-r",)):
        hosts = serve_both(t, "--exclusive=refuse", *read_only)
        for here, there in (hosts, reversed(hosts)):
            holder = retried(here)
            refused(there, "another client uses it")
            eq(holder.read(8, 8), pattern(8, 8))
            holder.disconnect()
            retried(there).disconnect()
        for host in hosts:
            host.off()


@test("--exclusive=refuse: a holder that is killed with its host's other processes alive gives the export free")
def _(t):
    here, there = serve_both(t, "--exclusive=refuse", fuse_options=WITHOUT_PAGE_CACHE)
    holder = served(asking(here))
    holder.write(0, b"x" * BLOCK)
    process, = here.connections()
    os.kill(process, signal.SIGKILL)
    client = retried(there)
    eq(client.read(0, BLOCK), b"x" * BLOCK)
    client.disconnect()


@test("--exclusive=wait: the other host's client is served when the holder has left, and reads its last write")
def _(t):
    hosts = serve_both(t, "--exclusive=wait", fuse_options=WITHOUT_PAGE_CACHE)
    for turn, (here, there) in enumerate((hosts, reversed(hosts))):
        holder = retried(here)
        waiting = asking(there)
        eq(is_silent(waiting), True, "no answer while another client is served")
        data = bytes([65 + turn]) * BLOCK
        # Not flushed: the end of the holder is enough.
        holder.write(turn * BLOCK, data)
        holder.disconnect()
        eq(served(waiting).read(turn * BLOCK, BLOCK), data)
        waiting.disconnect()


def inner_pid(pid):
    """The process's id on its host."""
    return int(matches(r"^NSpid:.*\s(\d+)$", Path(f"/proc/{pid}/status").read_text())[1])


def client_with_pid(host, name, wanted):
    """A client whose process has this id on its host."""
    def go():
        # Whoever comes next, a thread of ceph-fuse for instance.
        host.run(["/bin/sh", "-c", f"echo {wanted - 1} >/proc/sys/kernel/ns_last_pid"])
        client = retried(host, name)
        if inner_pid(host.connections()[-1]) == wanted:
            return client
        client.disconnect()
        return None
    return wait_until(go, f"process {wanted}")


@test("--exclusive=takeover: a holder at the other host is left alone, and so is the process here that has its id")
def _(t):
    here, there = serve_both(t, "--exclusive=takeover", images=("disk", "other"))
    for _ in range(5):
        retried(here).disconnect()
    holder = retried(here)
    bystander = client_with_pid(there, "other", inner_pid(here.connections()[-1]))
    client = asking(there)
    kind, text = answer(client)
    eq(kind, NBD_REP_ERR_POLICY, f"the answer, {text!r}")
    contains("another machine", text)
    for other in (bystander, holder):
        eq(other.read(8, 8), pattern(8, 8))
        other.disconnect()
    # At one host, one client takes over from the other as ever.
    for host in (here, there):
        first = retried(host)
        second = asking(host)
        served(second)
        first.expect_end()
        second.disconnect()


# ------------------------------------------------------------------ a host that comes back

def version(number):
    """What a block has in this version: no block and no version looks like another."""
    return [random.Random(number * 1000 + block).randbytes(BLOCK) for block in range(SIZE // BLOCK)]


def blocks_of(client):
    return [client.read(block * BLOCK, BLOCK) for block in range(SIZE // BLOCK)]


def takes_over(host):
    """A client of the export at this host, however long the host waits for the one before."""
    def go():
        try:
            client = asking(host)
            if answer(client)[0] == NBD_REP_ACK:
                return client
            client.close()
        except (Disconnected, HangGuard, ConnectionError):
            pass  # the handshake's time was over
        return None
    return wait_until(go, f"host {host.name} to serve", EVICTION_GUARD)


def local_client(host):
    """A client on the host itself: it isn't cut off."""
    return host.there(lambda: Client(host.connect()))


def comes_back(t, names, disturb, recover, options):
    """A host loses contact with writes under way, the other takes over, and the first one comes back."""
    here, there = serve_both(t, "--exclusive=refuse", *options, names=names[:2])
    addresses = [session["entity"]["addr"] for session in cluster().sessions(here.address)]
    eq(len(addresses), 1, "sessions of the host")
    name = f"{addresses[0]['addr']}/{addresses[0]['nonce']}"
    old = local_client(here)
    old.start("disk")
    first, second, third = version(1), version(2), version(3)
    for block, data in enumerate(first):
        old.write(block * BLOCK, data)
    old.flush()
    began = time.monotonic()

    def write(begin, end):
        for block in range(begin, end):
            old.request(NBD_CMD_WRITE, block * BLOCK, payload=second[block])
        old.request(NBD_CMD_FLUSH)
    disturb(here, write)
    new = takes_over(there)
    note(f"the other host took over after {time.monotonic() - began:.0f} s")
    # By Ceph's own eviction, and not before it.
    eq(cluster().sessions(here.address), [], "sessions of the host that was given up")
    contains(name, cluster().blocklist())
    seen = blocks_of(new)
    for block, data in enumerate(seen):
        eq(data in (first[block], second[block]), True, f"block {block} is of the first version or of the second")
    note(f"{sum(a == b for a, b in zip(seen, second))} of {len(seen)} late writes had been in time")
    for block in range(0, len(seen), 2):
        new.write(block * BLOCK, third[block])
        seen[block] = third[block]
    new.flush()
    recover(here)
    # Whatever it still does: each of its requests has its answer, or the connection its end.
    try:
        while any(not old.is_answered(cookie) for cookie in list(old._pending)):  # pylint: disable=protected-access
            old.reply()
        late_errors = sorted({answer.error for answer in old._pending.values()})  # pylint: disable=protected-access
        note(f"the late requests were answered with the errors {late_errors}")
    except (Disconnected, ConnectionError) as end:
        note(f"the old client's connection has ended: {end}")
    eq(blocks_of(new) == seen, True, "the bytes at the host that took over")
    judge = Host(t, names[2]).boot()
    eq(Path(judge.path(f"exclusion-{names[:2]}/disk")).read_bytes() == b"".join(seen), True, "the bytes at a third host")
    # Who connects to a host that was evicted is not served what it may still remember.
    client = local_client(here)
    try:
        client.handshake()
        client.option(NBD_OPT_GO, Client.info_bytes("disk"))
        kind, text = answer(client)
        note(f"a client of the host that came back is told: {text}")
        eq(bool(kind & NBD_REP_FLAG_ERROR), True, "an error")
    except Disconnected as end:
        note(f"a client of the host that came back is left: {end}")
    new.disconnect()


def cut_and_write(host, write):
    host.cut()
    write(0, SIZE // BLOCK)


def write_and_freeze(host, write):
    """The host is stopped with writes between nbdinetd and ceph-fuse."""
    half = SIZE // BLOCK // 2
    write(0, half)
    os.kill(only_child(host.fuse), signal.SIGSTOP)
    write(half, SIZE // BLOCK)
    host.freeze()
    host.cut()


def thaw_and_heal(host):
    host.thaw()
    host.heal()


def _tests_of(what, options, cut_off, stopped):
    """Each waits for the metadata server most of the time; they run beside each other, on hosts of these names."""
    @test(f"{what}: what a host writes while it is cut off never lands", guard=TEST_GUARD + 2 * EVICTION_GUARD, waits=True)
    def _(t):
        comes_back(t, cut_off, cut_and_write, Host.heal, options)

    @test(f"{what}: what a host writes that was stopped, and goes on later, never lands",
          guard=TEST_GUARD + 2 * EVICTION_GUARD, waits=True)
    def _(t):
        comes_back(t, stopped, write_and_freeze, thaw_and_heal, options)


_tests_of("--cache=writeback", ("--cache=writeback",), "abc", "def")
_tests_of("--cache=none", ("--cache=none",), "ghi", "jkl")


if __name__ == "__main__":
    run()
