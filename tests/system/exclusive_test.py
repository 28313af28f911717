#!/usr/bin/python3
"""--exclusive: an export serves one client at a time. The tests cover refuse, wait and takeover, each
way to start the server, and the races in which two clients could be served at once or a write of one
could change what the next has read."""

import os
import select
import signal
import socket
import struct
import sys
from contextlib import contextmanager
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402
from listening import *  # noqa: E402
from faults import *  # noqa: E402

WAYS = ("activated", "inetd", "listener", "stand-alone")
HALF = 0.25  # seconds without a byte; a longer time would find more faults, never a false one


class Server:
    """nbdinetd, started by one of the ways. Each connection has a process of its own."""

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
            wait_listening(path)
            self.connect = lambda: Client(connect(path))

    def client(self):
        """(client, process). The process is the connection's, or the listener if there is one."""
        if self.listener:
            return self.connect(), self.listener
        start = self.t.inetd if self.way == "inetd" else self.t.activated
        how = {"stderr": "file"} if self.way == "inetd" else {}
        process, client = start(*self.arguments, **how)
        return client, process

    def ended(self, process, status, words):
        """Checks how the process of a connection ended: its status (where there is no listener),
        and words of the log's last line."""
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


def refused(client, words="another client uses it"):
    kind, text = answer(client)
    eq(kind, NBD_REP_ERR_POLICY, "the answer to NBD_OPT_GO")
    contains(words, text)


def served(client):
    eq(answer(client)[0], NBD_REP_ACK, "the answer to NBD_OPT_GO")


def newcomer(server):
    """(client, process) of a new connection to the server, whose client has sent NBD_OPT_GO."""
    client, process = server.client()
    client.handshake()
    ask(client)
    return client, process


def silent(client):
    """The client gets no byte for HALF seconds."""
    eq(select.select([client._rfd], [], [], HALF)[0], [], "an answer")  # pylint: disable=W0212


def retry(client):
    """Repeats NBD_OPT_GO until it succeeds: a process closes its connection before it
    gives up its lock."""
    def go():
        ask(client)
        return answer(client)[0] == NBD_REP_ACK
    wait_until(go, "the export to be free")


def still_served(client):
    eq(client.read(8, 8), pattern(8, 8))


def connected(t, *arguments, **how):
    """(process, client) of a new connection whose client has read the greeting."""
    process, client = t.activated(*arguments, **how)
    client.handshake()
    return process, client


def asking(t, *arguments, name="", **how):
    """(process, client) of a new connection whose client has sent NBD_OPT_GO."""
    process, client = connected(t, *arguments, **how)
    ask(client, name)
    return process, client


def serving(t, *arguments, **how):
    """(process, client) of a new connection that is served, and so holds the lock."""
    process, client = asking(t, *arguments, **how)
    served(client)
    return process, client


def held(t, *options, **how):
    """(image, process, client): a new image, and a connection with these options that is served."""
    image = t.pattern_image(MIB)
    return image, *serving(t, *options, image, **how)


def each_way(t, *options, exports=None):
    """A Server by each of the ways in turn, with a new image, or else these exports."""
    for way in WAYS:
        server = Server(t, way, *options, exports or t.pattern_image(MIB))
        yield server
        if server.listener:
            stop(server.listener)


@contextmanager
def writing(t, option, requests):
    """A connection on a file whose writes are held, with this many writes with FUA on their way:
    (file system, process, client, cookies). Number i writes i + 1 at i * 8 KiB."""
    need_privilege("root", "fuse")
    with FailingFs(t.path("fs"), bytes(MIB)) as fs:
        process, client = serving(t, option, fs.disk)
        fs.rule("write", "hold")
        cookies = [client.request(NBD_CMD_WRITE, i * 8192, flags=NBD_CMD_FLAG_FUA,
                                  payload=bytes([i + 1]) * 4096) for i in range(requests)]
        # One at a time: the others wait for it in the kernel.
        fs.wait_held(1)
        yield fs, process, client, cookies


# ------------------------------------------------------------------ refuse

@test("refuse: a second client gets NBD_REP_ERR_POLICY, goes on with its options, and is served "
      "when the first has left")
