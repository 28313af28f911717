#!/usr/bin/python3
"""Exports as files, under a systemd that is process 1 (see support/pid1.py): from /etc/nbdinetd to what a
client is served."""

import errno
import json
import os
import socket
import stat
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import pid1  # noqa: E402
from faults import LoopDevice, need_privilege  # noqa: E402
from harness import *  # noqa: E402
from tls import TlsClient, authority, client_context  # noqa: E402

CONFIG = "/etc/nbdinetd"
ERROR = "3"

machine = None  # the pid1.Machine
_ports = iter(range(10900, 11900))


def port_line(port):
    return f"ListenStream=127.0.0.1:{port}"


def export(t, name, text, reload=True):
    """Makes a .export file that lasts as long as the test, and starts what it enables."""
    machine.write(f"{CONFIG}/{name}.export", text)

    def remove():
        machine.shell(f"rm -rf {CONFIG}/{name}.export {CONFIG}/{name}.export.d")
        machine.systemctl("stop", f"nbdinetd-{name}.socket", f"nbdinetd-{name}.service",
                          f"nbdinetd-{name}@*.service", check=False)
    if reload:
        t.defer(reload_units)  # after all of them have been removed
    t.defer(remove)
    if reload:
        reload_units()


def reload_units():
    """What an administrator does after a change; sockets.target is active already."""
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "sockets.target")


def image(path, size=MIB):
    machine.write(path, pattern(0, size))
    return path


def serve(t, name, path, *lines, sections="", reload=True):
    """An export of this file on a port of its own; returns the address."""
    port = next(_ports)
    text = "\n".join(["[Export]", f"File={path}", *lines, "[Socket]", port_line(port), sections, ""])
    export(t, name, text, reload)
    return ("127.0.0.1", port)


def served(address, size=MIB, name=""):
    """A client that has been served the pattern. The address is (host, port), or a path in the system."""
    connection = machine.connect(address) if isinstance(address, str) else connect(address)
    client = Client(connection).start(name)
    eq(client.size, size)
    eq(client.read(4096, 512), pattern(4096, 512))
    return client


def instance(name):
    """The unit of the one connection of an export."""
    return wait_until(lambda: machine.instances(f"nbdinetd-{name}"), "a connection's unit")[0]


def generator_errors(since):
    return [(e["MESSAGE"], e["PRIORITY"]) for e in
            machine.journal(since, "SYSLOG_IDENTIFIER=nbdinetd-generator")]


def properties(unit, *names):
    values = machine.show(unit, *names)
    return [values] if len(names) == 1 else values


def description(unit):
    """Without the peer's address, which systemd appends."""
    return machine.show(unit, "Description").rpartition(" (")[0]


@test("a file is an export after daemon-reload; without it, it is none")
def _(t):
    address = serve(t, "second", image("/srv/nbd/second.img"))
    client = served(address)
    client.write(0, b"written")
    client.disconnect()
    eq(machine.path("/srv/nbd/second.img").read_bytes()[:7], b"written")
    machine.shell(f"rm {CONFIG}/second.export")
    machine.systemctl("daemon-reload")
    eq(machine.show("nbdinetd-second@x.service", "LoadState"), "not-found")
    machine.systemctl("stop", "nbdinetd-second.socket")
    eq(machine.show("nbdinetd-second.socket", "LoadState"), "not-found")


# What means something to a shell, to systemd, or to a parser.
HOSTILE = ["with two  spaces", "100% %n %% %", "$HOME ${HOME} $$ $", "\"double\" 'single' \"", "back\\slash \\n \\ x",
           "é ☃ 🦊", "; a ;", "#c", "colon:s", "tab\tinside", "-dash", "{a,b}*?[x]~", "=e=q", "!@&|<>()`"]


def serve_all(t, kind, place, texts, *lines):
    """[(export, its address, path, text)] of exports whose paths have these texts in the place of {}."""
    made = []
    t.defer(reload_units)
    for number, text in enumerate(texts):
        path = image(place.replace("{}", text))
        name = f"{kind}{number}"
        address = serve(t, name, path, f"ExportName={text}", *lines, reload=False)
        made.append((name, address, path, text))
    reload_units()
    return made


