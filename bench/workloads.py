"""The work that is measured. Each Workload takes one sample of one participant at a time, as a
dictionary of metrics; which metric is a row, and its goal, is figures.py's business.

A participant is a server (servers.py) or a Reference: something that is no server but says what
the machine can do. Metrics: `kops` thousand operations per second, `gbps` 10^9 bytes per second,
`cpu_us_per_op` and `cpu_s_per_gb` server CPU, `p50_us` and `p99_us` client-side latency.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import time

import lab
import servers
from lab import GIB, KIB, MIB, TIB, Unavailable

CLIENT_DEPTH = 32  # of the rows that keep many requests under way


@dataclasses.dataclass
class Plan:
    """How much of everything."""
    rounds: int = 5
    seconds: float = 2.0
    file_bytes: int = GIB
    spawns: int = 100           # per sample
    idle_connections: int = 50
    idle_seconds: float = 1.0
    extents: int = 1 << 20
    sparse_bytes: int = TIB
    sparse_data_bytes: int = GIB
    client: str = "fio"         # of the rows with one kind of request
    smoke: bool = False


SMOKE = Plan(rounds=1, seconds=0.05, file_bytes=8 * MIB, spawns=3, idle_connections=4,
             idle_seconds=0.05, extents=1 << 9, sparse_bytes=64 * GIB, sparse_data_bytes=8 * MIB,
             smoke=True)


@dataclasses.dataclass(frozen=True)
class Reference:
    key: str
    title: str
    is_peer: bool = False

    def unavailable(self, bench_lab):
        return None


class Workload:
    """One piece of work. `title` is for tables; `programs` must be installed."""

    name = title = ""
    programs = ()
    references = ()

    def participants(self):
        return [*servers.SERVERS, *self.references]

    def prepare(self, bench_lab, plan):
        """Makes what all samples share, once. Raises Unavailable for the whole row."""
        for program in self.programs:
            lab.need_program(program)

    def sample(self, bench_lab, plan, participant):
        raise NotImplementedError


def with_cpu(running, work):
    """Runs work() and returns its result and the server's CPU seconds meanwhile."""
    before = running.cpu_seconds()
    result = work()
    running.settle()
    return result, running.cpu_seconds() - before


def run_json(command, seconds):
    return json.loads(lab.run_client(command, seconds))


def blaster(bench_lab, running, command, *options, seconds=1.0):
    return run_json([bench_lab.program("blaster"), command, *running.address,
                     "--seconds", seconds, *options], seconds)


def repeat_for(seconds, work):
    """Runs work() again until the time is over; returns how often and how long it took."""
    start = time.perf_counter()
    count = 0
    while True:
        work()
        count += 1
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return count, elapsed


def fio(bench_lab, seconds, rw, block, depth, *options, within=()):
    """One fio job; returns its statistics of the one direction that it has. `within` is the beginning
    of a command that runs it elsewhere."""
    output = bench_lab.directory / "fio.json"
    lab.run_client([*within, lab.need_program("fio"), "--name=bench", f"--rw={rw}", f"--bs={block}",
                    # Its jobs would be processes in sessions of their own, which outlive it
                    # when it is interrupted.
                    "--thread",
                    f"--iodepth={depth}", f"--runtime={max(1, round(seconds * 1000))}ms",
                    "--eta=never", "--lat_percentiles=1", "--clat_percentiles=0",
                    "--output-format=json", f"--output={output}", *options],
                   seconds)
    text = output.read_text()
    job = json.loads(text[text.index("{"):])["jobs"][0]
    side = job["write" if "write" in rw else "read"]
    if job["error"] or not side["total_ios"] or not side["runtime"]:
        raise RuntimeError(f"fio did nothing, error {job['error']}")
    return {"operations": side["total_ios"], "bytes": side["io_bytes"],
            "seconds": side["runtime"] / 1000,
            "p50_us": side["lat_ns"]["percentile"]["50.000000"] / 1000,
            "p99_us": side["lat_ns"]["percentile"]["99.000000"] / 1000}


def rates(done, cpu):
    """The usual metrics of something with operations, bytes, seconds and a server's CPU."""
    return {"kops": done["operations"] / done["seconds"] / 1e3,
            "gbps": done["bytes"] / done["seconds"] / 1e9,
            "cpu_us_per_op": cpu / done["operations"] * 1e6,
            "cpu_s_per_gb": cpu / done["bytes"] * 1e9,
            **{key: done[key] for key in ("p50_us", "p99_us") if key in done}}


