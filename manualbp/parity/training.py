r"""Do two modules train alike? Every optimizer, dtype and seed, judged without a tolerance.

    each by itself        inside the envelope of the reference's twins?     free_running.py
    at the same state     the candidate's gradient right at every step?     teacher_forced.py

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
from manualbp.parity.arms.checks import check_seeds, check_whole
from manualbp.parity.arms.parameters import borrowed
from manualbp.parity.arms.trainee import MakeOptimizer
from manualbp.parity.training_record import TrainingReport, Trajectory
from manualbp.parity.trajectories.checkpoint import Checkpoint, module_hash
from manualbp.parity.trajectories.one_training import OneTraining
from manualbp.parity.trajectories.plan import OptimizerPair, Plan, pairs_of
from manualbp.parity.trajectories.signals import Held, held
from manualbp.parity.versions import versions

OnStep = Callable[[Trajectory], None]


def compare_training(
    candidate: nn.Module,
    reference: nn.Module,
    data: Any,
    loss: Loss,
    optimizers: Collection[str] | Mapping[str, MakeOptimizer | OptimizerPair] = ("sgd", "adam"),
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
    checkpoint_seconds: float = 60.0,
    on_step: OnStep | None = None,
) -> TrainingReport:
    """Train both modules, once for each optimizer, dtype and seed, and judge every step.

    Args:
        candidate: the module under test. It is neither copied nor replaced.
        reference: what it should train like; it can be copied, and its names are the ones reported.
        data: a list of batches (inputs, target), any iterable of them that can be read again, or a
            function of the seed that makes one. Where it ends before ``steps``, it is read again.
            Inputs are as for ``compare_gradients``.
        loss: ``loss(output, target)``, one number; ``loss(output)`` where the target is None.
        optimizers: names out of sgd, momentum, adam, adamw; or a name -> function of the parameters
            that makes the optimizer, or -> two of them, the candidate's and the reference's.
        steps: of each training.
        seeds: of the data, of random layers and of the start: the first starts at the parameters as
            they are, the others 10 % of each parameter's rms away from them.
        dtypes: in which to train; by default the one of the reference's parameters, and float64.
        parameters: the candidate's name of a parameter -> the reference's, where they differ.
        candidate_loss: the candidate's own loss; ``loss`` by default.
        twins: copies of the reference that train as well, for the envelope.
        teacher_forced: also judge the candidate's gradient at the reference's state at every step.
        exact: any other bit is a difference.
        checkpoint: a file to go on from. Called again with the same arguments, the report is the
            one that an undisturbed call would have given, to the bit. Of a module the file holds
            parameters and buffers, nothing else.
        checkpoint_every: steps between two writes of that file.
        checkpoint_seconds: after which it is written as well, however few steps there were; no
            number of the report depends on it.
        on_step: called with the Trajectory after each step.

    Ctrl-C ends it: the report of what was done is returned, with ``interrupted`` set. With a
    checkpoint, Ctrl-C and SIGTERM wait for the end of the step and write it first; then SIGTERM
    does what it did before, by default it ends the process. A second one does not wait. Whatever
    happens, neither module is changed: no parameter, ``.grad``, buffer, mode or random state.

    Returns:
        A TrainingReport; its ``verdict`` is the worst of its trainings'.

    Raises:
        ValueError: parameters differ or are shared, a name, number or batch is of no use, or the
            checkpoint is damaged or of another call.
        TypeError: an arm is no module, data or loss are nothing to train with, or a number or dtype
            is none.
        OSError: the checkpoint cannot be written.

    Example:
        >>> import copy
        >>> import torch
        >>> from torch import nn
        >>> from manualbp.parity import compare_training
        >>> ours = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        >>> data = [(torch.randn(8, 4), torch.randn(8, 2)) for _ in range(4)]
        >>> report = compare_training(ours, copy.deepcopy(ours), data, nn.MSELoss(), steps=4)
        >>> [run.name for run in report.runs if run.bit_identical][:2], report.bit_identical
        (['sgd-float32-seed0', 'sgd-float64-seed0'], True)
    """
    plan = Plan(
        candidate=candidate, reference=reference, data=data, loss=loss,
        candidate_loss=loss if candidate_loss is None else candidate_loss,
        optimizers=pairs_of(optimizers), steps=check_whole("steps", steps, 1),
        seeds=check_seeds(seeds), dtypes=dtypes, parameters=parameters, twins=twins,
        teacher_forced=teacher_forced, exact=exact,
    )  # fmt: skip
    ours, theirs = plan.check()
    check_whole("checkpoint_every", checkpoint_every, 1)
    if not checkpoint_seconds >= 0:  # NaN, too
        raise ValueError(f"expected checkpoint_seconds to be at least 0, got {checkpoint_seconds}")
    setup, hashes = plan.setup(ours, theirs) | versions(), plan.data_hashes()
    report, file = TrainingReport(ours.name, theirs.name, setup=setup), None
    if checkpoint is not None:
        hashes["the candidate's parameters"] = module_hash(candidate)
        hashes["the reference's parameters"] = module_hash(reference)
        file = Checkpoint(checkpoint, setup | hashes, checkpoint_every, checkpoint_seconds)
    saved = file.read(plan) if file else None
    return _train_all(plan, *(saved or (report, None)), file, on_step)


def _train_all(
    plan: Plan, report: TrainingReport, state: dict[str, Any] | None, file: Checkpoint | None,
    on_step: OnStep | None,
) -> TrainingReport:  # fmt: skip
    """The trainings that the report does not have yet; ``state`` is of one that is under way."""
    trainings = list(product(plan.optimizers, plan.all_dtypes, plan.seeds))
    for optimizer, dtype, seed in trainings[len(report.runs) - (state is not None) :]:
        if state is None:
            name = str(dtype).removeprefix("torch.")
            record = Trajectory(optimizer, name, seed, plan.steps)
            # Another optimizer that begins at the same state shows no more.
            same = (r for r in report.runs if (r.dtype, r.seed) == (record.dtype, record.seed))
            record.power = next((r.power for r in same if r.power is not None), None)
            report.runs.append(record)
        else:
            record = report.runs[-1]
        try:
            with held(file is not None) as signals:
                with borrowed(plan.candidate, plan.reference):
                    training = OneTraining(plan, record, dtype)
                    if state is not None:
                        _load(training, state, file)
                        state = None
                    _train(training, Batches(plan.data, seed), report, file, on_step, signals)
                if file is not None:
                    file.write(report, None)
        except KeyboardInterrupt:
            report.interrupted = True
            return report
    return report


def _load(training: OneTraining, state: dict[str, Any], file: Checkpoint | None) -> None:
    """Go on from a checkpoint's state."""
    assert file is not None
    try:
        training.load(state)
    except Exception as error:  # keys and shapes are whatever the file says
        raise file.refused(f"{type(error).__name__} in the state of a training") from error


def _train(
    training: OneTraining, batches: Batches, report: TrainingReport, file: Checkpoint | None,
    on_step: OnStep | None, signals: Held,
) -> None:  # fmt: skip
    """Step until the planned number is reached; the last step's histograms also after Ctrl-C."""
    record = training.record
    stream = batches.skip(record.steps)
    try:
        while record.steps < record.planned and not training.over:
            training.step(next(stream))
            more = record.steps < record.planned and not training.over
            if file and more and (signals.waiting or file.due(record.steps)):
                file.write(report, training.state())
            if more:  # else when the training is written as a whole
                signals.deliver()
            if on_step is not None:
                on_step(record)
        if record.power is None:
            training.measure_power(batches)
    finally:
        training.finish()
