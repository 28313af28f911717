#!/usr/bin/python3
"""What doc/stability.md calls stable is as it was recorded in tests/support/stable_interface.json."""

import copy
import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import stable_interface  # noqa: E402
from harness import *  # noqa: E402

RECORDED = json.loads(stable_interface.RECORD.read_text())
TO_RECORD = "python3 tests/support/stable_interface.py records it"


def without_control(recorded, found):
    """A build without libsystemd has no nbdinetctl."""
    return {name: part for name, part in recorded.items() if name in found or not name.startswith("nbdinetctl")}


@test("nothing that is recorded is missing, or means something else, and everything is recorded")
def _(t):
    found = stable_interface.current(t)
    eq(stable_interface.broken(without_control(RECORDED, found), found), [])
    eq(stable_interface.broken(found, RECORDED), [], TO_RECORD)


@test("the record has all that the document calls stable")
def _(_t):
    for name, least in (("options", 50), ("export_keys", 40), ("exit_statuses", 10), ("statuses", 3), ("check_json", 10),
                        ("nbdinetctl_json", 5)):
        eq(len(RECORDED[name]) >= least, True, f"{name}: {len(RECORDED[name])}")
    eq((len(RECORDED["journal"]["fields"]) > 15, len(RECORDED["journal"]["message_ids"]) > 10,
        len(RECORDED["nbdinetctl"]["verbs"]) > 10, len(RECORDED["nbdinetctl"]["metrics"]) > 8), (True, True, True, True))
    # Every key adds something to the units, and every word of an option is one that it takes.
    eq([key for key, use in RECORDED["export_keys"].items() if not use["adds"] + use.get("removes", [])], ["File"])
    for name, words in stable_interface.WORDS.items():
        eq(RECORDED["options"][name]["words"], list(words), name)


@test("the check finds what is gone, what has another meaning, and what isn't recorded")
def _(_t):
    for change, fault in (
            (lambda now: now["options"].pop("--readonly"), "/options/--readonly is missing"),
            (lambda now: now["options"]["--port"].update(letter="P"), "/options/--port/letter is 'P', and was 'p'"),
            (lambda now: now["options"]["--cow"].update(argument="=MODE"), "/options/--cow/argument is '=MODE', and was '[=MODE]'"),
            (lambda now: now["options"]["--cache"]["words"].remove("drop"), "/options/--cache/words: drop is missing"),
            (lambda now: now["export_keys"]["ReadOnly"]["adds"].remove("--readonly"),
             "/export_keys/ReadOnly/adds: --readonly is missing"),
            (lambda now: now["exit_statuses"].update(Refused=78), "/exit_statuses/Refused is 78, and was 77"),
            (lambda now: now["journal"]["fields"].remove("NBD_PEER"), "/journal/fields: NBD_PEER is missing"),
            (lambda now: now["journal"]["message_ids"].pop("51cd921de3704886882a0adf280ca8dc"),
             "/journal/message_ids/51cd921de3704886882a0adf280ca8dc is missing"),
            (lambda now: now["check_json"].update({"exports[].size": "string"}),
             "/check_json/exports[].size is 'string', and was 'number'")):
        now = copy.deepcopy(RECORDED)
        change(now)
        eq(stable_interface.broken(RECORDED, now), [fault])
    now = copy.deepcopy(RECORDED)
    now["options"]["--new"] = {"argument": ""}
    eq((stable_interface.broken(RECORDED, now), stable_interface.broken(now, RECORDED)), ([], ["/options/--new is missing"]))


if __name__ == "__main__":
    main()