def _(t):
    for option in ("--exclusive", "--exclusive=refuse"):
        for server in each_way(t, option):
            first, _ = server.client()
            first.start()
            second, process = newcomer(server)
            refused(second)
            # NBD_OPT_INFO and NBD_OPT_LIST need no lock.
            second.info()
            eq(second.size, MIB)
            second.list_exports()
            ask(second)
            refused(second)
            first.write(0, b"first" * 100)
            first.disconnect()
            retry(second)
            eq(second.read(0, 500), b"first" * 100)
            second.disconnect()
            server.ended(process, EX_OK, "client disconnected")


@test("refuse: the process of a refused client that leaves ends with exit status 69")
def _(t):
    def leave(client):
        ask(client)
        refused(client)
        client.close()

    def abort(client):
        ask(client)
        refused(client)
        eq(client.haggle(NBD_OPT_ABORT)[-1][0], NBD_REP_ACK)
        client.expect_end()

    def old_style(client):
        client.option(NBD_OPT_EXPORT_NAME, b"")
        client.expect_end()
    for server in each_way(t, "--exclusive"):
        first, _ = server.client()
        first.start()
        for end_refused in (leave, abort, old_style):
            client, process = server.client()
            client.handshake()
            end_refused(client)
            server.ended(process, EX_UNAVAILABLE, r'export "" is in use \(exclusive\)')
        still_served(first)
        first.disconnect()


@test("the lock belongs to the file: another name, another link and a descriptor handed over find it")
def _(t):
    image = t.pattern_image(MIB)
    link, hard = t.path("link"), t.path("hard")
    os.symlink(image, link)
    os.link(image, hard)
    serving(t, "--exclusive", "-e", "x", image, name="x")
    for path in (link, hard):
        _, second = asking(t, "--exclusive", path)
        refused(second)
    ours, theirs = t.connection()
    activate(t, "--exclusive", inherited=[theirs, ("disk", opened(t, image))])
    theirs.close()
    second = Client(ours)
    second.handshake()
    ask(second, "disk")
    refused(second)
    held(t, "--exclusive")  # of another file


@test("a read-only client excludes read-only clients and writers, in both orders")
def _(t):
    image = t.pattern_image(MIB)
    for first_options, second_options in ((["-r"], ["-r"]), (["-r"], []), ([], ["-r"])):
        process, first = serving(t, "--exclusive", *first_options, image)
        _, second = asking(t, "--exclusive", *second_options, image)
        refused(second)
        first.disconnect()
        retry(second)
        second.disconnect()


@test("one of several read-only clients that ask at the same moment is served, the others are refused")
def _(t):
    image = t.pattern_image(MIB)
    for _ in range(5):
        clients = [connected(t, "--exclusive", "-r", image)[1] for _ in range(6)]
        for client in clients:
            ask(client)
        answers = [answer(client)[0] for client in clients]
        eq(sorted(answers), [NBD_REP_ACK] + [NBD_REP_ERR_POLICY] * 5, "answers")
        clients[answers.index(NBD_REP_ACK)].disconnect()
        for client in clients:
            client.close()


@test("each file of a directory has a lock of its own, which a client takes when it chooses the file")
def _(t):
    os.mkdir(t.path("exports"))
    for name in ("a", "b"):
        t.pattern_image(MIB, f"exports/{name}")
    exports = f"--directory={t.path('exports')}"
    for server in each_way(t, "--exclusive", exports=exports):
        first, _ = server.client()
        first.start("a")
        second, _ = server.client()
        second.handshake()
        second.info("a")
        ask(second, "a")
        refused(second)
        # The other export is free; NBD_OPT_INFO about it locked nothing.
        third, _ = server.client()
        third.handshake()
        third.info("b")
        second.go("b")
        ask(third, "b")
        refused(third)
        eq(second.read(800, 8), pattern(800, 8))
        second.disconnect()
        first.disconnect()
        third.close()
    process, first = connected(t, "--exclusive=takeover", exports)
    first.info("a")
    first.go("a")
    _, second = serving(t, "--exclusive=takeover", "-e", "a", exports)
    process.expect(EX_OK)
    second.disconnect()


@test("a block device is locked like a file, read-only ones included")
def _(t):
    need_privilege("root", "loop")
    for read_only in (False, True):
        with LoopDevice(t.pattern_image(MIB), read_only=read_only) as loop:
            process, first = serving(t, "--exclusive", loop.path)
            _, second = asking(t, "--exclusive", loop.path)
            refused(second)
            third_process, third = serving(t, "--exclusive=takeover", loop.path)
            process.expect(EX_OK)
            third.disconnect()
            third_process.expect(EX_OK)


