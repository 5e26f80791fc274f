"""The faults of wrong.py, wrong signs in small gradients, and the kernels of right.py, as pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace as Values
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from comparisons.power.networks import Network, by_hand
from comparisons.power.operations.convolution import Convolution
from comparisons.power.operations.linear import LinearActivation
from comparisons.power.operations.operation import Gradients
from comparisons.power.pair import Batch, Pair
from comparisons.power.situations import right, wrong
from comparisons.power.situations.layer import (
    ROWS,
    WIDTH,
    Dense,
    Kernel,
    Layer,
    Plain,
    SinCos,
    TwoBiases,
    plain_biases,
    plain_dense,
    plain_sin_cos,
)

SITUATIONS = "situations"  # the family of all these faults, for --family
BATCHES = 10
SMALL = 1e-7  # one row, column or channel, beside the others


@dataclass(frozen=True)
class Situated:
    """A fault, where it shows, and how its pair is made: anew for each judge, since some write."""

    where: str
    name: str
    make: Callable[[int], Pair]  # from a seed


def layer_pair(kernel: Kernel, seed: int, dtype: torch.dtype = torch.float32) -> Pair:
    """A kernel against PyTorch's operators, judged by cotangents and trained to a teacher."""
    plain: Plain = plain_dense
    if issubclass(kernel, SinCos):
        plain = plain_sin_cos
    elif issubclass(kernel, TwoBiases):
        plain = plain_biases
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reference, candidate, teacher = Layer(plain), Layer(plain, kernel), Layer(plain)
        candidate.load_state_dict(reference.state_dict())
        for module in (candidate, reference, teacher):
            module.to(dtype)
        batches = tuple(taught(teacher, torch.randn(ROWS, WIDTH).to(dtype)) for _ in range(BATCHES))
    return Pair(candidate, reference, None, batches, squares)


def taught(teacher: Layer, x: Tensor) -> Batch:
    """A batch, with the outputs of another layer as its target."""
    with torch.no_grad():
        return (x,), teacher(x)


def squares(output: Any, target: Any) -> Tensor:
    """The mean square of what is off, summed over the outputs."""
    if isinstance(output, Tensor):
        return F.mse_loss(output, target)
    return F.mse_loss(output[0], target[0]) + F.mse_loss(output[1], target[1])


def kernel_fault(where: str, name: str, kernel: Kernel) -> Situated:
    """One of wrong.py."""
    return Situated(where, name, lambda seed: layer_pair(kernel, seed))


def flipped(name: str, index: Any) -> Callable[[Values], Gradients]:
    """A gradient with the wrong sign at some places."""

    def change(v: Values) -> Gradients:
        found = v.right[name].clone()
        found[index] *= -1
        return {name: found}

    return change


def small_row(seed: int) -> Pair:
    """Unit 2 counts for 1e-7: its row of dW has the wrong sign."""
    return _mlp_pair(seed, "w1", "layer 0", flipped("w", 2))


def small_column(seed: int) -> Pair:
    """Feature 2 is 1e-7 of the others: its column of dW has the wrong sign."""
    return _mlp_pair(seed, "x", "layer 0", flipped("w", (slice(None), 2)))


def small_channel(seed: int) -> Pair:
    """The kernels of channel 2 are 1e-7 of the others: its dx has the wrong sign."""

    def output(net: Network, x: Tensor) -> Tensor:
        return net.at("convolution", x, net["w"], net["b"])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Network({"convolution": Convolution(1, 1)}, output,
                      lambda: (torch.randn(2, 4, 6, 5),), w=(3, 4, 3, 3), b=(3,))  # fmt: skip
        with torch.no_grad():
            net["w"][:, 2] *= SMALL
        return _with_batches(net, "convolution", flipped("x", (slice(None), 2)), net.inputs)


def _mlp_pair(seed: int, small: str, site: str, change: Callable[[Values], Gradients]) -> Pair:
    def output(net: Network, x: Tensor) -> Tensor:
        return net.at("layer 1", net.at("layer 0", x, net["w0"], net["b0"]), net["w1"], net["b1"])

    def inputs() -> tuple[Tensor, ...]:
        x = torch.randn(ROWS, 5)
        if small == "x":
            x[:, 2] *= SMALL
        return (x,)

    sites = {"layer 0": LinearActivation("tanh"), "layer 1": LinearActivation("identity")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Network(dict(sites), output, inputs, w0=(7, 5), b0=(7,), w1=(3, 7), b1=(3,))
        if small == "w1":
            with torch.no_grad():
                net["w1"][:, 2] *= SMALL
        return _with_batches(net, site, change, inputs)


def _with_batches(
    net: Network, site: str, change: Callable[[Values], Gradients], inputs: Callable[[], Any]
) -> Pair:
    found = []
    for _ in range(BATCHES):
        given = inputs()
        with torch.no_grad():
            found.append((given, torch.randn_like(net(*given))))
    return Pair(by_hand(net, site, change), net, None, tuple(found), squares)


GRAD, WRITES = "grad_output in another layout", "writes over what it reads"
FROZEN, UNUSED = "some gradients not asked for", "one output used alone"
CALLS, ADDED = "two calls before two backwards", "added to an existing .grad"
SITUATED: tuple[Situated, ...] = (
    kernel_fault("inputs in another layout", "x taken for contiguous", wrong.DenseInput),
    kernel_fault(GRAD, "transposed grad_output taken for contiguous", wrong.TransposedGrad),
    kernel_fault(GRAD, "sliced grad_output taken for contiguous", wrong.SlicedGrad),
    kernel_fault(GRAD, "expanded grad_output taken for contiguous", wrong.ExpandedGrad),
    kernel_fault("second backward", "eats what it saved", wrong.EatsSaved),
    kernel_fault("second backward", "drops what it saved", wrong.FreesSaved),
    kernel_fault(WRITES, "dx over x, through NumPy", wrong.WritesInput),
    kernel_fault(WRITES, "dW over W, through .data", wrong.WritesParameter),
    kernel_fault(WRITES, "dz over y, through .data", wrong.WritesOutput),
    kernel_fault(WRITES, "dz over grad_output, through .data", wrong.WritesGradOutput),
    kernel_fault(CALLS, "state on the class", wrong.KeptOnClass),
    kernel_fault(CALLS, "state on the module", wrong.KeptOnModule),
    kernel_fault(FROZEN, "dx without f' where W is frozen", wrong.SlopeWithWeight),
    kernel_fault(FROZEN, "no dW where x needs no gradient", wrong.NothingWithoutInput),
    kernel_fault(UNUSED, "None taken for ones", wrong.NoneAsOnes),
    kernel_fault(UNUSED, "None not thought of", wrong.NoneRaises),
    kernel_fault(ADDED, "one buffer for every call's dW", wrong.OneBuffer),
    kernel_fault(ADDED, "one buffer for db and dc", wrong.OneBufferForTwo),
    Situated("a gradient of 1e-7 of the others", "wrong sign in a row of dW", small_row),
    Situated("a gradient of 1e-7 of the others", "wrong sign in a column of dW", small_column),
    Situated("a gradient of 1e-7 of the others", "wrong sign in a channel of dx", small_channel),
)
RIGHT: tuple[Kernel, ...] = (
    Dense, SinCos, TwoBiases, right.MadeContiguous, right.ReadByStrides, right.EatsCopy,
    right.ComputedAgain, right.OutputKept, right.Counts, right.Workspace, right.OnlyAsked,
    right.Strided, right.InFloat64, right.NoneAsZeros, right.OneForTwo, right.FreshView,
)  # fmt: skip
