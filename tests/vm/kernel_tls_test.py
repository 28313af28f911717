#!/usr/bin/python3
"""TLS that the kernel encrypts: real clients in both versions, with both kinds of keys; and what goes wrong ends
as it does where OpenSSL does all. Runs in a machine of its own (machine.py). A Unix socket has no TLS in the
kernel: it tells what the same client gets without."""

import ctypes
import ctypes.util
import os
import re
import select
import signal
import ssl
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
from clients import program_output
from harness import *
from listening import Door, activate, state_of, stop
from machine import run_inside
from tls import *

SIZE = 4 * MIB
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
CHACHA = "chacha20poly1305"  # the kernel's module
KEY = bytes(range(32))
# An emulated processor may need long for a handshake.
PATIENT = ("--handshake-timeout=10min",)
STATISTICS = ("TlsTxSw", "TlsRxSw")
SENT = "sent by the kernel"  # the end of what the log says of TLS


def prepare(payload):
    payload.write("root/etc/modules-load.d/tls.conf", "tls\n")


def kernel_counters():
    """How many streams the kernel has encrypted and decrypted up to now."""
    numbers = dict(line.split() for line in Path("/proc/net/tls_stat").read_text().splitlines())
    return [int(numbers[name]) for name in STATISTICS]


# ------------------------------------------------------------------ real clients

class Server:
    """A listening nbdinetd with certificates, with a key for alice, or with neither."""

    def __init__(self, context, keys, version=TLS13, family="tcp"):
        self._context, self.keys = context, keys
        self.image = context.random_image(SIZE)
        self._door = Door(context, family)
        arguments, self._files = [], None
        if keys == "X.509":
            arguments = ["--tls=require", f"--tls-certificates={authority().server_files(context)}"]
            self._files = authority().client_files(context)
        elif keys == "PSK":
            self._files = context.fresh(".keys")
            os.mkdir(self._files, 0o700)
            Path(self._files, "keys.psk").write_text(f"alice:{KEY.hex()}\n")
            arguments = ["--tls=require", f"--tls-psk={self._files}/keys.psk"]
        self.process = activate(context, *PATIENT, "--log=stderr", "-v", *arguments, self.image, inherited=[self._door])
        # GnuTLS's own configuration (gnutls_priority_init, "Overriding algorithms and parameters").
        configuration = context.path("gnutls.cfg")
        Path(configuration).write_text("[overrides]\n" + ("disabled-version = tls1.3\n" if version == TLS12 else ""))
        self.environment = {"GNUTLS_SYSTEM_PRIORITY_FILE": configuration}

    @property
    def port(self):
        return self._door.addresses[0][1][1]

    def uri(self):
        if self.keys == "X.509":
            return f"nbds://localhost:{self.port}/?tls-certificates={self._files}"
        if self.keys == "PSK":
            return f"nbds://alice@localhost:{self.port}/?tls-psk-file={self._files}/keys.psk"
        return f"nbd://localhost:{self.port}"

    def for_qemu(self):
        """The options of a qemu-img that reaches it."""
        credentials = f"tls-creds-x509,id=tls0,endpoint=client,dir={self._files}" if self.keys == "X.509" else \
            f"tls-creds-psk,id=tls0,endpoint=client,username=alice,dir={self._files}"
        return ["--object", credentials, "--image-opts"], \
            f"driver=nbd,host=localhost,port={self.port},tls-creds=tls0"

    def copy_out(self):
        copy = self._context.fresh(".copy")
        self._context.run(["nbdcopy", self.uri(), copy], env=self.environment)
        eq(checksum(copy), checksum(self.image))
        os.unlink(copy)

    def copy_in(self):
        new = self._context.random_image(SIZE, seed=9)
        self._context.run(["nbdcopy", "--flush", new, self.uri()], env=self.environment)
        eq(checksum(self.image), checksum(new))
        os.unlink(new)

    def stop(self):
        """Returns what it has logged."""
        stop(self.process)
        return self.process.stderr()


def descriptions(log):
    """What the log says of the TLS of each connection."""
    return re.findall(r"serving export .* TLS \(([^)]*)\)", log)


def sent_by_sendfile(log):
    return sum(map(int, re.findall(r"(\d+) bytes (?:\([^)]*\) )?of them sent by sendfile", log)))


