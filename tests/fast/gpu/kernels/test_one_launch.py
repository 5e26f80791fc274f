"""FusedLoss in one launch: what loss(model(x), y) gives, within 1e-5 of each tensor's largest.

fp32, sums of at most 90 terms.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import compiled_autograd
from torch.utils.checkpoint import checkpoint

import manualbp
from comparisons.counterparts import WithLoss
from manualbp.fast.gpu import choice, kernels, one_launch
from manualbp.maths.backprop import Step
from tests.dropin.nets import unequal

pytest.importorskip("triton")
pytestmark = pytest.mark.kernels
DEVICE = "cpu" if kernels._INTERPRETED else "cuda"
CLOSE, N = 1e-5, 90  # two tiles


@pytest.fixture(autouse=True)
def launches(by_kernels: None, monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """One launch everywhere; what each was asked for."""
    seen: list[tuple[object, ...]] = []
    right = one_launch.launch

    def spy(net: one_launch.Net, steps: list[Step], *args: Tensor) -> object:
        seen.append(tuple(step.needs for step in steps))
        return right(net, steps, *args)

    monkeypatch.setattr(one_launch, "launch", spy)
    return seen


def model(bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 20), nn.GELU(), nn.Linear(20, 17, bias=bias), nn.Tanh(), nn.Linear(17, 5)
    ).to(DEVICE)


def batch(n: int = N) -> tuple[Tensor, Tensor, Tensor]:
    """x, real targets, class indices of which 1 is to be ignored."""
    torch.manual_seed(1)
    classes = torch.randint(5, (n,), device=DEVICE)
    return torch.randn(n, 6, device=DEVICE), torch.randn(n, 5, device=DEVICE), classes


def both(net: nn.Module, loss: nn.Module) -> tuple[nn.Module, nn.Module]:
    return manualbp.FusedLoss(net, loss), WithLoss(copy.deepcopy(net), loss)


def passed(cost: nn.Module, x: Tensor, y: Tensor) -> list[Tensor | None]:
    """The loss and every gradient, of three times the loss; None where none is wanted."""
    x = x.detach().requires_grad_(x.requires_grad)
    cost.zero_grad()
    loss = cost(x, y)
    (3 * loss).backward()
    return [loss.detach(), x.grad, *[p.grad for p in cost.parameters()]]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("wants_x", [True, False])
@pytest.mark.parametrize("which", ["mse", "ce"])
def test_values(which: str, wants_x: bool, reduction: str, launches: list[object]) -> None:
    x, real, classes = batch()
    y = real if which == "mse" else classes
    loss = nn.MSELoss(reduction=reduction) if which == "mse" else nn.CrossEntropyLoss(
        reduction=reduction, ignore_index=1, label_smoothing=0.1
    )  # fmt: skip
    for bias in (True, False):
        ours, theirs = both(model(bias), loss)
        x.requires_grad_(wants_x)
        assert unequal(passed(ours, x, y), passed(theirs, x, y), rtol=CLOSE) == ""
    assert len(launches) == 2


def test_planted_wrong_count_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean over rows instead of errors."""
    right = one_launch.cost
    monkeypatch.setattr(one_launch, "cost", lambda *args: 5 * right(*args))
    with pytest.raises(AssertionError):
        test_values("mse", True, "mean", [None, None])


def test_all_samples_ignored() -> None:
    """The loss is NaN and gradients are zeros, as PyTorch's are."""
    x, _, classes = batch()
    loss = nn.CrossEntropyLoss(ignore_index=1)
    found = [passed(cost, x, torch.ones_like(classes)) for cost in both(model(), loss)]
    torch.testing.assert_close(*found, equal_nan=True)


@pytest.mark.parametrize("frozen", ["0.weight", "0.bias", "2.weight", "4.bias", "0", "4", "none"])
def test_frozen(frozen: str, launches: list[tuple[object, ...]]) -> None:
    """None where PyTorch has None, and not computed."""
    x, y, _ = batch()
    net = model()
    for name, p in net.named_parameters():
        p.requires_grad_(not name.startswith(frozen))
    ours, theirs = both(net, nn.MSELoss())
    assert unequal(passed(ours, x, y), passed(theirs, x, y), rtol=CLOSE) == ""
    ((_, *rest),) = launches
    wanted = [t for need in (launches[0][0], *rest) for t in need.theta]  # type: ignore[attr-defined]
    assert wanted == [p.requires_grad for p in net.parameters()]


def test_asked_for_again(launches: list[object]) -> None:
    """One launch; every pass has its own tensors, which may be edited. Bit-exact."""
    x, y, _ = batch()
    ours, _ = both(model(), nn.MSELoss())
    loss, wanted = ours(x.requires_grad_(), y), [x, *ours.parameters()]
    first = torch.autograd.grad(loss, wanted, retain_graph=True)
    expected = [g.clone() for g in first]
    for g in first:
        g.mul_(2)
    assert all(map(torch.equal, torch.autograd.grad(loss, wanted), expected))
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()
    assert len(launches) == 1


def test_batched_cotangents() -> None:
    x, y, _ = batch()
    found = []
    for cost in both(model(), nn.MSELoss()):
        loss = cost(x, y)
        many = torch.tensor([1.0, 0.0, -2.0], device=DEVICE)
        found.append(torch.autograd.grad(loss, [*cost.parameters()], many, is_grads_batched=True))
    assert unequal(*found, rtol=CLOSE) == ""


def test_edited_parameters() -> None:
    """Gradients are of the parameters as they were at forward: what Fused has as well."""
    x, y, _ = batch()
    ours, theirs = both(model(), nn.MSELoss())
    expected = torch.autograd.grad(theirs(x, y), [*theirs.parameters()])
    loss = ours(x, y)
    with torch.no_grad():
        for p in ours.parameters():
            p.mul_(2)
    assert unequal(torch.autograd.grad(loss, [*ours.parameters()]), expected, rtol=CLOSE) == ""


