#!/usr/bin/python3
"""bash, zsh and fish complete the command lines of nbdinetd and nbdinetctl.

bash and zsh run on a terminal, where a key inserts all that they offer into the line, and Enter runs it:
the command that they run, which stands in for nbdinetctl, records its arguments. So a name that isn't
quoted well would run what it says. fish prints what it offers.
"""

import fcntl
import json
import os
import pwd
import subprocess
import sys
import termios
import threading
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402

SHELLS = ("bash", "zsh", "fish")
FILES = {"bash": "bash/{}", "zsh": "zsh/_{}", "fish": "fish/{}.fish"}

BASH_COMPLETION = "/usr/share/bash-completion/bash_completion"

# The command that is completed: it prints the JSON of what it finds beside it, or records its arguments.
STAND_IN = """#!/usr/bin/python3
import json, os, sys
arguments = sys.argv[1:]
is_question = arguments[1:2] == ["--json=short"]
with open({asked!r} if is_question else {record!r}, "a") as file:
    file.write(json.dumps(arguments) + "\\n")
if is_question:
    answer = {answers!r} + "/" + arguments[0]
    if not os.path.exists(answer):
        print("a complaint", file=sys.stderr)
        sys.exit(1)
    sys.stdout.write(open(answer).read())
"""


def completions_of(shell, command):
    path = BUILDDIR / "completions" / FILES[shell].format(command)
    require(path.exists(), f"there is no completion of {command}")
    return path


def json_string(text):
    """As nbdinetctl writes it (src/base/json.cc): other characters than these are not escaped."""
    escapes = {'"': '\\"', "\\": "\\\\"}
    return '"' + "".join(escapes.get(c, f"\\u{ord(c):04x}" if ord(c) < 0x20 or ord(c) == 0x7f else c)
                         for c in text) + '"'


class Shells:
    """The three shells of a test, with the directory in which they run, and a nbdinetctl that answers
    what the test says."""

    def __init__(self, t):
        self.t = t
        self.cwd = Path(t.path("cwd"))
        self.programs = Path(t.path("bin"))
        self.answers = Path(t.path("answers"))
        for directory in (self.cwd, self.programs, self.answers):
            directory.mkdir()
        self.record, self.asked = t.path("record"), t.path("asked")
        for name in ("nbdinetd", "nbdinetctl"):
            program = self.programs / name
            program.write_text(STAND_IN.format(record=self.record, asked=self.asked, answers=str(self.answers)))
            program.chmod(0o755)
        self.env = {"PATH": f"{self.programs}:{os.environ['PATH']}", "HOME": t.path("home"), "TERM": "dumb",
                    "LC_ALL": "C.UTF-8", "XDG_CONFIG_HOME": t.path("none"),
                    "XDG_DATA_HOME": t.path("none")}
        self._terminals = {}

    def answer(self, verb, member, values):
        """nbdinetctl VERB --json=short has rows with these values."""
        rows = ",".join('{"state":"ready",%s:%s,"clients":1}' % (json_string(member), json_string(value))
                        for value in values)
        (self.answers / verb).write_text(f"[{rows}]\n")

    def questions(self):
        """What nbdinetctl was asked since the last call."""
        path = Path(self.asked)
        lines = path.read_text().splitlines() if path.exists() else []
        path.write_text("")
        return [json.loads(line) for line in lines]

    def offers(self, shell, line):
        """The set of words that a shell offers for the last word of a line. Words behind = or : are
        without what is before it."""
        typed = line.rpartition(" ")[2]
        kept = typed[:max(typed.rfind("="), typed.rfind(":")) + 1]
        if shell == "fish":
            words = self._fish(line)
        else:
            words = self._terminal(shell, line.split()[0]).run(line)[len(line.split()) - (typed != "") - 1:]
            words = [word for word in words if word != typed]
        return {word.removeprefix(kept) for word in words}

    def offers_of_all(self, line):
        return {shell: self.offers(shell, line) for shell in SHELLS}

    def _fish(self, line):
        command = line.split()[0]
        done = subprocess.run([need("fish"), "--no-config", "-c", "source $argv[1]; complete -C $argv[2]",
                               str(completions_of("fish", command)), line],
                              env=self.env, cwd=self.cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=GUARD, check=True)
        eq(done.stderr, "")
        return [offer.partition("\t")[0] for offer in done.stdout.splitlines()]

    def _terminal(self, shell, command):
        key = (shell, command)
        if key not in self._terminals:
            self._terminals[key] = Terminal(self, shell, completions_of(shell, command))
        return self._terminals[key]


