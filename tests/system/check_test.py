#!/usr/bin/python3
"""--check: what a client or a unit would meet that the one who checks doesn't, and the form for programs."""

import fcntl
import json
import os
import struct
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402

F_OFD_SETLK = 37


def lock(path, *ranges, exclusive=False):
    """A descriptor with open file description locks on these (start, length)."""
    fd = os.open(path, os.O_RDWR)
    for start, length in ranges:
        fcntl.fcntl(fd, F_OFD_SETLK, struct.pack(
            "hhqqixxxx", fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK, 0, start, length, 0))
    return fd


def check(t, *arguments, status=EX_OK):
    """(what it prints, its hints)"""
    process = t.run([NBDINETD, "--check", *arguments], status=status)
    hints = re.findall(r"^nbdinetd: hint: (.*)$", process.stderr(), re.MULTILINE)
    return process.stdout(), hints


def report(t, *arguments, status=EX_OK):
    process = t.run([NBDINETD, "--check=json", *arguments], status=status)
    eq(process.stdout().count("\n"), 1)
    return json.loads(process.stdout())


def uses(hints):
    return [hint for hint in hints if "QEMU" in hint]


@test("an image that QEMU uses is found, with the process, and is served all the same")
def _(t):
    program = need("qemu-io")
    image = t.pattern_image(MIB)
    for options, ours, words in (([], [], "which writes to it: writes of clients would destroy"),
                                 ([], ["-r"], "which writes to it: clients would see"),
                                 (["-r"], [], "which reads it: writes of clients")):
        reading, writing = os.pipe()
        process = t.spawn([program, *options, "-f", "raw", image], fds={0: reading})
        os.close(reading)
        wait_until(lambda: uses(check(t, *ours, image)[1]), "the image to be in use")
        text, hints = check(t, *ours, image)
        contains("would serve", text)
        use, = uses(hints)
        matches(rf'^"{image}" is in use by QEMU \(process {process.pid}, "qemu-io"\), {words}', use)
        eq(report(t, *ours, image)["exports"][0]["used_by"],
           {"pid": process.pid, "program": "qemu-io", "mode": "read-only" if options else "read-write"})
        os.close(writing)
        process.wait()
        eq(uses(check(t, *ours, image)[1]), [])
        eq("used_by" in report(t, *ours, image)["exports"][0], False)


@test("readers beside readers are no trouble, and locks of other programs are not QEMU's")
def _(t):
    image = t.pattern_image(MIB)
    for ranges, exclusive, used in ((((100, 1), (201, 1)), False, True), (((101, 1),), False, True),
                                    (((0, 0),), True, False), (((1 << 30, 510),), True, False),
                                    (((0, 300),), False, False)):
        fd = lock(image, *ranges, exclusive=exclusive)
        eq(len(uses(check(t, image)[1])), used, f"{ranges}")
        if used:
            eq(len(uses(check(t, "-r", image)[1])), (101, 1) in ranges, f"{ranges}")
        os.close(fd)
    # What it looks for it doesn't take: QEMU starts on an image that is served.
    eq(check(t, "--exclusive", image)[1], check(t, image)[1])


@test("a user of the image that /proc doesn't show is reported without a name")
def _(t):
    image = t.pattern_image(MIB)
    os.chmod(image, 0o666)
    prefix = as_user(12345)
    fd = lock(image, (101, 1))
    process = t.run([*prefix, NBDINETD, "--check", image])
    contains("QEMU (its process isn't visible to this user), which writes", process.stderr())
    os.close(fd)


@test("an image of a directory that a virtual machine uses is found, too")
def _(t):
    os.mkdir(t.path("images"))
    image = t.pattern_image(MIB, "images/a.img")
    t.pattern_image(MIB, "images/b.img")
    fd = lock(image, (101, 1))
    use, = uses(check(t, f"--directory={t.path('images')}")[1])
    contains("a.img", use)
    os.close(fd)


@test("hints name what the shipped units hide, and what their user may not open")
def _(t):
    image = t.pattern_image(MIB)
    eq([bool(re.search(r"don't see /tmp: .*BindPaths=" + re.escape(str(t.dir)), hint))
        for hint in check(t, image)[1]] if str(t.dir).startswith("/tmp/") else [True], [True])
    if os.geteuid() == 0:
        os.chown(image, 1000, 1000)
    os.chmod(image, 0o600)
    contains("can't open", check(t, image)[1][0])
    # Not of a file that has been handed over, whose path nobody knows.
    process = t.run([NBDINETD, "--check", "/dev/fd/5"], fds={5: (fd := os.open(image, os.O_RDWR))})
    os.close(fd)
    eq(process.stderr(), "")


@test("--check=json has the members of the manual, and no others")
def _(t):
    image = t.pattern_image(MIB)
    got = report(t, "-r", "-e", "golden", "--exclusive=wait", "--deny=192.0.2.7", image)
    golden, = got["exports"]
    eq({name: golden[name] for name in ("export", "file", "size", "mode")},
       {"export": "golden", "file": image, "size": MIB, "mode": "read-only"})
    eq(golden["multi_conn_reason"], "--exclusive serves one at a time")
    eq([got["exit_status"], got["tls"], got["exclusive"]], [0, "off", "wait"])
    eq("export" in report(t, image)["exports"][0], False)
    os.mkdir(t.path("images"))
    t.pattern_image(MIB, "images/a \"b\".img")
    t.image(b"", "images/c")
    listing = report(t, f"--directory={t.path('images')}", "--sandbox=off")
    eq([(one["export"], one["size"]) for one in listing["exports"]], [('a "b".img', MIB), ("c", 0)])
    eq(listing["sandbox"], "off")
    failed = report(t, t.path("missing"), status=EX_NOINPUT)
    eq(sorted(failed), ["exit_status", "reason"])
    eq(failed["exit_status"], EX_NOINPUT)
    contains("missing", failed["reason"])
    eq(t.run([NBDINETD, "--check=json"], status=EX_USAGE).stdout(), "")
    manual = (SRCDIR / "man" / "nbdinetd.8.in").read_text()
    section = manual.partition(".Sh THE CHECK FOR PROGRAMS")[2].partition("\n.Sh ")[0]
    known = {word for line in re.findall(r"^\.(?:It )?Va (.*)$", section, re.MULTILINE)
             for word in re.findall(r"[a-z_]+", line)}
    for members in (got, listing, failed, *got["exports"]):
        eq(set(members) - known, set(), "members that the manual doesn't know")


if __name__ == "__main__":
    main()
