#!/usr/bin/python3
"""Tests whose behaviour depends on a newer system call run again without it: once for each call.

The server under test runs behind bench/as_kernel; the tests themselves and their clients have all
calls. old_kernels_test.py has the tests of what such a kernel changes.
"""

import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from harness import *

# What asks for cached pages, in the process of the tests and in the server's.
READS = ("tests/protocol/transmission_test", "*ReadReturnsTheBytes*", "*WriteReachesTheFile*",
         "*StructuredRead.*", "*AFileThatHas*", "*AnExportOfAnOddSize*")

SERVED = (("tests/system/handed_over_test.py", "a file beside a connection", "moves nobody's offset"),)

# {what is missing: (program, what of it)}
RUNS = {
    "cachestat": (("tests/unit/unit_test", "On/FileExportTest.*", "*PageCacheTest.*",
                   "MincoreTest.*", "Kernel/RefusedTest.*", "*ZeroCopyTest.*", "*BlockDeviceTest.*"),
                  READS),
    # To find out by RWF_NOWAIT whether a page is cached starts the read of one that isn't, and for a
    # hole it is there at once. A test that then wants to see it uncached would come too late.
    "cachestat,mincore": (("tests/unit/unit_test", "On/FileExportTest.*", "Kernel/RefusedTest.*",
                           "*ZeroCopyTest.*", "-*APrefetchOfNothing*"), (*READS, "-*HolesAreTold*")),
    "landlock": (*SERVED, ("tests/system/directory_exports_test.py", "-r holds")),
    "openat2": SERVED,
    "rwf": (("tests/protocol/transmission_test", "*ReadReturnsTheBytes*", "*AWriteWithFua*",
             "*WhatWasWritten*"),
            ("tests/system/handed_over_test.py", "without RWF_NOAPPEND",
             "open for appending is served read-only")),
    # RWF_NOWAIT, and no RWF_DONTCACHE.
    "6.12": (("tests/unit/unit_test", "*CacheModesTest*", "*DropBehindTest*"),
             ("tests/system/cache_test.py", "with --cache=drop")),
    "close_range": (("tests/system/inherited_descriptors_test.py", "a connection's process",
                     "a listener and the processes", "a descriptor that an option names"),),
    "pidfd": (("tests/system/exclusive_test.py", "refuse: a second", "wait: a second"),),
    "statx": (("tests/unit/unit_test", "*DirectTest*", "*DirectFileTest*", "DirectAlignmentTest.*"),
              ("tests/system/cache_test.py", "a client gets", "with --cache=none, a copy"), *SERVED),
    "5.14": SERVED,
}


def wrapper(t, missing):
    """A program that is nbdinetd without these calls."""
    path = t.path("nbdinetd")
    Path(path).write_text("#!/bin/sh\n"
                          f"exec {' '.join(as_kernel(missing))} '{NBDINETD}' \"$@\"\n")
    os.chmod(path, 0o755)
    return path


def run(t, missing, program, *parts):
    """Runs a program of tests, and returns how many passed."""
    # Without CI: there, a test that can't run for want of a call has failed.
    environment = dict(os.environ, NBDINETD=wrapper(t, missing), CI="")
    if program.endswith(".py"):
        command = [sys.executable, SRCDIR / program, *parts]
    else:
        path = BUILDDIR / program
        require(os.access(path, os.X_OK), f"needs {program}")
        command = [path, f"--gtest_filter={':'.join(parts)}"]
        # What is in the program of the tests itself asks the kernel, too.
        if "unit" in program:
            command = [*as_kernel(missing), *command]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, env=environment, check=False)
    said = done.stdout.decode(errors="replace")
    passed = [line for line in said.splitlines()
              if line.startswith("ok ") and "# SKIP" not in line]
    # A part that names no test would test nothing.
    idle = [part for part in parts if not part.startswith("-")
            and not any(fnmatch(line, f"*{part}*") for line in passed)]
    if done.returncode != 0 or not passed or idle:
        # What passed would bury what failed.
        rest = "\n".join(line for line in said.splitlines() if not line.startswith("ok "))
        raise AssertionError(f"{program}: exit status {done.returncode}, {len(passed)} passed, "
                             f"nothing of {idle}; {rest}")
    return len(passed)


def _test_without(missing, programs):
    @test(f"without {missing}: {', '.join(sorted(Path(program[0]).stem for program in programs))}")
    def _(t):
        for program in programs:
            note(f"{program[0]}: {run(t, missing, *program)} passed")


for what, which in RUNS.items():
    _test_without(what, which)


if __name__ == "__main__":
    main()
