#!/usr/bin/python3
"""The goals of bench/: a chart draws each where the table holds the figure against it."""

import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
from harness import SRCDIR, eq, main, test

sys.path.insert(0, str(Path(SRCDIR) / "bench"))
import chart
import figures
import servers

PEERS = [server.key for server in servers.SERVERS if server.is_peer]


def others(figure):
    """Values of all that a goal may be about, each another one."""
    keys = [*PEERS, *figures.REFERENCE_TITLES]
    return {key: 100.0 + 7 * place for place, key in enumerate(keys)}


def samples_of(figure, ours):
    values = {**others(figure), figure.subject: ours}
    return figures.Samples({figure.workload: {key: [{figure.metric: value}]
                                              for key, value in values.items()}})


def holds(figure, goal, ours):
    return goal.evaluate(figure, samples_of(figure, ours), figure.subject).holds


@test("a goal holds from the value on that the chart draws for it, and not before")
def _(_t):
    checked = 0
    for figure in figures.FIGURES:
        for goal in figure.goals:
            wanted = goal.wanted(figure, samples_of(figure, 1.0))
            if wanted is None:
                continue
            better, worse = 1.001 * wanted, 0.999 * wanted
            if not figure.more_is_better:
                better, worse = worse, better
            eq((holds(figure, goal, better), holds(figure, goal, worse)), (True, False),
               f"{figure.key}, {goal.text()}")
            checked += 1
    eq(checked > 20, True, "goals with a value")


@test("each first goal is drawn on the right side of the best peer")
def _(_t):
    by_key = {figure.key: figure for figure in figures.FIGURES}

    def drawn(key, **values):
        figure = by_key[key]
        samples = figures.Samples({figure.workload: {
            name.replace("_", "-"): [{figure.metric: value}] for name, value in values.items()}})
        best = values["nbdkit"]
        return round(chart.goal_advantage(figure, samples, best), 3)
    eq(drawn("tls-read-psk", nbdkit=0.32), 1.5, "at least 1.5 times nbdkit's rate")
    eq(drawn("tls-psk-cpu", nbdkit=2.4), round(1 / 0.6, 3), "at most 0.6 of nbdkit's CPU")
    eq(drawn("copy4-unix-cpu", nbdkit=0.2, qemu_nbd=0.3), 2.5, "at most 0.4 of the least CPU")
    eq(drawn("randread-d1", nbdkit=20.0), 1.8, "1.8 times the rate")
    eq(drawn("extents", nbdkit=1000.0), 2.0, "half of the time")
    eq(drawn("pss-accept", nbdkit=200.0), 0.5, "400 KiB, where the best peer has 200")
    eq(drawn("copy4-tcp", nbdkit=2.0, sender_write=3.0, sender_sendfile=4.0), 1.9,
       "0.95 of the better sender")
    eq(chart.goal_advantage(by_key["connects"], figures.Samples({}), 1.0), None, "no goal")


@test("the text of a goal has all its digits")
def _(_t):
    eq([figures.times(factor) for factor in (0.95, 0.9, 1.0, 2.2)], ["0.95", "0.9", "1.0", "2.2"],
       "factors")


main()