def write_all(t, kind, place):
    """Writes to a listener's exports with hostile paths."""
    for _name, address, path, text in serve_all(t, kind, place, HOSTILE, "Mode=listener"):
        client = served(address, name=text)
        client.write(0, b"written")
        client.disconnect()
        eq(machine.path(path).read_bytes()[:7], b"written", text)


@test("paths, names and descriptions arrive in nbdinetd as they are in the file, whatever is in them")
def _(t):
    for name, address, path, text in serve_all(t, "hostile", "/data/{}", HOSTILE, "ReadOnly=yes"):
        client = served(address, name=text)
        unit = instance(name)
        argv = machine.process_of(unit).joinpath("cmdline").read_bytes().decode().split("\0")
        eq(argv[1:], ["--readonly", f"--exportname={text}", "--", path, ""])
        eq(description(unit), f"NBD export {name}")
        client.disconnect()
    everything = " ".join(HOSTILE)
    client = served(serve(t, "described", path, f"Description={everything}"))
    eq(description(instance("described")), f"NBD export described ({everything})")
    client.disconnect()


@test("the same in a listener's service, whose mount namespace shows that one file")
def _(t):
    write_all(t, "home", "/home/me/{}")


@test("the same in the paths that a listener's service may write to")
def _(t):
    write_all(t, "written", "/data/writable/{}/disk.img")


def list_property(unit, name):
    """A property of a unit whose value is a list of strings."""
    escaped = "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):02x}" for c in unit)
    answer = machine.run("busctl", "--json=short", "get-property", "org.freedesktop.systemd1",
                         f"/org/freedesktop/systemd1/unit/{escaped}", "org.freedesktop.systemd1.Unit", name)
    return json.loads(answer.stdout)["data"]


@test("the same in the mount points that the service requires, those of a link's target among them")
def _(t):
    target = image("/data/target of 100% a link $x/disk.img")
    for name, address, path, text in serve_all(t, "mounts", "/data/on the way/{}", HOSTILE):
        client = served(address, name=text)
        contains(path, list_property(instance(name), "RequiresMountsFor"))
        client.disconnect()
    machine.shell(f"ln -sf '{target}' '{path}'")
    client = served(serve(t, "mountslink", path))
    required = list_property(instance("mountslink"), "RequiresMountsFor")
    eq([wanted for wanted in (path, target) if wanted not in required], [])
    client.disconnect()


@test("an error is one line in the journal with its file and line, and harms no other export")
def _(t):
    since = machine.now_us()
    export(t, "bad", "[Export]\nFile=/data/bad.img\nReadOnly=maybe\n", reload=False)
    export(t, "broken", "[Export\n", reload=False)
    address = serve(t, "good", image("/data/good.img"))
    wanted = [(f"{CONFIG}/bad.export:3: ReadOnly=maybe: use yes or no", ERROR),
              (f'{CONFIG}/broken.export:1: "[Export": a section has its name in brackets, as [Export]', ERROR)]
    wait_until(lambda: len(generator_errors(since)) >= 2, "two errors in the journal")
    eq(generator_errors(since), wanted)
    eq([e.get("NBD_EXPORT") for e in machine.journal(since, "SYSLOG_IDENTIFIER=nbdinetd-generator")],
       ["bad", "broken"])
    eq(machine.show("nbdinetd-bad.socket", "LoadState"), "not-found")
    served(address).disconnect()
    # Nothing else of systemd's about it.
    eq([e["MESSAGE"] for e in machine.journal(since, "_PID=1") if "generator" in e["MESSAGE"]], [])


@test("of two files on one address, the first is served, and the other one is an error")
def _(t):
    since = machine.now_us()
    export(t, "twin1", f"[Export]\nFile={image('/data/one.img', MIB)}\n", reload=False)
    export(t, "twin2", f"[Export]\nFile={image('/data/two.img', 2 * MIB)}\n")
    wait_until(lambda: generator_errors(since), "an error in the journal")
    eq(generator_errors(since),
       [(f"{CONFIG}/twin2.export: without ListenStream=10809: export twin1 listens on it already; choose "
         "another address, or set Enabled=no in one of the files", ERROR)])
    served(("127.0.0.1", 10809), MIB).disconnect()


