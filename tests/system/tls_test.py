#!/usr/bin/python3
"""TLS: the three modes of the specification option by option, which clients are allowed, what the
upgrade discards, and how a connection ends.

Real clients are in tls_clients_test.py.
"""

import fcntl
import os
import re
import signal
import socket
import ssl
import struct
import sys
import warnings
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
from clients import program_output
from harness import *
from harness import need, need_root, test
from listening import NotifySocket, state_of, waits_of
from tls import *

OPTIONS = {  # with data that would be right
    NBD_OPT_LIST: b"",
    NBD_OPT_INFO: Client.info_bytes(),
    NBD_OPT_GO: Client.info_bytes(),
    NBD_OPT_STRUCTURED_REPLY: b"",
    NBD_OPT_LIST_META_CONTEXT: Client.meta_context_bytes("", []),
    NBD_OPT_SET_META_CONTEXT: Client.meta_context_bytes("", ["base:allocation"]),
    NBD_OPT_EXTENDED_HEADERS: b"",
    4711: b"what is this?",
}
HELLO_FROM_TLS_10 = bytes.fromhex(  # a record with a ClientHello of 4 bytes that is none
    "160301000401000000")


def certified(context, *arguments, mode="require", files=None, how="activated", **keywords):
    """nbdinetd with X.509 certificates, and a TlsClient of it."""
    files = files or authority().server_files(context)
    process, client = getattr(context, how)(
        f"--tls={mode}", f"--tls-certificates={files}", "--log=stderr", *arguments,
        context.pattern_image(MIB), **keywords)
    return process, TlsClient.of(client)


def visit_over_tls(process, client, tls=None):
    """A whole connection of an honest client."""
    client.start(tls=tls)
    eq(client.read(4096, 100000), pattern(4096, 100000))
    client.disconnect_and_wait()
    process.expect(EX_OK)


def expect_refused(process, client, words, status=EX_NOPERM):
    """The server ends the connection, with this status, and logs why."""
    try:
        client.read_to_end()
    except (ssl.SSLError, ConnectionResetError):
        pass
    process.expect(status)
    matches(words, process.stderr(), "the log")


# ------------------------------------------------------------------ the service

@test("clients are served over TLS 1.3 and 1.2, on every kind of connection")
def _(context):
    for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
        for family in ("socketpair", "unix", "tcp"):
            process, client = certified(context, family=family)
            visit_over_tls(process, client, client_context(version=version))
            matches(r"serving export .* TLS \(TLSv1\.[23], [A-Z0-9_-]*AES_?128[A-Z0-9_-]*GCM",
                    process.stderr())
    process, client = certified(context, how="inetd", stderr="file")
    visit_over_tls(process, client)
    process, client = certified(context, "-s", how="piped")
    visit_over_tls(process, client)


@test("extended headers are used over TLS, too")
def _(context):
    process, client = certified(context)
    client.start_tls()
    eq(client.haggle(NBD_OPT_EXTENDED_HEADERS), [(NBD_REP_ACK, b"")])
    client.go()
    client.send(struct.pack(">IHHQQQ", 0x21e41c71, 0, NBD_CMD_READ, 5, 512, 4096))
    eq(struct.unpack(">IHHQQQQ", client.receive(40)),
       (0x6e8a278c, 1, 1, 5, 512, 8 + 4096, 512), "the header of the reply")
    eq(client.receive(4096), pattern(512, 4096))
    client.send(struct.pack(">IHHQQQ", 0x21e41c71, 0, NBD_CMD_DISC, 6, 0, 0))
    client.expect_end()
    process.expect(EX_OK)
    contains("extended replies, TLS", process.stderr())


@test("reads and writes of all sizes arrive whole through tiny socket buffers")
def _(context):
    image = context.random_image(3 * MIB, seed=5)
    content = bytearray(Path(image).read_bytes())
    ours, theirs = context.connection("socketpair")
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    process = context.spawn(
        [NBDINETD, "--tls=require", "--log=stderr",
         f"--tls-certificates={authority().server_files(context)}", image],
        fds={3: theirs}, listen_fds=1, listen_pid="own")
    theirs.close()
    client = TlsClient(ours).start()
    for offset, length in ((0, 1), (1, 16383), (5, 16384), (7, 16385), (100, 70000), (0, 300000),
                           (13, 2 * MIB)):
        eq(client.read(offset, length), bytes(content[offset:offset + length]))
        data = random.Random(length).randbytes(length)
        client.write(offset, data)
        content[offset:offset + length] = data
    cookies = [client.request(NBD_CMD_READ, 1000 * i, 50000) for i in range(40)]
    for i, cookie in enumerate(cookies):
        eq(client.answer(cookie).check().data, bytes(content[1000 * i:1000 * i + 50000]))
    client.disconnect_and_wait()
    process.expect(EX_OK)
    eq(Path(image).read_bytes(), bytes(content))


