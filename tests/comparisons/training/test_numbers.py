"""Every number of a run, in its table, on its page and in its event files, computed another way.

The other way is a plain loop of torch.nn and torch.optim, scikit-learn's accuracy and NumPy.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

import manualbp
from comparisons.cli import main
from comparisons.training import data, loop

SEED, EPOCHS, SIZE, STEPS, PER_EPOCH = 7, 3, 8, 15, 5  # 38 rows: the last batch has 6
OPTIONS = ["--seed", "7", "--epochs", "3", "--batch-size", "8", "--activation", "tanh"]
# What each name means, and its own learning rate.
TORCH: dict[str, tuple[Callable[..., torch.optim.Optimizer], float]] = {
    "sgd": (torch.optim.SGD, 0.1),
    "momentum": (partial(torch.optim.SGD, momentum=0.9), 0.02),
    "adam": (torch.optim.Adam, 1e-3),
    "descent": (torch.optim.SGD, 0.1),
}


class Plain:
    """A training without our loop: scalars and histograms by tag and step, tensors by step."""

    def __init__(self, path: str, make: Any, lr: float, dtype: torch.dtype) -> None:
        self.curves: dict[str, dict[int, float]] = defaultdict(dict)
        self.histograms: dict[str, dict[int, Tensor]] = defaultdict(dict)
        self.tensors: list[dict[str, Tensor]] = []
        self.data = data.load(path, SEED).to(torch.device("cpu"), dtype)
        torch.manual_seed(SEED)
        layers = [nn.Linear(3, 5, dtype=dtype), nn.Linear(5, self.data.outputs, dtype=dtype)]
        self.net = nn.Sequential(layers[0], nn.Tanh(), layers[1])
        optimizer = make(self.net.parameters(), lr=lr)
        self.validate(0)
        batches = data.batches(self.data, SIZE, EPOCHS, SEED)
        for step, (x, y) in enumerate(batches, start=1):
            optimizer.zero_grad()
            self.cost("train", step, x, y).backward()
            for index in (0, 2):
                gradients = [p.grad.double().flatten() for p in self.net[index].parameters()]
                norm = float(np.linalg.norm(np.concatenate(gradients)))
                self.curves[f"2_gradient_norm/{index}"][step] = norm
            optimizer.step()
            self.curves["learning_rate"][step] = optimizer.param_groups[0]["lr"]
            named = dict(self.net.named_parameters())
            loss = torch.tensor(self.curves["1_metrics/loss_train"][step], dtype=torch.float64)
            gradients = {f"{name}.grad": p.grad for name, p in named.items()}
            found = {"loss": loss, **gradients, **named}
            self.tensors.append({name: t.detach().clone() for name, t in found.items()})
            if step % PER_EPOCH == 0:
                self.validate(step)

    def cost(self, what: str, step: int, x: Tensor, y: Tensor) -> Tensor:
        output = self.net(x)
        if y.is_floating_point():
            loss = nn.functional.mse_loss(output, y)
        else:
            loss = nn.functional.cross_entropy(output, y)
            share = accuracy_score(y, output.detach().numpy().argmax(1))
            self.curves[f"1_metrics/accuracy_{what}"][step] = share
        self.curves[f"1_metrics/loss_{what}"][step] = loss.item()
        return loss

    def validate(self, step: int) -> None:
        with torch.no_grad():
            self.cost("validation", step, self.data.validation_x, self.data.validation_y)
        for name, p in self.net.named_parameters():
            self.histograms[f"weights/{name}"][step] = p.detach().clone()
            if p.grad is not None:
                self.histograms[f"gradients/{name}"][step] = p.grad.clone()


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), {"tensors": 0, "histograms": 0}).Reload()


def check_arm(folder: Path, plain: Plain) -> None:
    """Bit-exact but for the rounding to float32; norms and sums are added up in another order."""
    logged = events(folder)
    assert set(logged.Tags()["tensors"]) == set(plain.curves)
    for tag, curve in plain.curves.items():
        found = {e.step: e.tensor_proto.float_val[0] for e in logged.Tensors(tag)}
        assert list(found) == list(curve), tag
        wanted = np.array(list(curve.values()), np.float32)
        ulps = 2 if tag.startswith("2_gradient_norm") else 0
        np.testing.assert_allclose(list(found.values()), wanted, rtol=ulps * 2**-23, err_msg=tag)
    assert set(logged.Tags()["histograms"]) == set(plain.histograms)
    for tag, by_step in plain.histograms.items():
        shown = {e.step: e.histogram_value for e in logged.Histograms(tag)}
        assert list(shown) == list(by_step), tag
        for step, values in by_step.items():
            numbers = values.double().numpy()
            assert (shown[step].min, shown[step].max) == (numbers.min(), numbers.max()), (tag, step)
            assert shown[step].num == numbers.size
            assert shown[step].sum == pytest.approx(numbers.sum(), rel=1e-9, abs=1e-12)


def check_table(text: str, autograd: Plain, manual: Plain) -> None:
    """The rows of the table, whether it is printed or in Markdown."""
    assert re.search(r"autograd[ |]+manual", text)  # the order of the columns
    cells = [re.split(r"\s*\|\s*|\s{2,}", line.strip(" |")) for line in text.splitlines()]
    rows = {row[0]: row[1:] for row in cells if len(row) == 3}
    for tag in manual.curves:
        if tag.startswith("1_metrics"):
            name, what = tag.removeprefix("1_metrics/").split("_")
            row = f"{what} {name}" + (", last batch" if what == "train" else "")
            assert rows[row] == [f"{plain.curves[tag][STEPS]:.6g}" for plain in (autograd, manual)]
    assert all(float(cell) > 0 for cell in rows["ms per step, median"])


def check_run(run: Path, printed: str, manual: Plain, autograd: Plain) -> str:
    """All of a run; returns its page."""
    check_arm(run / "manual", manual)
    check_arm(run / "autograd", autograd)
    parity = events(run / "parity")
    pairs = list(zip(manual.tensors, autograd.tensors, strict=True))
    apart = {
        name: [float((a[name].double() - b[name].double()).abs().max()) for a, b in pairs]
        for name in manual.tensors[0]
    }
    shares = np.equal(list(apart.values()), 0).mean(0)
    curves = {"3_equal/share_of_tensors": dict(enumerate(shares, start=1))}
    for name, values in apart.items():
        curves[f"4_log10_divergence/{name}"] = {
            step: np.log10(value) for step, value in enumerate(values, start=1) if value
        }
    for tag, curve in curves.items():
        logged = parity.Tensors(tag) if curve else []
        found = {e.step: e.tensor_proto.float_val[0] for e in logged}
        assert found == {step: np.float32(value) for step, value in curve.items()}, tag
    drawn = {tag for tag in parity.Tags()["tensors"] if tag[0] in "34"}
    assert drawn == {tag for tag, curve in curves.items() if curve}
    row = events(run / "results")
    for name, plain in (("manual", manual), ("autograd", autograd)):
        for tag in [tag for tag in plain.curves if tag.endswith("_validation")]:
            metric, last = tag[len("1_metrics/") :], np.float32(plain.curves[tag][STEPS])
            (shown,) = row.Tensors(f"results/validation_{metric.split('_')[0]}_{name}")
            assert (shown.step, shown.tensor_proto.float_val[0]) == (STEPS, last)
    page = parity.Tensors("verdict/text_summary")[0].tensor_proto.string_val[0].decode()
    for text in (printed, page):
        check_table(text, autograd, manual)
    return page


def own_file(where: Path, classes: bool) -> str:
    x = np.random.default_rng(0).normal(size=(48, 3))
    y = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0) if classes else np.sin(x[:, :2])
    np.savez(where / "own.npz", x=x, y=y)
    return str(where / "own.npz")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", TORCH)
def test_every_number_of_a_run(
    optimizer: str, dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In float32 three classes, in float64 two real targets and a learning rate that is given."""
    make, lr = TORCH[optimizer]
    path = own_file(tmp_path, classes=dtype == "float32")
    options = [*OPTIONS, "--dataset", path, "--optimizer", optimizer, "--dtype", dtype]
    if dtype == "float64":
        options, lr = [*options, "--lr", "0.03"], 0.03
    plain = Plain(path, make, lr, getattr(torch, dtype))
    widths = f"3,5,{plain.data.outputs}"
    options += ["--widths", widths, "--log-dir", str(tmp_path), "--run-name", "mine"]
    assert main(["training", *options]) == 0
    page = check_run(tmp_path / "mine", capsys.readouterr().out, plain, plain)
    settings = dict(re.findall(r"^\| ([\w-]+) \| (.*) \|$", page, re.MULTILINE))
    given = {"seed": "7", "epochs": "3", "batch-size": "8", "activation": "tanh", "lr": str(lr)}
    given |= {"optimizer": optimizer, "dtype": dtype, "widths": widths, "processes": "1"}
    assert given.items() <= settings.items()
    assert f"**bit-identical for {STEPS} steps" in page


