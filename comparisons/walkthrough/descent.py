"""The curves in TensorBoard: gradient descent on the examples, and gradients that vanish."""

from __future__ import annotations

import math

import torch
from torch import nn

import manualbp
from comparisons.counterparts import linears
from comparisons.walkthrough.examples import Example
from comparisons.walkthrough.trace import modules, sample, trained
from manualbp.parity.reports.charts import GRADIENT_NORM
from manualbp.parity.reports.tensorboard import RunLog
from manualbp.parity.reports.terminal import print_table
from manualbp.parity.reports.words import scientific

COST = "cost"
# The deep networks: activation and folder. Gradients vanish in the first alone.
DEEP = {"sigmoid": "deep-sigmoid", "relu": "deep-relu"}
DEPTH, WIDTH = 12, 16


def descend(e: Example, log: RunLog) -> list[float]:
    """w <- w - epsilon dC/dw by hand until the cost is small; the cost at every step."""
    model, loss = manualbp.Sequential(*modules(e)), manualbp.MSELoss()
    optimizer = manualbp.GradientDescent(trained(e, model), e.epsilon)
    x, y = sample(e)
    costs = []
    for step in range(e.steps + 1):
        optimizer.zero_grad()
        cost = loss(model(x), y)
        cost.backward()
        costs.append(cost.item())
        done = costs[-1] < e.small or step == e.steps
        if done or step < 100 or step % 10 == 0:
            log.scalar(e.name, COST, costs[-1], step)
            log.scalar(e.name, f"log10_{COST}", math.log10(costs[-1]), step)
            for number, norm in enumerate(gradient_norms(model), start=1):
                log.scalar(e.name, GRADIENT_NORM.format(f"layer_{number}"), norm, step)
        if done:
            break
        optimizer.step()
    print(
        f"cost {costs[0]:.9f}, after one step {costs[1]:.9f}, after {step} steps {costs[-1]:.3g}\n"
    )
    return costs


def vanishing(log: RunLog) -> None:
    """Gradient norm per layer of a deep network: sigmoid, whose f' is at most 1/4, and ReLU."""
    norms: dict[str, list[float]] = {}
    for f, folder in DEEP.items():
        generator = torch.Generator().manual_seed(0)
        model = manualbp.MLP([WIDTH] * (DEPTH + 1), f, bias=False, dtype=torch.float64)
        with torch.no_grad():
            for w in model.parameters():  # He's scale, the same numbers for both
                scale = math.sqrt(2 / WIDTH)
                w.copy_(torch.randn(w.shape, generator=generator, dtype=w.dtype) * scale)
        x = torch.randn(64, WIDTH, generator=generator, dtype=torch.float64)
        y = torch.randn(64, WIDTH, generator=generator, dtype=torch.float64)
        manualbp.MSELoss()(model(x), y).backward()
        norms[f] = gradient_norms(model)
        for layer, norm in enumerate(norms[f], start=1):
            log.scalar(folder, "gradient_norm_by_layer", norm, layer)
            log.scalar(folder, "log10_gradient_norm_by_layer", math.log10(norm), layer)
    pairs = zip(*norms.values(), strict=True)
    print_table(
        f"The vanishing gradient: |dC/dw| of {DEPTH} layers of {WIDTH} nodes, equal weights",
        ["layer", *(f"f = {f}" for f in norms)],
        [[str(n), *map(scientific, pair)] for n, pair in enumerate(pairs, start=1)],
    )
    print("sigmoid' is at most 1/4, so every layer on the way down takes its share of delta.")


def gradient_norms(model: nn.Sequential) -> list[float]:
    """|dC/dW_l|, layer by layer."""
    gradients = (layer.weight.grad for layer in linears(model))
    return [float(torch.linalg.vector_norm(g)) for g in gradients if g is not None]
