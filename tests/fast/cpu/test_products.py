"""Which routine runs a product: measured, shown, pinned; and that all compute the same."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manualbp import fast
from manualbp.fast import small
from manualbp.fast.cpu import products, routines

with_onednn = pytest.mark.skipif(
    not routines.AVAILABLE, reason="oneDNN's linear is not in this build of PyTorch"
)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routines, "_policy", None)


@torch.no_grad()
@pytest.mark.parametrize("routine", routines.ROUTINES)
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 48), (300, 260)], ids=["narrow", "wide"])
def test_routines_compute_the_formulas(inputs: int, outputs: int, routine: str) -> None:
    """fp32 sums of up to 600 products of size 1: relative 1e-5 of the largest."""
    fast.pin(routine)
    torch.manual_seed(0)
    h, g = torch.randn(600, inputs), torch.randn(600, outputs)
    w, b = torch.randn(outputs, inputs) / inputs**0.5, torch.randn(outputs)
    for got, expected in (
        (products.linear(h, w, b), h.double() @ w.T.double() + b),
        (products.linear(h, w, b, "relu"), (h.double() @ w.T.double() + b).relu()),
        (products.linear(h, w, None, "tanh"), (h.double() @ w.T.double()).tanh()),
        (products.input_gradient(g, w), g.double() @ w.double()),
        (products.weight_gradient(g, h), g.T.double() @ h.double()),
    ):
        assert got.shape == expected.shape
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("terms", [700, 1024, 1500, 2048, 4096])
def test_long_sums_round_well(terms: int) -> None:
    """At most 1.5 times ATen's own distance from float64, and half an ulp of the size."""
    fast.pin("oneDNN")
    torch.manual_seed(0)
    x, y, b = torch.randn(600, terms), torch.randn(64, terms), torch.randn(64)
    columns = x.t().contiguous(), y.t().contiguous()
    exact, small = x.double() @ y.double().t(), x / 64
    exact_tanh = (exact / 64 + b).tanh()
    for got, atens, e in (
        (products.linear(x, y, b), F.linear(x, y, b), exact + b),
        (products.linear(small, y, b, "tanh"), F.linear(small, y, b).tanh(), exact_tanh),
        (products.input_gradient(x, columns[1]), x.mm(columns[1]), exact),
        (products.weight_gradient(*columns), columns[0].t().mm(columns[1]), exact),
    ):
        errors = [float((z.double() - e).norm()) for z in (got, atens)]
        assert errors[0] <= 1.5 * errors[1] + 6e-8 * float(e.norm())


@torch.no_grad()
@pytest.mark.parametrize("terms", [1, 255, 512, 513, 768, 1000, 4096])
def test_weight_gradients_of_every_length(terms: int) -> None:
    """By images of 256 rows and the rest: 1e-5 of the largest."""
    torch.manual_seed(0)
    g, h = torch.randn(terms, 48), torch.randn(terms, 64)
    expected = g.T.double() @ h.double()
    for routine in routines.ROUTINES.values():
        got = routine.weight_gradient(g, h)
        assert got.is_contiguous() and (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def counted(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float]) -> list[str]:
    """A clock that goes on by what the routine called costs; the calls are returned."""
    now, calls = [0.0], []

    def costing(name: str) -> Callable[..., Tensor]:
        def run(x: Tensor, *_: object) -> Tensor:
            calls.append(name)
            now[0] += seconds[name]
            return x

        return run

    found = {name: routines.Routines(costing(name), costing(name)) for name in seconds}
    monkeypatch.setattr(routines, "ROUTINES", found)
    monkeypatch.setattr(routines.time, "perf_counter", lambda: now[0])
    return calls


