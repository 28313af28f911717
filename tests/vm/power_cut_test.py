#!/usr/bin/python3
"""Power cuts. The server is a machine of its own (machine.py) with exports on ext4 and on XFS, served by the
units that its systemd makes of two files; the clients are outside, and stay. The emulator is killed at a
random moment while they write, and its disks lose what they hold in their caches: nbdkit's filter "cache"
writes to the image file only at a flush, and is killed, too. After the next boot everything must be there
that a flush, or a write with FUA, had acknowledged. Some exports are copies that are kept for their client
(Cow=keep): on ext4 with a map of what it has written, on XFS as a clone.

NBDINETD_POWER_CUTS sets how many cuts there are; `make check-power-cuts` makes 20.
"""

import os
import random
import struct
import sys
import threading
import time
from pathlib import Path

# Also what runs here waits for the machine.
os.environ["NBDINETD_TEST_PATIENCE"] = "20"
sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
import machine
from harness import *
from machine import Machine, Payload

CUTS = int(os.environ.get("NBDINETD_POWER_CUTS", "2"))
EXPORT_BYTES = 32 * MIB
BLOCK = 4096
SECTOR = 512
# Each connection writes to blocks of its own.
CONNECTIONS, BLOCKS_EACH = 2, 256
# {export: (file system, connections, its lines)}; one client, which all connections from here are, has one
# kept copy.
KEPT = "Cow=keep\nCowKey=peer-address\nCowDir=/srv/{kind}/copies\n"
EXPORTS = {"ext4": ("ext4", CONNECTIONS, ""), "xfs": ("xfs", CONNECTIONS, ""),
           "ext4-kept": ("ext4", 1, KEPT), "xfs-kept": ("xfs", 1, KEPT)}
FILE_SYSTEMS = {"ext4": (3, 128 * MIB, ["mkfs.ext4", "-q"]), "xfs": (4, 320 * MIB, ["mkfs.xfs", "-q"])}

# 10.0.2.15 is where the emulator's network has the machine.
PROGRAM = f"""#!/bin/sh -e
for kind in {" ".join(FILE_SYSTEMS)}; do
  mountpoint -q /srv/$kind
  mkdir -p /srv/$kind/copies
  for name in $kind $kind-kept; do
    [ -e /srv/$kind/$name.img ] || truncate -s {EXPORT_BYTES} /srv/$kind/$name.img
  done
done
sync
until ip addr add 10.0.2.15/24 dev eth0; do sleep 0.1; done
ip link set eth0 up
echo ready
exec sleep infinity
"""


# ------------------------------------------------------------------ the machine

class Disk:
    """A disk with a cache of its own, which a power cut empties."""

    def __init__(self, context, name, size, make):
        self.image = context.sparse_image(size, f"{name}.img")
        self._context, self._socket = context, context.path(f"{name}.sock")
        # A loop device is not needed to make a file system in a file.
        context.run([*make, self.image])
        self._process = None

    def switch_on(self):
        """Returns where the emulator finds it."""
        self._process = self._context.spawn(
            [need("nbdkit"), "-f", "-U", self._socket, "--filter=cache", "file", self.image, "cache=writeback"])
        wait_listening(self._socket, self._process)
        return f"nbd:unix:{self._socket}"

    def cut_power(self):
        if self._process:
            self._process.signal(signal.SIGKILL)
            self._process.wait()
            Path(self._socket).unlink(missing_ok=True)


class Server:
    """The machine, boot after boot."""

    def __init__(self, context):
        self._context = context
        payload = Payload(context.path("payload"), PROGRAM)
        self._disks, self.ports = [], {}
        for number, (name, (kind, _, lines)) in enumerate(EXPORTS.items()):
            self.ports[name] = 10811 + number
            payload.write(f"root/etc/nbdinetd/{name}.export",
                          f"[Export]\nFile=/srv/{kind}/{name}.img\n{lines.format(kind=kind)}"
                          f"[Socket]\nListenStream={self.ports[name]}\n")
        for kind, (disk, size, make) in FILE_SYSTEMS.items():
            self._disks.append(Disk(context, kind, size, make))
            (payload.root / f"srv/{kind}").mkdir(parents=True)
            # Before the sockets listen.
            payload.write(f"root/etc/systemd/system/srv-{kind}.mount",
                          f"[Unit]\nBefore=sockets.target\nDefaultDependencies=no\nBefore=local-fs.target\n"
                          f"[Mount]\nWhat=/dev/nvme0n{disk}\nWhere=/srv/{kind}\nType={kind}\n")
            payload.enable("local-fs.target", f"/etc/systemd/system/srv-{kind}.mount")
        self._payload_disk = payload.disk()
        self._machine = None
        context.defer(self.cut_power)

    def boot(self):
        """Returns {export: port}."""
        here = {name: free_port() for name in self.ports}
        self._machine = Machine(self._context.dir, self._payload_disk,
                                [disk.switch_on() for disk in self._disks],
                                [(here[name], port) for name, port in self.ports.items()])
        self._machine.wait_for_line("ready")
        return here

    def cut_power(self):
        if self._machine:
            self._machine.cut_power()
            self._machine = None
        for disk in self._disks:
            disk.cut_power()


# ------------------------------------------------------------------ the clients

def stamp(block, generation):
    """What a block holds: each sector tells where it belongs and when it was written."""
    return b"".join(struct.pack(">QQ", block * BLOCK + offset, generation).ljust(SECTOR, b"\xa5")
                    for offset in range(0, BLOCK, SECTOR))


