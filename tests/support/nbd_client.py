"""A client of NBD on raw bytes, for tests of a server.

It uses no library on purpose: libnbd hides what a test of a server has to see (a stray byte, a reply
too many, the exact error). The parser of everything that the server sends rejects, as NotNbd, all that
the specification does not allow there.
"""

import os
import random
import select
import socket
import struct

# So many times longer than usual may everything take: where a processor is emulated.
PATIENCE = float(os.environ.get("NBDINETD_TEST_PATIENCE", "1"))

# No test asserts that something is fast. A guard only turns a hang into a failure.
GUARD = 30.0 * PATIENCE


class HangGuard(Exception):
    """Something that had to happen has not happened."""


def eq(got, wanted, what=""):
    if got != wanted:
        raise AssertionError(f"{what + ': ' if what else ''}got {got!r}, wanted {wanted!r}")


# ------------------------------------------------------------------ the specification's values

NBDMAGIC = b"NBDMAGIC"
IHAVEOPT = b"IHAVEOPT"
OPTION_REPLY_MAGIC = 0x3E889045565A9
NBD_REQUEST_MAGIC = 0x25609513
NBD_SIMPLE_REPLY_MAGIC = 0x67446698
NBD_STRUCTURED_REPLY_MAGIC = 0x668E33EF

NBD_FLAG_FIXED_NEWSTYLE = 1 << 0
NBD_FLAG_NO_ZEROES = 1 << 1
NBD_FLAG_C_FIXED_NEWSTYLE = 1 << 0
NBD_FLAG_C_NO_ZEROES = 1 << 1

NBD_FLAG_HAS_FLAGS = 1 << 0
NBD_FLAG_READ_ONLY = 1 << 1
NBD_FLAG_SEND_FLUSH = 1 << 2
NBD_FLAG_SEND_FUA = 1 << 3
NBD_FLAG_ROTATIONAL = 1 << 4
NBD_FLAG_SEND_TRIM = 1 << 5
NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6
NBD_FLAG_SEND_DF = 1 << 7
NBD_FLAG_CAN_MULTI_CONN = 1 << 8
NBD_FLAG_SEND_RESIZE = 1 << 9
NBD_FLAG_SEND_CACHE = 1 << 10
NBD_FLAG_SEND_FAST_ZERO = 1 << 11

NBD_OPT_EXPORT_NAME = 1
NBD_OPT_ABORT = 2
NBD_OPT_LIST = 3
NBD_OPT_STARTTLS = 5
NBD_OPT_INFO = 6
NBD_OPT_GO = 7
NBD_OPT_STRUCTURED_REPLY = 8
NBD_OPT_LIST_META_CONTEXT = 9
NBD_OPT_SET_META_CONTEXT = 10
NBD_OPT_EXTENDED_HEADERS = 11

NBD_REP_ACK = 1
NBD_REP_SERVER = 2
NBD_REP_INFO = 3
NBD_REP_META_CONTEXT = 4
NBD_REP_FLAG_ERROR = 1 << 31
NBD_REP_ERR_UNSUP = NBD_REP_FLAG_ERROR | 1
NBD_REP_ERR_POLICY = NBD_REP_FLAG_ERROR | 2
NBD_REP_ERR_INVALID = NBD_REP_FLAG_ERROR | 3
NBD_REP_ERR_PLATFORM = NBD_REP_FLAG_ERROR | 4
NBD_REP_ERR_TLS_REQD = NBD_REP_FLAG_ERROR | 5
NBD_REP_ERR_UNKNOWN = NBD_REP_FLAG_ERROR | 6
NBD_REP_ERR_SHUTDOWN = NBD_REP_FLAG_ERROR | 7
NBD_REP_ERR_BLOCK_SIZE_REQD = NBD_REP_FLAG_ERROR | 8
NBD_REP_ERR_TOO_BIG = NBD_REP_FLAG_ERROR | 9

NBD_INFO_EXPORT = 0
NBD_INFO_NAME = 1
NBD_INFO_DESCRIPTION = 2
NBD_INFO_BLOCK_SIZE = 3

NBD_CMD_READ = 0
NBD_CMD_WRITE = 1
NBD_CMD_DISC = 2
NBD_CMD_FLUSH = 3
NBD_CMD_TRIM = 4
NBD_CMD_CACHE = 5
NBD_CMD_WRITE_ZEROES = 6
NBD_CMD_BLOCK_STATUS = 7

