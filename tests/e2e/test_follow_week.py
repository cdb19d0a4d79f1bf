# SPDX-License-Identifier: Apache-2.0
"""A mount that follows for long: nothing that it holds grows with the number of versions that came and went.

WEIGHTFS_WEEK_VERSIONS says how many: 300 here; 10000 is a week with one a minute.
"""

import os
import time

import pytest
from following import FastRun, follow, number_of, said_of, status, wait_latest, wait_until
from test_follow_readers import Weight, read_one_version

VERSIONS = int(os.environ.get("WEIGHTFS_WEEK_VERSIONS", "300"))
KEEP = 8
AHEAD = 5
EARLY = 100  # versions after which everything has been needed once


def weight_at_rest(mounted, run, pid):
    """Without the trees of the last second, which stay in case an answer is on its way to the kernel."""
    time.sleep(1.5)
    wait_latest(mounted, run.publish())
    return Weight(pid)


@pytest.mark.timeout(300 + VERSIONS)
def test_a_week_of_versions_leaves_nothing_behind(tmp_path, mount, capsys):
    run = FastRun(tmp_path)
    mounted = follow(mount, run, keep=KEEP, memory="24M")
    pid = status(mounted)["pid"]
    early, began = None, time.monotonic()
    while run.number < VERSIONS:
        name = run.publish()
        number = run.number
        wait_until(lambda: run.number - number_of(os.readlink(mounted / "latest")) <= AHEAD, pause=0.002,
                   what=lambda: said_of(mounted, name))
        if number % 20 == 0:
            read_one_version(mounted, run)
        if number == EARLY:
            wait_latest(mounted, name)
            early = weight_at_rest(mounted, run, pid)
    wait_latest(mounted, name)
    late = weight_at_rest(mounted, run, pid)
    late.assert_not_above(early)
    assert status(mounted)["follow"]["admitted"] == run.number
    wait_until(lambda: len(mounted.versions()) == KEEP + 1, what=lambda: str(mounted.versions()))
    with capsys.disabled():
        print(f"\n  {VERSIONS} versions in {time.monotonic() - began:.0f} s: memory {early.memory >> 20} then "
              f"{late.memory >> 20} MiB, descriptors {early.descriptors} then {late.descriptors}, "
              f"threads {early.threads} then {late.threads}")
    mounted.unmount()
