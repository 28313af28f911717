#!/usr/bin/python3
"""--negotiated: what the other program is told to promise, what it can't ask for, and when the client is
refused. How transmission goes then is in tests/protocol/negotiated_test.cc; the pairs with other options
are in feature_pairs_test.py."""

import contextlib
import json
import os
import struct
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402

WORDS = ("simple", "structured", "structured,base:allocation", "extended", "extended,base:allocation")


def check(t, *arguments):
    """The one export, as --check=json describes it."""
    one, = json.loads(t.run([NBDINETD, "--check=json", *arguments]).stdout())["exports"]
    return one


def haggled(t, word, *arguments):
    """A client of a server that negotiates by itself, once both have agreed on what `word` says."""
    process, client = t.activated(*arguments)
    style, _, context = word.partition(",")
    client.handshake()
    if style == "structured":
        client.structured_replies()
    elif style == "extended":
        eq([reply for reply, _ in client.haggle(NBD_OPT_EXTENDED_HEADERS)], [NBD_REP_ACK])
    if context:
        client.meta_contexts([context])
    client.go(requests=[NBD_INFO_BLOCK_SIZE])
    client.shut_down_writing()
    process.expect(EX_OK)
    return client


@test("--check tells what option haggling would promise: size, flags, block sizes and the id of the context")
def _(t):
    image = t.pattern_image(MIB + 100)
    names = {name.removeprefix("NBD_FLAG_"): value for name, value in globals().items()
             if name.startswith("NBD_FLAG_") and not name.startswith("NBD_FLAG_C_")
             and name not in ("NBD_FLAG_FIXED_NEWSTYLE", "NBD_FLAG_NO_ZEROES")}
    names["BLOCK_STATUS_PAYLOAD"] = 1 << 12
    for arguments in ([], ["-r"], ["--exclusive"], ["--cow", "--cow-dir=memory"], ["--multi-conn=off"],
                      ["--block-size=512:8K:1M"], ["--offset=4096"], ["--size=up:1M"]):
        for word in WORDS:
            what = f"{arguments} {word}"
            client = haggled(t, word, *arguments, image)
            told = check(t, f"--negotiated={word}", *arguments, image)
            eq((told["size"], told["transmission_flags"]), (client.size, client.flags), what)
            eq(sum(names[name] for name in told["transmission_flag_names"]), client.flags, what)
            eq(told.get("metadata_contexts", {}), client.contexts, what)
            eq([told["block_size"][name] for name in ("minimum", "preferred", "maximum")],
               list(struct.unpack(">III", client.infos[NBD_INFO_BLOCK_SIZE])), what)


@test("--check without --negotiated doesn't tell flags, which depend on the agreement; in words it says the same")
def _(t):
    image = t.pattern_image(MIB)
    eq([name for name in check(t, image) if "flag" in name or "block_size" in name or "context" in name], [])
    told = check(t, "--negotiated=structured,base:allocation", image)
    text = t.run([NBDINETD, "--check", "--negotiated=structured,base:allocation", image]).stdout()
    flags = ", ".join(told["transmission_flag_names"])
    matches(rf"^another program may have promised the client: {MIB} bytes; transmission flags "
            rf"0x{told['transmission_flags']:04x} \({flags}\); block sizes 1, \d+ and \d+; metadata context 1, "
            r"base:allocation$", text)
    eq("metadata context" in t.run([NBDINETD, "--check", "--negotiated=simple", image]).stdout(), False)


