"""What a server costs: CPU seconds of all its processes, dead ones included, and memory.

A cgroup (version 2) of its own counts every process that was ever in it. Where none can be made,
the process tree is summed up from /proc: a process's own time and that of the children it has
waited for. That misses children nobody has waited for yet, and counts in clock ticks.
"""

import itertools
import os
import signal
import sys
import time
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_numbers = itertools.count()
_REMOVAL_SECONDS = 60


class CgroupAccount:
    def __init__(self):
        self.path = _cgroup2_of_this_process() / f"{_cgroup_prefix()}{next(_numbers)}"
        self.path.mkdir()
        try:
            self._procs = os.open(self.path / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            self.cpu_seconds()
        except OSError:
            self.path.rmdir()
            raise

    def enter(self):
        """Called by the child between fork and exec."""
        os.write(self._procs, b"0")

    def started(self, pid):
        pass

    def pids(self):
        return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()
                if not _is_beside(pid)]

    def cpu_seconds(self):
        for line in (self.path / "cpu.stat").read_text().splitlines():
            key, value = line.split()
            if key == "usage_usec":
                return int(value) / 1e6
        raise OSError(f"{self.path} counts no CPU time")

    def close(self):
        os.close(self._procs)
        _remove(self.path)


def _is_beside(pid):
    """Whether a process is no server's, but as_kernel's, which ends after the servers."""
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "as_kernel\n"
    except OSError:
        return False


def _cgroup_prefix():
    return f"nbdinetd-bench-{os.getpid()}-"


def _remove(cgroup):
    # A process that has just been reaped may be in its cgroup for some moments more: seconds, if thousands end at once.
    end = time.monotonic() + _REMOVAL_SECONDS
    while True:
        try:
            cgroup.rmdir()
            return
        except OSError as error:
            if time.monotonic() > end:
                print(f"{cgroup} is left behind: {error}", file=sys.stderr)
                return
            time.sleep(0.01)


def sweep():
    """Ends what is left in cgroups of this program, and removes them. An interrupt may come in
    the moment between the making of a thing and the noting of it."""
    try:
        left = list(_cgroup2_of_this_process().glob(_cgroup_prefix() + "*"))
    except OSError:
        return
    for cgroup in left:
        for pid in (cgroup / "cgroup.procs").read_text().split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                pass
        _remove(cgroup)


class TreeAccount:
    def __init__(self):
        self._roots = set()

    def enter(self):
        pass

    def started(self, pid):
        self._roots.add(pid)

    def _tree(self):
        """{pid: CPU seconds} of the processes started and all that descend from them."""
        parents, seconds = {}, {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            pid = int(entry.name)
            if fields[0] != "Z":
                parents[pid] = int(fields[1])
            # utime, stime, cutime, cstime of proc(5)
            seconds[pid] = sum(int(ticks) for ticks in fields[11:15]) / _TICK
        tree = {pid for pid in self._roots if pid in parents}
        while True:
            more = {pid for pid, parent in parents.items() if parent in tree} - tree
            if not more:
                return {pid: seconds[pid] for pid in tree}
            tree |= more

    def pids(self):
        return sorted(self._tree())

    def cpu_seconds(self):
        return sum(self._tree().values())

    def close(self):
        pass


def _cgroup2_of_this_process():
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    roots = [Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"]
    own = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines()
           if line.startswith("0::")]
    if not roots or not own:
        raise OSError("no cgroup of version 2")
    return roots[0] / own[0].lstrip("/")


def open_account():
    try:
        return CgroupAccount()
    except OSError:
        return TreeAccount()


def account_kind():
    account = open_account()
    account.close()
    return "cgroup" if isinstance(account, CgroupAccount) else "process tree"


def pss_kib(pids):
    """Proportional set size: each shared page is divided among those who share it."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += next(int(line.split()[1]) for line in text.splitlines()
                      if line.startswith("Pss:"))
    return total
