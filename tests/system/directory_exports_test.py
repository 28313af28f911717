#!/usr/bin/python3
"""--directory: each file of a directory is an export under its own name, and nothing else is."""

import json
import os
import signal
import socket
import stat
import struct
import sys
import threading
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from clients import (SocketActivate, connect_libnbd, error_of, import_libnbd,  # noqa: E402
                     program_output)
from faults import LoopDevice, need_privilege  # noqa: E402
from harness import *  # noqa: E402
from listening import *  # noqa: E402

NOBODY = 64322  # a user that owns nothing
SECRET = b"what is outside of the directory"


class Exports:
    """A directory of files, beside which there is one that must never be served."""

    def __init__(self, t, **sizes):
        self.path = t.path("exports")
        os.mkdir(self.path)
        os.chmod(self.path, 0o755)
        self.outside = t.path("outside")
        with open(self.outside, "wb") as file:
            file.write(SECRET)
        for name, size in sizes.items():
            self.add(name, pattern(0, size))

    def __truediv__(self, name):
        return os.path.join(self.path, name)

    def add(self, name, content=b"x"):
        with open(os.path.join(os.fsencode(self.path), os.fsencode(name)), "wb") as file:
            file.write(content)

    def add_many(self, count, suffix):
        """Adds files 00000, 00001, ... with this suffix: links to one file, which is quicker."""
        first = f"{0:05}{suffix}"
        self.add(first)
        for number in range(1, count):
            os.link(self / first, self / f"{number:05}{suffix}")

    @property
    def option(self):
        return f"--directory={self.path}"


def begin(t, exports, *arguments, **how):
    """A connection that has shaken hands. Returns (process, client)."""
    process, client = t.activated(exports.option, *arguments, **how)
    client.handshake()
    return process, client


def end(process, client):
    client.haggle(NBD_OPT_ABORT)
    process.expect(EX_OK)


def refusal(function, *arguments):
    """The error that an option is answered with; it has to carry a sentence."""
    try:
        function(*arguments)
    except OptionError as error:
        assert error.message, "an error without a word for a person"
        return error.reply
    raise AssertionError(f"{arguments} has been answered")


def refused(process, words, status):
    process.expect(status)
    matches(words, process.stderr())


# ------------------------------------------------------------------ listing and choosing

@test("each file is listed in the order of the names' bytes, with its size, and served under its "
      "name")
def _(t):
    sizes = {"b.img": 2 * MIB, "a.img": MIB, "B": 1536, ".hidden": 0, "ä ö\n": 517}
    exports = Exports(t, **sizes)
    process, client = begin(t, exports)
    eq(client.list_exports(), [(".hidden", "0 bytes"), ("B", "1.5 KiB (1536 bytes)"),
                               ("a.img", "1.0 MiB (1048576 bytes)"),
                               ("b.img", "2.0 MiB (2097152 bytes)"), ("ä ö\n", "517 bytes")])
    for name, size in sizes.items():
        infos = client.info(name, [NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE])
        eq(client.size, size, name)
        eq(infos[NBD_INFO_NAME].decode(), name)
        contains(f"{size} bytes", infos[NBD_INFO_DESCRIPTION].decode())
    end(process, client)
    for name, size in sizes.items():
        process, client = t.activated(exports.option)
        client.start(name, contexts=["base:allocation"])
        eq(client.size, size)
        if size:
            client.write(0, b"\x55" * 512)
            client.flush()
            eq(client.read(0, size), b"\x55" * 512 + pattern(512, size - 512), name)
            eq(client.block_status(0, size)[0][1], 0)
        client.disconnect()
        process.expect(EX_OK)
        contains("serving export ", process.stderr())


@test("an export is chosen by NBD_OPT_EXPORT_NAME, too")
def _(t):
    exports = Exports(t, disk=MIB)
    process, client = begin(t, exports)
    client.export_name("disk")
    eq(client.size, MIB)
    eq(client.read(4096, 512), pattern(4096, 512))
    client.disconnect()
    process.expect(EX_OK)
    for wrong in ("nothing", "", "..", "../outside", "x" * 4096):
        process, client = begin(t, exports)
        client.option(NBD_OPT_EXPORT_NAME, wrong.encode())
        client.expect_end()
        process.expect(EX_OK)