@test("requests that come together with the end of the handshake are answered")
def _(context):
    process, client = certified(context)
    client.handshake()
    client.ask_for_tls()
    client.begin_tls()
    # Everything up to the disconnect is sent in one piece with the client's Finished.
    while True:
        try:
            client.tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            client._flush_tls()
            client._poll(True, False)
            client._take_raw()
    client.tls.write(client.option_bytes(NBD_OPT_STRUCTURED_REPLY))
    client.tls.write(client.option_bytes(NBD_OPT_GO, client.info_bytes()))
    client.tls.write(client.request_bytes(NBD_CMD_READ, 0, 4096, cookie=5)
                     + client.request_bytes(NBD_CMD_DISC))
    client._flush_tls()
    got = client.read_to_end()
    eq(got[-4096:], pattern(0, 4096))
    process.expect(EX_OK)


# ------------------------------------------------------------------ the modes

@test("with --tls=require every option but STARTTLS and ABORT gets NBD_REP_ERR_TLS_REQD")
def _(context):
    process, client = certified(context)
    client.handshake()
    for option, data in {**OPTIONS, NBD_OPT_LIST: b"x" * 100000}.items():
        replies = client.haggle(option, data)
        eq([reply for reply, _ in replies], [NBD_REP_ERR_TLS_REQD], f"option {option}")
    client.ask_for_tls()
    client.begin_tls()
    client.shake_hands()
    for option, data in OPTIONS.items():
        # This client speaks with compact headers.
        if option not in (NBD_OPT_GO, NBD_OPT_EXTENDED_HEADERS):
            replies = client.haggle(option, data)
            if replies[-1][0] == NBD_REP_ERR_TLS_REQD:
                raise AssertionError(f"NBD_REP_ERR_TLS_REQD to option {option} over TLS")
    client.go()
    client.disconnect_and_wait()
    process.expect(EX_OK)


@test("with --tls=require NBD_OPT_ABORT is acknowledged without TLS")
def _(context):
    process, client = certified(context)
    client.handshake()
    eq(client.haggle(NBD_OPT_ABORT), [(NBD_REP_ACK, b"")])
    client.expect_end()
    process.expect(EX_OK)


@test("with --tls=require NBD_OPT_EXPORT_NAME without TLS ends the session")
def _(context):
    process, client = certified(context)
    client.handshake()
    client.option(NBD_OPT_EXPORT_NAME)
    client.expect_end()
    process.expect(EX_NOPERM)
    contains("without TLS", process.stderr())


@test("with --tls=on clients may use TLS or do without, and see no NBD_REP_ERR_TLS_REQD")
def _(context):
    process, client = certified(context, mode="on")
    client.handshake()
    for option, data in OPTIONS.items():
        # This client speaks with compact headers.
        if option not in (NBD_OPT_GO, NBD_OPT_EXTENDED_HEADERS):
            if client.haggle(option, data)[-1][0] == NBD_REP_ERR_TLS_REQD:
                raise AssertionError(f"NBD_REP_ERR_TLS_REQD to option {option}")
    client.structured = True
    client.go()
    eq(client.read(0, 4096), pattern(0, 4096))
    client.disconnect()
    process.expect(EX_OK)
    process, client = certified(context, mode="on")
    visit_over_tls(process, client)


@test("with --tls=off NBD_OPT_STARTTLS is not supported, whatever else is given")
def _(context):
    process, client = certified(context, "--tls-verify-peer", mode="off")
    client.handshake()
    eq(client.haggle(NBD_OPT_STARTTLS)[0][0], NBD_REP_ERR_UNSUP)
    client.go()
    client.disconnect()
    process.expect(EX_OK)


@test("a certificates or PSK option alone turns TLS on, and --tls-allow wants it required")
def _(context):
    image = context.pattern_image(MIB)
    files = authority().server_files(context)
    output = program_output(context, [NBDINETD, "--check", f"--tls-certificates={files}", image])
    contains("would use TLS", output)
    contains("served, too", output)
    for arguments in ([f"--tls-certificates={files}"], ["--tls=on"], ["--tls=off"], []):
        process = context.run([NBDINETD, "--check", *arguments, "--tls-allow=*", image], EX_USAGE)
        contains("--tls=require", process.stderr())
    process = context.run([NBDINETD, "--check", "--tls=maybe", image], EX_USAGE)
    contains("off, on or require", process.stderr())


