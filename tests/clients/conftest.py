"""What the clients' tests share: when they are collected, and how one sees who ran backward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from manualbp.conversion import blocks
from manualbp.fast import native
from manualbp.modules import cross_entropy, losses, sequential
from manualbp.modules.stretch import Stretch


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Imports no client unless ``-m clients`` asks for them: they may not be installed."""
    if config.option.markexpr != "clients":
        return True
    declare_torchvision_operators()
    return None


def declare_torchvision_operators() -> None:
    """Lets torchvision be imported beside a torch that its compiled half was not built for.

    PyPI's torchvision links to PyPI's CUDA build of torch. Beside a CPU build its library does not
    load, and the import fails for two operators (boxes of images) that nothing here calls.
    Lightning (through torchmetrics), timm and Transformers import it as well.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", schema)


def wrap_backwards(monkeypatch: pytest.MonkeyPatch, wrapper: Callable[[str, Any], Any]) -> None:
    """Lets ``wrapper(name, backward)`` take the place of each hand-written Function's backward."""
    for function in torch.autograd.Function.__subclasses__():
        if function.__module__.startswith("manualbp."):
            backward = staticmethod(wrapper(function.__name__, function.backward))
            monkeypatch.setattr(function, "backward", backward)


@pytest.fixture(params=["Python", "C++"])
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each hand-written backward has run, by its name: in Python, then in C++."""
    counts: Counter[str] = Counter()

    def counted(name: str, backward: Any) -> Any:
        def spy(ctx: Any, *grad_outputs: Any) -> Any:
            counts[name] += 1
            return backward(ctx, *grad_outputs)

        return spy

    wrap_backwards(monkeypatch, counted)
    if request.param == "Python":
        request.getfixturevalue("in_python")
    elif native.library() is None:
        pytest.skip("the library is not built")
    else:
        count_nodes(monkeypatch, counts)
    return counts


def count_nodes(monkeypatch: pytest.MonkeyPatch, counts: Counter[str]) -> None:
    """Adds to ``counts["Chain"]`` and ``counts["Cost"]`` whenever such a node of C++ has run."""

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            found = function(*args, **options)
            node = getattr(found, "grad_fn", None)
            name = type(node).__name__.removesuffix("Backward")
            in_cpp = not isinstance(node, torch.autograd.function.BackwardCFunction)
            if name in ("Chain", "Cost") and in_cpp and not node.metadata.get("watched"):
                node.metadata["watched"] = True
                node.register_hook(lambda *_: counts.update([name]))
            return found

        return run

    for where, name in (
        (sequential, "call"), (blocks, "call"), (losses, "cost"),
        (cross_entropy, "cost"), (Stretch, "__call__"),
    ):  # fmt: skip
        monkeypatch.setattr(where, name, watched(getattr(where, name)))


@pytest.fixture
def planted(in_python: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault: every gradient computed by hand is too large by one part in a thousand."""

    def wrong(name: str, backward: Any) -> Any:
        def too_large(ctx: Any, *grad_outputs: Any) -> Any:
            found = backward(ctx, *grad_outputs)
            found = found if isinstance(found, tuple) else (found,)
            return tuple(None if g is None else g * 1.001 for g in found)

        return too_large

    wrap_backwards(monkeypatch, wrong)
