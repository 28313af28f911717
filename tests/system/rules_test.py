#!/usr/bin/python3
"""--rules in the real program: when a client is refused, what it can learn, when a change of the file
holds, and what --check --as says. tests/system/rules_table_test.py has who gets what as a table."""

import fcntl
import json
import os
import re
import signal
import socket
import struct
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from harness import *
from listening import *
from partition_tables import make_table
from rules import rules

F_OFD_SETLK = 37
NO_EXPORT = (NBD_REP_ERR_UNKNOWN, b"there is no export of this name")


def directory(t, *names):
    """A fresh directory with these exports."""
    path = Path(t.fresh(".exports"))
    path.mkdir()
    for name in names:
        (path / name).write_bytes(name.encode().ljust(4096, b"."))
    return path


def served(process, client, name=""):
    """The line about what is served."""
    client.start(name)
    client.disconnect()
    process.expect(EX_OK)
    return next(line for line in process.stderr().splitlines() if "serving export" in line)


# ------------------------------------------------------------------ refusals

@test("who gets nothing is refused before the greeting, with status 77 and one line that names the rule")
def _(t):
    files = directory(t, "golden")
    for text, reason in (("* -\n", "by line 1 of"), ("127.0.0.1 -\n* golden rw\n", "by line 1 of"),
                         ("192.0.2.0/24 golden rw\n", "no line of"), ("", "no line of")):
        for start in (t.activated, t.inetd):
            process, client = start(rules(t, text), f"--directory={files}", family="tcp",
                                    **({"stderr": "file"} if start == t.inetd else {}))
            eq(client.read_to_end(), b"", "bytes for a client that is refused")
            process.expect(EX_NOPERM)
            line, = process.stderr().splitlines()
            matches(r"^nbdinetd: refusing 127\.0\.0\.1:\d+: " + re.escape(reason), line)


@test("nothing is opened for a client that gets nothing")
def _(t):
    process, client = t.activated(rules(t, "* -\n"), t.path("missing.img"))
    eq(client.read_to_end(), b"")
    process.expect(EX_NOPERM)


@test("pipes, of which the kernel tells nothing, get nothing")
def _(t):
    process, client = t.piped("-s", rules(t, "* * rw\nany * rw\n"), t.pattern_image(MIB))
    eq(client.read_to_end(), b"")
    process.expect(EX_NOPERM)


@test("--allow and --deny hold, whatever the rules give")
def _(t):
    process, client = t.activated("--deny=unix:", rules(t, "unix: * rw\n"), t.pattern_image(MIB))
    eq(client.read_to_end(), b"")
    process.expect(EX_NOPERM)
    contains("by --deny=unix:", process.stderr())


@test("a broken file refuses everybody with status 78 and one line, wherever the mistake is")
def _(t):
    image = t.pattern_image(MIB)
    for text, words in (("* * rw\nunix: * wr\n", "line 2: how the exports may be used is missing"),
                        ("* * rw\n192.0.2.0/33 * ro\n", "line 2: "), ("* * rw\n\0", "control character")):
        process, client = t.activated(rules(t, text), image)
        eq(client.read_to_end(), b"")
        process.expect(EX_CONFIG)
        line, = process.stderr().splitlines()
        contains(words, line)
        process = t.run([NBDINETD, "--check", rules(t, text), image], status=EX_CONFIG)
        contains(words, process.stderr())
    for path in (t.path("absent"), t.path("")):
        process, client = t.activated(f"--rules={path}", image)
        eq(client.read_to_end(), b"")
        process.expect(EX_CONFIG)


# ------------------------------------------------------------------ when a change holds

