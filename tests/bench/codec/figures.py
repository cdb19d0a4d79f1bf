# SPDX-License-Identifier: Apache-2.0
"""Rows and goals from the raw results of the codec benchmark.

A pair's result is what codec_bench printed, with "external" (rows) and "store" (sizes) added by run.py.
"""

from dataclasses import dataclass

BLOCK = 262144
LEVELS = ("scalar", "avx2", "avx512")


def native_block(result: dict, block_bytes: int = BLOCK) -> dict:
    return next(run for run in result["native"]["blocks"] if run["block_bytes"] == block_bytes)


def native_bytes(result: dict) -> int:
    """All-in if a store was written, else payload and index without manifest and file headers."""
    run = native_block(result)
    return (result.get("store") or {}).get("256K", run["payload_bytes"] + run["index_bytes"])


def best_speed(result: dict, run: dict, kind: str = "pass") -> float:
    return run["decode_gbps"][result["level"]][kind]


def _row(result: dict, name: str, size: int, decode: float | None, encode: float | None, memcpy: float) -> dict:
    bits = 8 * size / result["changed"] if result["changed"] else None
    return {"format": name, "bytes": size, "bits_per_changed": bits, "share": size / result["model_bytes"],
            "decode_gbps": decode, "of_memcpy": decode / memcpy if decode else None, "encode_gbps": encode}


def rows_of(result: dict) -> list[dict]:
    """One row a format: ours first, the others as published."""
    memcpy = result["memcpy_gbps"]["pass"]
    run = native_block(result)
    rows = [_row(result, "weightfs, 256 KiB", native_bytes(result), best_speed(result, run), run["encode_gbps"], memcpy)]
    if result.get("store"):
        rows.append(_row(result, "weightfs, block size chosen", result["store"]["auto"], None, None, memcpy))
    single = result["native"]["single_class"]
    if single["codings"]["sparse"] == single["blocks"]:
        size = single["payload_bytes"] + single["index_bytes"]
        rows.append(_row(result, "weightfs, one class", size, best_speed(result, single), None, memcpy))
    rows += [_row(result, row["name"], row["bytes"], row["decode_gbps"]["pass"], row["encode_gbps"], memcpy)
             for row in result["published"] + result.get("external", [])]
    return rows


def other(result: dict, name: str) -> dict | None:
    return next((row for row in result["published"] + result.get("external", []) if row["name"] == name), None)


# --- goals ------------------------------------------------------------------------------------------


@dataclass
class Goal:
    """A figure to reach.  `less`: smaller is better."""

    what: str
    value: float | None
    reach: float
    moonshot: float
    less: bool
    unit: str = ""

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        met = (lambda goal: self.value <= goal) if self.less else (lambda goal: self.value >= goal)
        return "moonshot" if met(self.moonshot) else "reached" if met(self.reach) else "missed"


def _bits(results: dict, pair: str, chosen: bool = False) -> float | None:
    if pair not in results:
        return None
    result = results[pair]
    size = (result.get("store") or {}).get("auto") if chosen else native_bytes(result)
    return 8 * size / result["changed"] if size else None


def _share_of(results: dict, pair: str, name: str) -> float | None:
    row = other(results[pair], name) if pair in results else None
    return native_bytes(results[pair]) / row["bytes"] if row else None


def _speed_against(results: dict, pair: str, name: str) -> float | None:
    row = other(results[pair], name) if pair in results else None
    return best_speed(results[pair], native_block(results[pair])) / row["decode_gbps"]["pass"] if row else None


def _best_other(results: dict, pair: str) -> float | None:
    if pair not in results:
        return None
    rows = results[pair]["published"] + results[pair].get("external", [])
    return native_bytes(results[pair]) / min(row["bytes"] for row in rows)


def _full_share(results: dict, pair: str) -> float | None:
    if pair not in results:
        return None
    result = results[pair]
    alone = result["native"]["without_parent"]
    size = (result.get("store") or {}).get("full", alone["payload_bytes"] + alone["index_bytes"])
    return size / result["model_bytes"]


def _hot_share(results: dict, pair: str, part) -> float | None:
    if pair not in results:
        return None
    return best_speed(results[pair], part(results[pair]), "hot") / results[pair]["memcpy_gbps"]["hot"]


def _depth(results: dict, one: str, eight: str) -> float | None:
    if one not in results or eight not in results:
        return None
    speeds = [best_speed(results[pair], native_block(results[pair])) for pair in (one, eight)]
    return speeds[0] / speeds[1]


def _commit(results: dict) -> float | None:
    commit = results.get("M grid 3e-6", {}).get("commit")
    return commit["slime"] / commit["weightfs"] if commit else None


def _levels(results: dict, pair: str) -> float | None:
    speeds = native_block(results[pair])["decode_gbps"] if pair in results else {}
    return speeds["avx2"]["pass"] / speeds["avx512"]["pass"] if "avx512" in speeds else None


