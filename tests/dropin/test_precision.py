"""Dtypes, autocast, devices without numbers, and the modes of PyTorch that watch a program."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import manualbp
from tests.dropin.nets import NAMES, backpropagated, is_by_hand, pair, rows, unequal

F32 = torch.float32
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("name", NAMES)
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    """Bit-exact."""
    ours, theirs = pair(name, dtype)
    x = rows(17, dtype, grad=True)
    assert unequal(backpropagated(ours, x), backpropagated(theirs, x)) == ""


def forward_inside(net: nn.Module, x: Tensor) -> Any:
    with torch.autocast(x.device.type, torch.bfloat16):
        output = net(x)
    output.float().pow(2).sum().backward()
    return output


def step_inside(net: nn.Module, x: Tensor) -> Any:
    with torch.autocast(x.device.type, torch.bfloat16):
        output = net(x)
        output.float().pow(2).sum().backward()
    return output


def backward_inside(net: nn.Module, x: Tensor) -> Any:
    """The forward pass by hand, only its backward in autocast."""
    output = net(x)
    with torch.autocast(x.device.type, torch.bfloat16):
        output.float().pow(2).sum().backward()
    return output


def half_inside(net: nn.Module, x: Tensor) -> Any:
    """An island without autocast."""
    with (
        torch.autocast(x.device.type, torch.bfloat16),
        torch.autocast(x.device.type, enabled=False),
    ):
        output = net(x)
    output.float().pow(2).sum().backward()
    return output


def second_order_inside(net: nn.Module, x: Tensor) -> Any:
    x.requires_grad_()
    output = net(x)
    with torch.autocast(x.device.type, torch.bfloat16):
        (g,) = torch.autograd.grad(output.pow(2).sum(), x, create_graph=True)
    return g


AUTOCASTS = [forward_inside, step_inside, backward_inside, half_inside, second_order_inside]


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")
@pytest.mark.parametrize("way", AUTOCASTS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_autocast(name: str, way: Callable[[nn.Module, Tensor], Any]) -> None:
    """Bit-exact."""
    found = []
    for net in pair(name, F32):
        torch.manual_seed(1)
        output = way(net, rows(9, F32))
        found.append([output.detach(), *[p.grad for p in net.parameters()]])
    assert unequal(*found) == ""


def test_autocast_by_hand_or_not() -> None:
    """By hand where only backward is inside, or where autocast is switched off."""
    ours = pair("deep", F32)[0]
    expected = {forward_inside: False, step_inside: False, backward_inside: True, half_inside: True}
    assert {way: is_by_hand(way(ours, rows(9, F32))) for way in expected} == expected


def test_grad_scaler() -> None:
    """Bit-exact over five scaled steps, one of which overflows and is skipped."""
    found = []
    for net in pair("deep", F32):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
        for step in range(5):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                cost = net(rows(9, F32)).pow(2).mean()
            scaler.scale(cost * (torch.inf if step == 2 else 1)).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
        found.append([torch.tensor(scaler.get_scale()), *[p.detach() for p in net.parameters()]])
    assert unequal(*found) == ""


@cuda
@pytest.mark.parametrize("dtype", [F32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_cuda(name: str, dtype: torch.dtype) -> None:
    """Within the rounding of the dtype: cuBLAS may choose other products for equal shapes."""
    ours, theirs = (net.cuda() for net in pair(name, dtype))
    x = rows(17, dtype).cuda().requires_grad_()
    found = backpropagated(ours, x), backpropagated(theirs, x)
    assert unequal(*found, rtol=8 * torch.finfo(dtype).eps) == ""


@cuda
@pytest.mark.parametrize("way", AUTOCASTS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", ["deep", "layernorm", "gated"])
def test_cuda_autocast(name: str, way: Callable[[nn.Module, Tensor], Any]) -> None:
    """Within 8 ulp of bfloat16."""
    found = []
    for net in pair(name, F32):
        output = way(net.cuda(), rows(9, F32).cuda())
        found.append([output.detach(), *[p.grad for p in net.parameters()]])
    assert unequal(*found, rtol=8 * 2.0**-8) == ""


MIXED = {
    "double weights": lambda net, x: (net.double(), x),
    "one double layer": lambda net, x: (net[2].double() and net, x),
    "double input": lambda net, x: (net, x.double()),
    "integer input": lambda net, x: (net, x.long()),
    "bfloat16 layer behind": lambda net, x: (net[2].bfloat16() and net, x),
    "bias of another dtype": lambda net, x: (
        setattr(net[0], "bias", nn.Parameter(net[0].bias.detach().double())) or net,
        x,
    ),
    "no rows": lambda net, x: (net, x[:0]),
    "width": lambda net, x: (net, x[:, :5]),
    "nothing": lambda net, x: (net, None),
    "sparse": lambda net, x: (net, x.to_sparse()),
    "meta input": lambda net, x: (net, x.to("meta")),
    "complex": lambda net, x: (net, x.to(torch.complex64)),
    "frozen and double": lambda net, x: (net.requires_grad_(False), x.double()),
}


@pytest.mark.filterwarnings("ignore:Casting complex values:UserWarning")
@pytest.mark.parametrize("case", MIXED)
def test_what_does_not_fit(case: str) -> None:
    """The same error in the same words, or the same bits."""
    found: list[Any] = []
    for net in pair("deep", F32):
        model, x = MIXED[case](net, rows(5, F32))
        try:
            output = model(x)
            found.append([output.detach()])
        except (RuntimeError, TypeError, NotImplementedError) as error:
            found.append(f"{type(error).__name__}: {error}")
    if isinstance(found[1], str):
        assert found[0] == found[1]
    else:
        assert unequal(*found) == ""


@pytest.mark.parametrize("name", NAMES)
def test_without_numbers(name: str) -> None:
    """Shapes and dtypes on the meta device and in FakeTensorMode, backward as well."""
    ours = pair(name)[0].to("meta")
    x = torch.empty(4, 6, dtype=torch.float64, device="meta", requires_grad=True)
    ours(x).sum().backward()
    assert x.grad is not None and x.grad.shape == (4, 6)
    net = pair(name)[0]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x = mode.from_tensor(rows(4, grad=True))
        output = net(x)
        output.sum().backward()
    assert isinstance(output, FakeTensor) and output.shape == (4, 6)


def test_built_on_meta() -> None:
    """Bit-exact: the usual way to build a large model without memory for it."""
    ours, theirs = pair("deep", F32)
    with torch.device("meta"):
        empty = manualbp.MLP((6, 9, 7, 6), "tanh")
    empty = manualbp.Sequential(empty[0], nn.Tanh(), empty[2], nn.SiLU(), empty[4])
    empty = empty.to_empty(device="cpu")
    empty.load_state_dict(theirs.state_dict())
    x = rows(5, F32)
    assert unequal(backpropagated(empty, x), backpropagated(theirs, x)) == ""
    with torch.device("meta"):
        again = manualbp.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7), nn.SiLU(),
                                    nn.Linear(7, 6))  # fmt: skip
    again.load_state_dict(ours.state_dict(), assign=True)
    assert is_by_hand(again(x)) and unequal(again(x), ours(x)) == ""


def test_default_device() -> None:
    torch.set_default_device("meta")
    try:
        net = manualbp.MLP((6, 9, 6))
        output = net(torch.randn(4, 6))
    finally:
        torch.set_default_device(None)  # type: ignore[arg-type]
    assert output.device.type == "meta" and output.shape == (4, 6)


@pytest.mark.parametrize("name", NAMES)
def test_inside_a_default_device(name: str) -> None:
    """Bit-exact; the mode that sets it sees every function, and the backward stays by hand."""
    with torch.device("cpu"):
        ours, theirs = pair(name)
        assert unequal(backpropagated(ours), backpropagated(theirs)) == ""
        assert is_by_hand(ours(rows())) or name == "unknown"
        with torch.overrides.BaseTorchFunctionMode():
            assert not is_by_hand(ours(rows()))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_inside_a_default_device(reduction: str) -> None:
    """Bit-exact, whatever device the constants of a loss would land on."""
    x, y = torch.randn(4, 3, requires_grad=True), torch.rand(4, 3).softmax(-1)
    found = []
    for home in (manualbp, nn):
        with torch.device("meta"):
            cost = home.CrossEntropyLoss(label_smoothing=0.1, reduction=reduction)(x, y)
            found.append([cost.detach(), *torch.autograd.grad(cost, x, torch.ones_like(cost))])
    assert unequal(*found) == ""


def test_default_dtype() -> None:
    """Bit-exact; what Dropout and the norms make on their way is of the input's dtype."""
    for name in ("dropout", "layernorm", "rmsnorm", "batchnorm"):
        with default_dtype(torch.float64):
            ours, theirs = pair(name, F32)
            x = rows(5, F32, grad=True)
            assert unequal(backpropagated(ours, x), backpropagated(theirs, x)) == ""
            assert manualbp.MLP((2, 2))[0].weight.dtype is torch.float64