@test("a client without fixed newstyle finds no TLS, and is refused where it is required")
def _(context):
    process, client = certified(context, mode="on")
    client.handshake(NBD_FLAG_C_NO_ZEROES)
    eq(client.haggle(NBD_OPT_STARTTLS)[0][0], NBD_REP_ERR_UNSUP)
    client.export_name()
    client.disconnect()
    process.expect(EX_OK)
    process, client = certified(context)
    client.handshake(NBD_FLAG_C_NO_ZEROES)
    client.expect_end()
    process.expect(EX_NOPERM)


# ------------------------------------------------------------------ the upgrade

@test("NBD_OPT_STARTTLS with data is refused, and then works without")
def _(context):
    process, client = certified(context)
    client.handshake()
    eq(client.haggle(NBD_OPT_STARTTLS, b"x")[0][0], NBD_REP_ERR_INVALID)
    client.ask_for_tls()
    client.begin_tls()
    client.shake_hands()
    client.go()
    client.disconnect_and_wait()
    process.expect(EX_OK)


@test("a second NBD_OPT_STARTTLS, over TLS, is invalid, and the connection goes on")
def _(context):
    process, client = certified(context)
    client.start_tls()
    eq(client.haggle(NBD_OPT_STARTTLS)[0][0], NBD_REP_ERR_INVALID)
    eq(client.haggle(NBD_OPT_STARTTLS, b"x")[0][0], NBD_REP_ERR_INVALID)
    client.go()
    client.disconnect_and_wait()
    process.expect(EX_OK)


@test("bytes in plain text behind NBD_OPT_STARTTLS are a protocol violation, and never obeyed")
def _(context):
    for extra in (b"x", Client.option_bytes(NBD_OPT_LIST), Client.option_bytes(NBD_OPT_ABORT),
                  HELLO_FROM_TLS_10):
        for mode in ("on", "require"):
            process, client = certified(context, mode=mode)
            client.handshake()
            client.send(client.option_bytes(NBD_OPT_STARTTLS) + extra)
            client.expect_end()
            process.expect(EX_PROTOCOL)
            contains("plain text", process.stderr())


@test("STARTTLS discards everything negotiated before it")
def _(context):
    for option in (NBD_OPT_STRUCTURED_REPLY, NBD_OPT_EXTENDED_HEADERS):
        process, client = certified(context, mode="on")
        client.handshake()
        eq(client.haggle(option), [(NBD_REP_ACK, b"")])
        client.meta_contexts()
        client.ask_for_tls()
        client.begin_tls()
        client.shake_hands()
        # Metadata contexts need structured replies or extended headers.
        eq(client.haggle(NBD_OPT_SET_META_CONTEXT,
                         client.meta_context_bytes("", ["base:allocation"]))[0][0],
           NBD_REP_ERR_INVALID)
        # The client takes structured and extended replies for a violation.
        client.go()
        eq(client.flags & NBD_FLAG_SEND_DF, 0, "NBD_FLAG_SEND_DF")
        eq(client.read(0, 4096), pattern(0, 4096))
        eq(client.call(NBD_CMD_BLOCK_STATUS, 0, 4096).error, NBD_EINVAL)
        client.disconnect_and_wait()
        process.expect(EX_OK)


@test("no second greeting is sent, and the client flags from before TLS hold")
def _(context):
    for flags in (NBD_FLAG_C_FIXED_NEWSTYLE, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES):
        process, client = certified(context)
        client.handshake(flags)
        client.ask_for_tls()
        client.begin_tls()
        client.shake_hands()
        client.export_name()  # with the 124 bytes of zeroes or without
        eq(client.read(0, 512), pattern(0, 512))
        client.disconnect_and_wait()
        process.expect(EX_OK)


# ------------------------------------------------------------------ who is let in

