#!/usr/bin/python3
"""--exclusive: one client at a time on an export, in each of its kinds and in every way in which a
client comes; and each race in which two could be served, or a write of one client could land behind
what the next one has read."""

import os
import select
import signal
import socket
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402
from listening import *  # noqa: E402
from faults import *  # noqa: E402

EX_UNAVAILABLE = 69
WAYS = ("activated", "inetd", "listener", "stand-alone")
HALF = 0.25  # seconds in which nothing must happen; too short a time hides a fault, and makes none


class Server:
    """nbdinetd by one of the ways; each client of it is a connection with a process of its own."""

    def __init__(self, t, way, *arguments):
        self.t, self.way, self.arguments = t, way, arguments
        self.listener = None
        if way == "listener":
            self.door = Door(t, "unix")
            self.listener = activate(t, *arguments, inherited=[self.door])
            self.connect = self.door.client
        elif way == "stand-alone":
            path = t.fresh(".sock")
            self.listener = t.spawn([NBDINETD, "-f", "-U", path, *arguments])
            wait_until(lambda: is_listening(path), "the server to listen")
            self.connect = lambda: Client(connect(path))

    def client(self, *more):
        """(client, its process); behind a listener that is the listener's."""
        if self.listener:
            return self.connect(), self.listener
        start = self.t.inetd if self.way == "inetd" else self.t.activated
        how = {"stderr": "file"} if self.way == "inetd" else {}
        process, client = start(*self.arguments, *more, **how)
        return client, process

    def ended(self, process, status, words):
        """The process of a connection has ended like this."""
        if not self.listener:
            process.expect(status)
        wait_until(lambda: re.search(" ended: .*" + words, process.stderr()),
                   f"'{words}' in the log")


def ask(client, name=""):
    """NBD_OPT_GO, without waiting for the answer."""
    client.option(NBD_OPT_GO, Client.info_bytes(name))


def answer(client):
    """The last reply to NBD_OPT_GO: (type, text)."""
    while True:
        kind, data = client.option_reply(NBD_OPT_GO)
        if kind != NBD_REP_INFO:
            return kind, data.decode()


def refused(client, words):
    kind, text = answer(client)
    eq(kind, NBD_REP_ERR_POLICY, "the answer to NBD_OPT_GO")
    contains(words, text)


def served(client):
    eq(answer(client)[0], NBD_REP_ACK, "the answer to NBD_OPT_GO")


def silent(client):
    """Nothing comes."""
    eq(select.select([client._rfd], [], [], HALF)[0], [], "an answer")  # pylint: disable=W0212


def retry(client):
    """NBD_OPT_GO until it succeeds: the end of a connection is seen before its lock is gone."""
    def go():
        ask(client)
        return answer(client)[0] == NBD_REP_ACK
    wait_until(go, "the export to be free")


def one(t, *arguments, **how):
    """(process, client behind the greeting) of a connection of its own."""
    process, client = t.activated(*arguments, **how)
    client.handshake()
    return process, client


# ------------------------------------------------------------------ refuse

@test("refuse: a second client hears NBD_REP_ERR_POLICY, haggles on, and is served when the first "
      "has left")
def _(t):
    for option in ("--exclusive", "--exclusive=refuse"):
        for way in WAYS:
            image = t.pattern_image(MIB)
            server = Server(t, way, option, image)
            first, _ = server.client()
            first.start()
            second, process = server.client()
            second.handshake()
            ask(second)
            refused(second, "another client uses it")
            # To ask about it is no use of it.
            second.info()
            eq(second.size, MIB)
            second.list_exports()
            ask(second)
            refused(second, "another client uses it")
            first.write(0, b"first" * 100)
            first.disconnect()
            retry(second)
            eq(second.read(0, 500), b"first" * 100)
            second.disconnect()
            server.ended(process, EX_OK, "client disconnected")
            if server.listener:
                stop(server.listener)


