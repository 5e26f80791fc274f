"""The cases: what each is built of, and its check, with NumPy as the third arm."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import manualbp
from comparisons.counterparts import LOSSES, autograd_twin
from manualbp import reference
from manualbp.maths.activations import ACTIVATIONS, ActivationName
from manualbp.parity import GradientReport, compare_gradients
from manualbp.parity.arms.calls import random_cotangent

DTYPE_LABELS = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16"}
LOSS_LABELS = {"cross_entropy": "ce", "bce_with_logits": "bce"}


@dataclass(frozen=True)
class Case:
    """One network, one batch, one loss.

    ``options`` go to the loss; where ``weight`` or ``pos_weight`` is True, it gets one number per
    output. With ``probabilities`` the targets of cross-entropy are a distribution.
    """

    activation: ActivationName = "tanh"
    loss: str = "mse"
    dtype: torch.dtype = torch.float32
    widths: tuple[int, ...] = (4, 6, 5, 3)
    batch: tuple[int, ...] = (5,)
    bias: bool = True
    output_activation: ActivationName | None = None
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


@dataclass(frozen=True)
class BuiltCase:
    """What a case stands for: both modules with the same weights, both losses, one batch."""

    manual: nn.Module
    autograd: nn.Module
    manual_loss: nn.Module
    autograd_loss: nn.Module
    x: Tensor
    y: Tensor
    options: dict[str, Any]


def build(case: Case, seed: int = 0) -> BuiltCase:
    """Weights, inputs and targets of a case, from ``seed`` alone."""
    generator = torch.Generator().manual_seed(seed)
    mlp = manualbp.MLP(
        case.widths, case.activation, case.output_activation, case.bias, dtype=case.dtype
    )
    with torch.no_grad():
        for parameter in mlp.parameters():  # scaled by fan-in: every z stays of size 1
            size = parameter.shape[-1] ** -0.5 if parameter.dim() == 2 else 0.3
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
    mlp.to(case.device)
    x = torch.randn((*case.batch, case.widths[0]), generator=generator)
    each = torch.linspace(0.5, 2.0, case.widths[-1]).to(case.device, case.dtype)
    options = {k: each if v is True else v for k, v in case.options.items()}
    theirs, ours = LOSSES[case.loss]
    return BuiltCase(
        manual=mlp,
        autograd=autograd_twin(mlp),
        manual_loss=ours(reduction=case.reduction, **options),
        autograd_loss=theirs(reduction=case.reduction, **options),
        x=x.to(case.device, case.dtype),
        y=_target(case, generator).to(case.device),
        options=options,
    )


def check(case: Case, seed: int = 0, power: bool = True) -> GradientReport:
    """The verdict on one case in three arms; with ``power`` also whether faults would be seen."""
    e = build(case, seed)
    return compare_gradients(
        e.manual, e.autograd, e.x, e.autograd_loss, target=e.y, candidate_loss=e.manual_loss,
        oracle=oracle(case, e, seed), seeds=(seed,), power=power,
    )  # fmt: skip


def oracle(case: Case, e: BuiltCase, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """The NumPy arm: output, loss and every gradient in float64, node by node."""
    layers = {name: m for name, m in e.autograd.named_children() if isinstance(m, nn.Linear)}
    last = case.output_activation or "identity"
    network = reference.Network(
        weights=[_array(m.weight) for m in layers.values()],
        biases=[None if m.bias is None else _array(m.bias) for m in layers.values()],
        activations=[case.activation] * (len(layers) - 1) + [last],
    )
    activity = reference.forward(network, _array(e.x).reshape(-1, case.widths[0]))
    o = activity.a[-1]
    indices = not e.y.is_floating_point()
    y = _array(e.y).reshape(-1) if indices else _array(e.y).reshape(-1, case.widths[-1])
    options = {k: _array(v) if isinstance(v, Tensor) else v for k, v in e.options.items()}
    shape = e.autograd_loss(e.autograd(e.x), e.y).shape
    cotangent = _array(random_cotangent(shape, case.dtype, seed))
    loss, grad_output = reference.cost(o, y, case.loss, case.reduction, **options)
    each = case.reduction == "none"  # then every error has a cotangent of its own
    grad_output = grad_output * (cotangent.reshape(len(o), -1) if each else cotangent)
    gradients = reference.backward(network, activity, grad_output)
    found = {
        "output": o.reshape(*case.batch, -1),
        "loss": loss.reshape(shape),
        "input.grad": gradients.input.reshape(e.x.shape),
    }
    for name, weight, bias in zip(layers, gradients.weights, gradients.biases, strict=True):
        found[f"{name}.weight.grad"] = weight
        if bias is not None:
            found[f"{name}.bias.grad"] = bias
    return found


def _target(case: Case, generator: torch.Generator) -> Tensor:
    shape = (*case.batch, case.widths[-1])
    if case.loss == "cross_entropy" and not case.probabilities:
        y = torch.randint(case.widths[-1], case.batch, generator=generator)
        if "ignore_index" in case.options:  # one sample that is skipped, one that is not
            y[:2] = torch.tensor([int(case.options["ignore_index"]), 0])
        return y
    if case.loss == "cross_entropy":
        return torch.rand(shape, generator=generator).softmax(-1).to(case.dtype)
    if case.loss == "bce_with_logits":
        return torch.rand(shape, generator=generator).to(case.dtype)
    return torch.randn(shape, generator=generator).to(case.dtype)


def _array(values: Tensor) -> np.ndarray[Any, Any]:
    values = values.detach().cpu()
    return (values.double() if values.is_floating_point() else values).numpy()
