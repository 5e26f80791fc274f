"""Converted blocks whose source, class or functions are not, or no longer, what was read."""

from __future__ import annotations

import copy
import linecache
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import manualbp
from tests.conversion.test_convert import by_hand, same_numbers, twins
from tests.conversion.written_blocks import Block, Functions, Gated, Plain, SiLUActivation, Timm


def test_classes_patched_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading belongs to a function, whichever class held it; bit-exact."""
    twin, early = twins(Timm)
    manualbp.explain(twin)  # reads the forward that is about to go
    act_twin, act_model = twins(Plain, SiLUActivation())
    same_numbers(act_twin, act_model)
    monkeypatch.setattr(Plain, "forward", lambda self, x: self.tied(x).sin())
    monkeypatch.setattr(Timm, "forward", Functions.forward)
    monkeypatch.setattr(SiLUActivation, "forward", lambda self, x: x.cos())
    same_numbers(twin, early)
    assert "forward was replaced" in manualbp.explain(early)[0].detail
    late = manualbp.convert(copy.deepcopy(twin))
    same_numbers(twin, late)
    same_numbers(act_twin, act_model)
    gated_twin, gated_model = twins(Gated, SiLUActivation())
    same_numbers(gated_twin, gated_model)


def test_functions_patched_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """As some libraries patch torch.nn.functional, or a module's names; bit-exact."""
    twin, model = twins(Functions)
    act_twin, act_model = twins(Gated, SiLUActivation())
    same_numbers(twin, model)
    same_numbers(act_twin, act_model)
    monkeypatch.setattr("torch.nn.functional.silu", torch.sin)
    monkeypatch.setattr("torch.nn.functional.relu", torch.cos)
    same_numbers(act_twin, act_model)
    same_numbers(twin, model)


def test_overridden_on_the_instance() -> None:
    twin, model = twins(Plain)
    for net in (twin, model):
        net.forward = net.tied.forward
    same_numbers(twin, model)
    assert "overridden on this instance" in manualbp.explain(model)[0].detail
    assert type(manualbp.convert(copy.copy(twin))) is Plain


SOURCE = """
from torch import nn
class Late(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.act = nn.Linear(6, 6), nn.Tanh()
    def forward(self, x):
        return self.act(self.fc(x))
"""


def test_source_not_at_hand() -> None:
    names: dict[str, type[nn.Module]] = {"__name__": __name__}
    exec(SOURCE, names)
    twin, model = twins(names["Late"])
    same_numbers(twin, model)
    assert "source of its forward is not at hand" in manualbp.explain(model)[0].detail


def test_source_edited_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs counts, not what the file says by now; bit-exact."""
    path, module = tmp_path / "late.py", ModuleType("late")
    path.write_text(SOURCE)
    exec(compile(SOURCE, str(path), "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "late", module)
    assert by_hand(manualbp.convert(module.Late()))
    exec(compile(SOURCE, str(path), "exec"), module.__dict__)
    path.write_text(SOURCE.replace("self.act(self.fc(x))", "self.fc(self.act(x))"))
    linecache.checkcache(str(path))
    twin, model = twins(module.Late)
    same_numbers(twin, model)
    assert "is not what runs" in manualbp.explain(model)[0].detail


def enclosed(scale: float) -> type[nn.Module]:
    class Enclosed(Block):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc2(scale(self.fc1(x)))  # type: ignore[operator]

    return Enclosed


def test_closure() -> None:
    twin, model = twins(enclosed(torch.tanh))
    same_numbers(twin, model)
    assert "names of an enclosing function" in manualbp.explain(model)[0].detail
