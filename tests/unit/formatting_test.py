#!/usr/bin/python3
"""The tree is formatted by clang-format, as .clang-format says."""

import shutil
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
from harness import *
from harness import need, test

FOLDERS = ("src", "tests", "bench")
SUFFIXES = (".cc", ".h", ".c")
GENERATED = {"src/sandbox/filters.cc"}


def sources(top):
    return sorted(path for folder in FOLDERS for path in (top / folder).rglob("*")
                  if path.suffix in SUFFIXES and str(path.relative_to(top)) not in GENERATED)


def complaints(files):
    """The lines that clang-format would change."""
    done = subprocess.run([need("clang-format"), "--dry-run", *map(str, files)], text=True,
                          stderr=subprocess.PIPE, check=False)
    return [line for line in done.stderr.splitlines() if "clang-formatted" in line]


@test("every source is formatted as .clang-format says")
def _(_context):
    files = sources(SRCDIR)
    if len(files) < 100:
        raise AssertionError(f"only {len(files)} sources found")
    eq(complaints(files), [])


@test("the check finds a line that is formatted in another way")
def _(context):
    folder = Path(context.path("tree"))
    folder.mkdir()
    shutil.copy(SRCDIR / ".clang-format", folder)
    (folder / "a.cc").write_text("int  f(int *p) { return *p; }\n")
    eq(len(complaints([folder / "a.cc"])) >= 1, True)


if __name__ == "__main__":
    main()
