#!/usr/bin/python3
"""Every block of code in every document is read by the program that a reader would give it to: scripts by their shell or
compiler, command lines by nbdinetd, and settings as document_settings_test.py says. What a block shows as output is what
the programs print.

A block whose language nobody names is an error: it would be a block that nobody checks. Some documents have tests
that run their blocks as well: pid1_documents_test.py, peer_documents_test.py, from_a_program_test.py, the tests of the
service page and of .export files."""

import ast
import os
import shlex
import sys
from pathlib import Path
from xml.etree import ElementTree

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import documents  # noqa: E402
from document_checks import BLOCKS, NBDINETCTL, blocks_in, commands_of, faults_of_server, here, no_faults  # noqa: E402
from harness import *  # noqa: E402
from printed import Printed, output_of, shape  # noqa: E402

# ------------------------------------------------------------------ languages

LANGUAGES = {"c", "console", "environment", "go", "haproxy", "inetd", "ini", "output", "promql", "python", "rules", "sh", "text",
             "tmpfiles", "xinetd", "xml"}


def faults_of_language(block):
    if block.language not in LANGUAGES:
        yield f"the language {block.language!r} is none that this test knows, of:\n{block.code}"
    if block.language == "text" and re.search(r"^([$#] |\[\w+\]$|nbd\w+ |sudo )", block.code, re.MULTILINE):
        yield "a text has no commands and no settings"


@test("every block in every document has a language that this test knows")
def _(_t):
    eq(len(documents.documents(SRCDIR)) > 15, True, "documents")
    no_faults(faults_of_language, BLOCKS)


@test("the search finds blocks that are only indented, and such as are never closed")
def _(_t):
    found = documents.markdown_blocks("x.md", "A\n\n    ls\n\n- item\n\n    of the item\n\nB\n\n```sh\nls\n")
    eq([(block.line, block.language, block.words) for block in found], [(3, None, []), (12, None, ["never closed"])])
    eq(len([fault for block in found for fault in faults_of_language(block)]), 2)
    found = documents.manual_blocks("x.8.in", ".Bd -literal\nwhatever it is\n.Ed\n.Dl $ ls\n")
    eq([(block.line, block.language) for block in found], [(2, None), (4, "console")])


# ------------------------------------------------------------------ commands

def options_in(words):
    return [re.match(r"--?[\w-]*", word)[0] for word in words if re.match(r"--?\w", word)]


def help_texts():
    """What the installed programs say of their options."""
    texts = {}

    def text(program, word):
        if (program, word) not in texts:
            path = find_tool(program)
            arguments = [word] if word else []
            texts[program, word] = path and output_of([path, *arguments, "--help"])[1] + (
                output_of([path, "--long-options"])[1] if program.startswith("nbd") else "")
        return texts[program, word]
    return text


HELP = help_texts()
# Programs whose --help has all their long options.
WITH_HELP = ("journalctl", "nbdcopy", "nbdinfo", "psktool", "qemu-img", "systemctl", "systemd-analyze",
             "systemd-socket-activate")


def faults_of_ctl(words):
    if not NBDINETCTL.exists():
        return
    known = output_of([NBDINETCTL, "--help"])[1]
    verbs = [word for word in words if not word.startswith("-")]
    if verbs and not re.search(rf"^  {re.escape(verbs[0])}\b", known, re.MULTILINE):
        yield f"nbdinetctl has no verb {verbs[0]}"
    for option in options_in(words):
        if not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", known):
            yield f"nbdinetctl has no option {option}"


def program_in(words, names):
    """Where one of these programs is called, behind sudo, ssh and others; None if it isn't."""
    return next((index for index, word in enumerate(words) if word in names and words[max(index - 1, 0)] != "-t"), None)


def faults_of_command(words, directory):
    if not (words := [word for word in words if not re.match(r"\d?[<>]", word)]):
        return
    names = [os.path.basename(word) for word in words]
    for first in re.findall(r"^(?:\./)?((?:bench|tests|\.)/[\w./]+|quickstart|configure|autogen\.sh)$", words[0]):
        if first != "configure" and not (SRCDIR / first).exists():
            yield f"there is no {first} in the tree"
        elif first == "quickstart" and f"  {words[1]}) " not in (SRCDIR / first).read_text():
            yield f"quickstart has no command {words[1]}"
        elif first.startswith("bench/"):
            sources = "".join(path.read_text() for path in (SRCDIR / "bench").glob("*.py")) + (SRCDIR / first).read_text()
            yield from (f"{first} has no option {option}" for option in options_in(words) if f'"{option}"' not in sources)
    server, control = program_in(words, ("nbdinetd", NBDINETD)), program_in(words, ("nbdinetctl", str(NBDINETCTL)))
    if server is not None:
        yield from faults_of_server(words[server + 1:], directory)
    elif control is not None:
        yield from faults_of_ctl(words[control + 1:])
    words = words[:server if server is not None else control]
    for index, name in enumerate(names[:len(words)]):
        if name not in WITH_HELP or not find_tool(name):
            continue
        for option in options_in(words[index + 1:]):
            if option.startswith("--") and option not in HELP(name, None) + HELP(name, words[index + 1]):
                yield f"{name} has no option {option}"
        if name in ("systemctl", "journalctl") and re.search("[,.]$", words[-1]):
            yield f"a sentence behind a command is an argument of it: {shlex.join(words)}"


