r"""Do two modules train alike? Every optimizer, dtype and seed, judged without a tolerance.

    each by itself        inside the envelope of the reference's twins?     envelope.py
    at the same state     the candidate's gradient right at every step?     forced.py, tolerance.py

The first catches what adds up (an update, a buffer, a bias too small for one step), the second says
in which step and tensor a gradient is wrong. SGD as well as Adam, since Adam hides a gradient's
scale; float64 as well as the working dtype, since there rounding hides nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import nn

from manualbp.parity.arms.batches import Batches
from manualbp.parity.arms.calls import Loss
from manualbp.parity.arms.optimizers import Pair, described, pairs_of
from manualbp.parity.arms.subject import Subject, borrowed, check_apart, check_parameters, subject
from manualbp.parity.arms.trainee import MakeOptimizer
from manualbp.parity.judge.tolerance import rms, to_double
from manualbp.parity.record import PowerReport, TrainingReport, Trajectory
from manualbp.parity.trajectories.checkpoint import Checkpoint, module_hash
from manualbp.parity.trajectories.one_training import Options, Race
from manualbp.parity.versions import versions

# Fewer have no spread to speak of.
MIN_TWINS = 3
# How far a further seed's start lies from the first, relative to the rms of each parameter.
MOVED = 0.1


def compare_training(
    candidate: nn.Module,
    reference: nn.Module,
    data: Any,
    loss: Loss,
    optimizers: Collection[str] | Mapping[str, MakeOptimizer | Pair] = ("sgd", "adam"),
    steps: int = 100,
    seeds: Sequence[int] = (0,),
    *,
    dtypes: Sequence[torch.dtype] | None = None,
    parameters: Mapping[str, str] | None = None,
    candidate_loss: Loss | None = None,
    twins: int = 8,
    teacher_forced: bool = True,
    exact: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 100,
    on_step: Callable[[Trajectory], None] | None = None,
) -> TrainingReport:
    """Train both modules, once for each optimizer, dtype and seed, and judge every step.

    Args:
        candidate: the module under test. It is neither copied nor replaced.
        reference: what it should train like; it can be copied, and its names are the ones reported.
        data: a list of batches (inputs, target), any iterable of them that can be read again, or a
            function of the seed that makes one. Shorter than ``steps``, it is read again. Inputs
            are as for ``compare_gradients``.
        loss: ``loss(output, target)``, one number; ``loss(output)`` where the target is None.
        optimizers: names out of sgd, momentum, adam, adamw; or a name -> function of the parameters
            that makes the optimizer, or -> two of them, the candidate's and the reference's.
        steps: of each training.
        seeds: of the data, of random layers and of the start: the first starts at the parameters as
            they are, the others 10 % of each parameter's rms away from them.
        dtypes: in which to train; by default the one of the reference's parameters, and float64.
        parameters: the candidate's name of a parameter -> the reference's, where they differ.
        candidate_loss: the candidate's own loss; ``loss`` by default.
        twins: of the reference, for the envelope; 8 trainings more.
        teacher_forced: also judge the candidate's gradient at the reference's state at every step.
        exact: any other bit is a difference.
        checkpoint: a file to go on from. Called again with the same arguments, the report is the
            one that an undisturbed call would have given, to the bit. What a module keeps outside
            its parameters and buffers is not in it.
        checkpoint_every: steps between two writes of that file.
        on_step: called with the Trajectory after each step.

    Ctrl-C ends it: the report of what was done is returned, with ``interrupted`` set. Whatever
    happens, neither module is changed: no parameter, ``.grad``, buffer, mode or random state.

    Raises:
        ValueError: parameters differ or are shared, a name, number or batch is of no use, or the
            checkpoint is of another call.
        TypeError: an arm is no module, or data or loss are nothing to train with.
    """
    _check(candidate, reference, steps, seeds, twins, exact, checkpoint_every)
    pairs = pairs_of(optimizers)
    working = next((p.dtype for p in reference.parameters()), torch.float32)
    chosen = tuple(dict.fromkeys(dtypes if dtypes is not None else (working, torch.float64)))
    if not chosen or not all(isinstance(d, torch.dtype) and d.is_floating_point for d in chosen):
        raise ValueError(f"expected floating-point dtypes to train in, got {dtypes!r}")
    ours, theirs = subject(candidate, parameters), subject(reference)
    check_parameters(ours, theirs)
    check_apart(ours.parameters, theirs.parameters)
    setup = _setup(ours, theirs, pairs, loss, candidate_loss, chosen, steps, seeds, twins, exact)
    setup["teacher forced"] = str(teacher_forced)
    with borrowed():  # reading the data moves the random state
        hashes = {f"first batch, seed {seed}": Batches(data, seed).first_hash()[:12]
                  for seed in seeds}  # fmt: skip
    report = TrainingReport(ours.name, theirs.name, setup={**setup, **versions()})
    file, race_state = None, None
    if checkpoint is not None:
        hashes["the candidate's parameters"] = module_hash(candidate)
        hashes["the reference's parameters"] = module_hash(reference)
        file = Checkpoint(checkpoint, report.setup | hashes)
        if (saved := file.read()) is not None:
            report, race_state = saved
    under_way = report.runs[-1] if report.runs and race_state is not None else None
    done = len(report.runs) - (under_way is not None)
    for name, dtype, seed in list(product(pairs, chosen, seeds))[done:]:
        if under_way is None:
            record = Trajectory(name, str(dtype).removeprefix("torch."), seed, steps)
            record.power = _known_power(report, record)
            report.runs.append(record)
        else:
            record, under_way = under_way, None
        make = pairs[name]
        options = Options(
            loss, candidate_loss or loss, *make, None if dtype == working else dtype,
            twins, teacher_forced, exact,
        )  # fmt: skip
        try:
            with borrowed(candidate, reference):
                race = _start(record, candidate, reference, parameters, options, seed != seeds[0])
                if race_state is not None:
                    race.load(race_state)
                    race_state = None
                _run(race, Batches(data, seed), report, file, checkpoint_every, on_step)
        except KeyboardInterrupt:
            report.interrupted = True
            return report
        if file is not None:
            file.write(report, None)
    return report


def _start(
    record: Trajectory,
    candidate: nn.Module,
    reference: nn.Module,
    parameters: Mapping[str, str] | None,
    options: Options,
    moved: bool,
) -> Race:
    """Both modules at the start of a training."""
    if options.dtype is not None:
        candidate.to(options.dtype)
        reference.to(options.dtype)
    ours, theirs = subject(candidate, parameters), subject(reference)
    if moved:
        generator = torch.Generator().manual_seed(record.seed)
        with torch.no_grad():
            for name, parameter in theirs.parameters.items():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter += (MOVED * rms(to_double(parameter)) * noise).to(parameter)
                twin = ours.parameters.get(name)
                if twin is not None and twin.shape == parameter.shape:
                    twin.copy_(parameter)
    return Race(record, ours, theirs, options)


def _run(
    race: Race,
    batches: Batches,
    report: TrainingReport,
    file: Checkpoint | None,
    every: int,
    on_step: Callable[[Trajectory], None] | None,
) -> None:
    """Step until the planned number is reached; the last step's histograms also after Ctrl-C."""
    record = race.record
    stream = batches.skip(record.steps)
    try:
        while record.steps < record.planned and not race.over:
            race.step(next(stream))
            if file is not None and record.steps % every == 0:
                file.write(report, race.state())
            if on_step is not None:
                on_step(record)
        if record.power is None:
            race.measure_power(batches)
    finally:
        race.finish()


