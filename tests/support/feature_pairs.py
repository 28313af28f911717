"""What the tests of pairs of features share: the features, ways to have each of them, and what each
promises. Each pair has one test in tests/system/feature_pairs*_test.py."""

import ast
import os
import signal
import sys
from pathlib import Path

from harness import *
from listening import *
from partition_tables import mbr_entry, write_mbr
from tls import *

TLS, EXCLUSIVE, DIRECTORY, READ_ONLY, PIPES = (
    "TLS", "exclusive", "directory", "read-only", "pipes")
STANDARD_ERROR, RUN, SIGNALS, SANDBOX, HANDED_OVER, COPIES, KEPT, PARTITIONS, NEGOTIATED = (
    "standard error", "--run", "signals", "sandbox", "handed-over files", "private copies", "kept copies", "partitions",
    "--negotiated")
RULES, LIMITS = "rules", "limits"
FEATURES = (TLS, EXCLUSIVE, DIRECTORY, READ_ONLY, PIPES, STANDARD_ERROR, RUN, SIGNALS, SANDBOX,
            HANDED_OVER, COPIES, KEPT, PARTITIONS, NEGOTIATED, RULES, LIMITS)

WRITING = ((NBD_CMD_WRITE, 0, 0, 0, b"x" * 4096), (NBD_CMD_TRIM, 0, 4096),
           (NBD_CMD_WRITE_ZEROES, 0, 4096))


def pair(one, other, promise):
    """Registers the test of two features."""
    return test(f"{one} x {other}: {promise}")


def pairs_with_tests():
    """The pairs that have a test in any of the files, as they are written there."""
    found = []
    for path in sorted((SRCDIR / "tests" / "system").glob("feature_pairs*_test.py")):
        for node in ast.parse(path.read_text()).body:
            for decorator in getattr(node, "decorator_list", []):
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pair":
                    found.append(tuple(globals()[ast.unparse(name)] for name in decorator.args[:2]))
    return found


# ------------------------------------------------------------------ how the features are had

def certificates(t):
    return ["--tls=require", f"--tls-certificates={authority().server_files(t)}"]


def over_tls(client):
    """Takes over a client that has done nothing yet."""
    return TlsClient.of(client)


def exports(t, *names):
    """A directory of files with the pattern."""
    path = t.fresh(".exports")
    os.mkdir(path)
    os.chmod(path, 0o755)
    for name in names:
        Path(path, name).write_bytes(pattern(0, MIB))
    return path


def piped(t, *arguments, stderr="file", fds=None, listen_fds=None, env=None, prefix=()):
    """nbdinetd -s on a pair of pipes. Returns (process, client)."""
    their_input, our_output = os.pipe()
    our_input, their_output = os.pipe()
    placed = {0: their_input, 1: their_output, **(fds or {})}
    if stderr == "client":
        placed[2] = their_output
    process = t.spawn([*prefix, NBDINETD, "-s", *arguments], fds=placed, env=env,
                      listen_fds=listen_fds, listen_pid="own" if listen_fds else None)
    os.close(their_input)
    os.close(their_output)
    client = Client(our_input, our_output)
    t.defer(client.close)
    return process, client


def on_the_client(t, *arguments, prefix=(), **how):
    """nbdinetd as inetd starts it, with the client's socket as standard error, too."""
    return t.inetd(*arguments, prefix=prefix, **how)


class Running:
    """A server with --run, whose command goes on until end() is called; and ways to its socket.
    `command` is the shell's first, before it says that it runs."""

    def __init__(self, t, *arguments, command="", prefix=(), fds=None, **how):
        self.path, self._go, self.told = t.fresh(".sock"), t.fresh(".go"), t.fresh(".told")
        self.process = t.spawn(
            [*prefix, NBDINETD, "-U", self.path, "--run",
             f'{command} printf "%s\n" "$uri" "$exportname" >{self.told}.new; '
             f"mv {self.told}.new {self.told}; while [ ! -e {self._go} ]; do sleep 0.02; done; exit 7", *arguments],
            fds=fds, **how)
        wait_until(lambda: os.path.exists(self.told) and is_listening(self.path)
                   or self.process.poll() is not None, "the command")

    def client(self):
        return Client(connect(self.path))

    def uri(self):
        return Path(self.told).read_text().splitlines()[0]

    def command(self):
        """Its process."""
        return next(pid for pid in children_of(self.process.pid)
                    if Path(f"/proc/{pid}/comm").read_text() != "nbdinetd\n")

    def end(self, status=7):
        Path(self._go).touch()
        self.process.expect(status)
        eq(os.path.exists(self.path), False, "the socket is left behind")


def handed_over(t, *arguments, files, connection=True, **how):
    """nbdinetd with files beside a connection. Returns (process, client)."""
    ours, theirs = t.connection()
    process = activate(t, *arguments, inherited=[theirs, *files] if connection else files, **how)
    theirs.close()
    return process, Client(ours)


# ------------------------------------------------------------------ what they promise

def good(client, offset=4096, length=70000):
    """The bytes are those of the pattern."""
    eq(client.read(offset, length) == pattern(offset, length), True, "the bytes")


def leave(client):
    client.send(client.request_bytes(NBD_CMD_DISC))
    client.expect_end()
    if isinstance(client, TlsClient) and client.tls is not None:
        eq(client.close_notify, True, "close_notify of the server")


