"""The two charts, as SVG written out by hand: bars for the rows, lines for the growth."""

import dataclasses
import math
from xml.sax.saxutils import escape

import growth
import servers
from figures import FIGURES, Samples

@dataclasses.dataclass(frozen=True)
class Colour:
    """On a light screen, and on a dark one; the reader's decides (prefers-color-scheme)."""
    name: str
    light: str
    dark: str


# Distinguishable to the colour-blind; nbdinetd's two are the reds.
COLOURS = {servers.NBDINETD: Colour("nbdinetd", "#d1495b", "#f0667a"),
           servers.NBDINETD_LISTENER: Colour("listener", "#8c1c2e", "#b83a50"),
           "nbdkit": Colour("nbdkit", "#30638e", "#4c8fc9"),
           servers.NBDKIT_SINGLE: Colour("single", "#7fb2d6", "#a9cfea"),
           "qemu-nbd": Colour("qemu", "#edae49", "#edae49"),
           "nbd-server": Colour("nbdserver", "#7a9e7e", "#8db892")}
# For variants of nbdinetd, in the order in which they come.
VARIANTS = [Colour("variant", "#9b5de5", "#b78af0"), Colour("variant2", "#5a2a9c", "#8d63d2")]
_variants = {}  # the index of each one's colour
INK, PAPER = Colour("ink", "#222222", "#e6e6e6"), Colour("paper", "#ffffff", "#161b22")
FAINT, AXIS = Colour("faint", "#d8d8d8", "#3a4048"), Colour("axis", "#888888", "#8b949e")
GRID, GOAL = Colour("grid", "#aaaaaa", "#6a737d"), Colour("goal", "#000000", "#ffffff")


def colour(key):
    """A variant keeps the colour of its first use."""
    if key in COLOURS:
        return COLOURS[key]
    return VARIANTS[_variants.setdefault(key, len(_variants)) % len(VARIANTS)]


class Drawing:
    """Elements have their light colour as an attribute, for programs that know no style sheets."""

    def __init__(self, width, height):
        self.width, self.height = width, height
        self._elements, self._colours = [], {}

    def _paint(self, attribute, tint):
        self._colours[attribute, tint] = None
        return f'class="{attribute}-{tint.name}" {attribute}="{tint.light}"'

    def rectangle(self, x, y, width, height, tint):
        self._elements.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
                              f'height="{height:.1f}" {self._paint("fill", tint)}/>')

    def line(self, x1, y1, x2, y2, tint=INK, width=1.0, dashes=""):
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        self._elements.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
                              f'{self._paint("stroke", tint)} stroke-width="{width}"{dashed}/>')

    def path(self, points, tint):
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._elements.append(f'<polyline points="{joined}" fill="none" '
                              f'{self._paint("stroke", tint)} stroke-width="2"/>')
        for x, y in points:
            self._elements.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" '
                                  f'{self._paint("fill", tint)}/>')

    def text(self, x, y, words, anchor="start", size=12, bold=False):
        weight = ' font-weight="bold"' if bold else ""
        self._elements.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
                              f'font-size="{size}"{weight}>{escape(words)}</text>')

    def svg(self):
        ground = f'<rect width="100%" height="100%" {self._paint("fill", PAPER)}/>\n'
        ink = self._paint("fill", INK)
        dark = "\n".join(f"  .{attribute}-{tint.name} {{ {attribute}: {tint.dark}; }}"
                         for attribute, tint in self._colours)
        return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width:.0f}" '
                f'height="{self.height:.0f}" viewBox="0 0 {self.width:.0f} {self.height:.0f}" '
                f'font-family="sans-serif" {ink}>\n'
                f"<style>\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n</style>\n"
                f"{ground}" + "\n".join(self._elements) + "\n</svg>\n")


def _legend(drawing, y, keys):
    x = 16
    for key in keys:
        title = servers.BY_KEY[key].title
        drawing.rectangle(x, y - 10, 12, 12, colour(key))
        drawing.text(x + 17, y, title)
        x += 34 + 7.0 * len(title)


def _advantage(figure, value, best):
    return value / best if figure.more_is_better else best / value


def goal_advantage(figure, samples, best):
    """The first goal on the chart's scale, where 1 is the best peer; None without a goal."""
    wanted = next((goal.wanted(figure, samples) for goal in figure.goals), None)
    return _advantage(figure, wanted, best) if wanted else None