class OneKind(Workload):
    """Requests of one kind and size at one depth, over a Unix socket, in the page cache. Without
    a client of its own, the plan's does it."""

    def __init__(self, name, title, rw, block, depth, references=(), client=None):
        self.name, self.title, self.client = name, title, client
        self.rw, self.block, self.depth = rw, block, depth
        self.writes = "write" in rw
        self.references = references

    def prepare(self, bench_lab, plan):
        if self._client(plan) == "fio":
            lab.need_program("fio")
        self._file(bench_lab)

    def _client(self, plan):
        return self.client or plan.client

    def _file(self, bench_lab):
        return bench_lab.random_file("write.img" if self.writes else "read.img")

    def sample(self, bench_lab, plan, participant):
        file = self._file(bench_lab)
        bench_lab.warm(file)
        if self.writes:
            bench_lab.sync(file)
        with participant.start(bench_lab, file) as running:
            work = self._by_fio if self._client(plan) == "fio" else self._by_blaster
            done, cpu = with_cpu(running, lambda: work(bench_lab, plan, running))
        return rates(done, cpu)

    def _by_fio(self, bench_lab, plan, running):
        return fio(bench_lab, plan.seconds, self.rw, self.block, self.depth, "--ioengine=nbd",
                   f"--uri={running.uri}", "--time_based", "--norandommap")

    def _by_blaster(self, bench_lab, plan, running):
        done = blaster(bench_lab, running, "run", "--depth", self.depth, "--size", self.block,
                       "--read-percent", 0 if self.writes else 100,
                       *([] if self.rw.startswith("rand") else ["--sequential"]),
                       seconds=plan.seconds)
        refuse_errors(done)
        latency = done["write_us" if self.writes else "read_us"]
        return {"operations": done["reads"] + done["writes"],
                "bytes": done["bytes_read"] + done["bytes_written"], "seconds": done["seconds"],
                "p50_us": latency["p50"], "p99_us": latency["p99"]}


def refuse_errors(done):
    if done["errors"]:
        raise RuntimeError(f"{done['errors']} requests failed")


class Copy(Workload):
    """nbdcopy of the whole export to nowhere, again and again."""

    programs = ("nbdcopy",)
    RAW = (Reference("raw-sendfile", "no protocol, sendfile"),
           Reference("raw-write", "no protocol, write"))

    def __init__(self, name, title, connections, transport):
        self.name, self.title = name, title
        self.connections, self.transport = connections, transport
        self.references = (*servers.BARE_SENDERS, *(self.RAW if connections > 1 else ()))

    def prepare(self, bench_lab, plan):
        super().prepare(bench_lab, plan)
        bench_lab.random_file("read.img")

    def sample(self, bench_lab, plan, participant):
        file = bench_lab.random_file("read.img")
        bench_lab.warm(file)
        if participant in self.RAW:
            return self._raw(bench_lab, plan, participant, file)
        with participant.start(bench_lab, file, self.transport) as running:
            command = [lab.need_program("nbdcopy"), f"--connections={self.connections}",
                       running.uri, "null:"]
            (count, elapsed), cpu = with_cpu(
                running,
                lambda: repeat_for(plan.seconds, lambda: lab.run_client(command, plan.seconds)))
            total = count * os.path.getsize(file)
            return {"gbps": total / elapsed / 1e9, "cpu_s_per_gb": cpu / total * 1e9,
                    "connections": self.connections if running.offers["multi_conn"] else 1}

    def _raw(self, bench_lab, plan, participant, file):
        done = run_json([bench_lab.program("sender"), "raw", participant.key.split("-")[1],
                         f"--{self.transport}", "--connections", self.connections,
                         "--seconds", plan.seconds, file], plan.seconds)
        return {"gbps": done["bytes"] / done["seconds"] / 1e9}


