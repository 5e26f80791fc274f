"""Everything that the terms of one gradient may be made of, in one run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from manualbp.parity.diagnosis.doubled import View
from manualbp.parity.diagnosis.formulas.expressions import (
    FUNCTIONS,
    LAID,
    MOVES,
    OWN,
    PRODUCTS,
    Block,
    Factor,
    Term,
    laid,
    summed_to,
)

LARGEST_INVERSE = 64


class Base:
    """Everything that the terms of one gradient may be made of, in one run."""

    def __init__(self, view: View, name: str, groups: int = 0, borrowed: bool = False) -> None:
        self.view, self.groups = view, groups
        self._known = view.seen.values | (view.seen.borrowed if borrowed else {})
        pair = view.pair(name)
        assert pair is not None
        self._whole = pair[0].shape
        self.c, self.o = (self._grouped(x) for x in pair)
        self.columns: dict[object, tuple[list[Term], Tensor]] = {}  # of fit.py

    def _grouped(self, x: Tensor) -> Tensor:
        """A tensor as (N, groups, rest) where channels are taken in groups."""
        if not self.groups or x.dim() < 1:
            return x
        for how in LAID:
            y = laid(x, how, self._whole)
            if y is not None and x.shape[:2] != (self._whole[0], self.groups):
                return y.expand(self._whole).reshape(self._whole[0], self.groups, -1)
        return x

    @cached_property
    def factors(self) -> dict[str, Tensor]:
        """Inputs, outputs, saved tensors and parameters by name; an index as 0 and 1."""
        found = {name: self._grouped(x) for name, x in self._known.items()}
        classes = self.o.shape[-1] if self.o.dim() else 0
        for name, index in self.view.seen.indices.items():
            if index.numel() and int(index.min()) >= 0 and int(index.max()) < classes:
                hot = torch.nn.functional.one_hot(index.long(), classes)
                found[f"one_hot({name})"] = hot.double()
        found |= {f"exp({n})": x.exp() for n, x in found.items() if n.startswith("output")
                  and x.dim() > 1 and float(x.max()) < 50}  # fmt: skip
        return found | _scaled(found)

    @cached_property
    def matrices(self) -> dict[str, Tensor]:
        """What may stand in a matrix product; of a square input its inverse as well."""
        found = {n: x for n, x in self.factors.items() if x.dim() > 1}
        for name, x in list(found.items()):
            square = x.dim() == 2 and x.shape[0] == x.shape[1] <= LARGEST_INVERSE
            if square and name.startswith("input"):
                inverse, wrong = torch.linalg.inv_ex(x)
                if not wrong:
                    found[f"inverse({name})"] = inverse
        return found

    @cached_property
    def leads(self) -> dict[str, Tensor]:
        """What is linear in the cotangents."""
        given = self.view.seen.cotangents
        return {**{name: self._grouped(x) for name, x in given.items()}, OWN: self.c}

    @cached_property
    def summed(self) -> dict[str, Tensor]:
        """The cotangents summed over one dimension, where they are no gradient's shape."""
        return {f"sum({name}, {dim})": x.sum(dim, keepdim=True)
                for name, x in self.leads.items() if name != OWN and x.shape != self.o.shape
                for dim in range(x.dim() if x.dim() > 1 else 0)}  # fmt: skip

    def lead(self, name: str) -> Tensor:
        """A lead by its words, also one that was moved or multiplied."""
        return self.leads[name] if name in self.leads else self.made[name]

    @cached_property
    def moved(self) -> dict[str, Tensor]:
        """The leads, alone and times one factor, moved within their shape."""
        found, shape = {}, self.o.shape
        leads = {n: x for n, x in self.leads.items() if x.shape == shape}
        leads |= {f"{n} * {f}": x * y for n, x in leads.items() if n != OWN
                  for f, y in self.factors.items() if y.shape == shape}  # fmt: skip
        for name, x in leads.items():
            for words, move in MOVES.items():
                matrix = words.startswith(("tril", "diag")) or words.endswith("^T")
                square = x.dim() > 1 and x.shape[-1] == x.shape[-2]
                even = x.dim() > 0 and x.shape[-1] % 2 == 0
                if (square if matrix else x.dim() > 0) and (even or "rotate" not in words):
                    found[words.format(name)] = move(x)
        return found

    @cached_property
    def multiplied(self) -> dict[str, Tensor]:
        """The cotangents times a matrix."""
        found = {}
        for name, x in self.leads.items():
            for other, b in self.matrices.items() if name != OWN else ():
                for words, product in list(PRODUCTS.items())[:4]:  # others are their transposes
                    y = _product(product, x, b)
                    if y is not None:
                        found[f"({words.format(name, other)})"] = y
        return found

    @cached_property
    def functions(self) -> dict[str, Tensor]:
        """What stands in a derivative, of each tensor that is as large as the gradient."""
        found = {}
        for name, x in self.factors.items():
            if x.shape == self.o.shape:
                for words, f in FUNCTIONS.items():
                    found[words.format(name)] = f(x)
        return {name: x for name, x in found.items() if x.isfinite().all()}

    def factor(self, name: str) -> Tensor | None:
        """A factor by its words."""
        found = self.factors.get(name)
        return self.functions.get(name) if found is None else found

    @cached_property
    def made(self) -> dict[str, Tensor]:
        return self.moved | self.multiplied | self.summed

    def has(self, term: Term) -> bool:
        """Whether this run has all that the term is made of."""
        names = [term.like, *(f.name for f in (*term.inner, *term.outer)), term.other]
        lead = term.lead.name in self.leads or term.lead.name in self.made
        return lead and all(
            not n
            or n in self.factors
            or n in self.matrices
            or n in self.leads
            or n in self.functions
            or n in self.made
            for n in names
        )

    def shape(self, like: str) -> torch.Size:
        """The shape of a tensor by its name; the gradient's own is ''."""
        if not like:
            return self.o.shape
        found = self.factors.get(like)
        return self.lead(like).shape if found is None else found.shape

    def value(self, term: Term) -> Tensor | None:
        """The term in the gradient's shape; None where shapes do not fit."""
        found = self.values(Block(**{**vars(term), "inner": [term.inner], "outer": [term.outer]}))
        return None if found is None else found[0]

    def values(self, block: Block) -> Tensor | None:
        """All terms of a block, one behind the other; None where shapes do not fit."""
        shape = self.shape(block.like)
        lead = laid(self.lead(block.lead.name), block.lead.how, shape)
        inner, outer = (self._products(sets, shape) for sets in (block.inner, block.outer))
        if lead is None or inner is None or outer is None:
            return None
        x = lead.expand(shape) * inner
        if block.over:
            x = x.mean([dim + 1 for dim in block.over], keepdim=True)
        x = (x[:, None] * outer).flatten(0, 1).expand(-1, *shape)
        if block.product:
            b = self.matrices[block.other]
            if b.dim() > 2 and len(shape) > 2 and b.shape[:-2] != shape[:-2]:
                return None
            try:
                x = PRODUCTS[block.product](x, b)
            except RuntimeError:  # the shapes do not fit
                return None
        return summed_to(x, self.o.shape)

    def _products(self, sets: Sequence[tuple[Factor, ...]], shape: torch.Size) -> Tensor | None:
        """The product of every set, (sets, *shape)."""
        found = []
        for factors in sets:
            x = torch.ones((), dtype=torch.float64)
            for factor in factors:
                y = laid(self.factor(factor.name), factor.how, shape)
                if y is None:
                    return None
                x = x * y
            found.append(x.expand(shape))
        return torch.stack(found)

    def count(self, term: Term) -> int:
        """How many numbers its mean is over."""
        shape = self.shape(term.like)
        return math.prod(shape[dim] for dim in term.over)


def _product(product: Callable[[Tensor, Tensor], Tensor], x: Tensor, b: Tensor) -> Tensor | None:
    """A product of matrices, or of stacks of them; None where they do not fit."""
    if x.dim() < 2 or (x.dim() > 2 and b.dim() > 2 and x.shape[:-2] != b.shape[:-2]):
        return None
    try:
        return product(x, b)
    except RuntimeError:
        return None


def _scaled(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``input * saved[1]``: an input times one number for each line, as norms have it."""
    return {
        f"{name} * {other}": x * y
        for name, x in values.items() if name.startswith("input") and x.dim() > 1
        for other, y in values.items() if y.shape == (*x.shape[:-1], 1)
    }  # fmt: skip
