#!/usr/bin/python3
"""Every call of the C library that a connection makes fails once, with each error that it can have.

For each of them the process answers or ends as its manual page says, never by a signal. It doesn't
hang, sends no wrong byte, and acknowledges nothing as durable that isn't. 'make check' tries a sample
of the cases for about half a minute (NBDINETD_FAULTS_SECONDS), and prints its seed
(NBDINETD_FAULTS_SEED); 'make faults-long' tries all of them.
"""

import errno
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from faults import LoopDevice, Mount, ext4_image, need_privilege
from failing_calls import ERRORS, WORKLOADS, Faults, Run, library_path
from harness import *

LONG = os.environ.get("NBDINETD_FAULTS_ALL", "") not in ("", "0")
SECONDS = float(os.environ.get("NBDINETD_FAULTS_SECONDS", "30"))
SEED = int(os.environ.get("NBDINETD_FAULTS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
# A call that is made more often than this is the same call again.
MAX_NTH = 12
GUARD_OF_ALL = 7200.0

# Never fail for these reasons, or only where it can't matter: calls that the wrappers count for
# their own sake.
UNINTERESTING = ("eventfd_read", "eventfd_write", "sigprocmask", "pthread_sigmask")


def cases(counts):
    """(call, error, nth) for all that can fail of what was called."""
    unknown = set(counts) - set(ERRORS) - set(UNINTERESTING)
    eq(unknown, set(), "calls whose errors the test doesn't know")
    return [(call, error, nth) for call in sorted(set(counts) & set(ERRORS))
            for error in ERRORS[call] for nth in range(1, min(counts[call], MAX_NTH) + 1)]


def sample(generator, everything):
    """Those that come first: each call's every error once, at random places; then the rest."""
    generator.shuffle(everything)
    seen, first, rest = set(), [], []
    for case in everything:
        (rest if case[:2] in seen else first).append(case)
        seen.add(case[:2])
    return first + rest


def folder_for(context, workload):
    """Where the export lies. A file system of our own in memory, if it can be had: on a disk that
    has other things to do, most of the time would go by in waiting for its flushes."""
    if not os.path.ismount("/dev/shm"):
        return context.dir
    folder = tempfile.mkdtemp(prefix="nbdinetd-test-", dir="/dev/shm")
    context.defer(shutil.rmtree, folder)
    if workload.storage == "tmpfs":
        return folder
    try:
        need_privilege("root", "loop")
        image = f"{folder}/image"
        ext4_image(image, 16 * MIB)
    except (Skip, FileNotFoundError):
        return context.dir
    device = LoopDevice(image)
    context.defer(device.__exit__)
    device.__enter__()
    mount = Mount(device.path, f"{folder}/mounted", "ext4")
    context.defer(mount.__exit__)
    return mount.__enter__().path


def _tests_of(workload, number):
    @test(f"whatever call fails, it is answered or ends as it should: {workload}",
          guard=GUARD_OF_ALL)
    def _(context):
        require(library_path() is not None, "needs tests/support/faulty_calls.so")
        folder = folder_for(context, workload)
        faults = Faults(context)
        problem = Run(context, faults, workload, folder).run()
        if problem:
            raise AssertionError(f"without any fault: {problem}")
        generator = random.Random(f"{SEED} {number}")
        chosen = sample(generator, cases(faults.counts()))
        deadline = time.monotonic() + SECONDS / len(WORKLOADS)
        tried = reached = 0
        problems = []
        for call, error, nth in chosen:
            if not LONG and tried and time.monotonic() > deadline:
                break
            inner = Test(f"{call} {error} {nth}")
            try:
                problem = Run(inner, faults, workload, folder).run(call, error, nth)
            finally:
                inner.finish()
            tried += 1
            reached += faults.fired > 0
            if problem:
                problems.append(f"{call} no. {nth} fails with {errno.errorcode[error]}: {problem}")
        note(f"{tried} of {len(chosen)} cases, {reached} reached; seed {SEED}")
        if problems:
            raise AssertionError(f"{len(problems)} of {tried} cases:\n" + "\n".join(problems))


for index, one in enumerate(WORKLOADS):
    _tests_of(one, index)


if __name__ == "__main__":
    main()