def _known_power(report: TrainingReport, record: Trajectory) -> PowerReport | None:
    """Of a training that began at the same state: another optimizer shows no more."""
    same = (r for r in report.runs if (r.dtype, r.seed) == (record.dtype, record.seed))
    return next((r.power for r in same if r.power is not None), None)


def _check(
    candidate: Any, reference: Any, steps: int, seeds: Sequence[int], twins: int,
    exact: bool, every: int,
) -> None:  # fmt: skip
    for what, arm in (("candidate", candidate), ("reference", reference)):
        if not isinstance(arm, nn.Module):
            raise TypeError(
                f"expected the {what} to be a torch.nn.Module, got {arm!r}; "
                "compare_gradients takes functions"
            )
    if candidate.training != reference.training:
        raise ValueError(
            "expected both modules in the same mode, got one in train() and one in eval()"
        )
    least = 0 if exact else MIN_TWINS
    for what, got, low in (("steps", steps, 1), ("checkpoint_every", every, 1),
                           ("seeds", len(seeds), 1), ("twins", twins, least)):  # fmt: skip
        if got < low:
            raise ValueError(f"expected {what} to be at least {low}, got {got}")
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"expected seeds that differ, got {list(seeds)}")


def _setup(
    ours: Subject, theirs: Subject, pairs: Mapping[str, Pair], loss: Loss,
    candidate_loss: Loss | None, dtypes: Sequence[torch.dtype], steps: int, seeds: Sequence[int],
    twins: int, exact: bool,
) -> dict[str, str]:  # fmt: skip
    """What is run, in words."""
    shown = {
        "candidate": ours.name,
        "reference": theirs.name,
        "loss": _name(loss),
        "candidate's loss": _name(candidate_loss or loss),
        "steps": str(steps),
        "seeds": ", ".join(map(str, seeds)),
        "dtypes": ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes),
        "twins": str(twins),
        "rule": "bit-exact" if exact else "inside the envelope of the twins",
    }
    for name, makes in pairs.items():
        shown[f"optimizer {name}"] = described(makes[0])
        if makes[0] is not makes[1]:
            shown[f"optimizer {name}"] += f"; reference {described(makes[1])}"
    return shown


def _name(loss: Loss) -> str:
    return getattr(loss, "__name__", type(loss).__name__)
