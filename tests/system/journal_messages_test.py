#!/usr/bin/python3
"""The kinds of messages: each has an id, an entry in the catalog that journalctl shows, a paragraph
in nbdinetd.journal-fields(7), and its fields. With a real journald in namespaces of its own (see
support/private_systemd.py)."""

import os
import re
import signal
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
import private_systemd
from faults import FailingFs, ReadOnlyBind, bind, need_privilege, tmpfs
from harness import *

CATALOG = SRCDIR / "units" / "nbdinetd.catalog"
ERROR, WARNING, NOTICE, INFO = "3", "4", "5", "6"
# What a client, or the owner of a file, chooses. journalctl writes fields of an explanation to the
# terminal as they are.
CHOSEN_BY_OTHERS = {"NBD_EXPORT", "NBD_FILE", "NBD_TLS_IDENTITY"}
COUNTERS = {"NBD_REQUESTS", "NBD_BYTES_READ", "NBD_BYTES_WRITTEN", "NBD_ERRORS",
            "NBD_LONGEST_REQUEST_USEC"}

SUBJECT = "^(░░|--) Subject: "

systemd = None  # the PrivateSystemd, once we are inside


def ids_of_header():
    """{name of the constant: id}"""
    text = (SRCDIR / "src" / "base" / "message_id.h").read_text()
    found = re.findall(r"MessageId (k\w+)\{\s*\"([0-9a-f]{32})\"\};", text)
    eq(len(found), text.count("inline constexpr MessageId k") - 1, "constants, besides the list")
    return dict(found)


def entries_of_catalog():
    """{id: the lines of its entry}"""
    entries = {}
    for line in CATALOG.read_text().splitlines():
        if line.startswith("-- "):
            lines = entries.setdefault(line[3:], [])
            eq(lines, [], f"an earlier entry of {line[3:]}")
        elif not line.startswith("#") and entries:
            lines.append(line)
    return entries


ID = ids_of_header()


# ------------------------------------------------------------------ the catalog

@test("each message id has one entry in the catalog, and one paragraph in the manual, and the reverse")
def _(t):
    eq(sorted(entries_of_catalog()), sorted(ID.values()), "ids in the catalog")
    eq(len(set(ID.values())), len(ID), "different ids")
    manual = (SRCDIR / "man" / "nbdinetd.journal-fields.7.in").read_text()
    eq(sorted(re.findall(r"^\.It Em .* , ([0-9a-f]{32})$", manual, re.MULTILINE)),
       sorted(ID.values()), "ids in the manual")


@test("an entry of the catalog names only fields that nobody else chooses, and that the manual has")
def _(t):
    manual = (SRCDIR / "man" / "nbdinetd.journal-fields.7.in").read_text()
    for message_id, lines in entries_of_catalog().items():
        text = "\n".join(lines)
        for field in re.findall(r"@(\w+)@", text):
            assert field == "_PID" or re.search(rf"\.It Dv .*\b{field}\b", manual), field
            assert field not in CHOSEN_BY_OTHERS, f"{message_id}: {field}"
        matches(r"^Subject: \S.*\nDefined-By: nbdinetd\nDocumentation: (man:\S+\(\d\) ?)+\n\n", text)


def compiled_catalog(root):
    """Compiles the catalog into a root of its own; the directory of the database."""
    directory = Path(root) / "usr" / "lib" / "systemd" / "catalog"
    directory.mkdir(parents=True)
    (directory / CATALOG.name).write_text(CATALOG.read_text())
    result = systemd.run("journalctl", f"--root={root}", "--update-catalog")
    eq(result.stdout + result.stderr, "", "journalctl --update-catalog")
    return Path(root) / "var" / "lib" / "systemd" / "catalog"


@test("journalctl compiles the catalog without a complaint, and lists every id with its subject")
def _(t):
    root = t.fresh(".root")
    compiled_catalog(root)
    listed = systemd.run("journalctl", f"--root={root}", "--list-catalog").stdout.splitlines()
    eq(sorted(line.split(" ", 2)[0] for line in listed), sorted(ID.values()))
    for line in listed:
        matches(r"^\w+ nbdinetd: \S", line)


# ------------------------------------------------------------------ the messages

