"""compare_training as a call: what goes in and comes out, and what is left as it was."""

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
    Wide,
    batches,
    net,
    other,
)

F32, F64 = torch.float32, torch.float64


def compare(candidate: nn.Module, reference: nn.Module, **options: Any) -> TrainingReport:
    """12 steps, SGD, float32, where nothing else is asked for."""
    given = {"optimizers": ("sgd",), "steps": 12, "dtypes": (F32,), "data": batches()} | options
    return compare_training(candidate, reference, given.pop("data"), nn.MSELoss(), **given)


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
            "batch 3: expected finite inputs, got 4 NaN of 32; drop or fill",
        ),
        (candidate, {"data": [(data[0][0][:0], data[0][1][:0])]}, "at least one row"),
        (candidate, {"steps": 0}, "steps to be at least 1, got 0"),
        (candidate, {"seeds": ()}, "at least one seed, got none"),
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
    found = {(arm, tag.partition(" in ")[0]) for arm, tag, _ in charts.histograms(run)}
    assert found == {
        place for name, _ in reference.named_parameters()
        for place in [("candidate", f"gradients/{name}"), ("reference", f"gradients/{name}"),
                      ("parity", f"differences/{name}")]
    }  # fmt: skip
    arms = {arm for arm, tag, _ in charts.curves(run) if tag.startswith("1_loss/")}
    assert arms == {"candidate", "reference"}
    share = charts.drift_share(run)
    assert share is not None and 0 < share.value < 1 and run.verdict == "agree"