@test("each connection of a listener reads the file anew, a broken one and a corrected one, too")
def _(t):
    files = directory(t, "a", "b")
    door = Door(t, "unix")
    option = rules(t, "unix: a rw\n")
    process = activate(t, option, f"--directory={files}", inherited=[door])

    def names():
        client = door.client()
        try:
            client.handshake()
        except Disconnected:
            return None
        found = [name for name, _ in client.list_exports()]
        client.close()
        return found
    eq(names(), ["a"])
    rules(t, "unix: b rw\n")
    eq(names(), ["b"])
    rules(t, "unix: b\n")
    eq(names(), None)
    os.unlink(t.path("rules"))
    eq(names(), None)
    rules(t, "unix: * ro\n")
    eq(names(), ["a", "b"])
    stop(process)
    eq(len(re.findall("line 1: how the exports may be used", process.stderr())), 1)


@test("a listener says where a client can do without TLS, and who else may change the file")
def _(t):
    image = t.pattern_image(MIB)
    for text, mode, warns in (("psk:alice * ro\nunix: * rw\n", 0o666, True), ("unix: * rw\n", 0o644, False)):
        option = rules(t, text)
        os.chmod(t.path("rules"), mode)
        door = Door(t, "unix")
        process = activate(t, option, image, inherited=[door])
        visit(door.client())
        stop(process)
        for words in ("line 1 is about TLS, and a client that isn't identified by TLS has what",
                      "may be changed by every user"):
            eq(process.stderr().count(words), int(warns), process.stderr())
        hints = t.run([NBDINETD, "--check", "--sandbox=off", option, image]).stderr()
        eq("hint: " in hints and "may be changed by every user" in hints, warns, hints)


@test("a file that isn't whole refuses everybody")
def _(t):
    option = rules(t, "* * ro\nunix: * rw")
    process, client = t.activated(option, t.pattern_image(MIB))
    eq(client.read_to_end(), b"")
    process.expect(EX_CONFIG)
    contains("line 2: there is no newline at the end", process.stderr())


@test("a connection keeps what it was given")
def _(t):
    files = directory(t, "a")
    process, client = t.activated(rules(t, "* a rw\n"), f"--directory={files}")
    client.handshake()
    rules(t, "* -\n")
    client.choose("a")
    client.write(0, b"x" * 512)
    leave(process, client)


@test("a stand-alone server doesn't start with a broken file; an activated one waits for a better one")
def _(t):
    image = t.pattern_image(MIB)
    option = rules(t, "* * rx\n")
    t.run([NBDINETD, "-f", "-U", t.fresh(".sock"), option, image], status=EX_CONFIG)
    door = Door(t, "unix")
    process = activate(t, option, image, inherited=[door])
    try:
        eq(door.connect().recv(1), b"")
    except ConnectionResetError:
        pass
    rules(t, "* * rw\n")
    visit(door.client())
    stop(process)


# ------------------------------------------------------------------ what a client can learn

def answers(client, name):
    """All that the server says of a name."""
    data = [(NBD_OPT_INFO, client.info_bytes(name)), (NBD_OPT_GO, client.info_bytes(name, [1, 2, 3])),
            (NBD_OPT_LIST_META_CONTEXT, client.meta_context_bytes(name, ["base:"])),
            (NBD_OPT_SET_META_CONTEXT, client.meta_context_bytes(name, ["base:allocation"]))]
    return [client.haggle(option, payload) for option, payload in data]