@test("a name that no file can have is an unknown export for each option, and negotiation "
      "goes on")
def _(t):
    exports = Exports(t, disk=MIB)
    os.mkdir(exports / "sub")
    exports.add("sub/below")
    os.symlink("../exports/disk", exports / "in and out")
    os.symlink("/proc/self/root/etc/passwd", exports / "magic")
    os.symlink("loop", exports / "loop")
    os.symlink("../outside", exports / "link")
    os.symlink(exports.outside, exports / "absolute")
    os.mkfifo(exports / "fifo")
    unix = socket.socket(socket.AF_UNIX)
    t.defer(unix.close)
    unix.bind(exports / "socket")
    process, client = begin(t, exports)
    client.structured_replies()
    eq([name for name, _ in client.list_exports()], ["disk"])
    for wrong in (b"", b".", b"..", b"/", b"../outside", b"./disk", b"sub", b"sub/below", b"disk/",
                  b"sub/../disk", os.fsencode(exports / "disk"), b"/etc/passwd", b"in and out",
                  b"magic", b"loop", b"link", b"absolute", b"fifo", b"socket", b"disk\0", b"\0", b"\xff",
                  b"..\xc0\xafoutside", b"Disk", b"n" * 255, b"n" * 256, b"n" * 4096,
                  b"n" * 4097, b"n" * 60000):
        for option in (NBD_OPT_INFO, NBD_OPT_GO):
            eq(refusal(client.info, wrong, (), option), NBD_REP_ERR_UNKNOWN, wrong[:99])
        data = struct.pack(">I", len(wrong)) + wrong + struct.pack(">I", 0)
        for option in (NBD_OPT_LIST_META_CONTEXT, NBD_OPT_SET_META_CONTEXT):
            eq(client.haggle(option, data)[-1][0], NBD_REP_ERR_UNKNOWN, wrong[:99])
    # A length that isn't true is something else.
    eq(client.haggle(NBD_OPT_INFO, struct.pack(">I", 9) + b"disk\0\0")[-1][0], NBD_REP_ERR_INVALID)
    client.go("disk")
    eq(client.size, MIB)
    assert SECRET not in client.received
    client.disconnect()
    process.expect(EX_OK)


@test("-e names the default export, in place of an unknown one")
def _(t):
    exports = Exports(t, disk=MIB, other=2 * MIB)
    process, client = begin(t, exports, "-e", "disk")
    eq([name for name, _ in client.list_exports()], ["disk", "other"])
    eq(client.info("", [NBD_INFO_NAME])[NBD_INFO_NAME], b"disk")
    client.info("other")
    eq(client.size, 2 * MIB)
    client.go("")
    eq(client.size, MIB)
    client.disconnect()
    process.expect(EX_OK)
    process, client = begin(t, exports, "-e", "not yet there")
    eq(refusal(client.go, ""), NBD_REP_ERR_UNKNOWN)
    exports.add("not yet there", b"here")
    client.go("")
    eq(client.read(0, 4), b"here")
    client.disconnect()
    process.expect(EX_OK)


@test("-r holds for each file")
def _(t):
    exports = Exports(t, disk=MIB)
    process, client = begin(t, exports, "-r")
    client.go("disk")
    assert client.flags & NBD_FLAG_READ_ONLY
    eq(client.call(NBD_CMD_WRITE, 0, payload=b"x").error, NBD_EPERM)
    client.disconnect()
    process.expect(EX_OK)
    assert "served read-only" not in process.stderr(), process.stderr()


# ------------------------------------------------------------------ what comes and goes

@test("files that come and go are seen by the next option, and one that is removed goes on being "
      "served")
def _(t):
    exports = Exports(t, disk=MIB)
    process, client = begin(t, exports)
    client.info("disk")
    os.unlink(exports / "disk")
    eq(refusal(client.info, "disk"), NBD_REP_ERR_UNKNOWN)
    eq(client.list_exports(), [])
    exports.add("disk", b"other")
    eq(client.list_exports(), [("disk", "5 bytes")])
    client.go("disk")
    os.unlink(exports / "disk")
    eq(client.read(0, 5), b"other")
    client.write(0, b"OTHER")
    client.flush()
    eq(client.read(0, 5), b"OTHER")
    client.disconnect()
    process.expect(EX_OK)


