"""The verdicts on the gradient cases: as a table, as lines, and as files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from comparisons import cli, machine
from manualbp.parity import GradientReport, TensorReport
from manualbp.parity.reports.markdown import markdown_table
from manualbp.parity.reports.words import scientific

if TYPE_CHECKING:
    from comparisons.gradients import Case

JSON, MARKDOWN = "gradients.json", "gradients.md"
COLUMNS = ["case", "tensor", "max\nabs", "max\nrel", "ULP", "manual\n- fp64", "autograd\n- fp64",
           "NumPy\n- fp64", "bit-\nequal", "verdict"]  # fmt: skip
NUMBERS = ("max_abs", "max_rel", "ulp", "candidate_error", "reference_error", "oracle_difference")
LEGEND = (
    "max abs, max rel, ULP: manualbp against autograd. manual/autograd - fp64: rms distance to "
    "the float64 run of\nthe same network. NumPy - fp64: the oracle's distance, relative to "
    "the size of the sums (at most 1e-12)."
)


class Verdicts(NamedTuple):
    """What was found, how long it took, and where: ``machine.description``."""

    results: Sequence[tuple[Case, GradientReport]]
    seed: int
    seconds: float
    machine: Mapping[str, str | int]

    @property
    def agree(self) -> bool:
        """Of all cases."""
        return all(report.agrees for _, report in self.results)


def rows(found: Verdicts, verbose: bool) -> list[list[str]]:
    """The worst tensor of each case, or every tensor."""
    listed = []
    for case, report in found.results:
        same = sum(tensor.bit_identical for tensor in report.tensors)
        for tensor in report.tensors if verbose else (report.worst,):
            bits = ("yes" if tensor.bit_identical else "no") if verbose else (
                f"{same}/{len(report.tensors)}"
            )  # fmt: skip
            listed.append([case.id, *_cells(tensor), bits, "agree" if tensor.agrees else "DIFFER"])
    return listed


def lines(found: Verdicts) -> list[str]:
    """What differs and why, what was planted, and the verdict last."""
    said = []
    for case, report in found.results:
        said += [f"DIFFER {case.id} {tensor.name}: {tensor.reason}" for tensor in report.differing]
        missing = report.power.missing if report.power else ()
        said += [f"NO POWER {case.id}: {reason}" for reason in missing]
    reports = [report for _, report in found.results]
    planted = [fault for report in reports if report.power for fault in report.power.planted]
    tensors = [tensor for report in reports for tensor in report.tensors]
    same = sum(tensor.bit_identical for tensor in tensors)
    bad = sum(not report.agrees for report in reports)
    return [
        *said,
        f"Planted into the gradients: {len(planted)} standard faults, "
        f"{sum(fault.caught for fault in planted)} caught.",
        f"{len(reports)} cases, {len(tensors)} tensors, {same} bit-identical: "
        f"{'all agree' if not bad else f'{bad} cases DIFFER'} ({found.seconds:.1f} s)",
    ]


def write(found: Verdicts, folder: Path) -> Sequence[Path]:
    """gradients.json and gradients.md, each whole or not at all; earlier ones are replaced.

    Raises:
        UsageError: the folder cannot be made or written.
    """
    text = json.dumps(record(found), indent=1, allow_nan=False) + "\n"
    return cli.write_texts(folder, {JSON: text, MARKDOWN: page(found)}, "--output")


def record(found: Verdicts) -> dict[str, Any]:
    """Every case with the numbers of its worst tensor, for JSON; NaN and infinity are strings."""
    return {
        "machine": dict(found.machine),
        "seed": found.seed,
        "seconds": found.seconds,
        "agree": found.agree,
        "cases": [_case(case, report) for case, report in found.results],
    }


def _case(case: Case, report: GradientReport) -> dict[str, Any]:
    planted = report.power.planted if report.power else ()
    return {
        "case": case.id,
        "device": case.device,
        "agrees": report.agrees,
        "tensors": len(report.tensors),
        "bit_identical": sum(tensor.bit_identical for tensor in report.tensors),
        "worst": {"tensor": report.worst.name}
        | {name: _number(getattr(report.worst, name)) for name in NUMBERS},
        "differing": {tensor.name: tensor.reason for tensor in report.differing},
        "planted": len(planted),
        "caught": sum(fault.caught for fault in planted),
    }


def _number(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)


def page(found: Verdicts) -> str:
    """The table, the lines and the machine, in Markdown."""
    said = lines(found)
    columns = [column.replace("-\n", "-").replace("\n", " ") for column in COLUMNS]
    where = [[name, str(value)] for name, value in found.machine.items()]
    parts = [
        f"# Gradients on {machine.place(found.machine)}",
        "\n".join(f"- {line}" for line in reversed(said)),
        markdown_table(columns, rows(found, verbose=False)),
        LEGEND.replace("\n", " "),
        markdown_table(["machine", "value"], [["seed", str(found.seed)], *where]),
    ]
    return "\n\n".join(parts) + "\n"


def _cells(tensor: TensorReport) -> list[str]:
    numbers = [tensor.candidate_error, tensor.reference_error, tensor.oracle_difference]
    ulp = "-" if tensor.ulp is None else scientific(tensor.ulp) if tensor.ulp > 9999 else None
    return [
        tensor.name, scientific(tensor.max_abs), scientific(tensor.max_rel),
        ulp or str(tensor.ulp), *map(scientific, numbers),
    ]  # fmt: skip
