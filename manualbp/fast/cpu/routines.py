"""The routines that can run a matrix product, ATen's and oneDNN's, and which of them is faster.

That depends on the processor (ATen runs AVX2 code on AMD's), so it is measured. When the first
product comes that is large enough, both are timed on small samples, in 0.2 s. The choice then
stands for the process, since the two round differently. ``fast.policy()`` shows it. ``fast.pin``
takes another one, for runs that must have the same bits again.

oneDNN is called through ``torch.ops.mkldnn._linear_pointwise``, as PyTorch's own compiler does. It
is private, so it is tried once here. Where it is missing, ATen computes all products. oneDNN
computes the weight gradients of long batches as those of a convolution.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# f, written over z, by its name.
OVER_Z: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda z: z, "relu": torch.relu_, "tanh": torch.tanh_, "sigmoid": torch.sigmoid_,
}  # fmt: skip


class Routines(NamedTuple):
    """``linear`` computes f(X Y^T + b) of X, Y, b and the name of f; ``weight_gradient`` g^T h."""

    linear: Callable[[Tensor, Tensor, Tensor | None, str], Tensor]
    weight_gradient: Callable[[Tensor, Tensor], Tensor]


def _onednn(x: Tensor, y: Tensor, b: Tensor | None, activation: str) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(x, y, b, activation, [], "")


def _onednn_linear(x: Tensor, y: Tensor, b: Tensor | None, activation: str) -> Tensor:
    """Long sums in pieces. Sums of at most MOST_TERMS terms round as well as ATen's."""
    pieces = -(-x.shape[1] // MOST_TERMS)
    if pieces <= 1:
        return _onednn(x, y, b, activation)
    # For other layouts oneDNN has nothing better than a plain loop.
    left = [part.contiguous() for part in x.chunk(pieces, 1)]
    right = [w if w.t().is_contiguous() else w.contiguous() for w in y.chunk(pieces, 1)]
    z = _onednn(left[0], right[0], b, "none")
    for part, w in zip(left[1:], right[1:], strict=True):
        z += _onednn(part, w, None, "none")
    return OVER_Z[activation](z)


def _onednn_weight_gradient(g: Tensor, h: Tensor) -> Tensor:
    """g^T h as the weight gradient of a 1 x 1 convolution over images of POSITIONS rows each.

    So nothing is transposed. Images are summed one by one, so long sums round well.
    """
    if len(g) <= SHORT:
        return _onednn(g.t(), h.t(), None, "none")
    rest = len(g) % POSITIONS
    even = slice(0, len(g) - rest)
    shape = (g.shape[1], h.shape[1], 1, 1)
    found: Tensor = torch.ops.aten.convolution_backward.default(
        _images(g[even]), _images(h[even]), h.new_empty(shape), None,
        [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False],
    )[1].view(shape[:2])  # fmt: skip
    return found.addmm_(g[-rest:].t(), h[-rest:]) if rest else found


def _images(x: Tensor) -> Tensor:
    """(N, I) as a batch of images with I channels, in the memory format channels_last."""
    return x.view(-1, POSITIONS, 1, x.shape[1]).permute(0, 3, 1, 2)


def _works() -> bool:
    """Whether the operator is there and computes what it should."""
    try:
        x, w, b = torch.ones(2, 3), torch.ones(4, 3), torch.ones(4)
        return bool((_onednn(x, w, b, "relu") == 4).all())
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


AVAILABLE = torch.backends.mkldnn.is_available() and _works()  # type: ignore[no-untyped-call]
ROUTINES = {
    "ATen": Routines(lambda x, y, b, f: OVER_Z[f](F.linear(x, y, b)), lambda g, h: g.t().mm(h)),
    "oneDNN": Routines(_onednn_linear, _onednn_weight_gradient),
}

# The kinds of products, for h (N, I), W (O, I), b (O,) and g (N, O). Some f take longer than a
# narrow product, so a product with such an f is a kind of its own.
PRODUCTS: dict[str, Callable[[Routines, Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "forward": lambda by, h, w, b, g: by.linear(h, w, b, "none"),
    "forward with tanh": lambda by, h, w, b, g: by.linear(h, w, b, "tanh"),
    "input gradient": lambda by, h, w, b, g: by.linear(g, w.t(), None, "none"),
    "weight gradient": lambda by, h, w, b, g: by.weight_gradient(g, h),
}
# N, I and O of what is timed; the least narrower side of a wide and of a medium layer.
SAMPLES = {"wide": (512, 512, 512), "medium": (2048, 128, 128), "narrow": (4096, 64, 64)}
WIDE, MEDIUM = 256, 96
KINDS = [f"{product}, {shape}" for shape in SAMPLES for product in PRODUCTS]
GAINS = [f"gain, {shape}" for shape in SAMPLES]

MOST_TERMS = 1024  # oneDNN's sums of more terms round worse than the tests allow
POSITIONS = 256  # rows of an image
SHORT = 512  # up to this many rows a weight gradient is X Y^T of two transposed factors
TURNS = 7  # how often a sample is timed
LEAST_GAIN = 1.05  # oneDNN is taken where it is faster by this factor
# Seconds that a step by hand saves for each multiplication of its forward pass, with ATen.
SAVED = 1.1e-12
# Short products gain this part of what the samples gain.
REMAINS = {"wide": 1 / 2, "medium": 1 / 4, "narrow": 1 / 4}
MOST_GAIN = 16

Policy = dict[str, Any]
_policy: Policy | None = None


def known() -> Policy:
    """The policy itself, measured where there is none yet."""
    global _policy
    if _policy is None:
        _policy = _measured()
    return _policy


def take(policy: Policy) -> None:
    """This policy from now on."""
    global _policy
    _policy = policy


def check(policy: Policy) -> None:
    """Raise ValueError for an unknown product or routine, or a product without one."""
    for kind in dict.fromkeys([*KINDS, *GAINS, *policy]):
        value: Any = policy.get(kind)
        number = kind in GAINS and isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (value in ROUTINES if kind in KINDS else number and value > 0):
            raise ValueError(
                f"expected a routine out of {', '.join(ROUTINES)} for each of {'; '.join(KINDS)} "
                f"and a number above 0 for each of {'; '.join(GAINS)}, "
                f"got {value!r} for {kind!r}; policy() returns a complete choice"
            )


def shape_of(inputs: int, outputs: int) -> str:
    """The shape of a layer, by its narrower side."""
    side = min(inputs, outputs)
    return "wide" if side >= WIDE else "medium" if side >= MEDIUM else "narrow"


def chosen(product: str, x: Tensor, y: Tensor) -> str:
    """The routine for this product: of h and W, of g and W, or of g and h."""
    if product == "weight gradient":
        (rows, outputs), inputs = x.shape, y.shape[1]
        columns = min(inputs, outputs)
    else:
        rows, (outputs, inputs) = x.shape[0], y.shape
        columns = inputs if product == "input gradient" else outputs
    least = 2**14 * inputs if product == "forward with tanh" else 2**21
    if rows * inputs * outputs < least or columns < 16:
        return "ATen"
    # oneDNN has no other dtypes, and for other layouts nothing better than a plain loop.
    float32 = x.dtype is torch.float32 and x.device.type == "cpu"
    if not (AVAILABLE and float32 and x.is_contiguous() and y.is_contiguous()):
        return "ATen"
    routine: str = known()[f"{product}, {shape_of(inputs, outputs)}"]
    return routine


def _measured() -> Policy:
    found: Policy = {}
    for shape, size in SAMPLES.items():
        saved = 0.0  # seconds in the three products of a step
        for product in PRODUCTS:
            seconds = _timed(product, *size) if AVAILABLE else {}
            faster = AVAILABLE and seconds["oneDNN"] * LEAST_GAIN < seconds["ATen"]
            found[f"{product}, {shape}"] = "oneDNN" if faster else "ATen"
            if faster and product != "forward with tanh":
                saved += seconds["ATen"] - seconds["oneDNN"]
        gain = 1 + REMAINS[shape] * saved / math.prod(size) / SAVED
        # A power of 2, so that another process seldom finds another one.
        found[f"gain, {shape}"] = min(2 ** round(math.log2(gain)), MOST_GAIN)
    return found


def _timed(product: str, rows: int, inputs: int, outputs: int) -> dict[str, float]:
    """Seconds of a product of this size by each routine."""
    # No random numbers: to draw some would change the user's.
    sizes = (rows, inputs), (outputs, inputs), (outputs,), (rows, outputs)
    h, w, b, g = (torch.full(s, 0.5, device="cpu", dtype=torch.float32) for s in sizes)
    run = PRODUCTS[product]
    runs = {name: partial(run, routine, h, w, b, g) for name, routine in ROUTINES.items()}
    return shortest(runs, TURNS, 1, lambda: None)


def shortest(
    runs: Mapping[str, Callable[[], object]], turns: int, calls: int, wait: Callable[[], None]
) -> dict[str, float]:
    """Seconds of the shortest of several turns of each, ``calls`` runs a turn."""
    best = dict.fromkeys(runs, float("inf"))
    for turn in range(1 + turns):
        for name, run in runs.items():
            wait()
            start = time.perf_counter()
            for _ in range(calls):
                run()
            wait()
            if turn:  # the first turn also compiles and warms up
                best[name] = min(best[name], time.perf_counter() - start)
    return best