@test("a new file with the address of an export that listens does not end that export")
def _(t):
    address = serve(t, "zz-runs", image("/data/one.img"))
    since = machine.now_us()
    # Its name comes first.
    export(t, "aa-new", f"[Export]\nFile={image('/data/two.img', 2 * MIB)}\n[Socket]\n{port_line(address[1])}\n",
           reload=False)
    machine.systemctl("daemon-reload")
    errors = wait_until(lambda: generator_errors(since), "an error in the journal")
    contains(f"{CONFIG}/zz-runs.export:4: ListenStream=127.0.0.1:{address[1]}: export aa-new listens on it",
             errors[0][0])
    eq(machine.show("nbdinetd-zz-runs.socket", "ActiveState"), "active")
    served(address).disconnect()


@test("an export is changed and removed by the commands of nbdinetd.export(5), without and with a listener")
def _(t):
    image("/data/three.img", 3 * MIB)
    for mode, service in (("connection", "nbdinetd-changed@*.service"), ("listener", "nbdinetd-changed.service")):
        sockets = [next(_ports) for _ in range(2)]

        def text(file, port):
            return f"[Export]\nFile={file}\nMode={mode}\n[Socket]\n{port_line(port)}\n"  # noqa: B023
        export(t, "changed", text(image("/data/one.img"), sockets[0]))
        served(("127.0.0.1", sockets[0])).disconnect()
        machine.write(f"{CONFIG}/changed.export", text("/data/three.img", sockets[0]))
        machine.systemctl("daemon-reload")
        if mode == "listener":
            machine.systemctl("reload", service)
        served(("127.0.0.1", sockets[0]), 3 * MIB).disconnect()
        machine.write(f"{CONFIG}/changed.export", text("/data/three.img", sockets[1]))
        machine.systemctl("daemon-reload")
        machine.systemctl("stop", "nbdinetd-changed.socket")
        if mode == "listener":
            machine.systemctl("stop", service)
        machine.systemctl("start", "nbdinetd-changed.socket")
        address = ("127.0.0.1", sockets[1])
        client = served(address, 3 * MIB)
        machine.systemctl("stop", "nbdinetd-changed.socket")
        machine.systemctl("stop", service)
        client.expect_end()
        machine.shell(f"rm {CONFIG}/changed.export")
        machine.systemctl("daemon-reload")
        for port in sockets:
            with socket.socket() as attempt:
                eq(attempt.connect_ex(("127.0.0.1", port)), errno.ECONNREFUSED)


@test("nbdinetctl limit holds for connected clients and for those that come, and is taken back by 0")
def _(t):
    address_of = {}
    for mode in ("connection", "listener"):
        address = address_of[mode] = serve(t, f"slow-{mode}", image("/data/slow.img"), f"Mode={mode}")
        connected = served(address)
        said = machine.run("nbdinetctl", "limit", f"slow-{mode}", "--max-rate=1:1").stdout
        contains("1 client has it already", said)
        new = served_slowly(address)
        held = [[client.request(NBD_CMD_READ, i * 4096, 4096) for i in range(3)] for client in (connected, new)]
        for client, cookies in zip((connected, new), held):
            client.flush()
            assert not client.is_answered(cookies[-1]), mode
        contains("MaxRate=1:1", machine.shell(f"cat {CONFIG}/slow-{mode}.export.d/50-max-rate.conf"))
        said = machine.run("nbdinetctl", "limit", f"slow-{mode}", "--max-rate=0", "--max-iops=100000").stdout
        contains("2 clients have it already", said)
        for client, cookies in zip((connected, new), held):
            for i, cookie in enumerate(cookies):
                eq(client.answer(cookie).check().data, pattern(i * 4096, 4096))
        third = served(address)
        for client in (connected, new, third):
            client.disconnect()
    # One that is read later would add to it, or end the export: nothing changes.
    drop_ins = f"{CONFIG}/slow-connection.export.d"
    machine.write(f"{drop_ins}/60-rate.conf", "[Export]\nMaxRate=10M\n")
    for limits in (["--max-rate=5M"], ["--max-rate=5M", "--max-rate=6M"]):
        failed = machine.run("nbdinetctl", "limit", "slow-connection", *limits, check=False)
        eq(failed.returncode, 1)
        contains("60-rate.conf:2: MaxRate=10M is read as well", failed.stderr)
        eq(machine.shell(f"grep MaxRate {drop_ins}/50-max-rate.conf"), "MaxRate=\nMaxRate=0\n")
    served(address_of["connection"]).disconnect()
    failed = machine.run("nbdinetctl", "limit", "slow-connection", check=False)
    eq(failed.returncode, 64)
    contains("--max-rate=BYTES", failed.stderr)