@test("refuse: a client that comes for nothing, and leaves, is exit status 69")
def _(t):
    image = t.pattern_image(MIB)
    for way in WAYS:
        server = Server(t, way, "--exclusive", image)
        first, _ = server.client()
        first.start()

        def leave(client):
            client.handshake()
            ask(client)
            refused(client, "another client uses it")
            client.close()

        def abort(client):
            client.handshake()
            ask(client)
            refused(client, "another client uses it")
            eq(client.haggle(NBD_OPT_ABORT)[-1][0], NBD_REP_ACK)
            client.expect_end()

        def old_style(client):
            client.handshake()
            client.option(NBD_OPT_EXPORT_NAME, b"")
            client.expect_end()
        for visit_in_vain in (leave, abort, old_style):
            client, process = server.client()
            visit_in_vain(client)
            server.ended(process, EX_UNAVAILABLE, r'export "" is in use \(exclusive\)')
        eq(first.read(8, 8), pattern(8, 8))
        first.disconnect()
        if server.listener:
            stop(server.listener)


@test("the lock is of the file: by another name, another link or another process's descriptor")
def _(t):
    image = t.pattern_image(MIB)
    link, hard = t.path("link"), t.path("hard")
    os.symlink(image, link)
    os.link(image, hard)
    _, first = one(t, "--exclusive", "-e", "x", image)
    ask(first, "x")
    served(first)
    for path in (link, hard):
        _, second = one(t, "--exclusive", path)
        ask(second)
        refused(second, "another client uses it")
    ours, theirs = t.connection()
    activate(t, "--exclusive", inherited=[theirs, ("disk", opened(t, image))])
    theirs.close()
    second = Client(ours)
    second.handshake()
    ask(second, "disk")
    refused(second, "another client uses it")
    _, other = one(t, "--exclusive", t.pattern_image(MIB))
    ask(other)
    served(other)


@test("read-only clients exclude each other, too, and writers, in both orders")
def _(t):
    image = t.pattern_image(MIB)
    for first_options, second_options in ((["-r"], ["-r"]), (["-r"], []), ([], ["-r"])):
        process, first = one(t, "--exclusive", *first_options, image)
        ask(first)
        served(first)
        _, second = one(t, "--exclusive", *second_options, image)
        ask(second)
        refused(second, "another client uses it")
        first.disconnect()
        retry(second)
        second.disconnect()


@test("of read-only clients that come at the same moment, one is served and the others are refused")
def _(t):
    image = t.pattern_image(MIB)
    for _ in range(5):
        clients = [one(t, "--exclusive", "-r", image)[1] for _ in range(6)]
        for client in clients:
            ask(client)
        answers = [answer(client)[0] for client in clients]
        eq(sorted(answers), [NBD_REP_ACK] + [NBD_REP_ERR_POLICY] * 5, "answers")
        clients[answers.index(NBD_REP_ACK)].disconnect()
        for client in clients:
            client.close()


@test("in a directory each file has a lock of its own, which a client takes when it chooses one")
def _(t):
    os.mkdir(t.path("exports"))
    for name in ("a", "b"):
        t.pattern_image(MIB, f"exports/{name}")
    for way in WAYS:
        server = Server(t, way, "--exclusive", f"--directory={t.path('exports')}")
        first, _ = server.client()
        first.start("a")
        second, _ = server.client()
        second.handshake()
        second.info("a")
        ask(second, "a")
        refused(second, "another client uses it")
        # In vain for one, but another is free; and what was asked about is no obstacle.
        third, _ = server.client()
        third.handshake()
        third.info("b")
        second.go("b")
        ask(third, "b")
        refused(third, "another client uses it")
        eq(second.read(800, 8), pattern(800, 8))
        second.disconnect()
        first.disconnect()
        third.close()
        if server.listener:
            stop(server.listener)
    process, first = one(t, "--exclusive=takeover", f"--directory={t.path('exports')}")
    first.info("a")
    first.go("a")
    _, second = one(t, "--exclusive=takeover", "-e", "a", f"--directory={t.path('exports')}")
    ask(second)
    served(second)
    process.expect(EX_OK)
    second.disconnect()


