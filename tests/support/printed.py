"""What the programs print: their messages, and the statuses that they send to systemd, each without what differs
from run to run."""

import re
import signal
import socket
import subprocess

from harness import BUILDDIR, GUARD, MIB, NBDINETD, clean_environment, free_port, leave

GENERATOR = BUILDDIR / "src" / "nbdinetd-generator"


def output_of(argv, **how):
    """(exit status, all that a program prints)."""
    done = subprocess.run(list(map(str, argv)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.STDOUT, check=False, env=clean_environment(how.pop("env", None)), **how)
    return done.returncode, done.stdout


def shape(text):
    """The words of a message, without what differs from run to run."""
    text = re.sub(r"\n +", " ", text.strip())
    text = re.sub(r'"[^"]*"|\b(?:NAME|EXPORT)\b', "<name>", text)
    text = re.sub(r"\b(?:[\d.]+:\d+|PEER)\b", "<peer>", text)
    text = re.sub(r"\d[\d.]* (?:[KMG]iB|bytes)(?: \([\d.]+ [KMG]iB\))?|\bSIZE\b", "<size>", text)
    text = re.sub(r"\b\d+ requests?|REQUESTS", "<requests>", text)
    text = re.sub(r"\b\d+ errors?|ERRORS", "<errors>", text)
    text = re.sub(r" as <name>|\[ as IDENTITY\]", "", text)
    text = re.sub(r"in [\d.]+ (?:us|ms|s|min|h)\b(?: [\d.]+ (?:s|min)\b)?", "in <time>", text)
    text = re.sub(r"\b(?:\d+ connections?|CONNECTIONS)(?= now)", "<connections>", text)
    text = re.sub(r"\b(?:\d+|N)(?= (?:served|refused))", "<number>", text)
    return text


class Printed:
    """All messages and statuses of a short connection, of a listener, and of a file with a mistake, as shapes."""

    def __init__(self, t):
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        t.defer(notify.close)
        path = t.fresh(".notify")
        notify.bind(path)
        notify.settimeout(GUARD)
        self.statuses = set()
        server = t.spawn([NBDINETD, "-f", "-p", str(free_port()), "-i", "127.0.0.1", t.pattern_image(MIB)],
                         env={"NOTIFY_SOCKET": path})
        self._read(notify, " now, ")
        server.signal(signal.SIGTERM)
        server.expect(0)
        process, client = t.activated(t.pattern_image(MIB), family="tcp", env={"NOTIFY_SOCKET": path})
        self._read(notify, "negotiating")
        client.start()
        client.read(0, 4096)
        self._read(notify, "serving")
        leave(process, client)
        self.messages = {shape(line.removeprefix("nbdinetd: ")) for line in process.stderr().splitlines()}
        bad = t.image(b"[Export]\nFile=/srv/x.img\nReadOnly=maybe\n", "golden.export")
        self.generator = output_of([GENERATOR, "--dry-run", bad])[1]

    def _read(self, notify, words):
        while True:
            for line in notify.recv(1 << 16).decode().splitlines():
                if line.startswith("STATUS="):
                    self.statuses.add(shape(line.removeprefix("STATUS=")))
                    if words in line:
                        return
