"""The pictures, by their own pixels, and the labels of their rows."""

from __future__ import annotations

import math

import pytest
import torch

from manualbp.parity import compare_gradients
from manualbp.parity.reports import pictures


def test_the_wrong_layer_is_red_and_nan_is_black() -> None:
    """The picture's own pixels: in the middle of each row of three, and of no other colours."""
    shares = {"right": {1: 0.01, 2: 0.01}, "wrong": {1: 50.0, 2: 50.0}, "nan": {1: math.nan}}
    pixels = pictures.heat_map(shares, "t").astype(int)
    red = (pixels[..., 0] > pixels[..., 2] + 60).sum()
    blue = (pixels[..., 2] > pixels[..., 0] + 60).sum()
    agreeing = pictures.heat_map({n: {1: 0.01, 2: 0.01} for n in shares}, "t").astype(int)
    fewer = (agreeing[..., 0] > agreeing[..., 2] + 60).sum()
    assert blue > 10_000 and red > 3 * fewer + 10_000  # the colour bar has both
    assert ((pixels < 10).all(-1)).sum() > ((agreeing < 10).all(-1)).sum() + 10_000


def test_what_is_not_judged_is_grey() -> None:
    def red_and_grey(*values: float) -> tuple[int, int]:
        def other(x: torch.Tensor) -> torch.Tensor:  # rounds in another way, so that there is a bar
            return torch.log2(x) * math.log(2)

        report = compare_gradients(other, torch.log, torch.tensor(values), seeds=(0,))
        pixels = pictures.bars(report).astype(int)
        red = pixels[..., 0] > pixels[..., 2] + 60
        grey = (pixels == 158).all(-1)
        return int(red.sum()), int(grey.sum())

    red, grey = red_and_grey(3.0, 5.0, 7.0)
    assert red == 0 and grey < 100  # the edges of letters
    red, grey = red_and_grey(3.0, 5.0, -7.0)
    assert red == 0 and grey > 1000


def test_a_picture_of_many_tensors_stays_one() -> None:
    """The worst are shown, NaN before all, in their order; how many are left out is said."""
    shares = {f"layer{i}.weight": {s: 0.1 for s in range(1, 2000)} for i in range(300)}
    assert pictures.heat_map(shares, "t").shape[0] < 1500
    badness = {name: number / 300 for number, name in enumerate(shares)} | {"layer7.weight": 9.0}
    names, note = pictures._shown(badness)
    assert names == ["layer7.weight", *list(shares)[-pictures.ROWS + 1 :]]
    assert note == "\nthe worst 30 tensors; 270 are left out"
    assert pictures._shown({"w": 1.0}) == (["w"], "")
    with pytest.raises(ValueError, match="at least one tensor"):
        pictures.heat_map({}, "t")


def test_labels_are_short_and_never_the_same() -> None:
    """What every name begins with is said once; a middle goes only where names stay apart."""
    deep = [f"encoder.layers.{i}.self_attn.in_proj_weight" for i in range(3)]
    short = [f"{i}.self_attn.in_proj_weight" for i in range(3)]
    assert pictures._labels(deep) == (short, "\neach name begins with encoder.layers.")
    assert pictures._labels(["a.w", "a.b"]) == (["a.w", "a.b"], "")
    (cut, _), _ = pictures._labels(["encoder." + "x" * 40 + ".weight", "b"])
    assert cut == "enc\N{HORIZONTAL ELLIPSIS}" + "x" * 17 + ".weight"
    alike = ["enc." + letter + "x" * 40 for letter in "ab"]
    assert pictures._labels([*alike, "w"]) == ([*alike, "w"], "")