@test("a block device is locked like a file, also a read-only one")
def _(t):
    need_privilege("root", "loop")
    for read_only in (False, True):
        with LoopDevice(t.pattern_image(MIB), read_only=read_only) as loop:
            process, first = one(t, "--exclusive", loop.path)
            ask(first)
            served(first)
            _, second = one(t, "--exclusive", loop.path)
            ask(second)
            refused(second, "another client uses it")
            third_process, third = one(t, "--exclusive=takeover", loop.path)
            ask(third)
            served(third)
            process.expect(EX_OK)
            third.disconnect()
            third_process.expect(EX_OK)


@test("a read-only file system, and a file that nobody can write to, can be locked")
def _(t):
    need_root("to mount")
    source = t.path("source")
    os.mkdir(source)
    t.pattern_image(MIB, "source/disk")
    with ReadOnlyBind(source, t.path("bind")):
        path = t.path("bind/disk")
        process, first = one(t, "--exclusive", path)
        ask(first)
        served(first)
        _, second = one(t, "--exclusive=takeover", path)
        ask(second)
        served(second)
        process.expect(EX_OK)
        second.disconnect()


@test("who doesn't say --exclusive is served beside it, and hears of no takeover")
def _(t):
    image = t.pattern_image(MIB)
    _, first = one(t, "--exclusive", image)
    ask(first)
    served(first)
    process, second = one(t, image)
    ask(second)
    served(second)
    process.signal(signal.SIGURG)
    eq(second.read(8, 8), pattern(8, 8))
    second.disconnect()
    process.expect(EX_OK)
    first.disconnect()


@test("the lock is none of QEMU's: its programs use the file meanwhile")
def _(t):
    image = t.pattern_image(MIB)
    _, first = one(t, "--exclusive", image)
    ask(first)
    served(first)
    t.run([need("qemu-io"), "-f", "raw", "-c", "write -P 7 4096 512", image])
    eq(first.read(4096, 512), bytes([7]) * 512)
    first.disconnect()


@test("under --exclusive several connections of one client aren't promised, so that nbdcopy makes "
      "one")
def _(t):
    image = t.pattern_image(MIB)
    for options, promised in ((["--exclusive"], False), (["--exclusive=wait", "-r"], False),
                              (["--exclusive=takeover"], False), ([], True)):
        _, client = one(t, *options, image)
        client.info()
        eq(bool(client.flags & NBD_FLAG_CAN_MULTI_CONN), promised, "in INFO")
        client.go()
        eq(bool(client.flags & NBD_FLAG_CAN_MULTI_CONN), promised, "in GO")
        client.disconnect()
    server = Server(t, "stand-alone", "--exclusive", image)
    address = server.listener.argv[server.listener.argv.index("-U") + 1]
    copy = t.path("copy")
    t.run([need("nbdcopy"), "--connections=4", uri(address), copy])
    eq(checksum(copy), checksum(image))
    wait_alone(server.listener)
    eq(server.listener.stderr().count(" ended: "), 1, "connections")


# ------------------------------------------------------------------ wait

@test("wait: a second client is answered when the first has left")
def _(t):
    for way in WAYS:
        image = t.pattern_image(MIB)
        server = Server(t, way, "--exclusive=wait", image)
        first, _ = server.client()
        first.start()
        second, process = server.client()
        second.handshake()
        ask(second)
        silent(second)
        first.write(0, b"first" * 100)
        first.disconnect()
        served(second)
        eq(second.read(0, 500), b"first" * 100)
        second.disconnect()
        server.ended(process, EX_OK, "client disconnected")
        if server.listener:
            stop(server.listener)


@test("wait: NBD_OPT_EXPORT_NAME waits, too, and what a client sends meanwhile isn't lost")
def _(t):
    image = t.pattern_image(MIB)
    _, first = one(t, "--exclusive=wait", image)
    ask(first)
    served(first)
    _, second = one(t, "--exclusive=wait", image)
    second.option(NBD_OPT_EXPORT_NAME, b"name")
    cookie = second.request(NBD_CMD_READ, 800, 64)
    silent(second)
    first.disconnect()
    eq(struct.unpack(">Q", second.receive(8))[0], MIB)
    second.receive(2)
    eq(second.answer(cookie).check().data, pattern(800, 64))
    second.disconnect()