@test("a file on a read-only file system can be locked")
def _(t):
    need_root("to mount")
    source = t.path("source")
    os.mkdir(source)
    t.pattern_image(MIB, "source/disk")
    with ReadOnlyBind(source, t.path("bind")):
        path = t.path("bind/disk")
        process, first = serving(t, "--exclusive", path)
        _, second = serving(t, "--exclusive=takeover", path)
        process.expect(EX_OK)
        second.disconnect()


@test("a process without --exclusive serves its client beside the lock's holder, and ignores SIGURG")
def _(t):
    image, _, first = held(t, "--exclusive")
    process, second = serving(t, image)
    process.signal(signal.SIGURG)
    still_served(second)
    second.disconnect()
    process.expect(EX_OK)
    first.disconnect()


@test("QEMU's programs don't see the lock, and use the file meanwhile")
def _(t):
    image, _, first = held(t, "--exclusive")
    t.run([need("qemu-io"), "-f", "raw", "-c", "write -P 7 4096 512", image])
    eq(first.read(4096, 512), bytes([7]) * 512)
    first.disconnect()


@test("--exclusive withdraws NBD_FLAG_CAN_MULTI_CONN, so that nbdcopy makes one connection")
def _(t):
    image = t.pattern_image(MIB)
    for options, promised in ((["--exclusive"], False), (["--exclusive=wait", "-r"], False),
                              (["--exclusive=takeover"], False), ([], True)):
        _, client = connected(t, *options, image)
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
    for server in each_way(t, "--exclusive=wait"):
        first, _ = server.client()
        first.start()
        second, process = newcomer(server)
        silent(second)
        first.write(0, b"first" * 100)
        first.disconnect()
        served(second)
        eq(second.read(0, 500), b"first" * 100)
        second.disconnect()
        server.ended(process, EX_OK, "client disconnected")


@test("wait: NBD_OPT_EXPORT_NAME waits, too, and a request sent meanwhile is answered")
def _(t):
    image, _, first = held(t, "--exclusive=wait")
    _, second = connected(t, "--exclusive=wait", image)
    second.option(NBD_OPT_EXPORT_NAME, b"name")
    cookie = second.request(NBD_CMD_READ, 800, 64)
    silent(second)
    first.disconnect()
    eq(struct.unpack(">Q", second.receive(8))[0], MIB)
    second.receive(2)
    eq(second.answer(cookie).check().data, pattern(800, 64))
    second.disconnect()


@test("wait: the handshake's deadline ends it with NBD_REP_ERR_POLICY and exit status 69")
def _(t):
    image, _, first = held(t, "--exclusive=wait")
    process, second = asking(t, "--exclusive=wait", "--handshake-timeout=300ms", image)
    refused(second, "within 300ms")
    second.expect_end()
    process.expect(EX_UNAVAILABLE)
    matches(r"ended: export \"\" is in use \(exclusive\): another client has not left it within "
            "300ms\n", process.stderr())
    process, second = connected(t, "--exclusive=wait", "--handshake-timeout=300ms", image)
    second.option(NBD_OPT_EXPORT_NAME, b"")
    second.expect_end()
    process.expect(EX_UNAVAILABLE)
    still_served(first)
    first.disconnect()


@test("wait: a client that leaves ends it, and SIGTERM does, and neither takes the lock")
def _(t):
    image, holder, first = held(t, "--exclusive=wait")
    process, second = asking(t, "--exclusive=wait", image)
    silent(second)
    second.close()
    process.expect(EX_UNAVAILABLE)
    contains("the client left while it waited", process.stderr())
    process, second = asking(t, "--exclusive=wait", image)
    silent(second)
    process.signal(signal.SIGTERM)
    eq(answer(second)[0], NBD_REP_ERR_SHUTDOWN)
    second.expect_end()
    process.expect(EX_OK)
    first.disconnect()
    holder.expect(EX_OK)


@test("wait: a waiting process uses next to no processor time")
def _(t):
    image, holder, first = held(t, "--exclusive=wait")
    process, second = asking(t, "--exclusive=wait", "--handshake-timeout=2s", image)
    refused(second, "within 2s")
    # A zombie keeps its times. The holder's are those of its start.
    assert cpu_seconds(process.pid) < cpu_seconds(holder.pid) + 0.2, "it polls in circles"
    process.expect(EX_UNAVAILABLE)


