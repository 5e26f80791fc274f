"""What kind of wrong a gradient is, seen from which rows of the batch are wrong in it."""

from __future__ import annotations

from manualbp.parity.diagnosis.evidence import Pattern, Suspect, factor_of, last_where, listed, tile
from manualbp.parity.diagnosis.kinds.slopes import derivative, mask
from manualbp.parity.diagnosis.row_probes import Batch


def scaled_rows(s: Suspect, batch: Batch) -> Pattern | None:
    """c_n = k o_n for some rows, c_n = o_n for all others."""
    runs, factors = batch.wrong(s), []
    if not runs:
        return None
    for start, stop in runs:
        part = batch.part(s, start, stop)
        k = float("nan") if part is None else factor_of(part.c, part.o)
        if part is None or not part.is_(k * part.o, max(1.0, abs(k)) * part.s):
            return None
        factors.append(k)
    rows = listed("row", runs, batch.rows)
    many = "s" if sum(b - a for a, b in runs) > 1 else ""
    if all(abs(k) < 1e-3 for k in factors):
        words, step = f"the contribution of {rows} is missing", "let the sum run over every row"
    elif all(abs(k - 2) < max(1e-3, 4 * s.eps) for k in factors):
        words, step = f"{rows} counted twice", "let the sum take every row once"
    else:
        shown = ", ".join(f"{k:.4g}" for k in factors[:4])
        words, step = f"{rows} count{'' if many else 's'} {shown} times", "give every row weight 1"
    words += tile(runs, batch.rows)
    step = f"in the backward of {s.layer}, {step}"
    return Pattern("rows", words, step, tuple(runs))


def wrong_rows(s: Suspect, batch: Batch) -> Pattern | None:
    """c_n = o_n for all rows but some few, or but a run of them at an edge of the batch."""
    runs = batch.wrong(s)
    count = sum(b - a for a, b in runs)
    at_edge = len(runs) == 1 and batch.rows in runs[0]
    if not runs or (2 * count > batch.rows and not at_edge):
        return None
    words = f"wrong only in {listed('row', runs, batch.rows)}{tile(runs, batch.rows)}"
    return Pattern("rows", words, f"look at what the backward of {s.layer} does for these rows",
                   tuple(runs))  # fmt: skip


def long_batches(s: Suspect, batch: Batch) -> Pattern | None:
    """Right for batches of n rows, wrong for n + 1: n by bisection."""
    whole = batch.first(s, batch.rows)
    if whole is None or whole.right or not _right(batch.first(s, 1)):
        return None
    low = last_where(lambda n: _right(batch.first(s, n)), 1, batch.rows)
    high = low + 1
    if batch.first(s, high) is None:  # not wrong: it cannot be run
        return None
    words = f"right for batches of up to {low} row{'s' * (low > 1)}, wrong from {high} on"
    step = f"look at what the backward of {s.layer} does differently from {high} rows on"
    return Pattern("batch length", words, step, high)


BY_ROW = (mask, derivative, scaled_rows)
ROWS_AT_LARGE = (wrong_rows, long_batches)


def _right(part: Suspect | None) -> bool:
    return part is not None and bool(part.o.any()) and part.right
