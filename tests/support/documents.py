"""The blocks of code in the project's documents: Markdown, mdoc, and what is shipped in units/.

A block in Markdown names its language behind the fence. mdoc has no place for that: there the content tells it, by
the rules of RULES. A block without a language is None's, and documents_test.py refuses it.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

MARKDOWN = ("*.md", "doc/*.md", "bench/*.md", "tests/*.md")
# Of a line of a shell that has no prompt in front of it.
COMMANDS = ("mkdir", "openssl", "echo", "psktool", "nbdinfo", "nbdcopy", "qemu-img", "nbd-client", "nbdinetd", "nbdinetctl",
            "journalctl", "systemctl", "tc")
SECTIONS = ("Unit", "Socket", "Service", "Slice", "Install")


@dataclass
class Block:
    document: str     # its path from the top of the tree
    line: int         # of its first line
    language: str | None
    words: list       # behind the language
    code: str

    def __str__(self):
        return f"{self.document}:{self.line}"


def markdown_blocks(document, text):
    """Blocks between fences, and those that are only indented, whose language nobody knows. What is indented in a list
    belongs to its item."""
    blocks, fence, indented, in_list, after_blank = [], None, None, False, True
    for number, line in enumerate(text.splitlines(), 1):
        opening = re.match(r"^```(.*)$", line)
        if fence is not None:
            if opening:
                blocks.append(fence)
                fence = None
            else:
                fence.code += line + "\n"
            continue
        if opening:
            language, *words = opening[1].split() or [None]
            fence = Block(document, number + 1, language, words, "")
            continue
        if re.match(r"^([-*]|\d+\.) ", line):
            in_list = True
        elif re.match(r"^\S", line):
            in_list = False
        if re.match(r"^    \S", line) and not in_list and (indented or after_blank):
            if indented is None:
                indented = Block(document, number, None, [], "")
                blocks.append(indented)
            indented.code += line[4:] + "\n"
        elif line.strip():
            indented = None
        after_blank = not line.strip()
    if fence is not None:
        blocks.append(Block(document, fence.line, None, ["never closed"], fence.code))
    return blocks


def unescaped(text):
    """The bytes that a reader of the manual sees of a literal line."""
    return re.sub(r"\\(.)", lambda m: {"e": "\\", "&": ""}.get(m[1], m[1]), text)


def of_display(text):
    """The one line that .Dl shows: its words, and those of the macros that are in use there."""
    text = re.sub(r" Ns (?:Ar |Pa )?", "", text)
    text = re.sub(r'\bQq (\S+ \S+)', r'"\1"', text)
    return unescaped(re.sub(r"\b(?:Ar|Pa) ", "", text))


def manual_blocks(document, text):
    blocks, block = [], None
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"^\.Bd .*-literal", line):
            block = Block(document, number + 1, None, [], "")
        elif line.startswith(".Ed") and block:
            blocks.append(block)
            block = None
        elif block:
            block.code += unescaped(line) + "\n"
        elif line.startswith(".Dl "):
            blocks.append(Block(document, number, None, [], of_display(line[4:]) + "\n"))
    for block in blocks:
        block.language = language_of(block.code)
    return blocks


# The first one that matches decides.
RULES = (
    ("ini", lambda code: re.match(r"(# /\S+\.export\n)?\[(Export|%s)\]\n" % "|".join(SECTIONS), code)),
    ("ini", lambda code: re.fullmatch(r"Exec\w+=.*\n", code)),
    ("tmpfiles", lambda code: code.startswith("# /etc/tmpfiles.d/")),
    ("rules", lambda code: code.startswith("# WHO ")),
    ("xinetd", lambda code: re.match(r"service \S+\n\{", code)),
    ("inetd", lambda code: re.match(r"nbd\s+stream\s+tcp", code)),
    ("environment", lambda code: code.startswith("NBDINETD_")),
    ("console", lambda code: re.match(r"[$#] \S", code)),
    ("haproxy", lambda code: re.match(r"(global|defaults|listen|frontend|backend)( \w+)?\n  ", code)),
    ("sh", lambda code: code.startswith("#!/bin/sh\n") or code.split()[0] in COMMANDS),
    ("promql", lambda code: re.match(r"\w+\(.*\)\n$", code)),
    ("output", lambda code: re.match(r'Status: "|serving |negotiating |CONNECTIONS |NBD_[A-Z_]+=|the sandbox is |'
                                     r"/\S+\.export:\d+: ", code)),
)


def language_of(code):
    return next((language for language, rule in RULES if rule(code)), None)


def shipped_blocks(top):
    """What is in units/, whole, and the lines in comments that a reader is to use."""
    def whole(name, language):
        return Block(f"units/{name}", 1, language, [], (top / "units" / name).read_text())
    default, inetd, xinetd = (whole(name, language) for name, language in (
        ("nbdinetd.default", "environment"), ("nbdinetd.inetd.in", "inetd"), ("nbdinetd.xinetd.in", "xinetd")))
    for block in (default, inetd):
        block.code = re.sub(r"^#(?=\S)", "", block.code, flags=re.MULTILINE)
        block.code = re.sub(r"^#.*\n", "", block.code, flags=re.MULTILINE)
    units = [whole(str(path.relative_to(top / "units")), "ini") for path in sorted((top / "units").rglob("*"))
             if re.search(r"\.(socket|service|slice|conf)(\.in)?$", path.name)
             and not (path.suffix != ".in" and path.with_name(path.name + ".in").exists())]
    return [default, inetd, xinetd, *units]


def documents(top):
    """The paths of the documents that may have blocks."""
    return sorted({path for glob in MARKDOWN for path in Path(top).glob(glob)} | set(Path(top).glob("man/*.in")))


def all_blocks(top):
    blocks = []
    for path in documents(top):
        name = str(path.relative_to(top))
        find = manual_blocks if path.suffix == ".in" else markdown_blocks
        blocks += find(name, path.read_text())
    return blocks + shipped_blocks(Path(top))


# ------------------------------------------------------------------ a console

@dataclass
class Typed:
    """A command at a prompt, and what stands below it: what it prints, or what its editor gets."""
    command: str
    below: str = ""


def is_whole(command):
    """Whether a shell would run this, and not wait for more."""
    if command.rstrip("\n").endswith("\\"):
        return False
    here = re.search(r"<<-?'?(\w+)'?", command)
    if here and not re.search(rf"^{here[1]}$", command, re.MULTILINE):
        return False
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True


def typed(code):
    """The commands of a session at a terminal."""
    commands = []
    for line in code.splitlines():
        prompt = re.match(r"^[$#] (.*)$", line)
        if commands and not is_whole(commands[-1].command):
            commands[-1].command += line + "\n"
        elif prompt:
            commands.append(Typed(prompt[1] + "\n"))
        elif commands:
            commands[-1].below += line + "\n"
        else:
            raise ValueError(f"no prompt: {line}")
    return commands


def words_of(script):
    """The simple commands of a script, each as its words; what a shell does between them is left out."""
    script = re.sub(r"\\\n\s*", " ", script)
    script = re.sub(r"<<-?'?(\w+)'?(.*?)\n.*?^\1$", r"\2", script, flags=re.MULTILINE | re.DOTALL)
    commands = [[]]
    lexer = shlex.shlex(script, posix=True, punctuation_chars="|&;()\n")
    lexer.whitespace, lexer.commenters, lexer.whitespace_split = " \t", "", True
    skip = False
    for word in lexer:
        if re.fullmatch(r"[|&;()\n]+", word):
            commands.append([])
            skip = False
        elif word.startswith("#"):
            skip = True
        elif not skip:
            commands[-1].append(word)
    return [command for command in commands if command]
