"""Tables in Markdown, and the marked sections of README.md that hold them."""

import re

import growth
import servers
from figures import (CACHE_FIGURES, COPY_FIGURES, CPU, DISTANT_FIGURES, EXPLANATIONS, FIGURES, OLD_KERNEL,
                     REFERENCE_TITLES, Samples, title_of)
from rows import BY_NAME


def number(value, digits):
    if value is None:
        return "–"
    return f"{value:.{digits}f}"


def with_spread(samples, workload, key, metric, digits):
    middle = samples.median(workload, key, metric)
    if middle is None:
        return "–"
    low, high = samples.spread(workload, key, metric)
    if len([v for v in samples.values(workload, key, metric) if v is not None]) < 2:
        return number(middle, digits)
    return f"{number(middle, digits)} ({number(low, digits)}–{number(high, digits)})"


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def ratio_text(verdict):
    """A ratio with the rival's name, and what it was in the single rounds."""
    if verdict.ratio is None:
        return "–"
    text = f"{verdict.ratio:.2f} × {title_of(verdict.rival)}"
    if len(verdict.per_round) > 1:
        text += f" ({min(verdict.per_round):.2f}–{max(verdict.per_round):.2f})"
    return text


def verdict_text(verdict, rounds):
    if verdict.holds is None:
        return verdict.remark or "not measured"
    text = "**yes**" if verdict.holds else "**no**"
    if rounds > 1 and (verdict.per_round or verdict.ratio is None):
        text += f", {verdict.rounds_held} of {rounds} rounds"
    if verdict.remark:
        text += f" ({verdict.remark})"
    return text


def rounds_of(result, figure):
    """The number of rounds of the run that the figure's row is from."""
    for later in result.get("later", []):
        if figure.workload in later["rows"]:
            return later["plan"]["rounds"]
    return result["plan"]["rounds"]


def shown_servers(result):
    return [server for server in servers.SERVERS
            if any(server.key in taken for taken in result["samples"].values())]


def goals_table(result):
    samples = Samples(result["samples"])
    columns = shown_servers(result)
    rows = []
    for figure in FIGURES:
        if figure.workload not in result["samples"] or figure in (*DISTANT_FIGURES, *COPY_FIGURES, *CACHE_FIGURES):
            continue
        verdicts = figure.verdicts(samples)
        rows.append([f"{figure.title}, {figure.unit}",
                     *(with_spread(samples, figure.workload, server.key, figure.metric,
                                   figure.digits) for server in columns),
                     "<br>".join(map(ratio_text, verdicts)) or "–",
                     "<br>".join(verdict.goal for verdict in verdicts) or "–",
                     "<br>".join(verdict_text(verdict, rounds_of(result, figure))
                                 for verdict in verdicts) or "–"])
    return table(["work", *(server.title for server in columns), "ratio", "goal", "holds"],
                 rows)


def distance_table(result):
    """nbdinetd and a bare sender at the other end of a link."""
    samples = Samples(result["samples"])
    others = [server for server in shown_servers(result)
              if isinstance(server, servers.NbdinetdVariant)]
    rows = []
    for figure in DISTANT_FIGURES:
        if figure.workload not in result["samples"]:
            continue
        row = BY_NAME[figure.workload]
        verdict, = figure.verdicts(samples)
        cells = [with_spread(samples, figure.workload, key, figure.metric, figure.digits)
                 for key in (servers.NBDINETD, row.reference.key,
                             *(server.key for server in others))]
        rows.append([f"{row.kind}{' over TLS' if row.tls else ''}, {figure.unit}",
                     f"{row.rtt_ms:g}", number(samples.median(
                         figure.workload, row.reference.key, "round_trip_ms"), 2),
                     *cells, ratio_text(verdict),
                     verdict_text(verdict, rounds_of(result, figure))])
    if not rows:
        return ""
    return (f"{DISTANT_FIGURES[0].goals[0].text()}, over a link of 1 Gbit/s:\n\n"
            + table(["work", "round trip, ms", "measured", "nbdinetd, Accept=yes", "bare sender",
                     *(server.title for server in others), "ratio", "holds"], rows))


