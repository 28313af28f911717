#!/usr/bin/python3
"""The tests with clients, once more with those of another release of Debian: `./quickstart
client-root` makes a directory with its root, which NBDINETD_CLIENT_ROOT may name. Without one
there is nothing to do here, in CI too.

    a file of tests          Python, libnbd and clients of that root, in a chroot
    └─ what has nbdinetd     outside: the machine's libraries, systemd-socket-activate and strace
       in its command

A path names the same file inside and outside: what a test uses is mounted in the root where it is
outside, in a mount namespace of the file's own.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
import harness
from client_root import VARIABLE
from faults import bind, private_mounts

FILES = ("clients_test.py", "tls_clients_test.py")


def release_of(root):
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', (root / "etc/os-release").read_text(), re.MULTILINE)
    return found[1] if found else "a release without a name"


def become(root, script):
    """This process, which is a child, becomes the root's Python that runs the script."""
    private_mounts()
    outside = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(outside, True)
    for folder in {tempfile.gettempdir(), "/tmp", "/var/tmp", str(harness.SRCDIR.resolve()),
                   str(harness.BUILDDIR.resolve()), os.path.dirname(harness.NBDINETD)}:
        bind(folder, f"{root}{folder}")
    for folder in ("/proc", "/dev", "/sys"):
        bind(folder, f"{root}{folder}", recursive=True)
    os.chroot(root)
    os.chdir("/")
    os.execve("/usr/bin/python3", ["/usr/bin/python3", "-B", str(script)],
              {**os.environ, VARIABLE: str(outside)})


def results_of(root, script):
    """Runs a file of tests; yields its lines."""
    inside = subprocess.Popen([sys.executable, "-B", __file__, "--become", str(root), str(script)],
                              stdout=subprocess.PIPE, text=True)

    def on_term(_signal, _frame):
        inside.terminate()  # which ends with a word on where it was
    before = signal.signal(signal.SIGTERM, on_term)
    with inside:
        yield from inside.stdout
    signal.signal(signal.SIGTERM, before)


def main():
    default = harness.TOOLS / "client-root"
    root = Path(os.environ.get("NBDINETD_CLIENT_ROOT") or default).resolve()
    if not (root / "usr/bin/nbdinfo").exists():
        print(f"1..0 # SKIP there is no root of another release in {root}; "
              "./quickstart client-root makes one")
        return 0
    if os.geteuid() != 0:
        harness.skip_all("needs root, to enter the root of another release")
    harness.note(f"clients of {release_of(root)}")
    count, good = 0, True
    for name in FILES:
        planned = done = 0
        for line in results_of(root, harness.SRCDIR.resolve() / "tests" / "system" / name):
            line = line.rstrip("\n")
            if plan := re.match(r"1\.\.(\d+)", line):
                planned = int(plan[1])
                line = f"# {name}: {line}"
            elif result := re.match(r"(ok|not ok) \d+ - (.*)", line):
                count, done = count + 1, done + 1
                line = f"{result[1]} {count} - {name}: {result[2]}"
                good = good and result[1] == "ok"
            print(line, flush=True)
        # A file that ends too early has failed, and so has one that has nothing to test here.
        if done != planned or not done:
            count, good = count + 1, False
            print(f"not ok {count} - {name}: {done} of {planned} tests ended", flush=True)
    print(f"1..{count}")
    return 0 if good else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--become"]:
        become(sys.argv[2], sys.argv[3])
    sys.exit(main())
