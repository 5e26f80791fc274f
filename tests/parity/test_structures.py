"""What goes in and comes out: nestings, integers, dtypes, random layers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manualbp.parity import GradientReport, compare_gradients, load_parameters

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs CUDA"))]  # fmt: skip


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def agree(*arms: Any, **options: Any) -> GradientReport:
    report = compare_gradients(*arms, **options)
    assert report.agrees, (report.verdict, report.differing, report.power)
    return report


def reasons(*arms: Any, **options: Any) -> dict[str, str]:
    """What differs, in words."""
    report = compare_gradients(*arms, power=False, seeds=(0,), **options)
    return {tensor.name: tensor.reason for tensor in report.differing}


class Heads(nn.Module):
    """Two inputs by keyword, a dict with a tuple out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shared, self.mean, self.scale = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor, options: dict[str, Any]) -> dict[str, Any]:
        h = torch.tanh(self.shared(x) + options["shift"])
        return {"parameters": (self.mean(h), F.softplus(self.scale(h))), "n": len(x)}


class MatrixHeads(Heads):
    """The same by products written out."""

    def forward(self, x: Tensor, options: dict[str, Any]) -> dict[str, Any]:
        h = torch.tanh(x @ self.shared.weight.t() + self.shared.bias + options["shift"])
        mean, scale = (h @ head.weight.t() + head.bias for head in (self.mean, self.scale))
        return {"parameters": (mean, (1 + scale.exp()).log()), "n": len(x)}


INPUTS = {"x": normal(8, 4), "options": {"shift": normal(6, seed=1)}}


def test_dicts_in_and_out() -> None:
    report = agree(MatrixHeads(), Heads(), INPUTS)
    assert {tensor.name for tensor in report.tensors} == {
        "output['parameters'][0]", "output['parameters'][1]",
        "input['x'].grad", "input['options']['shift'].grad",
        "shared.weight.grad", "shared.bias.grad", "mean.weight.grad", "mean.bias.grad",
        "scale.weight.grad", "scale.bias.grad",
    }  # fmt: skip


def test_a_loss_of_the_whole_structure_and_another_spelling_of_it() -> None:
    def gaussian(o: dict[str, Any], y: Tensor) -> Tensor:
        mean, scale = o["parameters"]
        return ((y - mean) / scale).square().sum() / 2 + scale.log().sum()

    def normal_nll(o: dict[str, Any], y: Tensor) -> Tensor:
        mean, scale = o["parameters"]
        return F.gaussian_nll_loss(mean, y, scale**2, reduction="sum", eps=0)

    y = normal(8, 2, seed=2)
    agree(Heads(), Heads(), INPUTS, gaussian, target=y, candidate_loss=normal_nll)
    half = reasons(Heads(), Heads(), INPUTS, gaussian, target=y,
                   candidate_loss=lambda o, y: normal_nll(o, y) / 2)  # fmt: skip
    assert "loss" in half and "mean.weight.grad" in half and "output['parameters'][0]" not in half


def test_swapped_outputs() -> None:
    class Swapped(Heads):
        def forward(self, x: Tensor, options: dict[str, Any]) -> dict[str, Any]:
            found = super().forward(x, options)
            return found | {"parameters": found["parameters"][::-1]}

    assert "output['parameters'][0]" in reasons(Swapped(), Heads(), INPUTS)


class Words(nn.Module):
    """Integer inputs: an embedding, tied to the output layer where asked."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.out = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False)
        if tied:
            self.out.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.out(torch.tanh(self.embedding(words)))


class OneHot(Words):
    """The embedding as a product."""

    def forward(self, words: Tensor) -> Tensor:
        weight = self.embedding.weight
        return self.out(torch.tanh(F.one_hot(words, 11).to(weight.dtype) @ weight))


class Untied(OneHot):
    """The output layer's share of the tied weight is forgotten."""

    def forward(self, words: Tensor) -> Tensor:
        weight = self.embedding.weight
        h = torch.tanh(F.one_hot(words, 11).to(weight.dtype) @ weight)
        return h @ self.out.weight.detach().t()


WORDS = torch.arange(24).reshape(4, 6) * 7 % 11


