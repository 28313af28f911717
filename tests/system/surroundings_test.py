#!/usr/bin/python3
"""A test finds the same surroundings however the suite was started (tests/support/surroundings.py):
both a program of the suite, and what a test in Python starts."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
from harness import *
from harness import contains, matches, test

SUPPORT = SRCDIR.resolve() / "tests" / "support"

# What a background job, nohup, a service manager, a careful administrator and a user of Python
# leave behind.
ODD = {
    "LC_ALL": "POSIX", "LANGUAGE": "de", "POSIXLY_CORRECT": "1", "TZ": "Pacific/Auckland",
    "TMPDIR": "/tmp/" + "x" * 100, "PYTHONOPTIMIZE": "1", "OPENSSL_CONF": "/nonexistent",
    "LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "REMOTE_ADDR": "192.0.2.1",
    "NOTIFY_SOCKET": "/nonexistent", "WATCHDOG_USEC": "1", "JOURNAL_STREAM": "1:2",
    "CREDENTIALS_DIRECTORY": "/nonexistent", "NBDINETD_OPTIONS": "--readonly",
    "NBDINETD_SRCDIR": str(SRCDIR), "PATH": "/usr/bin"}

REPORT = """
grep -E '^Sig(Ign|Blk)' /proc/self/status
echo umask $(umask) files $(ulimit -n) input $(readlink /proc/self/fd/0)
env
"""


def in_odd_surroundings(argv):
    """What a program prints that is started so; its standard input is closed."""
    def prepare():
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGRTMIN + 5})
        resource.setrlimit(resource.RLIMIT_NOFILE,
                           (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        os.umask(0o077)
        os.close(0)
    return subprocess.run(argv, env=ODD, preexec_fn=prepare, check=True, capture_output=True,
                          text=True, timeout=GUARD).stdout


def check(report):
    # Two are the C library's own, which nobody can change by it (nptl(7)).
    ignored = int(matches(r"^SigIgn:\t([0-9a-f]{16})$", report)[1], 16) & ~(1 << 31 | 1 << 32)
    eq(ignored, 0, "ignored signals")
    matches(r"^SigBlk:\t0{16}$", report)
    found = matches(r"^umask (\d+) files (\d+) input (.*)$", report)
    eq((found[1], int(found[2]) >= 1024, found[3]), ("0022", True, "/dev/null"))
    variables = dict(line.split("=", 1) for line in report.splitlines() if "=" in line)
    eq(sorted(variables.keys() & ODD.keys()), ["LC_ALL", "NBDINETD_SRCDIR", "PATH"])
    eq(variables["LC_ALL"], "C.UTF-8")
    contains("HOME", variables)
    eq(variables["PATH"].split(":")[0], "/usr/bin")
    contains("/usr/sbin", variables["PATH"].split(":"))


@test("a program finds signals, variables, umask, limits and standard input as they are by default")
def _(t):
    check(in_odd_surroundings(["/usr/bin/python3", str(SUPPORT / "surroundings.py"), "/bin/sh",
                               "-c", REPORT]))


@test("so does what a test in Python starts, and its assertions are carried out")
def _(t):
    script = t.image(f"""
import sys
sys.dont_write_bytecode = True
sys.path.insert(0, {str(SUPPORT)!r})
import harness
try:
    assert False
except AssertionError:
    print("assertions are carried out")
t = harness.Test("one")
print(t.run(["/bin/sh", "-c", {REPORT!r}]).stdout())
print("in", t.dir)
t.finish()
""".encode(), "script.py")
    report = in_odd_surroundings(["/usr/bin/python3", script])
    contains("assertions are carried out", report)
    directory = matches("^in (.*)$", report)[1]
    eq(len(directory) < 60, True, f"{directory} is short")
    check(report)


@test("whoever ignores the terminal's signals gets a session without the terminal")
def _(t):
    for number in (signal.SIGHUP, signal.SIGINT):
        for ignored in (True, False):
            def prepare(number=number, ignored=ignored):
                for other in (signal.SIGHUP, signal.SIGINT):
                    signal.signal(other, signal.SIG_IGN if ignored and other == number
                                  else signal.SIG_DFL)
            done = subprocess.run(
                ["/usr/bin/python3", str(SUPPORT / "surroundings.py"), "/bin/sh", "-c",
                 "cut -d' ' -f6 /proc/$$/stat; echo $$"], preexec_fn=prepare, check=True,
                capture_output=True, text=True, timeout=GUARD)
            session, pid = done.stdout.split()
            eq(session == pid, ignored, f"a session of its own, {number!r}")


if __name__ == "__main__":
    main()
