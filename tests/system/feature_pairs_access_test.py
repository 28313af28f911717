#!/usr/bin/python3
"""The pairs of features of which one is rules (--rules): see feature_pairs_test.py, which checks that no
pair is missing."""

import os
import signal
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from feature_pairs import *  # noqa: E402
from rules import rules  # noqa: E402

ALICE = "tls:CN=alice.example.com,*"


def identifying(t, *, required=False):
    """The options of a server that knows clients by their certificates."""
    return [f"--tls={'require' if required else 'on'}", f"--tls-certificates={authority().server_files(t)}",
            "--tls-verify-peer"]


def as_alice(client):
    """Goes on over TLS behind the handshake, with a certificate."""
    client = over_tls(client)
    client.ask_for_tls()
    client.begin_tls(client_context(certificate=(authority(), "alice")))
    return client.shake_hands()


@pair(TLS, RULES, "TLS gives the rights of another client, none of those before are kept, and the file is the one of "
                  "the greeting")
def _(t):
    path = exports(t, "plain", "secure")
    option = rules(t, f"{ALICE} secure ro\nunix: plain rw\n")
    process, client = t.activated(option, *identifying(t), f"--directory={path}")
    client.handshake()
    client.structured_replies()
    client.meta_contexts(name="plain")
    eq(names(client), ["plain"])
    hides(client, "secure")
    rules(t, "* -\n")
    client = as_alice(client)
    eq(names(client), ["secure"])
    hides(client, "plain")
    client.choose("secure", contexts=["base:allocation"])
    expect_read_only(client, os.path.join(path, "secure"))
    leave(client)
    process.expect(EX_OK)
    matches(r'serving export "secure" .*read-only, .*by "[^"]*:1"', process.stderr())
    # Who turns out to get nothing has a TLS connection that ends as such, and no reply.
    for option in (rules(t, f"{ALICE} -\nunix: plain rw\n"), rules(t, f"issuer:CN=Test?CA -\n{ALICE} * rw\n* * rw\n")):
        for mode in ("on", "require"):
            process, client = t.activated(option, *identifying(t, required=mode == "require"), f"--directory={path}")
            client.handshake()
            if mode == "on":
                eq(names(client), [])
                hides(client, "plain")
            client = as_alice(client)
            client.expect_end()
            eq(client.close_notify, True, "close_notify of the server")
            process.expect(EX_NOPERM)


@pair(EXCLUSIVE, RULES, "a line's lock is in place of the option's, stronger or weaker, also one that only TLS gives")
def _(t):
    image = t.pattern_image(MIB)
    serve = [rules(t, f"{ALICE} * rw exclusive=takeover\nunix: * rw exclusive=refuse\n127.0.0.1 * rw\n"),
             *identifying(t), image]
    for options in ([], ["--exclusive=takeover"]):
        process, first = t.activated(*options, *serve)
        first.start()
        eq(first.flags & NBD_FLAG_CAN_MULTI_CONN, 0, "NBD_FLAG_CAN_MULTI_CONN")
        for others in ([], ["--exclusive=takeover"]):
            _, second = t.activated(*others, *serve)
            second.handshake()
            expect_in_use(second)
        # A line that says nothing of it leaves it to the option.
        _, third = t.activated("--exclusive", *serve, family="tcp")
        third.handshake()
        expect_in_use(third)
        # Before TLS this one is refused.
        taker_process, taker = t.activated(*options, "--sandbox=require", *serve)
        taker.handshake()
        expect_in_use(taker)
        taker = as_alice(taker)
        taker.choose()
        first.expect_end()
        process.expect(EX_OK)
        contains("another takes over the export", process.stderr())
        good(taker)
        expect_in_use(second)
        heir_process, heir = t.activated(*serve)
        heir.handshake()
        heir = as_alice(heir)
        heir.choose()
        taker.expect_end()
        eq(taker.close_notify, True, "close_notify of the server")
        taker_process.expect(EX_OK)
        leave(heir)
        heir_process.expect(EX_OK)


@pair(DIRECTORY, RULES, "the default name has the rights of its file's name and no others, and what a pattern names "
                        "may come later")
