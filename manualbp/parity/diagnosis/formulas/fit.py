r"""One or two terms that make up what a gradient lacks.

    R = o - c = sum_i k_i t_i,    |R - sum_i k_i t_i| <= 1e-12 |R|

For every pair of unit columns the rest is known from their products alone:

    rest^2 = |R|^2 - (b_i^2 + b_j^2 - 2 b_i b_j g_ij) / (1 - g_ij^2),    b = t^T R,  g = t^T t

What is found must hold in other runs as well, with the same k, or with a k that follows a length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manualbp.parity.bits import rms
from manualbp.parity.diagnosis.formulas.bases import Base
from manualbp.parity.diagnosis.formulas.expressions import OWN, Block, Term

REST, NOISE = 1e-12, 1e-13  # what may be left: of R, of the numbers that R is a difference of
SAMPLE = 300  # numbers of the gradient that are searched; all are verified
PAIRS = 1500  # terms of which every pair is tried
VERIFIED = 12  # of those that look right in the search
LIKELY = 1e-9  # rest^2 over |R|^2 in the search, where squares have lost half of the digits


@dataclass(frozen=True)
class Fit:
    """The terms and their factors, and which lengths the factors follow."""

    terms: tuple[Term, ...]
    factors: tuple[float, ...]
    means: tuple[str, ...]  # "mean" or "sum", whichever keeps the factor
    behind: tuple[str, ...]  # what the factor follows: " / 7"

    whole: bool = False  # the terms are all of the reference, not what is missing

    @property
    def own(self) -> int | None:
        """Which term takes away all of the candidate's gradient: the others are the reference."""
        places = (i for i, (term, k) in enumerate(zip(self.terms, self.factors, strict=True))
                  if term.in_words() == OWN and abs(k + 1) < 1e-9)  # fmt: skip
        return next(places, None)

    def in_words(self) -> str:
        """``-mean(g * saved[0], 1) * saved[0]``, the coefficient in front."""
        parts = list(zip(self.terms, self.factors, self.means, self.behind, strict=True))
        said = [_scaled(k, term.in_words(mean)) + after
                for i, (term, k, mean, after) in enumerate(parts) if i != self.own]  # fmt: skip
        return " + ".join(said).replace("+ -", "- ")


def find(
    kind: Callable[[Base], Iterable[Block]], bases: Sequence[Base], whole: bool = False
) -> Fit | None:
    """The simplest fit of o - c, or of the ``whole`` o, that holds in every run."""
    base = bases[0]
    r = _wanted(base, whole).flatten()[sample_of(base.o.numel())]
    if len(r) < 4 or not r.any():
        return None
    if kind not in base.columns:
        base.columns[kind] = _columns(kind(base), base)
    terms, columns = base.columns[kind]
    if not terms:
        return None
    costs, r = [term.cost for term in terms], r / r.norm()
    for search in (_singles, _pairs):
        for indices in search(columns, r, costs)[:VERIFIED]:
            fit = _confirmed([terms[i] for i in indices], bases, whole)
            if fit is not None:
                return fit
    return None


def _wanted(base: Base, whole: bool) -> Tensor:
    return base.o if whole else base.o - base.c


def _columns(blocks: Iterable[Block], base: Base) -> tuple[list[Term], Tensor]:
    """Every term's sampled numbers as a unit column, simple ones first; equal ones once a lead."""
    sample, found = sample_of(base.o.numel()), []
    terms: list[Term] = []
    for block in blocks:
        values = base.values(block)
        if values is not None:
            found.append(values.flatten(1)[:, sample])
            terms += block.terms
    if not found:
        return [], torch.empty(0)
    columns = torch.cat(found).T
    sizes = columns.norm(dim=0)
    usable = (sizes.isfinite() & (sizes > 0)).tolist()
    order = sorted((i for i in range(len(terms)) if usable[i]), key=lambda i: terms[i].cost)
    columns = columns[:, order] / sizes[order]
    largest = columns.gather(0, columns.abs().argmax(0, keepdim=True))
    keys = (columns[:8] * largest.sign() * 1e9).round().long().T.tolist()
    first = list(
        {
            (terms[order[i]].lead.name, *key): i for i, key in reversed(list(enumerate(keys)))
        }.values()
    )[::-1]
    first.sort()
    return [terms[order[i]] for i in first], columns[:, first]