class Tls(Workload):
    """Reads over TLS, by certificates or a pre-shared key. `client` is nbdcopy, whose decryption
    limits, or tls_reader.c, which decrypts nothing. The servers let clients do without TLS, since
    the first client only asks whether they serve."""

    def __init__(self, client, credentials):
        self.name = f"tls-{client}-{credentials}"
        words = {"psk": "PSK", "x509": "X.509", "copy": "copy4", "read": "a client that doesn't"
                 " decrypt"}
        self.title = f"TLS ({words[credentials]}), {words[client]}, Unix"
        self.client, self.credentials = client, credentials
        self.programs = ("nbdcopy",) if client == "copy" else ()

    def prepare(self, bench_lab, plan):
        super().prepare(bench_lab, plan)
        bench_lab.random_file("read.img")
        self._secrets(bench_lab)
        if self.client == "read":
            self._reader(bench_lab)

    def participants(self):
        return [server for server in servers.SERVERS if server.has_tls]

    def _secrets(self, bench_lab):
        return (bench_lab.psk_file() if self.credentials == "psk" else bench_lab.certificates())

    @staticmethod
    def _reader(bench_lab):
        return bench_lab.openssl_program("tls_reader")

    def sample(self, bench_lab, plan, participant):
        file = bench_lab.random_file("read.img")
        bench_lab.warm(file)
        secrets = self._secrets(bench_lab)
        option = "--tls-psk" if self.credentials == "psk" else "--tls-certificates"
        with participant.start(bench_lab, file, "unix",
                               ["--tls=on", f"{option}={secrets}"]) as running:
            measure = self._copy if self.client == "copy" else self._read
            (total, elapsed), cpu = with_cpu(
                running, lambda: measure(bench_lab, plan, running, secrets))
            return {"gbps": total / elapsed / 1e9, "cpu_s_per_gb": cpu / total * 1e9}

    def _copy(self, _bench_lab, plan, running, secrets):
        psk = self.credentials == "psk"
        uri = running.uri.replace("nbd+unix://", "nbds+unix://" + ("alice@" if psk else ""), 1)
        uri += f"&tls-psk-file={secrets}" if psk else f"&tls-certificates={secrets}"
        command = [lab.need_program("nbdcopy"), "--connections=4", uri, "null:"]
        count, elapsed = repeat_for(plan.seconds, lambda: lab.run_client(command, plan.seconds))
        return count * plan.file_bytes, elapsed

    def _read(self, bench_lab, plan, running, secrets):
        key = ["--psk", secrets.read_text().strip()] if self.credentials == "psk" else []
        done = run_json([self._reader(bench_lab), *running.address, *key, "--seconds",
                         plan.seconds], plan.seconds)
        return done["bytes"], done["seconds"]


class Startup(Workload):
    """From spawn to the greeting and to the first 4 KiB, without a superserver's own time."""

    name, title = "startup", "start of a process for one connection"
    SINGLE = Reference("nbdinetd-s", "nbdinetd -s")
    FLOOR = Reference("greeter", "a static C program that greets")
    references = (SINGLE, FLOOR)

    def participants(self):
        activated = [server for server in servers.SERVERS
                     if isinstance(server, servers.SocketActivated)]
        return [*activated, *self.references]

    def sample(self, bench_lab, plan, participant):
        file = bench_lab.random_file("read.img")
        bench_lab.warm(file)
        program = bench_lab.program("startup")
        if participant is self.FLOOR:
            static = bench_lab.program("startup", "-static")
            how, command = "inetd", [static, "greet"]
        elif participant is self.SINGLE:
            how, command = "inetd", [bench_lab.nbdinetd, "-s", file]
        elif isinstance(participant, servers.NbdinetdAccept):
            how, command = "listen-fds", [*participant.program(bench_lab), file]
        else:
            how, command = "inetd", [lab.need_program("nbdkit"), "-s", "file", file]
        options = ["--greeting-only"] if participant is self.FLOOR else []
        surroundings = (participant.surroundings(bench_lab)
                        if participant in servers.SERVERS else [])
        done = run_json([*surroundings, program, "--how", how, "--count", plan.spawns, *options,
                         "--", *command], plan.spawns)
        return {key: statistics.median(values) for key, values in done.items() if values}


class ConnectRate(Workload):
    """Connect, haggle, read 4 KiB and leave, one client after the other."""

    name, title = "connects", "connections one after the other"

    def sample(self, bench_lab, plan, participant):
        with participant.start(bench_lab, bench_lab.random_file("read.img")) as running:
            done, cpu = with_cpu(running, lambda: blaster(bench_lab, running, "connect",
                                                          seconds=plan.seconds))
        return {"per_second": done["connects"] / done["seconds"],
                "cpu_us_per_op": cpu / done["connects"] * 1e6,
                "greeting_us": done["greeting_us"]["p50"],
                "first_read_us": done["first_read_us"]["p50"]}


