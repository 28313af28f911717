#!/usr/bin/python3
"""doc/from-a-program.md: each of its programs is compiled and run as it stands there, and does what it says."""

import os
import shutil
import struct
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402

DOCUMENT = (SRCDIR / "doc" / "from-a-program.md").read_text()
BLOCKS = {name: (language, code) for language, name, code in re.findall(
    r"^```(\w+) ([\w.-]+)\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)}
COMPILERS_GUARD = 300 * PATIENCE  # gccgo needs a second, and much more on a busy machine
tried = set()


def block(t, name):
    """A program of the document, in a file."""
    tried.add(name)
    path = t.path(name)
    Path(path).write_text(BLOCKS[name][1])
    return path


def here(t):
    """An environment in which nbdinetd is the one under test."""
    path = t.path("bin")
    if not os.path.exists(path):
        os.mkdir(path)
        os.symlink(NBDINETD, os.path.join(path, "nbdinetd"))
    return {"PATH": f"{path}:{os.environ['PATH']}", "HOME": str(t.dir), "GOCACHE": t.path("cache"), "GO111MODULE": "off",
            "GOFLAGS": "", "GOTOOLCHAIN": "local"}


def output(process):
    """Its bytes."""
    return Path(process._stdout_path).read_bytes()  # pylint: disable=protected-access


def prints_the_first_sector(t, *command):
    """What each of the programs in the four languages does, and what it does with an image that isn't there."""
    image = t.random_image(MIB)
    process = t.run([*command, image], env=here(t))
    eq(output(process) == Path(image).read_bytes()[:512], True, "the first 512 bytes")
    contains("ended: client disconnected", process.stderr())
    eq(servers_below(os.getpid()), [], "nbdinetd is left, or is a zombie")
    process = t.run([*command, t.path("missing")], env=here(t), status=EX_NOINPUT)
    eq(output(process), b"")
    contains("missing", process.stderr())


def compile_it(t, *command):
    t.spawn(command, env=here(t)).wait(COMPILERS_GUARD)


@test("C: a socket pair by LISTEN_FDS", guard=2 * COMPILERS_GUARD)
def _(t):
    program = t.path("first-sector")
    compile_it(t, need("gcc"), "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, block(t, "first-sector.c"))
    prints_the_first_sector(t, program)
    # The server's end may be descriptor 3 already.
    image = t.random_image(MIB)
    process = t.run(["/bin/sh", "-c", 'exec 3>&-; exec "$@"', "sh", program, image], env=here(t))
    eq(output(process) == Path(image).read_bytes()[:512], True, "the first 512 bytes")
    process = t.run(["/bin/sh", "-c", 'exec 3>/dev/null; exec "$@"', "sh", program, image], env=here(t))
    eq(output(process) == Path(image).read_bytes()[:512], True, "the first 512 bytes")


@test("Python: a socket pair as descriptor 0")
def _(t):
    prints_the_first_sector(t, sys.executable, block(t, "first_sector.py"))


@test("Go: a socket pair as descriptor 0", guard=2 * COMPILERS_GUARD)
def _(t):
    source, program = block(t, "first-sector.go"), t.path("first-sector")
    go, gccgo = find_tool("go"), find_tool("gccgo")
    require(go or gccgo, "neither go nor gccgo is installed")
    compile_it(t, *([go, "build"] if go else [gccgo]), "-o", program, source)
    prints_the_first_sector(t, program)


@test("shell: a pair of pipes as descriptors 0 and 1, in each shell that is installed")
def _(t):
    script = block(t, "first-sector.sh")
    for shell in filter(None, map(shutil.which, ("dash", "bash", "busybox"))):
        prints_the_first_sector(t, *([shell, "sh"] if shell.endswith("busybox") else [shell]), script)


@test("shell: the program of a superserver becomes nbdinetd")
def _(t):
    for day in ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"):
        t.pattern_image(MIB, f"{day}.img")
    ours, theirs = t.connection()
    process = t.spawn(["/bin/sh", block(t, "by-weekday.sh")], fds={0: theirs, 1: theirs}, env=here(t))
    theirs.close()
    client = Client(ours).start()
    eq(client.read(4096, 512), pattern(4096, 512))
    eq(Path(f"/proc/{process.pid}/comm").read_text(), "nbdinetd\n")
    leave(process, client)


@test("the command for a language that can't set LISTEN_PID")
def _(t):
    command = matches(r"`sh -c '(LISTEN_PID=[^']*)' sh FILE`", DOCUMENT)[1]
    ours, theirs = t.connection()
    process = t.spawn(["/bin/sh", "-c", command, "sh", t.pattern_image(MIB)], fds={3: theirs}, env=here(t))
    theirs.close()
    client = Client(ours).start()
    eq(client.read(0, 512), pattern(0, 512))
    leave(process, client)


# ------------------------------------------------------------------ the gate

class Gate:
    def __init__(self, t, **images):
        self.path = t.fresh(".sock")
        self.process = t.spawn([sys.executable, block(t, "gate.py"), self.path,
                                *(f"{token}={image}" for token, image in images.items())], env=here(t))
        wait_listening(self.path, self.process)

    def client(self):
        return Client(connect(self.path))


@test("the gate serves each token's image, in the style that was negotiated, by nbdinetd with --negotiated")
def _(t):
    one, two = t.pattern_image(MIB), t.random_image(2 * MIB)
    gate = Gate(t, alice=one, bob=two)
    for structured in (True, False):
        for token, image in (("alice", one), ("bob", two)):
            client = gate.client()
            client.handshake()
            if structured:
                client.structured_replies()
            client.go(token)
            content = Path(image).read_bytes()
            eq(client.size, len(content))
            eq(bool(client.flags & NBD_FLAG_SEND_DF), structured)
            # Both are left to nbdinetd: what follows the option at once is its.
            eq(client.read(len(content) - 512, 512) == content[-512:], True)
            client.write(0, content[:512], NBD_CMD_FLAG_FUA)
            server, = servers_below(gate.process.pid)
            contains(f"--negotiated={'structured' if structured else 'simple'}", Path(f"/proc/{server}/cmdline").read_text())
            client.disconnect()
            wait_until(lambda: not children_of(gate.process.pid), "the gate to reap")


@test("the gate refuses other names, lets clients ask again, and takes old clients")
def _(t):
    gate = Gate(t, alice=t.pattern_image(MIB))
    client = gate.client()
    client.handshake()
    for name in ("", "bob", "alic"):
        try:
            client.go(name)
        except OptionError as error:
            eq(error.reply, NBD_REP_ERR_UNKNOWN)
        else:
            raise AssertionError("the export is given")
    eq(client.haggle(NBD_OPT_LIST)[-1][0], NBD_REP_ERR_UNSUP)
    client.go("alice")
    eq(client.read(0, 512), pattern(0, 512))
    client.disconnect()
    for flags in (NBD_FLAG_C_FIXED_NEWSTYLE, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES):
        client = gate.client()
        client.handshake(flags)
        client.export_name("alice")
        eq(client.read(0, 512), pattern(0, 512))
        client.disconnect()
    client = gate.client()
    client.handshake()
    client.option(NBD_OPT_EXPORT_NAME, b"bob")
    client.expect_end()


@test("a client that sends its first requests with the last option gets its answers")
def _(t):
    gate = Gate(t, alice=t.pattern_image(MIB))
    client = gate.client()
    client.handshake()
    requests = [Client.request_bytes(NBD_CMD_READ, 512 * i, 512, cookie=i) for i in range(8)]
    client.send(Client.option_bytes(NBD_OPT_EXPORT_NAME, b"alice") + b"".join(requests))
    client.receive(10)
    for _ in requests:
        magic, error, cookie = struct.unpack(">IIQ", client.receive(16))
        eq((magic, error), (NBD_SIMPLE_REPLY_MAGIC, 0))
        eq(client.receive(512), pattern(512 * cookie, 512))
    client.disconnect()


@test("clients by libnbd are served by the gate")
def _(t):
    image = t.random_image(MIB)
    gate = Gate(t, alice=image)
    t.run([need("nbdcopy"), uri(gate.path, "alice"), t.path("copy")])
    eq(checksum(t.path("copy")), checksum(image))


@test("bench/handover still yields a figure for each way whose server is installed")
def _(t):
    text = t.run([sys.executable, "-B", str(SRCDIR / "bench" / "handover"), "--smoke", f"--nbdinetd={NBDINETD}"]).stdout()
    for program, rows in (("nbdinetd", 1), ("qemu-nbd", 3), ("nbdkit", 3)):
        found = re.findall(rf"^\| {program} [^|]*\| \d+\.\d\d \| \d+\.\d\d–\d+\.\d\d \|$", text, re.MULTILINE)
        eq(len(found), rows if program == "nbdinetd" or shutil.which(program) else 0, f"rows of {program}")


@test("each program of the document has been run")
def _(_t):
    eq(DOCUMENT.count("```"), 2 * len(BLOCKS))
    eq(len(sys.argv) > 1 or tried == set(BLOCKS), True, f"not run: {set(BLOCKS) - tried}")


if __name__ == "__main__":
    main()