def faults_of_script(block, directory):
    script = here(commands_of(block))
    status, said = output_of(["/bin/sh", "-nc", script])
    if status:
        yield said
        return
    for line in script.splitlines():
        if re.search(r"\S {3,}\w", line) and not re.search(r"['\"]|(^|\s)#", line):
            yield f"what stands behind a command is an argument of it, unless # is in front: {line}"
    if "theirs" in block.words:
        return
    for words in documents.words_of(script):
        yield from faults_of_command(words, directory)


@test("every command is one that its shell can parse, whose program and options exist; nbdinetd accepts its own")
def _(t):
    os.mkdir(t.path("empty"))
    no_faults(faults_of_script, blocks_in("sh", "console"), directory=t.path("empty"))


# What a section needs of the others.
HAPROXY = """global
  external-check
  insecure-fork-wanted
defaults
  timeout connect 5s
  timeout client 1h
  timeout server 1h
"""


def faults_of_haproxy(block, path):
    Path(path).write_text(HAPROXY + block.code)
    status, said = output_of([find_tool("haproxy"), "-c", "-f", path])
    if status or "[WARNING]" in said:
        yield said


@test("every section of HAProxy's configuration is one that it reads")
def _(t):
    need("haproxy")
    no_faults(faults_of_haproxy, blocks_in("haproxy"), path=t.path("haproxy.cfg"))
    block = documents.Block("x.1", 1, "haproxy", [], "listen x\n  mode tcp\n  no-such-word\n")
    contains("no-such-word", "".join(faults_of_haproxy(block, t.path("haproxy.cfg"))))


@test("the check of commands finds each kind of mistake")
def _(t):
    for code, fault in (("if true; then\n", "Syntax error|syntax error|end of file"),
                        ("nbdinetd --no-such disk.img\n", "unknown"),
                        ("nbdinetd --cow=perhaps disk.img\n", "perhaps"),
                        ("ssh server /usr/sbin/nbdinetd -s --no-such disk.img &\n", "unknown"),
                        ("nbdinetd -p 10809 disk.img    on every address\n", "unless # is in front"),
                        ("nbdinetd disk.img two.img\n", "nbdinetd disk.img two.img"),
                        ("nbdinetctl shwo\n", "no verb shwo"),
                        ("nbdinetctl list --colour\n", "no option --colour"),
                        ("systemctl daemon-reload --slowly\n", "no option --slowly"),
                        ("./quickstart fun\n", "no command fun"),
                        ("bench/compare --fast\n", "no option --fast"),
                        ("bench/contrast\n", "no bench/contrast")):
        block = documents.Block("x.md", 1, "sh", [], code)
        matches(fault, "\n".join(faults_of_script(block, str(t.dir))), code)
    block = documents.Block("x.8", 1, "console", [], "$ nbdinetd -r \\\n    disk.img\nserving\n# nbdinetctl\n")
    eq(list(faults_of_script(block, str(t.dir))), [])


# ------------------------------------------------------------------ programs

@test("every program in another language is one that its compiler can parse")
def _(t):
    for block in blocks_in("python"):
        ast.parse(block.code, str(block))
    compilers = {"c": (find_tool("gcc"), ["-fsyntax-only", "-std=c11", "-Wall", "-Wextra", "-Werror"]),
                 "go": (find_tool("gccgo"), ["-c", "-o", "/dev/null"])}
    if find_tool("gofmt"):
        compilers["go"] = find_tool("gofmt"), ["-l"]
    for language, (compiler, flags) in compilers.items():
        if compiler is None:
            note(f"there is no compiler for {language}")
            continue
        for block in blocks_in(language):
            path = t.image(block.code.encode(), f"documented.{language}")
            eq(output_of([compiler, *flags, path]), (0, ""), str(block))


@test("a program that needs no more than an image runs")
def _(t):
    t.pattern_image(MIB, "disk.img")
    os.mkdir(t.path("bin"))
    os.symlink(NBDINETD, t.path("bin/nbdinetd"))
    require(output_of([sys.executable, "-c", "import nbd"])[0] == 0, "needs python3-libnbd")
    os.chdir(t.dir)
    for block in blocks_in("python"):
        if "run" in block.words:
            process = t.run([sys.executable, "-c", block.code], env={"PATH": f"{t.path('bin')}:{os.environ['PATH']}"})
            eq(process.stdout(), f"{MIB}\nFalse\n", str(block))


