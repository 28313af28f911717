"""A terminal as SVG: lines of text in a monospace font, light or dark as the reader's screen is."""

import re
import unicodedata
from xml.sax.saxutils import escape

SIZE, ADVANCE, LEADING, MARGIN = 13, 7.83, 18, 16  # of a character, in pixels

STYLE = """\
text { font-family: ui-monospace, "DejaVu Sans Mono", "Liberation Mono", SFMono-Regular, Menlo, Consolas, monospace;
       font-size: %dpx; white-space: pre; fill: #24292f; }
.typed { font-weight: bold; }
.prompt { fill: #57606a; }
.screen { fill: #f6f8fa; stroke: #d0d7de; }
@media (prefers-color-scheme: dark) {
  text { fill: #d7dde4; }
  .prompt { fill: #8b949e; }
  .screen { fill: #161b22; stroke: #30363d; }
}
""" % SIZE


def cells(line):
    """The columns that a line takes."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)


def line_of(line, y):
    typed = re.match(r"([$#]) (.*)$", line)
    if not typed:
        return f'<text x="{MARGIN}" y="{y}" xml:space="preserve">{escape(line)}</text>'
    return (f'<text x="{MARGIN}" y="{y}" xml:space="preserve"><tspan class="prompt">{typed[1]} </tspan>'
            f'<tspan class="typed">{escape(typed[2])}</tspan></text>')


def svg(text):
    """The picture of these lines, with some room above each command."""
    lines = text.rstrip("\n").split("\n")
    shown, y = [], MARGIN + SIZE - 2 - LEADING
    for number, line in enumerate(lines):
        y += LEADING + (LEADING // 2 if number and line.startswith(("# ", "$ ")) else 0)
        if line.strip():
            shown.append(line_of(line, y))
    width, height = round(max(map(cells, lines)) * ADVANCE) + 2 * MARGIN, y + MARGIN
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                      f'viewBox="0 0 {width} {height}" font-family="monospace" font-size="{SIZE}">',
                      f"<style>\n{STYLE}</style>",
                      f'<rect class="screen" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="6" fill="#f6f8fa"/>',
                      *shown, "</svg>", ""])
