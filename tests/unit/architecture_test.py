#!/usr/bin/python3
"""Holds the includes of src/ to the table of rooms in ARCHITECTURE.md.

The table is the document that people read, so that it is also the one that is checked: nothing
of it is repeated here.
"""

import re
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
from harness import SRCDIR, contains, eq, main, test

COLUMNS = ["room", "owns", "may include"]
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


class Room:
    """A row of the table: a directory `src/base/`, the files of one name `src/options.*`, or a
    single file `src/main.cc`."""

    def __init__(self, name, allowed):
        self.name = name
        self.allowed = allowed

    def has(self, path):
        if self.name.endswith("/"):
            return path.startswith(self.name)
        if self.name.endswith(".*"):
            return path.rpartition(".")[0] == self.name[:-2]
        return path == self.name


def read_rooms(text):
    """The rooms of the one table that has the columns of a table of rooms."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")]
            for line in text.splitlines() if line.strip().startswith("|")]
    starts = [i for i, row in enumerate(rows) if row == COLUMNS]
    eq(len(starts), 1, "tables of rooms")
    rooms = []
    for row in rows[starts[0] + 2:]:
        names = re.findall(r"`([^`]+)`", row[0])
        if len(row) != len(COLUMNS) or len(names) != 1 or not names[0].startswith("src/"):
            break  # the next table
        rooms.append(Room(names[0], re.findall(r"`([^`]+)`", row[2])))
    return rooms


def read_sources(top):
    """{path from the top: its text} of all sources below src/."""
    return {str(path.relative_to(top)): path.read_text()
            for path in sorted((top / "src").rglob("*")) if path.suffix in (".h", ".cc", ".c")}


def faults_of_rooms(rooms, paths):
    """What is wrong with the table itself."""
    faults = []
    names = [room.name for room in rooms]
    for name in sorted(set(names)):
        if names.count(name) > 1:
            faults.append(f"{name} is in the table twice")
    for room in rooms:
        if not any(room.has(path) for path in paths):
            faults.append(f"{room.name} has no files")
        for name in room.allowed:
            if name not in names:
                faults.append(f"{room.name} may include {name}, which is no room")
    for path in paths:
        homes = [room.name for room in rooms if room.has(path)]
        if len(homes) != 1:
            faults.append(f"{path} belongs to {' and '.join(homes) or 'no room'}")
    return faults


def circles(rooms):
    """Rooms from which a way leads back to themselves."""
    allowed = {room.name: room.allowed for room in rooms}
    faults = []
    for start in allowed:
        seen, todo = set(), list(allowed[start])
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo.extend(allowed.get(name, []))
        if start in seen:
            faults.append(f"a way leads from {start} back to itself")
    return faults


def faults_of_includes(rooms, sources):
    """The includes that the table does not allow, and those that would slip past it."""
    faults = []
    for path, text in sources.items():
        home = next((room for room in rooms if room.has(path)), Room(path, []))
        for bracket, name in INCLUDE.findall(text):
            beside = str(Path(path).parent / name)
            target = f"src/{name}"
            if target in sources:
                if bracket == "<":
                    faults.append(f"{path} includes <{name}> as if it were the system's")
                allowed = home.has(target) or any(
                    room.has(target) for room in rooms if room.name in home.allowed)
                if not allowed:
                    faults.append(f"{path} includes {name}, but {home.name} may not")
            elif bracket == '"' and beside in sources:
                faults.append(f"{path} includes {name}, whose path does not start at src/")
            elif bracket == '"' and not name.startswith("absl/"):
                faults.append(f"{path} includes {name}, which is not in src/")
    return faults


def faults_of_systemd(sources):
    return [f"{path} includes <{name}>" for path, text in sources.items()
            for _, name in INCLUDE.findall(text)
            if name.startswith("systemd/") and not path.startswith("src/ctl/")]


def faults_of_containers(sources):
    """Abseil's hash tables: with AddressSanitizer their headers have another form than without, in which
    the distributions' library is compiled (20240722, Debian 13)."""
    return [f"{path} includes {name}, not a container of the standard library" for path, text in sources.items()
            for _, name in INCLUDE.findall(text) if re.match(r"absl/(container/(flat|node)_hash|hash/)", name)]


# What the sandbox doesn't let a connection call, and what is called instead.
INSTEAD = {"fstat": "FileStatus()", "stat": "FileStatus()", "eventfd": "CreateEventFd()",
           "sendmsg": "send()", "syslog": "Log"}
