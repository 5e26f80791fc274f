"""One case: built from its seed, compared by ``manualbp.parity``, with NumPy as the third arm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import manualbp
from comparisons.counterparts import LOSSES, autograd_twin
from comparisons.gradients.cases import Case
from manualbp import reference
from manualbp.parity import GradientReport, compare_gradients
from manualbp.parity.arms.calls import random_cotangent


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
    options = {k: _option(k, v, case) for k, v in case.options.items()}
    pair = LOSSES[case.loss]
    return BuiltCase(
        manual=mlp,
        autograd=autograd_twin(mlp),
        manual_loss=pair.manual(reduction=case.reduction, **options),
        autograd_loss=pair.autograd(reduction=case.reduction, **options),
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


def _option(name: str, value: float | bool, case: Case) -> Any:
    if name not in ("weight", "pos_weight"):
        return value
    return torch.linspace(0.5, 2.0, case.widths[-1]).to(case.device, case.dtype)


def _array(values: Tensor) -> np.ndarray[Any, Any]:
    values = values.detach().cpu()
    return (values.double() if values.is_floating_point() else values).numpy()