@test("wait: a waiting process uses next to no processor time, whatever its client sends")
def _(t):
    need_root("to make a socket's buffer as large as that")
    SO_SNDBUFFORCE = 32
    image, holder, first = held(t, "--exclusive")
    waiting = []
    # A byte, some options, and more than there is room for.
    for sent in (b"x", Client.option_bytes(NBD_OPT_LIST) * 10, bytes(1 << 16), bytes(1 << 20)):
        process, second = asking(t, "--exclusive=wait", "--handshake-timeout=2s", image)
        # What the server doesn't read stays in the socket's buffer.
        second._socket.setsockopt(socket.SOL_SOCKET,  # pylint: disable=protected-access
                                  SO_SNDBUFFORCE, 4 * MIB)
        second.send(sent)
        waiting.append((process, second))
    for process, second in waiting:
        refused(second, "within 2s")
        assert cpu_seconds(process.pid) < cpu_seconds(holder.pid) + 0.2, "it polls in circles"
        process.expect(EX_UNAVAILABLE)


# ------------------------------------------------------------------ takeover

@test("takeover: the first client's process ends its connection, and the second client is served")
def _(t):
    for server in each_way(t, "--exclusive=takeover"):
        first, first_process = server.client()
        first.start()
        first.write(0, b"first" * 100)
        second, process = newcomer(server)
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
        if not server.listener:
            process.expect(EX_OK)


@test("takeover: a process with refuse or wait gives up its lock, too")
def _(t):
    image = t.pattern_image(MIB)
    for kind in ("refuse", "wait"):
        process, first = serving(t, f"--exclusive={kind}", image)
        _, second = serving(t, "--exclusive=takeover", image)
        process.expect(EX_OK)
        second.disconnect()


@test("takeover: the second client is served after the first one's writes have ended, and no write "
      "changes what it has read")
def _(t):
    # Workers do the writes with FUA; the main thread blocks in the one without.
    with writing(t, "--exclusive=takeover", 16) as (fs, process, first, writes):
        writes.append(first.request(NBD_CMD_WRITE, 512 * 1024, payload=b"\xaa" * 8192))
        taker, second = asking(t, "--exclusive=takeover", fs.disk)
        silent(second)
        silent(first)
        fs.clear()
        served(second)
        before = second.read(0, MIB)
        process.expect(EX_OK)
        eq(second.read(0, MIB), before, "what the second client read first")
        # A write that was answered is in the file; a refused one got NBD_ESHUTDOWN.
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
    """Ends the first client with 64 slow writes in flight, and checks the second client's reads.
    Returns the first process's status and the content."""
    with writing(t, f"--exclusive={kind}", 64) as (fs, process, first, _):
        go_away(process, first)
        taker, second = asking(t, f"--exclusive={kind}", fs.disk)
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


@test("an idle process that is killed leaves no lock behind")
def _(t):
    image = t.pattern_image(MIB)
    for kind in ("wait", "takeover"):
        process, first = serving(t, "--exclusive=wait", image)
        _, second = connected(t, f"--exclusive={kind}", image)
        process.signal(signal.SIGKILL)
        ask(second)
        served(second)
        second.disconnect()


@test("takeover: a stopped process keeps its lock, and its taker ends with exit status 69 in time")
def _(t):
    image, process, first = held(t, "--exclusive=takeover")
    process.signal(signal.SIGSTOP)
    wait_until(lambda: state_of(process.pid) == "T", "the process to stop")
    taker, second = asking(t, "--exclusive=takeover", "--handshake-timeout=500ms", image)
    refused(second, "within 500ms")
    second.expect_end()
    taker.expect(EX_UNAVAILABLE)
    process.signal(signal.SIGCONT)
    # The taker's SIGURG is pending, and ends it now.
    first.expect_end()
    process.expect(EX_OK)