def copies_table(result):
    """Servers with a private copy for each client, or one for all of them."""
    samples = Samples(result["samples"])
    rows = []
    for figure in COPY_FIGURES:
        if figure.workload not in result["samples"]:
            continue
        verdict, = figure.verdicts(samples)
        rows.append([f"{figure.title.removeprefix('private copy: ')}, {figure.unit}",
                     *(with_spread(samples, figure.workload, server.key, figure.metric, figure.digits)
                       for server in servers.COPYING),
                     ratio_text(verdict), verdict_text(verdict, rounds_of(result, figure))])
    if not rows:
        return ""
    return (f"Private copies, {COPY_FIGURES[0].goals[0].text()}:\n\n"
            + table(["work", *(server.title for server in servers.COPYING), "ratio", "holds"], rows))


def caches_tables(result):
    """Servers that use the page cache in the same way: one table for each."""
    samples = Samples(result["samples"])
    tables = []
    for mode, participants in servers.CACHING.items():
        rows = []
        for figure in CACHE_FIGURES:
            if BY_NAME[figure.workload].mode != mode or figure.workload not in result["samples"]:
                continue
            verdict, = figure.verdicts(samples)
            rows.append([f"{figure.title.partition(': ')[2]}, {figure.unit}",
                         *(with_spread(samples, figure.workload, server.key, figure.metric, figure.digits)
                           for server in participants),
                         ratio_text(verdict), verdict_text(verdict, rounds_of(result, figure))])
        if rows:
            tables.append(f"`--cache={mode}`, {CACHE_FIGURES[0].goals[0].text()}:\n\n"
                          + table(["work", *(server.title for server in participants), "ratio",
                                   "holds"], rows))
    return "\n\n".join(tables)


def kernels_table(result):
    """The columns of older kernels beside the program with all system calls."""
    samples = Samples(result["samples"])
    columns = [server for server in shown_servers(result)
               if isinstance(server, servers.NbdinetdAsKernel)]
    rows = []
    for figure in FIGURES:
        verdicts = [OLD_KERNEL.evaluate(figure, samples, server.key) for server in columns
                    if server.key in result["samples"].get(figure.workload, {})]
        if verdicts:
            rows.append([f"{figure.title}, {figure.unit}",
                         *(f"{ratio_text(verdict)}: "
                           f"{verdict_text(verdict, rounds_of(result, figure))}"
                           for verdict in verdicts)])
    if not rows:
        return ""
    return (f"Without newer system calls, goal {OLD_KERNEL.text()}:\n\n"
            + table(["work", *(server.title for server in columns)], rows))


def cpu_table(result):
    samples = Samples(result["samples"])
    columns = shown_servers(result)
    rows = [[f"{BY_NAME[name].title}, {unit}",
             *(number(samples.median(name, server.key, metric), 3 if unit == "s/GB" else 2)
               for server in columns)]
            for name, metric, unit in CPU if name in result["samples"]]
    return table(["server CPU", *(server.title for server in columns)], rows) if rows else ""


def explanations_table(result):
    samples = Samples(result["samples"])
    columns = shown_servers(result)
    rows = [[f"{title}, {unit}" if unit else title,
             *(number(samples.median(name, server.key, metric), digits) for server in columns)]
            for name, metric, title, unit, digits in EXPLANATIONS if name in result["samples"]]
    return table(["beside the goals", *(server.title for server in columns)], rows) if rows else ""


def references_list(result):
    """What the machine does without a server."""
    samples = Samples(result["samples"])
    lines = []
    for figure in FIGURES:
        if figure in DISTANT_FIGURES:
            continue
        for key in result["samples"].get(figure.workload, {}):
            if key in REFERENCE_TITLES and samples.median(figure.workload, key, figure.metric):
                value = with_spread(samples, figure.workload, key, figure.metric, figure.digits)
                lines.append(f"- {figure.title}: {REFERENCE_TITLES[key]}: {value} {figure.unit}")
    return "\n".join(lines)