CIPHERS = {(TLS13, "X.509"): "TLS_AES_128_GCM_SHA256", (TLS13, "PSK"): "TLS_AES_128_GCM_SHA256",
           (TLS12, "X.509"): "ECDHE-ECDSA-AES128-GCM-SHA256",
           (TLS12, "PSK"): "ECDHE-PSK-CHACHA20-POLY1305"}

for (_version, _keys), _cipher in CIPHERS.items():
    _name = f"{_version.name.replace('_', '.')} with {_keys}"

    @test(f"{_name}: nbdcopy out of an export, whose replies the kernel encrypts, and into it")
    def _(context, version=_version, keys=_keys, cipher=_cipher):
        before = kernel_counters()
        server = Server(context, keys, version)
        server.copy_out()
        server.copy_in()
        log = server.stop()
        seen = descriptions(log)
        eq(set(seen), {f"{version.name.replace('_', '.')}, {cipher}, {SENT}"}, log)
        sent, received = (now - then for now, then in zip(kernel_counters(), before))
        eq(sent, len(seen), "streams that the kernel encrypted")
        eq(received, 0, "streams that the kernel decrypted")

    @test(f"{_name}: qemu-img compares and writes")
    def _(context, version=_version, keys=_keys):
        server = Server(context, keys, version)
        options, remote = server.for_qemu()
        contains("identical", program_output(context, [
            "qemu-img", "compare", *options, remote, f"driver=raw,file.driver=file,file.filename={server.image}"],
            env=server.environment))
        new = context.random_image(SIZE, seed=9)
        context.run(["qemu-img", "convert", "-n", "--object", options[1], "-f", "raw", new, "--target-image-opts",
                     remote], env=server.environment)
        eq(checksum(server.image), checksum(new))
        for seen in descriptions(server.stop()):
            contains(SENT, seen)


@test("the kernel sends as much of a file without a copy over TLS as over plain TCP")
def _(context):
    sent = {}
    for keys in ("neither", "X.509"):
        server = Server(context, keys)
        server.copy_out()
        sent[keys] = sent_by_sendfile(server.stop())
    require(sent["neither"] > 0, "on this kernel nothing is sent by sendfile")
    eq(sent, {"neither": SIZE, "X.509": SIZE})


@test("a cipher that the kernel lacks is OpenSSL's")
def _(context):
    subprocess.run(["modprobe", "-r", CHACHA], check=False, capture_output=True)
    require(CHACHA not in Path("/proc/modules").read_text() and not Path("/sys/module", CHACHA).exists(),
            f"the kernel's {CHACHA} can't be taken away")
    forbidden = Path("/etc/modprobe.d/vm.conf")
    forbidden.write_text(f"install {CHACHA} /bin/false\n")
    context.defer(forbidden.unlink)
    before = kernel_counters()
    server = Server(context, "PSK", TLS12)
    server.copy_out()
    server.copy_in()
    eq(set(descriptions(server.stop())), {f"TLSv1.2, {CIPHERS[TLS12, 'PSK']}"})
    eq(kernel_counters(), before)


def raise_limits(context):
    """Lets a socket hold as much as a test sends at once."""
    for name in ("rmem", "wmem"):
        setting = Path(f"/proc/sys/net/ipv4/tcp_{name}")
        context.defer(setting.write_text, setting.read_text())
        setting.write_text(f"4096 {4 * MIB} {8 * MIB}\n")


for _version in (TLS12, TLS13):
    @test(f"{_version.name.replace('_', '.')}: many records that have arrived are read as they were sent")
    def _(context, version=_version):
        raise_limits(context)
        image, files = context.random_image(MIB), authority().server_files(context)
        process, plain = context.activated(*PATIENT, "--tls=require", f"--tls-certificates={files}",
                                           "--log=stderr", image, family="tcp")
        client = TlsClient.of(plain).start(tls=client_context(version=version))
        client.read(0, 1)
        process.signal(signal.SIGSTOP)
        wait_until(lambda: state_of(process.pid) == "T", "the server to stop")
        requests = [client.request(NBD_CMD_WRITE, offset, payload=pattern(offset, 16384))
                    for offset in range(0, MIB, 16384)]
        process.signal(signal.SIGCONT)
        for request in requests:
            client.answer(request).check()
        client.disconnect_and_wait()
        process.expect(EX_OK)
        eq(Path(image).read_bytes() == pattern(0, MIB), True, "what was written")