# Where some of them are called all the same: where there is no sandbox, by what is called instead, or
# on the one socket on which the sandbox allows it.
BEFORE = {"fstat": ("src/base/", "src/server/activation.cc", "src/server/bind.cc", "src/server/daemon.cc",
                    "src/server/listener.cc", "src/cli/", "src/stream/tls_context.cc"),
          "stat": ("src/base/log_file.cc", "src/cli/", "src/ctl/", "src/generator/"),
          "eventfd": ("src/base/event_fd.h",), "sendmsg": ("src/partition/table_reader.cc",)}
CALL = re.compile(rf"(?<![\w.>:])(?:::)?({'|'.join(INSTEAD)})\(")


def faults_of_calls(sources):
    """Calls that would end a connection's process."""
    return [f"{path} calls {name}(), not {INSTEAD[name]}" for path, text in sources.items()
            for name in CALL.findall(re.sub(r"//.*", "", text))
            if not path.startswith(BEFORE.get(name, ()) or "-")]


def unused_functions(table, sources):
    """Functions of a library that nobody calls: without one of them, TLS is not to be had."""
    names = re.findall(r"\bF\((\w+)\)", table)
    text = "".join(re.sub(r"//.*", "", source) for source in sources)
    return [name for name in names if not re.search(rf"(?:\.|->)\s*{name}\b", text)]


def the_project():
    return (read_rooms((SRCDIR / "ARCHITECTURE.md").read_text()), read_sources(SRCDIR))


# ------------------------------------------------------------------ the project

@test("every source belongs to exactly one room of the table, and every room has sources")
def _(_context):
    rooms, sources = the_project()
    eq(faults_of_rooms(rooms, list(sources)), [])


@test("every include of a source is one that the table allows to its room")
def _(_context):
    rooms, sources = the_project()
    includes = sum(len(INCLUDE.findall(text)) for text in sources.values())
    if includes < len(sources):
        raise AssertionError(f"only {includes} includes found in {len(sources)} sources")
    eq(faults_of_includes(rooms, sources), [])


@test("no way leads from a room back to itself")
def _(_context):
    rooms, _sources = the_project()
    eq(circles(rooms), [])


@test("no connection waits for libsystemd to be loaded")
def _(_context):
    _rooms, sources = the_project()
    eq(faults_of_systemd(sources), [])


@test("nobody uses a container that sanitizers need another library for")
def _(_context):
    _rooms, sources = the_project()
    eq(faults_of_containers(sources), [])


@test("nobody calls what a connection in its sandbox can't")
def _(_context):
    _rooms, sources = the_project()
    eq(faults_of_calls(sources), [])


@test("every function that is loaded from OpenSSL or libblkid is called")
def _(_context):
    _rooms, sources = the_project()
    table = sources["src/stream/libssl.h"]
    if table.count("  F(") < 50:
        raise AssertionError("no table of functions found")
    eq(unused_functions(table, [text for path, text in sources.items()
                                if path != "src/stream/libssl.h"] +
                        [table.partition("struct LibSsl")[2]]), [])
    table = sources["src/partition/libblkid.h"]
    eq(table.count("  F(") > 10, True, "functions of libblkid")
    eq(unused_functions(table, [text for path, text in sources.items() if path != "src/partition/libblkid.h"]), [])
    eq(unused_functions("F(SSL_new) \\\nF(SSL_free)\n", ["lib_.SSL_free(x); // lib_.SSL_new"]),
       ["SSL_new"])


# ------------------------------------------------------------------ the check itself

TABLE = """
| limit | value | where |
|---|---|---|
| string | 4096 | `x` |

| room | owns | may include |
|---|---|---|
| `src/low/` | things | |
| `src/high/` | more, `Things` | `src/low/` |
| `src/one.*` | one name | `src/low/`, `src/high/` |
| `src/main.cc` | wiring | `src/low/`, `src/one.*` |

| other | table | `src/x` |
|---|---|---|
| `src/low/` | twice? | no |
"""

TREE = {
    "src/low/a.h": '#include <string>\n#include "absl/strings/str_cat.h"\n',
    "src/low/a.cc": '#include "low/a.h"\n',
    "src/high/b.cc": '#include "low/a.h"\n',
    "src/one.h": '#include "low/a.h"\n',
    "src/one.cc": '#include "one.h"\n',
    "src/main.cc": '#include "one.h"\n#include "low/a.h"\n',
}