NBD_CMD_FLAG_FUA = 1 << 0
NBD_CMD_FLAG_NO_HOLE = 1 << 1
NBD_CMD_FLAG_DF = 1 << 2
NBD_CMD_FLAG_REQ_ONE = 1 << 3
NBD_CMD_FLAG_FAST_ZERO = 1 << 4

NBD_REPLY_FLAG_DONE = 1 << 0
NBD_REPLY_TYPE_NONE = 0
NBD_REPLY_TYPE_OFFSET_DATA = 1
NBD_REPLY_TYPE_OFFSET_HOLE = 2
NBD_REPLY_TYPE_BLOCK_STATUS = 5
NBD_REPLY_TYPE_FLAG_ERROR = 1 << 15
NBD_REPLY_TYPE_ERROR = NBD_REPLY_TYPE_FLAG_ERROR | 1
NBD_REPLY_TYPE_ERROR_OFFSET = NBD_REPLY_TYPE_FLAG_ERROR | 2

NBD_STATE_HOLE = 1 << 0
NBD_STATE_ZERO = 1 << 1

NBD_SUCCESS = 0
NBD_EPERM = 1
NBD_EIO = 5
NBD_ENOMEM = 12
NBD_EINVAL = 22
NBD_ENOSPC = 28
NBD_EOVERFLOW = 75
NBD_ENOTSUP = 95
NBD_ESHUTDOWN = 108
NBD_ERRORS = (NBD_EPERM, NBD_EIO, NBD_ENOMEM, NBD_EINVAL, NBD_ENOSPC, NBD_EOVERFLOW,
              NBD_ENOTSUP, NBD_ESHUTDOWN)


# ------------------------------------------------------------------ the client

class NotNbd(AssertionError):
    """The server has sent something that the specification does not let it send."""


class Disconnected(Exception):
    """The connection has ended inside or before what was to be read."""

    def __init__(self, wanted, got, reset):
        super().__init__(f"{'reset' if reset else 'end of file'} after {len(got)} of "
                         f"{wanted} bytes: {bytes(got[:64])!r}")
        self.got = bytes(got)
        self.reset = reset


class NbdError(Exception):
    """An NBD error in a reply."""

    def __init__(self, error, message=""):
        super().__init__(f"NBD error {error} {message!r}")
        self.error = error
        self.message = message


def refuses(error, function, *arguments):
    """The call fails with this NBD error."""
    try:
        function(*arguments)
    except NbdError as found:
        eq(found.error, error)
        return
    raise AssertionError(f"{arguments} did not fail")


class OptionError(Exception):
    """An error reply to an option."""

    def __init__(self, reply, message=""):
        super().__init__(f"option reply {reply:#x} {message!r}")
        self.reply = reply
        self.message = message


class Chunk:
    """One structured reply chunk, or a simple reply (type None)."""

    def __init__(self, cookie, kind, flags=0, payload=b"", error=0):
        self.cookie, self.kind, self.flags = cookie, kind, flags
        self.payload, self.error = payload, error

    @property
    def done(self):
        return self.kind is None or bool(self.flags & NBD_REPLY_FLAG_DONE)


