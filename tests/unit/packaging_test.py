#!/usr/bin/python3
"""The packages' texts agree with configure.ac, which has the version."""

import re
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
from harness import BUILDDIR, SRCDIR, eq, main, test

VERSIONS = {
    "configure.ac": r"^AC_INIT\(\[nbdinetd\], \[(.*?)\]",
    "debian/changelog": r"\Anbdinetd \((.*?)\) ",
    "packaging/nbdinetd.spec": r"^Version:\s+(\S+)$",
}


def version_in(text, pattern):
    found = re.search(pattern, text, re.MULTILINE)
    return found and found[1]


@test("configure.ac, debian/changelog and nbdinetd.spec have the same version")
def _(_context):
    versions = {name: version_in((SRCDIR / name).read_text(), pattern) for name, pattern in VERSIONS.items()}
    eq(versions, dict.fromkeys(VERSIONS, versions["configure.ac"]))
    eq(bool(versions["configure.ac"]), True)


@test("the check finds another version")
def _(_context):
    eq(version_in("nbdinetd (1.0) unstable; urgency=low\n", VERSIONS["debian/changelog"]), "1.0")
    eq(version_in("Name: x\nVersion:        2.0\n", VERSIONS["packaging/nbdinetd.spec"]), "2.0")


@test("the units read their settings where the generator does, and not below the prefix")
def _(_context):
    made = (BUILDDIR / "Makefile").read_text()
    eq(re.search(r"^sysconfdir = (.)", made, re.MULTILINE)[1], "/")


@test("each package installs the build's packages that configure looks for")
def _(_context):
    modules = set(re.findall(r"PKG_CHECK_MODULES\(\[\w+\], \[(\w+) >=", (SRCDIR / "configure.ac").read_text()))
    spec = (SRCDIR / "packaging/nbdinetd.spec").read_text()
    eq(sorted(modules - set(re.findall(r"pkgconfig\((\w+)\)", spec))), [])
    control = (SRCDIR / "debian/control").read_text()
    wanted = {"openssl": "libssl-dev", "blkid": "libblkid-dev"}
    eq([name for name in modules if f"\n {wanted.get(name, name + '-dev')},\n" not in control], [])


if __name__ == "__main__":
    main()