@test("takeover: several takers at the same time are served one after the other, never two at once")
def _(t):
    for options in ([], ["-r"]):
        image = t.pattern_image(MIB)
        _, first = serving(t, "--exclusive=takeover", *options, image)
        takers = [connected(t, "--exclusive=takeover", "--handshake-timeout=60s", *options, image)[1]
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
            # A process closes its connection before it gives up its lock, so that each earlier
            # client must have seen the end by now.
            for earlier in turns:
                assert earlier.ended(), f"{len(turns)} clients are served at the same time"
            turns.append(client)
            waiting.remove(client)
        # The last one stays.
        still_served(turns[-1])
        turns[-1].disconnect()


@test("takeover: a taker that waits for a slow process doesn't block a later taker")
def _(t):
    need_privilege("root", "fuse")
    with FailingFs(t.path("fs"), pattern(0, MIB)) as fs:
        process, first = serving(t, "--exclusive=takeover", fs.disk)
        # Not slow in writing: on Linux 6.1, close(2) of a file on FUSE waits for its writes, and
        # the second process couldn't end.
        fs.rule("read", "hold", MIB // 2)
        first.request(NBD_CMD_READ, MIB // 2, 4096)
        fs.wait_held(1)
        second_process, second = asking(t, "--exclusive=takeover", fs.disk)
        silent(second)
        _, third = asking(t, "--exclusive=takeover", fs.disk)
        silent(third)
        silent(second)
        second.close()
        second_process.expect(EX_UNAVAILABLE)
        fs.clear()
        served(third)
        process.expect(EX_OK)
        eq(third.read(MIB // 2, 4096), pattern(MIB // 2, 4096))
        third.disconnect()


@test("takeover: a taker is refused, with the reason, if another user's process has the lock")
def _(t):
    need_root("to be two users")
    image = t.pattern_image(MIB)
    os.chmod(image, 0o666)
    holder, first = serving(t, "--exclusive=takeover", image, prefix=as_user(4001))
    taker, second = asking(t, "--exclusive=takeover", image, prefix=as_user(4002))
    refused(second, f"process {holder.pid}, which uses it, can't be asked to end: Operation not "
                    "permitted")
    second.close()
    taker.expect(EX_UNAVAILABLE)
    still_served(first)
    # The same user may.
    _, third = serving(t, "--exclusive=takeover", image, prefix=as_user(4001))
    holder.expect(EX_OK)
    third.disconnect()


@test("takeover: a taker in another PID namespace is refused, with the reason")
def _(t):
    need_root("to make a PID namespace")
    image, _, first = held(t, "--exclusive=takeover")
    _, second = t.inetd("--exclusive=takeover", image, stderr="file",
                        prefix=[need("unshare"), "--pid", "--fork", "--kill-child", "--"])
    second.handshake()
    ask(second)
    refused(second, "in another PID namespace")
    second.close()
    still_served(first)
    first.disconnect()


@test("takeover: a process that a forged record lock names as the holder comes to no harm")
def _(t):
    # The test takes the record lock that names the holder. It ignores SIGURG, as by default.
    image, _, first = held(t, "--exclusive=takeover")
    holder = None
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if "POSIX" in fields and int(fields[-2]) > 1 << 62 and \
                fields[-3].endswith(f":{os.stat(image).st_ino}"):
            holder = int(fields[-2])
    assert holder, "the holder's byte is in /proc/locks"
    first.disconnect()
    _, first = connected(t, "--exclusive", image)
    # With the test's lock in place, the process that serves can't take its own.
    descriptor = os.open(image, os.O_RDWR)
    t.defer(os.close, descriptor)
    fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, holder)
    ask(first)
    served(first)
    eq(signal.getsignal(signal.SIGURG), signal.SIG_DFL)
    taker, second = asking(t, "--exclusive=takeover", "--handshake-timeout=500ms", image)
    refused(second, "within 500ms")
    taker.expect(EX_UNAVAILABLE)
    still_served(first)
    first.disconnect()


# ------------------------------------------------------------------ handed over, and usage

@test("--exclusive for a file that is handed over and can't be opened anew is an error that says so")
def _(t):
    need_root("to hand over what the process may not open")
    image = t.pattern_image(MIB)
    os.chmod(image, 0o600)
    prefix = as_user(4001)
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


@test("the processes of a listener each have a lock of their own on a file that is handed over")
def _(t):
    image = t.pattern_image(MIB)
    door = Door(t, "unix")
    process = activate(t, "--exclusive=takeover", inherited=[door, ("disk", opened(t, image))])
    first, second = door.client().start(), door.client()
    second.handshake()
    ask(second)
    served(second)
    first.expect_end()
    second.disconnect()
    stop(process)


@test("--exclusive takes refuse, wait and takeover, and --check explains them")
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
