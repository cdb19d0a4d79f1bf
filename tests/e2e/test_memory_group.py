# SPDX-License-Identifier: Apache-2.0
"""A control group that leaves the daemon its budget and 128 MiB, 64 readers, and a model of a hundred times the budget.

Tensors are small against the budget, or twice as large as all of it.  Nobody is killed, and what the daemon keeps stays within 64 MiB of the budget, whatever the format and the way of
serving.  WEIGHTFS_MEMORY_GROUP_SECONDS makes it read for longer.
"""

import os

import pytest
from bench.memory.load import ALLOWANCE, BUDGET, FORMATS, WARM, make_source, measure
from memory_groups import memory_group

SECONDS = float(os.environ.get("WEIGHTFS_MEMORY_GROUP_SECONDS", "3"))


@pytest.fixture(scope="module", params=[*((kind, "small") for kind in FORMATS), ("weight_v", "large")], ids="-".join)
def source(request, tmp_path_factory):
    return make_source(*request.param, tmp_path_factory.mktemp(request.param[0]))


@pytest.mark.timeout(300 + 10 * SECONDS)
@pytest.mark.parametrize("warm", WARM)
def test_nobody_is_killed(source, warm, tmp_path):
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no usable /dev/fuse here")
    with memory_group() as group:
        if group is None:
            pytest.skip("no control group can be made here")
        found = measure(source, warm, SECONDS, group, tmp_path)
    print({key: value for key, value in found.items() if key != "compared"})
    assert found["problems"] == []
    assert found["kills"] == 0
    assert min(found["compared"]) > 0, "every reader got something"
    assert found["read_errors"] == 0
    assert found["peak_kept"] <= BUDGET + ALLOWANCE
    assert found["peak_rss"] <= BUDGET + ALLOWANCE
