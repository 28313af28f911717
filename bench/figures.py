"""What the samples say: a Figure is a row of the table, one metric of one workload with its goals.

A ratio is computed twice: from the medians over all rounds, which is what a goal is held
against, and for each round by itself, which shows whether the machine's drift explains it.
"""

import dataclasses
import statistics

import distance
import servers
from lab import MIB
from rows import BY_NAME
from workloads import Cached, Cold, Copy


@dataclasses.dataclass
class Verdict:
    goal: str
    rival: str | None = None      # the participant compared with
    ratio: float | None = None    # of the medians
    per_round: list = dataclasses.field(default_factory=list)
    rounds_held: int = 0
    holds: bool | None = None     # None: nothing to compare with
    remark: str = ""


class Samples:
    """The samples of one run: {workload: {participant: [metrics or None, one a round]}}."""

    def __init__(self, by_workload):
        self.by_workload = by_workload

    def values(self, workload, participant, metric):
        """One value a round, None where there is none."""
        rounds = self.by_workload.get(workload, {}).get(participant, [])
        return [sample.get(metric) if sample else None for sample in rounds]

    def median(self, workload, participant, metric):
        known = [value for value in self.values(workload, participant, metric)
                 if value is not None]
        return statistics.median(known) if known else None

    def spread(self, workload, participant, metric):
        known = [value for value in self.values(workload, participant, metric)
                 if value is not None]
        return (min(known), max(known)) if known else None


def times(factor):
    return f"{factor:.2f}" if f"{factor:.2f}"[-1] != "0" else f"{factor:.1f}"


class Goal:
    """How the subject's value has to relate to a rival's."""

    def __init__(self, factor):
        self.factor = factor

    def rivals(self, figure):
        """The keys of those of whom the best counts."""
        raise NotImplementedError

    def relate(self, figure, subject, rival):
        return subject / rival

    def met(self, relation):
        return relation <= self.factor

    def text(self):
        raise NotImplementedError

    def boundary(self, figure, rival):
        """The value that just meets the goal, of a rival's value."""
        return self.factor * rival

    def best_rival(self, figure, samples):
        """The key and the median of the rival who counts, or None."""
        theirs = {key: samples.median(figure.workload, key, figure.metric)
                  for key in self.rivals(figure)}
        theirs = {key: value for key, value in theirs.items() if value}
        if not theirs:
            return None
        best = (max if figure.more_is_better else min)(theirs, key=theirs.get)
        return best, theirs[best]

    def wanted(self, figure, samples):
        """The value that just meets the goal, or None without a rival."""
        best = self.best_rival(figure, samples)
        return self.boundary(figure, best[1]) if best else None

    def evaluate(self, figure, samples, subject):
        verdict = Verdict(self.text())
        ours = samples.median(figure.workload, subject, figure.metric)
        best = self.best_rival(figure, samples)
        if ours is None or best is None:
            verdict.remark = "nothing to compare with"
            return verdict
        verdict.rival, theirs = best
        verdict.ratio = self.relate(figure, ours, theirs)
        for our, their in zip(samples.values(figure.workload, subject, figure.metric),
                              samples.values(figure.workload, verdict.rival, figure.metric)):
            if our and their:
                verdict.per_round.append(self.relate(figure, our, their))
        verdict.rounds_held = sum(map(self.met, verdict.per_round))
        verdict.holds = self.met(verdict.ratio)
        return verdict


def _peers(figure):
    return [server.key for server in servers.SERVERS if server.is_peer]


class TimesAsGood(Goal):
    """So many times the best peer; where less is better, its time over ours."""

    def rivals(self, figure):
        return _peers(figure)

    def relate(self, figure, subject, rival):
        return subject / rival if figure.more_is_better else rival / subject

    def boundary(self, figure, rival):
        return self.factor * rival if figure.more_is_better else rival / self.factor

    def met(self, relation):
        return relation >= self.factor

    def text(self):
        return f"≥ {times(self.factor)} × the best peer"


class TimesAsGoodACopy(TimesAsGood):
    """The same among servers with a private copy, or one for all clients."""

    def rivals(self, figure):
        return [server.key for server in servers.COPYING if server.is_peer]


class TimesAsGoodInTheRow(TimesAsGood):
    """The same among the servers of the row."""

    def rivals(self, figure):
        return [server.key for server in BY_NAME[figure.workload].participants() if server.is_peer]


