#!/usr/bin/python3
"""The services with systemd's hardening, which are nbdinetd-listen.service and nbdinetd@.service with
strict.conf: the score of systemd-analyze, and features that hardening could break. The tests run under a
real systemd in namespaces of its own (see support/private_systemd.py). It is a user's, which puts a
hardened service into a user namespace (since 254); what is different there is in pid1_units_test.py,
as are nbdinetd@.service as it is and what a process in strict.conf can see."""

import json
import os
import re
import stat
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import private_systemd  # noqa: E402
from faults import LoopDevice, need_privilege  # noqa: E402
from harness import *  # noqa: E402
from private_systemd import InstalledUnits  # noqa: E402
from tls import TlsClient, authority  # noqa: E402

# Of systemd-analyze security, in tenths.
MOST_EXPOSURE = 14

systemd = None  # the PrivateSystemd, once we are inside


def wait_for_message(since, words):
    return wait_until(lambda: [m for m in systemd.messages(since) if words in m],
                      f"{words!r} in the journal")


STRICT = "nbdinetd@.service.d/strict.conf"


def unit_file(t, name, drop_in=""):
    """A shipped unit with a program that exists, and what a drop-in adds; its path."""
    text = re.sub(r"^(ExecStart=)\S+", lambda m: m[1] + NBDINETD, shipped(name), flags=re.MULTILINE)
    return t.image((text + drop_in).encode(), name)


def settings(text):
    return {line for line in text.splitlines() if re.match(r"[A-Z]\w+=", line)}


def missing(t, name, drop_in=""):
    """What systemd-analyze security counts against a unit."""
    result = systemd.run("systemd-analyze", "--no-pager", "security", "--offline=yes", "--json=short",
                         unit_file(t, name, drop_in))
    return [row["name"] for row in json.loads(result.stdout) if row["exposure"]]


@test("systemd-analyze security counts at most 1.4 for each service with systemd's hardening, and "
      "units.md explains every setting that a unit misses")
def _(t):
    need("systemd-analyze")
    explained = (SRCDIR / "doc/units.md").read_text().split("counts as missing")[1]
    light, rest = explained.split("| missing in both")
    strict = shipped(STRICT)
    for name, drop_in, where in (("nbdinetd@.service", strict, rest),
                                 ("nbdinetd-listen.service", "", rest),
                                 ("nbdinetd@.service", "", explained)):
        for setting in missing(t, name, drop_in):
            for word in setting.split("/"):
                contains(word.split("=")[0] + "=", where, f"why {name} has no {setting}")
        if where == rest:
            result = systemd.run("systemd-analyze", "--no-pager", "security", "--offline=yes",
                                 f"--threshold={MOST_EXPOSURE}", unit_file(t, name, drop_in),
                                 check=False)
            eq(result.returncode, 0, f"{name}: {result.stdout[-200:]}{result.stderr}")
    # And it does count: more is missing without a line.
    contains("LockPersonality=", light)
    contains("LockPersonality=",
             str(missing(t, "nbdinetd@.service", strict.replace("LockPersonality=yes\n", ""))))


@test("strict.conf has what nbdinetd-listen.service has and nbdinetd@.service has not, and the slice has "
      "nothing else")
def _(t):
    def hardening(name):
        return settings(shipped(name).split("# ---- Hardening")[1])
    light, strict = settings(shipped("nbdinetd@.service")), settings(shipped(STRICT))
    listen = hardening("nbdinetd-listen.service")
    eq(strict & light, set())
    eq(listen - light, strict)
    eq(light & listen, {"CapabilityBoundingSet=", "NoNewPrivileges=yes", "UMask=0077",
                        "KeyringMode=private", "LimitCORE=0"})
    contained = settings((SRCDIR / "units/system-nbdinetd.slice").read_text())
    eq({line for line in contained if not line.startswith(("Description=", "Documentation="))} - strict,
       set())


@test("nbdinetd@.service has no setting for which systemd makes a mount namespace or a filter, and few "
      "comments")
def _(t):
    names = {line.split("=")[0] for line in settings(shipped("nbdinetd@.service"))}
    costly = {line.split("=")[0] for line in settings(shipped(STRICT))}
    eq(names & costly, set())
    assert len(shipped("nbdinetd@.service")) < 2500, "systemd reads the file for each connection"


@test("an image outside of the writable directories is served read-only, and the log says why")
def _(t):
    image, path = t.pattern_image(MIB), t.path("nbd.sock")
    # In place of what makes the tests' directories visible.
    InstalledUnits(t, systemd, image, strict=True, listen=[path],
                   service=f"BindPaths=\nBindReadOnlyPaths={t.dir} "
                           f"{os.path.dirname(os.path.realpath(NBDINETD))} "
                           "/run/systemd/journal\n")
    since = systemd.now_us()
    client = Client(connect(path)).start()
    assert client.flags & NBD_FLAG_READ_ONLY
    eq(client.read(0, 512), pattern(0, 512))
    client.disconnect()
    contains(image, wait_for_message(since, "Read-only file system")[0])


@test("an image that the unit hides is missing, and the log says so")
def _(t):
    image, path = t.pattern_image(MIB), t.path("nbd.sock")
    units = InstalledUnits(t, systemd, image, strict=True, listen=[path],
                           service=f"BindPaths=\nBindReadOnlyPaths="
                                   f"{os.path.dirname(os.path.realpath(NBDINETD))} "
                                   f"/run/systemd/journal\nExecStopPost=\n")
    since = systemd.now_us()
    client = Client(connect(path))
    client.expect_end()
    client.close()
    contains(image, wait_for_message(since, "No such file or directory")[0])
    units.idle()


@test("a block device is served read-write")
def _(t):
    need_privilege("root", "loop")
    for number in range(64):  # the private /dev has none
        if not os.path.exists(f"/dev/loop{number}"):
            os.mknod(f"/dev/loop{number}", 0o660 | stat.S_IFBLK, os.makedev(7, number))
    path = t.path("nbd.sock")
    with LoopDevice(t.pattern_image(MIB)) as loop:
        InstalledUnits(t, systemd, loop.path, strict=True, listen=[path])
        client = Client(connect(path)).start()
        assert not client.flags & NBD_FLAG_READ_ONLY
        eq(client.read(4096, 512), pattern(4096, 512))
        client.write(4096, bytes(512), flags=NBD_CMD_FLAG_FUA)
        eq(client.read(4096, 512), bytes(512))
        client.disconnect()


@test("TLS with the keys that systemd has read (LoadCredential=)")
def _(t):
    require("built without OpenSSL" not in systemd.run(
        NBDINETD, "--check", "--tls-psk=/nonexistent", __file__, check=False).stderr,
        "nbdinetd was built without OpenSSL")
    image, path = t.pattern_image(MIB), t.path("nbd.sock")
    keys = authority().server_files(t)
    InstalledUnits(t, systemd, image, strict=True, listen=[path], options="--tls=require", service="".join(
        f"LoadCredential={name}:{keys}/{name}\n"
        for name in ("ca-cert.pem", "server-cert.pem", "server-key.pem")))
    client = TlsClient(connect(path)).start()
    eq(client.read(4096, 512), pattern(4096, 512))
    client.disconnect()


def tests(private):
    global systemd
    systemd = private
    main()


if __name__ == "__main__":
    private_systemd.run(tests)
