#!/usr/bin/python3
"""The interface that stays as it is from version to version (doc/stability.md), found by asking the programs, and
where they have nothing to ask, by reading the one place that decides.

Run by hand, it records what is new in stable_interface.json beside it. It refuses to record that something is gone or
means something else: that breaks what others have built on it, and takes `--break` and an entry in NEWS.md.
stable_interface_test.py compares.
"""

import json
import re
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
from harness import BUILDDIR, EX_USAGE, NBDINETD, SRCDIR, matches  # noqa: E402  pylint: disable=wrong-import-position
from printed import GENERATOR, Printed, output_of  # noqa: E402  pylint: disable=wrong-import-position

RECORD = Path(__file__).resolve().with_suffix(".json")
NBDINETCTL = BUILDDIR / "src" / "nbdinetctl"

# The words that an option's argument can be.
WORDS = {
    "--cache": ("writeback", "writethrough", "drop", "none", "direct", "directsync"),
    "--check": ("text", "json"),
    "--cow": ("discard", "keep"),
    "--cow-key": ("tls", "peer-address"),
    "--cow-stale": ("refuse", "discard"),
    "--exclusive": ("refuse", "wait", "takeover"),
    "--exclusive-scope": ("host", "cluster"),
    "--log": ("stderr", "syslog", "journal", "null", "/tmp/log"),
    "--multi-conn": ("auto", "on", "off"),
    "--negotiated": ("simple", "structured", "extended", "structured,base:allocation", "extended,base:allocation"),
    "--sandbox": ("on", "off", "require"),
    "--shared": ("auto", "yes", "no"),
    "--size": ("1M", "up:512", "down:512"),
    "--tls": ("off", "on", "require"),
}
# What some of them need beside them.
BESIDE = {
    "--cow": ["--cow-dir=/tmp", "--tls=require", "--tls-psk=/tmp/keys.psk"],
    "--cow-key": ["--cow=keep", "--cow-dir=/tmp", "--tls=require", "--tls-psk=/tmp/keys.psk"],
    "--cow-stale": ["--cow=keep", "--cow-dir=/tmp", "--cow-key=peer-address"],
    "--exclusive-scope": ["--exclusive"],
}

# A use of each key in [Export].
KEYS = {
    "File": "", "Directory": "File=\nDirectory=/d", "User": "User=nbd", "Group": "Group=disk", "Mode": "Mode=listener",
    "MaxConnectionsPerSource": "MaxConnectionsPerSource=5", "Enabled": "Enabled=no", "Options": "Options=--verbose -4",
    "ReadOnly": "ReadOnly=yes", "ExportName": "ExportName=a b", "Description": "Description=a b", "Offset": "Offset=1M",
    "Length": "Length=4096", "Partition": "Partition=2", "Partitions": "File=\nDirectory=/d\nPartitions=yes",
    "Size": "Size=up:512", "Cache": "Cache=drop", "Cow": "Cow=discard", "CowDir": "Cow=discard\nCowDir=/d",
    "CowSize": "Cow=discard\nCowSize=1G", "CowKey": "Cow=keep\nCowKey=peer-address",
    "CowStale": "Cow=keep\nCowKey=peer-address\nCowStale=discard", "Exclusive": "Exclusive=wait",
    "ForceShare": "ForceShare=yes", "BlockSize": "BlockSize=512:4K:32M", "MultiConn": "MultiConn=off",
    "Shared": "Shared=no", "ExclusiveScope": "Exclusive=refuse\nExclusiveScope=cluster",
    "Sandbox": "Sandbox=require", "Verbose": "Verbose=yes", "MaxConnections": "MaxConnections=5",
    "IdleExit": "Mode=listener\nIdleExit=2min", "TLS": "TLS=require", "TLSCertificates": "TLSCertificates=/k",
    "TLSPreSharedKeys": "TLSPreSharedKeys=/k", "TLSVerifyPeer": "TLSVerifyPeer=yes", "TLSAllow": "TLS=require\nTLSAllow=CN=a",
    "Allow": "Allow=192.0.2.1", "Deny": "Deny=192.0.2.1", "Rules": "Rules=/etc/nbdinetd/rules",
    "HandshakeTimeout": "HandshakeTimeout=20s", "StallTimeout": "StallTimeout=20s", "IdleTimeout": "IdleTimeout=20s",
    "KeepAlive": "KeepAlive=20s", "MaxRate": "MaxRate=20M", "MaxIOPS": "MaxIOPS=100",
}