def goals(results: dict[str, dict]) -> list[Goal]:
    """Every figure of the plan, from the results by pair name."""
    sizes = (("M grid 3e-6", 6.9, 6.4), ("M fp32 3e-6", 7.7, 7.2), ("M grid 1e-6", 7.5, 7.0), ("M bf16 3e-6", 6.1, 5.0),
             ("M grid 3e-6, 8 steps", 5.6, 5.2))
    found = [Goal(f"{pair}: size", _bits(results, pair), reach, moon, True, "bits/changed") for pair, reach, moon in sizes]
    found.append(Goal("M grid 1e-6: size, block size chosen", _bits(results, "M grid 1e-6", True), 7.5, 7.0, True,
                      "bits/changed"))
    for pair, reach, moon in (("M dense 2e-5", 0.66, 0.62), ("M dense 1e-4", 0.76, 0.70)):
        found.append(Goal(f"{pair}: share of BitX", _share_of(results, pair, "BitX zstd-3"), reach, moon, True, "x"))
    found.append(Goal("no base: share of raw bf16", _full_share(results, "M grid 3e-6"), 0.67, 0.66, True, "x"))
    for pair in ("M FP8 3e-6", "M FP8 3e-6, 8 steps", "M FP8 dense 2e-5", "M F32 3e-6", "MoE 2 of 20"):
        found.append(Goal(f"{pair}: share of the smallest other", _best_other(results, pair), 1.0, 1.0, True, "x"))
    for pair, reach, moon in (("M grid 1e-6", 2.0, 3.0), ("M fp32 3e-6", 2.3, 4.0), ("sim 2.7 %", 3.0, 5.0)):
        found.append(Goal(f"{pair}: decoding against slime", _speed_against(results, pair, "slime xor zstd-1"), reach,
                          moon, False, "x"))
    found.append(Goal("M fp32 3e-6: decoding against memcpy, in cache", _hot_share(results, "M fp32 3e-6", native_block),
                      0.3, 0.5, False, "x"))
    found.append(Goal("M fp32 3e-6: one class against memcpy, in cache",
                      _hot_share(results, "M fp32 3e-6", lambda result: result["native"]["single_class"]), 0.6, 0.8, False,
                      "x"))
    for pair in ("M dense 2e-5", "M dense 1e-4"):
        found.append(Goal(f"{pair}: decoding against BitX", _speed_against(results, pair, "BitX zstd-3"), 2.5, 4.0, False,
                          "x"))
        found.append(Goal(f"{pair}: decoding against ZipNN", _speed_against(results, pair, "ZipNN of the xor"), 2.0, 4.0,
                          False, "x"))
    found.append(Goal("a block at depth 8, squashed: time against depth 1",
                      _depth(results, "M grid 3e-6", "M grid 3e-6, 8 steps"), 1.6, 1.3, True, "x"))
    found.append(Goal("commit against slime's writer, all cores", _commit(results), 1.5, 4.0, False, "x"))
    for pair in ("M fp32 3e-6", "M dense 2e-5"):
        found.append(Goal(f"{pair}: AVX2 against AVX-512", _levels(results, pair), 0.6, 0.75, False, "x"))
    return found


# --- text -------------------------------------------------------------------------------------------


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def pair_table(results: dict[str, dict]) -> str:
    lines = ["| pair | changed % | format | bits/changed | % of model | decode GB/s | x memcpy | encode GB/s |",
             "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |"]
    for pair, result in results.items():
        density = 100 * result["changed"] / result["elements"]
        for number, row in enumerate(rows_of(result)):
            lines.append(f"| {pair if number == 0 else ''} | {_number(density, 3) if number == 0 else ''} | {row['format']} | "
                         f"{_number(row['bits_per_changed'], 2)} | {100 * row['share']:.3f} | "
                         f"{_number(row['decode_gbps'], 2)} | {_number(row['of_memcpy'], 2)} | "
                         f"{_number(row['encode_gbps'], 2)} |")
    return "\n".join(lines)


def level_table(results: dict[str, dict]) -> str:
    """Our decoders by kernel level and block size."""
    first = next(iter(results.values()))
    levels = [level for level in LEVELS if level in native_block(first)["decode_gbps"]]
    best = first["level"]
    lines = [f"| pair | block KiB | bits/changed | {' | '.join(levels)} | memcpy | in cache: {best} | memcpy |",
             "| --- | ---: | ---: |" + " ---: |" * (len(levels) + 3)]
    for pair, result in results.items():
        for run in result["native"]["blocks"]:
            bits = 8 * (run["payload_bytes"] + run["index_bytes"]) / max(1, result["changed"])
            speeds = " | ".join(f"{run['decode_gbps'][level]['pass']:.1f}" for level in levels)
            lines.append(f"| {pair} | {run['block_bytes'] // 1024} | {bits:.2f} | {speeds} | "
                         f"{run['memcpy_gbps']['pass']:.1f} | {run['decode_gbps'][best]['hot']:.1f} | "
                         f"{run['memcpy_gbps']['hot']:.1f} |")
    return "\n".join(lines)


def goal_table(results: dict[str, dict]) -> str:
    lines = ["| figure | measured | reach | moonshot | |", "| --- | ---: | ---: | ---: | --- |"]
    for goal in goals(results):
        sign = "<=" if goal.less else ">="
        measured = "" if goal.value is None else f"{goal.value:.2f} {goal.unit}"
        lines.append(f"| {goal.what} | {measured} | {sign} {goal.reach} | {sign} {goal.moonshot} | {goal.verdict} |")
    return "\n".join(lines)