@test("NBD_OPT_GO right after NBD_OPT_INFO gets what that has described, and later what is there")
def _(t):
    exports = Exports(t, disk=MIB)
    process, client = begin(t, exports)
    client.info("disk")
    os.unlink(exports / "disk")
    client.go("disk")
    eq(client.size, MIB)
    eq(client.read(0, 512), pattern(0, 512))
    client.disconnect()
    process.expect(EX_OK)
    exports.add("disk", pattern(0, MIB))
    process, client = begin(t, exports)
    client.info("disk")
    os.unlink(exports / "disk")
    client.structured_replies()
    eq(refusal(client.go, "disk"), NBD_REP_ERR_UNKNOWN)
    end(process, client)


@test("a link that stays inside is an export; once it is replaced, new connections get the next file, and "
      "a connected client keeps its own")
def _(t):
    exports = Exports(t)
    for generation, letter in (("gen1", b"1"), ("gen2", b"2")):
        os.mkdir(exports / generation)
        Path(exports / generation, "disk").write_bytes(letter * 4096)
    os.symlink("gen1/disk", exports / "disk")
    first, client = begin(t, exports)
    eq([name for name, _ in client.list_exports()], ["disk"])
    client.go("disk")
    eq(client.read(0, 1), b"1")
    os.symlink("gen2/disk", exports / "new")
    os.rename(exports / "new", exports / "disk")
    second, other = begin(t, exports)
    other.go("disk")
    eq(other.read(0, 1), b"2")
    eq(client.read(0, 1), b"1")
    for one in (client, other):
        one.disconnect()
    for process in (first, second):
        process.expect(EX_OK)


@test("an entry that turns into a link, a FIFO or a directory and back at any moment is served as "
      "a file, or not at all")
def _(t):
    exports = Exports(t, disk=512)
    os.mkfifo(exports / "fifo")
    os.symlink("../outside", exports / "link")
    os.mkdir(exports / "sub")
    stopped = threading.Event()
    renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    names = [os.fsencode(exports / name) for name in ("fifo", "link", "sub")]
    target = os.fsencode(exports / "disk")

    def turn():
        while not stopped.is_set():
            for name in names:
                renameat2(-100, name, -100, target, 2)  # AT_FDCWD, RENAME_EXCHANGE
    turner = threading.Thread(target=turn, daemon=True)
    turner.start()
    t.defer(turner.join)
    t.defer(stopped.set)
    served = unknown = 0
    while served < 20 or unknown < 20:
        process, client = begin(t, exports)
        for _ in range(50):
            assert {name for name, _ in client.list_exports()} <= {"disk", "fifo", "link", "sub"}
            try:
                client.info("disk")
                eq(client.size, 512)
            except OptionError as error:
                eq(error.reply, NBD_REP_ERR_UNKNOWN)
                unknown += 1
        # With an option between, so that it is looked at anew.
        client.structured_replies()
        try:
            client.go("disk")
        except OptionError as error:
            eq(error.reply, NBD_REP_ERR_UNKNOWN)
            end(process, client)
            continue
        eq((client.size, client.read(0, 512)), (512, pattern(0, 512)))
        served += 1
        client.disconnect()
        process.expect(EX_OK)


# ------------------------------------------------------------------ many

@test("thousands of files are listed without opening one")
def _(t):
    strace = need("strace")
    exports = Exports(t)
    count = 5000
    exports.add_many(count, "-" + "long" * 40)
    trace = t.path("trace")
    process, client = t.inetd(exports.option, prefix=[strace, "-f", "-qq", "-o", trace, "-e",
                                                      "trace=open,openat,openat2"])
    client.handshake()
    for _ in range(3):
        listed = client.list_exports()
        eq(len(listed), count)
        eq(listed, sorted(listed))
    end(process, client)
    with open(trace, encoding="utf-8") as file:
        opens = [line for line in file if "openat2(" in line]
    # The probe at the beginning, and the directory for each list.
    eq(len(opens), 4, "".join(opens))
    assert not any("long" in line for line in opens)