@test("a name that may not be used has the replies of one that isn't there, byte by byte")
def _(t):
    files = directory(t, "golden", "secret", "secret2")
    os.symlink("secret", files / "linked")
    for arguments in ([f"--directory={files}"], [f"--directory={files}", "--partitions"]):
        process, client = t.activated(rules(t, "* golden gone ro\n"), *arguments)
        client.handshake()
        client.structured_replies()
        expected = answers(client, "gone")  # may be used, and isn't there
        eq(expected[0], [NO_EXPORT])
        for name in ("secret", "absent", "linked", "secret:1", "absent:1", "", "a/b", "..", "x" * 4096):
            eq(answers(client, name), expected, name)
        eq(client.list_exports(), [("golden", client.list_exports()[0][1])])
        client.go("golden")
        client.disconnect()
        process.expect(EX_OK)
    for name in ("secret", "absent", "gone"):
        process, client = t.activated(rules(t, "* golden gone ro\n"), f"--directory={files}")
        client.handshake()
        client.option(NBD_OPT_EXPORT_NAME, name.encode())
        eq(client.read_to_end(), b"", name)
        process.wait()
    # What no name can be is answered as without rules.
    image = t.pattern_image(MIB)
    for source in (["-e", "golden", image], [f"--directory={files}"]):
        found = []
        for option in ([], [rules(t, "* golden ro\n")]):
            process, client = t.activated(*option, *source)
            client.handshake()
            found.append([client.haggle(NBD_OPT_INFO, len(name).to_bytes(4, "big") + name + bytes(2))
                          for name in (b"\xff", b"a\0b", b"a" * 5000)])
            client.close()
            process.wait()
        eq(found[1], found[0])


@test("a name that may not be used leads to the system calls of one that isn't there")
def _(t):
    strace = need("strace")
    files = directory(t, "golden", "secret")
    os.symlink("secret", files / "linked")

    def calls(name):
        trace = t.fresh(".trace")
        process, client = t.activated(rules(t, "* golden gone ro\n"), f"--directory={files}", prefix=[
            strace, "-D", "-f", "-qq", "-e", "signal=none", "-o", trace])
        client.handshake()
        client.info("golden")
        for _ in range(3):
            eq(client.haggle(NBD_OPT_INFO, client.info_bytes(name)), [NO_EXPORT])
        client.close()
        process.wait()
        lines = re.sub(r"^\d+ +", "", Path(trace).read_text(), flags=re.M).splitlines()
        # From the question about the export that is there.
        start = next(i for i, line in enumerate(lines) if '"golden"' in line and "newfstatat" in line)
        return [re.match(r"\w+", line)[0] + (" = " + line.rpartition("= ")[2] if "newfstatat" in line else "")
                for line in lines[start:] if re.match(r"(newfstatat|openat2|open|statx?|lstat|readlink)\w*\(", line)]
    expected = calls("gone")
    contains("newfstatat = -1 ENOENT (No such file or directory)", expected)
    for name in ("secret", "absent", "linked"):
        eq(calls(name), expected, name)


@test("the list of a client that has names of its own reads no directory, whatever else is there")
def _(t):
    strace = need("strace")
    files = directory(t, "golden", "secret", "z")
    for text, names, reads in (("* z golden gone ro\n", ["golden", "z"], False), ("* g*n ro\n", ["golden"], True),
                               ("* gone ro\n", [], False)):
        trace = t.fresh(".trace")
        process, client = t.activated(rules(t, text), f"--directory={files}", prefix=[
            strace, "-D", "-f", "-qq", "-y", "-e", "signal=none", "-e", "trace=getdents64", "-o", trace])
        client.handshake()
        eq([name for name, _ in client.list_exports()], names)
        client.close()
        process.wait()
        eq(os.path.realpath(files) in Path(trace).read_text(), reads, text)


@test("a client that was shown nothing of an export is told of in the log, with the reason")
def _(t):
    files = directory(t, "golden", "secret")
    process, client = t.activated(rules(t, "* golden ro\n"), f"--directory={files}")
    client.handshake()
    try:
        client.go("secret")
    except OptionError:
        pass
    client.haggle(NBD_OPT_ABORT)
    client.close()
    process.expect(EX_NOPERM)
    contains('client asked for export "secret", which it may not use: of the lines of ', process.stderr())


# ------------------------------------------------------------------ what for

