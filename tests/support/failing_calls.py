"""Connections in which one system call fails, and what must hold of them all the same.

tests/support/faulty_calls.c is the library that makes a call fail; Faults is its shared page. A
Workload is a way of starting nbdinetd and a conversation with it, whose every answer is checked.
"""

import errno
import functools
import mmap
import os
import shutil
import signal
import socket
import struct
from pathlib import Path

from faults import nonzero_pattern
from harness import *
from partition_tables import SECTOR, mbr_entry, write_mbr

MIB = 1 << 20
SIZE = MIB + 70001  # no multiple of anything
HOLE = (400 * 1024, 700 * 1024)

# Of struct Control.
_NAME_BYTES, _MAX_CALLS = 24, 120
_HEAD = struct.Struct(f"={_NAME_BYTES}sQQQQQ")
_COUNTER = struct.Struct(f"={_NAME_BYTES}sQ")


def library_path():
    for top in (BUILDDIR, SRCDIR):
        path = top / "tests" / "support" / "faulty_calls.so"
        if path.exists():
            return str(path.resolve())
    return None


class Faults:
    """The page that the preloaded library and the test share."""

    def __init__(self, context, path=None):
        self.path = path or context.fresh(".faults")
        size = _HEAD.size + _MAX_CALLS * _COUNTER.size
        with open(self.path, "wb+") as file:
            file.truncate(size)
            self._page = mmap.mmap(file.fileno(), size)
        self.arm("", 0, 0)

    def arm(self, name, error, nth, times=1):
        """From now on nothing is counted yet, and the nth call of `name` will fail."""
        self._page[:] = bytes(len(self._page))
        _HEAD.pack_into(self._page, 0, name.encode(), error, nth, times, 0, 0)

    @property
    def fired(self):
        return _HEAD.unpack_from(self._page)[4]

    @property
    def syncs(self):
        """How many calls have made something durable."""
        return _HEAD.unpack_from(self._page)[5]

    def counts(self):
        """{function: how often it was called}"""
        entries = (_COUNTER.unpack_from(self._page, _HEAD.size + i * _COUNTER.size)
                   for i in range(_MAX_CALLS))
        return {name.rstrip(b"\0").decode(): calls for name, calls in entries if calls}

    def environment(self):
        return {"LD_PRELOAD": library_path(), "NBDINETD_FAULTS": self.path,
                # The library comes before the sanitizer's, which is as it should be.
                "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"}


