"""What the tests of the documents share: the blocks of all documents, with this build's programs in them."""

import re
import shlex

import documents
from harness import BUILDDIR, EX_USAGE, NBDINETD, SRCDIR, configured, eq
from printed import output_of

NBDINETCTL = BUILDDIR / "src" / "nbdinetctl"
BLOCKS = documents.all_blocks(SRCDIR)


def blocks_in(*languages):
    found = [block for block in BLOCKS if block.language in languages]
    eq(bool(found), True, f"blocks in {languages[0]}")
    return found


def here(text):
    """With the programs of this build, wherever they are installed."""
    text = text.replace("@bindir@/nbdinetctl", str(NBDINETCTL)).replace("@sysconfdir@", "/etc")
    places = "|".join(map(re.escape, ("@sbindir@", "/usr/local/sbin", "/usr/sbin", configured("sbindir"))))
    return re.sub(rf"(?:{places})/nbdinetd(?=\s|$)", lambda _: NBDINETD, text, flags=re.MULTILINE)


def no_faults(check, blocks, **how):
    """check(block) yields what is wrong with it."""
    faults = [f"{block}: {fault}" for block in blocks for fault in check(block, **how)]
    eq(faults, [])


def commands_of(block):
    """The script that a block is, or the commands at its prompts."""
    if block.language == "console":
        return "".join(typed.command for typed in documents.typed(block.code))
    return block.code


def faults_of_server(words, directory):
    """What nbdinetd says of its command line: it would open the export if it accepted it."""
    status, said = output_of([NBDINETD, "--check", *words], cwd=directory)
    if status == EX_USAGE:
        yield f"nbdinetd {shlex.join(words)}: {said}"