@test("what may only be read is open for reading only, and its writes are refused")
def _(t):
    files = directory(t, "a", "b")
    for name, flag in (("a", os.O_RDONLY), ("b", os.O_RDWR)):
        process, client = t.activated(rules(t, "* a ro\n* b rw\n"), f"--directory={files}")
        client.start(name)
        opened = [Path(f"/proc/{process.pid}/fdinfo/{fd.name}").read_text()
                  for fd in Path(f"/proc/{process.pid}/fd").iterdir()
                  if os.readlink(fd) == str(files / name)]
        eq([int(re.search(r"flags:\s+(\d+)", text)[1], 8) & os.O_ACCMODE for text in opened], [flag])
        if flag == os.O_RDONLY:
            for call in ((client.write, 0, bytes(512)), (client.trim, 0, 512), (client.write_zeroes, 0, 512)):
                refuses(NBD_EPERM, *call)
        leave(process, client)


@test("an export that is open from the start is read-only for whom the rules say so")
def _(t):
    image = t.pattern_image(MIB)
    process, client = t.activated(rules(t, "* * ro\n"), "--sandbox=require", image)
    client.start("any name")
    eq(client.flags & NBD_FLAG_READ_ONLY, NBD_FLAG_READ_ONLY)
    refuses(NBD_EPERM, client.write, 0, bytes(512))
    eq(client.read(4096, 100000), pattern(4096, 100000))
    leave(process, client)
    eq(Path(image).read_bytes(), pattern(0, MIB))
    matches(r'read-only, .*, by "[^"]*/rules:1"', process.stderr())


@test("the one export of a FILE is named by \"\", or by --exportname")
def _(t):
    image = t.pattern_image(MIB)
    for arguments, text, name, is_there in (
            ([], '* "" ro\n', "x", True), ([], "* x ro\n", "x", False), ([], "* * ro\n", "", True),
            (["-e", "x"], "* x ro\n", "x", True), (["-e", "x"], "* x ro\n", "", True),
            (["-e", "x"], '* "" ro\n', "", False)):
        process, client = t.activated(rules(t, text), *arguments, image)
        client.handshake()
        eq(client.haggle(NBD_OPT_INFO, client.info_bytes(name)) != [NO_EXPORT], is_there, f"{text} {name}")
        client.close()
        process.wait()


@test("a private copy by the rules: in the whole sandbox, and beside others who write")
def _(t):
    image = t.pattern_image(MIB)
    option = rules(t, "127.0.0.1 * ro cow\nunix: * rw\n")
    for place in ("memory", t.path("")):
        process, client = t.activated(option, "--sandbox=require", f"--cow-dir={place}", image, family="tcp")
        client.start("x")
        eq(client.flags & (NBD_FLAG_READ_ONLY | NBD_FLAG_CAN_MULTI_CONN), 0)
        client.write(1000, b"y" * 5000)
        client.flush()
        eq(client.read(999, 3), pattern(999, 1) + b"yy")
        leave(process, client)
        eq(Path(image).read_bytes(), pattern(0, MIB))
    process, client = t.activated(option, "--sandbox=require", image)
    client.start("x")
    client.write(0, b"z" * 512)
    leave(process, client)
    eq(Path(image).read_bytes()[:512], b"z" * 512)


@test("exclusive= of a rule is in place of --exclusive, for whom it is")
def _(t):
    image = t.pattern_image(MIB)
    option = rules(t, "127.0.0.1 * rw exclusive=takeover\nunix: * rw exclusive=off\n")
    first, client = t.activated(option, "--sandbox=require", image, family="tcp")
    client.start("x")
    eq(client.flags & NBD_FLAG_CAN_MULTI_CONN, 0)
    # It shares the export.
    other, shares = t.activated(option, "--exclusive=refuse", image)
    shares.start("x")
    eq(shares.flags & NBD_FLAG_CAN_MULTI_CONN, NBD_FLAG_CAN_MULTI_CONN)
    leave(other, shares)
    # It takes it over.
    second, successor = t.activated(option, "--sandbox=require", image, family="tcp")
    successor.start("x")
    first.expect(EX_OK)
    contains("another takes over the export", first.stderr())
    leave(second, successor)


