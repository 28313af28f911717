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
    """The picture of these lines, without a line that begins with a prompt and has nothing behind it."""
    lines = text.rstrip("\n").split("\n")
    width = round(max(map(cells, lines)) * ADVANCE) + 2 * MARGIN
    height = len(lines) * LEADING + 2 * MARGIN - (LEADING - SIZE)
    shown = [line_of(line, MARGIN + SIZE - 2 + number * LEADING) for number, line in enumerate(lines) if line.strip()]
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                      f'viewBox="0 0 {width} {height}">', f"<style>\n{STYLE}</style>",
                      f'<rect class="screen" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="6"/>',
                      *shown, "</svg>", ""])