def rows_chart(result):
    """For each row a group of bars: how many times as good as the best peer each server is."""
    samples = Samples(result["samples"])
    peers = [server.key for server in servers.SERVERS if server.is_peer]
    groups = []
    for figure in FIGURES:
        medians = {server.key: samples.median(figure.workload, server.key, figure.metric)
                   for server in servers.SERVERS}
        medians = {key: value for key, value in medians.items() if value}
        rivals = [medians[key] for key in peers if key in medians]
        if not rivals:
            continue
        best = max(rivals) if figure.more_is_better else min(rivals)
        groups.append((figure, goal_advantage(figure, samples, best),
                       {key: (_advantage(figure, value, best), value)
                        for key, value in medians.items()}))
    bar, gap, left, right, top = 9, 14, 330, 90, 78
    height = top + sum(len(bars) * bar + gap for _, _, bars in groups) + 30
    drawing = Drawing(1040, height)
    furthest = max([1.0] + [goal or 1.0 for _, goal, _ in groups]
                   + [advantage for _, _, bars in groups for advantage, _ in bars.values()])
    # One row far ahead must not squeeze all the others.
    scale_end = min(math.ceil(furthest * 2) / 2, 5.0)
    scale = (drawing.width - left - right) / scale_end

    drawing.text(16, 24, "How many times as good as the best peer (longer is better, black tick: "
                 "the goal)", size=15, bold=True)
    machine = result["machine"]
    drawing.text(16, 42, f"{machine['date']}, {machine['cpu']}, {machine['cores']} cores, Linux "
                 f"{machine['kernel']}; medians of {result['plan']['rounds']} rounds", size=11)
    _legend(drawing, 62, [server.key for server in servers.SERVERS
                          if any(server.key in bars for _, _, bars in groups)])
    for half in range(int(scale_end * 2) + 1):
        x = left + half / 2 * scale
        drawing.line(x, top, x, height - 24, AXIS if half == 2 else FAINT,
                     1.5 if half == 2 else 1)
        if half % 2 == 0:
            drawing.text(x, height - 9, f"{half // 2} ×", "middle", 11)
    y = top + gap / 2
    for figure, goal, bars in groups:
        drawing.text(left - 10, y + len(bars) * bar / 2 + 4, figure.title, "end", 11)
        for index, (key, (advantage, value)) in enumerate(bars.items()):
            length = min(advantage, scale_end) * scale
            drawing.rectangle(left, y + index * bar, length, bar - 1.5, colour(key))
            beyond = f" ({advantage:.1f} ×)" if advantage > scale_end else ""
            drawing.text(left + length + 3, y + index * bar + bar - 2,
                         f"{value:.{figure.digits}f} {figure.unit}{beyond}", size=7.5)
        if goal:
            x = left + min(goal, scale_end) * scale
            drawing.line(x, y - 3, x, y + len(bars) * bar + 2, GOAL, 2)
        y += len(bars) * bar + gap
    return drawing.svg()


def _decades(low, high):
    """Powers of ten that hold the values."""
    return math.floor(math.log10(low)), max(math.ceil(math.log10(high)),
                                            math.floor(math.log10(low)) + 1)


def _panel(drawing, x, y, width, height, series, taken, metric, unit):
    curves = {}
    for key, by_point in taken["samples"].items():
        points = [(point, growth.median_of(samples, metric))
                  for point, samples in zip(taken["points"], by_point)]
        curves[key] = [(point, value) for point, value in points if value]
    values = [value for curve in curves.values() for _, value in curve]
    name = {"throughput": "throughput", "cpu": "server CPU", "memory": "Pss"}[metric]
    drawing.text(x, y - 8, f"{name}, {unit}", size=12, bold=True)
    if not values:
        return
    low, high = _decades(min(values), max(values))
    first, last = (math.log2(taken["points"][0]), math.log2(taken["points"][-1]))

    def place(point, value):
        across = (math.log2(point) - first) / ((last - first) or 1)
        up = (math.log10(value) - low) / (high - low)
        return x + across * width, y + height - up * height
    for decade in range(low, high + 1):
        for step in (1, 2, 5):
            value = step * 10.0 ** decade
            if value > 10.0 ** high:
                break
            _, line_y = place(taken["points"][0], value)
            drawing.line(x, line_y, x + width, line_y, FAINT if step > 1 else GRID)
            if step == 1 or high - low <= 2:
                drawing.text(x - 5, line_y + 4, f"{value:g}", "end", 10)
    for index, point in enumerate(taken["points"]):
        point_x, _ = place(point, 10.0 ** low)
        drawing.line(point_x, y, point_x, y + height, FAINT)
        if index % 2 == 0:
            label = growth.point_title(series, point).replace(" less 1 MiB", "")
            drawing.text(point_x, y + height + 14, label, "middle", 9)
    for key, curve in curves.items():
        drawing.path([place(point, value) for point, value in curve], colour(key))


def growth_chart(result):
    """A column for what grows, a row for what is measured; all scales are logarithmic."""
    width, height, left, top = 330, 190, 60, 110
    drawing = Drawing(3 * (width + 80) + 10, top + 3 * (height + 62) - 20)
    machine = result["machine"]
    drawing.text(16, 24, "What grows with the work", size=15, bold=True)
    drawing.text(16, 42, f"{machine['date']}, {machine['cpu']}, {machine['cores']} cores, Linux "
                 f"{machine['kernel']}", size=11)
    shown = {key for taken in result["growth"].values() for key in taken["samples"]}
    _legend(drawing, 62, [server.key for server in servers.SERVERS if server.key in shown])
    for column, series in enumerate(growth.SERIES):
        x = left + column * (width + 80)
        drawing.text(x, top - 28, series.title, size=11)
        for row, (metric, unit) in enumerate(zip(("throughput", "cpu", "memory"), series.units)):
            _panel(drawing, x, top + row * (height + 62), width, height, series,
                   result["growth"][series.key], metric, unit)
    return drawing.svg()