def _(t):
    path = exports(t, "disk", "other")
    for text, listed, found in (('unix: "" rw\nunix: disk ro\n', ["disk"], True), ('unix: "" rw\n', [], False),
                                ('unix: ""  * ro\n', ["disk", "other"], True)):
        process, client = t.activated(rules(t, text), "-e", "disk", f"--directory={path}")
        client.handshake()
        eq(names(client), listed, text)
        if not found:
            hides(client, "", "disk")
            continue
        client.choose("")
        expect_read_only(client, os.path.join(path, "disk"))
        leave(client)
        process.expect(EX_OK)
    process, client = t.activated(rules(t, "unix: new new-* rw\n"), f"--directory={path}")
    client.handshake()
    eq(names(client), [])
    hides(client, "new", "new-1", "disk")
    for name in ("new", "new-1", "news"):
        Path(path, name).write_bytes(pattern(0, MIB))
    os.symlink("disk", os.path.join(path, "new-2"))
    eq(names(client), ["new", "new-1", "new-2"])
    hides(client, "news", "disk")
    # Another name of a file has rights of its own.
    client.choose("new-2")
    client.write(0, b"w" * 512)
    leave(client)
    process.expect(EX_OK)
    eq(Path(path, "disk").read_bytes()[:512], b"w" * 512)


@pair(READ_ONLY, RULES, "-r holds whatever a line gives; into a copy of its own a client may write")
def _(t):
    image = t.pattern_image(MIB)
    path = exports(t, "disk")
    for mode in ("rw", "ro", "rw exclusive=refuse", "cow"):
        for name, source in (("", image), ("disk", f"--directory={path}")):
            file = image if name == "" else os.path.join(path, name)
            process, client = t.activated("-r", rules(t, f"unix: * {mode}\n"), "--sandbox=require", source)
            client.start(name)
            if mode == "cow":
                expect_copy(client, file)
            else:
                expect_read_only(client, file)
            descriptor, = [number for number, target in process.descriptors().items() if target == file]
            flags = matches(r"^flags:\s+(\d+)$", Path(f"/proc/{process.pid}/fdinfo/{descriptor}").read_text())[1]
            eq(int(flags, 8) & os.O_ACCMODE, os.O_RDONLY, "how the file is open")
            leave(client)
            process.expect(EX_OK)


@pair(PIPES, RULES, "a client on pipes is who TLS says, and without TLS it is nobody, whatever the environment says")
def _(t):
    image = t.pattern_image(MIB)
    option = rules(t, f"{ALICE} * rw\nunix: * rw\n192.0.2.7 * rw\nany * rw\n")
    for environment in ({}, {"REMOTE_ADDR": "192.0.2.7", "REMOTE_HOST": "192.0.2.7"}):
        process, client = piped(t, option, image, env=environment)
        expect_gone(process, client, EX_NOPERM)
        process, client = piped(t, option, *identifying(t), image, env=environment)
        client.handshake()
        eq(names(client), [])
        hides(client, "", "x")
        client = as_alice(client)
        client.choose()
        good(client)
        client.write(4096, pattern(4096, 512))
        leave(client)
        process.expect(EX_OK)


@pair(STANDARD_ERROR, RULES, "what is wrong with the file, and why a client gets nothing, is no message to the client")
def _(t):
    image = t.pattern_image(MIB)
    ways = (on_the_client, lambda t, *arguments: piped(t, *arguments, stderr="client"))
    for way in ways:
        for text, status in (("* * rx\n", EX_CONFIG), ("* * rw", EX_CONFIG), ("* -\n", EX_NOPERM), ("", EX_NOPERM)):
            process, client = way(t, "-v", rules(t, text), image)
            expect_gone(process, client, status)
        process, client = way(t, "-v", f"--rules={t.path('absent')}", image)
        expect_gone(process, client, EX_CONFIG)
    path = exports(t, "golden", "secret")
    process, client = on_the_client(t, "-v", rules(t, "unix: golden cow\n"), "--cow-dir=memory", f"--directory={path}")
    client.handshake()
    hides(client, "secret", "missing")
    client.choose("golden")
    expect_copy(client, os.path.join(path, "golden"))
    only_nbd(client)
    for word in (b"rules", b"secret", b"line "):
        eq(word in bytes(client.received), False, f"{word} among the client's bytes")
    leave(client)
    process.expect(EX_OK)


