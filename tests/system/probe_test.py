#!/usr/bin/python3
"""nbdinetctl probe: servers of several programs, servers that are none, and what HAProxy makes of it."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
from harness import *
from harness import (GUARD, MIB, SRCDIR, Client, connect, contains, eq, find_tool, free_port, matches, need, test, uri,
                     wait_listening, wait_until)
from probing import *

SCHEMA = json.loads((Path(__file__).resolve().parents[1] / "support" / "nbdinetctl_schema.json").read_text())


@test("probe says what is served: its size, its flags, in JSON as the schema says, over TCP and a Unix socket")
def _(t):
    for address in (serve(t), serve(t, address=t.path("nbd.sock"))):
        matches(r"^URI +SIZE +TIME +FLAGS\n\S+ +4\.0M +\S+ +HAS_FLAGS, SEND_FLUSH, ", probe(t, uri(address)).stdout())
        for read in ([], ["--read"]):
            rows = json.loads(probe(t, uri(address), "--json=short", *read).stdout())
            eq(len(rows), 1)
            eq(set(rows[0]), set(SCHEMA["probe"]["names"]))
            eq((rows[0]["uri"], rows[0]["size"]), (uri(address), 4 * MIB))
            contains("CAN_MULTI_CONN", rows[0]["flags"])
            eq("READ_ONLY" in rows[0]["flags"], False)


@test("a name is resolved, and an address may be in brackets")
def _(t):
    port = serve(t)[1]
    for host in ("localhost", "[127.0.0.1]", "127.0.0.1"):
        probe(t, f"nbd://{host}:{port}/")
    contains("failed to resolve", refused(t, f"nbd://no-such-host.invalid:{port}/"))


@test("an export that isn't there, and a server that isn't, are a sentence and status 1")
def _(t):
    address = serve(t, "--exportname=golden")
    probe(t, uri(address, "golden"))
    contains('has no export "other" (NBD_REP_ERR_UNKNOWN)', refused(t, uri(address, "other")))
    contains("Connection refused", refused(t, f"nbd://127.0.0.1:{free_port()}/"))
    contains("No such file or directory", refused(t, uri(t.path("no.sock"))))


@test("wrong usage is status 64: no URI, a wrong one, a wrong time, TLS where there is none")
def _(t):
    for argv in ([], ["golden"], ["nbd://h:x/"], ["nbd://h/", "--timeout=soon"], ["nbds://h/?tls-verify-peer=maybe"],
                 ["nbd://h/?tls-hostname=h"]):
        eq(bool(probe(t, *argv, status=64).stderr()), True, str(argv))


@test("the probe of an exclusive export leaves its client alone, and that client may be taken over by a read")
def _(t):
    for kind in ("refuse", "wait", "takeover"):
        address = serve(t, f"--exclusive={kind}")
        client = Client(connect(address)).start()
        probe(t, uri(address))
        eq(client.read(0, 512), bytes(512))
        if kind == "refuse":
            contains("NBD_REP_ERR_POLICY", refused(t, uri(address), "--read"))
        if kind == "takeover":
            probe(t, uri(address), "--read")
            client.expect_end()
        client.close()


@test("servers of other programs are probed, too")
def _(t):
    image = t.sparse_image(4 * MIB)
    servers = {"nbdkit": lambda path: ["-f", "-r", "--unix", path, "file", image],
               "qemu-nbd": lambda path: ["-r", "-f", "raw", "-x", "", "-k", path, "-t", image]}
    found = [name for name in servers if find_tool(name)]
    if not found:
        need("nbdkit")
    for name in found:
        path = t.path(f"{name}.sock")
        process = t.spawn([need(name), *servers[name](path)])
        wait_listening(path, process)
        for read in ([], ["--read"]):
            rows = json.loads(probe(t, uri(path), "--json", *read).stdout())
            eq(rows[0]["size"], 4 * MIB, name)
            contains("READ_ONLY", rows[0]["flags"])


@test("a server that is none, or breaks off, or never answers, is told from one that serves")
def _(t):
    def sends(data, ends=True):
        def answer(connection):
            connection.sendall(data)
            if not ends:
                connection.recv(1)
                time.sleep(GUARD)
        return answer
    greeting = b"NBDMAGICIHAVEOPT\0\3"
    for answer, sentence in (
            (sends(b""), "the server closed the connection"), (sends(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n"), "is no NBD server"),
            (sends(greeting[:10]), "the server closed the connection"), (sends(b"\xff" * 4096), "is no NBD server")):
        contains(sentence, refused(t, uri(server_that(t, answer))))
    for data in (b"", greeting[:10], greeting):
        contains("in time", refused(t, uri(server_that(t, sends(data, ends=False))), "--timeout=300ms"))


@test("a server that talks without an end has the time of the probe, and no more")
def _(t):
    def talk(connection):
        connection.sendall(b"NBDMAGICIHAVEOPT\0\3")
        piece = b"\0\3\xe8\x89\x04\x55\x65\xa9\0\0\0\6\0\0\0\3\0\0\0\2\0\2" * 100
        while True:
            connection.sendall(piece)
    contains("too many replies", refused(t, uri(server_that(t, talk))))


@test("--agent answers in HAProxy's words, with status 0")
def _(t):
    address = serve(t)
    eq(probe(t, uri(address), "--agent").stdout(), "ready up\n")
    answer = probe(t, uri(("127.0.0.1", free_port())), "--agent").stdout()
    matches(r"\Aready down #failed to connect to [^\n]*Connection refused\n\Z", answer)
    run = t.dir / "run" / "nbdinetd"
    run.mkdir(parents=True)
    (run / "drained").touch()
    environment = {"XDG_RUNTIME_DIR": str(t.dir / "run")}
    eq(probe(t, uri(address), "--agent", "--user", env=environment).stdout(), "drain\n")


def states(path):
    """{server: its state in words} of HAProxy's statistics."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(GUARD)
        connection.connect(path)
        connection.sendall(b"show stat\n")
        text = b""
        while data := connection.recv(65536):
            text += data
    rows = [line.split(",") for line in text.decode().splitlines() if "," in line]
    columns = {name.lstrip("# "): index for index, name in enumerate(rows[0])}
    return {row[1]: row[columns["status"]] for row in rows[1:]}


