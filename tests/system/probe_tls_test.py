#!/usr/bin/python3
"""nbdinetctl probe over TLS: whose certificate and whose key it believes, and what it says of the others."""

import contextlib
import json
import os
import pwd
import shutil
import socket
import ssl
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
from faults import Mount
from harness import *
from harness import MIB, as_user, contains, eq, find_tool, matches, need, need_root, test, uri, wait_listening
from probing import *
from tls import *


NOBODY = 65534
HELLO = b"NBDMAGICIHAVEOPT\0\3"
# The acknowledgement of NBD_OPT_STARTTLS.
TLS_BEGINS = b"\0\3\xe8\x89\x04\x55\x65\xa9\0\0\0\5\0\0\0\1\0\0\0\0"


def begin_tls(connection):
    """What a server does before TLS."""
    connection.sendall(HELLO)
    connection.recv(4 + 16, socket.MSG_WAITALL)
    connection.sendall(TLS_BEGINS)


def trusts(directory):
    return f"tls-certificates={directory}"


@test("the server's certificate is verified, and so is its name")
def _(t):
    ca = authority()
    known, stranger = trusts(ca.client_files(t)), trusts(authority("Another CA").client_files(t))
    options = "--tls=require", f"--tls-certificates={ca.server_files(t)}"
    for address in serve(t, *options), serve(t, *options, address=t.path("tls.sock")):
        for read in ([], ["--read"]):
            row, = json.loads(probe(t, nbds(address, known), "--json", *read).stdout())
            eq(row["size"], 4 * MIB)
        for name in "localhost", "127.0.0.1":
            probe(t, nbds(address, known, f"tls-hostname={name}"))
        for name, sentence in ("nbd.example.com", "hostname mismatch"), ("127.0.0.2", "IP address mismatch"):
            contains(f"the server's certificate is refused: {sentence}",
                     refused(t, nbds(address, known, f"tls-hostname={name}")))
        for unknown in [stranger], []:
            contains("the server's certificate is refused: unable to get local issuer certificate",
                     refused(t, nbds(address, *unknown)))
        probe(t, nbds(address, stranger, "tls-hostname=nbd.example.com", "tls-verify-peer=0"))
        contains("probe it as nbds://", refused(t, uri(address)))


@test("a client's certificate is shown to a server that asks for one, and the server's reason is told")
def _(t):
    ca = authority()
    options = "--tls=require", f"--tls-certificates={ca.server_files(t)}", "--tls-verify-peer"
    for address in serve(t, *options), serve(t, *options, address=t.path("tls.sock")):
        probe(t, nbds(address, trusts(ca.client_files(t, "alice"))))
        # The server has closed, or hasn't yet, when the probe asks for the export.
        for _ in range(15):
            contains("server ended TLS: tlsv13 alert certificate required", refused(t, nbds(address, trusts(ca.client_files(t)))))
    files = ca.client_files(t)
    os.symlink("missing", f"{files}/client-cert.pem")
    contains('client-cert.pem" for TLS: No such file', refused(t, nbds(address, trusts(files))))
    address = serve(t, "--tls=require", f"--tls-certificates={ca.server_files(t, 'ca-crl.pem')}", "--tls-verify-peer")
    contains("certificate revoked", refused(t, nbds(address, trusts(ca.client_files(t, "bob")))))


@test("a server's certificate that is too old, or revoked, is refused")
def _(t):
    ca = Authority(t.dir / "ca", "CA of the probe")

    def address():
        return serve(t, "--tls=require", f"--tls-certificates={ca.server_files(t)}")
    files = ca.client_files(t)
    ca.revoke()
    shutil.copy(ca.path("ca-crl.pem"), files)
    probe(t, nbds(address(), trusts(files)))
    ca.revoke("server")
    shutil.copy(ca.path("ca-crl.pem"), files)
    contains("certificate revoked", refused(t, nbds(address(), trusts(files))))
    ca.issue("server", "/CN=old", "subjectAltName=DNS:localhost", expired=True)
    contains("certificate has expired", refused(t, nbds(address(), trusts(files))))


