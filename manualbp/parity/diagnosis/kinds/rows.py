"""Kinds seen from which rows of the batch contribute wrongly.

Gradients are linear in the output's gradient. A run in which that is zero outside of row n gives
row n's contribution o_n, and c_n of the candidate.
"""

from __future__ import annotations

from collections.abc import Callable

from manualbp.parity.bits import rms, to_double
from manualbp.parity.diagnosis.evidence import Pattern, Rerun, Suspect, factor_of
from manualbp.parity.diagnosis.kinds.places import listed, spans, tile

GROUPS = 32  # groups of rows that are told apart before the edges of the wrong ones are looked for


def scaled_rows(s: Suspect) -> Pattern | None:
    """c_n = k o_n for some rows, c_n = o_n for all others."""
    found, factors, count = _wrong_spans(s), [], s.evidence.rows or 0
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
    words += _tile(s, found, count)
    return Pattern("rows", words, f"in the backward of {s.layer}, {step}", tuple(found))


def wrong_rows(s: Suspect) -> Pattern | None:
    """c_n = o_n for all rows but a few, or but a span of them at an edge of the batch."""
    found, rows = _wrong_spans(s), s.evidence.rows or 0
    count = sum(b - a for a, b in found)
    at_edge = len(found) == 1 and rows in found[0]
    if not found or (2 * count > rows and not at_edge):
        return None
    words = f"wrong only in {listed('row', found, rows)}{_tile(s, found, rows)}"
    return Pattern("rows", words, f"look at what the backward of {s.layer} does for these rows",
                   tuple(found))  # fmt: skip


def long_batches(s: Suspect) -> Pattern | None:
    """Right for batches of n rows, wrong for n + 1: n by bisection."""
    rows = s.evidence.rows or 0

    def right(n: int) -> bool:
        part = _of_shorter_batch(s, n)
        return part is not None and bool(part.o.any()) and part.right

    whole = _of_shorter_batch(s, rows)
    if whole is None or whole.right or not right(2):
        return None  # right for a single row alone: rows are mixed, whatever the length
    low = _last_where(right, 2, rows)
    high = low + 1
    if _of_shorter_batch(s, high) is None:  # not wrong: it cannot be run
        return None
    words = f"right for batches of up to {low} rows, wrong from {high} on"
    step = f"look at what the backward of {s.layer} does differently from {high} rows on"
    return Pattern("batch length", words, step, high)


def _tile(s: Suspect, found: list[tuple[int, int]], count: int) -> str:
    """``: the last tile`` where a batch that ends before it has wrong rows at its end as well."""
    words = tile(found, count)
    if not words.endswith("the last tile"):
        return ""
    shorter = _of_shorter_batch(s, found[0][0])
    return words if shorter is not None and not shorter.right else ""


def contribution(s: Suspect, start: int, stop: int) -> Suspect | None:
    """The gradient that rows [start, stop) alone make; None where it cannot be run."""
    if not s.name.endswith(".grad") or (s.evidence.rows or 0) < 2:
        return None
    return _suspect(s, s.evidence.of_rows(start, stop), stop - start)


def _of_shorter_batch(s: Suspect, n: int) -> Suspect | None:
    """The gradient from a batch of the first n rows; None where it cannot be run."""
    if not s.name.endswith(".grad"):
        return None
    return _suspect(s, s.evidence.of_first(n), n)


def _wrong_spans(s: Suspect) -> list[tuple[int, int]]:
    """Spans [start, stop) of wrong rows that make up c - o; none where all rows are wrong."""
    count = s.evidence.rows or 0
    size = -(-count // GROUPS) or 1
    groups = [(i, min(i + size, count)) for i in range(0, count, size)]
    verdicts = [_verdict(s, *group) for group in groups]
    if None in verdicts or not {"wrong", "right"} <= set(verdicts):
        return []
    wrong = spans([i for i, verdict in enumerate(verdicts) if verdict == "wrong"])
    found = [(groups[a][0], groups[b - 1][1]) for a, b in wrong]
    found[:4] = [(_start(s, *groups[a]), _stop(s, *groups[b - 1])) for a, b in wrong[:4]]
    parts = [contribution(s, *span) for span in found]
    apart = sum((part.c - part.o for part in parts if part is not None), s.o)
    return found if s.is_(apart) else []


def _last_where(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The last number below ``high`` where it holds, as it does at ``low``: by bisection."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _verdict(s: Suspect, start: int, stop: int) -> str | None:
    """``right``, ``wrong``, ``silent`` (these rows contribute nothing), None: not known."""
    part = contribution(s, start, stop)
    if part is None:
        return None
    if not part.o.any() and not part.c.any():
        return "silent"
    return "right" if part.right else "wrong"


def _start(s: Suspect, low: int, high: int) -> int:
    """The first wrong row of a wrong group; the rows before it are silent or right."""
    return _last_where(lambda row: _verdict(s, low, row) != "wrong", low, high)


def _stop(s: Suspect, low: int, high: int) -> int:
    """The row after the last wrong row of a wrong group."""
    return 1 + _last_where(lambda row: _verdict(s, row, high) == "wrong", low, high)


def _suspect(s: Suspect, rerun: Rerun | None, rows: int) -> Suspect | None:
    """The same tensor in another run."""
    c, o = (None, None) if rerun is None else (rerun[0].get(s.name), rerun[1].get(s.name))
    if c is None or o is None or c.shape != o.shape or not c.isfinite().all():
        return None
    c, o = to_double(c), to_double(o)
    scale = rms(o) + rms(s.s) * min(1.0, rows / max(s.evidence.rows or 0, 1))
    return Suspect(s.name, c, o, o.abs() + scale, s.eps, s.evidence)