# What each call can fail with, from the ERRORS of its manual page, as far as it can happen to
# this program. EIO stands for what a file system makes up.
_E = errno
_COMMON_FD = [_E.EBADF]
_FILE = [_E.EINTR, _E.EIO, _E.EBADF]
ERRORS = {
    "accept4": [_E.EAGAIN, _E.ECONNABORTED, _E.EINTR, _E.EMFILE, _E.ENFILE, _E.ENOBUFS,
                _E.ENOMEM, _E.EPERM, _E.EPROTO],
    "bind": [_E.EACCES, _E.EADDRINUSE, _E.EADDRNOTAVAIL, _E.ENOENT, _E.ENOMEM, _E.EROFS],
    "chdir": [_E.EACCES, _E.ENOENT],
    "close": [_E.EINTR, _E.EIO, _E.ENOSPC],
    "connect": [_E.ECONNREFUSED, _E.EACCES, _E.EAGAIN, _E.ENOENT],
    "dup2": [_E.EMFILE, _E.EBUSY],
    "dup3": [_E.EMFILE, _E.EBUSY],
    "epoll_create1": [_E.EMFILE, _E.ENFILE, _E.ENOMEM],
    "epoll_ctl": [_E.ENOMEM, _E.ENOSPC],
    "epoll_wait": [_E.EINTR],
    "eventfd": [_E.EMFILE, _E.ENFILE, _E.ENODEV, _E.ENOMEM],
    "fallocate": [_E.EINTR, _E.EIO, _E.ENOSPC, _E.EOPNOTSUPP, _E.ENOSYS, _E.EFBIG, _E.EPERM,
                  _E.ETXTBSY],
    "fcntl": [_E.EMFILE],
    "fdatasync": [_E.EINTR, _E.EIO, _E.ENOSPC, _E.EDQUOT, _E.EROFS],
    "fsync": [_E.EINTR, _E.EIO],
    "flock": [_E.EWOULDBLOCK, _E.ENOLCK, _E.ENOSYS],
    "fork": [_E.EAGAIN, _E.ENOMEM, _E.ENOSYS],
    "fstat": [_E.EIO, _E.ENOMEM, _E.EOVERFLOW],
    "readlink": [_E.EACCES, _E.ENOENT, _E.ENOMEM],
    "fstatfs": [_E.EIO, _E.EINTR, _E.ENOMEM, _E.ENOSYS],
    "ftruncate": [_E.EIO, _E.EFBIG, _E.EINVAL, _E.EPERM],
    "getpeername": [_E.ENOTCONN, _E.ENOBUFS],
    "getsockname": [_E.ENOBUFS],
    "getsockopt": [_E.ENOPROTOOPT, _E.EINVAL],
    "ioctl": [_E.ENOTTY, _E.EIO, _E.EINVAL],
    "linkat": [_E.EIO, _E.ENOSPC, _E.EDQUOT, _E.EPERM, _E.EROFS, _E.EXDEV],
    "listen": [_E.EADDRINUSE, _E.EOPNOTSUPP],
    # Not ENXIO, which is an answer: that there is no data.
    "lseek": [_E.EINVAL, _E.EIO, _E.EOVERFLOW, _E.EOPNOTSUPP],
    "lstat": [_E.EACCES, _E.EIO, _E.ENOENT, _E.ENOMEM],
    # EINVAL is a kernel that doesn't know all flags.
    "memfd_create": [_E.EMFILE, _E.ENFILE, _E.ENOMEM, _E.EINVAL],
    "mincore": [_E.EAGAIN, _E.ENOMEM, _E.ENOSYS, _E.EPERM],
    "mmap": [_E.EACCES, _E.ENODEV, _E.ENOMEM, _E.EPERM],
    "open": [_E.EACCES, _E.EINTR, _E.EIO, _E.EMFILE, _E.ENFILE, _E.ENOENT, _E.ENOMEM, _E.EPERM,
             _E.EROFS, _E.ETXTBSY, _E.ENXIO],
    "openat": [_E.EACCES, _E.EINTR, _E.EMFILE, _E.ENFILE, _E.ENOENT, _E.ENOMEM],
    "pipe2": [_E.EMFILE, _E.ENFILE],
    "poll": [_E.EINTR, _E.ENOMEM],
    "posix_fadvise": [_E.EINVAL, _E.EIO, _E.ESPIPE],
    "ppoll": [_E.EINTR, _E.ENOMEM],
    "prctl": [_E.EINVAL, _E.EPERM],
    "pread": [_E.EINTR, _E.EIO, _E.ENOMEM, _E.EOVERFLOW],
    "preadv": [_E.EINTR, _E.EIO, _E.ENOMEM],
    "preadv2": [_E.EAGAIN, _E.EINTR, _E.EIO, _E.EOPNOTSUPP, _E.ENOMEM],
    "pthread_create": [_E.EAGAIN],
    "pwrite": [_E.EINTR, _E.EIO, _E.ENOSPC, _E.EDQUOT, _E.EFBIG, _E.EPERM, _E.ENOMEM],
    "pwritev2": [_E.EINTR, _E.EIO, _E.ENOSPC, _E.EDQUOT, _E.EFBIG, _E.EOPNOTSUPP],
    "read": [_E.EAGAIN, _E.EINTR, _E.EIO],
    "renameat2": [_E.EIO, _E.ENOSPC, _E.EINVAL],
    "recv": [_E.EAGAIN, _E.EINTR, _E.ECONNRESET, _E.ETIMEDOUT, _E.ENOMEM],
    "recvmsg": [_E.EAGAIN, _E.EINTR, _E.ECONNRESET],
    "sendfile": [_E.EAGAIN, _E.EINTR, _E.EIO, _E.EINVAL, _E.EPIPE, _E.ECONNRESET, _E.ENOMEM],
    "send": [_E.EAGAIN, _E.EINTR, _E.EPIPE, _E.ECONNRESET, _E.ETIMEDOUT, _E.ENOBUFS, _E.ENOMEM],
    "sendmsg": [_E.EAGAIN, _E.EINTR, _E.EPIPE, _E.ECONNRESET],
    "setrlimit": [_E.EPERM],
    "setsid": [_E.EPERM],
    "setsockopt": [_E.ENOPROTOOPT, _E.EINVAL, _E.ENOMEM],
    "shutdown": [_E.ENOTCONN],
    "signalfd": [_E.EMFILE, _E.ENFILE, _E.ENODEV, _E.ENOMEM],
    "socketpair": [_E.EMFILE, _E.ENFILE, _E.ENOMEM],
    "socket": [_E.EACCES, _E.EAFNOSUPPORT, _E.EMFILE, _E.ENFILE, _E.ENOMEM],
    "splice": [_E.EAGAIN, _E.EINTR, _E.EINVAL, _E.ENOMEM, _E.EIO],
    "sync_file_range": [_E.EIO, _E.ENOSPC, _E.ENOSYS],
    "syscall": [_E.ENOSYS, _E.EPERM, _E.ENOMEM],
    "unlink": [_E.ENOENT, _E.EACCES],
    "unlinkat": [_E.EIO, _E.EACCES, _E.EROFS],
    "waitpid": [_E.ECHILD],
    "write": [_E.EAGAIN, _E.EINTR, _E.EIO, _E.EPIPE, _E.ENOSPC],
    "writev": [_E.EAGAIN, _E.EINTR, _E.EPIPE],
}