def served_slowly(address):
    """A client that has read nothing."""
    client = Client(connect(address)).start()
    client.flush()
    return client


@test("a listener serves the file that has replaced another one")
def _(t):
    address = serve(t, "replaced", image("/data/here/one.img"), "Mode=listener")
    served(address).disconnect()
    process = machine.show("nbdinetd-replaced.service", "MainPID")
    image("/data/here/new.img", 2 * MIB)
    machine.shell("mv /data/here/new.img /data/here/one.img")
    client = served(address, 2 * MIB)
    client.write(0, b"written")
    client.disconnect()
    eq(machine.path("/data/here/one.img").read_bytes()[:7], b"written")
    eq(machine.show("nbdinetd-replaced.service", "MainPID"), process)
    # In /home, after a reload.
    address = serve(t, "replaced-home", image("/home/me/one.img"), "Mode=listener")
    served(address).disconnect()
    image("/home/me/new.img", 2 * MIB)
    machine.shell("mv /home/me/new.img /home/me/one.img")
    machine.systemctl("reload", "nbdinetd-replaced-home.service")
    served(address, 2 * MIB).disconnect()


@test("a listener serves a directory that other services see empty")
def _(t):
    for directory in ("/home", "/var/tmp"):
        name = f"whole{directory.replace('/', '-')}"
        image(f"{directory}/a.img")
        port = next(_ports)
        export(t, name, f"[Export]\nDirectory={directory}\nMode=listener\n[Socket]\n{port_line(port)}\n")
        client = served(("127.0.0.1", port), name="a.img")
        client.write(0, b"written")
        client.disconnect()
        eq(machine.path(f"{directory}/a.img").read_bytes()[:7], b"written")


@test("Enabled=no in a drop-in keeps an export off, and without it, it is on")
def _(t):
    machine.write(f"{CONFIG}/off.export.d/50-enabled.conf", "[Export]\nEnabled=no\n")
    address = serve(t, "off", image("/data/off.img"))
    eq(properties("nbdinetd-off.socket", "LoadState", "ActiveState"), ["loaded", "inactive"])
    machine.shell(f"rm {CONFIG}/off.export.d/50-enabled.conf")
    reload_units()
    eq(machine.show("nbdinetd-off.socket", "ActiveState"), "active")
    served(address).disconnect()


@test("[Install] names the units that start an export")
def _(t):
    port = next(_ports)
    machine.write("/etc/systemd/system/storage.target", "[Unit]\nDescription=Storage\n")
    export(t, "later", f"[Export]\nFile={image('/data/later.img')}\n[Socket]\n{port_line(port)}\n"
                       "[Install]\nWantedBy=storage.target\n")
    eq(machine.show("nbdinetd-later.socket", "ActiveState"), "inactive")
    machine.systemctl("start", "storage.target")
    served(("127.0.0.1", port)).disconnect()
    machine.systemctl("stop", "storage.target")


@test("a Unix socket has the mode 0660, and [Socket] wins over it")
def _(t):
    for name, extra, mode in (("unix", "", 0o660), ("open", "SocketMode=0666\n", 0o666)):
        path = f"/run/{name}.sock"
        export(t, name, f"[Export]\nFile={image('/data/unix.img')}\n[Socket]\nListenStream={path}\n{extra}")
        eq(machine.path(path).stat().st_mode & 0o777, mode)
        served(path).disconnect()