def libnbd_directory(ca, path):
    """Files of a client where libnbd looks for them."""
    path.mkdir(parents=True)
    shutil.copy(ca.path("ca-cert.pem"), path)


@test("the default for certificates is libnbd's: /etc/pki/libnbd for root, and the home directory for others")
def _(t):
    need_root("to be another user, and to change /etc")
    ca = authority()
    t.dir.chmod(0o755)
    home, etc = t.dir / "home", t.dir / "etc"
    address = serve(t, "--tls=require", f"--tls-certificates={ca.server_files(t)}")

    def run(prefix, status):
        return t.run([*prefix, NBDINETCTL, "probe", nbds(address)], status, env={"HOME": str(home)}).stderr()
    for directory in ".config/pki/libnbd", ".pki/libnbd":
        libnbd_directory(ca, home / directory)
        run(as_user(NOBODY), 0)
        contains("the server's certificate is refused", run([], 1))
        shutil.rmtree(home / directory)
    contains("the server's certificate is refused", run(as_user(NOBODY), 1))
    # What can't be looked at isn't taken for nothing.
    libnbd_directory(ca, home / ".pki/libnbd")
    (home / ".pki").chmod(0o700)
    contains('ca-cert.pem" for TLS: Permission denied', run(as_user(NOBODY), 1))
    parts = f"lowerdir=/etc,upperdir={etc}/upper,workdir={etc}/work"
    libnbd_directory(ca, etc / "upper" / "pki" / "libnbd")
    (etc / "work").mkdir()
    with Mount("none", "/etc", "overlay", parts):
        run([], 0)
        contains("the server's certificate is refused", run([*as_user(NOBODY), "env", "HOME=/nonexistent"], 1))


class TlsServer:
    """A server of Python's OpenSSL that goes as far as TLS, and then closes; the names that it was asked for."""

    def __init__(self, t, certificate, options=lambda context: None):
        self.names = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if certificate:
            self._context.load_cert_chain(f"{certificate}-cert.pem", f"{certificate}-key.pem")
        self._context.sni_callback = lambda _tls, name, _context: self.names.append(name)
        options(self._context)
        self.address = server_that(t, self._answer)

    def _answer(self, connection):
        begin_tls(connection)
        # A client that doesn't believe leaves.
        with contextlib.suppress(OSError), self._context.wrap_socket(connection, server_side=True) as tls:
            tls.recv(1)


# A TLS handshake with a TlsServer that has succeeded.
BELIEVED = "the server closed the connection"


def certificate(t, ca, names, **how):
    """The path, without its end, of a certificate for these names."""
    name = f"c{len(os.listdir(ca.directory))}"
    ca.issue(name, "/CN=nobody", f"subjectAltName={names}", **how)
    return ca.path(name)


@test("whose certificate is believed: names, wildcards and addresses")
def _(t):
    ca = Authority(t.dir / "ca", "CA of the names")
    known = trusts(ca.client_files(t))
    for names, hosts in (
            ("DNS:nbd.example.com", {"nbd.example.com": True, "NBD.example.COM": True, "nbd.example.com.": True,
                                     "example.com": False, "a.nbd.example.com": False, "nobody": False}),
            ("DNS:*.example.com", {"nbd.example.com": True, "a.nbd.example.com": False, "example.com": False}),
            ("DNS:n*.example.com", {"nbd.example.com": False}),
            ("IP:127.0.0.1,IP:::1", {"127.0.0.1": True, "::1": True, "::1%251": True, "127.0.0.2": False}),
            ("DNS:127.0.0.1", {"127.0.0.1": False})):
        server = TlsServer(t, certificate(t, ca, names))
        for host, believed in hosts.items():
            said = refused(t, nbds(server.address, known, f"tls-hostname={host}"))
            contains(BELIEVED if believed else "the server's certificate is refused", said, f"{names} for {host}")
    for host in ".example.com", "a" * 254:
        process = probe(t, nbds(server.address, known, f"tls-hostname={host}"), status=64)
        contains("no certificate is of the host", process.stderr())


