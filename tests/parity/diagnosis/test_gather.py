"""From a comparison to words: what the arms are asked, and what is said in the end."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manualbp.parity import compare_gradients
from manualbp.parity.arms.calls import Call
from manualbp.parity.arms.subject import subject
from manualbp.parity.diagnosis.gather import gather
from manualbp.parity.judge.comparison import Comparison

X = torch.randn(9, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randint(3, (9,), generator=torch.Generator().manual_seed(2))


class LinearFunction(torch.autograd.Function):
    """A linear layer by hand, with one fault of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor, fault: str) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.fault = fault
        return x @ w.T + b

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        dx, dw, db = delta @ w, delta.T @ x, delta.sum(0)
        match ctx.fault:
            case "mean":
                db = delta.mean(0)
            case "transposed":
                dw = dw.T.contiguous()
            case "input x 1.5":
                dx = 1.5 * dx
            case "last row":
                dw, db = delta[:-1].T @ x[:-1], delta[:-1].sum(0)
            case "bfloat16":
                dw = dw.bfloat16().float()
            case "no bias":
                return dx, dw, None, None
        return dx, dw, db, None


class Linear(nn.Linear):
    fault = ""

    def forward(self, x: Tensor) -> Tensor:
        return LinearFunction.apply(x, self.weight, self.bias, self.fault)


class Straight(torch.autograd.Function):
    """ReLU whose backward has forgotten the mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.relu()

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Tensor:
        return delta


class Maskless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Straight.apply(x)


def network(layer: str = "", fault: str = "") -> nn.Sequential:
    """The same weights every time; one layer by hand, with a fault."""
    torch.manual_seed(0)
    net = nn.Sequential(OrderedDict(
        fc1=nn.Linear(6, 8), act1=nn.ReLU(), fc2=nn.Linear(8, 8), act2=nn.Tanh(),
        fc3=nn.Linear(8, 3),
    ))  # fmt: skip
    if layer == "act1":
        net.act1 = Maskless()
    elif layer:
        old = net.get_submodule(layer)
        new = Linear(old.in_features, old.out_features)
        new.load_state_dict(old.state_dict())
        new.fault = fault
        setattr(net, layer, new)
    return net


CASES = [
    ("fc2", "mean", "fc2.bias.grad", "factor", True, "a mean over the 9 rows where the reference"),
    ("fc2", "transposed", "fc2.weight.grad", "transposed", True, "in its own backward"),
    ("fc2", "input x 1.5", "fc1.weight.grad", "factor", False, "in the step from fc2 to fc1"),
    ("fc3", "last row", "fc3.weight.grad", "rows", True, "contribution of row 8 of 9 is missing"),
    ("fc2", "bfloat16", "fc2.weight.grad", "precision", True, "it went through bfloat16"),
    ("fc3", "no bias", "fc3.bias.grad", "missing", True, "there is no gradient"),
    ("act1", "", "fc1.weight.grad", "mask", False, "wrong only where the pre-activation is <= 0"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[1]}")
def test_the_first_finding_names_the_fault(case: tuple[Any, ...]) -> None:
    layer, fault, tensor, kind, here, words = case
    report = compare_gradients(
        network(layer, fault), network(), X, nn.CrossEntropyLoss(), target=Y, seeds=(0,)
    )
    first = report.findings[0]
    assert (first.tensor, first.kind, first.here) == (tensor, kind, here)
    assert words in first.words and first.next_step
    if fault == "input x 1.5":
        assert first.next_step.startswith("in the step from fc2 to fc1, look for")
    assert {f.tensor for f in report.findings} == {t.name for t in report.differing}


def comparison(layer: str = "", fault: str = "") -> Comparison:
    call = Call.of(X, nn.CrossEntropyLoss(), Y, 0)
    return Comparison("backward", subject(network(layer, fault)), subject(network()), call)


def test_layers_stand_in_backward_order() -> None:
    evidence = gather(comparison())
    assert [evidence.layers[name] for name in evidence.order] == [
        "fc3", "fc3", "fc2", "fc2", "fc1", "fc1", "fc1"
    ]  # fmt: skip
    assert evidence.order[-1] == "input.grad"
    z = nn.functional.linear(X.double(), *(p.double() for p in network().fc1.parameters()))
    assert torch.equal(evidence.pre_activations["fc1"], z)  # bit-exact: the same operator


def test_single_rows_add_up() -> None:
    """The gradient is the sum of its rows': within 1e-12 of float64, a few hundred roundings."""
    evidence = gather(comparison())
    assert evidence.rows == 9 and evidence.probe is not None
    total = sum(evidence.probe(torch.arange(9) == row)[1]["fc1.weight.grad"] for row in range(9))
    assert torch.allclose(total, evidence.exact["fc1.weight.grad"], rtol=1e-12, atol=1e-15)


def test_fewer_rows_are_a_run_of_their_own() -> None:
    evidence = gather(comparison())
    assert evidence.prefix is not None
    ours, exact = evidence.prefix(4)
    assert len(exact["output"]) == 4 and len(ours["output"]) == 4
    assert torch.equal(exact["output"], evidence.exact["output"][:4])  # bit-exact


def test_what_arrives_is_told_apart() -> None:
    evidence = gather(comparison("fc2", "input x 1.5"))
    assert evidence.incoming == {"fc3": True, "fc2": True, "fc1": False}


def test_a_module_that_computes_otherwise_when_watched_says_nothing() -> None:
    class Shy(nn.Sequential):
        """Its fault hides as soon as a child has a hook."""

        def forward(self, x: Tensor) -> Tensor:
            watched = any(child._forward_hooks for child in self)
            y = super().forward(x)
            if not watched:
                y.register_hook(lambda g: 2 * g)
            return y

    shy = Shy(OrderedDict(network().named_children()))
    call = Call.of(X, nn.CrossEntropyLoss(), Y, 0)
    found = Comparison("backward", subject(shy), subject(network()), call)
    assert not found.agrees and gather(found).incoming is None
    assert not any(child._forward_hooks for child in shy)


def test_functions_have_no_layers_to_watch() -> None:
    found = Comparison("backward", subject(lambda x: 1.0 * x.tanh() * 1.5), subject(torch.tanh),
                       Call.of(X, None, None, 0))  # fmt: skip
    evidence = gather(found)
    assert evidence.order == ("input.grad",) and not evidence.pre_activations
