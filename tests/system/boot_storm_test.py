#!/usr/bin/python3
"""bench/boot_storm still works: machines boot, over TLS as well, and come back; and it notices data that is wrong. It
measures no speed."""

import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from harness import *  # noqa: E402

MACHINES = 8
UNAVAILABLE = 77


def storm(t, *options, status=0):
    """What a small storm has measured."""
    path = Path(t.fresh("json"))
    process = t.run([sys.executable, "-B", str(SRCDIR / "bench" / "boot_storm"), "--smoke", f"--nbdinetd={NBDINETD}",
                     f"--directory={t.dir}", f"--json={path}", *options], status=None)
    ended = process.wait()
    require(ended != UNAVAILABLE, process.stdout())
    eq(ended, status, process.stdout() + process.stderr())
    return json.loads(path.read_text())


def check_boot(boot):
    eq((boot["booted"], boot["failed"], boot["wrong"]), (MACHINES, 0, 0))
    eq(boot["connections"] >= MACHINES and boot["processes"] == 1 + MACHINES, True, "connections and processes")
    eq(boot["cpu"] > 0 and boot["pss_mib"] > 0 and boot["read_us"]["max"] > 0, True, "figures")


@test("machines with private copies boot, and come back when their server has died")
def _(t):
    result = storm(t, "--then")
    check_boot(result["boot"])
    eq((result["back"]["back"], result["back"]["failed"]), (MACHINES, 0))
    eq(result["boot"]["writes"] > 0 and result["boot"]["copies_mib"] > 0, True, "writes")


@test("they do over TLS")
def _(t):
    for kind in ("psk", "certificates"):
        result = storm(t, f"--tls={kind}", "--then")
        check_boot(result["boot"])
        eq(result["back"]["back"], MACHINES, kind)


@test("machines that only read write nothing")
def _(t):
    boot = storm(t, "--readonly")["boot"]
    check_boot(boot)
    eq((boot["writes"], boot["copies_mib"]), (0, 0))


@test("machines that write into each other's image notice it")
def _(t):
    boot = storm(t, "--shared", status=1)["boot"]
    eq(boot["booted"] == MACHINES and boot["wrong"] > 0, True, boot)


if __name__ == "__main__":
    main()
