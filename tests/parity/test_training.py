"""compare_training: correct pairs agree, planted faults are caught and dated."""

from __future__ import annotations

import copy
import gc
import tracemalloc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manualbp.parity.reports import charts
from manualbp.parity.training import compare_training
from manualbp.parity.training_record import CURVE_POINTS, TrainingReport, Trajectory
from tests.parity.training_pairs import (
    Chunked,
    Wide,
    batches,
    faulty,
    net,
    only,
    other,
)

F32, F64 = torch.float32, torch.float64


def compare(candidate: nn.Module, reference: nn.Module, **options: Any) -> TrainingReport:
    """12 steps, SGD, float32, where nothing else is asked for."""
    given = {"optimizers": ("sgd",), "steps": 12, "dtypes": (F32,), "data": batches()} | options
    return compare_training(candidate, reference, given.pop("data"), nn.MSELoss(), **given)


def test_the_same_module_agrees_by_the_bit() -> None:
    reference = nn.Sequential(net(), nn.Dropout(0.3), nn.BatchNorm1d(2))
    report = compare_training(copy.deepcopy(reference), reference, batches(), nn.MSELoss(), steps=4)
    assert report.agrees and report.bit_identical and not report.interrupted
    names = [run.name for run in report.runs]
    assert names == ["sgd-float32-seed0", "sgd-float64-seed0",
                     "adam-float32-seed0", "adam-float64-seed0"]  # fmt: skip
    assert all(run.steps == run.planned == 4 and run.power is not None for run in report.runs)
    assert report.setup["optimizer adam"].startswith("Adam(lr=0.001")


@pytest.mark.parametrize("kind", [Chunked, Wide])
@pytest.mark.parametrize("dtype", [F32, F64, torch.bfloat16], ids=str)
def test_another_order_of_summation_agrees(dtype: torch.dtype, kind: Any) -> None:
    reference = net(nn.GELU, normalized=True).to(dtype)
    data = [(x.to(dtype), y.to(dtype)) for x, y in batches()]
    report = compare(other(reference, kind), reference, data=data, dtypes=None, twins=4,
                     optimizers=("adam",))  # fmt: skip
    assert report.agrees, [(r.outside, r.forced, r.power) for r in report.runs]
    assert [r.dtype for r in report.runs] == list(dict.fromkeys([str(dtype)[6:], "float64"]))


FAULTS: dict[str, tuple[str, Any]] = {
    "x 8, Adam": ("adam", lambda _, g: g * 8),
    "output bias missing, SGD": ("sgd", only("4.bias", 0.0)),
    "dW2 x 1.01, Adam": ("adam", only("2.weight", 1.01)),
    "plus 1e-4, Adam": ("adam", only("2.weight", 1.0001)),
    "plus 1e-4, SGD": ("sgd", only("0.bias", 1.0001)),
}


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_gradient_is_caught_at_step_1(fault: str, dtype: torch.dtype) -> None:
    """Both ways: by itself outside the envelope, and at the reference's state."""
    optimizer, change = FAULTS[fault]
    reference = net()
    report = compare(faulty(reference, change), reference, optimizers=(optimizer,), dtypes=(dtype,),
                     steps=3, twins=5)  # fmt: skip
    (run,) = report.runs
    assert report.verdict == "DIFFER" and run.outside is not None and run.forced is not None
    changed = {f"{n}.grad" for n, p in reference.named_parameters() if (change(n, p) != p).any()}
    assert run.forced.step == run.outside.step == 1
    assert set(run.forced.tensors) == changed
    assert changed <= set(run.outside.tensors)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_a_fault_in_a_later_step_is_dated(dtype: torch.dtype) -> None:
    """The candidate is called twice in a step: by itself and at the reference's state."""
    reference, calls = net(), iter(range(99))

    def late(name: str, g: Tensor) -> Tensor:
        return g * 1.01 if name == "0.weight" and next(calls) >= 2 * 6 else g

    (run,) = compare(faulty(reference, late), reference, dtypes=(dtype,)).runs
    assert run.forced is not None and run.outside is not None
    assert (run.forced.step, run.forced.tensors) == (7, ("0.weight.grad",))
    assert run.outside.step == 7
    assert (
        "0.weight.grad" in run.forced.reason and len(run.curves["forced/0.weight.grad"].steps) == 12
    )


