"""Sessions at a terminal that the documents show: they run on a systemd of its own (pid1.py), for doc/record, which
writes them down, and for pid1_documents_test.py, which compares."""

import re
import threading
import time

import documents
from harness import SRCDIR, connect, wait_until
from nbd_client import Client, OptionError

README = SRCDIR / "README.md"
PICTURES = SRCDIR / "doc" / "pictures"
MIB = 1 << 20
_SESSION = re.compile(r"(?<=^```console session\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)


def readme_session():
    return _SESSION.search(README.read_text())[0]


def readme_with(session):
    return _SESSION.sub(lambda _: session, README.read_text())


def make_image(machine, name):
    """1 GiB with 8 MiB of data."""
    with open(machine.write(f"/srv/nbd/{name}", b"nbdinetd" * MIB), "r+b") as image:
        image.truncate(1024 * MIB)


def replay(machine, session, settle):
    """Types the commands of a session at a terminal of 110 columns; the same with what is printed now. settle() waits
    after each of them."""
    lines = []
    for typed in documents.typed(session):
        machine.write("/root/typed", "stty cols 110; cd /root\n" + typed.command)
        done = machine.run("env", "SYSTEMD_COLORS=0", "SYSTEMD_PAGER=", "TERM=dumb",
                           "script", "--quiet", "--command", "/bin/sh /root/typed", "/dev/null", check=False)
        lines += ["# " + typed.command, done.stdout.replace("\r\n", "\n")]
        settle()
    return "".join(lines)


def settled(machine):
    """Waits until the connections have ended, and the journal knows of it."""
    def ended():
        units = machine.systemctl("list-units", "--all", "nbdinetd*@*.service")
        return not units.strip()
    wait_until(ended, "the connections to end")
    machine.run("journalctl", "--sync")


# ------------------------------------------------------------------ README.md

def readme(machine):
    """The session of README.md, as it is now."""
    make_image(machine, "golden.img")
    return replay(machine, readme_session(), lambda: settled(machine))


# ------------------------------------------------------------------ the pictures

EXPORTS = {
    "golden": "[Export]\nFile=/srv/nbd/golden.img\nReadOnly=yes\n",
    "images": "[Export]\nDirectory=/srv/nbd/images\nReadOnly=yes\n[Socket]\nListenStream=10810\n",
    "scratch": "[Export]\nFile=/srv/nbd/scratch.img\n[Socket]\nListenStream=/run/scratch.sock\n",
}
COMMANDS = {
    "nbdinetctl": "# nbdinetctl\n# nbdinetctl connections\n# nbdinetctl history golden\n",
    "journal": "# journalctl -t nbdinetd -x -n 1 --no-hostname\n",
}


class Reader(threading.Thread):
    """A client that reads all the time."""

    def __init__(self, address, name=""):
        super().__init__(daemon=True)
        self.reads = 0
        self.client, self._ended = Client(connect(address)).start(name), threading.Event()

    def run(self):
        while not self._ended.is_set():
            self.client.read(0, MIB)
            self.reads += 1
            self._ended.wait(0.005)

    def leave(self):
        self._ended.set()
        self.join()
        self.client.disconnect()


def pictures(machine):
    """{name: the text of a picture}: exports with clients, and a client that has asked for a name that isn't there."""
    for name in ("golden.img", "scratch.img", "images/debian.img"):
        make_image(machine, name)
    for name, text in EXPORTS.items():
        machine.write(f"/etc/nbdinetd/{name}.export", text)
    machine.run("journalctl", "--update-catalog")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", *(f"nbdinetd-{name}.socket" for name in EXPORTS))
    earlier = Reader(("127.0.0.1", 10809))
    earlier.start()
    wait_until(lambda: earlier.reads >= 100, "an earlier client to read")
    earlier.leave()
    settled(machine)
    readers = [Reader(("127.0.0.1", 10809)), Reader(("127.0.0.1", 10809)), Reader(("127.0.0.1", 10810), "debian.img")]
    for reader in readers:
        reader.start()
    wait_until(lambda: machine.run("nbdinetctl").stdout.count("/s") >= 2, "the rates of both exports")
    texts = {"nbdinetctl": replay(machine, COMMANDS["nbdinetctl"], lambda: None)}
    for reader in readers:
        reader.leave()
    machine.systemctl("stop", *(f"nbdinetd-{name}.socket" for name in EXPORTS))
    settled(machine)
    machine.systemctl("start", "nbdinetd-images.socket")
    asking = Client(connect(("127.0.0.1", 10810)))
    asking.handshake()
    try:
        asking.go("debain.img")
    except OptionError:
        pass  # there is no such export
    asking.close()
    machine.systemctl("stop", "nbdinetd-images.socket")
    machine.run("journalctl", "--sync")
    texts["journal"] = replay(machine, COMMANDS["journal"], lambda: None)
    return texts


# ------------------------------------------------------------------ comparing

def normalised(text, busy=False):
    """Without what differs from run to run: times, rates, ports, numbers of processes; and, of clients that are busy,
    how much they have read."""
    for pattern, name in (
            (r"\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) \d{4}-\d\d-\d\d \d\d:\d\d(?::\d\d)?(?: UTC)?", "DATE"),
            (r"\b[A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d\b", "DATE"),
            (r"\bnbdinetd\[\d+\]", "nbdinetd[PID]"),
            (r"\bprocess \d+", "process PID"),
            (r"(?<=@)\d\S*", "INSTANCE"),
            (r"(?:127\.0\.0\.1|\[::1\]):(?!10809\b|10810\b)\d+", "LOCALHOST:PORT"),
            (r"\b\d+(?:\.\d+)?(?:[KMG])?/s", "RATE"),
            *([(r"\b\d+\.\d[MG]", "AMOUNT")] if busy else []),
            (r"\b\d+(?:\.\d+)?(?:us|ms|s|min|h)\b(?: \d+(?:ms|s|min)\b)?(?: ago)?", "TIME"),
            (r"\b\d+(?:\.\d+)? (?:us|ms|s|min|h|microseconds)\b", "TIME"),
            (r"[ …]{2,}", "  ")):
        text = re.sub(pattern, name, text)
    return "\n".join(line.strip() for line in text.splitlines())