def balance(t, servers, options="", settings=""):
    """HAProxy in front of these servers; the path of its statistics."""
    haproxy = need("haproxy")
    statistics, config = t.path("haproxy.sock"), t.path("haproxy.cfg")
    Path(config).write_text(f"""global
  stats socket {statistics}
  external-check
  insecure-fork-wanted
defaults
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout check 10s
listen golden
  mode tcp
  bind 127.0.0.1:{free_port()}
{settings}{servers}""")
    t.spawn([haproxy, "-db", "-f", config])
    # It binds the socket under another name, and renames it.
    wait_until(lambda: os.path.exists(statistics), "HAProxy")
    return statistics


def scripts(page, word):
    """The displays of the page with this word."""
    text = (SRCDIR / "man" / f"{page}.in").read_text()
    return [block for block in re.findall(r"^\.Bd -literal[^\n]*\n(.*?)^\.Ed$", text, re.MULTILINE | re.DOTALL) if word in block]


@test("the manual's external check lets HAProxy tell a host that serves from one that only accepts connections")
def _(t):
    good, silent = serve(t), server_that(t, lambda connection: connection.recv(1))
    script, = scripts("nbdinetctl.1", "HAPROXY_SERVER_ADDR")
    path = Path(t.path("check"))
    path.write_text(script.replace("@bindir@/nbdinetctl", str(NBDINETCTL)).replace("/golden", "/"))
    path.chmod(0o755)
    statistics = balance(t, "".join(f"  server {name} 127.0.0.1:{port} check inter 200ms fall 1 rise 1\n"
                                    for name, port in (("good", good[1]), ("silent", silent[1]))),
                         settings=f"  option external-check\n  external-check command {path}\n")
    wait_until(lambda: states(statistics)["silent"] == "DOWN", "the check to fail")
    eq(states(statistics)["good"], "UP")


@test("the agent lets HAProxy drain a host, and take it back")
def _(t):
    address = serve(t)
    marks = t.dir / "run" / "nbdinetd"
    marks.mkdir(parents=True)

    def answer(connection):
        subprocess.run([NBDINETCTL, "probe", "--agent", "--user", uri(address)], stdout=connection, check=True,
                       env={"XDG_RUNTIME_DIR": str(t.dir / "run")})
    agent = server_that(t, answer)
    statistics = balance(t, f"  server a 127.0.0.1:{address[1]} check inter 200ms fall 1 rise 1 agent-check "
                         f"agent-inter 200ms agent-port {agent[1]}\n")
    wait_until(lambda: states(statistics)["a"] == "UP", "the host to be up")
    (marks / "drained").touch()
    wait_until(lambda: states(statistics)["a"].startswith("DRAIN"), "the host to drain")
    (marks / "drained").unlink()
    wait_until(lambda: states(statistics)["a"] == "UP", "the host to be back")


if __name__ == "__main__":
    main_with_nbdinetctl()
