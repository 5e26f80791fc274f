"""Reports as the comparisons fill them in, made by hand, and the source of a user's file."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from manualbp.parity.power_record import Planted, PowerReport
from manualbp.parity.record import Check, Finding, GradientReport, TensorReport, WorstElement, over
from manualbp.parity.training_record import Curve, First, Histogram, TrainingReport, Trajectory

# What a user's file may begin with: a right and a wrong backward.
AFFINE = """
import torch
from torch import nn


class Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, b):
        ctx.save_for_backward(x, w)
        return x @ w.T + b

    @staticmethod
    def backward(ctx, delta):
        x, w = ctx.saved_tensors
        return delta @ w, delta.T @ x, delta.sum(0)


class Mean(Affine):
    @staticmethod
    def backward(ctx, delta):
        x, w = ctx.saved_tensors
        return delta @ w, delta.T @ x, delta.mean(0)
"""

FAULTS = ("transposed", "sign", "x 1.01", "x N", "missing", "stale activation", "wrong mask",
          "swapped parameters", "one row dropped", "one element off", "reduced precision",
          "noise")  # fmt: skip


def tensor(name: str, shape: tuple[int, ...], share: float) -> TensorReport:
    """One that agrees where share is at most 1."""
    if share <= 1:
        return TensorReport(
            name, shape, torch.float32, 1e-8, 1e-7, 2, share * 4e-7, 1e-7, 4e-7, share == 0,
            True, "",
        )  # fmt: skip
    worst = WorstElement(tuple(n - 1 for n in shape), -2.48969293, -2.46504271, 1.7e-5)
    reason = (
        f"3 of {math.prod(shape)} elements; worst {list(worst.index)}: got -2.48969293, expected "
        "-2.46504271 within 1.7e-05"
    )
    return TensorReport(
        name, shape, torch.float32, 0.03, 0.01, 155605, share * 4e-7, 1e-7, 4e-7, False, False,
        reason, None, 3, worst,
    )  # fmt: skip


def missing(name: str) -> TensorReport:
    """One that the candidate has not: no number has a meaning."""
    nan = math.nan
    reason = "missing in the candidate, (8,) in the reference"
    return TensorReport(
        name, (8,), torch.float32, nan, nan, None, nan, nan, nan, False, False, reason
    )


def power(*reasons: str) -> PowerReport:
    names = ("fc1.weight.grad", "fc2.weight.grad")
    planted = [Planted(f, n, not reasons or f != "x 1.01") for n in names for f in FAULTS]
    smallest = {names[0]: 1.5e-6, names[1]: math.inf if reasons else 3e-7}
    return PowerReport(tuple(planted), smallest, reasons)


def sample_gradient_report(verdict: str = "DIFFER") -> GradientReport:
    """Two seeds; with DIFFER three tensors are wrong, the worst in the second seed."""
    right = (
        tensor("output", (16, 3), 0.0), tensor("input.grad", (16, 4), 0.2),
        tensor("fc1.weight.grad", (8, 4), 0.4), tensor("fc1.bias.grad", (8,), 0.6),
        tensor("fc2.weight.grad", (3, 8), 0.3),
    )  # fmt: skip
    settings = {"inputs": "input (16, 4) float32", "loss": "cross_entropy | mean", "seeds": "0, 1"}
    if verdict != "DIFFER":
        strength = power() if verdict == "agree" else power("'x 1.01' is not seen in fc2.weight")
        checks = tuple(Check("backward", seed, right) for seed in (0, 1))
        return GradientReport("Net [by hand]", "Net", checks, strength, (), settings)
    wrong = {
        "fc2.weight.grad": tensor("fc2.weight.grad", (3, 8), 41000.0),
        "fc1.weight.grad": tensor("fc1.weight.grad", (8, 4), 12.0),
        "fc1.bias.grad": missing("fc1.bias.grad"),
    }
    second = tuple(wrong.get(t.name, t) for t in right)
    findings = (
        Finding("fc2.weight.grad", "factor", "1.01 times what it should be", True,
                "look for a factor 1.01 in the backward of fc2"),
        Finding("fc1.weight.grad", "spread", "off everywhere", False, "repair fc2 first"),
    )  # fmt: skip
    checks = (Check("backward", 0, right), Check("backward", 1, second))
    return GradientReport(
        "Net [by hand]", "Net", checks, power(), findings, settings, "repro/fc2.pt"
    )


def curve(values: list[float]) -> Curve:
    found = Curve()
    for step, value in enumerate(values, start=1):
        found.add(step, value)
    return found


def sample_trajectory(
    optimizer: str, dtype: str, seed: int, wrong_from: int | None = None, steps: int = 60
) -> Trajectory:
    """A drift that grows inside its envelope; from ``wrong_from`` on 0.bias leaves it."""
    eps = 1e-7 if dtype == "float32" else 2e-16
    run = Trajectory(optimizer, dtype, seed, steps, steps, bit_identical=False, power=power())
    loss = [2.3 * math.exp(-step / 25) + 0.1 for step in range(steps)]
    run.curves["loss/candidate"] = curve([value * (1 + eps) for value in loss])
    run.curves["loss/reference"] = curve(loss)
    for number, name in enumerate(("0.weight", "0.bias", "2.weight", "2.bias")):
        bad = wrong_from if name == "0.bias" else None
        size = [eps * (1 + number) * (1 + step) ** 0.5 for step in range(steps)]
        off = [30.0 if bad and step >= bad else 0.8 for step in range(1, steps + 1)]
        wobble = [1 + 0.5 * math.sin(step / 3 + number) for step in range(steps)]
        drift = [s * o * w for s, o, w in zip(size, off, wobble, strict=True)]
        run.curves[f"drift/{name}"] = curve([0.0, *drift[1:]])
        run.curves[f"low/{name}"] = curve([0.4 * s for s in size])
        run.curves[f"high/{name}"] = high = curve([4.0 * s for s in size])
        shares = map(over, run.curves[f"drift/{name}"].values, high.values)
        run.curves[f"share/{name}"] = curve(list(shares))
        forced = [
            0.3 * w * (200 if bad and step + 1 >= bad else 1) for step, w in enumerate(wobble)
        ]
        run.curves[f"forced/{name}.grad"] = curve(forced)
        run.histograms[f"gradients/candidate/{name}"] = Histogram(
            (1, 5, 9, 2), (-2.0, -1.0, 0.0, 1.0, 2.0)
        )
        run.histograms[f"gradients/reference/{name}"] = Histogram(
            (1, 6, 8, 2), (-2.0, -1.0, 0.0, 1.0, 2.0)
        )
        run.histograms[f"differences/{name}"] = Histogram((3, 9), (-eps, 0.0, eps))
    if wrong_from:
        reason = "drift 1.2e-05, allowed 3.1e-06, largest twin 7.7e-07"
        run.outside = First(wrong_from, ("0.bias", "0.bias.grad"), reason)
        run.forced = First(wrong_from, ("0.bias.grad",), "3 of 8 elements; worst [7]")
        run.findings = (Finding("0.bias.grad", "sum", "a sum for a mean", True, "divide by N"),)
    return run


def sample_training_report(verdict: str = "DIFFER", steps: int = 60) -> TrainingReport:
    """Two optimizers in two dtypes; with DIFFER Adam in float64 goes wrong at step 21."""
    runs = [
        sample_trajectory(optimizer, dtype, 0, steps=steps,
                          wrong_from=21 if (optimizer, dtype, verdict) == WRONG else None)
        for optimizer in ("sgd", "adam") for dtype in ("float32", "float64")
    ]  # fmt: skip
    if verdict == "NO POWER":
        runs[1] = replace(runs[1], power=power("'x 1.01' is not seen in fc2.weight"))
    return TrainingReport("Net [by hand]", "Net", runs, {"data": "digits", "twins": "8"})


WRONG = ("adam", "float64", "DIFFER")
