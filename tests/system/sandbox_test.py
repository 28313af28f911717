#!/usr/bin/python3
"""The sandbox of a connection, from outside and from inside.

From outside: what /proc tells of the process, however it was started, and how the client is served
where the kernel has only a part of the sandbox. From inside: tests/nbdinetd-intruder is the same
program with code in it that tries what the sandbox forbids (tests/support/intruder.cc).
"""

import ctypes
import errno
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from failing_calls import Faults, library_path
from faults import LoopDevice, need_privilege
from harness import *
from intruder import ENDED, FORBIDDEN, INTRUDER, REFUSED
from listening import *
from tls import TlsClient, authority, client_context

NOBODY = 64322  # a user that owns nothing
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
INCOMPLETE = "the sandbox is incomplete: "


def injecting(call, error, when="1+"):
    """Runs a program on a kernel in which a system call always fails. The program is a child of
    what is started, which ends like it."""
    return [need("strace"), "-f", "-qq", "-e", "signal=none", "-e", f"trace={call}", "-o",
            "/dev/null", "-e", f"inject={call}:error={error}:when={when}"]


def own_landlock():
    """The version of this kernel's Landlock, or 0."""
    create_ruleset, ask_version = 444, 1
    return max(0, ctypes.CDLL(None).syscall(create_ruleset, None, ctypes.c_size_t(0), ask_version))


# ------------------------------------------------------------------ from outside

def status_of(pid):
    """{field: value} of /proc/PID/status."""
    text = Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def filters_of(pid):
    return status_of(pid)["Seccomp_filters"]


def expect_shut_in(pid, filters, bounding_set=True):
    status = status_of(pid)
    eq(status["NoNewPrivs"], "1", "no new privileges")
    eq((status["Seccomp"], status["Seccomp_filters"]), ("2", str(filters)), "filters")
    for name in CAPABILITIES:
        if name != "CapBnd" or bounding_set:
            eq(int(status[name], 16), 0, name)


def use(client):
    """What a client can ask of an export that it may write to, once each."""
    client.write(4096, b"w" * 5000)
    eq(client.read(4096, 5000), b"w" * 5000)
    client.write(65536, b"d" * 4096, NBD_CMD_FLAG_FUA)
    client.flush()
    client.trim(65536, 65536)
    for flags in (0, NBD_CMD_FLAG_NO_HOLE, NBD_CMD_FLAG_FUA):
        client.write_zeroes(131072, 65536, flags)
        eq(client.read(131072, 65536), bytes(65536))
    client.cache(0, 65536)
    client.block_status(0, client.size)
    eq(len(client.read(0, client.size)), client.size)


def serve(process, client, pid=None, bounding_set=True, name=""):
    """A whole connection, looked at before its first byte and when it transmits."""
    pid = pid or process.pid
    client.handshake()
    expect_shut_in(pid, 1, bounding_set)
    client.structured_replies()
    client.meta_contexts(name=name)
    client.go(name)
    # What tells is the first answer: the second filter is there before it.
    client.read(0, 512)
    expect_shut_in(pid, 2, bounding_set)
    use(client)
    expect_shut_in(pid, 2, bounding_set)
    for thread in os.listdir(f"/proc/{pid}/task"):
        expect_shut_in(f"{pid}/task/{thread}", 2, bounding_set)
    client.disconnect()


@test("a connection is shut in before its first byte, and tighter once it transmits: systemd, inetd, "
      "ssh")
def _(t):
    need_root("to have capabilities to give up")
    for start in (t.activated, t.inetd, lambda *a: t.piped("-s", *a)):
        process, client = start("--sandbox=require", t.pattern_image(MIB))
        serve(process, client)
        process.expect(EX_OK)
        eq(len(process.stderr().splitlines()) if start != t.inetd else 2, 2, process.stderr())


@test("a connection of an ordinary user is shut in, too")
def _(t):
    image = t.pattern_image(MIB)
    os.chmod(image, 0o666)
    process, client = t.activated("--sandbox=require", image, prefix=as_user(NOBODY))
    # setpriv has made way for nbdinetd by then.
    serve(process, client, bounding_set=False)
    process.expect(EX_OK)