@test("wait: ends with NBD_REP_ERR_POLICY and status 69 when the time for the handshake is over")
def _(t):
    image = t.pattern_image(MIB)
    _, first = one(t, "--exclusive=wait", image)
    ask(first)
    served(first)
    process, second = one(t, "--exclusive=wait", "--handshake-timeout=300ms", image)
    ask(second)
    refused(second, "within 300ms")
    second.expect_end()
    process.expect(EX_UNAVAILABLE)
    matches(r"ended: export \"\" is in use \(exclusive\): another client has not left it within "
            "300ms;", process.stderr())
    process, second = one(t, "--exclusive=wait", "--handshake-timeout=300ms", image)
    second.option(NBD_OPT_EXPORT_NAME, b"")
    second.expect_end()
    process.expect(EX_UNAVAILABLE)
    eq(first.read(8, 8), pattern(8, 8))
    first.disconnect()


@test("wait: ends when the client leaves, or on SIGTERM, and takes nothing")
def _(t):
    image = t.pattern_image(MIB)
    holder, first = one(t, "--exclusive=wait", image)
    ask(first)
    served(first)
    process, second = one(t, "--exclusive=wait", image)
    ask(second)
    silent(second)
    second.close()
    process.expect(EX_UNAVAILABLE)
    contains("the client left while it waited", process.stderr())
    process, second = one(t, "--exclusive=wait", image)
    ask(second)
    silent(second)
    process.signal(signal.SIGTERM)
    eq(answer(second)[0], NBD_REP_ERR_SHUTDOWN)
    second.expect_end()
    process.expect(EX_OK)
    first.disconnect()
    holder.expect(EX_OK)


@test("wait: costs next to no processor time")
def _(t):
    image = t.pattern_image(MIB)
    _, first = one(t, "--exclusive=wait", image)
    ask(first)
    served(first)
    process, second = one(t, "--exclusive=wait", "--handshake-timeout=2s", image)
    ask(second)
    refused(second, "within 2s")
    # The process of before it ends, a zombie perhaps: its times are still there.
    assert cpu_seconds(process.pid) < 0.2, "it polls in circles"
    process.expect(EX_UNAVAILABLE)


@test("wait: costs next to no processor time, whatever the client sends meanwhile")
def _(t):
    need_root("to make a socket's buffer as large as that")
    SO_SNDBUFFORCE = 32
    image = t.pattern_image(MIB)
    _, first = one(t, "--exclusive", image)
    ask(first)
    served(first)
    waiting = []
    # A byte, some options, and more than there is room for.
    for sent in (b"x", Client.option_bytes(NBD_OPT_LIST) * 10, bytes(1 << 16), bytes(1 << 20)):
        process, second = one(t, "--exclusive=wait", "--handshake-timeout=2s", image)
        ask(second)
        # The server takes what it has room for. The rest stays in the socket.
        second._socket.setsockopt(socket.SOL_SOCKET,  # pylint: disable=protected-access
                                  SO_SNDBUFFORCE, 4 * MIB)
        second.send(sent)
        waiting.append((process, second))
    for process, second in waiting:
        refused(second, "within 2s")
        assert cpu_seconds(process.pid) < 0.2, "it polls in circles"
        process.expect(EX_UNAVAILABLE)


# ------------------------------------------------------------------ takeover

@test("takeover: the first client's process drains and leaves, and the second is served")
def _(t):
    for way in WAYS:
        image = t.pattern_image(MIB)
        server = Server(t, way, "--exclusive=takeover", image)
        first, first_process = server.client()
        first.start()
        first.write(0, b"first" * 100)
        second, process = server.client()
        second.handshake()
        ask(second)
        served(second)
        eq(second.read(0, 500), b"first" * 100)
        first.expect_end()
        server.ended(first_process, EX_OK, "since another takes over the export")
        third, _ = server.client()
        third.handshake()
        third.export_name()
        second.expect_end()
        third.send(Client.request_bytes(NBD_CMD_DISC))
        third.expect_end()
        if server.listener:
            stop(server.listener)
        else:
            process.expect(EX_OK)