# ------------------------------------------------------------------ what goes wrong

class Misbehaving:
    """A connection to a server of its own, over TCP or a Unix socket."""

    def __init__(self, context, family, version):
        files = authority().server_files(context)
        self.process, client = context.activated(*PATIENT, "--tls=require",
                                                 f"--tls-certificates={files}", "--log=stderr",
                                                 context.pattern_image(MIB), family=family)
        self.client = TlsClient.of(client).start(tls=client_context(version=version))
        wanted = SENT if family == "tcp" else "TLSv1"
        wait_until(lambda: "serving export" in self.process.stderr(), "the first line")
        contains(wanted, self.process.stderr())

    def end(self):
        """(exit status, reason, what the client's TLS says of the end) once it has ended."""
        seen = "close_notify"
        try:
            self.client.read_to_end()
        except ssl.SSLError as error:
            seen = getattr(error, "reason", None) or str(error)
        except ConnectionResetError:
            seen = "reset"
        status = self.process.wait()
        return status, matches(r"ended: ([^;]*)", self.process.stderr())[1], seen


def break_mac(client, _process):
    record = bytearray(client.encrypt(client.request_bytes(NBD_CMD_READ, 0, 512)))
    record[-1] ^= 1
    client.send_raw(bytes(record))


def send_plain_text(client, _process):
    client.send_raw(client.request_bytes(NBD_CMD_READ, 0, 512))


def leave_inside_record(client, _process):
    client.send_raw(client.encrypt(client.request_bytes(NBD_CMD_READ, 0, 512))[:-3])
    client.shut_down_writing()


def leave_inside_request(client, _process):
    client.send(client.request_bytes(NBD_CMD_READ, 0, 512)[:20])
    client.shut_down_writing()


def say_goodbye_inside_request(client, _process):
    client.send(client.request_bytes(NBD_CMD_READ, 0, 512)[:20])
    client.say_goodbye()


def leave(client, _process):
    client.shut_down_writing()


def say_goodbye(client, _process):
    client.say_goodbye()


def alert(client, _process):
    """A fatal alert, by a client whose own input was changed on the way."""
    client.send(client.request_bytes(NBD_CMD_READ, 0, 512))
    wait_until(lambda: select.select([client._rfd], [], [], 0)[0], "the reply")
    reply = bytearray(client._read())
    reply[-1] ^= 1
    client._incoming.write(bytes(reply))
    try:
        client.tls.read(1)
        raise AssertionError("the client has taken a broken record")
    except ssl.SSLError:
        client._flush_tls()


def stop_inside_record(client, process):
    client.send_raw(client.encrypt(client.request_bytes(NBD_CMD_READ, 0, 512))[:-3])
    process.signal(signal.SIGTERM)


def stop_inside_replies(client, process):
    """The server is told to end while its socket is full."""
    client.send(client.request_bytes(NBD_CMD_READ, 0, MIB) * 30)
    wait_until(lambda: select.select([client._rfd], [], [], 0)[0], "the first reply")
    process.signal(signal.SIGTERM)


DEEDS = {
    "breaks a record's MAC": break_mac,
    "sends plain text": send_plain_text,
    "sends an alert": alert,
    "says goodbye": say_goodbye,
    "says goodbye inside a request": say_goodbye_inside_request,
    "leaves without a word": leave,
    "leaves inside a request": leave_inside_request,
    "leaves inside a record": leave_inside_record,
    "is inside a record at SIGTERM": stop_inside_record,
    "reads replies slowly at SIGTERM": stop_inside_replies,
}

for _version in (TLS12, TLS13):
    for _name, _deed in DEEDS.items():
        @test(f"a client of {_version.name.replace('_', '.')} that {_name} ends as without the kernel")
        def _(context, version=_version, deed=_deed):
            ends = {}
            for family in ("tcp", "unix"):
                connection = Misbehaving(context, family, version)
                deed(connection.client, connection.process)
                ends[family] = connection.end()
            eq(ends["tcp"], ends["unix"])


# ------------------------------------------------------------------ new keys