@test("every query for Prometheus is about a metric that nbdinetctl prints")
def _(_t):
    source = (SRCDIR / "src/ctl/metrics.cc").read_text()
    for block in blocks_in("promql"):
        names = re.findall(r"nbdinetd_\w+", block.code)
        eq(len(names) > 0 and block.code.count("(") == block.code.count(")"), True, str(block))
        for name in names:
            contains(name.removesuffix("_bucket"), source, str(block))


# ------------------------------------------------------------------ what programs print

def faults_of_output(block, printed):
    for text in re.split(r"\n(?! )", block.code.strip()):
        status = re.fullmatch(r'Status: "(.*)"', text, re.DOTALL)
        if re.match(r"NBD_\w+=\d", text):
            field = text.partition("=")[0]
            if not re.fullmatch(r"\w+=\d+:\d+( \d+:\d+)*", text) or not re.fullmatch(
                    "NBD_(READ|WRITE|FLUSH|TRIM|CACHE|WRITE_ZEROES|BLOCK_STATUS)_(LATENCY_USEC|SIZE_BYTES)", field):
                yield f"no histogram: {text}"
        elif re.match(r"/\S+:\d+: ", text):
            if text.partition(": ")[2] not in printed.generator:
                yield f"the generator says {printed.generator!r}, and not {text!r}"
        elif text.startswith("the sandbox is incomplete"):
            words = text.partition(": ")[2].removesuffix(": ...")
            sources = "".join(path.read_text() for path in (SRCDIR / "src/sandbox").glob("*.cc"))
            if words not in re.sub(r'"\s*"', "", sources):
                yield f"the sandbox doesn't say {words!r}"
        else:
            wanted = shape(re.sub(r"\[; last error: TEXT\]", "", status[1] if status else text))
            if wanted not in printed.statuses | printed.messages:
                yield f"{wanted!r} is none of {sorted(printed.statuses | printed.messages)}"


@test("what a block shows as output is what the programs print")
def _(t):
    printed = Printed(t)
    no_faults(faults_of_output, blocks_in("output"), printed=printed)
    for code in ("serving \"golden\" to 192.0.2.7:40000: 3 asks\n", "NBD_READ_SIZE_BYTES=4096\n",
                 "/etc/golden.export:7: ReadOnly=maybe: say yes\n", "the sandbox is incomplete: it rains: ...\n"):
        eq(len(list(faults_of_output(documents.Block("x.8", 1, "output", [], code), printed))), 1, code)


# ------------------------------------------------------------------ what is beside the blocks

@test("README.md has at most 900 words, and every file that a document links to or names is there")
def _(_t):
    eq(len((SRCDIR / "README.md").read_text().split()) <= 900, True, "words in README.md")
    missing = []
    for path in documents.documents(SRCDIR):
        text = path.read_text()
        named = re.findall(r"\]\((?!\w+:)([^)#]+)\)", text) if path.suffix == ".md" else []
        missing += [f"{path.name}: {name}" for name in named if not (path.parent / name).exists()]
        named = re.findall(r"`((?:doc|bench|tests|units|src|man)/[\w@./-]+\.\w+)`", text) if path.suffix == ".md" else []
        missing += [f"{path.name}: {name}" for name in named
                    if name != "doc/proto.md"  # the specification's
                    and not re.search(r"\b(PAGE|NAME|FILE)\b", name)
                    and not any((top / f"{name}{suffix}").exists() for top in (SRCDIR, BUILDDIR) for suffix in ("", ".in"))]
    eq(missing, [])


@test("each picture of a terminal is what its text gives, and every picture can be read on a dark screen")
def _(_t):
    sys.path.insert(0, str(SRCDIR / "doc"))
    from terminal_picture import svg  # pylint: disable=import-outside-toplevel
    texts = list((SRCDIR / "doc/pictures").glob("*.txt"))
    eq(len(texts), 2, "texts of pictures")
    for text in texts:
        eq(text.with_suffix(".svg").read_text() == svg(text.read_text()), True, f"{text.name}: doc/record draws it anew")
    for picture in [*SRCDIR.glob("doc/pictures/*.svg"), *SRCDIR.glob("bench/*.svg")]:
        root = ElementTree.parse(picture).getroot()
        eq(root.tag, "{http://www.w3.org/2000/svg}svg", picture.name)
        contains("prefers-color-scheme: dark", picture.read_text(), picture.name)


if __name__ == "__main__":
    main()