@test("takeover: also of one that would itself refuse or wait")
def _(t):
    image = t.pattern_image(MIB)
    for kind in ("refuse", "wait"):
        process, first = one(t, f"--exclusive={kind}", image)
        ask(first)
        served(first)
        _, second = one(t, "--exclusive=takeover", image)
        ask(second)
        served(second)
        process.expect(EX_OK)
        second.disconnect()


@test("takeover: while the first client's writes are under way, nobody is served; and what the second "
      "reads first stays")
def _(t):
    need_privilege("root", "fuse")
    with FailingFs(t.path("fs"), bytes(MIB)) as fs:
        process, first = one(t, "--exclusive=takeover", fs.disk)
        ask(first)
        served(first)
        fs.rule("write", "hold")
        # FUA goes by the workers, several at a time; and then one that the main thread is stuck in.
        writes = [first.request(NBD_CMD_WRITE, i * 8192, flags=NBD_CMD_FLAG_FUA,
                                payload=bytes([i + 1]) * 4096) for i in range(16)]
        fs.wait_held(1)
        writes.append(first.request(NBD_CMD_WRITE, 512 * 1024, payload=b"\xaa" * 8192))
        taker, second = one(t, "--exclusive=takeover", fs.disk)
        ask(second)
        silent(second)
        silent(first)
        fs.clear()
        served(second)
        before = second.read(0, MIB)
        process.expect(EX_OK)
        eq(second.read(0, MIB), before, "what the second client read first")
        # What was answered was there; what was refused was not.
        for i, cookie in enumerate(writes):
            try:
                error = first.answer(cookie).error
            except Disconnected:
                break
            offset, content = ((i * 8192, bytes([i + 1])) if i < 16 else (512 * 1024, b"\xaa"))
            if error == 0:
                eq(before[offset:offset + 4096], content * 4096, f"write {i}")
            else:
                eq(error, NBD_ESHUTDOWN)
        second.disconnect()
        taker.expect(EX_OK)
        eq(Path(fs.disk).read_bytes(), before, "the file when everybody is gone")


def vanish(t, kind, go_away):
    """The first client goes with many slow writes in flight; the second one's reads are checked."""
    need_privilege("root", "fuse")
    with FailingFs(t.path("fs"), bytes(MIB)) as fs:
        process, first = one(t, f"--exclusive={kind}", fs.disk)
        ask(first)
        served(first)
        fs.rule("write", "hold")
        for i in range(64):
            first.request(NBD_CMD_WRITE, i * 8192, flags=NBD_CMD_FLAG_FUA,
                          payload=bytes([i + 1]) * 4096)
        # One at a time: the others wait for it in the kernel.
        fs.wait_held(1)
        go_away(process, first)
        taker, second = one(t, f"--exclusive={kind}", fs.disk)
        ask(second)
        silent(second)
        fs.clear()
        served(second)
        before = second.read(0, MIB)
        wait_until(lambda: process.poll() is not None, "the first process to end")
        eq(second.read(0, MIB), before, "what the second client read first")
        second.disconnect()
        taker.expect(EX_OK)
        eq(Path(fs.disk).read_bytes(), before, "the file when everybody is gone")
        return process.poll(), before


@test("no stale write: a client vanishes with slow writes in flight, and the next one waits for them")
def _(t):
    _, content = vanish(t, "wait", lambda process, client: client.close())
    assert content[:4096] == b"\1" * 4096, "the first write was under way"


@test("no stale write: a client vanishes, and another takes over")
def _(t):
    vanish(t, "takeover", lambda process, client: client.close())


