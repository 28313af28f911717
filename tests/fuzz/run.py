#!/usr/bin/python3
"""Runs the fuzz targets that clang.mk has built, some at a time.

    run.py fuzz --seconds=S TARGET...    each for S seconds; exit status 1 if anything was found
    run.py coverage TARGET...            the lines that the corpus covers (with --found: and what
                                         earlier runs have found)
    run.py merge TARGET...               takes into the corpus what covers something new

Beside the corpus there is a folder of work: the programs, what they find (interesting inputs in
found/TARGET, broken ones as broken/TARGET-*), and their logs.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# What coverage is asked of.
COVERED = ("src/protocol/", "src/negotiation", "src/transmission")
# An input that takes longer is broken.
TIMEOUT_SECONDS = 25


def options_of(target):
    # Names and queries reach 4096 bytes, and a few of them should fit.
    return ["-max_len=24576" if target in ("negotiation", "transmission") else "-max_len=8192"]


def llvm_tool(arguments, name):
    """The tool of this name that fits the clang which has built the programs."""
    return subprocess.run([arguments.clang, f"--print-prog-name={name}"], check=True,
                          capture_output=True, text=True).stdout.strip()


def folder(path):
    path.mkdir(parents=True, exist_ok=True)
    return path


def fuzz_one(arguments, target):
    """Runs one target; (it has found nothing, a line about it)."""
    program = arguments.work / "fuzz" / f"{target}_fuzz"
    log = folder(arguments.work / "log") / f"{target}.log"
    command = [str(program), f"-max_total_time={arguments.seconds}", "-print_final_stats=1",
               f"-timeout={TIMEOUT_SECONDS}", "-rss_limit_mb=2048", *options_of(target),
               f"-dict={arguments.corpus.parent / 'nbd.dict'}",
               f"-artifact_prefix={folder(arguments.work / 'broken')}/{target}-",
               str(folder(arguments.work / "found" / target)), str(arguments.corpus / target)]
    # A value to be told from data that has been set.
    environment = {**os.environ, "ASAN_OPTIONS": "max_malloc_fill_size=65536:malloc_fill_byte=190"}
    environment.pop("NOTIFY_SOCKET", None)
    with log.open("w") as output:
        status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False,
                                stdin=subprocess.DEVNULL, env=environment).returncode
    text = log.read_text(errors="replace")

    def number(name):
        found = re.search(rf"stat::{name}:\s+(\d+)", text)
        return int(found[1]) if found else 0
    line = (f"{target}: {number('number_of_executed_units')} executions, "
            f"{number('average_exec_per_sec')} a second, "
            f"{number('new_units_added')} new inputs")
    if status == 0:
        return True, line, number("number_of_executed_units")
    why = re.findall(r"^(?:.*what\(\):.*|SUMMARY:.*|.*ERROR:.*|.*Test unit written to.*)$", text,
                     re.MULTILINE)
    return False, "\n  ".join([f"{line}; BROKEN (log: {log})", *why]), \
        number("number_of_executed_units")


def fuzz(arguments):
    started = time.monotonic()
    passed = executions = 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for good, line, count in pool.map(lambda target: fuzz_one(arguments, target),
                                          arguments.targets):
            print(line, flush=True)
            passed += good
            executions += count
    failed = len(arguments.targets) - passed
    print(f"{executions} executions in {time.monotonic() - started:.0f} s; "
          f"{passed} targets passed, {failed} failed")
    # For ./quickstart's totals, in the words of automake's.
    (arguments.work / "fuzz.totals").write_text(f"# PASS: {passed}\n# FAIL: {failed}\n")
    return 0 if failed == 0 else 1


def coverage(arguments):
    work = folder(arguments.work / "profile")
    programs, profiles = [], []
    for target in arguments.targets:
        program = arguments.work / "coverage" / f"{target}_replay"
        folders = [arguments.corpus / target]
        if arguments.found and (arguments.work / "found" / target).is_dir():
            folders.append(arguments.work / "found" / target)
        profile = work / f"{target}.profraw"
        subprocess.run([str(program), *map(str, folders)], check=True, stdout=subprocess.DEVNULL,
                       stdin=subprocess.DEVNULL,
                       env={**os.environ, "LLVM_PROFILE_FILE": str(profile)})
        programs.append(program)
        profiles.append(profile)
    merged = work / "all.profdata"
    subprocess.run([llvm_tool(arguments, "llvm-profdata"), "merge", "-sparse", "-o", str(merged),
                    *map(str, profiles)], check=True)
    objects = [str(programs[0])] + [f"-object={program}" for program in programs[1:]]
    report = subprocess.run([llvm_tool(arguments, "llvm-cov"), "export", "-format=lcov",
                             f"-instr-profile={merged}", *objects],
                            check=True, capture_output=True, text=True).stdout
    return print_coverage(report, arguments.at_least)


def print_coverage(lcov, at_least):
    lines, hit, source = {}, {}, None
    for entry in lcov.splitlines():
        if entry.startswith("SF:"):
            source = entry[3:][entry[3:].find("src/"):] if "src/" in entry else None
        elif entry.startswith("DA:") and source is not None and source.startswith(COVERED):
            number, count = entry[3:].split(",")[:2]
            lines.setdefault(source, set()).add(int(number))
            if int(count) > 0:
                hit.setdefault(source, set()).add(int(number))
    total = covered = 0
    for source in sorted(lines):
        missed = sorted(lines[source] - hit.get(source, set()))
        total += len(lines[source])
        covered += len(lines[source]) - len(missed)
        share = 100 * (len(lines[source]) - len(missed)) / len(lines[source])
        print(f"{share:6.1f} % of {len(lines[source]):4} lines  {source}"
              + (f"  not: {' '.join(map(str, missed))}" if missed else ""))
    share = 100 * covered / total
    print(f"{share:6.1f} % of {total:4} lines  in all")
    if share < at_least:
        print(f"that is less than {at_least} %")
        return 1
    return 0


def merge(arguments):
    for target in arguments.targets:
        program = arguments.work / "fuzz" / f"{target}_fuzz"
        corpus = folder(arguments.corpus / target)
        sources = [arguments.work / name / target for name in ("recorded", "found")]
        fresh = folder(arguments.work / "merged" / target)
        for old in fresh.iterdir():
            old.unlink()
        # What has a name has been put there for a reason, and stays.
        named = [path for path in corpus.iterdir() if not re.fullmatch("[0-9a-f]{40}", path.name)]
        subprocess.run([str(program), "-merge=1", "-use_counters=0", *options_of(target), str(fresh), str(corpus),
                        *[str(path) for path in sources if path.is_dir()]], check=True,
                       stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        contents = {path.read_bytes() for path in named}
        for path in corpus.iterdir():
            if path not in named:
                path.unlink()
        for path in fresh.iterdir():
            if path.read_bytes() not in contents:
                (corpus / path.name).write_bytes(path.read_bytes())
        files = list(corpus.iterdir())
        print(f"{target}: {len(files)} inputs, {sum(f.stat().st_size for f in files)} bytes")
    return 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["fuzz", "coverage", "merge"])
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--clang", default="clang++")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--found", action="store_true")
    parser.add_argument("--at-least", type=float, default=0)
    arguments = parser.parse_args()
    sys.exit({"fuzz": fuzz, "coverage": coverage, "merge": merge}[arguments.what](arguments))


if __name__ == "__main__":
    main()
