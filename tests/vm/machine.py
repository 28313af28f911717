"""A machine of one's own for tests that need another kernel, its modules, or an end like a power cut.

    make check-vm       the tests: TAP, as ever
    └─ an emulator      Debian's cloud kernel and a root file system of image.py, whose systemd is process 1
       └─ /payload      a disk: what `make install` installs, which is laid over the root directory before
                        systemd starts, and a program, which runs when the machine has booted

A file of tests whose last line is run_inside() runs in the machine: by hand, too, with parts of the names of
tests. One that needs to see the machine from outside makes a Machine by itself.

The processor is emulated: everything takes some twenty times as long. One emulator runs at a time. What the
machine writes is lost with it, but for the disks that a test gives to it.

    NBDINETD_VM          a folder in place of .tools/vm
    NBDINETD_VM_ACCEL    kvm, in place of tcg; it works where no hypervisor is below this machine
    NBDINETD_VM_CONSOLE  a file for the machine's console: the kernel's and systemd's messages
"""

import ctypes
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
import image
import pid1
from harness import CI, SRCDIR, find_tool, interrupt_on_term, note, skip_all

INSIDE = "NBDINETD_INSIDE_VM"  # is set for tests in the machine
EMULATOR = "qemu-system-x86_64"
ACCELERATOR = os.environ.get("NBDINETD_VM_ACCEL") or "tcg"
# So much longer may everything take.
PATIENCE = 20
LIMIT_S = 1500  # of one machine; a guard
MEMORY_MIB = 2048

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def is_inside():
    return INSIDE in os.environ


def reason_against():
    """Why no machine can be booted here, or None."""
    for program in (EMULATOR, "mkfs.ext4", "make"):
        if not find_tool(program):
            return f"{program} is not installed; ./quickstart vm installs it"
    if not image.is_current():
        return f"there is no machine in {image.FOLDER}, or an old one; tests/vm/image.py makes it"
    return None


def _settle_emulator():
    """In the emulator's process before it starts: others go first, and it ends with us."""
    os.nice(5)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Payload:
    """What a machine gets: a folder that becomes its disk /payload."""

    def __init__(self, folder, program):
        """`program` is the text of the script that runs when the machine has booted."""
        self.folder = Path(folder)
        self.folder.mkdir()
        self.root = self.folder / "root"
        self.root.mkdir()
        pid1.stage(self.root, "install-strip")
        pid1.place_units(self.root)
        shutil.copytree(image.GUEST, self.folder / "guest")
        self.write("program", program, 0o755)
        self.write("root/etc/systemd/system/vm.service", (image.GUEST / "vm.service").read_text())
        self.enable("multi-user.target", "/etc/systemd/system/vm.service")

    def write(self, path, text, mode=0o644):
        """A file of the payload, e.g. root/etc/nbdinetd/disk.export."""
        path = self.folder / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def enable(self, target, unit):
        wants = self.root / f"etc/systemd/system/{target}.wants"
        wants.mkdir(parents=True, exist_ok=True)
        (wants / Path(unit).name).symlink_to(unit)

    def add_sources(self, *names):
        """Copies parts of the source tree to /payload/src."""
        for name in names:
            target = self.folder / "src" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(SRCDIR / name, target, ignore=shutil.ignore_patterns(
                "*.o", "*.a", "*.so", "__pycache__", ".deps", ".dirstamp"))

    def disk(self):
        """The disk's image, made anew."""
        result = self.folder.with_suffix(".img")
        result.unlink(missing_ok=True)
        size = int(subprocess.run(["du", "-sk", self.folder], capture_output=True, text=True,
                                  check=True).stdout.split()[0])
        subprocess.run([find_tool("mkfs.ext4"), "-q", "-O", "^has_journal", "-d", self.folder, result,
                        f"{size * 5 // 4 + 16384}K"], check=True, stdout=subprocess.DEVNULL)
        return result


