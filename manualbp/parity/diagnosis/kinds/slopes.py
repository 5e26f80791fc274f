"""A gradient that is wrong by the derivative of an activation, seen from single rows of the batch.

Row n's contribution to unit j has f'(z_nj) as a factor, so c_nj / o_nj shows what stood there
instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from manualbp.parity.bits import to_double
from manualbp.parity.diagnosis.evidence import Pattern, Suspect, limit
from manualbp.parity.diagnosis.kinds.rows import contribution

SINGLES = 16  # rows that are looked at
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "SiLU": functional.silu,
    "GELU": functional.gelu,
    "tanh GELU": partial(functional.gelu, approximate="tanh"),
    "softplus": functional.softplus,
    "ELU": functional.elu,
}


def mask(s: Suspect) -> Pattern | None:
    """c_n = o_n but where z_n <= 0 (missing), or 0 where z_n > 0 and not elsewhere (inverted)."""
    rows = _by_unit(s)
    if not rows:
        return None
    positive = torch.stack([z > 0 for z, _ in rows])
    wrong = torch.stack([_any(part.wrong) for _, part in rows])
    ours = torch.stack([_any(part.c.abs() > limit(part.s, part.eps)) for _, part in rows])
    theirs = torch.stack([_any(part.o.abs() > limit(part.s, part.eps)) for _, part in rows])
    step = f"multiply delta by f'(z) of {s.layer}, z as it was in the forward"
    inverted = (ours & positive) | (theirs & ~positive)
    if ours.any() and theirs.any() and not inverted.any():
        words = "wrong everywhere: zero where the pre-activation is > 0, and not where it is <= 0"
        return Pattern("mask", f"{words}: the mask of the activation's derivative is inverted",
                       step, "inverted")  # fmt: skip
    for where, sign in ((~positive, "<= 0"), (positive, "> 0")):
        enough = int((wrong & where).sum()) >= max(2, int(where.sum()) // 2)
        if enough and not (wrong & ~where).any() and (theirs & ~where & ~wrong).any():
            if sign == "> 0" and not (theirs & ~positive).any():
                continue
            words = f"wrong only where the pre-activation is {sign}: the mask of the activation's "
            return Pattern("mask", words + "derivative is missing there, or its slope is another",
                           step, sign)  # fmt: skip
    return None


def derivative(s: Suspect) -> Pattern | None:
    """c_n = o_n r(z_n) with r = wrong derivative / f', for each known f and each usual mistake."""
    rows = _by_unit(s)
    if all(part.right for _, part in rows):
        return None
    c, o, sizes = (torch.stack([getattr(part, of) for _, part in rows]) for of in "cos")
    z = torch.stack([values for values, _ in rows])
    for name, f in ACTIVATIONS.items():
        for words, wrong in _derivatives(name, f, z).items():
            ratio = (wrong / _slope(f, z)).reshape(*z.shape, *[1] * (s.o.dim() - 1))
            guess, sums = o * ratio, sizes * ratio.abs().clamp(min=1)
            if replace(s, c=c, o=o, s=sums).is_(guess):
                step = f"use the derivative of {name} at z of {s.layer} once"
                return Pattern("derivative", f"{words} of {s.layer}", step, (name, words))
    return None


def _any(values: Tensor) -> Tensor:
    """Whether any element belongs to unit j: over all dimensions but the first."""
    return values if values.dim() == 1 else values.flatten(1).any(1)


def _by_unit(s: Suspect) -> list[tuple[Tensor, Suspect]]:
    """z_n and row n's contribution, for single rows; none where s is not one line per unit."""
    z, rows = s.evidence.pre_activations.get(s.evidence.layers.get(s.name, "")), s.evidence.rows
    if z is None or z.dim() != 2 or len(z) != rows or not s.o.dim():
        return []
    if s.o.shape[0] != z.shape[1] or s.name.startswith("input"):
        return []
    count = min(rows, SINGLES)
    chosen = [i * rows // count for i in range(count)]
    parts = [(to_double(z[n]), contribution(s, n, n + 1)) for n in chosen]
    found = [(row, part) for row, part in parts if part is not None]
    return found if len(found) == len(parts) else []


def _slope(f: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """f'(z)."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        return torch.autograd.grad(f(z).sum(), z)[0]


def _derivatives(name: str, f: Callable[[Tensor], Tensor], z: Tensor) -> dict[str, Tensor]:
    """What is taken for f'(z) by mistake, by the words for it."""
    slope = _slope(f, z)
    found = {
        f"the derivative of {name} is missing behind the pre-activation": torch.ones_like(z),
        f"the derivative of {name} is applied twice to the pre-activation": slope**2,
        f"f'(a) in place of f'(z): {name}'s derivative reads the activation"
        " in place of the pre-activation": _slope(f, f(z)),
    }
    if name == "tanh":
        words = "1 - z^2 in place of 1 - a^2: the derivative of tanh reads the pre-activation"
        found[words] = 1 - z**2
    if name == "sigmoid":
        words = (
            "z (1 - z) in place of a (1 - a): the derivative of sigmoid reads the pre-activation"
        )
        found[words] = z * (1 - z)
    other = {"GELU": "tanh GELU", "tanh GELU": "GELU"}.get(name)
    if other:
        words = f"the derivative of {other} in place of that of {name}, for the pre-activation"
        found[words] = _slope(ACTIVATIONS[other], z)
    return found