@test("each process that a listener forks shuts itself in, and the listener doesn't")
def _(t):
    need_root("to have capabilities to give up")
    image = t.pattern_image(MIB)
    door = Door(t)
    process = activate(t, "--sandbox=require", image, inherited=[door])
    for _ in range(2):
        client = door.client()
        client.handshake()
        child, = children_of(process.pid)
        expect_shut_in(child, 1)
        client.go("")
        client.read(0, 512)
        expect_shut_in(child, 2)
        client.disconnect()
        wait_until(lambda: not children_of(process.pid), "the connection's end")
    eq((status_of(process.pid)["NoNewPrivs"], filters_of(process.pid)), ("0", "0"), "the listener")


@test("files that are handed over are served from inside the sandbox, and so are block devices")
def _(t):
    need_root("to have capabilities to give up")
    ours, theirs = t.connection()
    process = activate(t, "--sandbox=require", inherited=[
        ("connection", theirs), ("disk", opened(t, t.pattern_image(MIB)))])
    theirs.close()
    serve(process, Client(ours), name="disk")
    process.expect(EX_OK)
    need_privilege("root", "loop")
    with LoopDevice(t.pattern_image(MIB)) as device:
        process, client = t.activated("--sandbox=require", device.path)
        serve(process, client)
        process.expect(EX_OK)


@test("a directory's exports are found, listed and opened from inside the sandbox")
def _(t):
    need_root("to have capabilities to give up")
    os.mkdir(t.path("exports"))
    t.pattern_image(MIB, "exports/disk")
    t.pattern_image(MIB, "exports/other")
    process, client = t.activated("--sandbox=require", f"--directory={t.path('exports')}")
    client.handshake()
    expect_shut_in(process.pid, 1)
    eq([name for name, _ in client.list_exports()], ["disk", "other"])
    t.pattern_image(MIB, "exports/new")
    client.info("new")
    client.structured_replies()
    client.meta_contexts(name="disk")
    client.go("disk")
    client.read(0, 512)
    expect_shut_in(process.pid, 2)
    use(client)
    client.disconnect()
    process.expect(EX_OK)


@test("TLS is negotiated and spoken from inside the sandbox, over sockets of every kind")
def _(t):
    need_root("to have capabilities to give up")
    files = authority().server_files(t)
    for family in ("tcp", "unix"):
        process, client = t.activated("--sandbox=require", "--tls=require",
                                      f"--tls-certificates={files}", t.pattern_image(MIB),
                                      family=family)
        client = TlsClient.of(client)
        client.start_tls()
        expect_shut_in(process.pid, 1)
        client.structured_replies()
        client.meta_contexts()
        client.go()
        client.read(0, 512)
        expect_shut_in(process.pid, 2)
        use(client)
        client.send(client.request_bytes(NBD_CMD_DISC))
        client.expect_end()
        process.expect(EX_OK)


@test("a client that sends hundreds of certificates is served from inside the sandbox")
def _(t):
    ca, chain = authority(), t.path("chain.pem")
    # From some number on, sorting them makes the C library ask how much memory there is. Each is
    # the authority's own, and as short as they come, so that the limit isn't reached.
    Path(chain).write_text(Path(ca.path("alice-cert.pem")).read_text() +
                           Path(ca.path("ca-cert.pem")).read_text() * 200)
    context = client_context()
    context.load_cert_chain(chain, ca.path("alice-key.pem"))
    process, client = t.activated("--sandbox=require", "--tls=require", "--tls-verify-peer",
                                  f"--tls-certificates={ca.server_files(t)}",
                                  t.pattern_image(MIB))
    client = TlsClient.of(client)
    client.start(tls=context)
    eq(client.read(0, 4096), pattern(0, 4096))
    client.send(client.request_bytes(NBD_CMD_DISC))
    client.expect_end()
    process.expect(EX_OK)
    contains("CN=alice", process.stderr())


@test("an export is locked, waited for and taken over from inside the sandbox")
def _(t):
    image = t.pattern_image(MIB)
    first_process, first = t.activated("--sandbox=require", "--exclusive=takeover", image)
    first.start()
    for readonly in ([], ["-r"]):
        process, client = t.activated("--sandbox=require", "--exclusive=takeover", *readonly, image)
        client.start()
        first_process.expect(EX_OK)
        eq(client.read(0, 4096), pattern(0, 4096))
        first_process, first = process, client
    client.disconnect()
    process.expect(EX_OK)


