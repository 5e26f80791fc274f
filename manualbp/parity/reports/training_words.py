"""What a comparison of trainings found, in words."""

from __future__ import annotations

from manualbp.parity.record import DIFFER, NO_POWER, NOT_JUDGED
from manualbp.parity.reports.charts import drift_share
from manualbp.parity.reports.words import (
    Section,
    count,
    next_lines,
    power_lines,
    some,
    wrong_in_words,
)
from manualbp.parity.training_record import First, TrainingReport, Trajectory

COLUMNS = (
    "optimizer", "dtype", "seed", "steps", "largest drift\nover allowed", "in",
    "first step\noutside", "first wrong\ngradient", "verdict",
)  # fmt: skip


def rows(report: TrainingReport, *, verbose: bool = False) -> list[tuple[str, ...]]:
    """One row for each training."""
    return [_row(run) for run in report.runs]


def sections(report: TrainingReport, *, verbose: bool = False) -> list[Section]:
    """What was wrong in each training, and why its power does not suffice."""
    found = ((run, run_lines(run, verbose=verbose)) for run in report.runs)
    return [Section(f"{run.name}: {run.verdict}", lines) for run, lines in found if lines]


def _row(run: Trajectory) -> tuple[str, ...]:
    largest = drift_share(run)
    return (
        run.optimizer, run.dtype, str(run.seed), f"{run.steps} of {run.planned}",
        f"{largest.value:.2g}" if largest else "-", largest.tensor if largest else "-",
        str(run.outside.step) if run.outside else "-", str(run.forced.step) if run.forced else "-",
        run.verdict,
    )  # fmt: skip


def run_lines(run: Trajectory, *, verbose: bool = False) -> tuple[str, ...]:
    """What was wrong in one training, and why its power does not suffice."""
    lines = wrong_lines(run)
    for finding in run.findings:
        lines.append("; ".join([wrong_in_words(None, finding), *next_lines(finding)]))
    if run.power and (verbose or run.power.missing):
        lines += [f"power: {line}" for line in power_lines(run.power, verbose=verbose)]
    return tuple(lines)


def wrong_lines(run: Trajectory) -> list[str]:
    """What was wrong first, and why it could not go on."""
    lines = []
    for what, first in (("wrong gradient at the reference's state", run.forced),
                        ("outside the envelope", run.outside)):  # fmt: skip
        if first:
            lines.append(f"first {what}: step {first.step}, {_where(first)}{first.reason}")
    if run.broken:
        lines.append(f"could not be judged further: {run.broken}")
    if run.steps < run.planned:
        lines.append(f"stopped after {run.steps} of {run.planned} steps")
    return lines


def reason(report: TrainingReport) -> str:
    """Why the verdict is what it is, in one clause."""
    runs = report.runs
    wrong = [run for run in runs if run.verdict == DIFFER]
    if wrong:
        first = wrong_lines(wrong[0])[0]
        return f"{len(wrong)} of {count(len(runs), 'training')}; {wrong[0].name}: {first}"
    if report.verdict == NOT_JUDGED:
        left = next(run for run in runs if run.verdict == NOT_JUDGED)
        return f"{left.name}: {left.broken}"
    if report.interrupted:
        steps = sum(run.steps for run in runs)
        return f"interrupted after {count(steps, 'step')}; nothing differed until then"
    if not runs:
        return "no training was run; give optimizers, seeds and at least one step"
    weak = [run for run in runs if run.verdict == NO_POWER]
    if weak:
        missing = weak[0].power.missing if weak[0].power else ()
        why = missing[0] if missing else "no step was completed"
        return f"nothing differs, but a fault would not show in {weak[0].name}: {why}"
    how = "in every bit" if report.bit_identical else "within rounding"
    done = f"{count(len(runs), 'training')}, {count(sum(r.steps for r in runs), 'step')}, {how}"
    none = [run.name for run in runs if run.lowered]
    return f"{done}; not judged: {some(none)}" if none else done


def _where(first: First) -> str:
    """The tensors it was seen in; nothing where the reason begins with the only one."""
    named = len(first.tensors) == 1 and first.reason.startswith(first.tensors)
    return "" if named else f"in {some(first.tensors)}: "
