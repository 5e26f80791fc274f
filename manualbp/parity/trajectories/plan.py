"""What compare_training is asked for: checked, in words, both arms at a start, optimizers."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from manualbp.parity.arms.batches import Batches
from manualbp.parity.arms.calls import Loss
from manualbp.parity.arms.checks import check_dtype, check_loss, check_whole
from manualbp.parity.arms.parameters import borrowed, check_apart, check_parameters
from manualbp.parity.arms.subject import Subject, move, subject
from manualbp.parity.arms.trainee import MakeOptimizer
from manualbp.parity.bits import rms, to_double

OptimizerPair = tuple[MakeOptimizer, MakeOptimizer]  # the candidate's and the reference's
# Those that trainings are compared with by name; a caller may make others.
OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": partial(torch.optim.SGD, lr=0.01),
    "momentum": partial(torch.optim.SGD, lr=0.01, momentum=0.9),
    "adam": partial(torch.optim.Adam, lr=1e-3),
    "adamw": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.01),
}
# Fewer have no spread to speak of.
MIN_TWINS = 3
# How far a further seed's start lies from the first, relative to the rms of each parameter.
MOVED = 0.1


@dataclass(frozen=True)
class Plan:
    """The arguments of compare_training, by the same names."""

    candidate: nn.Module
    reference: nn.Module
    data: Any
    loss: Loss
    candidate_loss: Loss
    optimizers: Mapping[str, OptimizerPair]
    steps: int
    seeds: Sequence[int]
    dtypes: Sequence[torch.dtype] | None
    parameters: Mapping[str, str] | None
    twins: int
    teacher_forced: bool
    exact: bool

    @cached_property
    def working(self) -> torch.dtype:
        """The dtype of the reference's parameters."""
        return next((p.dtype for p in self.reference.parameters()), torch.float32)

    @cached_property
    def all_dtypes(self) -> tuple[torch.dtype, ...]:
        """The dtypes to train in, each once.

        Raises:
            TypeError: they are no sequence.
        """
        if isinstance(self.dtypes, str | torch.dtype):
            raise TypeError(
                f"expected several dtypes, got {self.dtypes!r}; pass dtypes=(torch.float64,)"
            )
        asked = self.dtypes if self.dtypes is not None else (self.working, torch.float64)
        return tuple(dict.fromkeys(asked))

    def check(self) -> tuple[Subject, Subject]:
        """Both arms, if they can be trained as it is asked.

        Raises:
            ValueError: a mode, number, name, dtype or parameter is of no use.
            TypeError: an arm is no module, or a number, dtype or loss is none.
        """
        for what, arm in (("candidate", self.candidate), ("reference", self.reference)):
            if not isinstance(arm, nn.Module):
                raise TypeError(
                    f"expected the {what} to be a torch.nn.Module, got {arm!r}; "
                    "compare_gradients takes functions"
                )
        if self.candidate.training != self.reference.training:
            raise ValueError(
                "expected both modules in the same mode, got one in train() and one in eval()"
            )
        check_loss("loss", self.loss)
        check_loss("candidate_loss", self.candidate_loss)
        check_whole("twins", self.twins, 0 if self.exact else MIN_TWINS)
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"expected seeds that differ, got {list(self.seeds)}")
        if not self.all_dtypes:
            raise ValueError("expected at least one dtype to train in, got none; leave dtypes out")
        for dtype in self.all_dtypes:
            check_dtype("dtypes", dtype)
        ours, theirs = subject(self.candidate, self.parameters), subject(self.reference)
        check_parameters(ours, theirs)
        check_apart(ours.parameters, theirs.parameters)
        return ours, theirs

    def setup(self, ours: Subject, theirs: Subject) -> dict[str, str]:
        """What is run, in words."""
        shown = {
            "candidate": ours.name, "reference": theirs.name,
            "loss": _name(self.loss), "candidate's loss": _name(self.candidate_loss),
            "steps": str(self.steps), "seeds": ", ".join(map(str, self.seeds)),
            "dtypes": ", ".join(str(dtype).removeprefix("torch.") for dtype in self.all_dtypes),
            "twins": str(self.twins),
            "rule": "bit-exact" if self.exact else "inside the envelope of the twins",
        }  # fmt: skip
        for name, makes in self.optimizers.items():
            shown[f"optimizer {name}"] = described(makes[0])
            if makes[0] is not makes[1]:
                shown[f"optimizer {name}"] += f"; reference {described(makes[1])}"
        return shown | {"teacher forced": str(self.teacher_forced)}

    def data_hashes(self) -> dict[str, str]:
        """A few digits for the first batch of each seed; data that are of no use are refused."""
        with borrowed():  # reading the data moves the random state
            return {f"first batch, seed {seed}": Batches(self.data, seed).first_hash()[:12]
                    for seed in self.seeds}  # fmt: skip

    def arms(self, dtype: torch.dtype | None, seed: int) -> tuple[Subject, Subject]:
        """Both modules at the start of a training with that seed; they are changed."""
        if dtype is not None:
            move(self.candidate, dtype)
            move(self.reference, dtype)
        ours, theirs = subject(self.candidate, self.parameters), subject(self.reference)
        if seed != self.seeds[0]:
            _move(ours, theirs, seed)
        return ours, theirs