class Writer:
    """One connection of a client after another, and what it knows of its blocks."""

    def __init__(self, export, first, seed):
        self.export = export
        self._blocks = range(first, first + BLOCKS_EACH)
        self._random = random.Random(seed)
        self._generation = 0
        # Of each block: the newest generation that was requested, and the newest that must last.
        self._sent = dict.fromkeys(self._blocks, 0)
        self._durable = dict.fromkeys(self._blocks, 0)
        self._acknowledged = dict.fromkeys(self._blocks, 0)
        self.promises = 0  # flushes and writes with FUA that were acknowledged
        self.lost = 0  # sectors that no flush had reached, and that are gone
        self.error = None

    def check(self, client):
        """After a cut: every sector is of a generation that it may have."""
        start = self._blocks[0] * BLOCK
        content = client.read(start, BLOCKS_EACH * BLOCK)
        for block in self._blocks:
            data = content[block * BLOCK - start:][:BLOCK]
            for offset in range(0, BLOCK, SECTOR):
                sector = data[offset:offset + SECTOR]
                place, generation = struct.unpack_from(">QQ", sector)
                if generation == 0 and not any(sector):
                    place = block * BLOCK + offset
                elif sector != stamp(block, generation)[offset:offset + SECTOR]:
                    raise AssertionError(f"{self.export}: sector {block * BLOCK + offset} holds {sector[:32]!r}")
                eq(place, block * BLOCK + offset, f"{self.export}: the place in a sector")
                if not self._durable[block] <= generation <= self._sent[block]:
                    raise AssertionError(
                        f"{self.export}: sector {place} is of generation {generation}; {self._durable[block]} was "
                        f"acknowledged to last, {self._sent[block]} was the newest")
                self.lost += generation < self._acknowledged[block]
            # Whatever there is now, is what counts from now on; the sectors may differ.
            self._acknowledged[block] = self._sent[block]

    def settle(self, client):
        """Makes the blocks whole again after a check."""
        self._generation += 1
        requests = [client.request(NBD_CMD_WRITE, block * BLOCK, payload=stamp(block, self._generation))
                    for block in self._blocks]
        for request in requests:
            client.answer(request).check()
        client.flush()
        for known in (self._sent, self._acknowledged, self._durable):
            known.update(dict.fromkeys(self._blocks, self._generation))

    def _write(self, client, block, flags=0):
        self._sent[block] = self._generation
        client.write(block * BLOCK, stamp(block, self._generation), flags)
        self._acknowledged[block] = self._generation

    def run(self, client, counted):
        """Writes until the connection breaks; counted() is called after each promise."""
        try:
            while True:
                self._generation += 1
                fua = self._random.random() < 0.2
                for block in self._random.sample(self._blocks, self._random.randint(1, 6)):
                    self._write(client, block, NBD_CMD_FLAG_FUA if fua else 0)
                    if fua:
                        self._durable[block] = self._generation
                        self.promises += 1
                        counted()
                if self._random.random() < 0.4:
                    client.flush()
                    self._durable = dict(self._acknowledged)
                    self.promises += 1
                    counted()
        except (Disconnected, ConnectionError, BrokenPipeError):
            pass
        except Exception as error:  # to be raised by the main thread
            self.error = error


class Cutter:
    """Decides when the power fails: after a random number of promises, and a moment."""

    def __init__(self, seed):
        self._random = random.Random(seed)
        self._left = self._random.randint(1, 120)
        self._lock = threading.Lock()
        self.now = threading.Event()

    def count(self):
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self.now.set()

    def wait(self, writers):
        wait_until(lambda: self.now.is_set() or any(w.error for w in writers), "the clients' flushes", 300)
        time.sleep(self._random.random() * 0.3)  # anywhere between two requests


@test(f"what a flush or FUA acknowledged is there after each of {CUTS} power cuts, on ext4 and on XFS, and in kept copies",
      guard=300 * (CUTS + 2))
def _(context):
    if reason := machine.reason_against():
        require(False, reason)
    for program in ("nbdkit", "mkfs.xfs"):
        need(program)
    seed = random.randrange(1 << 32)
    note(f"seed {seed}")
    server = Server(context)
    writers = [Writer(export, number * BLOCKS_EACH, f"{seed} {export} {number}")
               for export, (_, connections, _) in EXPORTS.items() for number in range(connections)]
    for cut in range(CUTS + 1):
        ports = server.boot()
        clients = [Client(connect(("127.0.0.1", ports[writer.export]))).start() for writer in writers]
        for writer, client in zip(writers, clients):
            if cut > 0:
                writer.check(client)
            if cut < CUTS:
                writer.settle(client)
        if cut == CUTS:
            break
        cutter = Cutter(f"{seed} {cut}")
        threads = [threading.Thread(target=writer.run, args=(client, cutter.count), daemon=True)
                   for writer, client in zip(writers, clients)]
        for thread in threads:
            thread.start()
        cutter.wait(writers)
        server.cut_power()
        for thread, client in zip(threads, clients):
            thread.join(GUARD)
            client.close()
        for writer in writers:
            if writer.error:
                raise writer.error
    note(f"{sum(w.promises for w in writers)} flushes and writes with FUA; "
         f"{sum(w.lost for w in writers)} sectors lost that had no such promise")
    # Otherwise the cuts have proved nothing.
    if sum(w.lost for w in writers) == 0:
        raise AssertionError("no power cut has lost anything")


main()
