# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the daemon, again and again, under readers of every kind and a trainer that publishes.

WEIGHTFS_KILLS says how often: 50 here, 1000 in the long run.
"""

import os
import random
import threading
import time
import traceback

import pytest
from following import assert_exact, make_run, said_of, wait_until
from readers import Readers, summary
from supervised import supervise

KILLS = int(os.environ.get("WEIGHTFS_KILLS", "50"))
LONGEST = 1.0  # seconds that any operation of any reader may take
VERSIONS = 40
GRACE = 5  # of pins: longer than a load takes


class Publisher:
    """VERSIONS versions, evenly over `seconds`."""

    def __init__(self, run, seconds: float):
        self.run, self.interval = run, seconds / VERSIONS
        self.stop, self.problems = threading.Event(), []
        self.thread = threading.Thread(target=self.work)

    def work(self):
        try:
            for _ in range(VERSIONS):
                if self.stop.wait(self.interval):
                    return
                self.run.publish()
        except BaseException:
            self.problems.append(traceback.format_exc())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        assert not self.problems, self.problems[0]


def kill_again_and_again(mounted, readers) -> int:
    """Kills every daemon once, 0.05 to 0.4 s after it was started, whatever it is at; how many."""
    chance, dead, kills = random.Random(5), 0, 0
    while kills < KILLS and not readers.is_troubled():
        pid = wait_until(lambda: (found := mounted.daemon()) != dead and found, what="another daemon", pause=0.001)
        time.sleep(chance.uniform(0.05, 0.4))
        os.kill(pid, 9)
        dead, kills = pid, kills + 1
    return kills


@pytest.mark.timeout(240 + 2 * KILLS)
@pytest.mark.parametrize("keep", [None, 4], ids=["all", "keep"])
@pytest.mark.parametrize("warm", ["latest", "none"])
@pytest.mark.parametrize("kind", ["xor", "native"])
def test_readers_do_not_notice(kind, warm, keep, tmp_path, supervise, capsys):
    run = make_run(kind, tmp_path)
    for _ in range(3):
        run.publish()
    mounted = supervise(run, warm=warm, keep=keep, pin_grace=GRACE)
    with Readers(mounted, run, keep) as readers, Publisher(run, 0.25 * KILLS):
        wait_until(lambda: all(readers.rounds()) or readers.is_troubled(), what="a round of every reader")
        kills = kill_again_and_again(mounted, readers)
        before = readers.rounds()
        wait_until(lambda: all(now > then for now, then in zip(readers.rounds(), before)) or readers.is_troubled(), 30,
                   "one more round of every reader")
        reports = readers.finish()
    found = summary(reports)
    with capsys.disabled():
        print(f"\n{kind}, warm={warm}, keep={keep}: {kills} kills, {found}")
    assert kills == KILLS
    assert mounted.restarts() == kills
    newest = run.names[-1]
    wait_until(lambda: mounted.now()["latest"] == newest, what=lambda: said_of(mounted, newest))
    if keep is None:
        assert_exact(mounted, run)
    assert found["longest"] < LONGEST, found
    mounted.finish()