@pytest.mark.parametrize("tied", [False, True])
def test_integers_and_tied_weights(tied: bool) -> None:
    candidate, reference = OneHot(tied), Words(tied)
    load_parameters(candidate, reference)
    report = agree(candidate, reference, WORDS)
    gradients = [tensor.name for tensor in report.tensors if tensor.name.endswith(".grad")]
    assert gradients == ["embedding.weight.grad", "out.weight.grad"][: 2 - tied]
    agree(candidate, reference, WORDS, lambda o, y: F.cross_entropy(o.mT, y), target=WORDS)


def test_a_forgotten_share_of_a_tied_weight() -> None:
    candidate, reference = Untied(True), Words(True)
    load_parameters(candidate, reference)
    assert list(reasons(candidate, reference, WORDS)) == ["embedding.weight.grad"]


class Block(nn.Module):
    """A block with everything that knows train from eval."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.norm = nn.Linear(5, 6), nn.BatchNorm1d(6)
        self.drop, self.out = nn.Dropout(0.4), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(torch.tanh(self.norm(self.linear(x)))))


class BlockByHand(Block):
    """Batch statistics and mask written out; the mask is drawn as Dropout draws it."""

    correction = 0
    counts = True

    def forward(self, x: Tensor) -> Tensor:
        z = x @ self.linear.weight.t() + self.linear.bias
        mean, var = z.mean(0), z.var(0, correction=self.correction)
        if self.training and self.counts:
            self.norm.running_mean.lerp_(mean.detach(), 0.1)
            self.norm.running_var.lerp_(z.detach().var(0), 0.1)
            self.norm.num_batches_tracked += 1
        if not self.training:
            mean, var = self.norm.running_mean, self.norm.running_var
        a = torch.tanh((z - mean) * (var + 1e-5).rsqrt() * self.norm.weight + self.norm.bias)
        return self.out(a * F.dropout(torch.ones_like(a), 0.4, self.training))


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_batch_norm_and_dropout(train: bool) -> None:
    candidate, reference = BlockByHand().train(train), Block().train(train)
    buffers = copy.deepcopy(dict(reference.named_buffers()))
    agree(candidate, reference, normal(16, 5))
    assert all(torch.equal(b, buffers[name]) for name, b in reference.named_buffers())
    candidate.correction = 1
    assert ("output" in reasons(candidate, reference, normal(16, 5))) == train
    candidate.correction, candidate.counts = 0, False
    found = reasons(candidate, reference, normal(16, 5))
    expected = {f"norm.{name} (after)" for name, _ in reference.norm.named_buffers()}
    assert set(found) == (expected if train else set())  # no gradient shows it
    other = copy.deepcopy(reference).train(not train)
    assert "output" in reasons(other, reference, normal(16, 5))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_dtypes_and_devices(dtype: torch.dtype, device: str) -> None:
    agree(MatrixHeads(), Heads(), INPUTS, dtype=dtype, device=device)


def test_the_dtype_is_lent() -> None:
    candidate, reference = MatrixHeads(), Heads()
    compare_gradients(candidate, reference, INPUTS, dtype=torch.bfloat16)
    assert {p.dtype for p in (*candidate.parameters(), *reference.parameters())} == {torch.float32}


def test_a_constant_has_no_tangent_to_round() -> None:
    """MSELoss's target has a tangent without memory in forward mode; nothing may read it."""
    candidate, reference = MatrixHeads().mean, Heads().mean
    agree(candidate, reference, normal(4, 6), nn.MSELoss(), target=normal(4, 2, seed=1),
          also="forward_mode")  # fmt: skip


def test_every_run_starts_from_the_same_buffers() -> None:
    """A module that counts its calls, and computes with the count: each run is its first."""

    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(64, 8)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x) * self.calls.clone()

    class Wide(Counting):
        """The same in float64, rounded once: other bits, so that rounding has to be judged."""

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            z = F.linear(x.double(), self.weight.double(), self.bias.double())
            return (z * self.calls.clone()).float()

    reference, candidate = Counting(), Wide()
    candidate.load_state_dict(reference.state_dict())
    report = agree(candidate, reference, normal(50, 64))
    assert not report.bit_identical and reference.calls == 0 and candidate.calls == 0