class AtLeastOfItself(TimesAsGood):
    """So many times the same program that has all system calls."""

    def rivals(self, figure):
        return [servers.NBDINETD]

    def text(self):
        return f"≥ {times(self.factor)} × itself with all system calls"


class AtMostOfPeers(Goal):
    def rivals(self, figure):
        return _peers(figure)

    def text(self):
        return f"≤ {times(self.factor)} × the best peer"


class AtMostOf(Goal):
    def __init__(self, factor, key):
        super().__init__(factor)
        self.key = key

    def rivals(self, figure):
        return [self.key]

    def text(self):
        return f"≤ {times(self.factor)} × {servers.BY_KEY[self.key].title}"


class AtLeastOf(AtMostOf):
    def met(self, relation):
        return relation >= self.factor

    def text(self):
        return f"≥ {times(self.factor)} × {servers.BY_KEY[self.key].title}"


class AtLeastOfReferences(Goal):
    def __init__(self, factor, keys, name):
        super().__init__(factor)
        self.keys, self.name = keys, name

    def rivals(self, figure):
        return self.keys

    def met(self, relation):
        return relation >= self.factor

    def text(self):
        return f"≥ {times(self.factor)} × {self.name}"


class AtMost(Goal):
    """A limit that no peer sets."""

    def __init__(self, limit, unit):
        super().__init__(limit)
        self.unit = unit

    def text(self):
        return f"≤ {self.factor:g} {self.unit}"

    def wanted(self, figure, samples):
        return self.factor

    def evaluate(self, figure, samples, subject):
        verdict = Verdict(self.text())
        ours = samples.median(figure.workload, subject, figure.metric)
        if ours is not None:
            verdict.holds = self.met(ours)
            verdict.rounds_held = sum(
                1 for value in samples.values(figure.workload, subject, figure.metric)
                if value is not None and self.met(value))
        return verdict


class StorageSaturated(Goal):
    """As many reads under way as a reader without a server has, or as many done."""

    def __init__(self):
        super().__init__(0.9)

    def met(self, relation):
        return relation >= self.factor

    def text(self):
        return "storage saturated (≥ 0.9 of the bare reader's rate or reads in flight)"

    def wanted(self, figure, samples):
        return None  # one of two metrics is enough

    def evaluate(self, figure, samples, subject):
        verdict = Verdict(self.text(), rival=Cold.BARE.key)
        shares = []
        for metric in ("kops", "in_flight"):
            ours = samples.median(figure.workload, subject, metric)
            bare = samples.median(figure.workload, Cold.BARE.key, metric)
            if ours is not None and bare:
                shares.append(ours / bare)
                verdict.remark += (f"{', ' if verdict.remark else ''}"
                                   f"{metric.replace('_', ' ')} {ours:.1f} of {bare:.1f}")
        if shares:
            verdict.ratio = max(shares)
            verdict.holds = self.met(verdict.ratio)
        return verdict


@dataclasses.dataclass
class Figure:
    key: str
    workload: str
    metric: str
    title: str
    unit: str
    more_is_better: bool
    goals: tuple
    subject: str = servers.NBDINETD
    digits: int = 2

    def subject_in(self, samples):
        """Whom the goals are about; a run without it falls back to the other nbdinetd, unless
        the row is about one of them."""
        order = [self.subject]
        if self.workload not in ("pss", "startup"):
            order.append(servers.NBDINETD_LISTENER)
        return next((key for key in order
                     if samples.median(self.workload, key, self.metric) is not None), self.subject)

    def verdicts(self, samples):
        subject = self.subject_in(samples)
        return [goal.evaluate(self, samples, subject) for goal in self.goals]


def _rate(workload, unit_metric, goals, unit, digits):
    return Figure(workload, workload, unit_metric, BY_NAME[workload].title, unit, True, goals,
                  digits=digits)


# Where the client is the bottleneck, no server can be many times as fast as another one.
_CLIENT_BOUND = (AtLeastOfReferences(0.95, [sender.key for sender in servers.BARE_SENDERS],
                                     "the better bare sender"), TimesAsGood(1.0))
_CLIENT_BOUND_SMALL = (AtLeastOfReferences(0.95, [servers.READY_SENDER.key],
                                           "the sender with all answers ready"),
                       TimesAsGood(1.0))