class Machine:
    """One boot, from power on to power off. `folder` is for its files."""

    def __init__(self, folder, payload_disk, disks=(), ports=(), processors=1, tap=None):
        """`disks` are more disks, as QEMU names them in file=: /dev/nvme0n3 and so on. `ports` are
        (port on 127.0.0.1 here, port in the machine); `tap` is the interface here that is the other end of its eth0."""
        self._folder = Path(folder)
        self._status_path, self._output_path = self._folder / "status", self._folder / "output"
        for path in (self._status_path, self._output_path):
            path.write_bytes(b"")
        # One emulator at a time, whoever starts it.
        self._lock = open(image.FOLDER / "lock", "w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._deadline = time.monotonic() + LIMIT_S
        self._errors = open(self._folder / "errors", "wb+")
        self._process = subprocess.Popen(
            self._command(payload_disk, disks, ports, processors, tap), stdin=subprocess.DEVNULL,
            stdout=self._errors, stderr=self._errors, preexec_fn=_settle_emulator,
            # Where it keeps what is written to the root file system.
            env={**os.environ, "TMPDIR": str(self._folder)})

    @staticmethod
    def _accelerator():
        # The emulated processors take turns: where this machine is busy, they would wait for each other.
        return "tcg,thread=single" if ACCELERATOR == "tcg" else ACCELERATOR

    def _command(self, payload_disk, disks, ports, processors, tap):
        # The kernel doesn't try its timer, which may come late.
        command = [
            find_tool(EMULATOR), "-machine", "pc", "-accel", self._accelerator(),
            "-cpu", "host" if ACCELERATOR == "kvm" else "max", "-smp", str(processors), "-m", str(MEMORY_MIB),
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-kernel", image.KERNEL, "-append",
            "root=/dev/nvme0n1 rootfstype=ext4 rootwait rw init=/usr/sbin/vm-init console=ttyS0 "
            "panic=-1 no_timer_check mitigations=off random.trust_cpu=on net.ifnames=0 "
            "cryptomgr.notests systemd.unit=multi-user.target systemd.default_timeout_start_sec=900 "
            "systemd.show_status=no "
            "modprobe.blacklist=ata_piix,ata_generic,i2c_piix4,floppy,pcspkr,kvm_amd,powernow_k8",
            "-device", "nvme,id=nvme,serial=vm"]
        for number, drive in enumerate((f"file={image.ROOT},snapshot=on", f"file={payload_disk},readonly=on",
                                        *(f"file={disk}" for disk in disks)), 1):
            command += ["-drive", f"if=none,id=disk{number},format=raw,{drive}",
                        "-device", f"nvme-ns,bus=nvme,nsid={number},drive=disk{number}"]
        command += ["-serial", f"file:{self._console()}", "-device", "virtio-serial"]
        for name in ("output", "status"):
            command += ["-chardev", f"file,id={name},path={self._folder}/{name}",
                        "-device", f"virtserialport,name={name},chardev={name}"]
        if ports:
            forwards = "".join(f",hostfwd=tcp:127.0.0.1:{here}-:{there}" for here, there in ports)
            command += ["-netdev", f"user,id=net,restrict=on{forwards}"]
        if tap:
            command += ["-netdev", f"tap,id=net,ifname={tap},script=no,downscript=no"]
        if ports or tap:
            command += ["-device", "virtio-net-pci,netdev=net,romfile="]
        return command

    def _console(self):
        return os.environ.get("NBDINETD_VM_CONSOLE") or self._folder / "console"

    @property
    def status(self):
        """The exit status of the payload's program, or None."""
        text = self._status_path.read_text().strip()
        return int(text) if text else None

    def lines(self):
        """What the payload's program prints, line by line as it comes, until it has ended."""
        with open(self._output_path, encoding="utf-8", errors="replace") as output:
            rest = ""
            while True:
                over = self.status is not None or self._process.poll() is not None
                text = output.read()
                *lines, rest = (rest + text).split("\n")
                yield from lines
                if over and not text:
                    break
                if not text:
                    self._check_time()
                    time.sleep(0.02)
            if rest:
                yield rest
        if self.status is None:
            raise harness.HangGuard(f"the machine has ended by itself; {self.last_words()}")

    def wait_for_line(self, wanted):
        """The program's next line has to be this one; others are diagnostics."""
        for line in self.lines():
            if line == wanted:
                return
            note(line)
        raise AssertionError(f"the program has ended with status {self.status} without {wanted!r}")

    def _check_time(self):
        if time.monotonic() > self._deadline:
            raise harness.HangGuard(f"the machine still runs after {LIMIT_S} s; {self.last_words()}")

    def last_words(self):
        """The end of the console, and what the emulator says."""
        self._errors.flush()
        errors = (self._folder / "errors").read_text(errors="replace")
        console = Path(self._console())
        text = console.read_text(errors="replace") if console.exists() else ""
        return "\n".join(["the console:", *text.splitlines()[-30:], errors])

    def cut_power(self):
        """Ends it at once."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._lock.close()
        self._errors.close()


# ------------------------------------------------------------------ a file of tests

def _program(script):
    """The program that runs a file of tests inside."""
    variables = {INSIDE: "1", "NBDINETD": f"{pid1.configured('sbindir')}/nbdinetd",
                 "NBDINETD_SRCDIR": "/payload/src", "NBDINETD_TEST_PATIENCE": str(PATIENCE),
                 **{name: os.environ[name] for name in ("CI", "NBDINETD_TEST_TIMES") if name in os.environ}}
    words = [f"export {name}='{value}'" for name, value in variables.items()]
    arguments = "".join(f" '{part}'" for part in sys.argv[1:])
    return "\n".join(["#!/bin/sh", *words, f"exec python3 -B /payload/src/{script}{arguments}", ""])


def _empty_disks(folder, sizes):
    """Images of disks without content; of this machine's storage they take what is written to them."""
    images = [Path(folder) / f"disk{number}" for number, _ in enumerate(sizes)]
    for path, size in zip(images, sizes):
        with open(path, "wb") as file:
            file.truncate(size)
    return images


def run_inside(prepare=lambda payload: None, processors=1, disks=(), tap=None):
    """The end of a file of tests: runs it in a machine, or, in the machine, the tests. prepare(payload) adds
    what the machine is to have when it boots. `disks` are the sizes of more disks: /dev/nvme0n3 and so on; `tap` is
    as for Machine."""
    if is_inside():
        harness.main()
    if reason := reason_against():
        skip_all(reason)

    interrupt_on_term()
    began = time.monotonic()
    machine, status, planned = None, 1, False
    with tempfile.TemporaryDirectory(prefix="nbdinetd-vm-") as folder:
        try:
            script = Path(sys.argv[0]).resolve().relative_to(SRCDIR.resolve())
            payload = Payload(Path(folder) / "payload", _program(script))
            payload.add_sources(*{"tests/support", "tests/vm", "units", str(script.parent)})
            prepare(payload)
            machine = Machine(folder, payload.disk(), _empty_disks(folder, disks), processors=processors,
                              tap=tap)
            for line in machine.lines():
                if re.match(r"1\.\.\d", line) and not planned:
                    planned = True
                    note(f"{image.RELEASE.read_text().splitlines()[0]}; booted in "
                         f"{time.monotonic() - began:.0f} s")
                print(line, flush=True)
            status = machine.status
        except harness.HangGuard as hang:
            note(hang)
            print("Bail out! the machine has not come to the end of its tests", flush=True)
        finally:
            if machine:
                machine.cut_power()
    sys.exit(status)