def source(*paths):
    return "".join((SRCDIR / path).read_text() for path in paths)


def named_options(text):
    """{"--long": its argument and its letter} of a --help."""
    return {f"--{name}": {"argument": argument, "letter": letter or ""} for letter, name, argument in re.findall(
        r"^  (?:-(\w), |    |)--([\w-]+)(\[?=[^\s]*)?", text, re.MULTILINE)}


def server_options():
    options = named_options(output_of([NBDINETD, "--help"])[1])
    for name, alias in re.findall(r'\.name = "([\w-]+)",\s*\.alias = "([\w-]+)"', source("src/cli/option_table.cc")):
        options[f"--{name}"]["alias"] = f"--{alias}"
    with tempfile.NamedTemporaryFile(dir="/tmp") as image:
        image.write(bytes(4096))
        image.flush()
        for name, words in WORDS.items():
            options[name]["words"] = [word for word in words if output_of(
                [NBDINETD, "--check", *BESIDE.get(name, []), f"{name}={word}", image.name])[0] != EX_USAGE]
    return options


def control_interface():
    if not NBDINETCTL.exists():
        return None
    text = output_of([NBDINETCTL, "--help"])[1]
    verbs = text.partition("\nVerbs:\n")[2].partition("\nOptions:\n")[0]
    page = source("man/nbdinetctl.1.in").partition(".Sh EXIT STATUS\n")[2].partition("\n.Sh ")[0]
    return {"options": named_options(text), "verbs": re.findall(r"^  (\w+)", verbs, re.MULTILINE),
            "exit_statuses": re.findall(r"^\.It (\d+)", page, re.MULTILINE),
            "metrics": sorted(set(re.findall(r'"(nbdinetd_[a-z_]+)', source("src/ctl/metrics.cc"))))}


def generated(directory, settings):
    """The lines of the units that these settings make, the options of ExecStart= apart; None if that is an error."""
    path = Path(directory) / "x.export"
    path.write_text(f"[Export]\nFile=/srv/x.img\n{settings}\n")
    status, text = output_of([GENERATOR, "--dry-run", path])
    if status:
        return None
    lines = set()
    for line in text.splitlines():
        command = re.match(r"ExecStart=\S+/nbdinetd (.*)", line)
        if command:
            lines.update(re.findall(r'(?:^|(?<= ))(?:--?[\w-]+(?:=\S+)?|"--[^"]*")(?= |$)', command[1]))
        elif line.startswith("# sockets.target.wants/"):
            lines.add(line)
        elif not line.startswith(("#", "Description=")):
            lines.add(line)
    return lines


def effect(directory, key):
    """What a key adds to the units, and takes from them, beside the other lines of its example."""
    others = re.sub(rf"^{key}=.*$", "", KEYS[key], flags=re.MULTILINE)
    lines, before = generated(directory, KEYS[key]), generated(directory, others)
    if lines is None:
        return None
    before = before if before is not None else generated(directory, "")
    adds = lines - before
    if key == "Mode":  # the settings of the two services are no part of the interface
        adds = {line for line in adds if line.startswith(("--", "Accept="))}
    gone = {line for line in before - lines if line.startswith("# sockets")}
    return {"example": KEYS[key], "adds": sorted(adds), **({"removes": sorted(gone)} if gone else {})}


def export_keys():
    """{key: an example, and what it adds to the units}. All keys that the sources have are tried."""
    known = set(re.findall(r'\.key = "(\w+)"', source("src/cli/option_table.cc")))
    known |= set(re.findall(r'"(\w+)"', re.search(r"kUnitKeys\[\] = \{([^}]*)\}",
                                                  source("src/generator/export_definition.cc"))[1]))
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        effects = {}
        for key in sorted(known):
            if key not in KEYS:
                raise AssertionError(f"stable_interface.py has no example of {key}=")
            effects[key] = effect(directory, key)
        return {key: value for key, value in effects.items() if value is not None}