@test("with --tls-verify-peer a client's certificate decides, and its subject is in the log")
def _(context):
    ca, files = authority(), authority().server_files(context)
    process, client = certified(context, "--tls-verify-peer", files=files)
    visit_over_tls(process, client, client_context(certificate=(ca, "alice")))
    matches(r'serving .* with "CN=alice\.example\.com,O=Örg\\\\, Inc\."', process.stderr())
    for name, words in ((None, "did not return a certificate"), ("late", "expired"),
                        ("other", "purpose")):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            process, client = certified(context, "--tls-verify-peer", files=files)
            try:
                client.start_tls(client_context(certificate=name and (ca, name), version=version))
            except (ssl.SSLError, Disconnected):
                pass
            expect_refused(process, client, f"TLS handshake failed: .*{words}")


@test("the journal gets the identity in a field of its own, whatever is in it")
def _(context):
    need_root("to put a socket where the journal's is")
    ca = authority()
    ca.issue("odd", '/O="x" NBD_PEER=me/CN=odd, \x01 or not')
    path = context.fresh(".journal")
    journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    context.defer(journal.close)
    journal.setblocking(False)
    journal.bind(path)
    prefix = [need("unshare"), "--mount", "--", "/bin/sh", "-c",
              "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && "
              f": >/run/systemd/journal/socket && mount --bind {path} /run/systemd/journal/socket "
              '&& exec "$0" "$@"']
    process, client = context.activated(
        "--tls=require", "--tls-verify-peer", "--log=journal",
        f"--tls-certificates={ca.server_files(context)}", context.pattern_image(MIB),
        prefix=prefix)
    visit_over_tls(process, TlsClient.of(client), client_context(certificate=(ca, "odd")))
    messages = [journal.recv(1 << 16).decode() for _ in range(2)]
    identity = r'CN=odd\, \01 or not,O=\"x\" NBD_PEER=me'
    for message in messages:
        matches(rf"^NBD_TLS_IDENTITY={re.escape(identity)}$", message)
        eq(message.count("\nNBD_PEER="), 1, "fields of this name")
    contains("serving export", messages[0])


@test("the status of a connection names the identity, quoted, once its client has chosen an export")
def _(context):
    ca, notify = authority(), NotifySocket(context)
    process, client = context.activated(
        "--tls=require", "--tls-verify-peer", f"--tls-certificates={ca.server_files(context)}",
        "-e", "disk", context.pattern_image(MIB), env={"NOTIFY_SOCKET": notify.path})
    TlsClient.of(client).start("disk", tls=client_context(certificate=(ca, "alice")))
    notify.wait("STATUS", r'^serving "disk" to unix:pid=\d+,uid=\d+,gid=\d+ as ".*CN=alice\.example\.com.*": '
                "0 requests, 0 bytes read, 0 bytes written, 0 errors$")
    matches(r"^negotiating with unix:pid=\d+,uid=\d+,gid=\d+$", notify.values("STATUS")[0])
    client.disconnect()
    process.expect(EX_OK)


@test("a certificate of somebody else's authority is refused")
def _(context):
    stranger = authority("Test CA of a stranger")
    process, client = certified(context, "--tls-verify-peer")
    client.start_tls(client_context(certificate=(stranger, "alice")))
    expect_refused(process, client, "TLS handshake failed: .*(issuer|signature|self-signed)")


@test("a revoked certificate is refused, and others of the same list are not")
def _(context):
    ca = authority()
    files = ca.server_files(context, "ca-crl.pem")
    process, client = certified(context, "--tls-verify-peer", files=files)
    visit_over_tls(process, client, client_context(certificate=(ca, "alice")))
    process, client = certified(context, "--tls-verify-peer", files=files)
    client.start_tls(client_context(certificate=(ca, "bob")))
    expect_refused(process, client, "TLS handshake failed: .*revoked")


@test("a certificate whose issuer has been revoked is refused")
def _(context):
    ca = Authority(context.fresh(".ca"), "Test CA of an authority")
    deputy = Authority(context.fresh(".ca"), "Test CA that is certified by another", issuer=ca)
    deputy.issue("carol", "/CN=carol.example.com")
    with open(deputy.path("carol-cert.pem"), "a", encoding="ascii") as chain:
        chain.write(Path(deputy.path("ca-cert.pem")).read_text(encoding="ascii"))
    deputy.revoke()
    for revoked in (None, "deputy"):
        ca.revoke(revoked)
        files = ca.server_files(context)
        Path(files, "ca-crl.pem").write_text("".join(
            Path(issuer.path("ca-crl.pem")).read_text(encoding="ascii")
            for issuer in (ca, deputy)), encoding="ascii")
        process, client = certified(context, "--tls-verify-peer", files=files)
        client.start_tls(client_context(trusted=ca, certificate=(deputy, "carol")))
        if revoked:
            expect_refused(process, client, "TLS handshake failed: .*revoked")
        else:
            visit_over_tls(process, client)


