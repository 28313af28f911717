#!/usr/bin/python3
"""Every block of settings in every document is read by the program that a reader would give it to: units and drop-ins by
systemd-analyze, .export files by the generator, rules and environment files by nbdinetd, entries by their superserver.
documents_test.py has the other languages."""

import configparser
import os
import shlex
import sys
from pathlib import Path
from xml.etree import ElementTree

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import documents  # noqa: E402
from document_checks import blocks_in, commands_of, faults_of_server, here, no_faults  # noqa: E402
from harness import *  # noqa: E402
from printed import GENERATOR, output_of  # noqa: E402


def ini_blocks():
    """All blocks of settings, and what `systemctl edit` gets in a session."""
    found = blocks_in("ini")
    for block in blocks_in("console"):
        for typed in documents.typed(block.code):
            edited = re.match(r"(?:sudo )?systemctl edit (\S+)\n", typed.command)
            if edited:
                found.append(documents.Block(block.document, block.line, "ini", [f"unit={edited[1]}"], typed.below))
    for block in blocks_in("sh", "console"):
        # A file that a script writes: the same settings.
        for name, text in re.findall(r"> *(\S+) <<'?EOF'?\n(.*?)^EOF$", commands_of(block), re.MULTILINE | re.DOTALL):
            if text.startswith("["):
                found.append(documents.Block(block.document, block.line, "ini", [f"file={name}"], text))
    return found


def faults_of_comments(block):
    if "theirs" not in block.words:
        for line in block.code.splitlines():
            if re.match(r"^\w+=.*\s[#;](\s|$)", line):
                yield f"systemd takes the comment as a part of the value: {line}"


@test("no setting has a comment behind it: systemd takes it as a part of the value")
def _(_t):
    no_faults(faults_of_comments, ini_blocks())
    broken = documents.Block("x.md", 1, "ini", [], "[Service]\nUser=libvirt-qemu   # whose the image is\n# good\nA=b#c\n")
    eq(len(list(faults_of_comments(broken))), 1)


def units_directory(t):
    """A new directory with the shipped units, and this build's program in them."""
    directory = Path(t.fresh(".units"))
    directory.mkdir()
    for name in ("nbdinetd.socket", "nbdinetd@.service", "nbdinetd-listen.socket", "nbdinetd-listen.service",
                 "system-nbdinetd.slice"):
        text = re.sub(r"^(ExecStart=)\S+", lambda m: m[1] + NBDINETD, shipped(name), flags=re.MULTILINE)
        (directory / name).write_text(text)
    return directory


# The versions of systemd that know a key for the first time.
SINCE = {"OpenFile": 253}


def systemd_version():
    return int(matches(r"^systemd (\d+)", output_of([need("systemd-analyze"), "--version"])[1])[1])


def verify(directory, *units):
    """What systemd-analyze says of these units, as far as it is about files of the directory, and about programs of
    this build: the others need not be installed here."""
    for unit in units:
        template = re.sub("@.*[.]", "@.", unit)
        if template != unit and not (directory / unit).exists():
            os.symlink(template, directory / unit)
    _status, said = output_of([need("systemd-analyze"), "--man=no", "verify", *(directory / unit for unit in units)],
                              env={"SYSTEMD_UNIT_PATH": f"{directory}:"})
    missing = "|".join(key for key, version in SINCE.items() if systemd_version() < version)
    return [line for line in dict.fromkeys(said.splitlines())
            if not re.search(r"Command (?!\S*nbdinetd)\S+ is not executable", line)
            and not (missing and re.search(rf"Unknown key '({missing})' in section", line))
            and re.search(r"nbdinetd|documented|strict|user/group|" + re.escape(str(directory)), line)]


def faults_of_generated(t, block, text):
    """The units that the generator makes of an [Export]."""
    directory = units_directory(t)
    path = directory / "documented.export"
    path.write_text(text)
    status, said = output_of([GENERATOR, "--dry-run", path])
    files = dict(re.findall(r"^# (\S+\.(?:socket|service|slice))\n(.*?)(?=^# \S+\.(?:socket|service|slice)|\Z)", said,
                            re.MULTILINE | re.DOTALL))
    if status or len(files) < 2:
        yield f"the generator says: {said}"
        return
    for name, unit in files.items():
        (directory / name).write_text(here(unit))
    services = [name.replace("@.", "@1.") for name in files if name.endswith((".socket", ".service"))]
    yield from verify(directory, *services)