def expect_read_only(client, path):
    """The flag is there, and nothing that writes has an effect."""
    before = Path(path).read_bytes()
    eq(bool(client.flags & NBD_FLAG_READ_ONLY), True, "NBD_FLAG_READ_ONLY")
    eq(client.flags & (NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES), 0, "promises to write")
    for request in WRITING:
        eq(client.call(*request).error, NBD_EPERM, "the error")
    client.flush()
    good(client)
    eq(Path(path).read_bytes() == before, True, "the file is as it was")


def refusal(client, name=""):
    """The reply to NBD_OPT_GO, and its sentence."""
    try:
        client.go(name)
    except OptionError as error:
        return error.reply, error.message
    raise AssertionError("the export is given")


def expect_in_use(client, name=""):
    reply, sentence = refusal(client, name)
    eq(reply, NBD_REP_ERR_POLICY, "the answer to NBD_OPT_GO")
    contains("another client uses it", sentence)


def drained(process, client, number=signal.SIGTERM, status=EX_OK):
    """A write that a signal finds is answered or refused, what follows is NBD_ESHUTDOWN, and then the
    connection ends without another byte."""
    write = client.request(NBD_CMD_WRITE, 8192, payload=b"d" * 4096)
    eq(client.answer(write).error, NBD_SUCCESS)
    process.signal(number)
    wait_until(lambda: client.call(NBD_CMD_READ, 0, 512).error == NBD_ESHUTDOWN,
               "requests to be refused")
    eq(client.call(NBD_CMD_WRITE, 0, payload=b"e" * 512).error, NBD_ESHUTDOWN)
    client.expect_end()
    process.expect(status)


def shut_in(pid, filters=2):
    """All threads of the process are in the sandbox."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        text = Path(f"/proc/{pid}/task/{thread}/status").read_text()
        eq(matches(r"^NoNewPrivs:\s+(\d)$", text)[1], "1", "no new privileges")
        eq(matches(r"^Seccomp_filters:\s+(\d+)$", text)[1], str(filters), "filters")


def only_nbd(client):
    """What the client has got was parsed to its last byte, and no word of a message is in it."""
    eq(len(client._unread), 0, "bytes that nobody has asked for")  # pylint: disable=protected-access
    for word in (b"nbdinetd", b"serving", b"ended:"):
        eq(word in bytes(client.received), False, f"{word} among the client's bytes")


# ------------------------------------------------------------------ rules

def names(client):
    return [name for name, _ in client.list_exports()]


def hides(client, *hidden):
    """These names have the reply of a name that no export has."""
    no_export = [(NBD_REP_ERR_UNKNOWN, b"there is no export of this name")]
    for name in hidden:
        for option in (NBD_OPT_INFO, NBD_OPT_GO):
            eq(client.haggle(option, Client.info_bytes(name)), no_export, name)


# ------------------------------------------------------------------ copies

def expect_copy(client, path):
    """What the client writes it reads, and the file is as it was."""
    eq(client.flags & (NBD_FLAG_READ_ONLY | NBD_FLAG_CAN_MULTI_CONN), 0, "the flags")
    client.write(1000, b"w" * 5000)
    client.flush()
    eq(client.read(0, 8192) == pattern(0, 1000) + b"w" * 5000 + pattern(6000, 2192), True, "the bytes")
    good(client, 8192)
    eq(Path(path).read_bytes() == pattern(0, MIB), True, "the file is as it was")


def keeping(t):
    """The options for copies that are kept, in a directory of their own, for clients with a certificate."""
    folder = t.fresh(".copies")
    os.mkdir(folder)
    os.chmod(folder, 0o777)
    return ["--cow=keep", f"--cow-dir={folder}", *certificates(t), "--tls-verify-peer"]


def known(client, who="alice", name=""):
    """Makes it a client with a certificate, in transmission."""
    return over_tls(client).start(name, tls=client_context(certificate=(authority(), who)))


def expect_kept(client, path):
    """It has come back: what expect_copy() has written is there."""
    eq(client.read(1000, 5000) == b"w" * 5000, True, "the bytes")
    good(client, 8192)
    eq(Path(path).read_bytes() == pattern(0, MIB), True, "the file is as it was")


# ------------------------------------------------------------------ partitions

def partitioned(t, name=None):
    """A disk with two partitions of 1 MiB, which have the pattern and zeroes, and nothing around them."""
    path = t.image(bytes(MIB) + pattern(0, MIB) + bytes(2 * MIB), name)
    return write_mbr(path, [mbr_entry(0x83, 2048, 2048), mbr_entry(0x83, 4096, 2048)])


def expect_partition(client, path, writes=True):
    """The client has the first partition, and what it writes goes there."""
    before = Path(path).read_bytes()
    eq(client.size, MIB)
    good(client)
    refuses(NBD_EINVAL, client.read, MIB - 511, 512)
    if not writes:
        return
    client.write(MIB - 4096, b"w" * 4096)
    client.flush()
    eq(Path(path).read_bytes() == before[:2 * MIB - 4096] + b"w" * 4096 + before[2 * MIB:], True, "the disk")


# ------------------------------------------------------------------ negotiated by another program

STYLE = "--negotiated=structured,base:allocation"
FLAGS = (NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM
         | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_DF)


def negotiated(client):
    """The client, to whom another program has promised this."""
    return client.skip_handshake(structured=True, size=MIB, flags=FLAGS)


def cant_meet(t, *arguments, status=EX_USAGE):
    """The message about wrong usage; the client gets no byte."""
    process, client = t.activated(STYLE, *arguments)
    client.expect_end()
    eq(bytes(client.received), b"", "what the client has got")
    process.expect(status)
    return process.stderr()


def expect_gone(process, client, status):
    """The client was refused, and can't be told."""
    client.expect_end()
    eq(bytes(client.received), b"", "what the client has got")
    process.expect(status)