class Journal:
    """What one process has logged."""

    def __init__(self, t, *arguments, **how):
        self.since = systemd.now_us()
        self.process, self.client = t.activated("--log=journal", *arguments, **how)

    def entries(self, status):
        """Waits for the end. {name of the constant of the id: entry}"""
        self.client.close()
        self.process.expect(status)
        wait_until(self._last, f"the last message of {self.process.argv}")
        names = {value: name for name, value in ID.items()}
        return {names[e["MESSAGE_ID"]]: e for e in self._all() if "MESSAGE_ID" in e}

    def _all(self):
        return systemd.log(self.since, f"_PID={self.process.pid}")

    def _last(self):
        return any("NBD_EXIT_STATUS" in e or e.get("MESSAGE_ID") in
                   (ID["kNotOpened"], ID["kRefused"]) for e in self._all())


def explanation(entry):
    """What journalctl -x says of it."""
    return systemd.run("journalctl", "--directory=/run/log/journal", "--no-pager", "--quiet", "-x",
                       "-n1", f"--cursor={entry['__CURSOR']}").stdout


def expect(entry, priority, reason, text=None, **fields):
    """Its priority, its reason and, with it, its text; and that its explanation has no field
    that the message lacks."""
    eq(entry["PRIORITY"], priority, entry["MESSAGE"])
    matches(f"^{reason}$", entry["NBD_REASON"])
    contains(entry["NBD_REASON"], entry["MESSAGE"])
    if text:
        matches(text, entry["MESSAGE"])
    for name, value in fields.items():
        eq(entry.get(name), value, name)
    shown = explanation(entry)
    matches(SUBJECT, shown)
    eq(re.findall(r"\bNBD_(?!OPT_|CMD_)\w+", shown), [], "fields that the message lacks")


def expect_unserved(entry, priority, reason, status, **fields):
    """One short line, and no counters."""
    expect(entry, priority, reason, f"^unix:pid=\\d+,uid=\\d+,gid=\\d+ ended: {reason}$",
           NBD_EXIT_STATUS=str(status), **fields)
    assert int(entry["NBD_DURATION_USEC"]) >= 0
    eq(COUNTERS & set(entry), set(), "counters of a connection without an export")


