#!/usr/bin/python3
"""The examples of the manual pages work as they are printed: commands of the first screens, with a free port
on loopback in place of 10809 and of the host "server", .export files, certificates, a file of rules."""

import re
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
from harness import *
from harness import BUILDDIR, NBDINETD, SRCDIR, contains, eq, free_port, main, need, test

GENERATOR = str(BUILDDIR / "src" / "nbdinetd-generator")


def blocks(page, section=None):
    """The literal displays of a page, or of a section of it, as they are printed."""
    text = (SRCDIR / "man" / f"{page}.in").read_text()
    if section is not None:
        text = text.partition(f"\n.Sh {section}\n")[2].partition("\n.Sh ")[0]
    found = [block.replace(r"\e", "\\")
             for block in re.findall(r"^\.Bd -literal[^\n]*\n(.*?)^\.Ed$", text, re.MULTILINE | re.DOTALL)]
    eq(bool(found), True, f"displays in {page}")
    return found


def in_folder(t, *script):
    """A program that runs a shell's script in the test's folder, with our nbdinetd."""
    bin_folder = Path(t.path("bin"))
    if not bin_folder.exists():
        bin_folder.mkdir()
        (bin_folder / "nbdinetd").symlink_to(NBDINETD)
    return ["/bin/bash", "-e", "-c", "\n".join([f"cd '{t.dir}'", f"PATH='{bin_folder}:'$PATH", *script])]


def commands(t, page):
    """The commands of the page's first screen. Servers listen on loopback only."""
    port = free_port()
    text = blocks(page, "DESCRIPTION")[0].replace("\\\n", " ")
    found = re.findall(r"^[$#] (.*)$", text, re.MULTILINE)
    eq(len(found), len(text.splitlines()), "commands")
    return [re.sub(r"\bserver\b", f"localhost:{port}", line).replace("-p 10809", f"-i 127.0.0.1 -p {port}")
            for line in found]


@test("the example of nbdinetd(8) serves a client, and a command")
def _(t):
    need("nbdinfo")
    t.pattern_image(4 * MIB, "disk.img")
    server, command = commands(t, "nbdinetd.8")
    port = re.search(r"-p (\d+)", server)[1]
    log = t.run(in_folder(t, server, f"nbdinfo nbd://localhost:{port}", command)).stdout()
    eq(log.count(f"export-size: {4 * MIB}"), 2, log)
    eq(log.count("is_read_only: true"), 2, log)


@test("the example of nbdinetd-tls(8) serves a client that has the key, and no other")
def _(t):
    need("nbdinfo"), need("psktool")
    t.pattern_image(4 * MIB, "disk.img")
    lines = commands(t, "nbdinetd-tls.8")
    eq(len(lines), 3)
    contains("protocol: newstyle-fixed with TLS", t.run(in_folder(t, *lines)).stdout())
    plain = t.run(in_folder(t, lines[2].replace("?tls-psk-file=keys.psk", "").replace("nbds:", "nbd:")), None)
    contains("server replied with error", plain.stderr())
    eq(plain.poll() != 0, True, "a client without the key fails")


@test("the example of nbdinetd-cow(8) lets a client write, and leaves the image as it is")
def _(t):
    need("qemu-io")
    t.pattern_image(4 * MIB, "golden.img")
    before = checksum(t.path("golden.img"))
    contains("wrote 1048576/1048576 bytes", t.run(in_folder(t, *commands(t, "nbdinetd-cow.8"))).stdout())
    eq(checksum(t.path("golden.img")), before)


@test("the example of nbdinetd-security(8) says that the one client is refused")
def _(t):
    t.pattern_image(MIB, "disk.img")
    server, check = commands(t, "nbdinetd-security.8")
    contains('would refuse "192.0.2.7": by --deny=192.0.2.7', t.run(in_folder(t, server, check), EX_NOPERM).stdout())
    other = check.replace("--as=192.0.2.7", "--as=192.0.2.8")
    contains('would let "192.0.2.8" use', t.run(in_folder(t, other)).stdout())


@test("the rules of nbdinetd-security(8) are valid, and its command says by which line a client gets what")
def _(t):
    folder = Path(t.path("nbd"))
    folder.mkdir()
    for name in ("golden", "alice-1", "vm-1"):
        t.sparse_image(MIB, f"nbd/{name}")
    rules, command = blocks("nbdinetd-security.8", "RULES")
    Path(t.path("rules")).write_text(rules)
    command = command.removeprefix("$ ").replace("/etc/nbdinetd/rules", "rules").replace("/srv/nbd", "nbd")
    log = t.run(in_folder(t, command)).stdout()
    contains('use export "alice-1" read-write, by "rules:3"', log)
    log = t.run(in_folder(t, command.replace("--as=psk:alice", ""))).stdout()
    contains('use export "golden"', log)
    contains('by "rules:4"', log)


@test("the commands of nbdinetd-tls(8) make certificates that server and clients accept")
def _(t):
    openssl = need("openssl")
    t.pattern_image(MIB, "disk.img")
    script, = (block for block in blocks("nbdinetd-tls.8", "CERTIFICATES") if "openssl req" in block)
    t.run(in_folder(t, script))
    for name, purpose in (("server", "sslserver"), ("client", "sslclient")):
        t.run([openssl, "verify", "-CAfile", t.path("ca-cert.pem"), "-purpose", purpose, t.path(f"{name}-cert.pem")])
    log = t.run(in_folder(t, "nbdinetd --check --tls=require --tls-verify-peer --tls-certificates=. disk.img")).stdout()
    contains("clients must have one, too", log)


@test("nbdinetd-generator makes units of each .export file that the manual pages show")
def _(t):
    shown = 0
    for page in ("nbdinetd.export.5", "nbdinetd-cow.8"):
        for block in blocks(page):
            if "[Export]\n" not in block:
                continue
            shown += 1
            path = Path(t.path(f"shown-{shown}.export"))
            path.write_text(block.replace("@sbindir@", "/usr/sbin"))
            units = t.run([GENERATOR, "--dry-run", str(path)]).stdout()
            contains("ExecStart=", units)
            for line in re.findall(r"^ListenStream=.*$", block, re.MULTILINE):
                contains(line, units)
    eq(shown >= 8, True, f"{shown} files")


if __name__ == "__main__":
    main()
