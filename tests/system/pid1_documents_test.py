#!/usr/bin/python3
"""What the documents show, under a systemd that is process 1 (see support/pid1.py): the session of README.md and the
pictures are what the programs print, and each export of doc/recipes.md serves a client as it says."""

import shutil
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import documents  # noqa: E402
import pid1  # noqa: E402
import sessions  # noqa: E402
from harness import *  # noqa: E402
from tls import TlsClient, authority, client_context  # noqa: E402

machine = None  # the pid1.Machine

TO_RECORD = "if the new text is right, doc/record writes it down"


def same(shown, printed, what, **how):
    eq(sessions.normalised(printed, **how).splitlines(), sessions.normalised(shown, **how).splitlines(),
       f"{what} ({TO_RECORD})")


def boot(t):
    """A system without exports; the test's are gone at its end."""
    machine.kill()
    shutil.rmtree(machine.path("/etc/nbdinetd"), ignore_errors=True)
    machine.boot_for(t)


# ------------------------------------------------------------------ recipes

RECIPES = documents.markdown_blocks("doc/recipes.md", (SRCDIR / "doc/recipes.md").read_text())
NEIGHBOUR = "192.0.2.7"  # a client of the network that the recipes allow


def prepare():
    """The user, the images, the keys and the rules that the recipes want."""
    machine.run("useradd", "--system", "nbd", check=False)
    for name in ("nbd/disk.img", "nbd/golden.img", "nbd/images/debian.img", "nbd/images/alice-1.img", "ceph/disk.img"):
        machine.write(f"/srv/{name}", pattern(0, MIB))
    machine.write("/etc/nbdinetd/rules", next(block.code for block in RECIPES if block.language == "rules"))
    machine.write("/etc/nbdinetd/keys.psk", "alice:" + "5a" * 32 + "\n", mode=0o600)
    machine.run("chown", "-R", "nbd", "/srv/nbd")
    for address in (NEIGHBOUR, "192.0.2.200"):
        machine.run("ip", "address", "add", f"{address}/32", "dev", "lo", check=False)


def connection_from(t, address, port):
    connection = socket.socket()
    t.defer(connection.close)
    connection.settimeout(GUARD)
    connection.bind((address, 0))
    connection.connect((address if address == "127.0.0.1" else NEIGHBOUR, port))
    return connection


def served(t, address, port, name, tls):
    connection = connection_from(t, address, port)
    return TlsClient(connection).start(name, tls=tls) if tls else Client(connection).start(name)


def give_keys(t, text):
    """Makes the server's certificates; a client's TLS, with the certificate that the recipe lets in."""
    if "TLSCertificates=" not in text:
        return None
    keys = Path(authority().server_files(t))
    for path in keys.iterdir():
        machine.write(f"/etc/nbdinetd/keys/{path.name}", path.read_bytes(), mode=0o600)
    authority().issue("build-1", "/CN=build-1")
    return client_context(authority(), (authority(), "build-1"))


def export_of(t, text):
    """Starts the export of a recipe; its port."""
    port = int((re.findall(r"^ListenStream=(\d+)$", text, re.MULTILINE) or ["10809"])[0])
    machine.write("/etc/nbdinetd/tried.export", text)
    machine.systemctl("daemon-reload")

    def remove():
        machine.path("/etc/nbdinetd/tried.export").unlink()
        machine.systemctl("stop", "nbdinetd-tried.socket", "nbdinetd-tried.service", "nbdinetd-tried@*.service",
                          check=False)
        machine.systemctl("daemon-reload")
    t.defer(remove)
    checked = machine.run("nbdinetctl", "check", "tried", check=False)
    eq((checked.returncode, re.findall(r"^tried +(?!ok)\w+ .*", checked.stdout, re.MULTILINE)), (0, []), checked.stdout)
    machine.run("nbdinetctl", "start", "tried")
    return port


def try_recipe(t, text):
    tls = give_keys(t, text)
    port = export_of(t, text)
    if "TLSPreSharedKeys=" in text:
        command = [need("nbdinfo"), "--size", f"nbds://alice@127.0.0.1:{port}?tls-psk-file={machine.path('/etc/nbdinetd/keys.psk')}"]
        eq(t.run(command).stdout().strip(), str(MIB))
        t.run([need("nbdinfo"), "--size", f"nbd://127.0.0.1:{port}"], status=1)
        return
    address = NEIGHBOUR if "192.0.2" in text or "Rules=" in text else "127.0.0.1"
    name = "alice-1.img" if "Rules=" in text else "debian.img" if "Directory=" in text else ""
    client = served(t, address, port, name, tls)
    eq((client.size, client.read(4096, 512) == pattern(4096, 512)), (MIB, True))
    eq(bool(client.flags & NBD_FLAG_READ_ONLY), "ReadOnly=yes" in text)
    if "Cow=keep" in text:
        client.write(0, b"mine")
        client.disconnect()
        eq(machine.path("/srv/nbd/golden.img").read_bytes()[:8], pattern(0, 8))
        client = served(t, address, port, name, tls)
        eq(client.read(0, 4), b"mine", "the copy of a client that has come back")
    client.disconnect()
    if "\nAllow=" in text:
        with connect(("127.0.0.1", port)) as stranger:
            eq(stranger.recv(1), b"", "a client that isn't allowed")


def recipe_test(block):
    @test(f"{block}: the export serves a client as it says")
    def _(t):
        prepare()
        try_recipe(t, block.code)


# The volume of the one other is not to be had here.
TRIED = [block for block in RECIPES if "[Export]" in block.code and "File=/dev/" not in block.code]
for each in TRIED:
    recipe_test(each)


@test("doc/recipes.md has exports that were tried")
def _(_t):
    eq(len(TRIED) >= 8, True, len(TRIED))


# ------------------------------------------------------------------ what is shown

@test("the session of README.md is what its commands print")
def _(t):
    boot(t)
    need("nbdcopy")
    same(sessions.readme_session(), sessions.readme(machine), "README.md")


@test("the pictures show what their commands print")
def _(t):
    boot(t)
    for name, text in sessions.pictures(machine).items():
        same((sessions.PICTURES / f"{name}.txt").read_text(), text, name, busy=True)


def tests(system):
    global machine
    machine = system
    main()


if __name__ == "__main__":
    pid1.run(tests)