UPDATES: dict[str, Any] = {
    "learning rate": (lambda p: torch.optim.SGD(p, 0.01001), lambda p: torch.optim.SGD(p, 0.01)),
    "weight decay": (
        lambda p: torch.optim.AdamW(p, 1e-3, weight_decay=0.02),
        lambda p: torch.optim.AdamW(p, 1e-3, weight_decay=0.01),
    ),
    "betas": (
        lambda p: torch.optim.Adam(p, 1e-3, betas=(0.9, 0.998)),
        lambda p: torch.optim.Adam(p, 1e-3),
    ),
}


@pytest.mark.parametrize("update", UPDATES)
def test_a_wrong_update_is_caught_though_every_gradient_is_right(update: str) -> None:
    reference = net()
    pair = {update: UPDATES[update]}
    for run in compare(other(reference), reference, optimizers=pair, dtypes=(F32, F64)).runs:
        assert run.forced is None and run.outside is not None and run.outside.step <= 3
        assert [f.kind for f in run.findings] == ["update"]


def test_a_wrong_buffer_is_caught() -> None:
    reference = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    candidate = copy.deepcopy(reference)
    candidate[1].momentum = 0.1001
    (run,) = compare(candidate, reference).runs
    assert run.outside is not None and run.outside.step == 1 and run.forced is None
    assert set(run.outside.tensors) == {"1.running_mean", "1.running_var"}
    assert [f.kind for f in run.findings] == ["buffer"]


def test_a_loss_that_is_off_alone() -> None:
    reference = net()
    off: Any = lambda o, y: nn.functional.mse_loss(o, y) + 1e-3  # noqa: E731
    (run,) = compare(other(reference), reference, candidate_loss=off).runs
    assert run.outside is not None and run.outside.tensors == ("loss",)
    assert run.forced is not None and run.forced.tensors == ("loss",)
    assert {f.kind for f in run.findings} == {"loss"}


