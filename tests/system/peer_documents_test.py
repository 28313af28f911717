#!/usr/bin/python3
"""doc/from-nbdkit.md, doc/from-nbd-server.md and doc/from-qemu-nbd.md: each command and .export is run, theirs
where the program is installed, and what a client sees of one is what it sees of the other. The options
that the tables name exist, and what nbdkit has and we don't is named as such."""

import glob
import os
import shlex
import signal
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402
from listening import *  # noqa: E402

THEIRS = {"from-nbdkit.md": "nbdkit", "from-nbd-server.md": "nbd-server", "from-qemu-nbd.md": "qemu-nbd"}


def text_of(document):
    return (SRCDIR / "doc" / document).read_text()


def parts_of(document):
    """[(heading, language of theirs, theirs, ours, .export or None)], and every block of code is in one
    of them."""
    heading, parts = "", []
    for match in re.finditer(r"^## ([^\n]*)$|^```(\w+) (\w+)\n(.*?)^```$", text_of(document),
                             re.MULTILINE | re.DOTALL):
        if match[1]:
            heading = match[1]
        else:
            language, whose, code = match[2], match[3], match[4].strip()
            if whose == "theirs":
                parts.append([heading, language, code])
            elif whose == "ours":
                eq((len(parts[-1]), language), (3, "sh"))
                parts[-1] += [code, None]
            else:
                eq((whose, language, parts[-1][4:]), ("export", "ini", [None]))
                parts[-1][4] = code
    eq([len(part) for part in parts], [5] * len(parts))
    eq(text_of(document).count("```"), sum(4 + 2 * bool(part[4]) for part in parts),
       f"fences in {document}")
    return parts


class Place:
    """A directory with the files that the documents name."""

    def __init__(self, t):
        self.t, self.dir, self.port = t, Path(t.fresh(".place")), free_port()
        (self.dir / "images").mkdir(parents=True)
        for name in ("disk.img", "images/a.img", "images/b.img"):
            (self.dir / name).write_bytes(pattern(0, MIB))
        (self.dir / "keys.psk").write_text("alice:" + "5a" * 32 + "\n")
        (self.dir / "keys.psk").chmod(0o600)
        (self.dir / "allow").write_text("127.0.0.1\n192.0.2.0/24\n")
        self.socket = str(self.dir / "nbd.sock")

    def here(self, text):
        return text.replace("/srv/nbd/", f"{self.dir}/").replace("10809", str(self.port))

    def shell(self, command, **how):
        return self.t.spawn(["/bin/sh", "-c", f'cd "{self.dir}" && exec {self.here(command)}'], **how)

    def start(self, command):
        """Starts a server, and returns its address; the test ends it."""
        address = self.socket if "nbd.sock" in command else ("127.0.0.1", self.port)
        process = self.shell(command)
        if "--fork" in command or not re.search(r" (-f|-d|-t) ", command):
            process.expect(0)
            self.t.defer(os.kill, int((self.dir / "nbd.pid").read_text()), signal.SIGTERM)
        wait_listening(address, None if process.poll() == 0 else process)
        if process.poll():
            raise AssertionError(f"{command}: {process.poll()}, {process.stderr()}")
        return address


def names_in(*texts):
    """The export names that clients of these commands use."""
    for name in ("golden", "a.img", "disk"):
        if any(re.search(rf"\[{re.escape(name)}\]|(-e|-x) {re.escape(name)}\b", text) for text in texts):
            return [name]
    return ["a.img", "b.img"] if any("images" in text for text in texts) else [""]


def seen(client, name):
    """What a client sees. It leaves as libnbd does, which doesn't wait for the server's end: since nbdkit
    1.42, that waits for the client's."""
    client.start(name, structured=False)
    what = (client.size, bool(client.flags & NBD_FLAG_READ_ONLY), client.read(0, 4096))
    client.disconnect(wait=False)
    return what


def outcome(t, command, names):
    """What a client sees of a command's server, or the command prints."""
    place = Place(t)
    if "--run" in command:
        process = place.shell(command)
        process.expect(0)
        return process.stdout()
    if " -s " in command:
        inputs, outputs = os.pipe(), os.pipe()
        process = place.shell(command, fds={0: inputs[0], 1: outputs[1]})
        os.close(inputs[0])
        os.close(outputs[1])
        result = seen(Client(outputs[0], inputs[1]), names[0])
        process.wait()
        return result
    address = place.start(command)
    if "psk" in command:
        uri = f"nbds+unix://alice@/?socket={address}&tls-psk-file={place.dir}/keys.psk"
        size = t.run([need("nbdinfo"), "--size", uri]).stdout()
        t.run([need("nbdinfo"), "--size", f"nbd+unix:///?socket={address}"], status=1)
        return size
    return [seen(Client(connect(address)), name) for name in names]