class Answer:
    """All that came back for one request. Collects the chunks and checks them as they come."""

    def __init__(self, cookie, command, offset, length):
        self.cookie, self.command = cookie, command
        self.offset, self.length = offset, length
        self.chunks = []
        self.error = NBD_SUCCESS
        self.message = ""
        self.extents = []  # of a block status: (context id, [(length, flags), ...])
        self.complete = False
        self._data = bytearray(length if command == NBD_CMD_READ else 0)
        self._covered = []

    @property
    def data(self):
        return bytes(self._data)

    def _cover(self, offset, length):
        start = offset - self.offset
        if length == 0 or start < 0 or start + length > self.length:
            raise NotNbd(f"a chunk of {length} bytes at {offset} for a read of "
                         f"{self.length} at {self.offset}")
        for other_start, other_end in self._covered:
            if start < other_end and other_start < start + length:
                raise NotNbd(f"two chunks overlap at {offset}")
        self._covered.append((start, start + length))
        return start

    def add(self, chunk):
        self.chunks.append(chunk)
        payload = chunk.payload
        if chunk.kind is None:
            if len(self.chunks) > 1:
                raise NotNbd("a simple reply after structured reply chunks")
            self.error = chunk.error
            if self.command == NBD_CMD_READ and not chunk.error:
                self._data[:] = payload
                self._covered.append((0, self.length))
        elif chunk.kind == NBD_REPLY_TYPE_NONE:
            if payload or not chunk.done:
                raise NotNbd("a NBD_REPLY_TYPE_NONE chunk with a payload or without DONE")
        elif chunk.kind == NBD_REPLY_TYPE_OFFSET_DATA:
            if self.command != NBD_CMD_READ or len(payload) < 9:
                raise NotNbd("a NBD_REPLY_TYPE_OFFSET_DATA chunk that is not one")
            offset, = struct.unpack_from(">Q", payload)
            start = self._cover(offset, len(payload) - 8)
            self._data[start:start + len(payload) - 8] = payload[8:]
        elif chunk.kind == NBD_REPLY_TYPE_OFFSET_HOLE:
            if self.command != NBD_CMD_READ or len(payload) != 12:
                raise NotNbd("a NBD_REPLY_TYPE_OFFSET_HOLE chunk that is not one")
            self._cover(*struct.unpack(">QI", payload))
        elif chunk.kind == NBD_REPLY_TYPE_BLOCK_STATUS:
            if self.command != NBD_CMD_BLOCK_STATUS or len(payload) < 12 or len(payload) % 8 != 4:
                raise NotNbd("a NBD_REPLY_TYPE_BLOCK_STATUS chunk that is not one")
            context, = struct.unpack_from(">I", payload)
            self.extents.append((context, list(struct.iter_unpack(">II", payload[4:]))))
        elif chunk.kind in (NBD_REPLY_TYPE_ERROR, NBD_REPLY_TYPE_ERROR_OFFSET):
            if len(payload) < 6:
                raise NotNbd("an error chunk that is too short")
            error, length = struct.unpack_from(">IH", payload)
            tail = 8 if chunk.kind == NBD_REPLY_TYPE_ERROR_OFFSET else 0
            if len(payload) != 6 + length + tail:
                raise NotNbd("an error chunk whose lengths disagree")
            self.error = self.error or error
            self.message = self.message or payload[6:6 + length].decode("utf-8")
        else:
            raise NotNbd(f"a structured reply chunk of unknown type {chunk.kind}")
        if self.error and self.error not in NBD_ERRORS:
            raise NotNbd(f"{self.error} is no error of the specification")
        self.complete = chunk.done
        if self.complete and not self.error and self.command == NBD_CMD_READ:
            covered = sum(end - start for start, end in self._covered)
            if covered != self.length:
                raise NotNbd(f"a successful read of {self.length} bytes brought {covered}")

    def check(self):
        """Itself, when the request has succeeded."""
        if self.error:
            raise NbdError(self.error, self.message)
        return self


