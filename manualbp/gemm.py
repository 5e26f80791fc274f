"""Which routine computes the matrix products of a layer: the policy, and the products.

exact   ATen's, in autograd's order: the bits of nn.Linear
fast    for each kind of product the routine that is faster on this processor, ATen's or oneDNN's,
        which adds the bias and takes some activations in the same pass

Which one is faster depends on the processor (ATen's runs AVX2 code on AMD's), so it is measured:
the first product that is large enough has both timed on small samples, in about 0.1 s. The choice
then stands for the process, since other routines round differently. ``policy()`` shows it, and
``pin`` takes one instead, for runs that are to be repeated to the bit.

oneDNN is reached through ``torch.ops.mkldnn._linear_pointwise``, as PyTorch's own compiler does. It
is private, so it is tried once here; where it is missing, fast runs ATen's products.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manualbp.setting import Setting


class set_mode(Setting):  # a function to its users, like torch.set_grad_enabled
    """How products are computed from now on; as a context manager, until its end.

        manualbp.set_mode("fast")             for the whole process
        with manualbp.set_mode("fast"): ...   for a while
        manualbp.set_mode("fast", model)      for the modules of this model, whatever else is set

    Args:
        mode: "exact" has autograd's bits; "fast" is held to autograd's own distance from float64.
        model: None, or a model whose modules keep the mode.

    Raises:
        ValueError: an unknown mode.
        TypeError: ``model`` is no nn.Module.
    """

    name = "mode"
    choices = ("exact", "fast")
    now = "exact"

    def __init__(self, mode: str, model: nn.Module | None = None) -> None:
        super().__init__(mode, model)


def fast(module: nn.Module) -> bool:
    """Whether the module is to be computed by the fastest routines."""
    return set_mode.of(module) == "fast"


def small(modules: Iterable[nn.Module | None], x: Any) -> bool:
    """Whether PyTorch's own forward and backward take less time than Python's steps by hand."""
    # A compiler would compile once more for the other side of the comparison.
    if type(x) is not Tensor or x.dim() == 0 or torch.compiler.is_compiling():
        return False
    weights = outputs = 0
    for module in modules:
        if type(module) is nn.Linear:
            outputs = module.out_features
            weights += module.in_features * outputs
        elif type(module) in COSTLY:
            weights += WORTH * outputs
    return x.numel() // max(x.shape[-1], 1) * weights < LEAST_WORK


def _works() -> bool:
    """Whether the operator is there and computes what it should."""
    try:
        x, w, b = torch.ones(2, 3), torch.ones(4, 3), torch.ones(4)
        return bool((_onednn(x, w, b, "relu") == 4).all())
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def _onednn(x: Tensor, y: Tensor, b: Tensor | None, activation: str) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, y, b, activation, [], "")


AVAILABLE = torch.backends.mkldnn.is_available() and _works()  # type: ignore[no-untyped-call]

# The kinds of products, all X Y^T; these are X, Y, the bias and the activation, for h (N, I),
# W (O, I), b (O,) and g (N, O). Some f cost more than a narrow product, so they are a kind of their
# own.
Factors = tuple[Tensor, Tensor, Tensor | None, str]
PRODUCTS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Factors]] = {
    "forward": lambda h, w, b, g: (h, w, b, "none"),
    "forward with tanh": lambda h, w, b, g: (h, w, b, "tanh"),
    "input gradient": lambda h, w, b, g: (g, w.t(), None, "none"),
    "weight gradient": lambda h, w, b, g: (g.t(), h.t(), None, "none"),
}
# N, I, O; a layer counts as wide from WIDE on, in its narrower side.
SAMPLES, WIDE = {"narrow": (4096, 64, 64), "wide": (512, 512, 512)}, 256
KINDS = [f"{product}, {shape}" for product in PRODUCTS for shape in SAMPLES]


def _aten(x: Tensor, y: Tensor, b: Tensor | None, activation: str) -> Tensor:
    z = F.linear(x, y, b)
    return z if activation == "none" else OVER_Z[activation](z)


ROUTINES: dict[str, Callable[[Tensor, Tensor, Tensor | None, str], Tensor]] = {
    "ATen": _aten,
    "oneDNN": _onednn,
}
_policy: dict[str, str] | None = None


def policy() -> dict[str, str]:
    """The routine of every kind of product: {"forward, narrow": "oneDNN", ...}."""
    global _policy
    if _policy is None:
        _policy = {
            f"{product}, {shape}": _fastest(product, *size) if AVAILABLE else "ATen"
            for product in PRODUCTS
            for shape, size in SAMPLES.items()
        }
    return dict(_policy)


def pin(choice: Mapping[str, str] | str) -> None:
    """Take these routines from now on: one name for all, or what ``policy()`` returned.

    Raises:
        ValueError: an unknown product or routine, or a product without one.
    """
    global _policy
    found = dict.fromkeys(KINDS, choice) if isinstance(choice, str) else dict(choice)
    for kind in dict.fromkeys([*KINDS, *found]):
        if kind not in KINDS or found.get(kind) not in ROUTINES:
            raise ValueError(
                f"expected a routine out of {', '.join(ROUTINES)} for each of {'; '.join(KINDS)}, "
                f"got {found.get(kind)!r} for {kind!r}; policy() returns a complete choice"
            )
    _policy = found


def _fastest(product: str, rows: int, inputs: int, outputs: int) -> str:
    """The routine with the shortest of several runs, which take turns."""
    # No random numbers: the user's are not ours to draw.
    sizes = (rows, inputs), (outputs, inputs), (outputs,), (rows, outputs)
    h, w, b, g = (torch.full(s, 0.5, device="cpu", dtype=torch.float32) for s in sizes)
    factors = PRODUCTS[product](h, w, b, g)
    best = dict.fromkeys(ROUTINES, float("inf"))
    for turn in range(1 + TURNS):
        for name, routine in ROUTINES.items():
            start = time.perf_counter()
            routine(*factors)
            if turn:  # the first one also warms up
                best[name] = min(best[name], time.perf_counter() - start)
    return "oneDNN" if best["oneDNN"] * LEAST_GAIN < best["ATen"] else "ATen"


def chosen(product: str, x: Tensor, y: Tensor) -> str:
    """The routine for this product of h and W, of g and W, or of g and h."""
    if product == "weight gradient":
        (terms, outputs), inputs = x.shape, y.shape[1]
        columns, work = inputs, terms * inputs * outputs
    else:
        outputs, inputs = y.shape
        terms, columns = x.shape[1], inputs if product == "input gradient" else outputs
        work = x.shape[0] * inputs * outputs
    least = 2**14 * inputs if product == "forward with tanh" else 2**21
    if work < least or columns < 16 or terms > MOST_TERMS or not _known_to_onednn(x, y):
        return "ATen"
    wide = min(inputs, outputs) >= WIDE
    return (_policy or policy())[f"{product}, {'wide' if wide else 'narrow'}"]


def _known_to_onednn(x: Tensor, y: Tensor) -> bool:
    """Other dtypes it has not; for other layouts it has no more than a plain loop."""
    plain = x.is_contiguous() and y.is_contiguous()
    return AVAILABLE and plain and x.dtype is torch.float32 and x.device.type == "cpu"


def linear(h: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """f(h W^T + b), f the identity or one of OVER_Z."""
    fused = activation in IN_ONE_PASS
    product = "forward with tanh" if fused else "forward"
    # oneDNN's has no derivative.
    if torch.is_grad_enabled() or chosen(product, h, weight) == "ATen":
        return _aten(h, weight, bias, activation)
    z = _onednn(h, weight, bias, activation if fused else "none")
    return z if fused or activation == "none" else OVER_Z[activation](z)


def input_gradient(g: Tensor, weight: Tensor) -> Tensor:
    """g W."""
    if chosen("input gradient", g, weight) == "ATen":
        return g.mm(weight)
    return _onednn(g, weight.t(), None, "none")


def weight_gradient(g: Tensor, h: Tensor) -> Tensor:
    """g^T h."""
    if chosen("weight gradient", g, h) == "ATen":
        return g.t().mm(h)
    return _onednn(g.t(), h.t(), None, "none")


# Multiplications of a forward pass below which a step by hand takes longer than PyTorch's own,
# since its Python takes longer than the products.
LEAST_WORK = 2**27
# Activations that fast mode has cheaper, and how many multiplications each of their numbers counts.
COSTLY, WORTH = (nn.Tanh, nn.GELU), 128
# Terms up to which oneDNN's sums were measured to round as well as the tests demand.
MOST_TERMS = 1024
# How often a sample is timed, and how much faster a routine must be to be taken for it.
TURNS, LEAST_GAIN = 7, 1.05

IN_ONE_PASS = ("tanh", "sigmoid")  # its ReLU makes 0 of NaN
OVER_Z = {"relu": torch.relu_, "tanh": torch.tanh_, "sigmoid": torch.sigmoid_}