def pairs_of(
    optimizers: Collection[str] | Mapping[str, MakeOptimizer | OptimizerPair],
) -> dict[str, OptimizerPair]:
    """Both arms' optimizers by name.

    Raises:
        ValueError: none is given, or a name is unknown.
        TypeError: they are no names, or what should make an optimizer cannot be called.
    """
    if isinstance(optimizers, str):
        optimizers = (optimizers,)
    if not isinstance(optimizers, Collection):
        raise TypeError(
            f"expected names of optimizers, or a dict of a name and a function of the parameters, "
            f"got {type(optimizers).__name__}; pass optimizers=('sgd',)"
        )
    if not optimizers:
        raise ValueError("expected at least one optimizer, got none")
    if isinstance(optimizers, Mapping):
        return {str(name): _pair(name, make) for name, make in optimizers.items()}
    for name in optimizers:
        if name not in OPTIMIZERS:
            near = difflib.get_close_matches(str(name).lower(), OPTIMIZERS, 1, 0.4)
            hint = f"did you mean {near[0]!r}?" if near else (
                "pass a dict of a name and a function of the parameters for others")  # fmt: skip
            raise ValueError(
                f"expected optimizers out of {', '.join(OPTIMIZERS)}, got {name!r}; {hint}"
            )
    return {name: (OPTIMIZERS[name], OPTIMIZERS[name]) for name in optimizers}


def _pair(name: Any, make: Any) -> OptimizerPair:
    pair = make if isinstance(make, tuple) else (make, make)
    if len(pair) != 2 or not all(map(callable, pair)):
        raise TypeError(
            f"expected a function of the parameters, or two, that make the optimizer {name!r}, got "
            f"{type(make).__name__}; pass lambda parameters: torch.optim.SGD(parameters, lr=0.1)"
        )
    return pair


def described(make: MakeOptimizer) -> str:
    """``SGD(lr=0.01)``: the class and what is not at its default."""
    optimizer = make([torch.nn.Parameter(torch.zeros(1))])
    given = {k: v for k, v in optimizer.defaults.items() if v not in (None, False, 0)}
    return f"{type(optimizer).__name__}({', '.join(f'{k}={v}' for k, v in given.items())})"


def _move(ours: Subject, theirs: Subject, seed: int) -> None:
    """Another start, the same for both arms."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in theirs.parameters.items():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += (MOVED * rms(to_double(parameter)) * noise).to(parameter)
            twin = ours.parameters.get(name)
            if twin is not None and twin.shape == parameter.shape:
                twin.copy_(parameter)


def _name(loss: Loss) -> str:
    return getattr(loss, "__name__", type(loss).__name__)
