"""Attention in several spellings: each agrees, with power, and differs with one fault planted."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manualbp.parity import compare_gradients, load_parameters


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def agree(candidate: Any, reference: Any, inputs: Any, loss: Any = None, **options: Any) -> None:
    """The verdict is "agree", and every standard fault would have been seen."""
    report = compare_gradients(candidate, reference, inputs, loss, **options)
    assert report.agrees, (report.verdict, report.differing, report.power)


def blamed(candidate: Any, reference: Any, inputs: Any, *args: Any, **options: Any) -> set[str]:
    """The names of the tensors that differ."""
    report = compare_gradients(candidate, reference, inputs, *args, power=False, **options)
    return {tensor.name for tensor in report.differing}


def written_out(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        above = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(above, -math.inf)
    return scores.softmax(-1) @ v


def unscaled(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    return written_out(q * math.sqrt(q.shape[-1]), k, v, causal)


def one_key_further(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    above = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(2)
    return scores.masked_fill(above, -math.inf).softmax(-1) @ v


def detached(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """The right output; the backward forgets that the softmax's sum depends on the scores."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return (scores - scores.logsumexp(-1, keepdim=True).detach()).exp() @ v


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 7, 8), (1, 1, 16, 4)], ids=str)
def test_attention(shape: tuple[int, ...], causal: bool, dtype: torch.dtype) -> None:
    qkv = tuple(normal(*shape, seed=i, dtype=dtype) for i in range(3))

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return written_out(q, k, v, causal)

    agree(fused, reference, qkv)


def test_attention_with_a_fault() -> None:
    qkv = tuple(normal(2, 3, 7, 8, seed=i) for i in range(3))

    def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    sdpa = F.scaled_dot_product_attention
    every = {"output", "input[0].grad", "input[1].grad", "input[2].grad"}
    assert blamed(unscaled, sdpa, qkv) == every
    assert blamed(one_key_further, causal, qkv) == every
    assert blamed(detached, sdpa, qkv) == {"input[0].grad", "input[1].grad"}


class WrittenOut(nn.Module):
    """nn.MultiheadAttention of one head, batch first, with names of its own."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(features, 3 * features), nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(written_out(q, k, v).transpose(1, 2).flatten(-2))


class Multihead(nn.MultiheadAttention):
    """Self-attention as a module of one input."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x, x, need_weights=False)[0]


NAMES = {"qkv.weight": "in_proj_weight", "qkv.bias": "in_proj_bias",
         "out.weight": "out_proj.weight", "out.bias": "out_proj.bias"}  # fmt: skip


def test_multihead_attention_by_a_parameter_map() -> None:
    """The key third of in_proj_bias has a gradient that is zero but for rounding."""
    torch.manual_seed(0)
    reference, candidate = Multihead(8, 2, batch_first=True), WrittenOut(8, 2)
    nn.init.normal_(reference.in_proj_bias)
    load_parameters(candidate, reference, NAMES)
    x = normal(3, 5, 8)
    agree(candidate, reference, x, parameters=NAMES)
    candidate.heads = 1
    assert "in_proj_weight.grad" in blamed(candidate, reference, x, parameters=NAMES)
    candidate.heads = 2
    candidate.qkv.weight.register_hook(lambda g: torch.cat([g[8:16], g[:8], g[16:]]))
    assert blamed(candidate, reference, x, parameters=NAMES) == {"in_proj_weight.grad"}


def test_a_key_bias_of_its_own_is_judged_by_its_sums() -> None:
    """dC/db_k is zero by nature: no false alarm, and what is not zero is seen."""

    class Keys(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))

    class Plain(Keys):
        def forward(self, x: Tensor) -> Tensor:
            return written_out(self.q(x), self.k(x), self.v(x))

    torch.manual_seed(0)
    candidate, reference = Keys(), Plain()
    load_parameters(candidate, reference)
    agree(candidate, reference, normal(3, 5, 8))
    candidate.k.bias.register_hook(lambda g: g + 1e-3)
    assert blamed(candidate, reference, normal(3, 5, 8)) == {"k.bias.grad"}