class Terminal:
    """An interactive bash or zsh in which Tab inserts all that is offered."""

    def __init__(self, shells, shell, completions):
        """bash loads the completions from a file, or as bash-completion finds them if it is None."""
        self.shells = shells
        start = Path(shells.t.fresh(".rc"))
        if shell == "bash":
            source = completions or BASH_COMPLETION
            start.write_text(f"bind '\"\\t\": insert-completions'\nPS1=\nsource '{source}'\n")
            argv = [need("bash"), "--noprofile", "--rcfile", str(start), "-i"]
        else:
            start.write_text(f"fpath=('{completions.parent}' $fpath)\nPS1=\nautoload -Uz compinit\ncompinit -u -D\n"
                             "zstyle ':completion:*' completer _all_matches _complete\n"
                             "zstyle ':completion:*' insert true\nbindkey '^I' complete-word\n")
            argv = [need("zsh"), "-f", "-i"]
        master, slave = os.openpty()
        # No line may be too long for the terminal: zsh counts.
        fcntl.ioctl(slave, termios.TIOCSWINSZ, b"\x10\x00\x00\x10\x00\x00\x00\x00")
        self.process = subprocess.Popen(
            argv, stdin=slave, stdout=slave, stderr=slave, cwd=shells.cwd, env=shells.env, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)
        self.master = master
        self.output = b""
        threading.Thread(target=self._read, daemon=True).start()
        shells.t.defer(self._stop)
        if shell == "zsh":
            os.write(master, f"source '{start}'\n".encode())

    def _read(self):
        try:
            while data := os.read(self.master, 65536):
                self.output += data
        except OSError:
            pass

    def _stop(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    def press(self, line):
        """Tab at the end of a line that is then given up."""
        os.write(self.master, f"{line}\t\x15".encode())

    def run(self, line):
        """The arguments with which a command runs after Tab at the end of its line."""
        record = Path(self.shells.record)
        before = record.read_text().count("\n") if record.exists() else 0
        os.write(self.master, f"{line}\t\n".encode())
        def recorded():
            # The last line may not be whole yet.
            lines = record.read_text().split("\n")[:-1] if record.exists() else []
            return lines[before:] or None
        try:
            lines = wait_until(recorded, f"the command of {line!r}")
        except AssertionError as error:
            raise AssertionError(f"{error}; the terminal: {self.output[-2000:]!r}") from error
        eq(len(lines), 1, lines)
        return json.loads(lines[0])


def each_shell(shells, line, wanted):
    """Every shell offers exactly these words."""
    for shell in SHELLS:
        eq(shells.offers(shell, line), set(wanted), f"{shell}: {line!r}")


def at_least(shells, line, wanted, unwanted=()):
    for shell in SHELLS:
        offered = shells.offers(shell, line)
        eq(set(wanted) - offered, set(), f"{shell} offers for {line!r} only {offered}")
        eq(set(unwanted) & offered, set(), f"{shell} offers for {line!r} {offered}")


def in_help(command):
    """The options in --help: long names, and letters."""
    program = NBDINETD if command == "nbdinetd" else str(BUILDDIR / "src" / command)
    require(os.path.exists(program), f"{command} isn't built")
    text = subprocess.run([program, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return (set(re.findall(r"^ +(?:-\w, )?(--[a-z0-9-]+)", text, re.M)),
            set(re.findall(r"^ +(-\w), ", text, re.M)))


# ------------------------------------------------------------------ options

@test("each shell offers the options that --help has, and no others")
def _(t):
    shells = Shells(t)
    for command in ("nbdinetd", "nbdinetctl"):
        names, letters = in_help(command)
        if len(names) < 10 or len(letters) < 2:
            raise AssertionError(f"{command} --help: {names}, {letters}")
        for shell in SHELLS:
            offered = {word.rstrip("=") for word in shells.offers(shell, f"{command} --")}
            eq(offered, names, f"{shell}: {command}")
            eq(letters - shells.offers(shell, f"{command} -"), set(), f"{shell}: {command}")


@test("an option that begins with what is typed is offered, with = if an argument must follow")
def _(t):
    shells = Shells(t)
    for shell in SHELLS:
        eq({word.rstrip("=") for word in shells.offers(shell, "nbdinetd --tls-v")}, {"--tls-verify-peer"}, shell)
    eq(shells._terminal("bash", "nbdinetd").run("nbdinetd --tls-p"), ["--tls-psk="])


@test("options take the words that they know, behind = and as a word of their own")
def _(t):
    shells = Shells(t)
    for option, words in (("--tls", ["off", "on", "require"]), ("--sandbox", ["on", "off", "require"]),
                          ("--multi-conn", ["auto", "on", "off"]), ("--shared", ["auto", "yes", "no"]),
                          ("--exclusive-scope", ["host", "cluster"]), ("--cow-key", ["tls", "peer-address"])):
        each_shell(shells, f"nbdinetd {option}=", words)
        each_shell(shells, f"nbdinetd {option} ", words)
    each_shell(shells, "nbdinetd --cache=dir", ["direct", "directsync"])
    each_shell(shells, "nbdinetd --exclusive=", ["refuse", "wait", "takeover"])
    each_shell(shells, "nbdinetctl --json=", ["pretty", "short", "off"])
    each_shell(shells, "nbdinetctl history --since=", ["today", "yesterday"])
    # An optional argument is never a word of its own.
    (shells.cwd / "disk.img").touch()
    each_shell(shells, "nbdinetd --exclusive ", ["disk.img"])


@test("numbers are offered with units")
def _(t):
    shells = Shells(t)
    each_shell(shells, "nbdinetd --idle-timeout=10", ["10ms", "10s", "10min", "10h", "10d"])
    each_shell(shells, "nbdinetd --stall-timeout=o", ["off"])
    each_shell(shells, "nbdinetd --length=4", ["4K", "4M", "4G", "4T"])
    each_shell(shells, "nbdinetd --size=", ["up:", "down:"])
    each_shell(shells, "nbdinetd --size=up:1", ["1K", "1M", "1G", "1T"])


@test("users and groups are offered, also in a rule")
def _(t):
    shells = Shells(t)
    users = {user.pw_name for user in pwd.getpwall()}
    for line in ("nbdinetd -u ", "nbdinetd -ru ", "nbdinetd --user=", "nbdinetd --allow=uid:"):
        for shell in SHELLS:
            eq(users - shells.offers(shell, line), set(), f"{shell}: {line!r}")
    at_least(shells, "nbdinetd --deny=gid:ro", ["root"], ["nobody"])
    at_least(shells, "nbdinetd --allow=", ["any", "uid:", "gid:", "unix:", "vsock:"], ["root"])
    at_least(shells, "nbdinetd --check --as ", ["tls:", "psk:"], ["any"])


@test("bash-completion and fish find the files by their names, below the directory for data")
def _(t):
    shells = Shells(t)
    data = Path(t.path("data"))
    for directory, shell in (("bash-completion/completions", "bash"), ("fish/vendor_completions.d", "fish")):
        (data / directory).parent.mkdir(parents=True)
        (data / directory).symlink_to(completions_of(shell, "nbdinetd").parent)
    shells.env["XDG_DATA_DIRS"] = f"{data}:/usr/local/share:/usr/share"
    done = subprocess.run([need("fish"), "-c", "complete -C 'nbdinetd --tls='"], env=shells.env, cwd=shells.cwd,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=GUARD, check=True)
    eq({line.partition("\t")[0] for line in done.stdout.splitlines()}, {"--tls=off", "--tls=on", "--tls=require"})
    require(os.path.exists(BASH_COMPLETION), "bash-completion is not installed")
    terminal = Terminal(shells, "bash", None)
    eq(terminal.run("nbdinetd --tls="), ["--tls=off", "on", "require"])
    eq(terminal.run("nice nbdinetd --tls="), ["--tls=off", "on", "require"])


# ------------------------------------------------------------------ files

@test("files and directories are offered where they belong, whatever they are called")
def _(t):
    shells = Shells(t)
    mark = shells.cwd / "mark"
    files = {"disk.img", "a b.img", "$(touch mark).img", "`touch mark`.img", "x';touch mark;'.img", "é.img"}
    for name in files:
        (shells.cwd / name).touch()
    (shells.cwd / "folder").mkdir()
    for line in ("nbdinetd ", "nbdinetd -r ", "nbdinetd --tls-psk=", "nbdinetd -P ", "nbdinetd --rules "):
        for shell in SHELLS:
            offered = {word.rstrip("/") for word in shells.offers(shell, line)}
            eq(offered, files | {"folder"}, f"{shell}: {line!r}")
    for line in ("nbdinetd --directory=", "nbdinetd --tls-certificates "):
        for shell in SHELLS:
            eq({word.rstrip("/") for word in shells.offers(shell, line)}, {"folder"}, f"{shell}: {line!r}")
    for shell in SHELLS:
        eq({word.rstrip("/") for word in shells.offers(shell, "nbdinetd --cow-dir=")}, {"memory", "folder"}, shell)
        eq(shells.offers(shell, "nbdinetd -- --"), set(), shell)
    eq(mark.exists(), False, "a file's name has run")


@test("nothing is offered where nothing is known")
def _(t):
    shells = Shells(t)
    (shells.cwd / "disk.img").touch()
    for line in ("nbdinetd --exportname=", "nbdinetd -p ", "nbdinetctl history --peer=", "nbdinetctl list ",
                 "nbdinetctl probe "):
        each_shell(shells, line, [])


# ------------------------------------------------------------------ nbdinetctl

@test("verbs are offered, and each verb's own options")
def _(t):
    shells = Shells(t)
    program = BUILDDIR / "src" / "nbdinetctl"
    require(program.exists(), "nbdinetctl isn't built")
    text = subprocess.run([str(program), "--help"], stdout=subprocess.PIPE, text=True,
                          check=True).stdout
    verbs = set(re.findall(r"^  ([a-z]+)\b", text, re.M))
    contains("disconnect", verbs)
    each_shell(shells, "nbdinetctl ", verbs)
    each_shell(shells, "nbdinetctl --user -l ", verbs)
    each_shell(shells, "nbdinetctl -H host co", ["connections", "copies"])
    for shell in SHELLS:
        offered = {word.rstrip("=") for word in shells.offers(shell, "nbdinetctl enable --")}
        eq({"--now", "--user", "--json"} - offered, set(), shell)
        eq({"--since", "--base", "--interval"} & offered, set(), shell)
        offered = {word.rstrip("=") for word in shells.offers(shell, "nbdinetctl history --")}
        eq({"--since", "--until", "--peer"} - offered, set(), shell)
        eq({"--now"} & offered, set(), shell)


@test("exports, peers and copies are offered, of the manager that is asked for")
def _(t):
    shells = Shells(t)
    peers = ["192.0.2.7:4711", "[2001:db8::7]:4711", "uid 0"]
    shells.answer("list", "export", ["golden", "gold-2", "nbdinetd@"])
    shells.answer("connections", "peer", peers)
    shells.answer("copies", "copy", ["golden-1a2b", "vm-3c4d"])
    exports = ["golden", "gold-2", "nbdinetd@"]
    for verb in ("start", "stop", "enable", "disable", "limit", "connections", "history", "check"):
        each_shell(shells, f"nbdinetctl {verb} ", exports)
    each_shell(shells, "nbdinetctl stop gold", ["golden", "gold-2"])
    each_shell(shells, "nbdinetctl disconnect ", exports + peers)
    each_shell(shells, "nbdinetctl disconnect 192.0.2.7:4", ["4711"])
    each_shell(shells, "nbdinetctl copies ", ["list", "discard", "merge", "export"])
    each_shell(shells, "nbdinetctl copies discard ", ["golden-1a2b", "vm-3c4d"])
    each_shell(shells, "nbdinetctl copies list ", [])
    (shells.cwd / "disk.img").touch()
    each_shell(shells, "nbdinetctl copies export golden-1a2b ", ["disk.img"])
    each_shell(shells, "nbdinetctl check disk", ["disk.img"])
    each_shell(shells, "nbdinetctl stop golden ", [])
    for shell in SHELLS:
        shells.questions()
        shells.offers(shell, "nbdinetctl --user stop ")
        eq(shells.questions(), [["list", "--json=short", "--user"]], shell)
        # ssh may ask for a password.
        eq(shells.offers(shell, "nbdinetctl -H host stop "), set(), shell)
        eq(shells.questions(), [], shell)


@test("names that a stranger has chosen are offered, and never run")
def _(t):
    shells = Shells(t)
    mark = shells.cwd / "mark"
    names = ["golden image", "$(touch mark)", "`touch mark`", "x;touch mark", "x'$(touch mark)'", "x & touch mark",
             "| touch mark", "> mark", "*", "~", "!!", "{a,b}", "$HOME", "(touch mark)", "%1", "#x", "é", "=ls", "a=b", "<(touch mark)",
             "$((x[$(touch mark)]))", "${x:=$(touch mark)}", "[a-z]*", "?", "^x^y", "a:b"]
    never = ['"; touch mark; "', "x\ntouch mark\n", "\\$(touch mark)", "\x1b[31m", "x\x7f", "\u009b31m",
             '","export":"forged']
    for verb, member, line in (("list", "export", "nbdinetctl stop "), ("copies", "copy", "nbdinetctl copies merge ")):
        shells.answer(verb, member, names + never)
        each_shell(shells, line, names)
    for shell in SHELLS:
        for typed in ("\\$", "x", "golden\\ "):
            offered = shells.offers(shell, f"nbdinetctl stop {typed}")
            if not offered <= set(names):
                raise AssertionError(f"{shell} offers for {typed!r} {offered}")
    for shell in ("bash", "zsh"):
        terminal = shells._terminal(shell, "nbdinetctl")
        for typed in ("$", "`", "$(", "'", '"', '"$(', "x;", "{"):
            terminal.press(f"nbdinetctl stop {typed}")
        eq(terminal.run("nbdinetctl stop golden"), ["stop", "golden image"], shell)
    eq(mark.exists(), False, "a name has run")


@test("a nbdinetctl that fails or isn't there is silent")
def _(t):
    shells = Shells(t)
    # Programs that the completions ask, such as machinectl, aren't on each machine.
    bare = Path(t.path("bare"))
    bare.mkdir()
    for name in ("grep", "cut", "sed", "bash", "zsh", "fish"):
        (bare / name).symlink_to(need(name))
    shells.env["PATH"] = f"{shells.programs}:{bare}"
    for line in ("nbdinetctl stop ", "nbdinetctl -M ", "nbdinetd -i "):
        each_shell(shells, line, [])
    (shells.programs / "nbdinetctl").unlink()
    eq(shells.offers("fish", "nbdinetctl stop "), set())
    for key, terminal in shells._terminals.items():
        eq(b"complaint" in terminal.output, False, f"{key}: {terminal.output!r}")


if __name__ == "__main__":
    main()