@test("a listener serves an image in /home, read-write, and exits when idle")
def _(t):
    address = serve(t, "listening", image("/home/me/listening.img"), "Mode=listener", "IdleExit=1s",
                    "MaxConnections=3")
    client = served(address)
    client.write(0, b"written")
    unit = "nbdinetd-listening.service"
    eq(properties(unit, "ActiveState", "SourcePath"), ["active", f"{CONFIG}/listening.export"])
    argv = machine.process_of(unit).joinpath("cmdline").read_bytes().decode().split("\0")
    eq(argv[-5:], ["--exit-idle=1s", "--max-connections=3", "--", "/home/me/listening.img", ""])
    client.disconnect()
    eq(machine.path("/home/me/listening.img").read_bytes()[:7], b"written")
    wait_until(lambda: machine.show(unit, "ActiveState") == "inactive", "the idle service to exit")
    served(address).disconnect()
    eq(machine.failed(), [])


def files_without_name(name):
    """What the processes of an export have open and is in no directory, but for their statistics."""
    units = machine.instances(f"nbdinetd-{name}") or [f"nbdinetd-{name}.service"]
    return machine.shell("".join(
        f"for process in $(cat /sys/fs/cgroup$(systemctl show --value -p ControlGroup '{unit}')/cgroup.procs); do "
        'find "/proc/$process/fd" -lname "*(deleted)" ! -lname "/memfd:nbdinetd-statistics*" -printf "%l\\n"; '
        "done\n" for unit in units)).split("\n")[:-1]


@test("each client has a private copy, in the state directory of the export's user or in CowDir=")
def _(t):
    path = image("/srv/nbd/cow.img")
    machine.shell("chmod 644 /srv/nbd/cow.img; mkdir -p /home/copies; chown nobody /home/copies")
    for mode in ("connection", "listener"):
        for number, (lines, place) in enumerate((
                (["User=nobody"], "/nbdinetd/cow-"), (["User=nobody", "CowDir=/home/copies"], "/home/copies/"),
                (["CowDir=memory"], "/memfd:nbdinetd-copy"))):
            name = f"cow-{mode}-{number}"
            address = serve(t, name, path, f"Mode={mode}", "Cow=discard", *lines)
            client = served(address)
            client.write(4096, b"written")
            other = served(address)
            other.write(4096, b"another")
            eq(client.read(4096, 7) + other.read(4096, 7), b"writtenanother")
            found = files_without_name(name)
            eq([place in target for target in found], [True] * len(found), str(found))
            eq(len(found), 2)
            for each in (client, other):
                each.disconnect()
    eq(machine.path("/srv/nbd/cow.img").read_bytes()[4096:4103], pattern(4096, 7))


def _snapshots(kind, word, *make):
    @test(f"a snapshot for each connection, as nbdinetd-cow(8) makes it on {kind}, is removed when its client leaves")
    def _(t):
        need_privilege("root", "loop")
        disk = t.path("disk")
        with open(disk, "wb") as file:
            file.truncate(320 * MIB)
        t.run([need(make[0]), *make[1:], disk])
        with LoopDevice(disk) as device:
            if not machine.path(device.path).exists():
                os.mknod(machine.path(device.path), 0o600 | stat.S_IFBLK, os.stat(device.path).st_rdev)
            machine.shell(f"mkdir -p /srv/nbd; mount -t {kind} {device.path} /srv/nbd; mkdir /srv/nbd/snapshots")
            t.defer(machine.shell, "umount /srv/nbd")
            path = "/srv/nbd/golden.img"
            if kind == "btrfs":
                machine.shell("btrfs -q subvolume create /srv/nbd/images")
                path = "/srv/nbd/images/golden.img"
            machine.shell(f"head -c {MIB} /dev/urandom >{path}")
            content = machine.path(path).read_bytes
            wanted = content()
            port = next(_ports)
            text = recipe(BUILDDIR / "man/nbdinetd-cow.8", "SNAPSHOTS", word)
            export(t, f"snapshot-{kind}", f"{text}\n[Socket]\n{port_line(port)}\n")
            clients = [Client(connect(("127.0.0.1", port))).start() for _ in range(2)]
            for number, client in enumerate(clients):
                eq(client.flags & NBD_FLAG_CAN_MULTI_CONN, 0)
                client.write(4096, bytes([number]) * 4096, NBD_CMD_FLAG_FUA)
            eq([client.read(4096, 4096) == bytes([number]) * 4096 for number, client in enumerate(clients)],
               [True, True])
            eq(content() == wanted, True, "the image")
            snapshots = machine.path("/srv/nbd/snapshots")
            eq(len(os.listdir(snapshots)), 2)
            clients[0].disconnect()
            wait_until(lambda: len(os.listdir(snapshots)) == 1, "the first client's snapshot to go")
            # A unit is there for a moment after its commands.
            wait_until(lambda: len(machine.instances(f"nbdinetd-snapshot-{kind}")) == 1, "its unit to go")
            # With systemd 257 a kill of all processes is one of the control group (cgroup.kill), after which
            # Linux 6.18 also kills each process that systemd starts in it, such as ExecStopPost='s.
            machine.systemctl("kill", "--kill-whom=main", "--signal=SIGKILL", instance(f"snapshot-{kind}"))
            wait_until(lambda: not os.listdir(snapshots), "the snapshot of a killed process to go")
            wait_until(lambda: not machine.instances(f"nbdinetd-snapshot-{kind}"), "the units to go")
            eq(content() == wanted, True, "the image")
            eq([name for name in os.listdir(machine.path("/run")) if "snapshot" in name], [])


