# SPDX-License-Identifier: Apache-2.0
"""A mount that follows for long: nothing that it holds grows with the number of versions that came and went.

WEIGHTFS_WEEK_VERSIONS says how many: 300 here; 10000 is a week with one a minute.
"""

import os
import time
from pathlib import Path

import pytest
from following import FastRun, follow, number_in, number_of, said_of, status, wait_latest, wait_until
from processes import Weight
from test_follow_readers import open_latest, read_at, read_one_version

VERSIONS = int(os.environ.get("WEIGHTFS_WEEK_VERSIONS", "300"))
KEEP = 8
AHEAD = 5
EARLY = 100  # versions after which everything has been needed once


class Nodes:
    """What the kernel keeps of the mount, as the daemon counts it, and its inodes of all FUSE mounts."""

    def __init__(self, mounted):
        kernel = status(mounted)["kernel"]
        self.lookups, self.former, self.trees = kernel["lookups"], kernel["former_versions"], kernel["trees"]
        self.inodes = fuse_inodes()

    def assert_bounded(self, early):
        assert self.former <= KEEP and self.trees <= 1 + KEEP, f"{self.former} former versions in {self.trees} trees"
        assert self.lookups <= 2 * early.lookups + 100, f"lookups: {early.lookups} then {self.lookups}"
        if self.inodes is not None:  # others may have mounts too
            assert self.inodes <= early.inodes + VERSIONS // 2, f"inodes: {early.inodes} then {self.inodes}"


def fuse_inodes():
    """Inodes in use; None where the kernel does not tell us."""
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("fuse_inode ")), None)


@pytest.mark.timeout(300 + VERSIONS)
def test_a_week_of_versions_leaves_nothing_behind(tmp_path, mount, capsys):
    run = FastRun(tmp_path)
    mounted = follow(mount, run, keep=KEEP, memory="24M")
    pid = status(mounted)["pid"]
    early, began = None, time.monotonic()
    # Ends as far from a full version as where it was measured early: so many deltas are open.
    while run.missing(VERSIONS, like=EARLY) > 0:
        name = run.publish()
        number = run.number
        wait_until(lambda: run.number - number_of(os.readlink(mounted / "latest")) <= AHEAD, pause=0.002,
                   what=lambda: said_of(mounted, name))
        if number % 20 == 0:
            read_one_version(mounted, run)
        if number % 20 == 5:
            held, folder = open_latest(mounted)
        if number % 20 == 19:  # it has left by now
            assert number_in(read_at(folder, run.shards[0])) == held
            os.close(folder)
        if number == EARLY:
            wait_latest(mounted, name)
            early = Weight.at_rest(mounted, run, pid)
            early_nodes = Nodes(mounted)
    wait_latest(mounted, name)
    late = Weight.at_rest(mounted, run, pid)
    late.assert_not_above(early)
    late_nodes = Nodes(mounted)
    late_nodes.assert_bounded(early_nodes)
    assert status(mounted)["follow"]["admitted"] == run.number
    wait_until(lambda: len(mounted.versions()) == KEEP + 1, what=lambda: str(mounted.versions()))
    with capsys.disabled():
        print(f"\n  {run.number} versions in {time.monotonic() - began:.0f} s: memory {early.memory >> 20} then "
              f"{late.memory >> 20} MiB, descriptors {early.descriptors} then {late.descriptors}, "
              f"threads {early.threads} then {late.threads}, lookups {early_nodes.lookups} then {late_nodes.lookups}, "
              f"former versions {early_nodes.former} then {late_nodes.former}, "
              f"FUSE inodes {early_nodes.inodes} then {late_nodes.inodes}")
    mounted.unmount()