@test("a revocation list that can't be read is not taken for none")
def _(context):
    for how in ("dangling", "loop"):
        files = authority().server_files(context)
        target = "ca-crl.pem" if how == "loop" else "/nonexistent/ca-crl.pem"
        os.symlink(target, f"{files}/ca-crl.pem")
        process = context.run([NBDINETD, "--check", "--tls=require", f"--tls-certificates={files}",
                               context.pattern_image(MIB)], EX_CONFIG)
        contains("ca-crl.pem", process.stderr())


@test("text inside one part of a certificate's name is not taken for another part")
def _(context):
    ca, files = authority(), authority().server_files(context)
    ca.issue("cheat", r"/O=Guests/CN=mallory,OU=admins\+OU=admins")
    ca.issue("admin", "/O=Guests/OU=admins/CN=trent")
    for pattern_ in ("*,OU=admins*", "*+OU=admins*", "CN=*,OU=admins*"):
        process, client = certified(context, f"--tls-allow={pattern_}", files=files)
        client.start_tls(client_context(certificate=(ca, "cheat")))
        expect_refused(process, client, r"--tls-allow doesn.t allow .*CN=mallory")
    process, client = certified(context, "--tls-allow=CN=*,OU=admins*", files=files)
    visit_over_tls(process, client, client_context(certificate=(ca, "admin")))
    ca.issue("nobody", "/")
    process, client = certified(context, "--tls-allow=*", files=files)
    client.start_tls(client_context(certificate=(ca, "nobody")))
    expect_refused(process, client, "--tls-allow doesn.t allow")
    # Written as RFC 2253 has it, a whole name still matches.
    process, client = certified(
        context, r"--tls-allow=CN=mallory\,OU=admins\+OU=admins,O=Guests", files=files)
    visit_over_tls(process, client, client_context(certificate=(ca, "cheat")))


@test("--tls-allow lets in whose subject matches one of the patterns, and asks for a certificate")
def _(context):
    ca, files = authority(), authority().server_files(context)
    for pattern_, allowed in (("CN=alice.example.com,*", True), ("*,O=Örg\\, Inc.", True),
                              ("CN=alice.example.com", False), ("CN=[b-z]*", False),
                              ("alice.example.com", False), ("*", True)):
        process, client = certified(context, f"--tls-allow={pattern_}", files=files)
        client.start_tls(client_context(certificate=(ca, "alice")))
        if allowed:
            visit_over_tls(process, client)
        else:
            expect_refused(process, client, r'--tls-allow doesn.t allow .*CN=alice')
    process, client = certified(context, "--tls-allow=CN=bob*", "--tls-allow=CN=al*", files=files)
    visit_over_tls(process, client, client_context(certificate=(ca, "alice")))
    process, client = certified(context, "--tls-allow=*", files=files)
    client.start_tls()
    expect_refused(process, client, "did not return a certificate")


# ------------------------------------------------------------------ bad files

@test("a missing or bad file is status 78 and a sentence that names it, before any client is answered")
def _(context):
    ca = authority()
    image = context.pattern_image(MIB)
    cases = [(name, None, "No such file") for name in
             ("ca-cert.pem", "server-cert.pem", "server-key.pem")]
    cases += [(name, b"no PEM", "PEM") for name in
              ("ca-cert.pem", "server-cert.pem", "server-key.pem", "ca-crl.pem")]
    cases += [("server-key.pem", Path(ca.path("alice-key.pem")).read_bytes(), "mismatch"),
              ("server-cert.pem", Path(ca.path("server-cert.pem")).read_bytes()[:300], ""),
              ("ca-cert.pem", b"x" * (2 * MIB), "1048576")]
    for name, content, words in cases:
        files = ca.server_files(context)
        bad = Path(files) / name
        if content is None:
            bad.unlink()
        else:
            bad.write_bytes(content)
        arguments = ["--tls=require", f"--tls-certificates={files}", "--log=stderr", image]
        process, client = context.activated(*arguments)
        client.expect_end()
        process.expect(EX_CONFIG)
        for told in (process, context.run([NBDINETD, "--check", *arguments], EX_CONFIG),
                     context.run([NBDINETD, "-f", "-U", "-", *arguments], EX_CONFIG)):
            contains(f'"{bad}"', told.stderr())
            contains(words, told.stderr())
            eq(told.stderr().count("\n"), 1, "lines")
    # Nobody asks for a passphrase.
    encrypted = ca.server_files(context)
    context.run(["openssl", "ec", "-aes128", "-passout", "pass:secret", "-in",
                 f"{encrypted}/server-key.pem", "-out", f"{encrypted}/server-key.pem"])
    process = context.run([NBDINETD, "--check", "--tls=on", f"--tls-certificates={encrypted}",
                           image], EX_CONFIG)
    contains("passphrase", process.stderr())
    fifo = ca.server_files(context)
    os.unlink(f"{fifo}/server-key.pem")
    os.mkfifo(f"{fifo}/server-key.pem")
    process = context.run([NBDINETD, "--check", "--tls=on", f"--tls-certificates={fifo}", image],
                          EX_CONFIG)
    contains("regular file", process.stderr())


