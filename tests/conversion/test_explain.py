"""What explain says: of a call that is not known yet, and of what stands in convert's way."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

import manualbp
from manualbp.modules import refusal
from tests.conversion.written_blocks import Block


class Mine(Tensor):
    pass


class Watching(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextmanager
def patched(name: str, value: Any) -> Any:
    """With a probe of refusal.py that answers something else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refusal, name, value)
        yield


@contextmanager
def global_hook() -> Any:
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        yield
    finally:
        handle.remove()


def transformed(x: Tensor) -> str | None:
    found: list[str | None] = []
    torch.func.vmap(lambda row: found.append(refusal.of_call(row)) or row)(x)
    return found[0]


X = torch.ones(2, 3)
Situation = Callable[[], AbstractContextManager[Any]]
# By words of what explain says: when it is so, and an input.
SITUATIONS: list[tuple[str, Situation, Tensor]] = [
    ("torch.compile, torch.export", lambda: patched("_compiling", lambda: True), X),
    ("no_grad", torch.no_grad, X),
    ("inference_mode", torch.inference_mode, X),
    ("torch.jit.trace", lambda: patched("tracing", lambda: "a state"), X),
    ("autocast", lambda: torch.autocast("cpu", torch.bfloat16), X),
    ("forward-mode AD", forward_ad.dual_level, X),
    ("a mode", lambda: FlopCounterMode(display=False), X),
    ("a mode", Watching, X),
    ("a global module hook", global_hook, X),
    ("a tensor subclass", nullcontext, X.as_subclass(Mine)),
    ("sparse", nullcontext, X.to_sparse()),
    ("a device other than cpu and cuda", nullcontext, X.to("meta")),
]


@pytest.mark.parametrize(("words", "situation", "x"), SITUATIONS, ids=[s[0] for s in SITUATIONS])
def test_what_depends_on_the_call(words: str, situation: Situation, x: Tensor) -> None:
    with situation():
        assert refusal.of_call(x) is not None
    assert refusal.of_call(X) is None
    model = manualbp.Sequential(nn.Linear(3, 3))
    assert words in str(manualbp.explain(model)).replace("\n", " ")
    assert words not in str(manualbp.explain(nn.Sequential(*model))).replace("\n", " ")


def test_no_reason_of_a_call_is_forgotten() -> None:
    """Every reason that refusal.of_call gives is one of the situations above."""
    found = {transformed(X)}
    for _, situation, x in SITUATIONS:
        with situation():
            found.add(refusal.of_call(x))
    reasons = re.findall(r"^ +return f?\"", inspect.getsource(refusal.of_call), re.M)
    assert None not in found and len(found) == len(reasons)
    assert "torch.func" in refusal.OF_ANY_CALL


class Zero(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x)) + 0


class Returned(Block):
    def forward(self, x: Tensor) -> Any:
        return 0


class Unknown(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc1(X)


class Again(Block):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        return self.fc2(h) + h


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Zero, "has `self.fc2(self.fc1(x)) + 0`, where `0` is no result of a step"),
        (Returned, "has `return 0`, where `0` is no result of a step"),
        (Unknown, "has `self.fc1(X)`, where `X` is no result of a step"),
        (Again, "its forward reads `h` more than once"),
    ],
)
def test_a_reason_says_where(kind: type[nn.Module], words: str) -> None:
    assert words in manualbp.explain(manualbp.convert(kind()))[0].detail
