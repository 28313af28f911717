#!/usr/bin/python3
"""The limits of what one client can make a process hold and do: the table of SECURITY.md against the
constants of src/base/limits.h, and both against the real program. Deadlines are in timeouts_test.py."""

import os
import re
import signal
import struct
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from faults import FailingFs, need_privilege  # noqa: E402
from harness import *  # noqa: E402
from listening import *  # noqa: E402

KIB = 1 << 10
CLOSE_ENOUGH = 4 * MIB  # of memory that is the allocator's and not ours


def expect_shut(connection):
    """The connection ends without a byte."""
    client = Client(connection)
    client.expect_end()
    eq(bytes(client.received), b"", "what the client has got")


# ------------------------------------------------------------------ the table

def constants():
    """limits.h as {name: (number, unit)}; unit is "bytes", "ms" or ""."""
    text = re.sub(r"//.*", "", (SRCDIR / "src/base/limits.h").read_text())
    found, numbers = {}, {}
    for kind, name, value in re.findall(
            r"inline constexpr (\S+) (k\w+)\s*=\s*([^;]+);", text):
        value = re.sub(r"absl::Seconds\((.*)\)", r"(\1) * 1000", value)
        value = re.sub(r"absl::Milliseconds\((.*)\)", r"(\1)", value)
        value = value.replace("/", "//")  # of integers, as in C++
        numbers[name] = eval(value, {}, numbers)
        found[name] = (numbers[name], "ms" if "Duration" in kind else
                       "bytes" if name.endswith("Bytes") else "")
    eq(len(found), text.count("inline constexpr"), "constants that are understood")
    return found


def in_words(number, unit):
    if unit == "ms":
        return f"{number // 1000} s" if number % 1000 == 0 else f"{number} ms"
    if unit == "bytes":
        for shift, word in ((20, "MiB"), (10, "KiB")):
            if number % (1 << shift) == 0:
                return f"{number >> shift} {word}"
        return f"{number} bytes"
    return str(number)


@test("the table of SECURITY.md has every constant of limits.h with its value, and no other")
def _(t):
    table = re.findall(r"^\| `(k\w+)` \| ([^|]+) \| [^|]+ \|$",
                       (SRCDIR / "SECURITY.md").read_text(), re.MULTILINE)
    eq(table, [(name, in_words(*value)) for name, value in constants().items()])


@test("every constant of limits.h is used where a client is served")
def _(t):
    sources = {path: path.read_text() for path in (SRCDIR / "src").rglob("*.[ch]*")
               if path.name != "limits.h"}
    for name in constants():
        assert any(re.search(rf"\b{name}\b", text) for text in sources.values()), f"{name} is unused"


# ------------------------------------------------------------------ memory, threads, descriptors

def limit(name):
    return constants()[name][0]