FIGURES = [
    _rate("randread-d32", "kops", _CLIENT_BOUND_SMALL, "k/s", 1),
    _rate("randread-d1", "kops", (TimesAsGood(1.8),), "k/s", 1),
    _rate("randwrite-d32", "kops", (TimesAsGood(1.2),), "k/s", 1),
    _rate("read-1m", "gbps", _CLIENT_BOUND, "GB/s", 2),
    _rate("write-1m", "gbps", (TimesAsGood(1.6),), "GB/s", 2),
    _rate("blaster-randread-d32", "kops", (TimesAsGood(2.2),), "k/s", 1),
    _rate("blaster-randwrite-d32", "kops", (TimesAsGood(1.2),), "k/s", 1),
    _rate("blaster-read-1m", "gbps", (TimesAsGood(1.5),), "GB/s", 2),
    _rate("blaster-write-1m", "gbps", (TimesAsGood(1.6),), "GB/s", 2),
    _rate("copy1", "gbps", _CLIENT_BOUND, "GB/s", 2),
    _rate("copy1-tcp", "gbps", _CLIENT_BOUND, "GB/s", 2),
    _rate("copy4-unix", "gbps", _CLIENT_BOUND, "GB/s", 2),
    _rate("copy4-tcp", "gbps", _CLIENT_BOUND, "GB/s", 2),
    Figure("copy4-unix-cpu", "copy4-unix", "cpu_s_per_gb", "server CPU per GB, copy4, Unix",
           "s/GB", False, (AtMostOfPeers(0.4),), digits=3),
    Figure("copy4-tcp-cpu", "copy4-tcp", "cpu_s_per_gb", "server CPU per GB, copy4, TCP", "s/GB",
           False, (AtMostOfPeers(0.4),), digits=3),
    Figure("tls-psk-cpu", "tls-copy-psk", "cpu_s_per_gb", "server CPU per GB, TLS (PSK), copy4",
           "s/GB", False, (AtMostOf(0.6, "nbdkit"),), digits=3),
    Figure("tls-x509-cpu", "tls-copy-x509", "cpu_s_per_gb",
           "server CPU per GB, TLS (X.509), copy4", "s/GB", False, (AtMostOf(0.6, "nbdkit"),),
           digits=3),
    _rate("tls-read-psk", "gbps", (AtLeastOf(1.5, "nbdkit"),), "GB/s", 2),
    _rate("tls-read-x509", "gbps", (AtLeastOf(1.5, "nbdkit"),), "GB/s", 2),
    Figure("startup-greeting", "startup", "greeting_us", "spawn to greeting", "µs", False,
           (AtMostOf(0.6, servers.NBDKIT_SINGLE),), digits=0),
    Figure("startup-read", "startup", "first_read_us", "spawn to first 4 KiB read", "µs", False,
           (AtMostOf(0.6, servers.NBDKIT_SINGLE),), digits=0),
    Figure("pss-listener", "pss", "pss_kib", "Pss per idle connection, fork from a listener",
           "KiB", False, (AtMost(162, "KiB"),), subject=servers.NBDINETD_LISTENER, digits=0),
    Figure("pss-accept", "pss", "pss_kib", "Pss per idle connection, Accept=yes", "KiB", False,
           (AtMost(400, "KiB"),), digits=0),
    _rate("cold-file", "kops", (TimesAsGood(1.0), StorageSaturated()), "k/s", 1),
    _rate("cold-loop", "kops", (TimesAsGood(1.0), StorageSaturated()), "k/s", 1),
    _rate("mixed", "kops", (TimesAsGood(1.3),), "k/s", 1),
    Figure("mixed-p99", "mixed", "read_p99_us", "p99 read latency of the same", "µs", False,
           (AtMostOfPeers(1.0),), digits=0),
    Figure("extents", "extents", "ms", BY_NAME["extents"].title, "ms", False,
           (TimesAsGood(2.0),), digits=1),
    Figure("sparse-copy", "sparse-copy", "ms", BY_NAME["sparse-copy"].title, "ms", False,
           (TimesAsGood(2.0),), digits=1),
    Figure("connects", "connects", "per_second", "connect, read 4 KiB, leave", "1/s", True, (),
           digits=0),
]
# Their table is another: nobody but nbdinetd and a bare sender is in it.
DISTANT_FIGURES = [
    Figure(row.name, row.name, row.metric, row.title, row.unit, True,
           (AtLeastOfReferences(0.95, [row.reference.key], "the bare sender"),),
           digits=row.digits)
    for row in distance.ROWS]
