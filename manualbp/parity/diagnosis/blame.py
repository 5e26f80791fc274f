"""Whose fault a wrong gradient is: its own layer's, or that of what arrived there.

The gradient that arrives at a layer was watched where ``Evidence.incoming`` knows the layer. Else
the others decide: the layer's other gradients, which are made of the same delta, and those of the
layers nearer to the output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from manualbp.parity.arms.forward import LOSS
from manualbp.parity.diagnosis.evidence import Evidence, Pattern
from manualbp.parity.diagnosis.wording import title

# Kinds that say too little to tell whether two wrongs are the same one.
VAGUE = ("unknown", "rounding")
OF_THE_LOSS = "the gradient that the loss sends back"


class Blame(NamedTuple):
    """``here`` as of a Finding, the words for it, what to mend first, and the step it is in."""

    here: bool | None
    words: str
    first: str = ""
    between: str = ""


@dataclass(frozen=True)
class _Gradient:
    """A wrong gradient among the others.

    Attributes:
        patterns: of every tensor that differs.
        layer: in words.
        beside: the other gradients of the layer.
        before: the gradients nearer to the output, in backward order.
        arrived: whether what arrives at the layer is right; None where it was not watched.
    """

    name: str
    patterns: Mapping[str, Pattern]
    evidence: Evidence
    layer: str
    beside: list[str]
    before: list[str]
    arrived: bool | None

    @property
    def vague(self) -> bool:
        return self.patterns[self.name].kind in VAGUE

    def title_of(self, other: str) -> str:
        return title(self.evidence.layers.get(other))


def blame(name: str, patterns: Mapping[str, Pattern], evidence: Evidence) -> Blame:
    """Whose fault the gradient of that name is; ``patterns`` are those of every wrong tensor."""
    own, order = evidence.layers.get(name, ""), evidence.order
    beside = [n for n in order if n != name and evidence.layers.get(n, "") == own]
    before = [n for n in order[: order.index(name) if name in order else None] if n not in beside]
    arrived = None if evidence.incoming is None else evidence.incoming.get(own)
    g = _Gradient(name, patterns, evidence, title(own), beside, before, arrived)
    asked = (_own_backward, _same_delta, _loss_for_all, _layer_before, _step_before)
    return next((found for ask in asked if (found := ask(g))), None) or _nothing_before(g)


def _own_backward(g: _Gradient) -> Blame | None:
    """What arrives is right: watched, or shown by another gradient of the same delta."""
    right = any(n not in g.patterns and bool(g.evidence.exact[n].any()) for n in g.beside)
    if g.arrived or (g.arrived is None and right):
        words = f"what arrives at {g.layer} is right; the fault is in its own backward"
        return Blame(True, words)
    return None


def _same_delta(g: _Gradient) -> Blame | None:
    """Another gradient of the layer says more."""
    told = [n for n in g.beside if n in g.patterns and g.patterns[n].kind not in VAGUE]
    if g.vague and told:
        return Blame(None, f"made of the same delta as {told[0]}: look at that first", told[0])
    return None


def _loss_for_all(g: _Gradient) -> Blame | None:
    """All gradients are wrong in the same way, and the loss is compared."""
    order = g.evidence.order
    keys = {g.patterns[n].key if n in g.patterns else ("agrees", None) for n in order}
    alike = len(order) > 1 and len(keys) == 1 and next(iter(keys))[0] not in (*VAGUE, "agrees")
    if LOSS in g.evidence.exact and g.arrived is None and alike:
        words = f"every gradient is wrong in this way: look at {OF_THE_LOSS}"
        return Blame(False, words, OF_THE_LOSS)
    return None


def _layer_before(g: _Gradient) -> Blame | None:
    """A layer nearer to the output has a wrong gradient, too."""
    earlier = [n for n in g.before if n in g.patterns]
    alike = [n for n in earlier if g.patterns[n].key == g.patterns[g.name].key
             and g.patterns[n].kind not in VAGUE]  # fmt: skip
    if not earlier:
        return None
    at = g.title_of((alike or earlier)[0])
    if alike or g.arrived is False:
        words = f"what arrives at {g.layer} is wrong already: look at {at} first"
        return Blame(False, words, at)
    return Blame(None, f"{at} differs as well and is nearer to the output: look at it first", at)


def _step_before(g: _Gradient) -> Blame | None:
    """Everything nearer to the output agrees."""
    if not g.before:
        return None
    step = f"the step from {g.title_of(g.before[-1])} to {g.layer}"
    words = f"everything nearer to the output agrees; the fault is in {step}"
    return Blame(g.arrived is None, words, step if g.vague else "", step)


def _nothing_before(g: _Gradient) -> Blame:
    """It is the gradient nearest to the output."""
    if g.arrived is False:
        words = f"what arrives at {g.layer} is wrong already: look at {OF_THE_LOSS}"
        return Blame(False, words, OF_THE_LOSS)
    if LOSS not in g.evidence.exact:
        words = f"the output's gradient is given; the fault is in {g.layer} or behind it"
        return Blame(True, words)
    words = f"nothing nearer to the output is compared: it is {g.layer}'s fault, or {OF_THE_LOSS}"
    return Blame(None, words)
