"""torch.profiler on a chain, beside nn.Sequential: docs/situations.md, "What differs"."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import manualbp

pytestmark = pytest.mark.filterwarnings("ignore:Profiler clears events at the end:UserWarning")
CHILDREN = ["Linear_0", "ReLU_0", "Linear_1"]


def profiled(kind: type[nn.Sequential], steps: bool = True) -> Any:
    """A training step; ``steps`` says whether the optimizer's is in it."""
    torch.manual_seed(0)
    model = kind(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer, x = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), torch.randn(32, 8)
    for record in (False, True):
        with profile(
            activities=[ProfilerActivity.CPU] if record else None, record_shapes=record,
            profile_memory=record, with_stack=record, with_modules=record,
        ) as seen:  # fmt: skip
            optimizer.zero_grad()
            model(x).square().sum().backward()
            if steps or not record:
                optimizer.step()
    return seen


def modules(seen: Any) -> list[str]:
    """The calls of modules in the tree of events, in order."""
    found, below = [], list(seen.profiler.kineto_results.experimental_event_tree())
    while below:
        event = below.pop(0)
        found += [event.name.removeprefix("nn.Module: ")] * event.name.startswith("nn.Module")
        below = [*event.children, *below]
    return found


def categories(seen: Any) -> Counter[str]:
    """The bytes of each category that were there or came to be."""
    found: Counter[str] = Counter()
    memory = seen._memory_profile()
    for _, action, (key, version), size in memory.timeline:
        category = memory._categories.get(key, version)
        if action.name in ("PREEXISTING", "CREATE"):
            found[category.name if category else "none"] += size
    return found


def test_modules() -> None:
    assert modules(profiled(nn.Sequential)) == ["Sequential_0", *CHILDREN]
    seen = profiled(manualbp.Sequential)
    assert modules(seen) == ["Sequential_0"]
    assert {"ChainBackward", "aten::addmm"} <= {event.key for event in seen.key_averages()}


def test_memory_categories() -> None:
    ours, theirs = (categories(profiled(k)) for k in (manualbp.Sequential, nn.Sequential))
    for name in ("PARAMETER", "GRADIENT", "OPTIMIZER_STATE"):
        assert ours[name] == theirs[name] > 0
    assert ours["TEMPORARY"] > theirs["TEMPORARY"]  # deltas
    assert ours["AUTOGRAD_DETAIL"] < theirs["AUTOGRAD_DETAIL"]
    ours, theirs = (categories(profiled(k, False)) for k in (manualbp.Sequential, nn.Sequential))
    assert ours["PARAMETER"] == 0 < theirs["PARAMETER"]
    assert ours["INPUT"] >= theirs["INPUT"] + theirs["PARAMETER"]