@pair(RUN, RULES, "each client of the command's server has the file as it is then, and a broken one starts no command")
def _(t):
    path = exports(t, "a", "b")
    server = Running(t, rules(t, "unix: a rw\n"), f"--directory={path}")

    def seen():
        client = server.client()
        client.handshake()
        found = names(client)
        client.close()
        return found
    eq(seen(), ["a"])
    last = server.client().start("a")
    rules(t, "unix: b ro\n")
    eq(seen(), ["b"])
    for text in ("unix: b\n", "unix: -\n"):
        rules(t, text)
        server.client().expect_end()
    rules(t, "* * ro\n")
    eq(seen(), ["a", "b"])
    # What this one was given holds to its end.
    last.write(0, b"w" * 512)
    server.end()
    last.expect_end()
    eq(Path(path, "a").read_bytes()[:512], b"w" * 512)
    mark, place = t.path("mark"), t.fresh(".sock")
    process = t.run([NBDINETD, "-U", place, "--run", f"touch {mark}", rules(t, "* * rx\n"), f"--directory={path}"],
                    status=EX_CONFIG)
    contains("line 1", process.stderr())
    eq([os.path.exists(name) for name in (mark, place)], [False, False], "what the server has left")


@pair(SIGNALS, RULES, "a signal ends the client of each kind of line as any other; a listener that hands over leaves "
                      "its clients what they were given")
def _(t):
    for number in (signal.SIGTERM, signal.SIGINT):
        image = t.pattern_image(MIB)
        process, client = t.activated(rules(t, "unix: * cow\n"), image)
        client.start()
        drained(process, client, number)
        eq(Path(image).read_bytes() == pattern(0, MIB), True, "the file is as it was")
        process, client = t.activated(rules(t, "unix: * ro\n"), image)
        client.start()
        good(client)
        process.signal(number)
        wait_until(lambda c=client: c.call(NBD_CMD_READ, 0, 512).error == NBD_ESHUTDOWN, "requests to be refused")
        eq(client.call(*WRITING[0]).error, NBD_ESHUTDOWN)
        client.expect_end()
        process.expect(EX_OK)
        # While it only looks around.
        process, client = t.activated(rules(t, "unix: * ro\n"), image)
        client.handshake()
        client.list_exports()
        process.signal(number)
        client.expect_end()
        process.expect(EX_OK)
    # The signal of a takeover ends a client whose line may lock, and no other.
    for line, is_over in (("rw", False), ("rw exclusive=off", False), ("rw exclusive=refuse", True)):
        process, client = t.activated(rules(t, f"unix: * {line}\n"), image)
        client.start()
        process.signal(signal.SIGURG)
        if is_over:
            wait_until(lambda c=client: c.call(NBD_CMD_READ, 0, 512).error == NBD_ESHUTDOWN, "requests to be refused")
            client.expect_end()
        else:
            good(client)
            leave(client)
        process.expect(EX_OK)
    image = t.pattern_image(MIB)
    door = Door(t)
    process = activate(t, rules(t, "unix: * rw\n"), image, inherited=[door])
    client = door.client().start()
    looking = door.client()
    looking.handshake()
    rules(t, "* -\n")
    process.signal(signal.SIGHUP)
    process.expect(EX_OK)
    client.write(0, b"w" * 512)
    leave(client)
    looking.choose()
    looking.write(512, b"v" * 512)
    leave(looking)
    eq(Path(image).read_bytes()[:1024], b"w" * 512 + b"v" * 512)
    process = activate(t, image, f"--rules={t.path('rules')}", inherited=[door])
    door.client().expect_end()
    process.signal(signal.SIGTERM)
    process.expect(EX_OK)


@pair(SANDBOX, RULES, "the file is closed before, and all that a line may still give is prepared: locks, and copies")
def _(t):
    image = t.pattern_image(MIB)
    option = rules(t, f"{ALICE} * cow exclusive=takeover\nunix: * ro exclusive=off\n")
    for place in ("--cow-dir=memory", f"--cow-dir={t.path('')}"):
        serve = ["--sandbox=require", option, *identifying(t), place, image]
        process, plain = t.activated(*serve)
        plain.handshake()
        shut_in(process.pid, 1)
        eq([target for target in process.descriptors().values() if target.startswith(t.path("rules"))], [])
        plain.choose()
        expect_read_only(plain, image)
        shut_in(process.pid)
        first_process, first = t.activated(*serve)
        first = known(first)
        expect_copy(first, image)
        shut_in(first_process.pid)
        second_process, second = t.activated(*serve)
        second = known(second)
        first.expect_end()
        first_process.expect(EX_OK)
        contains("another takes over the export", first_process.stderr())
        expect_copy(second, image)
        good(plain)
        for its_process, client in ((process, plain), (second_process, second)):
            leave(client)
            its_process.expect(EX_OK)


