"""Which arms there are: one that cannot be made is a note, and the others go on."""

from __future__ import annotations

import torch

from comparisons.speed.arms.arm import Arm, problem
from comparisons.speed.arms.available import AvailableArms
from comparisons.speed.workloads import TRAINING, Workload

TINY = Workload(TRAINING, (2, 4, 1), 8, "relu")


def test_a_graph_that_fails_at_its_replay_is_a_note() -> None:
    """torch.compile warms up in the first step, records in the second, replays in the third."""
    steps = iter([None, None, RuntimeError("overwritten by a subsequent run")])

    def step() -> None:
        if error := next(steps):
            raise error

    available = AvailableArms([], torch.device("cuda"), compiling=False)
    given = problem(TINY, 0, torch.device("cpu"))
    made = available.made("rows", given, {"it": lambda: Arm(step, list, lambda: None)})  # type: ignore
    assert made == {}
    assert "(RuntimeError: overwritten by a subsequent run)" in available.notes[-1]