# Calls on the file of the export: what they do is an answer to a request, and the connection goes
# on.
STORAGE_CALLS = ("fallocate", "fdatasync", "lseek", "posix_fadvise", "pread", "preadv", "preadv2",
                 "pwrite", "pwritev2", "sync_file_range")

# Exit statuses that the manual page knows of for a connection.
STATUSES = (0, 66, 71, 73, 75, 76, 78)


_CHANGES = (NBD_CMD_WRITE, NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES)


class Mismatch(AssertionError):
    """Wrong bytes, or a promise that was not kept."""


@functools.cache
def pattern_at(offset, length):
    return nonzero_pattern(offset, length)


class Content:
    """What the file may hold: `sure`, or, where a change may have happened, `maybe`."""

    def __init__(self):
        self.sure = bytearray(pattern_at(0, SIZE))
        self.sure[HOLE[0]:HOLE[1]] = bytes(HOLE[1] - HOLE[0])
        self.maybe = bytearray(self.sure)

    def make_file(self, path):
        with open(path, "wb") as file:
            file.truncate(SIZE)
            file.write(self.sure[:HOLE[0]])
            file.seek(HOLE[1])
            file.write(self.sure[HOLE[1]:])

    def change(self, offset, data, certain):
        self.maybe[offset:offset + len(data)] = data
        if certain:
            self.sure[offset:offset + len(data)] = data

    def check(self, offset, data, what):
        sure, maybe = (b[offset:offset + len(data)] for b in (self.sure, self.maybe))
        if data in (sure, maybe):
            return
        for i, got in enumerate(data):
            if got not in (sure[i], maybe[i]):
                raise Mismatch(f"{what}: the byte at {offset + i} is {got}, not {sure[i]}"
                               f"{'' if sure[i] == maybe[i] else f' or {maybe[i]}'}")


class Workload:
    """A way to start nbdinetd, and what is said then."""

    def __init__(self, name, start, structured=True, options=(), ending="disconnect",
                 storage="file", missing="", copies=False, keeps=False, partition=False):
        self.name, self.start, self.structured = name, start, structured
        self.options, self.ending, self.storage = options, ending, storage
        self.copies = copies or keeps  # the client writes into a private copy
        self.keeps = keeps  # which stays
        self.partition = partition  # the file has a table, and what is served is a partition
        self.missing = missing  # what an older kernel lacks, see as_kernel()

    def __str__(self):
        return self.name


WORKLOADS = [
    Workload("Accept=yes, Unix, structured", "activated"),
    Workload("Accept=yes, TCP, simple", "activated-tcp", structured=False),
    Workload("inetd, Unix, simple, -v", "inetd", structured=False, options=("-v",)),
    Workload("inetd, TCP, structured, to syslog", "inetd-tcp", options=("--log=syslog",)),
    Workload("pipes, structured", "pipes"),
    Workload("pipes, simple", "pipes", structured=False),
    Workload("Accept=yes, SIGTERM, to the journal", "activated", options=("--log=journal",),
             ending="terminate"),
    Workload("Accept=yes, tmpfs, structured", "activated", storage="tmpfs"),
    Workload("Accept=yes, without cachestat(2), simple", "activated", structured=False,
             missing="cachestat"),
    Workload("Accept=yes, a private copy in memory, structured", "activated", copies=True,
             options=("--cow", "--cow-dir=memory", "--cow-size=8M")),
    Workload("inetd, a private copy on disk, simple", "inetd", structured=False, copies=True,
             options=("--cow", "--cow-dir=/var/tmp")),
    Workload("Accept=yes, TCP, a kept copy, structured", "activated-tcp", keeps=True,
             options=("--cow=keep", "--cow-key=peer-address", "--cow-size=8M")),
    Workload("Accept=yes, a partition, structured", "activated", partition=True,
             options=("--partition=1", f"--size={SIZE}")),
    Workload("Accept=no, Unix, structured", "listener"),
    Workload("stand-alone, Unix, simple", "stand-alone", structured=False),
]