class OpenSslClient:
    """A client by OpenSSL itself, since Python's can't ask for new keys."""

    VERIFY_NONE, SET_MIN_VERSION, SET_MAX_VERSION = 0, 123, 124
    NOT_REQUESTED, REQUESTED = 0, 1  # of SSL_key_update()

    def __init__(self, context, family, version):
        self.lib = ctypes.CDLL(ctypes.util.find_library("ssl"))
        for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new"):
            getattr(self.lib, name).restype = ctypes.c_void_p
        files = authority().server_files(context)
        self.process, plain = context.activated(*PATIENT, "--tls=require",
                                                f"--tls-certificates={files}", "--log=stderr",
                                                context.pattern_image(MIB), family=family)
        plain.handshake()
        TlsClient.of(plain).ask_for_tls()
        self._plain = plain
        os.set_blocking(plain._rfd, True)
        made = self.lib.SSL_CTX_new(ctypes.c_void_p(self.lib.TLS_client_method()))
        for which in (self.SET_MIN_VERSION, self.SET_MAX_VERSION):
            self.lib.SSL_CTX_ctrl(ctypes.c_void_p(made), which, ctypes.c_long(version), None)
        self._ssl = ctypes.c_void_p(self.lib.SSL_new(ctypes.c_void_p(made)))
        self.lib.SSL_set_fd(self._ssl, plain._rfd)
        eq(self.lib.SSL_connect(self._ssl), 1, "SSL_connect")
        self.write(Client.option_bytes(NBD_OPT_GO, Client.info_bytes()))
        self.read(20 + 12 + 20)  # NBD_INFO_EXPORT and NBD_REP_ACK

    def write(self, data):
        return self.lib.SSL_write(self._ssl, data, len(data)) == len(data)

    def read(self, length):
        """None if the connection ends before."""
        result, buffer = b"", ctypes.create_string_buffer(length)
        while len(result) < length:
            count = self.lib.SSL_read(self._ssl, buffer, length - len(result))
            if count <= 0:
                return None
            result += buffer.raw[:count]
        return result

    def reads(self):
        """Whether a read is answered; by a simple reply, since nothing else was agreed."""
        if not self.write(Client.request_bytes(NBD_CMD_READ, 4096, 512)):
            return False
        answer = self.read(16 + 512)
        return answer is not None and answer[16:] == pattern(4096, 512)

    def update_keys(self, wanted):
        eq(self.lib.SSL_key_update(self._ssl, wanted), 1, "SSL_key_update")
        return self.lib.SSL_do_handshake(self._ssl) == 1

    def renegotiate(self):
        eq(self.lib.SSL_renegotiate(self._ssl), 1, "SSL_renegotiate")
        return self.lib.SSL_do_handshake(self._ssl) == 1 and self.lib.SSL_renegotiate_pending(self._ssl) == 0

    def end(self):
        self._plain.close()
        status = self.process.wait()
        return status, matches(r"ended: ([^;]*)", self.process.stderr())[1]


@test("a client that sends with new keys is served on")
def _(context):
    for family in ("tcp", "unix"):
        client = OpenSslClient(context, family, TLS13)
        for _round in range(3):
            client.update_keys(OpenSslClient.NOT_REQUESTED)
            eq(client.reads(), True, f"{family}: a read after new keys")
        status, reason = client.end()
        eq(status, EX_OK, reason)


@test("a client that wants to receive with new keys gets them from OpenSSL, and an end in words from the kernel")
def _(context):
    client = OpenSslClient(context, "unix", TLS13)
    client.update_keys(OpenSslClient.REQUESTED)
    eq(client.reads(), True)
    eq(client.end()[0], EX_OK)
    client = OpenSslClient(context, "tcp", TLS13)
    eq(client.reads(), True)
    client.update_keys(OpenSslClient.REQUESTED)
    eq(client.reads(), False)
    status, reason = client.end()
    eq(status, EX_PROTOCOL, reason)
    contains("new keys, which the kernel's TLS can't change", reason)


@test("renegotiation is refused as without the kernel")
def _(context):
    ends = {}
    for family in ("tcp", "unix"):
        client = OpenSslClient(context, family, TLS12)
        eq(client.reads(), True)
        eq(client.renegotiate(), False, f"{family}: renegotiation")
        ends[family] = client.reads(), client.end()
    eq(ends["tcp"], ends["unix"])


run_inside(prepare)
