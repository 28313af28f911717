#!/usr/bin/python3
"""Makes seeds for the fuzz targets from the traffic of real clients.

    NBDINETD=PROGRAM record.py FOLDER

Each client talks to the real program through a proxy that writes down what the client says. Of
each connection FOLDER/negotiation gets what was said up to the choice of an export, and
FOLDER/transmission what was said afterwards, in the format of tests/fuzz/input.h.
"""

import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

IHAVEOPT = b"IHAVEOPT"
REQUEST_MAGIC, EXTENDED_REQUEST_MAGIC = 0x25609513, 0x21e41c71
OPT_EXPORT_NAME, OPT_GO, OPT_STRUCTURED_REPLY, OPT_EXTENDED_HEADERS = 1, 7, 8, 11
CMD_WRITE, CMD_DISC = 1, 2
CMD_FLAG_PAYLOAD_LEN = 1 << 5
# As in input.h.
SETTINGS_AND_TAPES = 16
VERBATIM_WRITE_BYTES = 64
SAMPLE_BYTES = 16
SIMPLE_REPLIES, READ_ONLY, EXTENDED_HEADERS = 1 << 0, 1 << 1, 1 << 5
# A long copy says nothing that its beginning doesn't.
MAX_REQUESTS = 60

IMAGE_BYTES = 1 << 20  # the size that the setting 0 stands for


class Recording:
    """What one client says on one connection."""

    def __init__(self):
        self.said = b""

    def split(self):
        """(what is said during the handshake, what is said afterwards, the style that was asked
        for as settings say it)"""
        at, style = 4, SIMPLE_REPLIES
        while self.said[at:at + 8] == IHAVEOPT:
            option, length = struct.unpack_from(">II", self.said, at + 8)
            at += 16 + length
            if option == OPT_EXTENDED_HEADERS:
                style = EXTENDED_HEADERS
            elif option == OPT_STRUCTURED_REPLY and style == SIMPLE_REPLIES:
                style = 0
            if option == OPT_EXPORT_NAME:
                break
        return self.said[:at], self.said[at:], style


def shorten(requests):
    """The requests as they stand in an input: long payloads by their first bytes."""
    shortened, at = b"", 0
    extended = requests.startswith(struct.pack(">I", EXTENDED_REQUEST_MAGIC))
    form = ">IHHQQQ" if extended else ">IHHQQI"
    size = struct.calcsize(form)
    for _ in range(MAX_REQUESTS):
        header = requests[at:at + size]
        if len(header) < size:
            break
        magic, flags, kind, _cookie, _offset, length = struct.unpack(form, header)
        assert magic == (EXTENDED_REQUEST_MAGIC if extended else REQUEST_MAGIC)
        has_payload = kind == CMD_WRITE or (extended and flags & CMD_FLAG_PAYLOAD_LEN)
        payload = requests[at + size:at + size + length] if has_payload else b""
        at += size + len(payload)
        shortened += header + (payload[:SAMPLE_BYTES] if len(payload) > VERBATIM_WRITE_BYTES
                               else payload)
        if kind == CMD_DISC:
            break
    return shortened


class Proxy:
    """Listens on a Unix and a TCP socket, and gives each client a server of its own."""

    def __init__(self, server, folder):
        self.server = server
        self.recordings = []
        self.path = str(folder / "proxy.sock")
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(self.path)
        tcp = socket.create_server(("127.0.0.1", 0))
        self.port = tcp.getsockname()[1]
        for listener in (unix, tcp):
            listener.listen()
            threading.Thread(target=self.accept, args=(listener,), daemon=True).start()

    def accept(self, listener):
        while True:
            client = listener.accept()[0]
            ours, theirs = socket.socketpair()
            # pylint: disable=consider-using-with
            subprocess.Popen(self.server, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL)
            theirs.close()
            recording = Recording()
            self.recordings.append(recording)
            threading.Thread(target=pump, args=(client, ours, recording), daemon=True).start()
            threading.Thread(target=pump, args=(ours, client, None), daemon=True).start()


def pump(source, destination, recording):
    try:
        while data := source.recv(1 << 20):
            if recording is not None:
                recording.said += data
            destination.sendall(data)
    except OSError:
        pass
    try:
        destination.shutdown(socket.SHUT_WR)
    except OSError:
        pass