@test("no stale write: a process that is killed keeps the lock until its last write has ended")
def _(t):
    status, _ = vanish(t, "wait", lambda process, client: process.signal(signal.SIGKILL))
    eq(status, -signal.SIGKILL)


@test("a process that is killed while it does nothing leaves no lock behind")
def _(t):
    image = t.pattern_image(MIB)
    for kind in ("wait", "takeover"):
        process, first = one(t, "--exclusive=wait", image)
        ask(first)
        served(first)
        _, second = one(t, f"--exclusive={kind}", image)
        process.signal(signal.SIGKILL)
        ask(second)
        served(second)
        second.disconnect()


@test("takeover: of a stopped process doesn't happen, and ends with status 69 at the deadline")
def _(t):
    image = t.pattern_image(MIB)
    process, first = one(t, "--exclusive=takeover", image)
    ask(first)
    served(first)
    process.signal(signal.SIGSTOP)
    wait_until(lambda: state_of(process.pid) == "T", "the process to stop")
    taker, second = one(t, "--exclusive=takeover", "--handshake-timeout=500ms", image)
    ask(second)
    refused(second, "within 500ms")
    second.expect_end()
    taker.expect(EX_UNAVAILABLE)
    process.signal(signal.SIGCONT)
    # It has been asked, and leaves now.
    first.expect_end()
    process.expect(EX_OK)


@test("takeover: of several at the same time each is served in turn, and never two at once")
def _(t):
    for options in ([], ["-r"]):
        image = t.pattern_image(MIB)
        _, first = one(t, "--exclusive=takeover", *options, image)
        ask(first)
        served(first)
        takers = [one(t, "--exclusive=takeover", "--handshake-timeout=60s", *options, image)[1]
                  for _ in range(4)]
        for taker in takers:
            ask(taker)
        turns = [first]
        waiting = list(takers)
        while waiting:
            ready = select.select([c._rfd for c in waiting], [], [], GUARD)[0]
            assert ready, "nobody is served"
            client = next(c for c in waiting if c._rfd == ready[0])
            served(client)
            # A process closes its connection before it gives up the lock; so whoever was served
            # before must have seen the end by now.
            for earlier in turns:
                assert earlier.ended(), f"{len(turns)} clients are served at the same time"
            turns.append(client)
            waiting.remove(client)
        # The last one stays.
        eq(turns[-1].read(8, 8), pattern(8, 8))
        turns[-1].disconnect()


@test("takeover: while it waits for a slow process, it is no obstacle to one that comes later")
def _(t):
    need_privilege("root", "fuse")
    with FailingFs(t.path("fs"), bytes(MIB)) as fs:
        process, first = one(t, "--exclusive=takeover", fs.disk)
        ask(first)
        served(first)
        fs.rule("write", "hold")
        first.request(NBD_CMD_WRITE, 0, flags=NBD_CMD_FLAG_FUA, payload=b"x" * 4096)
        fs.wait_held(1)
        second_process, second = one(t, "--exclusive=takeover", fs.disk)
        ask(second)
        silent(second)
        _, third = one(t, "--exclusive=takeover", fs.disk)
        ask(third)
        silent(third)
        silent(second)
        second.close()
        second_process.expect(EX_UNAVAILABLE)
        fs.clear()
        served(third)
        process.expect(EX_OK)
        eq(third.read(0, 4096), b"x" * 4096)
        third.disconnect()


@test("takeover: of a process of somebody else's is refused at once, in words")
def _(t):
    need_root("to be two users")
    image = t.pattern_image(MIB)
    os.chmod(image, 0o666)
    setpriv = need("setpriv")

    def as_user(number):
        return [setpriv, f"--reuid={number}", "--clear-groups", "--"]
    holder, first = one(t, "--exclusive=takeover", image, prefix=as_user(4001))
    ask(first)
    served(first)
    taker, second = one(t, "--exclusive=takeover", image, prefix=as_user(4002))
    ask(second)
    refused(second, f"process {holder.pid}, which uses it, can't be asked to end: Operation not "
                    "permitted")
    second.close()
    taker.expect(EX_UNAVAILABLE)
    eq(first.read(8, 8), pattern(8, 8))
    # The same user may.
    _, third = one(t, "--exclusive=takeover", image, prefix=as_user(4001))
    ask(third)
    served(third)
    holder.expect(EX_OK)
    third.disconnect()


