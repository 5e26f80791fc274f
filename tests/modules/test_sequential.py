"""Sequential and MLP: bit-identical with nn.Sequential, by hand or fallen back."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils._python_dispatch import TorchDispatchMode

import manualbp
from manualbp.maths import layers
from manualbp.maths.activations import ACTIVATIONS
from manualbp.modules import stretch
from tests.helpers import autograd_twin, differing, gradients, hand_twin

SHAPES = [(5,), (0, 5), (1, 5), (2, 5), (17, 5), (128, 5), (3, 4, 5), (2, 3, 4, 5), (1, 1, 5)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def is_by_hand(output: Tensor) -> bool:
    return type(output.grad_fn).__name__ == "ChainBackward"


def make_input(shape: tuple[int, ...], dtype: torch.dtype, transposed: bool) -> Tensor:
    x = torch.randn(shape).to(dtype)
    return x.transpose(-1, -2).contiguous().transpose(-1, -2) if transposed else x


def make_cotangent(kind: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    if kind == "expanded":
        return torch.ones((), dtype=dtype).expand(shape)
    g = torch.randn(tuple(reversed(shape))).to(dtype).permute(*reversed(range(len(shape))))
    return g if kind == "strided" else g.contiguous()


def sweep(activation: str, dtype: torch.dtype) -> list[str]:
    """The configurations in which any bit or stride differs from nn.Sequential's."""
    torch.manual_seed(0)
    wrong = []
    grid = itertools.product(
        SHAPES, (True, False), (7, 1), (3, 1), (True, False), (True, False),
        ("random", "expanded", "strided"),
    )  # fmt: skip
    for shape, bias, hidden, out, wants_x, transposed, kind in grid:
        if transposed and len(shape) < 2:
            continue
        model = manualbp.MLP((5, hidden, hidden, out), activation, bias=bias, dtype=dtype)
        twin = autograd_twin(model)
        x = make_input(shape, dtype, transposed).requires_grad_(wants_x)
        g = make_cotangent(kind, model(x).shape, dtype)
        ours, theirs = gradients(model, x, g), gradients(twin, x, g)
        names = differing(ours, theirs)
        names += [n for n, t in ours.items() if t is not None and t.stride() != theirs[n].stride()]
        if names:
            wrong.append(f"{(shape, bias, hidden, out, wants_x, transposed, kind)}: {names}")
    return wrong


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "identity"])
def test_bit_identical(activation: str, dtype: torch.dtype) -> None:
    assert sweep(activation, dtype) == []


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bit_identical_everywhere(activation: str, dtype: torch.dtype, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert sweep(activation, dtype) == []
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("other_way", [False, True])
def test_planted_product_order_is_caught(other_way: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep must see dC/dW and dC/dh in one spelling for all layouts: other rounding."""
    linear = layers.Linear(other_way, other_way)
    monkeypatch.setattr(
        stretch,
        "laid_out",
        lambda row, thetas, x: [linear if layer is layers.LINEAR else layer for layer in row],
    )
    assert sweep("tanh", torch.float32)


@pytest.mark.parametrize(
    "children",
    [
        lambda: [nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)],
        lambda: [nn.Linear(5, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3), nn.Tanh()],
        lambda: [nn.Flatten(), nn.Linear(5, 8), nn.Linear(8, 8), nn.ReLU(), nn.ReLU()],
        lambda: [nn.Tanh(), nn.Linear(5, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)],
        lambda: [nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 2, 2), nn.Flatten(), nn.Linear(8, 3)],
        lambda: [nn.Linear(5, 8), nn.Identity(), nn.SiLU(), nn.BatchNorm1d(8), nn.Linear(8, 3)],
        lambda: [nn.Sequential(nn.Linear(5, 8), nn.ReLU()), nn.Linear(8, 3)],
        lambda: [weight_norm(nn.Linear(5, 8)), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(-1)],
        lambda: [],
    ],
    ids=["dropout", "layernorm", "twice", "inplace", "conv", "batchnorm", "nested", "parametrized",
         "empty"],
)  # fmt: skip
def test_children_it_cannot_do_are_called(children) -> None:  # type: ignore[no-untyped-def]
    """Bit-exact, the same generator states included."""
    torch.manual_seed(0)
    twin = nn.Sequential(*children())
    model = manualbp.Sequential(*copy.deepcopy(list(twin)))
    x = torch.randn(17, 5, requires_grad=True)
    results = []
    for net in (model, twin):
        torch.manual_seed(1)
        results.append(gradients(net, x))
    assert differing(*results) == []


def test_patched_classes_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """As some quantization and adapter code patches them; bit-exact."""
    model, twin, x = twins()
    linear = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: 2 * linear(self, x))
    monkeypatch.setattr(nn.Tanh, "forward", lambda self, x: x.sin())
    x.requires_grad_()
    assert differing(gradients(model, x), gradients(twin, x)) == []


def twins() -> tuple[manualbp.MLP, nn.Sequential, Tensor]:
    torch.manual_seed(0)
    model = manualbp.MLP((5, 8, 3), "tanh", dtype=torch.float64)
    return model, autograd_twin(model), torch.randn(4, 5, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (3, 4, 5), (2, 3, 4, 5)])
def test_output_may_be_edited_in_place(shape: tuple[int, ...]) -> None:
    """By an in-place child, or by the user; bit-exact."""
    torch.manual_seed(0)
    twin = nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))
    model, x = hand_twin(twin), torch.randn(shape, requires_grad=True)
    results = []
    for net in (model, twin):
        output = net(x).mul_(2)
        (g,) = torch.autograd.grad(output.sum(), x)
        results.append({"output": output.detach(), "input": g})
    assert differing(*results) == []


def odd_layouts() -> list[tuple[str, nn.Sequential, Tensor]]:
    """Strides and shapes for which F.linear chooses other routines, or broadcasts."""
    x, found = torch.randn(66, 1, 28), []

    def model(change) -> nn.Sequential:  # type: ignore[no-untyped-def]
        net = nn.Sequential(nn.Linear(28, 51), nn.Tanh(), nn.Linear(51, 28))
        change(net[0])
        return net

    def expanded(linear: nn.Linear) -> None:
        linear.bias.data = linear.bias.data[:1].expand(51)

    def reshaped(shape: tuple[int, ...]):  # type: ignore[no-untyped-def]
        return lambda linear: setattr(linear, "bias", nn.Parameter(torch.randn(shape)))

    for frozen in (True, False):
        net = model(lambda linear: None)
        net[0].weight.requires_grad_(not frozen)
        net[0].bias = None
        found.append((f"size-1 dimension {frozen=}", net, x.transpose(0, 1)))
    for data in (x, x[0], x[0, 0], x[0, 0, :1].expand(28), x[::2, 0]):
        found.append((f"expanded bias {tuple(data.shape)}", model(expanded), data))
        for shape in ((), (1,), (1, 51)) if data.dim() > 1 else ((), (1,)):
            found.append((f"bias {shape} {tuple(data.shape)}", model(reshaped(shape)), data))
    return found


def test_odd_layouts() -> None:
    """Bit-exact, whether by hand or fallen back; with a strided cotangent as well."""
    torch.manual_seed(0)
    for name, twin, data in odd_layouts():
        for strided in (False, True):
            model, x = hand_twin(twin), data.detach().requires_grad_()
            g = torch.randn(*twin(x).shape, 2)[..., 0] if strided else torch.randn(twin(x).shape)
            ours, theirs = gradients(model, x, g), gradients(autograd_twin(twin), x, g)
            assert differing(ours, theirs) == [], (name, strided)


def test_keyword_input() -> None:
    model, twin, x = twins()
    assert is_by_hand(model(input=x)) and torch.equal(model(input=x), twin(input=x))


def test_mlp_builds_what_it_says() -> None:
    model = manualbp.MLP((64, 128, 10), "leaky_relu", "sigmoid", bias=False)
    kinds = [type(m) for m in model]
    assert kinds == [nn.Linear, nn.LeakyReLU, nn.Linear, nn.Sigmoid]
    assert model[0].bias is None and model[2].weight.shape == (10, 128)


@pytest.mark.parametrize("widths", [(), (5,), (5, 0), (5, 2.0), (5, -1, 2), "55", 5, (5, True)])
def test_wrong_widths(widths: object) -> None:
    with pytest.raises(ValueError, match="two or more integers >= 1, got"):
        manualbp.MLP(widths)


def test_wrong_activation() -> None:
    with pytest.raises(ValueError, match="did you mean 'sigmoid'"):
        manualbp.MLP((2, 2), "sigmoidd")


class Recording(torch.overrides.TorchFunctionMode):
    """Remembers the functions that pass through."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[object] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class Dispatching(TorchDispatchMode):
    """Passes every operator on."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return func(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
def test_observers_see_pytorchs_own_operators() -> None:
    model, criterion = manualbp.MLP((5, 8, 3)), manualbp.MSELoss()
    x, y = torch.randn(4, 5), torch.randn(4, 3)
    with Recording() as recording:
        output = model(x)
    assert torch.nn.functional.linear in recording.seen and not is_by_hand(output)
    with Dispatching():
        assert not is_by_hand(model(x))
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x)
        cost = criterion(output, y.bfloat16())
    assert not is_by_hand(output) and type(cost.grad_fn).__name__ != "CostBackward"
    traced = torch.jit.trace(model, x, check_trace=False)
    assert "PythonOp" not in str(traced.inlined_graph)


def test_sliced_weights() -> None:
    """Their layout decides between the spellings of a product; bit-exact, strides included."""
    torch.manual_seed(0)
    twin = nn.Sequential(nn.Linear(33, 17), nn.Tanh(), nn.Linear(17, 17))
    twin[0].weight = nn.Parameter(torch.randn(17, 40)[:, :33])
    model = manualbp.Sequential(*twin)
    x, g = torch.randn(64, 33, requires_grad=True), torch.randn(64, 17)
    found = [torch.autograd.grad(net(x), [x, *net.parameters()], g) for net in (model, twin)]
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs) and ours.stride() == theirs.stride()


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
def test_no_rows_and_no_columns() -> None:
    for net, shape in ((nn.Linear(0, 3), (2, 4, 0)), (nn.Linear(5, 3), (2, 0, 5))):
        model, x = manualbp.Sequential(net), torch.randn(shape, requires_grad=True)
        output = model(x)
        output.sum().backward()
        assert is_by_hand(output) and x.grad is not None and x.grad.shape == shape
