# SPDX-License-Identifier: Apache-2.0
"""Tables in Markdown of the rows that the benchmark writes to read_path.json."""

from __future__ import annotations

from samples import STATES, WITHOUT_DEPTH


def table(titles: list[str], lines: list[list[str]]) -> str:
    marks = ["---" if number == 0 else "---:" for number in range(len(titles))]
    return "\n".join("| " + " | ".join(line) + " |" for line in [titles, marks, *lines])


def figure(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def speed(row: dict | None) -> str:
    """GB/s and, in brackets, the ratio to the plain file in the page cache."""
    if row is None:
        return ""
    return figure(row["gb_per_s"]) + (f" ({figure(row['ratio'])})" if "ratio" in row else "")


def found(rows: list[dict], **wanted) -> dict | None:
    return next((row for row in rows if all(row.get(name, "") == value for name, value in wanted.items())), None)


def reading_table(rows: list[dict], source: str, depth: int) -> str:
    """How fast one version is read by each method and number of readers."""
    lines = []
    for method, readers in sorted({(row["method"], row["readers"]) for row in rows if row["series"] == "plain"}):
        line = [method, str(readers), speed(found(rows, series="plain", method=method, readers=readers))]
        for state in STATES:
            place = {} if state in WITHOUT_DEPTH else {"source": source, "depth": depth}
            line.append(speed(found(rows, series=state, method=method, readers=readers, **place)))
        lines.append(line)
    columns = [0, 1, 2] + [number + 3 for number in range(len(STATES)) if any(line[number + 3] for line in lines)]
    titles = ["read by", "readers", "plain, cached", *STATES.values()]
    return table([titles[column] for column in columns], [[line[column] for column in columns] for line in lines])


def list_table(rows: list[dict], series: str) -> str:
    """Rows of a series that has no methods of reading: what, seconds, GB/s and ratio."""
    lines = []
    for row in rows:
        if row["series"] != series:
            continue
        name = " ".join(str(part) for part in (row.get("method"), row.get("what")) if part) or series
        if series == "latency":
            figures = [f"{row['p50_us']:.0f}", f"{row['p99_us']:.0f}"]
        else:
            figures = [f"{row['seconds']:.3f}", figure(row["gb_per_s"]) if "gb_per_s" in row else "",
                       figure(row["ratio"]) if "ratio" in row else ""]
        lines.append([name, row.get("source") or "", str(row["depth"]) if row.get("source") else "", *figures])
    figures = ["p50, us", "p99, us"] if series == "latency" else ["seconds", "GB/s", "ratio"]
    return table([series, "source", "depth", *figures], lines)


def model_text(model: dict, name: str) -> str:
    deltas = ", ".join(f"{size / 1e6:.1f} MB {source}" for source, size in model["delta_bytes"].items())
    return (f"## Model {name}\n\n{model['bytes'] / 1e9:.3f} GB in {model['tensors']} tensors and {model['shards']} "
            f"shards; {model['changed_share'] * 100:.2f} % of the elements change per version ({deltas}).")


def reading_text(reading: dict) -> str:
    """What the readers did otherwise than by default."""
    return (("; only the first shard is read" if reading["files"] == "one" else "") +
            ("; each reader takes whole shards" if reading["by_file"] else "") +
            ("; shards are opened when a reader comes to them" if reading["open_late"] else ""))


def markdown(report: dict) -> str:
    """Everything: a reading table for each version, a list for each other series."""
    host = report["host"]
    parts = [f"{host['cpus']} cores ({host['processor']}), Linux {host['system']}, load {host['load']:.1f} to "
             f"{host['load_after']:.1f}; medians of {report['runs']} runs; GB/s, in brackets the ratio to the plain "
             f"file in the page cache read the same way{reading_text(report['reading'])}."]
    for name, model in report["models"].items():
        rows = [row for row in report["rows"] if row["model"] == name]
        parts.append(model_text(model, name))
        versions = sorted({(row["source"], row["depth"]) for row in rows
                           if row.get("source") and row["series"] in STATES}) or [("", 0)]
        if any(row["series"] == "plain" for row in rows):
            for source, depth in versions:
                title = f"### {source}, depth {depth}\n\n" if source else ""
                parts.append(title + reading_table(rows, source, depth))
        for series in ("fill", "recycle", "latency", "loaders", "apply", "mount"):
            if any(row["series"] == series for row in rows):
                parts.append(list_table(rows, series))
    parts += ["\n".join(f"- {note}" for note in report["notes"])] if report["notes"] else []
    return "\n\n".join(parts) + "\n"
