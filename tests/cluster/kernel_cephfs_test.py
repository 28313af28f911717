#!/usr/bin/python3
"""An image on CephFS that two hosts serve, mounted by the kernel's client: what doc/storage-promises.md says of it.

The cluster is here, and the kernel of the hosts that of an emulated machine (tests/vm), which has the module:

    10.98.0.1    the bridge: the cluster
    10.98.0.51   the machine's bridge, whose other end is a tap interface at that one: the tests
    10.98.0.52   hosts a and b: namespaces in the machine, each a client of Ceph of its own"""

import os
import sys
from pathlib import Path

sys.dont_write_bytecode = True
TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "support"), str(TESTS / "vm")]

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from harness import *
import hosts as cluster_hosts
from ceph import CLIENT, MONITOR_PORT, SESSION_TIMEOUT_S
from machine import is_inside, reason_against, run_inside
from two_hosts import (BRIDGE, Host, check_holes, count_lost, count_stale, cut_off_host_writes_no_more, ip,
                       make_bridge, one_client_at_a_time, promise_is, serve_both)

MACHINE, HOSTS = "10.98.0.51", {"a": "10.98.0.52", "b": "10.98.0.53"}
TAP = "machine"
KEY = "/etc/nbd.key"

_has_bridge = False


def boot(t):
    """Both hosts."""
    global _has_bridge
    if not _has_bridge:
        make_bridge(MACHINE)
        ip("link", "set", "eth0", "master", BRIDGE, "up")
        _has_bridge = True
    name, key = CLIENT.partition(".")[2], Path(KEY).read_text()
    # Both are in one kernel, which would let mounts of the same file system share a client.
    result = [Host(t, host, address, ["mount", "-i", "-t", "ceph", "-o", f"name={name},secret={key},noshare",
                                      f"{cluster_hosts.ADDRESS}:{MONITOR_PORT}:/"])
              for host, address in HOSTS.items()]
    result[0].path("disk").unlink(missing_ok=True)
    return result


@test("CephFS, with the defaults: hosts read what the other one has flushed, and no part of a block is lost")
def _(t):
    hosts = serve_both(boot(t))
    found = hosts[0].check("--exclusive")
    for words in ("on CephFS, which other hosts may serve, too", "holds on every host that could serve it"):
        contains(words, found)
    clients = [host.client() for host in hosts]
    promise_is(clients, True)
    eq(count_stale(clients), (0, 0), "stale reads")
    eq(count_lost(clients), 0, "lost parts")


@test("CephFS, --cache=none: the same")
def _(t):
    clients = [host.client() for host in serve_both(boot(t), "--cache=none")]
    promise_is(clients, True)
    eq(count_stale(clients), (0, 0), "stale reads")
    eq(count_lost(clients), 0, "lost parts")


@test("CephFS: a hole is told only where there are zeroes, whichever host made it")
def _(t):
    check_holes([host.client(contexts=("base:allocation",)) for host in serve_both(boot(t))])


@test("CephFS, --exclusive: one client in both hosts, and a host that is cut off changes nothing once the other serves")
def _(t):
    hosts = serve_both(boot(t), "--exclusive")
    one_client_at_a_time(hosts)
    note(f"the file system's session_timeout is {SESSION_TIMEOUT_S} s")
    cut_off_host_writes_no_more(hosts)


# ------------------------------------------------------------------ here: the cluster and the machine

def prepare(payload):
    payload.write("root/etc/modules-load.d/ceph.conf", "ceph\nveth\nbridge\n")
    key = cluster_hosts.cluster().keyring.read_text().partition("key = ")[2].strip()
    payload.write(f"root{KEY}", key, 0o600)


def in_machine():
    ip("tuntap", "add", "mode", "tap", "name", TAP)
    ip("link", "set", TAP, "master", cluster_hosts.BRIDGE, "up")
    run_inside(prepare, tap=TAP)


if __name__ == "__main__":
    if is_inside():
        run_inside()
    if reason := reason_against():
        skip_all(reason)
    cluster_hosts.run(in_machine)