@test("a bad file of pre-shared keys is status 78, and its keys are in no message")
def _(context):
    image = context.pattern_image(MIB)
    for content, words in (("", "no keys"), ("alice\n", "line 1: .*colon"),
                           ("alice:00ff\nbob:0123456789abcdeg\n", "line 2: .*hexadecimal"),
                           ("alice:\n", "line 1"), (":0123\n", "line 1"),
                           ("alice:012\n", "line 1"), ("a:01234567\n\na:01234567\n", "line 3"),
                           ("#zz:01234567\n", "line 1"), ("a" * 257 + ":01234567\n", "line 1"),
                           (None, "No such file")):
        path = context.fresh(".psk")
        if content is not None:
            Path(path).write_text(content)
        process, client = context.activated("--tls=require", f"--tls-psk={path}", "--log=stderr",
                                            image)
        client.expect_end()
        process.expect(EX_CONFIG)
        matches(words, process.stderr())
        contains(f'"{path}"', process.stderr())
        for secret in ("0123456", "00ff"):
            if secret in process.stderr():
                raise AssertionError("a key is in the log")


@test("without --tls-certificates the files are systemd's credentials, or nbdkit's")
def _(context):
    image = context.pattern_image(MIB)
    files = authority().server_files(context)
    output = program_output(context, [NBDINETD, "--check", "--tls=require", image],
                            env={"CREDENTIALS_DIRECTORY": files})
    contains(f'certificates from "{files}"', output)
    if os.geteuid() == 0:
        places = ["/etc/pki/nbdkit"]
    else:
        places = ["/nowhere/.pki/nbdkit", "/nowhere/.config/pki/nbdkit"]
    if not any(os.path.exists(f"{place}/server-cert.pem") for place in places):
        process = context.run([NBDINETD, "--check", "--tls=require", image], EX_CONFIG,
                              env={"HOME": "/nowhere", "CREDENTIALS_DIRECTORY": "/no/where"})
        for place in ("/no/where", *places):
            contains(place, process.stderr())


# ------------------------------------------------------------------ how it ends

@test("a client may leave with or without a close_notify, but not inside a request or record")
def _(context):
    process, client = certified(context)
    client.start()
    client.say_goodbye()
    client.expect_end()
    process.expect(EX_OK)
    process, client = certified(context)
    client.start()
    client.shut_down_writing()
    process.expect(EX_OK)
    for ending in ("say_goodbye", "shut_down_writing"):
        process, client = certified(context)
        client.start()
        client.send(client.request_bytes(NBD_CMD_READ, 0, 512)[:20])
        getattr(client, ending)()
        process.expect(EX_PROTOCOL)
        contains("vanished inside", process.stderr())
    process, client = certified(context)
    client.start()
    client.send_raw(client.encrypt(client.request_bytes(NBD_CMD_READ, 0, 512))[:-3])
    client.shut_down_writing()
    process.expect(EX_PROTOCOL)
    contains("vanished inside a TLS record", process.stderr())


@test("a client that sends NBD_CMD_DISC and close_notify together sees an end, and no reset")
def _(context):
    process, client = certified(context, family="tcp")
    client.start()
    records = client.encrypt(client.request_bytes(NBD_CMD_DISC))
    try:
        client.tls.unwrap()
    except ssl.SSLWantReadError:
        pass
    client.send_raw(records + client._outgoing.read())
    # A server that closes the socket with the close_notify unread sends a reset.
    process.expect(EX_OK)
    while os.read(client._rfd, 4096):
        pass


