#!/usr/bin/python3
"""nbdinetd-generator by itself: its arguments, what it prints and writes, its exit statuses. What systemd
makes of its units is in pid1_exports_test.py."""

import os
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402

GENERATOR = str(BUILDDIR / "src" / "nbdinetd-generator")


def root_with(t, **exports):
    """A directory for --root with these exports."""
    root = Path(t.fresh(".root"))
    for name, text in exports.items():
        path = root / "etc/nbdinetd" / f"{name}.export"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def run(t, *arguments, status=0, **environment):
    """The finished process. Nothing of a service manager's is in its environment."""
    process = t.spawn([GENERATOR, *arguments], env={"SYSTEMD_SCOPE": None, **environment})
    process.expect(status)
    return process


def output(t):
    path = Path(t.fresh(".units"))
    path.mkdir()
    return path


def tree(directory):
    """{name: content, or target of a link} of all files below."""
    return {str(p.relative_to(directory)): os.readlink(p) if p.is_symlink() else p.read_text()
            for p in sorted(directory.rglob("*")) if p.is_symlink() or p.is_file()}


GOOD = "[Export]\nFile=/srv/a.img\n"
BAD = "[Export]\nFile=/srv/a.img\nReadOnly=maybe\n"


@test("units and links are written into the first directory, and nowhere else")
def _(t):
    normal, early, late = output(t), output(t), output(t)
    run(t, f"--root={root_with(t, golden=GOOD)}", normal, early, late)
    files = tree(normal)
    eq(sorted(files), ["nbdinetd-golden.socket", "nbdinetd-golden@.service",
                       "sockets.target.wants/nbdinetd-golden.socket", "system-nbdinetd-golden.slice"])
    eq(files["sockets.target.wants/nbdinetd-golden.socket"], "../nbdinetd-golden.socket")
    eq((tree(early), tree(late)), ({}, {}))
    eq([(normal / name).stat().st_mode & 0o777 for name in files], [0o644] * 4)
    # With one argument, as for tests (systemd.generator(7)), and without any exports.
    other = output(t)
    run(t, f"--root={t.dir}/missing", other)
    eq(tree(other), {})


@test("--dry-run prints what would be written, of all exports, of one, and of a file anywhere")
def _(t):
    root = root_with(t, golden=GOOD, other=GOOD + "[Socket]\nListenStream=1\n")
    normal = output(t)
    run(t, f"--root={root}", normal)
    text = run(t, f"--root={root}", "--dry-run").stdout()
    for name, content in tree(normal).items():
        contains(f"# {name} -> {content}\n" if "/" in name else f"# {name}\n{content}\n", text)
    one = run(t, f"--root={root}", "--dry-run", "other").stdout()
    contains("ListenStream=1\n", one)
    eq("golden" in one, False)
    contains("SourcePath=" + str(root), run(t, "--dry-run", f"{root}/etc/nbdinetd/other.export").stdout())


@test("an error is a line, and a failure only with --dry-run")
def _(t):
    root, normal = root_with(t, bad=BAD, good=GOOD), output(t)
    line = f"nbdinetd-generator: {root}/etc/nbdinetd/bad.export:3: ReadOnly=maybe: use yes or no\n"
    eq(run(t, f"--root={root}", normal).stderr(), line)
    contains("nbdinetd-good.socket", tree(normal))
    process = run(t, f"--root={root}", "--dry-run", status=EX_CONFIG)
    eq(process.stderr(), line)
    contains("# nbdinetd-good.socket", process.stdout())
    eq(run(t, f"--root={root}", "--dry-run", "good").stderr(), "")


@test("a message is one line of a bounded length, whatever a file and its name have in them")
def _(t):
    root = root_with(t, **{"a\nb\x1bc": GOOD, "line": "x" * 300000, "value": "[Export]\nFile=" + "x" * 300000,
                           "x" * 240: GOOD})
    lines = run(t, f"--root={root}", output(t)).stderr().splitlines()
    eq(len(lines), 4)
    for line in lines:
        matches("^nbdinetd-generator: [ -~]+$", line)
        assert len(line) < 1000, line
    contains("/a?b?c.export: ", lines[0])


@test("wrong usage, an unknown export and a directory that can't be written to have statuses of their own")
def _(t):
    for arguments in ([], ["a", "b", "c", "d"], ["--dry-run", "a", "b"], ["--dryrun"]):
        contains("--help", run(t, *arguments, status=EX_USAGE).stderr())
    contains('there is no export "x": no x.export in /etc/nbdinetd, ',
             run(t, "--dry-run", "x", status=EX_NOINPUT).stderr())
    contains("No such file or directory", run(t, f"{t.dir}/missing", status=EX_CANTCREAT).stderr())
    contains("Usage: nbdinetd-generator", run(t, "--help").stdout())
    matches(r"^nbdinetd-generator [0-9.]+$", run(t, "--version").stdout())


@test("for a user, the exports are those of the home directory, with --user and in the user's manager")
def _(t):
    home = Path(t.path("home"))
    (home / ".config/nbdinetd").mkdir(parents=True)
    (home / ".config/nbdinetd/mine.export").write_text(GOOD)
    for arguments, environment in ((["--user"], {}), ([], {"SYSTEMD_SCOPE": "user"})):
        normal = output(t)
        run(t, *arguments, normal, HOME=home, XDG_CONFIG_HOME=None, **environment)
        eq(sorted(tree(normal)), ["nbdinetd-mine.socket", "nbdinetd-mine@.service",
                                  "sockets.target.wants/nbdinetd-mine.socket"])


@test("generators that write into one directory at once don't mix their output")
def _(t):
    roots = [root_with(t, **{f"e{i}": f"[Export]\nFile=/{'x' * size}\n[Socket]\nListenStream={i}\n"
                             for i in range(1, 101)}) for size in (10, 2000)]
    alone = []
    for root in roots:
        normal = output(t)
        run(t, f"--root={root}", normal)
        alone.append(tree(normal))
    together = output(t)
    processes = [t.spawn([GENERATOR, f"--root={roots[i % 2]}", together]) for i in range(6)]
    for process in processes:
        process.expect(0)
    mixed = tree(together)
    eq(sorted(mixed), sorted(alone[0]))
    for name, content in mixed.items():
        assert content in (alone[0][name], alone[1][name]), name


if __name__ == "__main__":
    main()