def test_moved_between_passes() -> None:
    """Bit-exact: .to, .half, .double between two forwards, and between forward and backward."""
    found = []
    for net in pair("layernorm", F32):
        kept = []
        for dtype in (F32, torch.float64, torch.bfloat16, F32):
            net.to(dtype)
            net.zero_grad()
            kept += backpropagated(net, rows(5, dtype, grad=True))
        x = rows(5, F32, grad=True)
        output = net(x)
        net.load_state_dict(net.state_dict(), assign=True)  # other Parameter objects
        kept += torch.autograd.grad(output.pow(2).sum(), x)
        found.append(kept)
    assert unequal(*found) == ""


@pytest.mark.parametrize("name", NAMES)
def test_modes_that_watch(name: str) -> None:
    """Bit-exact under deterministic algorithms and anomaly detection."""
    for mode in ("deterministic", "anomaly"):
        found = []
        for net in pair(name):
            if mode == "anomaly":
                with torch.autograd.set_detect_anomaly(True):
                    found.append(backpropagated(net))
                continue
            torch.use_deterministic_algorithms(True)
            try:
                found.append(backpropagated(net))
            finally:
                torch.use_deterministic_algorithms(False)
        assert unequal(*found) == ""


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
@pytest.mark.filterwarnings("ignore:Error detected in:UserWarning")
def test_anomaly_mode_names_the_node() -> None:
    """A NaN in the gradient raises in both; the node named is the chain."""
    for net in pair("deep"):
        with torch.autograd.set_detect_anomaly(True):
            output = net(rows(grad=True))
            with pytest.raises(RuntimeError, match="returned nan values"):
                output.backward(torch.full_like(output, torch.nan))


def test_without_a_graph() -> None:
    """Bit-exact, and no graph: no_grad, inference_mode, everything frozen; then back again."""
    for name in NAMES:
        ours, theirs = (net.eval() for net in pair(name))
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                output = ours(rows(grad=True))
                assert not output.requires_grad and unequal(output, theirs(rows())) == ""
            with mode(), torch.enable_grad():
                assert unequal(ours(rows()), theirs(rows())) == ""
        made = torch.inference_mode()(lambda: rows())()
        assert unequal(ours.requires_grad_(False)(made), theirs.requires_grad_(False)(made)) == ""
        assert ours(rows()).grad_fn is None
        ours.requires_grad_(True)
        assert ours(rows()).requires_grad
        for net in (ours, theirs.requires_grad_(True)):
            with pytest.raises(RuntimeError, match="Inference tensors cannot be saved"):
                net(made)
