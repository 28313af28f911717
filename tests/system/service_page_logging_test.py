#!/usr/bin/python3
"""The promises of a page about running an NBD server as a service, sentence by sentence: where
messages go. Each test is named by the sentence that it proves. The system log is a /dev/log of the
tests' own, in a mount namespace."""

import os
import re
import signal
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402
from listening import *  # noqa: E402

ERROR, WARNING, INFO, DEBUG = 3, 4, 6, 7


class Server:
    """nbdinetd in one of the modes, with a system log, and one file for all that it and its
    connections say on standard error."""

    def __init__(self, t, mode, *arguments, image=None):
        self.t, self.mode = t, mode
        self.log = Syslog(t)
        self.image = image or t.pattern_image(MIB)
        self._path, self._door = t.fresh(".sock"), None
        pidfile = t.fresh(".pid")
        if mode == "activated":
            self._door = Door(t)
            self.process = activate(t, *arguments, self.image, inherited=[self._door],
                                    prefix=self.log.prefix)
            self.pid = self.process.pid
            return
        self.process = t.spawn([*self.log.prefix, NBDINETD, "-U", self._path, "-P", pidfile,
                                *(["-f"] if mode == "foreground" else []), *arguments, self.image])
        if mode == "foreground":
            self.pid = self.process.pid
            wait_until(lambda: is_listening(self._path) or self.process.poll() is not None,
                       "the server to listen")
        else:
            self.process.expect(EX_OK)
            self.pid = int(Path(pidfile).read_text())
            t.defer(self._end)

    def _end(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def client(self):
        return self._door.client() if self._door else Client(connect(self._path))

    def trouble(self):
        """Lets it say something of each kind: an honest connection, a client at fault, and an error
        of its own, an export that is gone. Then it has ended."""
        visit(self.client())
        self.wait_alone()
        wrong = self.client().start()
        wrong.send(wrong.request_bytes(NBD_CMD_READ, 0, 1, magic=0xBAD))
        wrong.expect_end()
        self.wait_alone()
        os.rename(self.image, self.image + ".away")
        self.client().expect_end()
        self.wait_alone()
        os.rename(self.image + ".away", self.image)
        self.stop()
        return self

    def wait_alone(self):
        # A client sees the end a little before the last line is written.
        wait_until(lambda: not children_of(self.pid), "every connection's process to be gone")

    def stop(self):
        os.kill(self.pid, signal.SIGTERM)
        if self.pid == self.process.pid:
            self.process.expect(EX_OK)
        else:
            eq(os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), EX_OK)

    def stderr(self):
        return self.process.stderr()


# What trouble() leads to, in this order.
WORDS = ("serving export", " ended: client disconnected", "serving export",
         " ended: .*request magic", "failed to open")
PRIORITIES = [INFO, INFO, INFO, WARNING, ERROR]
LISTENING = "listening on"  # what a server in the foreground says before


def expect_all_on_stderr(server, where=""):
    lines = [line for line in server.stderr().splitlines()
             if not is_debug(line) and LISTENING not in line]
    for words, line in zip(WORDS, lines):
        matches(rf"^nbdinetd: .*{words}|^nbdinetd: {words}", line, where)
    eq(len(lines), len(WORDS), f"lines on standard error {where}: {lines}")
    eq(server.log.messages(), [], f"messages in the system log {where}")


def expect_all_in_syslog(server, where=""):
    messages = [message for message in server.log.messages() if LISTENING not in message[2]]
    for words, (_, _, text) in zip(WORDS, messages):
        matches(words, text, where)
    eq([priority for priority, _, _ in messages], PRIORITIES, f"priorities {where}: {messages}")
    eq([line for line in server.stderr().splitlines() if not is_debug(line)], [],
       f"lines on standard error {where}")


def is_debug(line):
    """Whether a line is one of those that -v adds."""
    return bool(re.search(r"NBD_OPT_|flags=\d+ offset=\d+ length=\d+|sent by sendfile$", line))


# ------------------------------------------------------------------ LOGGING

@test("Error messages from nbdinetd can be sent to either standard error (--log=stderr) or to "
      "the system log (--log=syslog).")
def _(t):
    log = Syslog(t)
    missing = t.path("missing.img")
    for start in (lambda *a: t.spawn([*log.prefix, NBDINETD, "-f", "-U", t.path("u"), *a]),
                  lambda *a: t.activated(*a, prefix=log.prefix)[0],
                  lambda *a: t.inetd(*a, stderr="file", prefix=log.prefix)[0]):
        before = len(log.messages())
        process = start("--log=stderr", missing)
        process.expect(EX_NOINPUT)
        matches(r"\Anbdinetd: .*missing\.img.*\n\Z", process.stderr())
        eq(len(log.messages()), before, "messages in the system log")
        process = start("--log=syslog", missing)
        process.expect(EX_NOINPUT)
        eq(process.stderr(), "")
        priority, pid, text = log.messages()[-1]
        eq((len(log.messages()), priority, pid), (before + 1, ERROR, process.pid))
        contains("missing.img", text)
    for where, on_stderr in (("--log=stderr", True), ("--log=syslog", False)):
        before, door = len(log.messages()), Door(t)
        process = activate(t, where, missing, inherited=[door], prefix=log.prefix)
        door.client().expect_end()
        wait_alone(process)
        stop(process)
        eq("missing.img" in process.stderr(), on_stderr)
        eq(any("missing.img" in text and priority == ERROR
               for priority, _, text in log.messages()[before:]), not on_stderr)
    # It is one of the two, or another that is known.
    process = t.run([NBDINETD, "--log=elsewhere", missing], status=EX_USAGE)
    matches(r"elsewhere.*stderr.*syslog", process.stderr())