@test("information on a thousand exports takes one descriptor, and leaves none")
def _(t):
    exports = Exports(t)
    count = 1000
    for number in range(count):
        exports.add(str(number), b"x" * number)
    process, client = begin(t, exports)
    before = len(process.descriptors())
    for number in range(count):
        client.info(str(number))
        eq(client.size, number)
        if number % 100 == 0:
            eq(len(process.descriptors()), before + 1)
    for number in range(count):
        refusal(client.info, f"not {number}")
    eq(len(process.descriptors()), before)
    client.go("999")
    eq(len(process.descriptors()), before + 1)
    eq(process.descriptors().get(max(process.descriptors())), exports / "999")
    client.disconnect()
    process.expect(EX_OK)


@test("a client that asks for the list and doesn't read it costs no more than a part of it")
def _(t):
    exports = Exports(t)
    count = 20000  # several times what the buffers hold
    exports.add_many(count, "-" + "long" * 50)
    process, client = begin(t, exports, f"--handshake-timeout={max(1, round(PATIENCE))}s")
    client.option(NBD_OPT_LIST)
    # Not to read is to be timed out, in the middle of the list.
    process.expect(75)
    received = client.read_to_end()
    assert 0 < len(received) < count * 200, len(received)


# ------------------------------------------------------------------ what can't be opened

@test("a file that can't be opened is refused with a reason, and logged; one that can only be "
      "read is served read-only, with one line in the log")
def _(t):
    prefix = as_user(NOBODY)
    exports = Exports(t, secret=MIB, golden=MIB, open=MIB)
    for name, mode in (("secret", 0o600), ("golden", 0o644), ("open", 0o666)):
        os.chmod(exports / name, mode)
    process, client = begin(t, exports, prefix=prefix)
    eq([name for name, _ in client.list_exports()], ["golden", "open", "secret"])
    for _ in range(20):
        eq(refusal(client.info, "secret"), NBD_REP_ERR_POLICY)
    client.info("golden")
    client.go("golden")
    assert client.flags & NBD_FLAG_READ_ONLY
    eq(client.read(0, 512), pattern(0, 512))
    client.disconnect()
    process.expect(EX_OK)
    text = process.stderr()
    eq(len(re.findall(r'failed to open ".*/exports/secret": Permission denied', text)), 10, text)
    eq(len(re.findall(r'"\S*/exports/golden" is served read-only, .*Permission denied', text)), 1,
       text)
    process, client = begin(t, exports, prefix=prefix)
    client.go("open")
    assert not client.flags & NBD_FLAG_READ_ONLY
    client.disconnect()
    process.expect(EX_OK)
    # There is no reply to say so.
    process, client = begin(t, exports, prefix=prefix)
    client.option(NBD_OPT_EXPORT_NAME, b"secret")
    client.expect_end()
    refused(process, "secret.*Permission denied", EX_NOINPUT)


@test("a directory that may be searched but not read serves its files, and isn't listed")
def _(t):
    prefix = as_user(NOBODY)
    exports = Exports(t, disk=MIB)
    os.chmod(exports.path, 0o711)
    process, client = begin(t, exports, "-r", prefix=prefix)
    eq(refusal(client.list_exports), NBD_REP_ERR_POLICY)
    client.go("disk")
    eq(client.read(0, 512), pattern(0, 512))
    client.disconnect()
    process.expect(EX_OK)
    os.chmod(exports.path, 0o700)
    process, client = t.activated(exports.option, prefix=prefix)
    client.expect_end()
    refused(process, "failed to open directory .*: Permission denied", EX_NOINPUT)


@test("a process that has no descriptor left refuses the export and goes on")
def _(t):
    exports = Exports(t, disk=MIB)
    process, client = begin(t, exports)
    used = len(process.descriptors())
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (used, hard))
    eq(refusal(client.info, "disk"), NBD_REP_ERR_UNKNOWN)
    eq(refusal(client.list_exports), NBD_REP_ERR_PLATFORM)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (used + 1, hard))
    client.go("disk")
    eq(client.read(0, 512), pattern(0, 512))
    client.disconnect()
    process.expect(EX_OK)


# ------------------------------------------------------------------ block devices

@test("a block device in the directory is an export without a size in the list; a character "
      "device is none")
