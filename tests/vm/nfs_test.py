#!/usr/bin/python3
"""An image on NFS 4.2 that two hosts serve: what doc/storage-promises.md says of NFS, against the kernel's server and
its client.

    nfsd and the tests   10.97.0.1 at the bridge
    hosts a and b        10.97.0.11 and 10.97.0.12, each an NFS client of its own"""

import os
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from clients import allocated_bytes
from harness import *
from machine import run_inside
from two_hosts import (Host, check_holes, count_lost, count_stale, cut_off_host_writes_no_more, make_bridge,
                       one_client_at_a_time, promise_is, serve_both, SIZE)

SERVER, HOSTS = "10.97.0.1", {"a": "10.97.0.11", "b": "10.97.0.12"}
STORE = Path("/srv/export")
LEASE_S = 10


def prepare(payload):
    payload.write("root/etc/modules-load.d/nfs.conf", "nfsd\nnfsv4\nveth\nbridge\n")


class Server:
    """The kernel's NFS server, set up by its files, as exportfs(8), rpc.mountd(8) and rpc.nfsd(8) would do it."""

    # linux/nfsd/export.h
    INSECURE_PORT, NO_SUBTREE_CHECK, FSID = 0x0002, 0x0400, 0x2000
    FSID_NUM = 1  # a number is the id of a file system
    FOREVER = 0x7FFFFFFF

    def __init__(self, clients):
        """`clients` are the addresses of those that it serves."""
        STORE.mkdir(parents=True, exist_ok=True)
        Path("/var/lib/nfs/v4recovery").mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "nfsd", "nfsd", "/proc/fs/nfsd"], check=True)
        for address in clients:
            self._tell("auth.unix.ip", f"nfsd {address} {self.FOREVER} hosts")
        # File system 0 is the root of NFSv4.
        flags = self.INSECURE_PORT | self.NO_SUBTREE_CHECK | self.FSID
        self._tell("nfsd.export", f"hosts {STORE} {self.FOREVER} {flags} 65534 65534 0")
        self._tell("nfsd.fh", f"hosts {self.FSID_NUM} \\x00000000 {self.FOREVER} {STORE}")
        for name, text in (("versions", "-2 -3 +4 +4.1 +4.2"), ("nfsv4leasetime", LEASE_S), ("nfsv4gracetime", LEASE_S),
                           ("portlist", "tcp 2049"), ("threads", 4), ("v4_end_grace", "Y")):
            self._set(name, text)

    @staticmethod
    def _tell(cache, line):
        file = os.open(f"/proc/net/rpc/{cache}/channel", os.O_WRONLY)
        os.write(file, line.encode() + b"\n")
        os.close(file)

    @staticmethod
    def _set(name, text):
        file = os.open(f"/proc/fs/nfsd/{name}", os.O_WRONLY)
        try:
            os.write(file, f"{text}\n".encode())
        finally:
            os.close(file)


_server = None


def boot(t):
    """Both hosts."""
    global _server
    if not _server:
        make_bridge(SERVER)
        _server = Server(HOSTS.values())
    (STORE / "disk").unlink(missing_ok=True)
    return [Host(t, name, address, ["mount", "-i", "-t", "nfs4", "-o",
                                    f"vers=4.2,timeo=50,addr={SERVER},clientaddr={address}", f"{SERVER}:/"])
            for name, address in HOSTS.items()]


@test("NFS, with the defaults: hosts read each other's whole blocks; --check and the flags tell what the table says")
def _(t):
    hosts = serve_both(boot(t))
    found = hosts[0].check("--exclusive")
    for words in ("on NFS, which other hosts may serve, too", "holds on every host that could serve it",
                  "a flush is answered when what stores the data says that it is durable"):
        contains(words, found)
    clients = [host.client() for host in hosts]
    promise_is(clients, False)
    eq(count_stale(clients)[0], 0, "stale reads of whole blocks")
    count_lost(clients)


@test("NFS, with --force-share: without locks on the file, a client of NFS may write whole pages; nothing is promised")
def _(t):
    clients = [host.client() for host in serve_both(boot(t), "--force-share")]
    promise_is(clients, False)
    eq(count_stale(clients)[0], 0, "stale reads of whole blocks")
    count_lost(clients)


@test("NFS, through the page cache: a host may read what was there before, which isn't promised; a flush is a COMMIT")
def _(t):
    hosts = serve_both(boot(t), "--cache=writeback")
    clients = [host.client() for host in hosts]
    promise_is(clients, False)
    count_stale(clients)
    count_lost(clients)
    before = hosts[0].operations("COMMIT")
    # More than one request of NFS; a single one would have the server store its data by itself.
    clients[0].write(0, pattern(0, MIB))
    clients[0].flush()
    eq(hosts[0].operations("COMMIT") > before, True, "COMMIT")


@test("NFS: a hole is told only where there are zeroes, whichever host made it, and a trim frees the server's space")
def _(t):
    clients = [host.client(contexts=("base:allocation",)) for host in serve_both(boot(t))]
    eq(check_holes(clients) > 0, True, "holes")
    before = allocated_bytes(STORE / "disk")
    clients[0].trim(0, SIZE)
    clients[0].flush()
    after = allocated_bytes(STORE / "disk")
    note(f"allocated at the server: {before} bytes, {after} after a trim of all")
    eq(after < before // 2, True, "space is free")


for _cache in ("none", "writeback"):
    @test(f"NFS, --exclusive --cache={_cache}: one client in both hosts, and a host that is cut off changes nothing "
          "once the other one serves")
    def _(t, cache=_cache):
        hosts = serve_both(boot(t), "--exclusive", f"--cache={cache}")
        one_client_at_a_time(hosts)
        note(f"the server's lease is {LEASE_S} s")
        cut_off_host_writes_no_more(hosts)


run_inside(prepare)
