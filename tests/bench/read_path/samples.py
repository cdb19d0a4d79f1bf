# SPDX-License-Identifier: Apache-2.0
"""What was measured: samples under keys, and rows with medians made of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

# The series that read a version, or the base, in all ways that plain files in the page cache are read in, with which
# they are compared: series -> what tables call it, in the order of their columns.
STATES = {"untouched": "untouched", "relayed": "relayed", "disk": "plain, from disk", "tmpfs": "plain, in tmpfs",
          "cold": "cold", "waited": "cold, opens wait", "second": "second read", "page-cache": "in page cache",
          "memory": "in memory"}
WITHOUT_DEPTH = {"untouched", "relayed", "disk", "tmpfs"}  # those of them that have no source and depth


@dataclass(frozen=True, order=True)
class Key:
    """What a sample is of.

    series   "plain", "disk", "cold", ...: how the bytes lie there
    what     a step, or what is loaded, where a series has several
    source   "native" or "weight_v"; empty for plain files
    depth    deltas between the base and what is read; 0 is the base or a plain file
    method   of the reader, or the name of the loader
    readers  threads of the reader
    """

    series: str
    what: str = ""
    source: str = ""
    depth: int = 0
    method: str = ""
    readers: int = 0


@dataclass
class Samples:
    """Samples of one model in seconds; `warming` throws them away, but keeps sums that were checked."""

    model: str
    warming: bool = True
    seconds: dict[Key, list[float]] = field(default_factory=dict)
    bytes: dict[Key, int] = field(default_factory=dict)
    sums: dict[Key, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, key: Key, seconds: float | Iterable[float], size: int = 0) -> None:
        """Notes one sample, or several; `size` is how many bytes it took that long to read."""
        if self.warming:
            return
        more = list(seconds) if isinstance(seconds, Iterable) else [seconds]
        self.seconds.setdefault(key, []).extend(more)
        self.bytes[key] = size

    def note(self, text: str) -> None:
        """A remark for the report, once."""
        if text not in self.notes:
            self.notes.append(text)
            print(f"remark: {text}", flush=True)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def baseline_of(key: Key) -> Key | None:
    """What a row is compared with: the same reading of plain files in the page cache, the same memory by memcpy."""
    if key.series in STATES:
        return Key("plain", method=key.method, readers=key.readers)
    if key.series == "loaders":
        return Key("loaders", "plain", method=key.method)
    if key.series in {"fill", "recycle"} and key.what == "warm":
        return Key(key.series, "memcpy")
    return None


def row_of(samples: Samples, key: Key) -> dict:
    """One row: medians in seconds, speed in GB/s (10^9 bytes), ratio of speeds to the baseline, sums in hex."""
    values = samples.seconds[key]
    median = statistics.median(values)
    row = {"model": samples.model, **{name: value for name, value in asdict(key).items() if value != ""},
           "seconds": median, "samples": len(values), "fastest": min(values), "slowest": max(values)}
    if key.series == "latency":
        row |= {"p50_us": median * 1e6, "p99_us": percentile(values, 0.99) * 1e6}
    if samples.bytes[key]:
        row |= {"bytes": samples.bytes[key], "gb_per_s": samples.bytes[key] / median / 1e9}
    if key in samples.sums:
        row["sum"] = f"{samples.sums[key]:016x}"
    baseline = baseline_of(key)
    if baseline in samples.seconds and baseline != key:
        row["ratio"] = statistics.median(samples.seconds[baseline]) / median
    return row


def rows_of(samples: Samples) -> list[dict]:
    return [row_of(samples, key) for key in sorted(samples.seconds)]
