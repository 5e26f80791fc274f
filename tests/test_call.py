"""CONTRIBUTING's account of what happens in a call is what happens."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn

import manualbp
from manualbp.fast import native, tiles

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
SECTION = PAGE.split("## What happens in a call")[1].split("## Recipes")[0]
# The three accounts, each a list of (file, function).
ACCOUNTS = [
    re.findall(r"^    (\S+\.py) +(\w+) ", block, re.M)
    for block in re.split(r"\n\n(?!    )", SECTION)
    if re.search(r"^    \S+\.py ", block, re.M)
]


def entered(program: Callable[[], Any]) -> list[tuple[str, str]]:
    """The functions of manualbp that a program enters, in order."""
    found: list[tuple[str, str]] = []
    root = str(ROOT / "manualbp") + "/"

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(root):
            found.append((frame.f_code.co_filename.removeprefix(root), frame.f_code.co_name))

    sys.setprofile(profile)
    try:
        program()
    finally:
        sys.setprofile(None)
    return found


def first_missing(account: list[tuple[str, str]], calls: list[tuple[str, str]]) -> Any:
    """The first entry of the account that does not come behind those before it; None if all do."""
    following = iter(calls)
    return next((entry for entry in account if entry not in following), None)


def exact() -> list[tuple[str, str]]:
    model, loss = manualbp.MLP((4, 8, 3)), manualbp.CrossEntropyLoss()
    x, y = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    return entered(lambda: loss(model(x), y).backward())


def fast() -> list[tuple[str, str]]:
    model, x = manualbp.MLP((4, 8, 3)), torch.randn(5, 4)
    with manualbp.set_mode("fast"):
        return entered(lambda: model(x))


def fused() -> list[tuple[str, str]]:
    cost = manualbp.FusedLoss(manualbp.MLP((4, 8, 3)), nn.MSELoss(), tile_rows=4)
    x, y = torch.randn(9, 4), torch.randn(9, 3)
    return entered(lambda: cost(x, y).backward())


@pytest.mark.usefixtures("in_python")
@pytest.mark.parametrize(("number", "program"), list(enumerate([exact, fast, fused])))
def test_account_is_what_happens(
    number: int, program: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LEAST_ROWS", "LARGE_BYTES", "TILE_BYTES"):  # so that a tiny batch has tiles
        monkeypatch.setattr(tiles, name, 2)
    assert len(ACCOUNTS) == 4 and len(ACCOUNTS[number]) >= 6
    assert first_missing(ACCOUNTS[number], program()) is None


@pytest.mark.skipif(native.library() is None, reason="no library for this machine")
def test_a_second_call_with_the_library() -> None:
    """It enters what the account says, and nothing else but the settings."""
    model, loss = manualbp.MLP((4, 8, 3)), manualbp.MSELoss()
    x, y = torch.randn(5, 4), torch.randn(5, 3)
    loss(model(x), y)
    calls = entered(lambda: loss(model(x), y).backward())
    assert [each for each in calls if each[0] != "settings.py"] == [
        *ACCOUNTS[3], ("modules/cost.py", "cost")
    ]  # fmt: skip


@pytest.mark.usefixtures("in_python")
def test_a_wrong_account_is_seen() -> None:
    account, calls = ACCOUNTS[0], exact()
    assert first_missing([*account[1:], account[0]], calls) == account[0]
    assert first_missing([("modules/plan.py", "nowhere")], calls) is not None
