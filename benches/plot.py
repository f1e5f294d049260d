#!/usr/bin/env python3
"""Draws the table of `cargo bench --bench instructions` as benches/instructions.svg: a bar for each kind of answer, with a
mark at its limit. Needs nothing but Python. `--from FILE` reads a table from a file."""

import html
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
LEFT, WIDTH, ROW, TOP, CAP = 270, 520, 18, 46, 8_000


def table():
    if "--from" in sys.argv:
        return pathlib.Path(sys.argv[sys.argv.index("--from") + 1]).read_text()
    run = subprocess.run(["cargo", "bench", "--bench", "instructions"], cwd=HERE.parent, capture_output=True, text=True)
    print(run.stdout, end="")
    return run.stdout


def rows(text):
    for line in text.splitlines():
        # Name, instructions, and the limit where there is one.
        if found := re.match(r"(\S.*?) {2,}(\d+) +(\d+)?", line + " "):
            yield found[1], int(found[2]), int(found[3]) if found[3] else None


def draw(kinds):
    height = TOP + ROW * len(kinds) + 10
    scale = WIDTH / CAP
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 90}" height="{height}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<text x="10" y="18" font-size="14">User instructions of an answer from the index (callgrind)</text>',
        f'<text x="10" y="34" fill="#555">red: the limit; a bar with a gap continues beyond {CAP:,}</text>',
    ]
    for number, (name, count, limit) in enumerate(kinds):
        y = TOP + ROW * number
        bar = min(count, CAP) * scale
        svg.append(f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end">{html.escape(name)}</text>')
        svg.append(f'<rect x="{LEFT}" y="{y + 2}" width="{bar:.1f}" height="{ROW - 5}" fill="#4878a8"/>')
        if count > CAP:
            svg.append(f'<rect x="{LEFT + WIDTH - 14}" y="{y + 1}" width="5" height="{ROW - 3}" fill="white"/>')
        svg.append(f'<text x="{LEFT + bar + 5:.1f}" y="{y + 12}" fill="#333">{count:,}</text>')
        if limit:
            x = LEFT + limit * scale
            svg.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + ROW - 1}" stroke="#c03030" stroke-width="2"/>')
    return "\n".join(svg + ["</svg>"]) + "\n"


kinds = list(rows(table()))
if not kinds:
    sys.exit("no table: did the bench run?")
(HERE / "instructions.svg").write_text(draw(kinds))