def test_cotangents_of_other_dtypes_and_sizes() -> None:
    x, y, _ = batch()
    found = []
    for cost in both(model(), nn.MSELoss()):
        loss = 1e-3 * cost(x, y).double() + cost(x[:1], y[:1])
        loss.backward()
        found.append([loss, *[p.grad for p in cost.parameters()]])
    assert unequal(*found, rtol=CLOSE) == ""


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype, launches: list[object]) -> None:
    """2 % of the largest; a loss that GradScaler multiplies keeps small gradients."""
    x, y, _ = batch()
    net = model().to(dtype)
    ours, theirs = both(net, nn.MSELoss())[0], WithLoss(copy.deepcopy(net).float(), nn.MSELoss())
    found = []
    for cost, kind in ((ours, dtype), (theirs, torch.float32)):
        loss = cost(x.to(dtype).to(kind), y.to(dtype).to(kind))
        (loss * 1024).backward()
        found.append([t.float() for t in (loss, *[p.grad for p in cost.parameters()])])
    assert {p.grad.dtype for p in net.parameters()} == {dtype} and len(launches) == 1
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() <= 0.02 * b.abs().max()


def test_without_gradients(launches: list[tuple[object, ...]]) -> None:
    """The loss alone is launched."""
    x, y, _ = batch()
    ours, theirs = both(model(), nn.MSELoss())
    with torch.no_grad():
        torch.testing.assert_close(ours(x, y), theirs(x, y), rtol=CLOSE, atol=0)
    ours.requires_grad_(False)
    assert not ours(x, y).requires_grad and len(launches) == 2
    assert not any(need for needs in launches for need in needs)


def test_second_derivatives_are_an_error() -> None:
    x, y, _ = batch()
    ours, _ = both(model(), nn.MSELoss())
    with pytest.raises(RuntimeError, match=r"no second derivatives.*use loss\(model"):
        torch.autograd.grad(ours(x, y), [*ours.parameters()], create_graph=True)


def test_copies_and_files(launches: list[object]) -> None:
    """Bit-exact."""
    x, y, _ = batch()
    ours, _ = both(model(), nn.MSELoss())
    expected = passed(ours, x, y)
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert unequal(passed(twin, x, y), expected) == ""
    assert len(launches) == 3


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_autograd(launches: list[object]) -> None:
    x, y, _ = batch()
    found = []
    for cost in both(model(), nn.MSELoss()):
        torch._dynamo.reset()
        loss = cost(x, y)
        with compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
            loss.backward()
        found.append([p.grad for p in cost.parameters()])
    torch._dynamo.reset()
    assert unequal(*found, rtol=CLOSE) == "" and len(launches) == 1


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint(reentrant: bool) -> None:
    found = []
    for cost in both(model(), nn.MSELoss()):
        x, y, _ = batch()
        checkpoint(cost, x.requires_grad_(), y, use_reentrant=reentrant).backward()
        found.append([x.grad, *[p.grad for p in cost.parameters()]])
    assert unequal(*found, rtol=CLOSE) == ""


def test_tied_weights(launches: list[object]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(5, 5).to(DEVICE)
    x, y, _ = batch()
    ours, theirs = both(nn.Sequential(layer, nn.Tanh(), layer), nn.MSELoss())
    assert unequal(passed(ours, y, x[:, :5]), passed(theirs, y, x[:, :5]), rtol=CLOSE) == ""
    assert len(launches) == 1


@pytest.mark.parametrize("how", ["autocast", "vmap", "func.grad", "hooked", "weight norm"])
def test_what_it_cannot_serve_runs_as_written(how: str, launches: list[object]) -> None:
    """Bit-exact: that very expression."""
    x, y, _ = batch()
    found, net = [], model()
    if how == "hooked":
        net[1].register_forward_hook(lambda module, args, o: 2 * o)
    if how == "weight norm":
        torch.nn.utils.parametrizations.weight_norm(net[0])
    for cost in both(net, nn.MSELoss()):
        if how == "vmap":
            found.append(torch.func.vmap(cost)(x.view(2, -1, 6), y.view(2, -1, 5)))
        elif how == "func.grad":
            found.append(torch.func.grad(cost)(x, y))
        else:
            with torch.autocast(DEVICE, torch.bfloat16, enabled=how == "autocast"):
                loss = cost(x, y)
            found.append(torch.autograd.grad(loss, [*cost.parameters()]))
    assert unequal(*found) == "" and launches == []


def test_kinds_are_by_what_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tried for itself, by the gradients wanted: it is another kernel."""
    kinds: list[str] = []

    def works(step: choice.Product, x: Tensor, launch: Callable[[], tuple[Tensor, ...]]) -> bool:
        kinds.append(step.product.split(" 6-20-17-5")[0])
        assert (launch()[3].numel() > 0) == (kinds[-1] == "step with dC/dx")
        return True

    net = model()
    net[2].requires_grad_(False)
    x, y, _ = batch()
    ours, _ = both(net, nn.MSELoss())
    monkeypatch.setattr(choice, "works", works)
    ours(x, y)
    ours(x.requires_grad_(), y)
    with torch.no_grad():
        ours(x, y)
    assert kinds == ["step", "step with dC/dx", "C"]


def test_a_kernel_that_fails_leaves_tiles(
    launches: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "works", lambda step, x, by_kernel: False)
    x, y, _ = batch()
    ours, theirs = both(model(), nn.MSELoss())
    assert unequal(passed(ours, x, y), passed(theirs, x, y), rtol=CLOSE) == "" and launches == []