@pair(HANDED_OVER, RULES, "a line is about a file's name; a lock that can't be had is refused to whom a line gives it, "
                          "and to nobody else")
def _(t):
    image, other = t.pattern_image(MIB), t.pattern_image(MIB)
    files = [("disk", opened(t, image)), ("other", opened(t, other))]
    process, client = handed_over(t, rules(t, "unix: disk ro\n"), files=files)
    client.handshake()
    eq(names(client), ["disk"])
    hides(client, "other", "", image)
    client.choose("disk")
    expect_read_only(client, image)
    leave(client)
    process.expect(EX_OK)
    for place in ("--cow-dir=memory", f"--cow-dir={t.path('')}"):
        process, client = handed_over(t, rules(t, "unix: disk cow\n"), place, files=files[:1])
        client.start("")
        expect_copy(client, image)
        leave(client)
        process.expect(EX_OK)
    need_root("to hand over what the process may not open")
    for path in (image, other):
        os.chmod(path, 0o600)
    text = "unix: disk rw exclusive=refuse\nunix: other rw\n"
    process, client = handed_over(t, rules(t, text), files=files, prefix=as_user(4001))
    client.handshake()
    eq(sorted(names(client)), ["disk", "other"])
    eq(client.haggle(NBD_OPT_GO, Client.info_bytes("disk"))[-1][0] & NBD_REP_FLAG_ERROR, NBD_REP_FLAG_ERROR)
    client.choose("other")
    client.write(0, b"w" * 512)
    leave(client)
    process.expect(EX_OK)
    matches(r"exclusive= can't lock .*handed over", process.stderr())
    eq(Path(image).read_bytes() == pattern(0, MIB), True, "the file is as it was")


@pair(COPIES, RULES, "with --cow a line can't give more than a copy, and less; without it the copies of lines have its "
                     "size and place, and only their clients need them")
def _(t):
    image = t.pattern_image(MIB)
    for mode, expect in (("rw", expect_copy), ("cow", expect_copy), ("ro", expect_read_only)):
        process, client = t.activated("--cow", rules(t, f"unix: * {mode}\n"), image)
        client.start()
        expect(client, image)
        leave(client)
        process.expect(EX_OK)
    # Each connection has a copy of its own, whatever is said of several.
    option = rules(t, "127.0.0.1 * cow\nunix: * rw\n")
    process, client = t.activated("--multi-conn=on", "--cow-size=64K", option, image, family="tcp")
    client.start()
    expect_copy(client, image)
    refuses(NBD_ENOSPC, client.write, 512 << 10, b"w" * (128 << 10))
    leave(client)
    process.expect(EX_OK)
    for family, status in (("tcp", EX_CANTCREAT), ("socketpair", EX_OK)):
        process, client = t.activated(f"--cow-dir={image}", option, image, family=family)
        if status != EX_OK:
            expect_gone(process, client, status)
            continue
        client.start()
        client.write(0, b"w" * 512)
        leave(client)
        process.expect(status)
    eq(Path(image).read_bytes()[:512], b"w" * 512)