_snapshots("xfs", "cp", "mkfs.xfs", "-q", "-m", "reflink=1")
_snapshots("btrfs", "btrfs", "mkfs.btrfs", "-q")


@test("TLS files are credentials: another user serves with keys that only root may read")
def _(t):
    ca, keys = authority(), "/etc/pki/my'keys%x\""
    for name in ("ca-cert.pem", "server-cert.pem", "server-key.pem"):
        machine.write(f"{keys}/{name}", Path(ca.path(name)).read_bytes(), 0o600)
    image("/data/tls.img")
    machine.shell("chown nobody /data/tls.img; chmod 600 /data/tls.img")
    for mode in ("connection", "listener"):
        address = serve(t, f"tls-{mode}", "/data/tls.img", f"Mode={mode}", "TLS=require",
                        f"TLSCertificates={keys}", "User=nobody", "TLSVerifyPeer=yes")
        client = TlsClient(connect(address)).start(
            tls=client_context(certificate=(ca, "alice")))
        eq(client.read(4096, 512), pattern(4096, 512), mode)
        client.disconnect()


@test("pre-shared keys are a credential")
def _(t):
    machine.write("/etc/nbdinetd/my'keys%%.psk", "alice:" + "ab" * 32 + "\n", 0o600)
    image("/data/psk.img")
    machine.shell("chown nobody /data/psk.img")
    address = serve(t, "psk", "/data/psk.img", "TLS=require", "TLSPreSharedKeys=/etc/nbdinetd/my'keys%%.psk",
                    "User=nobody")
    psk = t.image(b"alice:" + b"ab" * 32 + b"\n", "keys.psk")
    result = t.run(["nbdinfo", "--size",
                    f"nbds://alice@127.0.0.1:{address[1]}/?tls-psk-file={psk}"])
    eq(result.stdout().strip(), str(MIB))


@test("the connections of an export may open the one block device that it serves, and no other")
def _(t):
    need_privilege("root", "loop")
    backing = t.pattern_image(MIB)
    with LoopDevice(backing) as device:
        machine.shell("mkdir -p /data")
        node = machine.path(device.path)
        if not node.exists():
            machine.shell(f"mknod {device.path} b {os.major(os.stat(device.path).st_rdev)} "
                          f"{os.minor(os.stat(device.path).st_rdev)}")
        machine.shell(f"ln -sf {device.path} '/data/link to a device'")
        for name, path in (("the-device", device.path), ("link", "/data/link to a device")):
            client = served(serve(t, name, path))
            slice_ = machine.show(instance(name), "Slice")
            eq(slice_, f"system-nbdinetd-{name}.slice".replace("the-", "the\\x2d"))
            eq(machine.show(slice_, "DevicePolicy", "DeviceAllow"), ["closed", f"{device.path} rw"])
            contains("/system-nbdinetd.slice/", machine.show(instance(name), "ControlGroup"))
            client.disconnect()
        for number, text in enumerate(HOSTILE):
            path = f"/dev/{text}"
            os.mknod(machine.path(path), 0o600 | stat.S_IFBLK, os.stat(device.path).st_rdev)
            served(serve(t, f"device{number}", path)).disconnect()
        # A link that is made after the units: no device is allowed.
        for mode in ("connection", "listener"):
            address = serve(t, f"file-{mode}", "/data/late", f"Mode={mode}")
            machine.shell(f"ln -s {device.path} /data/late")
            since = machine.now_us()
            Client(connect(address)).expect_end()
            machine.wait_for_message(since, "Operation not permitted")
            machine.shell("rm /data/late")