def faults_with(**changes):
    """What the check says of the tree above, changed."""
    tree = {**TREE, **{f"src/{path}": text for path, text in changes.get("files", {}).items()}}
    rooms = read_rooms(changes.get("table", TABLE))
    return (faults_of_rooms(rooms, list(tree)) + faults_of_includes(rooms, tree) + circles(rooms)
            + faults_of_systemd(tree) + faults_of_containers(tree) + faults_of_calls(tree))


@test("the check finds nothing wrong with a tree that follows its table")
def _(_context):
    eq([(room.name, room.allowed) for room in read_rooms(TABLE)],
       [("src/low/", []), ("src/high/", ["src/low/"]), ("src/one.*", ["src/low/", "src/high/"]),
        ("src/main.cc", ["src/low/", "src/one.*"])])
    eq(faults_with(), [])


@test("the check finds an include that the table does not allow, however it is written")
def _(_context):
    upwards = "src/low/a.cc includes high/b.h, but src/low/ may not"
    for text in ('#include "high/b.h"\n', '  #  include  "high/b.h"  // why\n',
                 '#include <string>\n\n#include "high/b.h"\n'):
        eq(faults_with(files={"low/a.cc": text, "high/b.h": ""}), [upwards], repr(text))
    eq(faults_with(files={"main.cc": '#include "high/b.h"\n', "high/b.h": ""}),
       ["src/main.cc includes high/b.h, but src/main.cc may not"])
    eq(faults_with(files={"high/b.cc": '#include "one.h"\n'}),
       ["src/high/b.cc includes one.h, but src/high/ may not"])


@test("the check finds an include that would slip past the table")
def _(_context):
    eq(faults_with(files={"high/b.cc": '#include <low/a.h>\n'}),
       ["src/high/b.cc includes <low/a.h> as if it were the system's"])
    eq(faults_with(files={"low/a.cc": '#include "a.h"\n'}),
       ["src/low/a.cc includes a.h, whose path does not start at src/"])
    eq(faults_with(files={"low/a.cc": '#include "../one.h"\n'}),
       ["src/low/a.cc includes ../one.h, which is not in src/"])
    eq(faults_with(files={"low/a.cc": '#include <systemd/sd-daemon.h>\n'}),
       ["src/low/a.cc includes <systemd/sd-daemon.h>"])
    eq(faults_with(files={"low/a.cc": '#include "absl/container/node_hash_set.h"\n'}),
       ["src/low/a.cc includes absl/container/node_hash_set.h, not a container of the standard library"])


@test("the check finds a call that ends a connection's process")
def _(_context):
    eq(faults_with(files={"low/a.cc": "struct stat st;\nif (fstat(fd, &st) != 0) return;\n"}),
       ["src/low/a.cc calls fstat(), not FileStatus()"])
    eq(faults_with(files={"low/a.cc": "// fstat() is\nmy_fstat(fd); x.fstat(); X::stat();\n",
                          "low/a.h": "int n = ::sendmsg(fd, &m, 0);\n"}),
       ["src/low/a.h calls sendmsg(), not send()"])


@test("the check finds a source without a room, and a room without sources")
def _(_context):
    eq(faults_with(files={"stray.cc": ""}), ["src/stray.cc belongs to no room"])
    eq(faults_with(files={"main.h": ""}), ["src/main.h belongs to no room"])
    # "src/one.*" has the files of one name, and not those whose names begin like it.
    eq(faults_with(files={"one_more.cc": ""}), ["src/one_more.cc belongs to no room"])
    table = TABLE.replace("| `src/main.cc`", "| `src/gone/` | nothing | |\n| `src/main.cc`")
    eq(faults_with(table=table), ["src/gone/ has no files"])


@test("the check finds a table that is wrong in itself")
def _(_context):
    table = TABLE.replace("more, `Things` | `src/low/`", "more | `src/low/`, `src/typo/`")
    eq(faults_with(table=table), ["src/high/ may include src/typo/, which is no room"])
    table = TABLE.replace("| `src/low/` | things | |", "| `src/low/` | things | `src/one.*` |")
    faults = faults_with(table=table)
    contains("a way leads from src/low/ back to itself", faults)
    contains("a way leads from src/one.* back to itself", faults)


if __name__ == "__main__":
    main()
