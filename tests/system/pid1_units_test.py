#!/usr/bin/python3
"""The shipped units as make install installs them, under a systemd that is process 1 (see
support/pid1.py): what they serve, what nobody can do in them, and their limits. No test here changes a
unit except as the manual tells an administrator to."""

import os
import re
import socket
import stat
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import pid1  # noqa: E402
from faults import LoopDevice, need_privilege  # noqa: E402
from harness import *  # noqa: E402
from intruder import FORBIDDEN, INTRUDER, REFUSED  # noqa: E402
from tls import TlsClient, authority, client_context  # noqa: E402

PORT = ("127.0.0.1", 10809)
RACK = 256  # MaxConnections= of nbdinetd.socket
PER_SOURCE = 64  # and MaxConnectionsPerSource=
ERROR, WARNING, INFO = "3", "4", "6"

machine = None  # the pid1.Machine


class Served:
    """nbdinetd.socket or nbdinetd-listen.socket, started and serving; idle and stopped at the end."""

    def __init__(self, t, image, options="", name="nbdinetd"):
        self.name, self.default = name, f"{pid1.configured('sysconfdir')}/default/{name}"
        self.serve(image, options)
        t.defer(self._stop)
        self.since = machine.now_us()
        machine.systemctl("start", f"{name}.socket")

    def serve(self, image, options="", more=""):
        """From the next connection on."""
        machine.write(self.default,
                      f'NBDINETD_EXPORT="{image}"\nNBDINETD_OPTIONS="{options}"\n{more}')

    def _stop(self):
        machine.systemctl("stop", f"{self.name}.socket", f"{self.name}.service", f"{self.name}@*",
                          check=False)
        machine.systemctl("reset-failed", check=False)


def idle():
    wait_until(lambda: not machine.instances(), "the connections' units to be gone")


def address_of(client):
    return "{}:{}".format(*client.socket.getsockname()[:2])


def instance_of(port):
    """The unit of the connection from this port."""
    return wait_until(lambda: [u for u in machine.instances() if u.endswith(f":{port}.service")],
                      f"the unit of port {port}")[0]


def peer_of(unit):
    """The peer's "ADDRESS:PORT" in the name of a connection's unit."""
    return unit.removesuffix(".service").rsplit("-", 1)[-1]


def connected(source="127.0.0.1"):
    """(client after the handshake, its port)"""
    connection = socket.create_connection(PORT, timeout=GUARD, source_address=(source, 0))
    return Client(connection), connection.getsockname()[1]


def status_of(process):
    return dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines()
                if ":\t" in line)


