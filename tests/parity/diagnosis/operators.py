"""Operators with a backward by hand, and formula faults in them, each with what it must be called.

A backward gets ``d`` and what was kept; right ones are not needed: the reference is autograd's.
"""

# ruff: noqa: E501 - a fault stands on a line
from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from manualbp.parity.arms.calls import Call
from manualbp.parity.arms.subject import subject
from manualbp.parity.diagnosis.evidence import Evidence
from manualbp.parity.diagnosis.gather import gather
from manualbp.parity.judge.comparison import Comparison

Backward = Callable[..., Any]


class Fault(NamedTuple):
    """A wrong backward, the gradient that shows it, its kind, and its words."""

    backward: Backward
    kind: str
    words: str
    place: int = 0


class Operator(NamedTuple):
    reference: Callable[..., Tensor]
    keep: Callable[..., tuple[Tensor, ...]]
    shapes: tuple[tuple[int, ...], ...]
    faults: dict[str, Fault]
    index: tuple[int, ...] = ()  # a last input of whole numbers


def inputs_of(operator: Operator) -> Callable[[int], tuple[Tensor, ...]]:
    def inputs(seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        floats = [torch.randn(shape, generator=generator) for shape in operator.shapes]
        return (*floats, *([torch.tensor(operator.index)] if operator.index else []))

    return inputs


def function(operator: Operator, backward_: Backward) -> type[torch.autograd.Function]:
    class Candidate(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Tensor) -> Tensor:
            ctx.save_for_backward(*operator.keep(*inputs))
            return operator.reference(*inputs)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            return backward_(*grads, *ctx.saved_tensors)

    return Candidate


def evidence_of_operator(name: str, fault: str) -> tuple[str, Evidence]:
    """The gradient that shows a fault, and what is known of it."""
    operator = OPERATORS[name]
    backward, _, _, place = operator.faults[fault]
    inputs = inputs_of(operator)(0)
    names = list(Call.of(inputs, None, None, 0).leaves)
    comparison = Comparison("backward", subject(function(operator, backward)),
                            subject(operator.reference), Call.of(inputs, None, None, 0))  # fmt: skip
    return f"{names[place]}.grad", gather(comparison)


def same(*inputs: Tensor) -> tuple[Tensor, ...]:
    return inputs


def mean(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def total(x: Tensor) -> Tensor:
    return x.sum(-1, keepdim=True)


def turned(x: Tensor) -> Tensor:
    one, two = x.chunk(2, -1)
    return torch.cat([-two, one], -1)


def rms(x: Tensor) -> Tensor:
    return (mean(x * x) + 1e-6).rsqrt()


def normed(x: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    r = (x.var(dim, correction=0, keepdim=True) + 1e-5).rsqrt()
    return (x - x.mean(dim, keepdim=True)) * r, r


def grouped(x: Tensor) -> tuple[Tensor, ...]:
    h, r = normed(x.reshape(len(x), 2, -1))
    return h.reshape(x.shape), r


def without_group_mean(d: Tensor, h: Tensor, r: Tensor) -> Tensor:
    g, own = (x.reshape(len(x), 2, -1) for x in (d, h))
    return (r * (g - own * mean(g * own))).reshape(d.shape)


FIVE, ROWS = ((5, 6),), ((5, 6), (5, 6))


def scale(x: Tensor) -> Tensor:
    return (mean(x * x) + 1e-6).rsqrt()


OPERATORS: dict[str, Operator] = {
    "RMSNorm, input saved": Operator(lambda x, w: x * scale(x) * w, same, ((6, 5), (5,)), {
        "no mean": Fault(lambda d, x, w: (d * w * scale(x), (d * x * scale(x)).sum(0)), "missing term",
                         r"lacks -mean\(g \* reference\.mul\.self, 1\) \* reference\.mul\.self"),
        "no r": Fault(lambda d, x, w: (d * w * scale(x) - x * scale(x)**3 * mean(d * w * x), (d * x).sum(0)), "formula",
                      r"should be grad_output \* reference\.mul\.self", 1),
    }),
    "softmax": Operator(lambda x: x.softmax(-1), lambda x: (x.softmax(-1),), FIVE, {
        "no sum": Fault(lambda d, y: d * y, "missing term", r"lacks -sum\(g, 1\) \* output"),
        "no y": Fault(lambda d, y: d - total(d * y), "missing factor", "lacks the factor output"),
        "sign": Fault(lambda d, y: y * (total(d * y) - d), "sign", "-1.000 x reference"),
    }),
    "log-softmax": Operator(lambda x: x.log_softmax(-1), lambda x: (x.log_softmax(-1).exp(),), FIVE, {
        "no p": Fault(lambda d, p: d - total(d), "missing term", r"lacks sum\(grad_output, 1\) - sum\(grad_output, 1\) \* "),
        "d alone": Fault(lambda d, p: d.clone(), "missing term",
                         r"lacks -sum\(grad_output, 1\) \* saved\[0\]"),
    }),
    "RMSNorm": Operator(lambda x: x * rms(x), lambda x: (x * rms(x), rms(x)), FIVE, {
        "no mean": Fault(lambda d, y, r: d * r, "missing term", r"lacks -mean\(g \* output, 1\) \* output"),
        "no r": Fault(lambda d, y, r: d - y * mean(d * y), "missing factor", r"the factor saved\[1\]"),
    }),
    "LayerNorm": Operator(lambda x: F.layer_norm(x, x.shape[-1:]), normed, FIVE, {
        "no means": Fault(lambda d, h, r: d * r, "missing term", r"-mean\(g, 1\) - mean\(g \* output, 1\)"),
        "no mean of d": Fault(lambda d, h, r: r * (d - h * mean(d * h)), "missing term",
                              r"lacks -mean\(g, 1\) \(g is the candidate's"),
    }),
    "BatchNorm": Operator(lambda x: F.batch_norm(x, None, None, training=True),
                          lambda x: normed(x, 0), ((7, 5),), {
        "no mean": Fault(lambda d, h, r: r * (d - h * (d * h).mean(0)), "missing term", r"-mean\(g, 0\)"),
    }),
    "GroupNorm": Operator(lambda x: F.group_norm(x, 2), grouped, ((3, 4, 5),), {
        "no mean": Fault(without_group_mean, "missing term", r"-mean\(g, 2\) .* in 2 groups of channels"),
    }),
    "normalize": Operator(lambda x: x / x.norm(dim=-1, keepdim=True),
                          lambda x: (x.norm(dim=-1, keepdim=True),), FIVE, {
        "no projection": Fault(lambda d, n: d / n, "missing term", r"lacks -sum\(g \* output, 1\)"),
    }),
    "cube": Operator(lambda x: x**3, same, FIVE, {
        "3 x": Fault(lambda d, x: 3 * d * x, "missing factor", r"lacks the factor input:"),
        "no d": Fault(lambda d, x: 3 * x * x, "cotangent", "grad_output is not used"),
        "d twice": Fault(lambda d, x: 3 * d * d * x * x, "cotangent", "grad_output is in it twice"),
    }),
    "product": Operator(lambda x, y: x * y, same, ROWS, {
        "no y": Fault(lambda d, x, y: (d.clone(), d * x), "missing factor", r"lacks the factor input\[1\]"),
        "x for y": Fault(lambda d, x, y: (d * x, d * x), "swapped", "equals the gradient of"),
        "both": Fault(lambda d, x, y: (1.1 * d * y, 1.1 * d * x), "factor",
                      r"input\[1\].grad = 1.100 x reference, .* in input\[1\] or behind", 1),
    }),
    "sigmoid": Operator(torch.sigmoid, lambda x: (x.sigmoid(),), FIVE, {
        "no 1 - a": Fault(lambda d, a: d * a, "missing factor", r"lacks the factor \(1 - output\)"),
        "1 - a alone": Fault(lambda d, a: d * (1 - a), "missing factor", "lacks the factor output"),
    }),
    "tanh": Operator(torch.tanh, lambda x: (x.tanh(),), FIVE, {
        "no slope": Fault(lambda d, a: d.clone(), "missing factor", r"the factor \(1 - output\^2\)"),
        "1 - a": Fault(lambda d, a: d * (1 - a), "missing factor", r"lacks the factor \(1 \+ output\)"),
    }),
    "SiLU": Operator(F.silu, lambda x: (x, x.sigmoid()), FIVE, {
        "no second term": Fault(lambda d, x, z: d * z, "missing term",
                                r"lacks grad_output \* output - g \* output"),
    }),
    "linear": Operator(F.linear, same, ((4, 3), (5, 3), (5,)), {
        "once per row": Fault(lambda d, x, w, b: (d @ w, d.T @ x, d.sum(0, True).expand(len(d), -1)),
                              "returned shape", r"returned as \(4, 5\) for \(5,\)", 2),
        "mean": Fault(lambda d, x, w, b: (d @ w, d.T @ x / len(d), d.sum(0)), "factor",
                      "mean over the 4 rows where", 1),
        "1/3": Fault(lambda d, x, w, b: (d @ w / 3, d.T @ x, d.sum(0)), "factor",
                     r"= 0.3333 x reference, cosine 1.000;"),
        "|x|": Fault(lambda d, x, w, b: (d @ w, d.T @ x.abs(), d.sum(0)), "formula",
                     r"should be grad_output\^T @ input\[0\]", 1),
    }),
    "scores": Operator(lambda q, k: q @ k.T / q.shape[-1] ** 0.5, same, ((4, 6), (5, 6)), {
        "no scale": Fault(lambda d, q, k: (d @ k, d.T @ q / 6**0.5), "factor",
                          r"the scale 1/sqrt\(6\) is missing, 6 for the 6 numbers of dimension 1"),
        "of q": Fault(lambda d, q, k: (d @ k / 6**0.5, d.T @ q.exp() / 6**0.5), "formula",
                      r"should be 0.408248 \* grad_output\^T @ input\[0\]", 1),
    }),
    "squares, one number": Operator(lambda x: x.square().mean(), same, FIVE, {
        "no d": Fault(lambda d, x: 2 * x / x.numel(), "cotangent", "grad_output is not used"),
        "sum": Fault(lambda d, x: 2 * d * x, "factor", r"= 30.00 x reference"),
        "per row": Fault(lambda d, x: 2 * d * x / x.shape[1], "factor", "a sum over the 5 rows"),
    }),
    "squares of a row": Operator(lambda x: x.square().sum(-1), same, FIVE, {
        "first": Fault(lambda d, x: 2 * d[0] * x, "cotangent", r"scaled by grad_output\[0\]"),
        "before": Fault(lambda d, x: 2 * d.roll(1)[:, None] * x, "cotangent", "of the row before"),
        "sum": Fault(lambda d, x: 2 * d.sum() * x, "cotangent", "the sum of grad_output"),
    }),
    "rotary": Operator(lambda x, c, s: x * c + turned(x) * s, same, ((5, 4),) * 3, {
        "no turn": Fault(lambda d, x, c, s: (d * c, d * x, d * turned(x)), "missing term",
                         r"lacks -rotate_half\(grad_output \* input\[2\]\)"),
    }),
    "cumsum": Operator(lambda x: x.cumsum(-1), lambda x: (), FIVE, {
        "forwards": Fault(lambda d: d.cumsum(-1), "formula",
                          r"should be cumsum\(grad_output.flip\(-1\), -1\).flip\(-1\)"),
    }),
    "solve": Operator(lambda a, b: torch.linalg.solve(a + 3 * torch.eye(4, dtype=a.dtype), b),
                      lambda a, b: (a + 3 * torch.eye(4, dtype=a.dtype),), ((4, 4), (4, 3)), {
        "no T": Fault(lambda d, m: (-torch.linalg.solve(m.T, d) @ torch.linalg.solve(m, d).T,
                                     torch.linalg.solve(m, d)), "unknown", "", 1),
    }),
    "distances": Operator(lambda a, b: (a[:, None] - b[None]).square().sum(-1), same,
                          ((7, 5), (4, 5)), {
        "no self": Fault(lambda d, a, b: (-2 * d @ b, 2 * (d.sum(0)[:, None] * b - d.T @ a)),
                         "missing term", r"lacks 2 \* sum\(grad_output, 1\) \* input\[0\]"),
        "no cross": Fault(lambda d, a, b: (2 * d.sum(1, True) * a,
                                           2 * (d.sum(0)[:, None] * b - d.T @ a)),
                          "missing term", r"lacks -2 \* grad_output @ input\[1\]"),
    }),
    "embedding": Operator(lambda w, i: w[i], same, ((6, 4),), {
        "written over": Fault(lambda d, w, i: (torch.zeros_like(w).index_put((i,), d), None),
                              "repeated index", "the last one alone is kept there"),
    }, index=(0, 2, 2, 5, 1, 0, 3)),
    "sum of products": Operator(lambda x, y: x * y + x * x, same, ROWS, {
        "another function": Fault(lambda d, x, y: (d * torch.erf(x), d * x), "formula",
                                  r"should be 2 \* grad_output \* input\[0\] \+ grad_output \* input\[1\]"),
    }),
    "scores of a slice": Operator(lambda x: x * x, same, FIVE, {
        "last columns": Fault(lambda d, x: torch.cat([2 * d * x[:, :], d * 0], 1)[:, : x.shape[1]]
                              * (torch.arange(x.shape[1]) < x.shape[1] - 2), "tile",
                              "columns 4 to 5 of 6 differ, which is zero in the candidate: the last tile"),
    }),
    "quotient": Operator(lambda x, y: x / y, same, ROWS, {
        "no square": Fault(lambda d, x, y: (d / y, -d * x / y), "missing factor",
                           r"lacks the factor 1 / input\[1\]", 1),
    }),
}  # fmt: skip
CASES = [(name, fault) for name, operator in OPERATORS.items() for fault in operator.faults]
