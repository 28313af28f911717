#!/usr/bin/python3
"""TLS with the usual clients, which use GnuTLS; and what a connection with TLS loads, maps and asks
of the system."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
from clients import program_output, system_python_environment
from harness import *
from harness import descendants_of, need, test
from listening import Door, activate, stop
from tls import *


def listener(context, *arguments, image=None, family="unix"):
    """A listening nbdinetd, its socket, and the image."""
    image = image or context.random_image(8 * MIB)
    door = Door(context, family)
    process = activate(context, "--log=stderr", *arguments, image, inherited=[door])
    return process, door, image


def uri(door, *parameters, user=""):
    return nbds(door.addresses[0][1], *parameters, user=user)


def there_and_back(context, address, image, env=None):
    """nbdcopy out of an export and into it."""
    copy = context.fresh(".copy")
    context.run(["nbdcopy", address, copy], env=env)
    eq(Path(copy).read_bytes(), Path(image).read_bytes())
    new = context.random_image(Path(image).stat().st_size, seed=9)
    context.run(["nbdcopy", "--flush", new, address], env=env)
    eq(Path(image).read_bytes(), Path(new).read_bytes())


@test("nbdcopy and nbdinfo use pre-shared keys, over Unix sockets and TCP")
def _(context):
    need("nbdcopy")
    for family in ("unix", "tcp"):
        keys = psk_file(context, "bob", "alice")
        process, door, image = listener(context, "--tls=require", f"--tls-psk={keys}/keys.psk",
                                        family=family)
        address = uri(door, f"tls-psk-file={keys}/keys.psk", user="alice")
        contains("with TLS", program_output(context, ["nbdinfo", address]))
        there_and_back(context, address, image)
        stop(process)
        matches(r'serving export .* TLS \(TLSv1\.3, .*\) with "alice"', process.stderr())


@test("nbdcopy and nbdinfo use certificates, over Unix sockets and TCP")
def _(context):
    need("nbdcopy")
    ca = authority()
    for family in ("unix", "tcp"):
        process, door, image = listener(
            context, "--tls=require", "--tls-verify-peer",
            f"--tls-certificates={ca.server_files(context)}", family=family)
        files = ca.client_files(context, "alice")
        there_and_back(context, uri(door, f"tls-certificates={files}"), image)
        nobody = ca.client_files(context)
        context.run(["nbdinfo", uri(door, f"tls-certificates={nobody}")], status=1)
        stop(process)
        matches(r'serving export .* with "CN=alice', process.stderr())
        matches("handshake failed: .*certificate", process.stderr())


@test("clients that know no TLS 1.3 are served, with certificates and with pre-shared keys")
def _(context):
    need("nbdcopy")
    # GnuTLS's own configuration (gnutls_priority_init, "Overriding algorithms and parameters").
    configuration = context.path("gnutls.cfg")
    Path(configuration).write_text("[overrides]\ndisabled-version = tls1.3\n")
    env = {"GNUTLS_SYSTEM_PRIORITY_FILE": configuration}
    keys, ca = psk_file(context, "alice"), authority()
    for server, client, user, told in (
            (f"--tls-psk={keys}/keys.psk", f"tls-psk-file={keys}/keys.psk", "alice",
             "ECDHE-PSK-CHACHA20-POLY1305"),
            (f"--tls-certificates={ca.server_files(context)}",
             f"tls-certificates={ca.client_files(context)}", "", "ECDHE-ECDSA-AES128-GCM-SHA256")):
        process, door, image = listener(context, "--tls=require", server)
        there_and_back(context, uri(door, client, user=user), image, env=env)
        stop(process)
        matches(rf"serving export .* TLS \(TLSv1\.2, {told}\)", process.stderr())


@test("a wrong key, an unknown user and a user who isn't allowed are refused")
def _(context):
    need("nbdinfo")
    keys, others = psk_file(context, "alice", "bob"), psk_file(context, "alice", "carol")
    process, door, _ = listener(context, "--tls=require", f"--tls-psk={keys}/keys.psk",
                                "--tls-allow=al*")
    context.run(["nbdinfo", uri(door, f"tls-psk-file={keys}/keys.psk", user="alice")])
    context.run(["nbdinfo", uri(door, f"tls-psk-file={keys}/keys.psk", user="bob")], status=1)
    context.run(["nbdinfo", uri(door, f"tls-psk-file={others}/keys.psk", user="alice")], status=1)
    context.run(["nbdinfo", uri(door, f"tls-psk-file={others}/keys.psk", user="carol")], status=1)
    context.run(["nbdinfo", uri(door, "").replace("nbds", "nbd", 1)], status=1)
    stop(process)
    for words in (r'PSK identity "bob"', r'\(PSK identity "alice"\)',
                  r'\(unknown PSK identity "carol"\)'):
        matches(words, process.stderr())


@test("qemu-img reads and compares over TLS, with certificates and with a pre-shared key")
def _(context):
    need("qemu-img")
    ca = authority()
    keys = psk_file(context)
    files = ca.client_files(context, "alice")
    for arguments, credentials in (
            (["--tls-verify-peer", f"--tls-certificates={ca.server_files(context)}"],
             f"tls-creds-x509,id=tls0,endpoint=client,dir={files}"),
            ([f"--tls-psk={keys}/keys.psk"],
             f"tls-creds-psk,id=tls0,endpoint=client,username=alice,dir={keys}")):
        process, door, image = listener(context, "--tls=require", *arguments, family="tcp")
        port = door.addresses[0][1][1]
        remote = f"driver=nbd,host=127.0.0.1,port={port},tls-creds=tls0"
        if "psk" not in credentials:
            remote = remote.replace("127.0.0.1", "localhost")
        output = program_output(context, [
            "qemu-img", "compare", "--object", credentials, "--image-opts", remote,
            f"driver=raw,file.driver=file,file.filename={image}"])
        contains("identical", output)
        stop(process)


@test("nbd-client lists exports over TLS")
def _(context):
    client = need("nbd-client")
    ca = authority()
    process, door, _ = listener(context, "--tls=require", "--tls-verify-peer",
                                "--exportname=disk",
                                f"--tls-certificates={ca.server_files(context)}", family="tcp")
    port = door.addresses[0][1][1]
    output = program_output(context, [
        client, "-l", "localhost", str(port), "-cacertfile", ca.path("ca-cert.pem"), "-certfile",
        ca.path("alice-cert.pem"), "-keyfile", ca.path("alice-key.pem"), "-tlshostname",
        "localhost"])
    contains("disk", output)
    stop(process)


@test("a renewed certificate holds for the next connection of a listener")
def _(context):
    old, new = authority(), authority("Test CA of a stranger")
    files = old.server_files(context)
    process, door, _ = listener(context, "--tls=require", f"--tls-certificates={files}")
    TlsClient(door.connect()).start(tls=client_context(old)).disconnect()
    for name in ("server-key.pem", "server-cert.pem", "ca-cert.pem"):
        shutil.copy(new.path(name), f"{files}/{name}.new")
        os.rename(f"{files}/{name}.new", f"{files}/{name}")
    TlsClient(door.connect()).start(tls=client_context(new)).disconnect()
    # A connection that can't have its files ends before the greeting, and the listener stays.
    os.rename(f"{files}/server-key.pem", f"{files}/gone")
    door.client().expect_end()
    os.rename(f"{files}/gone", f"{files}/server-key.pem")
    TlsClient(door.connect()).start(tls=client_context(new)).disconnect()
    stop(process)
    contains("server-key.pem", process.stderr())


# ------------------------------------------------------------------ what it costs the process

def mapped(pid):
    return set(re.findall(r"/(lib(?:ssl|crypto)[^/\n]*)\n", Path(f"/proc/{pid}/maps").read_text()))


@test("a connection without TLS maps nothing of OpenSSL, and a listener with TLS has it mapped")
def _(context):
    image = context.pattern_image(MIB)
    for arguments in ([], ["--tls=off", "--tls-psk=/nonexistent"]):
        process, client = context.activated(*arguments, image)
        client.start()
        eq(mapped(process.pid), set())
        client.disconnect()
        process.expect(EX_OK)
    process, door, _ = listener(context, "--tls=on", f"--tls-psk={psk_file(context)}/keys.psk")
    client = door.client()
    client.start()
    eq(len(mapped(process.pid)), 2, "libraries of OpenSSL in the listener")
    client.disconnect()
    stop(process)


@test("after the greeting a TLS connection opens no file or socket, and maps nothing executable")
def _(context):
    strace = need_beside_server("strace")
    ca = authority()
    # With workers, holes, writes and a certificate of the client's to verify: all that needs more.
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        trace = context.fresh(".strace")
        process, client = context.inetd(
            "--tls=require", "--tls-verify-peer", "--log=stderr",
            f"--tls-certificates={ca.server_files(context, 'ca-crl.pem')}",
            context.pattern_image(MIB), family="tcp", stdout="file", stderr="file",
            prefix=[strace, "-f", "-o", trace])
        client = TlsClient.of(client)
        client.start(tls=client_context(certificate=(ca, "alice"), version=version))
        eq(client.read(5, 300000), pattern(5, 300000))
        client.write(7, b"x" * 300000, NBD_CMD_FLAG_FUA)
        client.disconnect()
        process.expect(EX_OK)
        lines = Path(trace).read_text().splitlines()
        start = next(i for i, line in enumerate(lines) if "NBDMAGIC" in line)
        after = lines[start + 1:]
        names = sorted({found[1] for found in (re.match(r"\d+ +(\w+)\(", line) for line in after)
                        if found})
        note(f"{version.name}: {' '.join(names)}")
        forbidden = {"open", "openat", "openat2", "creat", "execve", "execveat", "fork", "vfork",
                     "socket", "socketpair", "connect", "bind", "listen", "accept", "accept4",
                     "ptrace", "access", "faccessat2", "stat", "newfstatat", "statx", "readlink"}
        eq(sorted(forbidden & set(names)), [])
        eq([line for line in after if "PROT_EXEC" in line], [])


if __name__ == "__main__":
    main_with_tls()