@test("the server is told the name by which it is wanted, and never an address")
def _(t):
    ca = authority()
    server = TlsServer(t, ca.path("server"))
    known = trusts(ca.client_files(t))
    for parameters, name in (([known], "localhost"), ([known, "tls-hostname=nbd.example.com."], "nbd.example.com"),
                             ([known, "tls-hostname=nbd.example.com", "tls-verify-peer=0"], "nbd.example.com"),
                             ([known, "tls-hostname=127.0.0.1"], None), ([known, "tls-hostname=::1"], None)):
        refused(t, nbds(server.address, *parameters))
        eq(server.names.pop(), name, parameters)


@test("TLS 1.2 is spoken with forward secrecy and authenticated encryption, whatever OpenSSL's configuration allows")
def _(t):
    ca = authority()
    known = trusts(ca.client_files(t))
    config = t.dir / "openssl.cnf"
    config.write_text("openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\nCipherString = ALL:@SECLEVEL=0\n")

    def says(ciphers):
        def options(context):
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(ciphers)
        server = TlsServer(t, ca.path("server"), options)
        return probe(t, nbds(server.address, known), status=1, env={"OPENSSL_CONF": str(config)}).stderr()
    for ciphers in "ECDHE+AESGCM", "ECDHE+CHACHA20":
        contains(BELIEVED, says(ciphers), ciphers)
    for ciphers in "ECDHE+AES:!AESGCM:!AESCCM", "aNULL:@SECLEVEL=0", "eNULL:@SECLEVEL=0":
        contains("the TLS handshake failed", says(ciphers), ciphers)


@test("an authority that another has certified is enough, and without a directory the system's authorities are believed")
def _(t):
    ca = Authority(t.dir / "root", "Root")
    deputy = Authority(t.dir / "deputy-ca", "Deputy", issuer=ca)
    server = TlsServer(t, deputy.path("server"))
    contains(BELIEVED, refused(t, nbds(server.address, trusts(deputy.client_files(t)))))
    contains("the server's certificate is refused", refused(t, nbds(server.address, trusts(ca.client_files(t)))))
    system = TlsServer(t, ca.path("server"))
    environment = {"SSL_CERT_FILE": ca.path("ca-cert.pem"), "HOME": str(t.dir)}
    contains(BELIEVED, probe(t, nbds(system.address), status=1, env=environment).stderr())
    # The use that a certificate is for.
    wrong = TlsServer(t, certificate(t, ca, "DNS:localhost\nextendedKeyUsage=clientAuth"))
    contains("unsuitable certificate purpose", refused(t, nbds(wrong.address, trusts(ca.client_files(t)))).replace(
        "unsupported certificate purpose", "unsuitable certificate purpose"))


@test("a pre-shared key is that of the user in the URI, or of who runs the probe")
def _(t):
    me = pwd.getpwuid(os.geteuid()).pw_name
    mine, others = psk_file(t, "alice", me), psk_file(t, "alice", "bob")
    keys, wrong = f"tls-psk-file={mine}/keys.psk", f"tls-psk-file={others}/keys.psk"
    options = "--tls=require", f"--tls-psk={mine}/keys.psk"
    for address in serve(t, *options), serve(t, *options, address=t.path("tls.sock")):
        for user in "alice", "":
            probe(t, nbds(address, keys, user=user), "--read")
        contains('has no key of "carol"', refused(t, nbds(address, keys, user="carol")))
        contains(f'has no key of "{me}"', refused(t, nbds(address, wrong)))
        for user in "alice", "bob":
            contains(f'(PSK identity "{user}")', refused(t, nbds(address, wrong, user=user)))
    longest = "x" * 256
    keys = f"{psk_file(t, longest)}/keys.psk"
    address = serve(t, "--tls=require", f"--tls-psk={keys}")
    probe(t, nbds(address, f"tls-psk-file={keys}", user=longest))
    os.chmod(keys, 0o644)
    contains("are no secret", probe(t, nbds(address, f"tls-psk-file={keys}", user=longest)).stderr())