@test("a rule doesn't take the lock of a kept copy away")
def _(t):
    image, folder = t.pattern_image(MIB), t.fresh(".copies")
    os.mkdir(folder)
    arguments = [rules(t, "127.0.0.1 * rw exclusive=off\n"), "--cow=keep", "--cow-key=peer-address",
                 f"--cow-dir={folder}", "--sandbox=require", image]
    first, client = t.activated(*arguments, family="tcp")
    client.start("x")
    client.write(0, b"y" * 512)
    second, successor = t.activated(*arguments, family="tcp")
    successor.start("x")
    first.expect(EX_OK)
    contains("another takes over the export", first.stderr())
    eq(successor.read(0, 512), b"y" * 512)
    leave(second, successor)


@test("a copy by the rules has a lock on its base, which a merge respects, and is refused during one")
def _(t):
    image = t.pattern_image(MIB)
    option = rules(t, "* * cow\n")

    def merge():
        """The lock of 'nbdinetctl copies merge', and whether it was free."""
        file = open(image, "r+b")  # pylint: disable=consider-using-with
        t.defer(file.close)
        try:
            fcntl.fcntl(file, F_OFD_SETLK, struct.pack("hhqqixxxx", fcntl.F_WRLCK, 0, (1 << 63) - 1 - 0xfe00, 1, 0))
        except BlockingIOError:
            return file, False
        return file, True
    process, client = t.activated(option, "--sandbox=require", "--cow-dir=memory", image)
    client.start("x")
    eq(merge()[1], False)
    leave(process, client)
    file, is_free = merge()
    eq(is_free, True)
    process, client = t.activated(option, "--sandbox=require", "--cow-dir=memory", image)
    client.handshake()
    (reply, _), = client.haggle(NBD_OPT_GO, client.info_bytes("x"))[-1:]
    eq(reply, NBD_REP_ERR_POLICY)
    file.close()
    client.close()
    process.wait()
    contains("'nbdinetctl copies merge' writes to", process.stderr())


@test("a partition is a part of its disk: who may only read the disk doesn't write to it")
def _(t):
    files = directory(t)
    for name in ("golden", "scratch"):
        image = make_table(t.pattern_image(8 * MIB, name), ["label: dos", "1: start=2048, size=2048"])
        os.rename(image, files / name)
    before = (files / "golden").read_bytes()
    option = rules(t, "* golden ro\n* * rw\n")
    for name, read_only in (("golden", True), ("golden:1", True), ("scratch:1", False)):
        process, client = t.activated(option, f"--directory={files}", "--partitions", "--sandbox=require")
        client.start(name)
        eq(bool(client.flags & NBD_FLAG_READ_ONLY), read_only, name)
        if read_only:
            refuses(NBD_EPERM, client.write, 0, bytes(512))
        leave(process, client)
    eq((files / "golden").read_bytes() == before, True)
    # Who may use the partition alone has what its name says.
    process, client = t.activated(rules(t, "* golden:1 rw\n"), f"--directory={files}", "--partitions")
    client.handshake()
    eq(client.haggle(NBD_OPT_INFO, client.info_bytes("golden")), [NO_EXPORT])
    client.choose("golden:1")
    eq(client.flags & NBD_FLAG_READ_ONLY, 0)
    leave(process, client)


