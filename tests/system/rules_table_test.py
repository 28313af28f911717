#!/usr/bin/python3
"""--rules as a table: who asks for which export in which way, and what he gets. Every row is a
connection of a real client to the real program; tests/system/rules_test.py has what is no row."""

import os
import socket
import ssl
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from clients import import_libnbd
from harness import *
from listening import *
from tls import *

EXPORTS = ("alice-1", "alice-2", "golden", "public", "scratch", "secret", "vm-1", "vm-2")

RULES = """\
# WHO                        EXPORTS              WHAT FOR
tls:CN=build-*,OU=CI,*       golden               ro
tls:CN=admin,*               *                    rw
tls:CN=guest,*               public               cow
issuer:CN=Test?CA            public               ro    # any other certificate
psk:alice                    alice-*  scratch     rw
psk:a*                       public               ro
psk:bob                      alice-1              ro
127.0.0.2                    golden               ro  cow
127.0.0.0/29                 golden  public       ro
127.0.0.8/29                 vm-*                 rw  exclusive=refuse
127.0.0.9                    -
127.0.1.0/24                 *                    ro
127.0.1.0/24                 scratch              rw    # the line before names it, too
127.0.2.0/24                 scratch              rw
127.0.2.0/24                 *                    ro
127.0.3.0/24                 ?m-1  "golden"  gol* rw
127.0.4.0/24                 absent  "*"          cow
::1                          secret               ro
uid:4001                     scratch              rw
gid:5001                     public               ro
gid:5002                     -
unix:                        golden               ro
*                            -
"""

# With "taking", these are in the file, too. Who isn't identified then gets nothing: he could be one of them.
TAKING = """\
tls:CN=revoked,*             -
psk:mallory                  -
"""

# An address of 127.0.0.0/8 is where the client comes from. With "tls" it goes on with a certificate of
# that name, and with "psk" as that user. A client without TLS is never refused at once here: TLS may tell
# more of it.
TABLE = """
who                       | export  | asked for | got
--------------------------+---------+-----------+----------------
127.0.0.1                 | golden  | write     | read-only
127.0.0.1                 | public  | write     | read-only
127.0.0.1                 | scratch | write     | no export
127.0.0.1                 | absent  | write     | no export
127.0.0.1                 | *       | list      | golden public
127.0.0.1                 | golden  | info      | read-only
127.0.0.1                 | secret  | info      | no export
127.0.0.1                 | secret  | contexts  | no export
127.0.0.1                 | golden  | contexts  | contexts
127.0.0.1                 | golden  | old       | read-only
127.0.0.1                 | secret  | old       | no export
127.0.0.2                 | golden  | write     | copy
127.0.0.2                 | public  | write     | no export
127.0.0.2                 | *       | list      | golden
127.0.0.2                 | golden  | info      | copy
127.0.0.8                 | vm-1    | write     | read-write
127.0.0.8                 | vm-2    | write     | read-write
127.0.0.8                 | vm-1    | twice     | in use
127.0.0.8                 | golden  | write     | no export
127.0.0.8                 | *       | list      | vm-1 vm-2
127.0.0.9                 | vm-1    | write     | no export
127.0.0.9                 | *       | list      | nothing
127.0.1.1                 | scratch | write     | read-only
127.0.1.1                 | secret  | write     | read-only
127.0.1.1                 | golden  | twice     | both
127.0.1.1                 | absent  | write     | no export
127.0.1.1                 | *       | list      | everything
127.0.2.1                 | scratch | write     | read-write
127.0.2.1                 | secret  | write     | read-only
127.0.2.1                 | *       | list      | everything
127.0.3.1                 | vm-1    | write     | read-write
127.0.3.1                 | vm-2    | write     | no export
127.0.3.1                 | golden  | write     | read-write
127.0.3.1                 | *       | list      | golden vm-1
127.0.4.1                 | absent  | write     | no export
127.0.4.1                 | golden  | write     | copy
127.0.4.1                 | *       | list      | everything
127.0.5.1                 | golden  | write     | no export
127.9.9.9                 | *       | list      | nothing
::1                       | secret  | write     | read-only
::1                       | golden  | write     | no export
::1                       | *       | list      | secret
uid=4001                  | scratch | write     | read-write
uid=4001                  | golden  | write     | no export
uid=4001 gid=5001         | public  | write     | no export
uid=4002                  | golden  | write     | read-only
uid=4002                  | *       | list      | golden
uid=4002 gid=5001         | public  | write     | read-only
uid=4002 gid=5001         | golden  | write     | no export
uid=4002 gid=5002         | golden  | write     | no export
uid=4002 gid=5001,5002    | public  | write     | no export
uid=4001 gid=5002         | scratch | write     | read-write
127.0.0.1 tls=build-7     | golden  | write     | read-only
127.0.0.1 tls=build-7     | public  | write     | no export
127.0.0.2 tls=build-7     | golden  | write     | read-only
127.0.5.1 tls=build-7     | golden  | write     | read-only
127.0.0.9 tls=build-7     | *       | list      | golden
127.0.0.1 tls=admin       | secret  | write     | read-write
127.0.5.1 tls=admin       | *       | list      | everything
127.0.5.1 tls=admin       | absent  | write     | no export
127.0.5.1 tls=guest       | public  | write     | copy
127.0.5.1 tls=guest       | golden  | write     | no export
127.0.0.1 tls=revoked     | public  | write     | read-only
127.0.0.1 tls=revoked taking=1 | public | write | no connection
127.0.0.1 tls=build-7 taking=1 | golden | write | read-only
127.0.0.1 taking=1        | golden  | write     | no export
127.0.0.1 taking=1        | *       | list      | nothing
uid=4001 taking=1         | scratch | write     | no export
uid=4002 tls=admin taking=1 | vm-2  | write     | read-write
127.0.0.1 tls=forger      | golden  | write     | no export
127.0.0.1 tls=forger      | public  | write     | read-only
127.0.0.1 tls=swapped     | golden  | write     | no export
127.0.0.1 tls=built-7     | *       | list      | public
uid=4002 tls=admin        | vm-2    | write     | read-write
127.0.0.1 psk=alice       | alice-1 | write     | read-write
127.0.0.1 psk=alice       | scratch | write     | read-write
127.0.0.1 psk=alice       | public  | write     | no export
127.0.0.1 psk=alice       | *       | list      | alice-1 alice-2 scratch
127.0.0.9 psk=alice       | alice-2 | write     | read-write
127.0.0.1 psk=anna        | public  | write     | read-only
127.0.0.1 psk=anna        | alice-1 | write     | no export
127.0.0.1 psk=bob         | alice-1 | write     | read-only
127.0.0.1 psk=bob         | *       | list      | alice-1
127.0.0.1 psk=mallory taking=1 | golden | write | no connection
127.0.0.1 psk=zoe         | golden  | write     | read-only
127.0.0.1 psk=zoe taking=1 | golden | write     | read-only
127.0.5.1 psk=zoe         | golden  | write     | no connection
"""