def _(t):
    need_privilege("root", "loop")
    exports = Exports(t, disk=MIB)
    with LoopDevice(t.pattern_image(4 * MIB)) as device:
        os.mknod(exports / "device", stat.S_IFBLK | 0o600, os.stat(device.path).st_rdev)
        os.mknod(exports / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        # Of a driver that isn't there.
        os.mknod(exports / "nothing", stat.S_IFBLK | 0o600, os.makedev(4000, 1))
        process, client = begin(t, exports)
        eq(client.list_exports(), [("device", "block device"),
                                   ("disk", "1.0 MiB (1048576 bytes)"),
                                   ("nothing", "block device")])
        eq(refusal(client.go, "null"), NBD_REP_ERR_UNKNOWN)
        eq(refusal(client.go, "nothing"), NBD_REP_ERR_UNKNOWN)
        client.info("device", [NBD_INFO_DESCRIPTION])
        eq(client.infos[NBD_INFO_DESCRIPTION], b"block device")
        client.go("device")
        eq(client.size, 4 * MIB)
        eq(client.read(3 * MIB, 512), pattern(3 * MIB, 512))
        client.write(0, b"\x66" * 4096)
        client.flush()
        client.disconnect()
        process.expect(EX_OK)
        matches("failed to open .*/nothing", process.stderr())


# ------------------------------------------------------------------ clients

@test("nbdinfo --list shows every export with its content and description")
def _(t):
    nbdinfo = need("nbdinfo")
    exports = Exports(t, a=MIB, b=2 * MIB)
    server = SocketActivate(t, exports.option)
    listed = json.loads(program_output(t, [nbdinfo, "--list", "--json", server.uri()]))["exports"]
    eq([(e["export-name"], e["export-size"], e["description"]) for e in listed],
       [("a", MIB, "1.0 MiB (1048576 bytes)"), ("b", 2 * MIB, "2.0 MiB (2097152 bytes)")])
    eq(program_output(t, [nbdinfo, "--size", server.uri("b")]), f"{2 * MIB}\n")


@test("libnbd lists, asks about one export after another, and chooses")
def _(t):
    nbd = import_libnbd()
    exports = Exports(t, a=MIB, b=2 * MIB)
    server = SocketActivate(t, exports.option)
    handle = nbd.NBD()
    handle.set_opt_mode(True)
    handle.connect_uri(server.uri())
    listed = []
    handle.opt_list(lambda name, description: listed.append((name, description)) or 0)
    eq(listed, [("a", "1.0 MiB (1048576 bytes)"), ("b", "2.0 MiB (2097152 bytes)")])
    for name, size in (("a", MIB), ("b", 2 * MIB)):
        handle.set_export_name(name)
        handle.opt_info()
        eq(handle.get_size(), size)
    handle.set_export_name("c")
    error_of(handle.opt_go)
    handle.set_export_name("a")
    handle.opt_go()
    eq(bytes(handle.pread(512, 4096)), pattern(4096, 512))
    handle.shutdown()


@test("qemu-img and qemu-nbd find the exports by name")
def _(t):
    qemu_img, qemu_nbd = need("qemu-img"), need("qemu-nbd")
    exports = Exports(t, a=MIB, b=2 * MIB)
    server = SocketActivate(t, exports.option)
    info = json.loads(program_output(t, [qemu_img, "info", "--output=json", "-f", "raw",
                                         server.uri("b")]))
    eq(info["virtual-size"], 2 * MIB)
    text = program_output(t, [qemu_nbd, "--list", "-k", server.address])
    matches("exports available: 2", text)
    for name, size in (("a", MIB), ("b", 2 * MIB)):
        matches(rf"export: '{name}'\n(?:.*\n)*?\s*size:\s+{size}", text)


# ------------------------------------------------------------------ ways to be started

@test("a directory is served by a listener, to each connection as it is then")
def _(t):
    exports = Exports(t, disk=MIB)
    door = Door(t)
    process = activate(t, exports.option, inherited=[door])
    visit(door.client(), "disk")
    exports.add("new", pattern(0, MIB))
    visit(door.client(), "new")
    first, second = door.client().start("disk"), door.client().start("new")
    first.write(0, b"1" * 512)
    eq(second.read(0, 512), pattern(0, 512))
    for client in (first, second):
        client.disconnect()
    wait_alone(process)
    stop(process)


@test("a directory is served under inetd, over pipes, stand-alone in the foreground and in the "
      "background, and to a command")
def _(t):
    exports = Exports(t, disk=MIB)
    for start in (t.inetd, lambda *arguments: t.piped("-s", *arguments)):
        # As in the units, where there is an empty FILE then.
        process, client = start(exports.option, "--", "")
        visit(client, "disk")
        process.expect(EX_OK)
    address, pidfile = t.fresh(".sock"), t.fresh(".pid")
    # By a name that means nothing from the root directory, where the background is.
    for arguments in (["-f"], []):
        process = t.spawn([need("env"), "-C", str(t.dir), NBDINETD, *arguments,
                           "--directory=exports", "-U", address, "-P", pidfile])
        if arguments:
            wait_listening(address)
        else:
            process.expect(EX_OK)
        visit(Client(connect(address)), "disk")
        with open(pidfile, encoding="ascii") as file:
            pid = int(file.read())
        os.kill(pid, signal.SIGTERM)
        if arguments:
            process.expect(EX_OK)
        else:
            eq(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), EX_OK)
    nbdinfo = need("nbdinfo")
    process = t.spawn([NBDINETD, exports.option, "-e", "disk", "--run", f'{nbdinfo} --size "$uri"'])
    process.expect(EX_OK)
    eq(process.stdout(), f"{MIB}\n")


