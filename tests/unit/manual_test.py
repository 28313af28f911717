#!/usr/bin/python3
"""The manual pages: mandoc finds nothing wrong with them, the first screen of each shows how to use what it
is about, and whatever refers to a page or to a section of it finds that."""

import re
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
from harness import SRCDIR, eq, main, need, test

# A terminal's, which is what one sees before one scrolls.
LINES, COLUMNS = 24, 80
# What may name a page.
TEXTS = ("*.md", "quickstart", "src/**/*.cc", "src/**/*.h", "units/**/*", "doc/*.md", "completions/**/*",
         "tests/**/*.py", "tests/**/*.cc", "tests/**/*.h", "man/*.in")
PAGE = r"(nbdinetd(?:-[a-z]+|\.[a-z-]+)?|nbdinetctl)\((\d)\)"
TITLE = r"[A-Z]{2,}(?: [A-Z]+)*"


def read_pages(top):
    """{name of the page, as nbdinetd.8: its source}"""
    return {path.name.removesuffix(".in"): path.read_text() for path in sorted((top / "man").glob("*.in"))}


def read_texts(top):
    """{path from the top: text} of all that may name a page, but for the examples below."""
    paths = {path for pattern in TEXTS for path in top.glob(pattern) if path.is_file()}
    return {str(path.relative_to(top)): path.read_text() for path in sorted(paths) if path.name != Path(__file__).name}


def titles(source):
    return set(re.findall(r"^\.S[hs] (.*)$", source, re.MULTILINE))


# ------------------------------------------------------------------ how it looks

