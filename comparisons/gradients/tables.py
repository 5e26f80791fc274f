"""The verdicts on the gradient cases: as a table, as lines, as a record and a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from comparisons import machine
from comparisons.gradients.cases import Case
from comparisons.output import Table, markdown_values
from manualbp.parity import GradientReport, TensorReport
from manualbp.parity.reports.words import scientific

COLUMNS = ["case", "tensor", "max\nabs", "max\nrel", "ULP", "manual\n- fp64", "autograd\n- fp64",
           "NumPy\n- fp64", "bit-\nequal", "verdict"]  # fmt: skip
NUMBERS = ("max_abs", "max_rel", "ulp", "candidate_error", "reference_error", "oracle_difference")
LEGEND = (
    "max abs, max rel, ULP: manualbp against autograd. manual/autograd - fp64: rms distance to "
    "the float64 run of\nthe same network. NumPy - fp64: the oracle's distance, relative to "
    "the size of the sums (at most 1e-12)."
)


class Verdicts(NamedTuple):
    """The report on each case, how long all took, and on which machine."""

    results: Sequence[tuple[Case, GradientReport]]
    seed: int
    seconds: float
    machine: Mapping[str, str | int]

    @property
    def agree(self) -> bool:
        """Whether all cases do."""
        return all(report.agrees for _, report in self.results)


def table(found: Verdicts, verbose: bool) -> Table:
    """The worst tensor of each case, or every tensor."""
    what = "every tensor" if verbose else "the worst tensor of each case"
    rows = []
    for case, report in found.results:
        for tensor in report.tensors if verbose else (report.worst,):
            bits = f"{_same(report)}/{len(report.tensors)}"
            if verbose:
                bits = "yes" if tensor.bit_identical else "no"
            rows.append([case.id, *_cells(tensor), bits, "agree" if tensor.agrees else "DIFFER"])
    return Table(f"Gradients: manualbp against autograd, {what}", COLUMNS, rows)


def lines(found: Verdicts) -> list[str]:
    """What differs and why, what was planted, and the verdict last."""
    said = []
    for case, report in found.results:
        said += [f"DIFFER {case.id} {tensor.name}: {tensor.reason}" for tensor in report.differing]
        missing = report.power.missing if report.power else ()
        said += [f"NO POWER {case.id}: {reason}" for reason in missing]
    reports = [report for _, report in found.results]
    planted = [fault for report in reports if report.power for fault in report.power.planted]
    tensors = sum(len(report.tensors) for report in reports)
    bad = sum(not report.agrees for report in reports)
    return [
        *said,
        f"Planted into the gradients: {len(planted)} standard faults, "
        f"{sum(fault.caught for fault in planted)} caught.",
        f"{len(reports)} cases, {tensors} tensors, {sum(map(_same, reports))} bit-identical: "
        f"{'all agree' if not bad else f'{bad} cases DIFFER'} ({found.seconds:.1f} s)",
    ]


def record(found: Verdicts) -> dict[str, Any]:
    """Every case with the numbers of its worst tensor, for JSON; NaN and infinity are strings."""
    return {
        "machine": dict(found.machine),
        "seed": found.seed,
        "seconds": found.seconds,
        "agree": found.agree,
        "cases": [_case_record(case, report) for case, report in found.results],
    }


def _case_record(case: Case, report: GradientReport) -> dict[str, Any]:
    planted = report.power.planted if report.power else ()
    return {
        "case": case.id,
        "device": case.device,
        "agrees": report.agrees,
        "tensors": len(report.tensors),
        "bit_identical": _same(report),
        "worst": {"tensor": report.worst.name}
        | {name: _number(getattr(report.worst, name)) for name in NUMBERS},
        "differing": {tensor.name: tensor.reason for tensor in report.differing},
        "planted": len(planted),
        "caught": sum(fault.caught for fault in planted),
    }


def page(found: Verdicts) -> str:
    """The table, the lines and the machine, in Markdown."""
    parts = [
        f"# Gradients on {machine.place(found.machine)}",
        "\n".join(f"- {line}" for line in reversed(lines(found))),
        table(found, verbose=False).markdown(),
        LEGEND.replace("\n", " "),
        markdown_values("machine", {"seed": found.seed, **found.machine}),
    ]
    return "\n\n".join(parts) + "\n"


def _same(report: GradientReport) -> int:
    """How many tensors are bit-identical."""
    return sum(tensor.bit_identical for tensor in report.tensors)


def _number(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)


def _cells(tensor: TensorReport) -> list[str]:
    numbers = [tensor.candidate_error, tensor.reference_error, tensor.oracle_difference]
    ulp = "-" if tensor.ulp is None else scientific(tensor.ulp) if tensor.ulp > 9999 else None
    return [
        tensor.name, scientific(tensor.max_abs), scientific(tensor.max_rel),
        ulp or str(tensor.ulp), *map(scientific, numbers),
    ]  # fmt: skip
