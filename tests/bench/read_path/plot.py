#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws the speeds of read_path.json beside those of plain files (needs matplotlib).

    tests/bench/read_path/plot.py read_path.json [read_path.svg|read_path.png]

One panel for each source's deepest version; in it, for each method and number of readers, the speed of every state.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from samples import STATES, WITHOUT_DEPTH

FAINT = "#d9d9d9"
# Of the states that are drawn; `relayed` and `tmpfs` stand in the table only.
COLOURS = {"plain": "#222222", "disk": "#7f7f7f", "untouched": "#b9b9b9", "cold": "#c1440e", "waited": "#8e5ea2",
           "second": "#b08900", "page-cache": "#2b6cb0", "memory": "#0b6e4f"}
NAMES = {"plain": "plain, cached"} | STATES


def speeds(rows: list[dict], source: str, depth: int) -> tuple[list[tuple[str, int]], dict[str, dict]]:
    """(method, readers) in order, and state -> (method, readers) -> GB/s."""
    states: dict[str, dict] = {}
    for row in rows:
        of_version = (row.get("source"), row["depth"]) == (source, depth) or row["series"] in {"plain"} | WITHOUT_DEPTH
        if row["series"] in COLOURS and of_version and "gb_per_s" in row:
            states.setdefault(row["series"], {})[row["method"], row["readers"]] = row["gb_per_s"]
    places = sorted({place for values in states.values() for place in values})
    return places, {state: states[state] for state in COLOURS if state in states}


def panel(axis, rows: list[dict], source: str, depth: int) -> None:
    places, states = speeds(rows, source, depth)
    width = 0.8 / max(1, len(states))
    for number, (state, values) in enumerate(states.items()):
        left = [at - 0.4 + width * (number + 0.5) for at, place in enumerate(places) if place in values]
        axis.bar(left, [values[place] for place in places if place in values], width, color=COLOURS[state],
                 label=NAMES[state], zorder=2)
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    names = [f"{method}\n{readers}".replace("-", "\n") for method, readers in places]
    axis.set_xticks(range(len(places)), names, fontsize=7)
    axis.set_ylabel("GB/s (logarithmic)")
    axis.grid(axis="y", color=FAINT, linewidth=0.6, zorder=0)
    axis.set_title(f"{source}, {depth} deltas; below: method and readers", loc="left", fontsize=10)


def draw(source_file: Path, target: Path) -> None:
    import matplotlib

    matplotlib.use("svg" if target.suffix == ".svg" else "agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "weightfs",
                            "axes.spines.top": False, "axes.spines.right": False})
    rows = [row for row in json.loads(source_file.read_text())["rows"] if row["model"] == "main"]
    sources = sorted({row["source"] for row in rows if row["series"] in COLOURS and row.get("source")})
    if not sources:
        print("no plot: no version was read through a mount")
        return
    figure, axes = pyplot.subplots(len(sources), 1, figsize=(9, 3.2 * len(sources)), squeeze=False,
                                   layout="constrained")
    for axis, source in zip(axes[:, 0], sources, strict=True):
        depth = max(row["depth"] for row in rows if row.get("source") == source and row["series"] in COLOURS)
        panel(axis, rows, source, depth)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    if target.suffix == ".svg":
        figure.savefig(target, metadata={"Date": None, "Creator": None})
        # Trailing spaces of the writer would stand out in every diff.
        target.write_text("\n".join(line.rstrip() for line in target.read_text().splitlines()) + "\n")
    else:
        figure.savefig(target, dpi=110)


def main() -> None:
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    source = Path(sys.argv[1])
    draw(source, Path(sys.argv[2]) if len(sys.argv) == 3 else source.with_suffix(".svg"))


if __name__ == "__main__":
    main()