def faults_of_fragment(t, block, text):
    """Units, and settings for drop-ins of units."""
    directory = units_directory(t)
    if not re.search(r"^\[", text, re.MULTILINE):
        text = "[Service]\n" + text
    unit = next((word.removeprefix("unit=") for word in block.words if word.startswith("unit=")), None)
    if unit is None:
        if "[Slice]" in text:
            unit = "system-nbdinetd.slice"
        elif "[Socket]" in text and re.search("^Listen", text, re.MULTILINE):
            (directory / "documented.socket").write_text(text)
            service = "documented@.service" if "Accept=yes" in text else "documented.service"
            (directory / service).write_text(f"[Service]\nExecStart={NBDINETD} --version\n")
            yield from verify(directory, "documented.socket", service.replace("@", "@1"))
            return
        elif re.search(r"^ExecStart=\S", text, re.MULTILINE) and "ExecStart=\n" not in text:
            (directory / "documented.service").write_text(text)
            yield from verify(directory, "documented.service")
            return
        else:
            unit = "nbdinetd.socket" if "[Socket]" in text else "nbdinetd@.service"
    if not (directory / unit).exists():
        yield f"which unit is {unit}?"
        return
    drop_in = directory / f"{unit}.d" / "documented.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(text)
    yield from verify(directory, unit.replace("@.", "@1."))


def faults_of_settings(block, t):
    text = here(block.code)
    if "theirs" in block.words:
        try:
            configparser.ConfigParser(interpolation=None).read_string(text)
        except configparser.Error as error:
            yield str(error)
    elif "[Export]" in text:
        yield from faults_of_generated(t, block, text)
    elif block.document.startswith("units/"):
        name = Path(block.document).name.removesuffix(".in")
        if name.endswith(".conf"):
            block = documents.Block(block.document, 1, "ini", [f"unit={Path(block.document).parent.name[:-2]}"], "")
            yield from faults_of_fragment(t, block, text)
        else:
            yield from verify(units_directory(t), name.replace("@.", "@1."))
    else:
        yield from faults_of_fragment(t, block, text)


@test("the generator accepts every .export, and systemd every unit, drop-in, and unit that the generator makes")
def _(t):
    no_faults(faults_of_settings, ini_blocks(), t=t)


@test("the check of settings finds each kind of mistake")
def _(t):
    for code, fault in (("[Export]\nFile=/srv/x.img\nReadOnly=maybe\n", "maybe"),
                        ("[Export]\nFile=/srv/x.img\n[Service]\nUsr=nbd\n", "Usr"),
                        ("[Export]\nFile=/srv/x.img\n[Socket]\nSocketMode=rw\n", "rw"),
                        ("[Service]\nUser=nbd   # whose\n", "user/group"),
                        ("[Service]\nExecStart=\nExecStart=@sbindir@/nbdinetd\nReadWritePaths=srv\n", "not absolute"),
                        ("[Socket]\nListenStream=10809\nAccept=perhaps\n", "perhaps"),
                        ("[Slice]\nCPUQuota=lots\n", "lots"),
                        ("ExecReload=bin/sh/x HUP\n", "bin/sh/x")):
        block = documents.Block("x.md", 1, "ini", [], code)
        contains(fault, "\n".join(faults_of_settings(block, t)), code)
    block = documents.Block("x.md", 1, "ini", ["unit=nbdinetd.socket"], "[Socket]\nListenStrem=1\n")
    contains("ListenStrem", "\n".join(faults_of_settings(block, t)))


@test("nbdinetd accepts every file of rules")
def _(t):
    image = t.pattern_image(MIB)
    for block in blocks_in("rules"):
        path = t.image(block.code.encode(), "rules")
        status, said = output_of([NBDINETD, "--check", f"--rules={path}", image])
        eq(status, 0, f"{block}: {said}")
    path = t.image(b"psk:alice alice-* perhaps\n", "rules")
    eq(output_of([NBDINETD, "--check", f"--rules={path}", image])[0] != 0, True)


