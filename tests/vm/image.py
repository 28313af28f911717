#!/usr/bin/python3
"""image.py

Makes what the tests of this folder boot, in .tools/vm of the build, or in the folder that NBDINETD_VM
names: Debian's cloud kernel, whose drivers for NVMe and ext4 are built in, so that it needs no initramfs,
and a root file system of the same release with systemd as its process 1 and the clients of the tests.

    vmlinuz     the kernel
    root.img    the root file system: raw, ext4, sparse; only ever booted as a snapshot
    release     what the two are, for people

It does nothing when both are there and were made by this version of the script. Needs root, mmdebstrap,
mkfs.ext4, and Debian's packages. `./quickstart vm` installs what is missing.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
from harness import NBDINETD, TOOLS, find_tool

FOLDER = Path(os.environ.get("NBDINETD_VM") or TOOLS / "vm")
KERNEL, ROOT, RELEASE = FOLDER / "vmlinuz", FOLDER / "root.img", FOLDER / "release"
GUEST = Path(__file__).resolve().parent / "guest"
SIZE_GIB = 4

PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "udev", "kmod", "iproute2", "procps", "file", "strace",
    "python3", "python3-libnbd", "libnbd-bin", "nbd-client", "qemu-utils", "openssl", "gnutls-bin",
    "e2fsprogs", "xfsprogs", "lvm2", "dmsetup", "cryptsetup-bin", "libssl3", "libseccomp2", "libsystemd0",
)
# Of no use here, and slow where each instruction is emulated.
MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "fstrim.timer", "getty.target", "ldconfig.service", "lvm2-monitor.service",
    "nbd-client.service", "systemd-binfmt.service", "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service", "systemd-journal-flush.service", "systemd-logind.service",
    "systemd-pcrphase.service", "systemd-pcrphase-sysinit.service", "systemd-pstore.service",
    "systemd-random-seed.service", "systemd-sysusers.service", "systemd-tmpfiles-clean.timer",
    "systemd-update-done.service", "systemd-update-utmp.service", "systemd-user-sessions.service",
)

# Runs when all packages are in the root. The kernel's package would make an initramfs. It is unpacked
# beside the system, whose /lib is a link.
FETCH_KERNEL = "; ".join((
    'mkdir "$1/kernel" && cd "$1/kernel"',
    'export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"',
    "package=$(apt-cache depends linux-image-cloud-amd64 | "
    "sed -n 's/.*Depends: \\(linux-image-.*\\)/\\1/p' | head -n 1)",
    'apt-get -q -o APT::Sandbox::User=root download "$package"',
    'dpkg-deb -x "$package"_*.deb .'))


def version():
    """What the image depends on."""
    digest = hashlib.sha256()
    for path in (Path(__file__), GUEST / "init"):
        digest.update(path.read_bytes())
    digest.update(" ".join(packages()).encode())
    return digest.hexdigest()


def packages():
    """The packages of the image: also those of the libraries that the program is linked with."""
    linked = subprocess.run(["ldd", NBDINETD], capture_output=True, text=True, check=False).stdout
    found = set(PACKAGES)
    for path in re.findall(r"=> (/\S+)", linked):
        # dpkg knows a library by its path on disk, with or without /usr.
        real = os.path.realpath(path)
        for name in (path, real, real.removeprefix("/usr")):
            owner = subprocess.run(["dpkg-query", "-S", name], capture_output=True, text=True, check=False)
            if owner.returncode == 0:
                found.add(owner.stdout.partition(":")[0])
                break
    return sorted(found)


def is_current():
    return KERNEL.exists() and ROOT.exists() and RELEASE.exists() and \
        RELEASE.read_text().endswith(version() + "\n")


def release():
    """(code name, name for people) of this machine's release."""
    text = Path("/etc/os-release").read_text()
    return (re.search(r"^VERSION_CODENAME=(\S+)", text, re.MULTILINE)[1],
            re.search(r'^PRETTY_NAME="?([^"\n]*)', text, re.MULTILINE)[1])


def settle(root):
    """A system that boots fast, and on which nothing happens by itself."""
    for version_of in (root / "kernel/lib/modules").iterdir():
        shutil.move(version_of, root / "usr/lib/modules" / version_of.name)
        subprocess.run(["chroot", root, "depmod", version_of.name], check=True)
    shutil.rmtree(root / "kernel")
    for name in ("doc", "man", "locale", "info"):
        shutil.rmtree(root / "usr/share" / name, ignore_errors=True)
    units = root / "etc/systemd/system"
    for unit in MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    # Those of systemd look for what isn't here; that of the payload is in another folder.
    generators = root / "etc/systemd/system-generators"
    generators.mkdir()
    for generator in (root / "usr/lib/systemd/system-generators").iterdir():
        (generators / generator.name).symlink_to("/dev/null")
    for name, text in (("etc/hostname", "vm\n"), ("etc/hosts", "127.0.0.1 localhost vm\n"),
                       ("etc/machine-id", hashlib.md5(b"vm").hexdigest() + "\n"), ("etc/fstab", ""),
                       ("etc/.updated", ""), ("var/.updated", "")):
        (root / name).write_text(text)
    (root / "payload").mkdir()
    shutil.copy(GUEST / "init", root / "usr/sbin/vm-init")


def build():
    codename, name = release()
    FOLDER.mkdir(parents=True, exist_ok=True)
    RELEASE.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as work:
        root = Path(work) / "root"
        subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages())}",
                        f"--customize-hook={FETCH_KERNEL}", codename, root], check=True)
        kernel, = (root / "kernel/boot").glob("vmlinuz-*")
        shutil.copy(kernel, KERNEL)
        settle(root)
        made = Path(work) / "root.img"
        # Without a journal: the image is only ever booted as a snapshot.
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-N", "131072", "-E",
                        "lazy_itable_init=0", "-d", root, made, f"{SIZE_GIB}G"], check=True,
                       stdout=subprocess.DEVNULL,
                       env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"})
        made.rename(ROOT)
    RELEASE.write_text(f"{name}, {kernel.name.removeprefix('vmlinuz-')}\n{version()}\n")
    return RELEASE.read_text().partition("\n")[0]


def missing():
    """The first thing without which no image can be made here, or None."""
    if os.uname().machine != "x86_64":
        return "only a machine with x86_64 is emulated"
    if os.geteuid() != 0:
        return "needs root, to make a root file system"
    for program in ("mmdebstrap", "mkfs.ext4", "dpkg-query", "ldd"):
        if not find_tool(program):
            return f"{program} is not installed; ./quickstart vm installs it"
    return None


def main():
    if is_current():
        return 0
    if reason := missing():
        print(f"image.py: {reason}", file=sys.stderr)
        return 1
    print(f"making a machine in {FOLDER}", flush=True)
    print(build())
    return 0


if __name__ == "__main__":
    sys.exit(main())