@test("replies that are still owed are sent before the close_notify")
def _(context):
    process, client = certified(context)
    client.start()
    client.send(client.request_bytes(NBD_CMD_READ, 0, MIB, cookie=1) * 3
                + client.request_bytes(NBD_CMD_DISC))
    got = client.read_to_end()
    eq(got.count(pattern(MIB - 4096, 4096)), 3, "whole replies")
    eq(client.close_notify, True)
    process.expect(EX_OK)


@test("bytes that are no TLS are refused in the handshake, and a violation behind it")
def _(context):
    for garbage in (b"GET / HTTP/1.0\r\n\r\n", bytes(100), HELLO_FROM_TLS_10,
                    Client.option_bytes(NBD_OPT_GO, Client.info_bytes()),
                    b"\x16\x03\x01\xff\xff" + bytes(20000)):
        process, client = certified(context)
        client.handshake()
        client.ask_for_tls()
        client.send(garbage)
        expect_refused(process, client, "the TLS handshake failed: ")
    process, client = certified(context)
    client.start()
    record = bytearray(client.encrypt(client.request_bytes(NBD_CMD_READ, 0, 512)))
    record[-1] ^= 1
    client.send_raw(bytes(record))
    expect_refused(process, client, "client broke TLS: .*mac", EX_PROTOCOL)
    process, client = certified(context)
    client.start()
    client.send_raw(client.request_bytes(NBD_CMD_READ, 0, 512))
    expect_refused(process, client, "client broke TLS: ", EX_PROTOCOL)


@test("a handshake that is cut short is refused")
def _(context):
    process, client = certified(context)
    client.handshake()
    client.ask_for_tls()
    client.shut_down_writing()
    expect_refused(process, client, "handshake failed: the client left")
    process, client = certified(context)
    client.handshake()
    client.ask_for_tls()
    client.send(b"\x16\x03\x01\x02\x00" + bytes(50))
    client.shut_down_writing()
    expect_refused(process, client, "handshake failed: ")


@test("TLS 1.1 is refused")
def _(context):
    process, client = certified(context)
    client.handshake()
    client.ask_for_tls()
    old = client_context()
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    client.begin_tls(old)
    try:
        client.shake_hands()
        raise AssertionError("TLS 1.1 was accepted")
    except (ssl.SSLError, Disconnected):
        pass
    expect_refused(process, client, "handshake failed: .*(version|protocol)")


# What a client of TLS 1.2 may ask for, with a key of each kind. Each has its own name in OpenSSL.
TLS12_SERVED = {
    "ec": ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384",
           "ECDHE-ECDSA-CHACHA20-POLY1305"),
    "rsa": ("ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384",
            "ECDHE-RSA-CHACHA20-POLY1305")}
TLS12_REFUSED = {
    "ec": ("ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES128-SHA"),  # CBC
    "rsa": ("DHE-RSA-AES128-GCM-SHA256", "DHE-RSA-AES256-GCM-SHA384",  # finite fields
            "DHE-RSA-CHACHA20-POLY1305",
            "ECDHE-RSA-AES128-SHA256", "ECDHE-RSA-AES256-SHA", "DHE-RSA-AES128-SHA256",  # CBC
            "AES128-GCM-SHA256", "AES128-SHA")}  # no forward secrecy


@test("TLS 1.2 is spoken with elliptic curves and authenticated encryption only")
def _(context):
    ca = authority()
    ca.issue("rsa", "/CN=localhost", "subjectAltName=DNS:localhost", rsa=True)
    for kind in ("ec", "rsa"):
        files = ca.server_files(context)
        if kind == "rsa":
            for part in ("cert", "key"):
                shutil.copy(ca.path(f"rsa-{part}.pem"), f"{files}/server-{part}.pem")
        for cipher in (*TLS12_SERVED[kind], *TLS12_REFUSED[kind]):
            process, client = context.activated("--tls=require", f"--tls-certificates={files}",
                                                context.pattern_image(MIB))
            client = TlsClient.of(client)
            client.handshake()
            client.ask_for_tls()
            wanted = client_context(version=ssl.TLSVersion.TLSv1_2)
            wanted.set_ciphers(f"{cipher}:@SECLEVEL=0")
            client.begin_tls(wanted)
            if cipher in TLS12_SERVED[kind]:
                client.shake_hands()
                eq(client.tls.cipher()[0], cipher)
                client.start()
                eq(client.read(4096, 512), pattern(4096, 512))
                client.send(client.request_bytes(NBD_CMD_DISC))
                client.expect_end()
                process.expect(EX_OK)
                continue
            try:
                client.shake_hands()
            except (ssl.SSLError, Disconnected):
                expect_refused(process, client, "handshake failed: .*no shared cipher")
            else:
                raise AssertionError(f"{cipher} was accepted")


