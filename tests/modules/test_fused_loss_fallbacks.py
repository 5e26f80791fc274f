"""FusedLoss where one pass cannot serve: loss(model(x), y) as it is written, whatever the size."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import manualbp
from manualbp.fast import native
from tests.modules.test_fused_loss import ROWS, model, passed


class Poisson(nn.Module):
    """A loss that is none of ours."""

    def forward(self, o: Tensor, y: Tensor) -> Tensor:
        return (o.exp() - y * o).mean()


def test_what_it_cannot_do_runs_as_written() -> None:
    """Bit-exact: that very expression."""
    x, y = torch.randn(64, 16), torch.randn(64, 5)
    with_batchnorm = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 5))
    hooked = model()
    hooked[0].register_forward_hook(lambda m, args, o: 2 * o)
    for net, loss, data in (
        (with_batchnorm, nn.MSELoss(), x),
        (hooked, nn.MSELoss(), x),
        (model(), Poisson(), x),
        (manualbp.Residual(nn.Linear(5, 5)), nn.MSELoss(), y),
        (model().half(), nn.MSELoss(), x.half()),
    ):  # fmt: skip
        target = y.to(data.dtype)
        twin = copy.deepcopy(net)
        ours = passed(manualbp.FusedLoss(net, loss, 512), net, data, target)
        theirs = passed(lambda x, y, loss=loss, twin=twin: loss(twin(x), y), twin, data, target)  # type: ignore[arg-type]
        for name, g in ours.items():
            assert g is theirs[name] is None or torch.equal(g, theirs[name])  # type: ignore[arg-type]


def is_fused(cost: Tensor) -> bool:
    """By one pass, in C++ where there is a library, else in Python."""
    node = "OnePassBackward" if native.library() is None else "FusedLossBackward"
    return type(cost.grad_fn).__name__ == node


@pytest.fixture(params=["as found", "in Python"])
def both_ways(request: pytest.FixtureRequest) -> None:
    """The library where there is one; and without it."""
    if request.param == "in Python":
        request.getfixturevalue("in_python")


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("width", [1, 16, 300])
@pytest.mark.parametrize("rows", [1, 2, 64, 2**12])
def test_no_size_decides(rows: int, width: int) -> None:
    """What is accepted, and what is refused, is so at every size of the batch and the network."""
    x, y = torch.randn(rows, 16), torch.randn(rows, 5)
    ends = nn.Linear(16, width), nn.Linear(width, 5)
    for between, fused in (
        (nn.Tanh(), True), (nn.Dropout(0.5).eval(), True), (nn.Dropout(0.5), False),
        (nn.BatchNorm1d(width), False),
    ):  # fmt: skip
        if rows == 1 and isinstance(between, nn.BatchNorm1d):
            continue  # torch.nn's own error
        net = nn.Sequential(ends[0], between, ends[1])
        for tile in (None, 512):
            cost = manualbp.FusedLoss(net, nn.MSELoss(), tile)(x, y)
            assert is_fused(cost) == fused
    half = net[:1].bfloat16()
    cost = manualbp.FusedLoss(half, nn.MSELoss())(x.bfloat16(), torch.zeros(rows, width).bfloat16())
    assert not is_fused(cost)


@pytest.mark.skipif(native.library() is None, reason="a rule for the library alone")
@pytest.mark.parametrize(("dtype", "rows", "fused"), [
    (torch.float32, 1, True), (torch.float32, 513, True), (torch.float64, 1, False),
    (torch.float64, 512, False), (torch.float64, 513, True),
])  # fmt: skip
def test_one_tile_of_python_gives_way_to_the_exact_node(
    dtype: torch.dtype, rows: int, fused: bool
) -> None:
    net, x, y = model().to(dtype), torch.randn(rows, 16).to(dtype), torch.randn(rows, 5).to(dtype)
    for tile_rows, expected in ((None, fused), (512, True)):
        cost = manualbp.FusedLoss(net, nn.MSELoss(), tile_rows)(x, y)
        in_one_pass = type(cost.grad_fn).__name__ in ("OnePassBackward", "FusedLossBackward")
        assert in_one_pass == expected
    alone = manualbp.FusedLoss(net, nn.MSELoss()).backward(x, y)
    torch.testing.assert_close(alone, nn.MSELoss()(net(x), y), rtol=1e-5, atol=0)


def test_a_hooked_loss_is_called() -> None:
    net, x, y = model(), torch.randn(ROWS, 16), torch.randn(ROWS, 5)
    expected, loss = 2 * nn.MSELoss()(net(x), y), nn.MSELoss()
    loss.register_forward_hook(lambda m, args, o: 2 * o)
    assert torch.equal(manualbp.FusedLoss(net, loss, 512)(x, y), expected)


def test_the_mode_of_other_modules_and_threads_stays() -> None:
    """A nested chain, whose own Linears do not count, runs exact: the bits of the expression."""

    class Seen(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert manualbp.set_mode.now == "exact"
            return x

    torch.manual_seed(0)
    nested = manualbp.Sequential(nn.Linear(16, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh())
    net = nn.Sequential(nested, Seen(), nn.Linear(128, 5))
    x, y = torch.randn(4096, 16), torch.randn(4096, 5)
    for loss in (nn.MSELoss(), manualbp.MSELoss()):
        cost = manualbp.FusedLoss(net, loss)
        for batch in (64, 4096):
            ours = passed(cost, net, x[:batch], y[:batch])
            theirs = passed(lambda x, y: loss(net(x), y), net, x[:batch], y[:batch])  # type: ignore[arg-type]  # noqa: B023
            for name, g in ours.items():
                assert g is theirs[name] is None or torch.equal(g, theirs[name])  # type: ignore[arg-type]


@pytest.mark.usefixtures("both_ways")
def test_compiled_copied_and_inside_other_modes() -> None:
    """Under compilers and transforms the expression runs; copies and files go on by one pass."""
    net, loss = model(), nn.MSELoss()
    x, y = torch.randn(ROWS, 16), torch.randn(ROWS, 5)
    cost = manualbp.FusedLoss(net, loss, 512)
    expected = loss(net(x), y)
    compiled = torch.compile(cost, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y), expected)
    batched = torch.func.vmap(cost)(x.view(2, -1, 16), y.view(2, -1, 5))
    torch.testing.assert_close(batched.mean(), expected)
    for twin in (copy.deepcopy(cost), pickle.loads(pickle.dumps(cost))):
        assert is_fused(twin(x, y))
        assert torch.equal(twin(x, y), cost(x, y))


@pytest.mark.parametrize("loss", [manualbp.MSELoss(), nn.MSELoss()], ids=["ours", "torch.nn"])
def test_nobody_elses_mode_changes(loss: nn.Module) -> None:
    """Bit-exact: another thread may be training in exact mode."""
    modes = []

    class Spy(nn.Identity):
        def forward(self, input: Tensor) -> Tensor:
            modes.append(manualbp.set_mode.now)
            return super().forward(input)

    torch.manual_seed(0)
    net = manualbp.Sequential(nn.Linear(4, 8), nn.Tanh(), Spy(), nn.Linear(8, 2))
    x, y = torch.randn(16, 4), torch.randn(16, 2)
    cost = manualbp.FusedLoss(net, loss)(x, y)
    assert modes == ["exact"]
    assert torch.equal(cost, nn.functional.mse_loss(nn.Sequential(*net)(x), y))
    if isinstance(loss, manualbp.MSELoss):
        with pytest.raises(ValueError, match="target of MSE must be"):
            manualbp.FusedLoss(net, loss)(x, y[:, :1])