@with_onednn
@pytest.mark.parametrize(("onednn", "taken"), [(0.5, "oneDNN"), (0.99, "ATen"), (2.0, "ATen")])
def test_the_faster_one_is_taken(
    onednn: float, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch, {"ATen": 1.0, "oneDNN": onednn})
    assert {fast.policy()[kind] for kind in routines.KINDS} == {taken}
    assert calls[:4] == ["ATen", "oneDNN"] * 2  # in turn
    count = len(calls)
    assert fast.policy() == fast.policy() and len(calls) == count  # fixed for the process


def test_nothing_random_is_drawn() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    fast.policy()
    assert torch.equal(torch.get_rng_state(), before)


def test_pinned_is_taken_and_shown() -> None:
    fast.pin("ATen")
    assert set(fast.policy().values()) == {"ATen", 1}
    choice = {**fast.policy(), "forward, wide": "oneDNN"}
    fast.pin(choice)
    assert fast.policy() == choice
    x = torch.zeros(512, 512)
    assert routines.chosen("forward", x, x) == ("oneDNN" if routines.AVAILABLE else "ATen")
    assert routines.chosen("forward", torch.zeros(8192, 64), torch.zeros(64, 64)) == "ATen"


SMALL_OR_ODD = {
    "few": (torch.zeros(4, 512), 512),
    "none": (torch.zeros(0, 512), 512),
    "thin": (torch.zeros(10**5, 64), 8),
    "float64": (torch.zeros(512, 512, dtype=torch.float64), 512),
    "strided": (torch.zeros(512, 1024)[:, :512], 512),
    "expanded": (torch.zeros(512, 1).expand(512, 512), 512),
    "meta": (torch.zeros(512, 512, device="meta"), 512),
}


@pytest.mark.parametrize("case", SMALL_OR_ODD)
def test_others_are_atens(case: str) -> None:
    fast.pin("oneDNN")
    x, outputs = SMALL_OR_ODD[case]
    assert routines.chosen("forward", x, torch.zeros(outputs, x.shape[1])) == "ATen"


def test_bad_pins_change_nothing() -> None:
    fast.pin("ATen")
    found = fast.policy()
    for bad in (
        "MKL", {"forward, narrow": "ATen"}, {**found, "sideways": "ATen"}, {**found, "sideways": 1},
        {**found, "gain, wide": 0}, {**found, "gain, wide": "ATen"}, {**found, "gain, wide": True},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="expected"):
            fast.pin(bad)
    assert fast.policy() == found


@pytest.mark.parametrize(("seconds", "gain"), [(1.0, 1), (0.5, 8), (0.0, 16)])
@with_onednn
def test_gain(seconds: float, gain: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A product takes ATen a second and oneDNN ``seconds``; half a second is 14 times SAVED."""
    size = math.prod(routines.SAMPLES["wide"])
    counted(monkeypatch, {"ATen": 1.0, "oneDNN": seconds})
    monkeypatch.setattr(routines, "SAVED", 3 * 0.5 / size / 14)
    assert fast.policy()["gain, wide"] == gain


def test_small_counts_the_products_and_costly_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 rows of 64 * 64 multiplications that gain, 64 * 2 that do not, and 64 tanh."""
    fast.pin({**dict.fromkeys(routines.KINDS, "ATen"), **dict.fromkeys(routines.GAINS, 2)})
    chain = [nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2), nn.ReLU()]
    x, work = torch.zeros(5, 2, 64), 10 * (2 * 64 * 64 + 64 * 2 + 64 * small.WORTH)
    monkeypatch.setattr(small, "LEAST_WORK", work + 1)
    assert fast.is_small(chain, x) and fast.is_small(chain, torch.zeros(64))
    assert not fast.is_small(chain, torch.zeros(())) and not fast.is_small(chain, [x])
    monkeypatch.setattr(small, "LEAST_WORK", work)
    assert not fast.is_small(chain, x)
    assert fast.is_small(chain, x.double())  # of which oneDNN has no products


def test_tiny_chains_need_no_policy() -> None:
    assert fast.is_small([nn.Linear(32, 32), nn.Tanh()], torch.zeros(32, 32))
    assert routines._policy is None
