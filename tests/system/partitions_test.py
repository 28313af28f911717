#!/usr/bin/python3
"""Partitions (--partition, --partitions): which one a name stands for, that its client reaches no other
byte, tables that somebody has made to do harm, and the process that reads them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from clients import SocketActivate
from faults import FailingFs, LoopDevice, need_privilege
from harness import *
from intruder import FORBIDDEN, INTRUDER
from partition_tables import *

SIZE = 16 * MIB
GPT = ["label: gpt",
       '1: start=2048, size=4096, name="EFI system", uuid=11111111-2222-3333-4444-55555555aaaa',
       '2: start=8192, size=8192, name="root", uuid=11111111-2222-3333-4444-55555555bbbb',
       '4: start=20480, size=2049, name="Größe", uuid=11111111-2222-3333-4444-55555555cccc']
MBR = ["label: dos", "label-id: 0x1234abcd", "1: start=2048, size=2048", "2: start=4096, size=20480, type=5",
       "3: start=28672, size=1024", "5: start=6144, size=2048", "6: start=10240, size=4097"]


def disk(t, lines, *options, name=None):
    """An image with a pattern in it, and this table."""
    return make_table(t.pattern_image(SIZE, name), lines, *options)


def connected(t, *arguments):
    process, client = t.activated(*arguments)
    client.start(contexts=["base:allocation"])
    return process, client


def expect_part(t, path, start, length, *arguments):
    """What a client gets by these arguments is this part, of which it changes every byte and no other."""
    before = Path(path).read_bytes()
    process, client = connected(t, *arguments, path)
    eq(client.size, length, arguments)
    eq(client.read(0, length) == before[start:start + length], True, arguments)
    refuses(NBD_EINVAL, client.read, length - 511, 512)
    refuses(NBD_ENOSPC, client.write, length - 511, b"x" * 512)
    data = bytes(byte ^ 0xFF for byte in before[start:start + length])
    client.write(0, data)
    client.trim(0, 4096)
    client.write_zeroes(length - 4096, 4096)
    client.write(length - 4096, data[-4096:])
    client.write(0, data[:4096])
    client.flush()
    client.disconnect()
    process.expect(EX_OK)
    after = Path(path).read_bytes()
    eq(len(after), len(before), "the size of the file")
    eq(after[:start] == before[:start], True, "before the partition")
    eq(after[start:start + length] == data, True, "the partition")
    eq(after[start + length:] == before[start + length:], True, "behind the partition")
    Path(path).write_bytes(before)


def expect_failure(t, words, *arguments, status=EX_NOINPUT):
    process = t.run([NBDINETD, "--check", *arguments], status)
    contains(words, process.stderr())


# ------------------------------------------------------------------ which partition

@test("a partition of a GPT is served by its number, label or UUID, and a client reaches no other byte")
def _(t):
    path = disk(t, GPT)
    for name in ("1", "EFI system", "11111111-2222-3333-4444-55555555aaaa"):
        expect_part(t, path, MIB, 2 * MIB, f"--partition={name}")
    for name in ("4", "Größe", "11111111-2222-3333-4444-55555555CCCC"):
        expect_part(t, path, 10 * MIB, 2049 * 512, f"--partition={name}")


@test("a partition of an MBR is served by its number or UUID, logical ones as the kernel counts them")
def _(t):
    path = disk(t, MBR)
    for name, start, sectors in (("1", 2048, 2048), ("3", 28672, 1024), ("5", 6144, 2048), ("6", 10240, 4097),
                                 ("1234abcd-01", 2048, 2048), ("1234ABCD-06", 10240, 4097)):
        expect_part(t, path, start * 512, sectors * 512, f"--partition={name}")
    expect_failure(t, "partition 2 of", "--partition=2", path)
    expect_failure(t, "is an extended partition", "--partition=2", path)


@test("a table in sectors of 4096 bytes is found where there is none in sectors of 512")
def _(t):
    path = write_gpt(t.pattern_image(SIZE), [entry(256, 767), entry(1024, 2048)], usable=(256, SIZE // 4096 - 34),
                     sector=4096)
    expect_part(t, path, MIB, 2 * MIB, "--partition=1")
    expect_part(t, path, 4 * MIB, 1025 * 4096, "--partition=2")


def place_of(path, number):
    """Where sfdisk(8) finds a partition: (start, size) in bytes."""
    table = json.loads(subprocess.run([need("sfdisk", "/sbin", "/usr/sbin"), "--json", path], check=True,
                                      capture_output=True).stdout)["partitiontable"]
    found, = [one for one in table["partitions"] if re.search(r"\d+$", one["node"])[0] == str(number)]
    return tuple(found[what] * table["sectorsize"] for what in ("start", "size"))


@test("a block device's partitions are those that the kernel and sfdisk find, with its sectors")
def _(t):
    need_root("to set up a loop device")
    for lines, block_size, numbers in ((GPT, 512, (1, 2, 4)), (MBR, 512, (1, 3, 5, 6)),
                                       (["label: gpt", "1: start=256, size=512"], 4096, (1,)),
                                       (["label: dos", "1: start=256, size=512"], 4096, (1,))):
        path = t.pattern_image(SIZE, f"{lines[0][-3:]}-{block_size}.img")
        with LoopDevice(path, block_size=block_size) as device:
            make_table(device.path, lines)
        if block_size == 4096 and "gpt" in lines[0]:
            expect_part(t, path, MIB, 2 * MIB, "--partition=1")
        with LoopDevice(path, block_size=block_size, partitions=True) as device:
            name = os.path.basename(device.path)
            for number in numbers:
                start, size = place_of(device.path, number)
                place = Path(f"/sys/block/{name}/{name}p{number}")
                if place.exists():  # else the kernel doesn't know such tables
                    eq([int((place / what).read_text()) * 512 for what in ("start", "size")], [start, size])
                process, client = connected(t, f"--partition={number}", device.path)
                eq(client.size, size)
                content = Path(path).read_bytes()
                eq(client.read(0, size) == content[start:start + size], True)
                client.write(0, b"w" * 4096)
                client.flush()
                client.disconnect()
                process.expect(EX_OK)
                with open(device.path, "rb") as whole:
                    eq(os.pread(whole.fileno(), 4096, start), b"w" * 4096)


@test("a name that no partition has, or several have, is an error that lists what there is")
def _(t):
    path = disk(t, GPT)
    expect_failure(t, f'partition 3 isn\'t in the GPT of "{path}", which has 1, 2, 4', "--partition=3", path)
    expect_failure(t, f'"swap" isn\'t in the GPT of "{path}", which has 1 ("EFI system", 11111111-2222-', "--partition=swap",
                   path)
    twice = disk(t, ["label: gpt", '1: start=2048, size=2048, name="a"', '2: start=4096, size=2048, name="a"',
                     '3: start=8192, size=2048, name="1"'], name="twice")
    expect_failure(t, 'have the name "a": 1 ("a", ', "--partition=a", twice)
    # Digits are a number, also where a label has them.
    expect_part(t, twice, MIB, MIB, "--partition=1")
    for value, words in (("0", "use one from 1 to 255"), ("256", "use one from 1 to 255"), ("", "use the number"),
                         ("99999999999999999999", "use one from 1 to 255")):
        expect_failure(t, words, f"--partition={value}", path, status=EX_USAGE)
    for other in ("--offset=1", "--length=1", "--directory=/"):
        expect_failure(t, "can't be used together", "--partition=1", other, *([] if "dir" in other else [path]),
                       status=EX_USAGE)
    expect_failure(t, "--partitions needs --directory", "--partitions", status=EX_USAGE)
    expect_failure(t, "can't be used together", "--partitions", path, status=EX_USAGE)


# ------------------------------------------------------------------ tables that do harm

@test("a file without a table, shorter than its disk, or with another table says so")
def _(t):
    expect_failure(t, "has no partition table that can be read", "--partition=1", t.pattern_image(MIB))
    expect_failure(t, "has no partition table that can be read", "--partition=1", t.image(b"", "empty"))
    expect_failure(t, "has no partition table that can be read", "--partition=1", t.image(b"\x55\xaa" * 100, "short"))
    sun = disk(t, ["label: sun", "1: start=2048, size=2048"], name="sun")
    expect_failure(t, "has no partition table that can be read", "--partition=1", sun)
    cut = disk(t, GPT, name="cut")
    os.truncate(cut, 8 * MIB)
    expect_failure(t, "no GPT that is valid: is the file shorter than its disk was?", "--partition=1", cut)
    cut = disk(t, MBR, name="cut-mbr")
    os.truncate(cut, 14 * MIB)
    expect_failure(t, f"begins at {28672 * 512} and has {1024 * 512} bytes, which is beyond the file's {14 * MIB}",
                   "--partition=3", cut)
    expect_part(t, cut, MIB, MIB, "--partition=1")


@test("where the first GPT is spoilt, the second one holds; in a hybrid MBR, the GPT holds")
def _(t):
    path = disk(t, GPT)
    with open(path, "r+b") as file:
        file.seek(512)
        file.write(b"\xff" * 512)
    expect_part(t, path, MIB, 2 * MIB, "--partition=1")
    path = disk(t, GPT, name="hybrid")
    # The MBR says that partition 1 is somewhere else.
    write_mbr(path, [mbr_entry(0x83, 9000, 100), mbr_entry(0xEE, 1, 2047)])
    expect_part(t, path, MIB, 2 * MIB, "--partition=1")


@test("partitions that overlap aren't served, and those beside them are")
def _(t):
    path = write_gpt(t.pattern_image(SIZE), [entry(2048, 4095), entry(4095, 5000), entry(6000, 7000),
                                             entry(6000, 7000), entry(8000, 8999), entry(9000, 9999)])
    for number, other in ((1, 2), (2, 1), (3, 4), (4, 3)):
        expect_failure(t, f"overlaps partition {other}", f"--partition={number}", path)
    expect_part(t, path, 8000 * 512, 1000 * 512, "--partition=5")
    expect_part(t, path, 9000 * 512, 1000 * 512, "--partition=6")
    path = disk(t, MBR, name="mbr")
    write_mbr(path, [mbr_entry(0x83, 2048, 2048), mbr_entry(5, 4096, 20480), mbr_entry(0x83, 24000, 5000)])
    expect_failure(t, "overlaps partition 2", "--partition=3", path)
    expect_part(t, path, 6144 * 512, 2048 * 512, "--partition=5")


@test("a partition that begins at the table isn't served")
def _(t):
    path = t.pattern_image(SIZE)
    write_mbr(path, [mbr_entry(0x83, 0, 64), mbr_entry(0x83, 2048, 64)])
    expect_failure(t, "partition 1 of", "--partition=1", path)
    expect_failure(t, "begins where the table itself is", "--partition=1", path)
    expect_part(t, path, 2048 * 512, 64 * 512, "--partition=2")


@test("whatever a GPT says, no byte outside of the file is a partition's")
def _(t):
    end = (1 << 64) - 1
    cases = [
        {"entries": [entry(end - 10, end)]}, {"entries": [entry(2048, end)]}, {"entries": [entry(end, 2048)]},
        {"entries": [entry(4096, 2048)]}, {"entries": [entry(0, 0)]}, {"entries": [entry(1 << 63, (1 << 63) + 5)]},
        {"entries": [entry(2048, 4095)], "usable": (0, end)}, {"entries": [entry(end - 10, end)], "usable": (34, end)},
        {"entries": [entry(1 << 55, (1 << 55) + 7)], "usable": (34, end)},
        {"entries": [entry(2048, 4095)], "count": 0}, {"entries": [entry(2048, 4095)], "count": (1 << 32) - 1},
        {"entries": [entry(2048, 4095)], "count": 1 << 25}, {"entries": [entry(2048, 4095)], "entry_bytes": 0},
        {"entries": [entry(2048, 4095)], "entry_bytes": (1 << 32) - 1}, {"entries": [entry(2048, 4095)], "my_lba": 7},
        {"entries": [entry(2048, 4095)], "entries_lba": end}, {"entries": [entry(2048, 4095)], "entries_crc": 1},
        {"entries": [entry(2048, 4095)], "entries_lba": 1 << 60},
    ]
    for number, case in enumerate(cases):
        path = t.sparse_image(SIZE, f"hostile-{number}")
        write_gpt(path, **case)
        process = t.run([NBDINETD, "--check", "--partition=1", path], EX_NOINPUT)
        matches(r"no GPT that is valid|isn't in the GPT|beyond the file", process.stderr(), case)


@test("of a GPT with more partitions than the kernel has for a disk, the first 255 are served")
def _(t):
    entries = [entry(2048 + 8 * i, 2055 + 8 * i, f"p{i + 1}") for i in range(1000)]
    path = write_gpt(t.pattern_image(SIZE), entries, usable=(2000, SIZE // 512 - 34))
    expect_part(t, path, (2048 + 8 * 254) * 512, 4096, "--partition=255")
    expect_failure(t, '"p256" isn\'t in the GPT', "--partition=p256", path)
    contains('1 ("p1", ', t.run([NBDINETD, "--check", "--partition=none", path], EX_NOINPUT).stderr())


@test("a chain of logical partitions that leads to itself, backwards, out of the file or on and on has an end")
def _(t):
    links = {"itself": [mbr_entry(5, 0, 20480)], "first": [mbr_entry(0x83, 10, 100), mbr_entry(5, 0, 20480)],
             "outside": [mbr_entry(0x83, 10, 100), mbr_entry(5, 1 << 31, 100)],
             "container": [mbr_entry(0x83, 10, 100), mbr_entry(0x85, 20000, 20480)],
             "wraps": [mbr_entry(0x83, 10, 100), mbr_entry(5, (1 << 32) - 4096, 20480)]}
    for name, table in links.items():
        path = t.sparse_image(SIZE, name)
        write_mbr(path, [mbr_entry(0x83, 2048, 2048), mbr_entry(5, 4096, 20480)])
        write_mbr(path, table, at=4096)
        expect_failure(t, "partition 200 isn't in the MBR", "--partition=200", path)
        expect_part(t, path, MIB, MIB, "--partition=1")
    path = t.sparse_image(SIZE, "long")
    write_mbr(path, [mbr_entry(5, 100, 30000)])
    for i in range(600):
        write_mbr(path, [mbr_entry(0x83, 10, 5), mbr_entry(0x0f, 20 * (i + 1), 20)], at=100 + 20 * i)
    process, client = connected(t, "--partition=200", path)
    eq(client.size, 5 * 512)
    client.disconnect()
    process.expect(EX_OK)


@test("what a partition has in it is no table: neither another MBR nor a BSD disklabel")
def _(t):
    path = disk(t, ["label: dos", "1: start=2048, size=4096, type=a5"])
    write_mbr(path, [mbr_entry(0x83, 10, 100)], at=2048)
    # The magic of a disklabel, in the second sector of the partition, and one partition.
    label = bytearray(512)
    label[0:4] = label[132:136] = (0x82564557).to_bytes(4, "little")
    label[138:140] = (1).to_bytes(2, "little")
    label[148:156] = (100).to_bytes(4, "little") + (2100).to_bytes(4, "little")
    label[160] = 7
    with open(path, "r+b") as file:
        file.seek(2049 * 512)
        file.write(label)
    expect_failure(t, "which has 1\n", "--partition=5", path)


# ------------------------------------------------------------------ with other options

@test("a partition goes with --readonly, --size, --block-size, --cache, --cow and --exclusive")
def _(t):
    path = disk(t, GPT)
    whole = Path(path).read_bytes()
    part = whole[20480 * 512:20480 * 512 + 2049 * 512]
    for arguments, size in ((["-r"], len(part)), (["--size=up:4096", "-r"], -(-len(part) // 4096) * 4096),
                            (["--block-size=4096:4096:1M", "-r"], len(part) // 4096 * 4096),
                            (["--cache=drop"], len(part)), (["--cache=writethrough"], len(part)),
                            (["--cache=none"], len(part)), (["--cache=directsync"], len(part)),
                            (["--cow", "--cow-dir=memory"], len(part))):
        process, client = connected(t, "--partition=4", *arguments, path)
        eq(client.size, size, arguments)
        eq(client.read(0, size) == part.ljust(size, b"\0")[:size], True, arguments)
        if "-r" not in arguments:
            client.write(0, part[:512] if "--cow" not in arguments else b"w" * 512)
        client.disconnect()
        process.expect(EX_OK)
    eq(Path(path).read_bytes() == whole, True, "the image")


@test("--exclusive is about the file: a client of one partition keeps those of the others out")
def _(t):
    path = disk(t, GPT)
    process, client = connected(t, "--exclusive", "--partition=1", path)
    for arguments in (["--partition=1"], ["--partition=2"], []):
        other, second = t.activated("--exclusive", *arguments, path)
        second.handshake()
        refuses_option(second)
        second.close()
        other.wait()
    client.disconnect()
    process.expect(EX_OK)


def refuses_option(client):
    client.option(NBD_OPT_GO, Client.info_bytes())
    eq(client.option_reply(NBD_OPT_GO)[0], NBD_REP_ERR_POLICY)


@test("a file that was handed over has partitions if it can be opened anew")
def _(t):
    path = disk(t, GPT)
    prefixes = [[]]
    if os.geteuid() == 0:
        os.chmod(path, 0o600)
        prefixes.append(as_user(64322))
    for prefix in prefixes:
        ours, theirs = t.connection()
        fd = os.open(path, os.O_RDWR)
        process = t.spawn([*prefix, NBDINETD, "--partition=2"], fds={3: theirs, 4: fd}, listen_fds=2, listen_pid="own",
                          env={"LISTEN_FDNAMES": "connection:disk"})
        theirs.close()
        client = Client(ours)
        if not prefix:
            client.start("disk")
            eq(client.size, 4 * MIB)
            client.disconnect()
            process.expect(EX_OK)
        else:
            client.expect_end()
            process.expect(EX_NOINPUT)
            contains("this process may not open the file anew", process.stderr())
        # The offset that others share is where it was.
        eq(os.lseek(fd, 0, os.SEEK_CUR), 0)
        os.close(fd)


# ------------------------------------------------------------------ --directory

def folder(t):
    path = Path(t.fresh(".exports"))
    path.mkdir()
    shutil.copy(disk(t, GPT, name="gpt.img"), path / "gpt.img")
    shutil.copy(disk(t, MBR, name="mbr.img"), path / "mbr.img")
    (path / "plain").write_bytes(b"x" * 4096)
    return path


@test("with --partitions, FILE:N is a partition of a file in the directory, and a list has the files")
def _(t):
    path = folder(t)
    process, client = t.activated(f"--directory={path}", "--partitions", "--sandbox=require")
    client.handshake()
    eq([name for name, _ in client.list_exports()], ["gpt.img", "mbr.img", "plain"])
    for name, size in (("gpt.img", SIZE), ("gpt.img:1", 2 * MIB), ("mbr.img:6", 4097 * 512), ("gpt.img:4", 2049 * 512)):
        client.info(name)
        eq(client.size, size, name)
    for name in ("gpt.img:3", "gpt.img:", "gpt.img:01", "gpt.img:0", "gpt.img:256", "gpt.img:x", "none:1", "plain:1",
                 "mbr.img:2", ":1", "gpt.img:1:1", "../gpt.img:1", "gpt.img:-1", "gpt.img:root"):
        client.option(NBD_OPT_INFO, Client.info_bytes(name))
        eq(client.option_reply(NBD_OPT_INFO)[0], NBD_REP_ERR_UNKNOWN, name)
    client.choose("gpt.img:2")
    eq(client.size, 4 * MIB)
    data = Path(path, "gpt.img").read_bytes()
    eq(client.read(0, 4 * MIB) == data[4 * MIB:8 * MIB], True)
    client.write(0, b"w" * 4096)
    client.disconnect()
    process.expect(EX_OK)
    eq(Path(path, "gpt.img").read_bytes() == data[:4 * MIB] + b"w" * 4096 + data[4 * MIB + 4096:], True)
    process, client = t.activated(f"--directory={path}")
    client.handshake()
    client.option(NBD_OPT_INFO, Client.info_bytes("gpt.img:1"))
    eq(client.option_reply(NBD_OPT_INFO)[0], NBD_REP_ERR_UNKNOWN, "without --partitions")
    client.haggle(NBD_OPT_ABORT)
    process.expect(EX_OK)


@test("a file whose own name ends in a number comes before a partition; a partition can be the default export")
def _(t):
    path = folder(t)
    (path / "gpt.img:2").write_bytes(b"own" * 512)
    process, client = t.activated(f"--directory={path}", "--partitions", "--exportname=gpt.img:1", "--cow",
                                  "--cow-dir=memory")
    client.handshake()
    client.info("gpt.img:2")
    eq(client.size, 1536)
    client.choose("")
    eq(client.size, 2 * MIB)
    client.write(0, b"w" * 512)
    client.disconnect()
    process.expect(EX_OK)
    output = t.run([NBDINETD, "--check", f"--directory={path}", "--partitions", "--exportname=gpt.img:1"]).stdout()
    contains("and partition N of each FILE under the name FILE:N\n", output)
    contains('the default export is "gpt.img:1"\n', output)


@test("a file that can't be looked at is an error, and no partition of another one takes its place")
def _(t):
    path = folder(t)
    path.chmod(0o755)
    (path / "gpt.img").chmod(0o644)
    locked = path / "locked"
    locked.mkdir(mode=0o700)
    (path / "gpt.img:2").symlink_to("locked/disk")
    process, client = t.activated(f"--directory={path}", "--partitions", prefix=as_user(4001))
    client.handshake()
    client.option(NBD_OPT_INFO, Client.info_bytes("gpt.img:2"))
    eq(client.option_reply(NBD_OPT_INFO)[0], NBD_REP_ERR_POLICY)
    client.info("gpt.img:1")
    client.close()
    process.wait()


@test("clients of a listener choose partitions, each with a process of its own that reads the tables")
def _(t):
    path = folder(t)
    server = SocketActivate(t, f"--directory={path}", "--partitions")
    copy = t.path("copy")
    for name, start, length in (("gpt.img:1", MIB, 2 * MIB), ("mbr.img:5", 6144 * 512, MIB)):
        subprocess.run([need("nbdcopy"), server.uri(name), copy], check=True)
        whole = (path / name.split(":")[0]).read_bytes()
        eq(Path(copy).read_bytes() == whole[start:start + length], True, name)


# ------------------------------------------------------------------ the process that reads the tables

def in_negotiation(t, path, *arguments):
    """(process, client, the process that reads the tables)"""
    process, client = t.activated(f"--directory={path}", "--partitions", *arguments)
    client.handshake()
    reader, = children_of(process.pid)
    return process, client, reader


def is_there(pid):
    return os.path.exists(f"/proc/{pid}")


@test("it has a sandbox, one socket, no key and no right to anything, and ends when an export is chosen")
def _(t):
    path = folder(t)
    process, client, reader = in_negotiation(t, path, "--sandbox=require")
    client.info("gpt.img:1")
    status = Path(f"/proc/{reader}/status").read_text()
    for line in ("Seccomp:\t2", "NoNewPrivs:\t1", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
                 "CapBnd:\t0000000000000000" if os.geteuid() == 0 else "Seccomp:\t2"):
        contains(line, status)
    eq(os.listdir(f"/proc/{reader}/fd"), ["0"])
    contains("socket:", os.readlink(f"/proc/{reader}/fd/0"))
    contains("libblkid", Path(f"/proc/{reader}/maps").read_text())
    eq("libblkid" in Path(f"/proc/{process.pid}/maps").read_text(), False, "libblkid in the connection")
    limits = Path(f"/proc/{reader}/limits").read_text()
    matches(r"Max cpu time +10 +10 ", limits)
    matches(r"Max core file size +0 +0 ", limits)
    client.choose("gpt.img:2")
    client.read(0, 512)
    wait_until(lambda: not is_there(reader), "its end, without a zombie")
    eq(children_of(process.pid), [])
    client.disconnect()
    process.expect(EX_OK)
    # With one FILE it is gone before the client's first byte.
    process, client = t.activated("--partition=1", str(path / "gpt.img"))
    client.handshake()
    wait_until(lambda: children_of(process.pid) == [], "its end")
    eq("libblkid" in Path(f"/proc/{process.pid}/maps").read_text(), False, "libblkid in the connection")
    client.close()
    process.wait()


@test("a listener that has looked at its export keeps no process for it")
def _(t):
    path = folder(t)
    for arguments in (["--partitions", f"--directory={path}"], ["--partition=1", str(path / "gpt.img")]):
        address = t.fresh(".sock")
        process = t.spawn([NBDINETD, "-f", "-U", address, *arguments])
        wait_listening(address, process)
        wait_until(lambda one=process: children_of(one.pid) == [], "its end")
        process.signal(signal.SIGTERM)
        process.expect(EX_OK)


@test("it ends with its connection, however that ends")
def _(t):
    path = folder(t)
    for end in (lambda process, client: client.close(), lambda process, client: process.signal(signal.SIGTERM),
                lambda process, client: process.signal(signal.SIGKILL)):
        process, client, reader = in_negotiation(t, path)
        end(process, client)
        process.wait()
        wait_until(lambda pid=reader: not is_there(pid) or
                   ") Z " in Path(f"/proc/{pid}/stat").read_text(), "its end")
    # Also one that has been stopped meanwhile.
    process, client, reader = in_negotiation(t, path)
    os.kill(reader, signal.SIGSTOP)
    process.signal(signal.SIGKILL)
    process.wait()
    os.kill(reader, signal.SIGCONT)
    wait_until(lambda: not is_there(reader) or ") Z " in Path(f"/proc/{reader}/stat").read_text(), "its end")


@test("SIGTERM to all processes of a unit leaves it to the connection to end it")
def _(t):
    path = folder(t)
    process, client, reader = in_negotiation(t, path)
    os.kill(reader, signal.SIGTERM)
    client.info("gpt.img:1")
    eq(client.size, 2 * MIB)
    client.close()
    process.wait()


@test("where it is killed, there are no partitions, and the files are still served")
def _(t):
    path = folder(t)
    process, client, reader = in_negotiation(t, path)
    os.kill(reader, signal.SIGKILL)
    for _ in range(2):
        client.option(NBD_OPT_INFO, Client.info_bytes("gpt.img:1"))
        eq(client.option_reply(NBD_OPT_INFO)[0], NBD_REP_ERR_UNKNOWN)
    client.choose("gpt.img")
    client.read(0, 512)
    client.disconnect()
    process.expect(EX_OK)
    contains("the process that reads partition tables has ended", process.stderr())


def held_up(t, content, ask):
    """A process whose table's storage doesn't answer, after ask(client). Yields (process, client, fs)."""
    with FailingFs(t.fresh("fs"), content) as fs:
        fs.rule("read", "hold")
        process, client, _ = in_negotiation(t, fs.mountpoint, "--handshake-timeout=0")
        ask(client)
        fs.wait_held(1)
        yield process, client, fs


@test("SIGTERM ends the connection while the storage of a table doesn't answer, and no other signal does")
def _(t):
    need_privilege("fuse")
    content = Path(disk(t, GPT)).read_bytes()
    for process, client, _ in held_up(t, content, lambda one: one.option(NBD_OPT_INFO, Client.info_bytes("disk:1"))):
        process.signal(signal.SIGTERM)
        eq(client.option_reply(NBD_OPT_INFO)[0], NBD_REP_ERR_SHUTDOWN)
        client.close()
        process.expect(EX_OK)
    for process, client, _ in held_up(t, content, lambda one: one.option(NBD_OPT_EXPORT_NAME, b"disk:1")):
        process.signal(signal.SIGTERM)
        process.expect(EX_OK)
        contains("ended: the server is shutting down", process.stderr())
    # That of 'nbdinetctl limit'.
    for process, client, fs in held_up(t, content, lambda one: one.option(NBD_OPT_INFO, Client.info_bytes("disk:1"))):
        process.signal(signal.SIGRTMIN + 1)
        fs.clear()
        eq(client.option_reply(NBD_OPT_INFO)[0], NBD_REP_INFO)
        client.close()
        process.wait()


@test("where it doesn't answer, the client gets an error after a time", waits=True)
def _(t):
    path = folder(t)
    process, client, reader = in_negotiation(t, path, "--handshake-timeout=0")
    os.kill(reader, signal.SIGSTOP)
    start = time.monotonic()
    client.option(NBD_OPT_INFO, Client.info_bytes("gpt.img:1"))
    eq(client.option_reply(NBD_OPT_INFO)[0], NBD_REP_ERR_UNKNOWN)
    eq(time.monotonic() - start >= 10, True)
    contains("hasn't answered within 10s", process.stderr())
    os.kill(reader, signal.SIGCONT)
    client.option(NBD_OPT_INFO, Client.info_bytes("gpt.img:1"))
    eq(client.option_reply(NBD_OPT_INFO)[0], NBD_REP_ERR_UNKNOWN, "a late answer")
    client.close()
    process.wait()


@test("a table that can't be read is an error, and no other table", guard=300.0)
def _(t):
    path = disk(t, MBR)
    strace = [need("strace"), "-f", "-qq", "-e", "signal=none", "-o", "/dev/null"]
    for call in ("read", "lseek", "pread64"):
        for which in range(1, 7):
            for error in ("EIO", "EINTR"):
                inject = ["-P", path, "-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={which}"]
                process = t.spawn([*strace, *inject, NBDINETD, "--check", "--partition=5", path])
                status = process.wait()
                if status == EX_OK:
                    contains(f"{2048 * 512} bytes", process.stdout())
                    continue
                eq(status, EX_NOINPUT, process.stderr())
                matches("failed to read the partition table|no partition table|isn't in the MBR", process.stderr())


@test("without libblkid, or with another library in its place, the message says what is missing")
def _(t):
    path = disk(t, GPT)
    libraries = Path(t.fresh(".libraries"))
    libraries.mkdir()
    (libraries / "libblkid.so.1").write_bytes(b"no library")
    env = {"LD_LIBRARY_PATH": str(libraries)}
    process = t.spawn([NBDINETD, "--check", "--partition=1", path], env=env)
    process.expect(EX_CONFIG)
    contains("libblkid can't be loaded", process.stderr())
    process = t.spawn([NBDINETD, "--check", path], env=env)
    process.expect(EX_OK)


@test("where the sandbox is required and can't be had, no table is read")
def _(t):
    path = disk(t, GPT)
    strace = [need("strace"), "-f", "-qq", "-e", "signal=none", "-e", "trace=seccomp", "-o", "/dev/null", "-e",
              "inject=seccomp:error=ENOSYS:when=1+"]
    process = t.spawn([*strace, NBDINETD, "--check", "--sandbox=require", "--partition=1", path])
    process.expect(EX_OSERR)
    contains("failed to read the partition table", process.stderr())
    contains("--sandbox=require, and system calls can't be filtered", process.stderr())


@test("whoever has taken it over can do nothing")
def _(t):
    require(os.access(INTRUDER, os.X_OK), "needs tests/nbdinetd-intruder")
    path = disk(t, GPT)
    allowed = {"newfstatat as fstat", "recvmsg"}  # the latter on its own socket
    done = set()
    for attempt in FORBIDDEN:
        process = t.spawn([INTRUDER, "--check", "--sandbox=require", "--partition=1", path],
                          env={"NBDINETD_INTRUDER": f"table {attempt}", "INTRUDER_VICTIM": "1",
                               "INTRUDER_FILE": t.path("spoilt"), "INTRUDER_SOCKET": t.path("nobody")})
        process.wait()
        found = re.search(r"intruder: (done|error (\d+))", process.stderr())
        if found is None:
            contains("has ended", process.stderr(), attempt)
            continue
        if found[1] == "done":
            done.add(attempt)
    eq(done - allowed, set())
    eq(os.path.exists(t.path("spoilt")), False)


main()
