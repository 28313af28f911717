"""The rows, in the order of the table."""

import distance
import servers
from lab import KIB, MIB
from workloads import (Cached, Cold, ConnectRate, Copy, Extents, IdleMemory, Mixed, OneKind, SparseCopy,
                       PrivateCopy, Startup, Tls)

WORKLOADS = [
    OneKind("randread-d32", "randread 4 KiB, depth 32", "randread", 4 * KIB, 32,
            [servers.READY_SENDER]),
    OneKind("randread-d1", "randread 4 KiB, depth 1", "randread", 4 * KIB, 1,
            [servers.READY_SENDER]),
    OneKind("randwrite-d32", "randwrite 4 KiB, depth 32", "randwrite", 4 * KIB, 32),
    OneKind("read-1m", "read 1 MiB, depth 8", "read", MIB, 8, servers.BARE_SENDERS),
    OneKind("blaster-randread-d32", "by blaster: randread 4 KiB, depth 32", "randread",
            4 * KIB, 32, [servers.READY_SENDER], client="blaster"),
    OneKind("blaster-randwrite-d32", "by blaster: randwrite 4 KiB, depth 32", "randwrite",
            4 * KIB, 32, client="blaster"),
    OneKind("blaster-read-1m", "by blaster: read 1 MiB, depth 8", "read", MIB, 8,
            servers.BARE_SENDERS, client="blaster"),
    OneKind("blaster-write-1m", "by blaster: write 1 MiB, depth 8", "write", MIB, 8,
            client="blaster"),
    Copy("copy1", "copy1, Unix", 1, "unix"),
    Copy("copy1-tcp", "copy1, TCP", 1, "tcp"),
    Copy("copy4-unix", "copy4, Unix", 4, "unix"),
    Copy("copy4-tcp", "copy4, TCP", 4, "tcp"),
    Tls("copy", "psk"),
    Tls("copy", "x509"),
    Tls("read", "psk"),
    Tls("read", "x509"),
    OneKind("write-1m", "write 1 MiB, depth 8", "write", MIB, 8),
    Startup(),
    IdleMemory(),
    Cold("cold-file", "cold randread 4 KiB, depth 32, page cache dropped", on_loop=False),
    Cold("cold-loop", "cold randread 4 KiB, depth 32, O_DIRECT loop device", on_loop=True),
    Mixed(),
    Extents(),
    SparseCopy(),
    ConnectRate(),
    PrivateCopy("cow-read", "private copy: randread 4 KiB of what is in the file", 100),
    PrivateCopy("cow-read-copied", "private copy: randread 4 KiB of what is in the copy", 100, "--fill"),
    PrivateCopy("cow-write-first", "private copy: each 4 KiB written once", 0, "--once"),
    PrivateCopy("cow-write-again", "private copy: randwrite 4 KiB of what is in the copy", 0, "--fill"),
    *(Cached(mode, rw, block, depth) for mode in ("none", "writethrough", "drop")
      for rw, block, depth in (("read", MIB, 8), ("write", MIB, 8), ("randread", 4 * KIB, 32),
                               ("randwrite", 4 * KIB, 32))
      # What is read is in the page cache as ever.
      if mode != "writethrough" or "write" in rw),
    *distance.ROWS,
]
BY_NAME = {workload.name: workload for workload in WORKLOADS}
