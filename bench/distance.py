"""Work over a link of 1 Gbit/s with a round trip of up to 50 ms, in plain text and over TLS."""

import os

import lab
import servers
from lab import KIB
from network import Link
from workloads import CLIENT_DEPTH, Workload, fio, rates, repeat_for, run_json, with_cpu

MBIT = 1000
ROUND_TRIPS_MS = (0.1, 10, 50)
SMOKE_ROUND_TRIP_MS = 1


class Distant(Workload):
    """One client, that of the rows without distance, and one bare sender to compare with. Peers
    stay out: what the link leaves is the same for all."""

    unit = metric = ""
    digits = 1

    def __init__(self, name, title, rtt_ms, tls):
        self.kind, self.rtt_ms, self.tls = title, rtt_ms, tls
        self.name = f"{name}{'-tls' if tls else ''}-{rtt_ms:g}ms"
        self.title = f"{title}{' over TLS' if tls else ''}, 1 Gbit/s, {rtt_ms:g} ms"

    def plain_reference(self):
        raise NotImplementedError

    @property
    def reference(self):
        return servers.TLS_SENDER if self.tls else self.plain_reference()

    def participants(self):
        return [*(server for server in servers.SERVERS
                  if isinstance(server, servers.NbdinetdAccept)
                  and not isinstance(server, servers.NbdinetdAsKernel)), self.reference]

    def prepare(self, bench_lab, plan):
        super().prepare(bench_lab, plan)
        bench_lab.random_file("read.img")
        if self.tls:
            bench_lab.certificates()
            bench_lab.openssl_program("tls_sender")
        with self._link(bench_lab, plan):
            pass

    def _link(self, bench_lab, plan):
        return Link(bench_lab, min(self.rtt_ms, SMOKE_ROUND_TRIP_MS) if plan.smoke
                    else self.rtt_ms, MBIT)

    def sample(self, bench_lab, plan, participant):
        file = bench_lab.random_file("read.img")
        bench_lab.warm(file)
        options = (["--tls=on", f"--tls-certificates={bench_lab.certificates()}"] if self.tls
                   else [])
        # A new link each time: the kernel keeps what it has learned of a network's other end.
        with self._link(bench_lab, plan) as link:
            round_trip = link.round_trip_ms()
            with participant.start(bench_lab, file, "tcp", options, link.server) as running:
                return {**self._measure(bench_lab, plan, link, running),
                        "round_trip_ms": round_trip}

    def _uri(self, bench_lab, running):
        if not self.tls:
            return running.uri
        return (running.uri.replace("nbd://", "nbds://", 1)
                + f"?tls-certificates={bench_lab.certificates()}")

    def _measure(self, bench_lab, plan, link, running):
        raise NotImplementedError


class DistantCopy(Distant):
    programs = ("nbdcopy",)
    unit, metric = "MB/s", "mbps"

    def __init__(self, connections, rtt_ms, tls):
        super().__init__(f"copy{connections}", f"copy{connections}", rtt_ms, tls)
        self.connections = connections

    def plain_reference(self):
        return servers.BY_KEY["sender-sendfile"]

    def _measure(self, bench_lab, plan, link, running):
        command = [*link.client, lab.need_program("nbdcopy"), f"--connections={self.connections}",
                   self._uri(bench_lab, running), "null:"]
        (count, elapsed), cpu = with_cpu(
            running, lambda: repeat_for(plan.seconds,
                                        lambda: lab.run_client(command, plan.seconds)))
        total = count * os.path.getsize(bench_lab.random_file("read.img"))
        return {"mbps": total / elapsed / 1e6, "cpu_s_per_gb": cpu / total * 1e9}


class DistantRandomReads(Distant):
    """fio in plain text. Its TLS takes certificates of the whole system only, so that over TLS the
    client is tls_reader.c, which decrypts nothing."""

    unit, metric = "k/s", "kops"
    digits = 2

    def __init__(self, rtt_ms, tls):
        super().__init__("randread-d32", "randread 4 KiB, depth 32", rtt_ms, tls)

    def prepare(self, bench_lab, plan):
        super().prepare(bench_lab, plan)
        if self.tls:
            bench_lab.openssl_program("tls_reader")
        else:
            lab.need_program("fio")

    def plain_reference(self):
        return servers.READY_SENDER

    def _measure(self, bench_lab, plan, link, running):
        done, cpu = with_cpu(running, lambda: (self._over_tls if self.tls else self._by_fio)(
            bench_lab, plan, link, running))
        return rates(done, cpu)

    @staticmethod
    def _by_fio(bench_lab, plan, link, running):
        return fio(bench_lab, plan.seconds, "randread", 4 * KIB, CLIENT_DEPTH, "--ioengine=nbd",
                   f"--uri={running.uri}", "--time_based", "--norandommap", within=link.client)

    @staticmethod
    def _over_tls(bench_lab, plan, link, running):
        return run_json([*link.client, bench_lab.openssl_program("tls_reader"),
                         "--host", lab.LINK_SERVER, *running.address, "--random",
                         "--size", 4 * KIB, "--depth", CLIENT_DEPTH, "--seconds", plan.seconds],
                        plan.seconds)


ROWS = [row for tls in (False, True)
        for make in (lambda *how: DistantCopy(1, *how), lambda *how: DistantCopy(4, *how),
                     DistantRandomReads)
        for row in (make(rtt_ms, tls) for rtt_ms in ROUND_TRIPS_MS)]
