"""The headers of kept copies, for tests that make them others (src/export/kept_header.h)."""

import struct

SLOT = 16 << 10


def crc64(data):
    """CRC-64/XZ, as src/export/checksum.h."""
    table = []
    for i in range(256):
        for _ in range(8):
            i = (i >> 1) ^ (0xc96c5795d7870f42 if i & 1 else 0)
        table.append(i)
    value = (1 << 64) - 1
    for byte in data:
        value = table[(value ^ byte) & 0xff] ^ (value >> 8)
    return value ^ ((1 << 64) - 1)


def change_headers(copy, change):
    """Makes both headers others, with checksums that hold."""
    content = bytearray(copy.read_bytes())
    for begin in (len(content) - 2 * SLOT, len(content) - SLOT):
        slot = bytes(content[begin:begin + SLOT - 8])
        if not any(slot):
            continue  # nothing has been written there yet
        slot = change(slot)
        content[begin:begin + SLOT] = slot + struct.pack(">Q", crc64(slot))
    copy.write_bytes(content)


def begun(slot, owner):
    """The header, as if a merge had begun; `owner` is the export of its owner."""
    # Behind the last text, which that is.
    at = slot.rindex(owner.encode()) + len(owner)
    return slot[:at] + struct.pack(">Q", 1) + slot[at + 8:]