@test("--check prints how many files would be served, and which are left out, with the reason")
def _(t):
    exports = Exports(t, disk=MIB, other=MIB)
    os.mkdir(exports / "sub")
    os.symlink("../outside", exports / "link")
    os.mkfifo(exports / "fifo")
    exports.add(b"no string \xff")
    process = t.spawn([NBDINETD, "--check", "-r", exports.option])
    process.expect(EX_OK)
    text = process.stdout()
    matches(r'^would serve 2 files of "\S*/exports", 2.0 MiB \(2097152 bytes\) in all, read-only, '
            r'each under its own name$', text)
    for name, why in (("sub", "directory"), ("link", "symbolic link"), ("fifo", "neither"),
                      (r"no string \\377", "name")):
        matches(rf'^left out: .*{name}": .*{why}', text)
    matches(r"^in (no|a) sandbox", text)
    eq(len(text.splitlines()), 10, text)
    prefix = as_user(NOBODY)
    os.chmod(exports / "disk", 0o600)
    os.chmod(exports / "other", 0o644)
    process = t.spawn([*prefix, NBDINETD, "--check", exports.option])
    process.expect(EX_OK)
    text = process.stdout()
    matches(r"^would serve 1 file of", text)
    matches(r'^left out: .*disk": Permission denied', text)
    matches(r'^"\S*/other" is served read-only, .*Permission denied', text)


# ------------------------------------------------------------------ wrong usage

@test("a directory that is missing, or is no directory, is exit status 66 before any client "
      "is answered")
def _(t):
    image = t.pattern_image(MIB)
    for path in (t.path("nothing"), image, t.path("nothing/below")):
        process, client = t.activated(f"--directory={path}")
        client.expect_end()
        eq(bytes(client.received), b"")
        refused(process, f'failed to open directory "{path}"', EX_NOINPUT)
        process = t.spawn([NBDINETD, "--check", f"--directory={path}"])
        refused(process, f'failed to open directory "{path}"', EX_NOINPUT)


@test("--directory beside FILE, a file handed over or --description, and with no or an impossible "
      "name, is wrong usage")
def _(t):
    exports = Exports(t, disk=MIB)
    image = t.pattern_image(MIB)
    for arguments, words in (([exports.option, image], "FILE"),
                             ([exports.option, "--description=x"], "--description"),
                             (["--directory="], "--directory"),
                             ([exports.option, "-e", "a/b"], "--exportname"),
                             ([exports.option, "-e", ".."], "--exportname")):
        process, client = t.activated(*arguments)
        client.expect_end()
        refused(process, words, EX_USAGE)
    ours, theirs = t.connection()
    process = activate(t, exports.option, inherited=[("connection", theirs),
                                                     ("disk", opened(t, image))])
    theirs.close()
    Client(ours).expect_end()
    refused(process, "--directory.*handed over", EX_USAGE)


if __name__ == "__main__":
    main()
