"""The cases: activations, losses, dtypes, shapes and options, each with a name."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch

from comparisons.counterparts import LOSSES
from manualbp.maths.activations import ACTIVATIONS

DTYPE_LABELS = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16"}
LOSS_LABELS = {"cross_entropy": "ce", "bce_with_logits": "bce"}


@dataclass(frozen=True)
class Case:
    """One network, one batch, one loss.

    ``options`` go to the loss; where ``weight`` or ``pos_weight`` is True, it gets one number per
    output. With ``probabilities`` the targets of cross-entropy are a distribution.
    """

    activation: str = "tanh"
    loss: str = "mse"
    dtype: torch.dtype = torch.float32
    widths: tuple[int, ...] = (4, 6, 5, 3)
    batch: tuple[int, ...] = (5,)
    bias: bool = True
    output_activation: str | None = None
    reduction: str = "mean"
    probabilities: bool = False
    options: dict[str, float | bool] = field(default_factory=dict, hash=False)
    device: str = "cpu"

    @property
    def id(self) -> str:
        """``tanh/mse-sum/fp32/5x4-6-5-3``: activation, loss and options, dtype, shape, the rest."""
        words = [LOSS_LABELS.get(self.loss, self.loss), "p" if self.probabilities else ""]
        words += [
            f"{name[:6]}{'' if value is True else value}" for name, value in self.options.items()
        ]
        words += ["" if self.reduction == "mean" else self.reduction]
        shape = "x".join(map(str, (*self.batch, ""))) + "-".join(map(str, self.widths))
        activation = f"{self.activation}+{self.output_activation or ''}".rstrip("+")
        parts = [activation, "-".join(filter(None, words)), DTYPE_LABELS[self.dtype], shape]
        parts += [] if self.bias else ["nobias"]
        return "/".join(parts) + ("" if self.device == "cpu" else f"@{self.device}")


def _cases() -> list[Case]:
    """Every activation with three losses, every loss, every shape, each in several dtypes."""
    ce, bce = "cross_entropy", "bce_with_logits"
    wide, full = (torch.float32, torch.float64), (torch.float32, torch.float64, torch.bfloat16)
    cases = [Case(f, "mse", dtype) for f, dtype in product(ACTIVATIONS, full)]
    cases += [Case(f, loss, dtype) for f, loss, dtype in product(ACTIVATIONS, (ce, bce), wide)]
    cases += [Case("tanh", "mse", d, output_activation=f) for f, d in product(ACTIVATIONS, wide)]
    variants: list[dict[str, Any]] = [
        *({"loss": loss} for loss in ("l1", "huber", "smooth_l1", ce, bce)),
        {"loss": "huber", "options": {"delta": 0.5}},
        {"loss": "smooth_l1", "options": {"beta": 0.5}},
        {"loss": ce, "probabilities": True},
        {"loss": ce, "options": {"label_smoothing": 0.1}},
        {"loss": ce, "options": {"weight": True}},
        {"loss": ce, "options": {"weight": True, "label_smoothing": 0.1}},
        {"loss": ce, "options": {"ignore_index": 1}},
        {"loss": bce, "options": {"pos_weight": True}},
        *({"loss": loss, "reduction": r} for loss, r in product(LOSSES, ("sum", "none"))),
    ]
    cases += [Case("gelu", dtype=d, **variant) for variant, d in product(variants, full)]
    shapes = product(
        ((), (1,), (5,), (2, 3)), ((1, 1), (4, 4, 4), (3, 8, 1), (8, 2, 7, 3, 2)), (True, False)
    )
    for (batch, widths, bias), d in product(list(shapes), wide):
        cases.append(Case("sigmoid", "mse", d, widths, batch, bias))
    for batch, d in product(((), (1,)), wide):
        cases += [Case("relu", loss, d, batch=batch) for loss in (ce, bce)]
    return list(dict.fromkeys(cases))


CASES = _cases()
