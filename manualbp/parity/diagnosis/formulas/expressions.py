"""Expressions that a term of a gradient may be, small enough to be said in words.

    mean(lead * inner, over) * outer     then summed to the gradient's shape, or a product with B

The lead is linear in the cotangent: grad_output itself, or g, the candidate's own gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

OWN = "g"  # the candidate's own gradient in words


def _half_turned(x: Tensor) -> Tensor:
    """(-x2, x1) of the halves (x1, x2) of the last dimension."""
    one, two = x.chunk(2, -1)
    return torch.cat([-two, one], -1)


def _turned(x: Tensor) -> Tensor:
    """(-x1, x0, -x3, x2, ...) along the last dimension."""
    return torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)


# What a lead may have gone through before anything else, by its words.
MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "rotate_half({})": _half_turned,
    "rotate_pairs({})": _turned,
    "cumsum({}, -1)": lambda x: x.cumsum(-1),
    "cumsum({}.flip(-1), -1).flip(-1)": lambda x: x.flip(-1).cumsum(-1).flip(-1),
    "{} rolled by 1 along -1": lambda x: x.roll(1, -1),
    "{} rolled by -1 along -1": lambda x: x.roll(-1, -1),
    "{}^T": lambda x: x.mT,
    "tril({})": torch.tril,
    "diag({})": lambda x: torch.diag_embed(x.diagonal(dim1=-2, dim2=-1)),
}
# What stands in a derivative as a factor, by its words.
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "{}": lambda t: t,
    "{}^2": torch.square,
    "(1 - {})": lambda t: 1 - t,
    "(1 + {})": lambda t: 1 + t,
    "(1 - {}^2)": lambda t: 1 - t * t,
    "exp({})": torch.exp,
    "sigmoid({})": torch.sigmoid,
    "(1 - sigmoid({}))": lambda t: torch.sigmoid(-t),
    "tanh({})": torch.tanh,
    "(1 - tanh({})^2)": lambda t: 1 - torch.tanh(t) ** 2,
    "({} > 0)": lambda t: (t > 0).double(),
    "sign({})": torch.sign,
    "|{}|": torch.abs,
    "sqrt({})": torch.sqrt,
    "cos({})": torch.cos,
    "sin({})": torch.sin,
    "1 / {}": torch.reciprocal,
}
# How x and B are multiplied at the end.
PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "{} @ {}": lambda x, b: x @ b,
    "{} @ {}^T": lambda x, b: x @ b.mT,
    "{}^T @ {}": lambda x, b: x.mT @ b,
    "{1} @ {0}": lambda x, b: b @ x,
    "{1}^T @ {0}": lambda x, b: b.mT @ x,
    "{1} @ {0}^T": lambda x, b: b @ x.mT,
    "{}^T @ {}^T": lambda x, b: x.mT @ b.mT,
}
# How a tensor of fewer dimensions is laid over one of more, by what it is in words.
LAID: dict[str, Callable[[Tensor, int], Tensor]] = {
    "{}": lambda x, dims: x,
    "{}[..., None]": lambda x, dims: x.reshape(*x.shape, *[1] * (dims - x.dim())),
    "{}[:, None]": lambda x, dims: x.reshape(
        len(x), *[1] * (dims - 2 if x.dim() == 1 else 1), *x.shape[1:]
    ),
}


@dataclass(frozen=True)
class Factor:
    """A tensor by name, and how it is laid over a larger one."""

    name: str
    how: str = "{}"

    @property
    def words(self) -> str:
        return self.how.format(self.name)


@dataclass(frozen=True)
class Term:
    """One expression. ``like`` names the tensor in whose shape it is computed."""

    like: str
    lead: Factor
    inner: tuple[Factor, ...] = ()
    over: tuple[int, ...] = ()
    outer: tuple[Factor, ...] = ()
    product: str = ""
    other: str = ""

    @property
    def cost(self) -> int:
        """How much there is to say; what is computed less has the lower one."""
        parts = [self.lead.name, *(f.name for f in (*self.inner, *self.outer)), self.other]
        nested = sum(name.count("(") + 2 * name.count("@") for name in parts)
        factors = len(self.inner) + len(self.outer)
        return factors + nested + bool(self.over) + len(self.over) + 2 * bool(self.product)

    @property
    def own(self) -> bool:
        """Whether the candidate's own gradient is in it."""
        name = self.lead.name
        return name == OWN or any(
            words.format(OWN) == name
            for words in (*MOVES, *PRODUCTS)
            if "{1}" not in words and words.count("{}") == 1
        )

    def in_words(self, mean: str = "mean") -> str:
        """The expression as one would write it."""
        inside = " * ".join([self.lead.words, *(f.words for f in self.inner)])
        if self.over:
            dims = self.over[0] if len(self.over) == 1 else self.over
            inside = f"{mean}({inside}, {dims})"
        said = " * ".join([inside, *(f.words for f in self.outer)])
        if not self.product:
            return said
        return self.product.format(f"({said})" if " " in said else said, self.other)


@dataclass(frozen=True)
class Block:
    """Terms that differ in their factors alone, to be computed together."""

    like: str
    lead: Factor
    inner: Sequence[tuple[Factor, ...]] = ((),)
    over: tuple[int, ...] = ()
    outer: Sequence[tuple[Factor, ...]] = ((),)
    product: str = ""
    other: str = ""

    @property
    def terms(self) -> list[Term]:
        """Each by itself, in the order of their values."""
        return [Term(self.like, self.lead, inner, self.over, outer, self.product, self.other)
                for inner in self.inner for outer in self.outer]  # fmt: skip


def laid(x: Tensor | None, how: str, shape: torch.Size) -> Tensor | None:
    """x laid over a shape; None where that cannot be done, or it is done another way already."""
    if x is None or x.dim() > len(shape) or (how != "{}" and not 0 < x.dim() < len(shape)):
        return None
    if how == "{}[:, None]" and (len(shape) < 3 or (x.dim() > 1 and len(shape) != x.dim() + 1)):
        return None
    x = LAID[how](x, len(shape))
    fits = all(n in (1, m) for n, m in zip(x.shape[::-1], shape[::-1], strict=False))
    return x if fits else None


def summed_to(x: Tensor, shape: torch.Size) -> Tensor | None:
    """Every x[k] summed over the dimensions that the shape does not have."""
    more = x.dim() - 1 - len(shape)
    if more < 0:
        return None
    if more:
        own = x.shape[1:]
        all_, kept = range(len(own)), len(shape)
        ways = [(own[i : i + kept], [d for d in all_ if not i <= d < i + kept])
                for i in reversed(range(more + 1))]  # fmt: skip
        ways += [(own[:1] + own[2:], [1])] if more == 1 and len(own) > 2 else []
        dims = next((dims for left, dims in ways if left == shape), None)
        return None if dims is None else x.sum([dim + 1 for dim in dims])
    single = [dim + 1 for dim, n in enumerate(shape) if n == 1 != x.shape[dim + 1]]
    x = x.sum(single, keepdim=True) if single else x
    return x if x.shape[1:] == shape else None