@test("The default, if --log is not specified on the command line, is to send error messages to "
      "stderr, unless nbdinetd forks into the background in which case they are sent to syslog.")
def _(t):
    expect_all_on_stderr(Server(t, "foreground").trouble(), "in the foreground")
    expect_all_on_stderr(Server(t, "activated").trouble(), "activated")
    expect_all_in_syslog(Server(t, "background").trouble(), "in the background")
    # What keeps it from getting there is told where somebody sees it.
    log = Syslog(t)
    process = t.run([*log.prefix, NBDINETD, "-U", t.path("missing/u"), t.pattern_image(MIB)],
                    status=1)
    contains("missing/u", process.stderr())
    eq(log.messages(), [])


@test("Messages go to standard error (stderr): When running from the command line in the "
      "foreground.")
def _(t):
    expect_all_on_stderr(Server(t, "foreground").trouble())
    # --run doesn't go into the background, either.
    log, image = Syslog(t), t.pattern_image(MIB)
    process = t.run([*log.prefix, NBDINETD, "--run", f"rm {image}; nbdinfo \"$uri\"", image],
                    status=None)
    matches(r"^nbdinetd: failed to open", process.stderr())
    eq(log.messages(), [])


@test("Messages go to standard error (stderr): When using systemd socket activation.")
def _(t):
    server = Server(t, "activated", "--max-connections=1")
    client = server.client().start()
    server.client().expect_end()
    client.disconnect()
    server.stop()
    matches(r"^nbdinetd: serving export", server.stderr())
    matches(r"^nbdinetd: refusing .*--max-connections", server.stderr())
    eq(server.log.messages(), [])
    # And when the parent has accepted the connection.
    log = Syslog(t)
    process, client = t.activated(t.pattern_image(MIB), prefix=log.prefix)
    visit(client)
    process.expect(EX_OK)
    eq(len(process.stderr().splitlines()), 2)
    eq(log.messages(), [])


@test("Using --log=stderr forces all messages to go to standard error.")
def _(t):
    for mode in ("foreground", "activated", "background"):
        expect_all_on_stderr(Server(t, mode, "--log=stderr").trouble(), mode)


@test("Messages go to the system log (syslog): When running from the command line, forked into the "
      "background.")
def _(t):
    server = Server(t, "background", "--max-connections=1")
    client = server.client().start()
    child, = children_of(server.pid)
    server.client().expect_end()
    client.disconnect()
    os.rename(server.image, server.image + ".away")
    server.wait_alone()
    server.client().expect_end()
    server.stop()
    for words, priority, sender in (("^serving export", INFO, child), (" ended: ", INFO, child),
                                    ("^refusing .*--max-connections", WARNING, server.pid),
                                    ("failed to open", ERROR, None)):
        message = server.log.wait(words)
        eq(message[0], priority, words)
        if sender:
            eq(message[1], sender, words)
    eq(server.stderr(), "")


@test("Using --log=syslog forces all messages to go to the system log.")
def _(t):
    for mode in ("foreground", "activated", "background"):
        expect_all_in_syslog(Server(t, mode, "--log=syslog").trouble(), mode)
    # Wrong usage, too.
    log = Syslog(t)
    process = t.run([*log.prefix, NBDINETD, "--log=syslog", "--no-such-option", "x"],
                    status=EX_USAGE)
    eq(process.stderr(), "")
    contains("no-such-option", log.text())


@test("Debug messages (-v/--verbose) always go to standard error and are never sent to the "
      "system log.")
def _(t):
    for option in ("-v", "--verbose"):
        for mode in ("foreground", "activated", "background"):
            for where in ([], ["--log=stderr"], ["--log=syslog"]):
                server = Server(t, mode, option, *where).trouble()
                what = f"{mode} with {option} {' '.join(where)}"
                debug = [line for line in server.stderr().splitlines() if is_debug(line)]
                for words in ("NBD_OPT_GO", r"read .*offset=524288 length=512",
                              "bytes of them sent by sendfile"):
                    eq(any(re.search(words, line) for line in debug), True,
                       f"a debug message with {words}, {what}")
                in_syslog = where == ["--log=syslog"] or mode == "background" and not where
                (expect_all_in_syslog if in_syslog else expect_all_on_stderr)(server, what)
    # And without the option there are none.
    for mode in ("foreground", "activated", "background"):
        server = Server(t, mode).trouble()
        eq([line for line in server.stderr().splitlines() if is_debug(line)], [], mode)
        eq([m for m in server.log.messages() if is_debug(m[2]) or m[0] == DEBUG], [], mode)


if __name__ == "__main__":
    private_network()
    main()