FIGURES += DISTANT_FIGURES
# And so is that of private copies.
COPY_FIGURES = [
    Figure(name, name, "kops", BY_NAME[name].title, "k/s", True, (TimesAsGoodACopy(1.5),),
           subject="nbdinetd-cow", digits=1)
    for name in ("cow-read", "cow-read-copied", "cow-write-first", "cow-write-again")]
FIGURES += COPY_FIGURES

CACHE_FIGURES = [
    Figure(workload.name, workload.name, "gbps" if workload.block == MIB else "kops", workload.title,
           "GB/s" if workload.block == MIB else "k/s", True, (TimesAsGoodInTheRow(1.0),),
           subject=f"nbdinetd-{workload.mode}", digits=2 if workload.block == MIB else 1)
    for workload in BY_NAME.values() if isinstance(workload, Cached)]
FIGURES += CACHE_FIGURES

# Of each column of an older kernel, for each row.
OLD_KERNEL = AtLeastOfItself(0.9)

# What no goal is about, but explains a figure: (workload, metric, title, unit, digits).
EXPLANATIONS = [
    ("randread-d1", "p50_us", "randread depth 1, median latency", "µs", 1),
    ("randread-d1", "p99_us", "randread depth 1, p99 latency", "µs", 1),
    ("randread-d32", "p99_us", "randread depth 32, p99 latency", "µs", 0),
    ("startup", "cpu_us", "CPU of one short connection, from spawn to exit", "µs", 0),
    ("pss", "idle_cpu_ms_per_s", "CPU burnt by all the idle connections", "ms/s", 2),
    ("cold-file", "in_flight", "cold, page cache dropped: reads in flight", "", 1),
    ("cold-loop", "in_flight", "cold, loop device: reads in flight", "", 1),
    ("mixed", "read_p50_us", "mixed, median read latency", "µs", 0),
    ("mixed", "flush_p50_us", "mixed, median flush latency", "µs", 0),
    ("mixed", "flushes_per_s", "mixed, flushes", "1/s", 0),
    ("connects", "greeting_us", "connect to greeting, running superserver or listener", "µs", 0),
    ("connects", "first_read_us", "connect to first 4 KiB read, same", "µs", 0),
]

# Server CPU of each workload: (workload, metric, unit).
CPU = [
    ("randread-d32", "cpu_us_per_op", "µs/request"),
    ("randread-d1", "cpu_us_per_op", "µs/request"),
    ("randwrite-d32", "cpu_us_per_op", "µs/request"),
    ("read-1m", "cpu_s_per_gb", "s/GB"),
    ("blaster-randread-d32", "cpu_us_per_op", "µs/request"),
    ("blaster-randwrite-d32", "cpu_us_per_op", "µs/request"),
    ("blaster-read-1m", "cpu_s_per_gb", "s/GB"),
    ("blaster-write-1m", "cpu_s_per_gb", "s/GB"),
    ("copy1", "cpu_s_per_gb", "s/GB"),
    ("copy1-tcp", "cpu_s_per_gb", "s/GB"),
    ("copy4-unix", "cpu_s_per_gb", "s/GB"),
    ("copy4-tcp", "cpu_s_per_gb", "s/GB"),
    ("tls-copy-psk", "cpu_s_per_gb", "s/GB"),
    ("tls-copy-x509", "cpu_s_per_gb", "s/GB"),
    ("tls-read-psk", "cpu_s_per_gb", "s/GB"),
    ("tls-read-x509", "cpu_s_per_gb", "s/GB"),
    ("write-1m", "cpu_s_per_gb", "s/GB"),
    ("cold-file", "cpu_us_per_op", "µs/request"),
    ("cold-loop", "cpu_us_per_op", "µs/request"),
    ("mixed", "cpu_us_per_op", "µs/request"),
    ("extents", "cpu_us_per_op", "µs/extent"),
    ("sparse-copy", "cpu_s_per_gb", "s/GB"),
    ("connects", "cpu_us_per_op", "µs/connection"),
]

REFERENCE_TITLES = {each.key: each.title for each in
                    (*servers.BARE_SENDERS, servers.READY_SENDER, servers.TLS_SENDER, *Copy.RAW,
                     *BY_NAME["startup"].references, Cold.BARE)}


def title_of(key):
    if key in servers.BY_KEY:
        return servers.BY_KEY[key].title
    return REFERENCE_TITLES.get(key, key)