@test("takeover: of a process in another PID namespace is refused at once, in words")
def _(t):
    need_root("to make a PID namespace")
    image = t.pattern_image(MIB)
    _, first = one(t, "--exclusive=takeover", image)
    ask(first)
    served(first)
    _, second = t.inetd("--exclusive=takeover", image, stderr="file",
                        prefix=[need("unshare"), "--pid", "--fork", "--kill-child", "--"])
    second.handshake()
    ask(second)
    refused(second, "in another PID namespace")
    second.close()
    eq(first.read(8, 8), pattern(8, 8))
    first.disconnect()


@test("takeover: who lures the signal to another process does it no harm")
def _(t):
    # A record lock whose owner is this test, which doesn't expect the signal.
    image = t.pattern_image(MIB)
    _, first = one(t, "--exclusive=takeover", image)
    ask(first)
    served(first)
    holder = None
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if "POSIX" in fields and int(fields[-2]) > 1 << 62 and \
                fields[-3].endswith(f":{os.stat(image).st_ino}"):
            holder = int(fields[-2])
    assert holder, "the holder's byte is in /proc/locks"
    first.disconnect()
    _, first = one(t, "--exclusive", image)
    # Now first, as whoever has the export's lock, can't tell who it is.
    descriptor = os.open(image, os.O_RDWR)
    t.defer(os.close, descriptor)
    fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, holder)
    ask(first)
    served(first)
    before = signal.getsignal(signal.SIGURG)
    eq(before, signal.SIG_DFL)
    taker, second = one(t, "--exclusive=takeover", "--handshake-timeout=500ms", image)
    ask(second)
    refused(second, "within 500ms")
    taker.expect(EX_UNAVAILABLE)
    eq(first.read(8, 8), pattern(8, 8))
    first.disconnect()


# ------------------------------------------------------------------ handed over, and usage

@test("a file that is handed over, and can't be opened anew, can't be locked: an error that says so")
def _(t):
    need_root("to hand over what the process may not open")
    image = t.pattern_image(MIB)
    os.chmod(image, 0o600)
    prefix = [need("setpriv"), "--reuid=4001", "--clear-groups", "--"]
    for options, status in ((["--exclusive"], EX_USAGE), ([], EX_OK)):
        ours, theirs = t.connection()
        process = activate(t, *options, inherited=[theirs, ("disk", opened(t, image))],
                           prefix=prefix)
        theirs.close()
        client = Client(ours)
        if status == EX_OK:
            visit(client, "disk")
        else:
            eq(client.read_to_end(), b"")
            process.expect(status)
            contains("--exclusive can't lock \"disk\", which was handed over", process.stderr())


@test("processes that a listener forks with a file handed over don't share its lock")
def _(t):
    image = t.pattern_image(MIB)
    door = Door(t, "unix")
    process = activate(t, "--exclusive=takeover", inherited=[door, ("disk", opened(t, image))])
    first = door.client()
    first.handshake()
    ask(first)
    served(first)
    second = door.client()
    second.handshake()
    ask(second)
    served(second)
    first.expect_end()
    second.disconnect()
    stop(process)


@test("--exclusive takes refuse, wait and takeover, and --check says what they mean")
def _(t):
    image = t.pattern_image(MIB)
    process = t.run([NBDINETD, "--exclusive=maybe", image], status=EX_USAGE)
    contains("refuse, wait or takeover", process.stderr())
    for option, words in (("--exclusive", "others would be refused"),
                          ("--exclusive=refuse", "others would be refused"),
                          ("--exclusive=wait", "others would wait"),
                          ("--exclusive=takeover", "would have to leave for the next")):
        process = t.run([NBDINETD, option, "--check", image])
        contains("to one client at a time; ", process.stdout())
        contains(words, process.stdout())


main()