def sample_of(count: int) -> Tensor:
    """The places of the numbers that are searched."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(count, generator=generator)[:SAMPLE]


def _singles(t: Tensor, r: Tensor, costs: list[int]) -> list[tuple[int, ...]]:
    """Terms that leave next to nothing of r, the simple ones first."""
    good = (1 - (t.T @ r).square()) < LIKELY
    return [(i,) for i in sorted(good.nonzero().flatten().tolist(), key=lambda i: costs[i])]


def _pairs(t: Tensor, r: Tensor, costs: list[int]) -> list[tuple[int, ...]]:
    """Pairs that leave next to nothing of r, the simple ones first."""
    if len(r) < 6:
        return []
    t = t[:, :PAIRS]
    b, g = t.T @ r, t.T @ t
    apart = 1 - g * g
    made = (b[:, None] ** 2 + b[None] ** 2 - 2 * b[:, None] * b[None] * g) / apart
    good = ((1 - made).abs() < LIKELY) & (apart > 1e-6)
    pairs = [(i, j) for i, j in good.nonzero()[:5000].tolist() if i < j]
    return sorted(pairs, key=lambda pair: costs[pair[0]] + costs[pair[1]])


def _confirmed(terms: list[Term], bases: Sequence[Base], whole: bool) -> Fit | None:
    bases = [base for base in bases if all(base.has(term) for term in terms)]
    if len(bases) < 2:
        return None
    solved = [_solved(terms, each, whole) for each in bases]
    if any(k is None for k in solved):
        return None
    told = []
    for i, term in enumerate(terms):
        found = _follows(term, [k[i] for k in solved if k is not None], bases)
        if found is None:
            return None
        told.append(found)
    factors, means, behind = zip(*told, strict=True)
    return Fit(tuple(terms), factors, means, behind, whole)


def _solved(terms: list[Term], base: Base, whole: bool) -> list[float] | None:
    """The k of all terms in one run; None where more than rounding is left."""
    r, values = _wanted(base, whole), [base.value(term) for term in terms]
    if any(value is None for value in values):
        return None
    t = torch.stack([value.flatten() for value in values if value is not None], 1)
    scale = t.norm(dim=0)
    if not bool((scale > 0).all()):
        return None
    k = torch.linalg.lstsq(t / scale, r.reshape(-1, 1)).solution.flatten() / scale
    rest = rms(r.flatten() - t @ k)
    parts = max(float((t * k).abs().max()), rms(base.o), rms(base.c))
    if rest <= REST * rms(r) or rest <= min(NOISE * parts, 1e-9 * rms(r)):
        return [float(value) for value in k]
    return None


def _follows(term: Term, factors: list[float], bases: list[Base]) -> tuple[float, str, str] | None:
    """The factor as a number that is the same in all runs, with a mean or a sum, and a length."""
    counts = [base.count(term) for base in bases]
    shapes = [base.shape(term.like) for base in bases]
    ways: list[tuple[str, str, list[float]]] = [("mean", "", [1.0] * len(bases))]
    if term.over:
        ways.append(("sum", "", [float(n) for n in counts]))
        ways.append(("(sum - mean)", "", [n - 1.0 for n in counts]))
        ways.append(("sum", f" / {counts[0] - 1}", [n / (n - 1) if n > 1 else 0.0 for n in counts]))
    for dim in range(len(shapes[0])):
        n = [float(shape[dim]) for shape in shapes]
        ways += [("mean", f" / {n[0]:g}", [1 / m for m in n]),
                 ("mean", f" * {n[0]:g}", n)]  # fmt: skip
        if term.over:
            ways += [("sum", f" / {n[0]:g}", [c / m for c, m in zip(counts, n, strict=True)])]
    rows = [float(base.view.length) for base in bases]
    ways += [("mean", f" / {rows[0]:g}", [1 / n for n in rows])]
    held = []
    for mean, behind, lengths in ways:
        k = [f / n if n else math.inf for f, n in zip(factors, lengths, strict=True)]
        if all(abs(x - k[0]) <= 1e-7 * abs(k[0]) for x in k):
            held.append((k[0], mean, behind))
    return min(held, key=lambda way: (bool(way[2]), not _nice(way[0])), default=None)


def _nice(k: float) -> bool:
    """A factor that one writes: 1, 2, 1/2."""
    return any(abs(abs(k) - n) < 1e-9 for n in (1, 2, 0.5))


def _scaled(k: float, words: str) -> str:
    if abs(abs(k) - 1) < 1e-9:
        return f"-{words}" if k < 0 else words
    return f"{k:.6g} * {words}"