def mandoc(source, *arguments):
    done = subprocess.run([need("mandoc"), *arguments], input=source, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    return done.stdout


def complaints(name, source):
    """What mandoc warns of, as NAME:LINE:COLUMN: ..."""
    return [line.replace("mandoc: <stdin>", name)
            for line in mandoc(source, "-Tlint", "-Wwarning").splitlines()]


def rendered(source):
    """The lines of the page, in plain characters."""
    text = mandoc(source, "-Tutf8", "-O", f"width={COLUMNS}")
    return [line.rstrip() for line in re.sub(".\b", "", text).splitlines()]


def first_example(source):
    """The lines of the first literal display behind the synopsis; none if there is none."""
    _, _, text = source.partition("\n.Sh SYNOPSIS\n")
    found = re.search(r"^\.Bd -literal[^\n]*\n(.*?)^\.Ed$", text, re.MULTILINE | re.DOTALL)
    return [line.replace(r"\e", "\\") for line in found[1].splitlines()] if found else []


def faults_of_first_screen(source):
    screen = [line.strip() for line in rendered(source)[:LINES]]
    faults = []
    if "SYNOPSIS" not in screen or "DESCRIPTION" not in screen:
        faults.append(f"the synopsis doesn't end in the first {LINES} lines")
    example = first_example(source)
    if not example:
        faults.append("there is no example")
    faults += [f"not in the first {LINES} lines: {line}" for line in example if line.strip() not in screen]
    return faults


# ------------------------------------------------------------------ references

def words_of(arguments):
    """The arguments of a macro as text, without the delimiters behind them."""
    return re.sub(r"( [.,:;)\]])+$", "", arguments.strip())


def faults_of_macros(pages):
    """What .Xr and .Sx name, and isn't there. `.Sx TITLE` is one of the page, or of another one
    if the next lines are `in` and `.Xr PAGE`."""
    faults = []
    for name, source in pages.items():
        for page, section in re.findall(r"^\.(?:[^\n]* )?Xr (\S+) (\S+)", source, re.MULTILINE):
            if page.startswith(("nbdinetd", "nbdinetctl")) and f"{page}.{section}" not in pages:
                faults.append(f"{name} refers to {page}({section}), which is no page")
        for title, page, section in re.findall(
                r"^\.(?:[^\n]* )?Sx ([^\n]*)(?:\nin\n\.Xr (\S+) (\S+))?", source, re.MULTILINE):
            target = f"{page}.{section}" if page else name
            if words_of(title) not in titles(pages.get(target, "")):
                faults.append(f"{name} refers to the section {words_of(title)} of {target}, which has none")
    return faults


def joined(text):
    """The text without its line breaks, nor what begins a comment's next line or ends a string's."""
    return re.sub(r" +", " ", re.sub(r'"?\s*\n\s*(?://|#|\\|"|\*)*\s*', " ", text))


def faults_of_mentions(pages, texts):
    """Pages and sections of pages that a text names, and that aren't there."""
    faults = []
    for path, text in texts.items():
        text = joined(text)
        for page, number in re.findall(PAGE, text):
            if f"{page}.{number}" not in pages:
                faults.append(f"{path} names {page}({number}), which is no page")
        mentions = [(title, f"{page}.{number}")
                    for title, page, number in re.findall(rf"\b({TITLE}),? (?:in|of) `?{PAGE}", text)]
        for pattern in (rf'{PAGE}`?,? (?:section )?"([^"]+)"', rf"{PAGE}`? says (?:how [^.()]*)?(?:\(|in )({TITLE})\b"):
            mentions += [(title, f"{page}.{number}") for page, number, title in re.findall(pattern, text)]
        for title, page in mentions:
            if title.lower() not in {known.lower() for known in titles(pages.get(page, ""))}:
                faults.append(f'{path} names "{title}" of {page}, which has no such section')
    return faults


def installed(makefile):
    """The pages that the Makefile installs."""
    makefile = makefile.replace("\\\n", " ")
    return sorted(word.removeprefix("man/")
                  for words in re.findall(r"^nodist_man_MANS \+?= (.*)$", makefile, re.MULTILINE)
                  for word in words.split())


# ------------------------------------------------------------------ the project

PAGES = read_pages(SRCDIR)


@test("mandoc warns of nothing in a manual page")
def _(_context):
    eq([line for name, source in PAGES.items() for line in complaints(name, source)], [])


@test("the first screen of each page has its synopsis and an example")
def _(_context):
    eq({name: faults for name, source in PAGES.items() if (faults := faults_of_first_screen(source))}, {})


@test("every page and section that a manual page refers to is there")
def _(_context):
    eq(sum(source.count("\n.Xr nbdinetd") for source in PAGES.values()) > 50, True, "references")
    eq(faults_of_macros(PAGES), [])


@test("every page and section that a message, a unit or a document names is there")
def _(_context):
    texts = read_texts(SRCDIR)
    eq(sum(len(re.findall(PAGE, text)) for text in texts.values()) > 50, True, "mentions")
    eq(faults_of_mentions(PAGES, texts), [])


@test("every page is installed, is made anew when its source changes, and is one that nbdinetd(8) refers to")
def _(_context):
    makefile = (SRCDIR / "Makefile.am").read_text()
    eq(installed(makefile), sorted(PAGES))
    eq(sorted(re.findall(r"^man/(\S+): \$\(srcdir\)/man/\1\.in$", makefile, re.MULTILINE)), sorted(PAGES))
    main_page = PAGES["nbdinetd.8"].partition("\n.Sh OPTIONS\n")[0] + PAGES["nbdinetd.8"].partition("\n.Sh SEE ALSO\n")[2]
    referred = {".".join(words) for words in re.findall(r"Xr (\S+) (\S+)", main_page)}
    eq(sorted(set(PAGES) - referred - {"nbdinetd.8"}), [])


@test("every page says in its head what it is, and at its end what to read next")
def _(_context):
    for name, source in PAGES.items():
        title, section = name.rsplit(".", 1)
        eq(re.search(r"^\.Dt (.*)$", source, re.MULTILINE)[1], f"{title.upper()} {section}", name)
        eq(f"\n.Sh NAME\n.Nm {title}\n.Nd " in source, True, f"{name} has a name")
        eq("\n.Sh SEE ALSO\n" in source, True, f"{name} has more to read")


# ------------------------------------------------------------------ the checks themselves

HEAD = ".Dd November 30, 2026\n.Dt X 8\n.Os\n.Sh NAME\n.Nm x\n.Nd y\n"
GOOD = HEAD + ".Sh SYNOPSIS\n.Nm x\n.Op Ar FILE\n.Sh DESCRIPTION\nText.\n.Bd -literal\n$ x 'a \\e b'\n.Ed\n"


@test("the check finds what mandoc warns of")
def _(_context):
    eq(complaints("x.8", GOOD), [])
    eq(len(complaints("x.8", GOOD + ".Sh MORE\n.Li\n")), 1)


@test("the check finds a synopsis and an example that aren't in the first screen")
def _(_context):
    eq(faults_of_first_screen(GOOD), [])
    eq(faults_of_first_screen(HEAD + ".Sh SYNOPSIS\n.Nm x\n.Sh DESCRIPTION\nText.\n"), ["there is no example"])
    long = GOOD.replace("Text.\n", "Text.\n.Pp\n" * 12)
    eq(faults_of_first_screen(long), ["not in the first 24 lines: $ x 'a \\ b'"])
    long = GOOD.replace(".Op Ar FILE\n", ".Nm x\n" * 20)
    eq(faults_of_first_screen(long)[0], "the synopsis doesn't end in the first 24 lines")


@test("the check finds a reference to a page or section that isn't there")
def _(_context):
    pages = {"nbdinetd.8": ".Sh RULES\n.Ss Kept copies\n", "nbdinetd-tls.8": ".Sh CLIENTS\n"}

    def of(text):
        return faults_of_macros({**pages, "nbdinetd-x.8": text})

    eq(of(".Xr systemd 1\n.Pq Xr nbdinetd-tls 8 .\n.Sh A B\n.Sx A B ,\n.Pq Sx A B\n.Sx CLIENTS\nin\n.Xr nbdinetd-tls 8 .\n"), [])
    eq(of("see\n.Xr nbdinetd-tsl 8 .\n"), ["nbdinetd-x.8 refers to nbdinetd-tsl(8), which is no page"])
    eq(of(".Sx RULES .\n"), ["nbdinetd-x.8 refers to the section RULES of nbdinetd-x.8, which has none"])
    eq(of(".Sx CLIENTS\nin\n.Xr nbdinetd 8 ,\n"),
       ["nbdinetd-x.8 refers to the section CLIENTS of nbdinetd.8, which has none"])

    def mentioned(text):
        return faults_of_mentions(pages, {"a": text})

    for text in ("see nbdinetd(8)", "see RULES in nbdinetd(8)", "CLIENTS in `nbdinetd-tls(8)`", 'nbdinetd(8), "Rules",',
                 "man:nbdinetd-tls(8)", "nbdinetd(8) says how (RULES)", "// see RULES in\n// nbdinetd(8)", "systemd(1)",
                 "the NBD server nbdinetd(8)"):
        eq(mentioned(text), [], text)
    for text in ("see nbdinetd(1)", "man:nbdinetd-rules(8)", "see\n// nbdinetd.export(5)"):
        eq(len(mentioned(text)), 1, text)
    for text in ("see CLIENTS in nbdinetd(8)", "see CLIENTS in \"\n      \"nbdinetd(8)", 'nbdinetd(8), "Kernels", says',
                 "`nbdinetd(8)` says how to (KEPT RULES)", "# nbdinetd-tls(8) says in RULES: it"):
        eq([fault.endswith("which has no such section") for fault in mentioned(text)], [True], text)


@test("the check reads what the Makefile installs")
def _(_context):
    eq(installed("nodist_man_MANS = man/b.8 \\\n\tman/a.1\nif X\nnodist_man_MANS += man/c.5\nendif\n"),
       ["a.1", "b.8", "c.5"])


if __name__ == "__main__":
    main()
