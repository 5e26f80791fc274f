"""How long a step takes, side by side in one process: nn.Sequential under autograd, and by hand.

    exact      manualbp.Sequential as it is: the bits of autograd
    fast       the same with manualbp.set_mode("fast")
    one pass   manualbp.FusedLoss: forward, loss and backward over tiles of rows

The arms take turns, round after round, so that what slows the machine down slows all of them. A
figure is the median over the rounds; a ratio is the median of each round's own ratio, with half
the distance of their quartiles as its spread.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import manualbp
from comparisons import cli
from comparisons.progress import track
from manualbp.parity.report import print_table

AUTOGRAD, EXACT, FAST, ONE_PASS = "autograd", "exact", "fast", "one pass"
OURS = (EXACT, FAST, ONE_PASS)
Step = Callable[[nn.Module, Tensor, Tensor], Tensor]


def training(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """C = mean (u(x) - y)^2."""
    return nn.functional.mse_loss(model(x), y)


def input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """C = mean (|du/dx| - 1)^2, the eikonal equation: a second derivative is trained through."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    return (gradient.norm(dim=1) - 1).square().mean()


def laplacian(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """C = mean (sum_i d2u/dx_i^2 - y)^2, Poisson: third derivatives are trained through."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    curvature = [
        torch.autograd.grad(gradient[:, i].sum(), x, create_graph=True)[0][:, i : i + 1]
        for i in range(x.shape[1])
    ]
    return (sum(curvature, torch.zeros_like(y)) - y).square().mean()


STEPS: dict[str, Step] = {
    "training": training,
    "input gradient": input_gradient,
    "Laplacian": laplacian,
}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    step: str
    widths: tuple[int, ...]
    batch: int
    activation: str

    @property
    def net(self) -> str:
        """The widths, in words."""
        return "-".join(map(str, self.widths))


ROWS = (
    Row("training", (64, 128, 128, 128, 1), 65536, "relu"),
    Row("training", (2, 128, 128, 128, 128, 1), 16384, "tanh"),
    Row("training", (32, 64, 64, 64, 64, 3), 131072, "relu"),
    Row("training", (128, 512, 512, 10), 8192, "relu"),
    Row("training", (784, 1024, 1024, 10), 512, "relu"),
    Row("training", (784, 1024, 1024, 10), 4096, "relu"),
    Row("training", (784, 256, 128, 10), 128, "relu"),
    Row("training", (64, 64, 64, 1), 256, "relu"),
    Row("training", (32, 32, 32, 1), 32, "tanh"),
    Row("input gradient", (3, 256, 256, 256, 1), 8192, "softplus"),
    Row("input gradient", (2, 64, 64, 64, 1), 1024, "tanh"),
    Row("input gradient", (2, 32, 32, 32, 1), 128, "tanh"),
    Row("Laplacian", (2, 128, 128, 128, 128, 1), 4096, "tanh"),
    Row("Laplacian", (2, 64, 64, 64, 1), 1024, "silu"),
    Row("Laplacian", (2, 32, 32, 32, 1), 128, "tanh"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much is measured."""
    add = parser.add_argument
    add("--step", type=cli.one_of(STEPS, "a step"), help=f"only this one: {', '.join(STEPS)}")
    add("--quick", action="store_true", help="fewer and shorter rounds: a minute, rougher figures")
    add("--rounds", type=cli.positive_int, help="turns of every arm (default: 15, quick 5)")
    add("--seed", type=cli.seed, default=0, help="of weights and data (default: 0)")
    add("--threads", type=cli.positive_int, help="CPU threads (default: PyTorch's own choice)")


def run(args: argparse.Namespace) -> int:
    """Print the table; 0, since a slow result is a result."""
    if args.threads:
        torch.set_num_threads(args.threads)
    rounds = args.rounds or (5 if args.quick else 15)
    seconds = 0.1 if args.quick else 0.4
    rows = [row for row in ROWS if args.step in (None, row.step)]
    times = [measure(arms(row, args.seed), rounds, seconds) for row in track(rows, "measuring")]
    lines = [
        [row.step, row.net, f"{row.batch:,}", row.activation, *cells(found)]
        for row, found in zip(rows, times, strict=True)
    ]
    print_table(
        "Speed: one step (forward, loss, backward), float32 on CPU",
        ["step", "widths", "batch", "activation", "autograd,\nms", *(f"{a},\nms" for a in OURS),
         *(f"autograd /\n{a}" for a in OURS)],
        lines,
    )  # fmt: skip
    print(geometric_means(rows, times))
    print(f"{rounds} interleaved rounds; {machine()}")
    return 0


def arms(row: Row, seed: int = 0) -> dict[str, Callable[[], None]]:
    """The step on nn.Sequential, and on ours in every way there is, with equal weights."""
    torch.manual_seed(seed)
    ours = manualbp.MLP(row.widths, row.activation)
    fast, theirs = copy.deepcopy(ours), nn.Sequential(*copy.deepcopy(list(ours)))
    manualbp.set_mode("fast", fast)
    x, y = torch.randn(row.batch, row.widths[0]), torch.randn(row.batch, row.widths[-1])

    def step(model: nn.Module, cost: Step = STEPS[row.step]) -> Callable[[], None]:
        def one() -> None:
            model.zero_grad()
            cost(model, x, y).backward()  # type: ignore[no-untyped-call]

        return one

    found = {AUTOGRAD: step(theirs), EXACT: step(ours), FAST: step(fast)}
    if row.step == "training":
        one_pass = manualbp.FusedLoss(copy.deepcopy(ours), manualbp.MSELoss())
        found[ONE_PASS] = step(one_pass, lambda cost, x, y: cost(x, y))
    return found


def measure(
    arms: Mapping[str, Callable[[], None]],
    rounds: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds per call, for every arm and round; a turn of an arm lasts about ``seconds``."""
    slowest = 0.0
    for arm in arms.values():
        arm()  # warm caches, allocators and kernels
        start = clock()
        arm()
        slowest = max(slowest, clock() - start)
    repeats = max(1, min(1000, round(seconds / max(slowest, 1e-9))))
    times: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for number in range(rounds):
        shift = number % len(names)  # every arm goes first as often as the others
        for name in names[shift:] + names[:shift]:
            start = clock()
            for _ in range(repeats):
                arms[name]()
            times[name].append((clock() - start) / repeats)
    return times


def cells(times: Mapping[str, Sequence[float]]) -> list[str]:
    """Medians in milliseconds; autograd's time over each of ours, with its spread."""
    milliseconds, ratios = [_number(1e3 * statistics.median(times[AUTOGRAD]))], []
    for name in OURS:
        if name not in times:
            milliseconds.append("-")
            ratios.append("-")
            continue
        each = [a / b for a, b in zip(times[AUTOGRAD], times[name], strict=True)]
        low, _, high = statistics.quantiles(each, n=4) if len(each) > 1 else [each[0]] * 3
        milliseconds.append(_number(1e3 * statistics.median(times[name])))
        ratios.append(f"{statistics.median(each):.2f} ±{(high - low) / 2:.2f}")
    return milliseconds + ratios


def geometric_means(rows: Sequence[Row], times: Sequence[Mapping[str, Sequence[float]]]) -> str:
    """Of autograd's time over each of ours, over the rows of each step."""
    lines = []
    for step in dict.fromkeys(row.step for row in rows):
        words = []
        for name in OURS:
            found = [
                t for row, t in zip(rows, times, strict=True) if row.step == step and name in t
            ]
            ratios = [statistics.median(t[AUTOGRAD]) / statistics.median(t[name]) for t in found]
            if ratios:
                words.append(f"{name} {statistics.geometric_mean(ratios):.2f}")
        lines.append(f"{step}: autograd / ours, geometric mean: {', '.join(words)}")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def machine() -> str:
    """Processor, threads and versions, for whoever reads the figures later."""
    return (
        f"{_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )


def _processor() -> str:
    try:
        lines: Iterable[str] = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = ()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