def try_document(t, document):
    program = THEIRS[document]
    installed = find_tool(program)
    for heading, language, theirs, ours, export in parts_of(document):
        names = names_in(theirs, ours)
        eq(shlex.split(ours)[0], "nbdinetd")
        got = outcome(t, ours.replace("nbdinetd", NBDINETD, 1), names)
        if export:
            eq(generated(t, export, names), got, f"{document}, {heading}: what the .export serves")
        if installed is None:
            continue
        if language == "ini":
            wanted = configured(t, installed, theirs, names)
        else:
            eq(shlex.split(theirs)[0], program)
            wanted = outcome(t, theirs.replace(program, installed, 1), names)
        eq(got, wanted, f"{document}, {heading}: what a client sees")
    if installed is None:
        note(f"{program} is not installed: only our commands were run")


def configured(t, program, section, names):
    """What a client sees of nbd-server with this configuration."""
    place = Place(t)
    (place.dir / "config").write_text(place.here(section) + "\n")
    address = place.socket if "unixsock" in section else ("127.0.0.1", place.port)
    process = t.spawn([program, "-d", "-C", str(place.dir / "config"), "-p", str(place.dir / "pid")])
    wait_listening(address, process)
    return [seen(Client(connect(address)), name) for name in names]


def generated(t, export, names):
    """What a client sees of the service that the generator makes of a .export."""
    place = Place(t)
    (place.dir / "tried.export").write_text(place.here(export) + "\n")
    units = t.run([str(BUILDDIR / "src" / "nbdinetd-generator"), "--dry-run",
                   str(place.dir / "tried.export")])
    eq(units.stderr(), "")
    for line in re.findall(r"^ListenStream=.*$", place.here(export), re.MULTILINE):
        contains(f"\n{line}\n", units.stdout())
    arguments = shlex.split(matches(r"^ExecStart=\S+ (.*)$", units.stdout())[1])
    family = "tcp" if "127.0.0.1" in export else "unix"
    return [seen(t.activated(*arguments, family=family)[1], name) for name in names]


@test("each command of doc/from-nbdkit.md serves what nbdkit's serves")
def _(t):
    try_document(t, "from-nbdkit.md")


@test("each command of doc/from-nbd-server.md serves what nbd-server's section serves")
def _(t):
    try_document(t, "from-nbd-server.md")


@test("each command of doc/from-qemu-nbd.md serves what qemu-nbd's serves")
def _(t):
    try_document(t, "from-qemu-nbd.md")


# ------------------------------------------------------------------ tables

def options_of_help(t):
    return set(re.findall(r"(?<![\w-])--?[A-Za-z0-9][\w-]*", t.run([NBDINETD, "--help"]).stdout()))


@test("every option that the tables name on our side exists")
def _(t):
    known = options_of_help(t)
    for document in THEIRS:
        rows = re.findall(r"^\| (.*) \| (.*) \| .*\|$", text_of(document).replace(r"\|", "/"), re.MULTILINE)
        eq(len(rows) > 5, True, f"rows in {document}")
        for _theirs, ours in rows:
            for code in re.findall(r"`(-[^`]*)`", ours):
                eq(re.split(r"[= ]", code)[0] in known, True, f"{document}: {code}")


@test("every option of the nbdkit that is installed is taken, or named as nbdkit's in the message, and "
      "stands in the document")
def _(t):
    program, image = need("nbdkit"), t.pattern_image(MIB)
    document = text_of("from-nbdkit.md")
    for option in t.run([program, "--long-options"]).stdout().split():
        process = t.spawn([NBDINETD, "--check", option, image])
        process.wait()
        refused = f"{option} is nbdkit's; " in process.stderr() or "--filter" in process.stderr()
        eq(" is unknown" in process.stderr(), False, process.stderr())
        if refused and option not in ("--old-style", "--filter"):
            contains(f"`{option}", document)


@test("every filter of the nbdkit that is installed has a word on what serves instead, in the message "
      "and in the document")
def _(t):
    need("nbdkit")
    found = glob.glob("/usr/lib/*/nbdkit/filters/nbdkit-*-filter.so")
    require(found, "nbdkit has no filters here")
    document = text_of("from-nbdkit.md")
    for path in found:
        name = matches(r"nbdkit-(.*)-filter\.so$", path)[1]
        process = t.run([NBDINETD, f"--filter={name}", "disk.img"], status=EX_USAGE)
        matches(rf"--filter={re.escape(name)} is nbdkit's; nbdinetd has no filters: .+; see nbdinetd --help",
                process.stderr())
        if name not in ("ip", "limit", "exportname"):
            contains(f"`{name}`", document)


if __name__ == "__main__":
    main()