class HeldClient:
    """A connected blaster that keeps its connections until the with statement ends."""

    def __init__(self, bench_lab, running, command, *options):
        self._process = subprocess.Popen(
            [str(word) for word in [bench_lab.program("blaster"), command, *running.address,
                                    *options]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            self._read()  # it is connected
        except BaseException:
            self._end()
            raise

    def _read(self):
        line = self._process.stdout.readline()
        if not line:
            said = self._process.stderr.read().decode(errors="replace").strip()
            raise RuntimeError(f"blaster failed: {said}")
        return json.loads(line)

    def go(self):
        """Lets `run --staged` start, and returns its result; the connections stay open."""
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return self._read()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._end()

    def _end(self):
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._process.stderr.close()


class PrivateCopy(Workload):
    """Requests into a private copy: of what is still in the file, or of what is in the copy."""

    def __init__(self, name, title, read_percent, *options):
        self.name, self.title = name, title
        self.options = ["--read-percent", read_percent, *options]

    def participants(self):
        return servers.COPYING

    def prepare(self, bench_lab, plan):
        bench_lab.random_file("read.img")

    def sample(self, bench_lab, plan, participant):
        file = bench_lab.random_file("read.img")
        reason = participant.unavailable(bench_lab)
        if reason:
            raise Unavailable(reason)
        bench_lab.warm(file)
        with participant.start(bench_lab, file) as running:
            with HeldClient(bench_lab, running, "run", "--staged", "--depth", CLIENT_DEPTH,
                            "--seconds", plan.seconds, *self.options) as client:
                done, cpu = with_cpu(running, client.go)
        refuse_errors(done)
        latency = done["read_us"] or done["write_us"]
        return rates({"operations": done["reads"] + done["writes"],
                      "bytes": done["bytes_read"] + done["bytes_written"], "seconds": done["seconds"],
                      "p50_us": latency["p50"], "p99_us": latency["p99"]}, cpu)


class Cached(Workload):
    """Requests to servers that use the page cache in one way, or not at all, of a file that isn't
    there at the beginning."""

    programs = ("fio",)

    def __init__(self, mode, rw, block, depth):
        self.mode, self.rw, self.block, self.depth = mode, rw, block, depth
        work = f"{rw}-1m" if block == MIB else f"{rw}-d{depth}"
        self.name = f"cache-{mode}-{work}"
        self.title = f"--cache={mode}: {rw} {'1 MiB' if block == MIB else '4 KiB'}, depth {depth}"

    def participants(self):
        return servers.CACHING[self.mode]

    def prepare(self, bench_lab, plan):
        super().prepare(bench_lab, plan)
        bench_lab.drop_cache(bench_lab.random_file("cached.img"))

    def sample(self, bench_lab, plan, participant):
        file = bench_lab.random_file("cached.img")
        reason = participant.unavailable(bench_lab)
        if reason:
            raise Unavailable(reason)
        bench_lab.drop_cache(file)
        with participant.start(bench_lab, file) as running:
            done, cpu = with_cpu(running, lambda: fio(
                bench_lab, plan.seconds, self.rw, self.block, self.depth, "--ioengine=nbd",
                f"--uri={running.uri}", "--time_based", "--norandommap"))
        return rates(done, cpu)


class IdleMemory(Workload):
    """Pss of connections that have haggled and are idle, and the CPU that they burn."""

    name, title = "pss", "idle negotiated connections"

    def sample(self, bench_lab, plan, participant):
        with participant.start(bench_lab, bench_lab.random_file("read.img")) as running:
            with HeldClient(bench_lab, running, "hold", "--connections", plan.idle_connections):
                time.sleep(plan.idle_seconds / 4)
                before = running.cpu_seconds()
                time.sleep(plan.idle_seconds)
                idle_cpu = running.cpu_seconds() - before
                pss = running.pss_kib()
        if pss == 0:
            raise RuntimeError("the memory of the server's processes can't be read")
        return {"pss_kib": pss / plan.idle_connections,
                "idle_cpu_ms_per_s": idle_cpu / plan.idle_seconds * 1e3}


class Cold(Workload):
    """Random reads that miss the page cache, each block at most once."""

    programs = ("fio",)
    BARE = Reference("bare-direct", "fio, libaio, O_DIRECT, no server")
    references = (BARE,)

    def __init__(self, name, title, on_loop):
        self.name, self.title, self.on_loop = name, title, on_loop

    def prepare(self, bench_lab, plan):
        super().prepare(bench_lab, plan)
        bench_lab.drop_cache(self._target(bench_lab), self._backing(bench_lab))

    def _backing(self, bench_lab):
        return bench_lab.random_file("cold.img")

    def _target(self, bench_lab):
        backing = self._backing(bench_lab)
        return bench_lab.loop_device(backing) if self.on_loop else backing

    def sample(self, bench_lab, plan, participant):
        target = self._target(bench_lab)
        if participant is self.BARE:
            engine = ["--ioengine=libaio", "--direct=1", f"--filename={target}"]
            return self._run(bench_lab, plan, engine, None)
        with participant.start(bench_lab, target) as running:
            return self._run(bench_lab, plan, ["--ioengine=nbd", f"--uri={running.uri}"], running)

    def _run(self, bench_lab, plan, engine, running):
        target = self._target(bench_lab)
        bench_lab.drop_cache(target, self._backing(bench_lab))
        # A quarter of the blocks at most: what readahead brings beside them stays rare.
        limit = f"--io_size={plan.file_bytes // 4}"

        def work():
            in_flight = lab.InFlight(target)
            done = fio(bench_lab, plan.seconds, "randread", 4 * KIB, CLIENT_DEPTH, limit, *engine)
            # The device is at rest while fio starts and ends.
            done["in_flight"] = in_flight.average(done["seconds"])
            return done
        done, cpu = with_cpu(running, work) if running else (work(), 0.0)
        return {**rates(done, cpu), "in_flight": done["in_flight"]}


class Mixed(Workload):
    """70 % reads, 30 % writes, and a flush after every 64 writes, all within one depth."""

    name, title = "mixed", "70/30 4 KiB random, a flush every 64 writes"

    def prepare(self, bench_lab, plan):
        bench_lab.random_file("write.img")

    def sample(self, bench_lab, plan, participant):
        file = bench_lab.random_file("write.img")
        bench_lab.warm(file)
        bench_lab.sync(file)
        with participant.start(bench_lab, file) as running:
            if not running.offers["flush"]:
                raise Unavailable("does not offer NBD_CMD_FLUSH")
            done, cpu = with_cpu(running, lambda: blaster(
                bench_lab, running, "run", "--depth", CLIENT_DEPTH, "--read-percent", 70,
                "--flush-every", 4 if plan.smoke else 64, seconds=plan.seconds))
        refuse_errors(done)
        operations = done["reads"] + done["writes"]
        if not done["flushes"]:
            raise RuntimeError("no flush was answered")
        return {"kops": operations / done["seconds"] / 1e3,
                "cpu_us_per_op": cpu / operations * 1e6,
                "read_p50_us": done["read_us"]["p50"], "read_p99_us": done["read_us"]["p99"],
                "write_p99_us": done["write_us"]["p99"],
                "flushes_per_s": done["flushes"] / done["seconds"],
                "flush_p50_us": done["flush_us"]["p50"]}


class Extents(Workload):
    """NBD_CMD_BLOCK_STATUS over a file in which every block is an extent."""

    name, title = "extents", "BLOCK_STATUS over a million extents"

    def prepare(self, bench_lab, plan):
        bench_lab.fragmented_file(plan.extents)

    def sample(self, bench_lab, plan, participant):
        file = bench_lab.fragmented_file(plan.extents)
        with participant.start(bench_lab, file) as running:
            if not running.offers["block_status"]:
                raise Unavailable("does not offer base:allocation")
            taken = []

            def ask():
                map_ = blaster(bench_lab, running, "extents")
                if map_["extents"] != plan.extents:
                    raise RuntimeError(f"{map_['extents']} extents told of {plan.extents}")
                taken.append(map_["seconds"])
            _, cpu = with_cpu(running, lambda: repeat_for(plan.seconds, ask))
        return {"ms": statistics.median(taken) * 1e3,
                "cpu_us_per_op": cpu / len(taken) / plan.extents * 1e6}


class SparseCopy(Workload):
    """nbdcopy to nowhere of a file that is almost all hole."""

    name, title = "sparse-copy", "nbdcopy of 1 TiB with 1 GiB of data"
    programs = ("nbdcopy",)

    def prepare(self, bench_lab, plan):
        super().prepare(bench_lab, plan)
        bench_lab.scattered_file(plan.sparse_bytes, plan.sparse_data_bytes)

    def sample(self, bench_lab, plan, participant):
        file = bench_lab.scattered_file(plan.sparse_bytes, plan.sparse_data_bytes)
        with participant.start(bench_lab, file) as running:
            if not running.offers["block_status"]:
                raise Unavailable("does not offer base:allocation, would read it all")
            command = [lab.need_program("nbdcopy"), running.uri, "null:"]
            # Into the page cache: to read the file itself would be to read all its holes.
            lab.run_client(command, 60)
            (count, elapsed), cpu = with_cpu(
                running, lambda: repeat_for(plan.seconds, lambda: lab.run_client(command, 60)))
        return {"ms": elapsed / count * 1e3,
                "cpu_s_per_gb": cpu / count / plan.sparse_data_bytes * 1e9}