class Bad(torch.autograd.Function):
    """Hands the gradient on as ``change`` makes it."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, change: Any) -> Tensor:
        ctx.change = change
        return w.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        return ctx.change(g), None


class Changed(nn.Linear):
    def __init__(self, change: Any) -> None:
        super().__init__(4, 2)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        self.rows = len(x)
        return nn.functional.linear(x, Bad.apply(self.weight, self.change), self.bias)


def kinds(change: Any, data: Any = None, **options: Any) -> tuple[Trajectory, list[str]]:
    torch.manual_seed(0)
    reference, candidate = nn.Linear(4, 2), Changed(change)
    candidate.load_state_dict(reference.state_dict())
    (run,) = compare(candidate, reference, data=data or batches(), **options).runs
    return run, [finding.kind for finding in run.findings]


@pytest.mark.parametrize("forced", [False, True])
def test_a_stale_gradient_is_named(forced: bool) -> None:
    before: list[Tensor] = []

    def stale(g: Tensor) -> Tensor:
        before.append(g)
        return before[-2] if len(before) > 1 else g

    run, found = kinds(stale, teacher_forced=forced)
    assert run.outside is not None and run.outside.step == 2 and found == ["stale"]


@pytest.mark.parametrize("forced", [False, True])
def test_an_accumulated_gradient_is_named(forced: bool) -> None:
    total: list[Tensor] = []

    def accumulated(g: Tensor) -> Tensor:
        total.append(g + total[-1] if total else g)
        return total[-1]

    run, found = kinds(accumulated, teacher_forced=forced)
    assert run.outside is not None and run.outside.step == 2 and found == ["accumulated"]


def test_a_gradient_wrong_in_the_last_batch_is_named() -> None:
    rows = iter([8, 8] * 4 + [6, 6] + [8] * 99)
    run, found = kinds(lambda g: g * next(rows) / 8, batches(last=6))
    assert run.forced is not None and run.forced.step == 5 and found == ["last batch"]
    assert "0.75 = 6/8" in run.findings[0].words


def test_gradients_missing_nan_or_of_another_shape() -> None:
    reference = net()
    detached = other(reference)
    detached[2].weight.requires_grad_(False)
    (run,) = compare(detached, reference, steps=2).runs
    assert run.outside is not None and run.outside.tensors[0] == "2.weight.grad"
    assert "missing in the candidate" in run.outside.reason
    nan = faulty(reference, lambda n, g: g * torch.nan if n == "0.bias" else g)
    (run,) = compare(nan, reference, steps=2).runs
    assert run.outside is not None and "0.bias.grad: NaN or infinity" in run.outside.reason
    assert run.forced is not None and run.forced.tensors == ("0.bias.grad",)


def test_a_candidate_that_raises_ends_its_training() -> None:
    class Raises(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) < 8:
                raise RuntimeError("expected\n8 rows")
            return super().forward(x)

    torch.manual_seed(0)
    reference, candidate = nn.Linear(4, 2), Raises(4, 2)
    candidate.load_state_dict(reference.state_dict())
    (run,) = compare(candidate, reference, data=batches(last=6)).runs
    assert run.outside is not None and run.outside.step == 5
    assert "the candidate raised RuntimeError: expected 8 rows" in run.outside.reason


def test_a_reference_that_diverges_cannot_judge() -> None:
    reference = net(nn.ReLU)
    wild = {"wild": lambda p: torch.optim.SGD(p, 1e6)}
    (run,) = compare(other(reference), reference, optimizers=wild, teacher_forced=False).runs
    assert "the reference's loss is" in run.broken and "lower the learning rate" in run.broken
    assert run.verdict == "DIFFER" and run.steps < 12


def test_exact_asks_for_every_bit() -> None:
    reference = net()
    (run,) = compare(other(reference, Wide), reference, exact=True, twins=0).runs
    assert run.outside is not None and "other bits" in run.outside.reason
    (run,) = compare(copy.deepcopy(reference), reference, exact=True, twins=0).runs
    assert run.verdict == "agree" and run.bit_identical


def test_seeds_start_elsewhere_and_read_other_data() -> None:
    seen: list[int] = []

    def data(seed: int) -> Any:
        seen.append(seed)
        return batches()

    reference = net()
    report = compare(copy.deepcopy(reference), reference, data=data, seeds=(0, 5), steps=2)
    first, second = (run.curves["loss/reference"].values[0] for run in report.runs)
    assert report.bit_identical and first != second and set(seen) == {0, 5}
    expected = nn.functional.mse_loss(net()(batches()[0][0]), batches()[0][1]).item()
    assert first == expected  # bit-exact: the first seed starts at the parameters as they are


def test_the_same_as_training_alone() -> None:
    """Bit-exact with a plain loop: being compared changes nothing."""
    reference, alone = net(), net()
    optimizer = torch.optim.Adam(alone.parameters(), 1e-3)
    losses = []
    for x, y in batches() * 2:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(alone(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    (run,) = compare(other(reference), reference, optimizers="adam", steps=10).runs
    assert run.curves["loss/reference"].values == losses


def test_nothing_is_changed_also_where_something_raises() -> None:
    reference = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    candidate = copy.deepcopy(reference)
    candidate[0].weight.grad = kept = torch.ones(2, 4)
    before, state = copy.deepcopy(reference.state_dict()), torch.get_rng_state()
    pointers = [p.data_ptr() for p in candidate.parameters()]

    def stop(error: BaseException) -> Any:
        def raising(run: Trajectory) -> None:
            if run.dtype == "float64" and run.steps == 2:
                raise error

        return raising

    options: dict[str, Any] = {"dtypes": None, "steps": 3}
    with pytest.raises(RuntimeError, match="in the middle"):
        compare(candidate, reference, on_step=stop(RuntimeError("in the middle")), **options)
    report = compare(candidate, reference, on_step=stop(KeyboardInterrupt()), **options)
    assert report.interrupted and not report.agrees
    assert [run.steps for run in report.runs] == [3, 2] and report.runs[1].histograms
    assert torch.equal(torch.get_rng_state(), state)
    assert pointers == [p.data_ptr() for p in candidate.parameters()]
    assert candidate[0].weight.grad is kept and torch.equal(kept, torch.ones(2, 4))
    for module in (candidate, reference):
        assert module.training
        assert all(torch.equal(v, before[name]) for name, v in module.state_dict().items())


def test_names_of_curves_and_histograms() -> None:
    reference = net()
    (run,) = compare(other(reference), reference, optimizers=("adam",), steps=3).runs
    names = {"loss", "0.weight.grad", "0.weight", "0.weight.exp_avg", "0.weight.exp_avg_sq"}
    for name in names:
        assert {f"drift/{name}", f"low/{name}", f"high/{name}"} <= set(run.curves)
    assert {"loss/candidate", "loss/reference", "forced/0.weight.grad"} <= set(run.curves)
    assert {"gradients/candidate/0.weight", "differences/0.weight"} <= set(run.histograms)
    histogram = run.histograms["gradients/candidate/0.weight"]
    assert sum(histogram.counts) == 32 and len(histogram.edges) == len(histogram.counts) + 1


def test_parameter_names_that_differ() -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.b = (nn.Parameter(p.detach().clone()) for p in linear.parameters())

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.w.t() + self.b

    linear = nn.Linear(4, 2)
    names = {"w": "weight", "b": "bias"}
    assert compare(Mine(), linear, parameters=names, optimizers=("adam",)).agrees


@pytest.mark.slow
def test_memory_is_bounded_with_steps() -> None:
    """Curves halve when they are full, at steps 513 and 1,025: behind both they have as many
    points, about 260, and what grew in Python meanwhile is a few kB."""
    reference = nn.Linear(1, 1)
    candidate, data = copy.deepcopy(reference), [(torch.ones(1, 1), torch.ones(1, 1))]
    sizes: list[int] = []

    def watch(run: Trajectory) -> None:
        if run.steps in (520, 1032):
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        (run,) = compare(candidate, reference, data=data, steps=1032, twins=3, teacher_forced=False,
                         on_step=watch).runs  # fmt: skip
    finally:
        tracemalloc.stop()
    assert max(len(curve.steps) for curve in run.curves.values()) <= CURVE_POINTS
    assert sizes[1] - sizes[0] < 50_000


def test_bad_input_is_refused() -> None:
    reference, data = net(), batches()
    candidate = copy.deepcopy(reference)
    holed = [(x.clone(), y) for x, y in data]
    holed[2][0][1] = torch.nan
    shifted = copy.deepcopy(reference)
    with torch.no_grad():
        shifted[2].weight[0, 0] += 1
    for arm, options, message in [
        (candidate, {"data": []}, "at least one batch, got none"),
        (candidate, {"data": lambda seed: []}, "at least one batch, got none"),
        (candidate, {"data": iter(data)}, "can be read once; pass a list"),
        (
            candidate,
            {"data": holed},
            "batch 3: expected finite inputs, got 4 NaN or infinite of 32",
        ),
        (candidate, {"data": [(data[0][0][:0], data[0][1][:0])]}, "at least one row"),
        (candidate, {"steps": 0}, "steps to be at least 1, got 0"),
        (candidate, {"seeds": ()}, "seeds to be at least 1, got 0"),
        (candidate, {"seeds": (1, 1)}, "seeds that differ"),
        (candidate, {"twins": 2}, "twins to be at least 3, got 2"),
        (candidate, {"optimizers": ("adamm",)}, "did you mean 'adam'"),
        (candidate, {"optimizers": ()}, "at least one optimizer"),
        (candidate, {"dtypes": (torch.int64,)}, "floating-point dtypes"),
        (candidate, {"parameters": {"nope": "0.weight"}}, "got 'nope'"),
        (shifted, {}, r"different 2\.weight"),
        (reference, {}, "its own parameters, got 0.weight in both"),
        (copy.deepcopy(reference).eval(), {}, "same mode"),
    ]:
        before = copy.deepcopy(arm.state_dict())
        with pytest.raises(ValueError, match=message):
            compare(arm, reference, **options)
        assert all(torch.equal(v, before[name]) for name, v in arm.state_dict().items())
    with pytest.raises(TypeError, match="a pair"):
        compare(candidate, reference, data=[torch.ones(2, 4)])
    with pytest.raises(TypeError, match=r"expected the candidate to be a torch\.nn\.Module"):
        compare(torch.tanh, reference)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="one floating-point number, got shape"):
        compare_training(candidate, reference, data, nn.MSELoss(reduction="none"), steps=1)


def test_what_a_training_records_is_what_tensorboard_is_told_to_draw() -> None:
    """The tags of a real record, not of one made by hand: each goes to an arm or to parity."""
    reference = net()
    (run,) = compare(other(reference, Wide), reference, dtypes=[torch.float32], optimizers=["sgd"],
                     steps=3).runs  # fmt: skip
    assert charts.located("gradients/reference/0.weight") == ("reference", "gradients/0.weight")
    assert set(map(charts.located, run.histograms)) == {
        place for name, _ in reference.named_parameters()
        for place in [("candidate", f"gradients/{name}"), ("reference", f"gradients/{name}"),
                      ("parity", f"differences/{name}")]
    }  # fmt: skip
    share = charts.drift_share(run)
    assert share is not None and 0 < share.value < 1 and run.verdict == "agree"