def status_of(pid):
    return dict(re.findall(r"^(\w+):\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE))


def own_memory(pid):
    """The bytes that the process has for itself."""
    return int(status_of(pid)["RssAnon"]) * KIB


def most_memory():
    """What SECURITY.md adds up to, beside the memory of an idle connection."""
    return (limit("kInputBytes") + limit("kOutputBytes") + limit("kMaxTaskBytes")
            + limit("kMaxThreads") * limit("kThreadStackBytes") + limit("kMaxTasks") * KIB)


def require_plain_memory():
    require(b"libasan" not in Path(NBDINETD).read_bytes(), "sanitizers have memory of their own")


def push(client, process, requests, most_bytes):
    """Sends `requests` over and over, reading nothing, until the server takes no more and has nothing
    left to do; how many bytes it has taken."""
    sent = 0
    # At its first look there is as much as the socket holds.
    os.kill(process.pid, signal.SIGSTOP)
    wait_until(lambda: "(stopped)" in Path(f"/proc/{process.pid}/status").read_text(), "the stop")
    try:
        while sent < most_bytes:
            sent += os.write(client._wfd, requests[sent % len(requests):])
    except BlockingIOError:
        pass
    os.kill(process.pid, signal.SIGCONT)

    def stuck():
        nonlocal sent
        # It has slept with a full socket only if that was full before and after.
        before, sleeps = sent, main_thread_polls(process.pid)
        try:
            while sent < most_bytes:
                sent += os.write(client._wfd, requests[sent % len(requests):])
        except BlockingIOError:
            return sleeps and sent == before
        return True
    wait_until(stuck, "the server to take no more")
    return sent


def main_thread_polls(pid):
    """It waits for events, and not for the storage, for which it sleeps as well."""
    state = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
    call = Path(f"/proc/{pid}/wchan").read_text()
    return state == "S" and "poll" in call


@test("as many slow reads and writes as a client can send use no more memory, threads and "
      "descriptors than SECURITY.md allows")
def _(t):
    need_privilege("fuse")
    require_plain_memory()
    for command, operation, length in ((NBD_CMD_READ, "read", 256 * KIB),
                                       (NBD_CMD_WRITE, "sync", 32 * KIB), (NBD_CMD_FLUSH, "sync", 0)):
        with FailingFs(t.fresh("fs"), bytes(64 * MIB)) as fs:
            process, client = t.activated(fs.disk)
            client.start()
            if command == NBD_CMD_FLUSH:
                client.write(0, bytes(512))
            idle, descriptors = own_memory(process.pid), len(process.descriptors())
            fs.rule(operation, "hold")
            write = command == NBD_CMD_WRITE
            requests = b"".join(
                client.request_bytes(command, n * length, length,
                                     flags=NBD_CMD_FLAG_FUA if write else 0)
                + (bytes(length) if write else b"") for n in range(256))
            sent = push(client, process, requests, 512 * MIB)
            fs.wait_held(1)
            status, memory = status_of(process.pid), own_memory(process.pid) - idle
            note(f"command {command}: {sent} bytes taken, {memory >> 10} KiB more, "
                 f"{status['Threads']} threads, {len(process.descriptors())} descriptors")
            assert sent < 512 * MIB, "it took everything"
            assert memory <= most_memory() + CLOSE_ENOUGH, f"{memory} bytes"
            if write:
                assert memory >= limit("kMaxTaskBytes") // 2, f"{memory} bytes prove nothing"
            assert int(status["Threads"]) <= limit("kMaxThreads") + 1, status["Threads"]
            # The workers' event descriptor.
            assert len(process.descriptors()) <= descriptors + 1, process.descriptors()
            if command == NBD_CMD_READ:
                # Results that nobody takes are no more.
                seen = []

                def look():
                    seen.append(own_memory(process.pid) - idle)
                    return seen[-1] >> 20
                fs.release()
                wait_steady(look)
                note(f"command {command}: {max(seen) >> 10} KiB more when it goes on")
                assert max(seen) <= most_memory() + CLOSE_ENOUGH, f"{max(seen)} bytes"
            os.kill(process.pid, signal.SIGKILL)
            fs.clear()


@test("replies that nobody reads hold no memory but the buffers")
def _(t):
    require_plain_memory()
    size = limit("kMaxPayloadBytes")
    # Just written, it is in the page cache: what has to be read first is the test before this one's.
    image = t.image(bytes(size))
    for length in (1, 100 * KIB, size):
        process, client = t.activated(image)
        client.start()
        client.read(0, 512)
        idle = own_memory(process.pid)
        push(client, process, client.request_bytes(NBD_CMD_READ, 0, length) * 64, 64 * MIB)
        memory = own_memory(process.pid) - idle
        note(f"reads of {length}: {memory >> 10} KiB more")
        assert memory <= limit("kInputBytes") + limit("kOutputBytes") + CLOSE_ENOUGH // 4, \
            f"{memory} bytes"


# ------------------------------------------------------------------ negotiation

@test("an option with 4 GiB of payload holds no memory, and wins no time for the handshake")
def _(t):
    process, client = t.activated("--handshake-timeout=300ms", t.sparse_image(MIB), "--log=stderr")
    client.handshake()
    length = (1 << 32) - 1
    client.send(struct.pack(">8sII", b"IHAVEOPT", 0x7FFF, length))
    block, sent, most = bytes(MIB), 0, 0
    os.set_blocking(client._wfd, True)
    try:
        # What happens when there is always something to receive is channel_test's.
        while sent < length:
            sent += os.write(client._wfd, block[:length - sent])
            if sent % (64 * MIB) < MIB:
                most = max(most, own_memory(process.pid))
    except (BrokenPipeError, ConnectionResetError, FileNotFoundError, KeyError):
        pass
    process.expect(75)
    note(f"{sent >> 20} MiB taken, at most {most >> 10} KiB held")
    assert sent < length, "it has read all of it"
    if b"libasan" not in Path(NBDINETD).read_bytes():
        assert most < 8 * MIB, f"{most} bytes"
    contains("client didn't finish the handshake within 300ms", process.stderr())


# ------------------------------------------------------------------ the log

def lines(process):
    return process.stderr().splitlines()


@test("a connection logs two lines for any fault of its client")
def _(t):
    process, client = t.activated("--log=stderr", "-e", "disk", t.pattern_image(MIB))
    client.handshake()
    name = "\n\x1b\u202e" * 1000
    for number in range(200):
        client.haggle(0x7000 + number)
        client.haggle(NBD_OPT_INFO, Client.info_bytes(name[:number]))
        client.haggle(NBD_OPT_INFO, bytes([255]) * number)
    client.structured_replies()
    client.go("disk")
    for number in range(500):
        assert client.call(NBD_CMD_READ, MIB, number + 1).error
        assert client.call(0x50 + number % 100, 0, 0).error
    client.disconnect()
    process.expect(EX_OK)
    eq(len(lines(process)), 2, f"lines: {lines(process)[:4]}")


@test("processes of connections that are killed, again and again, are ten lines and a number")
def _(t):
    door = Door(t)
    process = activate(t, t.pattern_image(MIB), inherited=[door])
    killed, began = 60, time.monotonic()
    for _ in range(killed):
        client = door.client().start()
        child, = wait_until(lambda: children_of(process.pid), "the process of the connection")
        os.kill(child, signal.SIGKILL)
        client.read_to_end()
        client.close()
        wait_until(lambda: not children_of(process.pid), "it to be gone")
    stop(process)
    expect_tens(process, r"was killed by signal 9", killed, began)


@test("a client that comes and goes where there is no room is ten lines and a number")
def _(t):
    door = Door(t)
    process = activate(t, "--max-connections=1", t.pattern_image(MIB), inherited=[door])
    rounds, began = 60, time.monotonic()
    for _ in range(rounds):
        client = door.client().start()
        expect_shut(door.connect())
        client.disconnect()
        wait_until(lambda: not children_of(process.pid), "room")
    stop(process)
    expect_tens(process, r"refusing .*--max-connections", rounds, began)


def expect_tens(process, pattern_, events, began):
    """At most ten lines in each interval, and a line with the number of those left out."""
    log = lines(process)
    logged = sum(bool(re.search(pattern_, line)) for line in log)
    told = sum(int(n) for n in re.findall(r"(\d+) more refused connections or killed processes",
                                          process.stderr()))
    eq(logged + told, events, "what the log tells of")
    # On a machine that is slow today it may take more than one interval, and the last one may have less.
    intervals = 1 + (time.monotonic() - began) // (limit("kFaultsInterval") / 1000)
    assert logged <= intervals * limit("kMaxFaultsLogged"), f"{logged} lines in {intervals} intervals"
    assert told > 0, f"{logged} lines, and none left out"


if __name__ == "__main__":
    private_network()
    main()
