"""Damaged repro files: refused, or no number in them is another."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from manualbp.parity import repro
from manualbp.parity.repro import save_repro

X, SETTINGS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), {"seeds": (0,)}


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    """Some bytes of an archive mean nothing, such as its times; no number is ever another."""
    file, linear, draw = tmp_path / "a", nn.Linear(4, 3), random.Random(0)
    save_repro(file, linear, linear, X, SETTINGS)
    good, refused = file.read_bytes(), 0
    for _ in range(200):
        damaged = bytearray(good)
        damaged[draw.randrange(len(good))] ^= 1 << draw.randrange(8)
        file.write_bytes(bytes(damaged))
        try:
            found = repro.read_repro(file, lambda spec: None)
        except ValueError as error:
            refused += "a repro file" in str(error) or "a file of format" in str(error)
            continue
        assert torch.equal(found["inputs"], X)
        assert torch.equal(found["candidate"].weight, linear.weight)
    assert refused > 150


@pytest.mark.parametrize(
    "change",
    [{"versions": 3}, {"versions": {}}, {"body": b""}, {"specs": {}}, {"digest": "0"}],
    ids=str,
)
def test_wrong_contents_in_the_right_form_are_refused(
    change: dict[str, Any], tmp_path: Path
) -> None:
    file, linear = tmp_path / "a", nn.Linear(4, 3)
    save_repro(file, linear, linear, X, SETTINGS)
    torch.save({**torch.load(file, weights_only=False), **change}, file)
    with pytest.raises(ValueError, match="whose checksum differs: it is damaged or was edited"):
        repro.read_repro(file, lambda spec: None)