@test("a client that has a key refuses a server that shows a certificate instead, whoever has certified it")
def _(t):
    ca = authority()
    home = t.dir / "home"
    shutil.copytree(ca.client_files(t), home / ".pki" / "libnbd")
    address = serve(t, "--tls=require", f"--tls-certificates={ca.server_files(t)}")
    key = f"tls-psk-file={psk_file(t, 'alice')}/keys.psk"
    for more in [], ["tls-verify-peer=0"], [f"tls-certificates={home}/.pki/libnbd"]:
        process = probe(t, nbds(address, key, *more, user="alice"), status=1, env={"HOME": str(home)})
        contains("the server shows a certificate instead of the key", process.stderr())


@test("without verification, a failure isn't laid at the server's certificate")
def _(t):
    ca = authority()

    def options(context):
        context.verify_mode = ssl.CERT_REQUIRED
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    server = TlsServer(t, ca.path("server"), options)
    said = refused(t, nbds(server.address, trusts(authority("Another CA").client_files(t)), "tls-verify-peer=0"))
    contains("the TLS handshake failed", said)
    eq("certificate is refused" in said, False, said)


@test("a missing file, no TLS at the server, and a handshake without an end are a sentence")
def _(t):
    address = serve(t)
    known = trusts(authority().client_files(t))
    contains("the server doesn't support NBD_OPT_STARTTLS", refused(t, nbds(address, known)))
    none = nbds(address, trusts(t.dir / "none"))
    contains(f'failed to open "{t.dir}/none/ca-cert.pem" for TLS', refused(t, none))
    matches(r"\Aready down #failed to open ", probe(t, none, "--agent").stdout())

    def silent(connection):
        begin_tls(connection)
        while connection.recv(4096):
            pass
    contains("TLS handshake in time", refused(t, nbds(server_that(t, silent), known), "--timeout=300ms"))


@test("servers of other programs are probed over TLS, too")
def _(t):
    ca = authority()
    image, files, keys = t.sparse_image(4 * MIB), ca.server_files(t), psk_file(t, "alice")
    known, key = trusts(ca.client_files(t)), f"tls-psk-file={keys}/keys.psk"
    qemu = ["qemu-nbd", "-r", "-f", "raw", "-x", "", "-t", image, "--tls-creds=x", "--object"]
    nbdkit = ["nbdkit", "-f", "-r", "--tls=require"]
    servers = [
        ([*nbdkit, f"--tls-certificates={files}", "file", image, "--unix"], known, ""),
        ([*nbdkit, f"--tls-psk={keys}/keys.psk", "file", image, "--unix"], key, "alice"),
        ([*qemu, f"tls-creds-x509,id=x,endpoint=server,verify-peer=no,dir={files}", "-k"], known, ""),
        ([*qemu, f"tls-creds-psk,id=x,endpoint=server,dir={keys}", "-k"], key, "alice")]
    if not find_tool("qemu-nbd"):
        need("nbdkit")
    for (program, *options), how, user in servers:
        if not find_tool(program):
            continue
        path = t.fresh(".sock")
        wait_listening(path, t.spawn([need(program), *options, path]))
        row, = json.loads(probe(t, nbds(path, how, "tls-hostname=localhost", user=user), "--json", "--read").stdout())
        eq(row["size"], 4 * MIB, options)


if __name__ == "__main__":
    main_with_nbdinetctl(main_with_tls)