@test("--handshake-timeout covers the TLS handshake and what follows it")
def _(context):
    for steps in (1, 2, 3):
        process, client = certified(context, "--handshake-timeout=500ms")
        client.handshake()
        client.ask_for_tls()
        if steps == 2:
            client.send(b"\x16\x03\x01\x02\x00" + bytes(50))
        elif steps == 3:
            client.begin_tls()
            client.shake_hands()
        expect_refused(process, client, "handshake (in time|within)", EX_TEMPFAIL)


@test("SIGTERM ends a TLS handshake at once")
def _(context):
    for begun in (False, True):
        process, client = certified(context)
        client.handshake()
        client.ask_for_tls()
        if begun:
            client.send(b"\x16\x03\x01\x02\x00" + bytes(50))
        process.signal(signal.SIGTERM)
        client.expect_end()
        process.expect(EX_OK)
        contains("shutting down", process.stderr())


def settled(client, process):
    """The server has read all that the client sent, and sleeps."""
    SIOCOUTQ = 0x5411
    wait_until(lambda: struct.unpack("i", fcntl.ioctl(client._wfd, SIOCOUTQ, bytes(4)))[0] == 0
               and state_of(process.pid) == "S", "the server to wait")


def part_of_hello(client):
    client.handshake()
    client.ask_for_tls()
    client.begin_tls()
    try:
        client.tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    client.send_raw(client._outgoing.read()[:100])


def hello_alone(client):
    """The server has sent its part, and waits for ours."""
    client.handshake()
    client.ask_for_tls()
    client.begin_tls()
    try:
        client.tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    client._flush_tls()
    client._poll(True, False)


GO = Client.option_bytes(NBD_OPT_GO, Client.info_bytes())
# What the client does; what it sends when the server has heard the signal.
STATES = {
    "inside the ClientHello": (part_of_hello, None),
    "behind the ServerHello": (hello_alone, None),
    "between options": (lambda c: c.start_tls().list_exports(), None),
    "inside an option's header": (lambda c: c.start_tls().send(GO[:9]), None),
    "inside NBD_OPT_GO": (lambda c: c.start_tls().send(GO[:18]), None),
    "inside NBD_OPT_GO, whose rest comes": (lambda c: c.start_tls().send(GO[:18]), GO[18:]),
    "idle": (lambda c: c.start(), None),
    "inside a request": (lambda c: c.start().send(c.request_bytes(NBD_CMD_READ, 0, 512)[:13]), None),
    "inside a write": (lambda c: c.start().send(
        c.request_bytes(NBD_CMD_WRITE, 0, MIB, payload=bytes(MIB // 2))), None),
    "inside a record": (lambda c: c.start().send_raw(
        c.encrypt(c.request_bytes(NBD_CMD_READ, 0, 512))[:20]), None),
    "inside replies": (lambda c: c.start().send_raw(
        c.encrypt(c.request_bytes(NBD_CMD_READ, 0, MIB) * 32)), None),
}


@test("SIGTERM ends a connection over TLS in any state", guard=180)
def _(context):
    for family in ("socketpair", "tcp"):
        for number in (signal.SIGTERM, signal.SIGINT):
            running = []
            for name, (reach, then) in STATES.items():
                process, client = certified(context, family=family)
                reach(client)
                if name != "inside replies":
                    settled(client, process)
                running.append((name, process, client, then))
            for name, process, client, then in running:
                before = waits_of(process.pid)
                process.signal(number)
                if then:
                    wait_until(lambda p=process, b=before: waits_of(p.pid) != b,
                               "the server to hear the signal")
                    try:
                        client.send(then)
                    except (BrokenPipeError, ConnectionResetError):
                        pass
            for name, process, client, then in running:
                eq(process.wait(), EX_OK, f"{family}: {name}: {process.stderr()}")


@test("SIGTERM while serving over TLS answers the requests under way, and sends close_notify")
def _(context):
    process, client = certified(context)
    client.start()
    client.write(0, b"x" * 4096)
    process.signal(signal.SIGTERM)
    client.read_to_end()
    eq(client.close_notify, True, "close_notify")
    process.expect(EX_OK)


if __name__ == "__main__":
    main_with_tls()