@test("the manual's drop-in limits the slice around an export's connections, and set-property changes the limit")
def _(t):
    """What systemd understands; tests/vm has what the kernel makes of it."""
    client = served(serve(t, "with-limits", image("/srv/nbd/limits.img")))
    unit = machine.show(instance("with-limits"), "Slice")
    eq(unit, r"system-nbdinetd-with\x2dlimits.slice")
    folder = f"/etc/systemd/system/{unit}.d"
    t.defer(reload_units)
    t.defer(lambda: machine.run("rm", "-r", folder))
    machine.write(f"{folder}/limits.conf",
                  recipe(BUILDDIR / "man/nbdinetd.export.5", "LIMITS OF AN EXPORT", "IOReadBandwidthMax=/srv/nbd"))
    reload_units()
    limits = ("IOReadBandwidthMax", "IOWriteBandwidthMax", "CPUWeight", "CPUQuotaPerSecUSec", "IOAccounting")
    eq(machine.show(unit, *limits), ["/srv/nbd 20000000", "/srv/nbd 20000000", "50", "1s", "yes"])
    done = machine.run("systemd-analyze", "verify", unit)
    eq([line for line in (done.stdout + done.stderr).splitlines() if "limits.conf" in line], [], "complaints")
    # What the generator has set is still there.
    eq(machine.show(unit, "DevicePolicy"), "closed")
    machine.systemctl("set-property", "--runtime", unit, "IOReadBandwidthMax=/srv/nbd 40M")
    eq(machine.show(unit, "IOReadBandwidthMax"), "/srv/nbd 40000000")
    client.disconnect()


@test("systemctl warns when the file is newer than the units")
def _(t):
    serve(t, "newer", image("/data/newer.img"))
    eq(machine.show("nbdinetd-newer.socket", "NeedDaemonReload"), "no")
    machine.shell(f"touch -d '1 hour' {CONFIG}/newer.export")
    eq(machine.show("nbdinetd-newer.socket", "NeedDaemonReload"), "yes")


@test("settings of [Unit], [Socket] and [Service] come last, and win")
def _(t):
    address = serve(t, "passed", image("/data/passed.img"), sections="MaxConnections=7\n[Service]\n"
                    "TasksMax=11\nEnvironment=A=%p\n[Unit]\nAfter=nothing.service\n"
                    "ConditionPathExists=/data/passed.img\n[X-Mine]\nAnything=here\n")
    client = served(address)
    unit = instance("passed")
    eq(properties(unit, "TasksMax", "Environment"), ["11", "A=nbdinetd-passed"])
    contains("nothing.service", machine.show(unit, "After"))
    eq("nothing.service" in machine.show("nbdinetd-passed.socket", "After"), False)
    eq(properties("nbdinetd-passed.socket", "MaxConnections", "ConditionResult"), ["7", "yes"])
    client.disconnect()


