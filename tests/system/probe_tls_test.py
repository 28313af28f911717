#!/usr/bin/python3
"""nbdinetctl probe over TLS: whose certificate and whose key it believes, and what it says of the others."""

import json
import os
import pwd
import shutil
import socket
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
from harness import *
from harness import MIB, contains, eq, find_tool, matches, need, test, uri, wait_listening
from probing import *
from tls import *


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
    address = serve(t, "--tls=require", f"--tls-certificates={ca.server_files(t)}", "--tls-verify-peer")
    probe(t, nbds(address, trusts(ca.client_files(t, "alice"))))
    contains("certificate required", refused(t, nbds(address, trusts(ca.client_files(t)))))
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


@test("libnbd's directories are the default for certificates")
def _(t):
    ca = authority()
    home = t.dir / "home"
    address = serve(t, "--tls=require", f"--tls-certificates={ca.server_files(t)}")
    for directory in ".config/pki/libnbd", ".pki/libnbd":
        shutil.copytree(ca.client_files(t), home / directory)
        probe(t, nbds(address), env={"HOME": str(home)})
        shutil.rmtree(home / directory)
    contains("the server's certificate is refused", refused(t, nbds(address)))


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


@test("a client that has a key refuses a server that shows a certificate instead, whoever has certified it")
def _(t):
    ca = authority()
    home = t.dir / "home"
    shutil.copytree(ca.client_files(t), home / ".pki" / "libnbd")
    address = serve(t, "--tls=require", f"--tls-certificates={ca.server_files(t)}")
    key = f"tls-psk-file={psk_file(t, 'alice')}/keys.psk"
    for more in [], ["tls-verify-peer=0"], [f"tls-certificates={home}/.pki/libnbd"]:
        process = probe(t, nbds(address, key, *more, user="alice"), status=1, env={"HOME": str(home)})
        contains("the TLS handshake failed", process.stderr())


@test("a missing file, no TLS at the server, and a handshake without an end are a sentence")
def _(t):
    address = serve(t)
    known = trusts(authority().client_files(t))
    contains("the server doesn't support NBD_OPT_STARTTLS", refused(t, nbds(address, known)))
    none = nbds(address, trusts(t.dir / "none"))
    contains(f'failed to open "{t.dir}/none/ca-cert.pem" for TLS', refused(t, none))
    matches(r"\Aready down #failed to open ", probe(t, none, "--agent").stdout())

    def silent(connection):
        connection.sendall(b"NBDMAGICIHAVEOPT\0\3")
        connection.recv(4 + 16, socket.MSG_WAITALL)
        connection.sendall(b"\0\3\xe8\x89\x04\x55\x65\xa9\0\0\0\5\0\0\0\1\0\0\0\0")
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
