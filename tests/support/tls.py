"""Helpers of the tests of TLS: certificates of all kinds, and a client that speaks NBD over TLS.

The client is Python's own OpenSSL on buffers in memory, so that a test can see and change the bytes on
the wire. Python has no pre-shared keys: those are in the tests with real clients and in
tests/unit/stream/tls_stream_test.cc.
"""

import atexit
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path

import client_root
from harness import *
from harness import main, need
from nbd_client import Client


def main_with_tls():
    """main(), unless this nbdinetd has been built without TLS."""
    probe = subprocess.run([NBDINETD, "--check", "--tls-psk=/nonexistent", __file__],
                           capture_output=True, check=False, preexec_fn=client_root.leave)
    if b"built without OpenSSL" in probe.stderr:
        print("1..0 # SKIP nbdinetd was built without OpenSSL")
    else:
        main()


# ------------------------------------------------------------------ certificates

class Authority:
    """A certificate authority, and the directory of files that a server gets from it."""

    def __init__(self, directory, name, issuer=None):
        """With an issuer, an Authority that this one has certified, else one of its own."""
        self.directory = Path(directory)
        self.directory.mkdir()
        self._openssl = need("openssl")
        (self.directory / "ca.cnf").write_text(
            f"[ca]\ndefault_ca = x\n[x]\ndatabase = {self.directory}/index\n"
            f"crlnumber = {self.directory}/crlnumber\ndefault_md = sha256\n"
            f"default_crl_days = 30\nnew_certs_dir = {self.directory}\nrand_serial = yes\n"
            "policy = any\n[any]\ncommonName = supplied\n[req]\ndistinguished_name = dn\n[dn]\n")
        (self.directory / "index").touch()
        (self.directory / "crlnumber").write_text("01\n")
        extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
        if issuer:
            issuer.issue("deputy", f"/CN={name}", "\n".join(extensions))
            for part in ("cert", "key"):
                shutil.copy(issuer.path(f"deputy-{part}.pem"), self.path(f"ca-{part}.pem"))
        else:
            self._run("req", "-x509", "-nodes", *self._key("ca-key.pem"), "-out",
                      self.path("ca-cert.pem"), "-days", "30", "-subj", f"/CN={name}",
                      *(word for extension in extensions for word in ("-addext", extension)))
        self.issue("server", "/CN=localhost", "subjectAltName=DNS:localhost,IP:127.0.0.1")

    def path(self, name):
        return str(self.directory / name)

    def _key(self, name, rsa=False):
        kind = ["rsa:2048"] if rsa else ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        return ["-newkey", *kind, "-keyout", self.path(name), "-config", self.path("ca.cnf")]

    def _run(self, *arguments):
        done = subprocess.run([self._openssl, *map(str, arguments)], capture_output=True,
                              check=False)
        if done.returncode:
            raise AssertionError(f"openssl {arguments}: {done.stderr.decode()}")

    def issue(self, name, subject, extension="extendedKeyUsage=clientAuth", expired=False,
              rsa=False):
        """NAME-cert.pem and NAME-key.pem. Returns itself."""
        request, extensions = self.path(f"{name}.csr"), self.path(f"{name}.ext")
        Path(extensions).write_text(extension + "\n")
        self._run("req", "-nodes", "-utf8", *self._key(f"{name}-key.pem", rsa), "-out", request,
                  "-subj", subject)
        if expired:
            # OpenSSL 3.5 takes no -days below 0, and 3.0 lets only ca name the dates.
            self._run("ca", "-batch", "-notext", "-config", self.path("ca.cnf"), "-in", request,
                      "-cert", self.path("ca-cert.pem"), "-keyfile", self.path("ca-key.pem"),
                      "-startdate", "20200101000000Z", "-enddate", "20200201000000Z", "-extfile",
                      extensions, "-out", self.path(f"{name}-cert.pem"))
        else:
            self._run("x509", "-req", "-in", request, "-CA", self.path("ca-cert.pem"), "-CAkey",
                      self.path("ca-key.pem"), "-CAcreateserial", "-days", "30", "-extfile",
                      extensions, "-out", self.path(f"{name}-cert.pem"))
        return self

    def revoke(self, name=None):
        """Makes ca-crl.pem anew, with one certificate more in it."""
        common = ["ca", "-config", self.path("ca.cnf"), "-keyfile", self.path("ca-key.pem"), "-cert",
                  self.path("ca-cert.pem")]
        if name:
            self._run(*common, "-revoke", self.path(f"{name}-cert.pem"))
        self._run(*common, "-gencrl", "-out", self.path("ca-crl.pem"))

    def _directory(self, context, files):
        """A fresh directory with copies of these files, {name of the copy: name}."""
        directory = Path(context.fresh(".pki"))
        directory.mkdir()
        for copy, name in files.items():
            shutil.copy(self.path(name), directory / copy)
        return str(directory)

    def server_files(self, context, *others):
        """A fresh directory with the files of a server, and others."""
        names = ("ca-cert.pem", "server-cert.pem", "server-key.pem", *others)
        return self._directory(context, {name: name for name in names})

    def client_files(self, context, name=None):
        """A fresh directory with the files that GnuTLS's clients look for."""
        files = {"ca-cert.pem": "ca-cert.pem"}
        if name:
            files.update({f"client-{part}.pem": f"{name}-{part}.pem" for part in ("cert", "key")})
        return self._directory(context, files)