@test("wrong usage is status 64 and a sentence that says what to do, and the client gets no byte")
def _(t):
    image = t.pattern_image(MIB)
    for argument, *words in (
            ("compact", '--negotiated="compact": use simple, structured or extended'),
            ("", "--negotiated", "use simple, structured or extended"),
            ("Simple", "use simple, structured or extended"),
            ("structured,", "the only metadata context is base:allocation"),
            ("extended,qemu:dirty-bitmap:x", "the only metadata context is base:allocation"),
            ("structured,base:allocation,base:allocation", "the only metadata context is base:allocation"),
            ("simple,base:allocation", "needs structured or extended replies: leave out the context"),
            (",base:allocation", "use simple, structured or extended")):
        process, client = t.activated(f"--negotiated={argument}", image)
        client.expect_end()
        eq(bytes(client.received), b"", "what the client has got")
        process.expect(EX_USAGE)
        for word in words:
            contains(word, process.stderr())
    # Nothing has been handed over, and it doesn't listen by itself at a terminal either.
    process = t.run([NBDINETD, "--negotiated=simple", image], status=EX_USAGE)
    contains("nbdinetd", process.stderr())
    master, terminal = os.openpty()
    process = t.spawn([NBDINETD, "--negotiated=simple", image], fds={0: terminal})
    os.close(terminal)
    t.defer(os.close, master)
    process.expect(EX_USAGE)
    contains("--negotiated needs a connection, and there is none: hand one over", process.stderr())


@test("an image that QEMU has to itself, or that is missing, ends the connection without a byte, with the status "
      "and the message of a connection that is negotiated")
def _(t):
    image = t.path("disk.qcow2")
    t.run([need("qemu-img"), "create", "-q", "-f", "qcow2", image, "8M"])
    reading, writing = os.pipe()
    t.spawn([need("qemu-io"), "-f", "qcow2", image], fds={0: reading})
    os.close(reading)
    wait_until(lambda: "used_by" in check(t, image), "QEMU to lock the image")
    for arguments, status, words in (([image], EX_UNAVAILABLE, "is in use: QEMU"),
                                     ([t.path("missing")], EX_NOINPUT, "No such file")):
        process, client = t.activated("--negotiated=simple", *arguments)
        # The server may have ended before, or with the request unread.
        with contextlib.suppress(BrokenPipeError):
            client.send(client.request_bytes(NBD_CMD_READ, 0, 512))
        try:
            client.expect_end()
        except Disconnected as error:
            eq(error.got, b"")
        eq(bytes(client.received), b"", "what the client has got")
        process.expect(status)
        contains(words, process.stderr())
    os.close(writing)


@test("the time for the handshake doesn't limit a client that has negotiated")
def _(t):
    process, client = t.activated("--negotiated=simple", "--handshake-timeout=10ms", t.pattern_image(MIB))
    client.skip_handshake()
    eq(client.read(0, 512), pattern(0, 512))
    time.sleep(0.05)
    eq(client.read(512, 512), pattern(512, 512))
    leave(process, client)


@test("requests are held to the size that the file has when it is opened, and with --size to that one")
def _(t):
    image = t.pattern_image(MIB)
    told = check(t, "--negotiated=simple", image)["size"]
    os.truncate(image, 2 * MIB)
    process, client = t.activated("--negotiated=simple", image)
    client.skip_handshake()
    client.write(told, b"behind what was told")
    leave(process, client)
    process, client = t.activated("--negotiated=simple", f"--size={told}", image)
    client.skip_handshake()
    eq(client.read(told - 512, 512), pattern(told - 512, 512))
    refuses(NBD_EINVAL, client.read, told, 512)
    refuses(NBD_ENOSPC, client.write, told, b"x")
    leave(process, client)
    os.truncate(image, MIB // 2)
    process, client = t.activated("--negotiated=simple", image)
    client.skip_handshake()
    refuses(NBD_EINVAL, client.read, told - 512, 512)
    leave(process, client)


@test("the log says which export is served and how, as of any connection")
def _(t):
    image = t.pattern_image(MIB)
    process, client = t.activated("--negotiated=extended", "-e", "golden", image)
    client.shut_down_writing()
    client.expect_end()
    process.expect(EX_OK)
    matches(r'^(<\d>)?(nbdinetd: )?serving export "golden" to unix:.*, read-write, extended replies$', process.stderr())
    contains("ended: client closed the connection", process.stderr())


if __name__ == "__main__":
    main()