class Client:
    """One connection, seen from the client. Takes a socket, or two descriptors of pipes.

    Everything received is kept in `received` and parsed strictly. Sending never waits for
    the server alone: what arrives meanwhile is taken in, so that hundreds of requests may be
    sent before the first reply is looked at.
    """

    def __init__(self, source, sink=None):
        self._socket = source if sink is None else None
        self._rfd = source.fileno() if sink is None else source
        self._wfd = self._rfd if sink is None else sink
        os.set_blocking(self._rfd, False)
        os.set_blocking(self._wfd, False)
        self._unread = bytearray()
        self._eof = self._reset = False
        self.received = bytearray()
        self.sent = 0
        self.structured = False
        self.size = None
        self.flags = None
        self.contexts = {}
        self.infos = {}
        self._pending = {}
        self._next_cookie = random.randrange(1 << 63)
        self._zeroes = True

    # -------------------------------------------------------------- bytes

    def _read(self):
        """Reads the descriptor once, without waiting. b"" when nothing is there, or at the end."""
        try:
            block = os.read(self._rfd, 1 << 18)
        except BlockingIOError:
            return b""
        except ConnectionResetError:
            self._reset = True
            block = b""
        if not block:
            self._eof = True
        return block

    def _take(self):
        """Takes in what has arrived."""
        self._keep(self._read())

    def _keep(self, data):
        self._unread += data
        self.received += data

    def _poll(self, reading, writing, timeout=GUARD):
        poller = select.poll()
        if self._rfd == self._wfd:
            poller.register(self._rfd, (select.POLLIN if reading else 0)
                            | (select.POLLOUT if writing else 0))
        else:
            if reading:
                poller.register(self._rfd, select.POLLIN)
            if writing:
                poller.register(self._wfd, select.POLLOUT)
        events = dict(poller.poll(timeout * 1000))
        if not events:
            raise HangGuard("the server neither sends nor takes anything")
        ended = select.POLLHUP | select.POLLERR
        return (bool(events.get(self._rfd, 0) & (select.POLLIN | ended)),
                bool(events.get(self._wfd, 0) & (select.POLLOUT | ended)))

    def send(self, data):
        """Sends all of it. BrokenPipeError or ConnectionResetError when nobody listens."""
        view = memoryview(data)
        while view:
            readable, writable = self._poll(not self._eof, True)
            if readable and not self._eof:
                self._take()
            if writable:
                try:
                    count = os.write(self._wfd, view)
                except BlockingIOError:
                    continue
                self.sent += count
                view = view[count:]

    def receive(self, length):
        while len(self._unread) < length and not self._eof:
            self._poll(True, False)
            self._take()
        if len(self._unread) < length:
            raise Disconnected(length, self._unread, self._reset)
        result = bytes(self._unread[:length])
        del self._unread[:length]
        return result

    def read_to_end(self):
        """All bytes up to the end of the connection."""
        while not self._eof:
            self._poll(True, False)
            self._take()
        result = bytes(self._unread)
        self._unread.clear()
        return result

    def expect_end(self):
        """The connection has to end here, without another byte."""
        rest = self.read_to_end()
        if rest:
            raise NotNbd(f"{len(rest)} bytes where the connection was to end: {rest[:200]!r}")

    def ended(self):
        """Whether the connection has ended with nothing left to read, without waiting."""
        if not self._eof:
            self._take()
        return self._eof and not self._unread

    def forget(self):
        """Throws away what has arrived, for a test that only sends."""
        self._unread.clear()
        self.received.clear()

    def shut_down_writing(self):
        """The server sees the end of the stream, we still see what it answers."""
        if self._socket:
            self._socket.shutdown(socket.SHUT_WR)
        elif self._wfd >= 0:
            os.close(self._wfd)
            self._wfd = -1

    def close(self):
        if self._socket:
            self._socket.close()
        else:
            for descriptor in {self._rfd, self._wfd} - {-1}:
                os.close(descriptor)
        self._rfd = self._wfd = -1
        self._socket = self._socket and None

    # -------------------------------------------------------------- handshake

    def greeting(self):
        """Reads the server's greeting, returns the handshake flags."""
        data = self.receive(18)
        if data[:8] != NBDMAGIC or data[8:16] != IHAVEOPT:
            raise NotNbd(f"not a newstyle greeting: {data!r}")
        flags, = struct.unpack(">H", data[16:])
        if flags & ~(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES):
            raise NotNbd(f"unknown handshake flags {flags:#x}")
        return flags

    def handshake(self, flags=NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES):
        """The greeting and the client flags, up to the first option."""
        result = self.greeting()
        self._zeroes = not flags & NBD_FLAG_C_NO_ZEROES
        self.send(struct.pack(">I", flags))
        return result

    @staticmethod
    def option_bytes(option, data=b""):
        return IHAVEOPT + struct.pack(">II", option, len(data)) + data

    def option(self, option, data=b""):
        self.send(self.option_bytes(option, data))

    def option_reply(self, option):
        """One (reply type, data) for the option that was sent."""
        magic, answered, reply, length = struct.unpack(">QIII", self.receive(20))
        if magic != OPTION_REPLY_MAGIC:
            raise NotNbd(f"not an option reply: magic {magic:#x}")
        if answered != option:
            raise NotNbd(f"a reply to option {answered} where {option} was asked")
        if length > 1 << 20:
            raise NotNbd(f"an option reply of {length} bytes")
        return reply, self.receive(length)

    def haggle(self, option, data=b""):
        """Sends an option; returns its replies up to NBD_REP_ACK or an error, as a list of
        (reply type, data)."""
        self.option(option, data)
        replies = []
        while True:
            replies.append(self.option_reply(option))
            if replies[-1][0] == NBD_REP_ACK or replies[-1][0] & NBD_REP_FLAG_ERROR:
                if replies[-1][0] == NBD_REP_ACK and replies[-1][1]:
                    raise NotNbd("NBD_REP_ACK with data")
                return replies

    def _succeed(self, option, data=b""):
        replies = self.haggle(option, data)
        if replies[-1][0] & NBD_REP_FLAG_ERROR:
            raise OptionError(replies[-1][0], replies[-1][1].decode("utf-8", "replace"))
        return replies[:-1]

    def structured_replies(self):
        if self._succeed(NBD_OPT_STRUCTURED_REPLY):
            raise NotNbd("NBD_OPT_STRUCTURED_REPLY is answered by NBD_REP_ACK alone")
        self.structured = True

    @staticmethod
    def string_bytes(text):
        """A string behind its length, as in the data of most options."""
        encoded = text if isinstance(text, bytes) else text.encode()
        return struct.pack(">I", len(encoded)) + encoded

    @staticmethod
    def info_bytes(name="", requests=()):
        """The data of NBD_OPT_INFO and NBD_OPT_GO."""
        return Client.string_bytes(name) + struct.pack(f">H{len(requests)}H", len(requests),
                                                       *requests)

    def info(self, name="", requests=(), option=NBD_OPT_INFO):
        """Returns {information type: payload}."""
        infos = {}
        for reply, data in self._succeed(option, self.info_bytes(name, requests)):
            if reply != NBD_REP_INFO or len(data) < 2:
                raise NotNbd(f"reply {reply} to NBD_OPT_INFO or NBD_OPT_GO")
            kind, = struct.unpack_from(">H", data)
            if kind in infos:
                raise NotNbd(f"information type {kind} twice")
            infos[kind] = data[2:]
        if NBD_INFO_EXPORT not in infos:
            raise NotNbd("NBD_REP_ACK without NBD_INFO_EXPORT")
        self.infos = infos
        self.size, self.flags = struct.unpack(">QH", infos[NBD_INFO_EXPORT])
        return infos

    def go(self, name="", requests=()):
        return self.info(name, requests, NBD_OPT_GO)

    def export_name(self, name=""):
        """NBD_OPT_EXPORT_NAME, which ends the haggling without a reply of its own kind."""
        self.option(NBD_OPT_EXPORT_NAME, name.encode())
        self.size, self.flags = struct.unpack(">QH", self.receive(10))
        if self._zeroes and any(self.receive(124)):
            raise NotNbd("the 124 bytes of zeroes are not zeroes")

    @staticmethod
    def meta_context_bytes(name, queries):
        """The data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT."""
        return (Client.string_bytes(name) + struct.pack(">I", len(queries))
                + b"".join(map(Client.string_bytes, queries)))

    def meta_contexts(self, queries=("base:allocation",), name="",
                      option=NBD_OPT_SET_META_CONTEXT):
        """Returns {context name: id}."""
        contexts = {}
        for reply, data in self._succeed(option, self.meta_context_bytes(name, queries)):
            if reply != NBD_REP_META_CONTEXT or len(data) < 5:
                raise NotNbd(f"reply {reply} to a metadata context option")
            contexts[data[4:].decode("utf-8")] = struct.unpack_from(">I", data)[0]
        if option == NBD_OPT_SET_META_CONTEXT:
            self.contexts = contexts
        return contexts

    def list_exports(self):
        """[(name, description)]"""
        exports = []
        for reply, data in self._succeed(NBD_OPT_LIST):
            if reply != NBD_REP_SERVER or len(data) < 4:
                raise NotNbd(f"reply {reply} to NBD_OPT_LIST")
            length, = struct.unpack_from(">I", data)
            if length > len(data) - 4:
                raise NotNbd("an export's name that is longer than its reply")
            exports.append((data[4:4 + length].decode("utf-8"), data[4 + length:].decode("utf-8")))
        return exports

    def start(self, name="", **choices):
        """From the greeting to the transmission phase, see choose(). Returns itself."""
        self.handshake()
        return self.choose(name, **choices)

    def choose(self, name="", structured=True, contexts=(), requests=()):
        """From the first option to the transmission phase. Returns itself."""
        if structured:
            self.structured_replies()
        if contexts:
            self.meta_contexts(contexts, name)
        self.go(name, requests)
        return self

    def skip_handshake(self, structured=False, size=None, flags=None):
        """As if another program had negotiated on the connection before. Returns itself."""
        self.structured, self.size, self.flags = structured, size, flags
        return self

    # -------------------------------------------------------------- transmission

    @staticmethod
    def request_bytes(command, offset=0, length=0, flags=0, cookie=0, payload=b"",
                      magic=NBD_REQUEST_MAGIC):
        return struct.pack(">IHHQQI", magic, flags, command, cookie, offset, length) + payload

    def request(self, command, offset=0, length=0, flags=0, payload=b""):
        """Sends a request and returns its cookie. The length of a write is its payload's."""
        if command == NBD_CMD_WRITE:
            length = len(payload)
        cookie = self._next_cookie
        self._next_cookie = (self._next_cookie + 1) % (1 << 64)
        self._pending[cookie] = Answer(cookie, command, offset, length)
        self.send(self.request_bytes(command, offset, length, flags, cookie, payload))
        return cookie

    def reply(self):
        """Reads one simple reply or structured reply chunk and adds it to its request's
        Answer, which it returns."""
        magic, = struct.unpack(">I", self.receive(4))
        if magic == NBD_SIMPLE_REPLY_MAGIC:
            error, cookie = struct.unpack(">IQ", self.receive(12))
            answer = self._answer_for(cookie)
            payload = b""
            if answer.command == NBD_CMD_READ:
                if self.structured:
                    raise NotNbd("a simple reply to a read after structured replies were agreed")
                if not error:
                    payload = self.receive(answer.length)
            answer.add(Chunk(cookie, None, payload=payload, error=error))
        elif magic == NBD_STRUCTURED_REPLY_MAGIC:
            flags, kind, cookie, length = struct.unpack(">HHQI", self.receive(16))
            if not self.structured:
                raise NotNbd("a structured reply that nobody has agreed to")
            if flags & ~NBD_REPLY_FLAG_DONE:
                raise NotNbd(f"unknown structured reply flags {flags:#x}")
            answer = self._answer_for(cookie)
            if length > max(answer.length, 1 << 20) + 64:
                raise NotNbd(f"a structured reply chunk of {length} bytes")
            answer.add(Chunk(cookie, kind, flags, self.receive(length)))
        else:
            raise NotNbd(f"not a reply: magic {magic:#x}")
        return answer

    def _answer_for(self, cookie):
        answer = self._pending.get(cookie)
        if answer is None or answer.complete:
            raise NotNbd(f"a reply to a request that nobody waits for, cookie {cookie:#x}")
        return answer

    def answer(self, cookie):
        """The whole answer to a request. Answers to others are kept for later."""
        while not self._pending[cookie].complete:
            self.reply()
        return self._pending.pop(cookie)

    def is_answered(self, cookie):
        """Whether the whole answer to a request has come, as far as others have been waited for."""
        return self._pending[cookie].complete

    def call(self, command, offset=0, length=0, flags=0, payload=b""):
        return self.answer(self.request(command, offset, length, flags, payload))

    def read(self, offset, length, flags=0):
        return self.call(NBD_CMD_READ, offset, length, flags).check().data

    def write(self, offset, data, flags=0):
        self.call(NBD_CMD_WRITE, offset, flags=flags, payload=data).check()

    def write_zeroes(self, offset, length, flags=0):
        self.call(NBD_CMD_WRITE_ZEROES, offset, length, flags).check()

    def trim(self, offset, length, flags=0):
        self.call(NBD_CMD_TRIM, offset, length, flags).check()

    def cache(self, offset, length, flags=0):
        self.call(NBD_CMD_CACHE, offset, length, flags).check()

    def flush(self, flags=0):
        self.call(NBD_CMD_FLUSH, flags=flags).check()

    def block_status(self, offset, length, flags=0):
        """[(length, flags)] of the one metadata context that was chosen."""
        answer = self.call(NBD_CMD_BLOCK_STATUS, offset, length, flags).check()
        eq(len(answer.extents), 1, "metadata contexts in the answer")
        return answer.extents[0][1]

    def disconnect(self, wait=True):
        """NBD_CMD_DISC, after which the server says no more and ends the connection. Without `wait`, the
        client ends it."""
        self.send(self.request_bytes(NBD_CMD_DISC, cookie=self._next_cookie))
        if wait:
            self.expect_end()
        self.close()
