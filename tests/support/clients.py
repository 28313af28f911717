"""Helpers of the tests with real clients: a superserver to connect to, and a checker with a model of
an export's content."""

import errno
import os
import random
import re
import signal
import threading

import harness

# Every exit of a handler is in the superserver's log in these words.
_CHILD_ENDED = re.compile(r"^Child (\d+) died with (?:code|signal) (\S+)", re.MULTILINE)

# After so long everything that a test has started is killed, whatever the test waits in: libnbd
# waits in C, where the harness's alarm can't interrupt it, but a lost connection can.
WATCHDOG_S = 75 * harness.PATIENCE


class SocketActivate:
    """nbdinetd behind `systemd-socket-activate --accept`, on a Unix path or a TCP port."""

    def __init__(self, context, *arguments, tcp=False, env=None):
        program = harness.need_beside_server("systemd-socket-activate")
        arguments = [str(a) for a in arguments]
        for attempt in range(10):
            self.address = ("127.0.0.1", harness.free_port()) if tcp else context.fresh(".sock")
            where = f"127.0.0.1:{self.address[1]}" if tcp else self.address
            self.process = context.spawn([program, "--accept", "-l", where, harness.NBDINETD,
                                          *arguments], env=env)
            try:
                harness.wait_until(
                    lambda: self.process.poll() is not None
                    or harness.is_listening(self.address), "the superserver listens")
            finally:
                started = self.process.poll() is None
            if started:
                break
            # Somebody was faster and took the port.
            if not tcp or attempt == 9:
                raise AssertionError(f"systemd-socket-activate: {self.process.stderr()}")
        self._timer = threading.Timer(WATCHDOG_S, self._kill)
        self._timer.daemon = True
        self._timer.start()
        context.defer(self._timer.cancel)

    def _kill(self):
        for pid in [*harness.servers_below(self.process.pid), self.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def uri(self, export=""):
        return harness.uri(self.address, export)

    def log(self):
        return self.process.stderr()

    def handlers(self):
        """Process ids of the handlers that run now."""
        return harness.servers_below(self.process.pid)

    def statuses(self):
        """The exit statuses of all handlers up to now, once they have all ended."""
        harness.wait_until(lambda: not self.handlers(), "the end of every handler")
        spawned = len(re.findall(r"^Spawned .* as PID \d+", self.log(), re.MULTILINE))
        harness.wait_until(lambda: len(_CHILD_ENDED.findall(self.log())) >= spawned,
                           "the superserver's word on every handler")
        return [status for _, status in _CHILD_ENDED.findall(self.log())]

    def expect_clean(self, at_least=1):
        """Every handler up to now has ended as the protocol says, and left no error behind."""
        statuses = self.statuses()
        if len(statuses) < at_least or set(statuses) != {"0"}:
            raise AssertionError(f"handlers ended with {statuses}, wanted {at_least} or more "
                                 f"times 0; log: {self.log()}")
        # Every connection has its last line, also one that never got beyond the haggling.
        harness.eq(self.log().count(" ended: "), len(statuses), f"last lines in {self.log()}")

    def serving_lines(self):
        """The log's lines about connections that were served."""
        return [line for line in self.log().splitlines()
                if line.startswith("nbdinetd: serving export")]


def unix_and_tcp(context, *arguments, env=None):
    """The same export behind a Unix socket and behind a TCP port."""
    return [SocketActivate(context, *arguments, tcp=tcp, env=env) for tcp in (False, True)]


def sparse_image(context, name, size, data_ranges, seed=7):
    """A file of `size` bytes with random data in (start, length) ranges, and holes elsewhere."""
    generator = random.Random(seed)
    path = context.sparse_image(size, name)
    with open(path, "r+b") as file:
        for start, length in data_ranges:
            file.seek(start)
            file.write(generator.randbytes(length))
        os.fsync(file.fileno())
    return path


def holes_of(path):
    """[(start, length, is_hole)] as the file system tells it."""
    result = []
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        position = 0
        while position < size:
            try:
                data = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                data = size
            if data > position:
                result.append((position, data - position, True))
            if data < size:
                end = os.lseek(file.fileno(), data, os.SEEK_HOLE)
                result.append((data, end - data, False))
                position = end
            else:
                position = size
    return result


def allocated_bytes(path):
    return os.stat(path).st_blocks * 512


def shows_preallocated_as_data(context):
    """Whether the file system's map has data where space is allocated and nothing was written yet,
    as ext4's has, or holes, as tmpfs's has."""
    probe = context.sparse_image(1 << 20)
    with open(probe, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
    return not any(hole for _, _, hole in holes_of(probe))


def merged(extents):
    """[(start, length, value)] with neighbours of one value made one."""
    result = []
    for start, length, value in extents:
        if result and result[-1][2] == value and result[-1][0] + result[-1][1] == start:
            result[-1] = (result[-1][0], result[-1][1] + length, value)
        else:
            result.append((start, length, value))
    return result


def same_content(path, other):
    if os.path.getsize(path) != os.path.getsize(other):
        raise AssertionError(f"{path} has {os.path.getsize(path)} bytes, {other} "
                             f"{os.path.getsize(other)}")
    harness.eq(harness.checksum(path), harness.checksum(other), f"checksum of {path}")


def import_libnbd():
    """The module of libnbd."""
    try:
        import nbd
    except ImportError:
        nbd = None
    harness.require(nbd is not None, "python3-libnbd is not installed")
    return nbd


def has_extended_headers(nbd):
    """libnbd has them since 1.18."""
    return hasattr(nbd.NBD, "set_request_extended_headers")


def connect_libnbd(server, export="", structured=True, contexts=("base:allocation",),
                   handshake_flags=None, strict=True, extended=True):
    """A handle of libnbd in the transmission phase; with extended headers where libnbd has them, and
    structured replies are wanted."""
    nbd = import_libnbd()
    handle = nbd.NBD()
    if not strict:
        handle.set_strict_mode(0)
    handle.set_request_structured_replies(structured)
    if has_extended_headers(nbd):
        handle.set_request_extended_headers(structured and extended)
    if structured:
        for context in contexts:
            handle.add_meta_context(context)
    if handshake_flags is not None:
        handle.set_handshake_flags(handshake_flags)
    handle.set_export_name(export)
    if isinstance(server.address, str):
        handle.connect_unix(server.address)
    else:
        handle.connect_tcp(server.address[0], str(server.address[1]))
    return handle


def error_of(function, *arguments, **options):
    """The errno's name with which a call of libnbd fails; None when it doesn't fail. Some errors
    have no errno: then it is what libnbd says."""
    nbd = import_libnbd()
    try:
        function(*arguments, **options)
    except nbd.Error as error:
        return error.errno or error.string
    return None


class ModelChecker:
    """Random requests over one part of an export, many in flight, and a model of the outcome.

    The requests that are in flight together never overlap, for the specification leaves the
    outcome of such to chance; they do touch, down to the byte, since that is where servers err.
    After a trim the bytes may be the old ones or zeroes, and the model allows for both.
    """

    def __init__(self, handle, start, length, seed, content=None, depth=16, unit=1,
                 largest=40000):
        self._handle, self._start, self._length = handle, start, length
        self._random = random.Random(seed)
        self._model = bytearray(content if content is not None else bytes(length))
        self._trimmed = bytearray(length)
        self._depth, self._unit, self._largest = depth, unit, largest
        self._in_flight = {}
        self.counts = dict.fromkeys(("read", "write", "zero", "trim", "flush"), 0)

    def use(self, handle):
        """Goes on over another connection."""
        self._handle = handle

    def run(self, requests):
        nbd = import_libnbd()
        for _ in range(requests):
            self._submit(nbd)
            while len(self._in_flight) >= self._depth:
                self._complete()
        while self._in_flight:
            self._complete()
        self.check_all()

    def _submit(self, nbd):
        kind = self._random.choices(("read", "write", "zero", "trim", "flush"),
                                    (30, 40, 15, 10, 5))[0]
        place = self._place()
        if place is None:
            self._complete()
            return
        offset, length = place
        at = self._start + offset
        fua = nbd.CMD_FLAG_FUA if self._random.random() < 0.1 else 0
        buffer = None
        if kind == "read":
            buffer = nbd.Buffer(length)
            cookie = self._handle.aio_pread(buffer, at)
        elif kind == "write":
            data = self._random.randbytes(length)
            buffer = nbd.Buffer.from_bytearray(bytearray(data))
            cookie = self._handle.aio_pwrite(buffer, at, flags=fua)
            self._model[offset:offset + length] = data
            self._trimmed[offset:offset + length] = bytes(length)
        elif kind == "zero":
            no_hole = nbd.CMD_FLAG_NO_HOLE if self._random.random() < 0.5 else 0
            cookie = self._handle.aio_zero(length, at, flags=fua | no_hole)
            self._model[offset:offset + length] = bytes(length)
            self._trimmed[offset:offset + length] = bytes(length)
        elif kind == "trim":
            cookie = self._handle.aio_trim(length, at, flags=fua)
            self._trimmed[offset:offset + length] = b"\1" * length
        else:
            offset = length = 0
            cookie = self._handle.aio_flush()
        self.counts[kind] += 1
        self._in_flight[cookie] = (kind, offset, length, buffer)

    def _place(self):
        """A range that no request in flight touches: half the time right beside one."""
        for _ in range(20):
            length = self._random.randint(1, self._random.choice((100, 5000, self._largest)))
            length = min(-(-length // self._unit) * self._unit, self._length)
            offset = self._random.randrange(self._length - length + 1)
            if self._in_flight and self._random.random() < 0.5:
                _, other, other_length, _ = self._random.choice(list(self._in_flight.values()))
                offset = min(other + other_length, self._length - length)
            offset -= offset % self._unit
            if all(offset + length <= other or other + other_length <= offset
                   for _, other, other_length, _ in self._in_flight.values()):
                return offset, length
        return None

    def _complete(self):
        """Waits for at least one reply, and checks what it brought."""
        while True:
            done = [cookie for cookie in self._in_flight
                    if self._handle.aio_command_completed(cookie)]
            if done:
                break
            self._handle.poll(-1)
        for cookie in done:
            kind, offset, length, buffer = self._in_flight.pop(cookie)
            if kind == "read":
                self._check(offset, buffer.to_bytearray())

    def _check(self, offset, data):
        wanted = self._model[offset:offset + len(data)]
        if data == wanted:
            return
        for i, (got, want) in enumerate(zip(data, wanted)):
            if got != want and not (got == 0 and self._trimmed[offset + i]):
                raise AssertionError(f"byte {self._start + offset + i} is {got}, "
                                     f"wanted {want}; requests: {self.counts}")

    def check_all(self):
        """Compares the whole part by reading it."""
        step = 1 << 20
        for offset in range(0, self._length, step):
            length = min(step, self._length - offset)
            self._check(offset, self._handle.pread(length, self._start + offset))


def system_python_environment():
    """Debian's programs in Python want Debian's Python before any other in PATH."""
    return {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}


def read_file(path, offset, length):
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


def program_output(context, argv, **how):
    """What a program that succeeds writes to standard output."""
    return context.run(argv, **how).stdout()