@test("a connection is two messages, serving and ended, with the exact numbers as fields")
def _(t):
    image = t.pattern_image(4 * MIB)
    journal = Journal(t, "-r", "-e", "disk", image)
    client = journal.client.start("disk")
    client.read(0, 3 * MIB // 2)
    client.read(0, MIB // 2)
    eq(client.call(NBD_CMD_WRITE, 0, 512, payload=bytes(512)).error, NBD_EPERM)
    client.disconnect()
    entries = journal.entries(EX_OK)
    eq(sorted(entries), ["kEnded", "kServing"])
    for entry in entries.values():
        eq([entry[f"NBD_{name}"] for name in ("EXPORT", "FILE", "MODE")], ["disk", image, "read-only"])
        assert "NBD_TLS_IDENTITY" not in entry
    assert "NBD_" not in explanation(entries["kServing"])
    expect(entries["kEnded"], INFO, "client disconnected",
           r" ended: client disconnected; 3 requests, 2 MiB read, 0 bytes written, 1 error, in "
           r"\d[\d.a-z ]*$", NBD_REQUESTS="3", NBD_BYTES_READ=str(2 * MIB), NBD_BYTES_WRITTEN="0",
           NBD_ERRORS="1", NBD_EXIT_STATUS="0")


@test("a client that chooses no export gets one short line at info, whatever it did")
def _(t):
    image = t.pattern_image(MIB)

    def lists(client):
        client.handshake()
        client.haggle(NBD_OPT_LIST)
        client.haggle(NBD_OPT_ABORT)
    for act, reason in ((lambda client: client.greeting(), "client sent nothing"),
                        (lambda client: client.handshake(), "client left without choosing an export"),
                        (lists, "client chose no export")):
        journal = Journal(t, image)
        act(journal.client)
        entries = journal.entries(EX_OK)
        eq(list(entries), ["kEnded"])
        expect_unserved(entries["kEnded"], INFO, reason, EX_OK, NBD_EXPORT=None)


@test("a client that asks for an unknown export, by whatever option, and leaves is a warning with the "
      "name")
def _(t):
    image = t.pattern_image(MIB)

    def by(option):
        def ask(client):
            client.handshake()
            if option == NBD_OPT_EXPORT_NAME:
                client.option(option, b"tape")
            else:
                client.structured_replies()
                client.haggle(option, Client.info_bytes("tape"))
                client.haggle(NBD_OPT_ABORT)
        return ask
    for option in (NBD_OPT_EXPORT_NAME, NBD_OPT_GO, NBD_OPT_INFO):
        journal = Journal(t, "-e", "disk", image)
        by(option)(journal.client)
        entries = journal.entries(EX_OK)
        eq(list(entries), ["kUnknownExport"])
        expect_unserved(entries["kUnknownExport"], WARNING, 'client asked for unknown export "tape"',
                        EX_OK, NBD_EXPORT="tape")
    # Who finds the right name after that is served.
    journal = Journal(t, "-e", "disk", image)
    journal.client.handshake()
    journal.client.haggle(NBD_OPT_GO, Client.info_bytes("tape"))
    journal.client.go("disk")
    journal.client.disconnect()
    eq(sorted(journal.entries(EX_OK)), ["kEnded", "kServing"])


@test("a name with which a client could write to the administrator's terminal is escaped in the "
      "explanation, too")
def _(t):
    journal = Journal(t, "-e", "disk", t.pattern_image(MIB))
    journal.client.handshake()
    journal.client.haggle(NBD_OPT_GO, Client.info_bytes("\x1b]0;mine\x07\n-- Subject: all is well"))
    journal.client.haggle(NBD_OPT_ABORT)
    shown = explanation(journal.entries(EX_OK)["kUnknownExport"])
    contains(r"\033]0;mine\007\n-- Subject", shown)
    assert "\x1b" not in shown, repr(shown)
    eq(len(re.findall(SUBJECT, shown, re.MULTILINE)), 1)


@test("the bytes of another protocol are from no NBD client, and a warning says which they are")
def _(t):
    image = t.pattern_image(MIB)
    for sent, words in ((b"GET / HTTP/1.1\r\n\r\n", r'its first bytes are "GET "'),
                        (b"SSH-2.0-OpenSSH_9.2\r\n", r'its first bytes are "SSH-"'),
                        (b"\r\n\r\n", r'its first bytes are "\r\n\r\n"'),
                        (bytes.fromhex("16030100c8010000c4"),
                         "it started TLS at once, which an NBD client does after NBD_OPT_STARTTLS")):
        journal = Journal(t, image)
        journal.client.greeting()
        journal.client.send(sent)
        journal.client.read_to_end()
        entries = journal.entries(EX_PROTOCOL)
        eq(list(entries), ["kNotAnNbdClient"])
        expect(entries["kNotAnNbdClient"], WARNING, "not an NBD client: .*")
        contains(words, entries["kNotAnNbdClient"]["NBD_REASON"])
    journal = Journal(t, image)
    journal.client.greeting()
    journal.client.send(bytes([0, 0, 0, 0x83]))
    journal.client.read_to_end()
    expect_unserved(journal.entries(EX_PROTOCOL)["kBrokenProtocol"], WARNING,
                    "client broke the protocol: unknown client flags 0x83", EX_PROTOCOL)


@test("a client without the TLS that is required is a warning and exit status 77, whatever it asked for")
def _(t):
    image, psk = t.pattern_image(MIB), t.fresh(".psk")
    Path(psk).write_text(f"alice:{os.urandom(32).hex()}\n")
    os.chmod(psk, 0o600)
    for option, payload in ((NBD_OPT_GO, Client.info_bytes("")), (NBD_OPT_LIST, b""),
                            (NBD_OPT_STRUCTURED_REPLY, b"")):
        journal = Journal(t, "--tls=require", f"--tls-psk={psk}", image)
        journal.client.handshake()
        journal.client.haggle(option, payload)
        journal.client.haggle(NBD_OPT_ABORT)
        entries = journal.entries(77)
        eq(list(entries), ["kTlsRefused"])
        expect_unserved(entries["kTlsRefused"], WARNING, "client asked for an export without TLS, "
                        "which this server requires", 77)


@test("a refused client, a broken protocol, a time limit and an export in use are warnings of their kind")
def _(t):
    image = t.pattern_image(MIB)
    journal = Journal(t, "--deny=all", image)
    journal.client.read_to_end()
    entries = journal.entries(77)
    expect(entries["kRefused"], WARNING, "by --deny=all", "^refusing unix:.*: by --deny=all$")

    journal = Journal(t, image)
    client = journal.client.start()
    client.send(client.request_bytes(NBD_CMD_READ, 0, 1, magic=0xBAD))
    client.read_to_end()
    entries = journal.entries(EX_PROTOCOL)
    expect(entries["kBrokenProtocol"], WARNING, "client broke the protocol: wrong request magic",
           NBD_EXIT_STATUS="76", NBD_REQUESTS="0")

    journal = Journal(t, "--handshake-timeout=100ms", image)
    journal.client.read_to_end()
    expect_unserved(journal.entries(EX_TIMED_OUT)["kTimedOut"], WARNING,
                    "client didn't finish the handshake within 100ms", EX_TIMED_OUT)

    _, holder = t.activated("--exclusive", image)
    holder.start()
    journal = Journal(t, "--exclusive", image)
    journal.client.handshake()
    journal.client.haggle(NBD_OPT_GO, Client.info_bytes(""))
    journal.client.haggle(NBD_OPT_ABORT)
    expect_unserved(journal.entries(69)["kRefused"], WARNING,
                    r'export "" is in use \(exclusive\): another client uses it, and must leave first',
                    69)


@test("an export that can't be opened, or only for reading, and keys that others can read, are told as such")
def _(t):
    missing = t.path("missing.img")
    journal = Journal(t, missing)
    journal.client.read_to_end()
    entries = journal.entries(66)
    expect(entries["kNotOpened"], ERROR, f'failed to open "{missing}": No such file or directory')

    image, psk = t.pattern_image(MIB), t.fresh(".psk")
    Path(psk).write_text(f"alice:{os.urandom(32).hex()}\n")
    os.chmod(psk, 0o644)
    with ReadOnlyBind(str(t.dir), str(t.fresh(".read-only"))) as shown:
        journal = Journal(t, "--tls=on", f"--tls-psk={psk}",
                          os.path.join(shown.path, os.path.basename(image)))
        journal.client.start()
        journal.client.disconnect()
        entries = journal.entries(EX_OK)
    eq(sorted(entries), ["kEnded", "kKeyWarning", "kReadOnly", "kServing"])
    expect(entries["kReadOnly"], NOTICE, "Read-only file system")
    expect(entries["kKeyWarning"], WARNING, f'the keys in "{psk}" are no secret: .*')
    eq(entries["kEnded"]["NBD_MODE"], "read-only")


@test("a storage that fails and one that is full are errors of their kind; the connection goes on")
def _(t):
    image = t.pattern_image(MIB)
    journal = Journal(t, image)
    client = journal.client.start()
    os.truncate(image, MIB // 2)
    eq(client.call(NBD_CMD_READ, MIB - 4096, 4096).error, NBD_EIO)
    client.disconnect()
    entries = journal.entries(EX_OK)
    expect(entries["kStorageError"], ERROR, "read of 4096 bytes at offset 1044480 failed: .*",
           NBD_FILE=image, NBD_MODE="read-write")
    eq(entries["kEnded"]["NBD_ERRORS"], "1")

    with tmpfs(t.fresh(".small"), 65536) as small:
        full = os.path.join(small.path, "full.img")
        with open(full, "wb") as file:
            file.truncate(MIB)
        journal = Journal(t, full)
        client = journal.client.start()
        eq(client.call(NBD_CMD_WRITE, 0, 256 << 10, payload=b"x" * (256 << 10)).error, NBD_ENOSPC)
        client.disconnect()
        entries = journal.entries(EX_OK)
    expect(entries["kOutOfSpace"], ERROR, "write .* failed: No space left on device")


@test("a flush that fails, the client's or the last one, is an error of its kind")
def _(t):
    need_privilege("fuse")
    with FailingFs(t.dir, bytes(MIB)) as disk:
        journal = Journal(t, disk.disk)
        client = journal.client.start()
        client.write(0, b"x" * 4096)
        disk.rule("sync", "eio", count=1)
        eq(client.call(NBD_CMD_FLUSH).error, NBD_EIO)
        client.disconnect()
        entries = journal.entries(EX_OK)
        expect(entries["kFailedFlush"], ERROR, "flush .* failed: Input/output error",
               NBD_EXIT_STATUS=None)
        eq(entries["kEnded"]["NBD_ERRORS"], "1")

        journal = Journal(t, disk.disk)
        client = journal.client.start()
        client.write(0, b"y" * 4096)
        disk.rule("sync", "eio", count=1)
        journal.process.signal(signal.SIGTERM)
        client.read_to_end()
        entries = journal.entries(71)
    expect(entries["kFailedFlush"], ERROR, "the final flush failed: Input/output error",
           NBD_EXIT_STATUS="71", NBD_REQUESTS="1", NBD_BYTES_WRITTEN="4096")


@test("the longest request is measured, and named in the text if it was long")
def _(t):
    image = t.pattern_image(MIB)
    journal = Journal(t, image)
    journal.client.start()
    journal.client.read(0, 4096)  # in the page cache
    journal.client.disconnect()
    ended = journal.entries(EX_OK)["kEnded"]
    assert 0 < int(ended["NBD_LONGEST_REQUEST_USEC"]) <= int(ended["NBD_DURATION_USEC"]), ended
    assert "longest" not in ended["MESSAGE"], ended["MESSAGE"]

    need_privilege("fuse")
    with FailingFs(t.dir, bytes(MIB)) as disk:
        journal = Journal(t, disk.disk)
        client = journal.client.start()
        client.flush()
        disk.rule("sync", "hold")
        client.write(0, b"x")
        cookie = client.request(NBD_CMD_FLUSH)
        disk.wait_held(1)
        time.sleep(1.1)  # the time that is to be measured
        disk.release()
        client.answer(cookie).check()
        client.disconnect()
        ended = journal.entries(EX_OK)["kEnded"]
    took = int(ended["NBD_LONGEST_REQUEST_USEC"])
    assert 1_100_000 <= took <= int(ended["NBD_DURATION_USEC"]), took
    matches(r", in [\d.a-z ]+, the longest request took [\d.a-z ]+$", ended["MESSAGE"])


def histogram(text):
    """{bound: count} of a field. Bounds are numbers, or "inf"."""
    matches(r"^((\d+|inf):[1-9]\d*( |$))+$", text)
    pairs = [word.split(":") for word in text.split(" ")]
    bounds = [float(bound) for bound, _ in pairs]
    eq(bounds, sorted(set(bounds)), "bounds, in order")
    return {bound: int(count) for bound, count in pairs}


@test("the last message has histograms of the commands of which there were requests")
def _(t):
    journal = Journal(t, t.pattern_image(MIB))
    client = journal.client.start()
    for length in (512, 512, 4096, 65536):
        client.read(0, length)
    client.write(0, bytes(1000))
    client.write(0, bytes(1000), flags=NBD_CMD_FLAG_FUA)
    client.flush()
    eq(client.call(NBD_CMD_TRIM, 0, 2 * MIB).error, NBD_EINVAL)
    client.disconnect()
    ended = journal.entries(EX_OK)["kEnded"]
    sizes = {name: histogram(value) for name, value in ended.items() if name.endswith("_SIZE_BYTES")}
    eq(sizes, {"NBD_READ_SIZE_BYTES": {"512": 2, "4096": 1, "65536": 1}, "NBD_WRITE_SIZE_BYTES": {"1024": 2}})
    latencies = {name: histogram(value) for name, value in ended.items() if name.endswith("_LATENCY_USEC")}
    eq({name: sum(value.values()) for name, value in latencies.items()},
       {"NBD_READ_LATENCY_USEC": 4, "NBD_WRITE_LATENCY_USEC": 2, "NBD_FLUSH_LATENCY_USEC": 1,
        "NBD_TRIM_LATENCY_USEC": 1})
    # Bounds are powers of two, and the longest request lies in the highest bucket.
    bounds = [float(bound) for value in latencies.values() for bound in value]
    for bound in bounds:
        assert bound == float("inf") or int(bound).bit_count() == 1, bounds
    assert max(bounds) / 2 - 1 <= int(ended["NBD_LONGEST_REQUEST_USEC"]) <= max(bounds) or \
        max(bounds) == float("inf"), (bounds, ended["NBD_LONGEST_REQUEST_USEC"])


@test("an incomplete sandbox is told as such, as an error if it is required")
def _(t):
    image = t.pattern_image(MIB)
    without_landlock = [need("strace"), "-f", "-qq", "-e", "signal=none", "-e",
                        "trace=landlock_create_ruleset", "-o", "/dev/null", "-e",
                        "inject=landlock_create_ruleset:error=ENOSYS:when=1+"]
    for mode, priority, status in (("on", NOTICE, EX_OK), ("require", ERROR, 71)):
        since = systemd.now_us()
        process, client = t.inetd("--log=journal", f"--sandbox={mode}", image,
                                  prefix=without_landlock)
        if mode == "on":
            client.start().disconnect()
        client.read_to_end()
        process.expect(status)
        entry, = wait_until(lambda: systemd.log(since, f"MESSAGE_ID={ID['kSandboxIncomplete']}"),
                            "the message")
        expect(entry, priority, ".*Landlock.*")


def tests(private):
    global systemd
    systemd = private
    # For the namespace of these tests only.
    require(os.path.isdir("/var/lib/systemd/catalog"), "needs /var/lib/systemd/catalog")
    database = compiled_catalog(os.path.join(private.base, "catalog-root"))
    bind(str(database), "/var/lib/systemd/catalog")
    main()


if __name__ == "__main__":
    private_systemd.run(tests)
