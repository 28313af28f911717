#!/usr/bin/python3
"""The surroundings in which every test begins, however the suite was started: from a terminal, in
the background of a script, under nohup, by cron, by a service manager or by a container.

    surroundings.py PROGRAM [ARGUMENT...]    settles, and becomes the program

'make check' starts programs so; tests in Python import harness.py, which calls settle().

A process inherits more than descriptors. A signal that is ignored stays so in every program that
it starts; LISTEN_FDS, JOURNAL_STREAM and their like tell nbdinetd where it is; a umask of 077
keeps a handler from what a test has made for it. nbdinetd has to respect such wishes, and where
it does a test makes the wish itself.
"""

import os
import pwd
import resource
import signal
import sys

# Variables that a test may have from outside. Of the rest nothing is known.
_KEPT = {"PATH", "HOME", "USER", "LOGNAME", "TERM", "TMPDIR", "CI", "LD_LIBRARY_PATH"}
# nbdinetd's builds and tests, and what sanitizers and compilers are told by variables.
_KEPT_PREFIXES = ("NBDINETD", "INTRUDER_", "ASAN_", "UBSAN_", "LSAN_", "TSAN_", "GCOV_", "LLVM_",
                  "CCACHE_", "GTEST_")
# Of the shipped units.
_NOT_KEPT = {"NBDINETD_EXPORT", "NBDINETD_OPTIONS"}

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What Debian gives to everybody.
_OPEN_FILES = 1024
# The path of a Unix socket has at most 107 bytes, and a test's names need the rest.
_MAX_TMPDIR_BYTES = 40


def _settle_signals():
    # Who ignores these two, as nohup and a shell's "&" do, wants that the terminal's signals don't
    # reach us. In a session of our own they can't, though the tests need them.
    if signal.SIG_IGN in (signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGINT)):
        try:
            os.setsid()
        except PermissionError:  # already a leader
            pass
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # Python itself ignores SIGPIPE and SIGXFSZ, and has a handler for SIGINT.
    kept = {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}
    for number in signal.valid_signals() - kept:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT
                          else signal.SIG_DFL)


def _settle_environment():
    for name in list(os.environ):
        if name in _NOT_KEPT or not (name in _KEPT or name.startswith(_KEPT_PREFIXES)):
            del os.environ[name]
    os.environ["LC_ALL"] = "C.UTF-8"
    # Whoever became root by su may lack the last ones.
    path = [part for part in os.environ.get("PATH", "").split(":") if part]
    os.environ["PATH"] = ":".join(path + [part for part in _PATH.split(":") if part not in path])
    if "HOME" not in os.environ:
        try:
            os.environ["HOME"] = pwd.getpwuid(os.geteuid()).pw_dir
        except KeyError:
            os.environ["HOME"] = "/"
    directory = os.environ.get("TMPDIR")
    if directory is not None and not (
            directory.startswith("/") and len(os.fsencode(directory)) <= _MAX_TMPDIR_BYTES
            and os.path.isdir(directory) and os.access(directory, os.W_OK | os.X_OK)):
        del os.environ["TMPDIR"]


def _settle_open_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= _OPEN_FILES:
        return
    for limits in ((_OPEN_FILES, max(hard, _OPEN_FILES)), (min(hard, _OPEN_FILES), hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            return
        except (ValueError, PermissionError):  # only root may raise the hard one
            pass


def settle():
    """Makes them so for this process and all that it starts. May start Python anew, and is to be
    called before anything else."""
    null = os.open("/dev/null", os.O_RDWR)
    if null > 0:  # else standard input was closed
        os.dup2(null, 0)
        os.close(null)
    os.set_inheritable(0, True)
    os.umask(0o022)
    _settle_signals()
    _settle_open_files()
    # What Python has read already can't be taken back: PYTHONOPTIMIZE does away with assertions.
    heard = any(name.startswith("PYTHON") for name in os.environ) or sys.flags.utf8_mode \
        or sys.getfilesystemencoding() != "utf-8"
    _settle_environment()
    anew = ["-X", "utf8=0"]
    if heard and sys.orig_argv[1:3] != anew:
        python = os.readlink("/proc/self/exe")
        os.execv(python, [python, *anew, *sys.orig_argv[1:]])


def default_signals():
    """For a child of Python between fork and exec: what a program finds that nobody has told to
    ignore anything."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    settle()
    default_signals()
    os.execv(sys.argv[1], sys.argv[1:])