def run_service(settings, command):
    """Runs a command in a service with these settings, to its end. Returns its exit status."""
    machine.write("/run/systemd/system/attempt.service",
                  f"[Service]\nType=oneshot\n{settings}\nExecStart={command}\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("reset-failed", check=False)
    machine.systemctl("start", "attempt.service", check=False)
    return int(machine.show("attempt.service", "ExecMainStatus"))


def strict_conf(t):
    """Copies the shipped example, as it says."""
    examples = f"{pid1.configured('docdir')}/examples/nbdinetd@.service.d"
    machine.shell(f"mkdir -p /etc/systemd/system && cp -r '{examples}' /etc/systemd/system/")
    machine.systemctl("daemon-reload")

    def remove():
        machine.shell("rm -r /etc/systemd/system/nbdinetd@.service.d")
        machine.systemctl("daemon-reload")
    t.defer(remove)


# ------------------------------------------------------------------ what is served

@test("an image is served read-write wherever it is, and --check by hand says the same")
def _(t):
    served = Served(t, "")
    for path in ("/srv/nbd/a.img", "/home/images/b.img", "/run/c.img", "/data/with space/d.img",
                 "/var/tmp/e.img", "/root/f.img"):
        machine.write(path, pattern(0, MIB))
        contains("read-write", machine.run(f"{pid1.configured('sbindir')}/nbdinetd", "--check",
                                           path).stdout, path)
        served.serve(path)
        client = Client(connect(PORT)).start()
        assert not client.flags & NBD_FLAG_READ_ONLY, f"{path} is read-only"
        client.write(4096, b"w" * 512, NBD_CMD_FLAG_FUA)
        client.disconnect()
        eq(machine.path(path).read_bytes()[4096:4608], b"w" * 512, path)
    idle()
    eq(machine.failed(), [])


@test("a block device is served read-write, and the slice keeps other devices and the network away")
def _(t):
    need_privilege("root", "loop")
    served = Served(t, "")
    with LoopDevice(t.pattern_image(MIB)) as loop:
        node = "/dev/nbdinetd-test"
        os.mknod(machine.path(node), 0o600 | stat.S_IFBLK, os.stat(loop.path).st_rdev)
        served.serve(node)
        client = Client(connect(PORT)).start()
        assert not client.flags & NBD_FLAG_READ_ONLY
        eq(client.read(4096, 512), pattern(4096, 512))
        client.write(4096, bytes(512), NBD_CMD_FLAG_FUA)
        client.disconnect()
    # What a program could do there before it is in a sandbox, and what it could do elsewhere.
    os.mknod(machine.path("/dev/kmsg-test"), 0o600 | stat.S_IFCHR, os.makedev(1, 11))
    for command in ("/bin/sh -c ': >>/dev/kmsg-test'", "/bin/bash -c 'echo >/dev/udp/127.0.0.1/9'"):
        eq(run_service("Slice=system.slice", command), 0, command)
        assert run_service("Slice=system-nbdinetd.slice", command) != 0, command
    eq(run_service("Slice=system-nbdinetd.slice", "/bin/true"), 0)


@test("a connection's process has no privileges, and mounts of the machine cost it nothing: it is in the "
      "machine's mount namespace")
def _(t):
    machine.write("/srv/nbd/export.img", pattern(0, MIB))
    Served(t, "/srv/nbd/export.img")
    client, port = connected()
    client.handshake()
    process = machine.process_of(instance_of(port))
    status = status_of(process)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        eq(int(status[name], 16), 0, name)
    # The one filter is nbdinetd's own.
    eq((status["NoNewPrivs"], status["Seccomp"], status["Seccomp_filters"]), ("1", "2", "1"))
    for namespace in ("mnt", "net", "ipc", "uts", "user"):
        eq(os.readlink(process / "ns" / namespace),
           os.readlink(machine.path(f"/proc/1/ns/{namespace}")), namespace)
    contains("system-nbdinetd.slice", (process / "cgroup").read_text())
    client.go()
    client.disconnect()


@test("before its sandbox is up, the process could command systemd as root does; with User= or strict.conf it "
      "couldn't")
def _(t):
    """As SECURITY.md says. systemctl stands for what the process could do then."""
    light, strict = ("\n".join(re.findall(r"^\w+=.*$", shipped(name).partition("[Service]")[2], re.MULTILINE))
                     for name in ("nbdinetd@.service", "nbdinetd@.service.d/strict.conf"))
    light = re.sub(r"^(ExecStart|SuccessExitStatus)=.*\n?", "", light, flags=re.MULTILINE)
    command = "/bin/systemctl daemon-reload"
    eq(run_service(light, command), 0)
    eq(run_service(f"{light}\n{strict}", "/bin/true"), 0)
    for more in ("User=nobody", strict):
        assert run_service(f"{light}\n{more}", command) != 0, more


@test("with --tls-certificates=DIR, the process reads the keys of root by itself, in nbdinetd@.service and in the "
      "unit of an export file, and needs no credentials")
def _(t):
    machine.write("/srv/nbd/export.img", pattern(0, MIB))
    for name in ("ca-cert.pem", "server-cert.pem", "server-key.pem"):
        machine.write(f"/etc/pki/keys/{name}", Path(authority().path(name)).read_bytes(), 0o600)
    machine.shell("chmod 700 /etc/pki/keys")
    Served(t, "/srv/nbd/export.img", "--tls=require --tls-certificates=/etc/pki/keys")
    machine.write("/etc/nbdinetd/keys.export",
                  "[Export]\nFile=/srv/nbd/export.img\nTLS=require\nOptions=--tls-certificates=/etc/pki/keys\n"
                  "[Socket]\nListenStream=10811\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "nbdinetd-keys.socket")

    def remove():
        machine.systemctl("stop", "nbdinetd-keys.socket")
        machine.path("/etc/nbdinetd/keys.export").unlink()
        machine.systemctl("daemon-reload")
    t.defer(remove)
    for address in (PORT, ("127.0.0.1", 10811)):
        client = TlsClient(connect(address)).start(tls=client_context())
        eq(client.read(4096, 512), pattern(4096, 512))
        handed_over = machine.run("ls", "/run/credentials", check=False).stdout.split()
        eq([name for name in handed_over if "nbdinetd" in name], [])
        client.disconnect()


@test("a copy of both units under another name is a second export, in the same slice")
def _(t):
    machine.write("/srv/nbd/golden.img", pattern(0, 2 * MIB))
    machine.write(f"{pid1.configured('sysconfdir')}/default/golden", "NBDINETD_EXPORT=/srv/nbd/golden.img\n")
    units = pid1.configured("systemdsystemunitdir")
    machine.shell(f"""cd /etc/systemd/system
        cp {units}/nbdinetd.socket golden.socket
        cp {units}/nbdinetd@.service golden@.service
        sed -i s/^ListenStream=.*/ListenStream=10810/ golden.socket
        systemctl daemon-reload
        systemctl start golden.socket""")
    t.defer(lambda: machine.shell("""systemctl stop golden.socket
        rm /etc/systemd/system/golden*
        systemctl daemon-reload"""))
    client = Client(connect(("127.0.0.1", 10810))).start()
    eq(client.size, 2 * MIB)
    instance, = machine.instances("golden")
    eq(machine.show(instance, "Slice"), "system-nbdinetd.slice")
    client.disconnect()


# ------------------------------------------------------------------ the intruder

def intrude(t, step):
    """Makes every forbidden attempt inside nbdinetd@.service, each by a connection of its own. Returns
    {attempt: outcome}."""
    machine.systemctl("start", "system-nbdinetd.slice")
    machine.write("/srv/nbd/export.img", pattern(0, MIB))
    machine.write("/run/systemd/system/victim.service", "[Service]\nExecStart=/bin/sleep 600\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "victim")
    t.defer(lambda: machine.systemctl("stop", "victim"))
    served = Served(t, "")
    since, peers = machine.now_us(), {}
    for number, attempt in enumerate(("allowed", *FORBIDDEN), 1):
        served.serve("/srv/nbd/export.img", "--sandbox=require",
                     f"NBDINETD_INTRUDER={step} {attempt}\nINTRUDER_FILE=/srv/nbd/spoilt\n"
                     f"INTRUDER_SOCKET=/run/systemd/journal/socket\n"
                     f"INTRUDER_VICTIM={machine.show('victim', 'MainPID')}\n")
        # An address of its own: a port alone may be that of an earlier attempt.
        address = f"127.0.1.{number}"
        client, port = connected(address)
        peers[attempt] = f"{address}:{port}"
        try:
            client.handshake()
            client.go("disk")
            client.read(0, 512)
            client.disconnect()
        except (Disconnected, BrokenPipeError, ConnectionResetError, NotNbd):
            client.close()
    idle()
    machine.run("journalctl", "--sync")
    said, ended = {}, {}
    for entry in machine.journal(since):
        if found := re.match(r"intruder: (?:done|error (\d+))$", str(entry["MESSAGE"])):
            said[peer_of(entry["_SYSTEMD_UNIT"])] = int(found[1] or 0)
        if entry.get("EXIT_STATUS") and entry.get("UNIT", "").startswith("nbdinetd@"):
            ended[peer_of(entry["UNIT"])] = entry["EXIT_CODE"], entry["EXIT_STATUS"]
    def outcome(peer):
        if ended.get(peer) == ("killed", str(int(signal.SIGSYS))):
            return "ended" if peer not in said else "said something, and ended"
        return said.get(peer, f"nothing, {ended.get(peer)}")
    return {attempt: outcome(peer) for attempt, peer in peers.items()}


def _forbidden(step, when):
    @test(f"in nbdinetd@.service as it is shipped, {when}, whoever has taken over the process can do none "
          "of what is forbidden", guard=600.0)
    def _(t):
        require(os.access(INTRUDER, os.X_OK), "needs tests/nbdinetd-intruder")
        program = machine.path(f"{pid1.configured('sbindir')}/nbdinetd")
        saved = program.read_bytes()
        t.defer(lambda: program.write_bytes(saved))
        program.write_bytes(Path(INTRUDER).read_bytes())
        results = intrude(t, step)
        eq(results.pop("allowed"), 0, "what is allowed")
        eq(results, {a: REFUSED.get(a, "ended") for a in FORBIDDEN})
        eq(machine.path("/srv/nbd/spoilt").exists(), False)
        eq(machine.systemctl("is-active", "victim").strip(), "active")


_forbidden("enter", "before the first byte of the client")
_forbidden("tighten", "during transmission")


# ------------------------------------------------------------------ limits

@test("a rack of 256 clients from four machines is served at once, and no unit is left", guard=180.0)
def _(t):
    machine.write("/srv/nbd/export.img", pattern(0, MIB))
    Served(t, "/srv/nbd/export.img", "--readonly")
    sockets = []
    for number in range(RACK):
        source = f"127.0.0.{1 + number // PER_SOURCE}"
        sockets.append(socket.create_connection(PORT, timeout=GUARD, source_address=(source, 0)))
    clients = [Client(connection).start() for connection in sockets]
    eq(len(machine.instances()), RACK)
    for number, client in enumerate(clients):
        eq(client.read(number * 512, 512), pattern(number * 512, 512))
    # One more is one too many, and harms nobody.
    extra = Client(socket.create_connection(PORT, timeout=GUARD, source_address=("127.0.0.5", 0)))
    eq(extra.read_to_end(), b"")
    for client in clients:
        client.disconnect()
    idle()
    eq(machine.failed(), [])
    eq(machine.systemctl("is-active", "nbdinetd.socket").strip(), "active")
    Client(connect(PORT)).start().disconnect()


@test("MaxConnectionsPerSource= keeps a machine from having more than its part, until it has fewer")
def _(t):
    machine.write("/srv/nbd/export.img", pattern(0, MIB))
    Served(t, "/srv/nbd/export.img", "--readonly")
    clients = [Client(connect(PORT)).start() for _ in range(PER_SOURCE)]
    eq(Client(connect(PORT)).read_to_end(), b"")
    other, _ = connected("127.0.0.2")
    other.start()
    other.disconnect()
    clients.pop().disconnect()
    wait_until(lambda: len(machine.instances()) == len(clients), "a unit to be gone")
    clients.append(Client(connect(PORT)).start())
    for client in clients:
        client.disconnect()
    idle()


# ------------------------------------------------------------------ the manager

def use_during(t, name, act):
    """A client that is served before and after something has been done to systemd, as is a new one."""
    machine.write("/srv/nbd/export.img", pattern(0, MIB))
    served = Served(t, "/srv/nbd/export.img", name=name)
    client = Client(connect(PORT)).start()
    client.write(0, b"1" * 512)
    act()
    client.write(512, b"2" * 512, NBD_CMD_FLAG_FUA)
    eq(client.read(0, 1024), b"1" * 512 + b"2" * 512)
    other = Client(connect(PORT)).start()
    eq(other.read(0, 1024), b"1" * 512 + b"2" * 512)
    other.disconnect()
    client.disconnect()
    ended = wait_until(lambda: (lambda e: e if len(e) == 2 else None)(
        [m for m in machine.messages(served.since) if " ended: " in m]), "both ends in the journal")
    for message in ended:
        contains("client disconnected", message)


@test("daemon-reload and daemon-reexec leave connections and sockets alone")
def _(t):
    for name in ("nbdinetd", "nbdinetd-listen"):
        for verb in ("daemon-reload", "daemon-reexec"):
            use_during(t, name, lambda verb=verb: machine.systemctl(verb))
            machine.systemctl("stop", f"{name}.socket", f"{name}.service", check=False)
    idle()
    eq(machine.failed(), [])


@test("stop and restart of a connection's unit drain it, and its unit is gone")
def _(t):
    machine.write("/srv/nbd/export.img", pattern(0, MIB))
    served = Served(t, "/srv/nbd/export.img")
    for verb in ("stop", "restart"):
        client, port = connected()
        client.start()
        client.write(0, verb.encode() * 64)
        machine.systemctl(verb, instance_of(port))
        client.expect_end()
        client.close()
        idle()
        eq(machine.path("/srv/nbd/export.img").read_bytes()[:len(verb) * 64], verb.encode() * 64)
        contains("the server is shutting down", machine.wait_for_message(served.since, f":{port} ended: ")[0])
    # The restarted one finds the same connection, which is over.
    eq([e for e in machine.log(served.since) if e["PRIORITY"] <= ERROR], [])


FULL = "/etc/systemd/journald.conf.d/full.conf"


def restart_journald(settings):
    machine.write(FULL, f"[Journal]\n{settings}")
    machine.systemctl("reset-failed", "systemd-journald.service")
    machine.systemctl("restart", "systemd-journald.service")


def serve_some(options):
    for _ in range(20):
        client = Client(connect(PORT)).start()
        for number in range(20):
            eq(client.read(number * 512, 512), pattern(number * 512, 512))
        client.disconnect()
    idle()
    eq(machine.failed(), [], options)


@test("a journal that is full, that limits the rate, or that keeps nothing holds up no client")
def _(t):
    machine.write("/srv/nbd/export.img", pattern(0, MIB))
    served = Served(t, "/srv/nbd/export.img", "--readonly")

    t.defer(lambda: restart_journald(""))
    restart_journald("RateLimitIntervalSec=1h\nRateLimitBurst=1\n")
    served.serve("/srv/nbd/export.img", "-v")  # which has a line for each request
    since = machine.now_us()
    serve_some("-v")
    assert len(machine.messages(since)) < 20 * 20, "the journal has taken everything"

    served.serve("/srv/nbd/export.img")
    restart_journald("Storage=none\n")
    since = machine.now_us()
    serve_some("none")
    machine.run("journalctl", "--sync")
    eq(machine.messages(since), [])

    machine.shell("mount -t tmpfs -o size=20M tmpfs /run/log/journal")
    t.defer(lambda: machine.shell("umount --lazy /run/log/journal"))
    restart_journald("Storage=volatile\n")
    machine.shell("cat /dev/zero >/run/log/journal/fill || :")
    since = machine.now_us()
    for _ in range(40):
        serve_some("full")
        if len(machine.messages(since)) < 40:
            break
        since = machine.now_us()
    else:
        raise AssertionError("the journal is never full")
    serve_some("full")


# ------------------------------------------------------------------ both layers

@test("strict.conf, copied as it says, confines a connection, which is served")
def _(t):
    strict_conf(t)
    for path in ("/srv/nbd/export.img", "/home/hidden.img"):
        machine.write(path, pattern(0, MIB))
    served = Served(t, "/srv/nbd/export.img", "--sandbox=require")
    client, port = connected()
    client.start()
    assert not client.flags & NBD_FLAG_READ_ONLY
    client.write(4096, bytes(512), NBD_CMD_FLAG_FUA)
    process = machine.process_of(instance_of(port))
    status = status_of(process)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        eq(int(status[name], 16), 0, name)
    eq((status["NoNewPrivs"], status["Seccomp"]), ("1", "2"))
    for namespace in ("mnt", "net", "ipc", "uts"):
        assert os.readlink(process / "ns" / namespace) != \
            os.readlink(machine.path(f"/proc/1/ns/{namespace}")), f"the same {namespace} namespace"
    root = process / "root"
    eq([name for name in ("home", "tmp", "root", "var/tmp") if os.listdir(root / name)], [])
    eq(set(os.listdir(root / "run")) - {"user"}, {"systemd"}, "in /run")
    # "incoming" is where systemd would mount more.
    eq(set(os.listdir(root / "run/systemd")) - {"inaccessible", "incoming"}, {"journal", "notify"}, "in /run/systemd")
    # A mount that is read-only can be remounted by nobody without a privilege.
    mounts = (process / "mountinfo").read_text()
    options = {fields[4]: fields[5].split(",") for fields in map(str.split, mounts.splitlines())}
    for path, wanted in (("/", "ro"), ("/run", "ro"), ("/sys", "ro"), ("/srv", "rw")):
        contains(wanted, options[path], f"the mount of {path}")
    assert not (root / "proc/sys").exists(), "/proc/sys"
    contains("hidepid=invisible", mounts)
    client.disconnect()
    served.serve("/home/hidden.img")
    client, _ = connected()
    eq(client.read_to_end(), b"")
    machine.wait_for_message(served.since, "No such file or directory")
    idle()


@test("with strict.conf nbdinetd's own sandbox is whole, and adds two filters to systemd's")
def _(t):
    strict_conf(t)
    machine.write("/srv/nbd/export.img", pattern(0, MIB))
    filters = {}
    for mode in ("off", "require"):
        served = Served(t, "/srv/nbd/export.img", f"--sandbox={mode}")
        client, port = connected()
        client.start()
        eq(client.read(4096, 512), pattern(4096, 512))
        filters[mode] = int(status_of(machine.process_of(instance_of(port)))["Seccomp_filters"])
        client.disconnect()
        machine.wait_for_message(served.since, "client disconnected")
        machine.systemctl("stop", "nbdinetd.socket")
    eq(filters["require"], filters["off"] + 2)
    idle()
    eq(machine.failed(), [])


@test("with strict.conf --allow and the log know the user at a Unix socket")
def _(t):
    strict_conf(t)
    stranger, friend = 54321, 54322
    machine.write("/srv/nbd/export.img", pattern(0, MIB))
    machine.write("/etc/systemd/system/nbdinetd.socket.d/path.conf", "[Socket]\nListenStream=/run/nbd.sock\n")
    machine.systemctl("daemon-reload")

    def remove():
        machine.shell("rm -r /etc/systemd/system/nbdinetd.socket.d")
        machine.systemctl("daemon-reload")
    t.defer(remove)
    served = Served(t, "/srv/nbd/export.img", f"--allow=uid:{friend}")
    client = Client(machine.connect("/run/nbd.sock", stranger))
    client.expect_end()
    client.close()
    contains(f"uid={stranger}", machine.wait_for_message(served.since, "refus")[0])
    client = Client(machine.connect("/run/nbd.sock", friend)).start()
    client.disconnect()
    contains(f"uid={friend}", machine.wait_for_message(served.since, "serving export")[0])


@test("with strict.conf --exclusive=takeover reaches the process of another connection")
def _(t):
    strict_conf(t)
    machine.write("/srv/nbd/export.img", pattern(0, MIB))
    Served(t, "/srv/nbd/export.img", "--exclusive=takeover")
    first = Client(connect(PORT)).start()
    second = Client(connect(PORT)).start()
    first.expect_end()
    first.close()
    eq(second.read(4096, 512), pattern(4096, 512))
    second.disconnect()
    idle()
    eq(machine.failed(), [])


@test("the listening service and strict.conf serve a directory")
def _(t):
    strict_conf(t)
    machine.write("/srv/nbd/images/a.img", pattern(0, MIB))
    for name in ("nbdinetd", "nbdinetd-listen"):
        Served(t, "", "--directory=/srv/nbd/images", name=name)
        client = Client(connect(PORT)).start("a.img")
        client.write(4096, bytes(512), NBD_CMD_FLAG_FUA)
        eq(client.read(0, 512), pattern(0, 512))
        client.disconnect()
        machine.systemctl("stop", f"{name}.socket", f"{name}.service", check=False)


@test("the listening service and strict.conf work in a container without systemd's own nodes or /dev/kmsg")
def _(t):
    strict_conf(t)
    machine.write("/srv/nbd/export.img", pattern(0, MIB))
    machine.shell("mv /run/systemd/inaccessible /run/moved")
    t.defer(lambda: machine.shell("mv /run/moved /run/systemd/inaccessible"))

    def served(name):
        Served(t, "/srv/nbd/export.img", name=name)
        client = Client(connect(PORT)).start()
        assert not client.flags & NBD_FLAG_READ_ONLY
        eq(client.read(4096, 512), pattern(4096, 512))
        client.disconnect()
        machine.systemctl("stop", f"{name}.socket", f"{name}.service", check=False)
    for name in ("nbdinetd", "nbdinetd-listen"):
        served(name)
    # What they have not, because they would not start: systemd mounts such a node over /dev/kmsg.
    if machine.path("/dev/kmsg").exists():
        eq(run_service("ProtectKernelLogs=yes", "/bin/true"), 226)
        machine.shell("umount --lazy /dev/kmsg; rm /dev/kmsg")
        for name in ("nbdinetd", "nbdinetd-listen"):
            served(name)


@test("the listening service starts with its first client, serves a rack, and reloads beside it", guard=180.0)
def _(t):
    machine.write("/srv/nbd/export.img", pattern(0, MIB))
    served = Served(t, "/srv/nbd/export.img", "--readonly", name="nbdinetd-listen")
    eq(machine.show("nbdinetd-listen.service", "ActiveState"), "inactive")
    clients = [Client(connect(PORT)).start() for _ in range(RACK)]
    eq(machine.show("nbdinetd-listen.service", "ActiveState"), "active")
    machine.write("/srv/nbd/other.img", bytes(2 * MIB))
    served.serve("/srv/nbd/other.img")
    machine.systemctl("reload", "nbdinetd-listen.service")
    other = Client(connect(PORT)).start()
    eq((other.size, clients[0].size), (2 * MIB, MIB))
    for number, client in enumerate(clients):
        eq(client.read(number * 512, 512), pattern(number * 512, 512))
        client.disconnect()
    machine.systemctl("stop", "nbdinetd-listen.socket", "nbdinetd-listen.service")
    other.expect_end()
    other.close()
    eq(machine.failed(), [])


def tests(booted):
    global machine
    machine = booted
    main()


if __name__ == "__main__":
    pid1.run(tests)