def gaps_list(result):
    """What was not measured, and why."""
    lines = []
    for workload, reasons in result["skipped"].items():
        for key, reason in reasons.items():
            who = "nobody" if key == "all" else title_of(key)
            lines.append(f"- {BY_NAME[workload].title}: {who}: {reason}")
    return "\n".join(lines)


def counted(number_of, noun):
    return f"{number_of} {noun}{'' if number_of == 1 else 's'}"


def machine_text(result, client):
    machine, plan = result["machine"], result["plan"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    virtual = (f", a virtual machine ({machine['virtual_machine']})"
               if machine["virtual_machine"] else "")
    return (f"{machine['date']}. {machine['cpu']}, {counted(machine['cores'], 'core')}, "
            f"{machine['memory_gib']} GiB of memory, {machine['file_system']}{virtual}; "
            f"{machine['system']}, Linux {machine['kernel']}. Others kept "
            f"{max(machine['busy_cores']):.2f} cores busy at most, looked at before each round. "
            f"{versions}. {counted(plan['rounds'], 'round')} of {plan['seconds']:g} s, client "
            f"{client}, files of {plan['file_bytes'] / 2**20:g} MiB, server CPU from a "
            f"{machine['accounting']}.")


def later_text(result):
    """The runs that have replaced rows."""
    return "".join(f" Measured on {later['machine']['date']} in {counted(later['plan']['rounds'], 'round')}, while others "
                   f"kept {max(later['machine']['busy_cores']):.2f} cores busy at most: {', '.join(later['rows'])}."
                   for later in result.get("later", []))


def whole_report(result):
    parts = [machine_text(result, result["plan"]["client"])
             + " Cells are medians (least–most); ratios are of the medians (least–most of a "
             "round)." + later_text(result), goals_table(result), copies_table(result), caches_tables(result), distance_table(result),
             kernels_table(result), cpu_table(result), explanations_table(result)]
    references = references_list(result)
    if references:
        parts.append("What the machine does without a server:\n\n" + references)
    gaps = gaps_list(result)
    if gaps:
        parts.append("Not measured:\n\n" + gaps)
    return "\n\n".join(part for part in parts if part)


def growth_report(result):
    parts = [machine_text(result, "blaster") + " Cells are medians."]
    for series in growth.SERIES:
        taken = result["growth"][series.key]
        columns = [server for server in servers.SERVERS if server.key in taken["samples"]]
        rows = []
        for index, point in enumerate(taken["points"]):
            row = [growth.point_title(series, point)]
            for server in columns:
                at_point = taken["samples"][server.key][index]
                values = [growth.median_of(at_point, metric)
                          for metric in ("throughput", "cpu", "memory")]
                row.append("–" if values[0] is None else
                           f"{values[0]:.3g} · {values[1]:.3g} · {values[2]:.3g}")
            rows.append(row)
        parts.append(f"{series.title}: {series.units[0]} · server CPU {series.units[1]} · "
                     f"Pss {series.units[2]}\n\n"
                     + table([series.axis, *(server.title for server in columns)], rows))
    return "\n\n".join(parts)


def replace_section(text, name, body):
    """The text between the two comments that carry the name, replaced."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise SystemExit(f"README.md has not exactly one section '{name}'")
    return pattern.sub(lambda _: f"{begin}\n\n{body}\n\n{end}", text)


def refresh_readme(path, result):
    text = path.read_text()
    if result["samples"]:
        body = "![Each server against the best peer](chart.svg)\n\n" + whole_report(result)
        text = replace_section(text, "results", body)
    if result["growth"]:
        body = ("![Throughput, CPU and memory as the work grows](growth.svg)\n\n"
                + growth_report(result))
        text = replace_section(text, "growth", body)
    path.write_text(text)