@test("messages reach syslog from inside the sandbox, also when its daemon has gone")
def _(t):
    image = t.pattern_image(MIB)
    log = Syslog(t)
    process, client = t.activated("--sandbox=require", "--log=syslog", image, prefix=log.prefix)
    client.start()
    log.wait("serving export")
    log.close()
    client.disconnect()
    process.expect(EX_OK)


@test("pipes that are given up in the middle of a reply are closed from inside the sandbox")
def _(t):
    require(library_path() is not None, "needs tests/support/faulty_calls.so")
    image, faults = t.pattern_image(MIB), Faults(t)
    given_up, length = 0, 700000
    # A simple reply can't tell of an error once its header is sent. Which call comes after that is
    # found by trying.
    for nth in range(1, 40):
        with open(image, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        faults.arm("pread", errno.EIO, nth)
        process, client = t.piped("-s", "--sandbox=require", image, env=faults.environment())
        client.start(structured=False)
        client.send(client.request_bytes(NBD_CMD_READ, 0, length) +
                    client.request_bytes(NBD_CMD_DISC))
        given_up += 16 < len(client.read_to_end()) < 16 + length
        eq((process.wait() >= 0, process.stderr().splitlines()[-1][:9]), (True, "nbdinetd:"))
    if given_up == 0:
        raise AssertionError("no read has failed behind its header")


# ------------------------------------------------------------------ where there is less

def lacks(t, prefix, words, filters="0"):
    """Incomplete: served all the same, with one line more; or, where it is required, not at all."""
    image = t.pattern_image(MIB)
    process, client = t.inetd("--sandbox=on", image, stderr="file", prefix=prefix)
    client.start()
    eq(client.read(0, 4096), pattern(0, 4096))
    server, = children_of(process.pid)
    eq(filters_of(server), filters, "filters")
    client.disconnect()
    process.expect(EX_OK)
    lines = process.stderr().splitlines()
    eq(len(lines), 3, lines)
    contains(INCOMPLETE + words, lines[0])

    process, client = t.inetd("--sandbox=require", image, stderr="file", prefix=prefix)
    eq(client.read_to_end(), b"", "bytes for a client that can't be served safely")
    process.expect(EX_OSERR)
    lines = process.stderr().splitlines()
    eq(len(lines), 1, lines)
    contains("nbdinetd: not serving: --sandbox=require, and " + words, lines[0])

    process = t.run([*prefix, NBDINETD, "--check", "--sandbox=on", image])
    contains("\nin an incomplete sandbox: " + words, process.stdout())
    process = t.run([*prefix, NBDINETD, "--check", "--sandbox=require", image], EX_OSERR)
    eq(process.stdout(), "")
    contains("not serving: --sandbox=require, and " + words, process.stderr())


@test("without Landlock in the kernel the log says so once, and the rest is there")
def _(t):
    for error in ("ENOSYS", "EOPNOTSUPP"):
        lacks(t, injecting("landlock_create_ruleset", error),
              "files can't be put out of reach (Landlock): ", filters="2")


@test("without seccomp in the kernel the log says so once, and the rest is there")
def _(t):
    for error in ("ENOSYS", "EPERM", "EINVAL"):
        lacks(t, injecting("seccomp", error), "system calls can't be filtered (seccomp): ")


@test("in a container that lets nothing be given up the log says so once")
def _(t):
    need_root("to have capabilities to give up")
    lacks(t, injecting("capset", "EPERM"),
          "capabilities can't be given up: Operation not permitted", filters="2")


@test("a sandbox that can't be tightened ends a connection that requires it, and is logged by others")
def _(t):
    require(library_path() is not None, "needs tests/support/faulty_calls.so")
    image, faults = t.pattern_image(MIB), Faults(t)
    told = "system calls can't be filtered for the transmission (seccomp): Cannot allocate memory"
    # Which of the calls that the C library has no function for it is, is found by trying.
    for nth in range(1, 20):
        faults.arm("syscall", errno.ENOMEM, nth)
        process, client = t.activated("--sandbox=on", image, env=faults.environment())
        try:
            client.start()
        except Disconnected:
            process.expect(EX_NOINPUT)  # it was fstat(), of the export
            continue
        eq(client.read(0, 4096), pattern(0, 4096))
        client.disconnect()
        process.expect(EX_OK)
        if told in process.stderr():
            break
    eq(process.stderr().splitlines()[0], "nbdinetd: " + INCOMPLETE + told)
    faults.arm("syscall", errno.ENOMEM, nth)
    process, client = t.activated("--sandbox=require", image, env=faults.environment())
    client.start()
    client.expect_end()
    process.expect(EX_OSERR)
    contains("not serving: --sandbox=require, and " + told, process.stderr())


@test("an older kernel's Landlock is used as far as it goes")
def _(t):
    strace = [need("strace"), "-f", "-qq", "-e", "signal=none", "-e",
              "trace=landlock_create_ruleset,landlock_restrict_self"]
    # This kernel refuses what a newer one than itself would know.
    newest = own_landlock()
    require(newest > 0, "no Landlock in this kernel")
    for version in range(1, newest + 1):
        log = t.fresh(".strace")
        # The first call asks for the version.
        prefix = [*strace, "-o", log, "-e",
                  f"inject=landlock_create_ruleset:retval={version}:when=1"]
        process, client = t.inetd("--sandbox=require", t.pattern_image(MIB), stderr="file",
                                  prefix=prefix)
        client.start()
        client.disconnect()
        process.expect(EX_OK)
        matches(r"landlock_restrict_self\(\d+, 0\) += 0", Path(log).read_text())


# ------------------------------------------------------------------ --check, --sandbox

@test("--sandbox=off gives up nothing")
def _(t):
    process, client = t.activated("--sandbox=off", t.pattern_image(MIB))
    client.start()
    client.read(0, 512)
    ours, status = status_of(os.getpid()), status_of(process.pid)
    for name in ("NoNewPrivs", "Seccomp_filters", *CAPABILITIES):
        eq(status[name], ours[name], name)
    client.disconnect()
    process.expect(EX_OK)


@test("--check describes the sandbox, also on a terminal, and what can be opened in it")
def _(t):
    image = t.pattern_image(MIB)
    check = [NBDINETD, "--check"]
    contains("\nin a sandbox: without privileges, with no file but what is open, and with no system "
             "call that this doesn't need\n",
             t.run([*check, "--sandbox=require", image]).stdout())
    contains("\nin no sandbox\n", t.run([*check, "--sandbox=off", image]).stdout())
    ours, theirs = pty.openpty()
    t.run([*check, "--sandbox=require", image], fds={0: theirs, 1: theirs, 2: theirs})
    contains(b"in a sandbox: ", os.read(ours, 4096))
    os.close(ours)
    os.close(theirs)
    t.run([*check, "--sandbox=perhaps", image], EX_USAGE)

    need_root("to have capabilities to give up")
    os.mkdir(t.path("exports"))
    for name in ("mine", "theirs"):
        os.chmod(t.pattern_image(MIB, f"exports/{name}"), 0o600)
    os.chown(t.path("exports/theirs"), NOBODY, NOBODY)
    text = t.run([*check, "--sandbox=require", f"--directory={t.path('exports')}"]).stdout()
    contains("would serve 1 file of ", text)
    matches(r'^left out: .*theirs": Permission denied \(in the sandbox root may open only what its '
            r'user and groups may\)$', text)
    text = t.run([*check, "--sandbox=off", f"--directory={t.path('exports')}"]).stdout()
    contains("would serve 2 files of ", text)


# ------------------------------------------------------------------ from inside

def intrude(t, step, attempt, *arguments, free=False, env=None, files=(), family="socketpair",
            speak=lambda client: client.go("disk"), prefix=()):
    """What becomes of an intruder's attempt: None when the process was ended for it, 0 when it
    succeeded, or its errno. `speak` is the client's part, from the greeting to transmission."""
    require(os.access(INTRUDER, os.X_OK), "needs tests/nbdinetd-intruder")
    ours, theirs = t.connection(family)
    environment = {"NBDINETD_INTRUDER": f"{step} {attempt}", **(env or {})}
    if free:
        environment["NBDINETD_INTRUDER_FREE"] = "1"
    process = t.spawn([*prefix, INTRUDER, "--sandbox=require", *arguments],
                      fds={3: theirs, **{4 + i: file for i, file in enumerate(files)}},
                      env=environment, listen_fds=1 + len(files), listen_pid="own")
    theirs.close()
    client = Client(ours)
    try:
        client.handshake()
        speak(client)
        client.read(0, 512)
        client.disconnect()
    except (Disconnected, BrokenPipeError, ConnectionResetError, NotNbd):
        # The process has ended, or somebody has spoken to the client before it.
        client.close()
    status = process.wait()
    found = re.search(r"^intruder: (done|error (\d+))$", process.stderr(), re.MULTILINE)
    if status == -signal.SIGSYS:
        eq(found, None, f"{attempt}: what is ended succeeds no more")
        return None
    if found is None or status != EX_OK:
        # A program that he has started in place of it.
        raise AssertionError(f"{attempt}: status {status}: {process.stderr()}")
    return int(found[2]) if found[2] else 0


# As good as done without the sandbox: the kernel has looked at the arguments, and these are no
# words of a sandbox's. What it has no use for at all is not tried.
NOT_THERE = (errno.ENOSYS, errno.EPERM, errno.EACCES)


def victim(t):
    """A process to be killed, the file to be spoilt, a socket for what is stolen, and, so that the
    process has a socket besides the client's, a service manager."""
    manager, thief = NotifySocket(t), NotifySocket(t)
    process = subprocess.Popen(["/bin/sleep", "600"], stdout=subprocess.DEVNULL)
    t.defer(process.wait)
    t.defer(process.kill)
    return {"INTRUDER_VICTIM": str(process.pid), "INTRUDER_FILE": t.path("spoilt"),
            "INTRUDER_SOCKET": thief.path, "NOTIFY_SOCKET": manager.path}


def _forbidden(step, when):
    @test(f"{when}, whoever has taken over the process can do none of what is forbidden",
          guard=600.0)
    def _(t):
        image = t.pattern_image(MIB)
        env = victim(t)
        eq(intrude(t, step, "allowed", image), 0, "what is allowed")
        results = {a: intrude(t, step, a, image, env=env) for a in FORBIDDEN}
        eq(results, {a: REFUSED.get(a, ENDED) for a in FORBIDDEN})
        eq(os.path.exists(t.path("spoilt")), False)


_forbidden("enter", "before the first byte")
_forbidden("tighten", "during transmission")


@test("without the sandbox the same attempts succeed, so that these tests can fail", guard=600.0)
def _(t):
    image = t.pattern_image(MIB)
    unclear = []
    for attempt in FORBIDDEN:
        env = victim(t)
        if attempt in ("unlink", "rename", "chmod", "chown", "truncate"):
            t.image(b"spoil me", "spoilt")
        if attempt in ("execve", "execveat"):
            # The shell answers for it, on a connection that nobody serves any more.
            ours, theirs = t.connection()
            process = t.spawn([INTRUDER, "--sandbox=require", image], fds={3: theirs},
                              env={"NBDINETD_INTRUDER": f"enter {attempt}",
                                   "NBDINETD_INTRUDER_FREE": "1"}, listen_fds=1, listen_pid="own")
            theirs.close()
            process.expect(EX_OK)
            eq(process.stderr(), "intruder: done\n", attempt)
            continue
        result = intrude(t, "enter", attempt, image, free=True, env=env)
        if result is None:
            raise AssertionError(f"{attempt} ends the process without any sandbox")
        if result in NOT_THERE and attempt != "unknown":
            unclear.append(f"{attempt}: {errno.errorcode[result]}")
        if os.path.lexists(t.path("spoilt")):
            path = Path(t.path("spoilt"))
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    note(f"not to be had by anybody on this machine: {', '.join(unclear) or 'nothing'}")
    if len(unclear) > 12:
        raise AssertionError("too little can be tried on this machine")


@test("beneath the directory, and only there, an intruder can open files until transmission starts")
def _(t):
    os.mkdir(t.path("exports"))
    t.pattern_image(MIB, "exports/disk")
    t.image(b"spoil me", "exports/other")
    t.image(b"secret", "outside")
    os.symlink("/etc/passwd", t.path("exports/link"))
    option = f"--directory={t.path('exports')}"
    eacces = errno.EACCES
    emptied = eacces if own_landlock() >= 3 else 0
    attempts = {"beneath: look": 0, "beneath: absolute": eacces, "beneath: up": eacces,
                "beneath: link": eacces, "beneath: create": eacces, "beneath: truncate": emptied,
                "beneath: write": 0, "beneath: unlink": ENDED, "openat2": ENDED}
    for attempt, outcome in attempts.items():
        eq(intrude(t, "enter", attempt, option), outcome, attempt)
    eq(intrude(t, "enter", "beneath: write", "-r", option), eacces, "writing to a read-only export")
    for attempt in attempts:
        eq(intrude(t, "tighten", attempt, option), ENDED, attempt)
    eq(intrude(t, "tighten", "beneath: list", option), ENDED)
    # So that this can fail, too:
    for attempt in attempts:
        t.image(b"spoil me", "exports/other")
        eq(intrude(t, "enter", attempt, option, free=True), 0, attempt)


@test("an intruder can empty files beneath the directory, but only where Landlock can't forbid it: "
      "before Linux 6.2")
def _(t):
    os.mkdir(t.path("exports"))
    t.pattern_image(MIB, "exports/disk")
    option = f"--directory={t.path('exports')}"
    outcomes = {2: 0, 3: errno.EACCES}
    for version in range(2, min(own_landlock(), 3) + 1):
        prefix = as_kernel(f"landlock={version}")
        for attempt, options in (("beneath: truncate", [option]), ("beneath: empty", [option]),
                                 ("beneath: empty", ["-r", option])):
            other = t.image(b"spoil me", "exports/other")
            outcome = outcomes[version]
            eq(intrude(t, "enter", attempt, *options, prefix=prefix), outcome, attempt)
            eq(Path(other).read_bytes(), b"spoil me" if outcome else b"", attempt)
        # Who may not write a file can't empty it.
        eq(intrude(t, "enter", "beneath: truncate", "-r", option, prefix=prefix), errno.EACCES)


@test("the system calls that a connection may use depend on writing, TLS, locks and block "
      "devices")
def _(t):
    image, env = t.pattern_image(MIB), victim(t)
    ebadf, ended = errno.EBADF, ENDED
    certificates = f"--tls-certificates={authority().server_files(t)}"
    cases = (
        ("pwrite", [], ebadf, ebadf),
        ("pwrite", ["-r"], ended, ended),
        ("setsockopt TLS", ["--tls=on", certificates], errno.EOPNOTSUPP, ended),
        ("setsockopt TLS elsewhere", ["--tls=on", certificates], ended, ended),
        # Not a socket of TCP's, which the kernel could encrypt for.
        ("sendmsg client", ["--tls=on", certificates], ended, ended),
        ("recvmsg", ["--tls=on", certificates], ended, ended),
        ("fcntl F_OFD_SETLK", [], ebadf, ended),
        ("fcntl F_OFD_SETLK", ["-r"], ended, ended),
        ("fcntl F_OFD_SETLK", ["-r", "--exclusive"], ebadf, ended),
        ("pidfd_open", ["--exclusive"], ended, ended),
        ("pidfd_open", ["--exclusive=takeover"], 0, ended),
        ("pidfd_send_signal", ["--exclusive=takeover"], ended, ended))
    for attempt, options, before, after in cases:
        for step, outcome in (("enter", before), ("tighten", after)):
            eq(intrude(t, step, attempt, *options, image, env=env), outcome, f"{step} {attempt} {options}")
    need_privilege("root", "loop")
    with LoopDevice(image) as device:
        eq(intrude(t, "tighten", "ioctl BLKDISCARD", device.path), ebadf)
        eq(intrude(t, "tighten", "ioctl BLKDISCARD", "-r", device.path), ended)


@test("with kernel TLS sendmsg is allowed on the client's socket only")
def _(t):
    image, env = t.pattern_image(MIB), victim(t)
    options = ["--tls=on", f"--tls-certificates={authority().server_files(t)}", image]
    for step in ("enter", "tighten"):
        for attempt in ("sendmsg", "sendmsg somebody"):
            eq(intrude(t, step, attempt, *options, family="tcp", env=env), ENDED, attempt)
        # Where it is allowed: TCP sends the byte, and no descriptor.
        eq(intrude(t, step, "sendmsg client", *options, family="tcp", env=env), 0)


@test("a file that is handed over for writing, and served read-only, can't be written to in any way")
def _(t):
    """By a user who can't open it anew, so that what is served is what was handed over."""
    image = t.pattern_image(MIB)
    os.chmod(image, 0o600)
    need_root("to run the program as a user without rights")
    for step in ("enter", "tighten"):
        for attempt in ("write export", "sendfile export"):
            for free in (True, False):
                with open(image, "r+b") as file:
                    outcome = intrude(t, step, attempt, "-r", f"--user={NOBODY}",
                                      f"--group={NOBODY}", files=[file], free=free,
                                      speak=lambda client: client.go(client.list_exports()[0][0]))
                eq(outcome, 0 if free else ENDED, f"{step} {attempt} free={free}")


@test("with --cow, no call that writes reaches the export, even if it was handed over for writing")
def _(t):
    image = t.pattern_image(MIB)
    os.chmod(image, 0o600)
    need_root("to run the program as a user without rights")
    options = ["--cow", "--cow-dir=memory", f"--user={NOBODY}", f"--group={NOBODY}"]
    outcomes = {"pwrite export": ENDED, "pwritev2 export": ENDED, "punch export": ENDED,
                "ftruncate export": ENDED, "write export": ENDED, "sendfile export": ENDED}
    for step in ("enter", "tighten"):
        for attempt, outcome in outcomes.items():
            for free in (True, False):
                with open(image, "r+b") as file:
                    got = intrude(t, step, attempt, *options, files=[file], free=free,
                                  speak=lambda client: client.go(client.list_exports()[0][0]))
                eq(got, 0 if free else outcome, f"{step} {attempt} free={free}")
    # The copy is there to be written to; its size is set before transmission.
    eq(intrude(t, "enter", "pwrite copy", "--cow", image), 0)
    eq(intrude(t, "tighten", "pwrite copy", "--cow", image), 0)
    eq(intrude(t, "enter", "ftruncate copy", "--cow", image), 0)
    eq(intrude(t, "tighten", "ftruncate copy", "--cow", image), ENDED)


@test("with --cow=keep, an intruder reaches the copies in the directory before transmission, and then only its own")
def _(t):
    image = t.pattern_image(MIB)
    spoilt = Path(t.path("spoilt"))
    denied = (errno.EACCES, errno.EXDEV, errno.EPERM)
    for attempt, before, after in (
            # A call that must write to the file itself names the descriptor of this client's copy.
            ("pwrite neighbour", (ENDED,), ENDED), ("open neighbour", (0,), ENDED),
            ("unlink neighbour", (0,), ENDED), ("open by copies", denied, ENDED), ("make by copies", denied, ENDED),
            ("link into copies", denied, ENDED), ("unlink by copies", denied, ENDED),
            ("dup3 elsewhere", (ENDED,), ENDED), ("pwrite export", (ENDED,), ENDED)):
        for step in ("enter", "tighten"):
            folder = Path(t.fresh(".copies"))
            folder.mkdir()
            (folder / "neighbour").write_bytes(b"neighbour")
            spoilt.write_bytes(b"spoilt")
            outcome = intrude(t, step, attempt, "--cow=keep", "--cow-key=peer-address", f"--cow-dir={folder}",
                              image, family="tcp", env={"INTRUDER_FILE": str(spoilt)})
            if step == "enter":
                contains(outcome, before, f"{step} {attempt}")
            else:
                eq(outcome, after, f"{step} {attempt}")
            eq(spoilt.read_bytes(), b"spoilt", attempt)
            eq((folder / "stolen").exists(), False, attempt)


@test("nobody is in the program that is installed")
def _(t):
    text = Path(NBDINETD).read_bytes()
    assert b"serving export" in text
    eq(b"INTRUDER" in text, False, "an intruder in nbdinetd")
    eq(b"INTRUDER" in Path(INTRUDER).read_bytes(), True, "an intruder in tests/nbdinetd-intruder")


if __name__ == "__main__":
    main()
