#!/usr/bin/env python3
"""Makes the charts, and two tables of docs/benchmarks.md, from results.json.

    docs/benchmarks/charts.py           writes fan-out.svg, pull.svg, and the tables between the markers of benchmarks.md
    docs/benchmarks/charts.py --check   writes nothing; fails if a file is not what this script makes (tests/tests/docs.rs)

Python 3, standard library only. The output depends on results.json alone, so that it can be compared byte for byte.
"""

import json
import math
import pathlib
import sys
from html import escape

HERE = pathlib.Path(__file__).resolve().parent
PAGE = HERE.parent / "benchmarks.md"

# A chart is read on a light and on a dark page. The product is in colour, its peers are grey.
STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-size: 15px; font-weight: 600 }
.quiet { fill: #6e7781 }
.grid { stroke: #d0d7de; stroke-width: 1 }
.peer { stroke: #8c959f; fill: none; stroke-width: 2 }
.bare { stroke: #8c959f; fill: none; stroke-width: 2; stroke-dasharray: 5 4 }
.ours { stroke: #0969da; fill: none; stroke-width: 3 }
.peer-mark { fill: #8c959f }
.ours-mark { fill: #0969da }
.ours-text { fill: #0969da; font-weight: 600 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.quiet { fill: #9198a1 }
.grid { stroke: #3d444d }
.ours { stroke: #4493f8 }
.ours-mark, .ours-text { fill: #4493f8 }
}
</style>"""


def text(x, y, words, kind="", anchor="start"):
    """One line of text; `anchor` says which end of it is at `x`."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def line(x1, y1, x2, y2, kind):
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" class="{kind}"/>'


def svg(width, height, title, parts):
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", STYLE, *parts, "</svg>", ""])


def fan_out_chart(results):
    """Lines on two logarithmic axes: CPU a delivery by number of subscribers, one line a system."""
    left, right, top, bottom = 70, 520, 60, 320
    counts = results["subscribers"]
    lowest, highest = 0.005, 10

    def x(count):
        return round(left + (right - left) * math.log10(count) / math.log10(counts[-1]), 1)

    def y(cost):
        return round(bottom - (bottom - top) * math.log10(cost / lowest) / math.log10(highest / lowest), 1)

    parts = [
        text(left, 22, "Fan-out: CPU time of the server per delivery", "title"),
        text(left, 42, "microseconds, by number of subscribers; both axes are logarithmic; less is better", "quiet"),
    ]
    for cost in (0.01, 0.1, 1, 10):
        parts += [line(left, y(cost), right, y(cost), "grid"), text(left - 8, y(cost) + 4, f"{cost:g}", "quiet", "end")]
    for count in counts:
        parts.append(text(x(count), bottom + 22, f"{count:,}", "quiet", "middle"))
    for system in ("bare", "redis", "nats", "mosquitto", "sampan"):
        costs = results["systems"][system]
        points = [(x(count), y(float(cost))) for count, cost in zip(counts, costs)]
        kind = {"sampan": "ours", "bare": "bare"}.get(system, "peer")
        path = " ".join(f"{px:g},{py:g}" for px, py in points)
        parts.append(f'<polyline points="{path}" class="{kind}"/>')
        mark = "ours-mark" if system == "sampan" else "peer-mark"
        parts += [f'<circle cx="{px:g}" cy="{py:g}" r="3.5" class="{mark}"/>' for px, py in points]
        words = f"{system} {costs[-1]}" if system != "bare" else f"bare copying {costs[-1]}"
        parts.append(text(right + 10, points[-1][1] + 4, words, "ours-text" if system == "sampan" else ""))
    return svg(680, 360, "Fan-out: CPU time of the server per delivery, by number of subscribers", parts)


def pull_chart(results):
    """Bars: wall time of a pull of image M, one bar an engine."""
    image = next(image for image in results["images"] if image["image"] == "M")
    rows = [("sampan", "sampan"), ("podman", "podman"), ("ctr + containerd", "containerd"), ("docker", "docker")]
    left, right, top, step = 100, 600, 66, 34
    longest = max(float(image["pullers"][key][0]) for key, _ in rows)
    parts = [
        text(left, 22, "Pull: time until the image is unpacked", "title"),
        text(left, 42, f"seconds, {image['content']}, from a registry on the same host; less is better", "quiet"),
    ]
    for nth, (key, label) in enumerate(rows):
        seconds, middle = image["pullers"][key][0], top + nth * step + 11
        ours = key == "sampan"
        width = round((right - left) * float(seconds) / longest, 1)
        parts += [
            text(left - 8, middle + 5, label, "ours-text" if ours else "", "end"),
            f'<rect x="{left}" y="{top + nth * step}" width="{width:g}" height="22" rx="2" class="{"ours" if ours else "peer"}-mark"/>',
            text(left + width + 8, middle + 5, f"{seconds}", "ours-text" if ours else ""),
        ]
    return svg(680, top + len(rows) * step + 6, "Pull: time until the image is unpacked, by engine", parts)


def fan_out_table(results):
    systems = results["systems"]
    rows = [["subscribers", *systems], ["---"] * (len(systems) + 1)]
    for nth, count in enumerate(results["subscribers"]):
        bare = float(systems["bare"][nth])
        cells = [costs[nth] if name == "bare" else f"{costs[nth]} ({ratio(float(costs[nth]) / bare)} ×)" for name, costs in systems.items()]
        rows.append([f"{count:,}", *cells])
    return table(rows) + commands([results])


def pull_table(results):
    pullers = list(results["images"][0]["pullers"])
    rows = [["image", *pullers], ["---"] * (len(pullers) + 1)]
    for image in results["images"]:
        rows.append([f"{image['image']}: {image['content']}", *(pull_cell(image["pullers"][name]) for name in pullers)])
    return table(rows) + commands(results["images"])


def pull_cell(figures):
    if figures is None:
        return "cannot"
    wall, cpu, memory = figures
    return f"{wall} / {cpu}" + (f", {memory} MiB" if memory is not None else "")


def ratio(number):
    return f"{number:.1f}" if number < 10 else f"{number:.0f}"


def table(rows):
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows) + "\n"


def commands(entries):
    return "\n" + "".join(f"- `{entry['command']}` ({entry['stated']})\n" for entry in entries)


def between(page, name, words):
    """`page` with `words` between the two markers of `name`."""
    begin, end = f"<!-- charts.py: {name} -->\n", f"<!-- end of {name} -->\n"
    before, rest = page.split(begin, 1)
    _, after = rest.split(end, 1)
    return before + begin + words + end + after


def main():
    # Fractions stay as they are written, "0.80" and not "0.8": the digits say how exact a figure is.
    results = json.loads((HERE / "results.json").read_text(), parse_float=str)
    page = PAGE.read_text()
    page = between(page, "fan-out", fan_out_table(results["fan_out"]))
    page = between(page, "pull", pull_table(results["pull"]))
    files = {
        HERE / "fan-out.svg": fan_out_chart(results["fan_out"]),
        HERE / "pull.svg": pull_chart(results["pull"]),
        PAGE: page,
    }
    if sys.argv[1:] == ["--check"]:
        stale = [path for path, content in files.items() if not path.exists() or path.read_text() != content]
        if stale:
            names = ", ".join(str(path.relative_to(HERE.parent.parent)) for path in stale)
            sys.exit(f"error: not what docs/benchmarks/charts.py makes of results.json: {names}\nhint: run docs/benchmarks/charts.py")
    elif len(sys.argv) == 1:
        for path, content in files.items():
            path.write_text(content)
    else:
        sys.exit("usage: charts.py [--check]")


main()