PYTHON_CLIENT = """
import nbd, sys
for style in ("extended", "structured", "simple"):
    structured = style != "simple"
    h = nbd.NBD()
    if hasattr(h, "set_request_extended_headers"):
        h.set_request_extended_headers(style == "extended")
    h.set_request_structured_replies(structured)
    h.add_meta_context("base:allocation")
    h.set_opt_mode(True)
    h.connect_uri(sys.argv[1])
    h.opt_list(lambda name, description: 0)
    if structured:
        h.opt_list_meta_context(lambda name: 0)
        h.opt_set_meta_context(lambda name: 0) if hasattr(h, "opt_set_meta_context") else None
    h.opt_info()
    h.opt_go()
    h.pwrite(b"x" * 4096, 8192, nbd.CMD_FLAG_FUA)
    h.pwrite(b"y" * 300000, 65536)
    h.pread(300000, 65000)
    h.pread(512, 0, nbd.CMD_FLAG_DF if structured else 0)
    h.zero(65536, 131072, nbd.CMD_FLAG_NO_HOLE)
    h.trim(65536, 262144)
    h.cache(65536, 0)
    h.flush()
    if structured:
        h.block_status(1 << 20, 0, lambda *_: 0)
        h.block_status(1 << 20, 0, lambda *_: 0, nbd.CMD_FLAG_REQ_ONE)
    h.shutdown()
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri(sys.argv[1])
h.opt_abort()
"""


def clients(uri, proxy, folder):
    """The commands that are run, one after the other."""
    copy = str(folder / "copy.img")
    qemu_uri = f"nbd+unix:///?socket={proxy.path}"
    yield ["nbdinfo", uri]
    yield ["nbdinfo", "--list", uri]
    yield ["nbdinfo", "--size", uri]
    yield ["nbdinfo", "--map", uri]
    yield ["nbdcopy", uri, copy]
    yield ["nbdcopy", "--request-size=65536", copy, uri]
    yield ["nbdcopy", "--connections=1", "--destination-is-zero", copy, uri]
    yield ["qemu-img", "info", qemu_uri]
    yield ["qemu-img", "map", "-f", "raw", qemu_uri]
    yield ["qemu-img", "convert", "-f", "raw", "-O", "raw", qemu_uri, copy]
    yield ["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", copy, qemu_uri]
    yield ["qemu-img", "bench", "-f", "raw", "-c", "20", "-d", "8", "-w", "-s", "4096", qemu_uri]
    yield ["qemu-io", "-f", "raw", "-c", "read 0 64k", "-c", "write -P 5 4k 12k",
           "-c", "write -f 0 512", "-c", "write -z 64k 64k", "-c", "write -z -u 128k 64k",
           "-c", "discard 256k 64k", "-c", "flush", "-c", "map", qemu_uri]
    yield ["nbd-client", "-l", "127.0.0.1", str(proxy.port)]
    yield ["fio", "--name=job", "--ioengine=nbd", f"--uri={uri}", "--rw=randrw", "--bs=4k",
           "--iodepth=8", "--size=128k", "--fsync=8"]
    yield ["/usr/bin/python3", "-c", PYTHON_CLIENT, uri]


def record(folder):
    """Runs all clients; their connections."""
    image = folder / "image"
    recordings = []
    for options in ([], ["--readonly", "--exportname=disk", "--description=a disk"]):
        with image.open("wb") as file:
            file.write(b"0123456789abcdef" * (128 << 10 >> 4))
            file.truncate(IMAGE_BYTES)
        work = Path(tempfile.mkdtemp(dir=folder))
        proxy = Proxy([os.environ["NBDINETD"], "-s", *options, str(image)], work)
        name = "disk" if options else ""
        uri = f"nbd+unix:///{name}?socket={proxy.path}"
        for command in clients(uri, proxy, work):
            if shutil.which(command[0]) is None:
                sys.exit(f"{command[0]} is missing")
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                           stdin=subprocess.DEVNULL, timeout=60, check=False, cwd=work)
        recordings += [(recording, bool(options)) for recording in proxy.recordings]
    return recordings


def main():
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        recordings = record(Path(folder))
    seeds = {"negotiation": set(), "transmission": set()}
    for recording, special in recordings:
        handshake, requests, style = recording.split()
        settings = bytearray(SETTINGS_AND_TAPES)
        settings[0] = 1 if special else 0  # the export "disk"
        settings[1] = 1 if special else 0  # read-only
        seeds["negotiation"].add(bytes(settings) + handshake)
        settings = bytearray(SETTINGS_AND_TAPES)
        settings[0] = style | (READ_ONLY if special else 0)
        if requests:
            seeds["transmission"].add(bytes(settings) + shorten(requests))
    for name, inputs in seeds.items():
        (target / name).mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(sorted(inputs)):
            (target / name / f"recorded-{number}").write_bytes(data)
        print(f"{name}: {len(inputs)} connections recorded")


if __name__ == "__main__":
    main()
