#!/usr/bin/python3
"""The shipped services are hardened, and their features still work: the score of systemd-analyze,
what a process of theirs can see, and each feature that hardening could break. The tests run under a
real systemd in namespaces of its own (see support/private_systemd.py)."""

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
MOST_EXPOSURE = 10

systemd = None  # the PrivateSystemd, once we are inside


def wait_for_message(since, words):
    return wait_until(lambda: [m for m in systemd.messages(since) if words in m],
                      f"{words!r} in the journal")


def unit_file(t, name):
    """A shipped unit with a program that exists; its path."""
    return t.image(re.sub(r"^(ExecStart=)\S+", lambda m: m[1] + NBDINETD, shipped(name),
                          flags=re.MULTILINE).encode(), name)


def served_process(name="nbdinetd"):
    instance, = systemd.instances(name)
    return systemd.main_pid(instance)


def status_of(pid):
    return dict(line.split(":\t", 1) for line in
                Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


@test("systemd-analyze security counts at most 1.0 for each service, and the unit explains every "
      "setting that it misses")
def _(t):
    need("systemd-analyze")
    explained = shipped("nbdinetd@.service").split("counts as missing:")[1].split("doesn't count")[0]
    for name in ("nbdinetd@.service", "nbdinetd-listen.service"):
        analyze = ["systemd-analyze", "--no-pager", "security", "--offline=yes"]
        result = systemd.run(*analyze, f"--threshold={MOST_EXPOSURE}", unit_file(t, name),
                             check=False)
        eq(result.returncode, 0, f"{name}: {result.stdout[-200:]}{result.stderr}")
        rows = json.loads(systemd.run(*analyze, "--json=short", unit_file(t, name)).stdout)
        missing = [row["name"] for row in rows if row["exposure"]]
        for setting in missing:
            for word in setting.split("/"):
                contains(word, explained, f"why {name} has no {setting}")
        # And it does count: more is missing without a line.
        text = Path(unit_file(t, name)).read_text()
        broken = t.image(text.replace("NoNewPrivileges=yes\n", "").encode(), "broken.service")
        contains("NoNewPrivileges=", str([row["name"] for row in json.loads(
            systemd.run(*analyze, "--json=short", broken).stdout) if row["exposure"]]))


@test("both services have the same hardening, but for the limit of tasks")
def _(t):
    def settings(name):
        hardening = shipped(name).split("# ---- Hardening")[1]
        return [line for line in hardening.splitlines() if line and not line.startswith("#")]
    eq([line for line in settings("nbdinetd@.service") if not line.startswith("TasksMax=")],
       settings("nbdinetd-listen.service"))


@test("the process of a connection has no privilege, no network, and nothing of /tmp, /home, /run and "
      "/proc")
def _(t):
    image, port = t.pattern_image(MIB), free_port()
    InstalledUnits(t, systemd, image, listen=[f"127.0.0.1:{port}"])
    client = Client(connect(("127.0.0.1", port))).start()
    pid = served_process()
    status = status_of(pid)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        eq(int(status[name], 16), 0, name)
    eq((status["NoNewPrivs"].strip(), status["Seccomp"].strip()), ("1", "2"))
    for namespace in ("net", "mnt", "ipc", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{namespace}") != \
            os.readlink(f"/proc/self/ns/{namespace}"), f"the same {namespace} namespace"
    root = Path(f"/proc/{pid}/root")
    # The directories that this test itself has made visible.
    visible = {os.path.relpath(path, "/tmp").split("/")[0] for path in (t.dir, systemd.base, NBDINETD)}
    eq(set(os.listdir(root / "tmp")) - visible, set(), "in /tmp")
    eq([name for name in os.listdir(root / "home")
        if not os.path.realpath(NBDINETD).startswith(f"/home/{name}/")], [], "in /home")
    eq(set(os.listdir(root / "run")) - {"user"}, {"systemd"}, "in /run")
    eq(set(os.listdir(root / "run/systemd")) - {"inaccessible"}, {"journal"}, "in /run/systemd")
    # A mount that is read-only can be remounted by nobody without a privilege.
    options = {fields[4]: fields[5].split(",") for fields in
               (line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines())}
    for path in ("/", "/run", "/sys"):
        contains("ro", options[path], f"the mount of {path}")
    assert not (root / "proc/sys").exists(), "/proc/sys"
    contains("hidepid=invisible", Path(f"/proc/{pid}/mountinfo").read_text())
    if os.path.isdir("/srv"):
        contains("rw", options["/srv"], "the mount of /srv")
    # And the network that it doesn't have is where its client is.
    eq(client.read(4096, 512), pattern(4096, 512))
    client.write(0, bytes(512))
    client.disconnect()


@test("an image outside of the writable directories is served read-only, and the log says why")
def _(t):
    image, path = t.pattern_image(MIB), t.path("nbd.sock")
    # In place of what makes the tests' directories visible.
    InstalledUnits(t, systemd, image, listen=[path],
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
    units = InstalledUnits(t, systemd, image, listen=[path],
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
        InstalledUnits(t, systemd, loop.path, listen=[path])
        client = Client(connect(path)).start()
        assert not client.flags & NBD_FLAG_READ_ONLY
        eq(client.read(4096, 512), pattern(4096, 512))
        client.write(4096, bytes(512), flags=NBD_CMD_FLAG_FUA)
        eq(client.read(4096, 512), bytes(512))
        client.disconnect()


@test("--allow and the log know the user at a Unix socket")
def _(t):
    image, path = t.pattern_image(MIB), t.path("nbd.sock")
    stranger, friend = 54321, 54322
    InstalledUnits(t, systemd, image, listen=[path], options=f"--allow=uid:{friend}")

    def connected_as(user):
        os.seteuid(user)
        try:
            return Client(connect(path))
        finally:
            os.seteuid(0)
    since = systemd.now_us()
    client = connected_as(stranger)
    client.expect_end()
    client.close()
    contains(f"uid={stranger}", wait_for_message(since, "refus")[0])
    client = connected_as(friend).start()
    client.disconnect()
    contains(f"uid={friend}", wait_for_message(since, "serving export")[0])


@test("--exclusive=takeover reaches the process of another connection")
def _(t):
    image, path = t.pattern_image(MIB), t.path("nbd.sock")
    units = InstalledUnits(t, systemd, image, listen=[path], options="--exclusive=takeover")
    first = Client(connect(path)).start()
    second = Client(connect(path)).start()
    first.expect_end()
    first.close()
    eq(second.read(4096, 512), pattern(4096, 512))
    second.disconnect()
    eq(units.ended(2), ["success exited 0"] * 2)


@test("TLS with the keys that systemd has read (LoadCredential=)")
def _(t):
    require("built without OpenSSL" not in systemd.run(
        NBDINETD, "--check", "--tls-psk=/nonexistent", __file__, check=False).stderr,
        "nbdinetd was built without OpenSSL")
    image, path = t.pattern_image(MIB), t.path("nbd.sock")
    keys = authority().server_files(t)
    InstalledUnits(t, systemd, image, listen=[path], options="--tls=require", service="".join(
        f"LoadCredential={name}:{keys}/{name}\n"
        for name in ("ca-cert.pem", "server-cert.pem", "server-key.pem")))
    client = TlsClient(connect(path)).start()
    eq(client.read(4096, 512), pattern(4096, 512))
    client.disconnect()


@test("nbdinetd's own sandbox is whole inside the service, and adds two filters to systemd's")
def _(t):
    image, path = t.pattern_image(MIB), t.path("nbd.sock")
    filters = {}
    for mode in ("off", "require"):
        units = InstalledUnits(t, systemd, image, listen=[path], options=f"--sandbox={mode}",
                               name=f"nbdinetd-{mode}")
        client = Client(connect(path)).start()
        eq(client.read(4096, 512), pattern(4096, 512))
        filters[mode] = int(status_of(served_process(units.name))["Seccomp_filters"])
        client.disconnect()
        eq(units.ended(1), ["success exited 0"])
        systemd.systemctl("stop", f"{units.name}.socket")
    eq(filters["require"], filters["off"] + 2)


def tests(private):
    global systemd
    systemd = private
    main()


if __name__ == "__main__":
    private_systemd.run(tests)