@test("an automount point and a missing file system keep nobody waiting")
def _(t):
    machine.write("/etc/systemd/system/far.mount", "[Mount]\nWhat=tmpfs\nType=tmpfs\nWhere=/far\n")
    machine.write("/etc/systemd/system/far.automount", "[Automount]\nWhere=/far\n")
    machine.systemctl("daemon-reload")
    started = machine.run("systemctl", "start", "far.automount", check=False)
    require(started.returncode == 0, "no automount points here")
    t.defer(machine.systemctl, "stop", "far.automount", "far.mount")
    machine.shell(f"mkdir -p {CONFIG}; ln -s /far/x.export {CONFIG}/leads-there.export")
    t.defer(machine.shell, f"rm {CONFIG}/leads-there.export")
    since = machine.now_us()
    machine.systemctl("daemon-reload")
    errors = wait_until(lambda: generator_errors(since), "an error in the journal")
    contains(f"{CONFIG}/leads-there.export: this leads to an automount point", errors[0][0])
    machine.shell(f"rm {CONFIG}/leads-there.export; ln -s /dev/null {CONFIG}/leads-there.export")
    since = machine.now_us()
    serve(t, "far", "/far/away.img", "Mode=listener", "TLS=require", "TLSCertificates=/far/keys")
    serve(t, "gone", "/data/nowhere/gone.img")
    eq(machine.show("far.mount", "ActiveState"), "inactive")
    eq(generator_errors(since), [])
    contains("far.mount", machine.show("nbdinetd-far.service", "Requires"))


@test("a user's own service manager has the exports in ~/.config/nbdinetd, read-write and over TLS")
def _(t):
    need("setpriv")
    user, home, runtime = "1", "/home/someone", "/run/user/1"
    image(f"{home}/disk.img")
    machine.write(f"{home}/my keys.psk", "alice:" + "ab" * 32 + "\n", 0o600)
    for mode, name in (("connection", "mine"), ("listener", "listening")):
        machine.write(f"{home}/.config/nbdinetd/{name}.export",
                      f"[Export]\nFile={home}/disk.img\nMode={mode}\nTLSPreSharedKeys={home}/my keys.psk\n"
                      f"[Socket]\nListenStream=%t/{name}.sock\n")
    machine.write(f"{home}/.config/nbdinetd/wrong.export", f"[Export]\nFile={home}/disk.img\nUser=root\n")
    machine.shell(f"mkdir -p {runtime}; chown -R {user}:{user} {home} {runtime}")
    since = machine.now_us()
    machine.run("systemd-run", "--unit=manager", f"--uid={user}", f"--gid={user}", "--property=Delegate=yes",
                f"--setenv=XDG_RUNTIME_DIR={runtime}", f"--setenv=HOME={home}", "/lib/systemd/systemd", "--user")
    t.defer(machine.systemctl, "stop", "manager.service")
    t.defer(machine.shell, f"rm -rf {home}")
    for name in ("mine", "listening"):
        path = f"{runtime}/{name}.sock"
        wait_until(machine.path(path).exists, "the user's manager to listen")
        eq(machine.path(path).stat().st_mode & 0o777, 0o660)
        client = served(path)
        client.write(0, name.encode())
        client.disconnect()
        eq(machine.path(f"{home}/disk.img").read_bytes()[:4], name.encode()[:4])
    errors = wait_until(lambda: generator_errors(since), "the error of wrong.export")
    eq(errors, [(f"{home}/.config/nbdinetd/wrong.export:3: User=: a user's own service manager can't change "
                 "the user; leave it out", ERROR)])


# Last, since its system ends with it.
@test("an export is served after a boot")
def _(t):
    image("/data/golden.img")
    machine.write(f"{CONFIG}/golden.export", "[Export]\nFile=/data/golden.img\nReadOnly=yes\n"
                                             "Description=100% golden\n")
    machine.boot_for(t)
    eq(properties("nbdinetd-golden.socket", "ActiveState", "UnitFileState", "SourcePath", "Description"),
       ["active", "generated", f"{CONFIG}/golden.export", "NBD socket of golden (100% golden)"])
    client = served(("127.0.0.1", 10809))
    assert client.flags & NBD_FLAG_READ_ONLY
    eq(description(instance("golden")), "NBD export golden (100% golden)")
    client.disconnect()
    wait_until(lambda: not machine.instances("nbdinetd-golden"), "the connection's unit to be gone")
    eq(machine.failed(), [])


def tests(booted):
    global machine
    machine = booted
    main()


if __name__ == "__main__":
    pid1.run(tests)
