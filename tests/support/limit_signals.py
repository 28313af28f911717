"""The signals that change the limits of a connection while it is served."""

import ctypes
import re
import signal
from pathlib import Path

# The values of limit_signal.cc.
IS_LIMIT, REQUESTS, MORE = 1 << 63, 1 << 62, 1 << 57
TOGETHER, READS, WRITES, READS_BURST = (field << 58 for field in range(4))

_libc = ctypes.CDLL(None, use_errno=True)


def change_limits(process, *values):
    """What `nbdinetctl limit` sends (limit_signal.h): a real-time signal with a value."""
    for value in values:
        if _libc.sigqueue(process.pid, signal.SIGRTMIN + 1, ctypes.c_void_p(value)) != 0:
            raise OSError(ctypes.get_errno(), "sigqueue")


def no_signal_waits(process):
    """Whether the process has taken all signals that were sent to it."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return all(int(re.search(rf"^{name}:\s*(\w+)", status, re.M)[1], 16) == 0 for name in ("SigPnd", "ShdPnd"))
