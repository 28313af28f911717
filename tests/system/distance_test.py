#!/usr/bin/python3
"""Clients at the other end of a link that is slow, long or loses packets (bench/link.c), in plain text and
over TLS. bench/compare has the rates."""

import os
import re
import socket
import struct
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from far_client import Wire  # noqa: E402
from harness import *  # noqa: E402
from listening import *  # noqa: E402
from tls import TlsClient, authority  # noqa: E402
import tls  # noqa: E402

KIB = 1 << 10
SIZE = 16 * MIB
BUFFERS = 2 * 272 * KIB       # kInputBytes and kOutputBytes
TLS_MEMORY = 2 * MIB          # as SECURITY.md says
CLOSE_ENOUGH = MIB            # of memory that is the allocator's


class Served:
    """A connection over the wire, and its process."""

    def __init__(self, t, wire, over_tls, *arguments):
        ours, self.theirs = wire.connection()
        for end in (ours, self.theirs):
            t.defer(end.close)
        options = ([f"--tls-certificates={authority().server_files(t)}", "--tls=require"]
                   if over_tls else [])
        self.image = t.pattern_image(SIZE)
        self.process = t.spawn([NBDINETD, *options, *arguments, self.image], fds={3: self.theirs},
                               listen_fds=1, listen_pid="own")
        self.client = (TlsClient if over_tls else Client)(ours)
        self.client.start(structured=False)

    def _tcp_info(self, offset):
        """A number of the struct tcp_info of the server's end, whose socket this process holds, too."""
        info = self.theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return struct.unpack_from("I", info, offset)[0]

    def retransmissions(self):
        return self._tcp_info(100)  # tcpi_total_retrans

    def on_their_way(self):
        """Segments that were sent and not acknowledged. What waits for the client to read isn't sent, nor sent again."""
        return self._tcp_info(24)  # tcpi_unacked

    def kernel_memory(self):
        """What the kernel holds for the server's end: (to be sent, at most)."""
        SO_MEMINFO, SNDBUF, WMEM_QUEUED = 55, 3, 5  # sock_diag.h
        numbers = struct.unpack("9I", self.theirs.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))
        return numbers[WMEM_QUEUED], numbers[SNDBUF]

    def own_memory(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+)", status).group(1)) * KIB

    def finish(self):
        self.client.disconnect()
        self.process.expect(EX_OK)


def read_all(served, length, in_flight=8):
    """Reads the whole image by requests of this length; yields after each reply, whose data is right."""
    client, asked = served.client, 0
    for at in range(0, SIZE, length):
        while asked < SIZE and asked < at + in_flight * length:
            client.send(client.request_bytes(NBD_CMD_READ, asked, length))
            asked += length
        eq(client.receive(16 + length)[16:] == pattern(at, length), True, f"the data at {at}")
        yield at


def write_all(served, length):
    for at in range(0, SIZE, length):
        served.client.write(at, pattern(at + 8, length))
    served.client.flush()
    eq(Path(served.image).read_bytes() == pattern(8, SIZE), True, "what was written")


def lossy(t, over_tls):
    wire = Wire(t, "--rtt", 1, "--loss", 1, "--segments")
    served = Served(t, wire, over_tls)
    for at in read_all(served, 128 * KIB):
        # Now and then it loses all for some time.
        if at % (4 * MIB) == 2 * MIB:
            before = served.retransmissions()
            wire.stand_still(lambda: served.on_their_way() == 0
                             or served.retransmissions() > before, "a reply to be sent again")
    for _ in read_all(served, 4 * KIB, in_flight=32):
        pass
    write_all(served, 256 * KIB)
    lost = served.retransmissions()
    note(f"{lost} segments sent again")
    assert lost > SIZE // 1448 // 100, f"only {lost} segments were lost"
    served.finish()


def slow(t, over_tls):
    wire = Wire(t, "--rtt", 10, "--rate", 8)  # 1 MB/s
    most = int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()[2])
    served = Served(t, wire, over_tls)
    served.client.read(0, 4 * KIB)
    idle = served.own_memory()
    length, requests = 8 * MIB, 200
    served.client.send(served.client.request_bytes(NBD_CMD_READ, 0, length) * requests)
    memory, queued = [], []
    received = 0
    while received < 3 * MIB:
        block = served.client.receive(64 * KIB)
        start = max(received - 16, 0)
        skip = max(16 - received, 0)
        eq(block[skip:] == pattern(start, len(block) - skip), True, f"the data at {received}")
        received += len(block)
        memory.append(served.own_memory() - idle)
        queued.append(served.kernel_memory())
    limit = BUFFERS + CLOSE_ENOUGH + (TLS_MEMORY if over_tls else 0)
    note(f"{max(memory) >> 10} KiB more in the process, {max(queued)[0] >> 10} KiB queued, "
         f"{max(sndbuf for _, sndbuf in queued) >> 10} KiB of send buffer, {most >> 10} allowed")
    if b"libasan" not in Path(NBDINETD).read_bytes():
        assert max(memory) <= limit, f"{max(memory)} bytes more"
    # TCP sizes the buffer by itself, and a last segment may exceed it.
    assert max(sndbuf for _, sndbuf in queued) <= most, f"a send buffer of {max(queued)}"
    assert max(queued)[0] <= most + MIB // 4, f"{max(queued)[0]} bytes in the send queue"
    eq(served.process.poll(), None, "the end")


for over_tls in (False, True):
    how = "over TLS" if over_tls else "in plain text"
    test(f"a link that loses 1 % each way, and sometimes everything for a while, ends no connection {how}, "
         "and no byte is wrong", waits=True)(lambda t, tls_=over_tls: lossy(t, tls_))
    test(f"a peer that takes 1 MB/s {how} holds no more memory than SECURITY.md says, in the process and "
         "in the kernel", waits=True)(lambda t, tls_=over_tls: slow(t, tls_))


if __name__ == "__main__":
    if not private_network():
        skip_all("needs a network of its own")
    tls.main_with_tls()
