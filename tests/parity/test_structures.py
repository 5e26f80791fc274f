"""What goes in and comes out: nestings, integers, dtypes, random layers; and what a wrong arm does.

Whatever is wrong before any number is compared is said in words, under a name.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
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


# Arms that are wrong before any number is compared.


def double(x: Tensor) -> Tensor:
    return x * 2


def as_tuple(x: Tensor) -> tuple[Tensor]:
    return (x * 2,)


def with_a_note(x: Tensor) -> tuple[Tensor, str]:
    return x * 2, "note"


def another_shape(x: Tensor) -> Tensor:
    return (x * 2).t()


def another_dtype(x: Tensor) -> Tensor:
    return (x * 2).double()


def another_note(x: Tensor) -> dict[str, Any]:
    return {"o": x * 2, "rows": len(x) + 1}


def nothing(x: Tensor) -> None:
    return None


def raises(x: Tensor) -> Tensor:
    raise RuntimeError("no kernel\n  for this")


def cut_off(x: Tensor) -> Tensor:
    return x.detach() * 2


def edits_its_input(x: Tensor) -> Tensor:
    found = x * 2
    x.data.mul_(2)
    return found


class NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None


class EditsItsCotangent(NoGradient):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad.mul_(2)


class TooMany(NoGradient):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad * 2, grad


class WrongShape(NoGradient):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad[:2] * 2


WRONG: list[tuple[Any, str, str]] = [
    (as_tuple, "structure", "structure (tensor,), expected tensor"),
    (with_a_note, "structure", "structure (tensor, 'note'), expected tensor"),
    (another_shape, "output", "shape (3, 4), expected (4, 3)"),
    (another_dtype, "output", "dtype torch.float64, expected torch.float32"),
    (nothing, "output", "expected an output with at least one tensor, got NoneType"),
    (raises, "output", "the candidate raised RuntimeError: no kernel for this"),
    (cut_off, "input.grad", "missing in the candidate, (4, 3) in the reference"),
    (NoGradient, "input.grad", "missing in the candidate, (4, 3) in the reference"),
    (edits_its_input, "input (read only)", "written over by the candidate"),
    (EditsItsCotangent, "the gradient of output (read only)", "written over by the candidate"),
    (TooMany, "output", "returned an incorrect number of gradients (expected 1, got 2)"),
    (WrongShape, "output", "invalid gradient at index 0"),
]


@pytest.mark.parametrize(
    ("wrong", "name", "words"), WRONG, ids=lambda p: getattr(p, "__name__", "")
)
def test_a_wrong_arm_is_reported_in_words(wrong: Any, name: str, words: str) -> None:
    found = reasons(wrong, double, normal(4, 3))
    assert words in found[name], found


def test_what_is_no_tensor_is_compared_as_well() -> None:
    def noted(x: Tensor) -> dict[str, Any]:
        return {"o": x * 2, "rows": len(x)}

    assert reasons(noted, noted, normal(4, 3)) == {}
    assert reasons(another_note, noted, normal(4, 3)) == {
        "structure": "structure {'o': tensor, 'rows': 5}, expected {'o': tensor, 'rows': 4}"
    }


def test_a_module_that_edits_its_parameter() -> None:
    class Editing(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.weight.mul_(1)
            return super().forward(x)

    reference, candidate = nn.Linear(3, 2), Editing(3, 2)
    load_parameters(candidate, reference)
    found = reasons(candidate, reference, normal(4, 3))
    assert "written over by the candidate" in found["weight (read only)"]


MISUSE: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: compare_gradients(nn.Linear, double, normal(4, 3)), TypeError, "must be called first"),
    (lambda: compare_gradients(double, double, 3.0), TypeError, "expected inputs to be a tensor"),
    (lambda: compare_gradients(double, double, normal(3), seeds=()), ValueError, "one seed"),
    (lambda: compare_gradients(double, double, normal(3), also=["hessian"]), ValueError, "hessian"),
    (lambda: compare_gradients(double, nothing, normal(3)), TypeError, "at least one tensor"),
]


@pytest.mark.parametrize(("call", "error", "words"), MISUSE)
def test_misuse_is_refused(call: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_a_constant_has_no_tangent_to_round() -> None:
    """MSELoss's target has a tangent without memory in forward mode; nothing may read it."""
    candidate, reference = MatrixHeads().mean, Heads().mean
    agree(candidate, reference, normal(4, 6), nn.MSELoss(), target=normal(4, 2, seed=1),
          also="forward_mode")  # fmt: skip


def test_a_sparse_gradient_is_one_of_another_layout() -> None:
    """Both sparse: judged as ever. One alone: an optimizer would take another path."""
    sparse, dense = nn.Embedding(7, 3, sparse=True), nn.Embedding(7, 3)
    dense.load_state_dict(sparse.state_dict())
    indices = torch.tensor([1, 4, 1, 6])
    agree(copy.deepcopy(sparse), sparse, indices)
    assert reasons(sparse, dense, indices) == {"weight.grad (layout)": "sparse, expected dense"}


def test_an_arm_may_begin_in_place() -> None:
    """nn.ReLU(inplace=True) at the head, which no leaf allows; as a candidate it is told."""
    linear = nn.Linear(4, 2)
    reference = nn.Sequential(nn.ReLU(inplace=True), linear)
    plain = nn.Sequential(nn.ReLU(), copy.deepcopy(linear))
    agree(plain, reference, normal(5, 4))
    assert set(reasons(reference, plain, normal(5, 4))) == {"input (read only)"}


@pytest.mark.parametrize("arm", [torch.fft.fft, lambda z: z * z], ids=["output", "input"])
def test_complex_tensors_are_refused(arm: Any) -> None:
    x = normal(4) if arm is torch.fft.fft else torch.complex(normal(4), normal(4))
    with pytest.raises(TypeError, match=r"expected real tensors, got .* torch\.view_as_real"):
        compare_gradients(arm, arm, x)


def test_a_derivative_the_reference_lacks_is_named() -> None:
    reference = nn.BatchNorm1d(4)
    with pytest.raises(ValueError, match=r"expected a reference that has vmap, .*; leave vmap out"):
        compare_gradients(copy.deepcopy(reference), reference, normal(6, 4), also="vmap")


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