def test_every_number_of_arms_that_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each arm's numbers stand under its own name; the divergence is that of two plain loops."""
    rates, path = iter([0.1, 0.3]), own_file(tmp_path, classes=True)
    monkeypatch.setitem(loop.OPTIMIZERS, "sgd", (lambda p, lr: torch.optim.SGD(p, next(rates)), 1))
    manual, autograd = (Plain(path, torch.optim.SGD, lr, torch.float64) for lr in (0.1, 0.3))
    options = [*OPTIONS, "--dataset", path, "--widths", "3,5,3", "--dtype", "float64"]
    options += ["--log-dir", str(tmp_path), "--run-name", "mine"]
    assert main(["training", *options]) == 1
    page = check_run(tmp_path / "mine", capsys.readouterr().out, manual, autograd)
    largest = max(
        (float((ours[name] - theirs[name]).abs().max()), -step, name)
        for step, (ours, theirs) in enumerate(zip(manual.tensors, autograd.tensors, strict=True), 1)
        for name in ours
    )
    said = f"largest divergence {largest[0]:.1e} in {largest[2]} at step {-largest[1]}"
    names = "0.weight, 0.bias, 2.weight, 2.bias"
    assert f"**DIFFER from step 1 on, first in {names}; {said}**" in page


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("rows", [1, 6, 32, 1000])
def test_accuracy_is_scikit_learns(rows: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    output = torch.randn(rows, classes, generator=generator)
    y = torch.randint(classes, (rows,), generator=generator)
    assert loop.accuracy(output, y) == accuracy_score(y, output.numpy().argmax(1))


def test_descent_is_ours() -> None:
    """It has the bits of torch's SGD, so only its type tells."""
    parameters = [nn.Parameter(torch.zeros(1))]
    assert type(loop.OPTIMIZERS["descent"][0](parameters, 0.1)) is manualbp.GradientDescent
