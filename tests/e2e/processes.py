# SPDX-License-Identifier: Apache-2.0
"""A process, seen from outside: what it has used and what it holds."""

import os
from pathlib import Path

from following import status, wait_latest, wait_until


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


class Weight:
    """What a daemon's process holds.

    Compare only two that were measured as far from a full version: the deltas since the last one are open.
    """

    def __init__(self, pid: int):
        self.memory, self.descriptors, self.threads = resident_bytes(pid), descriptors(pid), threads(pid)

    @classmethod
    def at_rest(cls, mounted, run, pid: int) -> "Weight":
        """When nothing is held of versions that are not listed.  Publishes two versions."""
        wait_until(lambda: status(mounted)["kernel"]["trees"] == 1, what=lambda: str(status(mounted)["kernel"]))
        wait_latest(mounted, run.publish())
        wait_latest(mounted, run.publish())  # when this one is shown, what the one before let go is gone
        return cls(pid)

    def assert_not_above(self, early: "Weight") -> None:
        assert self.memory <= early.memory * 1.2 + (16 << 20), f"memory: {early.memory} then {self.memory}"
        assert self.descriptors <= early.descriptors * 1.2 + 16, f"files: {early.descriptors} then {self.descriptors}"
        # Threads that serve are made when they are first needed: as many as 16, or two a processor.
        most = max(early.threads, 16 + 4 * (os.cpu_count() or 1)) + 2
        assert self.threads <= most, f"threads: {early.threads} then {self.threads}"