@test("rules hold on a connection that another program has negotiated")
def _(t):
    image = t.pattern_image(MIB)
    style = "--negotiated=structured"
    process, client = t.activated(style, rules(t, "* * ro\n"), "--sandbox=require", image)
    client.skip_handshake(structured=True, size=MIB, flags=NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY)
    eq(client.read(4096, 512), pattern(4096, 512))
    refuses(NBD_EPERM, client.write, 0, bytes(512))
    leave(process, client)
    matches(r'read-only, .*, by "[^"]*/rules:1"', process.stderr())
    process, client = t.activated(style, rules(t, "* other rw\n"), image)
    eq(client.read_to_end(), b"")
    process.expect(EX_NOPERM)
    contains("the client may not use the export: of the lines of ", process.stderr())
    process, client = t.activated(style, rules(t, "* * cow\n"), "--cow-dir=memory", image)
    client.skip_handshake(structured=True, size=MIB, flags=NBD_FLAG_HAS_FLAGS)
    client.write(0, b"y" * 512)
    eq(client.read(0, 512), b"y" * 512)
    leave(process, client)
    eq(Path(image).read_bytes()[:512], pattern(0, 512))


@test("rules with a hundred thousand lines are read by each connection")
def _(t):
    files = directory(t, "mine", "other")
    lines = [f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}  export-{i} vm-*  ro\n" for i in range(100000)]
    process, client = t.activated(rules(t, "".join(lines) + "unix: mine rw\n"), f"--directory={files}")
    matches(r'by "[^"]*/rules:100001"$', served(process, client, "mine"))


# ------------------------------------------------------------------ units

class Unit:
    """A control group of a unit's name, which this process may enter and leave."""

    def __init__(self, t, name):
        self.root = Path("/sys/fs/cgroup")
        if not (self.root / "cgroup.procs").exists() and (self.root / "unified").exists():
            self.root /= "unified"
        self.path = self.root / name
        self.before = re.search(r"^0::(.*)$", Path("/proc/self/cgroup").read_text(), re.M)
        try:
            self.path.mkdir()
            t.defer(self.path.rmdir)
            self.enter()
        except OSError as error:
            raise Skip(f"no control groups of our own: {error}") from error
        t.defer(self.leave)

    def enter(self):
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def leave(self):
        (self.root / self.before[1].lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))


def has_peer_pidfd():
    ends = socket.socketpair()
    try:
        ends[0].getsockopt(socket.SOL_SOCKET, 77, 4)
        return True
    except OSError:
        return False
    finally:
        for end in ends:
            end.close()


@test("a Unix client is known by the unit of its process")
def _(t):
    need_root("to make control groups")
    require(has_peer_pidfd(), "this kernel has no SO_PEERPIDFD")
    files = directory(t, "vm-1", "other")
    unit = Unit(t, "nbdtest-qemu.scope")
    door = Door(t, "unix")
    unit.leave()
    process = activate(t, rules(t, "unit:nbdtest-*.scope vm-* rw\nunix: other ro\n"), f"--directory={files}",
                       inherited=[door])

    def names():
        client = door.client()
        client.handshake()
        found = [name for name, _ in client.list_exports()]
        client.close()
        return found
    eq(names(), ["other"])
    unit.enter()
    eq(names(), ["vm-1"])
    unit.leave()
    eq(names(), ["other"])
    stop(process)


@test("a process that has ended, or a kernel without SO_PEERPIDFD, gives no unit, and then no line of a peer")
def _(t):
    need("strace")
    image = t.pattern_image(MIB)
    text = "unit:nbdtest-*.scope * rw\nunix: * rw\n"
    # SO_PEERPIDFD by the number that strace may not know.
    trace = t.fresh(".trace")
    told = 0
    for number in range(1, 30):
        process, client = t.inetd(rules(t, text), image, family="unix", stderr="file", prefix=[
            "strace", "-qq", "-o", trace, "-e", "trace=getsockopt", "-e",
            f"inject=getsockopt:error=ENOPROTOOPT:when={number}"])
        if not re.search(r"(SO_PEERPIDFD|0x4d).*\(INJECTED\)", trace_of(client, process, trace)):
            if "(INJECTED)" not in Path(trace).read_text():
                break
            continue
        told += 1
        contains("the kernel has no SO_PEERPIDFD", process.stderr())
        contains("names units, only lines about TLS are for it", process.stderr())
        eq(process.poll(), EX_NOPERM)
    eq(told, 1, "calls for the pidfd that failed")


