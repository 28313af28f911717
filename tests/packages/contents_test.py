#!/usr/bin/python3
"""What is in dist/, as `make debs` and `make rpm` have left it, and in the tarball that they are built from."""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402

DIST = BUILDDIR / "dist"
# Of no use without the repository.
NOT_PACKED = {".ci/run", ".git-blame-ignore-revs", ".gitignore"}


def only(pattern, place=DIST):
    found = sorted(place.glob(pattern))
    if len(found) != 1:
        raise AssertionError(f"{place} has {len(found)} files {pattern}; `make debs` and `make rpm` make them")
    return found[0]


def output(*argv):
    return subprocess.run(list(map(str, argv)), text=True, check=True, stdout=subprocess.PIPE).stdout


def of_deb(package):
    """The paths of its files, those in /lib by their name in /usr."""
    paths = set()
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as process, \
            tarfile.open(fileobj=process.stdout, mode="r|") as archive:
        for member in archive:
            if not member.isdir():
                paths.add(re.sub(r"^\.(/usr)?/lib/", "/usr/lib/", member.name).removeprefix("."))
    return paths


def of_rpm(package):
    lines = output("rpm", "-qp", "--queryformat", "[%{FILEMODES:perms} %{FILENAMES}\\n]", package).splitlines()
    return {line.split(" ", 1)[1] for line in lines if not line.startswith("d")}


def installed(paths):
    """Without documentation and debhelper's own, and with the manual as it was before gzip."""
    return {re.sub(r"(/man/.*)\.gz$", r"\1", path) for path in paths
            if not re.match(r"/usr/share/(doc|licenses|lintian)/|/usr/lib/\.build-id/|/etc/needrestart/", path)}


@test("the tarball has every file of the repository")
def _(t):
    require((SRCDIR / ".git").exists(), "there is no repository here")
    tracked = set(output("git", "-C", SRCDIR, "ls-files").splitlines())
    with tarfile.open(only("nbdinetd-*.tar.xz", BUILDDIR)) as archive:
        packed = {member.name.partition("/")[2] for member in archive}
    eq(sorted(tracked - packed), sorted(NOT_PACKED))


@test("lintian finds neither an error nor a warning, and every override is used")
def _(t):
    need("lintian")
    found = subprocess.run(["lintian", "--pedantic", "--display-info", only("nbdinetd_*.changes")],
                           text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False).stdout
    serious = [line for line in found.splitlines() if re.match(r"[EW]: |.*unused-override", line)]
    eq(serious, [])


@test("rpmlint finds no error")
def _(t):
    need("rpmlint")
    found = subprocess.run(["rpmlint", SRCDIR / "packaging/nbdinetd.spec"], text=True, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, check=False).stdout
    matches(r"\b0 errors,", found)


@test("needrestart restarts no service of nbdinetd by itself")
def _(t):
    """As needrestart reads it, which matches names with the keys, and takes 0 for no."""
    program = r"""our %nrconf = (override_rc => {}); do shift; die $@ if $@;
        for my $unit (@ARGV) { for my $re (keys %{$nrconf{override_rc}}) {
            print "$unit $nrconf{override_rc}->{$re}\n" if $unit =~ /$re/; } }"""
    units = ["nbdinetd@0-1.service", "nbdinetd-golden@0-1.service", "nbdinetd-listen.service"]
    said = output(need("perl"), "-e", program, SRCDIR / "debian/needrestart.conf", *units, "ssh.service")
    eq(said.splitlines(), [f"{unit} 0" for unit in units])


@test("both packages have the same files, and every program has lost its debug information")
def _(t):
    if not list((BUILDDIR / "dist").glob("nbdinetd-*.rpm")):
        raise Skip("`make rpm` hasn't made a package")
    deb, rpm = of_deb(only("nbdinetd_*.deb")), of_rpm(only("nbdinetd-*.rpm"))
    eq(sorted(installed(rpm)), sorted(installed(deb)))
    for path in ("/usr/sbin/nbdinetd", "/usr/bin/nbdinetctl", "/usr/lib/systemd/system-generators/nbdinetd-generator",
                 "/usr/lib/systemd/user-generators/nbdinetd-generator", "/usr/lib/systemd/system/nbdinetd.socket",
                 "/usr/lib/sysusers.d/nbdinetd.conf", "/usr/lib/systemd/catalog/nbdinetd.catalog",
                 "/etc/default/nbdinetd", "/etc/xinetd.d/nbdinetd", "/usr/share/man/man8/nbdinetd.8.gz"):
        contains(path, deb)
    place = t.path("deb")
    subprocess.run(["dpkg-deb", "-x", only("nbdinetd_*.deb"), place], check=True)
    for path in ("usr/sbin/nbdinetd", "usr/bin/nbdinetctl"):
        sections = output("readelf", "-SW", f"{place}/{path}")
        eq(".debug_info" in sections or ".symtab" in sections, False, path)
    # Nothing is linked that only nbdinetctl or only some connections need.
    needed = set(re.findall(r"NEEDED.*\[(.*?)\.so", output("readelf", "-dW", f"{place}/usr/sbin/nbdinetd")))
    eq(needed - {"libc", "libm", "ld-linux-x86-64", "ld-linux-aarch64"}, set())


if __name__ == "__main__":
    main()