_made = {}


def authority(name="Test CA"):
    """The authority of this name, made once for all tests of a file."""
    if not _made:
        _made[None] = tempfile.mkdtemp(prefix="nbdinetd-pki-")
        atexit.register(shutil.rmtree, _made[None], True)
    if name not in _made:
        made = Authority(Path(_made[None]) / str(len(_made)), name)
        made.issue("alice", "/O=Örg, Inc./CN=alice.example.com")
        made.issue("bob", "/O=Other/CN=bob.example.com")
        made.issue("late", "/CN=late.example.com", expired=True)
        made.issue("other", "/CN=other.example.com", "extendedKeyUsage=serverAuth")
        made.revoke("bob")
        _made[name] = made
    return _made[name]


def psk_file(context, *users):
    """A directory with keys.psk, in which each of these has a key."""
    directory = Path(context.fresh(".keys"))
    directory.mkdir(mode=0o700)
    lines = [f"{user}:{os.urandom(32).hex()}\n" for user in users or ("alice",)]
    (directory / "keys.psk").write_text("".join(lines))
    (directory / "keys.psk").chmod(0o600)
    return directory


def nbds(address, *parameters, user=""):
    """The NBD URI of TLS on a Unix path or (host, port)."""
    user = user and user + "@"
    if isinstance(address, str):
        return f"nbds+unix://{user}/?" + "&".join([f"socket={address}", *parameters])
    return f"nbds://{user}localhost:{address[1]}/?" + "&".join(parameters)


def client_context(trusted=None, certificate=None, version=None):
    """An SSLContext that trusts an Authority, and may have a certificate (authority, name)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations((trusted or authority()).path("ca-cert.pem"))
    if certificate:
        issuer, name = certificate
        context.load_cert_chain(issuer.path(f"{name}-cert.pem"), issuer.path(f"{name}-key.pem"))
    if version:
        context.minimum_version = context.maximum_version = version
    return context


# ------------------------------------------------------------------ the client

class TlsClient(Client):
    """A Client that can go on over TLS."""

    tls = None  # until begin_tls()
    close_notify = False  # whether the server's has arrived

    @classmethod
    def of(cls, client):
        """Makes a TlsClient of a Client."""
        client.__class__ = cls
        return client

    def ask_for_tls(self):
        replies = self.haggle(NBD_OPT_STARTTLS)
        if replies != [(NBD_REP_ACK, b"")]:
            raise AssertionError(f"NBD_OPT_STARTTLS is answered by {replies}")

    def begin_tls(self, context=None):
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = (context or client_context()).wrap_bio(
            self._incoming, self._outgoing, server_hostname="localhost")

    def shake_hands(self):
        """To the end of the handshake, as far as the client can know: with TLS 1.3 it hears of a
        refused certificate only when it reads."""
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush_tls()
                if self._eof:
                    raise Disconnected(1, b"", self._reset)
                self._poll(True, False)
                self._take_raw()
            except ssl.SSLError:
                self._flush_tls()
                raise
        self._flush_tls()
        return self

    def start_tls(self, context=None):
        """From the greeting to the first option over TLS. Returns itself."""
        self.handshake()
        self.ask_for_tls()
        self.begin_tls(context)
        return self.shake_hands()

    def start(self, name="", tls=None, **choices):
        """From the greeting, or from behind the TLS handshake, to the transmission phase."""
        if self.tls is None:
            self.start_tls(tls)
        return self.choose(name, **choices)

    def _flush_tls(self):
        """Sends what TLS has to send."""
        self.send_raw(self._outgoing.read())

    def _take_raw(self):
        """Takes in records. An end of file without a close_notify is an ssl.SSLEOFError."""
        block = self._read()
        if self._eof and not self._reset:
            raise ssl.SSLEOFError("end of file without a close_notify")
        self._incoming.write(block)

    def _take(self):
        if self.tls is None:
            super()._take()
            return
        self._take_raw()
        try:
            while True:
                block = self.tls.read(1 << 16)
                if not block:
                    self.close_notify = self._eof = True
                    break
                self._keep(block)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.close_notify = self._eof = True

    def encrypt(self, data):
        """The records for these bytes."""
        self.tls.write(data)
        return self._outgoing.read()

    def send(self, data):
        if self.tls is None:
            super().send(data)
            return
        view = memoryview(data)
        while view:
            self.send_raw(self.encrypt(view[:16384]))
            view = view[16384:]

    def send_raw(self, data):
        """Sends bytes as they are, without TLS."""
        super().send(data)

    def say_goodbye(self):
        """Sends a close_notify."""
        try:
            self.tls.unwrap()
        except (ssl.SSLWantReadError, ssl.SSLSyscallError):
            pass
        self._flush_tls()

    def disconnect_and_wait(self):
        """NBD_CMD_DISC, after which the server has to send a close_notify."""
        self.send(self.request_bytes(NBD_CMD_DISC))
        self.expect_end()
        eq(self.close_notify, True, "close_notify of the server")