class Run:
    """One workload with one fault (or none). After it, `problem` says what is wrong, if anything."""

    def __init__(self, context, faults, workload, folder):
        self.context, self.faults, self.workload = context, faults, workload
        self.content = Content()
        self.path = f"{folder}/nbdinetd-{os.getpid()}.img"
        self.flush_has_failed = self.read_only = False
        self.greeted = False
        self.injected = 0
        self.errors = []

    # -------------------------------------------------------------- the whole of it

    def run(self, call="", error=0, nth=0):
        """What is wrong, or None."""
        self.content.make_file(self.path)
        if self.workload.keeps:
            os.mkdir(self.path + ".copies")
        self.table = self._make_partition() if self.workload.partition else b""
        self.injected = error
        self.faults.arm(call, error, nth)
        process = None
        try:
            process = self._start()
            ended = self._converse(process)
            self._expect_end(process, ended, call, error)
            self._check_file()
        except (Mismatch, NotNbd, HangGuard, AssertionError) as wrong:
            stderr = process.stderr()[-2000:] if process else ""
            return f"{type(wrong).__name__}: {wrong}; stderr: {stderr!r}"
        finally:
            if process:
                process.stop()
            os.unlink(self.path)
            shutil.rmtree(self.path + ".copies", ignore_errors=True)
        return None

    def _check_file(self):
        content = Content() if self.workload.copies else self.content
        data = Path(self.path).read_bytes()
        eq(data[:len(self.table)] == self.table, True, "what is before the partition")
        content.check(0, data[len(self.table):len(self.table) + SIZE], "the file in the end")

    def _make_partition(self):
        """Puts a table before what the file has; returns it."""
        start, data = 63, Path(self.path).read_bytes()
        Path(self.path).write_bytes(bytes(start * SECTOR) + data.ljust(-(-SIZE // SECTOR) * SECTOR, b"\0"))
        write_mbr(self.path, [mbr_entry(0x83, start, -(-SIZE // SECTOR))])
        return Path(self.path).read_bytes()[:start * SECTOR]

    def _start(self):
        """The process; sets self.connect, by which a client comes to it."""
        kind, env = self.workload.start, self.faults.environment()
        # How long the machine is busy with something else is not to be told apart from a peer that
        # is slow.
        arguments = [*self.workload.options, "--handshake-timeout=1h", "--stall-timeout=1h", self.path]
        if self.workload.keeps:
            arguments.insert(0, f"--cow-dir={self.path}.copies")
        if kind in ("listener", "stand-alone"):
            return self._start_listener(kind, arguments, env)
        if kind == "pipes":
            process, client = self.context.piped("-s", *arguments, env=env)
        else:
            family = "tcp" if kind.endswith("tcp") else "socketpair"
            start = self.context.inetd if kind.startswith("inetd") else self.context.activated
            how = {"stderr": "file"} if kind.startswith("inetd") else {}
            if self.workload.missing:
                how["prefix"] = as_kernel(self.workload.missing)
            process, client = start(*arguments, family=family, env=env, **how)
        self._connect = lambda: client
        return process

    def _start_listener(self, kind, arguments, env):
        address = self.context.fresh(".sock")
        if kind == "listener":
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(address)
            listener.listen(8)
            process = self.context.spawn([NBDINETD, *arguments], fds={3: listener}, env=env,
                                         listen_fds=1, listen_pid="own")
            listener.close()
        else:
            process = self.context.spawn([NBDINETD, "-f", "-U", address, *arguments], env=env)

        def try_to_connect():
            if process.poll() is not None:
                return "ended"
            try:
                return connect(address)
            except (FileNotFoundError, ConnectionRefusedError):
                return None

        def get_client():
            connection = wait_until(try_to_connect, "the listener")
            return None if connection == "ended" else Client(connection)
        self._connect = get_client
        return process

    # -------------------------------------------------------------- the conversation

    def _converse(self, process):
        """How it ended: "orderly", or early: "refused" by an option's error, "cut"."""
        client = self._connect()
        if client is None:
            return "cut"
        try:
            try:
                client.start(structured=self.workload.structured,
                             contexts=("base:allocation",) if self.workload.structured else ())
            except OptionError:
                return "refused"
            eq(client.size, SIZE, "the export's size")
            self.read_only = bool(client.flags & NBD_FLAG_READ_ONLY)
            self.greeted = True
            self._requests(client)
            if self.workload.ending == "terminate":
                process.signal(signal.SIGTERM)
                client.expect_end()
            else:
                client.disconnect()
            return "orderly"
        except (Disconnected, BrokenPipeError, ConnectionResetError):
            return "cut"
        finally:
            client.close()

    def _requests(self, client):
        read, write, zero = NBD_CMD_READ, NBD_CMD_WRITE, NBD_CMD_WRITE_ZEROES
        fua, df = NBD_CMD_FLAG_FUA, NBD_CMD_FLAG_DF if self.workload.structured else 0
        self._call(client, read, 0, 4096)
        self._call(client, read, 1001, 300000)
        self._drop_cache()
        self._call(client, read, 5000, 4096)
        self._call(client, read, 100, 390000, df)
        self._call(client, read, 300001, 500000)
        self._drop_cache()
        self._call(client, read, 300001, 500000, df)
        self._call(client, write, 9000, 5000)
        self._call(client, write, 20001, 290000)
        self._call(client, write, 320000, 100, fua)
        self._call(client, write, 721001, 290000, fua)
        self._call(client, NBD_CMD_FLUSH)
        self._drop_cache()
        self._call(client, write, 330001, 10)
        self._call(client, NBD_CMD_TRIM, 335000, 9000)
        self._call(client, NBD_CMD_TRIM, 345001, 10000, fua)
        self._call(client, zero, 360001, 8192)
        self._call(client, zero, 370001, 8192, NBD_CMD_FLAG_NO_HOLE)
        self._call(client, zero, 380001, 8192, NBD_CMD_FLAG_FAST_ZERO | fua)
        self._call(client, NBD_CMD_CACHE, 0, SIZE)
        if self.workload.structured:
            self._call(client, NBD_CMD_BLOCK_STATUS, 0, SIZE)
            self._call(client, NBD_CMD_BLOCK_STATUS, 390000, 300000, NBD_CMD_FLAG_REQ_ONE)
        # Many at once, and what has become of all that.
        cookies = [client.request(read, offset, 70000) for offset in range(0, SIZE - 70000, 50000)]
        for cookie in cookies:
            self._check_answer(client.answer(cookie), read, 0)
        self._call(client, NBD_CMD_FLUSH)
        self._call(client, read, 0, SIZE)

    def _drop_cache(self):
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def _call(self, client, command, offset=0, length=0, flags=0):
        if self.read_only and command in _CHANGES:
            return
        payload = pattern_at(offset + 4 * SIZE, length) if command == NBD_CMD_WRITE else b""
        new = payload if command == NBD_CMD_WRITE else bytes(length)
        if command in _CHANGES:
            # Until the answer is there, and if it never comes.
            self.content.change(offset, new, certain=False)
        syncs = self.faults.syncs
        answer = client.call(command, offset, length, flags, payload)
        if command in (NBD_CMD_WRITE, NBD_CMD_WRITE_ZEROES) and not answer.error:
            self.content.change(offset, new, certain=True)
        # Nothing of a private copy has to be durable.
        if (command == NBD_CMD_FLUSH or flags & NBD_CMD_FLAG_FUA) and not self.workload.copies:
            self._check_durable(answer, self.faults.syncs - syncs)
        self._check_answer(answer, command, flags)

    def _check_durable(self, answer, syncs):
        if answer.error:
            return
        # Nothing else makes such calls: the requests come one by one.
        if syncs == 0:
            raise Mismatch(f"command {answer.command} is said to be durable, and nothing was synced")
        if self.flush_has_failed:
            raise Mismatch("a flush succeeds after one has failed")

    def _check_answer(self, answer, command, flags):
        if answer.error:
            self.errors.append((command, answer.error, answer.message))
            if answer.chunks[-1].kind is not None and not answer.message:
                raise Mismatch("an error reply without a sentence")
            if command == NBD_CMD_FLUSH:
                self.flush_has_failed = True
            if answer.error in (NBD_EINVAL, NBD_EOVERFLOW, NBD_ESHUTDOWN) and \
                    answer.error != self.injected != errno.EOVERFLOW:
                raise Mismatch(f"command {command} is answered by error {answer.error}")
            if answer.error == NBD_ENOTSUP and not flags & NBD_CMD_FLAG_FAST_ZERO:
                raise Mismatch("NBD_ENOTSUP without NBD_CMD_FLAG_FAST_ZERO")
        elif command == NBD_CMD_READ:
            self.content.check(answer.offset, answer.data, "a read")
        elif command == NBD_CMD_BLOCK_STATUS:
            self._check_status(answer)

    def _check_status(self, answer):
        offset = answer.offset
        for length, flags in answer.extents[0][1]:
            if flags & NBD_STATE_ZERO:
                self.content.check(offset, bytes(length), "told to be zeroes")
            offset += length

    # -------------------------------------------------------------- the end

    def _expect_end(self, process, ended, call, error):
        if self.workload.start in ("listener", "stand-alone"):
            self._expect_listener_lives(process, ended, call)
        status = process.wait()
        stderr = process.stderr()
        if status < 0 or "Sanitizer" in stderr or "terminate called" in stderr:
            raise AssertionError(f"a crash, status {status}")
        # Of a descriptor of which the kernel tells nothing nobody can say what it is.
        if call in ("fstat", "getsockopt", "fcntl") and status in (0, 64):
            return
        # The client of a copy that is kept for its address has none.
        if call == "getpeername" and self.workload.keeps and status == EX_NOPERM:
            return
        if status not in STATUSES:
            raise AssertionError(f"exit status {status}")
        if self.workload.start in ("listener", "stand-alone"):
            return
        # What was not made durable makes the last flush, which is nobody's request, fail as well.
        flush_failed = call in ("fdatasync", "pwritev2") and self.workload.ending == "terminate"
        if ended == "orderly" and status != 0 and not (flush_failed and status == EX_OSERR):
            raise AssertionError(f"exit status {status} after all was well")
        # Who leaves during the handshake has been looking whether there is somebody.
        if ended == "cut" and status == 0 and self.greeted:
            raise AssertionError("exit status 0, but the connection was cut")
        # A partition is there only if its table can be read.
        no_table = self.workload.partition and not self.greeted and status == EX_NOINPUT
        if ended == "cut" and call in STORAGE_CALLS and status != EX_OSERR and not no_table:
            raise AssertionError(f"{call} gave {errno.errorcode[error]}: exit status {status}")
        if self.faults.fired and error == errno.EINTR and (ended != "orderly" or self.errors):
            if call not in ("close", "open"):
                raise AssertionError(f"an interruption shows: {ended}, {self.errors}")

    def _expect_listener_lives(self, process, ended, call):
        """The fault is behind us: the next connection is served, and nothing has been lost."""
        if process.poll() is None:
            if self._serves_another():
                self._expect_connections_end(process, call)
                extra = [d for d in process.descriptors().values() if self.path in d
                         or "anon_inode:[eventfd]" in d]
                if extra:
                    raise AssertionError(f"the listener has kept {extra}")
                sockets = [d for d in process.descriptors().values() if d.startswith("socket:")]
                if len(sockets) > 1:
                    raise AssertionError(f"the listener has kept {sockets}")
        elif ended == "orderly":
            raise AssertionError("the listener has ended")
        process.signal(signal.SIGTERM)

    def _expect_connections_end(self, process, call):
        def overlooked():
            return call == "waitpid" and self.faults.fired
        wait_until(lambda: not children_of(process.pid) or overlooked(),
                   "the end of the connections")
        # Told that there is no process, the listener looks again when another has ended.
        if overlooked() and self._serves_another():
            wait_until(lambda: not children_of(process.pid), "the end of the connections")

    def _serves_another(self):
        # What was to fail may only be reached by the next client, but then not by the one after it.
        for _ in range(2):
            # From before it connects: it is the listener that does the first of what may fail.
            before = self.faults.fired
            client = self._connect()
            if client is None:
                return False
            try:
                client.start()
                self.content.check(0, client.read(0, 4096), "a read of the next client")
                client.disconnect()
                return True
            except (Disconnected, BrokenPipeError, ConnectionResetError, OptionError, NbdError):
                client.close()
                if self.faults.fired == before:
                    raise AssertionError("the next client isn't served") from None
        raise AssertionError("no client is served any more")
