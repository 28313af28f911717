"""How throughput, CPU and memory grow with the number of connections, the size of a request and
the size of the export. Each point is a random read by blaster over a Unix socket; the memory is
read while the connections are still open, after the load, so that buffers count."""

import dataclasses
import errno

import lab
import servers
from lab import GIB, KIB, MIB, TIB
from workloads import HeldClient, refuse_errors


@dataclasses.dataclass
class Series:
    key: str
    title: str
    axis: str
    points: list
    smoke_points: list
    by_bytes: bool = False   # throughput in GB/s, CPU in s/GB

    @property
    def units(self):
        return ("GB/s", "s/GB", "MiB") if self.by_bytes else ("k/s", "µs/request", "MiB")

    def options(self, point):
        """blaster's options at this point."""
        return {"connections": ["--connections", point, "--depth", 4],
                "requests": ["--depth", 8, "--size", point],
                "exports": ["--depth", 32]}[self.key]


SERIES = [
    Series("connections", "1 to 256 connections, 4 KiB, depth 4 each", "connections",
           [1, 2, 4, 8, 16, 32, 64, 128, 256], [1, 8]),
    Series("requests", "512 B to 32 MiB requests, depth 8", "bytes in a request",
           [512 * 4 ** step for step in range(9)], [512, MIB], by_bytes=True),
    # ext4 holds no file of 16 TiB, but one that is a little smaller.
    Series("exports", "1 MiB to 16 TiB exports without data, 4 KiB, depth 32", "bytes of export",
           [MIB, 16 * MIB, 256 * MIB, 4 * GIB, 64 * GIB, TIB, 16 * TIB - MIB], [MIB, 4 * GIB]),
]


def point_title(series, point):
    if series.key == "connections":
        return str(point)
    if point == 16 * TIB - MIB:
        return "16 TiB less 1 MiB"
    for factor, unit in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if point >= factor:
            return f"{point // factor} {unit}"
    return f"{point} B"


def _sample(bench_lab, plan, series, point, server, file):
    with server.start(bench_lab, file) as running:
        with HeldClient(bench_lab, running, "run", "--staged", "--seconds", plan.seconds,
                        *series.options(point)) as client:
            before = running.cpu_seconds()
            done = client.go()
            cpu = running.cpu_seconds() - before
            pss = running.pss_kib()
    refuse_errors(done)
    rate = done["bytes_read" if series.by_bytes else "reads"] / done["seconds"]
    return {"throughput": rate / (1e9 if series.by_bytes else 1e3),
            "cpu": (cpu / done["bytes_read"] * 1e9 if series.by_bytes
                    else cpu / done["reads"] * 1e6),
            "memory": pss / 1024}


def measure(bench_lab, plan, chosen, note):
    """{series: {"points": [...], "samples": {server: [[metrics or None per round] per point]}}}"""
    result = {}
    for series in SERIES:
        points = series.smoke_points if plan.smoke else series.points
        samples = {server.key: [[] for _ in points] for server in chosen}
        result[series.key] = {"points": points, "samples": samples}
        for round_number in range(plan.rounds):
            for index, point in enumerate(points):
                turn = round_number % len(chosen)
                for server in chosen[turn:] + chosen[:turn]:
                    samples[server.key][index].append(
                        _try(bench_lab, plan, series, point, server, note))
    return result


def _try(bench_lab, plan, series, point, server, note):
    label = f"growth, {series.key} {point_title(series, point)}, {server.title}"
    try:
        if series.key != "exports":
            file = bench_lab.random_file("read.img")
            bench_lab.warm(file)
            metrics = _sample(bench_lab, plan, series, point, server, file)
        else:
            with bench_lab.sparse_file(point) as file:
                metrics = _sample(bench_lab, plan, series, point, server, file)
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        note(f"{label}: the file system holds no such file", server, skipped=True)
        return None
    except (RuntimeError, lab.Unavailable) as error:
        note(f"{label}: {error}", server, skipped=False)
        return None
    note(f"{label}: {metrics['throughput']:.4g} {series.units[0]}, {metrics['cpu']:.3g} "
         f"{series.units[1]}, {metrics['memory']:.1f} MiB")
    return metrics


def median_of(samples, metric):
    known = sorted(sample[metric] for sample in samples if sample)
    if not known:
        return None
    middle = len(known) // 2
    return known[middle] if len(known) % 2 else (known[middle - 1] + known[middle]) / 2


def missing(result):
    """Which points have no figure for nbdinetd."""
    own = [server for server in servers.SERVERS if server.is_subject]
    for series in SERIES:
        taken = result[series.key]
        for index, point in enumerate(taken["points"]):
            if not any(median_of(taken["samples"][server.key][index], "throughput")
                       for server in own if server.key in taken["samples"]):
                yield f"growth, {series.key} {point_title(series, point)}"