CERTIFICATES = {  # as openssl's -subj has it: the last attribute is the first one of RFC 2253
    "build-7": "/O=Example/OU=CI/CN=build-7",
    "built-7": "/O=Example/OU=CI/CN=built-7",
    "admin": "/O=Example/CN=admin",
    "guest": "/O=Example/CN=guest",
    "revoked": "/O=Example/CN=revoked",
    "forger": "/CN=forger/O=x,CN=build-7,OU=CI",  # a value with commas
    "swapped": "/O=Example/CN=build-7/OU=CI",
}


class Refused(Exception):
    """The server has ended the connection."""


def rows():
    lines = [line for line in TABLE.splitlines() if "|" in line][1:]
    return [tuple(cell.strip() for cell in line.split("|")) for line in lines]


class World:
    """Servers of the same exports: one with certificates and one with PSKs, by RULES and with TAKING."""

    def __init__(self, t):
        self.t = t
        self.directory = Path(t.fresh(".exports"))
        self.directory.mkdir()
        for name in EXPORTS:
            self.restore(name)
        self.authority = authority("Test CA")
        for name, subject in CERTIFICATES.items():
            self.authority.issue(name, subject)
        self.keys = Path(t.fresh(".psk"))
        self.keys.write_text("".join(f"{user}:{index:032x}\n" for index, user in enumerate(
            ("alice", "anna", "bob", "mallory", "zoe"), 1)))
        files = self.authority.server_files(t)
        self.doors, self.servers = {}, []
        for taking, text in ((False, RULES), (True, RULES + TAKING)):
            rules = t.fresh(".rules")
            Path(rules).write_text(text)
            common = [f"--rules={rules}", f"--directory={self.directory}", "--cow-dir=memory", "--tls=on"]
            doors = {kind: Door(t, kind) for kind in ("dual", "unix")}
            os.chmod(doors["unix"].addresses[0][1], 0o777)
            self.servers.append(activate(t, *common, f"--tls-certificates={files}", "--tls-verify-peer",
                                         inherited=list(doors.values())))
            psk_door = Door(t, "tcp")
            self.servers.append(activate(t, *common, f"--tls-psk={self.keys}", inherited=[psk_door]))
            self.doors[taking] = {**doors, "psk": psk_door}

    def restore(self, name):
        (self.directory / name).write_bytes(name.encode().ljust(8192, b"."))

    def is_changed(self, name):
        return (self.directory / name).read_bytes() != name.encode().ljust(8192, b".")

    def connect(self, who):
        """A socket of this client."""
        words = dict(word.split("=") for word in who.split() if "=" in word)
        doors = self.doors["taking" in words]
        if "uid" in words:
            return self.connect_as(doors["unix"], int(words["uid"]),
                                   [int(gid) for gid in words.get("gid", "").split(",") if gid])
        source = who.split()[0]
        if source == "::1":
            return doors["dual"].connect(0)
        door = doors["psk" if "psk" in words else "dual"]
        connection = socket.socket(socket.AF_INET)
        connection.settimeout(GUARD)
        connection.bind((source, 0))
        connection.connect(door.addresses[-1][1])
        return connection

    @staticmethod
    def connect_as(door, uid, groups):
        before = os.getgroups()
        os.setgroups(groups[1:])
        os.setegid(groups[0] if groups else 1)
        os.seteuid(uid)
        try:
            return door.connect()
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(before)

    def client(self, who):
        """A Client, or a handle of libnbd for PSKs, behind the handshake."""
        words = dict(word.split("=") for word in who.split() if "=" in word)
        connection = self.connect(who)
        if "psk" in words:
            return LibnbdClient(connection, self.keys, words["psk"])
        if "tls" not in words:
            client = Client(connection)
            try:
                client.handshake()
            except Disconnected as end:
                raise Refused from end
            return client
        client = TlsClient(connection)
        context = client_context(self.authority, (self.authority, words["tls"]))
        try:
            client.start_tls(context)
            client.list_exports()  # with TLS 1.3, only now the client hears of a refusal
        except (Disconnected, ssl.SSLError) as end:
            raise Refused from end
        return client

    def got(self, who, export, asked):
        try:
            client = self.client(who)
        except Refused:
            return "no connection"
        if asked == "list":
            names = tuple(sorted(client.names()) if isinstance(client, LibnbdClient) else
                          sorted(name for name, _ in client.list_exports()))
            return "everything" if names == EXPORTS else " ".join(names) or "nothing"
        if isinstance(client, LibnbdClient):
            return self.written(client, export) if client.choose(export) else "no export"
        if asked == "contexts":
            client.structured_replies()
            try:
                return "contexts" if client.meta_contexts(name=export) else "no contexts"
            except OptionError as error:
                eq(error.reply, NBD_REP_ERR_UNKNOWN)
                return "no export"
        if asked == "old":
            try:
                client.export_name(export)
            except Disconnected:
                return "no export"
            return self.written(client, export)
        try:
            if asked == "info":
                client.info(export)
                return ("read-only" if client.flags & NBD_FLAG_READ_ONLY else
                        "read-write" if client.flags & NBD_FLAG_CAN_MULTI_CONN else "copy")
            client.choose(export)
        except OptionError as error:
            eq((error.reply, error.message), (NBD_REP_ERR_UNKNOWN, "there is no export of this name"))
            return "no export"
        if asked == "twice":
            try:
                other = self.client(who)
                other.choose(export)
            except OptionError as error:
                eq(error.reply, NBD_REP_ERR_POLICY)
                return "in use"
            return "both"
        return self.written(client, export)

    def written(self, client, export):
        """What became of a write."""
        if client.flags & NBD_FLAG_READ_ONLY:
            refuses(NBD_EPERM, client.write, 0, b"x" * 512)
            eq(self.is_changed(export), False, "a read-only export has changed")
            return "read-only"
        client.write(0, b"x" * 512)
        client.flush()
        eq(client.read(0, 512), b"x" * 512)
        client.disconnect()
        if not self.is_changed(export):
            return "copy"
        self.restore(export)
        return "read-write"