@test("every environment file has options that nbdinetd accepts")
def _(t):
    for block in blocks_in("environment"):
        for line in block.code.splitlines():
            name, value = re.fullmatch(r"([A-Z_]+)=(.*)|", line).groups()
            if name == "NBDINETD_OPTIONS":
                words, = shlex.split(value) or [""]
                export = [] if "--directory" in words else ["disk.img"]
                eq(list(faults_of_server(shlex.split(words) + export, str(t.dir))), [], str(block))
            elif name:
                eq((name, len(shlex.split(value)) <= 1), ("NBDINETD_EXPORT", True), str(block))


@test("systemd-tmpfiles accepts its settings")
def _(t):
    tool = need("systemd-tmpfiles")
    os.mkdir(t.path("root"))
    for block in blocks_in("tmpfiles"):
        eq(output_of([tool, "--create", f"--root={t.path('root')}", t.image(block.code.encode(), "x.conf")]),
           (0, ""), str(block))
    contains("x.conf:1", output_of([tool, "--create", f"--root={t.path('root')}", t.image(b"? /x\n", "x.conf")])[1])


# ------------------------------------------------------------------ superservers

def listens(t, argv, port):
    """Whether a superserver with this configuration takes clients there; and what it says."""
    process = t.spawn(argv)
    wait_until(lambda: is_listening(("127.0.0.1", port)) or process.poll() is not None or
               os.path.exists(t.path("log")) and "Removing service" in Path(t.path("log")).read_text(), "the superserver")
    said = process.stderr() + (Path(t.path("log")).read_text() if os.path.exists(t.path("log")) else "")
    result = process.poll() is None and is_listening(("127.0.0.1", port))
    process.stop()
    if os.path.exists(t.path("log")):
        os.unlink(t.path("log"))
    return result, said


def in_xinetd(t, text):
    port = free_port()
    text = re.sub(r"(port\s*= )10809", rf"\g<1>{port}\n\tbind = 127.0.0.1", here(text)).replace("= yes", "= no")
    return listens(t, [need("xinetd"), "-f", t.image(text.encode(), "xinetd.conf"), "-dontfork", "-stayalive", "-pidfile",
                       t.path("pid"), "-filelog", t.path("log")], port)


@test("xinetd takes every entry for it")
def _(t):
    need_root("to start services as somebody")
    for block in blocks_in("xinetd"):
        ready, said = in_xinetd(t, block.code)
        eq((ready, re.findall("(?i).*(?:error|warn|unknown|bad).*", said)), (True, []), f"{block}: {said}")
    broken = blocks_in("xinetd")[0].code.replace("socket_type", "sockettype")
    matches("(?i)sockettype", in_xinetd(t, broken)[1])


@test("inetd takes every line for it")
def _(t):
    need_root("to start services as somebody")
    inetd, port = need("inetd"), free_port()
    for block in blocks_in("inetd"):
        # A page shows one line as two.
        for line in re.sub(r"\n +", " ", block.code).splitlines():
            fields = here(line).split()
            eq((fields[5], fields[6]), (NBDINETD, "nbdinetd"), str(block))
            eq(list(faults_of_server(fields[7:], str(t.dir))), [], str(block))
            if fields[2] == "tcp":
                text = f"127.0.0.1:{port} {' '.join(fields[1:])}\n"
                # It writes /run/inetd.pid and can't be told not to.
                ready, said = listens(t, ["unshare", "--mount", "--", "/bin/sh", "-c",
                                          'mount -t tmpfs tmpfs /run && exec "$0" "$@"', inetd, "-i",
                                          t.image(text.encode(), "inetd.conf")], port)
                eq(ready, True, f"{block}: {said}")


@test("every block of XML is well formed")
def _(_t):
    for block in blocks_in("xml"):
        ElementTree.fromstring(block.code)


if __name__ == "__main__":
    main()
