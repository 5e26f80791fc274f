r"""One forward and one backward on two arms, held together tensor by tensor.

    candidate  (working dtype) ----\
    reference  (working dtype) -----+--> outputs, loss, input gradients, every parameter gradient
    float64 run of the reference --/     the oracle; pairs of twins say what rounding may do

Checked before any number: the output has the reference's nesting, nothing was raised or written
over, every gradient is there where the reference has one and nowhere else, shapes and dtypes are
equal. Then comes the rule of limits.py, for several random cotangents.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils import _pytree as pytree

from manualbp.parity.arms.calls import Call, Loss, named
from manualbp.parity.arms.checks import check_dtype, check_loss, check_seeds
from manualbp.parity.arms.parameters import borrowed, check_parameters
from manualbp.parity.arms.runs import RUN_KINDS
from manualbp.parity.arms.subject import move, subject
from manualbp.parity.diagnosis.found import Found
from manualbp.parity.judge.comparison import Comparison
from manualbp.parity.judge.yardstick import Twins
from manualbp.parity.record import (
    Check,
    GradientReport,
    TensorReport,
)
from manualbp.parity.reports.page import explain
from manualbp.parity.repro import save_repro
from manualbp.parity.versions import versions


def compare_gradients(
    candidate: Any,
    reference: Any,
    inputs: Any,
    loss: Loss | None = None,
    *,
    target: Any = None,
    candidate_loss: Loss | None = None,
    parameters: Mapping[str, str] | None = None,
    oracle: Mapping[str, NDArray[Any]] | None = None,
    cotangent: Any = None,
    seeds: Sequence[int] = (0, 1, 2),
    also: Collection[str] = (),
    exact: bool = False,
    power: bool = True,
    situations: bool = True,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    repro: str | os.PathLike[str] | None = None,
    on_check: Callable[[Check], None] | None = None,
) -> GradientReport:
    """Compare outputs, losses and all gradients of two arms that compute the same.

    A tensor agrees whose distance from a float64 run is at most twice the reference's own, plus
    rounding (judge/limits.py): there is no tolerance to choose.

    Args:
        candidate: the module, function or ``torch.autograd.Function`` under test.
        reference: what it should equal; its parameter names are the ones reported.
        inputs: one tensor, a tuple of arguments (tuples, lists, dicts and tensors in any nesting),
            a dict of keyword arguments, or a function of the seed that makes them; floating-point
            tensors get a gradient. Dataclasses and other objects are opened, in outputs too.
        loss: ``loss(output)``, or ``loss(output, target)`` where a target is given; a scalar or any
            shape. None: each output has a random cotangent of its own.
        target: passed to the loss as it is (in float64 for the float64 run).
        candidate_loss: the candidate's own loss; ``loss`` by default.
        parameters: the candidate's name of a parameter -> the reference's, where they differ.
        oracle: independently computed float64 arrays by tensor name (``output``, ``loss``,
            ``input.grad``, ``0.weight.grad``); they must meet the float64 run within 1e-12.
        cotangent: what the loss or the output is multiplied with on the way back (a tensor, or the
            output's structure of them); random by default, which shows a backward that forgets
            its grad_output.
        seeds: of the cotangents, the twins and any random layer: one check each.
        also: further runs: ``second_order``, ``forward_mode``, ``vmap``, ``autocast``.
        exact: ask for the reference's bits.
        power: plant standard faults into the candidate's gradients and refuse to agree where one
            of them is not seen.
        situations: run the candidate in the situations of judge/situations.py as well.
        dtype: of both modules and the inputs, for the comparison.
        device: of both modules and the inputs, for the comparison.
        repro: a file to write first, which ``python -m manualbp.parity replay FILE`` runs again.
        on_check: called with each check when it is done, one for each seed and kind of run.

    Neither module is changed: no parameter, ``.grad``, buffer, mode or global random state.

    Returns:
        A GradientReport; its ``verdict`` is "agree", "DIFFER", "NOT JUDGED" or "NO POWER".

    Raises:
        ValueError: the parameters of the two modules differ before anything is run, the reference
            cannot be run (also in float64), a name or option is unknown, or an arm cannot be
            written to ``repro``.
        TypeError: an arm, an input, a loss, a seed or a dtype is nothing that can be compared with.
        OSError: ``repro`` cannot be written.

    Example:
        >>> import torch
        >>> from manualbp.parity import compare_gradients
        >>> def silu(x):
        ...     return x * torch.sigmoid(x).detach()  # half of its gradient is missing
        >>> report = compare_gradients(silu, torch.nn.functional.silu, torch.randn(8, 6))
        >>> report.verdict, [tensor.name for tensor in report.differing]
        ('DIFFER', ['input.grad'])
    """
    kinds, seeds = ("backward", *_known(also)), check_seeds(seeds)
    _check_options(loss, target, candidate_loss, dtype)
    ours, theirs = subject(candidate, parameters), subject(reference)
    check_parameters(ours, theirs)
    if repro is not None:
        settings = dict(
            loss=loss, target=target, candidate_loss=candidate_loss, parameters=parameters,
            oracle=oracle, cotangent=cotangent, seeds=seeds, also=also, exact=exact, power=power,
            situations=situations, dtype=dtype, device=device,
        )  # fmt: skip
        save_repro(repro, candidate, reference, inputs, settings)
    modules = [arm for arm in (candidate, reference) if isinstance(arm, nn.Module)]
    with borrowed(*modules):
        for module in modules:
            move(module, dtype, device)
        twins = Twins.of(theirs)
        checks: list[Check] = []
        setup: dict[str, str] = {}
        found, comparison = Found(power, situations), None
        for seed, kind in product(seeds, kinds):
            del comparison  # each holds many copies
            comparison = Comparison(
                kind, ours, theirs, Call.of(inputs, loss, target, seed).to(dtype, device),
                candidate_loss=candidate_loss, cotangent=cotangent, exact=exact, twins=twins,
            )  # fmt: skip
            reports = comparison.with_oracle(oracle or {})
            checks.append(Check(kind, seed, _with_inputs_named(reports, comparison)))
            if on_check is not None:
                on_check(checks[-1])
            found.take(comparison)
            setup = setup or _setup(comparison, kinds, seeds)
    return GradientReport(
        ours.name, theirs.name, tuple(checks), found.power, found.all_findings, setup,
        None if repro is None else os.fspath(repro), found.situations,
    )  # fmt: skip


def assert_gradients_match(
    candidate: Any, reference: Any, inputs: Any, loss: Loss | None = None, **options: Any
) -> GradientReport:
    """``compare_gradients`` for a test: the report where they agree.

    Args:
        candidate: as for ``compare_gradients``, like all others.
        reference: what it should equal.
        inputs: what both are called with.
        loss: of the output; random cotangents by default.
        **options: the other arguments of ``compare_gradients``.

    Returns:
        The GradientReport.

    Raises:
        AssertionError: they differ, or a fault would not show; the whole report in words.
        ValueError, TypeError, OSError: as ``compare_gradients``.

    Example:
        >>> import torch
        >>> from manualbp.parity import assert_gradients_match
        >>> def silu(x):
        ...     return x * torch.sigmoid(x)
        >>> x = torch.randn(8, 6)
        >>> assert_gradients_match(silu, torch.nn.functional.silu, x, seeds=(0,)).verdict
        'agree'
    """
    report = compare_gradients(candidate, reference, inputs, loss, **options)
    if not report.agrees:
        raise AssertionError("\n" + explain(report))
    return report


def _known(also: Collection[str]) -> tuple[str, ...]:
    names = (also,) if isinstance(also, str) else tuple(also)
    for name in names:
        if name not in RUN_KINDS:
            raise ValueError(f"expected also out of {', '.join(RUN_KINDS)}, got {name!r}")
    return tuple(name for name in RUN_KINDS if name in names and name != "backward")


def _check_options(loss: Any, target: Any, candidate_loss: Any, dtype: Any) -> None:
    for what, given in (("loss", loss), ("candidate_loss", candidate_loss)):
        if given is not None:
            check_loss(what, given)
    for what, given in (("target", target), ("candidate_loss", candidate_loss)):
        if given is not None and loss is None:
            raise ValueError(f"expected a loss with {what}, got none; pass loss=")
    if dtype is not None:
        check_dtype("dtype", dtype)


def _with_inputs_named(
    reports: tuple[TensorReport, ...], comparison: Comparison
) -> tuple[TensorReport, ...]:
    """The reports, where the inputs say why: they have no row, or what was given is NaN already."""
    given = comparison.call.leaves
    if given and not any(x.numel() for x in given.values()):
        shown = ", ".join(f"{name} {tuple(x.shape)}" for name, x in given.items())
        why = f"the inputs have no row ({shown}), so nothing can be judged; pass some with rows"
        return tuple(replace(r, agrees=False, unjudged=True, reason=why) if r.agrees else r
                     for r in reports)  # fmt: skip
    parameters = comparison.reference.parameters
    target = named(comparison.call.target, lambda path: "target" + pytree.keystr(path))
    counts = {n: int(x.isnan().sum()) for n, x in {**given, **target, **parameters}.items()}
    said = "".join(f"; {name} has {count} NaN" for name, count in counts.items() if count)
    return tuple(r if r.agrees or not said else replace(r, reason=r.reason + said) for r in reports)


def _setup(first: Comparison, kinds: Sequence[str], seeds: Sequence[int]) -> dict[str, str]:
    """What was run, in words."""
    inputs = {n: f"{tuple(x.shape)} {x.dtype}" for n, x in first.call.leaves.items()}
    return {
        "inputs": ", ".join(f"{n} {shown}" for n, shown in inputs.items()).replace("torch.", ""),
        "loss": "random cotangents of the outputs" if first.call.loss is None
        else getattr(first.call.loss, "__name__", type(first.call.loss).__name__),
        "checks": ", ".join(kinds),
        "seeds": ", ".join(map(str, dict.fromkeys(seeds))),
        "rule": "bit-exact" if first.exact
        else "at most 2 x the reference's own error, plus rounding",
        **versions(),
    }  # fmt: skip