def names_of(value, name=""):
    """{"exports[].size": "number"}: the names in a JSON document."""
    kinds = {str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}
    if isinstance(value, dict):
        return {key: kind for inner, part in value.items() for key, kind in names_of(part, f"{name}.{inner}").items()}
    if isinstance(value, list):
        return {key: kind for part in value for key, kind in names_of(part, f"{name}[]").items()}
    return {name.removeprefix("."): kinds[type(value)]}


def check_report(context):
    names = {}
    image = context.pattern_image(1 << 20)
    rules = Path(context.path("rules"))
    rules.write_text("192.0.2.7 * rw exclusive=wait max-rate=1M\n198.51.100.0/24 other ro\n192.0.2.0/24 -\n")
    for arguments in ([image], ["--negotiated=extended,base:allocation", "--block-size=512:4K:32M", image],
                      ["--allow=127.0.0.1", "--as=127.0.0.1", image], [f"--directory={context.dir}"], ["-r", f"{image}.missing"],
                      *([f"--rules={rules}", f"--as={who}", "--exclusive", image]
                        for who in ("192.0.2.7", "192.0.2.8", "198.51.100.1")),
                      ["--exclusive", "--exclusive-scope=cluster", "--shared=yes", image], ["--cow", "--cow-dir=memory", image]):
        text = output_of([NBDINETD, "--check=json", *arguments])[1]
        names.update(names_of(json.loads(matches(r"^\{.*$", text)[0])))
    return names


def rule_settings():
    text = source("src/access/rule_line.cc")
    table = re.search(r"kSettings\[\] = \{(.*?)\n\};", text, re.S)[1]
    names = dict(re.findall(r'absl::string_view (k\w+) = "(.*)";', text))
    return sorted(names.get(name, name.strip('"')) for name in re.findall(r'^    \{("[^"]+"|k\w+),', table, re.M))


def journal():
    page = source("man/nbdinetd.journal-fields.7.in").replace("\\\n", "")
    fields = set(re.findall(r"\bNBD_[A-Z_]+\b", " ".join(re.findall(r"^\.It (?:Dv|Li) (NBD_.*)$", page, re.MULTILINE))))
    subjects = dict(re.findall(r"^-- ([0-9a-f]{32})\nSubject: (.*)$", source("units/nbdinetd.catalog"), re.MULTILINE))
    ids = re.findall(r'MessageId (k\w+)\{\s*"([0-9a-f]{32})"\}', source("src/base/message_id.h"))
    return {"fields": sorted(fields), "message_ids": {hex: {"name": name, "subject": subjects[hex]} for name, hex in ids}}


def current(context):
    """The interface of this build."""
    printed = Printed(context)
    found = {
        "options": server_options(),
        "nbdinetctl": control_interface(),
        "export_keys": export_keys(),
        "exit_statuses": {name: int(number) for name, number in re.findall(
            r"^  k(\w+) = (\d+),", source("src/base/exit_status.h"), re.MULTILINE)},
        "journal": journal(),
        "statuses": sorted(text for text in printed.statuses if not text.startswith("ending")),
        "check_json": check_report(context),
        "rule_settings": rule_settings(),
        "nbdinetctl_json": json.loads((Path(__file__).resolve().parent / "nbdinetctl_schema.json").read_text()),
    }
    return {name: part for name, part in found.items() if part is not None}


def broken(recorded, found, name=""):
    """What is recorded, and missing or different now. Of lists, every item must still be there."""
    if isinstance(recorded, dict) and isinstance(found, dict):
        return [fault for key, part in recorded.items() for fault in (
            broken(part, found[key], f"{name}/{key}") if key in found else [f"{name}/{key} is missing"])]
    if isinstance(recorded, list) and isinstance(found, list):
        return [f"{name}: {item} is missing" for item in recorded if item not in found]
    return [] if recorded == found else [f"{name} is {found!r}, and was {recorded!r}"]


def main():
    import harness  # pylint: disable=import-outside-toplevel
    context = harness.Test("stable_interface")
    try:
        found = current(context)
    finally:
        context.finish()
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    faults = broken(recorded, found)
    if faults and sys.argv[1:] != ["--break"]:
        sys.exit("\n".join(["this breaks what others use; NEWS.md must say so, and --break records it:", *faults]))
    RECORD.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print("\n".join(broken(found, recorded)) or "nothing is new")


if __name__ == "__main__":
    main()
