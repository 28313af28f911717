#!/usr/bin/python3
"""A real virtual machine of QEMU's and an export of the same image keep each other out.

No machine of ours is booted: the virtual machine has nothing but its disk, and stops before its first
instruction."""

import os
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

# pylint: disable=wrong-import-position,wildcard-import,unused-wildcard-import
from harness import *
from machine import EMULATOR

def emulator(image, share="off"):
    return [EMULATOR, "-S", "-nodefaults", "-display", "none", "-machine", "pc,accel=tcg", "-monitor", "stdio",
            "-drive", f"file={image},format=raw,if=none,id=disk", "-device",
            f"virtio-blk-pci,drive=disk,share-rw={share}"]


class VirtualMachine:
    def __init__(self, t, image, share="off"):
        reading, self._writing = os.pipe()
        self._process = t.spawn(emulator(image, share), fds={0: reading})
        os.close(reading)

    def is_found(self, t, image):
        return self._process.poll() is not None or "QEMU" in t.run([NBDINETD, "--check", "-r", image]).stderr()

    def leave(self):
        os.write(self._writing, b"quit\n")
        os.close(self._writing)
        eq(self._process.wait(), 0)


def refusal(t, *arguments):
    process, client = t.activated(*arguments)
    client.handshake()
    try:
        client.go()
    except OptionError as error:
        client.close()
        process.wait()
        return error.reply
    client.disconnect()
    process.expect(EX_OK)
    return None


@test("the disk of a virtual machine isn't served for writing, but read-only, as a private copy, and when told to")
def _(t):
    need(EMULATOR)
    image = t.pattern_image(MIB)
    machine = VirtualMachine(t, image)
    wait_until(lambda: machine.is_found(t, image), "the virtual machine")
    eq(refusal(t, image), NBD_REP_ERR_POLICY)
    for arguments in (["-r"], ["--cow"], ["--force-share"]):
        eq(refusal(t, *arguments, image), None, arguments)
    machine.leave()
    eq(refusal(t, image), None)
    machine = VirtualMachine(t, image, share="on")
    wait_until(lambda: machine.is_found(t, image), "the virtual machine")
    eq(refusal(t, image), None, "with share-rw=on")
    machine.leave()


@test("a virtual machine doesn't start on an image that a client may write to")
def _(t):
    need(EMULATOR)
    image = t.pattern_image(MIB)
    for arguments, starts in (([], False), (["-r"], True), (["--cow"], True), (["--force-share"], True)):
        process, client = t.activated(*arguments, image)
        client.start()
        done = subprocess.run(emulator(image), input="quit\n", capture_output=True, text=True, check=False,
                              timeout=GUARD)
        eq(done.returncode == 0, starts, f"{arguments}: {done.stderr}")
        if not starts:
            contains('Failed to get shared "write" lock', done.stderr)
        client.disconnect()
        process.expect(EX_OK)


if __name__ == "__main__":
    main()