def trace_of(client, process, trace):
    """The calls of a connection that the client ends at once."""
    client.shut_down_writing()
    client.read_to_end()
    process.wait()
    return Path(trace).read_text()


# ------------------------------------------------------------------ --check --as

def check(t, *arguments, status=0):
    process = t.run([NBDINETD, "--check", "--sandbox=off", *arguments], status=status)
    return process.stdout()


@test("--check --as says what a client would get, and which line says so")
def _(t):
    files = directory(t, "golden", "scratch")
    option = rules(t, "psk:alice golden ro max-rate=2M max-iops=100:5\n192.0.2.0/24 scratch rw exclusive=wait\n"
                      "tls:CN=ci,* * cow\nuid:0 -\n* -\n")
    where = f"--directory={files}"
    path = t.path("rules")
    for who, lines, status in (
            (["psk:alice"], [f'would let "psk:alice" use export "golden" read-only, with '
                             f'max-rate=2097152 max-iops=100:5, by "{path}:1"',
                             'would show "psk:alice" no export "scratch": of the lines of '], 0),
            (["192.0.2.7"], [f'would let "192.0.2.7" use export "scratch" read-write, alone (exclusive=wait), by '
                             f'"{path}:2"'], 0),
            (["192.0.2.7", "psk:alice"], [f'would let "192.0.2.7 psk:alice" use export "golden" read-only'], 0),
            (["tls:CN=ci,O=x"], [f'use export "scratch" copy-on-write, by "{path}:3"'], 0),
            (["uid:0"], [f'would refuse "uid:0": by line 4 of "{path}"'], EX_NOPERM),
            (["198.51.100.1"], [f'would refuse "198.51.100.1": by line 5 of "{path}"'], EX_NOPERM)):
        output = check(t, *[f"--as={word}" for word in who], option, where, status=status)
        for line in lines:
            contains(line, output)
        report = json.loads(t.run([NBDINETD, "--check=json", *[f"--as={word}" for word in who], option, where],
                                  status=status).stdout())
        eq((report["as"], report["rules"], report["exit_status"]), (" ".join(who), path, status))
        eq(any("mode" in answer for answer in report.get("as_exports", [])), status == 0)
        eq("as_reason" in report, status != 0)
    output = check(t, "--as=192.0.2.7", "--deny=192.0.2.7", option, where, status=EX_NOPERM)
    contains('would refuse "192.0.2.7": by --deny=192.0.2.7', output)
    # Without rules, too.
    contains('would let "uid:0" use export "golden" read-write\n', check(t, "--as=uid:0", where))
    contains("each client would see the exports that ", check(t, option, where))


@test("what --check --as says is what the client gets")
def _(t):
    files = directory(t, "a", "b")
    option = rules(t, f"uid:{os.getuid()} a ro\nunix: * rw\n* -\n")
    output = check(t, f"--as=uid:{os.getuid()}", option, f"--directory={files}")
    contains('use export "a" read-only', output)
    contains('no export "b"', output)
    process, client = t.activated(option, f"--directory={files}")
    client.handshake()
    eq([name for name, _ in client.list_exports()], ["a"])
    client.choose("a")
    eq(client.flags & NBD_FLAG_READ_ONLY, NBD_FLAG_READ_ONLY)
    leave(process, client)


@test("--as is one client, and needs --check")
def _(t):
    image = t.pattern_image(MIB)
    for arguments, words in ((["--as=psk:a", "--single"], "--as needs --check"),
                             (["--check", "--as=192.0.2.0/24"], "several clients"),
                             (["--check", "--as=192.0.2.7", "--as=uid:0"], "two families"),
                             (["--check", "--as=nobody"], "this is no address")):
        process = t.run([NBDINETD, *arguments, image], status=EX_USAGE)
        contains(words, process.stderr())


private_network()
main()
