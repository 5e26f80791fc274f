"""Kinds seen from which rows of the batch contribute wrongly."""

from __future__ import annotations

from manualbp.parity.diagnosis.contributions import (
    contribution,
    last_where,
    of_shorter_batch,
    wrong_spans,
)
from manualbp.parity.diagnosis.evidence import Pattern, Suspect, factor_of
from manualbp.parity.diagnosis.wording import listed, tile


def scaled_rows(s: Suspect) -> Pattern | None:
    """c_n = k o_n for some rows, c_n = o_n for all others."""
    found, factors, count = wrong_spans(s), [], s.evidence.rows or 0
    if not found:
        return None
    for start, stop in found:
        part = contribution(s, start, stop)
        k = float("nan") if part is None else factor_of(part.c, part.o)
        if part is None or not part.is_(k * part.o, max(1.0, abs(k)) * part.s):
            return None
        factors.append(k)
    rows = listed("row", found, count)
    many = "s" if sum(b - a for a, b in found) > 1 else ""
    if all(abs(k) < 1e-3 for k in factors):
        words, step = f"the contribution of {rows} is missing", "let the sum run over every row"
    elif all(abs(k - 2) < max(1e-3, 4 * s.eps) for k in factors):
        words, step = f"{rows} counted twice", "let the sum take every row once"
    else:
        shown = ", ".join(f"{k:.4g}" for k in factors[:4])
        words, step = f"{rows} count{'' if many else 's'} {shown} times", "give every row weight 1"
    words += tile(found, count)
    return Pattern("rows", words, f"in the backward of {s.layer}, {step}", tuple(found))


def wrong_rows(s: Suspect) -> Pattern | None:
    """c_n = o_n for all rows but a few, or but a span of them at an edge of the batch."""
    found, rows = wrong_spans(s), s.evidence.rows or 0
    count = sum(b - a for a, b in found)
    at_edge = len(found) == 1 and rows in found[0]
    if not found or (2 * count > rows and not at_edge):
        return None
    words = f"wrong only in {listed('row', found, rows)}{tile(found, rows)}"
    return Pattern("rows", words, f"look at what the backward of {s.layer} does for these rows",
                   tuple(found))  # fmt: skip


def long_batches(s: Suspect) -> Pattern | None:
    """Right for batches of n rows, wrong for n + 1: n by bisection."""
    rows = s.evidence.rows or 0
    whole = of_shorter_batch(s, rows)
    if whole is None or whole.right or not _right(of_shorter_batch(s, 1)):
        return None
    low = last_where(lambda n: _right(of_shorter_batch(s, n)), 1, rows)
    high = low + 1
    if of_shorter_batch(s, high) is None:  # not wrong: it cannot be run
        return None
    words = f"right for batches of up to {low} row{'s' * (low > 1)}, wrong from {high} on"
    step = f"look at what the backward of {s.layer} does differently from {high} rows on"
    return Pattern("batch length", words, step, high)


def _right(part: Suspect | None) -> bool:
    return part is not None and bool(part.o.any()) and part.right
