# SPDX-License-Identifier: Apache-2.0
"""Plots of the codec benchmark as SVG (needs matplotlib)."""

from pathlib import Path

from figures import best_speed, native_block, native_bytes, other

INK, FAINT = "#222222", "#d9d9d9"
OURS = "#0b6e4f"
COLOURS = {"weightfs": OURS, "TRL raw": "#7f7f7f", "TRL gap_delta": "#b08900", "PULSE v3.1": "#7b4fa3",
           "slime xor zstd-1": "#c1440e", "BitX zstd-3": "#2b6cb0", "ZipNN of the xor": "#5b8c8c", "memcpy": FAINT}


def _axes(figure_size, columns=1):
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 9, "font.family": "sans-serif", "svg.fonttype": "none", "svg.hashsalt": "weightfs",
                            "axes.edgecolor": "#888888", "axes.spines.top": False, "axes.spines.right": False,
                            "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK})
    figure, axes = pyplot.subplots(1, columns, figsize=figure_size, facecolor="white", layout="constrained")
    return figure, axes


def _save(figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".svg":
        figure.savefig(path, dpi=110)
        return
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    # Trailing spaces of the writer would stand out in every diff.
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")


def _points(results: dict, name: str, simulated: bool) -> list[tuple[float, float]]:
    points = []
    for pair, result in results.items():
        if result["kind"] not in {"sparse", "squash"} or pair.startswith("sim") != simulated:
            continue
        row = {"bytes": native_bytes(result)} if name == "weightfs" else other(result, name)
        if row:
            points.append((100 * result["changed"] / result["elements"], 8 * row["bytes"] / result["changed"]))
    return sorted(points)


def _apart(places: dict[str, float], ratio: float = 1.1) -> dict[str, float]:
    """Heights of labels on a log axis: at their points, but none on another."""
    result, below = {}, 0.0
    for name, height in sorted(places.items(), key=lambda place: place[1]):
        below = max(height, below * ratio)
        result[name] = below
    return result


def plot_sizes(results: dict[str, dict], path: Path) -> None:
    """Bits a changed weight over the share of changed weights."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure, axis = _axes((7.2, 4.4))
    ends: dict[str, float] = {}
    right = 0.0
    for name in ("TRL raw", "TRL gap_delta", "PULSE v3.1", "slime xor zstd-1", "BitX zstd-3", "weightfs"):
        real, simulated = _points(results, name, False), _points(results, name, True)
        width = 2.0 if name == "weightfs" else 1.0
        if simulated:
            axis.plot(*zip(*simulated, strict=True), "-", color=COLOURS[name], linewidth=width, zorder=2)
        if real:
            axis.plot(*zip(*real, strict=True), "o", color=COLOURS[name], markersize=6 if name == "weightfs" else 4.5,
                      zorder=3)
        if real or simulated:
            right, ends[name] = max(real + simulated)
    for name, height in _apart(ends).items():
        axis.annotate(name, (right, height), xytext=(7, 0), textcoords="offset points", va="center", color=COLOURS[name],
                      fontweight="bold" if name == "weightfs" else "normal")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(4, 60)
    axis.xaxis.set_major_locator(FixedLocator([0.2, 0.5, 1, 2, 5]))
    axis.yaxis.set_major_locator(FixedLocator([4, 6, 8, 12, 16, 24, 32, 48]))
    for one in (axis.xaxis, axis.yaxis):
        one.set_minor_locator(NullLocator())
        one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.grid(axis="y", color=FAINT, linewidth=0.6, zorder=0)
    axis.set_xlabel("changed weights, %")
    axis.set_ylabel("bits per changed weight")
    axis.set_title("Size of one delta: dots are trained models, lines a simulation", loc="left", fontsize=10)
    _save(figure, path)


def _speeds(result: dict) -> list[tuple[str, float]]:
    rows = [("memcpy", result["memcpy_gbps"]["pass"]), ("weightfs", best_speed(result, native_block(result)))]
    for name in ("TRL raw", "TRL gap_delta", "PULSE v3.1", "slime xor zstd-1", "BitX zstd-3", "ZipNN of the xor"):
        row = other(result, name)
        if row:
            rows.append((name, row["decode_gbps"]["pass"]))
    return rows


def plot_speeds(results: dict[str, dict], path: Path,
                pairs=("M fp32 3e-6", "M grid 3e-6, 8 steps", "M dense 2e-5")) -> None:
    """Decoding speed on one core beside memcpy, a panel a pair."""
    chosen = [pair for pair in pairs if pair in results]
    if not chosen:
        return
    figure, axes = _axes((3.0 * len(chosen) + 0.6, 3.0), len(chosen))
    for number, pair in enumerate(chosen):
        axis = axes[number] if len(chosen) > 1 else axes
        rows = _speeds(results[pair])[::-1]
        names, values = [name for name, _ in rows], [value for _, value in rows]
        axis.barh(names, values, color=[COLOURS[name] for name in names], height=0.7)
        for height, value in enumerate(values):
            axis.annotate(f"{value:.1f}", (value, height), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
        axis.set_xlim(0, max(values) * 1.18)
        axis.tick_params(axis="y", length=0, labelleft=number == 0)
        density = 100 * results[pair]["changed"] / results[pair]["elements"]
        axis.set_title(f"{pair}: {density:.2g} % changed", loc="left", fontsize=9)
        axis.set_xlabel("GB/s of model bytes")
    _save(figure, path)
