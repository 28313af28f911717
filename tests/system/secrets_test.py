#!/usr/bin/python3
"""A connection's process keeps its secrets: no core dump has its keys and its client's data, no other
process of its user can look into it, and a file of keys that others can read causes a warning."""

import os
import resource
import shutil
import signal
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from harness import *
from listening import *
from tls import TlsClient, authority, main_with_tls

NOBODY = 64323  # a user that owns nothing, but this process
CORES = {resource.RLIMIT_CORE: resource.RLIM_INFINITY}


def expect_closed(t, pid):
    """Nothing can be dumped of the process, and its user can't look into it."""
    limits = Path(f"/proc/{pid}/limits").read_text()
    matches(r"^Max core file size +0 +0 ", limits)
    look = t.run([*as_user(NOBODY), "/bin/cat", f"/proc/{pid}/environ"], status=None)
    eq((look.wait(), look.stdout()), (1, ""), "what its user sees")
    contains("Permission denied", look.stderr())


def image_of_nobody(t):
    image = t.pattern_image(MIB)
    os.chmod(image, 0o666)
    return image


@test("no core dump is written of a connection's process, and its user can't look into it: systemd, "
      "inetd, ssh, with and without a sandbox")
def _(t):
    image = image_of_nobody(t)
    for sandbox in ("on", "off"):
        for start in (t.activated, t.inetd):
            process, client = start(f"--sandbox={sandbox}", image, prefix=as_user(NOBODY), limits=CORES)
            client.handshake()
            expect_closed(t, process.pid)
            client.go("")
            expect_closed(t, process.pid)
            process.signal(signal.SIGSEGV)
            eq((process.wait(), process.core_dumped), (-signal.SIGSEGV, False))
        process, client = t.piped("-s", f"--sandbox={sandbox}", image, prefix=as_user(NOBODY))
        client.handshake()
        expect_closed(t, process.pid)
        client.close()


@test("no core dump is written of a process that a listener has forked, either: systemd, "
      "stand-alone, with --user and without")
def _(t):
    image = image_of_nobody(t)
    user = [f"--user={NOBODY}", f"--group={NOBODY}"]
    for prefix, options in ((as_user(NOBODY), []), ([], user)):
        door = Door(t)
        process = activate(t, *options, image, inherited=[door], prefix=prefix, limits=CORES)
        client = door.client().start()
        expect_closed(t, children_of(process.pid)[0])
        client.disconnect()
        stop(process)

        folder = t.fresh(".dir")
        os.mkdir(folder, 0o777)
        os.chmod(folder, 0o777)
        process = t.spawn([*prefix, NBDINETD, "-f", "-U", f"{folder}/s", *options, image],
                          limits=CORES)
        wait_listening(f"{folder}/s")
        client = Client(connect(f"{folder}/s")).start()
        expect_closed(t, children_of(process.pid)[0])
        client.disconnect()
        stop(process)


@test("the command of --run may dump core as before")
def _(t):
    process = t.run([NBDINETD, "--run", "ulimit -c; cat /proc/$$/environ >/dev/null && echo yes",
                     image_of_nobody(t)], limits=CORES)
    eq(process.stdout(), "unlimited\nyes\n")


@test("files that are handed over are opened anew by a user that can, and served by one that can't")
def _(t):
    """By /proc/self/fd, which a process that can't be dumped has all the same."""
    for mode in (0o666, 0o600):
        image = t.pattern_image(MIB)
        os.chmod(image, mode)
        ours, theirs = t.connection()
        process = activate(t, inherited=[("connection", theirs), ("disk", opened(t, image))],
                           prefix=as_user(NOBODY))
        theirs.close()
        client = Client(ours).start("disk")
        eq(client.read(0, 512), pattern(0, 512))
        expect_closed(t, process.pid)
        client.disconnect()
        process.expect(EX_OK)


# ------------------------------------------------------------------ files of keys

WARNINGS = ((0o600, None), (0o400, None), (0o640, None), (0o660, None), (0o641, None),
            (0o644, "read"), (0o604, "read"), (0o602, "write"), (0o666, "read and write"))


def keys_of(t):
    """[(what turns TLS on, the file of keys)]"""
    psk = t.fresh(".psk")
    Path(psk).write_text(f"alice:{os.urandom(32).hex()}\n")
    certificates = authority().server_files(t)
    return ((f"--tls-psk={psk}", psk),
            (f"--tls-certificates={certificates}", f"{certificates}/server-key.pem"))


def expect_warning(text, path, mode, words):
    lines = [line for line in text.splitlines() if "no secret" in line]
    wanted = [] if words is None else [
        f'nbdinetd: the keys in "{path}" are no secret: every user of this machine may {words} the '
        f"file (mode {mode:04o}); take that from others by chmod o-rwx"]
    eq(lines, wanted, f"warnings about {mode:o}")


@test("a file of keys that other users than its owner and group can read or write is warned "
      "about, once")
def _(t):
    image = t.pattern_image(MIB)
    for option, path in keys_of(t):
        for mode, words in WARNINGS:
            os.chmod(path, mode)
            process = t.run([NBDINETD, "--check", "--tls=require", option, image])
            expect_warning(process.stderr(), path, mode, words)
            process, client = t.activated("--tls=require", option, image)
            client.handshake()
            client.close()
            process.expect(EX_OK)
            expect_warning(process.stderr(), path, mode, words)
    # By the listener, not for each of its connections.
    os.chmod(path, 0o644)
    door = Door(t)
    process = activate(t, "--tls=require", option, image, inherited=[door])
    for _ in range(2):
        client = TlsClient.of(door.client()).start()
        client.send(client.request_bytes(NBD_CMD_DISC))
        client.expect_end()
        wait_alone(process)
    stop(process)
    expect_warning(process.stderr(), path, 0o644, "read")
    folder = t.fresh(".dir")
    os.mkdir(folder)
    process = t.spawn([NBDINETD, "-f", "-U", f"{folder}/s", "--tls=require", option, image])
    wait_listening(f"{folder}/s")
    client = TlsClient.of(Client(connect(f"{folder}/s"))).start()
    client.close()
    wait_alone(process)
    stop(process)
    expect_warning(process.stderr(), path, 0o644, "read")


if __name__ == "__main__":
    main_with_tls()
