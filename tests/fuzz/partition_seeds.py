#!/usr/bin/python3
"""Makes the named inputs of the fuzz target `partitions`: tables by sfdisk, tables that do harm, and
answers of the process that reads them.

    partition_seeds.py FOLDER
"""

import os
import struct
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
from partition_tables import entry, make_table, mbr_entry, write_gpt, write_mbr

SECTORS = 1 << 14
END = (1 << 64) - 1


def image_input(path, first_byte):
    """The sectors of an image that aren't empty, as the target reads them."""
    data = Path(path).read_bytes()
    pieces = [bytes([first_byte, (len(data) // 512 // 16).bit_length() - 1])]
    for sector in range(len(data) // 512):
        piece = data[sector * 512:(sector + 1) * 512].rstrip(b"\0")
        if piece:
            pieces.append(struct.pack("<IH", sector, len(piece)) + piece)
    return b"".join(pieces)


def answer_input(size, kind, partitions, count=None):
    """What the process says: (number, extended, start, size, label, uuid)."""
    head = struct.pack("<BQIiIIII", 0, size, 0, 0, kind, 512, len(partitions) if count is None else count, 0)
    return head + b"".join(struct.pack("<IIQQ112s40s", number, extended, start, length, label.encode(), uuid.encode())
                           for number, extended, start, length, label, uuid in partitions)


GPT = ["label: gpt", "table-length: 4", "first-lba: 40", '1: start=64, size=64, name="EFI system"',
       '2: start=128, size=1024, name="root"', '4: start=2048, size=2049, name="Größe"']
MBR = ["label: dos", "label-id: 0x1234abcd", "1: start=64, size=64", "2: start=128, size=8192, type=5",
       "3: start=9000, size=500, type=a5", "5: start=256, size=64", "6: start=1024, size=64"]


def seeds(image):
    """{name: input}"""
    def fresh():
        with open(image, "wb") as file:
            file.truncate(SECTORS * 512)
        return image
    yield "gpt", image_input(make_table(fresh(), GPT), 1)
    yield "mbr", image_input(make_table(fresh(), MBR), 1)
    yield "empty", bytes([1, 10])
    yield "gpt-with-4k-sectors", image_input(
        write_gpt(fresh(), [entry(16, 63), entry(64, 128)], usable=(6, 2000), sector=4096), 2)
    yield "gpt-overlapping", image_input(
        write_gpt(fresh(), [entry(64, 128), entry(128, 256), entry(300, 400), entry(300, 400)]), 2)
    yield "gpt-at-the-end-of-numbers", image_input(
        write_gpt(fresh(), [entry(END - 10, END), entry(64, END), entry(1 << 55, 1 << 55)], usable=(34, 16000)), 2)
    yield "gpt-same-labels", image_input(
        write_gpt(fresh(), [entry(64, 127, "a"), entry(128, 191, "a"), entry(200, 210, "b")]), 2)
    lone = bytearray(entry(300, 310))
    lone[56:60] = b"\x00\xd8a\x00"
    yield "gpt-half-a-surrogate", image_input(write_gpt(fresh(), [bytes(lone)]), 2)
    hybrid = write_gpt(fresh(), [entry(64, 127), entry(128, 191)])
    yield "hybrid", image_input(write_mbr(hybrid, [mbr_entry(0x83, 1000, 100), mbr_entry(0xEE, 1, 999)]), 2)
    chain = write_mbr(fresh(), [mbr_entry(5, 100, 16000)])
    for i in range(12):
        write_mbr(chain, [mbr_entry(0x83, 10, 5), mbr_entry(0x0F, 20 * (i + 1) % 200, 20)], at=100 + 20 * i)
    yield "chain", image_input(chain, 1)
    loop = write_mbr(fresh(), [mbr_entry(0x83, 64, 64), mbr_entry(0x85, 4096, 8192)])
    yield "chain-to-itself", image_input(write_mbr(loop, [mbr_entry(5, 0, 8192), mbr_entry(5, 0, 8192)], at=4096), 1)
    yield "mbr-beyond", image_input(write_mbr(fresh(), [mbr_entry(0x83, 64, 0xFFFFFFFF), mbr_entry(0x83, 0, 1),
                                                        mbr_entry(0x83, 0xFFFFFFFF, 0xFFFFFFFF)]), 1)
    yield "answer", answer_input(1 << 23, 1, [(1, 0, 64, 64, "a", "ab-01"), (3, 0, 128, 64, "a", "ab-03")])
    yield "answer-mbr", answer_input(1 << 23, 2, [(1, 0, 64, 64, "", ""), (2, 1, 128, 1024, "", "ab-02"),
                                                  (5, 0, 256, 64, "", "")])
    yield "answer-huge", answer_input(1 << 62, 1, [(1, 0, END, END, "a", ""), (2, 0, 1 << 54, 1 << 54, "", ""),
                                                   (255, 0, 0, 1 << 53, "", "")])
    yield "answer-descending", answer_input(1 << 23, 1, [(2, 0, 0, 1, "", ""), (1, 0, 1, 1, "", "")])
    yield "answer-cut", answer_input(1 << 23, 1, [(1, 0, 64, 64, "a", "b")], count=2)
    yield "answer-many", answer_input(1 << 23, 1, [(1, 0, 64, 64, "a", "b")], count=0xFFFFFFFF)


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        for name, data in seeds(os.path.join(work, "image")):
            (folder / name).write_bytes(data)


main()