class LibnbdClient:
    """The same by libnbd, for PSKs, which Python's TLS hasn't."""

    def __init__(self, connection, keys, user):
        self.nbd = import_libnbd()
        self.handle = self.nbd.NBD()
        self.handle.set_opt_mode(True)
        self.handle.set_strict_mode(0)
        self.handle.set_tls(self.nbd.TLS_REQUIRE)
        self.handle.set_tls_psk_file(str(keys))
        self.handle.set_tls_username(user)
        try:
            self.handle.connect_socket(connection.detach())
            self.names()
        except self.nbd.Error as end:
            raise Refused from end

    def names(self):
        names = []
        self.handle.opt_list(lambda name, description: names.append(name) or 0)
        return names

    def choose(self, export):
        self.handle.set_export_name(export)
        try:
            self.handle.opt_go()
        except self.nbd.Error:
            return False
        self.flags = NBD_FLAG_READ_ONLY if self.handle.is_read_only() else 0
        return True

    def write(self, offset, data):
        try:
            self.handle.pwrite(data, offset)
        except self.nbd.Error as error:
            raise NbdError(NBD_EPERM if error.errno == "EPERM" else 0) from error

    def read(self, offset, length):
        return bytes(self.handle.pread(length, offset))

    def flush(self):
        self.handle.flush()

    def disconnect(self):
        self.handle.shutdown()


@test("each client gets what the table says, and nothing else")
def _(t):
    need_root("to connect as other users")
    table = rows()
    assert len(table) >= 60, f"only {len(table)} rows"
    need("openssl")
    import_libnbd()
    if not has_ipv6():
        raise Skip("this machine has no IPv6")
    world = World(t)
    wrong = []
    for who, export, asked, expected in table:
        got = world.got(who, export, asked)
        if got != expected:
            wrong.append(f"{who} | {export} | {asked} | got {got}, not {expected}")
    eq(wrong, [], "\n".join(wrong))
    for name in EXPORTS:
        eq(world.is_changed(name), False, name)
    for server in world.servers:
        stop(server)


private_network()
main_with_tls()