@pair(KEPT, RULES, "a client comes back to its copy, which it may write, only read, or not see, as its line says then")
def _(t):
    image, options = t.pattern_image(MIB), keeping(t)

    def visit_as(mode):
        process, client = t.activated(rules(t, f"{ALICE} {mode}\n"), *options, "--sandbox=require", image)
        return process, known(client)
    for mode, expect in (("* rw", expect_copy), ("* cow", expect_kept)):
        process, client = visit_as(mode)
        expect(client, image)
        leave(client)
        process.expect(EX_OK)
    process, client = visit_as("* ro")
    eq(bool(client.flags & NBD_FLAG_READ_ONLY), True, "NBD_FLAG_READ_ONLY")
    for request in WRITING:
        eq(client.call(*request).error, NBD_EPERM, "the error")
    expect_kept(client, image)
    leave(client)
    process.expect(EX_OK)
    for mode in ("other rw", "-"):
        process, client = t.activated(rules(t, f"{ALICE} {mode}\nissuer:* * ro\n"), *options, image)
        client.handshake()
        client = as_alice(client)
        if mode == "-":
            client.expect_end()
        else:
            hides(client, "")
            client.close()
        process.expect(EX_NOPERM)
    # A line's lock is one on the copy.
    authority().issue("carol", "/CN=carol")
    serve = [rules(t, "issuer:* * rw exclusive=refuse\n"), *options, image]
    process, client = t.activated(*serve)
    client = known(client)
    expect_kept(client, image)
    _, second = t.activated(*serve)
    second = over_tls(second).start_tls(client_context(certificate=(authority(), "alice")))
    expect_in_use(second)
    other_process, other = t.activated(*serve)
    other = known(other, "carol")
    expect_copy(other, image)
    for its_process, its_client in ((process, client), (other_process, other)):
        leave(its_client)
        its_process.expect(EX_OK)


@pair(PARTITIONS, RULES, "a line's copy and lock are those of the partition, and of a disk and its partition the "
                         "weaker use and the stronger lock")
def _(t):
    folder = exports(t)
    disk = partitioned(t, os.path.join(folder, "disk"))
    before = Path(disk).read_bytes()
    process, client = t.activated(rules(t, "unix: * cow\n"), "--partition=1", disk)
    client.start()
    expect_partition(client, disk, writes=False)
    client.write(0, b"w" * 4096)
    eq(client.read(0, 4096), b"w" * 4096)
    leave(client)
    process.expect(EX_OK)
    for text in ("unix: disk cow\nunix: disk:* rw exclusive=refuse\n",
                 "unix: disk rw exclusive=refuse\nunix: disk:* cow\n"):
        serve = [rules(t, text), "--sandbox=require", "--partitions", f"--directory={folder}"]
        process, client = t.activated(*serve)
        client.start("disk:1")
        expect_partition(client, disk, writes=False)
        client.write(0, b"w" * 4096)
        eq(client.read(0, 4096), b"w" * 4096)
        _, other = t.activated(*serve)
        other.handshake()
        expect_in_use(other, "disk:1")
        leave(client)
        process.expect(EX_OK)
    eq(Path(disk).read_bytes() == before, True, "the disk")
    # Who may use only the one has neither the disk nor the other.
    process, client = t.activated(rules(t, "unix: disk:1 rw\n"), "--partitions", f"--directory={folder}")
    client.handshake()
    hides(client, "disk", "disk:2", "disk:3")
    client.choose("disk:1")
    expect_partition(client, disk)
    leave(client)
    process.expect(EX_OK)


@pair(NEGOTIATED, RULES, "the export's name and a line's lock decide before the first reply, and a client that TLS "
                         "could tell more of gets nothing")
def _(t):
    image = t.pattern_image(MIB)
    serve = [STYLE, rules(t, "unix: disk rw exclusive=wait\n"), "--sandbox=require", "-e", "disk", image]
    process, client = t.activated(*serve)
    good(negotiated(client))
    waiting_process, waiting = t.activated(*serve)
    cookie = negotiated(waiting).request(NBD_CMD_READ, 0, 512)
    # The line is in place of the option.
    late_process, late = t.activated("--exclusive=takeover", "--handshake-timeout=100ms", *serve)
    expect_gone(late_process, late, EX_UNAVAILABLE)
    good(client)
    leave(client)
    process.expect(EX_OK)
    eq(waiting.answer(cookie).check().data, pattern(0, 512))
    leave(waiting)
    waiting_process.expect(EX_OK)
    for text, words in (("unix: other rw\n", "the client may not use the export"),
                        (f"unix: disk rw\n{ALICE} -\n", "takes something from a client that TLS identifies"),
                        (f"{ALICE} disk rw\n", "no line of")):
        process, client = t.activated(STYLE, rules(t, text), "-e", "disk", image)
        expect_gone(process, client, EX_NOPERM)
        contains(words, process.stderr())


if __name__ == "__main__":
    main_with_tls()
