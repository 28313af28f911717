"""Images with partition tables: made by sfdisk, and spoilt by hand."""

import binascii
import struct
import subprocess

from harness import need

SECTOR = 512
# Of a GPT's header: signature, revision, size, CRC, reserved, its sector and the other one's, first and
# last usable sector, GUID, sector, number and size of the entries, and their CRC.
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
# Of an entry: type, GUID, first and last sector, attributes, name.
_ENTRY = struct.Struct("<16s16sQQQ72s")
LINUX = bytes.fromhex("af3dc60f838472478e793d69d8477de4")


def make_table(path, lines, *options):
    """Writes a table as sfdisk(8) reads it."""
    subprocess.run([need("sfdisk", "/sbin", "/usr/sbin"), "--quiet", "--no-reread", "--no-tell-kernel",
                    "--lock=no", *options, path], input="\n".join(lines) + "\n", check=True, text=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return path


def entry(first, last, name="", kind=LINUX, guid=bytes(range(16))):
    """An entry of a GPT."""
    return _ENTRY.pack(kind, guid, first, last, 0, name.encode("utf-16-le"))


def write_gpt(path, entries, count=None, usable=None, sector=SECTOR, **fields):
    """Writes a GPT with these entries, whose checksums are right whatever is in it, and no second one.
    The file has its size already. `fields`: my_lba, entries_lba, entry_bytes, entries_crc."""
    with open(path, "r+b") as file:
        size = file.seek(0, 2)
        count = len(entries) if count is None else count
        table = b"".join(entries).ljust(count * _ENTRY.size if count < 1 << 16 else 0, b"\0")
        first, last = usable or (34, size // sector - 34)
        protective = bytearray(512)
        protective[446:462] = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff" * 3, 1, size // sector - 1)
        protective[510:] = b"\x55\xaa"
        head = [b"EFI PART", 0x10000, 92, 0, 0, fields.get("my_lba", 1), size // sector - 1, first, last,
                bytes(16), fields.get("entries_lba", 2), count, fields.get("entry_bytes", _ENTRY.size),
                fields.get("entries_crc", binascii.crc32(table))]
        head[3] = binascii.crc32(_HEADER.pack(*head))
        for at, data in ((0, protective), (sector, _HEADER.pack(*head).ljust(sector, b"\0")), (2 * sector, table)):
            file.seek(at)
            file.write(data)
    return path


def mbr_entry(kind, start, sectors):
    return struct.pack("<B3sB3sII", 0, b"\0" * 3, kind, b"\0" * 3, start, sectors)


def write_mbr(path, entries, at=0):
    """Writes an MBR, or with `at`, in sectors, the table of a logical partition."""
    with open(path, "r+b") as file:
        file.seek(at * SECTOR + 446)
        file.write(b"".join(entries).ljust(64, b"\0") + b"\x55\xaa")
    return path
